"""Colours and marks of figures, pages and exports: one table.

Signs have the ends of ColorBrewer's PuOr (diverging, safe for colour-blind readers): positive is purple, negative
orange. Purple is the darker one, so that signs differ in grey too.
"""

from __future__ import annotations

from typing import Final

from saedsl.circuits.node import Kind

POSITIVE: Final = (0x54, 0x27, 0x88)
NEGATIVE: Final = (0xE0, 0x82, 0x14)
MIDDLE: Final = (0xF0, 0xF0, 0xF0)
"""Of no effect: what colours fade to."""

GLYPHS: Final[dict[Kind, str]] = {
    "embedding": "square", "feature": "circle", "transcoder": "hexagon", "error": "diamond", "head": "triangle",
    "mlp": "trapezium", "neuron": "plus", "logit": "pentagon",
}  # fmt: skip
"""A shape for each kind, so that kinds differ without colour."""
NAMES: Final[dict[Kind, str]] = {
    "embedding": "token", "feature": "feature", "transcoder": "transcoder", "error": "SAE error", "head": "head",
    "mlp": "MLP", "neuron": "neuron", "logit": "logit",
}  # fmt: skip
"""What a legend calls each kind."""


def blend(share: float) -> tuple[float, float, float]:
    """Red, green and blue, 0 to 1, of a signed share of the largest effect: -1 negative, 0 none, 1 positive."""
    end = POSITIVE if share >= 0 else NEGATIVE
    part = min(1.0, abs(share))
    r, g, b = ((m + (e - m) * part) / 255 for m, e in zip(MIDDLE, end, strict=True))
    return r, g, b


def hexadecimal(share: float) -> str:
    """`blend` as `#rrggbb`."""
    r, g, b = (round(255 * c) for c in blend(share))
    return f"#{r:02x}{g:02x}{b:02x}"
