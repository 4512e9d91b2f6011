"""The interactive page: one file that works offline, with the circuit, its layout and all code inside."""

from __future__ import annotations

import json
import re
from html import escape
from importlib.resources import files
from typing import Any, Final, Literal

import networkx as nx

from saedsl.circuits.caption import caption, one_line
from saedsl.circuits.colours import NAMES
from saedsl.circuits.graph import Meta, nodes
from saedsl.circuits.layout import layout
from saedsl.circuits.store import to_json
from saedsl.errors import CircuitError

SCRIPTS: Final = ("1-model.js", "2-draw.js", "3-save.js", "4-controls.js")
_SUPERNODES = re.compile(r'\n   "supernodes": (\[\]|\[.*?\n   \]),?\n', re.DOTALL)
_UNSAFE: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def page(graph: nx.DiGraph, *, order: Literal["dot", "own", "any"] = "any") -> str:
    """HTML that shows `graph`; equal graphs give equal pages.

    Args:
        graph: a circuit with at least one node.
        order: see `layout`.

    Raises:
        CircuitError: if `graph` is not a circuit, or is empty.
    """
    native = to_json(graph)
    if not len(graph):
        raise CircuitError("the circuit has no nodes: nothing to draw")
    meta: Meta = graph.graph["meta"]
    placed = layout(graph, order)
    before, after = _around_supernodes(native)
    listed = [node for node, _ in nodes(graph)]
    title = f"Circuit{f' of {one_line(meta.model)}' if meta.model else ''}"
    data: dict[str, Any] = {
        "title": title,
        "caption": caption(graph),
        "name": re.sub(r"[^A-Za-z0-9_.-]+", "-", f"circuit-{(meta.plan_id or '')[:12]}").strip("-."),
        "before": before,
        "after": after,
        "supernodes": meta.supernodes,
        "places": [placed.places[node] for node in listed],
        "shorts": [node.short if node.dictionary is None else f"{node.dictionary}:{node.short}" for node in listed],
        "columns": [{"text": c.text, "left": c.left, "right": c.right} for c in placed.columns],
        "rows": [{"text": r.text, "layer": r.layer, "bottom": r.bottom, "top": r.top} for r in placed.rows],
        "width": placed.width,
        "height": placed.height,
        "names": NAMES,
    }
    folder = files("saedsl.circuits") / "pagefiles"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    whole = read("page.html")
    for mark, text in (
        ("<!--TITLE-->", escape(title)),
        ("/*STYLE*/", read("page.css")),
        ("/*SCRIPT*/", "\n".join(map(read, SCRIPTS))),
        ("<!--DATA-->", _inside_script(data)),
    ):
        head, found, tail = whole.partition(mark)
        assert found, mark
        whole = head + text + tail
    return whole


def _inside_script(data: dict[str, Any]) -> str:
    """JSON that ends no element and opens no comment."""
    return "".join(_UNSAFE.get(c, c) for c in json.dumps(data, allow_nan=False))


def _around_supernodes(native: str) -> tuple[str, str]:
    """The native file before and after the value of its supernodes, which the page replaces."""
    match = _SUPERNODES.search(native)
    assert match is not None  # `to_json` always writes it
    return native[: match.start(1)], native[match.end(1) :]
