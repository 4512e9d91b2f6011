"""Clauses that could not be read: conditions, `then`, replacements, where a patch comes from, units."""

from __future__ import annotations

import re
from typing import Final

from saedsl.grammar.failure import Failure, Finding, write
from saedsl.grammar.nodes import Span
from saedsl.grammar.tokens import Token
from saedsl.grammar.words import EDITS, POSITIONS, UNITS

FEATURE: Final = r"(?:[\w.]+\.)?f\d+"
COMPARISON: Final = r"(?:==|!=|>=|<=|=>|=<|>|<)"
CONDITION: Final = re.compile(rf"(?:not\s+)?{FEATURE}\s*{COMPARISON}")
MIRRORED: Final = {">": "<", "<": ">", ">=": "<=", "<=": ">=", "==": "==", "!=": "!="}
JOINERS: Final = {",": "and", "&": "and", "|": "or", ";": "and"}
UNIT_SYNONYMS: Final = {
    **dict.fromkeys(("maximum", "maxes", "peak", "maxact", "max_act"), "max"),
    **dict.fromkeys(("sd", "stds", "sigma", "sigmas", "stdev", "stddev"), "std"),
    **dict.fromkeys(("norms", "relative", "rel"), "norm"),
}
REPLACEMENT_SYNONYMS: Final = {
    **dict.fromkeys(("average", "avg", "means", "the"), "mean"),
    **dict.fromkeys(("sample", "random", "shuffle"), "resample"),
}
TEXTS: Final = re.compile(r"txt|text|jsonl?|csv|tsv|md", re.IGNORECASE)
"""Ends of the names of files with texts."""
REPLACEMENTS: Final = frozenset(("mean", "resample", "zero", "average", "avg"))


# Conditions -------------------------------------------------------------------------------------------------


def condition(f: Failure) -> Finding | None:
    """`if f3 > 0.5`, `f3 > 0.5` without `when`, and what goes wrong after `when`."""
    if f.here == "when" and f.kind in {"record", "metric", "sweep"}:
        return Finding("S132", "conditions go with edits", f.span, f"`{f.kind}` has none")
    if f.tok is not None and f.clause != "when" and "WHEN" in f.accepts:
        return no_when(f.text, f.tokens[f.i :])
    if f.clause != "when":
        return None
    return in_condition(f)


def no_when(text: str, tokens: tuple[Token, ...]) -> Finding | None:
    """A condition that `when` does not announce begins at `tokens[0]`."""
    first = tokens[0]
    phrase = " ".join(text[first.start : tokens[-1].end].split())
    if first.text in {"if", "unless", "where", "while", "whenever", "provided"}:
        negated = "not " if first.text == "unless" else ""
        rest = phrase[len(first.text) :].strip(" :")
        hints = write(f"when {negated}{rest}", "when f3 > 0.5") if re.match(FEATURE, rest) else write("when f3 > 0.5")
        return Finding("S132", "a condition follows `when`", first.span, "", hints)
    if CONDITION.match(phrase):
        return Finding("S132", "a condition follows `when`", first.span, "", write(f"when {phrase}", "when f3 > 0.5"))
    return None


