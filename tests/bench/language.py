"""Time of parse + check + plan: a one-line program, programs of up to 5,000 statements with a linear fit, odd long texts.

    python tests/bench/language.py

Recorded in docs/benchmarks.md. Nothing is asserted: times depend on the machine.
"""

# ruff: noqa: E501 (a text stays one line)

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
LONG = 200_000
"""Characters that are to be answered in 2 s."""


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


def repeated(piece: str, n: int = LONG) -> str:
    return piece * (n // len(piece))


def odd_texts() -> dict[str, str]:
    """Texts of up to `LONG` characters that are no programs, or strange ones."""
    names = [f"name{i}" for i in range(4500)]
    texts = {
        piece: repeated(piece)
        for piece in (
            "{",
            "}\n",
            '"',
            ";",
            ";\n",
            "(",
            "at ",
            "“",
            "x",
            "x\n",
            "f1,",
            "at L0.mlp {\n",
            "run\n",
            "foo bar\n",
        )
    }
    return texts | {
        "a long number": "at L0.mlp ablate f" + "9" * LONG,
        "nested": "let a = " + "(" * 99_000 + "1" + ")" * 99_000,
        "one feature, edited 10,000 times": repeated("at L0.mlp ablate f1\n"),
        "all features of four sites, ablated 9,500 times": repeated("at L*.mlp ablate all\n"),
        "9,000 lines that depend on a sweep of 10,000 values": "sweep a in 0..9999\n" + "at L2.mlp set f1 = a\n" * 9000 + "run",
        "20,000 runs of 5,000 prompts": "".join(f'prompt p{i} = "x {i}"\n' for i in range(5000)) + "run\n" * 20_000,
        "16,000 edits of 24 sites": "at L*.resid_pre, L*.resid_mid, L*.resid_post, L*.mlp, L*.attn, L*.mlp.in {\n" + "amplify x2\n" * 16_000 + "}\nrun",
        "24,000 sites of one edit": "at " + ", ".join(["L2.mlp"] * 24_000) + " add 1",
        "64,000 heads of one edit": "at L2.attn.z.h{" + ", ".join(["0"] * 64_000) + "} ablate",
        "19,000 edits in a block without an end": "at L2.mlp {\n" + "ablate f1\n" * 19_000,
        "a record of 20,000 sites": "record " + ", ".join(["L2.mlp"] * 20_000) + "\nrun",
        "a set of 35,000 items": "at L0.mlp ablate {" + ",".join(f"f{i % 1024}" for i in range(35_000)) + "}\nrun",
        "sets that name the set above": "let a0 = {f1}\n" + "".join(f"let a{i} = {{a{i - 1}, f{i % 1024}}}\n" for i in range(1, 7000)),
        "unknown names among many": "".join(f"let {n} = {{f1}}\n" for n in names) + "".join(f"at L0.mlp ablate {n}x\n" for n in names[:3500]),
        "files that are not there": "".join(f'include "x{i}"\n' for i in range(11_000)),
        "a word that stands 100,000 times": f'prompt p = "{" a" * 99_000}"\nat L0.mlp @ every " a" ablate f1\nrun',
        "strings without an end": repeated('prompt p = "abc\n'),
        "1,500 edits of 1,000 features": 'prompt p = "' + " a" * 200 + '"\nlet s = {' + ",".join(f"f{i}" for i in range(1024)) + "}\n"
        + "".join(f"at L{i % 4}.{('mlp', 'resid')[i // 4 % 2]} ablate s @ prompt[{i // 8 + 1}]\n" for i in range(1500)) + "run",
    }  # fmt: skip


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
    for name, text in odd_texts().items():
        took = seconds(lambda t=text: analyse(Source(t), given), 1)  # type: ignore[misc]
        print(f"{len(text):,} characters, {name!r}: {took:.2f} s")


if __name__ == "__main__":
    main()
