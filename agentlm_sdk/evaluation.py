"""Evaluation is a rollout on tasks kept apart, plus statistics: `eval.json` beside the journal, and two of them compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import RenderableType

from agentlm_sdk.compare import Comparison, GeneralLoss, compare, render, summarise
from agentlm_sdk.errors import UserError
from agentlm_sdk.journal import RunContents, latest_attempts, read_run, write_atomic
from agentlm_sdk.record import Trajectory
from agentlm_sdk.rollout import RolloutSummary, summary_of
from agentlm_sdk.stats import wilson

LOSS = "general_loss.json"


class SplitResult(BaseModel):
    """The result on one split; the interval is Wilson's at 95 %, over tasks."""

    summary: RolloutSummary
    low: float
    high: float


class Evaluation(BaseModel):
    """What `eval.json` holds."""

    run: str
    model: str
    revision: str
    splits: dict[str, SplitResult]
    general_loss: float | None = None
    """Mean negative log-likelihood (nats) per trained token of held-back general chat."""


def write_evaluation(run: Path) -> Evaluation:
    """Count a finished run by split and write `eval.json` beside its journal."""
    contents = read_run(run)
    episodes = latest_attempts(contents.trajectories)
    if not episodes:
        raise UserError(f"{run} holds no finished episode")
    splits: dict[str, SplitResult] = {}
    for split in sorted({episode.task.split for episode in episodes}):
        chosen = [episode for episode in episodes if episode.task.split == split]
        summary = summary_of(chosen, run=str(run), wanted=len(chosen))
        low, high = wilson(*_independent(chosen))
        splits[split] = SplitResult(summary=summary, low=low, high=high)
    policy = episodes[0].policy
    result = Evaluation(run=str(run), model=policy.model, revision=policy.revision, splits=splits, general_loss=read_loss(run))
    write_atomic(run / "eval.json", result.model_dump_json(indent=2) + "\n")
    return result


def _independent(episodes: list[Trajectory]) -> tuple[float, int]:
    """Solved and all, with several attempts at a task counted as one: its mean. Attempts at one task are not independent."""
    tasks: dict[str, list[bool]] = {}
    for episode in episodes:
        if episode.outcome.failure is None:
            tasks.setdefault(episode.task.id, []).append(episode.solved)
    return sum(sum(solved) / len(solved) for solved in tasks.values()), len(tasks)


def evaluation_text(result: Evaluation) -> str:
    """One line a split."""
    lines = []
    for split, part in result.splits.items():
        counts = part.summary
        rate = "not measured" if counts.rate is None else f"{counts.rate:.1%} [{part.low:.1%}, {part.high:.1%}]"
        unmeasured = f", {counts.unmeasured} unmeasured" if counts.unmeasured else ""
        lines.append(
            f"{split:8} solved {counts.solved} of {counts.n - counts.unmeasured}: {rate}; "
            f"malformed {counts.malformed_rate:.1%} of {counts.turns} turns{unmeasured}"
        )
    if result.general_loss is not None:
        lines.append(f"loss on held-back general chat: {result.general_loss:.4f} nats a token")
    return "\n".join(lines)


def compare_runs(
    a: Path,
    b: Path,
    *,
    out: Path | None = None,
    report: Path | None = None,
    training: Path | None = None,
    provenance: Path | None = None,
    allow: str = "",
) -> tuple[Comparison, dict[str, Any], RenderableType]:
    """Compare two evaluated runs; write summary and report where asked. Returns comparison, summary and a terminal table."""
    first, second = read_run(a), read_run(b)
    _check_complete(first, a)
    _check_complete(second, b)
    base, tuned = latest_attempts(first.trajectories), latest_attempts(second.trajectories)
    losses = read_loss(a), read_loss(b)
    if (losses[0] is None) != (losses[1] is None):
        raise UserError(f"only one of {a} and {b} has a loss on general chat; evaluate both with --general, or neither")
    general_loss = GeneralLoss(base=losses[0], tuned=losses[1]) if losses[0] is not None and losses[1] is not None else None
    comparison = compare(base, tuned, general_loss=general_loss, allow=[name for name in allow.split(",") if name])
    summary: dict[str, Any] = {
        **(_provenance(provenance) if provenance else {}),
        **summarise(comparison, general_loss),
        "verdict": comparison.verdict.value,
        "reasons": comparison.reasons,
        "runs": {"base": str(a), "tuned": str(b)},
        "versions": {"agentlm-sdk": first.manifest["sdk"], "python": first.manifest["python"]},
    }
    if training:
        summary |= _training(training)
    if out:
        write_atomic(out, json.dumps(summary, indent=2) + "\n")
    if report:
        from agentlm_sdk.report import write_report

        events = training / "events.jsonl" if training else None
        write_report(report, comparison=comparison, base=base, tuned=tuned, summary=summary, training_events=events)
    return comparison, summary, render(comparison)


def card_scores(summary: dict[str, Any]) -> dict[str, str]:
    """The few numbers of a summary that a model card shows."""
    scores = {"verdict against the base model": str(summary["verdict"])}
    for split in ("test", "heldout"):
        if found := summary[split]:
            for side in ("base", "tuned"):
                part = found[side]
                scores[f"{split} tasks solved, {side}"] = f"{part['solved']} of {part['n']}"
                scores[f"{split} malformed replies, {side}"] = f"{part['malformed']} of {part['steps']}"
            scores[f"{split}, exact McNemar p"] = f"{found['mcnemar_p']:.2g}"
    if loss := summary["general_loss"]:
        scores["loss on general chat, base and tuned"] = f"{loss['base']:.4f}, {loss['tuned']:.4f}"
    return scores


def _check_complete(contents: RunContents, run: Path) -> None:
    ended = {(episode.task.id, episode.attempt) for episode in contents.trajectories}
    missing = contents.manifest["tasks"] * contents.manifest["settings"]["attempts"] - len(ended)
    if missing:
        raise UserError(f"{run} lacks {missing} episodes; finish it by `agentlm-sdk runs resume {run}`")


def read_loss(run: Path) -> float | None:
    """The loss on general chat measured with a run, or None. Raises UserError when the file is damaged."""
    path = run / LOSS
    if not path.is_file():
        return None
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["general_loss"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); run the evaluation again") from error


def write_loss(run: Path, loss: float) -> None:
    """Keep the loss on general chat beside the journal, so that a run that is resumed still has it."""
    write_atomic(run / LOSS, json.dumps({"general_loss": loss}) + "\n")


def _provenance(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read --provenance {path}: {error}") from error
    if not isinstance(told, dict):
        raise UserError(f"--provenance {path} must hold one JSON object")
    return told


def _training(folder: Path) -> dict[str, Any]:
    """What the tuned model's own record says of its data: eta in four units, hashes, settings."""
    path = folder / "finetune.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no finetune.json; --training names the folder `agentlm-sdk finetune` wrote")
    record = json.loads(path.read_text(encoding="utf-8"))
    plan = record["plan"]
    ledger = {
        name: plan[name] for name in ("task_families", "dropped", "changed", "held_back", "tokens", "trained_tokens", "hashes")
    }
    return {"training": record, "eta": plan["mix"], "ledger": ledger}
