"""What edits of one quantity do in one stage of a forward: read, change where they act, and count what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np

from saedsl import registry
from saedsl.conditions import Conditions, statistic
from saedsl.edits import Columns, by_row, masked, numbers
from saedsl.errors import RunError
from saedsl.grammar.nodes import NOWHERE
from saedsl.grammar.source import Source
from saedsl.lanes import Lane, Mask, Row, Use, arrange, masks
from saedsl.making import Maker
from saedsl.parts import TINY, Quantity
from saedsl.program import Intervention
from saedsl.sae.dictionary import SAE
from saedsl.sources import Sources, Taken
from saedsl.trace import Frame

MOST_SHARED: Final = 1024
"""Columns of lanes that are changed together, with a mask for each column; more have a mask for each lane."""


@dataclass(frozen=True)
class Surroundings:
    """What tasks need to know beside their edits."""

    rows: Sequence[Row]
    saes: Mapping[str, SAE]
    conditions: Conditions
    sources: Sources | None
    """Values of other runs; None if no edit takes one."""
    shadow_of: Sequence[int] | None
    """The row that each row of the batch is held against."""
    source: Source
    """The program's text."""


class Task:
    """Edits of one quantity in one stage."""

    def __init__(
        self,
        name: str,
        uses: Sequence[Sequence[Use]],
        make: Maker,
        around: Surroundings,
    ) -> None:
        """
        Args:
            name: of the quantity and the stage: the key under which frames keep what happened.
            uses: by row.
            make: columns -> the quantity.
            around: the batch.
        """
        lanes = arrange(uses)
        shared = [lane for lane in lanes if lane.kind == "numbers" and not lane.conditions]
        few = len(shared) > 1 and sum(len(lane.columns) for lane in shared) <= MOST_SHARED
        if make.selected and few:
            groups = [shared, *([lane] for lane in lanes if lane not in shared)]
        else:
            groups = [[lane] for lane in lanes]
        self.name = name
        self.columns = tuple(c for group in groups for lane in group for c in lane.columns)
        """Of the changes that `write` gives, if the quantity is of selected columns."""
        self.quantity = make(self.columns)
        starts = [0, *np.cumsum([sum(len(lane.columns) for lane in g) for g in groups]).tolist()]
        self._changes = [Change(f"{name} {i}", g, self.quantity, starts[i], make, around) for i, g in enumerate(groups)]

    def acts(self, frame: Frame) -> bool:
        """Whether anything can change in this forward."""
        return any(c.mask(frame.offset, frame.length) is not False for c in self._changes)

    def read(self, x: mx.array, frame: Frame) -> None:
        """At the quantity's source, where it has one."""
        if self.acts(frame):
            frame.scratch[self.name] = self.quantity.read(x)

    def write(self, x: mx.array, frame: Frame) -> tuple[mx.array, mx.array] | None:
        """(change of the activation, change of the value) of `x` [batch, length, width]; None if nothing acts."""
        if not self.acts(frame):
            return None
        q = self.quantity
        f = q.value(x, frame.scratch.pop(self.name, None))
        if len(self._changes) == 1:
            delta = self._changes[0](f, x, frame)
        elif q.selected:
            axis = 2
            ends = np.cumsum([c.size for c in self._changes]).tolist()
            pieces = mx.split(f, ends[:-1], axis=axis)
            delta = mx.concatenate([c(p, x, frame) for c, p in zip(self._changes, pieces, strict=True)], axis=axis)
        else:
            delta = self._changes[0](f, x, frame)
            for c in self._changes[1:]:
                delta = delta + c(f, x, frame)
        return q.write(delta, x), delta

    def counted(self, frames: Sequence[Frame], row: int) -> list[Counted]:
        """What each edit of a row did in these frames."""
        return [c for change in self._changes for c in change.counted(frames, row)]


@dataclass(frozen=True)
class Counted:
    """How often an edit of a row acted."""

    use: Use
    active: tuple[int, ...]
    """At how many positions each thing that it changes was not zero."""
    changed: tuple[int, ...]
    held: int | None
    """At how many positions its condition held; None if it has none."""
    finite: bool
    """Whether a function of the user's own gave numbers."""


