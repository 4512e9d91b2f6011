"""One dictionary in training: its engine, and all that the schedule remembers of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from math import isfinite, sqrt
from typing import Any

import numpy as np

from saedsl.errors import TrainingError
from saedsl.sae.dictionary import SAE
from saedsl.training.config import L1_TYPES, TOPK_TYPES
from saedsl.training.engine import Arrays, Aux, Engine, Form, Outcome, Parallel, Settings
from saedsl.training.initial import initial_weights
from saedsl.training.jobs import Scales, Task, joined
from saedsl.training.report import Point, Validation
from saedsl.training.resample import TOKENS as RESAMPLED_ON
from saedsl.training.resample import new_features, residuals
from saedsl.training.rescale import rescaled
from saedsl.training.schedule import Steered, k_at, rate_at, sparsity_at, sparsity_steps
from saedsl.training.source import Source

MakeEngine = Callable[[Form, Arrays, Parallel | None], Engine]
FEATURE_AXES = {"W_enc": 1, "W_dec": 0, "b_enc": 0, "b_gate": 0, "r_mag": 0, "b_mag": 0, "log_threshold": 0}
"""Which axis of a weight, and of its moments, counts features; `b_dec` and `W_skip` have none."""
MAX_K_GROWTH = 8
"""Learnt k stays within this factor of where it starts."""


class Learner:
    """The state of one dictionary between steps."""

    def __init__(
        self,
        task: Task,
        sample: Mapping[str, np.ndarray],
        steps: int,
        make_engine: MakeEngine,
        parallel: Parallel | None = None,
    ) -> None:
        """
        Args:
            task: what is trained.
            sample: activations for means and scales.
            steps: of the whole run.
            make_engine: called with the form, the first weights and `parallel`.
            parallel: the other processes.
        """
        self.task, self.steps, self.parallel = task, steps, parallel
        c = task.config
        self.scales = Scales.of(task, sample)
        x = joined(sample, task.inputs, self.scales.x)
        y = x if task.same else joined(sample, task.outputs, self.scales.y)
        self._sample = sample if c.sae_type in L1_TYPES and c.rescale else None
        self._finished: SAE | None = None
        weights = initial_weights(task.form, x, y, task.d_sae, c.seed, c.b_dec_init)
        self.engine = make_engine(task.form, self._share(weights), parallel)
        self.window = c.dead_window or max(min(10_000_000, steps * c.batch_size // 10), 1)
        self.silent = np.zeros(task.d_sae, np.int64)
        self.peak = c.rate(task.d_sae)
        self.threshold: float | None = None
        self.l1 = c.l1_coefficient or 0.08 * sqrt(task.d_out)
        self.steered = Steered(float(c.k) if c.sae_type in TOPK_TYPES else self.l1)
        self.resampled = 0
        self.curve: list[Point] = []
        self.validation: list[Validation] = []

    def step(self, step: int, arrays: Mapping[str, np.ndarray]) -> Point:
        """One update, with this process's part of the batch.

        Raises:
            TrainingError: if the loss is not finite.
        """
        c, task = self.task.config, self.task
        part = {s: self._mine(arrays[s]) for s in {*task.inputs, *task.outputs}}
        x = joined(part, task.inputs, self.scales.x)
        y = x if task.same else joined(part, task.outputs, self.scales.y)
        settings = self._settings(step)
        out = self.engine.step(x, y, settings)
        losses = out.reconstruction, out.sparsity, out.aux
        if not all(isfinite(v) for v in losses):
            total = sum(losses)
            raise TrainingError(f"the loss is {total} at step {step}; lower learning_rate (now {self.peak:g})")
        dead = int(np.count_nonzero(self.silent >= self.window))
        self.silent = np.where(self._whole_vector(out.fired), 0, self.silent + c.batch_size)
        point = self._point(step, out, settings, dead)
        self._follow(step, out, point)
        return point

    def resample(self, step: int, source: Source) -> int:
        """Let dead features start anew where `step` is one for it; how many did."""
        c, task = self.task.config, self.task
        if c.resample_every is None or step / self.steps > c.resample_until:
            return 0
        seen = step * c.batch_size
        if seen // c.resample_every == (seen - c.batch_size) // c.resample_every:
            return 0
        dead = np.flatnonzero(self.silent >= self.window)
        if not dead.size:
            return 0
        sample = source.sample(RESAMPLED_ON)
        raw, want = joined(sample, task.inputs), joined(sample, task.outputs)
        left = np.concatenate([*residuals(self.dictionary(step), raw, want, self.scales.y)])
        rows = new_features(
            task.form, self.weights(), raw * self.scales.x, left, dead, np.random.default_rng([c.seed, 3, step])
        )
        self.engine.replace_features(dead.astype(np.int32), rows)
        self.silent[dead] = 0
        self.resampled += dead.size
        return int(dead.size)

    def dictionary(self, step: int) -> SAE:
        """The dictionary after `step`, of the model's own activations."""
        sae = self.task.dictionary(self.weights(), self.scales, self.threshold or 0.0, self._k(step))
        if self._sample is None or step < self.steps:
            return sae
        if self._finished is None:  # asked for by the last validation and for the result
            x, y = joined(self._sample, self.task.inputs), joined(self._sample, self.task.outputs)
            self._finished = rescaled(sae, x, y, self.scales.y)
        return self._finished

    def weights(self) -> Arrays:
        """Copies of the weights, of all processes."""
        return self._whole(self.engine.weights())

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """All that changes: JSON values and arrays."""
        values = {
            "threshold": self.threshold,
            "steered": asdict(self.steered),
            "resampled": self.resampled,
            "curve": [asdict(p) for p in self.curve],
            "validation": [asdict(v) for v in self.validation],
            "variance": self.scales.variance,
        }
        arrays = {f"engine.{name}": value for name, value in self._whole(self.engine.state()).items()}
        return values, arrays | {"silent": self.silent, "scale.x": self.scales.x, "scale.y": self.scales.y}

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state`."""
        self.threshold = values["threshold"]
        self.steered = Steered(**values["steered"])
        self.resampled = values["resampled"]
        self.curve = [Point(**p) for p in values["curve"]]
        self.validation = [Validation(**v) for v in values["validation"]]
        self.scales = Scales(arrays["scale.x"], arrays["scale.y"], values["variance"])
        self.silent = arrays["silent"].copy()
        prefix = "engine."
        state = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
        self.engine.restore(self._share(state))

    def _settings(self, step: int) -> Settings:
        c = self.task.config
        topk = c.sae_type in TOPK_TYPES
        sparsity = 0.0
        if c.sae_type in L1_TYPES:
            weight = self.steered.now if c.target_l0 is not None else self.l1
            sparsity = weight * sparsity_at(step, self.steps, c)
        elif c.sae_type == "jumprelu":
            default = self.task.d_out * (1e-3 if c.target_l0 is None else 1.0)
            sparsity = (c.l0_coefficient or default) * sparsity_at(step, self.steps, c)
        return Settings(
            step=step,
            rate=rate_at(step, self.steps, c, self.peak),
            k=self._k(step) if topk else 0.0,
            sparsity=sparsity,
            target_l0=c.target_l0 if c.sae_type == "jumprelu" else None,
            bandwidth=c.bandwidth or sqrt(self.task.d_out) / 1000,
            aux=self._aux(),
            max_grad_norm=c.max_grad_norm,
            betas=c.adam_betas,
            factors=c.rate_factors(self.task.d_in // self.task.form.layers),
        )

    def _k(self, step: int) -> float:
        c = self.task.config
        if c.target_variance is not None:
            return min(max(self.steered.now, 1.0), float(self.task.d_sae))
        return k_at(step, c, self.task.d_sae)

    def _aux(self) -> Aux | None:
        c = self.task.config
        dead = np.flatnonzero(self.silent >= self.window).astype(np.int32)
        if not dead.size or not c.revival():
            return None
        k = c.aux_k or max(self.task.d_out // 2, 1)
        return Aux(dead, k, c.revival(), "ghost" if c.use_ghost_grads else "auxk")

    def _point(self, step: int, out: Outcome, settings: Settings, dead: int) -> Point:
        return Point(
            step=step,
            reconstruction=out.reconstruction,
            sparsity=out.sparsity,
            aux=out.aux,
            explained_variance=1 - out.reconstruction / self.scales.variance,
            l0=out.l0,
            l0_sparsity=out.l0 / self.task.d_sae,
            l1=out.l1,
            dead=dead,
            rate=settings.rate,
            k=settings.k,
            coefficient=settings.sparsity,
        )

    def _follow(self, step: int, out: Outcome, point: Point) -> None:
        """Move the running mean of the threshold, and what is steered."""
        c = self.task.config
        if self.task.form.activation == "batchtopk":
            # early on it forgets faster, or the start would not fade
            momentum = min(c.threshold_momentum, step / (step + 10))
            before = out.threshold if self.threshold is None else self.threshold
            self.threshold = momentum * before + (1 - momentum) * out.threshold
        if c.target_variance is not None and step > min(c.lr_warm_up_steps, self.steps // 10):
            limits = max(c.k / MAX_K_GROWTH, 1.0), float(min(c.k * MAX_K_GROWTH, self.task.d_sae))
            missing = 1 - point.explained_variance
            self.steered = self.steered.seen(missing, 1 - c.target_variance, self.steps, limits)
        if c.target_l0 is not None and c.sae_type in L1_TYPES and step > sparsity_steps(self.steps, c):
            limits = self.l1 * 1e-4, self.l1 * 1e4
            self.steered = self.steered.seen(point.l0, c.target_l0, self.steps, limits)

    def _mine(self, x: np.ndarray) -> np.ndarray:
        """This process's part of a batch."""
        p = self.parallel
        if p is None or p.split != "data":
            return x
        size = len(x) // p.size
        return x[p.rank * size : (p.rank + 1) * size]

    def _share(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """This process's part of weights or of state."""
        p = self.parallel
        if p is None or p.split != "latents":
            return dict(arrays)
        n = self.task.d_sae // p.size
        out = {}
        for name, value in arrays.items():
            axis = FEATURE_AXES.get(name.removeprefix("m.").removeprefix("v."))
            rows = slice(p.rank * n, (p.rank + 1) * n)
            out[name] = value if axis is None else np.ascontiguousarray(value[(slice(None),) * axis + (rows,)])
        return out

    def _whole(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """The inverse of `_share`, from all processes."""
        p = self.parallel
        if p is None or p.split != "latents":
            return dict(arrays)
        out = {}
        for name, value in sorted(arrays.items()):
            axis = FEATURE_AXES.get(name.removeprefix("m.").removeprefix("v."))
            out[name] = value if axis is None else np.concatenate([*p.gather(value)], axis=axis)
        return out

    def _whole_vector(self, values: np.ndarray) -> np.ndarray:
        """[F] from what a process has of it."""
        p = self.parallel
        if p is None or p.split != "latents" or len(values) == self.task.d_sae:
            return values
        return np.concatenate([*p.gather(values)])
