"""Parse results -> nodes: one method a rule of the grammar, run while parsing."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

from lark import Token, Transformer

from saedsl.grammar import nodes as n
from saedsl.grammar.nodes import Span
from saedsl.grammar.words import LATER_COMPONENTS

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


def _span(children: list[Any]) -> Span:
    first, last = children[0], children[-1]
    start = _token_span(first) if isinstance(first, Token) else first.span
    end = _token_span(last) if isinstance(last, Token) else last.span
    return Span(start.start, end.end)


def _token_span(tok: Token) -> Span:
    return Span(cast(int, tok.start_pos), cast(int, tok.end_pos))


def _cut_where(children: list[Any]) -> tuple[list[Any], n.Positions | None]:
    """Children before the `@`, and the positions after it."""
    if len(children) > 1 and isinstance(children[-2], Token) and children[-2].type == "WHERE":
        return children[:-2], children[-1]
    return children, None


def _nodes(children: list[Any]) -> tuple[Any, ...]:
    return tuple(c for c in children if not isinstance(c, Token))


def _placed(children: list[Any], i: int) -> list[Any]:
    """`children`, an empty target at `i` put behind what comes before it."""
    if isinstance(children[i], n.WholeSite):
        before = _span(children[:i]).end
        children[i] = n.WholeSite(span=Span(before, before))
    return children


def _int(tok: Token, digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise Mistake("S128", "the number is too large", _token_span(tok), f"at most {MAX_DIGITS} digits")
    return int(digits)


def _in_order(first: int, last: int, span: Span, shown: str) -> None:
    if first > last and (first < 0) == (last < 0):
        hint = f"write {shown.format(last, first)}"
        raise Mistake("S129", "the range runs backwards", span, f"{first} comes after {last}", hint)


def _spelling(tok: Token) -> str:
    if not (text := unescape(tok)):
        hint = 'write the text of the token, e.g. @ " Paris", or @ all'
        raise Mistake("S125", "an empty string is not a position", _token_span(tok), "it is nowhere", hint)
    return text


class _Integer(NamedTuple):
    value: int
    span: Span


class _Bounds(NamedTuple):
    low: n.Expr | None
    high: n.Expr | None
    span: Span


class Builder(Transformer[Token, Any]):
    """Callbacks of the parser. They get every token, so that each node knows its span."""

    # Statements

    def model(self, c: list[Any]) -> n.ModelDecl:
        return n.ModelDecl(unescape(c[1]), _token_span(c[1]), span=_span(c))

    def sae(self, c: list[Any]) -> n.SAEDecl:
        on = c[5] if len(c) > 5 else None
        return n.SAEDecl(str(c[1]), unescape(c[3]), on, _token_span(c[3]), span=_span(c))

    def prompt(self, c: list[Any]) -> n.PromptDecl:
        return n.PromptDecl(str(c[1]), unescape(c[3]), span=_span(c))

    def let(self, c: list[Any]) -> n.LetDecl:
        return n.LetDecl(str(c[1]), c[3], span=_span(c))

    def record(self, c: list[Any]) -> n.Record:
        items, at = _cut_where(c)
        return n.Record(_nodes(items), at, span=_span(c))

    def item(self, c: list[Any]) -> n.RecordItem:
        return n.RecordItem(c[0], span=_span(c))

    def run(self, c: list[Any]) -> n.Run:
        names = tuple(n.Name(str(t), span=_token_span(t)) for t in c[1:] if t.type == "NAME")
        return n.Run(names, span=_span(c))

    def generate(self, c: list[Any]) -> n.Generate:
        name = n.Name(str(c[1]), span=_token_span(c[1])) if len(c) > 2 else None
        return n.Generate(name, c[-1], span=_span(c))

    def header(self, c: list[Any]) -> n.At:
        sites, at = _cut_where(c)
        return n.At(_nodes(sites), (), at, span=_span(c))

    places = header

    # Edits

    def ablate(self, c: list[Any]) -> n.Ablate:
        body, at = _cut_where(_placed(c, 1))
        return n.Ablate(body[1], at, span=_span(c))

    def amplify(self, c: list[Any]) -> n.Amplify:
        body, at = _cut_where(_placed(c, 1))
        return n.Amplify(body[1], body[3], at, span=_span(c))

    def set_(self, c: list[Any]) -> n.Set:
        body, at = _cut_where(_placed(c, 1))
        return n.Set(body[1], body[3], at, span=_span(c))

    def clamp(self, c: list[Any]) -> n.Clamp:
        body, at = _cut_where(_placed(c, 1))
        return n.Clamp(body[1], body[3].low, body[3].high, at, span=_span(c))

    def bounds(self, c: list[Any]) -> _Bounds:
        low = None if isinstance(c[0], Token) else c[0]
        high = None if isinstance(c[-1], Token) else c[-1]
        return _Bounds(low, high, _span(c))

    def add(self, c: list[Any]) -> n.Add:
        body, at = _cut_where(_placed(c, 2))
        return n.Add(body[1], body[2], at, span=_span(c))

    # Targets and sites

    def all_features(self, c: list[Any]) -> n.AllFeatures:
        return n.AllFeatures(span=_span(c))

    def whole_site(self, c: list[Any]) -> n.WholeSite:
        return n.WholeSite()

    def features(self, c: list[Any]) -> n.Features:
        of = None if isinstance(c[0], Token) else c[0]
        own = c[2:] if of else c
        first = _int(own[0], own[0][1:])
        last = _int(own[2], own[2]) if len(own) > 1 else first
        _in_order(first, last, _span(own), "f{}..{}")
        return n.Features(first, last, of, span=_span(c))

    def set(self, c: list[Any]) -> n.FeatureSet:
        return n.FeatureSet(_nodes(c), span=_span(c))

    def pattern(self, c: list[Any]) -> n.SitePattern:
        if len(c) == 1:
            return n.SitePattern(None, str(c[0]), span=_span(c))
        if (component := str(c[1][1:])) in LATER_COMPONENTS:
            message = f"`{component}` is not part of this version of the language yet"
            raise Mistake("S113", message, _span(c), LATER_COMPONENTS[component])
        return n.SitePattern(c[0], component, span=_span(c))

    def layers(self, c: list[Any]) -> n.Layers:
        return n.Layers(_nodes(c), span=_span(c))

    def layer_range(self, c: list[Any]) -> n.LayerRange:
        first, last = c[0].value, c[-1].value
        _in_order(first, last, _span(c), "{}..{}")
        return n.LayerRange(first, last, span=_span(c))

    def integer(self, c: list[Any]) -> _Integer:
        value = _int(c[-1], c[-1])
        return _Integer(-value if len(c) > 1 else value, _span(c))

    # Positions

    def place_word(self, c: list[Any]) -> n.PosWord:
        return n.PosWord(c[0].value, span=_span(c))

    def place_index(self, c: list[Any]) -> n.PosIndex:
        first, last = c[2].value, c[-2].value
        _in_order(first, last, Span(c[2].span.start, c[-2].span.end), "{}..{}")
        return n.PosIndex(c[0].value, first, last, span=_span(c))

    def place_token(self, c: list[Any]) -> n.PosToken:
        index = c[2].value if len(c) > 1 else None
        return n.PosToken(_spelling(c[0]), "one", index, span=_span(c))

    def place_tokens(self, c: list[Any]) -> n.PosToken:
        return n.PosToken(_spelling(c[1]), c[0].value, span=_span(c))

    def union(self, c: list[Any]) -> n.PosUnion:
        return n.PosUnion(_nodes(c), span=_span(c))

    def except_(self, c: list[Any]) -> n.PosExcept:
        return n.PosExcept(c[0], c[2], span=_span(c))

    # Numbers

    def group(self, c: list[Any]) -> Any:
        return replace(c[1], span=_span(c))

    def number(self, c: list[Any]) -> n.Number:
        value = float(c[0])
        if not math.isfinite(value):
            raise Mistake("S128", "the number is too large", _token_span(c[0]))
        return n.Number(value, span=_span(c))

    def named(self, c: list[Any]) -> n.Name:
        return n.Name(str(c[0]), span=_span(c))

    def bound(self, c: list[Any]) -> n.Bound:
        return n.Bound(str(c[0][1:]), span=_span(c))

    def binary(self, c: list[Any]) -> n.Binary:
        return n.Binary(c[1].value, c[0], c[2], span=_span(c))

    def negative(self, c: list[Any]) -> n.Number | n.Negative:
        if isinstance(c[1], n.Number):
            return n.Number(-c[1].value, span=_span(c))
        return n.Negative(c[1], span=_span(c))

    def positive(self, c: list[Any]) -> Any:
        return replace(c[1], span=_span(c))
