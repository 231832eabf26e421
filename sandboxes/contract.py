"""What every sandbox and every database must do, as checks that anyone can run on their own.

    failed = asyncio.run(failures(SANDBOX_CHECKS, MySandbox))
    assert not failed, failed

A check takes what makes a sandbox that has not started, and fails with AssertionError. In pytest, parametrize over the list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from sandboxes.base import Database, Sandbox, SandboxLost, opened

T = TypeVar("T")
MakeSandbox = Callable[[], Sandbox]
MakeDatabase = Callable[[], Database]
SandboxCheck = Callable[[MakeSandbox], Coroutine[Any, Any, None]]
DatabaseCheck = Callable[[MakeDatabase], Coroutine[Any, Any, None]]


async def failures(checks: Sequence[Callable[[T], Awaitable[None]]], make: T) -> dict[str, str]:
    """Run the checks one by one: the reason of each that failed, by its name."""
    failed = {}
    for check in checks:
        try:
            await check(make)
        except Exception as error:
            failed[check.__name__] = f"{type(error).__name__}: {error}"
    return failed


async def _raises(kind: type[Exception], doing: Awaitable[object]) -> None:
    try:
        got = await doing
    except kind:
        return
    raise AssertionError(f"{kind.__name__} wanted, got the result {got!r}")


async def script_and_streams(make: MakeSandbox) -> None:
    """A script runs by bash; stdout, stderr and the exit code come back apart."""
    async with opened(make()) as sandbox:
        assert sandbox.image
        done = await sandbox.exec("echo out; echo err >&2; [[ a < b ]] && exit 7")
        assert (done.exit_code, done.signal, done.timed_out) == (7, None, False), done
        assert (done.stdout.head, done.stderr.head) == (b"out\n", b"err\n"), done
        assert not done.truncated and not done.background_left and not done.damaged, done


async def argument_list(make: MakeSandbox) -> None:
    """An argument list runs as it is, without a shell."""
    async with opened(make()) as sandbox:
        done = await sandbox.exec(["printf", "%s|", "$HOME", "a b", "*", ""])
        assert done.stdout.head == b"$HOME|a b|*||", done
        assert (await sandbox.exec(["no-such-program"])).exit_code == 127
        await _raises(ValueError, sandbox.exec([]))


async def fresh_shell_same_files(make: MakeSandbox) -> None:
    """Files stay between commands; variables, options and the working directory do not."""
    async with opened(make()) as sandbox:
        await sandbox.exec("cd /tmp; X=1; set -e; PATH=/nowhere; echo kept > /tmp/kept; trap 'echo trap' EXIT")
        done = await sandbox.exec('echo "[$X]"; pwd; cat /tmp/kept')
        assert done.stdout.head.startswith(b"[]\n") and done.stdout.head.endswith(b"kept\n"), done
        assert b"/tmp\n" not in done.stdout.head, done


async def cwd_env_user_stdin(make: MakeSandbox) -> None:
    """The options of a command reach it, and a working directory or a user that is not there is said."""
    async with opened(make()) as sandbox:
        done = await sandbox.exec("pwd; echo $A; id -u; cat", cwd="/usr", env={"A": "b=c d"}, user="nobody", stdin=b"in\xff")
        assert done.stdout.head == b"/usr\nb=c d\n65534\nin\xff", done
        missing = await sandbox.exec("true", cwd="/no/such")
        assert missing.exit_code == 126 and b"/no/such" in missing.stderr.head, missing
        await _raises(ValueError, sandbox.exec("true", user="nosuchuser"))


async def stdin_is_empty(make: MakeSandbox) -> None:
    """A command that reads stdin gets its end at once."""
    async with opened(make()) as sandbox:
        done = await sandbox.exec("cat; read line; echo $?", timeout=10)
        assert (done.stdout.head, done.timed_out) == (b"1\n", False), done


async def bytes_are_kept(make: MakeSandbox) -> None:
    """Output that is no UTF-8 comes back byte for byte, and as text it is escaped."""
    async with opened(make()) as sandbox:
        done = await sandbox.exec(r"printf 'a\000\377\n\xc3'")
        assert done.stdout.head == b"a\x00\xff\n\xc3", done
        assert done.stdout.text() == "a\x00\\xff\n\\xc3"


async def nul_is_refused(make: MakeSandbox) -> None:
    """A NUL cannot be in a command and is not cut at silently."""
    async with opened(make()) as sandbox:
        await _raises(ValueError, sandbox.exec("echo a\0b"))
        await _raises(ValueError, sandbox.exec(["echo", "a\0b"]))
        assert (await sandbox.exec("echo fine")).exit_code == 0


async def long_script(make: MakeSandbox) -> None:
    """A script of 200 KB runs whole."""
    async with opened(make()) as sandbox:
        done = await sandbox.exec(": " + "x" * 200_000 + "\necho end\ntrue é\nexit 3\n")
        assert (done.exit_code, done.stdout.head) == (3, b"end\n"), done


async def output_is_capped(make: MakeSandbox) -> None:
    """Head and tail are kept, the rest is counted."""
    async with opened(make()) as sandbox:
        done = await sandbox.exec("echo first; head -c 30000000 /dev/zero; echo; echo last", max_output=1000)
        out = done.stdout
        assert out.head.startswith(b"first\n") and out.tail.endswith(b"\nlast\n"), done
        assert len(out.head) + len(out.tail) == 1000 and out.total == 30_000_012 and done.truncated, done
        whole = (await sandbox.exec("head -c 1000 /dev/zero", max_output=1000)).stdout
        assert (len(whole.head), whole.tail, whole.cut) == (1000, b"", 0)


async def timeout_kills_everything(make: MakeSandbox) -> None:
    """At the timeout all the command started is killed, its output so far is kept, and the sandbox goes on."""
    async with opened(make()) as sandbox:
        script = "trap '' TERM INT HUP; echo before; setsid sleep 4321 & (setsid sleep 4321 &); sleep 4321"
        done = await sandbox.exec(script, timeout=1)
        assert done.timed_out and done.exit_code is None and done.stdout.head == b"before\n", done
        assert done.seconds < 5, done
        assert (await sandbox.exec("pgrep -f '[s]leep 4321'")).stdout.head == b""


async def background_does_not_hold(make: MakeSandbox) -> None:
    """A command returns when it ends, whatever holds its output; what it left behind lives on and is said."""
    async with opened(make()) as sandbox:
        done = await sandbox.exec("sleep 4321 & setsid sleep 4322 & echo done", timeout=20)
        assert (done.exit_code, done.stdout.head, done.timed_out) == (0, b"done\n", False), done
        assert done.background_left and done.seconds < 10, done
        later = await sandbox.exec("pgrep -fc '[s]leep 432[12]'")
        assert later.stdout.head == b"2\n" and not later.background_left, later


async def signals_are_said(make: MakeSandbox) -> None:
    """A command ended by a signal has no exit code, and a quick SIGKILL is no timeout."""
    async with opened(make()) as sandbox:
        done = await sandbox.exec("kill -9 $$")
        assert (done.exit_code, done.signal, done.timed_out) == (None, 9, False), done


async def files_both_ways(make: MakeSandbox) -> None:
    """Any bytes go in and come out, folders are made, modes are set, also on a tmpfs."""
    async with opened(make()) as sandbox:
        data = bytes(range(256)) * 8000
        await sandbox.put("/data/new folder/ü", data, mode=0o750)
        assert await sandbox.get("/data/new folder/ü", max_bytes=len(data)) == data
        assert (await sandbox.exec("stat -c %a '/data/new folder/ü'")).stdout.head == b"750\n"
        await sandbox.put("/dev/shm/x", b"")
        assert await sandbox.get("/dev/shm/x") == b""


async def odd_files_are_refused(make: MakeSandbox) -> None:
    """Only regular files come out, within their cap, and nothing hangs."""
    async with opened(make()) as sandbox:
        await sandbox.exec("cd /tmp; ln -s /etc/shadow link; mkfifo fifo; mkdir folder; truncate -s 200M sparse; echo > file")
        await _raises(FileNotFoundError, sandbox.get("/tmp/none"))
        for name in ("link", "fifo", "folder", "sparse"):
            await _raises(ValueError, sandbox.get(f"/tmp/{name}"))
        await _raises(ValueError, sandbox.get("/dev/zero"))
        await _raises(OSError, sandbox.put("/tmp/folder", b"x"))
        await _raises(OSError, sandbox.put("/tmp/file/below", b"x"))
        assert await sandbox.alive()


async def reset_is_fresh(make: MakeSandbox) -> None:
    """After a reset there are no files and no processes of before, and the image is the same."""
    async with opened(make()) as sandbox:
        image = sandbox.image
        await sandbox.exec("echo x > /srv/left; sleep 4321 &")
        await sandbox.reset()
        done = await sandbox.exec("ls /srv/left; pgrep -f '[s]leep 4321'")
        assert done.exit_code and not done.stdout.head and sandbox.image == image, done


async def close_and_lost(make: MakeSandbox) -> None:
    """Closing is safe twice and without a start; a closed sandbox is lost, not empty."""
    sandbox = make()
    await sandbox.close()
    assert sandbox.image == ""
    await _raises(SandboxLost, sandbox.exec("true"))
    try:
        await sandbox.start()
        assert await sandbox.alive()
    finally:
        await sandbox.close()
    await sandbox.close()
    assert not await sandbox.alive()
    await _raises(SandboxLost, sandbox.exec("true"))
    await _raises(SandboxLost, sandbox.get("/etc/passwd"))


SANDBOX_CHECKS: tuple[SandboxCheck, ...] = (
    script_and_streams,
    argument_list,
    fresh_shell_same_files,
    cwd_env_user_stdin,
    stdin_is_empty,
    bytes_are_kept,
    nul_is_refused,
    long_script,
    output_is_capped,
    timeout_kills_everything,
    background_does_not_hold,
    signals_are_said,
    files_both_ways,
    odd_files_are_refused,
    reset_is_fresh,
    close_and_lost,
)


async def load_and_query(make: MakeDatabase) -> None:
    """A set-up script runs, a query brings columns and rows, a change its count, and a broken script is a ValueError."""
    async with opened(make()) as database:
        assert database.engine
        await database.load(
            "CREATE TABLE t (a INTEGER, b VARCHAR(20)); INSERT INTO t VALUES (1, 'one'); INSERT INTO t VALUES (2, NULL);"
        )
        found = await database.execute("SELECT a, b FROM t ORDER BY a")
        assert (found.columns, found.rows) == (("a", "b"), ((1, "one"), (2, None))) and not found.error, found
        assert (await database.execute("UPDATE t SET b = 'x'")).rows_affected == 2
        await _raises(ValueError, database.load("CREATE TABLE u (a INTEGER); SELEC 1;"))


async def errors_are_results(make: MakeDatabase) -> None:
    """A wrong statement is a result with the engine's message, and only one statement runs at a time."""
    async with opened(make()) as database:
        await database.load("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1);")
        for sql in ("SELEC 1", "SELECT * FROM missing", "SELECT 'open", "DELETE FROM t; DELETE FROM t"):
            assert (await database.execute(sql)).error, sql
        assert (await database.execute("SELECT COUNT(*) FROM t")).rows == ((1,),)


