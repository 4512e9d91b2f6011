"""Where nodes lie: a column for each token, a row for each site, embeddings at the bottom, logits on top.

Lengths are in slots: a slot holds one node. x grows to the right, y upwards. Equal graphs have equal layouts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import networkx as nx

from saedsl.circuits.dotplaces import dot_order
from saedsl.circuits.graph import Meta, Node, edges, nodes
from saedsl.circuits.node import site_of

MOST_ROWS: Final = 24
"""Sites beyond which the sites of a layer share a row."""
MOST_EMPTY: Final = 24
"""Tokens beyond which those without nodes are left out."""
SWEEPS: Final = 8
"""Rounds of putting each node near the mean of its neighbours."""
GAP: Final = 0.6
"""Between columns, and between rows, in slots."""


@dataclass(frozen=True)
class Column:
    """The nodes at one token."""

    position: int | None
    """None for nodes that stand for all positions, and where tokens were left out."""
    text: str
    """The token; `…` where tokens were left out."""
    left: float
    right: float

    @property
    def middle(self) -> float:
        """x of its middle."""
        return (self.left + self.right) / 2


@dataclass(frozen=True)
class Row:
    """The nodes at one site, or in one layer."""

    text: str
    """The site, or the layer."""
    layer: int | None
    bottom: float
    top: float

    @property
    def middle(self) -> float:
        """y of its middle."""
        return (self.bottom + self.top) / 2


@dataclass(frozen=True)
class Layout:
    """Where everything lies, in slots."""

    places: Mapping[Node, tuple[float, float]]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    """From the bottom up."""
    width: float
    height: float


def layout(graph: nx.DiGraph, order: Literal["dot", "own", "any"] = "any") -> Layout:
    """Places for the nodes of `graph`.

    Args:
        graph: a circuit.
        order: how nodes that share a row of a graph without positions are ordered: by graphviz' `dot`, by our own
            sweeps, or by `dot` where it is installed.

    Raises:
        CircuitError: if `dot` is asked for and not installed.
    """
    listed = [node for node, _ in nodes(graph)]
    meta = graph.graph.get("meta", Meta())
    row_of, rows = _rows(listed)
    slots = _columns(listed, meta)
    cells: dict[tuple[int, int], list[Node]] = defaultdict(list)
    column_of = {position: i for i, (position, _) in enumerate(slots)}
    for node in listed:
        cells[row_of[node], column_of[node.position]].append(node)
    free = all(node.position is None for node in listed)
    first = dot_order(graph, row_of, order) if free and order != "own" and len(listed) > 1 else None
    widths = [_width([len(cells.get((r, c), ())) for r in range(len(rows))], free) for c in range(len(slots))]
    heights = [
        max([math.ceil(len(cells.get((r, c), ())) / widths[c]) for c in range(len(slots))] or [1])
        for r in range(len(rows))
    ]
    columns = _stretch(slots, widths)
    levels = _stack(rows, [max(1, h) for h in heights])
    grid = _Grid(cells, columns, levels, widths, _groups(listed, meta))
    places = grid.places(first)
    if first is None:
        near = _neighbours(graph)
        for sweep in range(SWEEPS):
            places = grid.swept(places, near, upwards=sweep % 2 == 0)
    return Layout(
        places,
        columns,
        levels,
        columns[-1].right + GAP / 2 if columns else 1.0,
        levels[-1].top + GAP / 2 if levels else 1.0,
    )


@dataclass(frozen=True)
class _Grid:
    """Nodes by cell, and where cells are."""

    cells: Mapping[tuple[int, int], list[Node]]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    widths: list[int]
    group: Mapping[Node, int]
    """Number of the node's supernode, whose members lie side by side; unlike for all others."""

    def places(self, rank: Mapping[Node, float] | None) -> dict[Node, tuple[float, float]]:
        """Every node in its cell, in the order of `rank`, else as nodes sort."""
        found: dict[Node, tuple[float, float]] = {}
        for cell, inside in self.cells.items():
            found.update(self._fill(cell, self._sorted(inside, {n: rank[n] if rank else 0.0 for n in inside})))
        return found

    def swept(
        self, places: Mapping[Node, tuple[float, float]], near: Mapping[Node, list[tuple[Node, float]]], upwards: bool
    ) -> dict[Node, tuple[float, float]]:
        """Nodes of each cell by the mean x of their neighbours; rows one after another, upwards or downwards."""
        found = dict(places)

        def mean(node: Node) -> float:
            total = sum(w for _, w in near[node])
            return sum(found[other][0] * w for other, w in near[node]) / total if total else found[node][0]

        for cell in sorted(self.cells, reverse=not upwards):
            inside = self.cells[cell]
            found.update(self._fill(cell, self._sorted(inside, {node: round(mean(node), 9) for node in inside})))
        return found

    def _sorted(self, inside: list[Node], key: Mapping[Node, float]) -> list[Node]:
        """By `key`; a supernode by the mean of its members' keys, which stay together."""
        together: dict[int, list[float]] = defaultdict(list)
        for node in inside:
            together[self.group[node]].append(key[node])
        means = {group: sum(keys) / len(keys) for group, keys in together.items()}
        return sorted(inside, key=lambda n: (means[self.group[n]], self.group[n], key[n], n.order))

    def _fill(self, cell: tuple[int, int], ordered: list[Node]) -> dict[Node, tuple[float, float]]:
        """Slanted stacks from left to right, so that neighbours in order stay neighbours and edges within are seen."""
        row, column = self.rows[cell[0]], self.columns[cell[1]]
        lines = math.ceil(len(ordered) / self.widths[cell[1]])
        across = math.ceil(len(ordered) / lines)
        found = {}
        for i, node in enumerate(ordered):
            stack, line = divmod(i, lines)
            x = column.middle + stack - (across - 1) / 2
            shift = 0.8 * (line - (lines - 1) / 2) / lines
            found[node] = (round(x + shift, 6), round(row.middle + line - (lines - 1) / 2, 6))
        return found


