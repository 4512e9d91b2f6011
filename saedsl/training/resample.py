"""Dead features start anew on tokens that the dictionary explains badly.

Anthropic, "Towards Monosemanticity" (2023), appendix "Neuron Resampling": each dead feature gets a token, chosen with
probability proportional to its squared loss; the token's direction becomes its decoder row and, at a fifth of the mean
length of the living encoder columns, its encoder column; its biases and moments become 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from saedsl.sae.dictionary import SAE
from saedsl.training.engine import Arrays, Form

TOKENS = 16384
"""A sample of so many tokens is scored; Anthropic's was of 819,200 for larger dictionaries."""
ENCODER_LENGTH = 0.2
"""Of a new encoder column, as a share of the mean length of the living ones."""


def token_losses(sae: SAE, x: np.ndarray, y: np.ndarray, scale: np.ndarray, batch: int = 2048) -> np.ndarray:
    """How badly each token is explained: ||(y - sae(x)) * scale||^2, [n] float64.

    Args:
        sae: of activations as they are.
        x: [n, d_in].
        y: [n, d_out], the targets.
        scale: [d_out], what training multiplies the targets by.
        batch: tokens at a time.
    """
    return np.concatenate([np.square(r, dtype=np.float64).sum(axis=1) for r in residuals(sae, x, y, scale, batch)])


def residuals(sae: SAE, x: np.ndarray, y: np.ndarray, scale: np.ndarray, batch: int = 2048) -> Iterator[np.ndarray]:
    """What is left of each token, in parts of `batch`: [n, d_out] float32; arguments as in `token_losses`."""
    for i in range(0, len(x), batch):
        yield (y[i : i + batch] - np.array(sae(mx.array(x[i : i + batch])))) * scale


def new_features(
    form: Form, w: Arrays, x: np.ndarray, left: np.ndarray, dead: np.ndarray, choose: np.random.Generator
) -> Arrays:
    """What the dead features become, as `Engine.replace_features` takes it.

    Args:
        form: the dictionary.
        w: its weights.
        x: [n, I] scaled activations.
        left: [n, O] the targets less what the dictionary makes of them, scaled. A transcoder's new rows are of these,
            an SAE's of the tokens themselves.
        dead: [m] the features.
        choose: decides the tokens.
    """
    losses = np.square(left, dtype=np.float64).sum(axis=1)
    chances = losses**2 + 1e-30
    tokens = choose.choice(len(x), len(dead), replace=len(dead) > len(x), p=chances / chances.sum())
    middle = w["b_dec"] if form.subtract_b_dec else x.mean(axis=0)
    inwards = _unit(x[tokens] - middle)
    alive = np.ones(w["W_enc"].shape[1], bool)
    alive[dead] = False
    lengths = np.linalg.norm(w["W_enc"][:, alive if alive.any() else slice(None)], axis=0)
    columns = ENCODER_LENGTH * float(lengths.mean()) * inwards
    bias = np.zeros(len(dead), np.float32) if form.subtract_b_dec else -(columns @ middle)
    rows: dict[str, np.ndarray] = {
        "W_enc": columns.T,
        "W_dec": inwards if form.subtract_b_dec else _unit(left[tokens]),
    }
    if form.activation == "gated":
        rows |= {"b_gate": bias, "b_mag": bias, "r_mag": np.zeros(len(dead))}
    else:
        rows["b_enc"] = bias
    if form.activation == "jumprelu":
        rows["log_threshold"] = np.full(len(dead), np.median(w["log_threshold"]))
    return {name: np.ascontiguousarray(value, np.float32) for name, value in rows.items()}


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)