async def parameters_stay_data(make: MakeDatabase) -> None:
    """Values handed in arrive typed and are never read as SQL."""
    async with opened(make()) as database:
        values = (7, 1.5, "'; DROP TABLE t; --", b"\x00\xff", None)
        await database.load("CREATE TABLE t (a INTEGER, b DOUBLE PRECISION, c VARCHAR(40), d BLOB, e INTEGER)")
        await database.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?)", parameters=values)
        assert (await database.execute("SELECT * FROM t")).rows == (values,)


async def rows_are_capped(make: MakeDatabase) -> None:
    """No more than `max_rows` rows come, and that there were more is said."""
    async with opened(make()) as database:
        await database.load("CREATE TABLE t (a INTEGER);" + "INSERT INTO t VALUES (1);" * 12)
        some = await database.execute("SELECT a FROM t", max_rows=5)
        assert len(some.rows) == 5 and some.more_rows, some
        every = await database.execute("SELECT a FROM t", max_rows=12)
        assert len(every.rows) == 12 and not every.more_rows, every


async def statement_timeout(make: MakeDatabase) -> None:
    """A statement ends at its timeout; what was committed stays and the database goes on."""
    async with opened(make()) as database:
        await database.load("CREATE TABLE t (a INTEGER);" + "INSERT INTO t VALUES (1);" * 60)
        slow = await database.execute("SELECT COUNT(*) FROM t a, t b, t c, t d, t e, t f", timeout=1)
        assert slow.timed_out and slow.error and slow.seconds < 6, slow
        assert (await database.execute("SELECT COUNT(*) FROM t")).rows == ((60,),)


