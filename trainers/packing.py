"""Best-fit-decreasing packing of samples into rows of a fixed length; a sample is never cut."""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Packs:
    """Which samples share a row."""

    packs: list[list[int]]
    """Indexes into the lengths given; every index once."""
    capacity: int
    tokens: int

    @property
    def fill(self) -> float:
        """Part of the room in the rows that holds tokens."""
        return self.tokens / (len(self.packs) * self.capacity) if self.packs else 0.0


def pack(lengths: Sequence[int], capacity: int, *, seed: int = 0) -> Packs:
    """Longest first, each into the fullest row that still has room; the rows then shuffled, since equal lengths end up side by
    side. Raises ValueError for a length that fits in no row."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if not 0 < length <= capacity:
            raise ValueError(f"sample {index} has length {length}; rows hold 1 to {capacity}")
        place = bisect_left(room, (length, -1))
        if place == len(room):
            left, row = capacity, len(rows)
            rows.append([])
        else:
            left, row = room.pop(place)
        rows[row].append(index)
        insort(room, (left - length, row))
    random.Random(seed).shuffle(rows)
    return Packs(packs=rows, capacity=capacity, tokens=sum(lengths))
