"""The native file of a graph: node-link JSON with a version, lossless; equal graphs have equal bytes."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, NoReturn

import networkx as nx

from saedsl.circuits.graph import NODE_ATTRIBUTES, CircuitGraph, Meta, Node, check, check_meta, edges, nodes
from saedsl.errors import CircuitError

FORMAT: Final = "saedsl-circuit"
VERSION: Final = 1
_PARTS: Final = ("kind", "layer", "site", "index", "position", "dictionary")
_TUPLES: Final = ("prompts", "tokens")
_HALVES: Final = re.compile("[\ud800-\udfff]")


def to_json(graph: nx.DiGraph) -> str:
    """`graph` as node-link JSON, which `networkx.node_link_graph(json.loads(text), edges="edges")` reads too.

    Raises:
        CircuitError: if `graph` is not a circuit.
    """
    check(graph)
    data = {
        "format": FORMAT,
        "version": VERSION,
        "directed": True,
        "multigraph": False,
        "graph": {"meta": meta_to_dict(graph.graph["meta"])},
        "nodes": [node_to_dict(node, attributes) for node, attributes in nodes(graph)],
        "edges": [edge_to_dict(u, v, attributes) for u, v, attributes in edges(graph)],
    }
    return dumps(data)


def from_json(text: str) -> CircuitGraph:
    """The graph that `to_json` wrote.

    Raises:
        CircuitError: if `text` is not such a graph, or is one of a later version.
    """
    try:
        data = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CircuitError(f"not a circuit: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CircuitError(f'not a circuit: no "format": "{FORMAT}"')
    if data.get("version") != VERSION:
        raise CircuitError(f"a circuit of version {data.get('version')}; this saedsl reads {VERSION}: update it")
    try:
        return build(data["graph"]["meta"], data["nodes"], data["edges"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CircuitError(f"a damaged circuit: {type(error).__name__} {error}") from None


def save(graph: nx.DiGraph, path: str | Path) -> Path:
    """Write `to_json(graph)` to `path`, whole or not at all.

    Raises:
        CircuitError: if `graph` is not a circuit, or `path` cannot be written.
    """
    return write_text(Path(path), to_json(graph))


def load(path: str | Path) -> CircuitGraph:
    """Read what `save` wrote.

    Raises:
        CircuitError: if `path` cannot be read, or is not a circuit.
    """
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, CircuitError) as error:
        raise CircuitError(f"{path}: {error}") from None


def write_text(path: Path, text: str) -> Path:
    """Make `path` hold `text`, whole or not at all.

    Raises:
        CircuitError: if it cannot be written.
    """
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> Path:
    """Make `path` hold `content`, whole or not at all.

    Raises:
        CircuitError: if it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with scratch.open("xb") as file:  # of the mode that new files have: pages are there to be served
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        raise CircuitError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        scratch.unlink(missing_ok=True)
    return path


def dumps(data: Any) -> str:
    """JSON that UTF-8 can hold, in the order of `data`: halves of surrogate pairs are escaped."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1)
    return _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"


def node_to_dict(node: Node, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """One flat object: id, parts, attributes by name."""
    parts = {name: getattr(node, name) for name in _PARTS}
    return {"id": node.id, **parts, **_attributes(attributes, tuple(NODE_ATTRIBUTES))}


def edge_to_dict(source: Node, target: Node, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """One flat object: ends, weight, kind, other attributes by name."""
    return {"source": source.id, "target": target.id, **_attributes(attributes, ("weight", "kind"))}


def meta_to_dict(meta: Meta) -> dict[str, Any]:
    """What JSON can hold of a `Meta`."""
    return {
        **asdict(meta),
        "scores": {name: float(meta.scores[name]) for name in sorted(meta.scores)},
        "notes": {name: meta.notes[name] for name in sorted(meta.notes)},
    }


def meta_from_dict(data: Mapping[str, Any]) -> Meta:
    """The inverse of `meta_to_dict`; parts that are missing have their defaults.

    Raises:
        CircuitError: if there is a part that no `Meta` has.
    """
    unknown = sorted(set(data) - {f.name for f in fields(Meta)})
    if unknown:
        raise CircuitError(f"meta: unknown part {unknown[0]!r}")
    supernodes = tuple((label, tuple(members)) for label, members in data.get("supernodes", ()))
    listed = {name: tuple(data[name]) for name in _TUPLES if data.get(name) is not None}
    return Meta(**{**data, **listed, "supernodes": supernodes})


def build(meta: Mapping[str, Any], listed: list[dict[str, Any]], joined: list[dict[str, Any]]) -> CircuitGraph:
    """A checked graph of the flat objects that `node_to_dict` and `edge_to_dict` make.

    Attributes that are not there are None; parts of the node other than `id` are not read.

    Raises:
        CircuitError: if it is not a circuit.
    """
    graph = CircuitGraph(meta=meta_from_dict(meta))
    named: dict[str, Node] = {}
    for entry in listed:
        node = named[entry["id"]] = Node.parse(entry["id"])
        if node in graph:
            raise CircuitError(f"node {node} is there twice")
        graph.add_typed_node(node, **{k: v for k, v in entry.items() if k != "id" and k not in _PARTS})
    for entry in joined:
        source, target = (named.get(entry[end]) or Node.parse(entry[end]) for end in ("source", "target"))
        if graph.has_edge(source, target):
            raise CircuitError(f"edge {source} -> {target} is there twice")
        graph.add_typed_edge(source, target, **{k: v for k, v in entry.items() if k not in ("source", "target")})
    check_meta(graph)
    return graph


def _attributes(attributes: Mapping[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    rest = sorted(name for name in attributes if name not in first)
    return {name: _plain(attributes[name]) if name in first else attributes[name] for name in (*first, *rest)}


def _plain(value: Any) -> Any:
    """Numbers of the known attributes are floats, so that equal graphs are equal texts."""
    return float(value) if isinstance(value, int) else value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of a circuit")
