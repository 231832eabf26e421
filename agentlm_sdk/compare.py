"""Is model B better than model A? Two runs of the same tasks, paired, and one of three answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentlm_sdk.display import neutral_line
from agentlm_sdk.errors import EXIT_OK, EXIT_UNDECIDED, EXIT_USER, UserError, closest
from agentlm_sdk.record import MALFORMED, EndCause, Trajectory, canonical_hash
from agentlm_sdk.record import Verdict as TaskVerdict
from agentlm_sdk.stats import PairedTable, gain_interval, mcnemar_exact, needed_pairs, paired_table, wilson

ERRORS = ("invalid_format", "invalid_action", "repetition", "refusal", "turn_limit", "context_limit", "time_limit")
"""What can go wrong in an episode, in the order it is shown."""

DIFFERENCES = ("tasks", "train", "splits", "protocol", "prompt", "sandbox", "sampling")
"""What may differ between two runs only when the caller allows it by name. Model, revision and template always may."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(StrEnum):
    BETTER = "better"
    NOT_BETTER = "not_better"
    NOT_ENOUGH_EVIDENCE = "not_enough_evidence"


EXIT_CODES = {Answer.BETTER: EXIT_OK, Answer.NOT_BETTER: EXIT_USER, Answer.NOT_ENOUGH_EVIDENCE: EXIT_UNDECIDED}


class GeneralLoss(Frozen):
    """Mean loss on general chat that neither model was trained on: the guard against lost skills."""

    base: float = Field(gt=0)
    tuned: float

    @property
    def change(self) -> float:
        """Part by which the loss grew: 0.05 is five per cent worse."""
        return self.tuned / self.base - 1


class Model(Frozen):
    """Who acted in a run."""

    name: str
    revision: str = ""
    template_hash: str = ""


class Side(Frozen):
    """One model on one set of pairs. Rates and counts cover the measured pairs only."""

    n: int
    solved: int
    rate: float
    low: float
    """Wilson interval of the rate; several attempts at a task count as one task."""
    high: float
    unmeasured: int
    """Episodes of this model that no judge could score, for instance because a server died."""
    rate_worst: float
    """The rate over all episodes of this model if each unmeasured one had failed."""
    rate_best: float
    """The same if each had been solved."""
    steps: int
    malformed: int
    """Replies that held no action we could run."""
    malformed_rate: float
    """`malformed` over `steps`."""
    errors: dict[str, int]
    """Episodes in which each of `ERRORS` happened at least once."""
    mean_turns: float
    prompt_tokens: int
    completion_tokens: int


class Paired(Frozen):
    """Two models on one set of tasks."""

    name: str
    """`test`, `heldout`, `overall`, ..."""
    tasks: int
    a: Side
    b: Side
    table: PairedTable
    votes_for: int
    """Tasks at which b did better: several attempts at a task count as one vote, so repeating them adds no certainty."""
    votes_against: int
    mcnemar_p: float
    """Of the votes, exact and two-sided: it says nothing about the direction."""
    gain: float
    gain_low: float
    gain_high: float
    gain_worst: float
    """b's rate less a's if every unmeasured episode had spoken against b."""
    gain_best: float
    excluded: int
    """Pairs left out because at least one side could not be measured."""

    @property
    def n(self) -> int:
        return self.table.n

    def better(self, alpha: float) -> bool:
        """The votes show a gain, and the mean is one too: a few large gains cannot outweigh many small losses."""
        return self.mcnemar_p < alpha and self.votes_for > self.votes_against and self.gain > 0

    def worse(self, alpha: float) -> bool:
        """The votes show a loss, whatever the mean is."""
        return self.mcnemar_p < alpha and self.votes_against > self.votes_for


class FamilyRow(Frozen):
    split: str
    family: str
    n: int
    a: int
    b: int


