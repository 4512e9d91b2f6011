"""saedsl's engines, and the encoder's matmul alone, as workers of `train.py`.

python ours.py '{"who": "fast", "data": "folder", "activation": "topk", "k": 32}'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import saedsl  # noqa: F401  # first: it loads a fast BLAS before mlx is imported

import mlx.core as mx  # isort: skip
import numpy as np
from turns import answers, data, serve  # type: ignore[import-not-found]

from saedsl.training.engine import Engine, Form, Settings

RATE = 3e-4


def engine_step(who: str, x: np.ndarray, W: np.ndarray, form: Form, k: int) -> Callable[[int], float]:
    """The whole step of an engine."""
    zeros = np.zeros(len(W), np.float32), np.zeros(x.shape[2], np.float32)
    weights = {"W_enc": np.ascontiguousarray(W.T), "b_enc": zeros[0], "W_dec": W, "b_dec": zeros[1]}
    engine: Engine
    if who == "fast":
        from saedsl.training.fast import FastEngine

        engine = FastEngine(form, weights)
    else:
        from saedsl.training.portable import PortableEngine

        engine = PortableEngine(form, weights)
    count = 0

    def step(i: int) -> float:
        nonlocal count
        count += 1
        return engine.step(x[i], x[i], Settings(count, RATE, k)).reconstruction

    return step


def matmul_step(who: str, x: np.ndarray, W: np.ndarray) -> Callable[[int], float]:
    """x @ W.T by numpy, into an array that is there already, or by MLX."""
    if who == "numpy":
        out = np.empty((x.shape[1], len(W)), np.float32)

        def step(i: int) -> float:
            np.matmul(x[i], W.T, out=out)
            return 0.0
    else:
        batches, directions = [mx.array(part) for part in x], mx.array(W)
        mx.eval(batches, directions)

        def step(i: int) -> float:
            mx.eval(batches[i] @ directions.T)
            return 0.0

    return step


def main() -> None:
    """Be the worker that the argument asks for."""
    asked, out = json.loads(sys.argv[1]), answers()
    x, W = data(asked["data"])
    who = asked["who"]
    if who in ("fast", "portable"):
        step = engine_step(who, x, W, Form(asked["activation"]), asked["k"])
    else:
        step = matmul_step(who.removeprefix("matmul "), x, W)
    serve(step, len(x), out)


if __name__ == "__main__":
    main()
