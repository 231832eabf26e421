"""Every sample is in exactly one row, no row is too full, and little room is wasted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.packing import pack

CAPACITY = 64
lengths_of_samples = st.lists(st.integers(1, CAPACITY), max_size=200)


@given(lengths_of_samples, st.integers(0, 3))
def test_each_sample_once_and_no_row_too_full(lengths: list[int], seed: int) -> None:
    packs = pack(lengths, CAPACITY, seed=seed)
    assert sorted(index for row in packs.packs for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= CAPACITY for row in packs.packs)
    assert 0 <= packs.fill <= 1


@given(lengths_of_samples)
def test_never_two_rows_that_are_at_most_half_full(lengths: list[int]) -> None:
    packs = pack(lengths, CAPACITY)
    assert len(packs.packs) * CAPACITY >= sum(lengths)
    assert sum(sum(lengths[i] for i in row) * 2 <= CAPACITY for row in packs.packs) <= 1


def test_best_fit_fills_exactly_where_it_can() -> None:
    packs = pack([40, 30, 24, 34, 20, 44], CAPACITY)
    assert sorted(sorted(row) for row in packs.packs) == [[0, 2], [1, 3], [4, 5]]
    assert packs.fill == 1.0


def test_the_order_of_rows_comes_from_the_seed() -> None:
    lengths = [60] * 20
    assert pack(lengths, CAPACITY, seed=1).packs == pack(lengths, CAPACITY, seed=1).packs
    assert pack(lengths, CAPACITY, seed=1).packs != pack(lengths, CAPACITY, seed=2).packs


@pytest.mark.parametrize("length", [0, CAPACITY + 1])
def test_a_length_that_fits_no_row_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match="sample 1 has length"):
        pack([3, length], CAPACITY)
