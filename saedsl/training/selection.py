"""The border between the features that TopK and BatchTopK keep and those they drop, exactly.

What is positive and not below the border stays; entries exactly equal to it are all kept. Letters in shapes: B tokens,
F features.
"""

from __future__ import annotations

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


def batch_border(pre: mx.array, n: int, hint: float, joint: Joint) -> float:
    """The `n`-th largest positive entry of all of `pre` [B, F], over all processes; the smallest if there are fewer.

    Args:
        pre: this process's pre-activations.
        n: how many entries are to be kept of all processes together, at least 1.
        hint: a guess below the border, e.g. 0.8 of the last one. It saves time and never changes the result.
        joint: the processes.

    Returns:
        0 if no entry is positive.
    """
    if joint.parallel is not None:
        return nth_largest_of_all(np.array(pre).reshape(-1), n, joint)
    if mx.default_device() == mx.Device(mx.cpu):
        return nth_largest(np.array(pre, copy=False).reshape(-1), n, hint)
    return float(np.array(nth_largest_on_device(pre, n)))


def nth_largest(values: np.ndarray, n: int, hint: float) -> float:
    """The `n`-th largest positive entry of `values` [size]; the smallest positive one if there are fewer, 0 if none.

    Only entries above `hint` are partitioned; where that leaves too few, all positive ones are.
    """
    candidates = values[values > max(hint, 0.0)]
    if candidates.size < n and hint > 0:
        candidates = values[values > 0]
    if candidates.size == 0:
        return 0.0
    place = max(candidates.size - n, 0)
    return float(np.partition(candidates, place)[place])


def nth_largest_on_device(values: mx.array, n: int) -> mx.array:
    """`nth_largest` without a copy to the host, for GPUs: 31 counts, each of which halves the range.

    Positive floats are ordered as their bits are as whole numbers, so the range ends at one number exactly.
    """
    bits = values.reshape(-1).view(mx.int32)
    bits = bits * (values.reshape(-1) > 0)  # NaN is not above 0
    n_kept = mx.minimum(n, mx.sum(bits > 0))
    low, high = mx.array(0, mx.int32), mx.array(0x7F800001, mx.int32)  # count(low) >= n_kept > count(high)
    for _ in range(31):
        middle = low + (high - low) // 2
        enough = mx.sum(bits >= middle) >= n_kept
        low, high = mx.where(enough, middle, low), mx.where(enough, high, middle)
    return mx.where(n_kept > 0, low, 0).view(mx.float32)


def nth_largest_of_all(values: np.ndarray, n: int, joint: Joint) -> float:
    """`nth_largest` of the `values` of all processes together, by two histograms of their bits' halves."""
    bits = values[values > 0].astype(np.float32).view(np.uint32)
    upper, n_left = _bin_of((bits >> 16).astype(np.int64), n, joint)
    if upper is None:
        return 0.0
    lower, _ = _bin_of((bits[bits >> 16 == upper] & 0xFFFF).astype(np.int64), n_left, joint)
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
