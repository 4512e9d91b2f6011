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
    along = mx.sum(dW_dec * W_dec, axis=1, keepdims=True)
    mx.eval(along)
    return dW_dec - along * W_dec


def squares(g: Weights) -> mx.array:
    """The sum of the squares of all entries, [1], one array after the other."""
    total = mx.zeros(1)
    for value in g.values():
        total = total + sum_of_squares(value)
        mx.eval(total)
    return total


def sum_of_squares(x: mx.array) -> mx.array:
    """Of all entries, row by row: MLX on a CPU adds all of an array to one float32, which loses 2 % of 10^7 entries."""
    return mx.sum(mx.sum(mx.square(x), axis=-1))


def scale_of(norm: mx.array, limit: float) -> mx.array:
    """[1]: what gradients whose norm together is `norm` [1] are multiplied by, so that it is `limit` at most."""
    return mx.minimum(limit / (norm + 1e-6), 1.0)


def adam_in_place(w: Weights, g: mx.array, moments: Moments, settings: Settings, name: str) -> None:
    """One step of Adam (arXiv:1412.6980) of the weight called `name`; rows of W_dec have length 1 after it.

    The old arrays leave the dictionaries first and every result is evaluated, so that MLX writes into their memory: it
    takes one array more than there are at the same time, not seven.

    Args:
        w: the weights; `w[name]` changes.
        g: the gradient of that one.
        moments: Adam's state; that of `name` changes.
        settings: of the step.
        name: of the weight.
    """
    a, b = settings.betas
    unbias, rate = 1 - b**settings.step, settings.rate_of(name) / (1 - a**settings.step)
    mx.eval(g)
    for of, beta, power in ((moments.first, a, 1), (moments.second, b, 2)):
        decayed = of.pop(name) * beta
        mx.eval(decayed)
        of[name] = decayed + (1 - beta) * (g if power == 1 else mx.square(g))
        del decayed
        mx.eval(of[name])
    del g
    step = mx.sqrt(moments.second[name] / unbias) + EPSILON
    mx.eval(step)
    step = (moments.first[name] * rate) / step
    mx.eval(step)
    new = w.pop(name) - step
    del step
    if name == "W_dec":
        mx.eval(new)
        new = new / row_norms(new)[:, None]
    w[name] = new
    mx.eval(new)


def row_norms(rows: mx.array) -> mx.array:
    """[F]: the lengths of `rows` [F, O], never 0."""
    return mx.maximum(mx.sqrt(mx.sum(mx.square(rows), axis=1)), 1e-12)
