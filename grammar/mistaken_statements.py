"""Metrics, sweeps, runs and declarations that could not be read."""

from __future__ import annotations

import re
from typing import Final

from saedsl.grammar import guess
from saedsl.grammar.failure import Failure, Finding, one_of, write
from saedsl.grammar.words import FUNCTIONS, MODES, OPTIONS

FUNCTION_SYNONYMS: Final = {
    **dict.fromkeys(("logits", "logit_of", "lm_logit"), "logit"),
    **dict.fromkeys(("log_prob", "logp", "log_probs", "logprobs", "lp"), "logprob"),
    **dict.fromkeys(("p", "probs", "probability", "softmax"), "prob"),
    **dict.fromkeys(("kl_div", "kldiv", "kl_divergence", "divergence"), "kl"),
    **dict.fromkeys(("loss", "ce_loss", "cross_entropy", "xent", "nll", "perplexity"), "ce"),
    **dict.fromkeys(("activation", "feature", "acts", "latent"), "act"),
    **dict.fromkeys(("l2", "length", "magnitude"), "norm"),
}
DIFFERENCES: Final = frozenset(("logit_diff", "logitdiff", "diff", "logit_difference"))
MISNOMERS: Final = frozenset((*FUNCTION_SYNONYMS, *DIFFERENCES))
FORMS: Final = {
    "logit": 'logit(" Paris")',
    "prob": 'prob(" Paris")',
    "logprob": 'logprob(" Paris")',
    "kl": "kl()",
    "ce": "ce()",
    "act": "act(g.f42)",
    "norm": "norm(L3.resid)",
}
OPTION_SYNONYMS: Final = {"temperature": "temp", "topp": "top_p", "random_seed": "seed", "nucleus": "top_p"}


# Metrics ----------------------------------------------------------------------------------------------------


def metric(f: Failure) -> Finding | None:
    """Functions with a wrong name or argument, or outside a metric."""
    if f.tok is None or f.in_positions or f.clause == "when":
        return None
    if f.kind != "metric":
        return function_elsewhere(f)
    if f.here == "(" and f.tokens[f.i - 1].kind == "word" and f.i > 3:
        return no_function(f, f.i - 1)
    if f.word(f.i + 1) == "(" and f.tok.kind == "word" and f.here in MISNOMERS:
        return no_function(f, f.i)
    if f.prev in FORMS and (f.here in {"[", "{"} or f.tok.kind in {"string", "quoted"}):
        text = re.search(r'"[^"]*"', f.rest(f.i))
        fixed = f"{f.prev}({text[0]})" if text else FORMS[f.prev]
        return Finding("S134", f"what {f.prev} is of goes in ( )", f.span, "", write(fixed, FORMS[f.prev]))
    opened = next((j for j in range(f.i, 3, -1) if f.word(j) == "(" and f.word(j - 1) in FORMS), None)
    if opened is not None and ")" not in [f.word(j) for j in range(opened, f.i)]:
        return argument(f, opened)
    return None


def no_function(f: Failure, i: int) -> Finding:
    """A call of something else."""
    name, span = f.word(i), f.span_of(i, i + 1)
    if name.lower() in DIFFERENCES:
        words = re.findall(r'"[^"]*"', f.rest(i))
        a, b = words[:2] if len(words) > 1 else ('" Paris"', '" Rome"')
        return Finding("S134", f"{name} is not a function", span, "", write(f"logit({a}) - logit({b})"))
    close = FUNCTION_SYNONYMS.get(name.lower()) or guess.nearest(name, FUNCTIONS)
    hints = (f"did you mean {FORMS[close]}?",) if close else (f"a metric is made of {one_of(FORMS.values())}",)
    return Finding("S134", f"{name} is not a function", span, "", hints)


def argument(f: Failure, opened: int) -> Finding | None:
    """Inside the brackets of a function."""
    function, inside = f.word(opened - 1), re.match(r"\(([^)]*)\)?", f.rest(opened))
    given = inside[1].strip() if inside else ""
    if function in {"kl", "ce"}:
        hints = write(f"{function}() @ prompt[-1]") if given else ()
        return Finding("S134", f"{function} takes nothing in its brackets", f.span, "", hints)
    if not given:
        return Finding("S134", f"{function} of what?", f.span, "", write(FORMS[function]))
    if function in {"act", "norm"}:
        what = "one feature" if function == "act" else "a site"
        return Finding("S134", f"{function} takes {what}", f.span, "", write(FORMS[function]))
    if f.here == ",":
        texts = re.findall(r'"[^"]*"', given)
        fixed = " - ".join(f"{function}({t})" for t in texts[:2]) if len(texts) > 1 else f'{function}(" Paris")'
        return Finding("S134", f"{function} takes one text", f.span, "", write(fixed))
    if re.fullmatch(r"\w+(?:\s+\w+)*", given) and not re.match(r"[fhn]\d", given):
        spaced = f.text[f.tokens[opened].end : f.tokens[opened].end + 1].isspace()
        of_rows = () if spaced or " " in given else write(f"{function}({given}.answer)")
        hints = (*write(f'{function}(" {given}")'), *of_rows)
        span = f.span_of(opened + 1, f.i + (f.here != ")"))
        return Finding("S126", "a string needs quotes", span, "", hints)
    return Finding("S134", f"{function} takes a text", f.span, "", write(FORMS[function]))


