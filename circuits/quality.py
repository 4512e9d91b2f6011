"""How good a circuit is, in numbers: faithfulness, areas under its curve, agreement of scores. No mlx here.

The definitions of Marks et al. 2024 (arXiv:2403.19647) and Mueller et al. 2025 (MIB, arXiv:2504.13151).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from saedsl.circuits.rankstats import Estimate, bootstrap, ranks, spearman
from saedsl.errors import CircuitError

SHARES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Sizes of circuits along a curve, as shares of all nodes."""

__all__ = [
    "SHARES", "Estimate", "agreement", "cmd", "cpr", "faithfulness", "faithfulness_estimate", "overlap", "sizes",
]  # fmt: skip


def faithfulness(circuit: float, nothing: float, whole: float) -> float:
    """(m(C) - m(0)) / (m(M) - m(0)), of means over the prompts.

    Raises:
        CircuitError: if the metric does not change when everything is ablated, or a number is not finite.
    """
    if not all(map(math.isfinite, (circuit, nothing, whole))):
        raise CircuitError(f"faithfulness of numbers that are not finite: m(C) {circuit}, m(0) {nothing}, m(M) {whole}")
    span = whole - nothing
    if abs(span) <= 1e-6 * max(abs(whole), abs(nothing), 1e-30):
        raise CircuitError(
            f"the metric is {whole:g} with and without the dictionaries' nodes: it does not depend on them, so no "
            "circuit of them is faithful or not; choose other sites, another metric or another ablation"
        )
    return (circuit - nothing) / span


def faithfulness_estimate(
    circuit: np.ndarray, nothing: np.ndarray, whole: np.ndarray, rounds: int = 1000, seed: int = 0
) -> Estimate:
    """Faithfulness with its 95 % interval, by drawing prompts with replacement.

    Args:
        circuit: [prompts] m(C)
        nothing: [prompts] m(0)
        whole: [prompts] m(M)
        rounds: how often is drawn.
        seed: of the draws.
    """

    def of(rows: np.ndarray) -> float:
        c, n, w = (float(x[rows].mean(dtype=np.float64)) for x in (circuit, nothing, whole))
        return (c - n) / (w - n) if w != n else float("nan")

    value = faithfulness(*(float(x.mean(dtype=np.float64)) for x in (circuit, nothing, whole)))
    found = bootstrap(of, np.arange(len(whole)), rounds, seed)
    return Estimate(value, found.low, found.high)


def sizes(n: int, shares: Sequence[float] = SHARES) -> list[int]:
    """Numbers of nodes that these shares of n are; at least 1.

    >>> sizes(50, (0.01, 0.5, 1.0))
    [1, 25, 50]
    """
    return [min(n, max(1, round(share * n))) for share in shares]


def cpr(curve: Sequence[float], shares: Sequence[float] = SHARES) -> float:
    """Integral of faithfulness over the share of nodes, by trapezoids: more is better, and above 1 can be had."""
    return float(np.trapezoid(np.asarray(curve, np.float64), np.asarray(shares)))


def cmd(curve: Sequence[float], shares: Sequence[float] = SHARES) -> float:
    """Integral of |1 - faithfulness| over the share of nodes, by trapezoids: 0 is perfect."""
    return float(np.trapezoid(np.abs(1 - np.asarray(curve, np.float64)), np.asarray(shares)))


def overlap(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """The share of the k items with the largest |a| that are among the k with the largest |b|; ties by place."""
    first, second = (set(np.argsort(-np.abs(x), kind="stable")[:k].tolist()) for x in (a, b))
    return len(first & second) / k


def agreement(fast: np.ndarray, exact: np.ndarray, k: int, seed: int = 0) -> tuple[Estimate, Estimate]:
    """(Spearman, top-k overlap) of two scores of the same nodes, with 95 % intervals by drawing nodes.

    Raises:
        CircuitError: if there are fewer than k nodes, or either never varies.
    """
    if len(fast) != len(exact) or not 1 <= k <= len(fast):
        raise CircuitError(f"agreement among {len(fast)} and {len(exact)} nodes, the first {k}: there are too few")
    if len(np.unique(ranks(fast))) < 2 or len(np.unique(ranks(exact))) < 2:
        raise CircuitError("agreement of scores that are all the same says nothing")
    each = np.arange(len(fast))
    drawn = bootstrap(lambda i: spearman(fast[i], exact[i]), each, 500, seed)
    some = bootstrap(lambda i: overlap(fast[i], exact[i], k), each, 200, seed)
    return drawn, Estimate(overlap(fast, exact, k), some.low, some.high)
