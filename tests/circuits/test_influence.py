"""Influence and pruning, against sums over every path and a small graph by hand."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from saedsl.circuits.influence import influence, normalised, prune, scores
from saedsl.errors import CircuitError

TOKENS = np.array([True, True, False, False, False, False, False, False])
ERRORS = np.array([False, False, False, False, False, True, False, False])
WEIGHTS = np.array([0, 0, 0, 0, 0, 0, 0.7, 0.2])


def random_graph(seed: int = 0) -> np.ndarray:
    """[8, 8], rows targets: two tokens, three features, an error, two logits; nothing enters tokens and the error."""
    rng = np.random.default_rng(seed)
    A = np.tril(rng.standard_normal((8, 8)), -1)
    A[TOKENS | ERRORS] = 0
    A[:, 6:] = 0
    return A


def test_influence_is_the_sum_over_all_paths() -> None:
    N = normalised(random_graph())
    graph = nx.from_numpy_array(N.T, create_using=nx.DiGraph)  # source -> target
    expected = np.zeros(8)
    for node in range(6):
        for logit in (6, 7):
            for path in nx.all_simple_paths(graph, node, logit):
                expected[node] += WEIGHTS[logit] * np.prod([N[b, a] for a, b in pairwise(path)])
    np.testing.assert_allclose(influence(N, WEIGHTS), expected, atol=1e-12)


def test_scores_are_their_definitions() -> None:
    A = random_graph()
    N = normalised(A)
    reach = influence(N, WEIGHTS)
    found = scores(A, WEIGHTS, TOKENS, ERRORS)
    assert found.replacement == pytest.approx(reach[:2].sum() / (reach[:2].sum() + reach[5]))
    # all influence ends in tokens and errors: each node hands on all of what it gets
    assert reach[:2].sum() + reach[5] == pytest.approx(WEIGHTS.sum())
    inner, output = [2, 3, 4, 6, 7], reach + WEIGHTS
    share = sum((1 - N[i, 5]) * output[i] for i in inner) / sum(output[i] for i in inner)
    assert found.completeness == pytest.approx(share)


def test_a_graph_without_errors_is_complete() -> None:
    A = random_graph()
    A[:, 5] = 0
    found = scores(A, WEIGHTS, TOKENS, ERRORS)
    assert found.replacement == 1
    assert found.completeness == pytest.approx(1)


def test_nothing_is_pruned_at_one() -> None:
    A = random_graph()
    left = prune(A, WEIGHTS, TOKENS, ERRORS, 1.0, 1.0)
    assert left.nodes.all()
    np.testing.assert_array_equal(left.edges, A != 0)


def test_pruning_keeps_the_strongest_and_no_dead_ends() -> None:
    for seed in range(20):
        A = random_graph(seed)
        left = prune(A, WEIGHTS, TOKENS, ERRORS, 0.6, 0.9)
        assert left.nodes[TOKENS].all()
        assert left.nodes[6:].all()
        for node in np.flatnonzero(left.nodes & ~TOKENS & (WEIGHTS == 0)):
            assert left.edges[:, node].any()
            assert ERRORS[node] or left.edges[node].any()
        assert not left.edges[~left.nodes].any()
        assert not left.edges[:, ~left.nodes].any()
        order = np.argsort(-left.influence, kind="stable")
        assert (np.diff(left.cumulative[order]) >= 0).all()
        assert left.cumulative[order[-1]] == pytest.approx(1)


def test_lower_thresholds_keep_less() -> None:
    A = random_graph()
    sizes = [(prune(A, WEIGHTS, TOKENS, ERRORS, t, t).edges.sum()) for t in (0.3, 0.6, 0.9, 1.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_a_cycle_is_refused() -> None:
    N = np.array([[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(CircuitError, match="the graph has a cycle: influence would never end"):
        influence(N, np.array([1.0, 0.0]))


@pytest.mark.parametrize(("node", "edge", "message"), [
    (0.0, 0.9, "node_threshold is 0.0, not a share above 0 and at most 1"),
    (0.8, 1.5, "edge_threshold is 1.5, not a share above 0 and at most 1"),
    (float("nan"), 0.9, "node_threshold is nan, not a share above 0 and at most 1"),
])  # fmt: skip
def test_impossible_thresholds_are_refused(node: float, edge: float, message: str) -> None:
    with pytest.raises(CircuitError) as error:
        prune(random_graph(), WEIGHTS, TOKENS, ERRORS, node, edge)
    assert str(error.value) == message
