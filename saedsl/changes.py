"""Edits as written -> interventions: what each changes, whether it can, and by how much."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.guards import Read, check_order, need_statistics, resolve
from saedsl.program import And, Condition, Intervention, Op, Part, PatchSource, Places, Replacement, Written
from saedsl.report import Mistake, Report, both, did_you_mean, each
from saedsl.scope import Scope
from saedsl.target import Chosen, Header, Targets

WORDS: Final[dict[type[n.Edit], Op]] = {
    n.Ablate: "ablate",
    n.Amplify: "amplify",
    n.Set: "set",
    n.Clamp: "clamp",
    n.Add: "add",
    n.ProjectOut: "project",
    n.Patch: "patch",
    n.Freeze: "freeze",
    n.KeepOnly: "keep",
    n.Apply: "apply",
}
NAMES: Final[dict[Op, str]] = {"project": "project out", "keep": "keep only"}
"""How the language spells an edit, where it is not as the program does."""
PARTS: Final[dict[Part, str]] = {
    "site": "a whole site",
    "features": "features",
    "error": "the error",
    "heads": "heads",
    "coordinates": "coordinates",
    "direction": "a direction",
}
COLUMNS: Final = frozenset[Part]({"features", "heads", "coordinates"})
APPLIES: Final[dict[Op, frozenset[Part]]] = {
    "set": COLUMNS | {"site", "direction"},
    "clamp": COLUMNS | {"site", "direction"},
    "add": frozenset({"features", "direction"}),
    "project": frozenset({"features", "direction"}),
    "keep": COLUMNS,
    "apply": COLUMNS | {"site", "direction"},
}
"""What an edit can change; one that is not here can change everything."""
INSTEAD: Final[dict[tuple[Op, Part], str]] = {
    ("add", "heads"): "multiply or set them: amplify h3 x2",
    ("add", "coordinates"): "multiply or set them: set n17 = 2",
    ("add", "error"): "multiply it: amplify error x2",
    ("project", "site"): "say what of it: project out f42, or project out dir d",
    ("project", "heads"): "remove them whole: ablate h3",
    ("project", "coordinates"): "remove them whole: ablate n17",
    ("project", "error"): "remove it whole: ablate error",
    ("keep", "site"): "name what is kept: keep only {f1, f8}",
    ("keep", "error"): "the error is always kept: name features, keep only {f1, f8}",
    ("keep", "direction"): "name features, heads or coordinates: keep only {f1, f8}",
    ("set", "error"): "multiply it, or remove it: amplify error x2",
    ("clamp", "error"): "multiply it, or remove it: amplify error x2",
    ("apply", "error"): "multiply it, or remove it: amplify error x2",
}


@dataclass(frozen=True)
class Change:
    """An edit without its target."""

    op: Op
    args: tuple[float, ...] = ()
    unit: n.Unit = ""
    name: str = ""


@dataclass(frozen=True)
class Changes:
    """Works out the edits of one statement."""

    scope: Scope
    targets: Targets
    report: Report

    def statement(self, s: n.At) -> Iterator[Written]:
        """What the edits of a statement come to, as the text has them; mistakes go to the report."""
        where = self._header(s)
        before = self._when(s.when, where)
        at = self.report.attempt(self.scope.positions, s.at) if s.at is not None else None
        places = (at,) if at is not None else ()
        for item in s.edits:
            chain = item.edits if isinstance(item, n.Then) else (item,)
            for stage, edit in enumerate(chain):
                broken = (s.at is not None and at is None) or (s.when is not None and before is None)
                yield from self._edit(edit, where, places, before, stage, len(chain) > 1, broken)

    def _header(self, s: n.At) -> Header:
        spots = []
        named = None
        complete = self.targets.model is not None
        for ref in s.sites:
            found = self.report.attempt(self.targets.spots, ref)
            if found is None:
                complete = False
                continue
            spots += found[0]
            named = found[1] if len(s.sites) == 1 else None
        return Header(tuple(spots), named, complete)

    def _when(self, c: n.Condition | None, where: Header) -> tuple[Condition, tuple[Read, ...]] | None:
        return self.report.attempt(resolve, c, where, self.targets) if c is not None else None

    def _edit(
        self,
        edit: n.Edit,
        where: Header,
        places: tuple[n.Positions, ...],
        before: tuple[Condition, tuple[Read, ...]] | None,
        stage: int,
        chained: bool,
        broken: bool,
    ) -> list[Written]:
        """One edit at every site that it changes; its positions alone if it has a mistake.

        Args:
            edit: as written.
            where: the header of its statement.
            places: the header's positions.
            before: the header's condition.
            stage: how many edits are before it in its chain.
            chained: whether it stands in a chain.
            broken: the header has a mistake, so that only mistakes of the edit itself are looked for.
        """
        at = self.report.attempt(self.scope.positions, edit.at) if edit.at is not None else None
        positions = (*places, *((at,) if at is not None else ()))
        lost = [Places(positions, edit.span)] if (edit.at is None) == (at is None) else []
        change = self.report.attempt(self._change, edit)
        to = self.report.attempt(self._replacement, edit)
        source = self.report.attempt(self._source, edit)
        when = self._when(edit.when, where)
        chosen = self.report.attempt(self._chosen, edit, where)
        wrong = (edit.at is not None and at is None) or (edit.when is not None and when is None)
        if change is None or to is None or source is None or chosen is None or broken or wrong:
            return list(lost)
        known = [c for c in (before, when) if c is not None]
        reads = tuple(r for _, rs in known for r in rs)
        if self.report.attempt(self._fits, edit, change, bool(to), chosen, reads, chained) is None:
            return list(lost)
        if not chosen and not where.complete:
            return list(lost)
        conditions = tuple(c for c, _ in known)
        many = self.targets.bindings.by_site
        return [
            Intervention(
                site=c.site,
                op=change.op,
                args=change.args,
                dictionary=c.dictionary.name if c.dictionary else None,
                features=c.ids,
                positions=positions,
                span=edit.span,
                qualified=c.dictionary is not None and len(many[c.site]) > 1,
                part=c.part,
                unit=change.unit,
                to=to[0] if to else None,
                source=source[0] if source else None,
                direction=c.direction,
                when=None if not conditions else conditions[0] if len(conditions) == 1 else And(conditions),
                stage=stage,
                name=change.name,
            )
            for c in chosen
        ]

    # What it changes ----------------------------------------------------------------------------------------------

    def _chosen(self, edit: n.Edit, where: Header) -> list[Chosen]:
        if isinstance(edit.target, n.WholeSite) and isinstance(edit, n.Add) and where.spots:
            raise Mistake(
                "S504", "add needs features: it adds their decoder directions", edit.span, hints=["add 4 f42"]
            )
        chosen = self.targets.chosen(edit.target, where)
        return self._kept(edit, chosen, where) if isinstance(edit, n.KeepOnly) else chosen

    def _kept(self, edit: n.KeepOnly, chosen: list[Chosen], where: Header) -> list[Chosen]:
        """What `keep only` names, and nothing at the sites of the statement of which it names nothing."""
        parts = {c.part for c in chosen}
        if any(isinstance(c.ids, str) for c in chosen):
            hints = ["name what is kept: keep only {f1, f8}"]
            raise Mistake("S506", "`keep only all` changes nothing", edit.target.span, hints=hints)
        if len(parts) > 1:
            both = " and ".join(sorted(PARTS[p] for p in parts))
            raise Mistake("S506", f"this keeps {both}: everything else of which of them is not clear", edit.target.span)
        if not parts or not parts <= COLUMNS:
            return chosen
        part = parts.pop()
        rest = [s for s in dict.fromkeys(where.sites) if s not in {c.site for c in chosen}]
        if part != "features":
            return [*chosen, *(Chosen(site, part) for site in rest)]
        on = self.targets.bindings
        dictionaries = each(lambda site: on.on(site, edit.target.span), rest)
        return [*chosen, *(Chosen(d.write, part, (), d) for d in dictionaries)]

    # How ----------------------------------------------------------------------------------------------------------

    def _change(self, edit: n.Edit) -> Change:
        number = self.scope.number
        match edit:
            case n.Amplify(_, factor):
                return Change("amplify", (number(factor),))
            case n.Set(_, value) | n.Add(value):
                return Change(WORDS[type(edit)], (number(value),), edit.unit)
            case n.Clamp(_, low, high):
                ends = ((low, -math.inf), (high, math.inf))
                a, b = each(lambda end: end[1] if end[0] is None else number(end[0]), ends)
                if a > b:
                    raise Mistake("S502", f"this range is empty: {a:g} is above {b:g}", edit.span)
                return Change("clamp", (a, b), edit.unit)
            case n.Apply():
                return self._applied(edit)
        return Change(WORDS[type(edit)])

    def _applied(self, edit: n.Apply) -> Change:
        """An edit that Python registered, with as many numbers as it takes."""
        from saedsl import registry

        span = edit.name_span if edit.name_span != n.NOWHERE else edit.span
        found = registry.find(edit.name)
        if found is None:
            known = registry.names()
            near = did_you_mean(edit.name, known)
            hints = [*near, f'register it in Python: @saedsl.edit("{edit.name}")']
            lost = Mistake("S321", f"no edit is registered as {edit.name}", span, hints=hints)
            both(lambda: _raise(lost), lambda: each(self.scope.number, edit.arguments))
        assert found is not None
        args = tuple(each(self.scope.number, edit.arguments))
        least, most = found.arguments
        if not least <= len(args) <= most:
            if least == most:
                takes = _counted(least)
            else:
                takes = f"{least} numbers or more" if math.isinf(most) else f"{least} to {most:g} numbers"
            message = f"{edit.name} takes {takes}, here are {len(args)}" if args else f"{edit.name} takes {takes}"
            example = ", ".join(["1"] * max(least, 1))
            hints = [f"apply {edit.name}({example}) {format_node(edit.target)}".rstrip()] if least else []
            raise Mistake("S321", message, span, hints=hints)
        return Change("apply", args, name=found.key)

    def _replacement(self, edit: n.Edit) -> tuple[Replacement, ...]:
        """What takes the place of what is ablated; none for zero."""
        of = edit.to if isinstance(edit, n.Ablate) else edit.otherwise if isinstance(edit, n.KeepOnly) else None
        return (Replacement(of.kind, self.scope.reference(of.of)),) if of is not None else ()

    def _source(self, edit: n.Edit) -> tuple[PatchSource, ...]:
        """Where a patch comes from; none for other edits."""
        if not isinstance(edit, n.Patch):
            return ()
        at = edit.source_at
        prompt, positions = both(
            lambda: self._prompt(edit), lambda: self.scope.positions(at) if at is not None else None
        )
        return (PatchSource(prompt, (positions,) if positions is not None else ()),)

    def _prompt(self, edit: n.Patch) -> str:
        if isinstance(edit.source, n.Name):
            return self.scope.single_prompt(edit.source)
        self.scope.field(edit.source)
        return f"{edit.source.of}.{edit.source.name}"

    # Whether it can -----------------------------------------------------------------------------------------------

    def _fits(
        self,
        edit: n.Edit,
        change: Change,
        replaced: bool,
        chosen: list[Chosen],
        reads: tuple[Read, ...],
        chained: bool,
    ) -> bool:
        """Whether the edit can change what it names: each kind of mistake is said once, whatever the sites."""
        checks: list[Callable[[Chosen], None]] = [
            lambda c: _applies(edit, change, replaced, c),
            lambda c: self._unit(edit, change, c),
            lambda c: check_order(reads, c.site),
        ]
        if chained:
            checks.append(lambda c: _then(edit, c))

        def first(check: Callable[[Chosen], None]) -> None:
            for c in chosen:
                check(c)

        each(first, checks)
        return True

    def _unit(self, edit: n.Edit, change: Change, c: Chosen) -> None:
        """Whether a number in this unit has a meaning there."""
        unit = change.unit
        if not unit or c.part not in APPLIES.get(change.op, COLUMNS):
            return
        span = self._unit_span(edit, unit)
        if unit == "norm":
            if change.op != "add":
                hints = [f"add 0.4 norm {format_node(edit.target)}".rstrip(), "a number, `max` or `std` goes here"]
                raise Mistake(
                    "S507", f"`norm` is how much is added, it cannot be what {change.op} sets", span, hints=hints
                )
        elif c.dictionary is None or c.part != "features":
            message = f"`{unit}` is recorded of features only, not of {PARTS[c.part]}"
            raise Mistake("S507", message, span, hints=["write a plain number"])
        else:
            need_statistics(c.dictionary, unit, span)

    def _unit_span(self, edit: n.Edit, unit: n.Unit) -> n.Span:
        """The number with its unit, which no node has."""
        values = [v for name in ("value", "low", "high") if (v := getattr(edit, name, None)) is not None]
        if not values:
            return edit.span
        start, end = min(v.span.start for v in values), max(v.span.end for v in values)
        match = re.compile(rf"[)\s.]*{unit}\b").match(self.report.source.text, end)
        return n.Span(start, match.end() if match else end)


def _raise(mistake: Mistake) -> float:
    raise mistake


def _counted(count: int) -> str:
    return {0: "no numbers", 1: "one number"}.get(count, f"{count} numbers")


def _applies(edit: n.Edit, change: Change, replaced: bool, c: Chosen) -> None:
    """Whether such an edit can be of such a part."""
    word = NAMES.get(change.op, change.op)
    span = edit.span if isinstance(edit.target, n.WholeSite) else edit.target.span
    if change.op in APPLIES and c.part not in APPLIES[change.op]:
        hints = [INSTEAD[change.op, c.part]] if (change.op, c.part) in INSTEAD else []
        raise Mistake("S506", f"`{word}` does not apply to {PARTS[c.part]}", span, hints=hints)
    if not replaced:
        return
    if c.part == "error":
        raise Mistake("S506", "the error can be ablated to zero only", span, hints=["ablate error"])
    if c.site.component == "attn.pattern":
        message = f"{c.site} can be ablated to zero only: its width is the text's length"
        raise Mistake("S506", message, span, hints=["ablate the heads' outputs: at L0.attn.z ablate h0 to mean of ..."])


def _then(edit: n.Edit, c: Chosen) -> None:
    """A later stage reads what the ones before it wrote, so a dictionary must read where it writes."""
    d = c.dictionary
    if d is not None and d.read != d.write:
        raise Mistake(
            "S510",
            f"{d.name} reads {d.read} and writes {d.write}: what one edit of it writes, the next does not read",
            edit.span,
            hints=["write the edits without `then`"],
        )
