"""How well scores find what is true, with a floor under which all scores are equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

FLOOR: Final = 1e-3
"""Scores are shares of the whole effect; below this they are rounding and must not rank."""


def auroc(scores: Sequence[float] | np.ndarray, truth: Sequence[bool] | np.ndarray, floor: float = FLOOR) -> float:
    """Probability that |score| of a true edge is above that of a false one; ties count half.

    Args:
        scores: any sign; the absolute value ranks.
        truth: as many.
        floor: what lies below it is 0.

    Returns:
        0 to 1; NaN if all or none are true.
    """
    s, t = _ranked(scores, truth, floor)
    if t.all() or not t.any():
        return float("nan")
    difference = s[t][:, None] - s[~t][None]
    return float(((difference > 0) + (difference == 0) / 2).mean())


def auprc(scores: Sequence[float] | np.ndarray, truth: Sequence[bool] | np.ndarray, floor: float = FLOOR) -> float:
    """Average precision: precision at each score, weighted by the recall gained there; ties enter together.

    Args:
        scores: any sign; the absolute value ranks.
        truth: as many.
        floor: what lies below it is 0.

    Returns:
        0 to 1; NaN if none are true.
    """
    s, t = _ranked(scores, truth, floor)
    if not t.any():
        return float("nan")
    total, found = 0.0, 0
    for value in np.unique(s)[::-1]:
        above = s >= value
        hits = int(t[above].sum())
        total += (hits - found) / t.sum() * hits / above.sum()
        found = hits
    return float(total)


def _ranked(
    scores: Sequence[float] | np.ndarray, truth: Sequence[bool] | np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    s, t = np.abs(np.asarray(scores, np.float64)), np.asarray(truth, bool)
    if s.shape != t.shape or not np.isfinite(s).all():
        raise ValueError(f"{s.size} scores for {t.size} edges, or scores that are not finite")
    return np.where(s < floor, 0.0, s), t
