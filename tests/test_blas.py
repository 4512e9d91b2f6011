"""The BLAS preload, each case in a fresh process: what is loaded before MLX decides."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saedsl import blas

ROOT = Path(__file__).parents[1]
ON_LINUX_CPU = sys.platform.startswith("linux") and blas._cpu_backend()
needs_cpu_wheel = pytest.mark.skipif(not ON_LINUX_CPU, reason="needs the mlx-cpu wheel on Linux")
LOAD = "import importlib.util as u, sys; s = u.spec_from_file_location('b', 'saedsl/blas.py'); "
LOAD += "b = u.module_from_spec(s); sys.modules['b'] = b; s.loader.exec_module(b); "
"""The module alone: importing saedsl would preload before the case is set up."""


def run(code: str, **environment: str) -> tuple[str, str]:
    """stdout and stderr of `code` in a fresh Python that has the module as `b`."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD + code],
        cwd=ROOT,
        env={**os.environ, "SAEDSL_BLAS": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr.strip()


@needs_cpu_wheel
def test_preload_is_idempotent_and_does_not_import_mlx() -> None:
    out, _ = run("print(b.preload() is b.preload(), 'mlx.core' in sys.modules)")
    assert out == "True False"


@needs_cpu_wheel
def test_off_leaves_mlx_alone_in_silence() -> None:
    out, err = run("print(b.preload())", SAEDSL_BLAS="off")
    assert out == "Blas(library=None, reason='switched off by SAEDSL_BLAS=off')"
    assert err == ""


@needs_cpu_wheel
def test_a_library_that_cannot_be_loaded_is_named_once() -> None:
    _, err = run("b.preload(); b.preload()", SAEDSL_BLAS="/no/such/lib.so")
    assert err == "saedsl: SAEDSL_BLAS=/no/such/lib.so is not a BLAS that can be loaded; correct or unset it"


@needs_cpu_wheel
def test_a_library_without_matmul_is_not_taken() -> None:
    _, err = run("b.preload()", SAEDSL_BLAS="libm.so.6")
    assert err == "saedsl: SAEDSL_BLAS=libm.so.6 is not a BLAS that can be loaded; correct or unset it"


@needs_cpu_wheel
def test_without_any_library_the_package_to_install_is_named_once() -> None:
    _, err = run("b.LIBRARIES = ('libnothing.so.9',); b.preload(); b.preload()")
    assert err == (
        "saedsl: no OpenBLAS, MKL or BLIS found: "
        "MLX's float32 matmul runs up to 60 times slower on this CPU; install libopenblas0-pthread"
    )


@needs_cpu_wheel
def test_after_mlx_it_says_once_that_it_is_too_late() -> None:
    _, err = run("import mlx.core; b.preload(); b.preload()")
    assert err == "saedsl: mlx was imported before saedsl, so its slow BLAS stays; import saedsl first"


@needs_cpu_wheel
def test_after_mlx_it_is_silent_if_a_fast_blas_was_there_first() -> None:
    out, err = run("first = b.preload(); import mlx.core; b.preload.cache_clear(); print(first, b.preload())")
    if "library=None" in out.split(")")[0]:
        pytest.skip("no fast BLAS installed")
    assert out.endswith("Blas(library=None, reason='a fast BLAS is already loaded')")
    assert err == ""


@needs_cpu_wheel
def test_matmul_gives_the_same_numbers_with_and_without() -> None:
    code = "b.preload(); import mlx.core as mx; x = mx.arange(4096.0).reshape(64, 64); print((x @ x).tolist())"
    rows = [eval(run(code, SAEDSL_BLAS=choice)[0]) for choice in ("off", "")]
    assert all(a == pytest.approx(b, rel=1e-4, abs=1e-4) for a, b in zip(*rows, strict=True))


@pytest.mark.parametrize(
    ("platform", "backend", "reason"),
    [
        ("darwin", True, "not needed on darwin"),
        ("linux", False, "mlx runs without the CPU wheel"),
    ],
)
def test_nothing_is_done_where_nothing_is_needed(platform: str, backend: bool, reason: str) -> None:
    out, err = run(f"sys.platform = {platform!r}; b._cpu_backend = lambda: {backend}; print(b.preload().reason)")
    assert (out, err) == (reason, "")
