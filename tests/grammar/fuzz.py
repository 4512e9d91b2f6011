"""Mutated programs: no text makes a check raise, hang or lose its place, and what is read, is printed the same.

`python tests/grammar/fuzz.py 200000 [SEED [SECONDS]]` tries as many texts and stops at the first that fails, shrunk.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from saedsl.analyse import Given, analyse
from saedsl.grammar.format import format_script
from saedsl.grammar.nodes import Node
from saedsl.grammar.parse import depth, parse
from saedsl.grammar.source import Source
from saedsl.plan import Plan

SLOW = 2.0
"""Seconds of the processor that no text may take."""

GIVEN = Given(bind={"d": [1.0] * 128, "k": 2.0}, base=Path(__file__).parents[1] / "programs" / "valid")

CORPUS = [
    *(p.read_text(encoding="utf-8") for p in sorted((Path(__file__).parents[1] / "programs").glob("*valid/*.saedsl"))),
    '# a\nmodel "demo"\nsae g = "demo:L2.mlp" on L2.mlp  # b\nsae t = "x" on L2.mlp.in -> L2.mlp\n',
    'prompt fr = "The capital of France is"\nprompt it = chat "Hi" system "Be \\"brief\\"."\nprompts io = "io.jsonl"\n',
    'let t = {f42, f7,\n  f100..103}\nlet s = -2 * (k + $a)\ndir d = "a.st".key.b\ndir e = "a.st"."odd key"\n',
    "at L2.mlp ablate f42; amplify f7 x2\nat g {\n  clamp f3 to 0..5 @ gen  # c\n  set f9 = 4 max when f3 > 0.5\n}\n",
    'at L8..14.attn.z.h2, L2.attn.z.h{1, 3..4} @ last when f3 ablate to mean of "reference.txt"\n',
    "at L5.resid patch {f1, f2} @ prompt[-1] | io.S2 from it at prompt[-1] when not (f1 or g.f2 <= 2 std) and f3\n",
    "at L1.mlp set f5 = 4 then amplify f5 x2 then ablate; keep only {f1, f2} else mean by position of io\n",
    'at module "model.norm" in, layer.mlp drop g.error; project out dir $d; freeze h0..3; apply foo(1, 2) n3..5\n',
    'at L1.mlp {\n  add 0.4 norm dir d\n  then ablate f1 to resample of io @ (all except bos) | every " Paris"\n}\n',
    'record g.f42, L5.resid, L3.attn.z.h2, g.error, module "a" out @ span " Paris" | " a"[-1]\n',
    'metric m = 2 * (logit(" Paris") - logprob(io.answer)) + kl() - ce() / act(g.f2) * norm(L2.mlp) @ prompt[2..5]\n',
    "sweep a in [0, 0.5]\nsweep b in 0..4 by 0.5\nsweep c in L0..11\nsweep d in prompt[0..5]\nsweep e in {f1, h2}\n",
    'include "a"\nreset\nrun fr, io.corrupt as b with mode = frozen, seed = 3\ngenerate fr 32 with temp = 1\nrun\n',
]
WORDS = sorted({w for text in CORPUS for w in re.findall(r"\w+|\s+|[^\w\s]+", text)})
ODD = [
    "\n",
    '"',
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "@",
    ";",
    ",",
    "..",
    ".",
    "->",
    "==",
    "\\",
    "“",
    "é",
    "\t",
    "#",
    "x",
    "f",
    "L",
]


def mutated(rng: random.Random) -> str:
    """A text near a valid program."""
    text = rng.choice(CORPUS)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        a = rng.randrange(len(text) + 1)
        b = min(len(text), a + rng.choice((0, 0, 1, 1, 2, 5, 20)))
        kind = rng.random()
        if kind < 0.35:
            text = text[:a] + rng.choice(WORDS) + text[b:]
        elif kind < 0.55:
            text = text[:a] + rng.choice(ODD) + text[b:]
        elif kind < 0.75:
            text = text[:a] + text[b:]
        elif kind < 0.85:
            c = rng.randrange(len(text) + 1)
            text = text[:c] + text[a:b] + text[c:]
        elif kind < 0.9:
            text = text[:a] + chr(rng.choice((rng.randrange(1, 256), rng.randrange(1, 0x10FFFF)))) + text[b:]
        elif kind < 0.95:
            text = text[:a] + text[a:b] * rng.choice((2, 3, 60)) + text[b:]
        else:
            other = rng.choice(CORPUS)
            text = text[:a] + other[rng.randrange(len(other) + 1) :]
    return text


def wrong(text: str) -> str | None:
    """What the parser does wrong with a text, or None."""
    start = time.process_time()
    parsed = parse(text)
    if (took := time.process_time() - start) > SLOW:
        return f"it took {took:.1f} s"
    for d in parsed.diagnostics:
        if not 0 <= d.span.start <= d.span.end <= len(text):
            return f"a place outside the text: {d}"
        if not d.render() or not d.message:
            return f"nothing said: {d}"
    for s in parsed.script.statements:
        if (outside := misplaced(s, len(text))) is not None:
            return f"a node outside the text: {outside}"
    printed = format_script(parsed.script, parsed.source)
    again = parse(printed)
    if again.diagnostics and depth(parsed.script) < 80:
        return f"what is printed is not read: {again.diagnostics[0].render()}"
    if not again.diagnostics and again.script != parsed.script:
        return f"what is printed means something else:\n{printed}"
    if not again.diagnostics and format_script(again.script, again.source) != printed:
        return f"printing twice differs:\n{printed}"
    return None


def misplaced(node: Node, end: int) -> Node | None:
    """A node below `node` whose span is not in the text."""
    if not 0 <= node.span.start <= node.span.end <= end:
        return node
    for value in vars(node).values():
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Node) and (found := misplaced(inner, end)) is not None:
                return found
    return None


def wrong_plan(text: str) -> str | None:
    """What a check does wrong with a text, or None; a plan without mistakes goes to text and JSON and back."""
    start = time.process_time()
    plan, report = analyse(Source(text), GIVEN)
    if (took := time.process_time() - start) > SLOW:
        return f"it took {took:.1f} s to check"
    found = [d.to_json() for d in report.diagnostics]
    if any(d in found[:i] for i, d in enumerate(found)):
        return f"said twice: {found}"
    if plan is None or report.errors:
        return None
    if Plan.from_json(plan.to_json()).to_json() != plan.to_json():
        return "its plan changes on the way through JSON"
    try:
        printed = plan.to_dsl()
    except ValueError:  # a plan that has no text says so
        return None
    again, second = analyse(Source(printed), GIVEN)
    if again is None or second.errors:
        return f"its plan's text has a mistake:\n{printed}\n{second.errors[0].render()}"
    return None if again.program_id == plan.program_id else f"its plan's text means something else:\n{printed}"


def fails(text: str) -> str | None:
    """What is wrong with a text; an exception is too."""
    try:
        return wrong(text) or wrong_plan(text)
    except Exception as e:
        return f"{type(e).__name__}: {e}"


def smaller(text: str, bad: Callable[[str], object]) -> str:
    """A text that fails as well, cut where that is possible."""
    size = len(text) // 2
    while size:
        at = 0
        while at < len(text):
            cut = text[:at] + text[at + size :]
            text, at = (cut, at) if bad(cut) else (text, at + size)
        size //= 2
    return text


def fuzz(n: int, seed: int, seconds: float = float("inf")) -> int:
    """Try up to `n` texts.

    Returns:
        how many were tried.

    Raises:
        AssertionError: for the first text that fails.
    """
    rng, end = random.Random(seed), time.monotonic() + seconds
    for i in range(n):
        if time.monotonic() > end:
            return i
        text = mutated(rng)
        if fails(text):
            small = smaller(text, fails)
            raise AssertionError(f"{fails(small)}\n{small!r}")
    return n


if __name__ == "__main__":
    count, seed, seconds = (*sys.argv[1:4], *("0", "inf")[len(sys.argv) - 2 :])
    print(f"{fuzz(int(count), int(seed), float(seconds))} texts")
