"""GraphML and GEXF, lossless: networkx, Gephi, yEd and Cytoscape read them.

Text that XML cannot hold, such as control characters, is written as `json:` and its JSON.
"""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from typing import Any, Final

import networkx as nx

from saedsl.circuits.colours import hexadecimal
from saedsl.circuits.graph import CircuitGraph, check, edges, nodes
from saedsl.circuits.layout import layout
from saedsl.circuits.store import build, edge_to_dict, meta_to_dict, node_to_dict
from saedsl.errors import CircuitError

GRAPHML: Final = "http://graphml.graphdrawing.org/xmlns"
GEXF: Final = "http://www.gexf.net/1.2draft"
VIZ: Final = "http://www.gexf.net/1.2draft/viz"
_TYPES: Final[dict[type, str]] = {bool: "boolean", int: "long", float: "double", str: "string"}
_PLAIN = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_MARK: Final = "json:"
_NOT_OURS: Final = frozenset({"viz", "pid", "node_default", "edge_default"})
"""What networkx adds when it reads."""

Values = Mapping[str, Any]


def to_graphml(graph: nx.DiGraph) -> str:
    """`graph` as GraphML, which `networkx.parse_graphml` reads.

    Raises:
        CircuitError: if `graph` is not a circuit.
    """
    check(graph)
    listed, joined = _flat(graph)
    root = ET.Element("graphml", xmlns=GRAPHML)
    keys = {
        kind: _keys((v for _, v in entries), letter)
        for kind, letter, entries in (("node", "n", listed), ("edge", "e", joined))
    }
    ET.SubElement(root, "key", {"id": "g0", "for": "graph", "attr.name": "meta", "attr.type": "string"})
    for kind, known in keys.items():
        for (name, of), key in known.items():
            ET.SubElement(root, "key", {"id": key, "for": kind, "attr.name": name, "attr.type": of})
    top = ET.SubElement(root, "graph", edgedefault="directed")
    ET.SubElement(top, "data", key="g0").text = _meta(graph)
    for (identity,), values in listed:
        _data(ET.SubElement(top, "node", id=identity), values, keys["node"])
    for (source, target), values in joined:
        _data(ET.SubElement(top, "edge", source=source, target=target), values, keys["edge"])
    return _text(root)


def from_graphml(text: str) -> CircuitGraph:
    """The graph that `to_graphml` wrote, or that another program changed and wrote again.

    Raises:
        CircuitError: if it is not a circuit.
    """
    try:
        read = nx.parse_graphml(text)
    except (ET.ParseError, nx.NetworkXError, KeyError, ValueError) as error:
        raise CircuitError(f"not GraphML of a circuit: {error}") from None
    return _rebuilt(read, read.graph.get("meta"))


def to_gexf(graph: nx.DiGraph) -> str:
    """`graph` as GEXF 1.2 with places, colours and widths for Gephi; `networkx.read_gexf` reads it.

    Raises:
        CircuitError: if `graph` is not a circuit.
    """
    check(graph)
    listed, joined = _flat(graph)
    places = {node.id: place for node, place in layout(graph, "own").places.items()}
    largest = max((abs(v["weight"]) for _, v in joined), default=0.0) or 1.0
    most = max((abs(v["score"]) for _, v in listed), default=0.0) or 1.0
    root = ET.Element("gexf", {"xmlns": GEXF, "xmlns:viz": VIZ, "version": "1.2"})
    meta = ET.SubElement(root, "meta")
    ET.SubElement(meta, "creator").text = "saedsl"
    ET.SubElement(meta, "description").text = _meta(graph)
    top = ET.SubElement(root, "graph", defaultedgetype="directed", mode="static")
    renamed = [(ends, {"label_text" if k == "label" else k: v for k, v in values.items()}) for ends, values in listed]
    rest = [(ends, {k: v for k, v in values.items() if k != "weight"}) for ends, values in joined]
    keys = {
        kind: _keys((v for _, v in entries), letter)
        for kind, letter, entries in (("node", "n", renamed), ("edge", "e", rest))
    }
    for kind, known in keys.items():
        table = ET.SubElement(top, "attributes", {"class": kind, "mode": "static"})
        for (name, of), key in known.items():
            ET.SubElement(table, "attribute", id=key, title=name, type=of)
    inside = ET.SubElement(top, "nodes")
    for (identity,), values in renamed:
        element = ET.SubElement(inside, "node", id=identity, label=_safe(values.get("label_text", identity)))
        _attvalues(element, values, keys["node"])
        x, y = places[identity]
        ET.SubElement(element, "viz:position", x=f"{60 * x:g}", y=f"{60 * y:g}", z="0")
        _colour(element, values["score"], most)
    inside = ET.SubElement(top, "edges")
    for i, ((source, target), told) in enumerate(joined):
        element = ET.SubElement(
            inside, "edge", id=str(i), source=source, target=target, weight=repr(float(told["weight"]))
        )
        _attvalues(element, rest[i][1], keys["edge"])
        ET.SubElement(element, "viz:thickness", value=f"{0.5 + 4 * abs(told['weight']) / largest:.4g}")
        _colour(element, told["weight"], largest)
    return _text(root)


