"""DOT, the language of graphviz: drawn by `dot`, and read back whole from the attribute `saedsl` of what it holds."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

import graphviz
import networkx as nx

from saedsl.circuits.colours import hexadecimal
from saedsl.circuits.graph import CircuitGraph, Node, check, edges, nodes
from saedsl.circuits.node import Kind
from saedsl.circuits.store import build, edge_to_dict, meta_to_dict, node_to_dict
from saedsl.errors import CircuitError

SHAPES: Final[dict[Kind, str]] = {
    "embedding": "box", "feature": "ellipse", "transcoder": "hexagon", "error": "diamond", "head": "triangle",
    "mlp": "trapezium", "neuron": "octagon", "logit": "house",
}  # fmt: skip
_SAFE: Final = " !#$'()*+,-./:;=?@[]^_`{|}~"
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def to_dot(graph: nx.DiGraph) -> str:
    """`graph` as DOT: embeddings at the bottom, supernodes as clusters, sign by colour, width by |weight|.

    Raises:
        CircuitError: if `graph` is not a circuit.
    """
    check(graph)
    listed, joined = nodes(graph), edges(graph)
    most_score = max((abs(data["score"]) for _, data in listed), default=0.0) or 1.0
    most_weight = max((abs(data["weight"]) for *_, data in joined), default=0.0) or 1.0
    lines = [
        "digraph circuit {",
        f"  graph [rankdir=BT, saedsl={_packed(meta_to_dict(graph.graph['meta']))}];",
        '  node [fontname="Helvetica", fontsize=10, style=filled];',
    ]
    rows: dict[str, list[Node]] = defaultdict(list)
    for node, data in listed:
        rows[node.site].append(node)
        share = data["score"] / most_score
        lines.append(
            f"  {_quoted(node.id)} [label={_label(data['label'] or node.id)}, shape={SHAPES[node.kind]}, "
            f'fillcolor="{hexadecimal(share)}", fontcolor={"white" if share > 0.5 else "black"}, '
            f"saedsl={_packed(node_to_dict(node, data))}];"
        )
    for i, (label, members) in enumerate(graph.graph["meta"].supernodes):
        inside = " ".join(f"{_quoted(member)};" for member in members)
        lines.append(f"  subgraph cluster_{i} {{ label={_label(label)}; style=rounded; {inside} }}")
    if not graph.graph["meta"].supernodes:  # dot refuses ranks across clusters
        for row in rows.values():
            lines.append(f"  {{ rank=same; {' '.join(f'{_quoted(node.id)};' for node in row)} }}")
    for source, target, data in joined:
        share = data["weight"] / most_weight
        lines.append(
            f"  {_quoted(source.id)} -> {_quoted(target.id)} [penwidth={0.4 + 3.6 * abs(share):.4g}, "
            f'color="{hexadecimal(0.3 * (1 if share > 0 else -1) + 0.7 * share)}", '
            f"{'' if source.depth < target.depth else 'constraint=false, '}"
            f"saedsl={_packed(edge_to_dict(source, target, data))}];"
        )
    return "\n".join([*lines, "}"]) + "\n"


def from_dot(text: str) -> CircuitGraph:
    """The graph that `to_dot` wrote. graphviz parses it.

    Raises:
        CircuitError: if graphviz is not installed, or `text` is not such a graph.
    """
    try:
        read = json.loads(graphviz.Source(text).pipe(format="dot_json", engine="dot", quiet=True))
    except graphviz.ExecutableNotFound:
        raise CircuitError("DOT is read by graphviz, which is not installed: install graphviz") from None
    except (subprocess.CalledProcessError, ValueError) as error:
        raise CircuitError(f"not DOT: {str(error).splitlines()[0]}") from None
    objects = [o for o in read.get("objects", ()) if "nodes" not in o and "subgraphs" not in o]
    entries = [*objects, *read.get("edges", ())]
    if any("saedsl" not in entry for entry in (read, *entries)):
        raise CircuitError("DOT of another program: no attribute saedsl")
    try:
        return build(
            _unpacked(read["saedsl"]),
            [_unpacked(entry["saedsl"]) for entry in objects],
            [_unpacked(entry["saedsl"]) for entry in read.get("edges", ())],
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CircuitError(f"a damaged circuit: {type(error).__name__} {error}") from None


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def _label(text: str) -> str:
    """Text that `dot` shows as it is: its escapes and entities are escaped, control characters made visible."""
    shown = _CONTROL.sub(lambda m: " " if m[0] in "\t\r" else "\ufffd", text)
    shown = shown.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{shown}"'


def _packed(values: Mapping[str, Any]) -> str:
    """JSON whose quotes, backslashes and entities are percent-encoded."""
    return '"' + quote(json.dumps(values, allow_nan=False), safe=_SAFE) + '"'


def _unpacked(text: str) -> Any:
    return json.loads(unquote(text))
