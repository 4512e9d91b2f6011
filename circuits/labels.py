"""Text in figures: measured, folded, and put where it covers nothing.

Lengths are in points, y grows upwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

LINE: Final = 1.12
"""Height of a line, in sizes."""

Side = Literal["below", "above"]
Measure = Callable[[str, float], float]
"""(text, size) -> width."""


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def inside(self, other: Box) -> bool:
        """Whether all of it is in `other`."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.bottom >= other.bottom
            and self.top <= other.top
        )

    def grown(self, by: float, sideways: float | None = None) -> Box:
        """With a margin; another one left and right where it is given."""
        aside = by if sideways is None else sideways
        return Box(self.left - aside, self.bottom - by, self.right + aside, self.top + by)

    @property
    def middle(self) -> tuple[float, float]:
        """Of it."""
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


@dataclass(frozen=True)
class Label:
    """Lines of text in a box."""

    lines: tuple[str, ...]
    size: float
    box: Box


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that has all of `boxes` inside."""
    return Box(
        min(b.left for b in boxes), min(b.bottom for b in boxes), max(b.right for b in boxes), max(b.top for b in boxes)
    )


class Taken:
    """Boxes that are taken, found by place."""

    def __init__(self, cell: float = 24.0) -> None:
        self._cell = cell
        self._cells: dict[tuple[int, int], list[Box]] = {}

    def add(self, box: Box) -> None:
        """Take it."""
        for key in self._keys(box):
            self._cells.setdefault(key, []).append(box)

    def free(self, box: Box) -> bool:
        """Whether nothing that is taken meets `box`."""
        return not any(box.meets(other) for key in self._keys(box) for other in self._cells.get(key, ()))

    def _keys(self, box: Box) -> Iterator[tuple[int, int]]:
        for i in range(int(box.left // self._cell), int(box.right // self._cell) + 1):
            for j in range(int(box.bottom // self._cell), int(box.top // self._cell) + 1):
                yield i, j


def fold(text: str, width: float, size: float, measure: Measure, most_lines: int) -> tuple[str, ...]:
    """`text` in lines of at most `width`; what does not fit into `most_lines` is an ellipsis."""
    lines: list[str] = []
    words = text.split(" ")
    while words and len(lines) < most_lines:
        line = words.pop(0)
        while words and measure(f"{line} {words[0]}", size) <= width:
            line += f" {words.pop(0)}"
        if measure(line, size) > width:
            line, rest = _cut(line, width, size, measure)
            words.insert(0, rest)
        lines.append(line)
    if words:
        last = lines[-1]
        while last and measure(last + "…", size) > width:
            last = last[:-1]
        lines[-1] = last.rstrip() + "…"
    return tuple(lines)


def place(
    at: Box,
    choices: Iterable[Sequence[str]],
    size: float,
    measure: Measure,
    taken: Taken,
    area: Box,
    first: Side = "below",
) -> Label | None:
    """The first of `choices` that fits near a box, on the best of its sides; None if none fits.

    Args:
        at: what is labelled.
        choices: lines of text, the most wanted first.
        size: of the text.
        measure: of text.
        taken: what may not be covered; the label is added.
        area: what may not be left.
        first: the side that is tried first.
    """
    for lines in choices:
        w, h = max(measure(line, size) for line in lines), len(lines) * size * LINE
        for box in _around(at, w, h, first):
            if box.inside(area) and taken.free(box):
                taken.add(box.grown(0.5, 1.6))
                return Label(tuple(lines), size, box)
    return None


def _around(at: Box, w: float, h: float, first: Side) -> Iterator[Box]:
    """First side, left and right, the other side, then the corners."""
    x, y = at.middle
    low, high = at.bottom - 1.0 - h, at.top + 1.0
    for bottom in (low, high) if first == "below" else (high, low):
        yield Box(x - w / 2, bottom, x + w / 2, bottom + h)
        yield Box(at.right + 1.2, y - h / 2, at.right + 1.2 + w, y + h / 2)
        yield Box(at.left - 1.2 - w, y - h / 2, at.left - 1.2, y + h / 2)
    for bottom in (low, high):
        yield Box(x, bottom, x + w, bottom + h)
        yield Box(x - w, bottom, x, bottom + h)


def _cut(word: str, width: float, size: float, measure: Measure) -> tuple[str, str]:
    """A word that is too long, in two: what fits, and the rest."""
    n = 1
    while n < len(word) and measure(word[: n + 1], size) <= width:
        n += 1
    return word[:n], word[n:]
