"""How much of each source: draws samples so that agent data has the share eta in a stated unit, and reports it in four units."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agentlm_sdk.errors import UserError
from trainers.samples import Source

Unit = Literal["samples", "tokens", "trained_tokens"]


@dataclass(frozen=True, slots=True)
class Size:
    """What a sample weighs."""

    tokens: int
    trained_tokens: int

    def units(self, unit: Unit) -> int:
        return {"samples": 1, "tokens": self.tokens, "trained_tokens": self.trained_tokens}[unit]


@dataclass(frozen=True, slots=True)
class Draw:
    """One use of one sample."""

    source: Source
    index: int


class Shares(BaseModel):
    """The agent data's part, in four units."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: float
    tokens: float
    trained_tokens: float
    loss: float
    """Of the gradient: the mean over the optimiser's steps of the agent's part of the learned tokens. A plan knows no steps yet and
    gives the part of all learned tokens."""


class MixReport(BaseModel):
    """What was asked for and what was drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    eta: float
    unit: Unit
    shares: Shares
    draws: dict[Source, int]
    distinct: dict[Source, int]
    """Different samples among the draws."""
    most_repeats: dict[Source, int]
    """How often the most used sample is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixPlan:
    """The draws of each epoch, in random order."""

    epochs: list[list[Draw]]
    report: MixReport


def plan_mix(
    agent: Sequence[Size],
    general: Sequence[Size],
    *,
    eta: float,
    unit: Unit,
    epochs: int,
    max_epochs: int = 4,
    seed: int = 0,
) -> MixPlan:
    """Every agent sample once an epoch, and as much general data as gives the agent data the share `eta` (with eta 0, every general
    sample once an epoch). General samples are drawn in a random order without repeats until all were used; more than `max_epochs`
    uses of one is a UserError, never a quiet repeat."""
    if not 0 <= eta <= 1:
        raise UserError(f"eta is {eta}; it is the agent data's share, from 0 to 1")
    if eta > 0 and not agent:
        raise UserError(f"eta is {eta}, but there is no agent sample to draw")
    if eta < 1 and not general:
        raise UserError(f"eta is {eta}, but there is no general data; name general files, or set eta=1")
    if epochs > max_epochs:
        raise UserError(f"epochs is {epochs}, more than max_epochs {max_epochs} allows one sample to be used; raise max_epochs")
    random_order = random.Random(seed)
    agent_weight = sum(size.units(unit) for size in agent) if eta > 0 else 0
    general_weight = sum(size.units(unit) for size in general)
    per_epoch = agent_weight * (1 - eta) / eta if eta > 0 else float(general_weight)
    if per_epoch * epochs > general_weight * max_epochs:
        total = agent_weight * epochs
        reachable = math.ceil(100 * total / (total + general_weight * max_epochs)) / 100
        raise UserError(
            f"eta={eta} in {unit} over {epochs} epochs needs {per_epoch * epochs:.0f} {unit} of general data; "
            f"{general_weight} used at most {max_epochs} times give less: add general data, raise max_epochs, "
            f"or set eta to {reachable} or more"
        )
    plan: list[list[Draw]] = []
    order: list[int] = []
    drawn = 0
    for epoch in range(1, epochs + 1):
        draws = [Draw("agent", index) for index in range(len(agent))] if eta > 0 else []
        while True:
            if not order:
                order = random_order.sample(range(len(general)), len(general))
            if not order or drawn + general[order[-1]].units(unit) / 2 > per_epoch * epoch:
                break
            index = order.pop()
            drawn += general[index].units(unit)
            draws.append(Draw("general", index))
        random_order.shuffle(draws)
        plan.append(draws)
    return MixPlan(epochs=plan, report=report(plan, agent, general, eta=eta, unit=unit))


def report(plan: Sequence[Sequence[Draw]], agent: Sequence[Size], general: Sequence[Size], *, eta: float, unit: Unit) -> MixReport:
    """What a list of draws amounts to."""
    draws = [draw for epoch in plan for draw in epoch]
    weights = {unit_: _share(draws, agent, general, unit_) for unit_ in ("samples", "tokens", "trained_tokens")}
    uses: dict[Source, dict[int, int]] = {"agent": {}, "general": {}}
    for draw in draws:
        uses[draw.source][draw.index] = uses[draw.source].get(draw.index, 0) + 1
    return MixReport(
        eta=eta,
        unit=unit,
        shares=Shares(**weights, loss=weights["trained_tokens"]),
        draws={source: sum(counts.values()) for source, counts in uses.items()},
        distinct={source: len(counts) for source, counts in uses.items()},
        most_repeats={source: max(counts.values(), default=0) for source, counts in uses.items()},
    )


def _share(draws: Sequence[Draw], agent: Sequence[Size], general: Sequence[Size], unit: Unit) -> float:
    weight: dict[Source, int] = {"agent": 0, "general": 0}
    for draw in draws:
        weight[draw.source] += (agent if draw.source == "agent" else general)[draw.index].units(unit)
    total = weight["agent"] + weight["general"]
    return weight["agent"] / total if total else 0.0
