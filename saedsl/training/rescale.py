"""Undo what the L1 loss has shrunk: features of `relu` and `gated` are scaled, each by itself, by least squares.

An L1 loss pays for making features small, so they come out too weak, and the reconstruction too short ("feature
suppression", Wright and Sharkey, "Addressing feature suppression in SAEs", February 2024). Which features fire where
stays as it is; decoder rows keep their length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np

from saedsl.sae.dictionary import SAE

STEPS = 20
"""Of the conjugate gradients, at most."""
PULL = 1e-2
"""Towards a scale of 1, in units of a mean feature's sum of squares: what hardly fires stays as it is."""
SMALLEST = 0.1
"""No scale is less."""
CHUNK = 4096
"""Tokens at a time."""


def rescaled(sae: SAE, x: np.ndarray, y: np.ndarray, weight: np.ndarray | float = 1.0) -> SAE:
    """`sae` with the features' scales that reconstruct `y` best.

    Args:
        sae: a `relu` or `gated` dictionary.
        x: [n, d_in], tokens it reads.
        y: [n, d_out], what it is to write there.
        weight: [d_out], times which errors count.
    """
    s = scales(sae, x, y, weight)
    factor = mx.array(s.astype(np.float32))
    if sae.config.activation == "gated":
        assert sae.r_mag is not None
        assert sae.b_mag is not None
        return replace(sae, r_mag=sae.r_mag + mx.log(factor), b_mag=sae.b_mag * factor, source=None)
    assert sae.b_enc is not None
    return replace(sae, W_enc=sae.W_enc * factor, b_enc=sae.b_enc * factor, source=None)


def scales(sae: SAE, x: np.ndarray, y: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """The scales of the features, [d_sae] float64; arguments as of `rescaled`.

    With A[i, j] = sum over tokens of f_i f_j (w_i . w_j), they are 1 + v where (A + pull) v = b, and b_j is the sum of
    f_j (w_j . error): conjugate gradients, preconditioned by the diagonal, without A itself.
    """
    per_output = mx.array(np.asarray(weight, np.float32))
    W = sae.W_dec * per_output  # [F, O]
    n = sae.config.d_sae
    diagonal, b = np.zeros(n), np.zeros(n)
    for i in range(0, len(x), CHUNK):
        tokens = mx.array(x[i : i + CHUNK])
        f = sae.encode(tokens)
        left = (mx.array(y[i : i + CHUNK]) - sae.decode(f, tokens)) * per_output
        diagonal += np.array(mx.square(f).sum(axis=0) * mx.square(W).sum(axis=1), np.float64)
        b += np.array(((f.T @ left) * W).sum(axis=1), np.float64)
    pull = PULL * diagonal.mean()
    if pull == 0:  # nothing fires
        return np.ones(n)

    def product(v: np.ndarray) -> np.ndarray:
        scaled, out = mx.array(v.astype(np.float32))[:, None] * W, np.zeros(n)
        for i in range(0, len(x), CHUNK):
            f = sae.encode(mx.array(x[i : i + CHUNK]))
            out += np.array(((f.T @ (f @ scaled)) * W).sum(axis=1), np.float64)
        return np.asarray(out + pull * v)

    return np.asarray(np.maximum(1 + _solve(product, b, diagonal + pull), SMALLEST))


def _solve(product: Callable[[np.ndarray], np.ndarray], b: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """v where `product(v)` is `b`, by conjugate gradients preconditioned by `diagonal`."""
    v, r = np.zeros_like(b), b.copy()
    z = r / diagonal
    p, rz = z.copy(), float(r @ z)
    first = rz
    for _ in range(STEPS):
        if rz <= 1e-8 * first:
            break
        q = product(p)
        step = rz / float(p @ q)
        v += step * p
        r -= step * q
        z = r / diagonal
        rz, before = float(r @ z), rz
        p = z + (rz / before) * p
    return v
