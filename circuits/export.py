"""Graphs in the formats of other programs, and back: one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, get_args

from saedsl.circuits.cytoscape import from_cytoscape, to_cytoscape
from saedsl.circuits.dot import from_dot, to_dot
from saedsl.circuits.graph import CircuitGraph
from saedsl.circuits.neuronpedia import to_neuronpedia
from saedsl.circuits.store import from_json, to_json, write_text
from saedsl.circuits.tikz import to_tikz
from saedsl.circuits.xmlgraph import from_gexf, from_graphml, to_gexf, to_graphml
from saedsl.errors import CircuitError

Format = Literal["json", "graphml", "gexf", "dot", "cytoscape", "neuronpedia", "tikz"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

WRITERS: Final[dict[Format, Callable[[CircuitGraph], str]]] = {
    "json": to_json, "graphml": to_graphml, "gexf": to_gexf, "dot": to_dot, "cytoscape": to_cytoscape,
    "neuronpedia": to_neuronpedia, "tikz": to_tikz,
}  # fmt: skip
READERS: Final[dict[Format, Callable[[str], CircuitGraph]]] = {
    "json": from_json, "graphml": from_graphml, "gexf": from_gexf, "dot": from_dot, "cytoscape": from_cytoscape,
}  # fmt: skip
"""Lossless both ways. The viewer's JSON and LaTeX are not read."""
SUFFIXES: Final[dict[str, Format]] = {
    ".neuronpedia.json": "neuronpedia", ".json": "json", ".graphml": "graphml", ".gexf": "gexf", ".dot": "dot",
    ".gv": "dot", ".cyjs": "cytoscape", ".tex": "tikz",
}  # fmt: skip


def format_of(path: str | Path) -> Format:
    """The format that a file's name says.

    Raises:
        CircuitError: if it says none.
    """
    name = Path(path).name.lower()
    for suffix, found in SUFFIXES.items():
        if name.endswith(suffix):
            return found
    raise CircuitError(f"{path}: the name says no format; it can end in {', '.join(SUFFIXES)}, or give format=")


def export(graph: CircuitGraph, path: str | Path, format: Format | None = None) -> Path:
    """Write `graph` to `path`, whole or not at all.

    Args:
        graph: a circuit.
        path: the file; its ending says the format.
        format: one of `FORMATS`, where the ending says another, or none.

    Raises:
        CircuitError: if `graph` is not a circuit or does not fit the format, or `path` cannot be written.
    """
    chosen = format or format_of(path)
    if chosen not in WRITERS:
        raise CircuitError(f"{chosen!r} is not a format; it can be {', '.join(FORMATS)}")
    return write_text(Path(path), WRITERS[chosen](graph))


def read(path: str | Path, format: Format | None = None) -> CircuitGraph:
    """The circuit in a file of a format that is lossless.

    Raises:
        CircuitError: if `path` cannot be read, is not a circuit, or its format cannot be read back.
    """
    chosen = format or format_of(path)
    if chosen not in READERS:
        raise CircuitError(f"{path}: {chosen} is not read back; circuits are read from {', '.join(READERS)}")
    try:
        return READERS[chosen](Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CircuitError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, CircuitError) as error:
        raise CircuitError(f"{path}: {error}") from None
