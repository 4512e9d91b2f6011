"""Where the grammar stopped, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from saedsl.grammar.nodes import Span
from saedsl.grammar.tokens import Token


class Finding(NamedTuple):
    """A diagnostic that does not know its source yet."""

    code: str
    message: str
    span: Span
    label: str = ""
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Where the grammar stopped in a part."""

    text: str
    """The whole program."""
    tokens: tuple[Token, ...]
    """Of the part."""
    i: int
    """The token that was not taken; `len(tokens)`: the part ended too early."""
    accepts: frozenset[str]
    """Terminals that would have been taken."""

    def word(self, i: int) -> str:
        """The text of a token, empty outside the part."""
        return self.tokens[i].text if 0 <= i < len(self.tokens) else ""

    @property
    def tok(self) -> Token | None:
        return self.tokens[self.i] if self.i < len(self.tokens) else None

    @property
    def here(self) -> str:
        return self.word(self.i)

    @property
    def prev(self) -> str:
        return self.word(self.i - 1)

    @property
    def kind(self) -> str:
        """The word that the part starts with."""
        return self.word(0)

    @property
    def span(self) -> Span:
        return self.tok.span if self.tok else Span(self.tokens[-1].end, self.tokens[-1].end)

    @property
    def clause(self) -> str:
        """What opened the clause that the grammar stopped in: `@`, `when`, `from`, `at` after `from`, `with`, or ""."""
        opened = ""
        for j in range(1, self.i):
            word = self.word(j)
            if self.word(j - 1) == ".":
                continue
            if word in {"@", "when", "from", "with"} or (word == "at" and opened == "from"):
                opened = word
        return opened

    @property
    def in_positions(self) -> bool:
        return self.clause in {"@", "at"}

    def between(self, i: int, j: int) -> str:
        """The text of tokens i, ..., j-1, on one line."""
        toks = self.tokens[i:j]
        return " ".join(self.text[toks[0].start : toks[-1].end].split()) if toks else ""

    def rest(self, i: int) -> str:
        """The text from token i on."""
        return self.between(i, len(self.tokens))

    def span_of(self, i: int, j: int) -> Span:
        """Of the tokens i, ..., j-1."""
        return Span(self.tokens[i].start, self.tokens[j - 1].end)


SHORT: Final = 60
"""Longer statements are not repeated in hints."""


def write(text: str, otherwise: str = "") -> tuple[str, ...]:
    """A hint that says what to write."""
    return (f"write {text}",) if len(text) <= SHORT else (f"write {otherwise}",) if otherwise else ()


def one_of(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *some, last = words
    return f"{', '.join(some)} or {last}" if some else last
