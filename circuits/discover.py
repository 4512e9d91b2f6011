"""A graph and a budget -> the circuit: which nodes (or edges) are kept. Knows graphs and scores, not models.

`threshold`, `top` and `influence` read the graph alone; `greedy` and `acdc` measure candidates with `evaluate`, a
function of the caller: how far circuits are from what the whole model does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeVar, get_args

import numpy as np

from saedsl.circuits.graph import CircuitGraph, Kind, Node, edges, nodes
from saedsl.circuits.influence import influence, normalised
from saedsl.errors import CircuitError

Method = Literal["top", "threshold", "influence", "greedy", "acdc"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
ENDS: Final[tuple[Kind, ...]] = ("embedding", "logit")
"""Where a circuit begins and ends; always kept, never counted."""

Edge = tuple[Node, Node]
T = TypeVar("T")
Evaluate = Callable[[Sequence[Sequence[Node]]], Sequence[float]]
"""Sets of nodes -> for each how far it is from the whole model's behaviour: 0 is perfect, less is better."""
EvaluateEdges = Callable[[Sequence[Sequence[Edge]]], Sequence[float]]


def discover(
    graph: CircuitGraph,
    *,
    budget: int | float | None = None,
    threshold: float | None = None,
    method: Method = "top",
    evaluate: Evaluate | None = None,
    edge_threshold: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> CircuitGraph:
    """The part of `graph` that is the circuit. Tokens and logits stay, and are not counted.

    * `top`: the `budget` nodes of largest |score|.
    * `threshold`: every node with |score| >= `threshold`.
    * `influence`: the nodes with most influence on the logits along edges: `budget` of them, or the fewest that have
      the share `threshold` of all influence (Ameisen et al. 2025).
    * `greedy`: nodes by |score|, in halving blocks; a block joins if `evaluate` falls, until `budget` are in. Then
      those leave whose absence does not raise it.
    * `acdc`: from the last node to the first, each leaves whose absence raises `evaluate` by less than `threshold`
      (Conmy et al. 2023, arXiv:2304.14997).

    Args:
        graph: scored nodes, perhaps with edges.
        budget: nodes at most: a whole number, or a float up to 1 for a share of all.
        threshold: see the methods.
        method: one of `METHODS`.
        evaluate: of `greedy` and `acdc`.
        edge_threshold: edges of smaller |weight| are left out.
        progress: called with (candidates seen, candidates).

    Returns:
        A part of the graph; its `meta.method` says how it was chosen. Scores of the whole graph are dropped.

    Raises:
        CircuitError: if the graph has no nodes to choose from, the budget is 0 or more than there is, or the method
            lacks what it needs.
    """
    if method not in METHODS:
        raise CircuitError(f"method is {method!r}; it can be {', '.join(METHODS)}")
    if not 0 <= edge_threshold < math.inf:
        raise CircuitError(f"edge_threshold is {edge_threshold!r}, not a number from 0")
    scores = {node: float(data["score"]) for node, data in nodes(graph) if node.kind not in ENDS}
    if not scores:
        raise CircuitError("the graph has no nodes besides tokens and logits: there is nothing to choose from")
    for node, score in scores.items():
        if not math.isfinite(score):
            raise CircuitError(f"node {node}: its score is {score!r}; nothing can be chosen by it")
    n = None if budget is None else counted(budget, len(scores))
    _fits(method, n, threshold, evaluate)
    ordered = sorted(scores, key=lambda node: (-abs(scores[node]), node))
    match method:
        case "top":
            kept = ordered[:n]
        case "threshold":
            kept = [node for node in ordered if abs(scores[node]) >= (threshold or 0.0)]
            if not kept:
                raise CircuitError(f"no node has |score| >= {threshold:g}; the largest is {abs(scores[ordered[0]]):g}")
        case "influence":
            kept = _by_influence(graph, list(scores), n, threshold)
        case "greedy":
            assert evaluate is not None
            assert n is not None
            kept = _greedy(ordered, n, evaluate, progress)
        case _:
            assert evaluate is not None
            assert threshold is not None
            kept = _acdc(sorted(scores, reverse=True), threshold, evaluate, progress)
    ends = [node for node in graph if node.kind in ENDS]
    found = graph.part([*kept, *ends])
    found.remove_edges_from([(u, v) for u, v, data in edges(found) if abs(data["weight"]) < edge_threshold])
    how = f"{method} {len(kept)} of {len(scores)}"
    before = graph.meta.method
    found.graph["meta"] = replace(found.meta, method=f"{before}; {how}" if before else how, scores={})
    return found


def prune_edges(
    graph: CircuitGraph,
    evaluate: EvaluateEdges,
    threshold: float,
    progress: Callable[[int, int], None] | None = None,
) -> CircuitGraph:
    """ACDC on edges: from the last target to the first, each edge leaves whose absence raises `evaluate` by less.

    Nodes that no path to a logit goes through leave too, where there are logits.

    Raises:
        CircuitError: if there are no edges, or `threshold` is impossible.
    """
    if not 0 < threshold < math.inf:
        raise CircuitError(f"threshold is {threshold!r}, not a number above 0")
    listed = edges(graph)
    if not listed:
        raise CircuitError("the graph has no edges to prune")
    weakest_first = sorted(listed, key=lambda e: abs(e[2]["weight"]))
    candidates = [(u, v) for u, v, _ in sorted(weakest_first, key=lambda e: e[1].order, reverse=True)]
    kept = set(_acdc(candidates, threshold, evaluate, progress))
    found: CircuitGraph = graph.copy()
    found.remove_edges_from([edge for edge in candidates if edge not in kept])
    goals = [node for node in found if node.kind == "logit"]
    if goals:
        alive, front = set(goals), list(goals)
        while front:
            front = [u for v in front for u in found.predecessors(v) if u not in alive and not alive.add(u)]  # type: ignore[func-returns-value]
        found = found.part([node for node in found if node in alive or node.kind in ENDS])
    found.graph["meta"] = replace(
        found.meta, method=f"{graph.meta.method}; acdc {len(kept)} of {len(candidates)} edges".lstrip("; "), scores={}
    )
    return found


def counted(budget: int | float, available: int) -> int:
    """Nodes that a budget is.

    Raises:
        CircuitError: if it is 0, negative, no number, or more than there is.
    """
    if isinstance(budget, float) and 0 < budget <= 1:
        return max(1, round(budget * available))
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise CircuitError(
            f"the budget is {budget!r}; it is a number of nodes from 1 to {available}, "
            "or a share above 0.0 and up to 1.0"
        )
    if budget > available:
        raise CircuitError(f"the budget is {budget} nodes; there are {available}")
    return budget


def _fits(method: Method, n: int | None, threshold: float | None, evaluate: Evaluate | None) -> None:
    if method in ("top", "greedy") and n is None:
        raise CircuitError(f"{method} needs a budget: how many nodes the circuit may have")
    if method in ("threshold", "acdc") and threshold is None:
        raise CircuitError(f"{method} needs a threshold")
    if method == "influence" and (n is None) == (threshold is None):
        raise CircuitError("influence needs a budget or a threshold (a share of influence), and not both")
    for name, value, users in (("budget", n, ("top", "greedy", "influence")),
                               ("threshold", threshold, ("threshold", "acdc", "influence"))):  # fmt: skip
        if value is not None and method not in users:
            raise CircuitError(f"{method} does not use a {name}; {', '.join(users)} do")
    if threshold is not None and not 0 < threshold < math.inf:
        raise CircuitError(f"threshold is {threshold!r}, not a number above 0")
    if method in ("greedy", "acdc") and evaluate is None:
        raise CircuitError(f"{method} measures candidates: give evaluate, a function of sets of nodes")


def _by_influence(graph: CircuitGraph, choices: list[Node], n: int | None, threshold: float | None) -> list[Node]:
    if threshold is not None and threshold > 1:
        raise CircuitError(f"threshold is {threshold!r}; of influence it is a share, at most 1")
    listed = [node for node, _ in nodes(graph)]
    place = {node: i for i, node in enumerate(listed)}
    A = np.zeros((len(listed), len(listed)))
    for u, v, data in edges(graph):
        A[place[v], place[u]] = data["weight"]
    weights = np.array(
        [(graph.nodes[v]["token_prob"] or 1.0) if v.kind == "logit" else 0.0 for v in listed], np.float64
    )
    if not weights.any() or not A.any():
        raise CircuitError(
            "influence needs a graph with logits and edges to them; flow_graph and linear graphs have them"
        )
    reach = influence(normalised(A), weights)
    ordered = sorted(choices, key=lambda node: (-reach[place[node]], node))
    if n is not None:
        return ordered[:n]
    sums = np.cumsum([reach[place[node]] for node in ordered])
    return ordered[: int(np.searchsorted(sums, (threshold or 0.0) * sums[-1] * (1 - 1e-12))) + 1]


def _measured(evaluate: Callable[[Sequence[Sequence[Node]]], Sequence[float]], some: Sequence[Node]) -> float:
    value = float(evaluate([list(some)])[0])
    if not math.isfinite(value):
        raise CircuitError(f"evaluate gives {value} for a circuit of {len(some)} nodes; it gives finite numbers")
    return value


def _greedy(ordered: list[Node], n: int, evaluate: Evaluate, progress: Callable[[int, int], None] | None) -> list[Node]:
    """Blocks of falling score; a block that does not help is halved, down to single nodes."""
    kept: list[Node] = []
    loss = _measured(evaluate, kept)
    limit = min(len(ordered), 4 * n)
    block = max(1, n // 4)
    waiting = [ordered[i : i + block] for i in range(0, limit, block)]
    seen = 0
    while waiting and len(kept) < n:
        some = waiting.pop(0)[: n - len(kept)]
        now = _measured(evaluate, [*kept, *some])
        if now < loss:
            kept, loss = [*kept, *some], now
        elif len(some) > 1:
            half = len(some) // 2
            waiting[:0] = [some[:half], some[half:]]
            continue
        seen += len(some)
        if progress is not None:
            progress(min(seen, limit), limit)
    if not kept:
        raise CircuitError("no node brings the circuit nearer to the model: evaluate never falls")
    return _shrunk(kept, loss, evaluate)


def _shrunk(kept: list[Node], loss: float, evaluate: Evaluate) -> list[Node]:
    """Without blocks, from the weakest on, whose absence does not raise the loss."""
    block = max(1, len(kept) // 8)
    while block:
        for start in range(len(kept) - block, -1, -block):
            less = [*kept[:start], *kept[start + block :]]
            if less and (now := _measured(evaluate, less)) <= loss:
                kept, loss = less, now
        block //= 2 if block > 1 else 1
        if block == 1:
            break
    return kept


def _acdc(
    candidates: list[T],
    threshold: float,
    evaluate: Callable[[Sequence[Sequence[T]]], Sequence[float]],
    progress: Callable[[int, int], None] | None,
) -> list[T]:
    kept = list(candidates)
    loss = float(evaluate([kept])[0])
    for i, item in enumerate(candidates):
        less = [other for other in kept if other != item]
        now = float(evaluate([less])[0])
        if not math.isfinite(now):
            raise CircuitError(f"evaluate gives {now} without {item}; it gives finite numbers")
        if now - loss < threshold:
            kept, loss = less, now
        if progress is not None:
            progress(i + 1, len(candidates))
    if not kept:
        raise CircuitError(f"nothing is left at threshold {threshold:g}: no item matters as much; take a smaller one")
    return kept
