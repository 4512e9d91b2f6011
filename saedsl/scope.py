"""What the statements above have declared: names, prompts, numbers, feature sets, directions and metrics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, Final

from saedsl.binding import Bindings
from saedsl.directions import DirectionError, bound_direction, read_direction
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS
from saedsl.program import Dictionary, Direction, MetricValue, Prompt, ReferenceSet
from saedsl.report import Mistake, Report, did_you_mean, each
from saedsl.rows import RowsError, read_rows, reference_set

Item = n.Features | n.Heads | n.Neurons
Value = n.Number | n.FeatureSet | Item | n.Layers | n.PosIndex
"""What a `let` or one value of a `sweep` stands for."""

MAX_COPIED: Final = 200_000
"""Items that sets have from sets which they name, all together."""

KINDS = {
    n.Number: "a number",
    n.FeatureSet: "a set of features",
    n.Layers: "a layer",
    n.PosIndex: "a position",
}


@dataclass
class _Names:
    """Everything that is declared so far, by name; shared by all views of a scope."""

    declared: dict[str, tuple[int, n.Span]] = field(default_factory=dict)
    """Number of the statement, and where."""
    prompts: dict[str, Prompt] = field(default_factory=dict)
    sets: dict[str, tuple[Prompt, ...]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    lets: dict[str, n.LetDecl] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    """Of the lets that no sweep changes."""
    directions: dict[str, Direction] = field(default_factory=dict)
    metrics: dict[str, MetricValue | n.Expr] = field(default_factory=dict)
    """As measured; as written where a sweep decides."""
    references: dict[str, ReferenceSet] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    """Names that a statement above their declaration uses, which is reported there."""
    broken: set[str] = field(default_factory=set)
    copied: int = 0
    """Items of sets that other sets name."""
    rows: dict[str, tuple[Prompt, ...] | RowsError] = field(default_factory=dict)
    """Files that were read, by path."""


class Scope:
    """Grows from statement to statement; what is asked of it is worked out at once, mistakes raised together."""

    def __init__(
        self,
        bindings: Bindings,
        sae_names: Iterable[str],
        sweep_names: Iterable[str],
        broken: Iterable[str],
        bind: Mapping[str, Any],
        base: Path,
        report: Report,
        complete: bool = True,
        later: Mapping[str, tuple[int, str]] | None = None,
    ) -> None:
        """
        Args:
            bindings: every dictionary of the program, those that are declared further down included.
            sae_names: names of the program's `sae` statements.
            sweep_names: names of its `sweep` statements.
            broken: names that statements with mistakes declare.
            bind: values of `$name`.
            base: the folder that paths start from.
            report: where mistakes of declarations go.
            complete: every statement of the program is known; if not, no name is said to be unknown.
            later: by name, the number and the word of the last statement that declares it.
        """
        self.dictionaries = bindings.dictionaries
        self.report = report
        self._names = _Names(broken=set(broken))
        self._sae_names, self._sweep_names = frozenset(sae_names), frozenset(sweep_names)
        self._given = frozenset(d.name for d in self.dictionaries.values() if not d.at_site) - self._sae_names
        self._broken_saes = bindings.broken
        self._bind, self._base, self._complete = bind, base, complete
        self._later = later or {}
        self.here = 0
        """Number of the statement that asks: it sees what is declared above it."""
        self._swept: Mapping[str, Value] = {}
        self._memo: dict[str, Value] = {}

    def within(self, here: int, swept: Mapping[str, Value]) -> Scope:
        """What statement number `here` sees when sweeps have the values `swept`; names stay shared."""
        view = copy.copy(self)
        view.here, view._swept, view._memo = here, swept, {}
        return view

    # Declarations -------------------------------------------------------------------------------------------------

    def declare(self, name: str, span: n.Span) -> bool:
        """Whether the name is new; reported if it is not."""
        if name in self._names.declared:
            line = self.report.line(self._names.declared[name][1])
            self.report.error("S202", f"{name} is declared twice, first on {line}", span)
            return False
        if name in self._given:
            hints = ["give one of the two another name"]
            self.report.error("S202", f"{name} is also the name of a dictionary of the caller's", span, hints=hints)
        self._names.declared[name] = (self.here, span)
        return True

    def declare_prompt(self, s: n.PromptDecl) -> None:
        """A prompt; of two with one name the first counts."""
        if self.declare(s.name, s.span):
            self._names.prompts[s.name] = Prompt(s.text, s.chat, s.system, span=s.span)

    def declare_prompts(self, s: n.PromptsDecl) -> None:
        """A file of prompts, which is read at once."""
        rows = self.report.attempt(self._rows, s.path, s.path_span)
        new = self.declare(s.name, s.span)
        if rows is None:
            self._names.broken.add(s.name)
        elif new:
            self._names.sets[s.name], self._names.files[s.name] = rows, s.path
            self._names.prompts |= {f"{s.name}[{i}]": row for i, row in enumerate(rows)}

    def declare_dir(self, s: n.DirDecl) -> None:
        """A direction, which is read at once."""
        found = self.report.attempt(self._direction, s)
        new = self.declare(s.name, s.span)
        if found is None:
            self._names.broken.add(s.name)
        elif new:
            self._names.directions[s.name] = found

    def declare_let(self, s: n.LetDecl, varies: bool = False) -> None:
        """What a name stands for is worked out at once, so that its mistakes are reported where they stand.

        Args:
            s: the statement.
            varies: a sweep decides it: it is worked out where it is used.
        """
        value = None if varies else self.report.attempt(self._value, s.value)
        new = self.declare(s.name, s.span)
        if value is None and not varies:
            self._names.broken.add(s.name)
        elif new:
            self._names.lets[s.name] = s
            if value is not None:
                self._names.values[s.name] = value

    def declare_sweep(self, name: str, span: n.Span) -> None:
        """A sweep, which may have the name of a `let`: it takes its place. Reported if it has that of anything else."""
        known = self._names.declared.get(name)
        if (known is not None and name not in self._names.lets) or name in self._given:
            line = f", first on {self.report.line(known[1])}" if known is not None else ""
            self.report.error("S202", f"{name} is declared twice{line}", span)

    def declare_metric(self, name: str, span: n.Span, value: MetricValue | n.Expr | None) -> None:
        """A metric, which metrics below may name; None: it has a mistake."""
        if not self.declare(name, span):
            return
        if value is None:
            self._names.broken.add(name)
        else:
            self._names.metrics[name] = value

    def forget_metrics(self) -> None:
        """`reset`: metrics count no longer, and their names are free."""
        for name in self._names.metrics:
            self._names.declared.pop(name, None)
        self._names.metrics.clear()

    def mark_broken(self, name: str) -> None:
        """A name whose declaration has a mistake: its uses are not reported."""
        self._names.broken.add(name)

    def _direction(self, s: n.DirDecl) -> Direction:
        try:
            return read_direction(s.name, s.path, s.key, self._base)
        except DirectionError as e:
            raise Mistake("S328", f"this direction cannot be used: {e}", s.path_span) from None

    def _rows(self, path: str, span: n.Span) -> tuple[Prompt, ...]:
        """The prompts of a file."""
        if path not in self._names.rows:
            try:
                self._names.rows[path] = read_rows(path, self._base)
            except RowsError as e:
                self._names.rows[path] = e
        found = self._names.rows[path]
        if isinstance(found, RowsError):
            raise Mistake.together([Mistake("S327", f"this file cannot be used: {m}", span) for m in found.messages])
        return found

    def _value(self, value: n.Expr | n.FeatureSet | Item) -> Value:
        if isinstance(value, Item):
            return value
        if isinstance(value, n.FeatureSet):
            return self._flat(value)
        named = self.value(value.id) if isinstance(value, n.Name) else None
        if isinstance(named, Item | n.FeatureSet):
            return named
        return n.Number(self.number(value), span=value.span)

    def _flat(self, features: n.FeatureSet) -> n.FeatureSet:
        """The set with the sets that it names in their place, none of their features twice."""
        inner = each(lambda item: self.set(item) if isinstance(item, n.Name) else item, features.items)
        items = [i for s in inner for i in (s.items if isinstance(s, n.FeatureSet) else (s,))]
        self._names.copied += len(items) - len(features.items)
        if self._names.copied > MAX_COPIED:
            message = f"sets in sets come to more than {MAX_COPIED:,} items"
            raise Mistake("S505", message, features.span, hints=["name ranges, as f0..999, or use the smaller sets"])
        return replace(features, items=tuple(dict.fromkeys(items)))

    # What there is ------------------------------------------------------------------------------------------------

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """Prompts by name, rows of files and what `run` made of their fields included."""
        return self._names.prompts

    @property
    def sets(self) -> Mapping[str, tuple[Prompt, ...]]:
        """Files of prompts by name."""
        return self._names.sets

    @property
    def files(self) -> Mapping[str, str]:
        """The paths of files of prompts, by name."""
        return self._names.files

    @property
    def directions(self) -> Mapping[str, Direction]:
        """Directions by name; `$name` for those that the caller binds."""
        return self._names.directions

    @property
    def references(self) -> Mapping[str, ReferenceSet]:
        """Texts that edits refer to, by path."""
        return self._names.references

    @property
    def base(self) -> Path:
        """The folder that relative paths of the program start from."""
        return self._base

    def own_prompts(self) -> tuple[str, ...]:
        """Every prompt that is declared, in order, each row of a file; none of what was made of fields."""
        found: list[str] = []
        for name in self._names.declared:
            if name in self._names.sets:
                found += [f"{name}[{i}]" for i in range(len(self._names.sets[name]))]
            elif name in self._names.prompts:
                found.append(name)
        return tuple(found)

    def is_prompt(self, name: str) -> bool:
        """Whether `name` is a prompt, or a file of prompts, above."""
        return self._visible(name) and (name in self._names.prompts or name in self._names.sets)

    def is_let(self, name: str) -> bool:
        """Whether `name` is declared above by a `let` without mistakes, or is swept."""
        return name in self._swept or (name in self._names.lets and self._visible(name))

    def _visible(self, name: str) -> bool:
        declared = self._names.declared.get(name)
        return declared is not None and declared[0] <= self.here

    def value(self, name: str) -> Value | None:
        """What a name stands for: this run's value of a sweep, or a `let` above; None if it is neither."""
        if name in self._swept:
            return self._swept[name]
        if name not in self._names.lets or not self._visible(name):
            return None
        if name in self._names.values:
            return self._names.values[name]
        if name not in self._memo:
            self._memo[name] = self._value(self._names.lets[name].value)
        return self._memo[name]

    # Uses ---------------------------------------------------------------------------------------------------------

    def set(self, name: n.Name) -> n.FeatureSet | Item:
        """The features that a name stands for; their spans are the name's: mistakes of its use belong there."""
        value = self.value(name.id)
        match value:
            case None:
                raise self.unknown(name, "set of features", self._names.lets)
            case n.FeatureSet(items):
                return replace(value, items=tuple(replace(i, span=name.span) for i in items), span=name.span)
            case n.Features() | n.Heads() | n.Neurons():
                return replace(value, span=name.span)
        raise Mistake("S203", f"{name.id} is {KINDS[type(value)]}, features are needed here", name.span)

    def pattern(self, pattern: n.SitePattern) -> n.SitePattern:
        """A site pattern with the layer that a sweep gives in the place of its name."""
        name = pattern.layers
        if not isinstance(name, n.Name):
            return pattern
        value = self.value(name.id)
        if isinstance(value, n.Layers):
            return replace(pattern, layers=replace(value, span=name.span))
        if value is not None:
            kind = KINDS.get(type(value), "a set of features")
            raise Mistake("S203", f"{name.id} is {kind}, a layer is needed here", name.span)
        raise self.unknown(name, "layer", self._sweep_names)

    def positions(self, p: n.Positions) -> n.Positions:
        """Positions with those that sweeps give in the place of their names; fields of files are held against them."""
        match p:
            case n.PosName(name):
                value = self.value(name)
                if isinstance(value, n.PosIndex):
                    return replace(value, span=p.span)
                if value is not None:
                    kind = KINDS.get(type(value), "a set of features")
                    raise Mistake("S203", f"{name} is {kind}, a position is needed here", p.span)
                raise self.unknown(n.Name(name, span=p.span), "position", self._sweep_names)
            case n.PosField(of, name):
                rows = self.rows(n.Name(of, span=p.span))
                known = {key for row in rows for key in row.positions}
                if name not in known:
                    raise Mistake(
                        "S412", f"no row of {of} has a position {name}", p.span, hints=did_you_mean(name, known)
                    )
            case n.PosUnion(items):
                return replace(p, items=tuple(each(self.positions, items)))
            case n.PosExcept(base, removed):
                base, removed = each(self.positions, (base, removed))
                return replace(p, base=base, removed=removed)
        return p

    def dictionary(self, name: n.Name) -> Dictionary:
        """The dictionary of that name."""
        if name.id in self._broken_saes:
            raise Mistake.silent(name.span)
        if name.id in self._sae_names and not self._visible(name.id):
            raise self._further_down(name, "sae")
        if name.id in self.dictionaries:
            return self.dictionaries[name.id]
        raise self.unknown(name, "dictionary", self._sae_names | self._given)

    def rows(self, name: n.Name) -> tuple[Prompt, ...]:
        """The rows of a file of prompts."""
        if name.id not in self._names.sets or not self._visible(name.id):
            raise self.unknown(name, "file of prompts", self._names.sets)
        return self._names.sets[name.id]

    def field(self, f: n.Field) -> None:
        """Every row of the file has that field.

        Raises:
            Mistake: S208 naming the first row that has not.
        """
        rows = self.rows(n.Name(f.of, span=f.span))
        known = {key for row in rows for key in row.fields}
        if f.name not in known:
            raise Mistake("S208", f"no row of {f.of} has the field {f.name}", f.span, hints=did_you_mean(f.name, known))
        for i, row in enumerate(rows):
            if f.name not in row.fields:
                raise Mistake("S208", f"row {i} of {f.of} has no field {f.name}: {_short(row.text)}", f.span)

    def prompt(self, p: n.Name | n.Field) -> tuple[str, ...]:
        """The prompts that a `run` names: one, every row of a file, or a field of every row, read as a prompt."""
        if isinstance(p, n.Field):
            self.field(p)
            rows = self._names.sets[p.of]
            found = {f"{p.of}.{p.name}[{i}]": replace(row, text=row.fields[p.name]) for i, row in enumerate(rows)}
            self._names.prompts |= found
            return tuple(found)
        if p.id in self._names.sets and self._visible(p.id):
            return tuple(f"{p.id}[{i}]" for i in range(len(self._names.sets[p.id])))
        return (self.single_prompt(p),)

    def single_prompt(self, name: n.Name) -> str:
        """The name of one prompt."""
        if name.id in self._names.sets and self._visible(name.id):
            known = sorted({key for row in self._names.sets[name.id] for key in row.fields})
            hints = [f"a field of the same row: {name.id}.{known[0]}"] if known else []
            raise Mistake("S203", f"{name.id} is a file of prompts, one prompt is needed here", name.span, hints=hints)
        if name.id not in self._names.prompts or not self._visible(name.id):
            singles = set(self._names.declared) & set(self._names.prompts) | set(self._names.sets)
            raise self.unknown(name, "prompt", singles)
        return name.id

    def direction(self, d: n.Direction) -> Direction:
        """The vector of `dir d` or `dir $d`."""
        name = d.name
        if isinstance(name, n.Name):
            if name.id not in self._names.directions or not self._visible(name.id):
                known = [key for key in self._names.directions if not key.startswith("$")]
                raise self.unknown(name, "direction", known)
            return self._names.directions[name.id]
        key = f"${name.id}"
        if key not in self._names.directions:
            if name.id not in self._bind:
                raise self._unbound(name.id, name.span, "direction")
            try:
                self._names.directions[key] = bound_direction(name.id, self._bind[name.id])
            except DirectionError as e:
                raise Mistake("S328", f"this direction cannot be used: {e}", name.span) from None
        return self._names.directions[key]

    def reference(self, of: n.Text | n.Name) -> str:
        """The key of the texts that `mean of` or `resample of` names."""
        if isinstance(of, n.Text):
            path, rows = of.value, self._rows(of.value, of.span)
        else:
            rows = self.rows(of)
            path = self._names.files[of.id]
        if path not in self._names.references:
            self._names.references[path] = reference_set(path, rows)
        return path

    def metric(self, name: n.Name) -> MetricValue | n.Expr | None:
        """The metric of that name above, if there is one; as written if a sweep decides it."""
        return self._names.metrics.get(name.id) if self._visible(name.id) else None

    # Numbers ------------------------------------------------------------------------------------------------------

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
                return OPERATORS[op](a, b)
            case n.Bound(name):
                return self._bound(name, e.span)
            case n.Call():
                message = f"{e.function}(...) is measured in a run, a number is needed here"
                raise Mistake("S203", message, e.span, hints=[f"metric m = {format_node(e)}"])
            case n.Name(name):
                named = self.value(name)
                if named is None:
                    raise self.unknown(e, "number", self._names.lets)
                if isinstance(named, n.Number):
                    return named.value
                kind = KINDS.get(type(named), "a set of features")
                raise Mistake("S203", f"{name} is {kind}, a number is needed here", e.span)

    def _bound(self, name: str, span: n.Span) -> float:
        """The caller's value of `$name`: a finite real number."""
        if name not in self._bind:
            raise self._unbound(name, span, "value")
        given: Any = self._bind[name]
        one = given.item() if getattr(given, "shape", None) == () and hasattr(given, "item") else given
        try:
            value = float(one) if isinstance(one, Real) and not isinstance(one, bool) else math.nan
        except (OverflowError, ValueError):
            value = math.nan
        if math.isfinite(value):
            return value
        shown = repr(given) if len(repr(given)) <= 40 else repr(given)[:37] + "..."
        raise Mistake("S204", f"${name} is bound to {shown}, which is not a finite number", span)

    def _unbound(self, name: str, span: n.Span, what: str) -> Mistake:
        python = "array" if what == "direction" else "2"
        hint = f"give it one: bind={{{name!r}: {python}}} in Python"
        if what == "value":
            hint = f"give it one: --set {name}=2, or bind={{{name!r}: 2}} in Python"
        return Mistake("S204", f"${name} has no value", span, hints=[hint])

    def unknown(self, name: n.Name, wanted: str, known: Iterable[str]) -> Mistake:
        """What to say of a name that nothing above declares, or that something of another kind declares."""
        if name.id in self._names.broken:
            return Mistake.silent(name.span)
        saes = self._sae_names | self._given
        if self._visible(name.id) or name.id in saes or name.id in self._swept:
            message = f"{name.id} is {self._kind(name.id, saes)}, a {wanted} is needed here"
            hints = ['prompts of a file: prompts texts = "texts.jsonl"'] if wanted == "file of prompts" else []
            return Mistake("S203", message, name.span, hints=hints)
        number, word = self._later.get(name.id, (-1, ""))
        if number > self.here:
            return self._further_down(name, word)
        if not self._complete:
            return Mistake.silent(name.span)
        component = wanted == "dictionary" and name.id in (*COMPONENTS, *COMPONENT_ALIASES)
        hints = [f"which layer? L0.{name.id}"] if component else did_you_mean(name.id, known)
        return Mistake("S201", f"nothing above is called {name.id}", name.span, hints=hints)

    def _further_down(self, name: n.Name, word: str) -> Mistake:
        """What to say of a name that a `word` statement below declares."""
        self._names.wanted.add(name.id)
        hint = "its `sweep` stands below the run: move it up" if word == "sweep" else f"move its `{word}` statement up"
        return Mistake("S205", f"{name.id} is declared further down", name.span, hints=[hint])

    def is_wanted(self, name: str) -> bool:
        """Whether a statement above its declaration uses the name: that nothing below does is not to be said."""
        return name in self._names.wanted

    def _kind(self, name: str, saes: Iterable[str]) -> str:
        of = self._names
        if name in of.prompts:
            return "a prompt"
        kinds: dict[str, Mapping[str, object]] = {
            "a file of prompts": of.sets,
            "a direction": of.directions,
            "a metric": of.metrics,
        }
        found = next((kind for kind, names in kinds.items() if name in names), None)
        return found or ("a dictionary" if name in saes else "a value")


OPERATORS: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
