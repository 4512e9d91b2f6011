"""What co-activation chance makes: circular shifts within documents, and the false discovery rate that they give.

A shift turns the source's firings round within each document, so how often a feature fires, in which documents, and
how its firings cluster stay as they are; only what fires at the same token does not. A pair's score is compared with
those of shifted pairs of its stratum (features of the same frequency classes, in one dictionary or in two):

    rate(t) = (1 + shifted pairs >= t, over all shifts) / (1 + shifts * pairs of the stratum)

and over all strata together, with thresholds t of one rate c,

    FDR(c) = c * pairs / observed pairs whose rate is <= c,

which is mean null count / observed count; a pair's FDR is the smallest at which it is found. The 1 keeps a handful of
shifts from promising more than they can: with none at all above, the rate is not 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from saedsl.circuits.firings import Documents

BINS: Final = 4096
"""Of scores from 0 to the measure's maximum: thresholds lie between bins."""
CLASS: Final = 32
"""Features that a frequency class has at least, where there are as many."""


@dataclass(frozen=True)
class Strata:
    """Classes of pairs: within one dictionary or across two, and the frequency classes of both features."""

    classes: int
    """Frequency classes of features."""
    ordered: bool
    """Whether the classes of (i, j) and (j, i) are two."""

    def __len__(self) -> int:
        return 2 * self.classes**2

    def of(self, within: bool, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Strata of pairs with features of the classes `i` and `j`."""
        low, high = (i, j) if self.ordered else (np.minimum(i, j), np.maximum(i, j))
        return np.asarray((0 if within else self.classes**2) + low * self.classes + high)

    def sizes(self, within: bool, halved: bool, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """[strata] int64: pairs of features of the classes `a` [m] with those of `b` [n].

        Args:
            within: whether both are the same features; a feature is no pair with itself then.
            halved: whether (i, j) and (j, i) are one pair.
            a: class of each.
            b: class of each.
        """
        of_a, of_b = np.bincount(a, minlength=self.classes), np.bincount(b, minlength=self.classes)
        pairs = np.outer(of_a, of_b).astype(np.int64)
        if within:
            pairs -= np.diag(of_a)
        if halved:  # each pair was counted at (i, j) and (j, i)
            pairs = np.triu(pairs + pairs.T, 1) // 2 + np.diag(np.diag(pairs) // 2)
        out = np.zeros(len(self), np.int64)
        i, j = np.indices(pairs.shape)
        np.add.at(out, self.of(within, i, j), pairs)
        return out


def frequency_classes(counts: list[np.ndarray]) -> list[np.ndarray]:
    """The class of each feature: octaves of how often it fires, neighbours together until a class has `CLASS` features.

    Args:
        counts: [features] of each dictionary.

    Returns:
        [features] int32 of each, from 0.
    """
    octaves = [np.log2(np.maximum(c, 1)).astype(np.int32) for c in counts]
    found = np.bincount(np.concatenate(octaves)) if octaves else np.zeros(0, np.int64)
    new = np.zeros(len(found), np.int32)
    current, members = 0, 0
    for octave in reversed(range(len(found))):
        new[octave] = current
        members += int(found[octave])
        if members >= CLASS and found[:octave].sum() >= CLASS:
            current, members = current + 1, 0
    return [new[o] for o in octaves]


def shift_of(documents: Documents, seed: int, number: int) -> np.ndarray:
    """[documents] int64: by how many tokens each is turned round, from 1 to its length - 1; 0 for a single token."""
    rng = np.random.default_rng([seed, number])
    return np.asarray(rng.integers(1, np.maximum(documents.lengths, 2)) * (documents.lengths > 1))


def bins_of(scores: np.ndarray, top: float) -> np.ndarray:
    """[pairs] int64: the bin of each score, -1 for those not above 0."""
    found = np.minimum((np.maximum(scores, 0) * (BINS / top)).astype(np.int64), BINS - 1)
    return np.where(scores > 0, found, -1)


def false_discovery_rates(observed: np.ndarray, null: np.ndarray, sizes: np.ndarray, shifts: int) -> np.ndarray:
    """The FDR of a pair by stratum and bin; see this module.

    Args:
        observed: [strata, BINS] int64, how many pairs have a score in each bin.
        null: [strata, BINS] int64, the same of all shifts together.
        sizes: [strata] int64, how many pairs there are, those that never fire together included.
        shifts: how many.

    Returns:
        [strata, BINS] float64 from 0 to 1; 1 where nothing was observed.
    """
    above = null[:, ::-1].cumsum(axis=1)[:, ::-1]
    rate = (1 + above) / (1 + shifts * sizes[:, None].astype(np.float64))
    out = np.ones(observed.shape)
    there = observed > 0
    rates, inverse = np.unique(rate[there], return_inverse=True)
    if not len(rates):
        return out
    found = np.cumsum(np.bincount(inverse, weights=observed[there]))
    fdr = rates * float(sizes.sum()) / found
    smallest = np.minimum.accumulate(fdr[::-1])[::-1]
    out[there] = np.minimum(smallest, 1.0)[inverse]
    return out
