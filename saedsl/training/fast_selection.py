"""TopK and BatchTopK on CPUs: the entries that stay, exactly, in about the time that it takes to read all of them.

The rule is that of `saedsl.training.selection`: what is positive and not below the border stays, ties included. NaN
never stays. Letters in shapes: B tokens, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from saedsl.training.compiled import compiled

GROUP = 16
"""Entries of a row that share one maximum while its largest are looked for."""
SMALLEST = np.float32(np.finfo(np.float32).tiny)
"""The smallest normal number: what is below it does not count as positive."""

Select = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], int]
"""From pre-activations without bias [B, F] and the bias [F] to features, values and counts; see `largest_of_rows`."""


class Guess(NamedTuple):
    """Below what no entry is looked at when BatchTopK's border is sought: it saves time and never changes a result."""

    border: float | None = None
    """Positive; None before the first step."""
    ratio: float = 0.8
    """To the border of the step before."""

    def after(self, border: float, found: float) -> Guess:
        """The next guess, where the `border` was found among `found` times as many entries as were needed."""
        ratio = self.ratio
        if found > 3:
            ratio = min((3 * ratio + 1) / 4, 0.97)
        elif found < 1.5:
            ratio = max(2 * ratio - 1, 0.5)
        return Guess(float(SMALLEST) if found < 1 else max(ratio * border, float(SMALLEST)), ratio)


def largest(k: int) -> Select:
    """`largest_of_rows` for `k`."""
    return lambda pre, bias, *out: largest_of_rows(pre, bias, k, *out)


def above(border: float) -> Select:
    """`above_border` for `border`."""
    return lambda pre, bias, *out: above_border(pre, bias, np.float32(border), *out)


