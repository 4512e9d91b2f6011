"""Rank statistics with bootstrap intervals: Spearman's correlation and precision among the first k."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ranks(x: np.ndarray) -> np.ndarray:
    """[n] float64: ranks from 0, ties at their mean."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse])


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; NaN of fewer than two values, or where one of the two never varies."""
    if len(x) < 2:
        return float("nan")
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else float("nan")


def precision(x: np.ndarray, good: np.ndarray, k: int) -> float:
    """The share of `good` among the k largest of `x`; of those that tie at the end, their mean share.

    NaN if there are fewer than k.
    """
    if len(x) < k or k < 1:
        return float("nan")
    border = np.sort(x)[-k]
    above, ties = x > border, x == border
    return float((good[above].sum() + (k - above.sum()) * good[ties].mean()) / k)


def bootstrap(
    statistic: Callable[[np.ndarray], float], clusters: np.ndarray, rounds: int = 1000, seed: int = 0
) -> Estimate:
    """A statistic of numbered items with its interval, by drawing whole clusters with replacement.

    Args:
        statistic: of [m] item numbers, some of them repeated.
        clusters: [n] int, the cluster of each item: items that share one are not independent.
        rounds: how often is drawn.
        seed: of the draws.
    """
    members = [np.flatnonzero(clusters == c) for c in np.unique(clusters)]
    value = statistic(np.arange(len(clusters)))
    rng = np.random.default_rng(seed)
    drawn = [
        statistic(np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))]))
        for _ in range(rounds if members else 0)
    ]
    fine = np.array([d for d in drawn if d == d])
    if not len(fine):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(fine, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
