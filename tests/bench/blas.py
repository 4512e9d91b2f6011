"""float32 matmul of 2048 x 2048 by MLX with its own BLAS and with the preloaded one, in turn. Target: 20x.

Run: python tests/bench/blas.py [rounds]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHILD = """
import time
from saedsl.blas import preload
preload()
import mlx.core as mx
n = 2048
a, b = mx.random.normal((n, n)), mx.random.normal((n, n))
mx.eval(a, b, a[:256] @ b)
seconds = []
for _ in range(2):
    start = time.perf_counter()
    mx.eval(a @ b)
    seconds.append(time.perf_counter() - start)
print(2 * n**3 / min(seconds) / 1e9)
"""


def gflops(choice: str) -> float:
    """GFLOP/s of the better of two matmuls in a fresh process with SAEDSL_BLAS=choice."""
    environment = {**os.environ, "SAEDSL_BLAS": choice}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main(rounds: int) -> None:
    pairs = [(gflops("off"), gflops("")) for _ in range(rounds)]
    before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"before {before:.1f}, after {after:.1f} GFLOP/s, ratio {after / before:.0f} ({rounds} rounds)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
