"""Features, columns or whole sites that two edits change at the same position.

What an edit changes is a set of bits: of features, or of the columns of an activation. Two edits of one stage
contradict where both their bits and their positions meet.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from saedsl.grammar.nodes import Span
from saedsl.places import simplest
from saedsl.positions import PositionSet
from saedsl.program import Intervention, Program
from saedsl.report import Report
from saedsl.wording import PREFIX

Touched = PositionSet | frozenset[object]
"""Where an edit acts; without tokens, its positions as one object."""

MOST: Final = 3
"""An edit is held against so many edits above at most; so many of many sites are named."""
EVERY: Final = -1
"""All bits, however many there are."""


def report_conflicts(
    edits: Sequence[Intervention],
    where: Sequence[PositionSet] | None,
    program: Program,
    report: Report,
    said: set[Hashable] | None = None,
) -> None:
    """Report each edit that changes what an edit above of the same stage changes already, at its own place, once for
    all its sites.

    Args:
        edits: as the text has them, in its order.
        where: where each acts on one prompt; None without tokens: then only equal positions are known to meet.
        program: theirs; two names of one dictionary are one, and equal directions are one.
        report: where mistakes go.
        said: conflicts that are reported already, of other prompts or runs; those that are found are added.
    """
    said = said if said is not None else set()
    touched: Sequence[Touched] = where if where is not None else [frozenset({simplest(e.positions)}) for e in edits]
    targets: dict[Hashable, _Target] = {}
    owners: dict[tuple[Span, Span, str, str], list[str]] = {}
    for e, where_e in zip(edits, touched, strict=True):
        target = targets.setdefault((e.stage, _target(e, program)), _Target())
        for a, what in target.add(_Change(e, where_e, _bits(e, program)), program):
            owners.setdefault((e.span, a.span, what, _hint(e, a)), []).append(_owner(e, a))
    for (span, first, what, hint), of in owners.items():
        known = (span, first, what, tuple(of))
        if known in said:
            continue
        said.add(known)
        message = f"{what} of {_listed(of)} is edited twice at the same position"
        report.error("S501", message, span, label=f"first on {report.line(first)}", hints=[hint])


def _target(e: Intervention, program: Program) -> Hashable:
    """What edits must share to contradict each other: a dictionary, its error, a direction, or a site's columns."""
    if e.direction is not None:
        return (e.site, program.directions[e.direction].sha256)
    if e.dictionary is not None:
        return (program.dictionaries[e.dictionary].identity, e.part == "error")
    return e.site


def _bits(e: Intervention, program: Program) -> int:
    """What an edit changes of that. What `keep` names, it does not change."""
    if e.part in ("site", "error", "direction") or isinstance(e.features, str):
        return EVERY
    bits = _set_of(e.features)
    if e.part == "heads" and e.site.component != "attn.pattern":
        bits = _columns(e.features, program.model.d_head)
    return ~bits if e.op == "keep" else bits


@lru_cache(maxsize=4096)
def _set_of(ids: tuple[int, ...]) -> int:
    if not ids:
        return 0
    if ids[-1] - ids[0] + 1 == len(ids):
        return ((1 << len(ids)) - 1) << ids[0]
    found = bytearray(max(ids) // 8 + 1)
    for i in ids:
        found[i >> 3] |= 1 << (i & 7)
    return int.from_bytes(found, "little")


def _columns(heads: tuple[int, ...], d_head: int) -> int:
    one = (1 << d_head) - 1
    return sum(one << h * d_head for h in set(heads))


@dataclass(frozen=True)
class _Change:
    edit: Intervention
    where: Touched
    bits: int

    @property
    def keeps(self) -> bool:
        return self.edit.op == "keep"


@dataclass
class _Target:
    """The edits of one dictionary, or of one site, so far."""

    changes: list[_Change] = field(default_factory=list)
    bits: int = 0
    """Of all of them."""
    groups: dict[Touched, int] = field(default_factory=dict)
    """Of those at the same positions."""

    def add(self, new: _Change, program: Program) -> Iterator[tuple[Intervention, str]]:
        """The edits above that `new` contradicts, each with what both change."""
        e = new.edit
        twice = _twice(e)
        if twice is not None:
            yield e, f"{PREFIX[e.part]}{twice}"
        if self._meets(new):
            rest, found = new.bits, 0
            for a in self.changes:
                both = rest & a.bits if not (new.keeps and a.keeps) else EVERY
                if both and _meet(a.where, new.where):
                    yield a.edit, _name(e, a.edit, both, program)
                    rest, found = rest & ~a.bits, found + 1
                if found == MOST or not rest:
                    break
        self.changes.append(new)
        self.bits |= new.bits
        self.groups[new.where] = self.groups.get(new.where, 0) | new.bits

    def _meets(self, new: _Change) -> bool:
        """Whether there is any contradiction; two `keep` always have one."""
        if new.keeps:
            return any(_meet(where, new.where) for where in self.groups)
        return bool(self.bits & new.bits) and any(
            bits & new.bits and _meet(where, new.where) for where, bits in self.groups.items()
        )


def _twice(e: Intervention) -> int | None:
    """A number that stands twice in an edit; None if there is none."""
    if isinstance(e.features, str) or len(set(e.features)) == len(e.features):
        return None
    return next(a for a, b in zip(e.features, e.features[1:], strict=False) if a == b)


def _name(e: Intervention, a: Intervention, both: int, program: Program) -> str:
    """What two edits change, by the lowest bit of it."""
    if e.part == "direction":
        return f"the direction {e.direction}"
    if e.part == "error":
        return "the error"
    if e.part == "site" and (a.part == "site" or a.op == "keep"):
        return "the whole site"
    if e.part == "site":
        e, both = a, _bits(a, program)
    if both < 0:
        return {"features": "every feature", "heads": "every head"}.get(e.part, "every coordinate")
    lowest = (both & -both).bit_length() - 1
    if e.part == "heads" and e.site.component != "attn.pattern":
        lowest //= program.model.d_head
    return f"{PREFIX[e.part]}{lowest}"


def _owner(e: Intervention, a: Intervention) -> str:
    if e.dictionary is None:
        return str(e.site)
    same = f" (the same dictionary as {a.dictionary})" if a.dictionary != e.dictionary else ""
    return e.dictionary + same


def _listed(of: Sequence[str]) -> str:
    """`L0.mlp, L1.mlp and 2 more`."""
    shown = of if len(of) <= MOST + 1 else [*of[:MOST], f"{len(of) - MOST} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _hint(e: Intervention, a: Intervention) -> str:
    if (e.op == "keep") != (a.op == "keep"):
        return "`keep only` ablates whatever it does not name: name this there too, or join the edits with `then`"
    what = {"heads": "head", "coordinates": "coordinate", "direction": "direction"}.get(e.part, "feature")
    return f"all edits of a site read the activation as it arrives, so two of one {what} contradict"


@lru_cache(maxsize=4096)
def _meet(a: Touched, b: Touched) -> bool:
    if isinstance(a, PositionSet):
        return isinstance(b, PositionSet) and bool(a & b)
    return not isinstance(b, PositionSet) and bool(a & b)
