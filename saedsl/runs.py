"""`run` and `generate` with the statements above them -> steps; under sweeps, one for every combination of values."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from math import inf
from typing import Final, Literal

from saedsl.anatomy import ModelInfo
from saedsl.binding import Bindings
from saedsl.canonical import canonical, dense
from saedsl.changes import Changes
from saedsl.grammar import nodes as n
from saedsl.options import Options, run_options
from saedsl.places import never_read, simplest
from saedsl.program import Intervention, Metric, Mode, RecordItem, Step, Written
from saedsl.records import Records
from saedsl.report import Report
from saedsl.scope import Scope
from saedsl.sweeps import Dependence, Point, Sweep, points, sweep_values, value_text
from saedsl.target import Chosen, Header, Targets
from saedsl.terms import Terms

Item = Written | Metric
MOST_STEPS: Final = 20_000
"""Runs of a program, each value of a sweep counted."""
MOST_ITEMS: Final = 88_000
"""What statements come to: an edit, record or metric at each site and for each value of their sweeps, and `READING`.

Characters count too, so that a text of any length is answered in about the same time: see `CHARACTERS`."""
READING: Final = 3
"""For each statement and each value of its sweeps."""
CHARACTERS: Final = 4
"""So many of the text count as one item, and as one of what is planned."""
MOST_PLANNED: Final = 80_000
"""What runs come to: for each run and each prompt that the text declares one, and one for each edit, record, metric."""
HELD: Final[dict[Mode, frozenset[str]]] = {
    "iterative": frozenset(),
    "frozen": frozenset({"attn.q", "attn.k"}),
    "direct": frozenset({"attn.q", "attn.k", "mlp.in", "mlp.act"}),
}
"""Components whose edits a mode undoes."""


@dataclass
class _Above:
    """An `at`, `record` or `metric`, which runs below it use."""

    statement: n.At | n.Record | n.MetricDecl
    here: int
    """Its number."""
    uses: frozenset[str]
    """The sweeps that it depends on."""
    found: dict[tuple[object, ...], list[Item]] = field(default_factory=dict)
    """What it comes to, by the values of those sweeps."""
    wrong: list[Item] | None = None
    """What it comes to where it has a mistake, which is said once."""


@dataclass
class _Part:
    """What stands between two `reset`s, so far."""

    above: list[_Above] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    spans: dict[str, n.Span] = field(default_factory=dict)
    """Of the sweeps, those with a mistake included."""
    used: set[str] = field(default_factory=set)
    """Sweeps that a run used."""
    ran: bool = False
    checked: set[tuple[str, int, int]] = field(default_factory=set)
    """What a run with a mistake had above it: of `run` or `generate`, how many statements and sweeps."""


class Runs:
    """Grows from statement to statement."""

    def __init__(
        self, scope: Scope, dependence: Dependence, bindings: Bindings, model: ModelInfo | None, report: Report
    ) -> None:
        self.scope, self.dependence, self.bindings, self.model, self.report = scope, dependence, bindings, model, report
        spots = tuple((site, ()) for site in sorted(bindings.by_site))
        self.everywhere = Header(spots, complete=None not in bindings.unsure)
        self.sizes = {d.name: d.info.d_sae for d in bindings.dictionaries.values()}
        self.sets: dict[Hashable, tuple[n.FeatureSet, list[Chosen]]] = {}
        self.part = _Part()
        self.steps: list[Step] = []
        self.statements = 0
        self.refused: n.Span | None = None
        """The first statement of too many."""
        self.worked_out = self.planned = len(report.source.text) // CHARACTERS
        self.labels: dict[str, n.Span] = {}
        self.unused: list[n.Span] = []
        """What no run has used yet."""

    # Statements ---------------------------------------------------------------------------------------------------

    def declared(self, s: n.PromptDecl | n.PromptsDecl | n.MetricDecl | n.SweepDecl) -> None:
        """Something that a run below is to use; not where a use above it is reported."""
        if not self.scope.is_wanted(s.name):
            self.unused.append(s.span)

    def above(self, s: n.At | n.Record | n.MetricDecl) -> None:
        """A statement for the runs below it. What no sweep changes is worked out at once."""
        item = _Above(s, self.scope.here, self.dependence.of(s))
        self.part.above.append(item)
        if isinstance(s, n.MetricDecl):
            self.declared(s)
        else:
            self.unused.append(s.span)
        if not item.uses:
            self._items(item, {})
        if isinstance(s, n.MetricDecl):
            found = next((i for i in item.found.get((), ()) if isinstance(i, Metric)), None)
            self.scope.declare_metric(s.name, s.span, s.value if item.uses else found.value if found else None)

    def sweep(self, s: n.SweepDecl) -> None:
        """A sweep for the runs below it."""
        values = self.report.attempt(sweep_values, s, self.scope, self.model, self.report)
        if s.name in self.part.spans:
            first = self.report.line(self.part.spans[s.name])
            self.report.error("S202", f"{s.name} is swept twice, first on {first}", s.span)
            return
        self.scope.declare_sweep(s.name, s.span)
        self.part.spans[s.name] = s.span
        self.declared(s)
        if values is None:
            self.scope.mark_broken(s.name)
        else:
            self.part.sweeps.append(Sweep(s.name, values, s.span))

    def reset(self) -> None:
        """What stands above counts no longer."""
        self._close()
        spans = [a.statement.span for a in self.part.above] + list(self.part.spans.values())
        for span in spans:
            if span in self.unused:
                self.unused.remove(span)
                message = "`reset` clears this before any run or generate: it has no effect"
                self.report.warning("S602", message, span, hints=["move it down, or the `reset` up"])
        self.part = _Part()
        self.scope.forget_metrics()

    def run(self, s: n.Run | n.Generate) -> None:
        """A run of everything above: a step, or one for each combination of the values of sweeps."""
        if len(self.steps) >= MOST_STEPS:
            self._too_many(s.span, f"a program makes {MOST_STEPS:,} runs at most")
            return
        if self.refused is not None:
            return
        prompts, broken = self._prompts(s)
        label = self._label(s)
        own = self.dependence.of(s)
        items = self.part.above
        used = own.union(*(a.uses for a in items))
        self.part.used |= used
        self.part.ran = True
        fixed = None if own else self._settings(s, self.scope)
        named = bool(s.prompts) if isinstance(s, n.Run) else s.prompt is not None
        kept: list[Item] = [i for a in items if not a.uses for i in self._items(a, {})]
        still = cache(lambda reads: canonical(_read_edits(kept, reads), self.sizes))
        before = len(self.steps)
        declared = sum("[" not in name for name in prompts)  # not `io[3]`, a row of a file
        for point in points(self.part.sweeps, used, self.report):
            by_statement = [(a, self._items(a, point)) for a in items]
            found = [i for _, come_to in by_statement for i in come_to]
            moving = [i for a, come_to in by_statement if a.uses for i in come_to]
            self.planned += max(declared, 1) * (1 + len(found))
            if self.planned > MOST_PLANNED:
                most = f"{MOST_PLANNED:,} or so are the most"
                message = f"over all its runs, this program comes to too many prompts and edits: {most}"
                self._too_many(s.span, message)
            if self.refused is not None:
                break
            count, options = fixed or self._settings(s, self.scope.within(self.scope.here, point))
            reads = inf if count is None else max(count - 1, 0)
            edits = still(reads)
            if moved := _read_edits(moving, reads):
                edits = canonical((*edits, *moved), self.sizes)
            step = Step(
                kind="generate" if isinstance(s, n.Generate) else "run",
                prompts=prompts,
                n=count or 0,
                edits=dense(edits),
                records=_merged(i for i in _read(found, reads) if isinstance(i, RecordItem)),
                named=named,
                span=s.span,
                written=tuple(i for i in found if not isinstance(i, Metric)),
                label=label,
                values=tuple((name, value_text(v)) for name, v in point.items()),
                statement=self.statements,
                metrics=tuple(i for i in found if isinstance(i, Metric)),
                mode=options.mode if options else "iterative",
                seed=options.seed if options else 0,
                temp=options.temp if options else 0.0,
                top_p=options.top_p if options else 1.0,
                broken=broken or count is None or options is None,
            )
            self._held(step)
            self.steps.append(step)
        self._idle(s, self.steps[before:])
        self.statements += 1
        self.unused.clear()

    def _too_many(self, span: n.Span, message: str) -> None:
        """Report that the program is too large, at the first statement that is not worked out, once."""
        if self.refused is None:
            self.refused = span
            self.report.error("S511", message, span, hints=["write several programs, or sweep less"])

    def _idle(self, s: n.Run | n.Generate, steps: Sequence[Step]) -> None:
        """Warn of options that no step of a statement uses."""
        if any(step.broken or step.temp for step in steps):
            return
        drawn = any(e.to is not None and e.to.kind == "resample" for step in steps for e in step.edits)
        for o in s.options:
            if o.name == "top_p" or (o.name == "seed" and not drawn):
                what = "`run` samples nothing" if isinstance(s, n.Run) else "temp is 0, which is greedy"
                hints = ["leave it out"] if isinstance(s, n.Run) else ["with temp = 0.8", "or leave it out"]
                self.report.warning("S602", f"{o.name} has no effect: {what}", o.span, hints=hints)

    def unread(self, kind: Literal["run", "generate"], span: n.Span) -> None:
        """A run with a mistake of syntax: what stands above is checked all the same, once."""
        above = (kind, len(self.part.above), len(self.part.sweeps))
        if above in self.part.checked:
            return
        self.part.checked.add(above)
        self.run(n.Run(span=span) if kind == "run" else n.Generate(None, n.Number(1.0), span=span))
        while self.steps and self.steps[-1].span == span and not self.steps[-1].broken:
            self.steps[-1:] = [replace(self.steps[-1], prompts=(), n=0, named=True, broken=True)]

    def finish(self, whole: bool) -> tuple[Step, ...]:
        """Every step; of a program without one, a `run` of all prompts.

        Args:
            whole: one step of what stands above, for a forward of the caller's own.
        """
        if whole:
            return self._whole()
        if not self.statements:
            self.run(n.Run())
        self._close()
        for span in self.unused if self.refused is None else ():
            message = "no run or generate comes after this: it has no effect"
            self.report.warning("S602", message, span, hints=["move it up"])
        return tuple(self.steps)

    def _whole(self) -> tuple[Step, ...]:
        for s in self.part.sweeps:
            hints = ["run it: model.run(program)"]
            self.report.error("S511", "a forward of your own runs once, it cannot sweep", s.span, hints=hints)
        self._close()
        found = [i for a in self.part.above for i in self._items(a, self._first())]
        written = tuple(i for i in found if not isinstance(i, Metric))
        edits = dense(canonical((i for i in written if isinstance(i, Intervention)), self.sizes))
        records = _merged(i for i in written if isinstance(i, RecordItem))
        return (Step("run", (), 0, edits, records, named=False, written=written),)

    # What they come to --------------------------------------------------------------------------------------------

    def _items(self, a: _Above, point: Point) -> list[Item]:
        """What a statement comes to at a point; worked out once for the values that it depends on."""
        if a.wrong is not None:
            return a.wrong
        key = tuple(point.get(name) for name in sorted(a.uses))
        if key not in a.found:
            if self.worked_out > MOST_ITEMS:
                return []
            before = self.report.count
            a.found[key] = self._worked_out(a, point)
            self.worked_out += READING + len(a.found[key])
            if self.worked_out > MOST_ITEMS:
                most = MOST_ITEMS // (1 + READING)
                message = f"at all sites and values, this program comes to too many edits: {most:,} or so are the most"
                self._too_many(a.statement.span, message)
            if a.uses and self.report.count > before:
                a.wrong = a.found[key]
        return a.found[key]

    def _worked_out(self, a: _Above, point: Point) -> list[Item]:
        scope = self.scope.within(a.here, point)
        targets = Targets(scope, self.bindings, self.model, self.sets)
        match a.statement:
            case n.At() as s:
                return [*islice(Changes(scope, targets, self.report).statement(s), MOST_ITEMS)]
            case n.Record() as s:
                return [*Records(scope, targets, self.everywhere, self.report).statement(s)]
            case n.MetricDecl() as s:
                metric = self.report.attempt(Terms(scope, targets, self.everywhere).metric, s)
                return [metric] if metric is not None else []

    def _first(self) -> Point:
        return {s.name: s.values[0] for s in self.part.sweeps}

    def _close(self) -> None:
        """The mistakes of statements that no run used, and sweeps that nothing uses."""
        for a in self.part.above:
            if not a.found:
                self._items(a, self._first())
        for s in self.part.sweeps:
            if self.part.ran and s.name not in self.part.used and s.span not in self.unused:
                hints = [f"write {s.name} where its values go, or leave the sweep out"]
                self.report.warning("S607", f"nothing uses {s.name}: this sweep runs once", s.span, hints=hints)

    def _prompts(self, s: n.Run | n.Generate) -> tuple[tuple[str, ...], bool]:
        """The names of the prompts that a run says, each once; and whether one of them has a mistake."""
        said = s.prompts if isinstance(s, n.Run) else (s.prompt,) if s.prompt is not None else ()
        if not said:
            alone = isinstance(s, n.Generate) and isinstance(s.n, n.Name) and self.scope.is_prompt(s.n.id)
            if alone and isinstance(s, n.Generate) and isinstance(s.n, n.Name):
                return self.scope.prompt(s.n), False
            return self.scope.own_prompts(), False
        known: dict[str, None] = {}
        broken = False
        for p in said:
            names = self.report.attempt(self.scope.prompt, p)
            broken |= names is None
            again = [name for name in names or () if name in known]
            if again:
                self.report.warning("S202", f"{again[0]} is named twice: it runs once", p.span)
            known |= dict.fromkeys(names or ())
        return tuple(known), broken

    def _label(self, s: n.Run | n.Generate) -> str | None:
        """`as NAME`, which is another one for each run."""
        if s.name is None:
            return None
        if s.name in self.labels:
            text = self.report.source.text[s.span.start : s.span.end]
            match = re.search(rf"\bas\s+({re.escape(s.name)})\b", text)
            at = n.Span(*(s.span.start + i for i in match.span(1))) if match else s.span
            first = self.report.line(self.labels[s.name])
            self.report.error("S202", f"two runs are called {s.name}, first on {first}", at)
            return None
        self.labels[s.name] = s.span
        return s.name

    def _settings(self, s: n.Run | n.Generate, scope: Scope) -> tuple[int | None, Options | None]:
        """How many tokens, and the options; None for what has a mistake."""
        count: int | None = 0
        kind: Literal["run", "generate"] = "run"
        if isinstance(s, n.Generate):
            kind = "generate"
            if s.prompt is None and isinstance(s.n, n.Name) and self.scope.is_prompt(s.n.id):
                hints = [f"generate {s.n.id} 32"]
                self.report.error("S603", "how many tokens are to be generated?", s.n.span, hints=hints)
                count = None
            else:
                count = self.report.attempt(scope.count, s.n)
        return count, self.report.attempt(run_options, s.options, kind, scope)

    def _held(self, step: Step) -> None:
        """Report the edits that the mode of a step undoes."""
        held = HELD[step.mode]
        for e in step.written if held else ():
            if isinstance(e, Intervention) and e.site.component in held:
                kept = f"the outputs, L{e.site.layer}.attn.z or L{e.site.layer}.mlp"
                self.report.error(
                    "S508",
                    f"this edit would do nothing: {step.mode} mode holds {e.site} at the unedited run",
                    e.span,
                    label=f"runs on {self.report.line(step.span)}",
                    hints=[f"leave the mode out, or edit what it does not hold: {kept}"],
                )


def _read(items: Iterable[Item], reads: float) -> list[Item]:
    """What may act where `reads` generated tokens are read."""
    return [i for i in items if not never_read(i.positions, reads)]


def _read_edits(items: Iterable[Item], reads: float) -> list[Intervention]:
    return [i for i in _read(items, reads) if isinstance(i, Intervention)]


def _merged(records: Iterable[RecordItem]) -> tuple[RecordItem, ...]:
    """Records sorted by label, one for each: what is recorded twice is recorded where either says."""
    found: dict[str, RecordItem] = {}
    for r in records:
        r = r.normal
        first = found.setdefault(r.label, r)
        if first is r:
            continue
        if not (first.positions and r.positions):
            found[r.label] = replace(first, positions=())
        else:
            union = n.PosUnion((*first.positions, *r.positions), span=r.span)
            found[r.label] = replace(first, positions=simplest((union,)))
    return tuple(found[label] for label in sorted(found))
