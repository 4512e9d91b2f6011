"""Positions as written -> one spelling for one meaning, so that spelling leaves no trace in a canonical program."""

from __future__ import annotations

from collections.abc import Iterable

from saedsl.grammar.format import format_node
from saedsl.grammar.nodes import PosExcept, PosIndex, Positions, PosUnion, PosWord


def simplest(positions: Iterable[Positions]) -> tuple[Positions, ...]:
    """Positions that all must hold, sorted, none twice; nothing for `all` alone, which is what nothing means.

    >>> from saedsl.grammar.nodes import PosWord
    >>> [format_node(p) for p in simplest((PosWord("last"), PosWord("last")))]
    ['last']
    >>> simplest((PosWord("all"),))
    ()
    """
    found = {format_node(p): p for p in map(_simplest, positions)}
    return () if list(found) == ["all"] else tuple(found[text] for text in sorted(found))


def never_read(positions: Iterable[Positions], reads: float) -> bool:
    """Whether positions that all must hold are of generated tokens that no forward reads.

    Args:
        positions: of an edit, a record or a metric.
        reads: how many generated tokens are read as input: 0 by a `run`, 31 by `generate 32`.

    >>> from saedsl.grammar.nodes import PosWord
    >>> [never_read([p], 3) for p in (PosIndex("gen", 2, 9), PosIndex("gen", 3, 9), PosWord("gen"), PosWord("all"))]
    [False, True, False, False]
    """
    return any(_never_read(p, reads) for p in positions)


def _never_read(p: Positions, reads: float) -> bool:
    match p:
        case PosWord("gen"):
            return reads <= 0
        case PosIndex("gen", first):
            return first >= reads
        case PosUnion(items):
            return all(_never_read(i, reads) for i in items)
        case PosExcept(base):
            return _never_read(base, reads)
    return False


def _simplest(p: Positions) -> Positions:
    match p:
        case PosUnion():
            items = list(_items(p))
            ranges = [i for i in items if isinstance(i, PosIndex) and _literal(i)]
            rest = [i for i in items if not (isinstance(i, PosIndex) and _literal(i))]
            found = {format_node(i): i for i in (*rest, *_joined(ranges))}
            union = tuple(found[text] for text in sorted(found))
            return union[0] if len(union) == 1 else PosUnion(union, span=p.span)
        case PosExcept(base, removed):
            return PosExcept(_simplest(base), _simplest(removed), span=p.span)
    return p


def _items(union: PosUnion) -> Iterable[Positions]:
    """What a union joins, unions inside it taken apart."""
    for item in map(_simplest, union.items):
        yield from item.items if isinstance(item, PosUnion) else (item,)


def _literal(i: PosIndex) -> bool:
    """Whether a range runs forward, and is counted from one end, so that its neighbours can be joined to it."""
    return i.first <= i.last and (i.first < 0) == (i.last < 0)


def _joined(ranges: list[PosIndex]) -> list[PosIndex]:
    """`prompt[1]`, `prompt[2..4]` -> `prompt[1..4]`."""
    out: list[PosIndex] = []
    for r in sorted(ranges, key=lambda r: (r.of, r.first < 0, r.first, r.last)):
        last = out[-1] if out else None
        if last and last.of == r.of and (last.first < 0) == (r.first < 0) and r.first <= last.last + 1:
            out[-1] = PosIndex(r.of, last.first, max(last.last, r.last), span=last.span)
        else:
            out.append(r)
    return out
