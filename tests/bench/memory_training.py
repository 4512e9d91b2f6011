"""Peak memory of training steps against what the arrays that have to be there take, for both engines.

    python tests/bench/memory_training.py [--engine fast portable] [--activation topk batchtopk] [--size D F K BATCH]

Each measurement is a process of its own: the resident memory after five steps and at its highest among them, less what
the process had before the engine was made, with the batches in it. The budget is parameters + Adam's moments + 2 arrays
[batch, d_sae] + 8 [batch, d_model]. What the process holds besides arrays (code that is compiled, threads' stacks) is
measured with a small dictionary first, and is part of the baseline.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

SIZES = ((288, 9216, 32, 4096), (768, 24576, 64, 2048))
STEPS = 5


def resident() -> int:
    """Bytes of memory that this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc, which is Linux's")


def measure(who: str, activation: str, size: tuple[int, int, int, int], dead: bool) -> dict[str, float]:
    """Peak and budget in MB, in this process."""
    import saedsl  # noqa: F401  # first: it loads a fast BLAS before mlx is imported

    import mlx.core as mx  # isort: skip
    import numpy as np

    from saedsl.training.engine import Aux, Engine, Form, Settings
    from saedsl.training.initial import initial_weights
    from saedsl.training.portable import PortableEngine

    def made(d: int, F: int, k: int, batch: int) -> tuple[Engine, np.ndarray, Settings]:
        x = np.random.default_rng(0).standard_normal((batch, d)).astype(np.float32)
        form = Form("topk" if activation == "topk" else "batchtopk")
        weights = initial_weights(form, x, x, F, 0, "zeros")
        aux = Aux(np.arange(0, F, 10, dtype=np.int32), d // 2, 1 / 32) if dead else None
        if who == "fast":
            from saedsl.training.fast import FastEngine

            engine: Engine = FastEngine(form, weights)
        else:
            engine = PortableEngine(form, weights)
        return engine, x, Settings(1, 3e-4, k, aux=aux)

    engine, x, settings = made(16, 256, 4, 256)
    engine.step(x, x, settings)
    mx.clear_cache()
    d, F, _, batch = size
    x = np.random.default_rng(0).standard_normal((batch, d)).astype(np.float32)
    before = resident()
    highest, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], resident())

    engine, x, settings = made(*size)
    watcher = threading.Thread(target=watch)
    watcher.start()
    mx.reset_peak_memory()
    start = time.perf_counter()
    for _ in range(STEPS):
        engine.step(x, x, settings)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    parameters = 2 * d * F + F + d
    budget = 4 * (3 * parameters + 2 * batch * F + 8 * batch * d)
    peak = highest[0] - before
    return {
        "peak_mb": round(peak / 1e6),
        "budget_mb": round(budget / 1e6),
        "share": round(peak / budget, 2),
        "mlx_peak_mb": round(mx.get_peak_memory() / 1e6),
        "arrays_of_batch_by_d_sae": round((peak - 12 * parameters - 32 * batch * d) / (4 * batch * F), 2),
        "seconds_a_step": round(seconds / STEPS, 2),
    }


def main() -> None:
    """Print a row a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="+", choices=("fast", "portable"), default=("fast", "portable"))
    parser.add_argument("--activation", nargs="+", choices=("topk", "batchtopk"), default=("topk", "batchtopk"))
    parser.add_argument("--size", nargs=4, type=int, metavar=("D", "F", "K", "BATCH"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        who, activation, size, dead = json.loads(args.measure)
        print(json.dumps(measure(who, activation, tuple(size), dead)))
        return
    for size in [tuple(args.size)] if args.size else SIZES:
        for who in args.engine:
            for activation in args.activation:
                for dead in (False, True):
                    asked = json.dumps([who, activation, size, dead])
                    done = subprocess.run(
                        [sys.executable, __file__, "--measure", asked], check=True, stdout=subprocess.PIPE
                    )
                    name = f"{who} {activation} {size}" + (" a tenth dead" if dead else "")
                    print(name, *(f"{k} {v}" for k, v in json.loads(done.stdout).items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
