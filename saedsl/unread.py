"""Statements that the parser could not read: what they were going to declare or to run is not missing, but unknown."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

from saedsl.grammar.guess import nearest
from saedsl.grammar.nodes import DirDecl, Include, ModelDecl, PromptDecl, PromptsDecl, SAEDecl, Span
from saedsl.grammar.parse import Parsed
from saedsl.grammar.words import STATEMENTS
from saedsl.report import DAMAGED
from saedsl.sites import Site

_ON = re.compile(r"(?<!\w)on\s+([A-Za-z0-9_.]+)")
_NAME = re.compile(r"\w+\s+(\w+)\s*(?:=|in\b)")


@dataclass(frozen=True)
class Unread:
    """One statement with a mistake of syntax, reported already."""

    word: str
    """The word of the language that it starts with, as far as can be told; "" if none is near."""
    text: str
    span: Span

    @property
    def name(self) -> str | None:
        """What it was going to declare."""
        name = _NAME.match(self.text)
        return name[1] if name else None

    @property
    def site(self) -> Site | None:
        """Where an unread `sae` statement binds its dictionary, if that much can be read."""
        on = _ON.findall(self.text)
        try:
            return Site.parse(on[-1]) if on else None
        except ValueError:
            return None


def unread(parsed: Parsed) -> list[Unread]:
    """The statements of a text that are not in its script, in order; those whose text or path is damaged too."""
    if not parsed.diagnostics:
        return []
    damaged = sorted(d.span.start for d in parsed.diagnostics if d.code in DAMAGED)
    good = set()
    for s in parsed.script.statements:
        i = bisect_left(damaged, s.span.start)
        hurt = i < len(damaged) and damaged[i] < s.span.end
        if not (hurt and isinstance(s, ModelDecl | SAEDecl | PromptDecl | PromptsDecl | DirDecl | Include)):
            good.add(s.span.start)
    found = []
    for chunk in parsed.chunks:
        first = chunk.first
        if first.start not in good:
            found.append(
                Unread(_meant(first.text), parsed.source.text[first.start : chunk.end], Span(first.start, chunk.end))
            )
    return found


@lru_cache(maxsize=256)
def _meant(word: str) -> str:
    """The word of the language that a statement's first word is or may be a slip of, else ""."""
    return word if word in STATEMENTS else nearest(word, STATEMENTS) or ""