def in_condition(f: Failure) -> Finding | None:
    prev, here = f.prev, f.here
    if here == "when":
        said = "`when` is said once"
        if prev in {"and", "or"}:
            return Finding("S132", said, f.span, "", ("leave the second `when` out",))
        return Finding("S132", said, f.span, "", ("join conditions with and, or",))
    wants_feature = "FEATURE" in f.accepts
    if f.tok is None:
        if wants_feature:
            return Finding("S132", "a condition is missing", f.span, "", write("when f3 > 0.5"))
        return Finding("S132", "a value is missing", f.span, "", write(f"{f.between(f.i - 2, f.i)} 0.5"))
    if here in {"&", "|", ","} and not wants_feature:
        twice = f.word(f.i + 1) == here
        span = f.span_of(f.i, f.i + 1 + twice)
        return Finding("S132", "conditions are joined with and, or", span, "", write(JOINERS[here]))
    if here == "=" and re.fullmatch(r"f\d+", prev):
        value = f.word(f.i + 1) or "0.5"
        choices: tuple[str, ...] = (f"write {prev} == {value}", f"or {prev} > {value}")
        return Finding("S132", "a condition compares: ==, >, >=, <, <= or !=", f.span, "", choices)
    if here in {"=>", "=<"} or (here == "=" and prev in {">", "<"}):
        fixed = ">=" if ">" in here + prev else "<="
        return Finding("S132", f"{here if here != '=' else prev + ' ='} is not a comparison", f.span, "", write(fixed))
    if here == ".." and f.i + 1 < len(f.tokens) and re.fullmatch(r"f\d+", prev):
        last, rest = f.word(f.i + 1), f.between(f.i + 2, min(f.i + 4, len(f.tokens))) or "> 0"
        hint = f"join several with or: {prev} {rest} or f{last} {rest}"
        return Finding("S132", "a condition is about one feature", f.span_of(f.i - 1, f.i + 2), "", (hint,))
    if re.fullmatch(r"f\d+", prev) and here in {"is", "fires", "active", "on", "activates", "exists"}:
        choices = (f"write when {prev}: it is true where the feature is above 0",)
        return Finding("S132", f"{here} is not a comparison", f.span, "", choices)
    if here == "!" and wants_feature:
        return Finding("S132", "! is not a word of conditions", f.span, "", write("not"))
    if wants_feature and here in {"{", "["}:
        features = re.findall(FEATURE, f.rest(f.i)) or ["f1", "f2"]
        choices = (f"join several with or: {' or '.join(f'{x} > 0.5' for x in features[:2])}",)
        return Finding("S132", "a condition is about one feature", f.span, "", choices)
    if wants_feature and f.tok.kind == "number":
        return value_first(f)
    if "LPAR" not in f.accepts and here == "(" and (inner := re.match(rf"\(\s*({FEATURE})\s*\)", f.rest(f.i))):
        span = f.span_of(f.i - 1, min(f.i + 3, len(f.tokens)))
        return Finding("S132", "a feature in a condition needs no function", span, "", write(inner[1]))
    if wants_feature and here in POSITIONS:
        return Finding("S132", "a condition compares features; positions follow @", f.span, "", write(f"@ {here}"))
    if wants_feature and re.fullmatch(r"[hn]\d+", here):
        return Finding("S132", "a condition compares a feature", f.span, "", ("write when f3 > 0.5",))
    if wants_feature and f.tok.kind in {"string", "quoted"}:
        return Finding("S132", "a condition compares features; positions follow @", f.span, "", write(f"@ {here}"))
    return None


def value_first(f: Failure) -> Finding:
    """`when 0.5 < f3`, `when 0 < f3 < 1`."""
    m = re.match(rf"([\d.]+)\s*({COMPARISON})\s*({FEATURE})(?:\s*({COMPARISON})\s*([\d.]+))?", f.rest(f.i))
    hints: tuple[str, ...] = write("when f3 > 0.5")
    if m and m[2] in MIRRORED:
        fixed = f"{m[3]} {MIRRORED[m[2]]} {m[1]}"
        hints = write(f"{fixed} and {m[3]} {m[4]} {m[5]}" if m[4] else fixed)
    return Finding("S132", "the feature comes first", f.span, "", hints)


# Then -------------------------------------------------------------------------------------------------------


def before_then(f: Failure) -> Finding | None:
    """`ablate f1, then ...`, `ablate f1 and then ...`: the part ends with the word too many."""
    follower = re.match(r"\s*then(?!\w)", f.text[f.tokens[-1].end :])
    if follower and f.kind in EDITS and f.i == len(f.tokens) - 1 and f.here in {",", "and", "&"}:
        return Finding("S131", f"`then` joins edits without {f.here}", f.span, "", (f"leave {f.here} out",))
    return None


