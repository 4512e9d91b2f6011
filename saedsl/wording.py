"""Checked edits as canonical text: what people read, and what parses again."""

from __future__ import annotations

import math
from dataclasses import replace

from saedsl.grammar.format import format_node, number, quote
from saedsl.program import And, Condition, Intervention, Not, Or, RecordItem, Replacement, Test

PREFIX = {"features": "f", "heads": "h", "coordinates": "n"}
"""What stands before a number of each part."""


def statement_text(e: Intervention) -> str:
    """`at L2.mlp amplify f7 x2 @ prompt[-1]`: a statement of its own."""
    where = e.dictionary if e.qualified and e.features == "all" else e.site
    header = "".join(f" @ {format_node(p)}" for p in e.positions[:-1])
    return f"at {where}{header} {edit_text(replace(e, positions=e.positions[-1:]))}"


def edit_text(e: Intervention) -> str:
    """`amplify f7 x2 @ prompt[-1] when f3 > 0`: without the site."""
    target, at = target_text(e), [w for p in e.positions for w in ("@", format_node(p))]
    unit = e.unit
    after: list[str] = []
    match e.op, e.args:
        case "ablate", _:
            words = ["ablate", target, *(("to", replacement_text(e.to)) if e.to else ())]
        case "amplify", (factor,):
            words = ["amplify", target, f"x{number(factor)}" if factor >= 0 else f"x {number(factor)}"]
        case "set", (value,):
            words = ["set", target, "=", number(value), unit]
        case "add", (value,):
            words = ["add", number(value), unit, target]
        case "clamp", args:
            low, high = ("" if math.isinf(a) else number(a) for a in args)
            words = ["clamp", target, "to", f"{low}..{high}", unit]
        case "project", _:
            words = ["project", "out", target]
        case "freeze", _:
            words = ["freeze", target]
        case "keep", _:
            words = ["keep", "only", target, *(("else", replacement_text(e.to)) if e.to else ())]
        case "patch", _:
            words = ["patch", target]
            if e.source is not None:
                after = ["from", e.source.prompt, *(w for p in e.source.positions for w in ("at", format_node(p)))]
        case _, args:
            listed = f"({', '.join(map(number, args))})" if args else ""
            words = ["apply", e.name.partition("/")[0] + listed, target]
    when = ["when", condition_text(e.when)] if e.when is not None else []
    return " ".join(w for w in (*words, *at, *after, *when) if w)


def target_text(e: Intervention | RecordItem) -> str:
    """`f42`, `{g.f1, g.f3..5}`, `all`, `g.error`, `h3`, `n17`, `dir d`, or nothing for the whole site."""
    of = f"{e.dictionary}." if isinstance(e, Intervention) and e.qualified else ""
    match e.part:
        case "site":
            return ""
        case "error":
            return f"{of}error"
        case "direction":
            return f"dir {e.direction}" if isinstance(e, Intervention) else ""
        case part:
            return "all" if isinstance(e.features, str) else ids_text(e.features, of, PREFIX[part])


def ids_text(ids: tuple[int, ...], of: str = "", letter: str = "f") -> str:
    """`f42` or `{f1, f3..5}`; `of` goes before each, as in `g.f42`."""
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    head = of + letter
    parts = [f"{head}{a}" if a == b else f"{head}{a}..{b}" if b > a + 1 else f"{head}{a}, {head}{b}" for a, b in runs]
    return parts[0] if len(parts) == 1 and ", " not in parts[0] else "{" + ", ".join(parts) + "}"


def replacement_text(to: Replacement) -> str:
    """`mean of "reference.txt"`"""
    return f"{to.kind} of {quote(to.reference)}"


def condition_text(c: Condition) -> str:
    """`g.f3 > 0.5 and not (g.f4 > 0 or g.f5 > 1 max)`; features are always qualified."""
    match c:
        case Test(dictionary, feature, op, value, unit):
            return f"{dictionary}.f{feature} {op} {number(value)}" + (f" {unit}" if unit else "")
        case Not(item):
            return f"not {_closed(item, And, Or)}"
        case And(items):
            return " and ".join(_closed(i, And, Or) for i in items)
        case Or(items):
            return " or ".join(_closed(i, Or) for i in items)


def _closed(c: Condition, *looser: type) -> str:
    return f"({condition_text(c)})" if isinstance(c, looser) else condition_text(c)
