"""Train one TopK or BatchTopK dictionary, SAE or transcoder, on activations in memory.

Decoder rows have unit length throughout, `b_dec` starts at the mean of the data, the encoder at the decoder's
transpose; dead features are revived by the auxiliary loss (arXiv:2406.04093). Activations are scaled to unit
variance; the scale is folded into the result, which takes activations as the model makes them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from math import cos, pi, sqrt
from typing import Protocol

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.sae.config import DictionaryConfig, freeze_metadata
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.training.config import SAEConfig
from saedsl.training.data import Activations, as_matrix
from saedsl.training.kernels import (
    Moments,
    Weights,
    adam,
    clip,
    project,
    select_batch_top_k,
    select_top_k,
    unit_rows,
)
from saedsl.training.losses import Aux, losses, pre_activations

REPORTS = 100
"""Points of the loss curve that are kept."""


@dataclass(frozen=True)
class Point:
    """One place on the loss curve."""

    step: int
    """From 1."""
    loss: float
    """Reconstruction loss of the batch as a share of the variance: 1 is predicting the mean."""
    l0: float
    """Features per token."""
    dead: int
    """Features that had not fired for the dead window."""


@dataclass(frozen=True)
class Report:
    """What happened in a training run."""

    steps: int
    """Batches."""
    tokens: int
    """Tokens seen, repeats counted."""
    seconds: float
    """Wall time."""
    curve: tuple[Point, ...]
    """At most 100 points, the last step among them."""


@dataclass(frozen=True)
class Trained:
    """The dictionary and how it came to be."""

    sae: SAE
    """In the units of the activations that were given."""
    report: Report
    """Loss curve and costs."""


@dataclass(frozen=True)
class Origin:
    """Where the activations come from; kept in the dictionary's config."""

    site: Site | None = None
    """Where the activations were read."""
    target_site: Site | None = None
    """Where a transcoder's targets were read."""
    model_name: str | None = None
    """The model."""
    context_size: int | None = None
    """Tokens per context."""
    trained_on_bos: bool = False
    """Whether activations of the beginning-of-sequence token are among them."""


