"""What the statements above have declared: names, prompts, numbers and feature sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Real

from saedsl.binding import Bindings
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS
from saedsl.program import Dictionary
from saedsl.report import Mistake, Report, did_you_mean, each

Value = n.Number | n.FeatureSet | n.Features


class Scope:
    """Grows from statement to statement; what is asked of it is worked out at once, mistakes raised together."""

    def __init__(
        self,
        bindings: Bindings,
        sae_names: Iterable[str],
        broken: Iterable[str],
        bind: Mapping[str, float],
        report: Report,
    ) -> None:
        """
        Args:
            bindings: every dictionary of the program, those that are declared further down included.
            sae_names: names of the program's `sae` statements.
            broken: names that statements with mistakes declare.
            bind: values of `$name`.
            report: where mistakes of declarations go.
        """
        self.dictionaries = bindings.dictionaries
        self.report = report
        self.prompts: dict[str, str] = {}
        self._lets: dict[str, Value] = {}
        self._sae_names = frozenset(sae_names)
        self._given = frozenset(d.name for d in self.dictionaries.values() if not d.at_site) - self._sae_names
        self._broken_saes = bindings.broken
        self._broken = set(broken)
        self._bind = bind
        self._declared: dict[str, n.Span] = {}

    # Declarations -------------------------------------------------------------------------------------------------

    def declare(self, name: str, span: n.Span) -> bool:
        """Whether the name is new; reported if it is not."""
        if name in self._declared:
            line, _ = self.report.source.place(self._declared[name].start)
            self.report.error("S202", f"{name} is declared twice, first on line {line}", span)
            return False
        if name in self._given:
            hints = ["give one of the two another name"]
            self.report.error("S202", f"{name} is also the name of a dictionary of the caller's", span, hints=hints)
        self._declared[name] = span
        return True

    def declare_prompt(self, s: n.PromptDecl) -> None:
        """A prompt; of two with one name the first counts."""
        if self.declare(s.name, s.span):
            self.prompts[s.name] = s.text

    def declare_let(self, s: n.LetDecl) -> None:
        """What a name stands for is worked out at once, so that its mistakes are reported where they stand."""
        value = self.report.attempt(self._value, s.value)
        new = self.declare(s.name, s.span)
        if value is None:
            self._broken.add(s.name)
        elif new:
            self._lets[s.name] = value

    def _value(self, value: n.Expr | n.FeatureSet | n.Features) -> Value:
        if isinstance(value, n.Features):
            return value
        if isinstance(value, n.FeatureSet):
            return self._flat(value)
        named = self._lets.get(value.id) if isinstance(value, n.Name) else None
        if isinstance(named, n.Features | n.FeatureSet):
            return named
        return n.Number(self.number(value), span=value.span)

    def _flat(self, features: n.FeatureSet) -> n.FeatureSet:
        """The set with the sets that it names in their place, none of their features twice."""
        inner = each(lambda item: self.set(item) if isinstance(item, n.Name) else item, features.items)
        items = [i for s in inner for i in (s.items if isinstance(s, n.FeatureSet) else (s,))]
        return replace(features, items=tuple(dict.fromkeys(items)))

    # Uses ---------------------------------------------------------------------------------------------------------

    def is_let(self, name: str) -> bool:
        """Whether `name` is declared above by a `let` without mistakes."""
        return name in self._lets

    def set(self, name: n.Name) -> n.FeatureSet | n.Features:
        """The features that a name stands for; their spans are the name's: mistakes of its use belong there."""
        value = self._lets.get(name.id)
        if value is None:
            raise self._unknown(name, "set of features", self._lets)
        if isinstance(value, n.Number):
            raise Mistake("S203", f"{name.id} is a number, features are needed here", name.span)
        if isinstance(value, n.Features):
            return replace(value, span=name.span)
        return replace(value, items=tuple(replace(i, span=name.span) for i in value.items), span=name.span)

    def dictionary(self, name: n.Name) -> Dictionary:
        """The dictionary of that name."""
        if name.id in self._broken_saes:
            raise Mistake.silent(name.span)
        if name.id in self._sae_names and name.id not in self._declared:
            raise Mistake(
                "S205", f"{name.id} is declared further down", name.span, hints=["move its `sae` statement up"]
            )
        if name.id in self.dictionaries:
            return self.dictionaries[name.id]
        raise self._unknown(name, "dictionary", self._sae_names | self._given)

    def prompt(self, name: n.Name) -> str:
        """The name of a prompt, if it is one."""
        if name.id not in self.prompts:
            raise self._unknown(name, "prompt", self.prompts)
        return name.id

    def number(self, e: n.Expr) -> float:
        """What an expression comes to."""
        value = self._evaluate(e)
        if not math.isfinite(value):
            raise Mistake("S503", f"{format_node(e)} is not a finite number", e.span)
        return value

    def count(self, e: n.Expr) -> int:
        """How many tokens to generate."""
        value = self.number(e)
        if value != int(value) or value < 1:
            raise Mistake("S603", "the number of tokens to generate is a whole number, 1 or more", e.span)
        return int(value)

    def _evaluate(self, e: n.Expr) -> float:
        match e:
            case n.Number(value):
                return value
            case n.Negative(operand):
                return -self._evaluate(operand)
            case n.Binary(op, left, right):
                a, b = each(self._evaluate, (left, right))
                if op == "/" and b == 0:
                    raise Mistake("S503", "this divides by zero", e.span)
                return {"+": a + b, "-": a - b, "*": a * b}[op] if op != "/" else a / b
            case n.Bound(name):
                return self._bound(name, e.span)
            case n.Name(name):
                named = self._lets.get(name)
                if named is None:
                    raise self._unknown(e, "number", self._lets)
                if isinstance(named, n.Number):
                    return named.value
                raise Mistake("S203", f"{name} is a set of features, a number is needed here", e.span)

    def _bound(self, name: str, span: n.Span) -> float:
        """The caller's value of `$name`: a finite real number."""
        if name not in self._bind:
            hint = f"give it one: --set {name}=2, or bind={{{name!r}: 2}} in Python"
            raise Mistake("S204", f"${name} has no value", span, hints=[hint])
        given: object = self._bind[name]
        try:
            value = float(given) if isinstance(given, Real) and not isinstance(given, bool) else math.nan
        except (OverflowError, ValueError):
            value = math.nan
        if math.isfinite(value):
            return value
        shown = repr(given) if len(repr(given)) <= 40 else repr(given)[:37] + "..."
        raise Mistake("S204", f"${name} is bound to {shown}, which is not a finite number", span)

    def _unknown(self, name: n.Name, wanted: str, known: Iterable[str]) -> Mistake:
        """What to say of a name that nothing above declares, or that something of another kind declares."""
        if name.id in self._broken:
            return Mistake.silent(name.span)
        saes = self._sae_names | self._given
        if name.id in self._declared or name.id in saes:
            kind = "a prompt" if name.id in self.prompts else "a dictionary" if name.id in saes else "a value"
            return Mistake("S203", f"{name.id} is {kind}, a {wanted} is needed here", name.span)
        component = wanted == "dictionary" and name.id in (*COMPONENTS, *COMPONENT_ALIASES)
        hints = [f"which layer? L0.{name.id}"] if component else did_you_mean(name.id, known)
        return Mistake("S201", f"nothing above is called {name.id}", name.span, hints=hints)
