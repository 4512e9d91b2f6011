"""Edits that could not be read: their words, targets, factors and ranges."""

from __future__ import annotations

import re
from typing import Final

from saedsl.grammar import guess
from saedsl.grammar.failure import Failure, Finding, write
from saedsl.grammar.mistaken_clauses import no_when
from saedsl.grammar.tokens import Token
from saedsl.grammar.words import EDITS, STATEMENTS

AN_EDIT: Final = "an edit starts with a word such as ablate, amplify or set"
A_CHAIN: Final = "write set f5 = 4 then amplify f5 x2"
LETTERS: Final = {"f": "a feature", "h": "a head", "n": "a coordinate"}
NUMBERED: Final = re.compile(r"(features?|latents?|feats?|heads?|neurons?|coordinates?|coords?|units?|dims?)$")


def part_of_site(f: Failure) -> Finding | None:
    """`at g.f3 ablate`, `at L2.mlp.act.n17 ablate`."""
    dot = f.i - 1 if f.prev == "." else f.i
    if f.kind == "at" and f.word(dot) == "." and re.match(r"[fn]\d|error$", f.word(dot + 1)):
        thing = f.word(dot + 1)
        what = {"f": "features come", "n": "coordinates come"}.get(thing[0], "the error comes")
        hints = write(f"at {f.between(1, dot)} ablate {thing}")
        span = f.span_of(dot + 1, dot + 2)
        return Finding("S123", f"`at` takes sites; {what} after the edit's word", span, "", hints)
    return None


def no_edit(f: Failure) -> Finding | None:
    """What follows the header of an `at` is no edit."""
    if f.kind == "at" and f.here == "then":
        return Finding("S131", "an edit is missing before `then`", f.span, "", (A_CHAIN,))
    if f.kind != "at" or f.tok is None or not f.accepts & {"COMMA", "WHERE", "BAR"}:
        return None
    if f.here in STATEMENTS and f.here != "dir":
        label = "an edit is missing before it"
        return Finding("S116", "`at` needs an edit on its line", f.span, label, ("write at L12.mlp ablate f42",))
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
    if (missing := no_when(text, tokens)) is not None:
        return missing
    if word in {"resample", "mean"}:
        what = words[1] if len(words) > 1 and re.match(r"[fhn]\d", words[1]) else "f42"
        fixed = f'ablate {what} to {word} of "reference.txt"'
        return Finding("S111", f"{word} is not an edit", first.span, "", write(fixed))
    if re.fullmatch(r"heads?", word) and len(words) > 1:
        which = "h{1, 3}" if words[1] in "[{(" else f"h{words[1].lstrip('h')}"
        return Finding("S123", "heads belong to the site", first.span, "", write(f"at L5.attn.z.{which}"))
    if words[0] == "when" and len(words) > 1:
        label = "after the edit, or in the header"
        hints = write("ablate f1 when f3 > 0.5")
        return Finding("S132", "`when` comes after what it is about", first.span, label, hints)
    if word.lower() in EDITS:
        low = word.lower()
        return Finding("S112", f"words of the language are lower-case: {low}", first.span, "", write(low))
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
        return Finding("S111", AN_EDIT, first.span, "", hints)
    if re.match(r"L[-\d{*]|[\w.]+\.(?:mlp|attn|resid)", phrase):
        return Finding(
            "S111",
            AN_EDIT,
            first.span,
            "",
            ("for another site start a new line with at",),
        )
    if first.kind == "word" and len(words) > 1 and words[1] == "=":
        return Finding("S111", AN_EDIT, first.span, "", write(f"set {phrase}"))
    hints = ()
    if first.kind == "word":
        close = guess.EDIT_SYNONYMS.get(word.lower()) or guess.nearest(word, EDITS)
        hints = (f"did you mean {close}?",) if close else (AN_EDIT,)
        return Finding("S111", f"unknown edit {word}", first.span, "", hints)
    return Finding("S111", AN_EDIT, first.span)


def target(f: Failure) -> Finding | None:
    """`ablate 42`, `{1, 8}`, `[f1, f8]`, `f1, f8`, `f3..f9`, `feature 42`."""
    if f.in_positions or f.clause == "when" or f.kind not in {*EDITS, "let", "record"} or f.tok is None:
        return None
    can_start = {"FEATURE", "LBRACE"} <= f.accepts
    if f.tok.kind == "number" and NUMBERED.match(f.prev):
        letter = {"h": "h", "n": "n", "c": "n", "u": "n", "d": "n"}.get(f.prev[0], "f")
        message = f"{LETTERS[letter]} is written {letter} and its number"
        return Finding("S122", message, f.span_of(f.i - 1, f.i + 1), "", write(f"{letter}{f.here}"))
    if f.tok.kind == "number" and "FEATURE" in f.accepts and "NUMBER" not in f.accepts:
        if f.prev == ".." or not f.here.isdigit():
            return None
        if f.kind in EDITS and f.i == 1:
            fixed = f"{f.kind} f{f.rest(f.i).split(' @')[0]}"
            if f.kind == "amplify" and re.fullmatch(r"amplify f\d+", fixed):
                fixed += " x2"
            if f.kind == "patch" and "from" not in fixed:
                fixed += " from it"
            return Finding(
                "S122", f"{f.here} is not a target", f.span, "features have an f", write(fixed, f"f{f.here}")
            )
        return Finding("S122", f"{f.here} is not a feature", f.span, "features have an f", write(f"f{f.here}"))
    if f.prev == ".." and "INT" in f.accepts and re.fullmatch(r"[fhn]\d+", f.here):
        first = f.word(f.i - 2)
        return Finding("S122", f"a range has one {f.here[0]}", f.span, "", write(f"{first}..{f.here[1:]}"))
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
    if f.here in {",", "and", "+", "&"} and f.i > 1 and "COMMA" not in f.accepts and f.kind in EDITS:
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
    if f.clause or "EQUALS" not in f.accepts:
        return None
    before = f.between(0, f.i)
    if f.tok is None:
        value = {"set": "4", "let": "2", "metric": 'logit(" Paris")'}.get(f.kind, '"..."')
        return Finding("S121", f"`{f.kind}` needs = and a value", f.span, "", write(f"{before} = {value}"))
    skip = f.here in {"to", "==", ":", "<", "->", "as", "is", "at"}
    if f.here == ":" and f.word(f.i + 1) == "=":
        rest = f.rest(f.i + 2)
    else:
        rest = f.rest(f.i + skip)
    values = f.tok.kind in {"number", "string", "quoted"} or f.here in {"-", "{", "$", "chat", "max", "std"}
    if not skip and not values and f.kind != "metric":
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
        return Finding("S130", "a range is missing", f.span, "", write(f"{f.between(0, start)} 0..5"))
    return None


def amount(f: Failure) -> Finding | None:
    """`add f42 4`: the amount comes first."""
    if f.kind != "add" or f.clause or "NUMBER" not in f.accepts or (f.i > 1 and f.prev != "add"):
        return None
    some = r"((?:[\w.]+\.)?[fhn]\d+(?:\.\.\d+)?|\{[^}]*\}|dir\s+\$?\w+|all\b)"
    m = re.match(some + r"\s*(?:x|\*|by|times|=)?\s*(-?\s*[\d.]+|\$\w+)?", f.rest(1))
    if not m:
        return None
    return Finding(
        "S120",
        "`add` needs an amount, then the target",
        f.span,
        "how much?",
        write(f"add {m[2] or 4} {m[1]}"),
    )