def function_elsewhere(f: Failure) -> Finding | None:
    """`let a = logit(" Paris")`."""
    if f.here == "(" and f.prev in FORMS and f.kind in {"let", "set", "add", "amplify", "clamp", "sweep"} and f.i > 1:
        fixed = f"metric {f.word(1)} = {f.rest(f.i - 1)}" if f.kind == "let" else f"metric m = {f.rest(f.i - 1)}"
        span = f.span_of(f.i - 1, f.i)
        return Finding("S134", f"{f.prev} goes into a metric", span, "", write(fixed, f"metric m = {FORMS[f.prev]}"))
    return None


# Sweeps -----------------------------------------------------------------------------------------------------


def sweep(f: Failure) -> Finding | None:
    """The values of a sweep, in another notation."""
    if f.kind != "sweep" or f.i < 2:
        return None
    if f.word(1) == "in" and f.here != "in" and "IN" in f.accepts:
        hints = write(f"sweep strength {f.rest(1)}", "sweep strength in [0, 1, 2]")
        return Finding("S127", "`sweep` needs a name", f.span_of(1, 2), "", hints)
    if "IN" in f.accepts:
        if f.tok is None:
            return Finding("S121", "`sweep` needs values", f.span, "", write(f"{f.between(0, f.i)} in [0, 1, 2]"))
        skip = f.here in {"=", "==", ":", "over", "from", "of", "to"}
        rest = re.sub(r"\s(?:step|steps)\s", " by ", f.rest(f.i + skip)) or "[0, 1, 2]"
        fixed = write(f"sweep {f.word(1)} in {rest}", "in")
        return Finding("S135", "the values of a sweep follow `in`", f.span, "", fixed)
    lead, given = f"sweep {f.word(1)} in ", f.rest(3) if len(f.tokens) > 3 else ""
    if not given:
        return Finding("S121", "`sweep` needs values", f.span, "", write(f"{lead}[0, 1, 2]"))
    whole, number = f.span_of(3, len(f.tokens)), r"-?(?:\d+\.?\d*|\.\d+)"
    if m := re.match(r"(?:\w+\.)?(range|arange|linspace)\s*\(([^)]*)\)", given):
        return Finding("S114", f"{m[1]} is Python", f.span_of(3, 4), "", write(lead + counted(m[1], m[2])))
    if f.here in {"step", "steps", "every", "stride"} and "BY" in f.accepts:
        return Finding("S135", "the step of a sweep follows `by`", f.span, "", write(f"by {f.rest(f.i + 1)}"))
    if m := re.fullmatch(rf"\[\s*({number})\s*\.\.\s*({number})\s*\]", given):
        return Finding("S135", "a range has no brackets", whole, "", write(f"{lead}{m[1]}..{m[2]}"))
    if re.match(rf"[({{]?\s*{number}\s*(,\s*{number}\s*)+", given):
        return Finding("S135", "a list of values goes in [ ]", whole, "", write(f"{lead}[{given.strip('(){}')}]"))
    if m := re.match(r"\[\s*((?:\w+\.)*f\d+[^\]]*)\]", given):
        inside = re.sub(r"(?<![\w.])(\d)", r"f\1", m[1])
        return Finding("S135", "features go in braces", whole, "", write(f"{lead}{{{inside}}}"))
    if re.match(r"\[\s*L\d", given):
        numbers = ", ".join(re.findall(r"L(\d+)", given))
        return Finding("S135", "layers are written L{ }", whole, "", write(f"{lead}L{{{numbers}}}"))
    if m := re.match(r"(L(?:\{[^}]*\}|-?\d+(?:\.\.-?\d+)?|\*))\.([a-z_.]+)", given):
        hints = (f"write {lead}{m[1]}, then at {f.word(1)}.{m[2]} ...",)
        return Finding("S135", "a sweep goes over layers, not sites", whole, "", hints)
    if m := re.match(rf"({number})\s*(?:\.\.\.|:|-|to|until)\s*({number})", given):
        return Finding("S135", "a range is written a..b", whole, "", write(f"{lead}{m[1]}..{m[2]}"))
    if re.fullmatch(rf"{number}", given):
        return Finding("S135", "one value is no sweep", f.span_of(3, 4), "", write(f"let {f.word(1)} = {given}"))
    if re.match(r"\[\s*\]", given):
        return Finding("S135", "the sweep has no values", whole, "", write(f"{lead}[0, 1, 2]"))
    return None


