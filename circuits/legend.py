"""The legend of figures: kinds of nodes, signs and sizes of effects and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import networkx as nx

from saedsl.circuits.colours import NAMES, blend
from saedsl.circuits.fonts import TEXT, measure, readable
from saedsl.circuits.graph import Node, nodes
from saedsl.circuits.marks import edge_style, glyph, minus, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Entry = tuple[str, Any, str]
"""(what, value, text)"""


def legend_lines(
    graph: nx.DiGraph, drawn: Sequence[tuple[Node, Node, Mapping[str, Any]]], wide: float
) -> list[list[tuple[float, Entry]]]:
    """Lines of (x, entry)."""
    kinds = dict.fromkeys(node.kind for node, _ in nodes(graph))
    entries: list[Entry] = [("kind", kind, NAMES[kind]) for kind in kinds]
    if any(data["score"] for _, data in nodes(graph)):
        most = max(abs(data["score"]) for _, data in nodes(graph))
        entries.append(("effect", most, f"effect ±{most:.2g}"))
    weights = [data["weight"] for *_, data in drawn]
    if weights:
        largest = max(map(abs, weights)) or 1.0
        entries.append(
            ("edge", 1.0 if max(weights) >= -min(weights) else -1.0, f"weight {signed(max(weights, key=abs))}")
        )
        sign = -1.0 if entries[-1][1] > 0 else 1.0
        other = [w for w in weights if w * sign > 0]
        if other:
            most_other = max(other, key=abs)
            entries.append(("edge", most_other / largest, signed(most_other)))
    lines: list[list[tuple[float, Entry]]] = [[]]
    x = 4.0
    for entry in entries:
        icon = {"kind": 10.0, "effect": 26.0, "edge": 19.0}[entry[0]]
        length = icon + measure(readable(entry[2]), TEXT) + 8
        if x + length > wide and lines[-1]:
            lines.append([])
            x = 4.0
        lines[-1].append((x, entry))
        x += length
    return lines


def signed(value: float) -> str:
    """Two digits, with a real minus sign."""
    return f"{value:+.2g}".replace("-", "−")


def draw_legend(axes: Axes, lines: list[list[tuple[float, Entry]]], bottom: float) -> None:
    from matplotlib.patches import Rectangle

    for i, line in enumerate(reversed(lines)):
        y = bottom + 10 * i + 4
        for x, (what, value, text) in line:
            icon = {"kind": 10.0, "effect": 26.0, "edge": 19.0}[what]
            if what == "kind":
                glyph(axes, value, x + 4, y, 3.2, "white")
            elif what == "edge":
                style = edge_style(value)
                axes.plot([x, x + 16], [y, y], color=style["ec"], lw=style["lw"], ls=style.get("ls", "-"))
            else:
                for k in range(12):
                    axes.add_patch(Rectangle((x + 2 * k, y - 2.4), 2.05, 4.8, fc=blend((k - 5.5) / 5.5), ec="none"))
                minus(axes, x + 3.5, y, 3.2)
            write(axes, x + icon, y, readable(text), TEXT, va="center_baseline")
