"""Functions on arrays in machine code, by numba: what `saedsl.training.fast` is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])
REORDER = {"reassoc", "contract", "nsz", "arcp"}
"""What the compiler may do with float arithmetic; NaN and infinity stay what they are."""


def compiled(function: Function) -> Function:
    """`function` in machine code, kept on disk where there is a place for it.

    Division by 0 gives what numpy gives: the check for it would keep a loop from working on 16 numbers at a time.

    It holds no Python lock while it runs, so that threads can share work. Sums may be reordered by the compiler, but
    never from one call to the next.
    """
    return _compiled(function, REORDER)


def compiled_as_written(function: Function) -> Function:
    """As `compiled`, but float arithmetic is done as it is written: bitwise what numpy makes of the same formula."""
    return _compiled(function, set())


def _compiled(function: Function, fastmath: set[str]) -> Function:
    try:
        return cast(Function, numba.njit(cache=True, nogil=True, fastmath=fastmath, error_model="numpy")(function))
    except RuntimeError:  # numba finds no folder that it may write
        return cast(Function, numba.njit(nogil=True, fastmath=fastmath, error_model="numpy")(function))
