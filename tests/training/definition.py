"""What a step minimises, written as one loss that MLX differentiates itself; nothing here is shared with the engines.

Straight-through estimators are written as values whose derivative is the estimator: `c * (z - stop(z))` is 0 and has
derivative c. Letters in shapes: B tokens, F features, I and O the widths of input and output.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from saedsl.training.engine import Arrays, Form, Settings

stop = mx.stop_gradient


def loss(w: Mapping[str, mx.array], x: mx.array, y: mx.array, form: Form, s: Settings) -> dict[str, mx.array]:
    """The losses of one batch and the features [B, F] as `f`."""
    B, F = x.shape[0], w["W_dec"].shape[0]
    u = x - w["b_dec"] if form.subtract_b_dec else x
    d, n = x.shape[1] // form.layers, F // form.layers
    linear = mx.concatenate(
        [
            u[:, layer * d : (layer + 1) * d] @ w["W_enc"][:, layer * n : (layer + 1) * n]
            for layer in range(form.layers)
        ],
        axis=1,
    )
    pre = linear + w["b_gate" if form.activation == "gated" else "b_enc"]
    skip = x @ w["W_skip"].T if form.skip else mx.zeros(y.shape)
    norms = mx.linalg.norm(w["W_dec"], axis=1, stream=mx.cpu)
    zero = mx.array(0.0)
    sparsity, aux = zero, zero
    if form.activation == "relu":
        f = mx.maximum(pre, 0)
        sparsity = s.sparsity * mx.mean(mx.sum(f * norms, axis=1))
    elif form.activation == "topk":
        best = mx.sort(pre, axis=1)[:, max(F - round(s.k), 0) :][:, :1]
        f = mx.where((pre >= stop(best)) & (pre > 0), pre, 0)
    elif form.activation == "batchtopk":
        best = mx.sort(mx.maximum(pre, 0).reshape(-1))[B * F - round(B * s.k)]
        f = mx.where((pre >= stop(best)) & (pre > 0), pre, 0)
    elif form.activation == "jumprelu":
        theta = mx.exp(w["log_threshold"])
        kernel = (mx.abs(pre - theta) < s.bandwidth / 2).astype(mx.float32) / s.bandwidth
        moved = stop(kernel) * (theta - stop(theta))
        step = (pre > theta).astype(mx.float32)
        f = stop(step) * pre - stop(theta) * moved
        l0 = mx.mean(mx.sum(step - moved, axis=1))
        sparsity = s.sparsity * (l0 if s.target_l0 is None else mx.square(l0 / s.target_l0 - 1))
    else:
        gate = mx.maximum(pre, 0)
        f = mx.where(pre > 0, mx.maximum(mx.exp(w["r_mag"]) * linear + w["b_mag"], 0), 0)
        sparsity = s.sparsity * mx.mean(mx.sum(gate * norms, axis=1))
        via_gate = gate @ stop(w["W_dec"]) + stop(w["b_dec"]) + stop(skip)
        aux = mx.mean(mx.sum(mx.square(via_gate - y), axis=1))
    errors = []
    for end in form.prefixes or (F,):
        x_hat = f[:, :end] @ w["W_dec"][:end] + w["b_dec"] + skip
        errors.append(mx.mean(mx.sum(mx.square(x_hat - y), axis=1)))
    reconstruction = sum(errors, start=zero) / len(errors)
    if s.aux is not None:
        aux = aux + _revival(pre, w, stop(y - x_hat), stop(reconstruction), s)
    return {"reconstruction": reconstruction, "sparsity": sparsity, "aux": aux, "f": f}


def _revival(
    pre: mx.array, w: Mapping[str, mx.array], residual: mx.array, reconstruction: mx.array, s: Settings
) -> mx.array:
    assert s.aux is not None
    dead = mx.array(s.aux.dead)
    if s.aux.method == "auxk":
        z = mx.maximum(pre[:, dead], 0)
        n = len(s.aux.dead)
        if n > s.aux.k:
            z = mx.where(z >= stop(mx.sort(z, axis=1)[:, n - s.aux.k :][:, :1]), z, 0)
        missing = mx.mean(mx.sum(mx.square(z @ w["W_dec"][dead] - residual), axis=1))
        return s.aux.coefficient * min(n / s.aux.k, 1) * missing
    out = mx.exp(pre[:, dead]) @ w["W_dec"][dead]
    half = mx.sqrt(mx.sum(mx.square(residual), axis=1)) / (2 * mx.sqrt(mx.sum(mx.square(out), axis=1)))
    missing = mx.mean(mx.sum(mx.square(out * stop(half)[:, None] - residual), axis=1))
    return s.aux.coefficient * stop(reconstruction / missing) * missing


def gradients(weights: Arrays, x: np.ndarray, y: np.ndarray, form: Form, s: Settings) -> Arrays:
    """Gradients of the sum of all losses, W_dec's without its part along the rows, all clipped to the norm."""
    w = {name: mx.array(value) for name, value in weights.items()}

    def total(w: dict[str, mx.array]) -> mx.array:
        parts = loss(w, mx.array(x), mx.array(y), form, s)
        return parts["reconstruction"] + parts["sparsity"] + parts["aux"]

    g = {name: np.array(value, np.float64) for name, value in mx.grad(total)(w).items()}
    if form.layers > 1:
        n, width = weights["W_dec"].shape
        of, to = np.arange(n) * form.layers // n, np.arange(width) * form.layers // width
        g["W_dec"][to[None] < of[:, None]] = 0
    rows = weights["W_dec"].astype(np.float64)
    g["W_dec"] -= (g["W_dec"] * rows).sum(axis=1, keepdims=True) * rows
    norm = np.sqrt(sum((value**2).sum() for value in g.values()))
    return {name: value * min(1.0, s.max_grad_norm / norm) for name, value in g.items()}
