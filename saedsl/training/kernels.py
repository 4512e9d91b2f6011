"""The four kernels of a training step, in portable MLX: selection, residual, gradients, Adam.

Each is a small pure function, so that a faster implementation can replace it and be tested against it.
Letters in shapes: B tokens, F features, I and O the widths of input and output.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from saedsl.sae.topk import keep_top_k

Weights = dict[str, mx.array]
"""W_enc [I, F], b_enc [F], W_dec [F, O], b_dec [O]; gradients and moments have the same keys and shapes."""


class Selected(NamedTuple):
    """The features that a batch keeps."""

    f: mx.array
    """[B, F]"""
    threshold: float
    """The smallest pre-activation that was kept, for BatchTopK; else 0."""


def select_top_k(pre: mx.array, k: int) -> Selected:
    """The `k` largest positive entries of each row of `pre` [B, F]; exact ties keep more."""
    return Selected(keep_top_k(pre, k), 0.0)


def select_batch_top_k(pre: mx.array, k: int, hint: float = 0.0) -> Selected:
    """The `B * k` largest positive entries of all of `pre` (arXiv:2412.06410); exact ties keep more.

    Args:
        pre: [B, F].
        k: features kept per token, on average.
        hint: a guess below the threshold, e.g. 0.8 of the last one. It saves time and never changes the
            result.
    """
    r = mx.maximum(pre, 0)
    threshold = nth_largest(np.array(r, copy=False).reshape(-1), pre.shape[0] * k, hint)
    return Selected(r * (r >= threshold), threshold)


def nth_largest(values: np.ndarray, n: int, hint: float) -> float:
    """The n-th largest positive entry of the flat array `values`; the smallest if there are fewer, 0 if none.

    Only entries above `hint` are partitioned; where that leaves too few, all positive ones are.
    """
    candidates = values[values > hint]
    if candidates.size < n and hint > 0:
        candidates = values[values > 0]
    if candidates.size == 0:
        return 0.0
    place = max(candidates.size - n, 0)
    return float(np.partition(candidates, place)[place])


def residual(f: mx.array, w: Weights, y: mx.array) -> mx.array:
    """Reconstruction minus target, [B, O]."""
    return f @ w["W_dec"] + w["b_dec"] - y


class Path(NamedTuple):
    """Features and the gradient of a loss with respect to what they decode to."""

    f: mx.array
    """[B, F] or, for some columns only, [B, n]."""
    g: mx.array
    """[B, O]"""


def gradients(main: Path, u: mx.array, w: Weights, subtract_b_dec: bool, aux: Path | None, dead: mx.array) -> Weights:
    """Gradients of the summed losses with respect to all weights.

    Args:
        main: features of the batch and the gradient of the reconstruction loss.
        u: [B, I], what the encoder multiplied.
        w: the weights.
        subtract_b_dec: whether `u` is `x - b_dec`.
        aux: the dead features' own activations [B, n] and the gradient of the auxiliary loss, or None.
        dead: [n], the dead features; not read without `aux`.
    """
    df = (main.g @ w["W_dec"].T) * (main.f > 0)
    out = {
        "W_enc": u.T @ df,
        "b_enc": df.sum(axis=0),
        "W_dec": main.f.T @ main.g,
        "b_dec": main.g.sum(axis=0),
    }
    if aux is not None:
        da = (aux.g @ w["W_dec"][dead].T) * (aux.f > 0)
        out["W_enc"] = out["W_enc"].at[:, dead].add(u.T @ da)
        out["b_enc"] = out["b_enc"].at[dead].add(da.sum(axis=0))
        out["W_dec"] = out["W_dec"].at[dead].add(aux.f.T @ aux.g)
    if subtract_b_dec:
        out["b_dec"] = out["b_dec"] - w["W_enc"] @ out["b_enc"]
    return out


class Moments(NamedTuple):
    """Adam's state."""

    first: Weights
    """Running mean of the gradients."""
    second: Weights
    """Running mean of their squares."""


def adam(w: Weights, g: Weights, m: Moments, rate: float, step: int) -> tuple[Weights, Moments]:
    """One step of Adam (arXiv:1412.6980; betas 0.9 and 0.999, epsilon 1e-8); `step` counts from 1."""
    first = {name: 0.9 * m.first[name] + 0.1 * g[name] for name in w}
    second = {name: 0.999 * m.second[name] + 0.001 * mx.square(g[name]) for name in w}
    a, b = 1 - 0.9**step, 1 - 0.999**step
    new = {n: w[n] - (rate / a) * first[n] / (mx.sqrt(second[n] / b) + 1e-8) for n in w}
    return new, Moments(first, second)


def project(g: Weights, w: Weights) -> Weights:
    """`g` without the part of `W_dec`'s gradient that would only change the length of its unit rows."""
    along = mx.sum(g["W_dec"] * w["W_dec"], axis=1, keepdims=True)
    return {**g, "W_dec": g["W_dec"] - along * w["W_dec"]}


def clip(g: Weights, limit: float) -> Weights:
    """`g` scaled down so that all of it together has at most the norm `limit`."""
    norm = mx.sqrt(sum((mx.sum(mx.square(value)) for value in g.values()), start=mx.array(0.0)))
    factor = mx.minimum(limit / (norm + 1e-6), 1.0)
    return {name: value * factor for name, value in g.items()}


def unit_rows(w: Weights) -> Weights:
    """`w` with the rows of `W_dec` at length 1."""
    return {**w, "W_dec": w["W_dec"] / mx.sqrt(mx.sum(mx.square(w["W_dec"]), axis=1, keepdims=True))}