# Replacements -----------------------------------------------------------------------------------------------


def replacement(f: Failure) -> Finding | None:
    """What takes the place of something that is ablated."""
    if f.kind not in {"ablate", "keep"} or f.clause == "when":
        return None
    word = "to" if f.kind == "ablate" else "else"
    if "MEAN" in f.accepts:
        return no_replacement(f, word)
    if "OF" in f.accepts and f.tok is not None and f.tok.kind in {"string", "quoted", "word"}:
        if f.here in {"by", "per"} or (f.prev == "by" and f.here != "position"):
            return Finding("S133", "means are of everything, or by position", f.span, "", write(by_position(f)))
        return Finding("S133", "`of` is missing", f.span, "", write(f"{f.prev} of {f.here}"))
    if "POSITION" in f.accepts and f.tok is not None:
        return Finding("S133", "means are of everything, or by position", f.span, "", write(by_position(f)))
    if f.tok is None and (f.accepts & {"OF", "POSITION"} or f.prev == "of"):
        kind = "resample" if f.word(f.i - 1) == "resample" or f.word(f.i - 2) == "resample" else "mean"
        label = "a file, or the name of `prompts`"
        return Finding("S133", "the reference is missing", f.span, label, write(f'{word} {kind} of "reference.txt"'))
    if f.tok is None:
        return None
    if f.here == "." and f.word(f.i - 2) == "of" and f.tok.start == f.tokens[f.i - 1].end:
        path = f.text[f.tokens[f.i - 1].start : f.tokens[-1].end].split()[0]
        span = Span(f.tokens[f.i - 1].start, f.tokens[f.i - 1].start + len(path))
        end = path.partition(".")[2]
        if re.fullmatch(r"\w+", end) and not TEXTS.fullmatch(end):
            own = f"texts of the field {end} can be one as a file of their own"
            hints = (*write(f"{word} {f.between(f.i - 3, f.i)}"), own)
            return Finding("S133", "a reference is a file, or the name of `prompts`", span, "", hints)
        return Finding("S126", "a string needs quotes", span, "", write(f'"{path}"'))
    after = f.word(f.i + 1)
    announced = f.here in {"with", "by", "to", "else", "=", "as", "otherwise", "via", "using", "from", "->"}
    if f.in_positions and f.here == word and f.accepts & {"WHEN", "BAR"}:
        at = next(j for j in range(f.i) if f.word(j) == "@")
        fixed = f"{f.between(0, at)} {f.rest(f.i)} {f.between(at, f.i)}"
        return Finding("S133", f"`{word}` comes before @", f.span, "", write(fixed, f"`{word}` before @"))
    if f.in_positions:
        return None
    if f.here in {"by", "per"} and f.prev != "of" and "of" in [f.word(j) for j in range(f.i)]:
        reference = f.word(f.i - 1)
        span = f.span_of(f.i, min(f.i + 2, len(f.tokens)))
        return Finding("S133", "`by position` comes before `of`", span, "", write(f"mean by position of {reference}"))
    announces = announced and (after in {*REPLACEMENTS, "the", "0"} or f.here == "otherwise")
    if f.here in REPLACEMENTS or announces:
        rest = f.rest(f.i + announced)
        rest = re.sub(r"^the\s+", "", re.sub(r"^0(?!\w|\.)", "zero", rest))
        fixed = f"{f.between(0, f.i)} {word} {rest}"
        return Finding("S133", f"what takes its place follows `{word}`", f.span, "", write(fixed, f"{word} {rest}"))
    return None


def by_position(f: Failure) -> str:
    """What was meant, with the reference that follows."""
    of = next((j for j in range(f.i, len(f.tokens)) if f.word(j) == "of"), len(f.tokens))
    return f"mean by position of {f.word(of + 1) or 'io'}"


