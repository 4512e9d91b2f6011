"""Script + ModelInfo + SAEInfo -> Program: every name resolved, every mistake reported, no weight read.

One `Report` collects the mistakes of a pass; a statement with a mistake is left out of the program and the next one
is checked all the same, so that one run shows all of them. Names live in `Scope`, the model's sites and its
dictionaries in `saedsl.binding`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from saedsl.anatomy import ModelInfo
from saedsl.binding import Bindings, bind_dictionaries, site_list
from saedsl.errors import ModelError
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.grammar.parse import Parsed
from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS
from saedsl.locate import find_model
from saedsl.program import Dictionary, FeatureIds, Intervention, Op, Program, RecordItem, Step, canonical
from saedsl.report import Mistake, Report, did_you_mean
from saedsl.sae.header import SAEInfo
from saedsl.sites import Site


@dataclass(frozen=True)
class Context:
    """What a program is checked against."""

    model: ModelInfo | None = None
    """The caller's model; None: the script's own, or the bundled one."""
    saes: Mapping[str, SAEInfo] = field(default_factory=dict)
    """The caller's dictionaries, by the text of a site or by a name."""
    bind: Mapping[str, float] = field(default_factory=dict)
    """Values of `$name`."""
    base: Path = Path()
    """The folder that relative paths of the program start from."""


def check(parsed: Parsed, context: Context | None = None) -> tuple[Program | None, Report]:
    """Resolve every name of a parsed script.

    Returns:
        The program, without the statements that have a mistake (None if the model itself cannot be read), and the
        report with every mistake found.
    """
    context = context or Context()
    script, report = parsed.script, Report(parsed.source)
    model = _model(script, context, report)
    bindings = bind_dictionaries(script, model, context.saes, context.base, report) if model else None
    return _Checker(parsed, model, bindings, context, report).program(), report


def _model(script: n.Script, context: Context, report: Report) -> ModelInfo | None:
    """The model the program runs on: the caller's, the script's, or the bundled one."""
    declared = [s for s in script.statements if isinstance(s, n.ModelDecl)]
    for again in declared[1:]:
        report.error("S202", "the model is named twice", again.span, hints=["keep one `model` statement"])
    if context.model is not None:
        for d in declared[:1]:
            if d.path != context.model.name and not _same_folder(d.path, context):
                report.warning(
                    "S315",
                    f"the program names another model than the one it runs on, {context.model.name}",
                    d.path_span,
                )
        return context.model
    name = declared[0].path if declared else "demo"
    span = declared[0].path_span if declared else n.NOWHERE
    try:
        return ModelInfo.read(find_model(name, context.base), name)
    except ModelError as e:
        report.error("S301", f"this model cannot be used: {e}", span)
        return None


def _same_folder(path: str, context: Context) -> bool:
    try:
        return context.model is not None and find_model(path, context.base) == context.model.path
    except ModelError:
        return False


