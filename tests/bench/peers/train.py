"""A training step of saedsl's engines and of other libraries: same machine, same tensors, in turn.

    python tests/bench/peers/train.py --peers PYTHON [--size small large] [--activation topk batchtopk] [--rounds 5]
    python tests/bench/peers/train.py --peers PYTHON --explore saelens    every setting of a library, to choose SHOWN

PYTHON is the interpreter of an environment with `torch`, `eai-sparsify`, `dictionary-learning` and `sae-lens`; without
`--peers` only saedsl is measured. Every library is a process of its own that stays for all rounds; in a round each does
some steps, one library after another. A step is all that the library's own trainer does with a batch that is at hand:
forward, losses, backward, clipping, Adam, decoder norms, counting what fired. Batches and first weights are the same
for all, and that the first losses are equal is checked. float32, on all cores that the process may use.

Ratios are medians over rounds of a round's median step against the fast engine's in the same round. The share of the
limit is the time of the encoder's matmul alone, the faster of numpy's and MLX's, by that of the fast engine's step.
With `--keep-memory` every process runs with settings of the C library that no library makes itself, and that save
PyTorch the page faults of its large arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

HERE = Path(__file__).parent
Activation = Literal["topk", "batchtopk"]


@dataclass(frozen=True)
class Size:
    """What is trained."""

    d: int
    """d_model."""
    F: int
    """d_sae."""
    k: int
    """Features a token."""
    batch: int
    """Tokens a step."""


SIZES = {"small": Size(288, 9216, 32, 4096), "large": Size(768, 24576, 64, 2048)}
LIBRARIES: dict[Activation, tuple[str, ...]] = {
    "topk": ("sparsify", "dictionary_learning", "saelens"),
    "batchtopk": ("dictionary_learning", "saelens"),
}
HOWS: dict[str, tuple[str, ...]] = {
    "sparsify": ("", "fused", "fused compiled"),
    "dictionary_learning": ("", "fused", "fused compiled"),
    "saelens": ("norm", "norm fused", "norm fused compiled", "norm sparse", "", "fused", "sparse", "fused sparse"),
}
"""Settings of the libraries that are worth a try; what the words mean says `torch_peers.py`."""
SHOWN: dict[tuple[str, Activation], tuple[str, ...]] = {
    ("sparsify", "topk"): ("", "fused compiled"),
    ("dictionary_learning", "topk"): ("",),
    ("saelens", "topk"): ("norm", "sparse"),
    ("dictionary_learning", "batchtopk"): ("",),
    ("saelens", "batchtopk"): ("norm", ""),
}
"""The fastest of them, by `--explore`, and SAELens' defaults; without `norm` it leaves decoder rows at any length."""
TARGETS: dict[tuple[str, Activation], dict[str, float]] = {
    ("small", "topk"): {"sparsify": 1.6, "dictionary_learning": 3.0, "saelens": 8.0},
    ("large", "topk"): {"sparsify": 1.6, "saelens": 6.0},
    ("small", "batchtopk"): {"saelens": 8.0},
    ("large", "batchtopk"): {"saelens": 8.0},
}
KEEP = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(10**12),
    "MALLOC_TOP_PAD_": str(4 * 10**8),
}
"""glibc's settings with which PyTorch on CPUs does not ask the kernel for every large array anew."""
SHARE = 0.55
"""Target of the share of the limit."""
TURN = 1.5
"""Seconds that a library's turn in a round takes, about; at least two steps."""


class Worker:
    """A library in a process of its own."""

    def __init__(self, python: str, asked: Mapping[str, Any], size: Size) -> None:
        script = HERE / ("ours.py" if "how" not in asked else "torch_peers.py")
        command = [python, str(script), json.dumps(dict(asked))]
        self.name = f"{asked['who']}" + (f" ({asked['how'] or 'as it is'})" if "how" in asked else "")
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.losses: list[float] = self._answer()["losses"]
        self._batch = size.batch
        self.rounds: list[float] = []
        self._steps = 2

    def turn(self) -> None:
        """One round: the median of its steps, in seconds, joins `rounds`."""
        assert self._process.stdin is not None
        time.sleep(0.3)  # the threads of the one before go to sleep
        self._process.stdin.write(f"{self._steps}\n")
        self._process.stdin.flush()
        self.rounds.append(statistics.median(self._answer()["seconds"]))
        self._steps = min(max(round(TURN / self.rounds[-1]), 2), 20)

    def seconds(self) -> float:
        """Of a step, the median over rounds."""
        return statistics.median(self.rounds)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _answer(self) -> dict[str, list[float]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self.name} ended: {self._log.read()[-2000:]}")
        answer: dict[str, list[float]] = json.loads(line)
        return answer


