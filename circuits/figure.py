"""Figures for print: vector PDF and SVG by matplotlib, deterministic, with embedded fonts.

Everything is laid out in points, so that nothing overlaps and nothing is cut off.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal

import networkx as nx

from saedsl.circuits.caption import caption as caption_of
from saedsl.circuits.colours import blend
from saedsl.circuits.fonts import FONT, SMALL, TEXT, measure, measure_bold, readable
from saedsl.circuits.graph import Node, check, edges, nodes
from saedsl.circuits.labels import LINE, Box, Label, Taken, around, fold, place
from saedsl.circuits.layout import Column, Layout, layout
from saedsl.circuits.legend import draw_legend, legend_lines
from saedsl.circuits.marks import edge_style, glyph, minus, write
from saedsl.errors import CircuitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Width = Literal["single", "double"]
WIDTHS: Final[dict[Width, float]] = {"single": 234.0, "double": 486.0}
"""Points: 3.25 and 6.75 inches, the columns of most journals."""
TALLEST: Final = 430.0
"""Of the graph itself, in points."""
GREY: Final = "#555555"
LEGIBLE: Final = 1.7
"""Reach of glyphs, in points, below which only the strongest nodes are named, `FEW` of them."""
FEW: Final = 40
MOST_EDGES: Final = 600
"""Edges that a figure draws, the strongest first; the caption says how many there are."""


@dataclass(frozen=True)
class Frame:
    """Where the graph lies on the page."""

    placed: Layout
    left: float
    bottom: float
    across: float
    """Points a slot, sideways."""
    up: float
    """Points a slot, upwards."""
    reach: float
    """From the middle of a glyph to its edge."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Points of a place in slots."""
        return self.left + x * self.across, self.bottom + y * self.up

    def node(self, node: Node) -> tuple[float, float]:
        """Points of a node."""
        return self.at(*self.placed.places[node])

    def box(self, node: Node) -> Box:
        """Around a node's glyph."""
        x, y = self.node(node)
        return Box(x - self.reach, y - self.reach, x + self.reach, y + self.reach)


