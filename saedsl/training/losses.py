"""What training minimises, gradients written out: reconstruction, and the auxiliary loss of dead features.

    loss = mean over tokens of ||x^ - y||^2
    aux  = coefficient * min(n_dead / aux_k, 1) * mean over tokens of ||z_dead W_dec - stopgrad(y - x^)||^2

The second is arXiv:2406.04093, appendix A.2: the features that have not fired for long learn what the others
leave; `b_dec` has no part in it. Gradients by hand need no graph and one matmul each; tests hold them against
autodiff.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from saedsl.sae.topk import keep_top_k
from saedsl.training.kernels import Path, Selected, Weights, gradients, residual


class Losses(NamedTuple):
    """One batch: losses, gradients, and which features fired."""

    reconstruction: mx.array
    """Scalar."""
    aux: mx.array
    """Scalar, coefficient included."""
    gradients: Weights
    """Of the sum of both."""
    fired: mx.array
    """[F], bool."""
    l0: mx.array
    """Scalar: features per token."""


class Aux(NamedTuple):
    """The dead features of a step, and how hard to revive them."""

    dead: np.ndarray
    """[n], feature numbers."""
    k: int
    """Of them, how many each token uses."""
    coefficient: float
    """Weight of the loss when there are at least `k` of them."""


def pre_activations(w: Weights, x: mx.array, subtract_b_dec: bool) -> tuple[mx.array, mx.array]:
    """What the encoder multiplies, [B, I], and what comes out, [B, F]."""
    u = x - w["b_dec"] if subtract_b_dec else x
    return u, mx.addmm(w["b_enc"], u, w["W_enc"])


def losses(
    w: Weights, u: mx.array, pre: mx.array, chosen: Selected, y: mx.array, subtract_b_dec: bool, aux: Aux
) -> Losses:
    """Losses and gradients of one batch.

    Args:
        w: the weights.
        u: [B, I], what the encoder multiplied.
        pre: [B, F], its pre-activations.
        chosen: the features kept of them.
        y: [B, O], the target: the input itself for an SAE.
        subtract_b_dec: whether `u` is `x - b_dec`.
        aux: the dead features; none of them, or a coefficient of 0, leaves the auxiliary loss out.
    """
    n = y.shape[0]
    e = residual(chosen.f, w, y)
    revival, aux_loss = None, mx.array(0.0)
    dead = mx.array(aux.dead, dtype=mx.int32)
    if aux.dead.size and aux.coefficient:
        z = pre[:, dead]
        z = keep_top_k(z, aux.k) if aux.dead.size > aux.k else mx.maximum(z, 0)
        weight = aux.coefficient * min(aux.dead.size / aux.k, 1.0)
        missing = z @ w["W_dec"][dead] + e
        aux_loss = weight * mx.sum(mx.square(missing)) / n
        revival = Path(z, (2 * weight / n) * missing)
    active = chosen.f > 0
    return Losses(
        mx.sum(mx.square(e)) / n,
        aux_loss,
        gradients(Path(chosen.f, (2 / n) * e), u, w, subtract_b_dec, revival, dead),
        mx.any(active, axis=0),
        mx.sum(active) / n,
    )
