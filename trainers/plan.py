"""Everything of a fine-tuning run that needs no torch: read, render, audit, mix, pack. A laptop can make and check a plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from agentlm_sdk.errors import UserError
from agentlm_sdk.record import Trajectory
from trainers.audit import AuditReport, LoggedAgreement, audit, compare_logged
from trainers.config import FinetuneConfig
from trainers.curate import CURATED, read_curated
from trainers.general import read_general, split_held_back
from trainers.mixing import MixReport, Size, plan_mix
from trainers.packing import pack
from trainers.rendering import IGNORED, Renderer, load_renderer
from trainers.samples import Conversation, Prepared, Sample, Source, from_trajectory, prepare


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One pack as the trainer takes it: samples one after another, none of which sees the others."""

    ids: list[int]
    labels: list[int]
    lengths: list[int]
    """Of each sample in the row."""
    sources: list[Source]
    """Of each sample in the row."""

    def trained(self, source: Source | None = None) -> int:
        """Learned tokens, of one source or of both."""
        total = start = 0
        for length, of in zip(self.lengths, self.sources, strict=True):
            if source in (None, of):
                total += sum(label != IGNORED for label in self.labels[start : start + length])
            start += length
        return total


class PlanReport(BaseModel):
    """What a run will do, before it does it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    """Name of the base model's folder."""
    family: str
    """The chat format the base model's template belongs to."""
    template_hash: str
    hashes: dict[str, str]
    """File -> SHA-256, of the curated set and each general file."""
    suites: list[str]
    task_families: dict[str, int]
    """Curated episodes by task family."""
    dropped: dict[str, int]
    """`source: reason` -> records left out. With the samples they make up all records read."""
    changed: dict[str, int]
    """Turns of general chat that were left out, joined or trimmed, by reason."""
    held_back: int
    audit: AuditReport
    logged: LoggedAgreement
    mix: MixReport
    packs: int
    fill: float
    steps: int
    tokens: int
    """Over all epochs."""
    trained_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    rows: list[Row]
    """In training order; `batch_packs` of them are one step."""
    examples: list[Conversation]
    """One sample of each source, to check a saved tokenizer with."""
    held_back: list[Conversation]
    renderer: Renderer
    report: PlanReport


def plan_finetune(config: FinetuneConfig) -> Plan:
    """Read the data, render and audit every sample, draw the mixture and pack it. Raises UserError, AuditError for a wrong mask."""
    renderer = load_renderer(config.base)
    trajectories, hashes = _agent(config)
    general = read_general(config.general)
    hashes |= {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in config.general}
    agent_part = prepare(
        map(from_trajectory, trajectories), renderer, max_length=config.pack_length, over_length=config.over_length
    )
    general_part = prepare(general.records, renderer, max_length=config.pack_length, over_length=config.general_over_length)
    chat, held_back = _hold_back(general_part, config)
    audit_report = audit([*agent_part.samples, *chat], renderer)
    mix = plan_mix(
        _sizes(agent_part.samples),
        _sizes(chat),
        eta=config.eta,
        unit=config.eta_unit,
        epochs=config.epochs,
        max_epochs=config.max_epochs,
        seed=config.seed,
    )
    of: dict[Source, Sequence[Sample]] = {"agent": agent_part.samples, "general": chat}
    epochs = [[of[draw.source][draw.index] for draw in epoch] for epoch in mix.epochs]
    packed = [
        pack([sample.tokens for sample in epoch], config.pack_length, seed=config.seed + number)
        for number, epoch in enumerate(epochs)
    ]
    rows = [as_row([epoch[i] for i in members]) for epoch, packs in zip(epochs, packed, strict=True) for members in packs.packs]
    dropped = {f"general: {reason}": count for reason, count in general.dropped.items()}
    for name, part in (("agent", agent_part), ("general", general_part)):
        dropped |= {f"{name}: {reason}": len(ids) for reason, ids in part.dropped.items() if ids}
    tokens = sum(len(row.ids) for row in rows)
    report = PlanReport(
        base=config.base.resolve().name,
        family=renderer.family.name,
        template_hash=renderer.template_hash,
        hashes=hashes,
        suites=sorted({t.task.suite for t in trajectories if t.task.suite}),
        task_families={f: sum(t.task.family == f for t in trajectories) for f in sorted({t.task.family for t in trajectories})},
        dropped=dropped,
        changed={reason: count for reason, count in general.changed.items() if count},
        held_back=len(held_back),
        audit=audit_report,
        logged=compare_logged(trajectories, renderer),
        mix=mix.report.model_copy(
            update={"shares": mix.report.shares.model_copy(update={"loss": loss_share(rows, config.batch_packs)})}
        ),
        packs=len(rows),
        fill=tokens / (len(rows) * config.pack_length),
        steps=-(-len(rows) // config.batch_packs),
        tokens=tokens,
        trained_tokens=sum(row.trained() for row in rows),
    )
    examples = [samples[0].conversation for samples in of.values() if samples]
    return Plan(rows=rows, examples=examples, held_back=held_back, renderer=renderer, report=report)


def as_row(samples: Sequence[Sample]) -> Row:
    return Row(
        ids=list(chain.from_iterable(sample.rendered.ids for sample in samples)),
        labels=list(chain.from_iterable(sample.rendered.labels for sample in samples)),
        lengths=[sample.tokens for sample in samples],
        sources=[sample.conversation.source for sample in samples],
    )


def loss_share(rows: Sequence[Row], batch_packs: int) -> float:
    """The agent data's part of the gradient: each step counts the same, whatever it learns from."""
    steps = [rows[start : start + batch_packs] for start in range(0, len(rows), batch_packs)]
    shares = [sum(row.trained("agent") for row in step) / sum(row.trained() for row in step) for step in steps]
    return sum(shares) / len(shares)


def _agent(config: FinetuneConfig) -> tuple[list[Trajectory], dict[str, str]]:
    if config.agent is None:
        return [], {}
    trajectories, digest = read_curated(config.agent)
    return trajectories, {str(config.agent / CURATED): digest}


def _hold_back(general: Prepared, config: FinetuneConfig) -> tuple[list[Sample], list[Conversation]]:
    """Held-back records come from those that fit a pack, so that they are of the kind that is trained on."""
    if not general.samples or not config.general_held_back:
        return general.samples, []
    if config.general_held_back >= len(general.samples):
        raise UserError(
            f"general_held_back is {config.general_held_back}, but only {len(general.samples)} general records fit a pack of "
            f"{config.pack_length} tokens; hold fewer back or add general data"
        )
    _, held = split_held_back([sample.conversation for sample in general.samples], config.general_held_back, seed=config.seed)
    ids = {record.id for record in held}
    return [sample for sample in general.samples if sample.conversation.id not in ids], held


def _sizes(samples: Sequence[Sample]) -> list[Size]:
    return [Size(sample.tokens, sample.trained_tokens) for sample in samples]


def write_held_back(path: Path, records: Sequence[Conversation]) -> None:
    """Held-back records as JSON lines in the OpenAI layout, which `read_general` reads."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            messages = [message.model_dump(include={"role", "content", "loss"}) for message in record.messages]
            file.write(json.dumps({"messages": messages}) + "\n")
