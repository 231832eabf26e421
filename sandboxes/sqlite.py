"""The embedded database: SQLite in a process of its own that can be killed, on a file in a folder of its own."""

from __future__ import annotations

import asyncio
import base64
import importlib.resources
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandboxes.base import DEFAULT_TIMEOUT, Cell, QueryResult, SandboxLost, SandboxUnavailable
from sandboxes.sqlite_child import LENGTH

START_TIMEOUT = 30.0
"""Seconds the process may take to open the database; about 0.05 on an idle host."""
LOAD_TIMEOUT = 120.0
"""Seconds a set-up script may take."""
GRACE = 1.0
"""Seconds beyond its timeout after which a statement that cannot be interrupted is ended with its process."""
MAX_MESSAGE = 64 << 20
OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that a statement cannot cause: somebody else ended the process."""


class SqliteDatabase:
    """A fresh SQLite database for one episode.

    Statements cannot reach other files, change the engine's settings, or hold more than 128 MB of memory and 256 MB of
    disk. Each runs on its own unless BEGIN opened a transaction. A cell above 64 KB is cut with a note, and rows stop
    after 4 MB. A statement that must be killed costs an open transaction and temporary tables; what was committed stays.
    """

    def __init__(self) -> None:
        self._engine = ""
        self._folder: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._lost = "it was not started"
        self._lock = asyncio.Lock()

    @property
    def engine(self) -> str:
        """Name and version of the engine. Empty before `start`."""
        return self._engine

    async def start(self) -> None:
        """Open an empty database; about 50 ms."""
        if self._folder is not None:
            raise RuntimeError("this database has started already; close it first, or use reset()")
        self._folder = Path(tempfile.mkdtemp(prefix="agentlm-sqlite-"))
        try:
            await self._spawn()
        except BaseException:
            await self.close()
            raise

    async def _spawn(self) -> None:
        assert self._folder is not None
        program = importlib.resources.files("sandboxes") / "sqlite_child.py"
        with importlib.resources.as_file(program) as path, (self._folder / "complaints").open("wb") as complaints:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(path)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=complaints,
                cwd=self._folder,
                env={},
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(START_TIMEOUT):
                    self._engine = (await self._receive())["engine"]
            except (OSError, EOFError) as error:
                raise SandboxUnavailable(f"the SQLite process did not start: {self._complaints() or error!r}") from error

    def _complaints(self) -> str:
        assert self._folder is not None
        return (self._folder / "complaints").read_text(errors="backslashreplace")[-1000:]

    async def load(self, script: str) -> None:
        """Run a set-up script of several statements. Raises ValueError with the engine's message."""
        answer = await self._ask({"script": script, "timeout": LOAD_TIMEOUT})
        if "error" in answer:
            raise ValueError(f"the set-up script failed: {answer['error']}")

    async def execute(
        self, sql: str, *, parameters: Sequence[Cell] = (), timeout: float = DEFAULT_TIMEOUT, max_rows: int = 100
    ) -> QueryResult:
        """Run one statement; a refused, wrong or stopped one is a result with `error` set. Raises SandboxLost."""
        cells = [{"b": base64.b64encode(cell).decode()} if isinstance(cell, bytes) else cell for cell in parameters]
        began = time.monotonic()
        answer = await self._ask({"sql": sql, "parameters": cells, "timeout": timeout, "max_rows": max_rows})
        return QueryResult(
            columns=tuple(answer.get("columns", ())),
            rows=tuple(tuple(_cell(cell) for cell in row) for row in answer.get("rows", ())),
            rows_affected=answer.get("rows_affected", 0),
            error=answer.get("error"),
            more_rows=answer.get("more_rows", False),
            timed_out=answer.get("timed_out", False),
            seconds=time.monotonic() - began,
        )

    async def settle(self) -> None:
        """Commit an open transaction and forget temporary tables, views, triggers and settings: what stays is the database."""
        await self._ask({"settle": True, "timeout": DEFAULT_TIMEOUT})

    async def reset(self) -> None:
        """An empty database again."""
        await self.close()
        await self.start()

    async def alive(self) -> bool:
        """Whether the database still answers; waits for a statement that is running."""
        try:
            return (await self.execute("SELECT 1", timeout=5)).error is None
        except SandboxLost:
            return False

    async def close(self) -> None:
        """End the process and delete the database. Safe to call twice."""
        await self._end("it was closed")
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        async with self._lock:
            if self._process is None:
                raise SandboxLost(f"the database is gone: {self._lost}")
            text = json.dumps(request).encode()
            try:
                async with asyncio.timeout(request["timeout"] + GRACE):
                    assert self._process.stdin is not None
                    self._process.stdin.write(LENGTH.pack(len(text)) + text)
                    await self._process.stdin.drain()
                    return await self._receive()
            except TimeoutError:
                await self._end("it was killed")
                said = {"timed_out": True, "error": f"stopped after {request['timeout']:g} seconds{_COST}"}
            except (OSError, EOFError) as error:
                said = {"error": f"the statement needed more than it may have{_COST}"}
                code = await self._process.wait()
                await self._end(f"its process ended with {code}: {self._complaints()}")
                if code >= 0 or -code in OUTSIDE:
                    raise SandboxLost(f"the database is gone: {self._lost}") from error
            except asyncio.CancelledError:
                await self._end("a statement was cancelled")
                raise
            try:
                await self._spawn()
            except SandboxUnavailable as error:
                await self._end(str(error))
                raise SandboxLost(f"the database did not come back: {error}") from error
            return said

    async def _receive(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        (size,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
        if size > MAX_MESSAGE:
            raise OSError(f"an answer of {size} bytes is too long")
        answer: dict[str, Any] = json.loads(await self._process.stdout.readexactly(size))
        return answer

    async def _end(self, reason: str) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._lost = reason
        if process.returncode is None:
            process.kill()
        await process.wait()


_COST = "; the connection was closed, so an open transaction and temporary tables are gone"


def _cell(cell: Any) -> Cell:
    return base64.b64decode(cell["b"]) if isinstance(cell, dict) else cell
