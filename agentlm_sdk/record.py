"""The trajectory: one episode, as everything else of the SDK reads it. A leaf module: it imports nothing of ours."""

from __future__ import annotations

import base64
import hashlib
import json
from array import array
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
"""Bumped by every change of what is written; files of every older number stay readable."""

Role = Literal["system", "user", "assistant", "tool"]


class Record(BaseModel):
    """Base of what is written to disk: frozen, and a field nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical_hash(value: Any) -> str:
    """SHA-256 (hex) of a JSON value with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def pack_ids(ids: Sequence[int]) -> str:
    """Token ids as base64 of little-endian uint32."""
    return base64.b64encode(array("I", ids).tobytes()).decode("ascii")


def unpack_ids(text: str) -> list[int]:
    """The reverse of `pack_ids`."""
    ids = array("I")
    ids.frombytes(base64.b64decode(text))
    return list(ids)


MALFORMED = frozenset({"invalid_format", "invalid_action"})
"""Problems of a step that count as a malformed action; a refusal and a repetition are counted apart."""


class EndCause(StrEnum):
    """What ended an episode; says nothing about whether the task was solved."""

    COMPLETED = "completed"
    INVALID_FORMAT = "invalid_format"
    """The budget of unreadable replies was spent."""
    INVALID_ACTION = "invalid_action"
    """A readable reply named an action the task does not offer, past the budget."""
    REPETITION = "repetition"
    REFUSAL = "refusal"
    CONTEXT_LIMIT = "context_limit"
    TURN_LIMIT = "turn_limit"
    TIME_LIMIT = "time_limit"
    INFRASTRUCTURE = "infrastructure"
    """Our side broke, `Outcome.failure` names where. Never a reward of 0, never training data."""


class Verdict(StrEnum):
    SOLVED = "solved"
    FAILED = "failed"
    UNMEASURED = "unmeasured"
    """No judge could say, for instance after an infrastructure failure."""


class Action(Record):
    """What a policy wants done, whichever protocol carried it."""

    name: str
    """`bash`, `sql`, `answer`, `finish`, or the name of a tool."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """bash: {script}; sql: {query}; answer: {answer}; finish: {}."""


class Message(Record):
    """One message, verbatim as it was sent to or received from the model."""

    role: Role
    content: str
    sampled: bool = False
    """This episode's policy wrote it."""
    loss: bool | None = None
    """Train on it (True), keep it as context only (False), or not said (None)."""
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)
    """OpenAI form, when the protocol is native tool calls."""
    tool_call_id: str | None = None
    token_ids: str | None = None
    """The sampled ids, stop token included, by `pack_ids`; None where the server does not return them."""
    prompt_token_ids: str | None = None
    """The ids of the whole prompt of the first call, of later calls only what follows the shared prefix; see `prompt_shared`."""
    prompt_shared: int = 0
    """How many ids at the start of this call's prompt equal the previous call's prompt + sampled ids."""
    logprobs: list[float] | None = None
    stop_reason: str | None = None
    reasoning: str | None = None


class Step(Record):
    """How one assistant message was read and what came of it."""

    message: int
    """Index of the assistant message in `Trajectory.messages`."""
    action: Action | None = None
    """None when the reply could not be read."""
    thought: str = ""
    problem: Literal["invalid_format", "invalid_action", "repetition", "refusal"] | None = None
    problem_detail: str = ""
    exit_code: int | None = None
    timed_out: bool = False
    output_bytes: int = 0
    """Bytes (or, for SQL, characters) the action produced, before any cut."""
    neutralised: int = 0
    """Control tokens, escape sequences and invalid bytes made harmless in the observation."""
    model_seconds: float = 0.0
    action_seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Reward(Record):
    """One score of an episode; several scorers may each add one."""

    name: str
    value: float
    scorer: str
    """Name and version of what gave it, e.g. `answer/1`."""
    detail: str = ""


class Failure(Record):
    """An infrastructure failure."""

    boundary: Literal["model", "sandbox", "task"]
    error: str


class Outcome(Record):
    """The two questions kept apart: was it solved, and what ended it."""

    verdict: Verdict
    ended_by: EndCause
    answer: str | None = None
    """The final answer the policy handed in, if any."""
    failure: Failure | None = None


class TaskRef(Record):
    """Which task an episode ran."""

    id: str
    content_hash: str
    family: str
    split: str
    suite: str = ""


class Policy(Record):
    """Who acted, closely enough to act again."""

    model: str
    revision: str = ""
    protocol: str = "react"
    sampling: dict[str, Any] = Field(default_factory=dict)
    prompt_hash: str = ""
    """Of the system text and the tools offered."""
    template_hash: str = ""
    """Of the chat template the server used, where known."""


class SandboxRef(Record):
    kind: str
    image: str = ""
    """Image id or engine version."""


class Usage(Record):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model_calls: int = 0
    model_seconds: float = 0.0
    sandbox_seconds: float = 0.0
    wall_seconds: float = 0.0


class Trajectory(Record):
    """One finished episode."""

    schema_version: int = SCHEMA
    id: str
    task: TaskRef
    attempt: int = 0
    """Which of the k attempts at this task."""
    rerun: int = 0
    """How often this attempt was started before and did not finish."""
    policy: Policy
    sandbox: SandboxRef
    messages: list[Message]
    steps: list[Step] = Field(default_factory=list)
    rewards: list[Reward] = Field(default_factory=list)
    outcome: Outcome
    usage: Usage = Field(default_factory=Usage)
    started: str = ""
    """UTC, ISO 8601."""

    @property
    def solved(self) -> bool:
        return self.outcome.verdict is Verdict.SOLVED
