"""Features that are mostly 0, by token and by feature; compiled code reads them too.

Letters in shapes: B tokens, F features, I and O the widths of input and output.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Sparse(NamedTuple):
    """Features [B, F] that are mostly 0."""

    start: np.ndarray
    """[B + 1] int64: where the entries of each token start."""
    features: np.ndarray
    """[entries] int32, ascending within a token."""
    values: np.ndarray
    """[entries]"""


class ByFeature(NamedTuple):
    """The entries in the order of features, and their gradients."""

    start: np.ndarray
    """[F + 1] int64: where the entries of each feature start."""
    tokens: np.ndarray
    """[entries] int32, ascending within a feature."""
    values: np.ndarray
    """[entries]"""
    df: np.ndarray
    """[entries]"""


class Extra(NamedTuple):
    """Gradients of all that some features have, from a loss of their own."""

    places: np.ndarray
    """[F] int32: where a feature is in the arrays below; -1 where it is not."""
    W_dec: np.ndarray
    """[n, O]"""
    W_enc: np.ndarray
    """[n, I]"""
    b_enc: np.ndarray
    """[n]"""


def starts(counts: np.ndarray) -> np.ndarray:
    """[B + 1] int64: where the entries of tokens start that have `counts` [B] of them."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
