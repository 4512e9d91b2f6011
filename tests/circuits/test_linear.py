"""Attribution graphs: rows rebuild pre-activations, and doubling a source moves targets by their edges, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.anatomy import FAMILIES
from saedsl.circuits.graph import check
from saedsl.circuits.linear import AttributionGraph, attribution_graph
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.trace import Frame, Hooks
from tests import tiny
from tests.circuits.flow_tasks import CLEAN, shift

Models = Callable[..., InterpretableModel]
SAEOf = Callable[..., SAE]


def transcoders(sae_of: SAEOf, **more: Any) -> list[SAE]:
    kinds = [{"activation": "jumprelu", "skip": True, "seed": 1}, {"activation": "topk", "k": 9, "seed": 2}]
    return [
        sae_of(site=f"L{layer}.mlp", read=f"L{layer}.mlp.in", trained_on_bos=False, **{**kinds[layer], **more})
        for layer in (0, 1)
    ]


def rebuilt(graph: AttributionGraph) -> np.ndarray:
    return np.asarray(graph.A.sum(axis=1, dtype=np.float64) + graph.bias)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_and_its_bias_add_up_to_the_pre_activation(family: str, model_of: Models, sae_of: SAEOf) -> None:
    graph = attribution_graph(model_of(family), transcoders(sae_of), CLEAN)
    assert {n.kind for n in graph.sources} == {"embedding", "transcoder", "error"}
    assert {n.layer for n in graph.targets} == {0, 1, None}
    assert np.abs(graph.A).max() > 0.1
    np.testing.assert_allclose(rebuilt(graph), graph.pre, atol=1e-4)


@pytest.mark.parametrize("kind", [{"activation": "gated"}, {"center": True}, {"activation": "batchtopk"}])
def test_every_kind_of_encoder_adds_up(kind: dict[str, Any], llama: InterpretableModel, sae_of: SAEOf) -> None:
    saes = transcoders(sae_of, **kind)
    graph = attribution_graph(llama, saes, CLEAN)
    np.testing.assert_allclose(rebuilt(graph), graph.pre, atol=1e-4)
    by_id = dict(zip(graph.sources, graph.activation, strict=True))
    features = [i for i, t in enumerate(graph.targets) if t.kind == "transcoder"]
    assert len(features) > 50
    np.testing.assert_allclose(graph.pre[features], [by_id[graph.targets[i]] for i in features], atol=1e-4)


def test_pre_activations_and_logits_are_those_of_numpy(
    llama: InterpretableModel, sae_of: SAEOf, plain: Callable[[SAE], Any]
) -> None:
    saes = transcoders(sae_of)
    graph = attribution_graph(llama, saes, CLEAN)
    logits, seen = tiny.forward(llama.model, CLEAN)
    for target, pre in zip(graph.targets, graph.pre, strict=True):
        if target.kind == "logit":
            expected = logits[-1, target.index] - logits[-1].mean()
        else:
            o = plain(saes[target.layer or 0])
            x = seen[f"L{target.layer}.mlp.in"][target.position]
            expected = (x - (o.b_dec if o.subtract_b_dec else 0)) @ o.W_enc[:, target.index] + o.b_enc[target.index]
        assert pre == pytest.approx(expected, abs=1e-4), target


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_doubling_a_source_moves_targets_by_exactly_their_edges(family: str, model_of: Models, sae_of: SAEOf) -> None:
    """In numpy, with attention weights, denominators and MLPs of the clean run in place."""
    model, saes = model_of(family), transcoders(sae_of, skip=False)
    graph = attribution_graph(model, saes, CLEAN)
    clean_logits, clean = tiny.forward(model.model, CLEAN)
    strengths = dict(zip(graph.sources, graph.activation, strict=True))
    checked = 0
    for s, source in enumerate(graph.sources):
        if source.kind == "error" or s % 9:
            continue
        if source.kind == "embedding":
            site, delta = "L0.resid_pre", clean["L0.resid_pre"][source.position]
        else:
            site = source.site
            delta = strengths[source] * np.array(saes[source.layer or 0].W_dec)[source.index].astype(np.float64)
        edits = {site: shift(source.position or 0, delta)}
        logits, seen = tiny.forward(model.model, CLEAN, edits, clean, "direct")
        moved = []
        for target in graph.targets:
            if target.kind == "logit":
                change = logits[-1] - clean_logits[-1]
                moved.append(change[target.index] - change.mean())
            else:
                key = f"L{target.layer}.mlp.in"
                x = (seen[key] - clean[key])[target.position]
                moved.append(x @ np.array(saes[target.layer or 0].W_enc)[:, target.index])
        np.testing.assert_allclose(graph.A[:, s], moved, atol=1e-4)
        checked += 1
    assert checked > 10


def test_the_languages_direct_mode_moves_targets_by_the_edges_skips_included(
    llama: InterpretableModel, sae_of: SAEOf
) -> None:
    saes = transcoders(sae_of)
    graph = attribution_graph(llama, saes, CLEAN)
    assert saes[0].W_skip is not None
    s = max(
        (i for i, n in enumerate(graph.sources) if n.kind == "embedding" and n.position == 3),
        key=lambda i: np.abs(graph.A[:, i]).max(),
    )

    def doubled(x: mx.array, frame: Frame) -> mx.array:
        factor = np.ones((2, len(CLEAN), 1), np.float32)
        factor[1, 3] = 2
        return x * mx.array(factor)

    skips = {Site(i, "mlp"): sae.W_skip for i, sae in enumerate(saes) if sae.W_skip is not None}
    embed, reads = Site(0, "resid_pre"), [Site(0, "mlp.in"), Site(1, "mlp.in")]
    hooks = Hooks(llama.model, llama.info, {embed: doubled}, reads, "direct", (0, 0), skips)
    _, frame = hooks(mx.array([CLEAN, CLEAN]))
    for t, target in enumerate(graph.targets):
        if target.kind == "transcoder":
            x = np.array(frame.captured[reads[target.layer or 0]])
            moved = (x[1] - x[0])[target.position] @ np.array(saes[target.layer or 0].W_enc)[:, target.index]
            assert graph.A[t, s] == pytest.approx(moved, abs=1e-4)


def test_a_layer_without_a_transcoder_is_all_error(llama: InterpretableModel, sae_of: SAEOf) -> None:
    graph = attribution_graph(llama, transcoders(sae_of)[1:], CLEAN)
    np.testing.assert_allclose(rebuilt(graph), graph.pre, atol=1e-4)
    outputs = tiny.forward(llama.model, CLEAN)[1]["L0.mlp"]
    sizes = {n.position: a for n, a in zip(graph.sources, graph.activation, strict=True) if n.site == "L0.mlp"}
    assert sizes == {t: pytest.approx(np.linalg.norm(y), abs=1e-4) for t, y in enumerate(outputs)}


def test_features_that_are_too_many_become_error(llama: InterpretableModel, sae_of: SAEOf) -> None:
    every = attribution_graph(llama, transcoders(sae_of), CLEAN)
    few = attribution_graph(llama, transcoders(sae_of), CLEAN, max_features=20)
    kept = [n for n in few.sources if n.kind == "transcoder"]
    assert len(kept) == 20 < sum(n.kind == "transcoder" for n in every.sources)
    np.testing.assert_allclose(rebuilt(few), few.pre, atol=1e-4)


def test_bos_has_features_only_if_the_transcoder_was_trained_on_it(llama: InterpretableModel, sae_of: SAEOf) -> None:
    without = attribution_graph(llama, transcoders(sae_of), CLEAN)
    on_bos = attribution_graph(llama, [s.with_config(trained_on_bos=True) for s in transcoders(sae_of)], CLEAN)
    assert 0 not in {n.position for n in without.sources if n.kind == "transcoder"}
    assert 0 in {n.position for n in on_bos.sources if n.kind == "transcoder"}
    np.testing.assert_allclose(rebuilt(on_bos), on_bos.pre, atol=1e-4)


def test_logits_are_the_likeliest_tokens(llama: InterpretableModel, sae_of: SAEOf) -> None:
    logits = tiny.forward(llama.model, CLEAN)[0][-1]
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = np.argsort(-p)
    graph = attribution_graph(llama, transcoders(sae_of), CLEAN, max_logits=5)
    names = [n for n in graph.targets if n.kind == "logit"]
    assert [n.index for n in names] == sorted(int(i) for i in best[:5])
    np.testing.assert_allclose(graph.probability[-5:], p[[n.index for n in names]], atol=1e-5)
    share = float(p[best[:2]].sum())
    two = attribution_graph(llama, transcoders(sae_of), CLEAN, logit_share=share - 1e-4)
    assert sum(n.kind == "logit" for n in two.targets) == 2


def test_a_pruned_graph_is_a_circuit(llama: InterpretableModel, sae_of: SAEOf) -> None:
    full = attribution_graph(llama, transcoders(sae_of), CLEAN, batch_rows=7)
    graph = full.graph()
    check(graph)
    whole, nodes = full.square
    place = {n: i for i, n in enumerate(nodes)}
    for u, d, weight in graph.edges(data="weight"):
        assert weight == pytest.approx(float(whole[place[d], place[u]]))
    assert len(graph) < len(nodes)
    assert {n for n in graph if n.kind in ("embedding", "logit")} == {
        n for n in nodes if n.kind in ("embedding", "logit")
    }
    assert 0 < graph.meta.scores["replacement"] < 1
    assert 0 < graph.meta.scores["graph_completeness"] < 1
    logits = [a["token_prob"] for n, a in graph.nodes(data=True) if n.kind == "logit"]
    assert all(0 < p < 1 for p in logits)


@pytest.mark.parametrize(("given", "message"), [
    ({"prompt": [0]}, "the clean prompt is empty: give it a token besides BOS"),
    ({"prompt": [CLEAN, CLEAN]}, "an attribution graph is of one prompt; these are 2"),
    ({"max_features": 0}, "max_features is 0, not a whole number from 1"),
    ({"max_logits": 1.5}, "max_logits is 1.5, not a whole number from 1"),
    ({"logit_share": 0.0}, "logit_share is 0.0, not a share above 0 and at most 1"),
])  # fmt: skip
def test_impossible_attribution_graphs_are_refused(
    given: dict[str, Any], message: str, llama: InterpretableModel, sae_of: SAEOf
) -> None:
    arguments = {"prompt": CLEAN, **given}
    with pytest.raises(CircuitError) as error:
        attribution_graph(llama, transcoders(sae_of), **arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(("sae", "message"), [
    ({"site": "L0.mlp"}, "L0.mlp: an attribution graph needs transcoders, from mlp.in to mlp of a layer; this reads "
     "L0.mlp and writes L0.mlp"),
    ({"site": "L1.mlp", "read": "L0.mlp.in"},
     "L1.mlp: the transcoder reads L0.mlp.in, of another layer than it writes"),
    ({"site": "L0.mlp", "read": "L0.mlp.in", "normalize": "layer_norm"},
     "L0.mlp: the transcoder normalises its input (layer_norm): it is not linear"),
])  # fmt: skip
def test_dictionaries_that_are_no_transcoders_are_refused(
    sae: dict[str, Any], message: str, llama: InterpretableModel, sae_of: SAEOf
) -> None:
    with pytest.raises(CircuitError) as error:
        attribution_graph(llama, [sae_of(**sae)], CLEAN)
    assert str(error.value) == message