async def settling_keeps_only_the_database(make: MakeDatabase) -> None:
    """After `settle` a temporary table hides no real one, and what an open transaction did is there."""
    async with opened(make()) as database:
        await database.load("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1);")
        assert not (await database.execute("CREATE TEMPORARY TABLE t (a INTEGER)")).error
        assert (await database.execute("SELECT a FROM t")).rows == ()
        await database.settle()
        for sql in ("BEGIN", "INSERT INTO t VALUES (2)"):
            assert not (await database.execute(sql)).error, sql
        await database.settle()
        assert (await database.execute("SELECT a FROM t ORDER BY a")).rows == ((1,), (2,))


async def database_reset_and_close(make: MakeDatabase) -> None:
    """A reset empties it; closing is safe twice and without a start; a closed database is lost."""
    database = make()
    await database.close()
    await _raises(SandboxLost, database.execute("SELECT 1"))
    try:
        await database.start()
        await database.load("CREATE TABLE t (a INTEGER)")
        await database.reset()
        assert (await database.execute("SELECT * FROM t")).error
        assert await database.alive()
    finally:
        await database.close()
    await database.close()
    assert not await database.alive()
    await _raises(SandboxLost, database.execute("SELECT 1"))


DATABASE_CHECKS: tuple[DatabaseCheck, ...] = (
    load_and_query,
    errors_are_results,
    parameters_stay_data,
    rows_are_capped,
    statement_timeout,
    settling_keeps_only_the_database,
    database_reset_and_close,
)