def counted(function: str, given: str) -> str:
    """Python's way of counting as a range."""
    try:
        numbers = [float(x) for x in given.split(",")]
    except ValueError:
        return "0..4 by 1"
    shown = [f"{x:g}" for x in numbers]
    if function == "linspace" and len(numbers) == 3 and numbers[2] > 1:
        return f"{shown[0]}..{shown[1]} by {(numbers[1] - numbers[0]) / (numbers[2] - 1):g}"
    first, end = (0.0, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
    step = numbers[2] if len(numbers) > 2 else 1.0
    return f"{first:g}..{end - step:g}" + (f" by {step:g}" if step != 1 else "")


# Runs -------------------------------------------------------------------------------------------------------


def options(f: Failure) -> Finding | None:
    """`run fr mode=frozen`, `with mode: frozen`, `generate fr 32 temp 0.8`."""
    if f.kind not in {"run", "generate"} or f.i < 2:
        return None
    known = {*OPTIONS, *OPTION_SYNONYMS}
    if f.clause == "with":
        return in_options(f)
    at = f.i - 1 if f.here == "=" and f.prev in known else f.i
    if f.word(at) in known and "WITH" in f.accepts | ({"WITH"} if at < f.i else set()):
        name = OPTION_SYNONYMS.get(f.word(at), f.word(at))
        value = f.rest(at + 1).lstrip("=: ") or "..."
        before = f.between(0, at).rstrip(" ,")
        hints = write(f"{before} with {name} = {value}", f"with {name} = {value}")
        return Finding("S136", "options follow `with`", f.span_of(at, at + 1), "", hints)
    if f.here in MODES and "WITH" in f.accepts:
        hints = write(f"{f.between(0, f.i)} with mode = {f.here}", f"with mode = {f.here}")
        return Finding("S136", "options follow `with`", f.span, "", hints)
    if f.prev == "as" and f.tok is not None and f.tok.kind in {"string", "quoted"}:
        name = re.sub(r"\W+", "_", f.here[1:-1]) or "result"
        return Finding("S127", "the name of a result has no quotes", f.span, "", write(f"as {name}"))
    if f.prev == "as" and f.tok is None:
        return Finding("S127", "a name is missing", f.span, "", write(f"{f.between(0, f.i)} first"))
    return None


def in_options(f: Failure) -> Finding | None:
    if f.prev == "with" and f.here in {"(", "{", "["}:
        inside = f.rest(f.i).strip("(){}[] ").replace("=", " = ")
        return Finding("S136", "options have no brackets", f.span, "", write(f"with {' '.join(inside.split())}"))
    if "NAME" in f.accepts and "NUMBER" not in f.accepts:
        if f.tok is None:
            return Finding("S136", "an option is missing", f.span, "", write("with mode = frozen"))
        return None
    if "EQUALS" in f.accepts:
        if f.prev in MODES:
            return Finding("S136", "options have names", f.span_of(f.i - 1, f.i), "", write(f"with mode = {f.prev}"))
        value = f.rest(f.i + 1) if f.here in {":", "==", "->"} else f.rest(f.i) if f.tok else "..."
        return Finding("S136", "an option is written name = value", f.span, "", write(f"{f.prev} = {value}"))
    if f.tok is None:
        return None
    if "COMMA" in f.accepts and (f.tok.kind == "word" or f.here in {"&", ";"}):
        join = f.here in {"and", "with", "&"}
        rest = f.rest(f.i + join)
        return Finding("S136", "options are separated by commas", f.span, "", write(f", {rest}"))
    if f.tok.kind in {"string", "quoted"} and "NUMBER" in f.accepts:
        return Finding("S136", "the value of an option has no quotes", f.span, "", write(f.here[1:-1]))
    return None


# Declarations -----------------------------------------------------------------------------------------------


def declaration(f: Failure) -> Finding | None:
    """Second thoughts of `prompt`, `sae` and `dir`."""
    if f.kind == "prompt" and f.i > 3 and f.tok is not None:
        return template(f)
    if f.kind == "sae" and f.here in {"to", ","} and "ARROW" in f.accepts:
        fixed = f"-> {f.rest(f.i + 1)}" if f.i + 1 < len(f.tokens) else "->"
        return Finding("S120", "where a transcoder writes follows ->", f.span, "", write(fixed))
    if f.kind == "dir" and f.i == 4 and f.tok is not None and f.tok.kind != "junk":
        key = re.search(r"\w[\w.]*", f.rest(f.i))
        shown = key[0] if key else "key"
        return Finding("S120", "the name of the tensor follows a dot", f.span, "", write(f"{f.word(3)}.{shown}"))
    return None


def template(f: Failure) -> Finding | None:
    """`chat` and `system` of a prompt."""
    if f.here == "chat":
        fixed = f"prompt {f.word(1)} = chat {f.word(3)}"
        return Finding("S120", "`chat` comes before the text", f.span, "", write(fixed, "chat before the text"))
    if f.here == "," and f.word(f.i + 1) == "system":
        return Finding("S120", "no comma before `system`", f.span, "", ("leave the comma out",))
    if f.prev == "system" and f.here in {"=", ":"}:
        fixed = f"system {f.rest(f.i + 1)}"
        return Finding("S120", f"`system` takes no {f.here}", f.span, "", write(fixed, "system and the text"))
    return None
