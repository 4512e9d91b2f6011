"""The steps of a run, from its first or next one to its last: batches, validation, checkpoints, Ctrl-C."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from saedsl.errors import SaedslWarning, TrainingError
from saedsl.training.checkpoint import (
    Checkpoint,
    check_same,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from saedsl.training.config import SAEConfig
from saedsl.training.engine import Arrays, Engine, Form, Parallel
from saedsl.training.jobs import Task, joined
from saedsl.training.learner import Learner
from saedsl.training.metrics import measure
from saedsl.training.report import POINTS, Point, Report, Validation
from saedsl.training.resample import token_losses
from saedsl.training.schedule import difficulty_pool
from saedsl.training.source import Batch, Source
from saedsl.training.stopping import Interrupted, Stop

SAMPLE = 16384
"""Tokens that means and scales are of, and tokens that are held out, at most."""
VALIDATIONS = 10
"""How often the held-out tokens are looked at."""


def make_engine(form: Form, weights: Arrays, parallel: Parallel | None = None) -> Engine:
    """The engine that trains `form`: the fast one where MLX computes on the CPU, numba is there and it can."""
    import mlx.core as mx

    from saedsl.training.portable import PortableEngine

    if parallel is None and mx.default_device() == mx.Device(mx.cpu) and find_spec("numba") is not None:
        from saedsl.training.fast import FastEngine

        if FastEngine.supports(form):
            return FastEngine(form, weights)
    return PortableEngine(form, weights, parallel)


@dataclass(frozen=True)
class Options:
    """How a run is gone about; the result does not depend on it."""

    resume: bool
    """Whether to go on from a checkpoint."""
    progress: bool
    """Whether a bar is drawn, on terminals."""
    parallel: Parallel | None
    """The processes that train together."""

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return self.parallel is None or self.parallel.rank == 0


class Run:
    """A training from its first or next step to its last."""

    def __init__(
        self,
        config: SAEConfig,
        tasks: Mapping[str, Task],
        source: Source,
        held: Source | None,
        steps: int,
        folder: Path | None,
        options: Options,
    ) -> None:
        self.config, self.tasks, self.source, self.held = config, tasks, source, held
        self.steps, self.folder, self.options = steps, folder, options
        found = None if folder is None else read_checkpoint(folder)
        if found is not None and folder is not None:
            if not options.resume:
                raise TrainingError(
                    f"{folder} holds a checkpoint of step {found.step}: resume it, or delete the folder to start anew"
                )
            check_same(folder, found.run, self._identity())
        sample = source.sample(SAMPLE)
        self.learners = {
            name: Learner(task, sample, steps, make_engine, options.parallel) for name, task in tasks.items()
        }
        self.cursor: Any = None
        self.start, self.seconds = 0, 0.0
        self.resumed: list[int] = []
        self.wandb_id: str | None = None
        if found is not None:
            self._restore(found)

    def go(self) -> None:
        """All steps that are left."""
        began = time.perf_counter()
        batches = self.source.batches(self.config.batch_size, self.config.seed, self.cursor)
        every = max(self.steps // POINTS, 1)
        check = max(self.steps // VALIDATIONS, 1)
        step = self.start
        try:
            with _bar(self.options, self.start, self.steps) as bar, self._log() as log, Stop() as stop:
                while step < self.steps:
                    step += 1
                    arrays = self._next(batches, step)
                    points = {name: learner.step(step, arrays) for name, learner in self.learners.items()}
                    del arrays
                    for name, learner in self.learners.items():
                        learner.resample(step, self.source)
                        if step % every == 0 or step == self.steps:
                            learner.curve.append(points[name])
                            log.point(name, points[name])
                    bar.show(step, next(iter(points.values())))
                    if self.held is not None and (step == self.steps or step % check == 0):
                        self._validate(step, log)
                    self.seconds += time.perf_counter() - began
                    began = time.perf_counter()
                    stopping = step < self.steps and self._agreed(stop.asked)
                    if stopping or step % self.config.checkpoint_every == 0 or step == self.steps:
                        kept = self._checkpoint(step)
                        if stopping:
                            raise Interrupted(self._stopped(step, kept))
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    def report(self, name: str) -> Report:
        """What is known of a dictionary's training."""
        learner = self.learners[name]
        return Report(
            steps=self.steps,
            tokens=self.steps * self.config.batch_size,
            seconds=self.seconds,
            d_sae=learner.task.d_sae,
            dead_window=learner.window,
            engine=type(learner.engine).__name__.removesuffix("Engine").lower(),
            curve=tuple(learner.curve),
            validation=tuple(learner.validation),
            resampled=learner.resampled,
            resumed=tuple(self.resumed),
        )

    def _next(self, batches: Iterator[Batch], step: int) -> Mapping[str, np.ndarray]:
        """The batch of `step`: the next one, or, early in a curriculum, the easiest tokens of several."""
        pool = [next(batches) for _ in range(difficulty_pool(step, self.steps, self.config))]
        self.cursor = pool[-1].cursor
        if len(pool) == 1:
            return pool[0].arrays
        arrays = {s: np.concatenate([b.arrays[s] for b in pool]) for s in pool[0].arrays}
        hard = sum((self._difficulty(learner, arrays, step) for learner in self.learners.values()), start=np.zeros(1))
        rows = np.sort(np.argsort(hard, kind="stable")[: self.config.batch_size])
        return {s: x[rows] for s, x in arrays.items()}

    def _difficulty(self, learner: Learner, arrays: Mapping[str, np.ndarray], step: int) -> np.ndarray:
        """[n] float64, larger for tokens that come later in the curriculum."""
        task, scales = learner.task, learner.scales
        x = joined(arrays, task.inputs)
        if self.config.curriculum == "norm":
            return np.asarray(np.square(x * scales.x, dtype=np.float64).sum(axis=1) / task.d_in)
        y = x if task.same else joined(arrays, task.outputs)
        return token_losses(learner.dictionary(step), x, y, scales.y) / scales.variance

    def _validate(self, step: int, log: _Log) -> None:
        assert self.held is not None
        sample = self.held.sample(SAMPLE)
        for name, learner in self.learners.items():
            task = learner.task
            x = joined(sample, task.inputs)[:SAMPLE]
            y = x if task.same else joined(sample, task.outputs)[:SAMPLE]
            e = measure(learner.dictionary(step), partial(_chunks, x, y))
            seen = Validation(step, e.tokens, e.explained_variance, e.mse, e.l0, e.l0_sparsity, e.l1, e.cosine, e.dead)
            learner.validation.append(seen)
            log.validation(name, seen)

    def _agreed(self, asked: bool) -> bool:
        """Whether any process was asked to stop."""
        p = self.options.parallel
        return asked if p is None else bool(p.sum(np.array([asked], np.float32))[0])

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        tasks = {name: task.identity() for name, task in self.tasks.items()}
        run = tasks["sae"] if list(tasks) == ["sae"] else {"jobs": tasks}
        return {**run, "data": self.source.identity}

    def _checkpoint(self, step: int) -> bool:
        """Write one, where there is a folder; whether it is there now."""
        if self.folder is None:
            return False
        values: dict[str, Any] = {}
        arrays: Arrays = {}
        for name, learner in self.learners.items():
            values[name], own = learner.state()
            arrays |= {f"{name}/{key}": x for key, x in own.items()}
        if not self.options.writes:
            return True
        values = {
            "cursor": self.cursor,
            "seconds": self.seconds,
            "resumed": self.resumed,
            "wandb_id": self.wandb_id,
            "learners": values,
        }
        try:
            write_checkpoint(self.folder, Checkpoint(step, self._identity(), values, arrays))
        except OSError as error:
            why = error.strerror or str(error)
            warnings.warn(
                f"{self.folder}: the checkpoint of step {step} cannot be written ({why}); "
                "the one before is kept and training goes on",
                SaedslWarning,
                stacklevel=2,
            )
            return False
        return True

    def _restore(self, found: Checkpoint) -> None:
        values = found.values
        for name, learner in self.learners.items():
            prefix = f"{name}/"
            own = {k.removeprefix(prefix): x for k, x in found.arrays.items() if k.startswith(prefix)}
            learner.restore(values["learners"][name], own)
        self.cursor, self.seconds, self.wandb_id = values["cursor"], values["seconds"], values["wandb_id"]
        self.start, self.resumed = found.step, [*values["resumed"], found.step]

    def _stopped(self, step: int, kept: bool) -> str:
        done = f"training was stopped after step {step} of {self.steps}"
        if self.folder is None:
            return f"{done}; nothing was kept: give a save_path or checkpoint_path to be able to go on"
        last = newest_checkpoint(self.folder)
        if last is None:
            return f"{done}; its checkpoint could not be written, and there is none before it"
        which = "" if kept else f" of step {last}"
        return f"{done}; {self.folder} holds the checkpoint{which}: start it again in the same way to go on"

    def _log(self) -> AbstractContextManager[_Log]:
        if not (self.config.use_wandb and self.options.writes):
            return nullcontext(_NoLog())
        from saedsl.training.wandb import WandbLog, run_id

        self.wandb_id = self.wandb_id or run_id()
        return WandbLog(self.config, self._identity(), self.wandb_id, single=len(self.tasks) == 1)


def _chunks(x: np.ndarray, y: np.ndarray, size: int = 2048) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((x[i : i + size], y[i : i + size]) for i in range(0, len(x), size))


class _Log(Protocol):
    def point(self, name: str, point: Point) -> None: ...
    def validation(self, name: str, seen: Validation) -> None: ...


class _NoLog:
    def point(self, name: str, point: Point) -> None:
        """Nothing is sent."""

    def validation(self, name: str, seen: Validation) -> None:
        """Nothing is sent."""


class _Bar(Protocol):
    def show(self, step: int, point: Point) -> None: ...


class _NoBar:
    def show(self, step: int, point: Point) -> None:
        """Nothing is drawn."""


def _bar(options: Options, start: int, steps: int) -> AbstractContextManager[_Bar]:
    if not (options.progress and options.writes and sys.stderr.isatty()):
        return nullcontext(_NoBar())
    from saedsl.training.bar import RichBar

    return RichBar(start, steps)
