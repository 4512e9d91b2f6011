"""Programs in Python files and notebooks: which strings are programs, and where their characters stand in the file."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import textwrap
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from saedsl.errors import SaedslError
from saedsl.grammar.nodes import Span
from saedsl.grammar.source import Source
from saedsl.grammar.words import COMPONENTS, EDITS, GLOBAL_SITES

ESCAPE: Final = re.compile(
    r"\\(?:\r?\n|[0-7]{1,3}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|N\{[^}]*\}|[\\'\"abfnrtv])"
)
NAMED: Final = r"[A-Za-z_]\w*"
SITE: Final = rf"(?:L[\d*{{-]|{NAMED}\.(?:{'|'.join(re.escape(c) for c in COMPONENTS)})|(?:{'|'.join(GLOBAL_SITES)})\b)"
STARTS: Final = re.compile(
    r"(?:[^\S\n]*(?:\#[^\n]*)?\n)*[^\S\n]*(?:"
    + "|".join(
        [
            r'(?:model|include)\s*"',
            rf"(?:sae|prompts?|let|dir|metric)\s+{NAMED}\s*=[^=]",
            rf"sweep\s+{NAMED}\s+in\s",
            rf'at\s+(?:{SITE}|module\s*"|{NAMED}[^\S\n]*(?:@|{{|when\b|(?:{"|".join(EDITS)})\s))',
            rf'record\s+(?:{SITE}|module\s*"|{NAMED}\.f\d|\{{)',
            rf"generate\s+(?:{NAMED}[^\S\n]+)?\d+[^\S\n]*(?:$|\n|with\b|as\b|\#)",
        ]
    )
    + ")"
)
"""A text that reads as a program: after comments, a word that starts a statement and what may follow it."""
CALLS: Final = {"run": 0, "plan": 0, "trace": 1}
"""Methods that take a program, and which of their arguments it is."""
FUNCTIONS: Final = frozenset({"parse", "analyse", "Source"})
"""Functions of `saedsl` whose first argument is a program."""


@dataclass(frozen=True)
class Literal:
    """A string constant of a Python file."""

    value: str
    """What Python makes of it: escapes read, adjacent literals joined."""
    offsets: tuple[int, ...]
    """Where each character of `value` stands in the file, and last the end of the constant."""
    line: int
    """Of its first character, from 1."""

    def span(self, inner: Span) -> Span:
        """Where a span of the value is in the file."""
        last = len(self.offsets) - 1
        start = self.offsets[min(inner.start, last)]
        end = self.offsets[min(max(inner.end - 1, 0), last)] + 1 if inner.end > inner.start else start
        return Span(start, max(start, end))

    def cut(self, value: str, kept: tuple[int, ...]) -> Literal:
        """A part of it: the characters with the numbers `kept`."""
        return replace(self, value=value, offsets=(*(self.offsets[i] for i in kept), self.offsets[-1]))


@dataclass(frozen=True)
class Skipped:
    """A text that Python puts together when it runs: an f-string, `"..." + x`, `"..." % x`, `"...".format(x)`."""

    source: Source
    span: Span


@dataclass(frozen=True)
class Found:
    """The programs of a file."""

    programs: tuple[Source, ...]
    """In order; their mistakes are shown in the file."""
    skipped: tuple[Skipped, ...]
    """Where a program is expected: their text is known only when they run."""
    source: Source
    """The file."""


def find_programs(source: Source) -> Found:
    """Every string of a Python file that is a program.

    These are the arguments of `.run("...")`, `.plan("...")`, `.trace(prompt, "...")`, `saedsl.parse("...")`, and every
    other string constant that begins as a program does. Docstrings are none, nor are pieces of a text that is put
    together when Python runs.

    Raises:
        SaedslError: if the file is not Python.
    """
    try:
        tree = ast.parse(source.text)
    except (SyntaxError, ValueError, RecursionError) as e:
        raise SaedslError(f"{source.name}: is not Python ({e})") from None
    literals = _literals(source.text)
    no_programs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    certain, uncertain = _arguments(tree)
    programs, skipped = [], []
    for node in ast.walk(tree):
        if id(node) in no_programs:
            continue
        if (pieces := _pieces(node)) is not None:
            no_programs |= {id(piece) for piece in pieces}
            if id(node) in certain or id(node) in uncertain or STARTS.match(_lead(node)):
                start = _offset(source, node.lineno, node.col_offset)  # type: ignore[attr-defined]
                end = _offset(source, node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
                skipped.append(Skipped(source, Span(start, end)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            literal = literals.get(_offset(source, node.lineno, node.col_offset))
            if literal is None or literal.value != node.value:
                continue
            if (id(node) in certain and re.search(r"\S\s", node.value)) or STARTS.match(node.value):
                programs.append(placed(literal, source))
    programs.sort(key=lambda p: p.outer(Span(0, 0))[1].start if p.outer else 0)
    return Found(tuple(programs), tuple(sorted(skipped, key=lambda s: s.span.start)), source)


def find_cells(source: Source) -> Found:
    """The programs of a notebook: `%%saedsl` cells, and strings in its other cells; lines count from each cell's first.

    Raises:
        SaedslError: if the file is not a notebook.
    """
    try:
        cells = json.loads(source.text)["cells"]
        texts = ["".join(c["source"]) if c["cell_type"] == "code" else "" for c in cells]
    except (ValueError, KeyError, TypeError) as e:
        raise SaedslError(f"{source.name}: is not a notebook ({type(e).__name__}: {e})") from None
    programs: list[Source] = []
    skipped: list[Skipped] = []
    for number, text in enumerate(texts, 1):
        cell = Source(text, f"{source.name}[{number}]")
        if text.startswith("%%saedsl"):
            programs.append(cell_program(cell))
        elif not text.startswith("%%"):
            plain = "\n".join(_without_magic(line) for line in text.split("\n"))
            try:
                found = find_programs(replace(cell, text=plain))
            except SaedslError:  # a cell that was never run, or of another language
                continue
            programs += found.programs
            skipped += found.skipped
    return Found(tuple(programs), tuple(skipped), source)


def cell_program(cell: Source) -> Source:
    """The program of a cell whose first line is `%%saedsl ...`."""
    line, _, text = cell.text.partition("\n")
    shift = len(line) + 1
    return Source(text, cell.name, outer=lambda s: (cell, Span(s.start + shift, s.end + shift)))


def placed(literal: Literal, file: Source) -> Source:
    """A string constant as a program whose mistakes are shown in its file."""
    return Source(literal.value, file.name, outer=lambda span: (file, literal.span(span)))


def find_literal(text: str, source: str, line: int) -> Literal | None:
    """The string constant of Python text that has the value `text`, as it is, dedented or stripped.

    Args:
        text: the value.
        source: the Python file's text.
        line: where it is used; of several constants the nearest above or around it.
    """
    found = []
    for literal in _literals(source).values():
        if text.strip() not in literal.value and len(literal.value) <= len(text):
            continue
        found += [v for v in _variants(literal) if v.value == text]
    return min(found, key=lambda v: (v.line > line, abs(v.line - line)), default=None)


def _variants(literal: Literal) -> Iterator[Literal]:
    """A constant as it is, and as `dedent`, `cleandoc` and `strip` leave it."""
    yield literal
    for new in (
        textwrap.dedent(literal.value),
        textwrap.dedent(literal.value).strip(),
        literal.value.strip(),
        inspect.cleandoc(literal.value),
    ):
        if new != literal.value and (kept := _subsequence(new, literal.value)) is not None:
            yield literal.cut(new, kept)


def _subsequence(new: str, old: str) -> tuple[int, ...] | None:
    """Which characters of `old` those of `new` are, line by line; None if a line of `new` is not in `old`'s."""
    kept: list[int] = []
    lines, start, starts = old.split("\n"), 0, []
    for line in lines:
        starts.append(start)
        start += len(line) + 1
    wanted = new.split("\n")
    lead = next((i for i, line in enumerate(lines) if line.strip()), 0)
    first = lead - next((i for i, line in enumerate(wanted) if line.strip()), 0)
    for number, line in enumerate(wanted, max(first, 0)):
        if number >= len(lines) or (at := lines[number].rfind(line) if line else 0) < 0:
            return None
        kept += range(starts[number] + at, starts[number] + at + len(line) + 1)
    return tuple(kept[:-1])


