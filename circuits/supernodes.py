"""Groups of nodes that are read as one: proposed from co-activation and decoders, then edited by whoever knows better.

A proposal is a start: labels are those of the strongest member. Groups are in `Meta.supernodes` and in every export.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import networkx as nx
import numpy as np

from saedsl.circuits.communities import communities
from saedsl.circuits.graph import CircuitGraph, Node
from saedsl.errors import CircuitError


def propose_supernodes(
    graph: CircuitGraph,
    *,
    coactivation: nx.DiGraph | None = None,
    decoders: Mapping[str, np.ndarray] | None = None,
    least_similarity: float = 0.5,
    across_positions: bool = False,
    resolution: float = 1.0,
    seed: int = 0,
) -> CircuitGraph:
    """A copy whose supernodes are groups of features that fire together or write alike.

    Features of one site and position (`across_positions`: of one site) are joined by the cosine of their decoder
    directions where it is at least `least_similarity`, and by the weight of co-activation where it is above 0; groups
    are communities of that graph. Groups of one are none; nodes that are in a group already stay there.

    Args:
        graph: the circuit.
        coactivation: a graph of features without positions, as `coactivation_graph` makes it.
        decoders: site -> [d_sae, d_out] decoder directions.
        least_similarity: cosine from which on two features are alike.
        across_positions: whether a feature's nodes at several positions can be in one group.
        resolution: more than 1 for smaller groups.
        seed: of Louvain's order.

    Raises:
        CircuitError: if neither source is given, or a number is impossible.
    """
    if coactivation is None and decoders is None:
        raise CircuitError("supernodes are proposed from coactivation=, decoders=, or both; neither is given")
    if not -1 <= least_similarity <= 1:
        raise CircuitError(f"least_similarity is {least_similarity!r}, not a cosine")
    taken = {member for _, members in graph.meta.supernodes for member in members}
    free = [n for n in sorted(graph) if n.kind in ("feature", "transcoder") and n.id not in taken]
    joined = nx.DiGraph()
    joined.add_nodes_from(free)
    places: dict[tuple[str, int | None], list[Node]] = {}
    for node in free:
        places.setdefault((node.site, None if across_positions else node.position), []).append(node)
    for (site, _), several in places.items():
        cosines = _cosines(decoders.get(site) if decoders else None, several)
        for i, u in enumerate(several):
            for k, v in enumerate(several[:i]):
                weight = float(cosines[i, k]) if cosines[i, k] >= least_similarity else 0.0
                if u.index == v.index:
                    weight = 1.0
                if coactivation is not None:
                    weight += max(0.0, _weight(coactivation, u, v))
                if weight > 0:
                    joined.add_edge(u, v, weight=weight)
    groups = [c for c in communities(joined, resolution=resolution, seed=seed) if len(c) > 1]
    named = tuple((_label(graph, c), tuple(node.id for node in c)) for c in groups)
    return _with(graph, (*graph.meta.supernodes, *_distinct(named, {label for label, _ in graph.meta.supernodes})))


def group(graph: CircuitGraph, label: str, members: Iterable[Node | str]) -> CircuitGraph:
    """A copy in which these nodes are one supernode; they leave those that they were in.

    Raises:
        CircuitError: if one is not in the graph, there is none, or the label is taken by others.
    """
    chosen = dict.fromkeys(m if isinstance(m, Node) else Node.parse(m) for m in members)
    if not chosen:
        raise CircuitError(f"supernode {label!r} has no nodes")
    for node in chosen:
        if node not in graph:
            raise CircuitError(f"supernode {label!r}: {node} is not in the graph")
    ids = {node.id for node in chosen}
    left = [(name, tuple(m for m in old if m not in ids)) for name, old in graph.meta.supernodes]
    left = [entry for entry in left if entry[1]]
    if any(name == label for name, _ in left):
        raise CircuitError(f"there is a supernode {label!r} with other nodes: ungroup it, or choose another label")
    return _with(graph, (*left, (label, tuple(node.id for node in chosen))))


def ungroup(graph: CircuitGraph, label: str) -> CircuitGraph:
    """A copy without that supernode; its nodes stay.

    Raises:
        CircuitError: if there is none of that label.
    """
    _there(graph, label)
    return _with(graph, tuple(s for s in graph.meta.supernodes if s[0] != label))


def rename(graph: CircuitGraph, label: str, new: str) -> CircuitGraph:
    """A copy in which the supernode is called `new`.

    Raises:
        CircuitError: if there is none of that label, or one of the new.
    """
    _there(graph, label)
    if any(name == new for name, _ in graph.meta.supernodes):
        raise CircuitError(f"there is a supernode {new!r} already")
    return _with(graph, tuple((new if name == label else name, members) for name, members in graph.meta.supernodes))


def merged(graph: CircuitGraph) -> nx.DiGraph:
    """A plain graph in which each supernode is one node: scores and weights add up; keys are labels and ids.

    Edges inside a supernode are left out.
    """
    owner = {member: label for label, members in graph.meta.supernodes for member in members}
    found = nx.DiGraph()
    for node, data in sorted(graph.nodes(data=True)):
        name = owner.get(node.id, node.id)
        score = found.nodes[name]["score"] if name in found else 0.0
        found.add_node(name, score=score + data["score"])
    for u, v, data in graph.edges(data=True):
        a, b = owner.get(u.id, u.id), owner.get(v.id, v.id)
        if a != b:
            before = found.get_edge_data(a, b, {"weight": 0.0})["weight"]
            found.add_edge(a, b, weight=before + data["weight"])
    return found


def _cosines(decoder: np.ndarray | None, nodes: list[Node]) -> np.ndarray:
    if decoder is None:
        return np.full((len(nodes), len(nodes)), -2.0)
    rows = np.asarray(decoder, np.float64)[[node.index or 0 for node in nodes]]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    found: np.ndarray = rows @ rows.T
    return found


def _weight(coactivation: nx.DiGraph, u: Node, v: Node) -> float:
    a, b = replace(u, position=None), replace(v, position=None)
    for ends in ((a, b), (b, a)):
        if coactivation.has_edge(*ends):
            return float(coactivation.edges[ends]["weight"])
    return 0.0


def _label(graph: CircuitGraph, members: tuple[Node, ...]) -> str:
    strongest = max(members, key=lambda node: (abs(graph.nodes[node]["score"]), node.id))
    return str(graph.nodes[strongest]["label"] or strongest.id)


def _distinct(
    named: tuple[tuple[str, tuple[str, ...]], ...], taken: set[str]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found = []
    for label, members in named:
        name, i = label, 2
        while name in taken:
            name, i = f"{label} ({i})", i + 1
        taken.add(name)
        found.append((name, members))
    return tuple(found)


def _there(graph: CircuitGraph, label: str) -> None:
    if all(name != label for name, _ in graph.meta.supernodes):
        known = ", ".join(repr(name) for name, _ in graph.meta.supernodes) or "none"
        raise CircuitError(f"there is no supernode {label!r}; there are {known}")


def _with(graph: CircuitGraph, supernodes: tuple[tuple[str, tuple[str, ...]], ...]) -> CircuitGraph:
    return graph.with_meta(replace(graph.meta, supernodes=supernodes))
