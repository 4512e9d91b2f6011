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


def project(g: Weights, w: Weights) -> Weights:
    """`g` without the part of `W_dec`'s gradient that would only change the length of its unit rows."""
    along = mx.sum(g["W_dec"] * w["W_dec"], axis=1, keepdims=True)
    return {**g, "W_dec": g["W_dec"] - along * w["W_dec"]}


def squares(g: Weights) -> mx.array:
    """The sum of the squares of all entries, [1]."""
    return sum((sum_of_squares(value).reshape(1) for value in g.values()), start=mx.zeros(1))


def sum_of_squares(x: mx.array) -> mx.array:
    """Of all entries, row by row: MLX on a CPU adds all of an array to one float32, which loses 2 % of 10^7 entries."""
    return mx.sum(mx.sum(mx.square(x), axis=-1))


def scaled_down(g: Weights, norm: mx.array, limit: float) -> Weights:
    """`g`, whose norm is `norm` [1], scaled down to the norm `limit` if it is longer."""
    factor = mx.minimum(limit / (norm + 1e-6), 1.0)
    return {name: value * factor for name, value in g.items()}


def adam(w: Weights, g: Weights, m: Moments, settings: Settings) -> tuple[Weights, Moments]:
    """One step of Adam (arXiv:1412.6980)."""
    a, b = settings.betas
    first = {name: a * m.first[name] + (1 - a) * g[name] for name in w}
    second = {name: b * m.second[name] + (1 - b) * mx.square(g[name]) for name in w}
    step = {name: settings.rate_of(name) / (1 - a**settings.step) for name in w}
    unbias = 1 - b**settings.step
    new = {name: w[name] - step[name] * first[name] / (mx.sqrt(second[name] / unbias) + EPSILON) for name in w}
    return new, Moments(first, second)


def unit_rows(w: Weights) -> Weights:
    """`w` with the rows of `W_dec` at length 1."""
    return {**w, "W_dec": w["W_dec"] / row_norms(w["W_dec"])[:, None]}


def row_norms(rows: mx.array) -> mx.array:
    """[F]: the lengths of `rows` [F, O], never 0."""
    return mx.maximum(mx.sqrt(mx.sum(mx.square(rows), axis=1)), 1e-12)