def _pieces(node: ast.AST) -> list[ast.AST] | None:
    """What a text is put together from when Python runs; None for anything else."""
    match node:
        case ast.JoinedStr(values):
            return [part for value in values for part in ast.walk(value)]
        case ast.BinOp(left, ast.Add() | ast.Mod() | ast.Mult(), right):
            found = [piece for side in (left, right) for piece in (side, *(_pieces(side) or ()))]
            return found if any(isinstance(p, ast.JoinedStr) or _is_text(p) for p in found) else None
        case ast.Call(ast.Attribute(value, "format" | "format_map" | "join")) if _is_text(value):
            return [value]
    return None


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _lead(node: ast.AST) -> str:
    """What a text starts with, as far as it is known."""
    match node:
        case ast.Constant(str(text)):
            return text
        case ast.JoinedStr([first, *more]):
            return _lead(first) + ("{" if more else "")
        case ast.BinOp(left):
            return _lead(left)
        case ast.Call(ast.Attribute(value, "format" | "format_map")):
            return _lead(value)
    return ""


def _arguments(tree: ast.AST) -> tuple[set[int], set[int]]:
    """Arguments of calls that take programs, by id: those that are certainly of saedsl, and those that may be."""
    others = {
        a.asname or a.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for a in node.names
        if a.name.split(".")[0] != "saedsl"
    }
    modules = [
        name
        for node in ast.walk(tree)
        for name in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    uses = any(name.split(".")[0] == "saedsl" for name in modules)
    certain: set[int] = set()
    uncertain: set[int] = set()
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        of = owner.id if isinstance(owner, ast.Name) else ""
        if of == "saedsl" and node.func.attr in FUNCTIONS and node.args:
            certain.add(id(node.args[0]))
        elif node.func.attr in CALLS and of not in others:
            i = CALLS[node.func.attr]
            given = [*node.args[i : i + 1], *(k.value for k in node.keywords if k.arg == "program")]
            bare = len(node.args) == 1 and not any(k.arg != "program" for k in node.keywords)
            known = uses and (node.func.attr != "run" or bare or any(k.arg in RUN_OPTIONS for k in node.keywords))
            (certain if known else uncertain).update(id(a) for a in given)
    return certain, uncertain


RUN_OPTIONS: Final = frozenset({"prompts", "saes", "bind", "top", "progress"})
"""Keywords that tell a model's `run` from a script builder's `run("fr", name=...)`."""


def _without_magic(line: str) -> str:
    """A notebook's line as Python: magics and shell commands are comments."""
    lead = line.lstrip()
    return line if not lead.startswith(("%", "!", "?")) else line.replace(lead[0], "#", 1)


def _starts(text: str) -> list[int]:
    return [0, *(i + 1 for i, c in enumerate(text) if c == "\n")]


def _offset(source: Source, line: int, column: int) -> int:
    """The character offset of a place of `ast`: line from 1, column in UTF-8 bytes from 0."""
    start = source.line_start(line)
    text = source.text[start : start + column]
    return start + (column if text.isascii() else len(source.line(line).encode()[:column].decode(errors="ignore")))


@lru_cache(maxsize=16)
def _literals(text: str) -> dict[int, Literal]:
    """String constants by the offset of their first token; adjacent ones are one."""
    starts = _starts(text)
    found: dict[int, Literal] = {}
    run: list[tuple[int, int, str]] = []

    def close() -> None:
        if run:
            pieces = [_decoded(token, start) for start, _, token in run]
            if all(p is not None for p in pieces):
                chars = [c for p in pieces for c in p or ()]
                line = bisect_right(starts, run[0][0])
                found[run[0][0]] = Literal("".join(c for c, _ in chars), (*(o for _, o in chars), run[-1][1]), line)
            run.clear()

    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING:
                start = starts[token.start[0] - 1] + token.start[1]
                run.append((start, starts[token.end[0] - 1] + token.end[1], token.string))
            elif token.type not in (tokenize.NL, tokenize.COMMENT):
                close()
    except (tokenize.TokenError, SyntaxError):
        pass  # what was read so far counts
    close()
    return found


def _decoded(token: str, start: int) -> list[tuple[str, int]] | None:
    """The characters of one literal with their offsets; None for bytes, and f-strings of older Pythons."""
    prefix = re.match(r"[A-Za-z]*", token)
    kind = prefix[0].lower() if prefix else ""
    if set(kind) - set("ru"):
        return None
    quotes = 3 if token[len(kind) :][:3] in ('"""', "'''") else 1
    body, at = token[len(kind) + quotes : -quotes], start + len(kind) + quotes
    if "r" in kind:
        return [(c, at + i) for i, c in enumerate(body)]
    out: list[tuple[str, int]] = []
    i = 0
    while i < len(body):
        escape = ESCAPE.match(body, i)
        if escape is None:
            out.append((body[i], at + i))
            i += 1
            continue
        try:
            value: Any = ast.literal_eval(f'"{escape[0]}"') if escape[0][-1:] != '"' else '"'
        except (SyntaxError, ValueError):
            return None
        out += [(c, at + i) for c in value]
        i = escape.end()
    return out
