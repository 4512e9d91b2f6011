"""Edits that could not be read: their words, targets, factors and ranges."""

from __future__ import annotations

import re

from saedsl.grammar import guess
from saedsl.grammar.failure import Failure, Finding, not_yet, one_of, write
from saedsl.grammar.tokens import Token
from saedsl.grammar.words import (
    EDITS,
    LATER,
    STATEMENTS,
)


def no_edit(f: Failure) -> Finding | None:
    """What follows the header of an `at` is no edit."""
    if f.kind != "at" or f.tok is None or not f.accepts & {"COMMA", "WHERE", "BAR"}:
        return None
    if f.here in STATEMENTS:
        label = "an edit is missing before it"
        return Finding("S116", "`at` needs an edit on its line", f.span, label, ("write at L12.mlp ablate f42",))
    if f.here == "." and re.match(r"f\d", f.word(f.i + 1)):
        hints = write(f"at {f.prev} ablate {f.word(f.i + 1)}") if f.i == 2 else ()
        span = f.span_of(f.i + 1, f.i + 2)
        return Finding("S123", "`at` takes sites; features come after the edit's word", span, "", hints)
    if f.here == ":":
        return Finding("S120", "no colon after `at`", f.span, "", ("leave the colon out",))
    if f.here in {"and", "&", "+", "|"} and "COMMA" in f.accepts:
        return Finding("S123", "sites are joined with commas", f.span, "", ("write ,",))
    return unknown_edit(f.text, f.tokens[f.i :])


def unknown_edit(text: str, tokens: tuple[Token, ...]) -> Finding:
    """`tokens` stand where an edit should, and start with no word that starts one."""
    first = tokens[0]
    word, phrase = first.text, " ".join(text[first.start : tokens[-1].end].split())
    words = [t.text for t in tokens]
    if word.lower() in EDITS:
        low = word.lower()
        return Finding("S112", f"words of the language are lower-case: {low}", first.span, "", write(low))
    if word in LATER:
        return not_yet(f"`{word}`", first.span)
    target = re.match(r"(?:[\w.]+\.)?[fF]\d+(?:\s*\.\.\s*\d+)?|\{[^}]*\}", phrase)
    if target:
        after, name = phrase[target.end() :].strip(), target[0].replace("F", "f")
        if m := re.match(r"(==?|:=|:|->)\s*(\S.*)?$", after):
            hints = write(f"set {name} = {m[2] or 0}")
        elif m := re.match(r"(\*=?|x|\*)\s*(\S+)", after):
            hints = write(f"amplify {name} {times(m[2])}")
        elif m := re.match(r"\+=?\s*(\S+)", after):
            hints = write(f"add {m[1]} {name}")
        else:
            hints = write(f"ablate {name}")
        return Finding("S111", f"an edit starts with {one_of(EDITS)}", first.span, "", hints)
    if re.match(r"L[-\d{*]|[\w.]+\.(?:mlp|attn|resid)", phrase):
        return Finding(
            "S111",
            f"an edit starts with {one_of(EDITS)}",
            first.span,
            "",
            ("for another site start a new line with at",),
        )
    if first.kind == "word" and len(words) > 1 and words[1] == "=":
        return Finding("S111", f"an edit starts with {one_of(EDITS)}", first.span, "", write(f"set {phrase}"))
    hints = ()
    if first.kind == "word":
        close = guess.EDIT_SYNONYMS.get(word.lower()) or guess.nearest(word, EDITS)
        hints = (f"did you mean {close}?",) if close else (f"an edit starts with {one_of(EDITS)}",)
        return Finding("S111", f"unknown edit {word}", first.span, "", hints)
    return Finding("S111", f"an edit starts with {one_of(EDITS)}", first.span)


