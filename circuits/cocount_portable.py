"""Counting which features fire together, in numpy: where numba is not installed, and what its kernels are held against.

A block of features i at a time, every event of it is listed and counted: slower, and with more memory a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from saedsl.circuits.association import associations
from saedsl.circuits.cocount import Found, Rows, Scratch
from saedsl.circuits.shiftnull import bins_of

EVENTS = 1 << 20
"""Events, or cells of the table of counts, of one block."""


def tally(rows: Rows, scratch: Scratch, histogram: np.ndarray) -> None:
    """Add the pairs of some features i to a histogram of their scores.

    Args:
        rows: which.
        scratch: arrays that the work may use.
        histogram: [strata, bins] int64, changed in place. Scores that are not above 0 have no bin.
    """
    for _, strata, places in _scored(rows):
        positive = places >= 0
        np.add.at(histogram, (strata[positive], places[positive]), 1)


def collect(rows: Rows, scratch: Scratch, border: np.ndarray, bins: int) -> Found:
    """The pairs of some features i whose score is in a bin that is not below the border of their stratum.

    Args:
        rows: which.
        scratch: arrays that the work may use.
        border: [strata] int64; -1 takes every pair, whatever its score.
        bins: how many there are.
    """
    parts = [found.where(places >= border[strata]) for found, strata, places in _scored(rows)]
    return Found.joined(parts)


def _scored(rows: Rows) -> Iterator[tuple[Found, np.ndarray, np.ndarray]]:
    """(pairs, their strata, their bins), block by block."""
    t = rows.task
    for found in _blocks(rows):
        i, j = t.margins_a[found.i], t.margins_b[found.j]
        scores = associations(t.measure, found.both, found.products, i, j, t.n, t.logs)
        strata = t.strata.of(t.within, t.class_a[found.i], t.class_b[found.j])
        yield found, strata, bins_of(scores, t.top)


def _blocks(rows: Rows) -> Iterator[Found]:
    t, a, b = rows.task, rows.task.a, rows.task.b
    size = len(b)
    step = max(1, EVENTS // max(size, 1))
    events = np.diff(a.start) * max(1, int(np.diff(b.row_start).max(initial=0)))
    first = rows.first
    while first < rows.last and size:
        last = first + 1
        while last < min(rows.last, first + step) and events[first : last + 1].sum() <= EVENTS:
            last += 1
        at = np.arange(a.start[first], a.start[last])
        u = t.to[a.tokens[at]].astype(np.int64)
        at, u = at[u >= 0], u[u >= 0]
        n = b.row_start[u + 1] - b.row_start[u]
        events_at = np.repeat(b.row_start[u] - (np.cumsum(n) - n), n) + np.arange(int(n.sum()))
        i = np.repeat(np.searchsorted(a.start, at, side="right") - 1 - first, n)
        key = i * size + b.row_features[events_at]
        both: np.ndarray = np.bincount(key, minlength=(last - first) * size)
        products: np.ndarray = np.zeros(len(both))
        if t.measure == "pearson":
            weights = np.repeat(a.values[at].astype(np.float64), n) * b.row_values[events_at].astype(np.float64)
            products = np.bincount(key, weights=weights, minlength=len(both))
        cells = np.flatnonzero(both >= max(t.least, 1))
        found_i, found_j = cells // size + first, cells % size
        fine = found_j > found_i if t.halved else found_j != found_i if t.within else np.ones(len(cells), bool)
        cells = cells[fine]
        yield Found(found_i[fine].astype(np.int32), found_j[fine].astype(np.int32), both[cells], products[cells])
        first = last
