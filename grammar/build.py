"""Parse results -> nodes: one method a rule of the grammar, run while parsing."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final, NamedTuple, cast

from lark import Token, Transformer

from saedsl.grammar import nodes as n
from saedsl.grammar.nodes import Span
from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS

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


class _Clauses(NamedTuple):
    """A rule's children before its clauses, and the clauses."""

    body: list[Any]
    at: n.Positions | None
    when: n.Condition | None


def _cut(children: list[Any]) -> _Clauses:
    """Separate the `@` and the `when` that end a header or an edit."""
    found: dict[str, Any] = {}
    while len(children) > 2 and isinstance(word := children[-2], Token) and word.type in {"WHERE", "WHEN"}:
        found[word.type] = children[-1]
        children = children[:-2]
    return _Clauses(children, found.get("WHERE"), found.get("WHEN"))


def _nodes(children: list[Any]) -> tuple[Any, ...]:
    return tuple(c for c in children if not isinstance(c, Token))


def _after(children: list[Any], word: str) -> Any:
    """The child that follows the token `word`, or None."""
    for tok, value in pairwise(children):
        if isinstance(tok, Token) and tok.type == word:
            return value
    return None


def _placed(children: list[Any], i: int) -> list[Any]:
    """`children`, an empty target at `i` put behind what comes before it."""
    if isinstance(children[i], n.WholeSite):
        before = _span(children[:i]).end
        children[i] = n.WholeSite(span=Span(before, before))
    return children


def _replacement(child: Any) -> n.Reference | None:
    """What follows `to` or `else`; None for `zero`."""
    return child if isinstance(child, n.Reference) else None


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


class _Unit(NamedTuple):
    name: n.Unit
    span: Span


class _Arguments(NamedTuple):
    values: tuple[n.Expr, ...]
    span: Span


def _unit(children: list[Any]) -> n.Unit:
    return next((c.name for c in children if isinstance(c, _Unit)), "")


