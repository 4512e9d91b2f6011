"""Pieces of parse results: spans, clauses, numbers, strings; what `build` is made with."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Final, NamedTuple, cast

from lark import Token

from saedsl.grammar import nodes as n
from saedsl.grammar.nodes import Span

ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))|\\$")
QUOTES: Final = "\"'“”„«»‘’"
MAX_DIGITS: Final = 15


class Mistake(Exception):
    """A mistake that the grammar cannot see."""

    def __init__(self, code: str, message: str, span: Span, label: str = "", *hints: str) -> None:
        self.code, self.message, self.span, self.label, self.hints = code, message, span, label, hints
        super().__init__(message)


def unescape(text: str) -> str:
    """The value of a string as written, quotes included; `\\u` pairs of surrogates are one character."""

    def value(m: re.Match[str]) -> str:
        if m[1]:
            return chr(int(m[1], 16))
        return {"n": "\n", "t": "\t"}.get(m[2] or "", m[2] or "")

    body = text[1:-1] if len(text) > 1 and text[-1] in QUOTES else text[1:]
    plain = ESCAPE.sub(value, body) if "\\" in body else body
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if "\\u" in body else plain


def span_of(children: list[Any]) -> Span:
    first, last = children[0], children[-1]
    start = token_span(first) if isinstance(first, Token) else first.span
    end = token_span(last) if isinstance(last, Token) else last.span
    return Span(start.start, end.end)


def token_span(tok: Token) -> Span:
    return Span(cast(int, tok.start_pos), cast(int, tok.end_pos))


class Clauses(NamedTuple):
    """A rule's children before its clauses, and the clauses."""

    body: list[Any]
    at: n.Positions | None
    when: n.Condition | None


def cut_clauses(children: list[Any]) -> Clauses:
    """Separate the `@` and the `when` that end a header or an edit."""
    found: dict[str, Any] = {}
    while len(children) > 2 and isinstance(word := children[-2], Token) and word.type in {"WHERE", "WHEN"}:
        found[word.type] = children[-1]
        children = children[:-2]
    return Clauses(children, found.get("WHERE"), found.get("WHEN"))


def nodes_of(children: list[Any]) -> tuple[Any, ...]:
    return tuple(c for c in children if not isinstance(c, Token))


def child_after(children: list[Any], word: str) -> Any:
    """The child that follows the token `word`, or None."""
    for tok, value in pairwise(children):
        if isinstance(tok, Token) and tok.type == word:
            return value
    return None


def placed(children: list[Any], i: int) -> list[Any]:
    """`children`, an empty target at `i` put behind what comes before it."""
    if isinstance(children[i], n.WholeSite):
        before = span_of(children[:i]).end
        children[i] = n.WholeSite(span=Span(before, before))
    return children


def reference_or_none(child: Any) -> n.Reference | None:
    """What follows `to` or `else`; None for `zero`."""
    return child if isinstance(child, n.Reference) else None


def whole_number(tok: Token, digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise Mistake("S128", "the number is too large", token_span(tok), f"at most {MAX_DIGITS} digits")
    return int(digits)


def check_order(first: int, last: int, span: Span, shown: str) -> None:
    if first > last and (first < 0) == (last < 0):
        hint = f"write {shown.format(last, first)}"
        raise Mistake("S129", "the range runs backwards", span, f"{first} comes after {last}", hint)


def spelling(tok: Token) -> str:
    if not (text := unescape(tok)):
        hint = 'write the text of the token, e.g. @ " Paris", or @ all'
        raise Mistake("S125", "an empty string is not a position", token_span(tok), "it is nowhere", hint)
    return text


class Integer(NamedTuple):
    value: int
    span: Span


class Bounds(NamedTuple):
    low: n.Expr | None
    high: n.Expr | None
    span: Span


class Unit(NamedTuple):
    name: n.Unit
    span: Span


class Arguments(NamedTuple):
    values: tuple[n.Expr, ...]
    span: Span


def unit_of(children: list[Any]) -> n.Unit:
    return next((c.name for c in children if isinstance(c, Unit)), "")
