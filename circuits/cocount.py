"""Passes over sparse activations: what is counted, shared out among threads, by one of two engines.

`saedsl.circuits.cocount_kernels` (numba) where numba is installed, else `saedsl.circuits.cocount_portable` (numpy); a
test holds them equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from queue import SimpleQueue
from threading import Event
from typing import Any, Protocol, cast

import numpy as np

from saedsl.circuits.association import CODES, Margins, Measure, highest
from saedsl.circuits.firings import Index
from saedsl.circuits.shiftnull import BINS, Strata
from saedsl.training.threads import Crew

PARTS = 8
"""Parts of one pair of dictionaries that threads take in turn."""


@dataclass(frozen=True, eq=False)
class Task:
    """The pairs of features of one dictionary, or of two, in one pass."""

    a: Index
    """Of the sources i."""
    b: Index
    """Of the targets j."""
    within: bool
    """Whether both are one dictionary; a feature is no pair with itself."""
    halved: bool
    """Whether (i, j) and (j, i) are one pair, of which the one with the smaller i counts."""
    measure: Measure
    least: int
    """At how many tokens both have to fire."""
    to: np.ndarray
    """[tokens] int32: the token of the target by that of the source; -1 for none."""
    n: int
    """Tokens of sources that have one of the target."""
    margins_a: Margins
    margins_b: Margins
    class_a: np.ndarray
    """[a] int32, frequency classes."""
    class_b: np.ndarray
    """[b] int32"""
    strata: Strata
    logs: np.ndarray
    """`logarithms(n)`."""

    @cached_property
    def span(self) -> np.ndarray:
        """[tokens, 2]: where the entries of the target's token start and end, by the token of the source."""
        there = self.to >= 0
        token = np.where(there, self.to, 0)
        ends = np.stack([self.b.row_start[token], self.b.row_start[token + 1]], axis=1) * there[:, None]
        return ends.astype(np.uint32) if self.b.row_start[-1] < 1 << 32 else ends

    @property
    def measure_code(self) -> int:
        """What compiled code calls the measure."""
        return CODES[self.measure]

    @property
    def top(self) -> float:
        """What a score is at most."""
        return highest(self.measure, self.n)

    @property
    def scale(self) -> float:
        """Bins of a unit of the score."""
        return BINS / self.top

    @cached_property
    def rows(self) -> tuple[Rows, ...]:
        """Parts of about equal work."""
        borders = np.searchsorted(self.a.start, np.linspace(0, self.a.start[-1], PARTS + 1)[1:-1])
        edges = sorted({0, *borders.tolist(), len(self.a)})
        return tuple(Rows(self, first, last) for first, last in pairwise(edges))


@dataclass(frozen=True, eq=False)
class Rows:
    """Some features i of a task."""

    task: Task
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Found:
    """Pairs, in the order of i, then of j; by their numbers in the two `Index`es."""

    i: np.ndarray
    """[pairs] int32"""
    j: np.ndarray
    """[pairs] int32"""
    both: np.ndarray
    """[pairs] int64: at how many tokens both fire."""
    products: np.ndarray
    """[pairs] float64: sums of the products of their values; 0 for measures of firing alone."""

    @classmethod
    def room(cls, size: int) -> Found:
        """Room for as many pairs."""
        return cls(np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.int64), np.empty(size))

    @classmethod
    def joined(cls, parts: Sequence[Found]) -> Found:
        """Pairs of all parts, one after another."""
        names = ("i", "j", "both", "products")
        return cls(*(np.concatenate([getattr(p, name) for p in [cls.room(0), *parts]]) for name in names))

    def cut(self, n: int) -> Found:
        """The first n."""
        return Found(self.i[:n].copy(), self.j[:n].copy(), self.both[:n].copy(), self.products[:n].copy())

    def where(self, which: np.ndarray) -> Found:
        """Those of a mask or of numbers."""
        return Found(self.i[which], self.j[which], self.both[which], self.products[which])

    def __len__(self) -> int:
        return len(self.i)


@dataclass(frozen=True, eq=False)
class Scratch:
    """Arrays of one thread; the first two are 0 whenever no work uses them."""

    both: np.ndarray
    """[largest number of features] int32"""
    products: np.ndarray
    """[largest number of features] float64"""
    listed: np.ndarray
    """[largest number of features + 1] int32, of any content."""

    @classmethod
    def of(cls, size: int) -> Scratch:
        """For indexes of at most `size` features."""
        return cls(np.zeros(size, np.int32), np.zeros(size), np.empty(size + 1, np.int32))


class Engine(Protocol):
    """What counts; see `saedsl.circuits.cocount_portable`."""

    def tally(self, rows: Rows, scratch: Scratch, histogram: np.ndarray) -> None: ...
    def collect(self, rows: Rows, scratch: Scratch, border: np.ndarray, bins: int) -> Found: ...


def best_engine() -> Engine:
    """The fastest that is installed."""
    name = "cocount_kernels" if find_spec("numba") is not None else "cocount_portable"
    return cast(Engine, import_module(f"saedsl.circuits.{name}"))


def tally(tasks: Sequence[Task], crew: Crew, engine: Engine) -> np.ndarray:
    """How many pairs have a score in each bin, [strata, BINS] int64."""
    histograms: SimpleQueue[np.ndarray] = SimpleQueue()
    buffers = [np.zeros((len(tasks[0].strata), BINS), np.int64) for _ in range(crew.size)]
    for buffer in buffers:
        histograms.put(buffer)

    def work(rows: Rows, scratch: Scratch) -> None:
        own = histograms.get()
        try:
            engine.tally(rows, scratch, own)
        finally:
            histograms.put(own)

    _each(tasks, crew, work)
    for buffer in buffers[1:]:
        buffers[0] += buffer
    return buffers[0]


def collect(tasks: Sequence[Task], crew: Crew, engine: Engine, border: np.ndarray) -> list[Found]:
    """The pairs of each task whose score is in a bin not below their stratum's border [strata]; -1 takes all."""
    parts = iter(_each(tasks, crew, lambda rows, scratch: engine.collect(rows, scratch, border, BINS)))
    return [Found.joined([next(parts) for _ in task.rows]) for task in tasks]


def _each(tasks: Sequence[Task], crew: Crew, work: Any) -> list[Any]:
    """`work` on every part of every task; an exception or Ctrl-C ends all threads at their next part."""
    todo = [rows for task in tasks for rows in task.rows]
    stop = Event()
    scratches: SimpleQueue[Scratch] = SimpleQueue()
    size = max(len(task.b) for task in tasks)
    for _ in range(crew.size):
        scratches.put(Scratch.of(size))

    def one(number: int, part: slice) -> Any:
        if stop.is_set():
            return None
        scratch = scratches.get()
        try:
            return work(todo[number], scratch)
        except BaseException:
            stop.set()
            raise
        finally:
            scratches.put(scratch)

    return crew.each(one, [slice(i, i + 1) for i in range(len(todo))])