def render(
    graph: nx.DiGraph,
    form: Literal["pdf", "svg", "png"],
    *,
    width: Width = "single",
    caption: bool = True,
    most_edges: int = MOST_EDGES,
    order: Literal["dot", "own", "any"] = "any",
    dpi: int = 300,
) -> bytes:
    """A figure of `graph`, as the bytes of a file; equal graphs give equal bytes.

    Args:
        graph: a circuit with at least one node.
        form: of the file.
        width: of one column, or of the page's two.
        caption: whether the words below are drawn too.
        most_edges: edges that are drawn, the strongest first.
        order: see `layout`.
        dpi: of PNG.

    Raises:
        CircuitError: if `graph` is not a circuit or is empty, or matplotlib is not installed.
    """
    check(graph)
    if not len(graph):
        raise CircuitError("the circuit has no nodes: nothing to draw")
    if width not in WIDTHS:
        raise CircuitError(f"width is {width!r}; it can be {', '.join(WIDTHS)}")
    try:
        import matplotlib as mpl
    except ImportError:
        raise CircuitError("figures need matplotlib: pip install 'saedsl[figures]'") from None
    settings: Any = {
        "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "saedsl", "font.family": [FONT],
        "text.usetex": False, "text.parse_math": False, "path.simplify": False, "savefig.bbox": None,
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = _figure(graph, WIDTHS[width], caption, most_edges, order)
        file = io.BytesIO()
        metadata = {"pdf": {"CreationDate": None, "Creator": "saedsl"}, "svg": {"Date": None, "Creator": "saedsl"}}
        figure.savefig(file, format=form, dpi=dpi, metadata=metadata.get(form, {"Software": None}))
    content = file.getvalue()
    if form == "svg":
        from saedsl.circuits.svgfont import embedded

        return embedded(content)
    return content


def _figure(graph: nx.DiGraph, wide: float, told: bool, most_edges: int, order: Literal["dot", "own", "any"]) -> Figure:
    from matplotlib.figure import Figure

    placed = layout(graph, order)
    drawn = sorted(edges(graph), key=lambda e: (-abs(e[2]["weight"]), e[0].order, e[1].order))[:most_edges]
    words = readable(caption_of(graph, len(drawn)))
    lines = fold(words, wide - 8, TEXT, measure, 40) if told else ()
    legend = legend_lines(graph, drawn, wide)
    foot = len(lines) * TEXT * LINE + 3 + len(legend) * 10 + 4
    frame, tokens = _frame(placed, wide, foot)
    arcs = any(frame.node(u)[1] == frame.node(v)[1] >= frame.at(0, placed.rows[-1].bottom)[1] for u, v, _ in drawn)
    logits = placed.rows[-1].text == "logits"
    high = frame.bottom + placed.height * frame.up + (SMALL if logits else 1.3 * frame.up if arcs else 0) + 3
    figure = Figure(figsize=(wide / 72, high / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, wide)
    axes.set_ylim(0, high)
    axes.set_axis_off()
    _backdrop(axes, frame, tokens, wide)
    largest = max((abs(e[2]["weight"]) for e in drawn), default=0.0) or 1.0
    thickest = 2.2 if len(drawn) <= 150 else max(0.7, 2.2 * (150 / len(drawn)) ** 0.6)
    for rank, (source, target, data) in enumerate(reversed(drawn)):
        style = edge_style(data["weight"] / largest, thickest)
        _edge(axes, frame, source, target, zorder=2 + rank / (len(drawn) + 1), **style)
    groups = _groups(axes, graph, frame)
    most = max((abs(data["score"]) for _, data in nodes(graph)), default=0.0) or 1.0
    for node, data in nodes(graph):
        x, y = frame.node(node)
        glyph(axes, node.kind, x, y, frame.reach, blend(data["score"] / most))
        if data["score"] < 0:  # for print in grey
            minus(axes, x, y, frame.reach)
    _labels(axes, graph, frame, groups, Box(frame.left - 2, frame.bottom - 2, wide - 1, high - 1))
    draw_legend(axes, legend, len(lines) * TEXT * LINE + 7)
    for i, line in enumerate(lines):
        write(axes, 4, len(lines) * TEXT * LINE + 2 - i * TEXT * LINE, line, TEXT, va="top")
    return figure


def _frame(placed: Layout, wide: float, foot: float) -> tuple[Frame, list[tuple[Column, str, bool]]]:
    """The graph as large as the page allows, and the text of each column, upright or turned."""
    rows = [readable(row.text) for row in placed.rows]
    left = max(measure(text, TEXT) for text in rows) + 8
    across = min(56.0, (wide - left - 3) / placed.width)
    left += max(0.0, (wide - left - 3 - across * placed.width) / 2)
    texts = [readable(_token(column.text)) for column in placed.columns]
    texts = [text if len(text) <= 12 else text[:11] + "…" for text in texts]
    turned = any(
        measure(text, SMALL) > (c.right - c.left + 0.45) * across for c, text in zip(placed.columns, texts, strict=True)
    )
    longest = max((measure(text, SMALL) for text in texts), default=0.0)
    below = 0.0 if not any(texts) else longest * 0.72 + SMALL if turned else SMALL * LINE + 3
    up = min(22.0, TALLEST / placed.height)
    frame = Frame(placed, left, foot + below, across, up, min(3.6, 0.36 * across, 0.36 * up))
    return frame, [(c, text, turned) for c, text in zip(placed.columns, texts, strict=True)]


def _token(text: str) -> str:
    """A token without the space before it; spaces alone are made visible."""
    return text.strip(" ") or "␣" * len(text)


def _backdrop(axes: Axes, frame: Frame, tokens: Sequence[tuple[Column, str, bool]], wide: float) -> None:
    """Bands of layers, names of rows, tokens under columns."""
    from matplotlib.patches import Rectangle

    right = frame.at(frame.placed.width, 0)[0]
    bands: dict[str, tuple[float, float]] = {}
    for row in frame.placed.rows:
        name = str(row.layer if row.layer is not None else row.text)
        low, high = frame.at(0, row.bottom - 0.3)[1], frame.at(0, row.top + 0.3)[1]
        bands[name] = (min(low, bands.get(name, (low, high))[0]), max(high, bands.get(name, (low, high))[1]))
    for i, (low, high) in enumerate(bands.values()):
        if i % 2 == 0:
            axes.add_patch(
                Rectangle((frame.left, low), right - frame.left, high - low, fc="#f6f6f6", ec="none", zorder=0)
            )
    for row in frame.placed.rows:
        y = frame.at(0, row.middle)[1]
        write(axes, frame.left - 4, y, readable(row.text), TEXT, ha="right", va="center_baseline", color=GREY)
    for column, text, turned in tokens:
        x = frame.at(column.middle, 0)[0]
        if turned:
            where = {"rotation": 45, "ha": "right", "va": "top", "rotation_mode": "anchor"}
            write(axes, x + 2, frame.bottom - 3, text, SMALL, **where)
        else:
            write(axes, x, frame.bottom - 1, text, SMALL, ha="center", va="top")


def _edge(axes: Axes, frame: Frame, source: Node, target: Node, **style: Any) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    (x0, y0), (x1, y1) = frame.node(source), frame.node(target)
    rise = (y1 - y0) * 0.42
    if abs(y1 - y0) < 1e-6:  # an arc over what lies between
        rise = min(1.6 * frame.up, 0.22 * abs(x1 - x0) + 0.3 * frame.up)
        points = [(x0, y0), (x0, y0 + rise), (x1, y1 + rise), (x1, y1)]
    else:
        points = [(x0, y0), (x0, y0 + rise), (x1, y1 - rise), (x1, y1)]
    path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    axes.add_patch(PathPatch(path, fc="none", capstyle="butt", **style))


def _groups(axes: Axes, graph: nx.DiGraph, frame: Frame) -> list[tuple[str, list[Box]]]:
    """A box around the members of a supernode in each cell, joined by dots: (label, boxes from the top)."""
    from matplotlib.patches import FancyBboxPatch

    by_id = {node.id: node for node in graph}
    found = []
    for label, members in graph.graph["meta"].supernodes:
        cells: dict[tuple[str, int | None], list[Box]] = {}
        for member in members:
            cells.setdefault((by_id[member].site, by_id[member].position), []).append(frame.box(by_id[member]))
        boxes = sorted((around(inside).grown(1.8) for inside in cells.values()), key=lambda box: (-box.top, box.left))
        for a, b in pairwise(boxes):
            (x0, y0), (x1, y1) = a.middle, b.middle
            axes.plot([x0, x1], [y0, y1], color=GREY, lw=0.6, ls=(0, (0.8, 1.4)), zorder=1)
        for box in boxes:
            corner, size = (box.left + 1.2, box.bottom + 1.2), (box.right - box.left - 2.4, box.top - box.bottom - 2.4)
            how: Any = {
                "boxstyle": "round,pad=1.2,rounding_size=2.2",
                "fc": "white",
                "ec": GREY,
                "lw": 0.6,
                "alpha": 0.75,
            }
            axes.add_patch(FancyBboxPatch(corner, *size, zorder=4, **how))
        found.append((label, boxes))
    return found


def _labels(axes: Axes, graph: nx.DiGraph, frame: Frame, groups: list[tuple[str, list[Box]]], area: Box) -> None:
    """Names of supernodes, then what nodes mean, else their numbers: the strongest first, where there is room."""
    taken = Taken()
    for node in graph:
        taken.add(frame.box(node).grown(0.3))
    framed = [box for _, boxes in groups for box in boxes]
    for box in framed:
        taken.add(box)
    for text, boxes in ((readable(text), boxes) for text, boxes in groups):
        choices = [fold(text, width, SMALL, measure_bold, n) for width, n in ((80, 2), (56, 2), (44, 3), (30, 1))]
        found = (place(box, dict.fromkeys(choices), SMALL, measure_bold, taken, area, "above") for box in boxes)
        name = next((placed for placed in found if placed), None)
        if name:
            _label(axes, name, weight="bold", zorder=7)
    tokens = graph.graph["meta"].tokens or ()
    top = frame.placed.rows[-1].text
    ranked = sorted(nodes(graph), key=lambda pair: (-abs(pair[1]["score"]), pair[0].order))
    for node, data in ranked if frame.reach >= LEGIBLE else _strongest(ranked):
        own = frame.box(node)
        outer = next((box for box in framed if own.inside(box)), own)
        at = Box(own.left, outer.bottom, own.right, outer.top)
        choices = node_choices(node, data, tokens)
        label = place(at, choices, SMALL, measure, taken, area, "above" if node.site == top else "below")
        if label:
            _label(axes, label)


def _strongest(ranked: list[tuple[Node, dict[str, Any]]]) -> list[tuple[Node, dict[str, Any]]]:
    logits = [pair for pair in ranked if pair[0].kind == "logit"]
    return logits + [pair for pair in ranked[:FEW] if pair not in logits]


def node_choices(node: Node, data: Mapping[str, Any], tokens: Sequence[str]) -> list[tuple[str, ...]]:
    """Lines that could stand at a node, the most wanted first."""
    label = data["label"]
    if node.kind == "embedding":  # the column names it already
        at = tokens[node.position] if node.position is not None and tokens else None
        label = None if label == at else label
        return [fold(readable(label), 40, SMALL, measure, 2)] if label else []
    short = readable(node.short if node.dictionary is None else f"{node.dictionary}:{node.short}")
    if node.kind == "logit":
        text = readable(_token(label)) if label else short
        percent = f" {data['token_prob']:.2f}" if data["token_prob"] is not None else ""
        return [(text + percent,), *([(text, percent.strip())] if percent else []), (text,)]
    if not label:
        return [(short,)]
    text = readable(label.strip()) or short
    return list(dict.fromkeys([*(fold(text, w, SMALL, measure, n) for w, n in ((60, 2), (42, 3), (34, 2))), (short,)]))


def _label(axes: Axes, label: Label, **how: Any) -> None:
    """Lines on a pale ground: a stroke around letters would make them shapes, which are not text any more."""
    from matplotlib.patches import Rectangle

    step = label.size * LINE
    x = (label.box.left + label.box.right) / 2
    corner, size = (label.box.left - 0.4, label.box.bottom + 0.5), label.box.right - label.box.left + 0.8
    high = label.box.top - label.box.bottom - 1.0
    axes.add_patch(Rectangle(corner, size, high, fc="white", ec="none", alpha=0.72, zorder=how.get("zorder", 6) - 0.5))
    for i, line in enumerate(label.lines):
        y = label.box.top - (i + 0.5) * step
        write(axes, x, y, line, label.size, ha="center", va="center_baseline", **how)