class Builder(Transformer[Token, Any]):
    """Callbacks of the parser. They get every token, so that each node knows its span."""

    # Statements

    def model(self, c: list[Any]) -> n.ModelDecl:
        return n.ModelDecl(unescape(c[1]), _token_span(c[1]), span=_span(c))

    def sae(self, c: list[Any]) -> n.SAEDecl:
        on, to = _after(c, "ON"), _after(c, "ARROW")
        return n.SAEDecl(str(c[1]), unescape(c[3]), on, to, _token_span(c[3]), span=_span(c))

    def prompt(self, c: list[Any]) -> n.PromptDecl:
        text, *rest = (t for t in c[3:] if t.type == "STRING")
        system = unescape(rest[0]) if rest else None
        if system is not None and c[3].type != "CHAT":
            hint = f"write prompt {c[1]} = chat {text} system {rest[0]}"
            hint = hint if len(hint) < 80 else "write chat before the text"
            span = Span(_token_span(c[-2]).start, _token_span(c[-1]).end)
            raise Mistake("S120", "`system` goes through the chat template", span, "", hint)
        return n.PromptDecl(str(c[1]), unescape(text), c[3].type == "CHAT", system, span=_span(c))

    def prompts(self, c: list[Any]) -> n.PromptsDecl:
        return n.PromptsDecl(str(c[1]), unescape(c[3]), _token_span(c[3]), span=_span(c))

    def let(self, c: list[Any]) -> n.LetDecl:
        return n.LetDecl(str(c[1]), c[3], span=_span(c))

    def dir(self, c: list[Any]) -> n.DirDecl:
        key = None
        if len(c) > 4:
            key = unescape(c[-1]) if c[-1].type == "STRING" else str(c[-1][1:])
        return n.DirDecl(str(c[1]), unescape(c[3]), key, _token_span(c[3]), span=_span(c))

    def metric(self, c: list[Any]) -> n.MetricDecl:
        body, at, _ = _cut(c)
        return n.MetricDecl(str(c[1]), body[3], at, span=_span(c))

    def record(self, c: list[Any]) -> n.Record:
        items, at, _ = _cut(c)
        return n.Record(_nodes(items), at, span=_span(c))

    def item(self, c: list[Any]) -> n.RecordItem:
        return n.RecordItem(c[0], span=_span(c))

    def sweep(self, c: list[Any]) -> n.SweepDecl:
        values = c[3]
        if isinstance(values, n.Heads):
            values = n.FeatureSet((values,), span=values.span)
        return n.SweepDecl(str(c[1]), values, span=_span(c))

    def sweep_list(self, c: list[Any]) -> n.SweepList:
        return n.SweepList(_nodes(c), span=_span(c))

    def sweep_range(self, c: list[Any]) -> n.SweepRange:
        return n.SweepRange(c[0], c[2], _after(c, "BY"), span=_span(c))

    def include(self, c: list[Any]) -> n.Include:
        return n.Include(unescape(c[1]), _token_span(c[1]), span=_span(c))

    def reset(self, c: list[Any]) -> n.Reset:
        return n.Reset(span=_span(c))

    def prompt_ref(self, c: list[Any]) -> n.Name | n.Field:
        return self.field(c) if len(c) > 1 else self.named(c)

    def option(self, c: list[Any]) -> n.Option:
        return n.Option(str(c[0]), c[2], _token_span(c[0]), span=_span(c))

    def run(self, c: list[Any]) -> n.Run:
        prompts = tuple(p for p in c if isinstance(p, n.Name | n.Field))
        options = tuple(o for o in c if isinstance(o, n.Option))
        name = _after(c, "AS")
        return n.Run(prompts, str(name) if name else None, options, span=_span(c))

    def generate(self, c: list[Any]) -> n.Generate:
        prompt, count = (c[1], c[2]) if len(c) > 2 and not isinstance(c[2], Token) else (None, c[1])
        options = tuple(o for o in c if isinstance(o, n.Option))
        name = _after(c, "AS")
        return n.Generate(prompt, count, str(name) if name else None, options, span=_span(c))

    def header(self, c: list[Any]) -> n.At:
        sites, at, when = _cut(c)
        return n.At(_nodes(sites), (), at, when, span=_span(c))

    places = header

    # Edits

    def ablate(self, c: list[Any]) -> n.Ablate:
        body, at, when = _cut(_placed(c, 1))
        return n.Ablate(body[1], at, _replacement(_after(body, "TO")), when, span=_span(c))

    def amplify(self, c: list[Any]) -> n.Amplify:
        body, at, when = _cut(_placed(c, 1))
        return n.Amplify(body[1], body[3], at, when, span=_span(c))

    def set_(self, c: list[Any]) -> n.Set:
        body, at, when = _cut(_placed(c, 1))
        return n.Set(body[1], body[3], at, _unit(body), when, span=_span(c))

    def clamp(self, c: list[Any]) -> n.Clamp:
        body, at, when = _cut(_placed(c, 1))
        return n.Clamp(body[1], body[3].low, body[3].high, at, _unit(body), when, span=_span(c))

    def add(self, c: list[Any]) -> n.Add:
        body, at, when = _cut(_placed(c, 3 if isinstance(c[2], _Unit) else 2))
        return n.Add(body[1], body[-1], at, _unit(body), when, span=_span(c))

    def project(self, c: list[Any]) -> n.ProjectOut:
        body, at, when = _cut(_placed(c, 2))
        return n.ProjectOut(body[2], at, when, span=_span(c))

    def patch(self, c: list[Any]) -> n.Patch:
        source = next(i for i, t in enumerate(c) if isinstance(t, Token) and t.type == "FROM")
        body, at, when = _cut(_placed(c[:source], 1))
        tail, _, late = _cut(c[source:])
        if when and late:
            span = Span(_token_span(c[-2]).start, c[-1].span.end)
            raise Mistake("S120", "a second `when`", span, "", "join conditions with and")
        return n.Patch(body[1], tail[1], _after(tail, "AT"), at, when or late, span=_span(c))

    def freeze(self, c: list[Any]) -> n.Freeze:
        body, at, when = _cut(_placed(c, 1))
        return n.Freeze(body[1], at, when, span=_span(c))

    def keep(self, c: list[Any]) -> n.KeepOnly:
        body, at, when = _cut(c)
        return n.KeepOnly(body[2], _replacement(_after(body, "ELSE")), at, when, span=_span(c))

    def drop(self, c: list[Any]) -> n.Ablate:
        body, at, when = _cut(c)
        return n.Ablate(body[1], at, None, when, span=_span(c))

    def apply(self, c: list[Any]) -> n.Apply:
        given = isinstance(c[2], _Arguments)
        body, at, when = _cut(_placed(c, 3 if given else 2))
        arguments = c[2].values if given else ()
        return n.Apply(str(c[1]), arguments, body[-1], at, when, _token_span(c[1]), span=_span(c))

    def arguments(self, c: list[Any]) -> _Arguments:
        return _Arguments(_nodes(c), _span(c))

    def bounds(self, c: list[Any]) -> _Bounds:
        low = None if isinstance(c[0], Token) else c[0]
        high = None if isinstance(c[-1], Token) else c[-1]
        return _Bounds(low, high, _span(c))

    def unit(self, c: list[Any]) -> _Unit:
        return _Unit(c[0].value, _span(c))

    def reference(self, c: list[Any]) -> n.Reference:
        kind = " ".join(t for t in c if isinstance(t, Token) and t.type != "OF")
        return n.Reference(cast(Any, kind), c[-1], span=_span(c))

    # Targets and sites

    def all_features(self, c: list[Any]) -> n.AllFeatures:
        return n.AllFeatures(span=_span(c))

    def whole_site(self, c: list[Any]) -> n.WholeSite:
        return n.WholeSite()

    def features(self, c: list[Any]) -> n.Features:
        return cast(n.Features, self.numbered(n.Features, c))

    def heads(self, c: list[Any]) -> n.Heads:
        return cast(n.Heads, self.numbered(n.Heads, c))

    def neurons(self, c: list[Any]) -> n.Neurons:
        return cast(n.Neurons, self.numbered(n.Neurons, c))

    def numbered(self, kind: Any, c: list[Any]) -> n.Node:
        """`[PLACE .] f3[..9]`, the letter being that of `kind`."""
        of = None if isinstance(c[0], Token) else c[0]
        own = c[2:] if of else c
        first = _int(own[0], own[0][1:])
        last = _int(own[2], own[2]) if len(own) > 1 else first
        _in_order(first, last, _span(own), own[0][0] + "{}..{}")
        return cast(n.Node, kind(first, last, of, span=_span(c)))

    def error(self, c: list[Any]) -> n.ErrorTarget:
        return n.ErrorTarget(c[0] if len(c) > 1 else None, span=_span(c))

    def direction(self, c: list[Any]) -> n.Direction:
        return n.Direction(c[1], span=_span(c))

    def set(self, c: list[Any]) -> n.FeatureSet:
        return n.FeatureSet(_nodes(c), span=_span(c))

    def head_set(self, c: list[Any]) -> n.FeatureSet:
        heads = tuple(n.Heads(r.first, r.last, span=r.span) for r in _nodes(c))
        return n.FeatureSet(heads, span=_span(c))

    def pattern(self, c: list[Any]) -> n.SitePattern:
        if len(c) == 1:
            return n.SitePattern(None, str(c[0]), span=_span(c))
        layers, component = c[0], str(c[1][1:])
        if isinstance(layers, n.Name) and f"{layers.id}.{component}" in {*COMPONENTS, *COMPONENT_ALIASES}:
            wrong = f"{layers.id}.{component}"
            hints = (f"write L2.{wrong}", f"for every layer write L*.{wrong}")
            raise Mistake("S123", f"{wrong} is not a site", _span(c), "of which layer?", *hints)
        if isinstance(layers, n.Name) and re.fullmatch(r"l\d+", layers.id):
            raise Mistake("S112", "layers have a capital L", _span(c), "", f"write L{layers.id[1:]}.{component}")
        return n.SitePattern(layers, component, span=_span(c))

    fixed = pattern

    def with_heads(self, c: list[Any]) -> n.SitePattern:
        return replace(cast(n.SitePattern, c[0]), heads=_nodes(c[1:]), span=_span(c))

    def head_span(self, c: list[Any]) -> n.LayerRange:
        first = _int(c[0], c[0][1:])
        last = _int(c[2], c[2]) if len(c) > 1 else first
        _in_order(first, last, _span(c), "h{}..{}")
        return n.LayerRange(first, last, span=_span(c))

    def head_range(self, c: list[Any]) -> n.LayerRange:
        first, last = _int(c[0], c[0]), _int(c[-1], c[-1])
        _in_order(first, last, _span(c), "{}..{}")
        return n.LayerRange(first, last, span=_span(c))

    def module_site(self, c: list[Any]) -> n.ModuleSite:
        return n.ModuleSite(unescape(c[1]), c[2].value, span=_span(c))

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

    def place_name(self, c: list[Any]) -> n.PosName:
        return n.PosName(str(c[0]), span=_span(c))

    def place_field(self, c: list[Any]) -> n.PosField:
        return n.PosField(str(c[0]), str(c[1][1:]), span=_span(c))

    def union(self, c: list[Any]) -> n.PosUnion:
        return n.PosUnion(_nodes(c), span=_span(c))

    def except_(self, c: list[Any]) -> n.PosExcept:
        return n.PosExcept(c[0], c[2], span=_span(c))

    # Conditions

    def compare(self, c: list[Any]) -> n.Compare:
        span = _span(c)
        if len(c) == 1:
            return n.Compare(c[0], ">", n.Number(0, span=span), span=span)
        return n.Compare(c[0], c[1].value, c[2], _unit(c), span=span)

    def not_(self, c: list[Any]) -> n.Not:
        return n.Not(c[1], span=_span(c))

    def and_(self, c: list[Any]) -> n.And:
        return n.And(_nodes(c), span=_span(c))

    def or_(self, c: list[Any]) -> n.Or:
        return n.Or(_nodes(c), span=_span(c))

    # Metrics

    def call(self, c: list[Any]) -> n.Call:
        return n.Call(c[0].value, c[2] if len(c) > 3 else None, span=_span(c))

    def field(self, c: list[Any]) -> n.Field:
        return n.Field(str(c[0]), str(c[1][1:]), span=_span(c))

    def text(self, c: list[Any]) -> n.Text:
        return n.Text(unescape(c[0]), span=_span(c))

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
