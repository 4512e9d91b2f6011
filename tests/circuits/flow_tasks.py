"""Small tasks for the tests of effects and edges, and the same in float64 numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from saedsl.circuits.metric import TokenDifference
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from tests import tiny

CLEAN = [0, 5, 9, 2, 30, 7, 11, 3]
CORRUPT = [0, 5, 17, 2, 30, 40, 11, 3]
METRIC = TokenDifference(((4,),), ((8,),), text="4 - 8")
Site = str
Edits = Mapping[Site, tiny.Edit]


def value(logits: tiny.Array) -> float:
    """`METRIC` in numpy."""
    return float(logits[-1, 4] - logits[-1, 8])


def run(model: InterpretableModel, ids: Sequence[int] = CLEAN, edits: Edits | None = None) -> float:
    """The metric of one edited forward."""
    return value(tiny.forward(model.model, ids, edits)[0])


def shift(position: int, delta: np.ndarray) -> tiny.Edit:
    """Moves one position."""

    def edit(x: tiny.Array) -> tiny.Array:
        x = x.copy()
        x[position] += delta
        return x

    return edit


def slope(of: Callable[[float], float], h: float = 1e-5) -> float:
    """Central difference at 0."""
    return (of(h) - of(-h)) / (2 * h)


def without_b_dec(sae: SAE) -> SAE:
    """The same dictionary with a decoder that writes nothing of its own."""
    return SAE(**{**vars_of(sae), "b_dec": mx.zeros(sae.b_dec.shape)})  # type: ignore[arg-type]


def vars_of(sae: SAE) -> dict[str, object]:
    names = ("config", "W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip", "b_gate", "r_mag", "b_mag")
    return {name: getattr(sae, name) for name in names}
