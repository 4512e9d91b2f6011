"""Features, or whole sites, that two edits change at the same position."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice

from saedsl.places import simplest
from saedsl.positions import PositionSet
from saedsl.program import Dictionary, Intervention
from saedsl.report import Report

Touched = PositionSet | frozenset[object]
"""Where an edit acts; without tokens, its positions as one object."""

MOST = 3
"""Edits of all features that contradict so many edits above are not held against more."""


def report_conflicts(
    edits: Sequence[Intervention],
    where: Sequence[PositionSet] | None,
    dictionaries: Mapping[str, Dictionary],
    report: Report,
) -> None:
    """Report each edit that changes what an edit above changes already, at its own place.

    Args:
        edits: as the text has them.
        where: where each acts on one prompt; None without tokens: then only equal positions are known to meet.
        dictionaries: by name; two names of one dictionary are one.
        report: where mistakes go.
    """
    touched: Sequence[Touched] = where or [frozenset({simplest(e.positions)}) for e in edits]
    targets: dict[Hashable, _Target] = {}
    for i in sorted(range(len(edits)), key=lambda i: edits[i].span.start):
        e = edits[i]
        key: Hashable = e.site if e.dictionary is None else dictionaries[e.dictionary].identity
        for a, what in targets.setdefault(key, _Target()).add(e, touched[i]):
            first, _ = report.source.place(a.span.start)
            of = str(e.site) if e.dictionary is None else e.dictionary
            if a.dictionary != e.dictionary:
                of += f" (the same dictionary as {a.dictionary})"
            report.error(
                "S501",
                f"{what} of {of} is edited twice at the same position",
                e.span,
                label=f"first on line {first}",
                hints=["all edits of a site read the activation as it arrives, so two of one feature contradict"],
            )


@dataclass
class _Edits:
    """Edits of one thing, and the union of where they act."""

    users: list[tuple[Intervention, Touched]] = field(default_factory=list)
    union: Touched = frozenset()

    def add(self, e: Intervention, where: Touched) -> None:
        self.union = _union(self.union, where) if self.users else where
        self.users.append((e, where))

    def meeting(self, where: Touched) -> Iterator[Intervention]:
        """Those that act somewhere in `where`."""
        if self.users and _meet(self.union, where):
            yield from (e for e, other in self.users if _meet(other, where))


@dataclass
class _Target:
    """The edits of one dictionary, or of one whole site."""

    all: _Edits = field(default_factory=_Edits)
    """Of every feature, or of the site."""
    some: _Edits = field(default_factory=_Edits)
    """Of some features."""
    features: dict[int, _Edits] = field(default_factory=dict)

    def add(self, e: Intervention, where: Touched) -> Iterator[tuple[Intervention, str]]:
        """The edits above that `e` contradicts, each with what both change."""
        if e.dictionary is None or e.features == "all":
            name = "the whole site" if e.dictionary is None else "every feature"
            found = [(a, name) for a in islice(self.all.meeting(where), 1)]
            found += [(a, f"f{a.features[0]}") for a in islice(self.some.meeting(where), MOST)]
            self.all.add(e, where)
            yield from found
            return
        seen: list[Intervention] = []
        previous = None
        for f in e.features:
            mine = self.features[int(f)].meeting(where) if f in self.features else iter(())
            for a in [e] if f == previous else islice(chain(self.all.meeting(where), mine), 1):
                if not any(a is b for b in seen):
                    seen.append(a)
                    yield a, f"f{f}"
            previous = f
        for f in dict.fromkeys(e.features):
            self.features.setdefault(int(f), _Edits()).add(e, where)
        self.some.add(e, where)


@lru_cache(maxsize=256)
def _meet(a: Touched, b: Touched) -> bool:
    if isinstance(a, PositionSet):
        return isinstance(b, PositionSet) and bool(a & b)
    return not isinstance(b, PositionSet) and bool(a & b)


@lru_cache(maxsize=256)
def _union(a: Touched, b: Touched) -> Touched:
    if isinstance(a, PositionSet):
        return a | b if isinstance(b, PositionSet) else a
    return b if isinstance(b, PositionSet) else a | b
