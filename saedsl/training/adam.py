"""From gradients to new weights: projection, clipping, Adam, and decoder rows of length 1.

Rows of unit length keep the L1 and L0 losses from being met by scaling (arXiv:2404.16014, section 3.2); projecting the
gradient first keeps Adam's moments from the part that normalising would undo. Pure functions.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from saedsl.training.engine import Settings

Weights = dict[str, mx.array]
"""As `saedsl.training.engine.Arrays`; gradients and moments have the same keys and shapes."""

EPSILON = 1e-8
"""Adam's."""


class Moments(NamedTuple):
    """Adam's state."""

    first: Weights
    """Running mean of the gradients."""
    second: Weights
    """Running mean of their squares."""


def project(dW_dec: mx.array, W_dec: mx.array) -> mx.array:
    """The gradient of `W_dec` [F, O] without the part that would only change the length of its unit rows."""
    return dW_dec - mx.sum(dW_dec * W_dec, axis=1, keepdims=True) * W_dec


def squares(g: Weights) -> mx.array:
    """The sum of the squares of all entries, [1]."""
    return sum((sum_of_squares(value).reshape(1) for value in g.values()), start=mx.zeros(1))


def sum_of_squares(x: mx.array) -> mx.array:
    """Of all entries, row by row: MLX on a CPU adds all of an array to one float32, which loses 2 % of 10^7 entries."""
    return mx.sum(mx.sum(mx.square(x), axis=-1))


def scale_of(norm: mx.array, limit: float) -> mx.array:
    """[1]: what gradients whose norm together is `norm` [1] are multiplied by, so that it is `limit` at most."""
    return mx.minimum(limit / (norm + 1e-6), 1.0)


def moment(before: mx.array, value: mx.array, beta: float) -> mx.array:
    """A running mean with `value` added."""
    return beta * before + (1 - beta) * value


def adam(w: mx.array, moments: tuple[mx.array, mx.array], settings: Settings, name: str) -> mx.array:
    """The weight called `name` after a step of Adam (arXiv:1412.6980) by its new moments; W_dec with unit rows."""
    a, b = settings.betas
    step, unbias = settings.rate_of(name) / (1 - a**settings.step), 1 - b**settings.step
    new = w - step * moments[0] / (mx.sqrt(moments[1] / unbias) + EPSILON)
    return new / row_norms(new)[:, None] if name == "W_dec" else new


def row_norms(rows: mx.array) -> mx.array:
    """[F]: the lengths of `rows` [F, O], never 0."""
    return mx.maximum(mx.sqrt(mx.sum(mx.square(rows), axis=1)), 1e-12)