def from_gexf(text: str) -> CircuitGraph:
    """The graph that `to_gexf` wrote.

    Raises:
        CircuitError: if it is not a circuit.
    """
    try:
        read = nx.read_gexf(io.BytesIO(text.encode()))
        meta = ET.fromstring(text).findtext(f"{{{GEXF}}}meta/{{{GEXF}}}description")
    except (ET.ParseError, nx.NetworkXError, KeyError, ValueError) as error:
        raise CircuitError(f"not GEXF of a circuit: {error}") from None
    for _, node in read.nodes(data=True):
        node.pop("label", None)
        if "label_text" in node:
            node["label"] = node.pop("label_text")
    return _rebuilt(read, meta)


def _flat(graph: nx.DiGraph) -> tuple[list[tuple[tuple[str, ...], Values]], list[tuple[tuple[str, ...], Values]]]:
    """((id,), values) of nodes and ((source, target), values) of edges, without what is None."""
    listed = [node_to_dict(node, data) for node, data in nodes(graph)]
    joined = [edge_to_dict(u, v, data) for u, v, data in edges(graph)]
    return [_split(e, ("id",)) for e in listed], [_split(e, ("source", "target")) for e in joined]


def _split(entry: Values, ends: tuple[str, ...]) -> tuple[tuple[str, ...], Values]:
    rest = {name: value for name, value in entry.items() if name not in ends and value is not None}
    return tuple(entry[end] for end in ends), rest


def _keys(entries: Iterable[Values], letter: str) -> dict[tuple[str, str], str]:
    """An id for every (name, type) there is."""
    found = dict.fromkeys((name, _TYPES[type(value)]) for values in entries for name, value in values.items())
    return {key: f"{letter}{i}" for i, key in enumerate(found)}


def _data(element: ET.Element, values: Values, keys: Mapping[tuple[str, str], str]) -> None:
    for name, value in values.items():
        ET.SubElement(element, "data", key=keys[name, _TYPES[type(value)]]).text = _written(value)


def _attvalues(element: ET.Element, values: Values, keys: Mapping[tuple[str, str], str]) -> None:
    inside = ET.SubElement(element, "attvalues")
    for name, value in values.items():
        ET.SubElement(inside, "attvalue", {"for": keys[name, _TYPES[type(value)]], "value": _written(value)})


def _colour(element: ET.Element, value: float, largest: float) -> None:
    colour = hexadecimal(value / largest if largest else 0.0)
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    ET.SubElement(element, "viz:color", r=str(r), g=str(g), b=str(b))


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _safe(value) if isinstance(value, str) else repr(value)


def _safe(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and not text.startswith(_MARK) else _MARK + json.dumps(text)


def _read(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_MARK):
        try:
            return json.loads(value.removeprefix(_MARK))
        except ValueError:
            return value
    return value


def _meta(graph: nx.DiGraph) -> str:
    return json.dumps(meta_to_dict(graph.graph["meta"]), allow_nan=False, sort_keys=True)


def _rebuilt(read: nx.DiGraph, meta: str | None) -> CircuitGraph:
    if meta is None:
        raise CircuitError("not a circuit: the graph says not what it was measured on (no meta)")
    try:
        return build(
            json.loads(meta),
            [{**_ours(values), "id": node} for node, values in read.nodes(data=True)],
            [{**_ours(values), "source": u, "target": v} for u, v, values in read.edges(data=True)],
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CircuitError(f"not a circuit: {type(error).__name__} {error}") from None


def _ours(values: Values) -> dict[str, Any]:
    return {name: _read(value) for name, value in values.items() if name not in _NOT_OURS and name != "id"}


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'
