"""A worker of `train.py`: it is asked for steps by lines on its standard input and answers with how long they took."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np

Step = Callable[[int], float]
"""The training step with the batch of that number; its loss, a token's mean squared error."""


def answers() -> TextIO:
    """Standard output, for answers only from now on; what libraries print goes to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    return out


def data(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Batches [n, B, D] and directions [F, D] of unit length, what encoder and decoder start as."""
    return np.load(Path(folder) / "x.npy"), np.load(Path(folder) / "W.npy")


def serve(step: Step, n_batches: int, out: TextIO) -> None:
    """Two steps to warm up; then as many as each line says, until there are no more lines."""
    print(json.dumps({"losses": [step(0), step(1 % n_batches)]}), file=out, flush=True)
    done = 2
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step(done % n_batches)
            seconds.append(time.perf_counter() - start)
            done += 1
        print(json.dumps({"seconds": seconds}), file=out, flush=True)
