"""Rows of different length in few forwards: padded on the right, under a budget of memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx

from saedsl.anatomy import ModelInfo
from saedsl.making import columns_of, key_of
from saedsl.program import Dictionary, Step

CPU_BUDGET: Final = 10**9
"""Bytes that the rows of one forward may take on a CPU."""
SHARE: Final = 4
"""They may take one part in so many of an accelerator's memory."""


@dataclass(frozen=True)
class Budget:
    """How many rows fit into one forward."""

    bytes_per_token: int
    most: int
    """Bytes."""
    rows: int | None = None
    """At most so many rows, whatever they take."""

    def fits(self, rows: int, length: int) -> bool:
        """Whether so many rows of that length go together; one always does."""
        if rows <= 1:
            return True
        if self.rows is not None:
            return rows <= self.rows
        return rows * length * self.bytes_per_token <= self.most


def budget(
    info: ModelInfo, steps: Iterable[Step], dictionaries: Mapping[str, Dictionary], rows: int | None = None
) -> Budget:
    """The budget of a statement's rows on the device that is in use.

    Args:
        info: the model.
        steps: the statement's.
        dictionaries: by name.
        rows: the caller's own `batch_size`.
    """
    widths = 2 * info.d_vocab + 12 * info.d_model + 3 * info.d_mlp + 4 * info.n_heads * info.d_head
    widest = 0
    for s in steps:
        names = {i.dictionary for i in s.items if i.dictionary is not None}
        dense = sum(dictionaries[n].info.d_sae for n in names if not dictionaries[n].info.config.elementwise)
        records = sum(dictionaries[r.dictionary].info.d_sae for r in s.records if r.dictionary and r.features == "all")
        columns = sum(len(columns_of(e, info, dictionaries)) for e in s.edits if key_of(e)[0] == "features")
        captured = sum(info.width(r.site) or info.d_model for r in s.records if r.dictionary is None)
        widest = max(widest, 2 * dense + records + 4 * columns + captured + 4 * info.d_model * len(s.edits))
    return Budget(4 * (widths + widest), _memory(), rows)


def _memory() -> int:
    if mx.default_device() == mx.cpu:
        return CPU_BUDGET
    size = mx.device_info().get("memory_size", SHARE * CPU_BUDGET)
    return int(size) // SHARE


def groups(lengths: Sequence[int], b: Budget, shadows: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Indices of rows that go into one forward, similar lengths together.

    Args:
        lengths: of every row that is to run.
        b: what fits.
        shadows: for each row the one that must be in its forward too, counted apart; rows that share one share it.
    """
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        more = [*group, i]
        rows = len(more) if shadows is None else len(more) + len({shadows[j] for j in more})
        if group and not b.fits(rows, lengths[i]):
            yield group
            more = [i]
        group = more
    if group:
        yield group


def padded(rows: Sequence[Sequence[int]]) -> mx.array:
    """[batch, longest] token ids; what follows a row's own tokens is 0, and read by none of them."""
    longest = max(map(len, rows))
    return mx.array([[*r, *[0] * (longest - len(r))] for r in rows])