def write_data(folder: Path, size: Size, n_batches: int = 8) -> None:
    """Normally distributed batches, for all of which every feature fires now and then, and random directions."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((size.F, size.d)).astype(np.float32)
    np.save(folder / "W.npy", W / np.linalg.norm(W, axis=1, keepdims=True))
    np.save(folder / "x.npy", rng.standard_normal((n_batches, size.batch, size.d)).astype(np.float32))


def measure(
    asked: Sequence[tuple[str | None, dict[str, Any]]], size: Size, activation: Activation, rounds: int
) -> list[Worker]:
    """Every worker, after `rounds` rounds in which they took turns."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_data(Path(folder), size)
        workers = []
        for python, who in asked:
            every = {"data": folder, "activation": activation, "k": size.k, "threads": cores()}
            workers.append(Worker(python or sys.executable, who | every, size))
            stack.callback(workers[-1].close)
        losses = [worker.losses[0] for worker in workers if worker.losses[0]]
        if max(losses) > min(losses) * 1.001:
            raise SystemExit(f"not the same step: {[(w.name, w.losses) for w in workers]}")
        for _ in range(rounds):
            for worker in workers:
                worker.turn()
        return workers


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compare(name: str, activation: Activation, peers: str | None, rounds: int) -> None:
    """Print the table of one size and activation."""
    size = SIZES[name]
    ours: list[tuple[str | None, dict[str, Any]]] = [
        (None, {"who": who}) for who in ("fast", "portable", "matmul numpy", "matmul mlx")
    ]
    theirs: list[tuple[str | None, dict[str, Any]]] = [
        (peers, {"who": who, "how": how}) for who in LIBRARIES[activation] for how in SHOWN[who, activation] if peers
    ]
    workers = measure([*ours, *theirs], size, activation, rounds)
    fast, portable, *matmuls = workers[:4]
    print(f"\n{activation}, d={size.d} F={size.F} k={size.k} batch={size.batch}, {rounds} rounds, {cores()} cores\n")
    print("| | ms a step | tokens/s | fast engine is faster | target |\n|---|---|---|---|---|")
    for worker in (fast, portable, *workers[4:]):
        ratios = [theirs / ours for theirs, ours in zip(worker.rounds, fast.rounds, strict=True)]
        target = TARGETS[name, activation].get(worker.name.split(" ")[0])
        print(
            f"| {worker.name} | {worker.seconds() * 1e3:.1f} | {size.batch / worker.seconds():,.0f} | "
            + ("" if worker is fast else f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
            + f" | {target or ''} |"
        )
    limit = min(matmuls, key=Worker.seconds)
    shares = [bare / whole for bare, whole in zip(limit.rounds, fast.rounds, strict=True)]
    print(
        f"\nencoder matmul alone: {', '.join(f'{w.name[7:]} {w.seconds() * 1e3:.1f} ms' for w in matmuls)}; "
        f"share of the limit {statistics.median(shares):.2f} (target {SHARE})",
        flush=True,
    )


def explore(name: str, activation: Activation, peers: str, library: str, rounds: int) -> None:
    """Print a library's step with each of its settings."""
    for how in HOWS[library]:
        try:
            (worker,) = measure([(peers, {"who": library, "how": how})], SIZES[name], activation, rounds)
        except RuntimeError as error:
            print(f"{activation} {name} {library} ({how}) does not run: {str(error).splitlines()[-1]}", flush=True)
        else:
            print(f"{activation} {name} {worker.name}: {worker.seconds() * 1e3:.0f} ms", flush=True)


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the interpreter of the other libraries' environment")
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--activation", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep-memory", action="store_true", help="let every process keep the memory it has freed")
    parser.add_argument("--explore", choices=list(HOWS), help="a library whose settings are tried")
    args = parser.parse_args()
    if args.keep_memory:
        os.environ.update(KEEP)
    fixed = {name: os.environ[name] for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ}
    print("BLAS settings of the environment:", fixed or "none")
    for activation in args.activation:
        for name in args.size:
            if args.explore:
                if args.explore in LIBRARIES[activation]:
                    explore(name, activation, args.peers, args.explore, args.rounds)
            else:
                compare(name, activation, args.peers, args.rounds)


if __name__ == "__main__":
    main()
