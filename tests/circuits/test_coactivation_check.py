"""Co-activation edges held against exact ablation, on a model whose truth is built in and on random ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from saedsl.circuits.ablated import ablation_effects
from saedsl.circuits.coactivation import coactivation_graph
from saedsl.circuits.coactivation_check import validate_coactivation
from saedsl.circuits.graph import CircuitGraph, Node
from saedsl.circuits.rankstats import bootstrap, precision, ranks, spearman
from saedsl.circuits.splice import placed
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

SaeOf = Callable[..., SAE]
FIRST, SECOND, LONE, OTHER, EITHER, COPY, ONE = range(7)
"""Coordinates of the residual stream of `backup_model`."""
WORDS = (" the", " cat", " dog", " sat", " on", " mat")


@pytest.fixture(scope="module")
def backup_model(bare: Any, tokenizer: Any) -> InterpretableModel:
    """ " cat" sets FIRST and SECOND, and L1.mlp writes EITHER = FIRST or SECOND; " dog" sets LONE, and COPY = LONE.

    Attention and the first MLP write nothing; norms are the identity (a large eps and its square root as weight).
    """
    model = bare("llama")
    W = np.zeros(model.model.embed_tokens.weight.shape, np.float32)
    W[:, ONE] = 1
    for word, coordinates in ((" cat", (FIRST, SECOND)), (" dog", (LONE,)), (" mat", (OTHER,))):
        (token,) = tokenizer.encode(word, add_special_tokens=False)
        W[token, list(coordinates)] = 1
    model.model.embed_tokens.weight = mx.array(W)
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.eps, norm.weight = 2.0**20, mx.full((32,), 2.0**10)
        layer.self_attn.o_proj.weight = mx.zeros_like(layer.self_attn.o_proj.weight)
        layer.mlp.down_proj.weight = mx.zeros_like(layer.mlp.down_proj.weight)
    gate, up, down = (np.zeros(shape, np.float32) for shape in ((40, 32), (40, 32), (32, 40)))
    gate[0, [FIRST, SECOND, ONE]] = 100, 100, -50  # 2 relu(a + b - 1/2) - 2 relu(a + b - 1) is 1 for one or both
    gate[1, [FIRST, SECOND, ONE]] = 100, 100, -100
    gate[2, LONE] = 100
    up[:3, ONE] = 0.01
    down[EITHER, 0], down[EITHER, 1], down[COPY, 2] = 2, -2, 1
    mlp = model.model.layers[1].mlp
    mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight = mx.array(gate), mx.array(up), mx.array(down)
    return InterpretableModel(model, tokenizer, name="backup")


def coordinates(site: str, *which: int) -> SAE:
    """A dictionary whose features are coordinates of a site."""
    W = np.zeros((32, len(which)), np.float32)
    W[list(which), np.arange(len(which))] = 1
    config = DictionaryConfig(32, len(which), 32, input_site=Site.parse(site), output_site=Site.parse(site))
    return SAE(config, mx.array(W), mx.full((len(which),), -0.05), mx.array(W.T.copy()), mx.zeros((32,)))


def texts(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(WORDS, 40)) for _ in range(n)]


SAES = [coordinates("L0.resid_post", FIRST, SECOND, LONE, OTHER), coordinates("L1.mlp", EITHER, COPY)]


def test_coactivation_finds_backups_that_single_ablation_misses(backup_model: InterpretableModel) -> None:
    graph = coactivation_graph(backup_model, SAES, texts(30, 0), progress=False)
    up = [Node.of("feature", "L0.resid_post", i) for i in range(4)]
    down = [Node.of("feature", "L1.mlp", i) for i in range(2)]
    causes = {(up[0], down[0]), (up[1], down[0]), (up[2], down[1])}
    assert set(graph.edges) == causes | {(up[0], up[1])}
    checked = validate_coactivation(graph, backup_model, SAES, texts(8, 1), ks=(1, 3), rounds=50, progress=False)
    share = dict(zip(checked.pairs, checked.effects.share, strict=True))
    assert abs(share[up[0], down[0]]) < 0.01, "the second one stands in"
    assert abs(share[up[1], down[0]]) < 0.01
    assert share[up[2], down[1]] == pytest.approx(1)

    def without(coordinates: list[int]) -> float:
        kept = mx.array([float(i not in coordinates) for i in range(32)])
        tokens = mx.array([backup_model.encoder.encode(" cat").ids])
        functions = {Site.parse("L0.resid_post"): lambda x: x * kept}
        _, x = backup_model.forward(tokens, [Site.parse("L1.mlp")], functions)
        return float(x[Site.parse("L1.mlp")][0, -1, EITHER])

    assert [without(c) for c in ([], [FIRST], [SECOND])] == pytest.approx([1, 1, 1], abs=1e-3)
    assert without([FIRST, SECOND]) == pytest.approx(0, abs=1e-3), "both together are what it hangs on"
    assert checked.excluded == 1, "the edge between the two, at one site"
    assert {r.name for r in checked.rankings} == {
        "graph", "phi", "jaccard", "pmi", "npmi", "conditional", "pearson",
    }  # fmt: skip


def test_flow_edges_are_ranked_on_the_same_pairs(backup_model: InterpretableModel) -> None:
    graph = coactivation_graph(backup_model, SAES, texts(30, 0), progress=False)
    flow = CircuitGraph()
    edges = [(2, 1, 3, -0.7), (2, 1, 5, 0.2), (0, 0, 3, 0.01), (3, 0, 3, 0.0)]
    for i, j, position, weight in edges:
        u, v = Node.of("feature", "L0.resid_post", i, position), Node.of("feature", "L1.mlp", j, position)
        for node in (u, v):
            flow.add_typed_node(node)
        flow.add_typed_edge(u, v, weight, "flow")
    flow.add_typed_node(Node.of("error", "L0.resid_post", None, 3))
    flow.add_typed_edge(Node.of("error", "L0.resid_post", None, 3), Node.of("feature", "L1.mlp", 0, 3), 9.0, "flow")
    checked = validate_coactivation(
        graph, backup_model, SAES, texts(8, 1), flow=flow, measures=("phi",), ks=(1,), rounds=50, progress=False
    )
    by_name = {r.name: r for r in checked.rankings}
    assert list(by_name) == ["graph", "phi", "flow"]
    assert by_name["flow"].precision[1].value == 1
    place = [(u.index, v.index) for u, v in checked.pairs].index((2, 1))
    assert checked.scores["flow"][place] == pytest.approx(0.9), "positions are added up by size"
    lines = checked.to_markdown().splitlines()
    assert lines[0] == "| ranking | Spearman | precision@1 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| graph", "| phi", "| flow", "| random pairs"]


def put(value: mx.array, x: mx.array) -> mx.array:
    return value


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("kind", ["sae", "transcoder", "layer_norm"])
def test_effects_are_those_of_ablating_one_feature_on_one_prompt_by_hand(
    llama: InterpretableModel, sae_of: SaeOf, kind: str, lag: int
) -> None:
    source = {
        "sae": sae_of(site="L0.resid_post", seed=1),
        "transcoder": sae_of(site="L0.mlp", read="L0.mlp.in", seed=1),
        "layer_norm": sae_of(site="L0.resid_post", normalize="layer_norm", seed=1),
    }[kind]
    target = sae_of(site="L1.mlp", activation="topk", k=6, seed=2)
    places = placed(llama.info, [source, target])
    pairs = [(0, f, 1, g) for f in (1, 4, 7) for g in (0, 5, 9, 11)]
    prompts = [" cat sat on the mat", " Paris Rome dog", " a dog on Rome the cat Paris mat"]
    found = ablation_effects(llama, places, pairs, prompts, lag=lag, batch=3)
    again = ablation_effects(llama, places, pairs, prompts, lag=lag, batch=64)
    np.testing.assert_allclose(found.effect, again.effect, atol=1e-5)
    read, write, at = source.config.input_site, source.config.output_site, target.config.input_site
    assert read is not None
    assert write is not None
    assert at is not None
    for k, (_, f, _, g) in enumerate(pairs):
        fallen, mass, n = 0.0, 0.0, 0
        for prompt in prompts:
            tokens = mx.array([llama.encoder.encode(prompt).ids])
            _, x = llama.forward(tokens, {read, write, at})
            value = np.array(source.encode(x[read]))[0, :, f]
            value[0] = 0  # BOS
            scale = np.broadcast_to(np.array(source.scale(x[read])).reshape(-1), value.shape)
            moved = x[write] - mx.array(((value * scale)[:, None] * np.array(source.W_dec)[f])[None])
            _, y = llama.forward(tokens, {at}, {write: partial(put, moved)})
            before, after = (np.array(target.encode(z[at]))[0, :, g].astype(float) for z in (x, y))
            for t in np.flatnonzero(value > 0) + lag:
                if t < len(value):
                    fallen, mass, n = fallen + before[t] - after[t], mass + max(before[t], after[t]), n + 1
        assert found.tokens[k] == n
        assert found.effect[k] == pytest.approx(fallen / n if n else 0, abs=1e-5)
        assert found.share[k] == pytest.approx(fallen / mass if mass else 0, abs=1e-4)
    assert np.abs(found.share).max() > 0.05


def test_what_cannot_be_validated_is_said(llama: InterpretableModel, sae_of: SaeOf) -> None:
    saes = [sae_of(site="L0.resid_post", seed=1), sae_of(site="L1.mlp", seed=2)]
    graph = CircuitGraph()
    graph.add_typed_node(Node.of("feature", "L0.resid_post", 1))
    graph.add_typed_node(Node.of("feature", "L1.mlp", 99))
    graph.add_typed_edge(Node.of("feature", "L0.resid_post", 1), Node.of("feature", "L1.mlp", 99), 0.5, "coactivation")

    def message(given: Any, **settings: Any) -> str:
        arguments = {"graph": CircuitGraph(), "prompts": [" cat"], **settings}
        with pytest.raises(CircuitError) as error:
            validate_coactivation(
                arguments.pop("graph"), llama, given, arguments.pop("prompts"), progress=False, **arguments
            )
        return str(error.value)

    assert "no dictionary writes before another one reads" in message(saes[:1])
    assert "L1.mlp.f99 is of none of these dictionaries; they write L0.resid_post, L1.mlp" in message(saes, graph=graph)
    assert "threshold is 0; it is a share of activation" in message(saes, threshold=0)
    assert "ks is []; each is a whole number from 1" in message(saes, ks=())
    assert "these texts have no tokens but BOS" in message(saes, prompts=[])
    with pytest.raises(CircuitError, match=r"L1\.mlp does not act on L0\.resid_post: it writes at L1\.mlp"):
        ablation_effects(llama, placed(llama.info, saes), [(1, 0, 0, 0)], [" cat"])
    with pytest.raises(CircuitError, match="these prompts have no tokens but BOS"):
        ablation_effects(llama, placed(llama.info, saes), [(0, 0, 1, 0)], [])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12))
def test_spearman_is_scipys(values: list[tuple[int, int]]) -> None:
    x, y = np.array(values, float).T
    np.testing.assert_allclose(ranks(x), rankdata(x) - 1)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    else:
        assert np.isnan(spearman(x, y))


def test_precision_takes_ties_at_their_mean() -> None:
    score, good = np.array([3.0, 2, 2, 2, 1]), np.array([True, True, False, False, True])
    assert precision(score, good, 1) == 1
    assert precision(score, good, 2) == pytest.approx((1 + 1 / 3) / 2)
    assert precision(score, good, 4) == 0.5
    assert np.isnan(precision(score, good, 6))


def test_bootstrap_intervals_hold_the_truth_and_draw_whole_clusters() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(60):
        x = rng.standard_normal(40)
        found = bootstrap(lambda i, x=x: float(x[i].mean()), np.arange(40), 200, seed)  # type: ignore[misc]
        inside += found.low <= 0 <= found.high
    assert 50 <= inside <= 60
    one = bootstrap(lambda i: float(len(i)), np.zeros(7, int), 20)
    assert (one.value, one.low, one.high) == (7, 7, 7)
