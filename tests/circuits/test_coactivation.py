"""Co-activation graphs of models over texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import networkx as nx
import numpy as np
import pytest

from saedsl.circuits.coactivation import (
    Firings,
    coactivation,
    coactivation_graph,
    communities,
    graph_of,
    with_communities,
)
from saedsl.circuits.graph import CircuitGraph, Node, check
from saedsl.circuits.store import load, save, to_json
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.training.harvest import batches

WORDS = (" the", " cat", " dog", " sat", " on", " mat", " a", " Paris", " Rome")
SaeOf = Callable[..., SAE]


def texts(n: int = 12, words: int = 14, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(WORDS, words)) for _ in range(n)]


def saes(sae_of: SaeOf) -> dict[str, SAE]:
    """An SAE, a TopK SAE and a transcoder, given out of order."""
    return {
        "L1.resid_post": sae_of(site="L1.resid_post", activation="topk", k=5, seed=3),
        "L1.mlp": sae_of(site="L1.mlp", read="L1.mlp.in", seed=2),
        "L0.resid_post": sae_of(site="L0.resid_post", seed=1),
    }


def test_a_graph_counts_what_the_dictionaries_say_of_each_text_alone(llama: InterpretableModel, sae_of: SaeOf) -> None:
    given, data = saes(sae_of), texts()
    graph = coactivation_graph(llama, given, data, fdr=None, lag=1, min_firings=5, top=None, context=8, progress=False)
    check(graph)
    fires: dict[str, list[np.ndarray]] = {name: [] for name in given}
    documents: list[int] = []
    for number, text in enumerate(data):  # rows of 8 tokens, BOS again in each
        ids = llama.encoder.encode(text).ids[1:]
        for at in range(0, len(ids), 7):
            row = mx.array([[0, *ids[at : at + 7]]])
            x = llama.activations(row, {sae.config.input_site for sae in given.values()})  # type: ignore[misc]
            for name, sae in given.items():
                fires[name].append(np.array(sae.encode(x[sae.config.input_site]))[0, 1:] > 0)  # type: ignore[index]
            documents += [number] * len(ids[at : at + 7])
    on = {name: np.concatenate(parts) for name, parts in fires.items()}
    pairs = [t for t in range(len(documents) - 1) if documents[t] == documents[t + 1]]
    order = ["L0.resid_post", "L1.mlp", "L1.resid_post"]
    wanted = {}
    for a, b in ((a, b) for i, a in enumerate(order) for b in order[i:]):
        together = on[a][pairs].T.astype(int) @ on[b][np.array(pairs) + 1].astype(int)
        for i, j in np.argwhere(together):
            if on[a][:, i].sum() >= 5 and on[b][:, j].sum() >= 5 and not (a == b and i == j):
                wanted[a, int(i), b, int(j)] = int(together[i, j])
    found = {(u.site, u.index, v.site, v.index): e["together"] for u, v, e in graph.edges(data=True)}
    assert found == wanted
    kinds = {(node.site, node.kind) for node in graph}
    assert kinds == {("L0.resid_post", "feature"), ("L1.mlp", "transcoder"), ("L1.resid_post", "feature")}
    assert {e["kind"] for _, _, e in graph.edges(data=True)} == {"coactivation"}
    told = graph.meta.notes["coactivation"]
    assert (told["lag"], told["tokens"], told["documents"], told["found"]) == (1, len(pairs), 12, len(wanted))
    assert (graph.meta.model, graph.meta.n_layers) == ("tiny-llama", 2)


def test_files_and_lists_and_repeats_give_the_same_graph(
    llama: InterpretableModel, sae_of: SaeOf, tmp_path: Path
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(texts()))
    given = [sae_of(site="L0.resid_post", seed=1)]
    graphs = [
        coactivation_graph(llama, given, data, fdr=0.5, min_firings=5, seed=3, progress=False)
        for data in (texts(), texts(), file)
    ]
    assert to_json(graphs[0]) == to_json(graphs[1]) == to_json(graphs[2])
    again = load(save(graphs[0], tmp_path / "graph.json"))
    assert to_json(again) == to_json(graphs[0])
    rates = [e["fdr"] for _, _, e in again.edges(data=True)]
    assert rates
    assert max(rates) <= 0.5


def test_reading_stops_at_the_tokens_that_are_wanted(llama: InterpretableModel, sae_of: SaeOf) -> None:
    given = {"L0.resid_post": sae_of(site="L0.resid_post", seed=1)}
    graph = coactivation_graph(llama, given, texts(), fdr=None, min_firings=1, max_tokens=20, progress=False)
    assert graph.meta.notes["coactivation"]["tokens"] == 20


def _reshaped(sae: SAE, **weights: Any) -> SAE:
    from dataclasses import replace

    return replace(sae, source=None, **weights)


def test_what_does_not_fit_is_said(llama: InterpretableModel, sae_of: SaeOf, bare: Any, tokenizer: Any) -> None:
    fine = {"L0.resid_post": sae_of(site="L0.resid_post", seed=1)}
    nan = _reshaped(fine["L0.resid_post"], W_enc=mx.full((32, 40), float("nan")))

    def message(given: Any, data: Any = None, model: Any = llama, **settings: Any) -> str:
        with pytest.raises(CircuitError) as error:
            coactivation_graph(model, given, texts() if data is None else data, progress=False, **settings)
        return str(error.value)

    assert "there are no dictionaries" in message({})
    assert "it belongs to another model or site" in message({"L0.resid_post": sae_of(16, 20, site="L0.resid_post")})
    assert "trained on the model gpt2, this is tiny-llama" in message([sae_of(site="L0.mlp", model_name="gpt2")])
    assert "tiny-llama has 2 layers" in message([sae_of(site="L7.mlp")])
    assert "a crosscoder reads or writes several sites" in message([sae_of(64, sites=("L0.mlp", "L1.mlp"))])
    assert "these texts have no tokens but BOS and padding" in message(fine, [])
    assert "these texts have no tokens but BOS and padding" in message(fine, ["", " \n"])
    assert "there is no such file" in message(fine, Path("nowhere.txt"))
    assert "its entry 0 is int" in message(fine, [3])
    assert "lag is 400, but the longest document has 14 tokens" in message(fine, lag=400)
    assert "L0.resid_post: the dictionary gives NaN or infinity, first at token 0" in message({"L0.resid_post": nan})
    assert "measure is 'rho'" in message(fine, measure="rho")
    assert "no feature fires at 5000 of the 168 tokens" in message(fine, min_firings=5000)
    broken = InterpretableModel(bare("llama"), tokenizer)
    broken.model.model.layers[0].mlp.down_proj.weight = mx.full((32, 40), float("nan"))
    assert "the model's activations at L0.resid_post are NaN or infinity" in message(fine, model=broken)


def test_communities_are_the_planted_groups_the_largest_first() -> None:
    rng = np.random.default_rng(0)
    groups = [range(6), range(6, 10), range(10, 13)]
    f = np.zeros((900, 13), np.float32)
    for members in groups:
        fires = rng.random(900) < 0.15
        for j in members:
            f[:, j] = fires & (rng.random(900) < 0.8) | (rng.random(900) < 0.02)
    table = coactivation({"L1.mlp": Firings.of_dense(f)}, np.arange(900) // 30, fdr=0.01)
    graph = graph_of(table)
    assert [[n.index for n in c] for c in communities(graph)] == [list(g) for g in groups]
    marked = with_communities(graph)
    check(marked)
    assert {n.index: c for n, c in marked.nodes(data="community")} == {j: k for k, g in enumerate(groups) for j in g}
    assert nx.number_weakly_connected_components(graph) == 3
    with pytest.raises(CircuitError, match="resolution is 0; it is above 0"):
        communities(graph, resolution=0)


def test_communities_add_up_both_directions_and_leave_negative_edges_out() -> None:
    graph = CircuitGraph()
    nodes = [Node.of("feature", "L0.mlp", i) for i in range(4)]
    for node in nodes:
        graph.add_typed_node(node)
    for u, v, weight in ((0, 1, 1.0), (1, 0, 1.0), (2, 3, 1.0), (1, 2, -5.0), (0, 3, 0.1)):
        graph.add_typed_edge(nodes[u], nodes[v], weight, "coactivation")
    assert [[n.index for n in c] for c in communities(graph)] == [[0, 1], [2, 3]]


def test_bos_and_padding_are_no_tokens(llama: InterpretableModel, sae_of: SaeOf) -> None:
    """Texts of different lengths share forwards; features that fire everywhere tell how many tokens were seen."""
    sae = sae_of(site="L0.resid_post", seed=1)
    always = _reshaped(sae, b_enc=mx.full((40,), 100.0))
    data = [" cat", " cat dog sat on the mat", " Paris Rome"]
    graph = coactivation_graph(llama, [always], data, fdr=None, min_firings=1, progress=False)
    tokens = sum(int(b.content.sum()) for b in batches(llama, data))
    assert tokens == graph.meta.notes["coactivation"]["tokens"] == 9
    assert {n for _, n in graph.nodes(data="firings")} == {9}
