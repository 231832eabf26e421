"""Who acts: a model named by a string, or the oracle that replays references. The agent loop sees a chat model either way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from langchain_core.language_models.chat_models import BaseChatModel

from agentlm_sdk.errors import UserError
from agentlm_sdk.models import OracleChat, ServedChat, normal_url, scripted_from, served_name
from agentlm_sdk.record import Policy, Record
from agentlm_sdk.server import serving, template_hash, weights_revision
from agentlm_sdk.tasks import Task

KINDS = "oracle, oracle:slips, vllm:PATH_OR_NAME, scripted:FILE, or the URL of an OpenAI-compatible server"


ORACLES = ("oracle", "oracle:slips")
SLIP_SHARE = 5
"""`oracle:slips` begins one in this many tasks with an unreadable reply."""
SLIPS = (
    "I will do it now.",
    "Sure, here is how to do it.",
    "The answer is not known yet.",
    "{instruction}",
    "```\n{instruction}\n```",
)


class PolicySpec(Record):
    """A policy as a run's manifest keeps it, closely enough to open it again."""

    name: str
    """One of: oracle, oracle:slips, vllm:PATH_OR_NAME, scripted:FILE, http(s)://HOST/v1."""
    model_name: str = ""
    """What to ask the server for; empty: the first model it offers."""
    weights: str = ""
    """The local folder behind a URL, if known: its revision and chat template go into the record."""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 192
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenPolicy:
    """A policy that can act."""

    record: Policy
    for_attempt: Callable[[Task, int], BaseChatModel]
    """The chat model for one attempt at a task; with a sampling seed each attempt gets its own, seed + attempt."""


@asynccontextmanager
async def opened_policy(
    spec: PolicySpec, *, log: Path | None = None, tell: Callable[[str], None] = lambda _: None
) -> AsyncIterator[OpenPolicy]:
    """The policy a spec names; a `vllm:` one brings its server, which ends with the context. Raises UserError for an
    unknown name or a URL that does not answer."""
    kind, _, rest = spec.name.partition(":")
    match kind:
        case "oracle" if rest in ("", "slips"):
            yield OpenPolicy(record=Policy(model=spec.name), for_attempt=_slipping if rest else _oracle)
        case "scripted" if rest:
            chat = scripted_from(Path(rest))
            yield OpenPolicy(record=Policy(model=spec.name), for_attempt=lambda task, attempt: chat)
        case "http" | "https":
            yield _served(spec, normal_url(spec.name), spec.weights)
        case "vllm" if rest:
            async with serving(rest, log=log, tell=tell) as url:
                yield _served(spec, url, rest)
        case _:
            raise UserError(f"unknown model {spec.name!r}; use {KINDS}")


def check(spec: PolicySpec) -> None:
    """Raises UserError where a spec can be seen to be wrong before a run is begun: an unknown name, a URL that does not answer."""
    kind, _, rest = spec.name.partition(":")
    if kind in ("http", "https"):
        served_name(normal_url(spec.name))
    elif kind == "scripted" and rest:
        scripted_from(Path(rest))
    elif spec.name not in ORACLES and not (kind == "vllm" and rest):
        raise UserError(f"unknown model {spec.name!r}; use {KINDS}")


def _oracle(task: Task, attempt: int) -> BaseChatModel:
    if not task.reference:
        raise UserError(f"task {task.id} has no reference solution, so the oracle cannot play it")
    return OracleChat(reference=task.reference)


def _slipping(task: Task, attempt: int) -> BaseChatModel:
    """The oracle, which in some tasks slips first. The slip is never trained, the reply after the correction is: a model tuned
    on it finds back into the format."""
    oracle = _oracle(task, attempt)
    draw = int(task.content_hash[:8], 16)
    slip = SLIPS[draw // SLIP_SHARE % len(SLIPS)].format(instruction=task.instruction) if draw % SLIP_SHARE == 0 else ""
    return oracle.model_copy(update={"slip": slip})


def _served(spec: PolicySpec, url: str, weights: str) -> OpenPolicy:
    offered = served_name(url)
    name = spec.model_name or offered
    chat = ServedChat(
        base_url=url,
        model=name,
        temperature=spec.temperature,
        top_p=spec.top_p,
        max_tokens=spec.max_tokens,
        seed=spec.seed,
    )
    record = Policy(
        model=name,
        revision=weights_revision(weights) if weights else "",
        sampling=chat.sampling,
        template_hash=template_hash(weights) if weights else "",
    )

    def for_attempt(task: Task, attempt: int) -> BaseChatModel:
        return chat if spec.seed is None else chat.model_copy(update={"seed": spec.seed + attempt})

    return OpenPolicy(record=record, for_attempt=for_attempt)
