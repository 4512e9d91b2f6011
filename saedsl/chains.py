"""Edits with stages -> `then` chains: which edit of a stage stands behind which of the stage before.

A plan knows the stages of a site, not the chains that made them. Any chains with the same edits in the same stages
mean the same, as each edit only reads what the stages before left; so chains are found again by matching.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from saedsl.canonical import edit_key
from saedsl.grammar.format import format_node
from saedsl.grammar.nodes import Positions
from saedsl.program import Intervention
from saedsl.sites import Site

Group = tuple[Intervention, ...]
"""Interventions that one edit of a text makes: they differ in dictionary and features only."""
_Tail = tuple[list[Group], set[str]]
"""The edits of a chain from its end, last first, and the headers that they allow."""


@dataclass(frozen=True)
class Chain:
    """`a then b then c` at one site."""

    edits: tuple[Group, ...]
    """By stage."""
    header: Positions | None = None
    """Positions that stand in the header of the statement, for all of its edits."""

    @property
    def header_text(self) -> str:
        """The header as text, "" for none."""
        return format_node(self.header) if self.header is not None else ""


def chains(edits: Iterable[Intervention]) -> list[Chain]:
    """Chains that make exactly `edits`, canonical ones of one step, in the order of their sites.

    Raises:
        ValueError: if there are none, as a stage has more edits than the one before has parts.
    """
    by_site: dict[Site, list[Intervention]] = {}
    for e in edits:
        by_site.setdefault(e.site, []).append(e)
    return [chain for site, found in by_site.items() for chain in _of_site(site, found)]


def _of_site(site: Site, edits: Sequence[Intervention]) -> list[Chain]:
    last = max(e.stage for e in edits)
    behind: list[_Tail] = []
    """Chains from their ends: edits of the stages so far, last first, and the headers that they allow."""
    for stage in range(last, -1, -1):
        here = _groups([e for e in edits if e.stage == stage], merge=stage > 0)
        atoms = [(i, atom) for i, group in enumerate(here) for e in group for atom in _atoms(e)] if behind else []
        chosen = _matching(behind, atoms)
        if chosen is None:
            raise ValueError(f"the stages of the edits at {site} have no text: a `then` has nothing before it")
        takers: dict[int, list[tuple[int, Intervention]]] = {}
        for chain, a in enumerate(chosen):
            takers.setdefault(atoms[a][0], []).append((chain, atoms[a][1]))
        for i, group in enumerate(here):
            (chain, _), *others = takers.get(i, [(-1, group[0])])
            rest = _without(group, [atom for _, atom in others])
            if chain < 0:
                behind.append(([rest], set.intersection(*map(_headers, rest))))
            for c, taken in [*((c, (atom,)) for c, atom in others), *([(chain, rest)] if chain >= 0 else [])]:
                behind[c][0].append(taken)
                behind[c][1].intersection_update(*map(_headers, taken))
    found = []
    for groups, headers in behind:
        header = min(headers)
        node = next((p for g in groups for e in g for p in e.positions if format_node(p) == header), None)
        found.append(Chain(tuple(reversed(groups)), node if header else None))
    return found


def _headers(e: Intervention) -> set[str]:
    """What may stand in the header of an edit with these positions; "" is nothing."""
    texts = {format_node(p) for p in e.positions}
    return texts if len(e.positions) > 1 else texts | {""}


def _divisible(e: Intervention) -> bool:
    together = e.op in ("keep", "apply") or isinstance(e.features, str)
    return e.part in ("features", "heads", "coordinates") and not together


def _atoms(e: Intervention) -> list[Intervention]:
    """The smallest edits that add up to `e`."""
    if not _divisible(e):
        return [e]
    return [replace(e, features=(f,)) for f in e.features if isinstance(f, int)]


def _without(group: Group, taken: Iterable[Intervention]) -> Group:
    """What is left of a group: at least one atom, as each chain takes another."""
    gone = {(e.dictionary, e.features) for e in taken}
    left = []
    for e in group:
        atoms = [a for a in _atoms(e) if (a.dictionary, a.features) not in gone]
        if len(atoms) == len(_atoms(e)):
            left.append(e)
        elif atoms:
            left.append(replace(e, features=tuple(f for a in atoms for f in a.features if isinstance(f, int))))
    return tuple(left)


def _groups(edits: Sequence[Intervention], merge: bool) -> list[Group]:
    """Edits of one stage; with `merge`, those of several dictionaries that one text says are one."""
    found: dict[Hashable, list[Intervention]] = {}
    for e in edits:
        alike = merge and e.part == "features" and _divisible(e)
        key = edit_key(replace(e, dictionary=None)) if alike else (edit_key(e), str(e.features))
        found.setdefault(key, []).append(e)
    return [tuple(g) for g in found.values()]


def _matching(behind: Sequence[_Tail], atoms: Sequence[tuple[int, Intervention]]) -> list[int] | None:
    """An atom for each chain, whose header suits it, none twice; None if there are too few (augmenting paths).

    Of those that suit, the one of the same features that leaves the most headers goes first: most chains are of one
    feature at one place.
    """
    headers = [_headers(atom) for _, atom in atoms]
    alike: dict[Hashable, list[int]] = {}
    for i, (_, atom) in enumerate(atoms):
        alike.setdefault(_what(atom), []).append(i)
    taken: dict[int, int] = {}

    def suiting(chain: int) -> Iterator[int]:
        groups, allowed = behind[chain]
        same = [i for e in groups[-1] for atom in _atoms(e) for i in alike.get(_what(atom), ())]
        yield from sorted((i for i in same if allowed & headers[i]), key=lambda i: -len(allowed & headers[i]))
        fit = [i for i in range(len(atoms)) if allowed & headers[i]]
        yield from sorted(fit, key=lambda i: -len(allowed & headers[i]))

    def place(chain: int, seen: set[int]) -> bool:
        for i in suiting(chain):
            if i not in seen:
                seen.add(i)
                if i not in taken or place(taken[i], seen):
                    taken[i] = chain
                    return True
        return False

    def free(chain: int) -> bool:
        found = next((i for i in suiting(chain) if i not in taken), None)
        if found is not None:
            taken[found] = chain
        return found is not None

    order = sorted(range(len(behind)), key=lambda c: len(behind[c][1]))
    if not all(free(c) or place(c, set()) for c in order):
        return None
    by_chain = {c: i for i, c in taken.items()}
    return [by_chain[c] for c in range(len(behind))]


def _what(e: Intervention) -> Hashable:
    """What an edit is of, wherever it acts."""
    return (e.dictionary, e.part, e.direction, e.features)
