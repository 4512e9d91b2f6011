"""Measures of association between two features, from how often they fire: together, each, and at all.

With n tokens, of which feature i fires at a, j at b, and both at c:

    phi          (n c - a b) / sqrt(a (n - a) b (n - b))       the correlation of "fires"
    jaccard      c / (a + b - c)
    pmi          log(n c / (a b)), nats
    npmi         pmi / log(n / c); 1 where both fire at every token (Bouma 2009)
    conditional  c / a, the probability of j given i
    pearson      the correlation of the values, silent tokens included

Where a feature never varies (it fires at no token or at all, or its values are all equal), phi and pearson are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from saedsl.errors import CircuitError

Measure = Literal["phi", "jaccard", "pmi", "npmi", "conditional", "pearson"]
MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)
CODES: Final[dict[str, int]] = {name: i for i, name in enumerate(MEASURES)}
"""What compiled code calls them."""
CONSTANT: Final = 1e-12
"""A variance below this share of the mean square is rounding."""


def check_measure(measure: str) -> None:
    """Raise CircuitError if `measure` is none."""
    if measure not in MEASURES:
        raise CircuitError(f"measure is {measure!r}; it can be {', '.join(MEASURES)}")


@dataclass(frozen=True, eq=False)
class Margins:
    """What is known of features by themselves, over the n tokens that are counted."""

    counts: np.ndarray
    """[...] int64: at how many of them each fires."""
    sums: np.ndarray
    """[...] float64: of its values; for measures of firing alone, the count."""
    scales: np.ndarray
    """[...] float64: 1 / sqrt(n sum(x^2) - sum(x)^2) of these; 0 where the feature never varies."""

    @classmethod
    def of(cls, counts: np.ndarray, sums: np.ndarray, squares: np.ndarray, n: int) -> Margins:
        """
        Args:
            counts: [...] of firings.
            sums: [...] of values.
            squares: [...] of their squares.
            n: tokens.
        """
        spread = n * squares - sums**2
        varies = spread > CONSTANT * n * squares
        scales = np.divide(1.0, np.sqrt(np.where(varies, spread, 1.0)), where=varies, out=np.zeros(spread.shape))
        return cls(counts, sums, scales)

    @classmethod
    def of_firing(cls, counts: np.ndarray, n: int) -> Margins:
        """Of features as 0 or 1."""
        ones = counts.astype(np.float64)
        return cls.of(counts, ones, ones, n)

    def __getitem__(self, which: np.ndarray) -> Margins:
        return Margins(self.counts[which], self.sums[which], self.scales[which])


def logarithms(n: int) -> np.ndarray:
    """[n + 1]: log(0) as 0, log(1) ... log(n)."""
    return np.log(np.maximum(np.arange(n + 1), 1))


def associations(
    measure: Measure, both: np.ndarray, products: np.ndarray, i: Margins, j: Margins, n: int, logs: np.ndarray
) -> np.ndarray:
    """The measure of pairs that fire together at least once, [pairs] float64.

    Args:
        measure: which.
        both: [pairs] int, at how many tokens both fire.
        products: [pairs] float64, sums of the products of their values; used by `pearson` only.
        i: [pairs], of the first feature.
        j: [pairs], of the second.
        n: tokens.
        logs: `logarithms(n)`.
    """
    match measure:
        case "phi":
            return np.asarray((n * both.astype(np.float64) - i.sums * j.sums) * (i.scales * j.scales))
        case "pearson":
            return np.asarray((n * products - i.sums * j.sums) * (i.scales * j.scales))
        case "jaccard":
            return np.asarray(both / (i.counts + j.counts - both))
        case "conditional":
            return np.asarray(both / i.counts)
    pmi = (logs[both] + logs[n]) - (logs[i.counts] + logs[j.counts])
    if measure == "pmi":
        return np.asarray(pmi)
    surprise = logs[n] - logs[both]
    return np.asarray(np.divide(pmi, surprise, where=surprise > 0, out=np.ones(pmi.shape)))


def highest(measure: Measure, n: int) -> float:
    """What the measure is at most."""
    return float(np.log(max(n, 2))) if measure == "pmi" else 1.0
