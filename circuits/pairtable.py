"""Pairs of features that fire together, as a table: what counting gives and graphs are made of."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np

from saedsl.circuits.association import Margins, Measure, associations, check_measure, logarithms
from saedsl.errors import CircuitError

_COLUMNS: Final = (
    "source", "source_feature", "target", "target_feature", "together", "source_count", "target_count", "score", "fdr",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Coactivation:
    """Pairs (i, j) of features, the strongest first; arrays are [pairs]."""

    names: tuple[str, ...]
    """Dictionaries."""
    source: np.ndarray
    """int32, the dictionary of i as its place in `names`."""
    source_feature: np.ndarray
    """int32"""
    target: np.ndarray
    """int32, the dictionary of j."""
    target_feature: np.ndarray
    """int32; within one dictionary at lag 0, where order says nothing, the larger number (but for `conditional`)."""
    together: np.ndarray
    """int64: at how many tokens both fire, i `lag` tokens earlier."""
    source_count: np.ndarray
    """int64: at how many of the `tokens` i fires."""
    target_count: np.ndarray
    """int64: likewise j."""
    score: np.ndarray
    """float64: the measure."""
    fdr: np.ndarray
    """float64: the smallest false discovery rate at which the pair is found; NaN where none was estimated."""
    measure: Measure
    lag: int
    tokens: int
    """What was counted: tokens, or with a lag, pairs of tokens of one document that far apart."""
    tested: int
    """Pairs of features that there are, those included that never fire together."""
    found: int
    """Pairs that passed, more than are listed where only the strongest are; without an FDR then those above 0."""

    def __len__(self) -> int:
        return len(self.score)

    def where(self, which: np.ndarray) -> Coactivation:
        """The pairs of a mask or of numbers."""
        return replace(self, **{name: getattr(self, name)[which] for name in _COLUMNS})

    def scores(self, measure: Measure) -> np.ndarray:
        """Another measure of the same pairs, [pairs]; `pearson` is there only if the table was made with it.

        Raises:
            CircuitError: if there is no such measure, or it needs values.
        """
        check_measure(measure)
        if measure == self.measure:
            return self.score
        if measure == "pearson":
            raise CircuitError(f'this table was made with measure "{self.measure}"; make one with "pearson"')
        i, j = (Margins.of_firing(c, self.tokens) for c in (self.source_count, self.target_count))
        return associations(
            measure, self.together, np.zeros(len(self)), i, j, self.tokens, logarithms(self.tokens)
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: list[Coactivation]) -> Coactivation:
        """The pairs of all parts, of one count, the strongest first; ties in the order of dictionaries and features."""
        columns: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS}
        order = np.lexsort(
            (
                columns["target_feature"],
                columns["source_feature"],
                columns["target"],
                columns["source"],
                -columns["score"],
            )
        )
        others = {f.name: getattr(parts[0], f.name) for f in fields(cls) if f.name not in _COLUMNS}
        return cls(**{name: column[order] for name, column in columns.items()}, **others)