def target(f: Failure) -> Finding | None:
    """`ablate 42`, `{1, 8}`, `[f1, f8]`, `f1, f8`, `f3..f9`, `feature 42`."""
    if f.in_positions or f.kind not in {*EDITS, "let", "record"} or f.tok is None:
        return None
    can_start = {"FEATURE", "LBRACE"} <= f.accepts
    if m := re.match(r"features?|latents?|feats?$", f.prev if f.tok.kind == "number" else ""):
        return Finding(
            "S122",
            "a feature is written f and its number",
            f.span_of(f.i - 1, f.i + 1),
            "",
            write(f"f{f.here}"),
        )
    if f.tok.kind == "number" and "FEATURE" in f.accepts and "NUMBER" not in f.accepts:
        if f.prev == ".." or not f.here.isdigit():
            return None
        if f.kind in EDITS and f.i == 1:
            fixed = f"{f.kind} f{f.rest(f.i).split(' @')[0]}"
            if f.kind == "amplify" and re.fullmatch(r"amplify f\d+", fixed):
                fixed += " x2"
            return Finding(
                "S122", f"{f.here} is not a target", f.span, "features have an f", write(fixed, f"f{f.here}")
            )
        return Finding("S122", f"{f.here} is not a feature", f.span, "features have an f", write(f"f{f.here}"))
    if f.prev == ".." and "INT" in f.accepts and re.fullmatch(r"f\d+", f.here):
        first = f.word(f.i - 2)
        return Finding("S122", "a range has one f", f.span, "", write(f"{first}..{f.here[1:]}"))
    if (
        re.fullmatch(r"f\d+", f.prev)
        and f.here in {"-", ":", "to"}
        and f.kind not in {"clamp", "set"}
        and (m := re.fullmatch(r"f?(\d+)", f.word(f.i + 1)))
    ):
        span = f.span_of(f.i - 1, f.i + 2)
        hints = write(f"{f.prev}..{m[1]}")
        return Finding("S122", "a range of features is written with ..", span, "", hints)
    if (can_start or f.kind == "let") and f.here in {"[", "("} and re.match(r"[\[(]\s*(f?\d+)", f.rest(f.i)):
        inside = re.match(r"[\[(]([^\])]*)[\])]", f.rest(f.i))
        hints = write("{" + re.sub(r"(?<![\w.])(\d)", r"f\1", inside[1]) + "}", "{f1, f8}") if inside else ()
        return Finding("S122", "a set of features is written in braces", f.span, "", hints)
    if (
        f.here in {",", "and", "+", "&"}
        and f.i > 1
        and "COMMA" not in f.accepts
        and f.kind in {"ablate", "amplify", "set", "clamp", "add"}
    ):
        items = re.match(r"((?:[\w.]+\.)?f\d+)((?:\s*(?:,|and\b|\+|&)\s*(?:[\w.]+\.)?f\d+)+)", f.rest(f.i - 1))
        if items:
            names = re.findall(r"(?:[\w.]+\.)?f\d+", items[0])
            return Finding("S122", "several features go in braces", f.span, "", write("{" + ", ".join(names) + "}"))
    if f.accepts >= {"COMMA", "RBRACE"} and f.tok.kind == "word":
        return Finding("S122", "a comma is missing", f.span, f"before {f.here}", write(f"{f.prev}, {f.here}"))
    if f.kind == "let" and f.i == 3 and f.tok.kind in {"string", "quoted"}:
        hints = write(f"prompt {f.word(1)} = {f.here}", f"prompt {f.word(1)} = ...")
        return Finding("S120", "`let` names numbers and feature sets", f.span, "", hints)
    if can_start and f.tok.kind in {"string", "quoted"}:
        inside_text = f.here[1:-1]
        hints = write(inside_text) if re.fullmatch(r"f\d+", inside_text) else ()
        return Finding("S122", "a target is not written in quotes", f.span, "", hints)
    return None


def times(number: str) -> str:
    """`x2`, `x -1`, `x strength`."""
    return f"x{number}" if re.fullmatch(r"[\d.]+", number) else f"x {number}"


def factor(f: Failure) -> Finding | None:
    """`amplify f7 by 2`, `amplify f7 2`, `amplify f7 * 2`."""
    if f.kind != "amplify" or f.in_positions:
        return None
    if "X" not in f.accepts:
        if f.tok is None and f.prev == "x":
            return Finding("S124", "by how much?", f.span, "", write(f.between(0, f.i) + "2"))
        return None
    before = f.between(0, f.i)
    if f.i == 1 and f.tok and f.tok.kind == "number":
        return None
    if f.tok is None:
        before = before if f.i > 1 else "amplify f7"
        return Finding("S124", "by how much?", f.span, "a factor is missing", write(f"{before} x2", "amplify f7 x2"))
    m = re.match(r"(?:by|times|to|=|\*=?|×|X|x)?\s*(?:x|×)?\s*(-?\s*[\d.]+|\$?[A-Za-z_]\w*)\s*x?", f.rest(f.i))
    if not m:
        return None
    end = f.i + 1
    while end < len(f.tokens) and f.tokens[end].start < f.span.start + m.end():
        end += 1
    return Finding(
        "S124",
        "a factor is written xN",
        f.span_of(f.i, end),
        "",
        write(f"{before} {times(m[1])}", "amplify f7 x2"),
    )


