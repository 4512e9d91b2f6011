"""Positions and sites that could not be read."""

from __future__ import annotations

import re

from saedsl.grammar import guess
from saedsl.grammar.failure import Failure, Finding, write
from saedsl.grammar.nodes import Span
from saedsl.grammar.words import (
    EDITS,
    GLOBAL_SITES,
    POSITIONS,
)


def position(f: Failure) -> Finding | None:
    if f.here == "at" and f.kind in {*EDITS, "record", "metric"} and f.word(f.i + 1) in POSITIONS:
        hints = write(f"@ {f.rest(f.i + 1)}", "@ instead of at")
        return Finding("S125", "positions follow @, not `at`", f.span, "", hints)
    if f.here in POSITIONS and not f.in_positions and "WHERE" in f.accepts:
        return Finding("S125", "positions follow @", f.span, "", write(f"@ {f.rest(f.i)}", f"@ {f.here}"))
    if f.here == "@" and not f.in_positions and f.kind in {*EDITS, "at"}:
        return second_place(f)
    if not f.in_positions:
        return None
    if f.here == "@":
        return second_place(f)
    start = f.i if f.prev in {"@", "|", "except", "(", "at"} else -1
    if start >= 0:
        return no_position(f)
    return in_brackets(f) or after_position(f)


def second_place(f: Failure) -> Finding | None:
    if "@" in [f.word(j) for j in range(f.i)] and f.kind != "patch":
        return Finding("S125", "a second @", f.span, "", ("join positions with |, take away with except",))
    return None


def no_position(f: Failure) -> Finding | None:
    """At a place where a position should begin."""
    sign = "at" if f.clause == "at" else "@"
    examples = f"write {sign} prompt[-1], {sign} gen, {sign} last or {sign} all"
    if sign == "at":
        examples = 'write at prompt[-1], at prompt[2..5] or at " Paris"'
    m = re.match(r"\[?\s*(-?\s*\d+)(?!\d)\s*\]?", f.text[f.span.start :]) if f.tok else None
    hints: tuple[str, ...]
    if m:
        number = m[1].replace(" ", "")
        j = f.i
        while j < len(f.tokens) and f.tokens[j].end <= f.span.start + m.end():
            j += 1
        if number.startswith("-"):
            hints = (
                f"for the prompt's token write {sign} prompt[{number}]",
                f"for the newest token at every step write {sign} last",
            )
            hints = hints if number == "-1" and sign == "@" else hints[:1]
        else:
            hints = (
                f"for the prompt's token write {sign} prompt[{number}]",
                f"for a generated token write {sign} gen[{number}]",
            )
        hints = hints[:1] if sign == "at" else hints
        span = f.span_of(f.i, max(j, f.i + 1))
        return Finding(
            "S125",
            f"{f.between(f.i, j)} is not a position: of the prompt, or of what is generated?",
            span,
            "",
            hints,
        )
    if f.tok is None:
        return Finding("S125", "a position is missing", f.span, "", (examples,))
    if f.tok.kind == "word":
        if f.here.lower() in guess.POSITION_SYNONYMS:
            hints = tuple(f"write {sign} {p}" for p in guess.POSITION_SYNONYMS[f.here.lower()])
        elif close := guess.nearest(f.here, POSITIONS):
            hints = (f"did you mean {close}?",)
        else:
            hints = (f'for the token {f.here} write {sign} " {f.here}"',)
        return Finding("S125", f"{f.here} is not a position", f.span, "", hints)
    return Finding("S125", f"{f.here} is not a position", f.span, "", (examples,))


def in_brackets(f: Failure) -> Finding | None:
    """`prompt[2:5]`, `prompt[1, 3]`, `prompt[2..]`."""
    k = next((k for k in range(f.i, max(f.i - 8, 0), -1) if f.word(k) == "[" and (k == f.i or f.i > k)), None)
    if k is None or any(f.word(j) == "]" for j in range(k, f.i)):
        return None
    what = f.word(k - 1)
    end = next((j for j in range(k, len(f.tokens)) if f.word(j) == "]"), None)
    if end is None:
        return None
    span, inside = f.span_of(k - 1, end + 1), f.between(k + 1, end)
    if what not in {"prompt", "gen"}:
        if what in POSITIONS:
            return Finding("S125", f"{what} has no index", span, "only prompt and gen have", ())
        return None
    hints: tuple[str, ...] = ()
    if m := re.fullmatch(r"(-?\d*)\s*:\s*(-?\d*)", inside):
        last = str(int(m[2]) - 1) if m[2] and m[2] != "-" else "-1"
        hints = (f"write {what}[{m[1] or 0}..{last}]: both ends are included",)
    elif m := re.fullmatch(r"(-?\d*)\s*\.\.\s*(-?\d*)", inside):
        hints = write(f"{what}[{m[1] or 0}]" if m[1] == "-1" else f"{what}[{m[1] or 0}..{m[2] or -1}]")
    elif re.fullmatch(r"-?\d+(\s*,\s*-?\d+)+", inside):
        hints = write(" | ".join(f"{what}[{n.strip()}]" for n in inside.split(",")))
    else:
        hints = (f"write {what}[-1] or {what}[2..5]",)
    return Finding("S125", f"{what}[{inside}] is not a position", span, "", hints)


