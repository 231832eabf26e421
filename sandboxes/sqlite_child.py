"""The process that holds one SQLite database: it runs the statements its owner sends over stdin, within limits.

Run as a script in a folder of its own. A message, both ways, is a big-endian 32-bit length and JSON; bytes travel as
{"b": base64}. When stdin ends it deletes the folder and itself ends.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import sqlite3
import struct
import sys
import time
from typing import Any

FILE = "database"
LENGTH = struct.Struct(">I")
MEGABYTE = 1 << 20

MEMORY = 512 * MEGABYTE
HEAP = 128 * MEGABYTE
"""SQLite's own limit, which ends a statement; MEMORY, above it, ends the process."""
DISK = 256 * MEGABYTE
PAGE = 4096
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 10_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
MAX_CELL = 65_536
"""Characters or bytes of one cell that are fetched; a longer one ends in a note of what was cut."""
MAX_RESULT = 4 * MEGABYTE
"""Characters and bytes of one result."""
STEPS = 10_000
"""Virtual machine steps between two looks at the clock."""

PRAGMAS = frozenset(
    (
        *("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "collation_list"),
        *("foreign_key_list", "foreign_key_check", "foreign_keys", "defer_foreign_keys", "recursive_triggers"),
        *("case_sensitive_like", "integrity_check", "quick_check", "user_version", "encoding", "compile_options"),
        *("function_list", "module_list", "pragma_list", "data_version"),
    )
)
"""Pragmas that read, or change nothing but how this database checks its rows."""
READ_PRAGMAS = frozenset(("page_size", "page_count", "freelist_count", "schema_version", "journal_mode"))
"""Pragmas that may be read and not set."""
MODULES = frozenset(("fts3", "fts4", "fts5", "rtree"))
FILE_FUNCTIONS = frozenset(("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "fsdir", "lsmode"))


class Engine:
    def __init__(self) -> None:
        self.refusal = ""
        self.deadline = float("inf")
        self.timed_out = False
        self.connection = self.connect()

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(FILE, isolation_level=None)
        connection.text_factory = lambda data: data.decode("utf-8", "backslashreplace")
        for setting in (
            f"hard_heap_limit={HEAP}",
            f"page_size={PAGE}",
            f"max_page_count={DISK // PAGE}",
            "journal_mode=TRUNCATE",
            "synchronous=OFF",
            "temp_store=MEMORY",
            "trusted_schema=OFF",
            "cell_size_check=ON",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        for limit, value in LIMITS.items():
            connection.setlimit(limit, value)
        connection.set_authorizer(self.authorize)
        connection.set_progress_handler(self.late, STEPS)
        return connection

    def settle(self) -> None:
        """Keep what an open transaction did, and forget what lives in the connection only."""
        with contextlib.suppress(sqlite3.Error, MemoryError):  # what cannot be committed is rolled back by closing
            self.connection.commit()
        self.connection.close()
        self.connection = self.connect()

    def authorize(self, action: int, one: str | None, two: str | None, database: str | None, source: str | None) -> int:
        """Refuse what reaches another file or the engine's own settings."""
        name = (one or "").lower()
        allowed = name in PRAGMAS or (name in READ_PRAGMAS and two is None)
        refused = {
            sqlite3.SQLITE_ATTACH: "ATTACH and VACUUM",
            sqlite3.SQLITE_DETACH: "DETACH",
            sqlite3.SQLITE_PRAGMA: "" if allowed else f"PRAGMA {one}",
            sqlite3.SQLITE_CREATE_VTABLE: f"virtual tables of {two}" if (two or "").lower() not in MODULES else "",
            sqlite3.SQLITE_FUNCTION: f"the function {two}" if (two or "").lower() in FILE_FUNCTIONS else "",
        }.get(action, "")
        self.refusal = self.refusal or refused
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    def late(self) -> int:
        self.timed_out = time.monotonic() > self.deadline
        return int(self.timed_out)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.refusal, self.timed_out = "", False
        self.deadline = time.monotonic() + request["timeout"]
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime + request["timeout"]) + 3
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        in_transaction = self.connection.in_transaction
        try:
            if "settle" in request:
                self.settle()
                return {}
            if "script" in request:
                self.connection.executescript(request["script"])
                return {}
            return self.execute(request)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
            if self.timed_out:
                lost = in_transaction and not self.connection.in_transaction
                note = "; the open transaction was rolled back" if lost else ""
                return {"timed_out": True, "error": f"stopped after {request['timeout']:g} seconds{note}"}
            said = str(error) or "out of memory"
            return {"error": f"{said}: {self.refusal} cannot be used here" if self.refusal else said}

    def execute(self, request: dict[str, Any]) -> dict[str, Any]:
        parameters = [base64.b64decode(cell["b"]) if isinstance(cell, dict) else cell for cell in request["parameters"]]
        cursor = self.connection.execute(request["sql"], parameters)
        try:
            rows: list[list[Any]] = []
            room = MAX_RESULT
            more = False
            for row in cursor:
                cells = [shortened(cell) for cell in row]
                room -= sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in cells)
                more = len(rows) >= request["max_rows"] or room < 0
                if more:
                    break
                rows.append([{"b": base64.b64encode(cell).decode()} if isinstance(cell, bytes) else cell for cell in cells])
            columns = [column[0] for column in cursor.description or ()]
            return {"columns": columns, "rows": rows, "more_rows": more, "rows_affected": max(0, cursor.rowcount)}
        finally:
            cursor.close()


def shortened(cell: Any) -> Any:
    if not isinstance(cell, str | bytes) or len(cell) <= MAX_CELL:
        return cell
    note = f"[... {len(cell) - MAX_CELL} more]"
    return cell[:MAX_CELL] + note if isinstance(cell, str) else cell[:MAX_CELL] + note.encode()


def read(size: int) -> bytes:
    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        leave()
    return data


def leave() -> None:
    """The owner closed the pipe or is gone: nothing of the database stays."""
    folder = os.getcwd()
    for name in os.listdir(folder):
        os.unlink(name)
    os.rmdir(folder)
    os._exit(0)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, DISK))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    engine = Engine()
    answer: dict[str, Any] = {"engine": f"sqlite {sqlite3.sqlite_version}"}
    while True:
        text = json.dumps(answer).encode()
        try:
            sys.stdout.buffer.write(LENGTH.pack(len(text)) + text)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            leave()
        answer = engine.answer(json.loads(read(LENGTH.unpack(read(LENGTH.size))[0])))


if __name__ == "__main__":
    main()