class Comparison(Frozen):
    """All that is known about two runs of the same tasks, and the answer."""

    a: Model
    b: Model
    alpha: float
    splits: list[Paired]
    overall: Paired
    families: list[FamilyRow]
    general_loss: GeneralLoss | None
    general_margin: float
    differences: dict[str, str]
    """Differences between the runs that the caller allowed, each with its values."""
    task_set_hash: str
    prompt_hashes: list[str]
    images: list[str]
    verdict: Answer
    reasons: list[str]
    """Why, most weighty first, in words for a reader."""
    more_tasks: int | None
    """How many more tasks would be likely to settle it, when the evidence is not enough."""

    @property
    def exit_code(self) -> int:
        """0 better, 1 not better, 2 not enough evidence."""
        return EXIT_CODES[self.verdict]

    def split(self, name: str) -> Paired | None:
        return next((split for split in self.splits if split.name == name), None)


def compare(
    a: Sequence[Trajectory],
    b: Sequence[Trajectory],
    *,
    alpha: float = 0.05,
    general_loss: GeneralLoss | None = None,
    general_margin: float = 0.05,
    smallest_gain: float = 0.10,
    allow: Collection[str] = (),
) -> Comparison:
    """Pair two runs by task content and attempt and say whether b is better than a.

    better: b does better at more tasks by the exact McNemar test over all of them and on the mean, no split got worse,
    general chat did not suffer, and all this holds if every unmeasured episode is counted against b. not_better: one of
    those went against b, or a gain of `smallest_gain` is ruled out. not_enough_evidence: anything else. Raises UserError
    where the runs are not alike in one of `DIFFERENCES` that `allow` does not name.
    """
    for name in allow:
        if name not in DIFFERENCES:
            known = ", ".join(DIFFERENCES)
            raise UserError(f"no difference is called {name!r}{closest(name, DIFFERENCES)}; there are {known}")
    first, second = _by_key(a, "first"), _by_key(b, "second")
    pairs = [Pair(a=episode, b=second[key]) for key, episode in first.items() if key in second]
    if not pairs:
        raise UserError("the two runs share no task: run both models on the same task file")
    differences = _differences(first, second, pairs)
    refused = {name: text for name, text in differences.items() if name not in allow}
    if refused:
        said = "; ".join(f"{name}: {text}" for name, text in refused.items())
        raise UserError(f"the two runs are not alike. {said}. Run both alike, or allow {', '.join(map(repr, refused))}")

    overall = _paired("overall", pairs)
    names = sorted({pair.a.task.split for pair in pairs}, key=lambda name: (name != "test", name))
    splits = [_paired(name, [pair for pair in pairs if pair.a.task.split == name]) for name in names]
    evidence = Evidence(overall=overall, splits=splits, worst_p=_worst_p(pairs), general_loss=general_loss)
    verdict, reasons, more = _decide(evidence, alpha=alpha, general_margin=general_margin, smallest_gain=smallest_gain)
    return Comparison(
        a=_model(a, "first"),
        b=_model(b, "second"),
        alpha=alpha,
        splits=splits,
        overall=overall,
        families=_families(pairs, names),
        general_loss=general_loss,
        general_margin=general_margin,
        differences=differences,
        task_set_hash=canonical_hash(sorted({pair.a.task.content_hash for pair in pairs})),
        prompt_hashes=_distinct(pairs, lambda episode: episode.policy.prompt_hash),
        images=_distinct(pairs, lambda episode: f"{episode.sandbox.kind} {episode.sandbox.image}".strip()),
        verdict=verdict,
        reasons=reasons,
        more_tasks=more,
    )


Key = tuple[str, int]
"""Content hash of a task, and the attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One attempt of both models at one task."""

    a: Trajectory
    b: Trajectory

    @property
    def measured(self) -> bool:
        return measured(self.a) and measured(self.b)


def measured(episode: Trajectory) -> bool:
    """A judge could say whether the task was solved."""
    outcome = episode.outcome
    return outcome.verdict is not TaskVerdict.UNMEASURED and outcome.ended_by is not EndCause.INFRASTRUCTURE


