"""Peak memory of reading, tokenising and streaming text, for a small and a large file of generated text.

    python tests/bench/memory_data.py [MEGABYTES ...]        by default 10 1000

Every measurement is a process of its own. `read`: every document of the file. `tokens`: every document tokenised and
packed into rows, without the model. `stream`: the file's hash, then windows of 4,096 tokens of activations, the first
and, by a cursor, one three quarters into the file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

WHAT = ("read", "tokens", "stream")


def generate(path: Path, megabytes: float) -> None:
    """About as many megabytes of documents of different lengths, no document like the one before."""
    from saedsl.demo.text import documents

    some = list(documents(4000, 0))
    size = written = 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            text = f"{some[written % len(some)]} {written}\n<|endoftext|>\n"
            size += file.write(text)
            written += 1


def measure(what: str, path: Path) -> dict[str, float]:
    """One measurement, in this process."""
    from saedsl.training.texts import open_texts

    texts = open_texts(path)
    start = time.perf_counter()
    count = 0
    if what == "read":
        count = sum(1 for _ in texts.entries())
    else:
        import saedsl
        from saedsl.training.packing import Convention, Packing, Start
        from saedsl.training.stream import FIRST, StreamSource

        model = saedsl.InterpretableModel.load("demo")
        if what == "tokens":
            packing = Packing(Convention.of(model), 128, True)
            count = sum(len(row.ids) for row in packing.rows(texts, Start()))
        else:
            source = StreamSource(model, path, ["L1.mlp"], window=4096)
            assert source.identity
            late = next(iter(texts.entries([path.stat().st_size * 3 // 4 // 1000 * 1000, 1, 1, 0]))).after
            for cursor in (None, {**FIRST, "at": late, "used": 0}):
                batches = source.batches(512, 0, cursor)
                count += sum(len(b.arrays["L1.mlp"]) for b in islice(batches, 64))
                del batches
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1e-3) / 1e6
    return {"peak_mb": round(peak, 1), "count": count, "seconds": round(time.perf_counter() - start, 1)}


def measured(what: str, path: Path) -> dict[str, float]:
    """One measurement, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--measure", what, str(path)], check=True, capture_output=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("megabytes", nargs="*", type=float, default=[10, 1000])
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FILE"))
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], Path(args.measure[1]))))
        return
    for megabytes in args.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text.txt"
            generate(path, megabytes)
            for what in args.what:
                found = measured(what, path)
                print(f"{megabytes:7g} MB  {what:7}", *(f"{k} {v:,}" for k, v in found.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
