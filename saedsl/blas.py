"""A fast BLAS for MLX on Linux: load OpenBLAS, MKL or BLIS with global symbols before MLX looks for its own.

The `mlx-cpu` wheel brings the reference BLAS, whose float32 matmul runs at about 5 GFLOP/s where OpenBLAS
does 300. The dynamic linker takes the first definition that it has seen, so a library loaded earlier wins.
Later is too late.

`SAEDSL_BLAS=off` leaves MLX alone; `SAEDSL_BLAS=/path/to/libblas.so` names the library. macOS needs none of
this.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

LIBRARIES: Final = ("libopenblas.so.0", "libmkl_rt.so.2", "libmkl_rt.so.1", "libblis.so.4", "libblis.so.3")
"""What is tried, in this order: on the loader's path, then in this Python's own `lib` folder."""

FAST_SYMBOLS: Final = ("openblas_get_config", "MKL_Get_Max_Threads", "bli_info_get_version_str")
"""One name that only the fast library exports, for each of them."""

ADVICE: Final = "MLX's float32 matmul runs up to 60 times slower on this CPU; install libopenblas0-pthread"


@dataclass(frozen=True)
class Blas:
    """Which BLAS MLX uses, as far as `preload` decides it."""

    library: str | None
    """What was loaded (a soname or a path), or None."""
    reason: str
    """Why: one clause, for `saedsl doctor` and for people."""


@cache
def preload() -> Blas:
    """Load a fast BLAS for MLX, once; a call after the first returns the same answer.

    Call it before the first `import mlx.core`. Does not import mlx. When MLX will be slow, one line on stderr
    says why and what to install.
    """
    choice = os.environ.get("SAEDSL_BLAS", "")
    if not sys.platform.startswith("linux"):
        return Blas(None, f"not needed on {sys.platform}")
    if choice == "off":
        return Blas(None, "switched off by SAEDSL_BLAS=off")
    if not _cpu_backend():
        return Blas(None, "mlx runs without the CPU wheel")
    if _fast_already():
        return Blas(None, "a fast BLAS is already loaded")
    if "mlx.core" in sys.modules:
        return _warn("mlx was imported before saedsl, so its slow BLAS stays; import saedsl first")
    if choice:
        if _load(choice):
            return Blas(choice, "named by SAEDSL_BLAS")
        return _warn(f"SAEDSL_BLAS={choice} is not a BLAS that can be loaded; correct or unset it")
    for name in LIBRARIES:
        for candidate in (name, f"{sys.prefix}/lib/{name}"):
            if _load(candidate):
                return Blas(candidate, "found")
    return _warn(f"no OpenBLAS, MKL or BLIS found: {ADVICE}")


def _cpu_backend() -> bool:
    """Whether the installed mlx is the CPU wheel and not a CUDA one, read from folder names beside it.

    `importlib.metadata` would say the same and take 40 ms to import.
    """
    spec = find_spec("mlx")
    folders = {Path(path).parent for path in (spec.submodule_search_locations or ())} if spec else set()
    return any(any(f.glob("mlx_cpu-*.dist-info")) for f in folders) and not any(
        any(f.glob("mlx_cuda*.dist-info")) for f in folders
    )


def _fast_already() -> bool:
    """Whether one of the fast libraries is among this process' global symbols already (LD_PRELOAD, say)."""
    everything = ctypes.CDLL(None)
    return any(hasattr(everything, symbol) for symbol in FAST_SYMBOLS)


def _load(library: str) -> bool:
    try:
        return hasattr(ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL), "cblas_sgemm")
    except OSError:
        return False


def _warn(reason: str) -> Blas:
    print(f"saedsl: {reason}", file=sys.stderr)
    return Blas(None, reason)
