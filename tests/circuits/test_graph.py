"""Nodes, their text, and the graph that holds them."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saedsl.circuits.graph import CircuitGraph, Kind, Meta, Node, check, edges, nodes
from saedsl.circuits.store import from_json, load, save, to_json
from saedsl.errors import CircuitError

IDS: list[tuple[str, Node]] = [
    ("L2.mlp.f42@7", Node("feature", 2, "L2.mlp", 42, 7)),
    ("L2.mlp.f42", Node("feature", 2, "L2.mlp", 42)),
    ("g:L2.mlp.f42@7", Node("feature", 2, "L2.mlp", 42, 7, "g")),
    ("L2.mlp.tc42@7", Node("transcoder", 2, "L2.mlp", 42, 7)),
    ("L2.mlp.error@7", Node("error", 2, "L2.mlp", None, 7)),
    ("g.v-1:L2.mlp.error@7", Node("error", 2, "L2.mlp", None, 7, "g.v-1")),
    ("embed.t17@3", Node("embedding", None, "embed", 17, 3)),
    ("embed@3", Node("embedding", None, "embed", None, 3)),
    ("embed.f5@3", Node("feature", None, "embed", 5, 3)),
    ("logits.t31@9", Node("logit", None, "logits", 31, 9)),
    ("logits", Node("logit", None, "logits")),
    ("L1.attn.h3@5", Node("head", 1, "L1.attn", 3, 5)),
    ("L1.attn.z.h3@5", Node("head", 1, "L1.attn.z", 3, 5)),
    ("L1.attn@5", Node("head", 1, "L1.attn", None, 5)),
    ("L2.mlp@4", Node("mlp", 2, "L2.mlp", None, 4)),
    ("L2.mlp.n17@4", Node("neuron", 2, "L2.mlp", 17, 4)),
    ("L2.mlp.act.n17@4", Node("neuron", 2, "L2.mlp.act", 17, 4)),
    ("L0.resid_post.f1@0", Node("feature", 0, "L0.resid_post", 1, 0)),
    ('module "model.norm" out.f3@1', Node("feature", None, 'module "model.norm" out', 3, 1)),
    ('g:module "a:b.f1@2" in.error', Node("error", None, 'module "a:b.f1@2" in', None, None, "g")),
]


@pytest.mark.parametrize(("text", "node"), IDS, ids=[text for text, _ in IDS])
def test_a_node_and_its_id_are_two_forms_of_one_thing(text: str, node: Node) -> None:
    assert node.id == str(node) == text
    assert Node.parse(text) == node
    assert hash(Node.parse(text)) == hash(node)


def test_a_node_is_made_from_a_site_as_people_write_it() -> None:
    assert Node.of("feature", "L3.resid", 42, 7) == Node("feature", 3, "L3.resid_post", 42, 7)
    assert Node.parse("L3.resid.f42@7").id == "L3.resid_post.f42@7"


SITES = st.sampled_from(["L0.mlp", "L11.attn", "L2.resid_pre", "embed", "final", 'module "x.y" out'])


@given(
    kind=st.sampled_from(["feature", "transcoder", "error"]),
    site=SITES,
    index=st.integers(0, 10**9),
    position=st.none() | st.integers(0, 10**6),
    dictionary=st.none() | st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]*", fullmatch=True),
)
def test_any_node_survives_its_text(
    kind: Kind, site: str, index: int, position: int | None, dictionary: str | None
) -> None:
    node = Node.of(kind, site, None if kind == "error" else index, position, dictionary)
    assert Node.parse(node.id) == node


@pytest.mark.parametrize(
    "text", ["", "L2", "f42", "L2.mlp.q4", "L2.mlp.f42@-1", "L2.resid_pre@3", "L2.mlp.t4", "final.t3", "@3", "L2.mlp.f"]
)  # fmt: skip
def test_other_text_names_no_node(text: str) -> None:
    with pytest.raises(CircuitError, match="names no node"):
        Node.parse(text)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("thing", 2, "L2.mlp", 1), "thing node at 'L2.mlp': the kind can be embedding, feature,"),
        (("feature", 1, "L2.mlp", 1), "feature node at 'L2.mlp': its layer is 2, not 1"),
        (("feature", 2, "L2.resid", 1), "the site is written L2.resid_post"),
        (("feature", 2, "L2.nothing", 1), "'L2.nothing' is not a site"),
        (("feature", 2, "L2.mlp"), "a feature needs an index"),
        (("feature", 2, "L2.mlp", -1), "index is -1, not None or a whole number from 0"),
        (("feature", 2, "L2.mlp", True), "index is True"),
        (("feature", 2, "L2.mlp", 1, 1.5), "position is 1.5"),
        (("error", 2, "L2.mlp", 1), "an error node has no index"),
        (("embedding", 2, "L2.mlp", 1), "tokens are embedded at embed"),
        (("logit", 2, "L2.mlp", 1), "logits are at logits"),
        (("head", 2, "L2.mlp", 1), "heads are at a site of attention"),
        (("mlp", 2, "L2.attn"), "an MLP is at a site of an MLP"),
        (("head", 2, "L2.attn", 1, 1, "g"), "a head belongs to no dictionary"),
        (("feature", 2, "L2.mlp", 1, 1, "my sae"), "the dictionary's name is 'my sae'; it starts with a letter"),
    ],
)  # fmt: skip
def test_parts_that_contradict_each_other_are_refused(parts: tuple[Any, ...], message: str) -> None:
    with pytest.raises(CircuitError) as caught:
        Node(*parts)
    assert message in str(caught.value)


def test_nodes_sort_in_the_order_of_the_forward() -> None:
    wanted = [
        "embed.t3@0", "embed.t1@1", "L0.attn.h1@0", "L0.attn.f7@0", "L0.mlp.tc9@1", "L0.mlp.f1@0", "L0.mlp.f2@0",
        "L0.mlp.f1@1", "L0.mlp.error@0", "L0.resid_post.f0@0", "L1.attn.h0@0", "L10.mlp@0", "logits.t4@1",
    ]  # fmt: skip
    assert [n.id for n in sorted(Node.parse(t) for t in reversed(wanted))] == wanted
    assert Node.parse("L2.mlp.f1") < Node.parse("L2.mlp.f1@0") <= Node.parse("L2.mlp.f1@0")


# The graph


def small(**meta: Any) -> CircuitGraph:
    graph = CircuitGraph(meta=Meta(model="tiny", tokens=(" a", " b"), prompts=(" a b",), **meta))
    graph.add_typed_node(Node.parse("logits.t5@1"), 1.5, token_prob=0.25, label=" c")
    graph.add_typed_node(Node.parse("embed.t1@0"), 0.1)
    graph.add_typed_node(
        Node.parse("L0.mlp.f3@0"), -0.5, activation=2.0, label="say <c>", influence=0.4, rank=3, hot=True
    )
    graph.add_typed_edge(Node.parse("L0.mlp.f3@0"), Node.parse("logits.t5@1"), -0.5, "flow", source_delta=0.1)
    graph.add_typed_edge(Node.parse("embed.t1@0"), Node.parse("L0.mlp.f3@0"), 0.75, "attribution")
    return graph


def test_a_typed_graph_is_a_circuit() -> None:
    graph = small()
    check(graph)
    assert [n.id for n, _ in nodes(graph)] == ["embed.t1@0", "L0.mlp.f3@0", "logits.t5@1"]
    assert [(u.id, v.id, d["weight"]) for u, v, d in edges(graph)] == [
        ("embed.t1@0", "L0.mlp.f3@0", 0.75),
        ("L0.mlp.f3@0", "logits.t5@1", -0.5),
    ]
    feature = graph.nodes[Node.parse("L0.mlp.f3@0")]
    assert feature == {
        "score": -0.5, "activation": 2.0, "label": "say <c>", "influence": 0.4, "token_prob": None,
        "rank": 3, "hot": True,
    }  # fmt: skip


def test_networkx_works_on_it_unchanged() -> None:
    graph = small()
    first, _, last = (n for n, _ in nodes(graph))
    assert nx.shortest_path_length(graph, first, last) == 2
    assert nx.is_directed_acyclic_graph(graph)
    assert set(nx.pagerank(graph)) == set(graph)
    for other in (
        graph.copy(),
        graph.reverse(),
        graph.subgraph(list(graph)),
        copy.deepcopy(graph),
        graph.reverse(False),
    ):
        assert isinstance(other, CircuitGraph)
        assert other.meta == graph.meta
        assert nx.utils.nodes_equal(other.nodes(data=True), graph.nodes(data=True))
    assert nx.utils.graphs_equal(graph.reverse().reverse(), graph)
    assert nx.utils.graphs_equal(pickle.loads(pickle.dumps(graph)), graph)
    assert graph.to_undirected().number_of_edges() == 2
    assert nx.utils.graphs_equal(nx.relabel_nodes(graph, {first: first}), graph)


def test_a_node_added_again_is_replaced_and_numbers_of_numpy_become_plain() -> None:
    graph = small()
    node = Node.parse("L0.mlp.f3@0")
    graph.add_typed_node(node, np.float32(0.5), activation=np.int64(2))  # type: ignore[arg-type]
    assert graph.nodes[node] == {"score": 0.5, "activation": 2.0, "label": None, "influence": None, "token_prob": None}
    assert type(graph.nodes[node]["activation"]) is float
    assert graph.number_of_edges() == 2


def test_a_part_keeps_what_supernodes_have_left() -> None:
    graph = small(supernodes=(("a", ("embed.t1@0", "L0.mlp.f3@0")), ("b", ("logits.t5@1",))))
    check(graph)
    kept = graph.part(n for n in graph if n.id != "embed.t1@0" and n.kind != "logit")
    check(kept)
    assert kept.meta.supernodes == (("a", ("L0.mlp.f3@0",)),)
    assert graph.number_of_nodes() == 3
    with pytest.raises(CircuitError, match=r"supernode 'a': embed.t1@0 is not in the graph; graph.part\(nodes\)"):
        check(graph.subgraph(list(kept)))


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g, a, f, z: g.add_typed_node(f, NAN), "node L0.mlp.f3@0: score is nan, not a finite number"),
        (lambda g, a, f, z: g.add_typed_node(f, None), "node L0.mlp.f3@0: score is None, not a finite number"),
        (lambda g, a, f, z: g.add_typed_node(f, activation=math.inf), "node L0.mlp.f3@0: activation is inf"),
        (lambda g, a, f, z: g.add_typed_node(f, label=3), "node L0.mlp.f3@0: label is 3, not text"),
        (lambda g, a, f, z: g.add_typed_node(f, site="x"), "node L0.mlp.f3@0: an attribute cannot be called 'site'"),
        (lambda g, a, f, z: g.add_typed_node(f, more=[1]), "more is a list; attributes are text, whole numbers"),
        (lambda g, a, f, z: g.add_typed_node(f, more=NAN), "more is nan, not a finite number"),
        (lambda g, a, f, z: g.add_typed_edge(f, z, NAN, "flow"), "edge L0.mlp.f3@0 -> logits.t5@1: weight is nan"),
        (lambda g, a, f, z: g.add_typed_edge(f, z, 1, "wire"), "kind is 'wire'; it can be flow, attribution"),
        (lambda g, a, f, z: g.add_typed_edge(z, f, 1, "flow"), "goes against the forward, which computes L0.mlp.f3@0"),
        (lambda g, a, f, z: g.add_typed_edge(f, f, 1, "coactivation"), "a node has no edge to itself"),
        (
            lambda g, a, f, z: g.add_typed_edge(f, Node.parse("L7.mlp@0"), 1, "flow"),
            "edge L0.mlp.f3@0 -> L7.mlp@0: L7.mlp@0 is not in the graph; add it first",
        ),
        (lambda g, a, f, z: g.nodes[f].update(score=NAN), "node L0.mlp.f3@0: score is nan"),
        (lambda g, a, f, z: g.add_node(Node.parse("L7.mlp@0")), "node L7.mlp@0: no score; use add_typed_node"),
        (lambda g, a, f, z: g.add_node("f3"), "node 'f3' is a str, not a Node"),
        (lambda g, a, f, z: g.add_edge(a, z), "edge embed.t1@0 -> logits.t5@1: no weight; use add_typed_edge"),
        (lambda g, a, f, z: g.edges[f, z].update(weight=math.inf), "edge L0.mlp.f3@0 -> logits.t5@1: weight is inf"),
        (lambda g, a, f, z: g.graph.clear(), "the graph says not what it was measured on"),
        (lambda g, a, f, z: g.add_typed_node(Node.parse("embed.t1@2")), "there are 2 tokens, so the last position"),
        (lambda g, a, f, z: meta(g, errors="lose"), "meta: errors is 'lose'; it can be keep or remove"),
        (lambda g, a, f, z: meta(g, scores={"x": NAN}), "meta: score x is nan, not a finite number"),
        (lambda g, a, f, z: meta(g, notes={"x": {1, 2}}), "meta: notes cannot be written as JSON"),
        (lambda g, a, f, z: meta(g, supernodes=(("a", (f.id,)), ("b", (f.id,)))), "L0.mlp.f3@0 is in 'a' already"),
    ],
)  # fmt: skip
def test_what_is_no_circuit_is_refused(change: Callable[..., Any], message: str) -> None:
    graph = small()
    with pytest.raises(CircuitError) as caught:
        changed_and_checked(graph, change)
    assert message in str(caught.value)


def changed_and_checked(graph: CircuitGraph, change: Callable[..., Any]) -> None:
    change(graph, *(n for n, _ in nodes(graph)))
    check(graph)


def meta(graph: CircuitGraph, **changes: Any) -> None:
    graph.graph["meta"] = replace(graph.meta, **changes)


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        ("embed.t1@0", "L0.attn.h0@1", True),
        ("embed.t1@0", "embed.f1@0", True),
        ("embed.t1@1", "L0.attn.h0@0", False),
        ("embed.t1", "L0.attn.h0@0", True),
        ("L0.attn.h0@1", "L0.attn.f5@1", True),
        ("L0.mlp.act.n3@1", "L0.mlp.tc5@1", True),
        ("L0.mlp.tc5@1", "L0.mlp.f5@1", True),
        ("L0.mlp.f5@1", "L0.mlp.tc5@1", False),
        ("L0.mlp.f5@1", "L0.mlp.f6@1", False),
        ("L0.mlp.f5@1", "L0.resid_post.f6@1", True),
        ("L0.mlp.f5@1", "L0.attn.h0@1", False),
        ("L0.mlp.error@0", "L1.mlp.f6@1", True),
        ("L10.mlp.f5@1", "L9.mlp.f6@1", False),
        ("L3.resid_post.f1@1", "logits.t5@1", True),
    ],
)
def test_influence_goes_forward(source: str, target: str, allowed: bool) -> None:
    graph = CircuitGraph(meta=Meta())
    u, v = Node.parse(source), Node.parse(target)
    for node in (u, v):
        graph.add_typed_node(node)
    graph.add_typed_edge(u, v, 1.0, "coactivation")
    if allowed:
        graph.add_typed_edge(u, v, 1.0, "flow")
        check(graph)
    else:
        with pytest.raises(CircuitError, match=r"goes against the forward|goes back from position"):
            graph.add_typed_edge(u, v, 1.0, "attribution")


# The native file


def full() -> CircuitGraph:
    return small(
        n_layers=1, metric='logit(" c")', ablation="zero", errors="remove", method="attribution", plan_id="ab12",
        scores={"faithfulness": 0.97, "completeness": 0}, supernodes=(("say c", ("L0.mlp.f3@0",)),),
        notes={"b": [1, None], "a": "x"},
    )  # fmt: skip


def test_the_native_file_is_lossless(tmp_path: Path) -> None:
    graph = full()
    assert nx.utils.graphs_equal(from_json(to_json(graph)), graph)
    assert save(graph, tmp_path / "c.json") == tmp_path / "c.json"
    assert nx.utils.graphs_equal(load(tmp_path / "c.json"), graph)
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_equal_graphs_are_equal_bytes() -> None:
    graph = full()
    other = CircuitGraph(meta=replace(graph.meta, notes={"a": "x", "b": [1, None]}))
    for node, data in reversed(nodes(graph)):
        other.add_typed_node(node, **dict(reversed(data.items())))
    for u, v, data in reversed(edges(graph)):
        other.add_typed_edge(u, v, **dict(reversed(data.items())))
    assert to_json(other) == to_json(graph) == to_json(from_json(to_json(graph)))


def test_networkx_reads_the_native_file() -> None:
    data = json.loads(to_json(full()))
    other = nx.node_link_graph(data, edges="edges")
    assert other.nodes["L0.mlp.f3@0"]["label"] == "say <c>"
    assert other.edges["L0.mlp.f3@0", "logits.t5@1"]["weight"] == -0.5
    assert other.graph["meta"]["scores"] == {"completeness": 0.0, "faithfulness": 0.97}


def test_an_empty_graph_is_a_circuit() -> None:
    graph = CircuitGraph(meta=Meta())
    assert nx.utils.graphs_equal(from_json(to_json(graph)), graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:-20], "c.json: not a circuit: "),
        (lambda t: "[]", 'c.json: not a circuit: no "format": "saedsl-circuit"'),
        (
            lambda t: t.replace('"version": 1', '"version": 2'),
            "c.json: a circuit of version 2; this saedsl reads 1: update it",
        ),
        (lambda t: t.replace("-0.5", "NaN", 1), "c.json: not a circuit: NaN is not a number of a circuit"),
        (lambda t: t.replace('"weight": -0.5', '"weight": 1e999'), "weight is inf, not a finite number"),
        (lambda t: t.replace('"weight"', '"wait"'), "c.json: a damaged circuit: TypeError"),
        (lambda t: t.replace('"nodes"', '"knots"'), "c.json: a damaged circuit: KeyError 'nodes'"),
        (lambda t: t.replace('"metric"', '"metrics"'), "c.json: meta: unknown part 'metrics'"),
        (lambda t: t.replace('"id": "embed.t1@0"', '"id": "embed.q"'), "'embed.q' names no node"),
        (lambda t: t.replace('"id": "embed.t1@0"', '"id": "L0.mlp.f3@0"'), "node L0.mlp.f3@0 is there twice"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_told(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(change(to_json(full())))
    with pytest.raises(CircuitError) as caught:
        load(path)
    assert message in str(caught.value)


def test_files_that_cannot_be_read_or_written_are_told(tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match=r"none.json: cannot be read \(No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(CircuitError, match=r"c.json: cannot be written \(No such file"):
        save(full(), tmp_path / "none" / "c.json")
    (tmp_path / "c.json").write_text("before")
    bad = full()
    bad.nodes[Node.parse("L0.mlp.f3@0")]["score"] = NAN
    with pytest.raises(CircuitError, match="score is nan"):
        save(bad, tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text() == "before"
