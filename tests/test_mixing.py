"""eta is met in the unit it is stated in, repeats are even and capped, and the four units are what was drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlm_sdk.errors import UserError
from trainers.mixing import Size, Unit, plan_mix

AGENT = [Size(1400, 280)] * 10
CHAT = [Size(700, 490)] * 200
UNITS: list[Unit] = ["samples", "tokens", "trained_tokens"]


@pytest.mark.parametrize("unit", UNITS)
def test_eta_is_met_in_its_unit_and_only_there(unit: Unit) -> None:
    shares = plan_mix(AGENT, CHAT, eta=0.2, unit=unit, epochs=2, seed=3).report.shares.model_dump()
    assert shares[unit] == pytest.approx(0.2, abs=0.01)
    assert [name for name in UNITS if abs(shares[name] - 0.2) < 0.03] == [unit]


def test_four_units_of_a_plan_worked_out_by_hand() -> None:
    report = plan_mix(AGENT, CHAT, eta=0.2, unit="samples", epochs=1).report
    assert report.draws == {"agent": 10, "general": 40}
    assert report.shares.samples == 0.2
    assert report.shares.tokens == pytest.approx(14_000 / (14_000 + 28_000))
    assert report.shares.trained_tokens == report.shares.loss == pytest.approx(2_800 / (2_800 + 19_600))


def test_every_agent_sample_is_used_once_an_epoch() -> None:
    plan = plan_mix(AGENT, CHAT, eta=0.2, unit="tokens", epochs=3)
    for epoch in plan.epochs:
        assert sorted(draw.index for draw in epoch if draw.source == "agent") == list(range(10))


sizes = st.lists(st.builds(Size, st.integers(50, 500), st.integers(1, 50)), min_size=5, max_size=40)


@given(sizes, sizes, st.floats(0.05, 0.95), st.sampled_from(UNITS), st.integers(1, 3), st.integers(0, 5))
def test_off_by_at_most_half_a_sample_and_repeats_are_even(
    agent: list[Size], chat: list[Size], eta: float, unit: Unit, epochs: int, seed: int
) -> None:
    try:
        plan = plan_mix(agent, chat, eta=eta, unit=unit, epochs=epochs, seed=seed)
    except UserError:
        return
    drawn = sum(chat[draw.index].units(unit) for epoch in plan.epochs for draw in epoch if draw.source == "general")
    wanted = sum(size.units(unit) for size in agent) * epochs * (1 - eta) / eta
    assert abs(drawn - wanted) <= max(size.units(unit) for size in chat) / 2 + 1e-6
    uses = [0] * len(chat)
    for epoch in plan.epochs:
        for draw in epoch:
            if draw.source == "general":
                uses[draw.index] += 1
    assert max(uses) - min(uses) <= 1
    assert max(uses) == plan.report.most_repeats["general"] <= 4


def test_eta_zero_and_one_use_one_source() -> None:
    only_chat = plan_mix([], CHAT, eta=0, unit="tokens", epochs=2)
    assert only_chat.report.draws == {"agent": 0, "general": 400}
    only_agent = plan_mix(AGENT, [], eta=1, unit="tokens", epochs=2)
    assert only_agent.report.draws == {"agent": 20, "general": 0}
    assert only_agent.report.shares.loss == 1.0


def test_too_little_general_data_is_refused_with_what_would_do() -> None:
    with pytest.raises(UserError, match=r"set eta to 0\.34 or more"):
        plan_mix(AGENT, CHAT[:5], eta=0.2, unit="samples", epochs=1, max_epochs=4)
    plan_mix(AGENT, CHAT[:5], eta=0.34, unit="samples", epochs=1, max_epochs=4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eta": 1.5}, "from 0 to 1"),
        ({"agent": []}, "no agent sample"),
        ({"general": []}, "no general data"),
        ({"epochs": 5}, "max_epochs 4"),
    ],
)
def test_what_cannot_be_mixed_is_said(change: dict[str, object], words: str) -> None:
    asked = {"agent": AGENT, "general": CHAT, "eta": 0.2, "unit": "samples", "epochs": 1, **change}
    with pytest.raises(UserError, match=words):
        plan_mix(asked.pop("agent"), asked.pop("general"), **asked)  # type: ignore[arg-type]
