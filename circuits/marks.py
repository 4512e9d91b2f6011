"""The marks of figures: glyphs of nodes, lines of edges, text. In points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from saedsl.circuits.colours import GLYPHS, blend
from saedsl.circuits.node import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS: Final = {
    "square": "s", "circle": "o", "hexagon": "h", "diamond": "D", "triangle": "^", "plus": "P", "pentagon": "p",
}  # fmt: skip


def write(axes: Axes, x: float, y: float, text: str, size: float, **how: Any) -> None:
    """One line of text."""
    axes.text(x, y, text, fontsize=size, **{"color": "black", "zorder": 6, "clip_on": False, **how})


def edge_style(share: float, thickest: float = 2.2) -> dict[str, Any]:
    """Colour, width and dashes of an edge whose weight is `share` of the largest, which is `thickest` points wide."""
    sign = 1 if share >= 0 else -1
    style: dict[str, Any] = {"ec": blend(sign * (0.3 + 0.7 * abs(share))), "lw": 0.3 + (thickest - 0.3) * abs(share)}
    if share < 0:
        style["ls"] = (0, (3.2, 1.4)) if abs(share) > 0.3 else (0, (6.0, 3.0))
    return style


def glyph(axes: Axes, kind: Kind, x: float, y: float, reach: float, colour: tuple[float, float, float] | str) -> None:
    """The mark of a kind of node."""
    shape = GLYPHS[kind]
    marker = MARKERS.get(shape) or [(-1, -0.7), (1, -0.7), (0.62, 0.7), (-0.62, 0.7), (-1, -0.7)]
    size = 2 * reach * {"D": 0.74, "s": 0.84, "o": 0.94}.get(str(marker), 1.0)
    rim = max(0.25, min(0.5, reach / 7))
    axes.plot(
        [x], [y], marker=marker, ms=size, mfc=colour, mec="#222222", mew=rim, ls="none", zorder=5
    )  # fmt: skip


def minus(axes: Axes, x: float, y: float, reach: float) -> None:
    """The sign of a negative effect, for print in grey."""
    axes.plot([x - 0.45 * reach, x + 0.45 * reach], [y, y], color="black", lw=0.22 * reach, zorder=5)
