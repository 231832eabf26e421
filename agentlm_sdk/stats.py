"""The statistics behind a comparison: intervals, the exact paired test, and how many tasks a verdict needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTable:
    """Pass and fail of two models on the same tasks."""

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    neither: int = 0

    @property
    def n(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither


def paired_table(pairs: Iterable[tuple[bool, bool]]) -> PairedTable:
    """Count pairs of (a solved it, b solved it)."""
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for a, b in pairs:
        counts[a, b] += 1
    return PairedTable(
        both=counts[True, True], only_a=counts[True, False], only_b=counts[False, True], neither=counts[False, False]
    )


def wilson(solved: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1) when nothing was measured. A mean of several attempts a task
    may make `solved` a fraction.

    Wilson (1927), J. Am. Stat. Assoc. 22, 209-212.
    """
    if not 0 <= solved <= n:
        raise ValueError(f"{solved} solved of {n}")
    if n == 0:
        return 0.0, 1.0
    z = _z(confidence)
    centre = solved + z * z / 2
    reach = z * sqrt(solved * (n - solved) / n + z * z / 4)
    low, high = (centre - reach) / (n + z * z), (centre + reach) / (n + z * z)
    return (0.0 if solved == 0 else low), (1.0 if solved == n else high)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p that a fair coin splits the tasks only one model solved at least this unevenly; 1 when there is none.

    McNemar's test by the exact binomial distribution: McNemar (1947), Psychometrika 12, 153-157.
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(f"counts below zero: {only_a}, {only_b}")
    n = only_a + only_b
    tail = ways = 1
    for k in range(1, min(only_a, only_b) + 1):
        ways = ways * (n - k + 1) // k
        tail += ways
    return min(1.0, 2 * tail / (1 << n))


def gain_interval(gains: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean gain of b over a, from one number per task: b's rate less a's, between -1 and 1.

    With one attempt a task it is the adjusted Wald interval of Agresti and Min (2005), Stat. Med. 24, 729-740: half a
    task is added to each cell of the paired table, so the interval stays honest where no task, or every task, changed.
    """
    n = len(gains) + 2
    mean = sum(gains) / n
    reach = _z(confidence) * sqrt(max(0.0, (sum(g * g for g in gains) + 1) / n - mean * mean) / n)
    return max(-1.0, mean - reach), min(1.0, mean + reach)


def needed_pairs(gain: float, discordant: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Tasks a paired comparison needs to see `gain` (difference of the rates) when `discordant` is the share of tasks
    that only one of the models solves.

    n = (z[1-alpha/2] * sqrt(d) + z[power] * sqrt(d - g^2))^2 / g^2: Connor (1987), Biometrics 43, 207-211. A normal
    approximation: the exact test needs a few tasks more.
    """
    if not 0 < abs(gain) <= discordant <= 1:
        raise ValueError(f"wanted 0 < |gain| <= discordant <= 1, got gain {gain} and discordant {discordant}")
    deviation = _z_one_sided(1 - alpha / 2) * sqrt(discordant) + _z_one_sided(power) * sqrt(discordant - gain * gain)
    return ceil(deviation**2 / gain**2)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return _z_one_sided((1 + confidence) / 2)


def _z_one_sided(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