def no_replacement(f: Failure, word: str) -> Finding | None:
    """At the place of `zero`, `mean of ...` or `resample of ...`."""
    choices = f'{word} zero, {word} mean of "reference.txt" or {word} resample of "reference.txt"'
    if f.tok is None:
        return Finding("S133", f"what follows `{word}` is missing", f.span, "", (f"write {choices}",))
    if f.here in {"0", "0.0", "null", "none", "nothing", "Zero"}:
        return Finding("S133", f"{f.here} is written zero", f.span, "", write(f"{word} zero"))
    if f.tok.kind == "number" or f.here == "-":
        number = re.match(r"-?\s*[\d.]+", f.rest(f.i))
        fixed = f"set {f.between(1, f.i - 1)} = {number[0] if number else 4}".replace("  ", " ")
        hints = (f"to force a value write {fixed}",) if f.kind == "ablate" else ()
        return Finding("S133", f"{f.here} is no replacement", f.span, "", (*hints, f"or {choices}"))
    if (close := REPLACEMENT_SYNONYMS.get(f.here.lower())) is not None:
        rest = re.sub(r"^\w+\s+(?:mean\s+)?", "", f.rest(f.i)) or 'of "reference.txt"'
        fixed = f"{word} {close} {rest}"
        return Finding("S133", f"{f.here} is no replacement", f.span, "", write(fixed))
    if f.tok.kind in {"string", "quoted"}:
        ways = (f"write {word} mean of {f.here}", f"or {word} resample of {f.here}")
        return Finding("S133", "what of this text?", f.span, "", ways)
    return Finding("S133", f"{f.here} is no replacement", f.span, "", (f"write {choices}",))


def only_out_error(f: Failure) -> Finding | None:
    """`keep f1`, `project f3`, `drop f3`: the second word."""
    rest = f.rest(f.i) if f.tok else ""
    if f.kind == "keep" and "ONLY" in f.accepts:
        rest = re.sub(r"^just\s+", "", rest) or "{f1, f2}"
        hints = write(f"keep only {rest}", "keep only ...")
        return Finding("S120", "`keep` is written keep only", f.tokens[0].span, "", hints)
    if f.kind == "keep" and f.prev == "only" and (f.tok is None or f.here in {"else", "@", "when"}):
        return Finding("S122", "`keep only` needs a target", f.span, "what is kept?", write("keep only {f1, f2}"))
    if f.kind == "project" and "OUT" in f.accepts:
        rest = re.sub(r"^(?:away|off|from|onto)\s+", "", rest) or "f3"
        hints = write(f"project out {rest}", "project out ...")
        return Finding("S120", "`project` is written project out", f.tokens[0].span, "", hints)
    if f.kind == "drop" and f.i == 1:
        fixed = f"ablate {rest}" if re.match(rf"{FEATURE}|[{{hn]|all", rest) else "drop error"
        return Finding("S122", "`drop` is about the error only", f.span, "", write(fixed, "ablate ..."))
    return None


# Patches ----------------------------------------------------------------------------------------------------