def paired_episodes(a: Sequence[Trajectory], b: Sequence[Trajectory]) -> list[Pair]:
    """The measured pairs of two runs, in the order of the first."""
    first, second = _by_key(a, "first"), _by_key(b, "second")
    pairs = [Pair(a=episode, b=second[key]) for key, episode in first.items() if key in second]
    return [pair for pair in pairs if pair.measured]


def _by_key(episodes: Iterable[Trajectory], run: str) -> dict[Key, Trajectory]:
    """Each attempt once: an episode that could not be measured gives way to its rerun."""
    found: dict[Key, Trajectory] = {}
    for episode in episodes:
        key = (episode.task.content_hash, episode.attempt)
        before = found.get(key)
        if before is not None and measured(before):
            if not measured(episode):
                continue
            raise UserError(
                f"the {run} run holds two results of {_label(episode)}: episodes {before.id} and {episode.id}. "
                "Compare one run with one run"
            )
        found[key] = episode
    return found


def _label(episode: Trajectory) -> str:
    return episode.task.id + (f" (attempt {episode.attempt})" if episode.attempt else "")


def _differences(first: dict[Key, Trajectory], second: dict[Key, Trajectory], pairs: list[Pair]) -> dict[str, str]:
    """Everything in which the runs differ that could explain a result without the model, by name."""
    found: dict[str, str] = {}
    missing = [
        f"{len(only)} only in the {run} run ({_some(map(_label, only))})"
        for run, only in (
            ("first", [episode for key, episode in first.items() if key not in second]),
            ("second", [episode for key, episode in second.items() if key not in first]),
        )
        if only
    ]
    if missing:
        found["tasks"] = ", ".join(missing)
    trained = [pair.a for pair in pairs if "train" in (pair.a.task.split, pair.b.task.split)]
    if trained:
        found["train"] = f"{len(trained)} pairs are of the train split ({_some(map(_label, trained))})"
    alike: dict[str, Callable[[Trajectory], Any]] = {
        "splits": lambda episode: episode.task.split,
        "protocol": lambda episode: episode.policy.protocol,
        "prompt": lambda episode: episode.policy.prompt_hash,
        "sandbox": lambda episode: (episode.sandbox.kind, episode.sandbox.image),
        "sampling": lambda episode: episode.policy.sampling,
    }
    for name, value in alike.items():
        unlike = [pair for pair in pairs if pair.measured and value(pair.a) != value(pair.b)]
        if unlike:
            one = unlike[0]
            found[name] = f"{value(one.a)!r} and {value(one.b)!r} ({len(unlike)} pairs, first {_label(one.a)})"
    return found


def _some(labels: Iterable[str], limit: int = 20) -> str:
    listed = sorted(labels)
    return ", ".join(listed[:limit]) + (f", and {len(listed) - limit} more" if len(listed) > limit else "")


def _distinct(pairs: list[Pair], value: Callable[[Trajectory], str]) -> list[str]:
    return sorted({value(episode) for pair in pairs if pair.measured for episode in (pair.a, pair.b)} - {""})


def _model(episodes: Sequence[Trajectory], run: str) -> Model:
    models = sorted({(e.policy.model, e.policy.revision, e.policy.template_hash) for e in episodes})
    if len({model[:2] for model in models}) > 1:
        named = _some(f"{model[0]} {model[1]}".strip() for model in models)
        raise UserError(f"the {run} run holds episodes of several models ({named}): compare one model with one model")
    name, revision, template_hash = models[-1]
    return Model(name=name, revision=revision, template_hash=template_hash)


def _families(pairs: list[Pair], splits: list[str]) -> list[FamilyRow]:
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        if pair.measured:
            groups.setdefault((pair.a.task.split, pair.a.task.family), []).append(pair)
    return [
        FamilyRow(split=split, family=family, n=len(of), a=sum(p.a.solved for p in of), b=sum(p.b.solved for p in of))
        for (split, family), of in sorted(groups.items(), key=lambda item: (splits.index(item[0][0]), item[0][1]))
    ]


