"""A task is data: instruction, environment, judge, reference solution; read from and written to JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from agentlm_sdk.errors import UserError, closest
from agentlm_sdk.record import Action, Record, TaskRef, canonical_hash

Split = Literal["train", "test", "heldout"]


class Script(Record):
    code: str
    language: Literal["bash", "python"] = "bash"


class ShellEnvironment(Record):
    """A Linux shell in a container of its own."""

    kind: Literal["shell"] = "shell"
    image: str = "os"
    """Name of a sandbox image; `os` is the one the SDK builds."""
    setup: list[Script] = Field(default_factory=list)
    """Run in order as root before the episode; a non-zero exit code is a failure of the task, not of the policy."""
    setup_may_fail: bool = False
    """Go on when a set-up script fails, as AgentBench's published harness does."""
    start: str | None = None
    """A command left running in the background while the agent works."""
    cwd: str = "/root"


class SqliteEnvironment(Record):
    """A SQLite database of its own, filled by a script."""

    kind: Literal["sqlite"] = "sqlite"
    script: str
    """CREATE TABLE and INSERT statements."""


Environment = Annotated[ShellEnvironment | SqliteEnvironment, Field(discriminator="kind")]


class AnswerJudge(Record):
    """The answer handed in, compared outside the sandbox."""

    kind: Literal["answer"] = "answer"
    expected: list[str]
    """One value, or several for a set answer."""
    compare: Literal["text", "number", "set", "regex", "dbbench"] = "text"
    """text: equal after strip; number: equal as numbers; set: equal as sets of comma-separated values; regex: search;
    dbbench: AgentBench's rule for SELECT answers."""


class ScriptJudge(Record):
    """AgentBench's check pipeline, in the episode's own container: the arguments start as [answer], each script is run with them,
    its stdout is appended, a non-zero exit code fails. One script that inspects the final state is the common case."""

    kind: Literal["script"] = "script"
    scripts: list[Script]
    answer_required: bool = False
    """Fail at once when the policy handed in no answer."""


class QueryJudge(Record):
    """The final state of the database: a trusted query must give exactly these rows (order-free)."""

    kind: Literal["query"] = "query"
    query: str
    rows: list[list[int | float | str | None]]


class FingerprintJudge(Record):
    """AgentBench DBBench's rule for INSERT and UPDATE: MD5 over the sorted row digests of one table."""

    kind: Literal["fingerprint"] = "fingerprint"
    table: str
    md5: str


Judge = Annotated[AnswerJudge | ScriptJudge | QueryJudge | FingerprintJudge, Field(discriminator="kind")]


class ReferenceStep(Record):
    """One turn of the reference solution."""

    thought: str = ""
    action: Action
    """An answer of `{output}` hands in what the step before showed the agent, stripped."""


class Task(Record):
    id: str
    family: str
    split: Split
    instruction: str
    environment: Environment
    judge: Judge
    reference: list[ReferenceStep] = Field(default_factory=list)
    max_turns: int = 8
    suite: str = ""
    labels: list[str] = Field(default_factory=list)

    @property
    def content_hash(self) -> str:
        """Changes when anything but the split changes; a field added later with a default leaves old hashes as they are."""
        said = self.model_dump(mode="json", exclude={"split"}, exclude_defaults=True)
        return canonical_hash([said, self.environment.kind, self.judge.kind])

    def ref(self) -> TaskRef:
        return TaskRef(id=self.id, content_hash=self.content_hash, family=self.family, split=self.split, suite=self.suite)


def read_tasks(path: Path) -> list[Task]:
    """Tasks of a JSON-lines file. Raises UserError naming the line and, for an unknown field, the nearest known one."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"cannot read the task file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
    tasks: list[Task] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            task = Task.model_validate(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from error
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {explain(error, Task)}") from error
        if task.id in seen:
            raise UserError(f"{path}, line {number}: task id {task.id!r} was already used on line {seen[task.id]}")
        seen[task.id] = number
        tasks.append(task)
    if not tasks:
        raise UserError(f"{path} holds no task")
    return tasks


def write_tasks(path: Path, tasks: Iterable[Task]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for task in tasks:
            file.write(json.dumps(task.model_dump(mode="json")) + "\n")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation error, with the field's place and, for an unknown name, the nearest known one."""
    first: Any = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        hint = closest(str(first["loc"][-1]), known_fields(model))
        return f"unknown field {place!r}{hint}"
    return f"field {place!r}: {first['msg']}"


def known_fields(model: type[BaseModel]) -> list[str]:
    names = list(model.model_fields)
    for part in (
        ShellEnvironment,
        SqliteEnvironment,
        AnswerJudge,
        ScriptJudge,
        QueryJudge,
        FingerprintJudge,
        ReferenceStep,
        Script,
    ):
        names += [name for name in part.model_fields if name not in names]
    return names
