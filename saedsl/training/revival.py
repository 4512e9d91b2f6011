"""How dead features learn: the auxiliary loss of arXiv:2406.04093, appendix A.2, or ghost gradients.

    auxk  = coefficient * min(n / k, 1) * mean over tokens of ||z W_dead - (y - x^)||^2,  z = the k largest of relu(pre)
    ghost = coefficient * reconstruction / ghost_loss * ghost_loss,  of exp(pre) scaled to half the residual's length

The residual y - x^ is held fixed, and `b_dec` has no part in either. Ghost gradients are those of Anthropic's January
2024 update, with the scale per token and the ratio of the losses held fixed too. A batch comes in parts of R tokens;
losses and gradients of parts add up, and then have one `weight`. Letters in shapes: n dead features of this process, O
the width of the output.
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
    """The auxiliary loss of a part of a batch and its gradients, all without their weight."""

    loss: mx.array
    """Scalar: this part's share of the mean over tokens."""
    dpre: mx.array
    """[R, n], of the dead features' pre-activations."""
    dW_dec: mx.array
    """[n, O], of their decoder rows."""


def revive(pre: mx.array, W_dead: mx.array, e: mx.array, n: int, aux: Aux, joint: Joint) -> Revival:
    """What the dead features of a part of a batch are taught.

    Args:
        pre: [R, n], of the dead features.
        W_dead: [n, O], their decoder rows.
        e: [R, O]: x^ - y, what the living features leave.
        n: tokens of the whole batch.
        aux: the method.
        joint: the processes.
    """
    return (_auxk if aux.method == "auxk" else _ghost)(pre, W_dead, e, n, aux, joint)


def weight(aux: Aux, reconstruction: mx.array, loss: mx.array, joint: Joint) -> mx.array:
    """What the auxiliary loss and its gradients count, a scalar.

    Args:
        aux: the method.
        reconstruction: scalar: this process's part of the reconstruction loss.
        loss: scalar: this process's part of the auxiliary loss, all parts of the batch added.
        joint: the processes.
    """
    if aux.method == "auxk":
        return mx.array(aux.coefficient * min(aux.dead.size / aux.k, 1.0))
    both = joint.over_tokens(mx.stack([reconstruction, loss]))
    return aux.coefficient * both[0] / (both[1] + SMALL)


def _auxk(pre: mx.array, W_dead: mx.array, e: mx.array, n: int, aux: Aux, joint: Joint) -> Revival:
    """The `aux.k` largest of the dead features reconstruct what is left."""
    z, fires = keep(pre, row_borders(pre, aux.k, joint) if aux.dead.size > aux.k else 0.0)
    missing = joint.over_features(z @ W_dead) + e
    g = (2 / n) * missing
    return Revival(sum_of_squares(missing) / n, (g @ W_dead.T) * fires, z.T @ g)


def _ghost(pre: mx.array, W_dead: mx.array, e: mx.array, n: int, aux: Aux, joint: Joint) -> Revival:
    """Exponentials of the dead features point at what is left."""
    z = mx.exp(pre)
    out = joint.over_features(z @ W_dead)
    scale = _lengths(e) / (2 * _lengths(out) + SMALL)
    missing = scale * out + e
    g = (2 / n) * scale * missing
    return Revival(sum_of_squares(missing) / n, (g @ W_dead.T) * z, z.T @ g)


def _lengths(rows: mx.array) -> mx.array:
    """[B, 1]"""
    return mx.sqrt(mx.sum(mx.square(rows), axis=1, keepdims=True))
