"""Circuits as graphs: a `networkx.DiGraph` of typed nodes and edges, with what was measured and how.

Every algorithm of networkx works on a `CircuitGraph` unchanged; its copies, subgraphs and reverses are of its type.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args

import networkx as nx

from saedsl.circuits.node import KINDS, Kind, Node
from saedsl.errors import CircuitError

__all__ = [
    "EDGE_KINDS", "KINDS", "NODE_ATTRIBUTES", "CircuitGraph", "EdgeKind", "Kind", "Meta", "Node", "check",
    "check_meta", "edges", "nodes",
]  # fmt: skip

EdgeKind = Literal["flow", "attribution", "coactivation"]
EDGE_KINDS: Final[tuple[EdgeKind, ...]] = get_args(EdgeKind)

NODE_ATTRIBUTES: Final[dict[str, str]] = {
    "score": "effect on the metric, signed",
    "activation": "value in the prompt",
    "label": "what the node means, any text",
    "influence": "cumulative share of influence on the logits: small is important",
    "token_prob": "probability of a logit's token",
}
"""Attributes that every node has; all but `score` may be None."""
_NODE_FIELDS: Final = tuple(f.name for f in fields(Node))
RESERVED: Final = frozenset({"id", "source", "target", "name", "value", "parent", *_NODE_FIELDS})
"""Names that an attribute may not have: formats give them a meaning of their own."""


@dataclass(frozen=True)
class Meta:
    """What a graph was measured on, and how."""

    model: str = ""
    prompts: tuple[str, ...] = ()
    """Texts; of the clean prompts where there are corrupt ones."""
    tokens: tuple[str, ...] | None = None
    """Text of each position; None for a graph without positions."""
    metric: str = ""
    """Text of the language, e.g. `logit(" Paris") - logit(" Rome")`."""
    ablation: str = ""
    """What ablated nodes become: `zero`, `mean of "texts.txt"`, `resample`."""
    errors: Literal["keep", "remove"] = "keep"
    """What happens to SAE errors outside the circuit."""
    method: str = ""
    plan_id: str | None = None
    """Hash of the plan that was run."""
    created_by: str = "saedsl"
    n_layers: int | None = None
    """Of the model; None where it is not known."""
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    """faithfulness, completeness, error_share and others; finite."""
    supernodes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(label, ids of its nodes); a node is in one at most."""
    notes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Anything else that JSON can hold."""


class CircuitGraph(nx.DiGraph):  # type: ignore[misc]
    """A DiGraph whose nodes are `Node`s with `NODE_ATTRIBUTES`, and whose edges have `weight` and `kind`.

    `graph["meta"]` is its `Meta`. Further attributes are text, whole numbers, floats or bools.
    """

    @property
    def meta(self) -> Meta:
        """What it was measured on; an empty `Meta` where none was given."""
        meta = self.graph.get("meta")
        return meta if isinstance(meta, Meta) else Meta()

    def add_typed_node(
        self,
        node: Node,
        score: float = 0.0,
        *,
        activation: float | None = None,
        label: str | None = None,
        influence: float | None = None,
        token_prob: float | None = None,
        **extra: str | float | bool,
    ) -> None:
        """Add a node, or replace its attributes.

        Raises:
            CircuitError: if a number is not finite, or an attribute has a reserved name or a type that is not stored.
        """
        known = {"activation": activation, "influence": influence, "token_prob": token_prob}
        attributes = {
            "score": _number(score),
            "label": label,
            **{name: None if value is None else _number(value) for name, value in known.items()},
            **extra,
        }
        _raise(_node_problem(node, attributes))
        self.add_node(node)
        self._node[node].clear()
        self._node[node].update(attributes)

    def add_typed_edge(
        self, source: Node, target: Node, weight: float, kind: EdgeKind, **extra: str | float | bool
    ) -> None:
        """Add an edge between nodes that are there, or replace its attributes.

        Raises:
            CircuitError: if a node is not there, the weight is not finite, the kind unknown, or a flow or attribution
                edge does not go forward.
        """
        for node in (source, target):
            if node not in self:
                raise CircuitError(f"edge {source} -> {target}: {node} is not in the graph; add it first")
        attributes = {"weight": _number(weight), "kind": kind, **extra}
        _raise(_edge_problem(source, target, attributes))
        self.add_edge(source, target)
        self._adj[source][target].clear()
        self._adj[source][target].update(attributes)

    def with_meta(self, meta: Meta) -> CircuitGraph:
        """A copy with another `meta`."""
        other: CircuitGraph = self.copy()
        other.graph["meta"] = meta
        return other

    def part(self, kept: Iterable[Node]) -> CircuitGraph:
        """A copy of the nodes `kept` and the edges between them; supernodes lose their other members."""
        other: CircuitGraph = self.subgraph(kept).copy()
        ids = {node.id for node in other}
        inside = [(label, tuple(m for m in members if m in ids)) for label, members in self.meta.supernodes]
        other.graph["meta"] = replace(self.meta, supernodes=tuple(s for s in inside if s[1]))
        return other

    def to_dsl(self) -> str:
        """The circuit as a program that keeps it alone: its features, the prompts it was found on, its metric.

        `saedsl.circuits.dsl.to_program` has the files of prompts that the text names, and writes them beside it.

        Raises:
            CircuitError: if it has no features, other nodes than a program can keep, or does not say its prompts.
        """
        from saedsl.circuits.dsl import to_dsl

        return to_dsl(self)


def nodes(graph: nx.DiGraph) -> list[tuple[Node, dict[str, Any]]]:
    """(node, attributes), in the order of the forward."""
    return sorted(graph.nodes(data=True), key=lambda pair: pair[0].order)


def edges(graph: nx.DiGraph) -> list[tuple[Node, Node, dict[str, Any]]]:
    """(source, target, attributes), in the order of the forward."""
    place = {node: i for i, (node, _) in enumerate(nodes(graph))}
    return sorted(graph.edges(data=True), key=lambda edge: (place[edge[0]], place[edge[1]]))


def check(graph: nx.DiGraph) -> None:
    """Raise if `graph` is not a circuit.

    Raises:
        CircuitError: naming the first node, edge or part of `meta` that is wrong: numbers that are not finite, unknown
            kinds, flow or attribution edges that do not go forward, positions beyond the tokens, supernodes of nodes
            that are not there.
    """
    for node, attributes in graph.nodes(data=True):
        if not isinstance(node, Node):
            raise CircuitError(f"node {node!r} is a {type(node).__name__}, not a Node")
        missing = [name for name in NODE_ATTRIBUTES if name not in attributes]
        _raise(f"node {node}: no {missing[0]}; use add_typed_node" if missing else _node_problem(node, attributes))
    for source, target, attributes in graph.edges(data=True):
        missing = [name for name in ("weight", "kind") if name not in attributes]
        where = f"edge {source} -> {target}"
        _raise(
            f"{where}: no {missing[0]}; use add_typed_edge" if missing else _edge_problem(source, target, attributes)
        )
    check_meta(graph)


def check_meta(graph: nx.DiGraph) -> None:
    """Raise if the `Meta` of `graph` is missing, wrong, or does not fit its nodes.

    Raises:
        CircuitError: naming the part.
    """
    meta = graph.graph.get("meta")
    if not isinstance(meta, Meta):
        raise CircuitError('the graph says not what it was measured on: set graph.graph["meta"] to a Meta')
    _raise(_meta_problem(meta, graph))


def _number(value: Any) -> Any:
    """Python's own float for a number, numpy's and others' scalars included; anything else as it is."""
    value = value.item() if hasattr(value, "item") else value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _raise(problem: str) -> None:
    if problem:
        raise CircuitError(problem)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _node_problem(node: Node, attributes: Mapping[str, Any]) -> str:
    for name, value in attributes.items():
        if name == "label":
            if value is not None and not isinstance(value, str):
                return f"node {node}: label is {value!r}, not text"
        elif name in NODE_ATTRIBUTES:
            if not _finite(value) and (value is not None or name == "score"):
                return f"node {node}: {name} is {value!r}, not a finite number"
        elif problem := _extra_problem(name, value):
            return f"node {node}: {problem}"
    return ""


