"""Script + ModelInfo + SAEInfo -> Program: every name resolved, every mistake reported, no weight read.

One `Report` collects the mistakes of a pass; an edit with a mistake is left out of the program, its positions and the
next edit are checked all the same, so that one run shows all mistakes. Names live in `saedsl.scope`, the model's sites
in `saedsl.selection`, its dictionaries in `saedsl.binding`, their features in `saedsl.target`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from saedsl.anatomy import ModelInfo
from saedsl.binding import Bindings, bind_dictionaries
from saedsl.errors import ModelError
from saedsl.grammar import nodes as n
from saedsl.grammar.parse import Parsed
from saedsl.locate import find_model
from saedsl.places import simplest
from saedsl.program import FeatureIds, Intervention, Op, Places, Program, RecordItem, Step, Written, canonical
from saedsl.report import Mistake, Report, each
from saedsl.sae.header import SAEInfo
from saedsl.scope import Scope
from saedsl.selection import site_list
from saedsl.sites import Site
from saedsl.target import Header, Targets
from saedsl.unread import Unread, unread

REFUSED = {"S100", "S101"}
"""Codes of texts that are not read at all."""


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
    whole: bool = False
    """One unnamed step of every edit and record of the program; its own prompts, runs and generates do not count."""


def check(parsed: Parsed, context: Context | None = None) -> tuple[Program | None, Report]:
    """Resolve every name of a parsed script.

    Returns:
        The program, without the statements that have a mistake (None if the model itself cannot be read, or the text
        is none), and the report with every mistake found.
    """
    context = context or Context()
    script, report = parsed.script, Report(parsed.source)
    if any(d.code in REFUSED for d in parsed.diagnostics):
        return None, report
    lost = unread(parsed)
    if lost:
        gone = {u.span.start for u in lost}
        script = replace(script, statements=tuple(s for s in script.statements if s.span.start not in gone))
    model = _model(script, lost, context, report)
    if model is not None:
        bindings = bind_dictionaries(script, model, context.saes, context.base, report, lost)
    else:
        names = {s.name for s in script.statements if isinstance(s, n.SAEDecl)}
        bindings = Bindings({}, frozenset(names | set(context.saes)), frozenset({None}))
    broken = parsed.broken | {u.name for u in lost if u.name}
    return _Checker(script, lost, broken, model, bindings, context, report).program(), report


def _model(script: n.Script, lost: list[Unread], context: Context, report: Report) -> ModelInfo | None:
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
    if not declared and any(u.word == "model" for u in lost):
        return None
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
    """One pass over the statements, in order. Holds what the statements above have said."""

    def __init__(
        self,
        script: n.Script,
        lost: list[Unread],
        broken: frozenset[str],
        model: ModelInfo | None,
        bindings: Bindings,
        context: Context,
        report: Report,
    ) -> None:
        self.script, self.lost, self.model, self.bindings = script, lost, model, bindings
        self.whole, self.report = context.whole, report
        names = [s.name for s in self.script.statements if isinstance(s, n.SAEDecl)]
        self.scope = Scope(bindings, names, broken, context.bind, report)
        self.targets = Targets(self.scope, bindings, model)
        self.everywhere = Header(tuple(sorted(bindings.by_site)), complete=None not in bindings.unsure)
        self.sizes = {d.name: d.info.d_sae for d in bindings.dictionaries.values()}
        self.written: list[Written] = []
        self.steps: list[Step] = []
        self.unused: list[n.Span] = []

    def program(self) -> Program | None:
        for s in sorted([*self.script.statements, *self.lost], key=lambda s: s.span.start):
            self._statement(s)
        if self.whole:
            self.steps = [self._step("run", (), 0, n.NOWHERE)]
        elif not self.steps:
            self.steps = [self._step("run", tuple(self.scope.prompts), 0, n.NOWHERE)]
        for span in self.unused:
            message = "no run or generate comes after this: it has no effect"
            self.report.warning("S602", message, span, hints=["move it up"])
        if self.model is None:
            return None
        named = next((s.path_span for s in self.script.statements if isinstance(s, n.ModelDecl)), n.NOWHERE)
        return Program(
            self.model,
            self.bindings.dictionaries,
            self.scope.prompts,
            tuple(self.steps),
            self.report.source,
            named,
            self.whole,
            any(u.word in ("prompt", "") for u in self.lost),
        )

    def _statement(self, s: n.Statement | Unread) -> None:
        match s:
            case n.ModelDecl():
                pass
            case n.SAEDecl():
                self.scope.declare(s.name, s.span)
            case n.PromptDecl():
                self.scope.declare_prompt(s)
                self.unused.append(s.span)
            case n.LetDecl():
                self.scope.declare_let(s)
            case n.At():
                self._at(s)
            case n.Record():
                for item in s.items:
                    self._record(item, s)
                self.unused.append(s.span)
            case n.Run():
                self._run(s)
            case n.Generate():
                self._generate(s)
            case Unread():
                if s.word in ("run", "generate", ""):
                    kind = "generate" if s.word == "generate" or not s.word else "run"
                    self.steps.append(self._step(kind, (), 0, s.span, named=True, broken=True))

    # Interventions ------------------------------------------------------------------------------------------------

    def _at(self, s: n.At) -> None:
        where = self._header(s)
        for edit in s.edits:
            self._edit(edit, where, s)
        self.unused.append(s.span)

    def _header(self, s: n.At) -> Header:
        sites: list[Site] = []
        named = None
        complete = self.model is not None
        for ref in s.sites:
            if isinstance(ref, n.Name):
                d = self.report.attempt(self.scope.dictionary, ref)
                found = [d.write] if d else None
                named = d if len(s.sites) == 1 else None
            else:
                found = self.report.attempt(site_list, ref, self.model) if self.model else None
            sites += found or []
            complete = complete and found is not None
        return Header(tuple(sites), named, complete)

    def _edit(self, edit: n.Edit, where: Header, header: n.At) -> None:
        positions = tuple(p for p in (header.at, edit.at) if p is not None)
        op = self.report.attempt(self._op, edit)
        found = self.report.attempt(self._changed, edit, where)
        if op is None or found is None:
            self.written.append(Places(positions, edit.span))
            return
        if not found and not where.complete:
            self.written.append(Places(positions, edit.span))
        name, args = op
        for site, dictionary, ids in found:
            qualified = dictionary is not None and len(self.bindings.by_site[site]) > 1
            self.written.append(Intervention(site, name, args, dictionary, ids, positions, edit.span, qualified))

    def _changed(self, edit: n.Edit, where: Header) -> list[tuple[Site, str | None, FeatureIds]]:
        """What an edit changes: whole sites, or features of each dictionary, those that stand twice twice."""
        if isinstance(edit.target, n.WholeSite):
            if isinstance(edit, n.Add):
                raise Mistake(
                    "S504", "add needs features: it adds their decoder directions", edit.span, hints=["add 4 f42"]
                )
            return [(site, None, ()) for site in where.sites]
        numbers: dict[str, list[int]] = {}
        sites: dict[str, Site] = {}
        wholes: list[tuple[Site, str | None, FeatureIds]] = []
        for d, ids in self.targets.features(edit.target, where):
            if isinstance(ids, str):
                wholes.append((d.write, d.name, "all"))
            else:
                numbers.setdefault(d.name, []).extend(ids)
                sites[d.name] = d.write
        return [*wholes, *((sites[name], name, tuple(sorted(ids))) for name, ids in numbers.items())]

    def _op(self, edit: n.Edit) -> tuple[Op, tuple[float, ...]]:
        match edit:
            case n.Ablate():
                return "ablate", ()
            case n.Amplify(_, factor):
                return "amplify", (self.scope.number(factor),)
            case n.Set(_, value):
                return "set", (self.scope.number(value),)
            case n.Add(value):
                return "add", (self.scope.number(value),)
            case n.Clamp(_, low, high):
                ends = ((low, -math.inf), (high, math.inf))
                a, b = each(lambda end: end[1] if end[0] is None else self.scope.number(end[0]), ends)
                if a > b:
                    raise Mistake("S502", f"this range is empty: {a:g} is above {b:g}", edit.span)
                return "clamp", (a, b)

    # Records ------------------------------------------------------------------------------------------------------

    def _record(self, item: n.RecordItem, statement: n.Record) -> None:
        positions = (statement.at,) if statement.at is not None else ()
        found = self.report.attempt(self._recorded, item, positions)
        self.written += found or [Places(positions, item.span)]

    def _recorded(self, item: n.RecordItem, positions: tuple[n.Positions, ...]) -> list[RecordItem]:
        what = item.what
        if isinstance(what, n.SitePattern):
            sites = site_list(what, self.model) if self.model is not None else []
            return [RecordItem(str(site), site, None, (), positions, item.span) for site in sites]
        if isinstance(what, n.Name) and not self.scope.is_let(what.id):
            d = self.scope.dictionary(what)
            return [RecordItem(d.name, d.read, d.name, "all", positions, item.span)]
        return [
            RecordItem(f"{d.name}.f{i}", d.read, d.name, (i,), positions, item.span)
            for d, ids in self.targets.features(what, self.everywhere)
            for i in ids
            if isinstance(i, int)
        ]

    # Runs ---------------------------------------------------------------------------------------------------------

    def _run(self, s: n.Run) -> None:
        found = [self.report.attempt(self.scope.prompt, name) for name in s.prompts]
        known: dict[str, None] = {}
        for name, prompt in zip(s.prompts, found, strict=True):
            if prompt in known:
                self.report.warning("S202", f"{prompt} is named twice: it runs once", name.span)
            elif prompt is not None:
                known[prompt] = None
        prompts = tuple(known) if s.prompts else tuple(self.scope.prompts)
        self.steps.append(self._step("run", prompts, 0, s.span, named=bool(s.prompts), broken=None in found))

    def _generate(self, s: n.Generate) -> None:
        prompt, count = s.prompt, s.n
        if prompt is None and isinstance(count, n.Name) and count.id in self.scope.prompts:
            hints = [f"generate {count.id} 32"]
            self.report.error("S603", "how many tokens are to be generated?", count.span, hints=hints)
            step = self._step("generate", (count.id,), 0, s.span, named=True, broken=True)
        else:
            name = self.report.attempt(self.scope.prompt, prompt) if prompt else None
            number = self.report.attempt(self.scope.count, count)
            prompts = (name,) if name else () if prompt else tuple(self.scope.prompts)
            broken = number is None or (prompt is not None and name is None)
            step = self._step("generate", prompts, number or 0, s.span, named=prompt is not None, broken=broken)
        self.steps.append(step)

    def _step(
        self, kind: str, prompts: tuple[str, ...], count: int, span: n.Span, named: bool = False, broken: bool = False
    ) -> Step:
        """A step with everything that stands above it."""
        self.unused.clear()
        return Step(
            "generate" if kind == "generate" else "run",
            prompts,
            count,
            canonical((w for w in self.written if isinstance(w, Intervention)), self.sizes),
            _merged(w for w in self.written if isinstance(w, RecordItem)),
            named,
            span,
            tuple(self.written),
            broken,
        )


def _merged(records: Iterable[RecordItem]) -> tuple[RecordItem, ...]:
    """Records sorted by label, one for each: what is recorded twice is recorded where either says."""
    found: dict[str, RecordItem] = {}
    for r in records:
        r = replace(r, positions=simplest(r.positions))
        first = found.setdefault(r.label, r)
        if not (first.positions and r.positions):
            found[r.label] = replace(first, positions=())
        else:
            union = n.PosUnion((*first.positions, *r.positions), span=r.span)
            found[r.label] = replace(first, positions=simplest((union,)))
    return tuple(found[label] for label in sorted(found))
