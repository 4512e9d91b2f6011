"""The order that graphviz' `dot` gives to nodes that share a row: few crossings."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from typing import Final, Literal

import graphviz
import networkx as nx

from saedsl.circuits.graph import Node, edges, nodes
from saedsl.errors import CircuitError

MOST_NODES: Final = 400
"""Beyond it, `dot` takes minutes: our own sweeps are used."""


def has_dot() -> bool:
    """Whether graphviz is installed."""
    return shutil.which("dot") is not None


def dot_order(graph: nx.DiGraph, row_of: Mapping[Node, int], wanted: Literal["dot", "any"]) -> dict[Node, float] | None:
    """x of every node as `dot` lays the rows out; None where `dot` is missing, or the graph too large for it.

    Raises:
        CircuitError: if `wanted` is `dot` and it is missing.
    """
    if not has_dot():
        if wanted == "dot":
            raise CircuitError("graphviz' dot is not installed: install graphviz, or leave order to saedsl")
        return None
    if len(graph) > MOST_NODES:
        return None
    listed = [node for node, _ in nodes(graph)]
    number = {node: i for i, node in enumerate(listed)}
    rows: dict[int, list[Node]] = defaultdict(list)
    for node in listed:
        rows[row_of[node]].append(node)
    lines = ["digraph {", 'rankdir=BT; node [shape=box, width=.3, height=.3, label=""];']
    for row in sorted(rows):
        lines.append(f"r{row} [style=invis]; {{rank=same; r{row}; {' '.join(f'n{number[n]};' for n in rows[row])}}}")
    lines += [f"r{a} -> r{b} [style=invis];" for a, b in zip(sorted(rows), sorted(rows)[1:], strict=False)]
    for source, target, data in edges(graph):
        free = ", constraint=false" if row_of[source] >= row_of[target] else ""
        lines.append(f"n{number[source]} -> n{number[target]} [weight={1 + min(9, round(abs(data['weight'])))}{free}];")
    drawn = json.loads(graphviz.Source("\n".join([*lines, "}"])).pipe(format="json0", engine="dot"))
    found = {o["name"]: float(o["pos"].split(",")[0]) for o in drawn["objects"] if "pos" in o}
    return {node: found[f"n{number[node]}"] for node in listed}
