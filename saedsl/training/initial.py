"""Where training starts: the weights of every form, from a sample of the data, in numpy for every engine.

Decoder rows are half way between random directions and those in which tokens lie, which features then find sooner. They
have unit length; the encoder is their transpose (arXiv:2406.04093, appendix A.1), `b_dec` is the middle of the data,
and encoder biases put the middle of the input at a pre-activation of 0. A transcoder's encoder columns are random; its
decoder rows are where the best linear map takes them. JumpReLU's thresholds start at the
standard deviation of a feature's pre-activation, where about a sixth of the features fire: arXiv:2407.14435 starts them
near 0, but then billions of tokens pass before Adam, which moves their logarithm by the learning rate a step, has
raised them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from saedsl.errors import TrainingError
from saedsl.training.engine import Arrays, Form

BiasInit = Literal["mean", "geometric_median", "zeros"]
FEW = 1024
"""Tokens that the first thresholds are of."""


def initial_weights(
    form: Form, x: np.ndarray, y: np.ndarray, d_sae: int, seed: int, b_dec_init: BiasInit = "mean"
) -> Arrays:
    """The weights before the first step: equal for equal arguments.

    Args:
        form: the dictionary.
        x: [n, I] float32, a sample of the input, scaled already.
        y: [n, O] float32, the targets of the same tokens; `x` itself for an SAE or a crosscoder.
        d_sae: number of features F, over all layers.
        seed: of the directions.
        b_dec_init: what `b_dec` is of the targets, and what the encoder centres the input at.

    Returns:
        Contiguous float32 arrays, named and shaped as `saedsl.training.engine.Arrays` says.

    Raises:
        TrainingError: if the widths do not fit the form.
    """
    _check(form, x, y, d_sae)
    rng = np.random.default_rng([seed, 0])
    n_layers, same = form.layers, y is x
    d_in, d_out, n = x.shape[1] // n_layers, y.shape[1] // n_layers, d_sae // n_layers
    b_dec = centre(y, b_dec_init)
    middle = b_dec if same else centre(x, b_dec_init)
    directions = _unit(rng.standard_normal((d_sae, d_in)).astype(np.float32))
    if same and n_layers == 1:
        directions = _unit(directions + _unit(x[rng.integers(len(x), size=d_sae)] - middle))
    rows, bias = np.zeros((d_sae, y.shape[1]), np.float32), np.zeros(d_sae, np.float32)
    for layer in range(n_layers):
        features, columns = slice(layer * n, (layer + 1) * n), slice(layer * d_in, (layer + 1) * d_in)
        mine = directions[features]
        if same and n_layers == 1:
            rows[features] = mine
        else:
            written = slice(layer * d_out, None)
            rows[features, written] = _unit(_taken(mine, x[:, columns], y[:, written], rng))
        if not form.subtract_b_dec:
            bias[features] = -(mine @ middle[columns])
    weights = {"W_enc": directions.T, "W_dec": rows, "b_dec": b_dec}
    if form.activation == "gated":
        weights |= {"b_gate": bias, "r_mag": np.zeros(d_sae), "b_mag": bias}
    else:
        weights["b_enc"] = bias
    if form.activation == "jumprelu":
        some = (x - middle)[:: max(len(x) // FEW, 1)]
        spread = np.concatenate([
            np.sqrt(np.square(some[:, i * d_in : (i + 1) * d_in] @ directions[i * n : (i + 1) * n].T).mean(axis=0))
            for i in range(n_layers)
        ])  # fmt: skip
        weights["log_threshold"] = np.log(np.maximum(spread, 1e-6))
    if form.skip:
        weights["W_skip"] = np.zeros((y.shape[1], x.shape[1]))
    return {name: np.array(value, np.float32, order="C") for name, value in weights.items()}


def centre(y: np.ndarray, kind: BiasInit) -> np.ndarray:
    """The middle of the rows of `y` [n, O], [O] float32."""
    if kind == "zeros":
        return np.zeros(y.shape[1], np.float32)
    mean = y.mean(axis=0, dtype=np.float64)
    return (mean if kind == "mean" else _geometric_median(y, mean)).astype(np.float32)


def _geometric_median(y: np.ndarray, start: np.ndarray, tolerance: float = 1e-6, limit: int = 100) -> np.ndarray:
    """The point with the least summed distance to the rows of `y` [n, O], by Weiszfeld's iteration from `start` [O].

    Stops after `limit` iterations, or once one moves by less than `tolerance` of the mean distance.
    """
    point, rows = start, y.astype(np.float64)
    for _ in range(limit):
        distances = np.linalg.norm(rows - point, axis=1)
        spread = float(distances.mean())
        if spread == 0:
            return point
        closeness = 1 / np.maximum(distances, 1e-9 * spread)  # a row that the point has met does not divide by 0
        new = closeness @ rows / closeness.sum()
        moved, point = float(np.linalg.norm(new - point)), new
        if moved < tolerance * spread:
            break
    return point


def _taken(directions: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where the best linear map from `x` [n, I] to `y` [n, O], both centred, takes `directions` [F, I]: [F, O].

    A little noise keeps rows that it would send to 0 apart from one another.
    """
    linear = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(axis=0), rcond=1e-4)[0]
    noise = rng.standard_normal((len(directions), y.shape[1])).astype(np.float32)
    return np.asarray(directions @ linear + 1e-3 * noise, np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    """`rows` with length 1, but for those that are 0."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _check(form: Form, x: np.ndarray, y: np.ndarray, d_sae: int) -> None:
    if len(x) != len(y):
        raise TrainingError(f"{len(x)} inputs but {len(y)} targets; they must be of the same tokens")
    if form.subtract_b_dec and x.shape[1] != y.shape[1]:
        raise TrainingError(
            f"b_dec has {y.shape[1]} entries and cannot be subtracted from inputs of {x.shape[1]}; "
            "leave subtract_b_dec off"
        )
    for name, size in (("inputs", x.shape[1]), ("targets", y.shape[1]), ("features", d_sae)):
        if size % form.layers:
            raise TrainingError(f"{size} {name} do not divide into {form.layers} layers")
    ends = form.prefixes
    if ends and (ends[-1] != d_sae or list(ends) != sorted(set(ends)) or ends[0] < 1):
        raise TrainingError(f"prefixes {list(ends)} do not ascend to the {d_sae} features there are")
