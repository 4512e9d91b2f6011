"""Rows of a statement, run: in few forwards, each with the metrics that it is read for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from saedsl.anatomy import ModelInfo
from saedsl.batching import Budget, groups, padded
from saedsl.execute import StepFunctions, needs_shadow, skips_of
from saedsl.lanes import Row
from saedsl.metrics import Continued, Reading, continuations, joint, value
from saedsl.plan import PlannedPrompt
from saedsl.program import Program, terms
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.sources import Sources
from saedsl.trace import Hooks

Key = tuple[tuple[int, ...], tuple[int, ...]]
"""(tokens, their positions): rows without edits that share it are one."""


def key_of(row: Row) -> Key:
    """What a row without edits is known by."""
    return row.tokens, tuple(row.positions(0, len(row.tokens)))


@dataclass(frozen=True, eq=False)
class Job:
    """One row, and the prompts whose metrics are read from it."""

    row: Row
    prompts: tuple[PlannedPrompt, ...]
    """Several for a row without edits that several steps share."""
    nexts: tuple[int, ...]
    """The row's tokens and the one that follows the last, if it is known."""


@dataclass(frozen=True, eq=False)
class Ran:
    """A job that has run."""

    job: Job
    reading: Reading
    functions: StepFunctions
    values: tuple[dict[str, float], ...]
    """The metrics of each of its prompts, by name."""

    @property
    def last(self) -> np.ndarray:
        """Logits [d_vocab] float32 behind the last token."""
        return np.array(self.reading.logits[len(self.job.row.tokens) - 1].astype(mx.float32))