class _Checker:
    """One pass over the statements, in order. Holds what the statements above have declared."""

    def __init__(
        self,
        parsed: Parsed,
        model: ModelInfo | None,
        bindings: Bindings | None,
        context: Context,
        report: Report,
    ) -> None:
        script = parsed.script
        self.script, self.model, self.context, self.report = script, model, context, report
        self.dictionaries: Mapping[str, Dictionary] = bindings.dictionaries if bindings else {}
        self.sae_names = {s.name for s in script.statements if isinstance(s, n.SAEDecl)}
        self.broken = bindings.broken if bindings else frozenset(self.sae_names)
        self.lets: dict[str, n.LetDecl] = {}
        self.bad_names: set[str] = set(parsed.broken)
        self.prompts: dict[str, str] = {}
        self.declared: dict[str, n.Span] = {}
        self.edits: list[Intervention] = []
        self.records: list[RecordItem] = []
        self.steps: list[Step] = []
        self.unused: n.Span | None = None

    def program(self) -> Program | None:
        for statement in self.script.statements:
            try:
                self._statement(statement)
            except Mistake as e:
                self.report.add(e)
        if not self.steps:
            self.steps.append(self._step("run", (), 0, n.NOWHERE))
        elif self.unused is not None:
            self.report.warning(
                "S602",
                "no run or generate comes after this: it has no effect",
                self.unused,
                hints=["move it up"],
            )
        if self.model is None:
            return None
        named = next((s.path_span for s in self.script.statements if isinstance(s, n.ModelDecl)), n.NOWHERE)
        return Program(self.model, self.dictionaries, self.prompts, tuple(self.steps), self.report.source, named)

    def _statement(self, s: n.Statement) -> None:
        match s:
            case n.ModelDecl():
                pass
            case n.SAEDecl():
                self._declare(s.name, s.span)
            case n.PromptDecl():
                self._declare(s.name, s.span)
                self.prompts[s.name] = s.text
            case n.LetDecl():
                self._let(s)
            case n.At():
                self._at(s)
            case n.Record():
                self.records += self._records(s)
                self.unused = s.span
            case n.Run():
                self.steps.append(self._step("run", s.prompts, 0, s.span))
            case n.Generate():
                names = (s.prompt,) if s.prompt else ()
                if s.prompt is None and isinstance(s.n, n.Name) and s.n.id in self.prompts:
                    raise Mistake(
                        "S603",
                        "how many tokens are to be generated?",
                        s.n.span,
                        hints=[f"generate {s.n.id} 32"],
                    )
                self.steps.append(self._step("generate", names, self._count(s.n), s.span))

    def _declare(self, name: str, span: n.Span) -> None:
        if name in self.declared:
            line, _ = self.report.source.place(self.declared[name].start)
            raise Mistake("S202", f"{name} is declared twice, first on line {line}", span)
        self.declared[name] = span

    # Numbers ------------------------------------------------------------------------------------------------------

    def _let(self, s: n.LetDecl) -> None:
        """What a name stands for is worked out at once, so that its mistakes are reported where they stand."""
        try:
            value = self._let_value(s.value)
        except Mistake:
            self.bad_names.add(s.name)
            raise
        self._declare(s.name, s.span)
        self.lets[s.name] = replace(s, value=value)

    def _let_value(self, value: n.Expr | n.FeatureSet | n.Features) -> n.Number | n.FeatureSet | n.Features:
        if isinstance(value, n.Features):
            return value
        if isinstance(value, n.FeatureSet):
            return self._flat(value)
        named = self._set_named(value)
        return n.Number(self._number(value), span=value.span) if named is None else named

    def _flat(self, features: n.FeatureSet) -> n.FeatureSet:
        """The set with the sets that it names in their place, none of their features twice."""
        items: dict[n.Features | n.Name, None] = {}
        wrong = False
        for item in features.items:
            try:
                inner = self._set(item) if isinstance(item, n.Name) else item
            except Mistake as e:
                self.report.add(e)
                wrong = True
                continue
            items |= dict.fromkeys(inner.items if isinstance(inner, n.FeatureSet) else (inner,))
        if wrong:
            raise Mistake.silent(features.span)
        return replace(features, items=tuple(items))

    def _set_named(self, value: n.Expr) -> n.FeatureSet | n.Features | None:
        """The feature set that `let a = b` makes another name for, if b is one."""
        named = self.lets.get(value.id) if isinstance(value, n.Name) else None
        return named.value if named and isinstance(named.value, n.Features | n.FeatureSet) else None

    def _number(self, e: n.Expr) -> float:
        value = self._evaluate(e)
        if not math.isfinite(value):
            raise Mistake("S503", f"{format_node(e)} is not a finite number", e.span)
        return value

    def _evaluate(self, e: n.Expr) -> float:
        match e:
            case n.Number(value):
                return value
            case n.Negative(operand):
                return -self._evaluate(operand)
            case n.Binary(op, left, right):
                a, b = self._evaluate(left), self._evaluate(right)
                if op == "/" and b == 0:
                    raise Mistake("S503", "this divides by zero", e.span)
                return {"+": a + b, "-": a - b, "*": a * b}[op] if op != "/" else a / b
            case n.Bound(name):
                if name not in self.context.bind:
                    raise Mistake(
                        "S204",
                        f"${name} has no value",
                        e.span,
                        hints=[f"give it one: --set {name}=2, or bind={{{name!r}: 2}} in Python"],
                    )
                return float(self.context.bind[name])
            case n.Name(name):
                if name in self.lets:
                    named = self.lets[name].value
                    if isinstance(named, n.Number):
                        return named.value
                    raise Mistake("S203", f"{name} is a set of features, a number is needed here", e.span)
                raise self._unknown(e, "number", self.lets)

    def _count(self, e: n.Expr) -> int:
        value = self._number(e)
        if value != int(value) or value < 1:
            raise Mistake("S603", "the number of tokens to generate is a whole number, 1 or more", e.span)
        return int(value)

    def _unknown(self, name: n.Name, wanted: str, known: Iterable[str]) -> Mistake:
        """What to say of a name that nothing above declares, or that something of another kind declares."""
        if name.id in self.bad_names:
            return Mistake.silent(name.span)
        if name.id in self.declared or name.id in self.sae_names:
            kind = "a prompt" if name.id in self.prompts else "a dictionary" if name.id in self.sae_names else "a value"
            return Mistake("S203", f"{name.id} is {kind}, a {wanted} is needed here", name.span)
        component = wanted == "dictionary" and name.id in (*COMPONENTS, *COMPONENT_ALIASES)
        hints = [f"which layer? L0.{name.id}"] if component else did_you_mean(name.id, known)
        return Mistake("S201", f"nothing above is called {name.id}", name.span, hints=hints)

    # Interventions ------------------------------------------------------------------------------------------------

    def _at(self, s: n.At) -> None:
        sites: list[Site] = []
        named: Dictionary | None = None
        for ref in s.sites:
            try:
                if isinstance(ref, n.Name):
                    named = self._dictionary(ref)
                    sites.append(named.write)
                elif self.model is not None:
                    sites += site_list(ref, self.model)
            except Mistake as e:
                self.report.add(e)
        for edit in s.edits:
            try:
                self.edits += self._edit(edit, sites, named if len(s.sites) == 1 else None, s)
                self.unused = s.span
            except Mistake as e:
                self.report.add(e)

    def _edit(self, edit: n.Edit, sites: list[Site], named: Dictionary | None, header: n.At) -> Iterator[Intervention]:
        op, args = self._op(edit)
        positions = tuple(p for p in (header.at, edit.at) if p is not None)
        if op == "add" and isinstance(edit.target, n.WholeSite):
            raise Mistake(
                "S504", "add needs features: it adds their decoder directions", edit.span, hints=["add 4 f42"]
            )
        if isinstance(edit.target, n.WholeSite):
            return (Intervention(site, op, args, None, (), positions, edit.span) for site in sites)
        found = list(self._features(edit.target, sites, named))
        return (Intervention(d.write, op, args, d.name, ids, positions, edit.span) for d, ids in found)

    def _op(self, edit: n.Edit) -> tuple[Op, tuple[float, ...]]:
        match edit:
            case n.Ablate():
                return "ablate", ()
            case n.Amplify(_, factor):
                return "amplify", (self._number(factor),)
            case n.Set(_, value):
                return "set", (self._number(value),)
            case n.Add(value):
                return "add", (self._number(value),)
            case n.Clamp(_, low, high):
                a = -math.inf if low is None else self._number(low)
                b = math.inf if high is None else self._number(high)
                if a > b:
                    raise Mistake("S502", f"this range is empty: {a:g} is above {b:g}", edit.span)
                return "clamp", (a, b)

    def _dictionary(self, name: n.Name) -> Dictionary:
        if name.id in self.broken:
            raise Mistake.silent(name.span)
        if name.id in self.sae_names and name.id not in self.declared:
            raise Mistake(
                "S205",
                f"{name.id} is declared further down",
                name.span,
                hints=["move its `sae` statement up"],
            )
        if name.id in self.dictionaries:
            return self.dictionaries[name.id]
        raise self._unknown(name, "dictionary", self.sae_names)

    def _features(
        self, target: n.Target, sites: list[Site], named: Dictionary | None
    ) -> Iterator[tuple[Dictionary, FeatureIds]]:
        """The dictionaries that `target` names features of, at these sites, with the features' numbers."""
        if not sites:
            return  # the header's own mistake is reported already
        match target:
            case n.AllFeatures():
                for d in [named] if named else [self._on(site, target.span) for site in sites]:
                    yield d, "all"
            case n.Features():
                d = self._of(target, sites, named)
                yield d, self._ids(target, d)
            case n.FeatureSet(items):
                for item in items:
                    yield from self._features(item, sites, named)
            case n.Name():
                yield from self._features(self._set(target), sites, named)

    def _set(self, name: n.Name) -> n.FeatureSet | n.Features:
        let = self.lets.get(name.id)
        if let is None:
            raise self._unknown(name, "set of features", self.lets)
        if isinstance(let.value, n.Features | n.FeatureSet):
            return _respan(let.value, name.span)
        named = self._set_named(let.value)
        if named is None:
            raise Mistake("S203", f"{name.id} is a number, features are needed here", name.span)
        return _respan(named, name.span)

    def _of(self, f: n.Features, sites: list[Site], named: Dictionary | None) -> Dictionary:
        """The one dictionary that a feature of this spelling belongs to, at these sites."""
        if f.of is None:
            if named is not None:
                return named
            if len(sites) > 1:
                raise Mistake(
                    "S313",
                    f"{format_node(f)} is another feature in the dictionary of each of these {len(sites)} sites",
                    f.span,
                    hints=["name the features one by one: let s = {L0.mlp.f1, L1.mlp.f8}, then use s"],
                )
            return self._on(sites[0], f.span)
        if isinstance(f.of, n.Name):
            d = self._dictionary(f.of)
        else:
            if self.model is None:
                raise Mistake.silent(f.span)
            (site,) = site_list(f.of, self.model, one=True)
            d = self._on(site, f.span)
        if d.write not in sites:
            raise Mistake(
                "S312",
                f"{format_node(f)} belongs to {d.write}, which this statement does not edit",
                f.span,
                hints=[f"at {d.write} ..."],
            )
        return d

    def _on(self, site: Site, span: n.Span) -> Dictionary:
        """The dictionary bound to `site`, which must be one."""
        bound = [d for d in self.dictionaries.values() if d.write == site]
        if len(bound) == 1:
            return bound[0]
        if bound:
            names = ", ".join(d.name for d in bound)
            raise Mistake(
                "S310",
                f"{len(bound)} dictionaries are bound to {site}: {names}",
                span,
                hints=[f"say which: {bound[0].name}.f42"],
            )
        if self.broken:
            raise Mistake.silent(span)  # the dictionary may be the one that could not be read
        others = sorted({str(d.write) for d in self.dictionaries.values()})
        hints = [f'bind one: sae g = "path" on {site}']
        if others:
            hints.append("dictionaries are bound to " + ", ".join(others[:8]) + (" ..." if len(others) > 8 else ""))
        raise Mistake("S309", f"no dictionary is bound to {site}, so it has no features", span, hints=hints)

    def _ids(self, f: n.Features, d: Dictionary) -> tuple[int, ...]:
        d_sae = d.info.config.d_sae
        if f.first > f.last:
            raise Mistake("S505", f"f{f.first}..{f.last} is empty: a..b includes both ends, a first", f.span)
        if f.last >= d_sae:
            raise Mistake(
                "S311",
                f"feature {f.last} does not exist",
                f.span,
                label=f"{d.name} has {d_sae} features: f0..{d_sae - 1}",
            )
        return tuple(range(f.first, f.last + 1))

    # Records and runs ---------------------------------------------------------------------------------------------

    def _records(self, s: n.Record) -> list[RecordItem]:
        positions = (s.at,) if s.at is not None else ()
        found: list[RecordItem] = []
        for item in s.items:
            try:
                found += self._record(item, positions)
            except Mistake as e:
                self.report.add(e)
        return found

    def _record(self, item: n.RecordItem, positions: tuple[n.Positions, ...]) -> Iterator[RecordItem]:
        what = item.what
        if isinstance(what, n.SitePattern):
            if self.model is not None:
                for site in site_list(what, self.model):
                    yield RecordItem(str(site), site, None, (), positions, item.span)
            return
        if isinstance(what, n.Name) and what.id not in self.lets:
            d = self._dictionary(what)
            yield RecordItem(d.name, d.read, d.name, "all", positions, item.span)
            return
        target = self._set(what) if isinstance(what, n.Name) else what
        everywhere = sorted({d.write for d in self.dictionaries.values()})
        for d, ids in self._features(target, everywhere, None):
            for i in ids if not isinstance(ids, str) else ():
                yield RecordItem(f"{d.name}.f{i}", d.read, d.name, (i,), positions, item.span)

    def _step(self, kind: str, names: tuple[n.Name, ...], count: int, span: n.Span) -> Step:
        for name in names:
            if name.id not in self.prompts:
                raise self._unknown(name, "prompt", self.prompts)
        self.unused = None
        return Step(
            "generate" if kind == "generate" else "run",
            tuple(name.id for name in names) or tuple(self.prompts),
            count,
            canonical(self.edits),
            _merged(self.records),
            named=bool(names),
            span=span,
        )


def _merged(records: Iterable[RecordItem]) -> tuple[RecordItem, ...]:
    """Records sorted by label, one for each: what is recorded twice is recorded where either says."""
    found: dict[str, RecordItem] = {}
    for r in records:
        first = found.setdefault(r.label, r)
        where = dict.fromkeys((*first.positions, *r.positions))
        if not (first.positions and r.positions):
            found[r.label] = replace(first, positions=())
        elif len(where) > 1:
            union = sorted(
                (p for w in where for p in (w.items if isinstance(w, n.PosUnion) else (w,))), key=format_node
            )
            found[r.label] = replace(first, positions=(n.PosUnion(tuple(union), span=r.span),))
    return tuple(found[label] for label in sorted(found))


def _respan(value: n.Features | n.FeatureSet, span: n.Span) -> n.Features | n.FeatureSet:
    """A named set, with the place where the name is used: mistakes of its use belong there."""
    if isinstance(value, n.Features):
        return replace(value, span=span)
    return replace(value, items=tuple(replace(i, span=span) for i in value.items), span=span)
