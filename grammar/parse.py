"""Text -> Script, with every mistake found in one pass.

    text --scan--> statements --lark--> nodes
                       |           |
                       +-> mistakes <- mistakes.explain

Nothing here raises for any text: a bad statement gives diagnostics, the good ones are kept.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Final, cast

from lark import Lark, TextSlice, UnexpectedInput, UnexpectedToken, lexer
from lark.lexer import LexerState, LexerThread, LineCounter

from saedsl.errors import ProgramError
from saedsl.grammar.build import Builder
from saedsl.grammar.failure import Failure, Finding
from saedsl.grammar.guess import nearest
from saedsl.grammar.mistaken_edits import unknown_edit
from saedsl.grammar.mistaken_lines import judge
from saedsl.grammar.mistakes import explain
from saedsl.grammar.nodes import At, Edit, Node, Script, Span, Statement, Then
from saedsl.grammar.pieces import Mistake
from saedsl.grammar.scan import MAX_MISTAKES, Chunk, Part, Scan, no_edits, scan
from saedsl.grammar.source import Diagnostic, Source
from saedsl.grammar.uncollected import uncollected
from saedsl.grammar.words import EDITS, STATEMENTS

MAX_CHARACTERS: Final = 1_000_000
MAX_NESTING: Final = 100
"""Nodes inside nodes: `1+1+1+...` nests as well."""
MAX_OPERATIONS: Final = 1000
"""In one edit or statement; more are not even read."""
MAX_UNREADABLE: Final = 20
"""Mistakes shown of a text that has nothing but mistakes."""

BINARY: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff\ufffd]")
RULES: Final = {**{w: w for w in (*STATEMENTS, *EDITS) if w != "at"}, "set": "set_", "at": "header"}
"""Word -> the grammar's rule for what it starts."""


@dataclass(frozen=True)
class Parsed:
    """What a text says, and what is wrong with it."""

    script: Script
    """The statements without mistakes; of an `at` with a good header, the edits without mistakes."""
    diagnostics: tuple[Diagnostic, ...]
    """In source order."""
    source: Source
    broken: frozenset[str] = frozenset()
    """Names that statements with mistakes declare: unknown only because of those."""
    headers: tuple[At, ...] = ()
    """Good headers without a good edit: not in the script, but their sites can be checked."""
    chunks: tuple[Chunk, ...] = ()
    """All statements, the unreadable ones too, as the scanner cut them."""


@uncollected
def parse(source: Source | str, name: str = "<program>") -> Parsed:
    """Read a program; whatever the text is, nothing is raised.

    Args:
        source: the text, or a Source that also says where the text came from.
        name: the name of the program in messages, when `source` is a text.
    """
    if isinstance(source, str):
        source = Source(source, name)
    if (refused := _refuse(source)) is not None:
        return Parsed(Script(()), (refused,), source)
    found = scan(source)
    reader = _Reader(source, found)
    statements = [s for c in found.chunks if (s := reader.statement(c)) is not None]
    diagnostics = sorted(reader.diagnostics, key=lambda d: (d.span.start, d.span.end))
    if len(diagnostics) > 2 * MAX_UNREADABLE and len(diagnostics) > 2 * len(statements):
        diagnostics = [*diagnostics[:MAX_UNREADABLE], _hopeless(source)]
    span = Span(0, len(source.text))
    script = Script(tuple(statements), tuple(found.comments), span=span)
    return Parsed(
        script, tuple(diagnostics), source, frozenset(reader.broken), tuple(reader.headers), tuple(found.chunks)
    )


def parse_or_raise(source: Source | str, name: str = "<program>") -> Script:
    """Read a program.

    Raises:
        ProgramError: the text has mistakes; all of them are in its `diagnostics`.
    """
    parsed = parse(source, name)
    if parsed.diagnostics:
        raise ProgramError(parsed.diagnostics)
    return parsed.script


@cache
def grammar() -> Lark:
    """The parser, built once. Every statement and edit has its own start rule."""
    text = files("saedsl.grammar").joinpath("saedsl.lark").read_text(encoding="utf-8")
    return build_grammar(text)


