"""What an agent acts on: a world with actions, observations and a judge. Shell and SQL worlds stand on a sandbox; a text world (a
game, a web page) brings its own step function and is the same to the agent loop, the record and the trainers."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Protocol

from agentlm_sdk.judges import judge
from agentlm_sdk.protocols import SYSTEM
from agentlm_sdk.record import Action, Reward, SandboxRef
from agentlm_sdk.tasks import Script, ShellEnvironment, SqliteEnvironment, Task
from sandboxes.base import Database, ExecResult, QueryResult, Sandbox

OUTPUT = "Output:\n"
NOTHING = "(none)"

CONTROL_TOKENS = re.compile(
    r"<(?=\|[^|<>\n]{1,40}\|>)|<(?=/?(?:s|unk|pad|bos|eos)>)|<(?=</?SYS>>)|<(?=[a-z]+(?:_[a-z]+)+>)|<(?=(?:reponame|filename)>)"
    r"|\[(?=/?(?:INST|TOOL_CALLS|AVAILABLE_TOOLS|TOOL_RESULTS)\])",
    re.IGNORECASE,
)
"""The first character of a control token of the common templates: ChatML, Llama, Mistral, Gemma, Phi, SmolLM, StarCoder's kin."""
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[ -/]*[0-~])")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|[\ud800-\udfff]")


class TaskBroken(Exception):
    """The task's own set-up failed; not the policy's doing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What an action showed."""

    text: str
    """Ready for a prompt: capped, and nothing in it can act as a control token or a terminal escape."""
    exit_code: int | None = None
    timed_out: bool = False
    output_bytes: int = 0
    neutralised: int = 0
    seconds: float = 0.0
    done: bool = False
    """The world has ended the episode (text worlds)."""


class World(Protocol):
    """The seam between the agent loop and what it acts on."""

    @property
    def system(self) -> str:
        """The system text: role, actions, reply format."""
        ...

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions offered."""
        ...

    @property
    def ref(self) -> SandboxRef: ...

    async def start(self) -> None: ...

    async def prepare(self, task: Task) -> str:
        """Set the task up and return the first user message. Raises TaskBroken."""
        ...

    async def step(self, action: Action) -> Observation: ...

    async def judge(self, task: Task, answer: str | None) -> Reward: ...

    async def close(self) -> None: ...


def neutralise(text: str) -> tuple[str, int]:
    """Text that can do nothing but be read, and how many places were changed: escapes and carriage returns removed, other control
    characters written as \\xNN, a space put into chat control tokens (`< |im_end|>`)."""
    text, escapes = ESCAPES.subn("", text)
    returns = text.count("\r")
    text, controls = CONTROLS.subn(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n").replace("\r", "\n"))
    text, tokens = CONTROL_TOKENS.subn(lambda found: found[0] + " ", text)
    return text, escapes + returns + controls + tokens


def cap(text: str, limit: int) -> str:
    """Head and tail (40 : 60) of a text above `limit` characters, with the cut said between them."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 5
    tail = limit - head
    return f"{text[:head]}\n[... {len(text) - limit} characters cut ...]\n{text[-tail:]}"


def observed_text(message: str) -> str:
    """What a command printed, read back from the user message that carried it."""
    text = message.removeprefix(OUTPUT)
    return "" if text == NOTHING else text