def _edge_problem(source: Node, target: Node, attributes: Mapping[str, Any]) -> str:
    problem = _edge_fault(source, target, attributes)
    return f"edge {source} -> {target}: {problem}" if problem else ""


def _edge_fault(source: Node, target: Node, attributes: Mapping[str, Any]) -> str:
    if not _finite(attributes["weight"]):
        return f"weight is {attributes['weight']!r}, not a finite number"
    if attributes["kind"] not in EDGE_KINDS:
        return f"kind is {attributes['kind']!r}; it can be {', '.join(EDGE_KINDS)}"
    if source == target:
        return "a node has no edge to itself"
    if attributes["kind"] != "coactivation":
        if source.depth >= target.depth:
            return f"goes against the forward, which computes {target} no later than {source}"
        if source.position is not None and target.position is not None and source.position > target.position:
            return f"goes back from position {source.position} to {target.position}"
    for name, value in attributes.items():
        if name not in ("weight", "kind") and (problem := _extra_problem(name, value)):
            return problem
    return ""


def _extra_problem(name: str, value: Any) -> str:
    if name in RESERVED:
        return f"an attribute cannot be called {name!r}"
    if not isinstance(value, str | int | float | bool):
        return f"{name} is a {type(value).__name__}; attributes are text, whole numbers, floats or bools"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} is {value!r}, not a finite number"
    return ""


def _meta_problem(meta: Meta, graph: nx.DiGraph) -> str:
    if meta.errors not in ("keep", "remove"):
        return f"meta: errors is {meta.errors!r}; it can be keep or remove"
    for name, value in meta.scores.items():
        if not _finite(value):
            return f"meta: score {name} is {value!r}, not a finite number"
    try:
        json.dumps(meta.notes, allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"meta: notes cannot be written as JSON: {error}"
    length = None if meta.tokens is None else len(meta.tokens)
    for node in graph:
        if node.position is not None and length is not None and node.position >= length:
            return f"node {node}: there are {length} tokens, so the last position is {length - 1}"
    return _supernode_problem(meta, {node.id for node in graph})


def _supernode_problem(meta: Meta, ids: set[str]) -> str:
    owner: dict[str, str] = {}
    for label, members in meta.supernodes:
        for member in members:
            if member not in ids:
                return f"supernode {label!r}: {member} is not in the graph; graph.part(nodes) takes it out"
            if member in owner:
                return f"supernode {label!r}: {member} is in {owner[member]!r} already"
            owner[member] = label
    return ""
