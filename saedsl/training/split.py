"""Which documents are held out: a rule on a document's index alone, the same wherever its activations are read."""

from __future__ import annotations

import numpy as np

from saedsl.errors import TrainingError


def held_out(documents: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Whether each document is held out, by a hash of its index (SplitMix64, Steele et al. 2014).

    Args:
        documents: [n] indices of documents, or of tokens where documents are not known.
        share: how many of all are held out, between 0 and 1.
        seed: another seed holds out others.

    Returns:
        [n] bool.
    """
    with np.errstate(over="ignore"):
        z = documents.astype(np.uint64) + np.uint64(seed % 2**32) * np.uint64(0xD1B54A32D192ED03)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share


def check_share(share: float) -> None:
    """
    Raises:
        TrainingError: if a share of the documents cannot be held out.
    """
    if not 0 < share < 1:
        raise TrainingError(f"the share held out is {share}; it lies between 0 and 1, e.g. 0.1")