def build_grammar(text: str, *, strict: bool = False) -> Lark:
    """A parser from the text of the grammar; `strict` refuses conflicts and terminals that collide."""
    available = lexer.has_interegular
    lexer.has_interegular = available and strict  # where interegular is installed, Lark spends 0.7 s on collisions
    try:
        return Lark(
            text,
            parser="lalr",
            lexer="contextual",
            start=[*RULES.values(), "places"],
            keep_all_tokens=True,
            maybe_placeholders=False,
            transformer=Builder(),
            strict=strict,
            _plugins={"LexerThread": _Thread},
        )
    finally:
        lexer.has_interegular = available


class _Thread(LexerThread):
    """Lark's own counts the lines before every slice, which takes quadratic time; spans need no lines."""

    @classmethod
    def from_text(cls, lexer: Any, text_or_slice: Any) -> _Thread:
        text = TextSlice.cast_from(text_or_slice)
        counter: Any = LineCounter("\n")  # type: ignore[no-untyped-call]
        counter.char_pos = text.start
        return cls(lexer, LexerState(text, counter))


def _refuse(source: Source) -> Diagnostic | None:
    """The one mistake of a text that is not worth reading."""
    if len(source.text) > MAX_CHARACTERS:
        message = f"the program has {len(source.text):,} characters; at most {MAX_CHARACTERS:,} are read"
        return Diagnostic("S100", message, Span(0, 0), source, hints=("put large feature sets in several programs",))
    if (bad := BINARY.search(source.text)) is not None:
        label = f"character U+{ord(bad[0]):04X}"
        return Diagnostic("S101", "this is not text", Span(*bad.span()), source, label, ("a program is UTF-8 text",))
    return None


def _hopeless(source: Source) -> Diagnostic:
    message = f"this does not look like a saedsl program: only its first {MAX_UNREADABLE} mistakes are shown"
    end = len(source.text)
    return Diagnostic("S109", message, Span(end, end), source)


