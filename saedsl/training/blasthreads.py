"""One thread a matmul, for threads that each do their own: no waiting for each other, and no idle BLAS thread spinning.

numpy's OpenBLAS has one number of threads for the whole process; it is put back when the last of those who asked is
done. Other threads' matmuls run on one core for as long, and are right.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from threading import Lock

NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads")
"""What `set` and `get` of numpy's OpenBLAS are called: in wheels, and where a distribution built it."""

_lock = Lock()
_inside = 0
_before = 0


@contextmanager
def single_threaded_blas() -> Iterator[bool]:
    """While this is open numpy's matmuls use one thread each; False where that cannot be had."""
    global _inside, _before
    calls = _calls()
    if calls is None:
        yield False
        return
    get, set_ = calls
    with _lock:
        if _inside == 0:
            _before = get()
            set_(1)
        _inside += 1
    try:
        yield True
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                set_(_before)


@cache
def _calls() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """`get` and `set` of the library that numpy is linked to."""
    try:
        library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    except (ImportError, OSError):
        return None
    for name in NAMES:
        if hasattr(library, name.format("set")) and hasattr(library, name.format("get")):
            return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None
