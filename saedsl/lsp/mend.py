"""Mending a mistake by what its hint says, where doing so is known to help."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from saedsl.grammar.nodes import Span
from saedsl.grammar.source import Diagnostic
from saedsl.lsp.document import Document

SAYS: Final = re.compile(r"(?:write|did you mean) (.+?)\??$")
DOTTED: Final = re.compile(r"[\w.]+")
"""The rest of a word: of L12.mlp, only L12 may be marked."""
REMOVES: Final = frozenset({"remove it", "leave it out", "leave this out"})
MOST: Final = 100_000
"""Characters; longer programs take too long to check again."""


@dataclass(frozen=True)
class Mend:
    """One change to a text."""

    title: str
    span: Span
    """What is replaced."""
    text: str
    """By what."""


def mend(doc: Document, diagnostic: Diagnostic) -> Mend | None:
    """The change that a hint of `diagnostic` describes, if the mistake is gone then and no other comes.

    A hint says what to write in place of the marked text, or of the edit or statement around it: both are tried, and
    the program is checked again.
    """
    if len(doc.text) > MOST:
        return None
    old = Counter((d.code, d.message) for d in doc.diagnostics)
    for title, span, text in _candidates(doc, diagnostic):
        after = Document(doc.text[: span.start] + text + doc.text[span.end :], doc.path)
        new = Counter((d.code, d.message) for d in after.diagnostics)
        if new < old and new[diagnostic.code, diagnostic.message] < old[diagnostic.code, diagnostic.message]:
            return Mend(title, span, text)
    return None


def _candidates(doc: Document, diagnostic: Diagnostic) -> Iterator[tuple[str, Span, str]]:
    start, end = diagnostic.span.start, diagnostic.span.end
    dotted = DOTTED.match(doc.text, end)
    spans = [diagnostic.span, *([Span(start, dotted.end())] if dotted else [])]
    chunk = doc.chunk_at(diagnostic.span.start)
    if chunk is not None:
        parts = [Span(p.tokens[0].start, p.end) for p in chunk.parts if p.tokens]
        spans += [s for s in parts if s.start <= diagnostic.span.start <= s.end]
        spans.append(Span(chunk.first.start, chunk.end))
    for hint in diagnostic.hints:
        if hint in REMOVES:
            yield hint, diagnostic.span, ""
        elif (said := SAYS.match(hint)) is not None:
            yield from ((f"write {said[1]}", span, said[1]) for span in dict.fromkeys(spans))
