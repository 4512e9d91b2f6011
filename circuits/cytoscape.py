"""Cytoscape's JSON (`.cyjs`), for Cytoscape and cytoscape.js: supernodes are parents of their nodes."""

from __future__ import annotations

import json
from typing import Any

import networkx as nx

from saedsl.circuits.colours import GLYPHS, hexadecimal
from saedsl.circuits.graph import CircuitGraph, check, edges, nodes
from saedsl.circuits.layout import layout
from saedsl.circuits.store import build, dumps, edge_to_dict, meta_to_dict, node_to_dict
from saedsl.errors import CircuitError


def to_cytoscape(graph: nx.DiGraph) -> str:
    """`graph` as Cytoscape JSON; `networkx.cytoscape_graph(json.loads(text))` reads it.

    Raises:
        CircuitError: if `graph` is not a circuit.
    """
    check(graph)
    meta = graph.graph["meta"]
    parents = {member: f"supernode {i}" for i, (_, members) in enumerate(meta.supernodes) for member in members}
    listed: list[dict[str, Any]] = [
        {"data": {"id": f"supernode {i}", "value": f"supernode {i}", "name": label, "supernode": True}}
        for i, (label, _) in enumerate(meta.supernodes)
    ]
    places = layout(graph, "own").places
    most = max((abs(data["score"]) for _, data in nodes(graph)), default=0.0) or 1.0
    for node, data in nodes(graph):
        values = {**node_to_dict(node, data), "value": node.id, "name": data["label"] or node.id}
        if node.id in parents:
            values["parent"] = parents[node.id]
        x, y = places[node]
        style = {"shape": GLYPHS[node.kind], "background-color": hexadecimal(data["score"] / most)}
        listed.append({"data": values, "position": {"x": 60 * x, "y": -60 * y}, "style": style})
    joined = [{"data": {"id": f"{u.id} -> {v.id}", **edge_to_dict(u, v, data)}} for u, v, data in edges(graph)]
    whole = {
        "data": {"name": meta.model, "meta": meta_to_dict(meta)},
        "directed": True,
        "multigraph": False,
        "elements": {"nodes": listed, "edges": joined},
    }
    return dumps(whole)


def from_cytoscape(text: str) -> CircuitGraph:
    """The graph that `to_cytoscape` wrote.

    Raises:
        CircuitError: if `text` is not such a graph.
    """
    try:
        read = json.loads(text)
        listed = [entry["data"] for entry in read["elements"]["nodes"] if "supernode" not in entry["data"]]
        joined = [entry["data"] for entry in read["elements"]["edges"]]
        return build(
            read["data"]["meta"],
            [_without(d, "value", "name", "parent") for d in listed],
            [_without(d, "id") for d in joined],
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CircuitError(f"not Cytoscape JSON of a circuit: {type(error).__name__} {error}") from None


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
