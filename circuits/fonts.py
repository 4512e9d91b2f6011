"""The font of figures: how wide its text is, and which characters it has."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from saedsl.circuits.caption import one_line

FONT: Final = "DejaVu Sans"
"""Comes with matplotlib, so figures are the same everywhere."""
SMALL: Final = 5.6
"""Size of text in the graph, in points."""
TEXT: Final = 6.4
"""Size of caption, legend and rows."""


@lru_cache(maxsize=2)
def _face(weight: str = "normal") -> Any:
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    face = FT2Font(findfont(FontProperties(family=FONT, weight=weight)))
    face.set_size(100, 72)
    return face


@lru_cache(maxsize=4096)
def _advance(character: str, weight: str = "normal") -> float:
    """Width of one character at size 1."""
    from matplotlib.ft2font import LoadFlags

    return float(_face(weight).load_char(ord(character), flags=LoadFlags.NO_HINTING).linearHoriAdvance) / 65536 / 100


def measure(text: str, size: float) -> float:
    """Width of `text` in points."""
    return size * sum(_advance(c) for c in text)


def measure_bold(text: str, size: float) -> float:
    """Width of `text` in points, in bold."""
    return size * sum(_advance(c, "bold") for c in text)


def readable(text: str) -> str:
    """One line of `text`; characters that the font lacks by their number, as `[4E2D]`."""
    known = _face().get_charmap()
    return "".join(c if ord(c) in known else f"[{ord(c):04X}]" for c in one_line(text))
