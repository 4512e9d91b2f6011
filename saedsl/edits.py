"""Pure edits on mx.array, in delta form: `x + s(x) * (f' - f) @ W_dec[edited]`.

What is not edited is left bitwise as it is, the SAE's reconstruction error above all: nothing is replaced by a
reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from saedsl.program import Op

Numbers = tuple[float, float, float, float]
"""(gain, shift, low, high) of one edit, see `Columns`."""


def numbers(op: Op, args: tuple[float, ...]) -> Numbers:
    """What an edit that needs no other run does to the value that it finds.

    Args:
        op: ablate, keep (of what is not kept), project (of a component), amplify, set, add or clamp.
        args: its numbers.
    """
    match op, args:
        case (("ablate" | "keep" | "project"), _):
            return -1.0, 0.0, -math.inf, math.inf
        case "amplify", (factor,):
            return factor - 1.0, 0.0, -math.inf, math.inf
        case "set", (value,):
            return -1.0, value, -math.inf, math.inf
        case "add", (value,):
            return 0.0, value, -math.inf, math.inf
        case "clamp", (low, high):
            return 0.0, 0.0, low, high
    raise ValueError(f"{op} takes its value from another run, or not the numbers {args}")


@dataclass(frozen=True)
class Columns:
    """One edit a column, as numbers: `f' - f = gain * f + shift + (clip(f, low, high) - f)`.

    Written so that an amplification by 1 is exactly 0, and `set` to 0 is exactly `ablate`. Arrays are [n], or
    [batch, 1, n] where rows of the batch do different things.
    """

    gain: mx.array
    """ablate and set -1, amplify its factor - 1, else 0."""
    shift: mx.array | None
    """The value of set and add, else 0; None where all are 0."""
    low: mx.array | None
    """None where nothing is clamped."""
    high: mx.array | None

    @classmethod
    def of(cls, edits: Sequence[tuple[Op, tuple[float, ...]]]) -> Columns:
        """One column for each (op, args)."""
        return cls.rows(np.array([numbers(op, args) for op, args in edits]).T[:, None])

    @classmethod
    def rows(cls, values: np.ndarray) -> Columns:
        """Columns that differ by row.

        Args:
            values: [4, batch, n], gain, shift, low and high; or [4, 1, n] for all rows.
        """
        with np.errstate(
            over="ignore"
        ):  # what is too large is inf, and so is what the model makes of it: an error there
            gain, shift, low, high = values.astype(np.float32)
        bounded = bool(np.isfinite(low).any() or np.isfinite(high).any())
        return cls(
            by_row(gain),
            by_row(shift) if shift.any() else None,
            by_row(low) if bounded else None,
            by_row(high) if bounded else None,
        )

    @property
    def deep(self) -> Columns:
        """The same columns of values that have one more axis, [..., n, keys]."""
        arrays = (None if a is None else a[..., None] for a in (self.gain, self.shift, self.low, self.high))
        gain, shift, low, high = arrays
        assert gain is not None
        return Columns(gain, shift, low, high)

    def delta(self, f: mx.array) -> mx.array:
        """f' - f, [..., n], of activations f [..., n] (or of a whole site: f [..., d], n = 1)."""
        delta = self.gain * f
        if self.shift is not None:
            delta = delta + self.shift
        if self.low is not None and self.high is not None:
            delta = delta + (mx.minimum(mx.maximum(f, self.low), self.high) - f)
        return delta


def _shared(rows: np.ndarray) -> mx.array:
    """[batch, n] -> [batch, 1, n], or [n] where all rows are equal."""
    return mx.array(rows[0]) if (rows == rows[0]).all() else mx.array(rows[:, None])


def by_row(values: np.ndarray) -> mx.array:
    """[batch, n] -> [batch, 1, n], or [n] where all rows are equal."""
    return mx.array(values[0]) if (values == values[0]).all() else mx.array(values[:, None])


def masked(delta: mx.array, mask: mx.array | None) -> mx.array:
    """`delta` where the mask is true, exactly 0 elsewhere; None is true everywhere.

    Args:
        delta: [batch, length, ...].
        mask: booleans that broadcast to it.
    """
    return delta if mask is None else mx.where(mask, delta, mx.array(0, delta.dtype))


def add(x: mx.array, deltas: Sequence[mx.array]) -> mx.array:
    """x + the sum of float32 deltas, in x's own dtype; x itself where there is none.

    Args:
        x: [..., d], any float dtype.
        deltas: each [..., d], float32.
    """
    if not deltas:
        return x
    total = deltas[0]
    for d in deltas[1:]:
        total = total + d
    return x + total if x.dtype == mx.float32 else (x.astype(mx.float32) + total).astype(x.dtype)
