"""What belongs to later versions of the language: said as such, not as a mistake of another kind."""

from __future__ import annotations

import re
from typing import Final

from saedsl.grammar.failure import Failure, Finding, not_yet, write
from saedsl.grammar.words import LATER, LATER_TARGETS, LATER_UNITS

OPTIONS: Final = {"chat": "prompt", "system": "prompt", "->": "sae", "as": "run"}
"""Words that are reserved nowhere else -> the statement that will have them."""
PARTS: Final = {"h": "heads", "n": "neurons"}
"""First letters of the targets that are not features."""


def later(f: Failure) -> Finding | None:
    """The grammar stopped at, or just behind, something of a later version."""
    if f.tok is None:
        return None
    if f.here in LATER_UNITS:
        return not_yet(f"the unit `{f.here}`", f.span)
    if f.here in LATER or OPTIONS.get(f.here) == f.kind:
        return not_yet(f"`{f.here}`", f.span)
    if f.kind == "ablate" and f.here == "to":
        if f.word(f.i + 1) in {"zero", "0"}:
            hints = write(f.between(0, f.i))
            return Finding("S113", "`ablate` already means to zero", f.span_of(f.i, f.i + 2), "leave this out", hints)
        return not_yet("`ablate ... to`", f.span)
    if f.prev == "module" and f.tok.kind in {"string", "quoted"}:
        return not_yet("`module`", f.span_of(f.i - 1, f.i))
    return part(f) or field(f)


def part(f: Failure) -> Finding | None:
    """`h3`, `L2.attn.z.h3`, `n17`, `g.error`."""
    i = f.i + 1 if f.here == "." else f.i
    word = f.word(i)
    if re.fullmatch(r"[hn]\d+", word):
        return not_yet(PARTS[word[0]], f.tokens[i].span)
    return not_yet(f"`{word}`", f.tokens[i].span) if word in LATER_TARGETS else None


def field(f: Failure) -> Finding | None:
    """`@ io.S2`, `run io.corrupt`: fields of a file of prompts."""
    dot = f.i if f.here == "." else f.i + 1
    name, own = f.word(dot - 1), f.word(dot + 1)
    a_place = f.in_positions and f.prev in {"@", "|", "except", "("}
    if f.word(dot) != "." or not (a_place or (f.kind in {"run", "generate"} and dot > 1)):
        return None
    if not (name.isidentifier() and own.isidentifier()) or re.match(r"[fFL]\d|L$", name):
        return None
    span = f.span_of(dot - 1, dot + 2)
    return not_yet("names of tokens" if f.in_positions else "fields of prompts", span)