@dataclass(frozen=True)
class Engine:
    """A model with what a plan needs to run on it."""

    model: nn.Module
    info: ModelInfo
    program: Program
    weights: Mapping[str, SAE]
    budget: Budget
    sources: Sources | None = None

    def batch(self, rows: Sequence[Row], paired: bool = False, captures: Collection[Site] = ()) -> Batch:
        """Rows of one statement with what they are held against.

        Args:
            rows: those without edits that others are held against among them.
            paired: of 2 n rows, row n + i is held against row i; else against one with the same tokens.
            captures: sites to keep beside those that records and metrics need.
        """
        held = any(r.edited and needs_shadow(r.step) for r in rows)
        shadows = list(range(len(rows)))
        if held and paired:
            shadows = [i % (len(rows) // 2) for i in shadows]
        elif held:
            first = {key_of(r): i for i, r in reversed(list(enumerate(rows))) if not r.edited}
            shadows = [i if not r.edited else first[key_of(r)] for i, r in enumerate(rows)]
        functions = StepFunctions(rows, self.program, self.weights, self.sources, shadows if held else None)
        step = rows[-1].step
        hooks = Hooks(
            self.model, self.info, functions.functions, {*functions.captures, *captures},
            step.mode if held else "iterative", shadows if held else None,
            skips_of([r.step for r in rows], self.program, self.weights) if held and step.mode == "direct" else None,
        )  # fmt: skip
        return Batch(rows, functions, hooks)

    def run(self, jobs: Sequence[Job], started: Callable[[Sequence[Job]], None] | None = None) -> Iterator[Ran]:
        """Run jobs of one statement, those without edits first. Those that edits are compared with run unasked.

        Args:
            jobs: no two without edits that have the same tokens at the same positions.
            started: called with the jobs of each forward before it runs.
        """
        joints = dict(self._joints(jobs))
        known = {key_of(j.row) for j in jobs if not j.row.edited}
        compared: dict[Key, set[int]] = {}
        every = list(jobs)
        for j in jobs:
            if j.row.edited and (at := _compared(j)):
                compared.setdefault(key_of(j.row), set()).update(at)
                if key_of(j.row) not in known:
                    known.add(key_of(j.row))
                    every.append(Job(replace(j.row, edited=False), (), j.nexts))
        asked = set(map(id, jobs))
        kept: dict[Key, dict[int, np.ndarray]] = {}
        for j, reading, functions in self._forwards(every, started):
            key = key_of(j.row)
            if not j.row.edited and key in compared:
                kept[key] = {i: np.array(reading.logits[i].astype(mx.float32)) for i in compared[key]}
            if id(j) not in asked:
                continue
            reading = replace(reading, unedited=kept.get(key)) if j.row.edited else reading

            def other(c: Continued, j: Job = j) -> float:
                return joints[id(j), c]

            values = tuple({m.metric.name: value(m, reading, j.nexts, other) for m in p.metrics} for p in j.prompts)
            yield Ran(j, reading, functions, values)

    def _joints(self, jobs: Sequence[Job]) -> Iterator[tuple[tuple[int, Continued], float]]:
        """Log-probabilities of texts behind positions of jobs, by the job and the text."""
        extra: dict[tuple[bool, int, Continued], tuple[Job, list[Job]]] = {}
        for j in jobs:
            for c in (c for p in j.prompts for c in continuations(j.row, p.metrics)):
                row = replace(j.row, ids=c.ids, places=c.places)
                found = extra.setdefault((j.row.edited, id(j) if j.row.edited else 0, c), (Job(row, (), c.ids), []))
                found[1].append(j)
        of = {id(job): (c, users) for (_, _, c), (job, users) in extra.items()}
        for job, reading, _ in self._forwards([job for job, _ in extra.values()], None):
            c, users = of[id(job)]
            found_joint = joint(reading, c)
            for j in users:
                yield (id(j), c), found_joint

    def _forwards(
        self, jobs: Sequence[Job], started: Callable[[Sequence[Job]], None] | None
    ) -> Iterator[tuple[Job, Reading, StepFunctions]]:
        """Every job once: those without edits before those with the same tokens that are edited."""
        plain = {key_of(j.row): j for j in jobs if not j.row.edited}
        edited = [j for j in jobs if j.row.edited]
        held = [j for j in edited if needs_shadow(j.row.step)]
        shadow = {key_of(j.row): plain.get(key_of(j.row)) or Job(replace(j.row, edited=False), (), ()) for j in held}
        alone = [j for key, j in plain.items() if key not in shadow]
        for some in self._grouped(alone):
            yield from self._forward(some, started)
        for some in self._grouped([j for j in edited if j not in held]):
            yield from self._forward(some, started)
        numbers = dict(zip(shadow, count()))
        done: set[Key] = set()
        lengths = [len(j.row.tokens) for j in held]
        for indices in groups(lengths, self.budget, [numbers[key_of(j.row)] for j in held]):
            mine = [held[i] for i in indices]
            keys = list(dict.fromkeys(key_of(j.row) for j in mine))
            for found in self._forward([*(shadow[k] for k in keys), *mine], started):
                key = key_of(found[0].row)
                if found[0].row.edited or (key in plain and key not in done):
                    yield found
            done.update(keys)

    def _grouped(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        for some in groups([len(j.row.tokens) for j in jobs], self.budget):
            yield [jobs[i] for i in some]

    def _forward(
        self, jobs: Sequence[Job], started: Callable[[Sequence[Job]], None] | None
    ) -> Iterator[tuple[Job, Reading, StepFunctions]]:
        if started is not None:
            started(jobs)
        batch = self.batch([j.row.fixed for j in jobs])
        logits, frame = batch.hooks(padded([j.row.tokens for j in jobs]))
        mx.eval(logits, *frame.arrays)
        for i, j in enumerate(jobs):
            yield j, Reading(batch.rows[i], i, logits[i], frame), batch.functions

    def plain(
        self, texts: Sequence[tuple[int, ...]], sites: frozenset[Site]
    ) -> Iterator[tuple[int, Mapping[Site, mx.array]]]:
        """Activations of the model as it is: see `sources.Plain`."""
        hooks = Hooks(self.model, self.info, captures=sites)
        for some in groups([len(t) for t in texts], self.budget):
            _, frame = hooks(padded([texts[i] for i in some]))
            mx.eval(*frame.captured.values())
            for row, i in enumerate(some):
                yield i, {site: _own(x, site, row, len(texts[i]), self.info) for site, x in frame.captured.items()}


@dataclass(frozen=True)
class Batch:
    """Rows of one forward, and what is installed for them."""

    rows: Sequence[Row]
    functions: StepFunctions
    hooks: Hooks


def _own(x: mx.array, site: Site, row: int, length: int, info: ModelInfo) -> mx.array:
    """The activation [1, length, width] of one row of a padded batch."""
    own = x[row : row + 1, :length]
    if site.component == "attn.pattern":
        own = own.reshape(1, length, info.n_heads, -1)[..., :length].reshape(1, length, -1)
    mx.eval(own)
    return own


def _compared(j: Job) -> set[int]:
    """Indices of tokens where a job's metrics need the distribution without edits."""
    positions = j.row.positions(0, len(j.row.tokens))
    wanted = [m for p in j.prompts for m in p.metrics if any(t.function == "kl" for t in terms(m.metric.value))]
    return {i for i, p in enumerate(positions) for m in wanted if p in m.positions}
