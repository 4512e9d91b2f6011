"""Figures and pages: `draw(circuit, "circuit.pdf")`, `draw(circuit, "circuit.html")`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import networkx as nx

from saedsl.circuits.figure import MOST_EDGES, Width, render
from saedsl.circuits.page import page
from saedsl.circuits.store import write_bytes
from saedsl.errors import CircuitError


def draw(
    circuit: nx.DiGraph,
    path: str | Path,
    *,
    width: Width = "single",
    caption: bool = True,
    most_edges: int = MOST_EDGES,
    order: Literal["dot", "own", "any"] = "any",
) -> Path:
    """Draw `circuit` into a file: PDF, SVG or PNG for print, HTML to explore.

    Args:
        circuit: a circuit with at least one node.
        path: its ending says the form: `.pdf`, `.svg`, `.png`, `.html`.
        width: of a figure: one column, 3.25 in, or two, 6.75 in.
        caption: whether a figure says below what it shows.
        most_edges: edges that a figure draws, the strongest first.
        order: of nodes in a row of a graph without positions: graphviz' `dot`, our own, or `dot` where it is installed.

    Raises:
        CircuitError: if `circuit` is not a circuit or is empty, matplotlib is not installed, or `path` cannot be
            written or says no form.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".html" | ".htm":
            content = page(circuit, order=order).encode()
        case ".pdf" | ".svg" | ".png" as suffix:
            form: Literal["pdf", "svg", "png"] = suffix[1:]  # type: ignore[assignment]
            content = render(circuit, form, width=width, caption=caption, most_edges=most_edges, order=order)
        case suffix:
            raise CircuitError(f"{path}: a figure ends in .pdf, .svg, .png or .html, not {suffix or 'nothing'}")
    return write_bytes(path, content)
