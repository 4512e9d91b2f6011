"""Conditions as written -> conditions: which feature of which dictionary each of their tests reads."""

from __future__ import annotations

import re

from saedsl.grammar import nodes as n
from saedsl.program import And, Condition, Dictionary, Not, Or, Test
from saedsl.report import Mistake, both, each
from saedsl.sites import Site
from saedsl.target import Header, Targets

Read = tuple[Dictionary, n.Span]
"""A dictionary that a test reads, and where the text says so."""


def resolve(c: n.Condition, where: Header, targets: Targets) -> tuple[Condition, tuple[Read, ...]] | None:
    """A condition with its features found; None where the header's mistake hides whose they are.

    Args:
        c: as written.
        where: the header: a feature that does not say whose it is belongs to the dictionary there.
        targets: finds dictionaries.

    Raises:
        Mistake: every mistake of it, together.
    """
    match c:
        case n.Compare():
            return _test(c, where, targets)
        case n.Not(item):
            inner = resolve(item, where, targets)
            return (Not(inner[0]), inner[1]) if inner else None
        case n.And(items) | n.Or(items):
            parts = each(lambda item: resolve(item, where, targets), items)
            known = [p for p in parts if p is not None]
            if len(known) < len(parts):
                return None
            kind = And if isinstance(c, n.And) else Or
            return kind(tuple(p[0] for p in known)), tuple(r for p in known for r in p[1])


def _test(c: n.Compare, where: Header, targets: Targets) -> tuple[Condition, tuple[Read, ...]] | None:
    found, value = both(lambda: targets.feature(c.feature, where), lambda: targets.scope.number(c.value))
    if c.unit == "norm":
        hints = ["compare with a number, with `max`, or with `std`"]
        raise Mistake("S507", "a feature is not compared with a norm", c.span, hints=hints)
    if found is None:
        return None
    d, i = found
    need_statistics(d, c.unit, c.span)
    return Test(d.name, i, c.op, value, c.unit), ((d, c.feature.span),)


def check_order(reads: tuple[Read, ...], site: Site) -> None:
    """Every dictionary of a condition reads at the site of its edit, or upstream of it.

    Raises:
        Mistake: S509 for each that does not.
    """
    wrong = [
        Mistake(
            "S509",
            f"{d.name} reads {d.read}, which a forward reaches after {site}",
            span,
            hints=["a condition is on features of the same site, or of one upstream"],
        )
        for d, span in reads
        if not _reached(d.read, site)
    ]
    if wrong:
        raise Mistake.together(wrong)


def _reached(read: Site, site: Site) -> bool:
    """Whether a forward has been at `read` when it is at `site`. Of a module only its layer is known."""
    if site.module is None:
        return read <= site
    layer = re.search(r"\.(\d+)(?:\.|$)", site.module[0])
    return read.component == "embed" or (layer is not None and read.layer is not None and read.layer < int(layer[1]))


def need_statistics(d: Dictionary, unit: n.Unit, span: n.Span) -> None:
    """The units `max` and `std` need the features' statistics beside the dictionary's weights.

    Raises:
        Mistake: S320 saying how to get them.
    """
    if unit in ("max", "std") and d.info.statistics is None:
        path = d.path if d.info.path is None else str(d.info.path)
        raise Mistake(
            "S320",
            f"{d.name} carries no statistics, so `{unit}` has no meaning",
            span,
            hints=[f"make them: saedsl stats {path} TEXTFILE"],
        )
