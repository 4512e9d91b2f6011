"""Threads that share out a step of `saedsl.training.fast`: which thread does which part never changes a result.

Every part writes places of its own, and what parts sum up is added in the order of the parts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import count
from typing import TypeVar

Result = TypeVar("Result")
ROWS = 32
"""Tokens that a thread takes at a time where they cost little, at least."""
PARTS = 32
"""Into how many parts such work is split, at most: taking one costs some microseconds, and Python's lock."""


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parts(n: int, size: int) -> list[slice]:
    """0 to `n` in slices of `size`, the last one shorter."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def shares(n: int, at_least: int = ROWS) -> list[slice]:
    """0 to `n` in up to `PARTS` slices of `at_least` or more; how many threads there are makes no difference."""
    return parts(n, max(at_least, -(-n // PARTS)))


class Crew:
    """This thread and helpers, one a core; worth it for work that lets go of Python's lock."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._helpers = ThreadPoolExecutor(size - 1, "saedsl-step") if size > 1 else None

    def each(self, work: Callable[[int, slice], Result], of: Sequence[slice]) -> list[Result]:
        """`work(i, of[i])` for every i; whoever is free takes the next, in this thread's context."""
        found: dict[int, Result] = {}
        numbers = count()

        def take() -> None:
            while (i := next(numbers)) < len(of):
                found[i] = work(i, of[i])

        helpers = min(self.size, len(of)) - 1
        waiting = [self._helpers.submit(copy_context().run, take) for _ in range(helpers)] if self._helpers else []
        try:
            take()
        finally:
            for helper in waiting:
                helper.result()
        return [found[i] for i in range(len(of))]
