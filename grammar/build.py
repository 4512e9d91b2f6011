"""Parse results -> nodes: one method a rule of the grammar, run while parsing."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any, cast

from lark import Token, Transformer

from saedsl.grammar import nodes as n
from saedsl.grammar.nodes import Span
from saedsl.grammar.pieces import (
    Arguments,
    Bounds,
    Integer,
    Mistake,
    Unit,
    check_order,
    child_after,
    cut_clauses,
    nodes_of,
    placed,
    reference_or_none,
    span_of,
    spelling,
    token_span,
    unescape,
    unit_of,
    whole_number,
)
from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS


class Builder(Transformer[Token, Any]):
    """Callbacks of the parser. They get every token, so that each node knows its span."""

    # Statements

    def model(self, c: list[Any]) -> n.ModelDecl:
        return n.ModelDecl(unescape(c[1]), token_span(c[1]), span=span_of(c))

    def sae(self, c: list[Any]) -> n.SAEDecl:
        on, to = child_after(c, "ON"), child_after(c, "ARROW")
        return n.SAEDecl(str(c[1]), unescape(c[3]), on, to, token_span(c[3]), span=span_of(c))

    def prompt(self, c: list[Any]) -> n.PromptDecl:
        text, *rest = (t for t in c[3:] if t.type == "STRING")
        system = unescape(rest[0]) if rest else None
        if system is not None and c[3].type != "CHAT":
            hint = f"write prompt {c[1]} = chat {text} system {rest[0]}"
            hint = hint if len(hint) < 80 else "write chat before the text"
            span = Span(token_span(c[-2]).start, token_span(c[-1]).end)
            raise Mistake("S120", "`system` goes through the chat template", span, "", hint)
        return n.PromptDecl(str(c[1]), unescape(text), c[3].type == "CHAT", system, span=span_of(c))

    def prompts(self, c: list[Any]) -> n.PromptsDecl:
        return n.PromptsDecl(str(c[1]), unescape(c[3]), token_span(c[3]), span=span_of(c))

    def let(self, c: list[Any]) -> n.LetDecl:
        return n.LetDecl(str(c[1]), c[3], span=span_of(c))

    def dir(self, c: list[Any]) -> n.DirDecl:
        key = None
        if len(c) > 4:
            key = unescape(c[-1]) if c[-1].type == "STRING" else str(c[-1][1:])
        return n.DirDecl(str(c[1]), unescape(c[3]), key, token_span(c[3]), span=span_of(c))

    def metric(self, c: list[Any]) -> n.MetricDecl:
        body, at, _ = cut_clauses(c)
        return n.MetricDecl(str(c[1]), body[3], at, span=span_of(c))

    def record(self, c: list[Any]) -> n.Record:
        items, at, _ = cut_clauses(c)
        return n.Record(nodes_of(items), at, span=span_of(c))

    def item(self, c: list[Any]) -> n.RecordItem:
        return n.RecordItem(c[0], span=span_of(c))

    def sweep(self, c: list[Any]) -> n.SweepDecl:
        values = c[3]
        if isinstance(values, n.Heads):
            values = n.FeatureSet((values,), span=values.span)
        return n.SweepDecl(str(c[1]), values, span=span_of(c))

    def sweep_list(self, c: list[Any]) -> n.SweepList:
        return n.SweepList(nodes_of(c), span=span_of(c))

    def sweep_range(self, c: list[Any]) -> n.SweepRange:
        return n.SweepRange(c[0], c[2], child_after(c, "BY"), span=span_of(c))

    def include(self, c: list[Any]) -> n.Include:
        return n.Include(unescape(c[1]), token_span(c[1]), span=span_of(c))

    def reset(self, c: list[Any]) -> n.Reset:
        return n.Reset(span=span_of(c))

    def prompt_ref(self, c: list[Any]) -> n.Name | n.Field:
        return self.field(c) if len(c) > 1 else self.named(c)

    def option(self, c: list[Any]) -> n.Option:
        return n.Option(str(c[0]), c[2], token_span(c[0]), span=span_of(c))

    def run(self, c: list[Any]) -> n.Run:
        prompts = tuple(p for p in c if isinstance(p, n.Name | n.Field))
        options = tuple(o for o in c if isinstance(o, n.Option))
        name = child_after(c, "AS")
        return n.Run(prompts, str(name) if name else None, options, span=span_of(c))

    def generate(self, c: list[Any]) -> n.Generate:
        prompt, count = (c[1], c[2]) if len(c) > 2 and not isinstance(c[2], Token) else (None, c[1])
        options = tuple(o for o in c if isinstance(o, n.Option))
        name = child_after(c, "AS")
        return n.Generate(prompt, count, str(name) if name else None, options, span=span_of(c))

    def header(self, c: list[Any]) -> n.At:
        sites, at, when = cut_clauses(c)
        return n.At(nodes_of(sites), (), at, when, span=span_of(c))

    places = header

    # Edits

    def ablate(self, c: list[Any]) -> n.Ablate:
        body, at, when = cut_clauses(placed(c, 1))
        return n.Ablate(body[1], at, reference_or_none(child_after(body, "TO")), when, span=span_of(c))

    def amplify(self, c: list[Any]) -> n.Amplify:
        body, at, when = cut_clauses(placed(c, 1))
        return n.Amplify(body[1], body[3], at, when, span=span_of(c))

    def set_(self, c: list[Any]) -> n.Set:
        body, at, when = cut_clauses(placed(c, 1))
        return n.Set(body[1], body[3], at, unit_of(body), when, span=span_of(c))

    def clamp(self, c: list[Any]) -> n.Clamp:
        body, at, when = cut_clauses(placed(c, 1))
        return n.Clamp(body[1], body[3].low, body[3].high, at, unit_of(body), when, span=span_of(c))

    def add(self, c: list[Any]) -> n.Add:
        body, at, when = cut_clauses(placed(c, 3 if isinstance(c[2], Unit) else 2))
        return n.Add(body[1], body[-1], at, unit_of(body), when, span=span_of(c))

    def project(self, c: list[Any]) -> n.ProjectOut:
        body, at, when = cut_clauses(placed(c, 2))
        return n.ProjectOut(body[2], at, when, span=span_of(c))

    def patch(self, c: list[Any]) -> n.Patch:
        source = next(i for i, t in enumerate(c) if isinstance(t, Token) and t.type == "FROM")
        body, at, when = cut_clauses(placed(c[:source], 1))
        tail, _, late = cut_clauses(c[source:])
        if when and late:
            span = Span(token_span(c[-2]).start, c[-1].span.end)
            raise Mistake("S120", "a second `when`", span, "", "join conditions with and")
        return n.Patch(body[1], tail[1], child_after(tail, "AT"), at, when or late, span=span_of(c))

    def freeze(self, c: list[Any]) -> n.Freeze:
        body, at, when = cut_clauses(placed(c, 1))
        return n.Freeze(body[1], at, when, span=span_of(c))

    def keep(self, c: list[Any]) -> n.KeepOnly:
        body, at, when = cut_clauses(c)
        return n.KeepOnly(body[2], reference_or_none(child_after(body, "ELSE")), at, when, span=span_of(c))

    def drop(self, c: list[Any]) -> n.Ablate:
        body, at, when = cut_clauses(c)
        return n.Ablate(body[1], at, None, when, span=span_of(c))

    def apply(self, c: list[Any]) -> n.Apply:
        given = isinstance(c[2], Arguments)
        body, at, when = cut_clauses(placed(c, 3 if given else 2))
        arguments = c[2].values if given else ()
        return n.Apply(str(c[1]), arguments, body[-1], at, when, token_span(c[1]), span=span_of(c))

    def arguments(self, c: list[Any]) -> Arguments:
        return Arguments(nodes_of(c), span_of(c))

    def bounds(self, c: list[Any]) -> Bounds:
        low = None if isinstance(c[0], Token) else c[0]
        high = None if isinstance(c[-1], Token) else c[-1]
        return Bounds(low, high, span_of(c))

    def unit(self, c: list[Any]) -> Unit:
        return Unit(c[0].value, span_of(c))

    def reference(self, c: list[Any]) -> n.Reference:
        kind = " ".join(t for t in c if isinstance(t, Token) and t.type != "OF")
        return n.Reference(cast(Any, kind), c[-1], span=span_of(c))

    # Targets and sites

    def all_features(self, c: list[Any]) -> n.AllFeatures:
        return n.AllFeatures(span=span_of(c))

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
        first = whole_number(own[0], own[0][1:])
        last = whole_number(own[2], own[2]) if len(own) > 1 else first
        check_order(first, last, span_of(own), own[0][0] + "{}..{}")
        return cast(n.Node, kind(first, last, of, span=span_of(c)))

    def error(self, c: list[Any]) -> n.ErrorTarget:
        return n.ErrorTarget(c[0] if len(c) > 1 else None, span=span_of(c))

    def direction(self, c: list[Any]) -> n.Direction:
        return n.Direction(c[1], span=span_of(c))

    def set(self, c: list[Any]) -> n.FeatureSet:
        return n.FeatureSet(nodes_of(c), span=span_of(c))

    def head_set(self, c: list[Any]) -> n.FeatureSet:
        heads = tuple(n.Heads(r.first, r.last, span=r.span) for r in nodes_of(c))
        return n.FeatureSet(heads, span=span_of(c))

    def pattern(self, c: list[Any]) -> n.SitePattern:
        if len(c) == 1:
            return n.SitePattern(None, str(c[0]), span=span_of(c))
        layers, component = c[0], str(c[1][1:])
        if isinstance(layers, n.Name) and f"{layers.id}.{component}" in {*COMPONENTS, *COMPONENT_ALIASES}:
            wrong = f"{layers.id}.{component}"
            hints = (f"write L2.{wrong}", f"for every layer write L*.{wrong}")
            raise Mistake("S123", f"{wrong} is not a site", span_of(c), "of which layer?", *hints)
        if isinstance(layers, n.Name) and re.fullmatch(r"l\d+", layers.id):
            raise Mistake("S112", "layers have a capital L", span_of(c), "", f"write L{layers.id[1:]}.{component}")
        return n.SitePattern(layers, component, span=span_of(c))

    fixed = pattern

    def with_heads(self, c: list[Any]) -> n.SitePattern:
        return replace(cast(n.SitePattern, c[0]), heads=nodes_of(c[1:]), span=span_of(c))

    def head_span(self, c: list[Any]) -> n.LayerRange:
        first = whole_number(c[0], c[0][1:])
        last = whole_number(c[2], c[2]) if len(c) > 1 else first
        check_order(first, last, span_of(c), "h{}..{}")
        return n.LayerRange(first, last, span=span_of(c))

    def head_range(self, c: list[Any]) -> n.LayerRange:
        first, last = whole_number(c[0], c[0]), whole_number(c[-1], c[-1])
        check_order(first, last, span_of(c), "{}..{}")
        return n.LayerRange(first, last, span=span_of(c))

    def module_site(self, c: list[Any]) -> n.ModuleSite:
        return n.ModuleSite(unescape(c[1]), c[2].value, span=span_of(c))

    def layers(self, c: list[Any]) -> n.Layers:
        return n.Layers(nodes_of(c), span=span_of(c))

    def layer_range(self, c: list[Any]) -> n.LayerRange:
        first, last = c[0].value, c[-1].value
        check_order(first, last, span_of(c), "{}..{}")
        return n.LayerRange(first, last, span=span_of(c))

    def integer(self, c: list[Any]) -> Integer:
        value = whole_number(c[-1], c[-1])
        return Integer(-value if len(c) > 1 else value, span_of(c))

    # Positions

    def place_word(self, c: list[Any]) -> n.PosWord:
        return n.PosWord(c[0].value, span=span_of(c))

    def place_index(self, c: list[Any]) -> n.PosIndex:
        first, last = c[2].value, c[-2].value
        check_order(first, last, Span(c[2].span.start, c[-2].span.end), "{}..{}")
        return n.PosIndex(c[0].value, first, last, span=span_of(c))

    def place_token(self, c: list[Any]) -> n.PosToken:
        index = c[2].value if len(c) > 1 else None
        return n.PosToken(spelling(c[0]), "one", index, span=span_of(c))

    def place_tokens(self, c: list[Any]) -> n.PosToken:
        return n.PosToken(spelling(c[1]), c[0].value, span=span_of(c))

    def place_name(self, c: list[Any]) -> n.PosName:
        return n.PosName(str(c[0]), span=span_of(c))

    def place_field(self, c: list[Any]) -> n.PosField:
        return n.PosField(str(c[0]), str(c[1][1:]), span=span_of(c))

    def union(self, c: list[Any]) -> n.PosUnion:
        return n.PosUnion(nodes_of(c), span=span_of(c))

    def except_(self, c: list[Any]) -> n.PosExcept:
        return n.PosExcept(c[0], c[2], span=span_of(c))

    # Conditions

    def compare(self, c: list[Any]) -> n.Compare:
        span = span_of(c)
        if len(c) == 1:
            return n.Compare(c[0], ">", n.Number(0, span=span), span=span)
        return n.Compare(c[0], c[1].value, c[2], unit_of(c), span=span)

    def not_(self, c: list[Any]) -> n.Not:
        return n.Not(c[1], span=span_of(c))

    def and_(self, c: list[Any]) -> n.And:
        return n.And(nodes_of(c), span=span_of(c))

    def or_(self, c: list[Any]) -> n.Or:
        return n.Or(nodes_of(c), span=span_of(c))

    # Metrics

    def call(self, c: list[Any]) -> n.Call:
        return n.Call(c[0].value, c[2] if len(c) > 3 else None, span=span_of(c))

    def field(self, c: list[Any]) -> n.Field:
        return n.Field(str(c[0]), str(c[1][1:]), span=span_of(c))

    def text(self, c: list[Any]) -> n.Text:
        return n.Text(unescape(c[0]), span=span_of(c))

    # Numbers

    def group(self, c: list[Any]) -> Any:
        return replace(c[1], span=span_of(c))

    def number(self, c: list[Any]) -> n.Number:
        value = float(c[0])
        if not math.isfinite(value):
            raise Mistake("S128", "the number is too large", token_span(c[0]))
        return n.Number(value, span=span_of(c))

    def named(self, c: list[Any]) -> n.Name:
        return n.Name(str(c[0]), span=span_of(c))

    def bound(self, c: list[Any]) -> n.Bound:
        return n.Bound(str(c[0][1:]), span=span_of(c))

    def binary(self, c: list[Any]) -> n.Binary:
        return n.Binary(c[1].value, c[0], c[2], span=span_of(c))

    def negative(self, c: list[Any]) -> n.Number | n.Negative:
        if isinstance(c[1], n.Number):
            return n.Number(-c[1].value, span=span_of(c))
        return n.Negative(c[1], span=span_of(c))

    def positive(self, c: list[Any]) -> Any:
        return replace(c[1], span=span_of(c))
