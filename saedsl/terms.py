"""Metrics as written -> what is measured: features, sites and texts found, numbers worked out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.program import Metric, MetricValue, Term, terms
from saedsl.report import Mistake, both, each
from saedsl.scope import OPERATORS, Scope
from saedsl.selection import site_list
from saedsl.target import Header, Targets

EXAMPLES = {
    "logit": 'logit(" Paris")',
    "prob": 'prob(" Paris")',
    "logprob": 'logprob(" New York")',
    "kl": "kl()",
    "ce": "ce()",
    "act": "act(g.f42)",
    "norm": "norm(L3.resid)",
}
"""How each call is written."""


MAX_PARTS: Final = 300


@dataclass(frozen=True)
class Terms:
    """Works out metrics."""

    scope: Scope
    targets: Targets
    everywhere: Header
    """Every site with a dictionary: where `act(f42)` looks."""

    def metric(self, s: n.MetricDecl) -> Metric:
        """A metric.

        Raises:
            Mistake: every mistake of it, together.
        """
        at = s.at
        value, positions = both(lambda: self._measured(s), lambda: self.scope.positions(at) if at is not None else None)
        return Metric(s.name, value, (positions,) if positions is not None else (), s.span)

    def _measured(self, s: n.MetricDecl) -> MetricValue:
        value = self._value(s.value)
        if _size(value) > MAX_PARTS:
            raise Mistake("S512", f"{s.name} is made of more than {MAX_PARTS} numbers and calls", s.value.span)
        if not any(True for _ in terms(value)):
            hints = [f'metric {s.name} = logit(" Paris") - logit(" Rome")']
            raise Mistake("S512", f"{s.name} measures nothing: it is {format_node(s.value)}", s.value.span, hints=hints)
        return value

    def _value(self, e: n.Expr) -> MetricValue:
        match e:
            case n.Call():
                return self._term(e)
            case n.Name() if (known := self.scope.metric(e)) is not None:
                return self._value(known) if isinstance(known, n.Node) else known
            case n.Negative(operand):
                value = self._value(operand)
                if isinstance(value, tuple) and value[:2] == ("*", -1.0):
                    return value[2]
                return -value if isinstance(value, float) else ("*", -1.0, value)
            case n.Binary(op, left, right):
                a, b = each(self._value, (left, right))
                if op == "/" and b == 0.0:
                    raise Mistake("S503", "this divides by zero", e.span)
                if isinstance(a, float) and isinstance(b, float):
                    return OPERATORS[op](a, b)
                return (op, a, b)
        return float(self.scope.number(e))

    def _term(self, call: n.Call) -> Term:
        function, argument = call.function, call.argument
        match function, argument:
            case "logit" | "prob" | "logprob", n.Text(value) if value:
                return Term(function, text=value)
            case "logit" | "prob" | "logprob", n.Field():
                self.scope.field(argument)
                return Term(function, row_field=argument.name, row_of=argument.of)
            case "kl" | "ce", None:
                return Term(function)
            case "act", n.Features() | n.Name():
                feature = self._one_feature(argument) if isinstance(argument, n.Name) else argument
                found = self.targets.feature(feature, self.everywhere)
                if found is None:
                    raise Mistake.silent(call.span)
                return Term("act", dictionary=found[0].name, feature=found[1])
            case "norm", n.SitePattern():
                if self.targets.model is None:
                    raise Mistake.silent(call.span)
                (site,) = site_list(self.scope.pattern(argument), self.targets.model, one=True)
                return Term("norm", site=site)
            case "norm", n.Name():
                return Term("norm", site=self.scope.dictionary(argument).write)
        wants = "takes nothing" if function in ("kl", "ce") else f"is written {EXAMPLES[function]}"
        span = argument.span if argument is not None else call.span
        raise Mistake("S512", f"{function} {wants}", span, hints=[EXAMPLES[function]])

    def _one_feature(self, name: n.Name) -> n.Features:
        """The feature that a sweep or a `let` calls by a name."""
        value = self.scope.set(name)
        items = value.items if isinstance(value, n.FeatureSet) else (value,)
        if len(items) == 1 and isinstance(items[0], n.Features):
            return items[0]
        raise Mistake("S203", f"{name.id} is a set of features, one feature is needed here", name.span)


def _size(value: MetricValue) -> int:
    """How many parts a metric is made of, as far as it matters."""
    rest, count = [value], 0
    while rest and count <= MAX_PARTS:
        part = rest.pop()
        count += 1
        if isinstance(part, tuple):
            rest += part[1:]
    return count