def selected(
    pre: np.ndarray, bias: np.ndarray, room: int, select: Select, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features and values that `select` leaves of `pre` [B, F], and how many of each row in `counts` [B].

    `room` is how many a row is expected to keep; more are right, and slower.
    """
    size = room * len(pre)
    while True:
        features, values = np.empty(size, np.int32), np.empty(size, np.float32)
        found = select(pre, bias, features, values, counts)
        if found <= size:
            return features[:found], values[:found]
        size = found


@compiled
def _kth_largest(values: np.ndarray, n: int, k: int, highest: np.float32, rounds: int) -> np.float32:
    """The `k`-th largest of the first `n` values, or a number below it that as few as possible are between.

    Positive floats are ordered as their bits are as whole numbers, so their range is halved until one is left. There
    is no branch for the processor to guess.

    Args:
        values: [at least n], positive or 0.
        n: see there.
        k: at most `n`.
        highest: the largest of the values.
        rounds: after how many halvings to be content with a number below; 32 are always enough.
    """
    bits = np.empty(1, np.int32)
    number = bits.view(np.float32)
    number[0] = highest
    low, high = 0, bits[0] + 1  # count(low) >= k > count(high)
    for _ in range(rounds):
        if high - low <= 1:
            break
        middle = low + (high - low) // 2
        bits[0] = middle
        least = number[0]
        count = np.float32(0)
        for i in range(n):
            count += np.float32(1) if values[i] >= least else np.float32(0)
        if count >= k:
            low = middle
        else:
            high = middle
    bits[0] = low
    border: np.float32 = number[0]
    return border


@compiled
def _group_maxima(row: np.ndarray, bias: np.ndarray, best: np.ndarray) -> np.float32:
    """Deal the entries of `row + bias` [F] out to groups; `best` [groups] becomes their maxima, 0 at least.

    Entry j is of group `j % groups`. Returns the largest of all.
    """
    groups = len(best)
    best[:] = np.float32(0)
    for start in range(0, len(row), groups):
        part, own = row[start : start + groups], bias[start : start + groups]
        for g in range(len(part)):
            v = part[g] + own[g]
            best[g] = v if v > best[g] else best[g]
    highest = np.float32(0)
    for g in range(groups):
        highest = best[g] if best[g] > highest else highest
    return highest


@compiled
def _not_below(
    row: np.ndarray,
    bias: np.ndarray,
    border: np.float32,
    best: np.ndarray,
    chosen: np.ndarray,
    places: np.ndarray,
    found: np.ndarray,
) -> int:
    """How many entries of `row + bias` [F] are not below `border`; only groups that have one are looked at.

    Args:
        row: [F].
        bias: [F].
        border: positive.
        best: [groups], of `_group_maxima`.
        chosen: [groups + 1] int32, to work in.
        places: [F + 1] int32, becomes which they are, ascending.
        found: [F + 1], becomes the entries.
    """
    n, groups = len(row), len(best)
    n_chosen, count = 0, 0
    for g in range(groups):
        chosen[n_chosen] = g
        n_chosen += best[g] >= border
    for start in range(0, n, groups):
        for i in range(n_chosen):
            j = start + chosen[i]
            if j >= n:
                break
            v = row[j] + bias[j]
            places[count], found[count] = j, v
            count += v >= border
    return count


@compiled
def largest_of_rows(
    pre: np.ndarray, bias: np.ndarray, k: int, features: np.ndarray, values: np.ndarray, counts: np.ndarray
) -> int:
    """TopK of each row of `pre + bias`: what is positive and not below the row's `k`-th largest entry.

    The k-th largest of the groups' maxima is not above that entry, so that only entries that large need a look.

    Args:
        pre: [B, F].
        bias: [F].
        k: at least 1.
        features: [room] int32, becomes the features kept, ascending in each row.
        values: [room] float32, becomes their pre-activations.
        counts: [B] int64, becomes how many each row keeps.

    Returns:
        How many are kept in all; where that is more than there is room for, the call has to be repeated with more.
    """
    n = pre.shape[1]
    groups = min(n, max(n // GROUP, 4 * k))
    best, chosen = np.empty(groups, np.float32), np.empty(groups + 1, np.int32)
    places, found = np.empty(n + 1, np.int32), np.empty(n + 1, np.float32)
    at = 0
    for b in range(len(pre)):
        highest = _group_maxima(pre[b], bias, best)
        border = SMALLEST
        if k <= groups:
            border = max(_kth_largest(best, groups, k, highest, 12), SMALLEST)
        count = _not_below(pre[b], bias, border, best, chosen, places, found)
        if count > k:
            border = max(_kth_largest(found, count, k, highest, 32), SMALLEST)
        first = at
        for i in range(count):
            if found[i] >= border:
                if at < len(features):
                    features[at], values[at] = places[i], found[i]
                at += 1
        counts[b] = at - first
    return at


@compiled
def above_border(
    pre: np.ndarray, bias: np.ndarray, border: np.float32, features: np.ndarray, values: np.ndarray, counts: np.ndarray
) -> int:
    """`largest_of_rows` with one `border` for all rows, positive."""
    n = pre.shape[1]
    groups = max(n // GROUP, 1)
    best, chosen = np.empty(groups, np.float32), np.empty(groups + 1, np.int32)
    places, found = np.empty(n + 1, np.int32), np.empty(n + 1, np.float32)
    at = 0
    for b in range(len(pre)):
        _group_maxima(pre[b], bias, best)
        count = _not_below(pre[b], bias, border, best, chosen, places, found)
        if at + count <= len(features):
            features[at : at + count] = places[:count]
            values[at : at + count] = found[:count]
        counts[b] = count
        at += count
    return at


@compiled
def drop_below(features: np.ndarray, values: np.ndarray, counts: np.ndarray, border: np.float32) -> int:
    """Move the entries that are not below `border` to the front, in place; `counts` follows. How many are left."""
    at, i = 0, 0
    for b in range(len(counts)):
        first, end = at, i + counts[b]
        while i < end:
            if values[i] >= border:
                features[at], values[at] = features[i], values[i]
                at += 1
            i += 1
        counts[b] = at - first
    return at


@compiled
def gather_columns(pre: np.ndarray, bias: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """`out` [B, n] becomes `columns` [n] of `pre + bias`."""
    for b in range(len(pre)):
        for i in range(len(columns)):
            out[b, i] = pre[b, columns[i]] + bias[columns[i]]