def after_position(f: Failure) -> Finding | None:
    if f.here in {"and", "or", "&", ",", "+"} and "BAR" in f.accepts:
        if f.here == "," and f.kind in {"record", "at"}:
            return Finding("S125", "positions come last, after every site", f.span, "", ("join positions with |",))
        return Finding("S125", "positions are joined with |", f.span, "", ("write |",))
    if f.here in {"not", "but", "without", "-"} and f.prev in POSITIONS and "EXCEPT" in f.accepts:
        number = re.match(r"-\s*(\d+)", f.text[f.span.start :])
        if number and f.prev in {"prompt", "gen"}:
            return index_missing(f, f"-{number[1]}", f.i + 2)
        return Finding("S125", "positions are taken away with except", f.span, "", ("write except",))
    if f.tok and f.tok.kind == "number" and f.prev in {"prompt", "gen"}:
        return index_missing(f, f.here, f.i + 1)
    return None


def index_missing(f: Failure, number: str, end: int) -> Finding:
    return Finding("S125", "an index goes in brackets", f.span_of(f.i, end), "", write(f"{f.prev}[{number}]"))


# Sites ------------------------------------------------------------------------------------------------------


def module(f: Failure) -> Finding | None:
    """`module model.norm in`, `module "model.norm"`."""
    start = next((j for j in range(f.i) if f.word(j) == "module"), None)
    if start is None or f.kind not in {"at", "record", "metric"} or f.i > start + 2:
        return None
    name = f.tokens[start + 1] if start + 1 < len(f.tokens) else None
    if name is None or name.kind in {"string", "quoted"}:
        path = name.text if name else '"model.norm"'
        side = {"input": "in", "inputs": "in", "output": "out", "outputs": "out"}.get(f.here)
        hints = write(f"module {path} {side}") if side else write(f"module {path} in, or module {path} out")
        return Finding("S123", "which side of the module?", f.span, "its input or its output", hints)
    path = f.text[name.start :].split()[0].rstrip(",")
    span = Span(name.start, name.start + len(path))
    return Finding("S126", "a string needs quotes", span, "", write(f'module "{path}" out')) if "." in path else None


def site(f: Failure) -> Finding | None:
    """A site in another spelling, or half of one."""
    if f.in_positions or f.kind not in {"at", "record", "sae"}:
        return None
    if f.kind == "sae":
        if f.here == "at" and f.i == 4:
            return Finding(
                "S120", "a dictionary is put `on` its site", f.span, "", write(f"on {f.rest(f.i + 1)}", "on")
            )
        if "on" not in [t.text for t in f.tokens[: f.i]]:
            return None
    starts = [j + 1 for j in range(f.i) if f.word(j) in {"at", "record", "on", ","}]
    start = starts[-1] if starts else 0
    if start >= len(f.tokens):
        return Finding(
            "S123",
            f"`{f.prev}` needs a site" if f.prev != "," else "a site is missing",
            f.span,
            "",
            (f"write {f.kind} L12.mlp",),
        )
    begin = f.tokens[start].start
    if (
        start < f.i
        and f.i < len(f.tokens)
        and f.tokens[f.i].start > f.tokens[f.i - 1].end
        and f.word(start) in GLOBAL_SITES
    ):
        return None
    complete = f.accepts & {"WHERE", "COMMA"} and re.match(r"L\S+\.[a-z]", f.text[begin:])
    found = None if complete else guess.site(f.text[begin : f.tokens[-1].end])
    if found:
        end = min(begin + found.length, f.tokens[-1].end)
        wrong = " ".join(f.text[begin:end].split())
        label, message = "", f"{wrong} is not a site"
        sites = found.sites
        if re.fullmatch(r"L[\d.]+", wrong):
            label = "which part of the layer?"
            if m := re.match(r"\.h\d+", f.text[end : end + 8]):
                sites = (f"{wrong}.attn.z{m[0]}",)
        return Finding("S123", message, Span(begin, end), label, tuple(f"write {s}" for s in sites))
    if f.word(start) in {"{", "["} and f.i == start:
        return Finding("S123", "sites are listed without brackets", f.span, "", ("write at L1.mlp, L2.mlp",))
    return None
