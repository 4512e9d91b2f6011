"""Why a statement or an edit could not be read, and what to write instead.

The grammar knows only where it stopped and what it would have taken. The functions in ATTEMPTS look at the
words around that place, from the particular to the general; the first that recognises the mistake names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from saedsl.grammar.failure import Failure, Finding, one_of, write
from saedsl.grammar.mistaken_clauses import before_then, condition, only_out_error, replacement, source, unit
from saedsl.grammar.mistaken_edits import amount, assignment, bounds, factor, no_edit, part_of_site, target
from saedsl.grammar.mistaken_lines import PYTHON_HINT
from saedsl.grammar.mistaken_places import module, position, site
from saedsl.grammar.mistaken_statements import declaration, metric, options, sweep
from saedsl.grammar.tokens import LOOKALIKES
from saedsl.grammar.words import EDITS, RESERVED, STATEMENTS


def junk(f: Failure) -> Finding | None:
    if f.tok is None or f.tok.kind != "junk":
        return None
    hints = (f"write {LOOKALIKES[f.here]}",) if f.here in LOOKALIKES else ()
    if f.here == "×" and f.kind == "amplify":
        return None
    return Finding("S105", f"unexpected character {f.here}", f.span, f"U+{ord(f.here):04X}", hints)


def bad_number(f: Failure) -> Finding | None:
    if f.tok is None or f.tok.kind != "number" or re.fullmatch(r"[\d.]+(?:[eE][+-]?\d+)?", f.here):
        return None
    if f.kind == "amplify" and re.fullmatch(r"[\d.]+x", f.here):
        return factor(f)
    if m := re.fullmatch(r"([\d.]+)(max|std|norm)", f.here):
        return Finding("S128", f"{f.here} is not a number", f.span, "", write(f"{m[1]} {m[2]}"))
    plain = f.here.replace("_", "")
    good = plain != f.here and re.fullmatch(r"[\d.]+", plain)
    return Finding("S128", f"{f.here} is not a number", f.span, "", (f"write {plain}",) if good else ())


def capitals(f: Failure) -> Finding | None:
    """`F42`, `l2.mlp`, `X2`, `TO`, `Prompt`."""
    if f.tok is None:
        return None
    if f.here == "." and re.fullmatch(r"l\d+", f.prev):
        j = f.i + 2
        good = "L" + f.between(f.i - 1, j)[1:]
        return Finding("S112", "layers have a capital L", f.span_of(f.i - 1, j), "", write(good))
    if f.tok.kind != "word" or f.here == f.here.lower():
        return None
    low = f.here.lower()
    if re.fullmatch(r"[FHN]\d+", f.here):
        what = {"f": "features", "h": "heads", "n": "coordinates"}[low[0]]
        return Finding("S112", f"{what} have a small {low[0]}", f.span, "", write(low))
    if low in RESERVED - {"l"} or re.fullmatch(r"x\d+", low):
        return Finding("S112", f"words of the language are lower-case: {low}", f.span, "", write(low))
    return None


NAMING: Final = frozenset(("sae", "prompt", "prompts", "let", "dir", "metric", "sweep"))


def name_taken(f: Failure) -> Finding | None:
    """A word of the language, or what reads as a feature, in the place of a new name."""
    if f.kind not in NAMING or f.i != 1:
        return None
    if f.tok is None or f.tok.kind not in {"word", "number"}:
        if f.kind == "prompt" and f.tok is not None and f.tok.kind in {"string", "quoted"}:
            return Finding(
                "S127",
                "the prompt has no name",
                f.span,
                "",
                write(f"prompt p = {f.here}", 'prompt p = "..."'),
            )
        span, sign = f.span, "in" if f.kind == "sweep" else "="
        return Finding("S127", f"`{f.kind}` needs a name", span, "", write(f"{f.kind} NAME {sign} ..."))
    if f.here in RESERVED:
        why = "is a word of the language"
    elif m := re.match(r"([fFLhnx])\d", f.here):
        what = {
            "f": "a feature",
            "F": "a feature",
            "L": "a layer",
            "h": "a head",
            "n": "a coordinate",
            "x": "a factor",
        }
        why = f"reads like {what[m[1]]}"
    else:
        why = "has other characters than a-z, A-Z, 0-9 and _, or starts with a digit"
    return Finding("S127", f"{f.here} cannot be a name", f.span, f"it {why}", ("choose another name",))


def second_statement(f: Failure) -> Finding | None:
    if f.here in STATEMENTS and f.kind != "at" and f.i > 1 and not f.in_positions and f.accepts & {"$END", "WHERE"}:
        if f.here == "at" and f.kind in {*EDITS, "sae", "at", "record", "metric"}:
            return None
        if f.here == "prompt" and f.word(f.i + 1) in {"[", "|", "except", ""}:
            return None
        label = f"`{f.here}` starts a new line"
        return Finding("S117", "two statements on one line", f.span, label)
    return None


def edit_here(f: Failure) -> Finding | None:
    """An edit without its `at`, or before it."""
    if f.kind in EDITS and f.here in {"in", "on"} and re.match(r"L[-\d{*]|l\d|layers?", f.word(f.i + 1)):
        return Finding("S115", f"the site comes before `{f.kind}`", f.span, "", (f"write at SITE {f.kind} ...",))
    if f.here in EDITS and f.kind not in {"at", *EDITS} and f.i > 1:
        return Finding(
            "S115",
            f"`{f.here}` needs a site",
            f.span,
            "edits follow `at SITE`",
            (f"write at L12.mlp {f.here} ...",),
        )
    return None


def quotes(f: Failure) -> Finding | None:
    """`model demo`, `prompt p = The capital`."""
    if f.clause or "STRING" not in f.accepts or f.kind in EDITS:
        return None
    head = f.between(0, f.i)
    if f.tok is None:
        return Finding("S121", "a string is missing", f.span, "", write(f'{head} "..."'))
    if f.here in {"=", ":"} and f.kind == "model":
        return Finding("S120", f"`model` takes no {f.here}", f.span, "", write(f"model {f.rest(f.i + 1)}"))
    if f.tok.kind in {"word", "number", "punct"}:
        on = (
            next((j for j in range(f.i, len(f.tokens)) if f.word(j) == "on"), len(f.tokens))
            if f.kind == "sae"
            else len(f.tokens)
        )
        span = f.span_of(f.i, max(on, f.i + 1))
        path = f.text[span.start : span.end].replace('"', "")
        tail = (" " + f.rest(on)) if on < len(f.tokens) else ""
        return Finding("S126", "a string needs quotes", span, "", write(f'{head} "{path}"{tail}', 'it in "quotes"'))
    return None


def prompts(f: Failure) -> Finding | None:
    """`run "text"`, `run a b`, `generate 32 fr`."""
    if f.kind not in {"run", "generate"}:
        return None
    if f.tok is None and f.kind == "generate":
        hints = write(f"{f.between(0, f.i)} 32")
        return Finding("S121", "`generate` needs a number of tokens", f.span, "", hints)
    if f.tok is None:
        return None
    if f.tok.kind in {"string", "quoted"} and "NAME" in f.accepts:
        hints = write(
            f"prompt p = {f.here} on its own line, then {f.kind} p",
            f"prompt p = ... on its own line, then {f.kind} p",
        )
        return Finding("S120", "a prompt is given by its name", f.span, "", hints)
    if f.kind == "run":
        if f.tok.kind == "word" and "COMMA" in f.accepts:
            word = f.word(f.i + 1) if f.here == "and" else f.here
            return Finding("S120", "prompts are separated by commas", f.span, "", write(f"{f.between(0, f.i)}, {word}"))
        if f.here == "(":
            return Finding("S120", "`run` takes no brackets", f.span, "", write("run " + f.rest(f.i).strip("()")))
        return None
    if f.i == 2 and f.tokens[1].kind == "number" and f.tok.kind == "word":
        return Finding(
            "S120",
            "the prompt comes before the number of tokens",
            f.span,
            "",
            write(f"generate {f.here} {f.word(1)}"),
        )
    number = next((t.text for t in f.tokens[f.i :] if t.kind == "number"), None)
    if number and f.i >= 2:
        return Finding("S120", "a number of tokens was expected", f.span, "", write(f"generate {f.word(1)} {number}"))
    return None


def python(f: Failure) -> Finding | None:
    if f.here == "==" and (f.accepts & {"EQUALS"} or f.prev == "=" or f.kind in {"set", "let"}):
        return Finding("S114", "== is Python", f.span, "", ("write =",))
    if f.i == 1 and f.here in {".", "("} and f.kind not in {*EDITS, "run", "generate"}:
        hints = PYTHON_HINT
        if m := re.match(r"\.(ablate|amplify|clamp|set|add)", f.rest(1)):
            hints = (f"write at L12.mlp {m[1]} ...",)
        return Finding("S114", "this is Python, not saedsl", f.tokens[0].span, "", hints)
    return None


def anything(f: Failure) -> Finding:
    wanted = one_of(expected(f.accepts))
    if f.tok is None:
        return Finding("S121", f"`{f.kind}` ends too early", f.span, f"expected {wanted}")
    shown = f.here if len(f.here) <= 30 else f.here[:27] + "..."
    if wanted == "the end of the line":
        return Finding("S120", f"{shown} is one too many", f.span, "expected the end of the line")
    return Finding("S120", f"{shown} was not expected", f.span, f"expected {wanted}")


SYMBOLS: Final = {
    "EQUALS": "=",
    "COMMA": "a comma",
    "BAR": "|",
    "RPAR": ")",
    "RSQB": "]",
    "RBRACE": "}",
    "DOTS": "..",
    "WHERE": "@",
    "WHEN": "when",
    "TO": "to",
    "ON": "on",
    "FROM": "from",
    "IN": "in",
    "OF": "of",
    "MAX": "a unit such as max",
    "X": "a factor such as x2",
}


def expected(accepts: frozenset[str]) -> list[str]:
    """What would have been taken, for people."""
    out = []
    if {"FEATURE", "LBRACE"} <= accepts:
        out.append("a target such as f42 or {f1, f8}")
    elif "FEATURE" in accepts:
        out.append("a feature such as f42")
    elif "LAYER" in accepts or "COMPONENT" in accepts:
        out.append("a site such as L12.mlp")
    elif "EVERY" in accepts:
        out.append("a position such as prompt[-1] or all")
    elif "STRING" in accepts:
        out.append("a string in quotes")
    elif "NAME" in accepts and "NUMBER" not in accepts:
        out.append("a name")
    if "NUMBER" in accepts:
        out.append("a number")
    elif "INT" in accepts:
        out.append("a whole number")
    out += [SYMBOLS[t] for t in SYMBOLS if t in accepts]
    if not out and "IN" in accepts:
        out = ["in or out"]
    if not out:
        out = ["the end of the line"] if "$END" in accepts else ["something else"]
    return out


ATTEMPTS: Final[tuple[Callable[[Failure], Finding | None], ...]] = (
    junk,
    name_taken,
    bad_number,
    capitals,
    python,
    before_then,
    condition,
    replacement,
    only_out_error,
    source,
    unit,
    sweep,
    metric,
    options,
    declaration,
    second_statement,
    edit_here,
    position,
    part_of_site,
    module,
    site,
    no_edit,
    factor,
    bounds,
    target,
    assignment,
    amount,
    quotes,
    prompts,
)


def explain(failure: Failure) -> Finding:
    """The mistake behind a failure."""
    for attempt in ATTEMPTS:
        if (finding := attempt(failure)) is not None:
            return finding
    return anything(failure)