class Change:
    """One lane, or several that are changed together."""

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane],
        quantity: Quantity,
        start: int,
        make: Maker,
        around: Surroundings,
    ) -> None:
        self._name, self._lanes, self._quantity, self._around = name, lanes, quantity, around
        self._lane = lane = lanes[0]
        self.kind = lane.kind
        self._start, self.size = start, sum(len(x.columns) for x in lanes)
        self.mask: Mask = masks(around.rows, lanes)
        self._numbers: Columns | None = None
        self._shift: mx.array | None = None
        self._taken: list[list[tuple[Use, Taken]]] = []
        if self.kind in ("numbers", "keep"):
            self._numbers = Columns.rows(np.concatenate([self._row_numbers(x, make) for x in lanes], axis=-1))
        elif self.kind == "norm":
            self._shift = by_row(self._row_numbers(lane, make)[1].astype(np.float32))
        elif self.kind in ("values", "keep values"):
            self._taken = [
                [] if c is None else [(u, self._source(u, row, make)) for u in c.uses]
                for c, row in zip(lane.cells, around.rows, strict=True)
            ]

    def _source(self, use: Use, row: Row, make: Maker) -> Taken:
        assert self._around.sources is not None
        return self._around.sources.taken(use.edit, use.index, row.prompt, make(use.columns))

    def _row_numbers(self, lane: Lane, make: Maker) -> np.ndarray:
        """[4, batch, n]: gain, shift, low and high; n is the width of a mean of a whole activation."""
        filled = []
        for cell in lane.cells:
            parts = [] if cell is None else [(u, self._numbers_of(u, make)) for u in cell.uses]
            width = max([len(lane.columns), *(v.shape[1] for _, v in parts if not self._quantity.selected)])
            row = np.tile([[0.0], [0.0], [-np.inf], [np.inf]], (1, width))
            for u, values in parts:
                at = np.searchsorted(lane.columns, u.columns) if self._quantity.selected else slice(None)
                row[:, at] = values
            filled.append(row if parts else None)
        first = next(row for row in filled if row is not None)
        width = max(row.shape[1] for row in filled if row is not None)
        # a row that never acts is masked: with the numbers of another, all rows can share one array
        rows = [np.broadcast_to(first if row is None else row, (4, width)) for row in filled]
        return np.stack(rows, axis=1)

    def _numbers_of(self, u: Use, make: Maker) -> np.ndarray:
        """[4, n] of the columns of one edit."""
        e = u.edit
        gain, shift, low, high = numbers(e.op, e.args)
        n = len(u.columns)
        out = np.tile([[gain], [shift], [low], [high]], (1, n))
        if e.unit in ("max", "std") and e.dictionary is not None:
            unit = statistic(self._around.saes[e.dictionary], e.unit)[list(u.columns)]
            out[1:] = np.where(np.isinf(out[1:]), out[1:], out[1:] * np.where(np.isinf(out[1:]), 1, unit))
        if e.to is not None and e.to.kind == "mean":
            assert self._around.sources is not None
            mean = self._around.sources.mean(e, u.columns, make.selected)
            out = np.repeat(out[:, :1], len(mean), axis=1)
            out[1] = mean
        return out

    # In a forward ---------------------------------------------------------------------------------------------------

    def __call__(self, f: mx.array, x: mx.array, frame: Frame) -> mx.array:
        """f' - f, exactly 0 where nothing acts, of the value [batch, length, n, ...] and the activation `x`."""
        base = self.mask(frame.offset, frame.length)
        if base is False:
            return mx.zeros(f.shape)
        where = base if isinstance(base, mx.array) else None
        if self._lane.conditions:
            where = self._conditional(where, frame)
        deep = f.ndim == 4
        if deep and where is not None:
            where = where[..., None]
        delta = masked(self._delta(f, x, frame, deep), where)
        frame.edited[self._name] = (self._count(f, where), self._count(delta, None))
        if self.kind == "apply":
            finite = mx.isfinite(delta).reshape(len(f), -1).all(axis=-1)
            frame.edited[f"{self._name} finite"] = (finite, finite)
        return delta

    def _delta(self, f: mx.array, x: mx.array, frame: Frame, deep: bool) -> mx.array:
        if self._numbers is not None:
            return (self._numbers.deep if deep else self._numbers).delta(f)
        if self._shift is not None:
            size = mx.sqrt(mx.square(x.astype(mx.float32)).sum(axis=-1, keepdims=True))
            delta: mx.array = self._shift * size / mx.maximum(self._own(self._quantity.unit_norms(x)), TINY)
            return delta
        if self.kind == "freeze":
            assert self._around.shadow_of is not None
            return f[mx.array(list(self._around.shadow_of))] - f
        if self.kind == "apply":
            return self._applied(f) - f
        return self._values(f, frame) - f

    def _own(self, norms: mx.array) -> mx.array:
        """Norms of this change's columns, of those of the whole quantity."""
        return norms[..., self._start : self._start + self.size] if self._quantity.selected else norms

    def _applied(self, f: mx.array) -> mx.array:
        cell = next(c for c in self._lane.cells if c is not None)
        e = cell.uses[0].edit
        try:
            function = registry.get(e.name).function
        except KeyError as error:
            raise RunError(str(error.args[0])) from None
        try:
            out = function(f, *e.args)
        except Exception as error:  # whatever the user's own code raises
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise RunError(f"{self._written(e)}`{e.text()}`: the edit {e.name} failed ({why})") from error
        if not isinstance(out, mx.array) or out.shape != f.shape:
            found = f"{list(out.shape)}" if isinstance(out, mx.array) else type(out).__name__
            raise RunError(f"{self._written(e)}`{e.text()}`: {e.name} was given {list(f.shape)} and gave back {found}")
        return out.astype(mx.float32)

    def _written(self, e: Intervention) -> str:
        """Where an edit is written, `steer.saedsl:3:11: `; nothing for one that no text says."""
        return f"{self._around.source.where(e.span)}: " if e.span != NOWHERE and self._around.source.text else ""

    def _values(self, f: mx.array, frame: Frame) -> mx.array:
        """What takes the place of `f`: [batch, length, n, ...], arbitrary where nothing acts."""
        out = np.zeros(f.shape, np.float32)
        for r, (row, uses) in enumerate(zip(self._around.rows, self._taken, strict=True)):
            for u, taken in uses:
                columns = np.searchsorted(self._lane.columns, u.columns) if self._quantity.selected else None
                for i, p in enumerate(row.positions(frame.offset, frame.length)):
                    if p < 0 or p not in u.where:
                        continue
                    value = taken.at(p, u.edit)
                    if f.ndim == 4:
                        keys = min(f.shape[3], value.shape[-1])
                        out[r, i, columns, :keys] = value[:, :keys]
                    else:
                        out[r, i, slice(None) if columns is None else columns] = value
        return mx.array(out)

    def _conditional(self, where: mx.array | None, frame: Frame) -> mx.array:
        """The mask where conditions hold too; how often they did is kept."""
        cells = self._lane.cells
        out = mx.array([c is None or c.when is None for c in cells])[:, None, None]
        for condition in self._lane.conditions:
            mine = [c is not None and c.when == condition for c in cells]
            e = next(c for c in cells if c is not None and c.when == condition).uses[0].edit
            holds = self._around.conditions.holds(condition, e, frame)
            out = out | (mx.array(mine)[:, None, None] & holds)
        out = out if where is None else where & out
        held = out.sum(axis=1)
        frame.edited[f"{self._name} when"] = (held, held)
        return out

    # Afterwards -----------------------------------------------------------------------------------------------------

    def _count(self, values: mx.array, where: mx.array | None) -> mx.array:
        """At how many positions each thing is not zero: [batch, things]."""
        some = values != 0
        if some.ndim == 4:
            some = masked(some, where).any(axis=-1)
        elif self.kind in ("keep", "keep values") or self._quantity.grouped == 0:
            some = masked(some.any(axis=-1, keepdims=True), where)
        elif self._quantity.grouped > 1:
            by_head = some.reshape(*some.shape[:-1], -1, self._quantity.grouped).any(axis=-1)
            some = masked(by_head, None if where is None else where[..., :: self._quantity.grouped])
        else:
            some = masked(some, where)
        if some.ndim == 3 and values.ndim == 4 and self.kind in ("keep", "keep values"):
            some = some.any(axis=-1, keepdims=True)
        return some.sum(axis=1)

    def counted(self, frames: Sequence[Frame], row: int) -> list[Counted]:
        """What each edit of a row did in these frames."""

        def total(name: str, i: int, n: int) -> np.ndarray:
            found = [np.array(f.edited[name][i][row]).reshape(-1) for f in frames if name in f.edited]
            return np.sum(found, axis=0) if found else np.zeros(n, int)

        out: list[Counted] = []
        start = 0
        group = max(self._quantity.grouped, 1)
        things = sum(len(x.columns) for x in self._lanes) // group
        active, changed = (total(self._name, i, things) for i in (0, 1))
        for lane in self._lanes:
            cell = lane.cells[row]
            for u in cell.uses if cell is not None else ():
                if self.kind in ("keep", "keep values") or not self._quantity.selected:
                    at = [0]
                else:
                    at = [start + i // group for i in np.searchsorted(lane.columns, u.columns)[::group].tolist()]
                held = int(total(f"{self._name} when", 0, 1)[0]) if u.edit.when is not None else None
                finite = f"{self._name} finite"
                good = all(bool(np.array(f.edited[finite][0][row])) for f in frames if finite in f.edited)
                out.append(
                    Counted(
                        u, tuple(active[at].tolist()), tuple(changed[at].tolist()), held, good or self.kind != "apply"
                    )
                )
            start += len(lane.columns) // group
        return out
