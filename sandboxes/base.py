"""The contract every sandbox keeps: a place where commands run, or a database where SQL runs, that a model may not leave.

Three kinds of failure stay apart. A command or a statement that fails is a result. A sandbox that is gone raises
`SandboxLost`. A host that cannot start sandboxes at all raises `SandboxUnavailable`, which says what to install.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

DEFAULT_TIMEOUT = 30.0
"""Seconds a command or a statement may run."""

DEFAULT_MAX_OUTPUT = 16_384
"""Bytes of each stream that are kept: the head and the tail, what lies between is counted."""


class SandboxError(Exception):
    """Base of the failures below."""


class SandboxLost(SandboxError):
    """The engine, the container or the database went away during an episode. Never shown to a model as output."""


class SandboxUnavailable(SandboxError):
    """No sandbox of this kind can start on this host; the message says what to install or to start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One stream of a command, capped while it streamed."""

    head: bytes = b""
    tail: bytes = b""
    """The last bytes, when the middle was cut; otherwise empty and `head` is everything."""
    total: int = 0
    """Bytes the command wrote, kept or not."""

    @property
    def cut(self) -> int:
        """Bytes that were not kept."""
        return self.total - len(self.head) - len(self.tail)

    def text(self) -> str:
        """The stream as text: invalid UTF-8 is escaped as \\xNN, a cut is said in place."""
        head = self.head.decode("utf-8", "backslashreplace")
        if not self.cut:
            return head + self.tail.decode("utf-8", "backslashreplace")
        return f"{head}\n[... {self.cut} bytes cut ...]\n{self.tail.decode('utf-8', 'backslashreplace')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecResult:
    """What a command did. A non-zero exit code is a result, not an error of the sandbox."""

    exit_code: int | None
    """The exit code, or None when a signal or the timeout ended the command."""
    signal: int | None = None
    stdout: Output = field(default_factory=Output)
    stderr: Output = field(default_factory=Output)
    seconds: float = 0.0
    timed_out: bool = False
    oom: bool = False
    """The memory limit killed a process while the command ran."""
    background_left: bool = False
    """Processes the command started were still running when it returned."""
    damaged: bool = False
    """The sandbox can no longer run a shell (for instance after rm -rf /); replace it."""

    @property
    def truncated(self) -> bool:
        return bool(self.stdout.cut or self.stderr.cut)


@runtime_checkable
class Sandbox(Protocol):
    """A machine of its own for shell commands."""

    @property
    def image(self) -> str:
        """The identity of what runs: an image id, for the record. Empty before `start`."""
        ...

    async def start(self) -> None:
        """Make it ready. Raises SandboxUnavailable when the host cannot."""
        ...

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_output: int = DEFAULT_MAX_OUTPUT,
    ) -> ExecResult:
        """Run a script (a string, by bash) or an argument list. Raises SandboxLost, and ValueError for a NUL in the command."""
        ...

    async def put(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file, making its folders."""
        ...

    async def get(self, path: str, *, max_bytes: int = 1_000_000) -> bytes:
        """Read a regular file. Raises FileNotFoundError, or ValueError above `max_bytes`."""
        ...

    async def reset(self) -> None:
        """Back to the state after `start`."""
        ...

    async def alive(self) -> bool: ...

    async def close(self) -> None:
        """Remove everything it started. Safe to call twice and after a failed start."""
        ...


Cell = int | float | str | bytes | None


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryResult:
    """What a statement did. A refused or wrong statement is a result with `error` set."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    rows_affected: int = 0
    error: str | None = None
    """The engine's message, when it refused the statement."""
    more_rows: bool = False
    """There were more rows than were fetched."""
    timed_out: bool = False
    seconds: float = 0.0


@runtime_checkable
class Database(Protocol):
    """A fresh database for one episode."""

    @property
    def engine(self) -> str:
        """Name and version of the engine, for the record."""
        ...

    async def start(self) -> None: ...

    async def load(self, script: str) -> None:
        """Run a trusted set-up script of several statements. Raises ValueError with the engine's message."""
        ...

    async def execute(
        self, sql: str, *, parameters: Sequence[Cell] = (), timeout: float = DEFAULT_TIMEOUT, max_rows: int = 100
    ) -> QueryResult:
        """Run one statement. Raises SandboxLost when the database is gone."""
        ...

    async def settle(self) -> None:
        """Commit what is open and forget what lives in the connection only: temporary tables, views, triggers, settings.

        For a reader who must see the database and not what a statement laid over it. Raises SandboxLost.
        """
        ...

    async def reset(self) -> None: ...

    async def alive(self) -> bool: ...

    async def close(self) -> None: ...


class Closable(Protocol):
    async def start(self) -> None: ...

    async def close(self) -> None: ...


S = TypeVar("S", bound=Closable)


@asynccontextmanager
async def opened(sandbox: S) -> AsyncIterator[S]:
    """Start a sandbox and close it again, also when the start fails halfway or the task is cancelled."""
    try:
        await sandbox.start()
        yield sandbox
    finally:
        await sandbox.close()
