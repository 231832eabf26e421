"""The statistics agree with scipy's, and the sample size gives the power it promises."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from agentlm_sdk.stats import gain_interval, mcnemar_exact, needed_pairs, paired_table, wilson

COUNT = st.integers(0, 400)


def test_mcnemar_and_wilson_agree_with_scipy_on_random_tables() -> None:
    rng = random.Random(7)
    for _ in range(300):
        only_a, only_b = rng.randrange(60), rng.randrange(60)
        if only_a + only_b:
            assert mcnemar_exact(only_a, only_b) == pytest.approx(binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)
        n = rng.randrange(1, 500)
        solved, confidence = rng.randrange(n + 1), rng.choice([0.8, 0.95, 0.99])
        wanted = binomtest(solved, n).proportion_ci(confidence, method="wilson")
        assert wilson(solved, n, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@given(COUNT, COUNT)
def test_mcnemar_is_a_probability_symmetric_and_scipys(only_a: int, only_b: int) -> None:
    p = mcnemar_exact(only_a, only_b)
    assert 0 < p <= 1
    assert p == mcnemar_exact(only_b, only_a)
    if only_a + only_b:
        assert p == pytest.approx(binomtest(only_a, only_a + only_b).pvalue, rel=1e-7)


@given(st.data(), st.integers(1, 2000))
def test_wilson_holds_the_rate_and_mirrors(data: st.DataObject, n: int) -> None:
    solved = data.draw(st.integers(0, n))
    low, high = wilson(solved, n)
    assert 0 <= low <= solved / n <= high <= 1
    mirrored = wilson(n - solved, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_known_values() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 5) == 2 / 32
    assert mcnemar_exact(0, 6) == 2 / 64
    assert mcnemar_exact(0, 3000) == 0.0
    assert mcnemar_exact(20_000, 20_000) == 1.0
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_the_table_counts_each_pair_once(pairs: list[tuple[bool, bool]]) -> None:
    table = paired_table(pairs)
    assert table.n == len(pairs)
    assert table.both + table.only_a == sum(a for a, _ in pairs)
    assert table.both + table.only_b == sum(b for _, b in pairs)


def test_gain_interval_is_agresti_and_mins() -> None:
    gains = [1.0] * 8 + [-1.0] * 2 + [0.0] * 30
    b, c, n = 2.5, 8.5, 42  # half a pair in each cell of the table
    reach = 1.959963984540054 * ((b + c) - (c - b) ** 2 / n) ** 0.5 / n
    assert gain_interval(gains) == pytest.approx(((c - b) / n - reach, (c - b) / n + reach), abs=1e-12)


def test_gain_interval_covers_the_true_gain_about_as_often_as_it_says() -> None:
    rng = random.Random(3)
    hits = 0
    for _ in range(2000):
        gains = rng.choices([1.0, -1.0, 0.0], weights=[0.25, 0.10, 0.65], k=50)
        low, high = gain_interval(gains)
        hits += low <= 0.15 <= high
    assert 0.935 <= hits / 2000 <= 0.985


@pytest.mark.parametrize(("gain", "discordant"), [(0.1, 0.2), (0.2, 0.4), (0.15, 0.25), (-0.3, 0.5), (0.25, 0.6)])
def test_needed_pairs_gives_about_the_promised_power(gain: float, discordant: float) -> None:
    n = needed_pairs(gain, discordant)
    share = (discordant + abs(gain)) / 2 / discordant
    power = 0.0
    for changed in range(n + 1):
        rejected = sum(binom.pmf(k, changed, share) for k in range(changed + 1) if mcnemar_exact(changed - k, k) < 0.05)
        power += binom.pmf(changed, n, discordant) * rejected
    assert 0.72 <= power <= 0.86


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gain 0\.3 and discordant 0.1"):
        needed_pairs(0.3, 0.1)
    with pytest.raises(ValueError, match="3 solved of 2"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="confidence 95"):
        wilson(1, 2, 95)
    with pytest.raises(ValueError, match="below zero"):
        mcnemar_exact(-1, 2)
