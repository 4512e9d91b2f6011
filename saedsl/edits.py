"""Pure edits on mx.array, in delta form: `x + s(x) * (f' - f) @ W_dec[edited]`.

What is not edited is left bitwise as it is, the SAE's reconstruction error above all: nothing is replaced by a
reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from saedsl.program import Op


@dataclass(frozen=True)
class Columns:
    """One edit a column, as numbers: `f' - f = gain * f + shift + (clip(f, low, high) - f)`.

    Written so that an amplification by 1 is exactly 0, and `set` to 0 is exactly `ablate`.
    """

    gain: mx.array
    """[n]: ablate and set -1, amplify its factor - 1, else 0."""
    shift: mx.array | None
    """[n]: the value of set and add, else 0; None where all are 0."""
    low: mx.array | None
    """[n], or None where nothing is clamped."""
    high: mx.array | None

    @classmethod
    def of(cls, edits: Sequence[tuple[Op, tuple[float, ...]]]) -> Columns:
        """One column for each (op, args)."""
        gain, shift, low, high = [], [], [], []
        for op, args in edits:
            clamp = op == "clamp"
            gain.append({"ablate": -1.0, "set": -1.0, "amplify": args[0] - 1.0 if args else 0.0}.get(op, 0.0))
            shift.append(args[0] if op in ("set", "add") else 0.0)
            low.append(args[0] if clamp else -math.inf)
            high.append(args[1] if clamp else math.inf)
        bounded = any(op == "clamp" for op, _ in edits)
        return cls(
            mx.array(gain),
            mx.array(shift) if any(shift) else None,
            mx.array(low) if bounded else None,
            mx.array(high) if bounded else None,
        )

    def delta(self, f: mx.array) -> mx.array:
        """f' - f, [..., n], of activations f [..., n] (or of a whole site: f [..., d], n = 1)."""
        delta = self.gain * f
        if self.shift is not None:
            delta = delta + self.shift
        if self.low is not None and self.high is not None:
            delta = delta + (mx.minimum(mx.maximum(f, self.low), self.high) - f)
        return delta


def masked(delta: mx.array, mask: mx.array | None) -> mx.array:
    """`delta` where the mask is true, exactly 0 elsewhere; None is true everywhere."""
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
