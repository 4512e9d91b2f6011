"""Circuits of edges: run against masks that are written by hand, through JSON, and on a circuit that is known."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from saedsl.circuits.discover import discover
from saedsl.circuits.edge_circuit import edges_of, run_edges
from saedsl.circuits.edge_task import EdgeTask, edge_task, logit_difference
from saedsl.circuits.edges import ig_contexts, ig_mask
from saedsl.circuits.graph import CircuitGraph
from saedsl.circuits.known import KNOWN, prompts
from saedsl.circuits.node import Node
from saedsl.circuits.store import from_json, to_json
from saedsl.errors import CircuitError

CLEAN, CORRUPT = mx.array([[3, 1, 4, 1], [2, 7, 1, 8]]), mx.array([[3, 5, 4, 1], [2, 7, 6, 8]])


@pytest.fixture(scope="module")
def task(bare: Callable[..., nn.Module]) -> EdgeTask:
    return edge_task(bare("qwen3"), CLEAN, logit_difference([5, 6], [7, 8]), corrupt=CORRUPT)


def test_all_edges_are_the_model(task: EdgeTask) -> None:
    whole = ig_mask(task, 2).graph()
    for _, v, data in whole.edges(data=True):
        if v.kind == "head":
            data |= {"q": 1.0, "k": 1.0, "v": 1.0}
    assert edges_of(whole, task.wiring) == set(task.wiring.edges)
    run = run_edges(whole, task)
    assert run.edges == run.of == len(task.wiring.edges)
    assert run.faithfulness == pytest.approx(1, abs=1e-5)
    assert run.completeness == pytest.approx(0, abs=1e-5)
    assert run.circuit == pytest.approx(run.whole, abs=1e-5)
    assert run.rest == pytest.approx(run.nothing, abs=1e-5)


def test_a_part_is_what_the_mask_of_its_edges_does(task: EdgeTask) -> None:
    """Every part of an edge to a head that the graph has; parts of weight 0 are not in it."""
    w = task.wiring
    graph = ig_mask(task, 4).graph()
    small = discover(graph, budget=5, method="top")
    head = next((u, v) for u, v in small.edges if v.kind == "head")
    small.edges[head]["k"] = 0.0
    small = from_json(to_json(small))
    mask = np.ones(w.shape)
    for u, v, data in small.edges(data=True):
        for r, reader in enumerate(w.readers):
            part = reader.split(".")[2] if ".attn." in reader else ""
            reads = w.sources.index(v) in w.owners(r) if v.kind != "logit" else reader == "logits"
            if reads and (not part or data[part]):
                mask[r, w.sources.index(u)] = 0
    run = run_edges(small, task)
    assert 0 < run.edges == int((mask == 0).sum()) < run.of
    assert run.circuit == pytest.approx(task.base - task.effects(mask[None])[0], abs=1e-6)
    assert run.rest == pytest.approx(task.base - task.effects(1 - mask[None])[0], abs=1e-6)


@pytest.mark.parametrize("name", ["induction", "lookup", "either", "cancel"])
def test_known_circuits_are_faithful_and_complete_on_other_prompts(name: str) -> None:
    model = KNOWN[name](vocab=9, seed=0)
    found = ig_contexts(prompts(model, n=16, seed=0).task("resample"))
    circuit = found.graph(least=0.01 * np.abs(found.values).max())
    run = run_edges(from_json(to_json(circuit)), prompts(model, n=16, seed=1).task("resample"))
    assert run.edges < run.of
    assert run.faithfulness == pytest.approx(1, abs=0.02)
    assert abs(run.completeness) < 0.1


def test_what_the_model_does_not_have_is_refused(task: EdgeTask) -> None:
    def joined(u: Node, v: Node) -> CircuitGraph:
        graph = CircuitGraph()
        for node in (u, v):
            graph.add_typed_node(node)
        graph.add_typed_edge(u, v, 1.0, "flow")
        return graph

    head, logits = Node.of("head", "L0.attn", 0), Node.of("logit", "logits")
    for graph, message in (
        (CircuitGraph(), "the circuit has no edges"),
        (joined(Node.of("feature", "L0.mlp", 3), logits), "L0.mlp.f3 is no source of this model; they are embed to"),
        (joined(head, Node.of("head", "L1.attn", 99)), "this model has no edge from L0.attn.h0 to L1.attn.h99"),
        (joined(head, Node.of("mlp", "L7.mlp")), "this model has no edge from L0.attn.h0 to L7.mlp"),
    ):
        with pytest.raises(CircuitError) as caught:
            run_edges(graph, task)
        assert message in str(caught.value)
