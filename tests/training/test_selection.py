"""Borders of TopK and BatchTopK against sorts."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from saedsl.training.joint import Joint
from saedsl.training.selection import (
    batch_border,
    keep,
    nth_largest,
    nth_largest_of_all,
    nth_largest_on_device,
    row_borders,
)

RNG = np.random.default_rng(0)
PRE = RNG.standard_normal((32, 48)).astype(np.float32)
POSITIVE = np.sort(PRE[PRE > 0])[::-1]
ALONE = Joint(None)
COUNTS = [1, 32, 500, POSITIVE.size, 1500]


@pytest.mark.parametrize("hint", [0.0, 0.5, 1.5, 100.0])
@pytest.mark.parametrize("n", COUNTS)
def test_the_border_of_a_batch_is_that_of_a_sort_whatever_the_hint(n: int, hint: float) -> None:
    border = batch_border([mx.array(PRE[:20]), mx.array(PRE[20:])], n, hint, ALONE)
    assert border == POSITIVE[min(n, POSITIVE.size) - 1]
    f, kept = keep(mx.array(PRE), border)
    np.testing.assert_array_equal(np.array(f), np.where(border <= PRE, PRE, 0))
    np.testing.assert_array_equal(np.array(kept), border <= PRE)


@pytest.mark.parametrize("n", COUNTS)
def test_all_ways_to_the_nth_largest_agree_bit_by_bit(n: int) -> None:
    """Values over many orders of magnitude, ties, zeros, infinity and NaN among them."""
    values = (PRE * 10.0 ** RNG.integers(-30, 30, PRE.shape)).astype(np.float32).reshape(-1)
    values[::7] = values[0]
    values[5], values[6], values[8] = np.inf, np.nan, 0
    expected = nth_largest(values, n)
    assert float(np.array(nth_largest_on_device([mx.array(values[:99]), mx.array(values[99:])], n))) == expected
    assert nth_largest_of_all(values[values > 0], n, ALONE) == expected


def test_nothing_positive_keeps_nothing() -> None:
    nothing = np.array([[-1.0, 0.0]], np.float32)
    assert nth_largest(nothing.reshape(-1), 1) == 0
    assert float(np.array(nth_largest_on_device([mx.array(nothing)], 1))) == 0
    assert nth_largest_of_all(nothing[nothing > 0], 1, ALONE) == 0
    assert not any(np.array(part).any() for part in keep(mx.array(nothing), 0.0))


@pytest.mark.parametrize("k", [1, 6, 40, 48, 60])
def test_rows_keep_their_k_largest_positive_entries(k: int) -> None:
    kept = np.array(keep(mx.array(PRE), row_borders(mx.array(PRE), k, ALONE))[0])
    for row, mine in zip(PRE, kept, strict=True):
        border = max(np.sort(row)[::-1][: min(k, 48)][-1], 0)
        np.testing.assert_array_equal(mine, np.where((row >= border) & (row > 0), row, 0))
