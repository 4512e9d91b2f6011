"""The k largest entries of each row, exactly; ties by one rule: what is not below the k-th largest stays."""

from __future__ import annotations

from typing import Final

import mlx.core as mx

GROUP: Final = 8
"""Entries per group in the first stage; measured best on CPU for 1,000 and 4,000 features, k = 16 and 32."""


def kth_largest(x: mx.array, k: int) -> mx.array:
    """The k-th largest entry of each row.

    Two stages: any of the k largest lies in one of the k groups with the largest maxima, and where ties cross
    that border the k chosen groups alone hold k entries that large. So only k * GROUP candidates are
    partitioned.

    Args:
        x: [..., n].
        k: 1 to n.

    Returns:
        [..., 1].
    """
    *lead, n = x.shape
    if n % GROUP == 0 and n // GROUP > k:
        groups = x.reshape(*lead, n // GROUP, GROUP)
        best = mx.argpartition(-groups.max(axis=-1), k - 1, axis=-1)[..., :k]
        x = mx.take_along_axis(groups, best[..., None], axis=-2).reshape(*lead, k * GROUP)
    return -mx.partition(-x, k - 1, axis=-1)[..., k - 1 : k]


def keep_top_k(x: mx.array, k: int) -> mx.array:
    """`x` with everything set to 0 that is not positive or is below its row's k-th largest entry.

    Entries exactly equal to the k-th largest are all kept, so a row can keep more than k.
    """
    x = mx.maximum(x, 0)
    return x * (x >= kth_largest(x, k))  # a product takes a third of the time of mx.where on CPU
