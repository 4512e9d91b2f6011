"""Graph JSON that opens in Neuronpedia and in circuit-tracer's viewer.

The viewer knows features, errors, tokens and logits, and one dictionary a layer. Everything else (heads, MLPs,
neurons, second dictionaries of a layer) is written as features whose numbers say which of the layer's sources they come
from: `number * sources + source`, told in `metadata.info.feature_numbers`; texts (`clerp`) start with the node's id. A
metric of several logits is written as the logit of token 0 with probability 0; its text is the metric.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

import networkx as nx

from saedsl.circuits.graph import CircuitGraph, Meta, Node, check, edges, nodes
from saedsl.circuits.store import dumps
from saedsl.errors import CircuitError

MOST_FEATURES: Final = 2000
"""The viewer does not open graphs much larger."""
_SLUG = re.compile(r"[^A-Za-z0-9_.-]+")

Source = tuple[str, str, str]
"""(site, kind, dictionary) of nodes that are written as features."""


def to_neuronpedia(
    graph: CircuitGraph,
    *,
    slug: str | None = None,
    scan: str | None = None,
    max_features: int = MOST_FEATURES,
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
) -> str:
    """`graph` as JSON of the viewer.

    Args:
        graph: a circuit with positions and tokens; logits of single tokens have `token_prob`.
        slug: name of the graph; default: of the model and the plan.
        scan: the viewer's id of the model; default: from the model's name.
        max_features: of more features and errors, those of largest influence, else of largest |score|, are written.
        node_threshold: cumulative influence that pruning kept, where it was pruned so.
        edge_threshold: likewise of edges.

    Raises:
        CircuitError: if `graph` is not a circuit, has no positions, or no node the viewer needs.
    """
    check(graph)
    meta: Meta = graph.graph["meta"]
    _check_fit(graph, meta)
    kept = _capped(graph, max_features)
    n_layers = _n_layers(graph, meta)
    sources = _sources(graph)
    listed = [(node, data) for node, data in nodes(graph) if node in kept]
    listed.sort(key=lambda pair: (pair[0].kind == "logit", pair[0].index or 0 if pair[0].kind == "logit" else 0))
    ids = {node: _ids(node, n_layers, sources)["node_id"] for node, _ in listed}
    by_text = {node.id: ids[node] for node in ids}
    supernodes = [[label, *(by_text[m] for m in members if m in by_text)] for label, members in meta.supernodes]
    tokens = meta.tokens or ()
    name = scan or _clean(meta.model) or "model"
    thresholds = {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
    thresholds = {key: value for key, value in thresholds.items() if value is not None}
    info: dict[str, Any] = {
        "generator": {"name": meta.created_by, "version": version("saedsl"), "url": ""},
        "features_left_out": len(graph) - len(kept),
        "feature_numbers": {
            f"layer {layer}": [":".join(part for part in reversed(source) if part) for source in listed_sources]
            for layer, listed_sources in sorted(sources.items())
        },
        "circuit": {
            k: v for k, v in (("metric", meta.metric), ("ablation", meta.ablation), ("plan", meta.plan_id)) if v
        },
    }
    metadata: dict[str, Any] = {
        "slug": _clean(slug or "-".join(filter(None, (name, (meta.plan_id or "circuit")[:12])))).lower(),
        "scan": name,
        "schema_version": 1,
        "prompt_tokens": list(tokens),
        "prompt": meta.prompts[0] if meta.prompts else "".join(tokens),
        "info": info,
    }
    if thresholds:
        metadata["pruning_settings"] = thresholds
        metadata |= {k: v for k, v in thresholds.items() if k == "node_threshold"}
    whole = {
        "metadata": metadata,
        "qParams": {
            "pinnedIds": [],
            "supernodes": [group for group in supernodes if len(group) > 1],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [_node(node, data, n_layers, sources, len(tokens)) for node, data in listed],
        "links": [
            {"source": ids[u], "target": ids[v], "weight": float(data["weight"])}
            for u, v, data in edges(graph)
            if u in kept and v in kept
        ],
    }
    return dumps(whole)


def _check_fit(graph: nx.DiGraph, meta: Meta) -> None:
    free = [node for node in graph if node.position is None]
    if free or meta.tokens is None:
        raise CircuitError(
            f"{f'node {min(free)} has no position' if free else 'the graph has no tokens'}: the viewer shows graphs "
            "of one prompt; build the graph with positions, or export to another format"
        )
    for node, data in nodes(graph):
        if node.kind == "logit" and node.index is not None and data["token_prob"] is None:
            raise CircuitError(f"node {node}: no token_prob, which the viewer reads from every logit; set it")
        if node.kind in ("embedding", "logit"):
            continue
        if node.layer is None and node.site not in ("embed", "final"):
            raise CircuitError(f"node {node}: {node.site} is in no layer, which the viewer needs; leave the node out")
    if all(node.kind == "logit" or (node.layer or 0) < 1 for node in graph):
        raise CircuitError("the viewer needs a node above layer 0 that is not a logit; there is none")


def _capped(graph: nx.DiGraph, most: int) -> set[Node]:
    fixed = {node for node in graph if node.kind in ("embedding", "logit")}
    others = [(node, data) for node, data in nodes(graph) if node not in fixed]

    def rank(pair: tuple[Node, Mapping[str, Any]]) -> tuple[bool, float, float]:
        influence = pair[1]["influence"]
        return influence is None, influence or 0.0, -abs(pair[1]["score"])

    return fixed | {node for node, _ in sorted(others, key=rank)[:most]}


def _n_layers(graph: nx.DiGraph, meta: Meta) -> int:
    layers: list[int] = [node.layer + 1 for node in graph if node.layer is not None]
    return max([meta.n_layers or 1, *layers])


def _layer(node: Node, n_layers: int) -> int:
    if node.layer is not None:
        return node.layer
    return n_layers if node.site == "final" else 0


def _sources(graph: nx.DiGraph) -> dict[int, list[Source]]:
    """What is written as features in each layer, in the order of the forward."""
    n_layers = _n_layers(graph, graph.graph["meta"])
    found: dict[int, list[Source]] = defaultdict(list)
    for node in sorted(graph):
        if node.kind not in ("embedding", "logit"):
            source = _source(node)
            if source not in found[_layer(node, n_layers)]:
                found[_layer(node, n_layers)].append(source)
    return dict(found)


def _source(node: Node) -> Source:
    kind = "feature" if node.kind == "error" else str(node.kind)
    return node.site, "" if kind == "feature" else kind, node.dictionary or ""


def _ids(node: Node, n_layers: int, sources: Mapping[int, list[Source]]) -> dict[str, Any]:
    position = node.position
    if node.kind == "embedding":
        number = node.index or 0
        return {
            "node_id": f"E_{number}_{position}",
            "feature": position,
            "layer": "E",
            "jsNodeId": f"E_{number}-{position}",
        }
    if node.kind == "logit":
        top, number = n_layers + 1, node.index or 0
        return {
            "node_id": f"{top}_{number}_{position}", "feature": number, "layer": str(top),
            "jsNodeId": f"L_{number}-{position}",
        }  # fmt: skip
    layer = _layer(node, n_layers)
    slot, of = sources[layer].index(_source(node)), len(sources[layer])
    if node.kind == "error":
        return {
            "node_id": f"{layer}_{-1 - slot}_{position}", "feature": -1, "layer": str(layer),
            "jsNodeId": f"{layer}_{position}-{slot}",
        }  # fmt: skip
    number = (node.index or 0) * of + slot
    return {
        "node_id": f"{layer}_{number}_{position}",
        "feature": (layer + number) * (layer + number + 1) // 2 + number,
        "layer": str(layer),
        "jsNodeId": f"{layer}_{number}-0",
    }


_TYPES: Final = {"embedding": "embedding", "logit": "logit", "error": "mlp reconstruction error"}


def _node(
    node: Node, data: Mapping[str, Any], n_layers: int, sources: Mapping[int, list[Source]], length: int
) -> dict[str, Any]:
    position = node.position or 0
    found: dict[str, Any] = {
        **_ids(node, n_layers, sources),
        "ctx_idx": position,
        "reverse_ctx_idx": length - 1 - position,
        "feature_type": _TYPES.get(node.kind, "cross layer transcoder"),
        "clerp": _clerp(node, data),
        "influence": data["influence"],
        "activation": data["activation"],
        "token_prob": data["token_prob"] or 0.0,
        "is_target_logit": node.kind == "logit" and bool(data.get("is_target", True)),
        "run_idx": 0,
    }
    return {name: value for name, value in found.items() if value is not None}


def _clerp(node: Node, data: Mapping[str, Any]) -> str:
    text = data["label"]
    match node.kind:
        case "logit":
            return f"{text or node.id} (p={data['token_prob'] or 0.0:.3f})"
        case "embedding":
            return text or node.id
    name = node.id.rpartition("@")[0]
    return f"{name}: {text}" if text else name


def _clean(text: str) -> str:
    return _SLUG.sub("-", text.rstrip("/").rpartition("/")[2]).strip("-.")
