"""Activations in memory as training and evaluation take them: a float32 matrix without NaN."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError

Activations = np.ndarray | mx.array
"""[tokens, d], any float dtype."""


def as_matrix(values: Activations, name: str) -> np.ndarray:
    """`values` as a float32 numpy matrix [tokens, d].

    Raises:
        TrainingError: if it is not a matrix, is empty, or holds NaN or infinity.
    """
    if isinstance(values, mx.array):
        values = np.array(values.astype(mx.float32))
    out = np.asarray(values, dtype=np.float32)
    if out.ndim != 2:
        raise TrainingError(f"{name} has shape {list(out.shape)}; one row per token is expected: [tokens, d]")
    if out.size == 0:
        raise TrainingError(f"{name} is empty: {list(out.shape)}; there is nothing to learn from")
    bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
    if bad.size:
        raise TrainingError(f"{name} holds NaN or infinity in {bad.size} rows, first in row {bad[0]}; leave them out")
    return out
