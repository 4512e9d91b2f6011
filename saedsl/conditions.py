"""Conditions: where `when f3 > 0.5` holds, position by position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import mlx.core as mx
import numpy as np

from saedsl.program import And, Condition, Dictionary, Intervention, Not, Or, Test, tests
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.trace import Frame

COMPARE: Final[Mapping[str, Callable[[mx.array, float], mx.array]]] = {
    ">": lambda f, v: f > v,
    ">=": lambda f, v: f >= v,
    "<": lambda f, v: f < v,
    "<=": lambda f, v: f <= v,
    "==": lambda f, v: f == v,
    "!=": lambda f, v: f != v,
}

When = tuple[Site, "int | None"]
"""Where a condition's features are read, and in which stage of that site; None: as the activation arrives."""


def read_at(d: Dictionary, e: Intervention) -> When:
    """Where and when a condition of an edit reads a dictionary: in the edit's stage at its site, or upstream."""
    return d.read, e.stage if d.read == e.site else None


class Conditions:
    """What conditions of a step's edits need: which features are read where, and how they are compared."""

    def __init__(
        self, edits: Iterable[Intervention], dictionaries: Mapping[str, Dictionary], saes: Mapping[str, SAE]
    ) -> None:
        self._dictionaries, self._saes = dictionaries, saes
        ids: dict[tuple[When, str], set[int]] = {}
        for e in edits:
            for t in tests(e.when) if e.when is not None else ():
                ids.setdefault((read_at(dictionaries[t.dictionary], e), t.dictionary), set()).add(t.feature)
        self._ids = {key: tuple(sorted(found)) for key, found in ids.items()}
        self._encoders = {key: saes[key[1]].encoder(found) for key, found in self._ids.items()}

    @property
    def sites(self) -> set[Site]:
        """Where features are read."""
        return {site for (site, _), _ in self._ids}

    def read(self, x: mx.array, frame: Frame, when: When) -> None:
        """Read what is to be read there and then, of an activation [batch, length, width]."""
        for key, encode in self._encoders.items():
            if key[0] == when:
                frame.scratch["condition", *key] = encode(x)

    def holds(self, condition: Condition, e: Intervention, frame: Frame) -> mx.array:
        """Where a condition of `e` holds: booleans [batch, length, 1]."""
        match condition:
            case Test():
                return self._test(condition, e, frame)
            case Not(item):
                return ~self.holds(item, e, frame)
            case And(items):
                return _joined(mx.logical_and, [self.holds(i, e, frame) for i in items])
            case Or(items):
                return _joined(mx.logical_or, [self.holds(i, e, frame) for i in items])

    def _test(self, t: Test, e: Intervention, frame: Frame) -> mx.array:
        key = (read_at(self._dictionaries[t.dictionary], e), t.dictionary)
        f = frame.scratch["condition", *key]
        i = self._ids[key].index(t.feature)
        unit = float(statistic(self._saes[t.dictionary], t.unit)[t.feature]) if t.unit in ("max", "std") else 1.0
        return COMPARE[t.op](f[..., i : i + 1], t.value * unit)


def statistic(sae: SAE, unit: str) -> np.ndarray:
    """What one `max` or `std` is worth for each feature, [d_sae] float32."""
    return sae.statistics.max if unit == "max" else sae.statistics.std


def _joined(op: Callable[[mx.array, mx.array], mx.array], items: Sequence[mx.array]) -> mx.array:
    out, *rest = items
    for item in rest:
        out = op(out, item)
    return out
