"""Records as written -> what is kept: sites, features, heads, coordinates, errors."""

from __future__ import annotations

from dataclasses import dataclass

from saedsl.grammar import nodes as n
from saedsl.program import Part, Places, RecordItem, Written
from saedsl.report import Report
from saedsl.scope import Scope
from saedsl.selection import module_site, spot_list
from saedsl.target import Chosen, Header, Targets
from saedsl.wording import PREFIX


@dataclass(frozen=True)
class Records:
    """Works out `record` statements."""

    scope: Scope
    targets: Targets
    everywhere: Header
    """Every site with a dictionary: where features that do not say whose they are are looked for."""
    report: Report

    def statement(self, s: n.Record) -> list[Written]:
        """What a statement keeps, as the text has it; mistakes go to the report."""
        at = self.report.attempt(self.scope.positions, s.at) if s.at is not None else None
        positions = (at,) if at is not None else ()
        found: list[Written] = []
        for item in s.items:
            kept = self.report.attempt(self._kept, item, positions)
            if s.at is not None and at is None:
                continue
            found += kept or [Places(positions, item.span)]
        return found

    def _kept(self, item: n.RecordItem, positions: tuple[n.Positions, ...]) -> list[RecordItem]:
        what, span = item.what, item.span
        if isinstance(what, n.SitePattern):
            if self.targets.model is None:
                return []
            spots = spot_list(self.scope.pattern(what), self.targets.model)
            return [r for site, heads in spots for r in _items(Chosen(site, _part(heads), heads), positions, span)]
        if isinstance(what, n.ModuleSite):
            return _items(Chosen(module_site(what, self.targets.model), "site"), positions, span)
        if isinstance(what, n.Name) and not self.scope.is_let(what.id):
            d = self.scope.dictionary(what)
            return [RecordItem(d.name, d.read, d.name, "all", positions, span, "features")]
        where = self.everywhere
        if isinstance(what, n.Heads | n.Neurons) and what.of is not None and self.targets.model is not None:
            spots = spot_list(self.scope.pattern(what.of), self.targets.model)
            where = Header(tuple(spots))
        return [r for c in self.targets.chosen(what, where) for r in _items(c, positions, span)]


def _part(heads: tuple[int, ...]) -> Part:
    return "heads" if heads else "site"


def _items(c: Chosen, positions: tuple[n.Positions, ...], span: n.Span) -> list[RecordItem]:
    """One item for each number, called by it."""
    d = c.dictionary
    if c.part == "site":
        return [RecordItem(str(c.site), c.site, None, (), positions, span)]
    if d is not None and c.part == "error":
        return [RecordItem(f"{d.name}.error", d.write, d.name, (), positions, span, "error")]
    owner, site = (d.name, d.read) if d is not None else (str(c.site), c.site)
    name = d.name if d is not None else None
    return [
        RecordItem(f"{owner}.{PREFIX[c.part]}{i}", site, name, (i,), positions, span, c.part)
        for i in c.ids
        if isinstance(i, int)
    ]