def train(
    activations: Activations,
    config: SAEConfig,
    *,
    targets: Activations | None = None,
    origin: Origin = Origin(),
    progress: bool = True,
) -> Trained:
    """Train a dictionary. Equal arguments give equal weights on the same machine.

    Args:
        activations: [tokens, d_in], any order; they are shuffled here.
        config: the settings.
        targets: [tokens, d_out], of the same tokens, for a transcoder.
        origin: where they come from.
        progress: whether a bar is drawn on stderr, if that is a terminal.

    Raises:
        TrainingError: if there are fewer tokens than one batch, they are not finite, do not vary or do not
            match, or the loss stops being finite.
    """
    x = as_matrix(activations, "activations")
    y = x if targets is None else as_matrix(targets, "targets")
    if len(x) != len(y):
        raise TrainingError(f"{len(x)} activations but {len(y)} targets; they must be of the same tokens")
    if len(x) < config.batch_size:
        raise TrainingError(f"{len(x)} tokens are fewer than one batch of {config.batch_size}; lower batch_size")
    run = _Run(config, x, y, is_transcoder=targets is not None)
    started = time.perf_counter()
    curve: list[Point] = []
    with _bar(progress, run.steps) as bar:
        for step in range(1, run.steps + 1):
            point = run.step(step, report=step == run.steps or step % max(run.steps // REPORTS, 1) == 0)
            if point is not None:
                curve.append(point)
                bar.show(point)
    report = Report(run.steps, run.steps * config.batch_size, time.perf_counter() - started, tuple(curve[-REPORTS:]))
    return Trained(run.finish(origin), report)


def rate_at(step: int, steps: int, config: SAEConfig, peak: float) -> float:
    """The learning rate of step `step` of `steps`, counted from 1: warm-up, plateau, decay towards 0."""
    warm_up = min(config.lr_warm_up_steps, steps // 10)
    if step <= warm_up:
        return peak * step / warm_up
    decay = int(steps * config.lr_decay_share)
    if config.lr_scheduler == "constant" or step <= steps - decay:
        return peak
    left = (steps - step + 1) / (decay + 1)
    return peak * left if config.lr_scheduler == "linear" else peak * (1 - cos(pi * left)) / 2


def batches(n: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers [size] for ever: every pass is a new order of all `n` rows, without the rest."""
    rng = np.random.default_rng([seed, 1])
    while True:
        order = rng.permutation(n)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]


def initial_weights(x: np.ndarray, y: np.ndarray, d_sae: int, seed: int, is_transcoder: bool) -> Weights:
    """Random unit decoder rows, the encoder tied to them, biases that centre the data.

    A transcoder's encoder columns are random; its decoder rows are where the best linear map takes them.

    Args:
        x: [n, d_in], scaled.
        y: [n, d_out], scaled; `x` itself for an SAE.
        d_sae: number of features.
        seed: of the directions.
        is_transcoder: whether the encoder reads `x` as it is, without `b_dec` taken off.
    """
    rng = np.random.default_rng([seed, 0])
    directions = rng.standard_normal((d_sae, x.shape[1])).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    rows, b_enc = directions, np.zeros(d_sae, np.float32)
    if is_transcoder:
        linear = np.linalg.lstsq(x - mean_x, y - mean_y, rcond=1e-4)[0]
        rows = directions @ linear + 1e-3 * rng.standard_normal((d_sae, y.shape[1])).astype(np.float32)
        b_enc = -(directions @ mean_x)
    weights = {"W_enc": directions.T, "b_enc": b_enc, "W_dec": rows, "b_dec": mean_y}
    return unit_rows({name: mx.array(np.ascontiguousarray(value, np.float32)) for name, value in weights.items()})


class _Run:
    """The state of one training: weights, moments, and when each feature fired last."""

    def __init__(self, config: SAEConfig, x: np.ndarray, y: np.ndarray, is_transcoder: bool) -> None:
        self.config, self.x, self.y, self.is_transcoder = config, x, y, is_transcoder
        self.d_sae = config.features(x.shape[1])
        tokens = len(x) // config.batch_size * config.batch_size * config.num_epochs
        self.steps = (config.num_tokens or tokens) // config.batch_size
        self.scale_x = _scale(x, "activations", config)
        self.scale_y = _scale(y, "targets", config) if is_transcoder else self.scale_x
        sample = np.random.default_rng([config.seed, 2]).permutation(len(x))[:16384]
        self.w = initial_weights(
            x[sample] * self.scale_x, y[sample] * self.scale_y, self.d_sae, config.seed, is_transcoder
        )
        self.variance = float((y[sample] * self.scale_y).var(axis=0, dtype=np.float64).sum())
        zeros = {name: mx.zeros_like(value) for name, value in self.w.items()}
        self.moments = Moments(zeros, dict(zeros))
        self.order = batches(len(x), config.batch_size, config.seed)
        self.silent = np.zeros(self.d_sae, np.int64)
        self.window = config.dead_window or min(10_000_000, self.steps * config.batch_size // 10)
        self.aux_k = config.aux_k or max(y.shape[1] // 2, 1)
        self.peak = config.rate(self.d_sae)
        self.threshold: float | None = None
        self.last = 0.0

    def step(self, step: int, report: bool) -> Point | None:
        """One batch; a point of the curve if `report`."""
        config, rows = self.config, next(self.order)
        x = mx.array(self.x[rows] * self.scale_x)
        y = mx.array(self.y[rows] * self.scale_y) if self.is_transcoder else x
        u, pre = pre_activations(self.w, x, not self.is_transcoder)
        select = partial(select_batch_top_k, hint=0.8 * self.last) if config.sae_type == "batchtopk" else select_top_k
        chosen = select(pre, config.k)
        dead = np.flatnonzero(self.silent >= self.window)
        aux = Aux(dead, self.aux_k, config.aux_coefficient)
        out = losses(self.w, u, pre, chosen, y, not self.is_transcoder, aux)
        g = clip(project(out.gradients, self.w), config.max_grad_norm)
        w, self.moments = adam(self.w, g, self.moments, rate_at(step, self.steps, config, self.peak), step)
        self.w = unit_rows(w)
        mx.eval(self.w, self.moments, out.fired, out.reconstruction, out.l0)
        self.silent = np.where(np.array(out.fired), 0, self.silent + config.batch_size)
        self._follow(chosen.threshold, step)
        if not report:
            return None
        loss = float(out.reconstruction)
        if not np.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {step}; lower learning_rate (now {self.peak:g})")
        return Point(step, loss / self.variance, float(out.l0), len(dead))

    def _follow(self, threshold: float, step: int) -> None:
        """Move the running mean of the threshold; early on it forgets faster, or the start would not fade."""
        self.last = threshold
        momentum = min(self.config.threshold_momentum, step / (step + 10))
        before = threshold if self.threshold is None else self.threshold
        self.threshold = momentum * before + (1 - momentum) * threshold

    def finish(self, origin: Origin) -> SAE:
        """The dictionary, with the scales folded in."""
        config, w = self.config, self.w
        batchtopk = config.sae_type == "batchtopk"
        return SAE(
            DictionaryConfig(
                d_in=self.x.shape[1],
                d_sae=self.d_sae,
                d_out=self.y.shape[1],
                activation=config.sae_type,
                k=config.k,
                kind="transcoder" if self.is_transcoder else "sae",
                input_site=origin.site,
                output_site=origin.target_site if self.is_transcoder else origin.site,
                apply_b_dec_to_input=not self.is_transcoder,
                model_name=origin.model_name,
                context_size=origin.context_size,
                trained_on_bos=origin.trained_on_bos,
                metadata=freeze_metadata({"training": asdict(config)}),
            ),
            W_enc=w["W_enc"] * self.scale_x,
            b_enc=w["b_enc"],
            W_dec=w["W_dec"] / self.scale_y,
            b_dec=w["b_dec"] / self.scale_y,
            threshold=mx.full((self.d_sae,), self.threshold or 0.0) if batchtopk else None,
        )


def _scale(x: np.ndarray, name: str, config: SAEConfig) -> float:
    """What brings `x` to unit variance per dimension, on average over dimensions."""
    variance = float(x.var(axis=0, dtype=np.float64).mean())
    if variance == 0:
        raise TrainingError(f"{name} are the same for all tokens; there is nothing to learn from")
    return 1 / sqrt(variance) if config.input_scale == "dataset" else 1.0


class _Bar(Protocol):
    def show(self, point: Point) -> None: ...


class _NoBar:
    def show(self, point: Point) -> None:
        """Nothing is drawn."""


def _bar(wanted: bool, steps: int) -> AbstractContextManager[_Bar]:
    if not wanted or not sys.stderr.isatty():
        return nullcontext(_NoBar())
    from saedsl.training.bar import RichBar

    return RichBar(steps)
