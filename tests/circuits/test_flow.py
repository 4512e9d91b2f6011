"""Edges between features, against finite differences of float64 numpy with the same things held, and their sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.anatomy import FAMILIES
from saedsl.circuits.effects import node_effects
from saedsl.circuits.flow import flow_graph, flow_of
from saedsl.circuits.graph import CircuitGraph, Node, check
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from tests import tiny
from tests.circuits.flow_tasks import CLEAN, CORRUPT, METRIC, shift, slope

Models = Callable[..., InterpretableModel]
SAEOf = Callable[..., SAE]


def dictionaries(sae_of: SAEOf) -> list[SAE]:
    return [
        sae_of(site="L0.mlp", read="L0.mlp.in", seed=2, trained_on_bos=False),
        sae_of(site="L0.resid_post", seed=3, activation="jumprelu", trained_on_bos=False),
        sae_of(site="L1.attn", seed=4, activation="topk", k=6, trained_on_bos=False),
        sae_of(site="L1.mlp", seed=5, normalize="layer_norm", trained_on_bos=False),
    ]


def sums(graph: CircuitGraph) -> tuple[np.ndarray, np.ndarray]:
    """(effects, sums of outgoing edges) of all nodes but the metric."""
    nodes = [n for n in graph if n.kind != "logit"]
    out = [sum(w for _, _, w in graph.out_edges(n, data="weight")) for n in nodes]
    return np.array([graph.nodes[n]["score"] for n in nodes]), np.array(out)


@pytest.mark.parametrize(("family", "corrupt"), [*((f, CORRUPT) for f in FAMILIES), ("llama", None)])
def test_with_live_attention_edges_out_of_a_node_add_up_to_its_first_order_effect(
    family: str, corrupt: list[int] | None, model_of: Models, sae_of: SAEOf
) -> None:
    saes = [
        sae_of(site="L0.attn", seed=7, center=True, trained_on_bos=False),
        sae_of(d_sae=24, site="L0.mlp", read="L0.mlp.in", seed=2, trained_on_bos=False, skip=True),
        sae_of(d_sae=24, site="L0.resid_post", seed=3, activation="jumprelu", trained_on_bos=False),
        sae_of(d_sae=24, site="L1.mlp", seed=5, normalize="layer_norm", activation="topk", trained_on_bos=False),
    ]
    model = model_of(family)
    graph = flow_graph(model, saes, CLEAN, corrupt, metric=METRIC, method="atp", n=None, attention="live")
    check(graph)
    effects, out = sums(graph)
    assert np.abs(effects).max() > 0.1
    np.testing.assert_allclose(out, effects, atol=1e-4)


def test_an_edge_is_the_finite_difference_with_attention_held_and_sites_between_cut(
    llama: InterpretableModel, sae_of: SAEOf, plain: Callable[[SAE], Any]
) -> None:
    saes = dictionaries(sae_of)
    by_site = {str(sae.config.output_site): sae for sae in saes}
    effects = node_effects(llama, saes, CLEAN, CORRUPT, metric=METRIC)
    graph = flow_of(effects, n=None)
    clean = tiny.forward(llama.model, CLEAN)[1]
    order = ["L0.mlp", "L0.resid_post", "L1.attn", "L1.mlp"]
    delta = {
        (s.site, int(t), int(j)): d.astype(np.float64)
        for s in effects.sites
        for t, j, d in zip(s.position, s.feature, s.delta, strict=True)
    }
    edges = sorted(graph.edges(data="weight"), key=lambda e: e[0].order)
    seen = set()
    for u, d, weight in edges[:: max(1, len(edges) // 60)]:
        if d.kind == "logit":
            continue
        seen.add((u.kind, d.kind, d.site))
        sae, between = by_site[d.site], [s for s in order if order.index(u.site) < order.index(s) < order.index(d.site)]
        cut = {s: lambda x, s=s: clean[s] for s in between}
        g = effects.gradient[sae.config.output_site][0, d.position].astype(np.float64)  # type: ignore[index]

        def target(h: float, u: Node = u, d: Node = d, sae: SAE = sae, cut: Any = cut, g: np.ndarray = g) -> float:
            move = h * delta[u.site, u.position or 0, -1 if u.index is None else u.index]
            edits = {**cut, u.site: shift(u.position or 0, move)}
            _, at = tiny.forward(llama.model, CLEAN, edits, clean, "frozen")
            x = at[str(sae.config.input_site)][d.position]
            oracle = plain(sae)
            f = oracle.encode(x[None])[0]
            token = clean[str(sae.config.input_site)][d.position]
            scale = token.std(ddof=1) if sae.config.normalize_activations == "layer_norm" else 1.0
            if d.kind == "error":
                return float(g @ (at[d.site][d.position] - scale * f @ oracle.W_dec))
            return float((g @ oracle.W_dec[d.index]) * scale * f[d.index])

        assert weight == pytest.approx(slope(target, 1e-6), abs=2e-4), (u.id, d.id)
    assert {kind for _, kind, _ in seen} == {"feature", "error"}
    assert {site for _, _, site in seen} == {"L0.resid_post", "L1.attn", "L1.mlp"}


def test_edges_go_forward_and_never_around_a_site_of_the_stream(llama: InterpretableModel, sae_of: SAEOf) -> None:
    graph = flow_graph(llama, dictionaries(sae_of), CLEAN, CORRUPT, metric=METRIC, n=None)
    pairs = {(u.site, d.site) for u, d in graph.edges}
    assert ("L0.mlp", "L0.resid_post") in pairs
    assert ("L0.resid_post", "L1.mlp") in pairs
    assert not {p for p in pairs if p[0] == "L0.mlp" and p[1] != "L0.resid_post"}
    assert ("L1.attn", "logits") in pairs
    assert any(u.position < d.position for u, d in graph.edges)


def test_more_rows_at_once_change_nothing(llama: InterpretableModel, sae_of: SAEOf) -> None:
    effects = node_effects(llama, dictionaries(sae_of), CLEAN, CORRUPT, metric=METRIC)
    calls: list[tuple[int, int]] = []
    few = flow_of(effects, n=60, batch_rows=3, progress=lambda i, n: calls.append((i, n)))
    many = flow_of(effects, n=60, batch_rows=1000)
    assert set(few.edges) == set(many.edges)
    for u, d in few.edges:
        assert few.edges[u, d]["weight"] == pytest.approx(many.edges[u, d]["weight"], abs=1e-5)
    assert len(few) == 61
    assert calls[-1][0] == calls[-1][1]
    assert [i for i, _ in calls] == sorted(i for i, _ in calls)


def test_a_batch_is_the_mean_of_its_prompts(llama: InterpretableModel, sae_of: SAEOf) -> None:
    saes, other = dictionaries(sae_of), [0, 8, 3, 22, 5, 6, 50, 7]
    pairs = [(CLEAN, CORRUPT), (other, CLEAN)]
    single = [flow_graph(llama, saes, a, b, metric=METRIC, method="atp", n=None) for a, b in pairs]
    both = flow_graph(llama, saes, [CLEAN, other], [CORRUPT, CLEAN], metric=METRIC, method="atp", n=None)
    mean: dict[tuple[Node, Node], float] = {}
    for graph in single:
        for u, d, weight in graph.edges(data="weight"):
            mean[u, d] = mean.get((u, d), 0.0) + weight / 2
    assert set(both.edges) <= set(mean)
    for edge, weight in mean.items():
        assert (both.edges[edge]["weight"] if edge in both.edges else 0.0) == pytest.approx(weight, abs=1e-5)


def test_positions_can_be_added_up(llama: InterpretableModel, sae_of: SAEOf) -> None:
    effects = node_effects(llama, dictionaries(sae_of), CLEAN, CORRUPT, metric=METRIC)
    kept, summed = (
        flow_of(effects, n=None, attention="live"),
        flow_of(effects, n=None, attention="live", positions="sum"),
    )
    check(summed)
    assert all(n.position is None for n in summed)
    total = sum(w for u, d, w in kept.edges(data="weight") if (u.site, d.site) == ("L0.mlp", "L0.resid_post"))
    again = sum(w for u, d, w in summed.edges(data="weight") if (u.site, d.site) == ("L0.mlp", "L0.resid_post"))
    assert again == pytest.approx(total, abs=1e-4)


def test_thresholds_leave_what_is_strong(llama: InterpretableModel, sae_of: SAEOf) -> None:
    effects = node_effects(llama, dictionaries(sae_of), CLEAN, CORRUPT, metric=METRIC)
    graph = flow_of(effects, n=50, edge_threshold=0.05)
    weights = [abs(w) for *_, w in graph.edges(data="weight")]
    assert weights
    assert min(weights) >= 0.05
    every = flow_of(effects, n=50)
    assert sum(abs(w) >= 0.05 for *_, w in every.edges(data="weight")) == len(weights)
    goal = Node.of("logit", "logits", None, len(CLEAN) - 1)
    assert every.nodes[goal]["score"] == pytest.approx(effects.value[0])


@pytest.mark.parametrize(("given", "message"), [
    ({"attention": "off"}, "attention is 'off'; it can be frozen or live"),
    ({"positions": "mean"}, "positions is 'mean'; it can be keep or sum"),
    ({"edge_threshold": -1.0}, "edge_threshold is -1.0, not a number from 0"),
    ({"n": 0}, "n is 0, not a whole number from 1"),
])  # fmt: skip
def test_impossible_flow_is_refused(
    given: dict[str, Any], message: str, llama: InterpretableModel, sae_of: SAEOf
) -> None:
    effects = node_effects(llama, [sae_of(site="L0.mlp")], CLEAN, metric=METRIC)
    with pytest.raises(CircuitError) as error:
        flow_of(effects, **given)
    assert str(error.value) == message


def test_the_model_is_as_it_was(llama: InterpretableModel, sae_of: SAEOf) -> None:
    before = np.array(llama.model(mx.array([CLEAN])))
    flow_graph(llama, dictionaries(sae_of), CLEAN, CORRUPT, metric=METRIC, n=20)
    np.testing.assert_array_equal(before, np.array(llama.model(mx.array([CLEAN]))))
