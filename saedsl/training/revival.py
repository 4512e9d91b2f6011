"""How dead features learn: the auxiliary loss of arXiv:2406.04093, appendix A.2, or ghost gradients.

    auxk  = coefficient * min(n / k, 1) * mean over tokens of ||z W_dead - (y - x^)||^2,  z = the k largest of relu(pre)
    ghost = coefficient * reconstruction / ghost_loss * ghost_loss,  of exp(pre) scaled to half the residual's length

The residual y - x^ is held fixed, and `b_dec` has no part in either. Ghost gradients are those of Anthropic's January
2024 update, with the scale per token and the ratio of the losses held fixed too. Letters in shapes: B tokens, n dead
features of this process, O the width of the output.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from saedsl.training.adam import sum_of_squares
from saedsl.training.engine import Aux
from saedsl.training.joint import Joint
from saedsl.training.selection import keep, row_borders

SMALL = 1e-6
"""Keeps ghost gradients from dividing by 0."""


class Revival(NamedTuple):
    """The auxiliary loss and its gradients."""

    loss: mx.array
    """Scalar, this process's part of the tokens, coefficient included."""
    dpre: mx.array
    """[B, n], of the dead features' pre-activations."""
    dW_dec: mx.array
    """[n, O], of their decoder rows."""


class Residual(NamedTuple):
    """What the living features leave."""

    e: mx.array
    """[B, O]: x^ - y."""
    reconstruction: mx.array
    """Scalar: this process's part of the reconstruction loss."""
    n: int
    """Tokens of the whole batch."""


def auxk(pre: mx.array, W_dead: mx.array, left: Residual, aux: Aux, joint: Joint) -> Revival:
    """The `aux.k` largest of the dead features `pre` [B, n] reconstruct what is left, by their rows `W_dead` [n, O]."""
    n_dead = aux.dead.size
    z, fires = keep(pre, row_borders(pre, aux.k, joint) if n_dead > aux.k else 0.0)
    weight = aux.coefficient * min(n_dead / aux.k, 1.0)
    missing = joint.over_features(z @ W_dead) + left.e
    g = (2 * weight / left.n) * missing
    return Revival(weight * sum_of_squares(missing) / left.n, (g @ W_dead.T) * fires, z.T @ g)


def ghost(pre: mx.array, W_dead: mx.array, left: Residual, aux: Aux, joint: Joint) -> Revival:
    """Exponentials of the dead features `pre` [B, n] point at what is left, by their rows `W_dead` [n, O]."""
    z = mx.exp(pre)
    out = joint.over_features(z @ W_dead)
    scale = _lengths(left.e) / (2 * _lengths(out) + SMALL)
    missing = scale * out + left.e
    loss = sum_of_squares(missing) / left.n
    both = joint.over_tokens(mx.stack([left.reconstruction, loss]))
    weight = aux.coefficient * both[0] / (both[1] + SMALL)
    g = (2 / left.n) * weight * scale * missing
    return Revival(weight * loss, (g @ W_dead.T) * z, z.T @ g)


def _lengths(rows: mx.array) -> mx.array:
    """[B, 1]"""
    return mx.sqrt(mx.sum(mx.square(rows), axis=1, keepdims=True))