class _Reader:
    """Statements of one source -> nodes, gathering mistakes."""

    def __init__(self, source: Source, found: Scan) -> None:
        self.source = source
        self.diagnostics = list(found.diagnostics)
        self.broken: set[str] = set()
        self.headers: list[At] = []
        self.lark = grammar()
        self.hanging = False
        """The last statement stopped too early: the next line may be the rest of it."""

    def statement(self, chunk: Chunk) -> Statement | None:
        """A statement, or None with its mistakes reported."""
        if len(self.diagnostics) > MAX_MISTAKES:
            return None
        node = None if chunk.skip else self.at(chunk) if chunk.is_at else self.plain(chunk)
        if node is None:
            words = [t.text for t in chunk.parts[0].tokens[:3]]
            if len(words) == 3 and words[2] == "=":
                self.broken.add(words[1])
        return node

    def plain(self, chunk: Chunk) -> Statement | None:
        part = chunk.parts[0]
        word = part.tokens[0].text
        hanging, self.hanging = self.hanging, False
        if word in STATEMENTS:
            return cast(Statement | None, self.read(part, RULES[word]))
        if not (hanging and part.tokens[0].kind != "word"):
            self.report(part, judge(self.source.text, chunk))
        return None

    def at(self, chunk: Chunk) -> At | None:
        head, *rest = chunk.parts
        edits = self.chains([p for p in rest if p.tokens])
        header = self.header(head)
        if header is not None and not edits and not chunk.excused and head.blind == sys.maxsize:
            self.diagnostics.append(no_edits(chunk, self.source))
        elif header is not None and chunk.semicolon:
            message = "`;` only goes between the edits of an `at`"
            self.report(head, Finding("S117", message, chunk.semicolon, "", ("leave it out",)))
        good = tuple(e for e in edits if e is not None)
        if header is None:
            return None
        at = replace(header, edits=good, block=chunk.block is not None, span=Span(chunk.first.start, chunk.end))
        if not good:
            self.headers.append(at)
        return at if good else None

    def chains(self, parts: list[Part]) -> list[Edit | Then | None]:
        """The edits of an `at`, those that `then` joins in one; None for what has a mistake."""
        chains: list[list[Edit | None]] = []
        for part in parts:
            if part.then is None or not chains:
                chains.append([])
            chains[-1].append(self.edit(part))
        return [joined(chain) for chain in chains]

    def header(self, part: Part) -> At | None:
        if (word := part.tokens[0].text) == "at":
            return cast(At | None, self.read(part, "header"))
        message = f"words of the language are lower-case: {word.lower()}"
        self.report(part, Finding("S112", message, part.tokens[0].span, "", ("write at",)))
        places = Part(part.tokens[1:], part.blind)
        return cast(At | None, self.read(places, "places")) if places.tokens else None

    def edit(self, part: Part) -> Edit | None:
        if len(self.diagnostics) > MAX_MISTAKES:
            return None
        if (word := part.tokens[0].text) in EDITS:
            return cast(Edit | None, self.read(part, RULES[word]))
        self.report(part, unknown_edit(self.source.text, tuple(part.tokens)))
        return None

    def read(self, part: Part, rule: str) -> Any:
        """What a part says, or None with its mistake reported."""
        if len(part.tokens) > MAX_OPERATIONS and sum(t.text in "+-*/" for t in part.tokens) > MAX_OPERATIONS:
            self.too_deep(part)
            return None
        text = TextSlice(self.source.text, part.tokens[0].start, part.end)
        try:
            node: Any = self.lark.parse(text, start=rule)
        except Mistake as e:
            self.report(part, Finding(e.code, e.message, e.span, e.label, e.hints))
        except UnexpectedInput as e:
            failure = self.failure(part, e)
            self.hanging = failure.tok is None
            self.report(part, found := explain(failure))
            if found.code in {"S112", "S123"} and rule in {"header", "places"}:
                self.also_wrong(part, found.span.end)
        else:
            if part.end - part.tokens[0].start <= MAX_NESTING or depth(node) <= MAX_NESTING:
                return node
            self.too_deep(part)
        return None

    def too_deep(self, part: Part) -> None:
        label = f"more than {MAX_NESTING} operations in one another"
        self.report(part, Finding("S108", "nested too deeply", Span(part.tokens[0].start, part.end), label))

    def also_wrong(self, header: Part, offset: int) -> None:
        """A misspelt edit after a site that could not be read."""
        tokens = [t for t in header.tokens if t.start >= offset]
        if tokens and tokens[0].kind == "word" and nearest(tokens[0].text, EDITS):
            self.report(header, unknown_edit(self.source.text, tuple(tokens)))

    def failure(self, part: Part, error: UnexpectedInput) -> Failure:
        if isinstance(error, UnexpectedToken):
            offset = part.end if error.token.type == "$END" else error.token.start_pos or 0
        else:
            offset = error.pos_in_stream or 0
        starts = [t.end for t in part.tokens]
        i = bisect_right(starts, offset)
        where: Any = error
        accepts = frozenset(where.interactive_parser.accepts())
        return Failure(self.source.text, tuple(part.tokens), i, accepts)

    def report(self, part: Part, found: Finding) -> None:
        if found.span.start < part.blind:
            diagnostic = Diagnostic(found.code, found.message, found.span, self.source, found.label, found.hints)
            self.diagnostics.append(diagnostic)


def joined(chain: list[Edit | None]) -> Edit | Then | None:
    """One edit, or several joined by `then`; None if one of them has a mistake."""
    edits = tuple(e for e in chain if e is not None)
    if len(edits) < len(chain):
        return None
    return edits[0] if len(edits) == 1 else Then(edits, span=Span(edits[0].span.start, edits[-1].span.end))


def depth(node: Node) -> int:
    """How deep nodes lie inside one another."""
    deepest, rest = 0, [(node, 1)]
    while rest:
        node, level = rest.pop()
        deepest = max(deepest, level)
        for value in vars(node).values():
            inner = value if isinstance(value, tuple) else (value,)
            rest += [(v, level + 1) for v in inner if isinstance(v, Node)]
    return deepest
