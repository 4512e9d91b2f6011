"""Time of parse + check + plan: a one-line program, and programs of up to 5,000 statements with a linear fit.

    python tests/bench/language.py

Recorded in docs/benchmarks.md. Nothing is asserted: times depend on the machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from saedsl.analyse import Given, analyse
from saedsl.anatomy import ModelInfo
from saedsl.grammar.source import Source
from saedsl.locate import DEMO
from saedsl.tokens import read_encoder

ONE = "at L2.mlp ablate f42 @ prompt[-1]"
SIZES = (500, 1000, 2000, 4000, 5000)


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Processor time: the median of several runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def program(n: int) -> str:
    """n statements: edits, chains, conditions, records, of features that never meet."""
    forms = (
        "at {site} ablate f{f} @ prompt[-1]",
        "at {site} set f{f} = {v} when f1000 > 0.5",
        "at {site} amplify f{f} x{v} @ prompt[1..3] | last",
        "at {site} clamp f{f} to 0..{v} @ prompt[1..2]; add 0.5 f{f} @ prompt[3]",
        "record {site}.f{f}",
    )
    sites = [f"L{layer}.{c}" for layer in range(4) for c in ("mlp", "resid")]
    lines = [
        forms[i % len(forms)].format(site=sites[i // len(forms) % 8], f=i // 40 * 5 + i % 5, v=i % 7 + 1)
        for i in range(n - 1)
    ]
    return "\n".join([*lines, "run"])


def main() -> None:
    model = ModelInfo.read(DEMO / "model", "demo")
    given = Given(model, read_encoder(DEMO / "model", model.bos_token_id))
    print(f"1 line: {1e3 * seconds(lambda: analyse(Source(ONE), given), 50):.2f} ms (model and tokenizer at hand)")
    print(f"1 line: {1e3 * seconds(lambda: analyse(Source(ONE)), 20):.2f} ms (with what is read from files)")
    found = []
    for n in SIZES:
        source = Source(program(n))
        _, report = analyse(source, given)
        wrong = len(report.errors)
        found.append(seconds(lambda s=source: analyse(s, given), 3))  # type: ignore[misc]
        print(f"{n} statements: {found[-1]:.3f} s, {1e6 * found[-1] / n:.0f} us each, {wrong} mistakes")
    slope, start = np.polyfit(SIZES, found, 1)
    residual = np.abs(np.polyval((slope, start), SIZES) - found).max()
    print(f"fit: {1e6 * slope:.0f} us a statement, {1e3 * start:+.0f} ms; largest residual {1e3 * residual:.0f} ms")


if __name__ == "__main__":
    main()
