"""Lines that start with no statement."""

from __future__ import annotations

import re
from typing import Final

from saedsl.grammar import guess
from saedsl.grammar.failure import Finding, write
from saedsl.grammar.mistaken_statements import counted
from saedsl.grammar.scan import Chunk
from saedsl.grammar.tokens import LOOKALIKES, Token
from saedsl.grammar.words import CLAUSES, EDITS, STATEMENTS

A_LINE: Final = "a line starts with a word such as model, prompt, at or run"

PYTHON_HINT: Final = ("a program has statements such as: at L12.mlp ablate f42",)

PYTHON: Final = frozenset(
    (
        "import",
        "from",
        "def",
        "class",
        "for",
        "if",
        "while",
        "return",
        "print",
        "with",
        "try",
        "assert",
        "del",
        "raise",
        "lambda",
        "async",
        "elif",
        "else",
    )
)


def judge(text: str, chunk: Chunk) -> Finding:
    """A line that starts with no statement word of this version."""
    tokens = tuple(t for p in chunk.parts for t in p.tokens)
    first = tokens[0]
    word, low = first.text, first.text.lower()
    line = " ".join(text[first.start : tokens[-1].end].split())
    after = tokens[1].text if len(tokens) > 1 else ""
    if low in EDITS:
        return edit_outside(line, low, first)
    if low in STATEMENTS:
        return Finding("S112", f"words of the language are lower-case: {low}", first.span, "", write(low))
    if first.kind in {"junk", "string", "quoted", "number"} or (first.kind == "punct" and word not in {"/", "-", "*"}):
        if word in LOOKALIKES or first.kind == "junk":
            return Finding("S105", f"unexpected character {word}", first.span, f"U+{ord(word[0]):04X}")
        return Finding("S110", "a line starts with a statement", first.span, "", (A_LINE,))
    if (finding := continued(line, first)) is not None:
        return finding
    if word in {"/", "-", "*"}:
        return Finding("S110", "a comment starts with #", first.span, "", ("write # ...",))
    if re.match(r"[fF]\d+(\.\.\d+)?\s*==?", line):
        value = re.sub(r"^\S+\s*==?\s*", "", line)
        return Finding(
            "S110",
            "an edit needs a site",
            first.span,
            "",
            write(f"at L12.mlp set {low} = {value or 0}", "at L12.mlp set f42 = 0"),
        )
    if re.match(r"L[-\d{*]", line) or (after in EDITS and first.kind == "word" and word not in PYTHON):
        return Finding(
            "S110",
            "edits follow `at` and the site",
            first.span,
            "",
            write(f"at {line}", "at L12.mlp ablate f42"),
        )
    if word in PYTHON or re.match(r"[\w.]+\s*\(", line) or line.startswith("@"):
        hints = translated(line)
        if m := re.match(r"[\w.]+\.(ablate|amplify|clamp|set|add)\w*\(", line):
            hints = (f"write at L12.mlp {m[1]} ...",)
        return Finding("S114", "this is Python, not saedsl", first.span, "", hints)
    if after == "=":
        value = line.split("=", 1)[1].strip()
        quoted = value[:1] in {'"', "'", "“"}
        keyword = "prompt" if quoted else "metric" if re.match(r"\w+\s*\(", value) else "let"
        return Finding(
            "S110",
            f"unknown statement {word}",
            first.span,
            "",
            write(f"{keyword} {word} = {value}", f"{keyword} {word} = ..."),
        )
    close = guess.STATEMENT_SYNONYMS.get(low) or guess.nearest(word, STATEMENTS)
    hints = (f"did you mean {close}?",) if close else (A_LINE,)
    return Finding("S110", f"unknown statement {word}", first.span, "", hints)


def continued(line: str, first: Token) -> Finding | None:
    """A line that goes on with what the line before it began."""
    word = first.text
    if word == "then":
        hints = ("write it on the line of the edit before it, or put both in a block { }",)
        return Finding("S131", "`then` has no edit before it", first.span, "", hints)
    if word in CLAUSES and word != "x" and not re.match(r"from\s+[\w.]+\s+import\b|with\b.*:$", line):
        message = f"`{word}` goes on the line of its statement"
        return Finding("S110", message, first.span, "", ("a statement ends with its line, save inside brackets",))
    return None


def translated(line: str) -> tuple[str, ...]:
    """A hint for a line of Python."""
    if m := re.match(r"if\s+([^:]*f\d[^:]*):?\s*(.*)$", line):
        edit: str = m[2] if m[2].split(" ")[0] in EDITS else "ablate f42"
        return write(f"at L12.mlp when {m[1].strip()} {edit}", "at L12.mlp when f3 > 0.5 ablate f42")
    if m := re.match(r"for\s+(\w+)\s+in\s+(\[[^\]]*\])", line):
        return write(f"sweep {m[1]} in {m[2]}", "sweep strength in [0, 1, 2]")
    if m := re.match(r"for\s+(\w+)\s+in\s+range\s*\(([^)]*)\)", line):
        return write(f"sweep {m[1]} in {counted('range', m[2])}", "sweep strength in 0..4 by 1")
    if line.startswith("for "):
        return ("write sweep strength in 0..4 by 1",)
    if m := re.match(r'(?:import|from)\s+(".*")', line):
        return write(f"include {m[1]}")
    return PYTHON_HINT


def edit_outside(line: str, low: str, first: Token) -> Finding:
    if m := re.match(r"(.*?)\s+(?:at|on|in)\s+(L\S+|embed|final|logits)\s*(.*)$", line):
        edit = " ".join(filter(None, (low + m[1][len(low) :], m[3])))
        return Finding(
            "S115",
            f"the site comes before `{low}`",
            first.span,
            "",
            write(f"at {m[2]} {edit}", "at L12.mlp ablate f42"),
        )
    hints = write(f"at L12.mlp {low}{line[len(low) :]}", f"at L12.mlp {low} ...")
    return Finding("S115", f"`{low}` needs a site", first.span, "edits follow `at SITE`", hints)
