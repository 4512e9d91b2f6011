"""Edits of many rows, arranged in few lanes: in a lane a row has one place to act and a change for each column.

Rows of a batch do different things: prompts have their own positions, the steps of a sweep their own numbers and
features. What differs by row goes into masks and numbers, so that a quantity is read once and a lane is a handful of
array operations, however many rows and columns there are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import mlx.core as mx
import numpy as np

from saedsl.plan import PlannedPrompt
from saedsl.positions import PositionSet
from saedsl.program import Condition, Intervention, Step

Kind = Literal["numbers", "keep", "values", "keep values", "freeze", "norm", "apply"]


@dataclass(frozen=True)
class Row:
    """One sequence of a batch."""

    step: Step
    prompt: PlannedPrompt
    edited: bool = True
    """False: the unedited run, of the same records."""
    ids: tuple[int, ...] | None = None
    """Its tokens, if they are not the prompt's."""
    places: tuple[int, ...] | None = None
    """Each token's position, where they are known from the start: then what follows is padding. Else 0, 1, ..."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """What is fed to the model."""
        return self.prompt.tokens.ids if self.ids is None else self.ids

    @property
    def fixed(self) -> Row:
        """The row with nothing behind its tokens but padding."""
        return self if self.places is not None else Row(
            self.step, self.prompt, self.edited, self.ids, tuple(range(len(self.tokens)))
        )  # fmt: skip

    def positions(self, offset: int, length: int) -> list[int]:
        """The positions of the tokens of one forward; -1 for padding."""
        if self.places is None:
            return list(range(offset, offset + length))
        return [*self.places[offset : offset + length], *[-1] * (offset + length - max(len(self.places), offset))][
            :length
        ]

    def inside(self, where: PositionSet, offset: int, length: int) -> list[bool]:
        """Which tokens of one forward are in a set."""
        if self.places is None:
            return where.row(offset, length)
        return [p >= 0 and p in where for p in self.positions(offset, length)]


@dataclass(frozen=True)
class Use:
    """One edit of one row, with the columns of its quantity that it changes."""

    index: int
    """Among the edits of the row's step."""
    edit: Intervention
    where: PositionSet
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Cell:
    """What one row does in a lane."""

    where: PositionSet
    when: Condition | None
    uses: tuple[Use, ...]


@dataclass(frozen=True)
class Lane:
    """Columns that change in the same places of each row, in the same way."""

    kind: Kind
    columns: tuple[int, ...]
    cells: tuple[Cell | None, ...]
    """By row of the batch."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those of its cells, each once."""
        found = (c.when for c in self.cells if c is not None and c.when is not None)
        return tuple(dict.fromkeys(found))


def kind_of(e: Intervention) -> Kind:
    """How an edit's change is computed."""
    by_token = e.to is not None and e.to.kind != "mean"
    if e.op == "patch" or (e.op == "ablate" and by_token):
        return "values"
    if e.op == "keep":
        return "keep values" if by_token else "keep"
    if e.op in ("freeze", "apply"):
        return "freeze" if e.op == "freeze" else "apply"
    return "norm" if e.unit == "norm" else "numbers"


def arrange(rows: Sequence[Sequence[Use]]) -> list[Lane]:
    """Edits of one quantity in one stage, by row -> lanes.

    A row's edits with the same places share a lane; rows share lanes where they change the same columns.
    """
    kinds: list[Hashable] = []
    members: list[dict[int, Cell]] = []
    columns: list[set[int]] = []
    for r, uses in enumerate(rows):
        groups: dict[Hashable, list[Use]] = {}
        for u in uses:
            own = (u.edit.name, u.edit.args) if u.edit.op == "apply" else None
            groups.setdefault((kind_of(u.edit), own, u.where, u.edit.when), []).append(u)
        for group in groups.values():
            first = group[0].edit
            kind = (kind_of(first), (first.name, first.args) if first.op == "apply" else None)
            mine = {c for u in group for c in u.columns}
            free = [i for i, k in enumerate(kinds) if k == kind and r not in members[i]]
            if free:
                i = max(free, key=lambda i: len(columns[i] & mine))
            else:
                i = len(kinds)
                kinds.append(kind)
                members.append({})
                columns.append(set())
            members[i][r] = Cell(group[0].where, first.when, tuple(group))
            columns[i] |= mine
    return [
        Lane(kind[0], tuple(sorted(c)), tuple(m.get(r) for r in range(len(rows))))  # type: ignore[index]
        for kind, m, c in zip(kinds, members, columns, strict=True)
    ]


Mask = Callable[[int, int], "mx.array | bool"]
"""(offset, length) -> where to act: True everywhere, False nowhere, else booleans [batch, length, 1 or n]."""


def masks(rows: Sequence[Row], lanes: Sequence[Lane]) -> Mask:
    """Where lanes act: one column for one lane, else one for each column of each lane, side by side."""
    spread = None if len(lanes) == 1 else np.repeat(np.arange(len(lanes)), [len(lane.columns) for lane in lanes])

    @lru_cache(maxsize=16)
    def mask(offset: int, length: int) -> mx.array | bool:
        nowhere = [False] * length
        by_row = [
            [row.inside(cell.where, offset, length) if cell is not None else nowhere for cell in cells]
            for row, cells in zip(rows, zip(*(lane.cells for lane in lanes), strict=True), strict=True)
        ]
        whole = np.array(by_row, dtype=bool).transpose(0, 2, 1)  # [batch, length, lanes]
        if whole.all():
            return True
        if not whole.any():
            return False
        return mx.array(whole if spread is None else whole[..., spread])

    return mask