def assignment(f: Failure) -> Finding | None:
    """`set f42 to 0`, `set f42 0`, `let k 2`, `prompt p: "..."`."""
    if f.in_positions or "EQUALS" not in f.accepts:
        return None
    before = f.between(0, f.i)
    if f.tok is None:
        value = {"set": "4", "let": "2"}.get(f.kind, '"..."')
        return Finding("S121", f"`{f.kind}` needs = and a value", f.span, "", write(f"{before} = {value}"))
    skip = f.here in {"to", "==", ":", "<", "->", "as", "is", "at"}
    if f.here == ":" and f.word(f.i + 1) == "=":
        rest = f.rest(f.i + 2)
    else:
        rest = f.rest(f.i + skip)
    if not skip and f.tok.kind not in {"number", "string", "quoted"} and f.here not in {"-", "{", "$"}:
        return None
    return Finding("S120", f"`{f.kind}` needs = before the value", f.span, "", write(f"{before} = {rest}", "="))


def bounds(f: Failure) -> Finding | None:
    """`clamp f3 0..5`, `clamp f3 between 0 and 5`, `clamp f3 to [0, 5]`, `clamp f3 to 5`."""
    if f.kind != "clamp" or f.in_positions:
        return None
    to = next((j for j in range(len(f.tokens)) if f.word(j) == "to"), None)
    if "TO" in f.accepts and not (to is not None and to < f.i):
        if f.tok is None:
            before = f.between(0, f.i) if f.i > 1 else "clamp f3"
            return Finding("S130", "a range is missing", f.span, "", write(f"{before} to 0..5", "clamp f3 to 0..5"))
        start = f.i
    elif to is not None and to < f.i:
        start = to + 1
    else:
        return None
    number = r"(-?\s*[\d.]*\d|\$?[A-Za-z_]\w*)"
    tail = f.rest(start)
    before = f.between(0, to if to is not None and to < f.i else f.i)
    m = re.match(
        rf"(?:between|in|from|=|to)?\s*[\[(]?\s*{number}\s*(?:\.\.\.?|,|and|to|-|:|\s)\s*{number}\s*[\])]?",
        tail,
    )
    if m and m[1] not in {"to", "between"}:
        good = f"{before} to {m[1]}..{m[2]}"
        message = "a range is written a..b" if start != f.i or f.here not in {"-"} else "`to` is missing"
        span = f.span if f.tok else f.span_of(start, f.i)
        return Finding("S130", message, span, "", write(good, "clamp f3 to 0..5"))
    if m := re.fullmatch(rf"=?\s*{number}", re.split(r"\s*@", tail)[0]):
        hints = (
            f"write {before} to ..{m[1]} for at most {m[1]}",
            f"or {before.replace('clamp', 'set')} = {m[1]} for exactly {m[1]}",
        )
        span = f.span_of(start, f.i) if f.i > start else f.span
        return Finding("S130", "a range is written a..b, a.. or ..b", span, "", hints)
    if f.tok is None:
        return Finding("S130", "a range is missing", f.span, "", write(f"{f.between(0, f.i)} 0..5"))
    return None


def amount(f: Failure) -> Finding | None:
    """`add f42 4`: the amount comes first."""
    if f.kind != "add" or f.in_positions or "NUMBER" not in f.accepts or (f.i > 1 and f.prev != "add"):
        return None
    m = re.match(r"((?:[\w.]+\.)?f\d+(?:\.\.\d+)?|\{[^}]*\})\s*(?:x|\*|by|times|=)?\s*(-?\s*[\d.]+|\$\w+)?", f.rest(1))
    if not m:
        return None
    return Finding(
        "S120",
        "`add` needs an amount, then the target",
        f.span,
        "how much?",
        write(f"add {m[2] or 4} {m[1]}"),
    )