class ShellWorld:
    """A Linux shell: actions bash, answer, finish. Each command runs in a fresh bash in the task's folder."""

    actions = ("bash", "answer", "finish")

    def __init__(self, sandbox: Sandbox, *, command_seconds: float = 30.0, observation_chars: int = 1_200) -> None:
        self.sandbox = sandbox
        self.system = SYSTEM["shell"]
        self._seconds = command_seconds
        self._chars = observation_chars
        self._cwd: str | None = None

    @property
    def ref(self) -> SandboxRef:
        return SandboxRef(kind=type(self.sandbox).__name__, image=self.sandbox.image)

    async def start(self) -> None:
        await self.sandbox.start()

    async def close(self) -> None:
        await self.sandbox.close()

    async def prepare(self, task: Task) -> str:
        environment = task.environment
        if not isinstance(environment, ShellEnvironment):
            raise TaskBroken(f"task {task.id} needs a {environment.kind} environment, this is a shell")
        self._cwd = environment.cwd
        for number, script in enumerate(environment.setup, 1):
            result = await self.sandbox.exec(_command(script), timeout=120)
            if result.exit_code != 0 and not environment.setup_may_fail:
                raise TaskBroken(
                    f"set-up script {number} of task {task.id} ended with {result.exit_code}: {result.stderr.text()[:500]}"
                )
        if environment.start:
            await self.sandbox.exec(f"{{ {environment.start}\n}} >/dev/null 2>&1 &", cwd=self._cwd, timeout=30)
        return task.instruction

    async def step(self, action: Action) -> Observation:
        try:
            result = await self.sandbox.exec(str(action.arguments["script"]), cwd=self._cwd, timeout=self._seconds)
        except ValueError as error:
            return Observation(text=f"{OUTPUT}{error}")
        return self._observation(result)

    async def judge(self, task: Task, answer: str | None) -> Reward:
        return await judge(task, answer=answer, place=self.sandbox)

    def _observation(self, result: ExecResult) -> Observation:
        parts = [part for part in (result.stdout.text().rstrip("\n"), result.stderr.text().rstrip("\n")) if part]
        text, neutralised = neutralise("\n".join(parts))
        notes = [cap(text, self._chars) or NOTHING]
        if result.timed_out:
            notes.append(f"(stopped after {self._seconds:g} s)")
        elif result.exit_code != 0:
            notes.append(f"(exit code {result.exit_code})" if result.exit_code is not None else f"(signal {result.signal})")
        return Observation(
            text=OUTPUT + "\n".join(notes),
            exit_code=result.exit_code,
            timed_out=result.timed_out,
            output_bytes=result.stdout.total + result.stderr.total,
            neutralised=neutralised,
            seconds=result.seconds,
        )


class SqlWorld:
    """A database: actions sql, answer, finish. One statement a turn."""

    actions = ("sql", "answer", "finish")

    def __init__(self, database: Database, *, statement_seconds: float = 30.0, observation_chars: int = 1_200) -> None:
        self.database = database
        self.system = SYSTEM["sqlite"]
        self._seconds = statement_seconds
        self._chars = observation_chars

    @property
    def ref(self) -> SandboxRef:
        return SandboxRef(kind=type(self.database).__name__, image=self.database.engine)

    async def start(self) -> None:
        await self.database.start()

    async def close(self) -> None:
        await self.database.close()

    async def prepare(self, task: Task) -> str:
        environment = task.environment
        if not isinstance(environment, SqliteEnvironment):
            raise TaskBroken(f"task {task.id} needs a {environment.kind} environment, this is a database")
        try:
            await self.database.load(environment.script)
        except ValueError as error:
            raise TaskBroken(f"the database script of task {task.id} failed: {error}") from error
        return task.instruction

    async def step(self, action: Action) -> Observation:
        began = time.monotonic()
        result = await self.database.execute(str(action.arguments["query"]), timeout=self._seconds)
        text, neutralised = neutralise(rows_text(result))
        return Observation(
            text=OUTPUT + (cap(text, self._chars) or NOTHING),
            exit_code=None if result.timed_out else int(result.error is not None),
            timed_out=result.timed_out,
            output_bytes=len(text),
            neutralised=neutralised,
            seconds=time.monotonic() - began,
        )

    async def judge(self, task: Task, answer: str | None) -> Reward:
        return await judge(task, answer=answer, place=self.database)


def rows_text(result: QueryResult) -> str:
    """A result as the agent reads it: one row a line, cells joined by `|`, NULL as NULL; or the engine's error."""
    if result.error is not None:
        return f"Error: {result.error}"
    lines = ["|".join("NULL" if cell is None else str(cell) for cell in row) for row in result.rows]
    if result.more_rows:
        lines.append(f"(only the first {len(result.rows)} rows are shown)")
    if not result.columns and result.rows_affected >= 0:
        lines.append(f"({result.rows_affected} rows changed)")
    return "\n".join(lines)


def _command(script: Script) -> str | list[str]:
    return script.code if script.language == "bash" else ["python3", "-c", script.code]
