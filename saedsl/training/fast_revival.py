"""The auxiliary losses of `saedsl.training.revival` where their features are few of many: on CPUs, with numpy.

Letters in shapes: B tokens, F features, I and O the widths of input and output, n dead features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from saedsl.training import fast_kernels as kernels
from saedsl.training.engine import Aux
from saedsl.training.fast_selection import largest, selected
from saedsl.training.revival import SMALL
from saedsl.training.sparse import ByFeature, Extra, Sparse, starts
from saedsl.training.threads import Crew, parts, shares

BLOCK = 512
"""Tokens of one matmul."""


class Left(NamedTuple):
    """What the living features leave of a batch."""

    u: np.ndarray
    """[B, I]: what the encoder multiplied."""
    g: np.ndarray
    """[B, O]: the gradient of their reconstruction x^; x^ - y is `per_g` times it."""
    per_g: float
    """See `g`."""
    reconstruction: float
    """The loss."""


class Revived(NamedTuple):
    """An auxiliary loss, weight included, and the gradients that it brings."""

    loss: float
    sparse: ByFeature
    g: np.ndarray
    """[B, O]: the gradient of what `sparse` decodes to."""
    extra: Extra


def nothing(left: Left, n_features: int) -> Revived:
    """No auxiliary loss."""
    width, d_in, none = left.g.shape[1], left.u.shape[1], np.zeros(0, np.float32)
    empty = ByFeature(np.zeros(n_features + 1, np.int64), np.zeros(0, np.int32), none, none)
    extra = Extra(
        np.full(n_features, -1, np.int32), np.zeros((0, width), np.float32), np.zeros((0, d_in), np.float32), none
    )
    return Revived(0.0, empty, left.g, extra)


def auxk(pre: np.ndarray, W_dec: np.ndarray, left: Left, aux: Aux, out: np.ndarray, crew: Crew) -> Revived:
    """The `aux.k` largest of the dead features reconstruct what is left.

    Args:
        pre: [B, n], their pre-activations.
        W_dec: [F, O], of all features.
        left: what is left.
        aux: the features and the weight.
        out: [B, O], becomes the gradient of what they decode to.
        crew: who does the work.
    """
    n = len(pre)
    kept = _largest_dead(pre, aux, crew)
    weight = aux.coefficient * min(aux.dead.size / aux.k, 1.0)
    per_g, scale = np.float32(left.per_g), np.float32(2 * weight / n)
    df = np.empty_like(kept.values)

    def work(_: int, rows: slice) -> float:
        start = kept.start[rows.start : rows.stop + 1]
        return kernels.revive(start, kept.features, kept.values, W_dec, left.g[rows], per_g, scale, out[rows], df)

    loss = weight * sum(crew.each(work, shares(n))) / n
    none = nothing(left, len(W_dec))
    return none._replace(loss=loss, sparse=kernels.by_feature(kept, df, len(W_dec)), g=out)


def _largest_dead(pre: np.ndarray, aux: Aux, crew: Crew) -> Sparse:
    bias, counts = np.zeros(aux.dead.size, np.float32), np.empty(len(pre), np.int64)
    room = min(aux.k, aux.dead.size) + 1

    def work(_: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return selected(pre[rows], bias, room, largest(aux.k), counts[rows])

    found = crew.each(work, shares(len(pre)))
    places = np.concatenate([f for f, _ in found])
    return Sparse(starts(counts), aux.dead[places], np.concatenate([v for _, v in found]))


def ghost(pre: np.ndarray, W_dec: np.ndarray, left: Left, aux: Aux) -> Revived:
    """Exponentials of the dead features point at what is left; dense, some tokens at a time.

    The weight of this loss is known at the end only, and gradients are proportional to it.

    Args:
        pre: [B, n], their pre-activations.
        W_dec: [F, O], of all features.
        left: what is left.
        aux: the features and the weight.
    """
    n, W_dead = len(pre), W_dec[aux.dead]
    squares, none = 0.0, nothing(left, len(W_dec))
    dW_dec, dW_enc = np.zeros_like(W_dead), np.zeros((len(W_dead), left.u.shape[1]), np.float32)
    db_enc = np.zeros(len(W_dead), np.float32)
    for rows in parts(n, BLOCK):
        of_living = np.float32(left.per_g) * left.g[rows]
        z = np.exp(pre[rows])
        decoded = z @ W_dead
        scale = _lengths(of_living) / (2 * _lengths(decoded) + np.float32(SMALL))
        missing = scale * decoded + of_living
        squares += float(np.square(missing).sum(dtype=np.float64))
        missing *= scale
        dpre = (missing @ W_dead.T) * z
        dW_dec += z.T @ missing
        dW_enc += dpre.T @ left.u[rows]
        db_enc += dpre.sum(axis=0)
    loss = squares / n
    weight = aux.coefficient * left.reconstruction / (loss + SMALL)
    factor = np.float32(2 * weight / n)
    none.extra.places[aux.dead] = np.arange(aux.dead.size)
    extra = Extra(none.extra.places, factor * dW_dec, factor * dW_enc, factor * db_enc)
    return none._replace(loss=weight * loss, extra=extra)


def _lengths(rows: np.ndarray) -> np.ndarray:
    """[B, 1]"""
    return np.asarray(np.sqrt(np.sum(np.square(rows), axis=1, keepdims=True)))
