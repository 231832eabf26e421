"""The SQLite database against statements that mean harm, and the cells that must come back as they went in."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxes import Cell, SandboxLost, SqliteDatabase, opened

PRINTF_BOMB = "SELECT length(printf('%.*c', 900000000, 'x')) FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4)"
BOUND = 60
"""Seconds within which anything here happens, however busy the machine is."""
COUNTING = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "


def in_a_database(scenario: Callable[[SqliteDatabase], Awaitable[None]]) -> None:
    async def run() -> None:
        async with opened(SqliteDatabase()) as database:
            await database.load("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); INSERT INTO t VALUES (1, 'one');")
            await scenario(database)

    asyncio.run(run())


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH '{file}' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM INTO '{file}'",
        "SELECT load_extension('{file}')",
        "SELECT writefile('{file}', 'x')",
        "SELECT readfile('/etc/passwd')",
        "SELECT edit('x', 'touch {file}')",
        "SELECT fts3_tokenizer('simple')",
        "CREATE VIRTUAL TABLE v USING csv(filename='/etc/passwd')",
        "PRAGMA writable_schema = 1",
        "PRAGMA journal_mode = OFF",
        "PRAGMA temp_store_directory = '/etc'",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA page_size = 65536",
        "PRAGMA schema_version = 9",
        "PRAGMA max_page_count = 4294967294",
        "PRAGMA trusted_schema = 1",
        "pragma MAIN.Database_List",
        "SELECT * FROM pragma_database_list",
        "SELECT 1; SELECT 2",
        "DELETE FROM t; DROP TABLE t",
        "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 2, 'x')",
        "SELECT 'a\0b'",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT " + "x" * 2_000_000,
        "SELECT * FROM t WHERE b = ?",
        "\ud800",
    ],
    ids=lambda sql: ascii(sql)[1:40],
)
def test_what_reaches_out_or_is_no_statement_is_refused(sql: str, tmp_path: Path) -> None:
    async def scenario(database: SqliteDatabase) -> None:
        refused = await database.execute(sql.replace("{file}", str(tmp_path / "file")))
        assert refused.error and not refused.rows and not refused.timed_out, refused
        assert list(tmp_path.iterdir()) == []
        assert (await database.execute("SELECT * FROM t")).rows == ((1, "one"),)

    in_a_database(scenario)


@pytest.mark.parametrize(
    "sql",
    [
        COUNTING + "SELECT count(*) FROM c",
        COUNTING + "SELECT count(*) FROM c a, c b, c d",
        "CREATE TABLE big AS " + COUNTING + "SELECT n, randomblob(100000) FROM c",
        COUNTING + "SELECT n FROM c ORDER BY random()",
        COUNTING + "SELECT group_concat(n) FROM c",
        "INSERT INTO t " + COUNTING + "SELECT n + 1, hex(randomblob(1000)) FROM c",
        PRINTF_BOMB,
    ],
    ids=lambda sql: str(sql)[-30:],
)
def test_a_bomb_ends_and_what_was_committed_stays(sql: str) -> None:
    async def scenario(database: SqliteDatabase) -> None:
        bomb = await database.execute(sql, timeout=1)
        assert bomb.error and bomb.seconds < BOUND, bomb
        assert (await database.execute("SELECT * FROM t")).rows == ((1, "one"),)
        assert (await database.execute("SELECT name FROM sqlite_master")).rows == (("t",),)

    in_a_database(scenario)


def test_a_statement_that_must_be_killed_says_that_the_open_transaction_is_gone() -> None:
    async def scenario(database: SqliteDatabase) -> None:
        await database.execute("BEGIN")
        await database.execute("INSERT INTO t VALUES (2, 'two')")
        assert len((await database.execute("SELECT * FROM t")).rows) == 2
        killed = await database.execute(PRINTF_BOMB, timeout=0.2)
        assert killed.timed_out and "open transaction" in (killed.error or ""), killed
        assert (await database.execute("SELECT * FROM t")).rows == ((1, "one"),)
        assert (await database.execute("INSERT INTO t VALUES (2, 'two')")).rows_affected == 1

    in_a_database(scenario)


def test_an_interrupted_change_says_that_the_open_transaction_is_gone() -> None:
    async def scenario(database: SqliteDatabase) -> None:
        await database.execute("BEGIN")
        await database.execute("INSERT INTO t VALUES (2, 'two')")
        read = await database.execute(COUNTING + "SELECT count(*) FROM c", timeout=0.2)
        assert read.timed_out and "transaction" not in (read.error or "")
        assert len((await database.execute("SELECT * FROM t")).rows) == 2
        write = await database.execute("INSERT INTO t " + COUNTING + "SELECT n + 2, 'x' FROM c", timeout=0.2)
        assert write.timed_out and "the open transaction was rolled back" in (write.error or ""), write
        assert (await database.execute("SELECT * FROM t")).rows == ((1, "one"),)

    in_a_database(scenario)


def test_huge_results_are_cut_and_say_so() -> None:
    async def scenario(database: SqliteDatabase) -> None:
        long = await database.execute("SELECT printf('%.*c', 200000, 'x'), zeroblob(200000)")
        text, blob = long.rows[0]
        assert isinstance(text, str) and isinstance(blob, bytes)
        assert text.endswith("xx[... 134464 more]") and blob.endswith(b"\0[... 134464 more]")
        many = await database.execute(COUNTING + "SELECT printf('%.*c', 60000, 'x') FROM c", max_rows=10**9)
        assert many.more_rows and 60 < len(many.rows) < 80
        endless = await database.execute(COUNTING + "SELECT n FROM c", max_rows=3)
        assert (endless.rows, endless.more_rows) == (((1,), (2,), (3,)), True)

    in_a_database(scenario)


def test_transactions_and_introspection_work() -> None:
    async def scenario(database: SqliteDatabase) -> None:
        for sql in ("BEGIN", "UPDATE t SET b = 'changed'", "ROLLBACK"):
            assert (await database.execute(sql)).error is None
        assert (await database.execute("SELECT b FROM t")).rows == (("one",),)
        assert [row[1] for row in (await database.execute("PRAGMA table_info(t)")).rows] == ["a", "b"]
        assert (await database.execute("SELECT name FROM pragma_table_info('t')")).rows == (("a",), ("b",))
        assert (await database.execute("SELECT count(*) AS n, 1 AS n FROM t")).columns == ("n", "n")
        assert (await database.execute("INSERT INTO t VALUES (5, 'x') RETURNING a")).rows == ((5,),)
        assert (await database.execute("SELECT * FROM t -- with a comment;")).error is None
        for sql in (
            "CREATE VIRTUAL TABLE f USING fts5(x)",
            "INSERT INTO f VALUES ('a word')",
            "CREATE VIRTUAL TABLE r USING rtree(i, a, b)",
        ):
            assert (await database.execute(sql)).error is None
        assert (await database.execute("SELECT x FROM f WHERE f MATCH 'word'")).rows == (("a word",),)

    in_a_database(scenario)


cells = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(cells, min_size=1, max_size=5), max_size=5))
def test_cells_come_back_with_their_type(rows: list[list[Cell]]) -> None:
    async def scenario(database: SqliteDatabase) -> None:
        for row in rows:
            marks = ", ".join("?" * len(row))
            back = (await database.execute(f"SELECT {marks}", parameters=row)).rows[0]
            assert back == tuple(row) and [type(cell) for cell in back] == [type(cell) for cell in row]

    in_a_database(scenario)


def test_text_that_is_no_utf8_is_escaped() -> None:
    async def scenario(database: SqliteDatabase) -> None:
        assert (await database.execute("SELECT CAST(x'ff41' AS TEXT)")).rows == (("\\xffA",),)

    in_a_database(scenario)


def children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def test_a_process_that_somebody_else_kills_is_lost_and_never_a_result() -> None:
    async def scenario(database: SqliteDatabase) -> None:
        for child in children():
            os.kill(child, signal.SIGKILL)
        with pytest.raises(SandboxLost, match="-9"):
            await database.execute("SELECT 1")
        assert not await database.alive()
        await database.reset()
        assert await database.alive()

    in_a_database(scenario)


def test_cancelling_a_statement_ends_its_process() -> None:
    async def scenario(database: SqliteDatabase) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await database.execute(COUNTING + "SELECT count(*) FROM c", timeout=BOUND)
        assert children() == []
        with pytest.raises(SandboxLost, match="cancelled"):
            await database.execute("SELECT 1")

    in_a_database(scenario)


OWNER = """
import asyncio, sys
from sandboxes import SqliteDatabase
async def main():
    database = SqliteDatabase()
    await database.start()
    await database.load("CREATE TABLE t (a)")
    if sys.argv[1] == "closes":
        await database.close()
    if sys.argv[1] == "is killed in a statement":
        counting = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
        statement = asyncio.create_task(database.execute(counting, timeout=1))
        await asyncio.sleep(0.2)
        assert not statement.done()
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize(("end", "folders"), [("closes", 0), ("is killed", 1), ("is killed in a statement", 1)])
def test_an_owner_that_ends_takes_the_files_with_it(end: str, folders: int, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", OWNER, end], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == b"ready\n"
        assert len(list(tmp_path.iterdir())) == folders
        owner.kill()
    deadline = time.monotonic() + BOUND
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, [path.name for path in tmp_path.glob("*/*")]
        time.sleep(0.02)


def test_a_start_is_fast_enough_for_hundreds_of_episodes() -> None:
    """Processor time of the child, which a busy machine does not stretch as it does the clock."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    async def start() -> float:
        before = spent()
        async with opened(SqliteDatabase()) as database:
            assert await database.alive()
        return spent() - before

    assert min(asyncio.run(start()) for _ in range(5)) < 0.5
