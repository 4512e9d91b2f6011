"""Choosing circuits from graphs: every method against a brute-force or hand-made answer, and every refusal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from saedsl.circuits.discover import METHODS, counted, discover, prune_edges
from saedsl.circuits.graph import CircuitGraph, Meta, Node, check
from saedsl.errors import CircuitError

SCORES = {"L0.mlp.f1@1": 3.0, "L0.mlp.f2@1": -2.0, "L1.mlp.f3@2": 1.0, "L1.mlp.error@2": 0.5, "L1.mlp.f4@2": 0.0}
LOGIT = Node.of("logit", "logits", None, 2)


def graph(scores: dict[str, float] = SCORES) -> CircuitGraph:
    g = CircuitGraph(meta=Meta(method="atp", scores={"faithfulness": 0.5}))
    for name, score in scores.items():
        g.add_typed_node(Node.parse(name), score=score)
    g.add_typed_node(LOGIT, score=1.0)
    g.add_typed_node(Node.of("embedding", "embed", 7, 0))
    return g


def named(g: CircuitGraph) -> set[str]:
    return {n.id for n in g if n.kind not in ("logit", "embedding")}


def flow() -> CircuitGraph:
    g = graph({"L0.mlp.f1@1": 1.0, "L0.mlp.f2@1": 9.0, "L1.mlp.f3@2": 2.0})
    a, b, c = (Node.parse(t) for t in ("L0.mlp.f1@1", "L0.mlp.f2@1", "L1.mlp.f3@2"))
    g.add_typed_edge(a, c, 3.0, "flow")
    g.add_typed_edge(b, c, -1.0, "flow")
    g.add_typed_edge(c, LOGIT, 2.0, "flow")
    g.add_typed_edge(b, LOGIT, 0.5, "flow")
    return g


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"budget": 2}, {"L0.mlp.f1@1", "L0.mlp.f2@1"}),
        ({"budget": 0.2}, {"L0.mlp.f1@1"}),
        ({"budget": 1.0}, set(SCORES)),
        ({"threshold": 1.0, "method": "threshold"}, {"L0.mlp.f1@1", "L0.mlp.f2@1", "L1.mlp.f3@2"}),
    ],
)
def test_the_strongest_nodes_are_kept_with_tokens_and_logits(options: dict[str, Any], kept: set[str]) -> None:
    whole = graph()
    found = discover(whole, **options)
    check(found)
    assert named(found) == kept
    assert {n.kind for n in found} >= {"logit", "embedding"}
    assert found.meta.method == f"atp; {options.get('method', 'top')} {len(kept)} of 5"
    assert found.meta.scores == {}
    assert whole.meta.scores == {"faithfulness": 0.5}


def test_influence_follows_edges_not_scores() -> None:
    # f3 has 0.8 of the logit's input and hands 0.75 of it to f1; f2 gets the rest: .2 + .8 * .25
    found = discover(flow(), method="influence", budget=2)
    assert named(found) == {"L1.mlp.f3@2", "L0.mlp.f1@1"}
    assert named(discover(flow(), method="influence", threshold=0.4)) == {"L1.mlp.f3@2"}
    assert len(named(discover(flow(), method="influence", threshold=1.0))) == 3


def test_weak_edges_are_left_out() -> None:
    found = discover(flow(), budget=3, edge_threshold=1.0)
    assert sorted(abs(w) for _, _, w in found.edges(data="weight")) == [1.0, 2.0, 3.0]


def losses(worth: dict[str, float]) -> Callable[[Sequence[Sequence[Node]]], list[float]]:
    """|1 - sum of what the nodes are worth|."""
    return lambda circuits: [abs(1 - sum(worth.get(n.id, 0.0) for n in c)) for c in circuits]


def test_greedy_takes_the_strong_that_help_and_drops_what_does_not() -> None:
    worth = {"L0.mlp.f1@1": 0.6, "L0.mlp.f2@1": -0.5, "L1.mlp.f3@2": 0.4}  # f2 is strong and harmful
    found = discover(graph(), method="greedy", budget=3, evaluate=losses(worth))
    assert named(found) == {"L0.mlp.f1@1", "L1.mlp.f3@2"}


def test_greedy_reaches_the_best_circuit_of_a_sum() -> None:
    names = [f"L0.mlp.f{i}@1" for i in range(8)]
    worth = {name: 0.5 if i in (1, 6) else 0.0 for i, name in enumerate(names)}
    evaluate = losses(worth)
    found = discover(graph({n: 8.0 - i for i, n in enumerate(names)}), method="greedy", budget=2, evaluate=evaluate)
    nodes = [Node.parse(n) for n in names]
    best = min(itertools.combinations(nodes, 2), key=lambda c: evaluate([c])[0])
    assert named(found) == {n.id for n in best}


def test_acdc_drops_from_the_end_what_the_metric_does_not_miss() -> None:
    worth = {"L0.mlp.f1@1": 0.6, "L1.mlp.f3@2": 0.4, "L1.mlp.error@2": 0.01}
    seen: list[tuple[int, int]] = []
    found = discover(
        graph(), method="acdc", threshold=0.05, evaluate=losses(worth), progress=lambda i, n: seen.append((i, n))
    )
    assert named(found) == {"L0.mlp.f1@1", "L1.mlp.f3@2"}
    assert seen[-1] == (5, 5)


def test_acdc_on_edges_keeps_what_the_metric_needs_and_drops_dead_ends() -> None:
    needed = {("L0.mlp.f1@1", "L1.mlp.f3@2"), ("L1.mlp.f3@2", "logits@2")}

    def evaluate(circuits: Sequence[Sequence[tuple[Node, Node]]]) -> list[float]:
        return [float(len(needed - {(u.id, v.id) for u, v in c})) for c in circuits]

    found = prune_edges(flow(), evaluate, 0.5)
    assert {(u.id, v.id) for u, v in found.edges} == needed
    assert named(found) == {"L0.mlp.f1@1", "L1.mlp.f3@2"}  # f2 reaches no logit any more
    with pytest.raises(CircuitError, match="no edges to prune"):
        prune_edges(graph(), evaluate, 0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budget": 0}, "the budget is 0; it is a number of nodes from 1 to 5, or a share above 0.0 and up to 1.0"),
        ({"budget": -1}, "the budget is -1"),
        ({"budget": 6}, "the budget is 6 nodes; there are 5"),
        ({"budget": 1.5}, "the budget is 1.5"),
        ({"budget": True}, "the budget is True"),
        ({"budget": math.nan}, "the budget is nan"),
        ({}, "top needs a budget"),
        ({"method": "threshold"}, "threshold needs a threshold"),
        ({"method": "threshold", "threshold": 99.0}, r"no node has \|score\| >= 99; the largest is 3"),
        ({"method": "threshold", "threshold": math.nan}, "threshold is nan"),
        ({"method": "threshold", "threshold": 1.0, "budget": 2}, "threshold does not use a budget"),
        ({"budget": 2, "threshold": 1.0}, "top does not use a threshold"),
        ({"method": "influence"}, "influence needs a budget or a threshold"),
        ({"method": "influence", "budget": 2}, "influence needs a graph with logits and edges"),
        ({"method": "greedy", "budget": 2}, "greedy measures candidates: give evaluate"),
        ({"method": "best", "budget": 2}, f"method is 'best'; it can be {', '.join(METHODS)}"),
        ({"budget": 2, "edge_threshold": -1.0}, "edge_threshold is -1.0"),
        ({"method": "greedy", "budget": 2, "evaluate": lambda c: [math.nan]}, "evaluate gives nan"),
        ({"method": "greedy", "budget": 2, "evaluate": lambda c: [1.0]}, "evaluate never falls"),
        ({"method": "acdc", "threshold": 9.0, "evaluate": lambda c: [1.0]}, "nothing is left at threshold 9"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(CircuitError, match=says):
        discover(graph(), **options)


def test_an_empty_graph_and_a_score_that_is_nan_are_refused() -> None:
    with pytest.raises(CircuitError, match="there is nothing to choose from"):
        discover(graph({}), budget=1)
    broken = graph()
    broken.nodes[Node.parse("L0.mlp.f1@1")]["score"] = math.nan
    with pytest.raises(CircuitError, match=r"node L0.mlp.f1@1: its score is nan"):
        discover(broken, budget=1)


def test_a_share_of_few_nodes_is_at_least_one() -> None:
    assert counted(0.001, 5) == 1
