"""Journals to a curated set: which episodes and which turns a model learns from, with a reason for each one left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from agentlm_sdk.errors import UserError
from agentlm_sdk.journal import read_run, write_atomic
from agentlm_sdk.record import EndCause, Message, Trajectory, canonical_hash
from trainers.rendering import lone_surrogate as surrogate_in

CURATED, MANIFEST = "curated.jsonl", "manifest.json"


class CurateReport(BaseModel):
    """What came in, what stayed, and by which rule each episode was left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    taken_in: int
    """Episodes in the journals, unfinished ones included; always `kept` plus all the dropped ones."""
    kept: int
    dropped: dict[str, list[str]]
    """Rule -> episode ids. The rules are applied in this order and the first that fits counts."""
    trained_turns: int
    context_turns: int
    """Replies of the policy that are kept as context only, because the step had a problem."""
    families: dict[str, int]
    """Kept episodes by task family."""
    policies: dict[str, int]
    """Kept episodes by model."""
    damaged_lines: list[str]
    """Journal lines that could not be read."""
    runs: list[str]
    sha256: str
    """Of the curated file."""


@dataclass(kw_only=True, slots=True)
class Seen:
    """What the rules have already let through."""

    actions: set[str] = field(default_factory=set)


Rule = Callable[[Trajectory, Seen], bool]
"""True when the episode is to be left out."""


def infrastructure(episode: Trajectory, _: Seen) -> bool:
    """Our side broke: says nothing about the policy."""
    return episode.outcome.ended_by is EndCause.INFRASTRUCTURE or episode.outcome.failure is not None


def not_solved(episode: Trajectory, _: Seen) -> bool:
    """Failed, or no judge could say."""
    return not episode.solved


def duplicate(episode: Trajectory, seen: Seen) -> bool:
    """The same task with the same actions was kept before."""
    actions = [step.action.model_dump(mode="json") if step.action else None for step in episode.steps]
    key = canonical_hash([episode.task.content_hash, actions])
    again = key in seen.actions
    seen.actions.add(key)
    return again


def nothing_to_learn(episode: Trajectory, _: Seen) -> bool:
    """No reply of the policy is free of problems."""
    return not any(message.loss for message in flagged(episode).messages)


def lone_surrogate(episode: Trajectory, _: Seen) -> bool:
    """A message holds a lone surrogate, which no tokenizer takes."""
    return any(surrogate_in(message.content) for message in episode.messages)


RULES: dict[str, Rule] = {
    "infrastructure": infrastructure,
    "not_solved": not_solved,
    "lone_surrogate": lone_surrogate,
    "nothing_to_learn": nothing_to_learn,
    "duplicate": duplicate,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Every episode is in `kept` or, by id, under one rule in `dropped`."""

    kept: list[Trajectory]
    dropped: dict[str, list[str]]


def curate(runs: Sequence[Path], out: Path) -> CurateReport:
    """Write `out`/curated.jsonl (trajectories with a loss flag on each reply) and `out`/manifest.json. Raises UserError
    when an episode of a split other than train would come in: test and held-out episodes are for measuring only."""
    if not runs:
        raise UserError("no run given to curate; name run directories made by `agentlm-sdk rollout`")
    contents = [(run, read_run(run)) for run in runs]
    for run, content in contents:
        for episode in content.trajectories:
            if episode.task.split != "train":
                raise UserError(
                    f"{run}: episode {episode.id} ran task {episode.task.id!r} of the split {episode.task.split!r}; "
                    "only train episodes may be curated: leave this run out"
                )
    selection = select(episode for _, content in contents for episode in content.trajectories)
    incomplete = [episode for _, content in contents for episode in content.incomplete]
    dropped = {"incomplete": incomplete, **selection.dropped}
    text = "".join(json.dumps(episode.model_dump(mode="json", exclude_defaults=True)) + "\n" for episode in selection.kept)
    replies = [m for episode in selection.kept for m in episode.messages if m.role == "assistant" and m.sampled]
    report = CurateReport(
        taken_in=len(incomplete) + sum(len(content.trajectories) for _, content in contents),
        kept=len(selection.kept),
        dropped=dropped,
        trained_turns=sum(m.loss is True for m in replies),
        context_turns=sum(m.loss is False for m in replies),
        families=_count(episode.task.family for episode in selection.kept),
        policies=_count(episode.policy.model for episode in selection.kept),
        damaged_lines=[f"{run.name}: {problem}" for run, content in contents for problem in content.problems],
        runs=[run.name for run in runs],
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    write_atomic(out / CURATED, text)
    write_atomic(out / MANIFEST, json.dumps(report.model_dump(mode="json"), indent=2) + "\n")
    return report


def select(episodes: Iterable[Trajectory]) -> Selection:
    """Apply the rules. What is kept has a loss flag on every reply."""
    kept: list[Trajectory] = []
    dropped: dict[str, list[str]] = {name: [] for name in RULES}
    seen = Seen()
    for episode in episodes:
        rule = next((name for name, leaves_out in RULES.items() if leaves_out(episode, seen)), None)
        if rule is None:
            kept.append(flagged(episode))
        else:
            dropped[rule].append(episode.id)
    return Selection(kept=kept, dropped=dropped)


def flagged(episode: Trajectory) -> Trajectory:
    """The episode with `loss` set on each reply: True for what the policy wrote without a problem, False for the rest."""
    problems = {step.message for step in episode.steps if step.problem is not None}

    def flag(index: int, message: Message) -> Message:
        if message.role != "assistant":
            return message
        learn = message.sampled and message.loss is not False and index not in problems
        return message.model_copy(update={"loss": learn})

    return episode.model_copy(update={"messages": [flag(i, message) for i, message in enumerate(episode.messages)]})


def read_curated(folder: Path) -> tuple[list[Trajectory], str]:
    """The episodes of a curated folder and the SHA-256 of its file. Raises UserError naming the line, or when the file is not
    the one its manifest describes."""
    path = folder / CURATED
    try:
        raw = path.read_bytes()
        stated = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} is not a curated folder ({CURATED} and {MANIFEST}); make one with `agentlm-sdk curate`"
        ) from error
    digest = hashlib.sha256(raw).hexdigest()
    if digest != stated:
        raise UserError(
            f"{path} has changed since it was curated (sha256 {digest[:12]}, manifest says {stated[:12]}); curate again"
        )
    episodes: list[Trajectory] = []
    for number, line in enumerate(raw.decode("utf-8").split("\n"), 1):
        if not line:
            continue
        try:
            episodes.append(Trajectory.model_validate(json.loads(line)))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: {error.errors()[0]['msg']} at {error.errors()[0]['loc']}") from error
    return episodes, digest


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