def _task_gains(pairs: Iterable[Pair], score: Callable[[Pair], int]) -> list[float]:
    """One number per task: the mean over its attempts of b's result less a's."""
    tasks: dict[str, list[int]] = {}
    for pair in pairs:
        tasks.setdefault(pair.a.task.content_hash, []).append(score(pair))
    return [sum(gains) / len(gains) for gains in tasks.values()]


def _measured_gain(pair: Pair) -> int:
    return pair.b.solved - pair.a.solved


def _worst_gain(pair: Pair) -> int:
    """The gain if what could not be measured had gone against b."""
    return (measured(pair.b) and pair.b.solved) - (not measured(pair.a) or pair.a.solved)


def _votes(gains: list[float]) -> tuple[int, int]:
    """Tasks that speak for b, and against it."""
    return sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)


def _worst_p(pairs: list[Pair]) -> float:
    """p of the whole comparison if every unmeasured episode had spoken against b; 1 where that turns votes or mean."""
    gains = _task_gains(pairs, _worst_gain)
    votes_for, votes_against = _votes(gains)
    return mcnemar_exact(votes_against, votes_for) if votes_for > votes_against and sum(gains) > 0 else 1.0


def _paired(name: str, pairs: list[Pair]) -> Paired:
    kept = [pair for pair in pairs if pair.measured]
    gains = _task_gains(kept, _measured_gain)
    low, high = gain_interval(gains)
    votes_for, votes_against = _votes(gains)
    a = _side([pair.a for pair in kept], [pair.a for pair in pairs], len(gains))
    b = _side([pair.b for pair in kept], [pair.b for pair in pairs], len(gains))
    return Paired(
        name=name,
        tasks=len(gains),
        a=a,
        b=b,
        table=paired_table((pair.a.solved, pair.b.solved) for pair in kept),
        votes_for=votes_for,
        votes_against=votes_against,
        mcnemar_p=mcnemar_exact(votes_against, votes_for),
        gain=b.rate - a.rate,
        gain_low=low,
        gain_high=high,
        gain_worst=b.rate_worst - a.rate_best,
        gain_best=b.rate_best - a.rate_worst,
        excluded=len(pairs) - len(kept),
    )


def _side(episodes: list[Trajectory], everything: list[Trajectory], tasks: int) -> Side:
    n, solved = len(episodes), sum(episode.solved for episode in episodes)
    rate = solved / n if n else 0.0
    low, high = wilson(min(rate * tasks, tasks), tasks)
    unmeasured = sum(not measured(episode) for episode in everything)
    certain = sum(measured(episode) and episode.solved for episode in everything)
    steps = [step for episode in episodes for step in episode.steps]
    malformed = sum(step.problem in MALFORMED for step in steps)
    errors = Counter(kind for episode in episodes for kind in _errors(episode))
    return Side(
        n=n,
        solved=solved,
        rate=rate,
        low=low,
        high=high,
        unmeasured=unmeasured,
        rate_worst=certain / len(everything),
        rate_best=(certain + unmeasured) / len(everything),
        steps=len(steps),
        malformed=malformed,
        malformed_rate=malformed / len(steps) if steps else 0.0,
        errors={kind: errors[kind] for kind in ERRORS},
        mean_turns=len(steps) / n if n else 0.0,
        prompt_tokens=sum(episode.usage.prompt_tokens for episode in episodes),
        completion_tokens=sum(episode.usage.completion_tokens for episode in episodes),
    )


