"""Sweeps: the values that a name takes one after the other, and which statements depend on it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import prod
from typing import Final

from saedsl.anatomy import ModelInfo
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node, number
from saedsl.report import Mistake, Report, each
from saedsl.scope import Scope, Value
from saedsl.selection import layer_list

MAX_STEPS: Final = 10_000
"""Combinations of values under one `run`."""
Point = Mapping[str, Value]
"""A value of every sweep."""


@dataclass(frozen=True)
class Sweep:
    """A `sweep` statement, worked out."""

    name: str
    values: tuple[Value, ...]
    span: n.Span


def sweep_values(s: n.SweepDecl, scope: Scope, model: ModelInfo | None, report: Report) -> tuple[Value, ...]:
    """The values of a sweep, in order, none twice.

    Raises:
        Mistake: S511 if there are none, or too many; those of the values.
    """
    found = _listed(s, scope, model)
    values = tuple(dict.fromkeys(found))
    if not values:
        raise Mistake("S511", f"the sweep of {s.name} has no values", s.values.span, hints=["sweep s in [0, 1, 2]"])
    if len(values) > MAX_STEPS:
        raise Mistake("S511", f"the sweep of {s.name} has {len(values):,} values; at most {MAX_STEPS:,} can be", s.span)
    if len(values) < len(found):
        again = next(v for i, v in enumerate(found) if v in found[:i])
        message = f"{value_text(again)} stands twice in the sweep of {s.name}: it runs once"
        report.warning("S511", message, again.span if again.span != n.NOWHERE else s.values.span)
    return values


def _listed(s: n.SweepDecl, scope: Scope, model: ModelInfo | None) -> list[Value]:
    values = s.values
    match values:
        case n.SweepList(items):
            return [n.Number(v, span=i.span) for v, i in zip(each(scope.number, items), items, strict=True)]
        case n.SweepRange():
            return _range(values, scope)
        case n.Layers():
            layers = layer_list(values, model) if model is not None else [0]
            return [n.Layers((n.LayerRange(i, i),)) for i in layers]
        case n.PosIndex(of, first, last):
            if (first < 0) != (last < 0):
                message = "the positions of a sweep are counted from one end"
                raise Mistake("S511", message, values.span, hints=["prompt[0..5], or prompt[-3..-1]"])
            if last - first >= MAX_STEPS:
                raise Mistake("S511", f"a sweep has {MAX_STEPS:,} values at most", values.span)
            return [n.PosIndex(of, i, i) for i in range(first, last + 1)]
        case n.Name():
            return _items(scope.set(values))
        case n.FeatureSet(items):
            inner = each(lambda item: scope.set(item) if isinstance(item, n.Name) else item, items)
            return [v for item in inner for v in _items(item)]
    return _items(values)


def _items(value: n.FeatureSet | n.Features | n.Heads | n.Neurons) -> list[Value]:
    """The members of a set, one by one."""
    if isinstance(value, n.FeatureSet):
        return [v for item in value.items if not isinstance(item, n.Name) for v in _items(item)]
    if value.last - value.first >= MAX_STEPS:
        raise Mistake("S511", f"a sweep has {MAX_STEPS:,} values at most", value.span)
    return [replace(value, first=i, last=i) for i in range(value.first, value.last + 1)]


def _range(r: n.SweepRange, scope: Scope) -> list[Value]:
    """`0..1 by 0.1`: ten steps, as decimals, so that 0.3 is 0.3."""
    by = r.by if r.by is not None else n.Number(1.0)
    first, last, step = each(scope.number, (r.first, r.last, by))
    if step == 0:
        raise Mistake("S511", "a sweep cannot go by 0", by.span)
    if (last - first) * step < 0:
        text = f"{format_node(r.first)}..{format_node(r.last)}"
        hints = [f"{text} by {number(-step)}"]
        raise Mistake(
            "S511", f"this range is empty: by {number(step)} it never gets to {number(last)}", r.span, hints=hints
        )
    steps = (last - first) / step
    if not steps < MAX_STEPS:
        raise Mistake("S511", f"a sweep has {MAX_STEPS:,} values at most", r.span)
    start, width = Decimal(repr(first)), Decimal(repr(step))
    return [n.Number(float(start + i * width)) for i in range(math.floor(steps + 1e-9) + 1)]


def value_text(value: Value) -> str:
    """A value as people read it: `0.5`, `f3`, `L2`, `prompt[4]`."""
    return format_node(value)


# Who depends on whom ----------------------------------------------------------------------------------------------


def mentioned(node: n.Node) -> frozenset[str]:
    """Every name that a node mentions."""
    found: set[str] = set()
    rest: list[object] = [node]
    while rest:
        value = rest.pop()
        if isinstance(value, tuple):
            rest += value
        elif isinstance(value, n.Node):
            if isinstance(value, n.Name | n.PosName):
                found.add(value.id)
            rest += vars(value).values()
    return frozenset(found)


def bound(node: n.Node) -> frozenset[str]:
    """Every `$name` that a node mentions."""
    found: set[str] = set()
    rest: list[object] = [node]
    while rest:
        value = rest.pop()
        if isinstance(value, tuple):
            rest += value
        elif isinstance(value, n.Node):
            if isinstance(value, n.Bound):
                found.add(value.id)
            rest += vars(value).values()
    return frozenset(found)


class Dependence:
    """Which sweeps a statement depends on, by way of `let` and `metric` too."""

    def __init__(self, statements: Iterable[n.Statement]) -> None:
        statements = list(statements)
        self.names = frozenset(s.name for s in statements if isinstance(s, n.SweepDecl))
        self._through: dict[str, frozenset[str]] = {}
        if self.names:
            declared = [s for s in statements if isinstance(s, n.LetDecl | n.MetricDecl)]
            for s in declared:  # in order: a name is declared before it is used
                self._through.setdefault(s.name, self.of(s.value) | (frozenset({s.name}) & self.names))

    def of(self, node: n.Node) -> frozenset[str]:
        """The sweeps that a node depends on."""
        if not self.names:
            return frozenset()
        names = mentioned(node)
        return (names & self.names).union(*(self._through.get(name, frozenset()) for name in names))


def points(sweeps: Sequence[Sweep], used: frozenset[str], report: Report) -> list[Point]:
    """Every combination of the values of those sweeps that are used; one empty one if none is."""
    active = [s for s in sweeps if s.name in used]
    count = prod(len(s.values) for s in active)
    if count > MAX_STEPS:
        sizes = " x ".join(str(len(s.values)) for s in active)
        message = f"these sweeps make {sizes} = {count:,} runs; at most {MAX_STEPS:,} can be"
        report.error("S511", message, active[-1].span, hints=["sweep fewer values, or one thing after the other"])
        active = [replace(s, values=s.values[:1]) for s in active]
    names = [s.name for s in active]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(s.values for s in active))]
