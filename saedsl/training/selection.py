"""The border between the features that TopK and BatchTopK keep and those they drop, exactly.

What is positive and not below the border stays; entries exactly equal to it are all kept. Letters in shapes: B tokens,
F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from saedsl.sae.topk import kth_largest
from saedsl.training.joint import Joint

SMALLEST = float(np.finfo(np.float32).tiny)
"""The smallest normal number: what is below it does not count as positive."""


def keep(pre: mx.array, border: mx.array | float) -> tuple[mx.array, mx.array]:
    """`pre` [B, F] with 0 where it is not positive or below `border`, and where it is not: bool. NaN stays NaN."""
    kept = pre >= mx.maximum(border, SMALLEST)
    return pre * kept, kept  # a product takes a third of the time of mx.where on CPU


def row_borders(pre: mx.array, k: int, joint: Joint) -> mx.array:
    """[B, 1]: the `k`-th largest positive entry of each row of `pre` [B, F] in all processes; 0 if there are fewer."""
    if joint.by_latents:
        best = -mx.partition(-pre, k - 1, axis=1)[:, :k] if k < pre.shape[1] else pre
        best = mx.pad(best, [(0, 0), (0, k - best.shape[1])])  # as wide in every process
        pre = mx.concatenate([mx.array(part) for part in joint.gather(best)], axis=1)
    if k >= pre.shape[1]:
        return mx.zeros((pre.shape[0], 1))
    return mx.maximum(kth_largest(pre, k), 0)


def batch_border(parts: Sequence[mx.array], n: int, hint: float, joint: Joint) -> float:
    """The `n`-th largest positive entry of a batch's pre-activations, over all processes; the smallest if there are
    fewer.

    Args:
        parts: [R, F] each, this process's pre-activations.
        n: how many entries are to be kept of all processes together, at least 1.
        hint: a guess below the border, e.g. 0.8 of the last one. It saves time and never changes the result.
        joint: the processes.

    Returns:
        0 if no entry is positive.
    """
    if joint.parallel is None and mx.default_device() != mx.Device(mx.cpu):
        return float(np.array(nth_largest_on_device(parts, n)))
    arrays = [np.array(part, copy=False) for part in parts]
    if joint.parallel is not None:
        return nth_largest_of_all(np.concatenate([a[a > 0] for a in arrays]), n, joint)
    candidates = np.concatenate([a[a > max(hint, 0.0)] for a in arrays])
    if candidates.size < n and hint > 0:
        candidates = np.concatenate([a[a > 0] for a in arrays])
    return _nth_largest(candidates, n)


def nth_largest(values: np.ndarray, n: int) -> float:
    """The `n`-th largest positive entry of `values` [size]; the smallest positive one if there are fewer, 0 if none."""
    return _nth_largest(values[values > 0], n)


def _nth_largest(positive: np.ndarray, n: int) -> float:
    """`nth_largest` of `positive` [size], which is reordered."""
    if positive.size == 0:
        return 0.0
    place = max(positive.size - n, 0)
    positive.partition(place)
    return float(positive[place])


def nth_largest_on_device(parts: Sequence[mx.array], n: int) -> mx.array:
    """The `n`-th largest positive entry of `parts`, as `batch_border`, without a copy to the host, for GPUs: 31 counts,
    each of which halves the range.

    Positive floats are ordered as their bits are as whole numbers, so the range ends at one number exactly.
    """
    infinity = 0x7F800000
    bits = [part.reshape(-1).view(mx.int32) for part in parts]

    def count(least: mx.array) -> mx.array:
        """How many entries are `least` or more, which is above 0; NaN is none of them."""
        return sum((mx.sum((b >= least) & (b <= infinity)) for b in bits), start=mx.array(0))

    n_kept = mx.minimum(n, count(mx.array(1, mx.int32)))
    low, high = mx.array(0, mx.int32), mx.array(infinity + 1, mx.int32)  # count(low) >= n_kept > count(high)
    for _ in range(31):
        middle = low + (high - low) // 2
        enough = count(middle) >= n_kept
        low, high = mx.where(enough, middle, low), mx.where(enough, high, middle)
        mx.eval(low, high)
    return mx.where(n_kept > 0, low, 0).view(mx.float32)


def nth_largest_of_all(values: np.ndarray, n: int, joint: Joint) -> float:
    """`nth_largest` of the float32 `values` of all processes together, by two histograms of their bits' halves."""
    bits = values.view(np.uint32)
    upper, n_left = _bin_of(bits >> 16, n, joint)
    if upper is None:
        return 0.0
    lower, _ = _bin_of(bits[bits >> 16 == upper] & 0xFFFF, n_left, joint)
    assert lower is not None
    return float(np.array(upper << 16 | lower, np.uint32).view(np.float32))


def _bin_of(values: np.ndarray, n: int, joint: Joint) -> tuple[int | None, int]:
    """The `n`-th largest of all processes' `values`, below 2^16, and its rank among those equal to it.

    The smallest if there are fewer than `n`; None if there are none.
    """
    above = joint.totals(np.bincount(values, minlength=1 << 16))[::-1].cumsum()[::-1]  # how many are not below
    if above[0] == 0:
        return None, 0
    place = int(np.flatnonzero(above >= min(n, above[0]))[-1])
    return place, int(min(n, above[0]) - (above[place + 1] if place + 1 < len(above) else 0))
