"""The viewer's graph JSON, against a schema written from its rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from saedsl.circuits.graph import CircuitGraph, Node, nodes
from saedsl.circuits.neuronpedia import to_neuronpedia
from saedsl.errors import CircuitError
from tests.circuits import samples

NAME = r"^[A-Za-z0-9_.-]+$"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "additionalProperties": False,
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                "slug": {"type": "string", "pattern": NAME},
                "scan": {"type": "string", "pattern": NAME},
                "prompt_tokens": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                "prompt": {"type": "string"},
                "schema_version": {"const": 1},
                "node_threshold": {"type": "number"},
                "info": {
                    "type": "object",
                    "properties": {
                        "generator": {
                            "type": "object",
                            "required": ["name", "version", "url"],
                            "additionalProperties": {"type": "string"},
                        }
                    },
                },
                "pruning_settings": {"type": "object", "additionalProperties": {"type": "number"}},
            },
        },
        "qParams": {
            "type": "object",
            "required": ["pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"],
            "properties": {
                "pinnedIds": {"type": "array", "items": {"type": "string"}},
                "supernodes": {
                    "type": "array",
                    "items": {"type": "array", "minItems": 2, "items": {"type": "string"}},
                },
                "linkType": {"const": "both"},
                "clickedId": {"type": "string"},
                "sg_pos": {"type": "string"},
            },
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"],
                "additionalProperties": False,
                "properties": {
                    "node_id": {"type": "string", "pattern": r"^(E|\d+)_-?\d+_\d+$"},
                    "feature": {"type": "integer", "minimum": -1},
                    "layer": {"type": "string", "pattern": r"^(E|\d+)$"},
                    "ctx_idx": {"type": "integer", "minimum": 0},
                    "reverse_ctx_idx": {"type": "integer", "minimum": 0},
                    "feature_type": {
                        "enum": ["cross layer transcoder", "mlp reconstruction error", "embedding", "logit"]
                    },
                    "jsNodeId": {"type": "string"},
                    "clerp": {"type": "string"},
                    "influence": {"type": "number"},
                    "activation": {"type": "number"},
                    "token_prob": {"type": "number", "minimum": 0, "maximum": 1},
                    "is_target_logit": {"type": "boolean"},
                    "run_idx": {"type": "integer"},
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "additionalProperties": False,
                "properties": {
                    "source": {"type": "string"},
                    "target": {"type": "string"},
                    "weight": {"type": "number"},
                },
            },
        },
    },
}


def valid(text: str) -> dict[str, Any]:
    """The graph, checked against the schema and the traps that a schema does not see."""
    data: dict[str, Any] = json.loads(text)
    jsonschema.validate(data, SCHEMA)
    listed = data["nodes"]
    ids = [n["node_id"] for n in listed]
    assert len(set(ids)) == len(ids)
    assert len({(n["jsNodeId"], n["ctx_idx"]) for n in listed}) == len(ids)
    for link in data["links"]:
        assert {link["source"], link["target"]} <= set(ids)
    for _, *members in data["qParams"]["supernodes"]:
        assert set(members) <= set(ids)
    logits = [n for n in listed if n["feature_type"] == "logit"]
    assert listed[len(listed) - len(logits) :] == logits
    assert [n["feature"] for n in logits] == sorted(n["feature"] for n in logits)
    for n in listed:
        layer, number, position = n["node_id"].split("_")
        assert layer == n["layer"]
        assert int(position) == n["ctx_idx"] < len(data["metadata"]["prompt_tokens"])
        assert n["ctx_idx"] + n["reverse_ctx_idx"] == len(data["metadata"]["prompt_tokens"]) - 1
        match n["feature_type"]:
            case "logit":
                p = re.search(r"\(p=(\d\.\d{3})\)", n["clerp"])
                assert p
                assert float(p[1]) == pytest.approx(n["token_prob"], abs=5.1e-4)
                assert n["jsNodeId"] == f"L_{number}-{position}"
                assert n["feature"] == int(number)
            case "embedding":
                assert n["jsNodeId"] == f"E_{number}-{position}"
                assert n["feature"] == int(position)
            case "mlp reconstruction error":
                assert n["feature"] == -1
                assert int(number) < 0
            case _:
                total, f = int(layer) + int(number), int(number)
                assert n["feature"] == total * (total + 1) // 2 + f
                assert n["jsNodeId"] == f"{layer}_{number}-0"
    above = [n for n in listed if n["feature_type"] != "logit" and n["layer"] != "E" and int(n["layer"]) >= 1]
    assert above
    assert all(int(n["layer"]) > max(int(a["layer"]) for a in above) + 1 or n["layer"] == "4" for n in logits)
    return data


def one_dictionary() -> CircuitGraph:
    """One SAE a layer, as the viewer knows it."""
    graph = samples.kinds()
    kept = {"embed.t17@4", "L0.mlp.f7@4", "L0.mlp.error@4", "L1.mlp.f42@5", "logits.t31@5", "logits.t20@5"}
    return graph.part(n for n in graph if n.id in kept)


def test_nodes_are_as_the_viewer_writes_them() -> None:
    data = valid(to_neuronpedia(one_dictionary()))
    assert [(n["node_id"], n["feature"], n["layer"], n["jsNodeId"], n["clerp"]) for n in data["nodes"]] == [
        ("E_17_4", 4, "E", "E_17-4", " France"),
        ("0_7_4", 35, "0", "0_7-0", "L0.mlp.f7: European countries"),
        ("0_-1_4", -1, "0", "0_4-0", "L0.mlp.error"),
        ("1_42_5", 988, "1", "1_42-0", "L1.mlp.f42: say a capital city"),
        ("4_20_5", 20, "4", "L_20-5", " Rome (p=0.062)"),
        ("4_31_5", 31, "4", "L_31-5", " Paris (p=0.812)"),
    ]
    assert data["qParams"]["supernodes"] == [["say a capital", "1_42_5"], ["France", "0_7_4"]]
    assert {"source": "1_42_5", "target": "4_31_5", "weight": 1.2} in data["links"]
    assert data["metadata"]["scan"] == "tiny-model"
    assert data["metadata"]["slug"] == "tiny-model-0123456789ab"
    assert data["metadata"]["prompt_tokens"][4] == " France"


def test_every_kind_and_second_dictionaries_find_a_place() -> None:
    graph = samples.kinds()
    data = valid(to_neuronpedia(graph))
    assert len(data["nodes"]) == len(graph)
    assert len(data["links"]) == graph.number_of_edges()
    assert data["metadata"]["info"]["feature_numbers"]["layer 1"] == [
        "head:L1.attn", "t:transcoder:L1.mlp", "L1.mlp", "g:L1.mlp",
    ]  # fmt: skip
    by_text = {n["clerp"]: n["node_id"] for n in data["nodes"]}
    assert by_text["L1.mlp.f42: say a capital city"] == f"1_{42 * 4 + 2}_5"
    assert by_text["g:L1.mlp.f42"] == f"1_{42 * 4 + 3}_5"
    assert by_text["L1.attn.h3"] == f"1_{3 * 4}_5"
    assert by_text["g:L1.mlp.error"] == "1_-4_5"


def test_a_metric_of_several_logits_is_the_logit_of_no_token() -> None:
    graph = one_dictionary()
    goal = Node.of("logit", "logits", None, 5)
    graph.add_typed_node(goal, score=1.5, label="logit(io.answer) - logit(io.wrong)")
    graph.add_typed_edge(next(n for n in graph if n.id == "L1.mlp.f42@5"), goal, 0.7, "flow")
    data = valid(to_neuronpedia(graph))
    (written,) = [n for n in data["nodes"] if n["clerp"].startswith("logit(")]
    assert written["clerp"] == "logit(io.answer) - logit(io.wrong) (p=0.000)"
    assert written["token_prob"] == 0
    assert {"source": "1_42_5", "target": written["node_id"], "weight": 0.7} in data["links"]


def test_any_text_survives() -> None:
    data = valid(to_neuronpedia(samples.nasty()))
    texts = {n["clerp"].partition(": ")[2] for n in data["nodes"]}
    assert set(filter(None, samples.NASTY)) - {samples.NASTY[0]} <= texts
    assert data["metadata"]["prompt_tokens"] == samples.NASTY
    assert [s[0] for s in data["qParams"]["supernodes"]] == samples.NASTY


def test_large_graphs_keep_what_is_most_important() -> None:
    graph = samples.kinds()
    data = valid(to_neuronpedia(graph, max_features=3))
    kept = {n["clerp"].partition(":")[0] for n in data["nodes"] if n["feature_type"] == "cross layer transcoder"}
    by_influence = sorted((d["influence"], n) for n, d in nodes(graph) if d["influence"] is not None)
    assert len(kept) == 3
    assert "L1.mlp.f42" in kept
    assert [n.id.partition("@")[0] for _, n in by_influence[:3]] == ["L1.mlp.f42", "L0.mlp.f7", "g:L1.mlp.f42"]
    assert data["metadata"]["info"]["features_left_out"] == 14 - 3 - 4


def test_settings_are_told() -> None:
    data = valid(
        to_neuronpedia(one_dictionary(), slug="My graph!", scan="gemma-2-2b", node_threshold=0.8, edge_threshold=0.98)
    )
    assert data["metadata"]["slug"] == "my-graph"
    assert data["metadata"]["scan"] == "gemma-2-2b"
    assert data["metadata"]["node_threshold"] == 0.8
    assert data["metadata"]["pruning_settings"] == {"node_threshold": 0.8, "edge_threshold": 0.98}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: samples.free(), "node L1.mlp.f0 has no position: the viewer shows graphs of one prompt; build"),
        (lambda g: no_tokens(g), "the graph has no tokens: the viewer shows graphs of one prompt"),
        (lambda g: no_probability(g), "node logits.t31@5: no token_prob, which the viewer reads from every logit"),
        (lambda g: g.part(n for n in g if n.layer != 1), "the viewer needs a node above layer 0 that is not a logit"),
        (lambda g: with_module(g), 'module "a.b" out is in no layer, which the viewer needs; leave the node out'),
    ],
)  # fmt: skip
def test_what_the_viewer_cannot_show_is_told(change: Callable[[CircuitGraph], CircuitGraph], message: str) -> None:
    with pytest.raises(CircuitError) as caught:
        to_neuronpedia(change(one_dictionary()))
    assert message in str(caught.value)


def no_tokens(graph: CircuitGraph) -> CircuitGraph:
    return graph.with_meta(replace(graph.meta, tokens=None))


def no_probability(graph: CircuitGraph) -> CircuitGraph:
    graph.add_typed_node(Node.parse("logits.t31@5"), 1.0)
    return graph


def with_module(graph: CircuitGraph) -> CircuitGraph:
    graph.add_typed_node(Node.parse('module "a.b" out.f1@3'))
    return graph