def _rows(listed: list[Node]) -> tuple[dict[Node, int], list[tuple[str, int | None]]]:
    """(row of each node, (text, layer) of each row), from the embeddings up."""
    sites = sorted({node.site for node in listed}, key=lambda s: site_of(s).order)
    merged = len(sites) > MOST_ROWS
    texts = {site: f"L{layer}" if merged and (layer := site_of(site).layer) is not None else site for site in sites}
    order = list(dict.fromkeys(texts.values()))
    layers = {texts[site]: site_of(site).layer for site in sites}
    index = {text: i for i, text in enumerate(order)}
    return {node: index[texts[node.site]] for node in listed}, [(text, layers[text]) for text in order]


def _columns(listed: list[Node], meta: Meta) -> list[tuple[int | None, str]]:
    """(position, text) of each column. Positions without nodes are kept in a short prompt, else one `…` for a run."""
    used = {node.position for node in listed}
    found: list[tuple[int | None, str]] = [(None, "")] if None in used else []
    positions = sorted(p for p in used if p is not None)
    if not positions:
        return found
    tokens = meta.tokens or tuple(str(i) for i in range(positions[-1] + 1))
    if len(tokens) <= MOST_EMPTY:
        return found + list(enumerate(tokens))
    before = -1
    for position in positions:
        if position > before + 1:
            found.append((-1 - position, "…"))
        found.append((position, tokens[position]))
        before = position
    return found


def _groups(listed: list[Node], meta: Meta) -> dict[Node, int]:
    """A number for each supernode, and one of its own for every other node."""
    of = {member: i for i, (_, members) in enumerate(meta.supernodes) for member in members}
    return {node: of.get(node.id, len(meta.supernodes) + i) for i, node in enumerate(listed)}


def _width(counts: list[int], free: bool) -> int:
    """Slots that a column is wide: its largest cells fold into lines."""
    most = max(counts, default=0)
    if free:
        return max(1, most if most <= 12 else math.ceil(math.sqrt(4 * most)))
    return max(1, most if most <= 3 else math.ceil(math.sqrt(2.5 * most)))


def _stretch(slots: list[tuple[int | None, str]], widths: list[int]) -> tuple[Column, ...]:
    found, x = [], GAP / 2
    for (position, text), width in zip(slots, widths, strict=True):
        gone = position is not None and position < 0
        right = x + (0.6 if gone else width)
        found.append(Column(None if gone else position, text, x, right))
        x = right + GAP
    return tuple(found)


def _stack(rows: list[tuple[str, int | None]], heights: list[int]) -> tuple[Row, ...]:
    found, y = [], GAP / 2
    for (text, layer), height in zip(rows, heights, strict=True):
        found.append(Row(text, layer, y, y + height))
        y += height + GAP
    return tuple(found)


def _neighbours(graph: nx.DiGraph) -> dict[Node, list[tuple[Node, float]]]:
    found: dict[Node, list[tuple[Node, float]]] = {node: [] for node in graph}
    for source, target, data in edges(graph):
        found[source].append((target, abs(data["weight"])))
        found[target].append((source, abs(data["weight"])))
    return found
