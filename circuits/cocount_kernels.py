"""Counting which features fire together, in machine code. `saedsl.circuits.cocount_portable` does the same in numpy.

For each feature i, its tokens are followed to the tokens `lag` behind them, and what fires there is counted in an array
of one number a feature j: time goes with the events, memory with the features. Arithmetic is done as it is written, so
that both give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saedsl.circuits.cocount import Found, Rows, Scratch
from saedsl.training.compiled import compiled_as_written

PHI, JACCARD, PMI, NPMI, CONDITIONAL, PEARSON = range(6)
FIRST_ROOM = 1 << 14
"""Pairs that a part is given room for at first."""


@compiled_as_written
def _count(
    i: int, half: bool, valued: bool, span: np.ndarray, start: np.ndarray, tokens: np.ndarray, values: np.ndarray,
    row_features: np.ndarray, row_values: np.ndarray, both: np.ndarray, products: np.ndarray,
) -> None:  # fmt: skip
    """Add to `both` [n] and `products` [n] what fires where i did; of `half`, features above i only.

    Places are unsigned: of signed ones numba looks at each whether it counts from the end.
    """
    for at in range(np.uint64(start[i]), np.uint64(start[i + 1])):
        token = np.uint64(tokens[at])
        first, end = np.uint64(span[token, 0]), np.uint64(span[token, 1])
        if valued:
            x = np.float64(values[at])
            for e in range(first, end):
                j = np.uint64(row_features[e])
                both[j] += np.int32(1)
                products[j] += x * np.float64(row_values[e])
        elif half:
            left: Any = end
            while left > first:
                left -= np.uint64(1)
                if row_features[left] <= i:
                    break
                both[np.uint64(row_features[left])] += np.int32(1)
        else:
            for e in range(first, end):
                both[np.uint64(row_features[e])] += np.int32(1)


@compiled_as_written
def _listed(both: np.ndarray, first: int, least: int, into: np.ndarray) -> int:
    """List which of `both` from `first` on are `least` or more, without a branch; returns how many they are."""
    n = np.uint64(0)
    for j in range(np.uint64(first), np.uint64(len(both))):
        into[n] = j
        n += np.uint64(both[j] >= least)
    return np.int64(n)  # type: ignore[return-value]


@compiled_as_written
def _score(
    measure: int, c: int, product: float, n: int, logs: np.ndarray, count_i: int, count_j: int, sum_i: float,
    sum_j: float, scale_i: float, scale_j: float,
) -> Any:  # fmt: skip
    """`saedsl.circuits.association.associations` of one pair."""
    if measure == PHI:
        return (n * np.float64(c) - sum_i * sum_j) * (scale_i * scale_j)
    if measure == PEARSON:
        return (n * product - sum_i * sum_j) * (scale_i * scale_j)
    if measure == JACCARD:
        return np.float64(c) / np.float64(count_i + count_j - c)
    if measure == CONDITIONAL:
        return np.float64(c) / np.float64(count_i)
    pmi = (logs[c] + logs[n]) - (logs[count_i] + logs[count_j])
    if measure == PMI:
        return pmi
    surprise = logs[n] - logs[c]
    return pmi / surprise if surprise > 0 else 1.0


@compiled_as_written
def _run(
    collect: bool, first: int, last: int, half: bool, within: bool, measure: int, least: int, n: int, scale: float,
    ordered: bool, classes: int, span: np.ndarray,
    start: np.ndarray, tokens: np.ndarray, values: np.ndarray,
    row_features: np.ndarray, row_values: np.ndarray, logs: np.ndarray,
    counts_a: np.ndarray, sums_a: np.ndarray, scales_a: np.ndarray, class_a: np.ndarray,
    counts_b: np.ndarray, sums_b: np.ndarray, scales_b: np.ndarray, class_b: np.ndarray,
    both: np.ndarray, products: np.ndarray, listed: np.ndarray, histogram: np.ndarray, border: np.ndarray,
    out_i: np.ndarray, out_j: np.ndarray, out_both: np.ndarray, out_products: np.ndarray,
) -> int:  # fmt: skip
    """Pairs of the features first .. last: into the histogram, or, to `collect`, those in a bin not below the border.

    Returns:
        How many were collected, or would have been if there had been room.
    """
    valued = measure == PEARSON
    bins, found = histogram.shape[1], 0
    offset = 0 if within else classes * classes
    for i in range(first, last):
        _count(i, half, valued, span, start, tokens, values, row_features, row_values, both, products)
        count_i, sum_i, scale_i, of_i = counts_a[i], sums_a[i], scales_a[i], class_a[i]
        for at in range(_listed(both, i + 1 if half else 0, least, listed)):
            j = np.uint64(listed[at])
            if within and j == i:
                continue
            c, product = both[j], products[j]
            score = _score(
                measure, c, product, n, logs, count_i, counts_b[j], sum_i, sums_b[j], scale_i, scales_b[j]
            )  # fmt: skip
            of_j = class_b[j]
            if ordered or of_i <= of_j:
                stratum = offset + of_i * classes + of_j
            else:
                stratum = offset + of_j * classes + of_i
            place = -1
            if score > 0:
                place = min(int(score * scale), bins - 1)
            if not collect:
                if place >= 0:
                    histogram[stratum, place] += 1
            elif place >= border[stratum]:
                if found < len(out_i):
                    out_i[found] = i
                    out_j[found] = j
                    out_both[found] = c
                    out_products[found] = product
                found += 1
        both[:] = 0
        if valued:
            products[:] = 0.0
    return found


def _arguments(rows: Rows, scratch: Scratch) -> tuple[Any, ...]:
    t, a, b = rows.task, rows.task.a, rows.task.b
    i, j = t.margins_a, t.margins_b
    return (
        rows.first, rows.last, t.halved, t.within, t.measure_code, t.least, t.n, t.scale, t.strata.ordered,
        t.strata.classes, t.span, a.start, a.tokens, a.values, b.row_features, b.row_values, t.logs,
        i.counts, i.sums, i.scales, t.class_a, j.counts, j.sums, j.scales, t.class_b,
        scratch.both[: len(b)], scratch.products[: len(b)], scratch.listed,
    )  # fmt: skip


_RUN: Any = _run
"""Its arguments come as a tuple, which type checkers cannot count."""
_NO_BORDER = np.empty(0, np.int64)


def tally(rows: Rows, scratch: Scratch, histogram: np.ndarray) -> None:
    """See `saedsl.circuits.cocount_portable.tally`."""
    none = Found.room(0)
    _RUN(False, *_arguments(rows, scratch), histogram, _NO_BORDER, none.i, none.j, none.both, none.products)


def collect(rows: Rows, scratch: Scratch, border: np.ndarray, bins: int) -> Found:
    """See `saedsl.circuits.cocount_portable.collect`."""
    empty = np.empty((0, bins), np.int64)
    size = FIRST_ROOM
    while True:
        out = Found.room(size)
        found = _RUN(True, *_arguments(rows, scratch), empty, border, out.i, out.j, out.both, out.products)
        if found <= size:
            return out.cut(found)
        size = found
