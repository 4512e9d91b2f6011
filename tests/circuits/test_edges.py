"""Scores of edges on any Llama-type model, and the graphs that are made of them."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from saedsl.circuits.edge_task import EdgeTask, edge_task, logit_difference
from saedsl.circuits.edges import EdgeScores, eap, eap_ig, exact, greedy, ig_contexts, ig_contexts_nodes, ig_mask
from saedsl.circuits.graph import Meta, check
from saedsl.circuits.node import Node
from saedsl.errors import CircuitError

CLEAN, CORRUPT = mx.array([[3, 1, 4, 1], [2, 7, 1, 8]]), mx.array([[3, 5, 4, 1], [2, 7, 6, 8]])


@pytest.fixture(scope="module")
def task(bare: Callable[..., nn.Module]) -> EdgeTask:
    return edge_task(bare("qwen3"), CLEAN, logit_difference([5, 6], [7, 8]), corrupt=CORRUPT)


def test_the_task_knows_both_ends(task: EdgeTask) -> None:
    model = task.parts.model
    metric = logit_difference([5, 6], [7, 8])
    assert task.base == pytest.approx(metric(model(CLEAN)).mean().item(), abs=1e-5)
    assert task.ablated == pytest.approx(metric(model(CORRUPT)).mean().item(), abs=1e-5)


def test_attribution_is_the_slope_of_small_ablations(task: EdgeTask) -> None:
    """Against exact patching towards outputs that are nearer by a factor of 100."""
    near = task.clean + (task.other - task.clean) / 100
    small = EdgeTask(task.parts, task.embedded, task.clean, near, task.metric, "resample", task.base, task.ablated)
    fast, slow = eap(task).of(task.wiring.edges), 100 * exact(small).of(task.wiring.edges)
    assert np.corrcoef(fast, slow)[0, 1] > 0.999


def test_scores_over_the_mask_sum_to_the_whole_effect(task: EdgeTask) -> None:
    assert ig_mask(task, 100).values.sum() == pytest.approx(task.span, rel=1e-2)


def test_scores_along_the_embeddings_sum_to_the_whole_effect_over_the_edges_that_leave_them(task: EdgeTask) -> None:
    """Each reader's gradient is total, so the embedding's edges have between them all that the path changes."""
    assert eap_ig(task, 100).values[:, 0].sum() == pytest.approx(task.span, rel=1e-2)


def test_where_there_is_no_edge_there_is_no_score(task: EdgeTask) -> None:
    nowhere = np.ones(task.wiring.shape, bool)
    nowhere[tuple(np.array(task.wiring.edges).T)] = False
    for found in (eap(task), ig_mask(task, 2), ig_contexts(task, 2, 2), exact(task), greedy(task)):
        assert (found.values[nowhere] == 0).all(), found.method
        assert np.isfinite(found.values).all()


def test_contexts_are_reproducible_and_differ_by_seed(task: EdgeTask) -> None:
    one, again, other = (ig_contexts(task, 2, 2, seed).values for seed in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()


def test_one_context_of_nodes_is_the_integral_over_their_masks(task: EdgeTask) -> None:
    """With one context, p is 1/2; its scores sum along the diagonal to the change between its two corners."""
    seed, n = 4, task.wiring.shape[1]
    start = (np.random.default_rng(seed).random(n) < 0.5).astype(float)
    ends = np.stack([start, 1 - start])
    ends[:, 0] = 0
    first, last = task.effects(np.broadcast_to(ends[:, None], (2, *task.wiring.shape)))
    found = ig_contexts_nodes(task, 1, 60, seed)
    signed = sum(found[node] * (1 - 2 * start[i]) for i, node in enumerate(task.wiring.sources) if i > 0)
    assert signed == pytest.approx(last - first, rel=1e-2, abs=1e-3)


def test_a_graph_has_heads_mlps_and_the_parts_of_edges(task: EdgeTask) -> None:
    found = exact(task)
    graph = found.graph(Meta(model="tiny", metric="a difference"))
    check(graph)
    w = task.wiring
    assert set(graph) == {*w.sources, Node.of("logit", "logits")}
    assert graph.meta.method == "exact patching of single edges"
    assert graph.meta.n_layers == 2
    edge = graph.edges[Node.of("mlp", "L0.mlp"), Node.of("head", "L1.attn", 3)]
    source = w.source(0, None)
    assert edge["q"] == pytest.approx(found.values[w.reader(1, "q", 3), source])
    assert edge["k"] == pytest.approx(found.values[w.reader(1, "k", 1), source] / 2)
    assert edge["weight"] == pytest.approx(edge["q"] + edge["k"] + edge["v"])
    total = sum(weight for _, _, weight in graph.edges(data="weight"))
    assert total == pytest.approx(found.values.sum())
    assert graph.nodes[Node.of("embedding", "embed")]["score"] == pytest.approx(found.values[:, 0].sum())


def test_a_graph_leaves_out_what_is_small(task: EdgeTask) -> None:
    found = exact(task)
    weights = sorted(abs(w) for _, _, w in found.graph().edges(data="weight"))
    small = found.graph(least=weights[-5])
    assert small.number_of_edges() == 5
    assert all(small.degree(node) for node in small)


@pytest.mark.parametrize("bad", [0, -1, 2.5, True])
def test_steps_and_contexts_are_whole_numbers_from_one(task: EdgeTask, bad: int) -> None:
    steps: list[Callable[[], object]] = [
        lambda: ig_mask(task, bad), lambda: eap_ig(task, bad), lambda: ig_contexts(task, 2, bad)
    ]  # fmt: skip
    for scored in steps:
        with pytest.raises(CircuitError, match=f"steps is {bad!r}, not a whole number from 1"):
            scored()
    contexts: list[Callable[[], object]] = [lambda: ig_contexts(task, bad), lambda: ig_contexts_nodes(task, bad)]
    for scored in contexts:
        with pytest.raises(CircuitError, match=f"contexts is {bad!r}, not a whole number from 1"):
            scored()


def test_scores_that_are_not_finite_are_refused(bare: Callable[..., nn.Module]) -> None:
    model = bare("llama")
    root: Callable[[mx.array], mx.array] = lambda x: mx.sqrt(mx.maximum(x[:, -1, 0] * 0, 0)) + x[:, -1, 1]  # noqa: E731
    bad = edge_task(model, CLEAN, root, corrupt=CORRUPT)
    with pytest.raises(CircuitError, match=r"EAP: the score of embed -> L0.attn.q.h0 is nan; the metric's gradient"):
        eap(bad)


def test_scores_keep_their_order(task: EdgeTask) -> None:
    values = np.arange(np.prod(task.wiring.shape), dtype=float).reshape(task.wiring.shape)
    assert EdgeScores(task.wiring, values, "any").of([(2, 0), (1, 0)]).tolist() == [values[2, 0], values[1, 0]]
