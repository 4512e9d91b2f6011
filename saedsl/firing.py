"""What edits did, counted: and what to say of those that did nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from saedsl.program import Intervention


@dataclass(frozen=True)
class Firing:
    """What one edit did to one feature, head or coordinate, or to a whole site, on one prompt."""

    edit: str
    """Canonical text of the edit, e.g. `at L2.mlp ablate f42`."""
    feature: str
    """`f42`, `h3`, `n17`, `error`, `dir d`; "" for a whole site, and for everything that is not kept."""
    positions: int
    """At how many positions of the forwards the edit acted, or would have if its condition had held."""
    active: int
    """At how many of them the feature was not zero."""
    changed: int
    """At how many of them the activation changed."""
    held: int | None = None
    """At how many of them its condition held; None if it has none."""


def names(e: Intervention, n: int) -> list[str]:
    """What the `n` things are called that an edit changes."""
    if e.op == "keep" or (e.op == "project" and e.part != "direction"):
        return [""] * n
    letter = {"features": "f", "heads": "h", "coordinates": "n"}.get(e.part, "")
    if e.part == "site" and e.dictionary is not None:
        letter = "f"
    if letter:
        return [f"{letter}{i}" for i in (range(n) if isinstance(e.features, str) else sorted(e.features))]
    return [{"error": "error", "direction": f"dir {e.direction}"}.get(e.part, "")] * n


def silent_edits(results: Iterable[Sequence[Firing]]) -> Iterator[str]:
    """A warning for each edit that changed nothing on any prompt, and for each amplification of a silent feature.

    Args:
        results: what was counted, of each prompt.
    """
    by_edit: dict[str, dict[str, list[Firing]]] = {}
    for firings in results:
        for f in firings:
            by_edit.setdefault(f.edit, {}).setdefault(f.feature, []).append(f)
    for edit, features in by_edit.items():
        idle = {name: found for name, found in features.items() if not any(f.changed for f in found)}
        if not idle or (len(idle) < len(features) and " amplify " not in edit):
            continue
        first = next(iter(idle.values()))
        n = sum(f.positions for f in first)
        if n == 0:
            yield f"warning[S610]: `{edit}` never acted: no token that was read is at its positions"
            continue
        if first[0].held is not None:
            if not (held := sum(f.held or 0 for f in first)):
                yield f"warning[S610]: `{edit}` never acted: its condition held at none of {n} positions"
                continue
            n = held
        active = [name for name, found in idle.items() if any(f.active for f in found)]
        silent = [name for name in idle if name not in active]
        parts = [
            f"{_few(names)} {'was' if len(names) == 1 else 'were'} {what}"
            for names, what in ((silent, "never active"), (active, "active but not changed"))
            if names
        ]
        yield f"warning[S610]: `{edit}` changed nothing at {n} position{'s' * (n != 1)}: {', '.join(parts)}"


def _few(names: Sequence[str]) -> str:
    named = [name or "the activation" for name in names]
    return ", ".join(named) if len(named) <= 6 else f"{', '.join(named[:5])} and {len(named) - 5} more"