def _errors(episode: Trajectory) -> set[str]:
    return {step.problem for step in episode.steps if step.problem} | {episode.outcome.ended_by.value} & set(ERRORS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    overall: Paired
    splits: list[Paired]
    worst_p: float
    general_loss: GeneralLoss | None


def _decide(
    evidence: Evidence, *, alpha: float, general_margin: float, smallest_gain: float
) -> tuple[Answer, list[str], int | None]:
    overall = evidence.overall
    against = _against(evidence, alpha, general_margin)
    if against:
        return Answer.NOT_BETTER, [*against, _counts(overall)], None
    if overall.better(alpha):
        if evidence.worst_p < alpha:
            unshown = [split for split in evidence.splits if not split.better(alpha)]
            return Answer.BETTER, [_counts(overall), *(f"no gain is shown on {_where(split)}" for split in unshown)], None
        reason = f"{overall.excluded} pairs could not be measured and could undo the gain: run them again"
        return Answer.NOT_ENOUGH_EVIDENCE, [_counts(overall), reason], None
    if overall.gain_high < smallest_gain:
        most = f"at most {overall.gain_high * 100:.1f} points, with 95 % confidence"
        reason = f"a gain of {smallest_gain * 100:.0f} points or more is ruled out: {most}"
        return Answer.NOT_BETTER, [_counts(overall), reason], None
    changed = overall.table.only_a + overall.table.only_b
    gain = max(overall.gain, smallest_gain)
    needed = needed_pairs(gain, max((changed + 1) / (overall.n + 2), gain), alpha=alpha)
    more = max(1, needed - overall.tasks)
    reason = f"about {more} more tasks would show a gain of {gain * 100:.0f} points, if it is real, four times in five"
    return Answer.NOT_ENOUGH_EVIDENCE, [_counts(overall), reason], more


def _against(evidence: Evidence, alpha: float, general_margin: float) -> list[str]:
    """What forbids b however many tasks it solves."""
    reasons = []
    loss = evidence.general_loss
    if loss is not None and not loss.tuned <= loss.base * (1 + general_margin):
        reasons.append(
            f"the loss on general chat went from {loss.base:.3f} to {loss.tuned:.3f}, {loss.change:+.1%}, "
            f"where {general_margin:+.0%} is allowed"
        )
    overall = evidence.overall
    if overall.worse(alpha):
        reasons.append(f"it does worse at {overall.votes_against} tasks and better at {overall.votes_for}")
    for split in evidence.splits:
        if len(evidence.splits) > 1 and split.worse(alpha / len(evidence.splits)):
            reasons.append(f"it got worse on {_where(split)}")
    return reasons


def _where(split: Paired) -> str:
    return f"{neutral_line(split.name)}: {_counts(split)}"


def _counts(paired: Paired) -> str:
    unit = "tasks" if paired.n == paired.tasks else f"attempts at {paired.tasks} tasks"
    return (
        f"it solves {paired.b.solved} of {paired.n} {unit}, where the other solves {paired.a.solved} "
        f"({p_text(paired.mcnemar_p)}, exact McNemar)"
    )


def p_text(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def headline(comparison: Comparison) -> str:
    """The answer in one plain sentence."""
    return {
        Answer.BETTER: "The second model is better than the first.",
        Answer.NOT_BETTER: "The second model is not better than the first.",
        Answer.NOT_ENOUGH_EVIDENCE: "There is not enough evidence to call the second model better.",
    }[comparison.verdict]


def summarise(comparison: Comparison, general_loss: GeneralLoss | None = None) -> dict[str, Any]:
    """`test`, `heldout` and `general_loss` as plain JSON, None where there is none: a is `base`, b is `tuned`."""
    loss = general_loss or comparison.general_loss
    summary: dict[str, Any] = {name: _summary(comparison.split(name)) for name in ("test", "heldout")}
    return summary | {"general_loss": loss.model_dump() if loss else None}


def _summary(paired: Paired | None) -> dict[str, Any] | None:
    if paired is None:
        return None
    sides = {
        name: {
            "n": side.n,
            "solved": side.solved,
            "rate": side.rate,
            "wilson": [side.low, side.high],
            "malformed": side.malformed,
            "steps": side.steps,
            "malformed_rate": side.malformed_rate,
            "errors": side.errors,
            "unmeasured": side.unmeasured,
        }
        for name, side in (("base", paired.a), ("tuned", paired.b))
    }
    table = paired.table
    counts = {"both": table.both, "only_base": table.only_a, "only_tuned": table.only_b, "neither": table.neither}
    gain = [paired.gain_low, paired.gain, paired.gain_high]
    return sides | {"mcnemar_p": paired.mcnemar_p, "gain": gain, "pairs": counts}


def render(comparison: Comparison) -> RenderableType:
    """The comparison as tables for a terminal. Names from the runs are made harmless and never read as markup."""
    colour = {Answer.BETTER: "green", Answer.NOT_BETTER: "red", Answer.NOT_ENOUGH_EVIDENCE: "yellow"}[comparison.verdict]
    parts: list[RenderableType] = [
        Text(headline(comparison), style=f"bold {colour}"),
        *(Text(f" {reason}") for reason in comparison.reasons),
        Text(f"\n A  {_name(comparison.a)}\n B  {_name(comparison.b)}\n"),
        _success_table(comparison),
    ]
    if len(comparison.families) > 1:
        parts += [Text(), _family_table(comparison)]
    parts += [Text(), _behaviour_table(comparison)]
    loss = comparison.general_loss
    if loss is not None:
        parts.append(Text(f" loss on general chat  {loss.base:.3f} -> {loss.tuned:.3f} ({loss.change:+.1%})"))
    overall = comparison.overall
    if overall.excluded:
        parts.append(
            Text(
                f" {overall.excluded} pairs not measured (A {overall.a.unmeasured}, B {overall.b.unmeasured}): "
                f"the gain lies between {overall.gain_worst:+.1%} and {overall.gain_best:+.1%}, whatever they were",
                style="yellow",
            )
        )
    for name, text in comparison.differences.items():
        parts.append(Text(f" allowed difference in {name}: {neutral_line(text)}", style="yellow"))
    return Group(*parts)


def _name(model: Model) -> str:
    return neutral_line(f"{model.name} {model.revision}".strip())


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0)
    return table


def _success_table(comparison: Comparison) -> Table:
    table = _table("solved", "A", "B", "only A, B", "gain (95 %)", "p")
    rows = comparison.splits if len(comparison.splits) == 1 else [*comparison.splits, comparison.overall]
    for row in rows:
        table.add_row(
            Text(neutral_line(row.name)),
            f"{row.a.solved}/{row.n}  {row.a.low:.0%}-{row.a.high:.0%}",
            f"{row.b.solved}/{row.n}  {row.b.low:.0%}-{row.b.high:.0%}",
            f"{row.table.only_a}, {row.table.only_b}",
            f"{row.gain_low * 100:+.0f} to {row.gain_high * 100:+.0f}",
            p_text(row.mcnemar_p).removeprefix("p ").removeprefix("= "),
        )
    return table


def _family_table(comparison: Comparison) -> Table:
    table = _table("family", "A", "B", "change")
    for row in comparison.families:
        name = row.family if row.split == "test" else f"{row.family} ({row.split})"
        table.add_row(Text(neutral_line(name)), f"{row.a}/{row.n}", f"{row.b}/{row.n}", f"{row.b - row.a:+d}")
    return table


def _behaviour_table(comparison: Comparison) -> Table:
    sides = comparison.overall.a, comparison.overall.b
    table = _table("behaviour", "A", "B")
    table.add_row("malformed replies", *(f"{side.malformed}/{side.steps}  {side.malformed_rate:.0%}" for side in sides))
    for kind in ERRORS:
        if any(side.errors[kind] for side in sides):
            name = f"episodes with {kind.replace('_', ' ')}"
            table.add_row(name, *(f"{side.errors[kind]}/{side.n}" for side in sides))
    table.add_row("turns an episode", *(f"{side.mean_turns:.1f}" for side in sides))
    table.add_row("prompt tokens", *(f"{side.prompt_tokens:,}" for side in sides))
    table.add_row("completion tokens", *(f"{side.completion_tokens:,}" for side in sides))
    return table
