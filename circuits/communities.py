"""Communities of features that fire together: Louvain's method (Blondel et al. 2008), as networkx has it."""

from __future__ import annotations

import networkx as nx

from saedsl.circuits.graph import CircuitGraph, Node
from saedsl.errors import CircuitError


def communities(graph: nx.DiGraph, *, resolution: float = 1.0, seed: int = 0) -> tuple[tuple[Node, ...], ...]:
    """Sets of nodes joined more strongly among themselves, the largest first; each node is in one.

    Args:
        graph: edges by `weight`, whatever their direction; those not above 0 are left out.
        resolution: more than 1 for smaller communities.
        seed: of the order in which nodes are looked at.

    Raises:
        CircuitError: if `resolution` is not above 0.
    """
    if not resolution > 0:
        raise CircuitError(f"resolution is {resolution}; it is above 0")
    whole = nx.Graph()
    whole.add_nodes_from(sorted(graph))
    for u, v, weight in graph.edges(data="weight"):
        if weight > 0:
            before = whole.get_edge_data(u, v, {"weight": 0.0})["weight"]
            whole.add_edge(u, v, weight=before + weight)
    found = nx.community.louvain_communities(whole, weight="weight", resolution=resolution, seed=seed)
    return tuple(sorted((tuple(sorted(c)) for c in found if c), key=lambda c: (-len(c), c[0].order)))


def with_communities(graph: CircuitGraph, *, resolution: float = 1.0, seed: int = 0) -> CircuitGraph:
    """A copy whose nodes have the number of their community, from 0 for the largest, as attribute `community`.

    Raises:
        CircuitError: as `communities`.
    """
    other: CircuitGraph = graph.copy()
    for number, members in enumerate(communities(graph, resolution=resolution, seed=seed)):
        for node in members:
            other.nodes[node]["community"] = number
    return other