def source(f: Failure) -> Finding | None:
    """Where a patch comes from."""
    if f.kind != "patch":
        return None
    if f.clause == "" or (f.clause == "@" and f.accepts & {"FROM"}):
        return no_source(f)
    if f.clause != "from":
        return None
    if "NAME" in f.accepts and f.prev == "from":
        if f.tok is None:
            return Finding("S121", "a prompt is missing", f.span, "", write(f"{f.between(0, f.i)} it"))
        if f.tok.kind in {"string", "quoted"}:
            then = "on its own line, then from p"
            hints = write(f"prompt p = {f.here} {then}", f"prompt p = ... {then}")
            return Finding("S120", "a prompt is given by its name", f.span, "", hints)
        return None
    if f.tok is None:
        return None
    before, to_source = f.between(0, f.i), next(j for j in range(f.i) if f.word(j) == "from")
    if f.here in POSITIONS or f.tok.kind in {"string", "quoted"} or f.tok.kind == "number" or f.here == "-":
        fixed = f"{f.between(to_source, f.i)} at {f.rest(f.i)}" if f.tok.kind != "number" and f.here != "-" else ""
        hints = write(fixed or "at prompt[-1]", "at prompt[-1]")
        return Finding("S125", "the source's position follows `at`", f.span, "", hints)
    if f.here == "@":
        where = f.rest(f.i + 1) or "prompt[-1]"
        patched, origin = f.between(0, to_source), f.between(to_source, f.i)
        hints = (
            f"to patch there write {patched} @ {where} {origin}",
            f"to read there write {before} at {where}",
        )
        return Finding("S125", "@ goes before `from`, `at` after it", f.span, "", hints)
    if f.here == "[":
        inside = re.match(r"\[([^\]]*)\]", f.rest(f.i))
        fixed = f"{f.between(to_source, f.i)} at prompt[{inside[1] if inside else -1}]"
        return Finding("S125", "the source's position follows `at`", f.span, "", write(fixed))
    if re.match(rf"{FEATURE}|[hn]\d|\{{|all\b|error\b", f.rest(f.i)) and to_source == 1:
        fixed = f"patch {f.rest(f.i)} {f.between(to_source, f.i)}"
        return Finding("S122", "the target comes before `from`", f.span, "", write(fixed))
    return None


def no_source(f: Failure) -> Finding | None:
    """The patch does not say `from`."""
    if "FROM" not in f.accepts:
        return None
    before = f.between(0, f.i)
    if f.tok is None:
        hint = write(f"{before} from it", "patch f1 from it")
        return Finding("S121", "`patch` needs a prompt to take from", f.span, "", hint)
    announced = f.here in {"with", "to", "=", "in", "on", "by", "using", "via", "<", "of", "into"}
    if announced or (f.tok.kind == "word" and not re.match(r"[fhn]\d", f.here) and f.here not in POSITIONS):
        start = f.i + announced + (announced and f.word(f.i + 1) == "-")
        rest = f.rest(start) or "it"
        return Finding("S120", "the prompt follows `from`", f.span, "", write(f"{before} from {rest}"))
    return None


# Units ------------------------------------------------------------------------------------------------------


def unit(f: Failure) -> Finding | None:
    """`max 4`, `4 * max`, `4 sigma`, `x2 max`."""
    if f.tok is None or f.in_positions:
        return None
    if f.here in UNITS and f.kind not in {"metric", "sae", "prompt"}:
        return unit_elsewhere(f)
    good = UNIT_SYNONYMS.get(f.here.lower())
    if good and f.accepts & {"MAX"}:
        return Finding("S128", f"{f.here} is not a unit", f.span, "", write(f"{f.prev} {good}"))
    return None


def unit_elsewhere(f: Failure) -> Finding | None:
    after = f.word(f.i + 1)
    if f.kind == "amplify" and "X" not in f.accepts and f.i > 2:
        fixed = f"set {f.word(1)} = {f.prev.lstrip('x')} {f.here}"
        return Finding("S124", "a factor has no unit", f.span, "", write(fixed))
    if f.kind == "add" and f.i > 2 and "NUMBER" not in f.accepts:
        fixed = f"add {f.word(1)} {f.here} {f.between(2, f.i)}"
        return Finding("S128", "the unit follows the amount", f.span, "", write(fixed))
    if f.kind in {"let", "sweep"}:
        hints = ("write the unit in the edit: set f3 = strength max",)
        return Finding("S128", "a unit goes where the number is used", f.span, "", hints)
    if f.kind in {"amplify", "set", "clamp", "add"} and "NUMBER" in f.accepts:
        number = re.fullmatch(r"[\d.]+", after)
        factor = f.prev == "*" and re.fullmatch(r"[\d.]+", f.word(f.i - 2))
        fixed = f"{after} {f.here}" if number else f"{f.word(f.i - 2)} {f.here}" if factor else f"1 {f.here}"
        return Finding("S128", "the unit follows a number", f.span, "", write(fixed))
    return None
