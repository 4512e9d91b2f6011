"""Plan + weights -> functions at sites, and the numbers that they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from saedsl.edits import Columns, add, masked
from saedsl.plan import PlannedPrompt, PlannedStep
from saedsl.positions import PositionSet
from saedsl.program import Dictionary, Intervention, Step
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.trace import Frame, SiteFn


@dataclass(frozen=True)
class Firing:
    """What one edit did to one feature, or to a whole site, on one prompt."""

    edit: str
    """Canonical text of the edit, e.g. `at L2.mlp ablate f42`."""
    feature: str
    """`f42`, or "" for a whole site."""
    positions: int
    """At how many positions of the forwards the edit acted."""
    active: int
    """At how many of them the feature was not zero."""
    changed: int
    """At how many of them the activation changed."""


Reader = Callable[[mx.array, Frame], None]
Writer = Callable[[mx.array, Frame], mx.array | None]


@dataclass(frozen=True)
class _Column:
    """One edited feature: a column of its dictionary's delta."""

    edit: int
    """Index into the step's edits."""
    feature: int


class StepFunctions:
    """One step's edits and records for prompts of equal length, compiled to a function a site."""

    def __init__(
        self,
        step: Step,
        prompts: Sequence[PlannedPrompt],
        dictionaries: Mapping[str, Dictionary],
        saes: Mapping[str, SAE],
        edited: bool = True,
    ) -> None:
        """
        Args:
            step: what to do.
            prompts: a row of the batch each, all of the same number of tokens.
            dictionaries: those that the step uses, by name.
            saes: their weights, by the same names.
            edited: False leaves the edits out: the baseline, with the same records.
        """
        self._step, self._prompts = step, prompts
        self._edits = step.edits if edited else ()
        self.captures = {r.site for r in step.records if r.dictionary is None}
        """Sites that records need."""
        self._columns: dict[str, tuple[_Column, ...]] = {}
        readers: dict[Site, list[Reader]] = {}
        crossing: dict[Site, list[Reader]] = {}
        writers: dict[Site, list[Writer]] = {}
        names = {e.dictionary for e in self._edits} | {r.dictionary for r in step.records}
        for name in sorted(n for n in names if n is not None):
            d, sae = dictionaries[name], saes[name]
            # A transcoder's edits are at the site it writes; edits of what it reads are upstream of them.
            reads = readers if d.read == d.write else crossing
            reads.setdefault(d.read, []).append(self._reader(name, sae))
            if any(e.dictionary == name for e in self._edits):
                writers.setdefault(d.write, []).append(self._writer(name, sae))
        for i, e in enumerate(self._edits):
            if e.dictionary is None:
                writers.setdefault(e.site, []).append(self._whole_site(i, e))
        self.functions: dict[Site, SiteFn] = {
            site: _site_function(readers.get(site, []), writers.get(site, []), crossing.get(site, []))
            for site in {*readers, *writers, *crossing}
        }
        """What to install where."""

    # Functions at sites -------------------------------------------------------------------------------------------

    def _reader(self, name: str, sae: SAE) -> Reader:
        """Reads the dictionary's features as they arrive, and leaves the delta of the edited ones in the frame."""
        edits = [(i, e) for i, e in enumerate(self._edits) if e.dictionary == name]
        columns = tuple(
            _Column(i, f) for i, e in edits for f in (range(sae.config.d_sae) if e.features == "all" else e.features)
        )
        self._columns[name] = columns
        encode = sae.encoder([c.feature for c in columns]) if columns else None
        numbers = Columns.of([(self._edits[c.edit].op, self._edits[c.edit].args) for c in columns])
        mask = _masks([c.edit for c in columns], [[p.edits[i] for i in range(len(self._edits))] for p in self._prompts])
        normalized = sae.config.normalize_activations != "none"
        record = self._recorder(name, sae, columns)

        def read(x: mx.array, frame: Frame) -> None:
            delta = None
            where = mask(frame.offset, frame.length) if columns else False
            if encode is not None and where is not False:
                m = where if isinstance(where, mx.array) else None
                f = encode(x)
                delta = masked(numbers.delta(f), m)
                frame.scratch[name] = (delta, sae.scale(x) if normalized else None)
                frame.edited[name] = (masked(f, m), delta)
            record(x, delta, frame)

        return read

    def _recorder(
        self, name: str, sae: SAE, columns: Sequence[_Column]
    ) -> Callable[[mx.array, mx.array | None, Frame], None]:
        """Keeps recorded features: as they arrive, plus what this site's edits add to them."""
        items = [r for r in self._step.records if r.dictionary == name]
        whole = any(r.features == "all" for r in items)
        ids = sorted({f for r in items for f in (r.features if not isinstance(r.features, str) else ())})
        if not items:
            return lambda x, delta, frame: None
        encode = sae.encode if whole else sae.encoder(ids)
        wanted = list(range(sae.config.d_sae)) if whole else ids
        place = {f: j for j, f in enumerate(wanted)}
        chosen = [(i, place[c.feature]) for i, c in enumerate(columns) if c.feature in place]
        spread = np.zeros((len(columns), len(wanted)), np.float32)
        for i, j in chosen:
            spread[i, j] = 1
        onto = mx.array(spread) if chosen else None

        def record(x: mx.array, delta: mx.array | None, frame: Frame) -> None:
            f = encode(x)
            if delta is not None and onto is not None:
                f = f + delta @ onto
            if whole:
                frame.kept[f"record {name}"] = f
            for i in ids:
                frame.kept[f"record {name}.f{i}"] = f[..., place[i]]

        return record

    def _writer(self, name: str, sae: SAE) -> Writer:
        ids = [c.feature for c in self._columns[name]]
        rows = sae.W_dec if ids == list(range(sae.config.d_sae)) else sae.W_dec[mx.array(ids)]
        mx.eval(rows)

        def write(x: mx.array, frame: Frame) -> mx.array | None:
            if name not in frame.scratch:
                return None
            delta, scale = frame.scratch.pop(name)
            out: mx.array = delta @ rows
            return out if scale is None else out * scale

        return write

    def _whole_site(self, index: int, edit: Intervention) -> Writer:
        numbers = Columns.of([(edit.op, edit.args)])
        mask = _masks([index], [[p.edits[i] for i in range(len(self._edits))] for p in self._prompts])

        def write(x: mx.array, frame: Frame) -> mx.array | None:
            where = mask(frame.offset, frame.length)
            if where is False:
                return None
            m = where if isinstance(where, mx.array) else None
            x = x.astype(mx.float32)
            delta = masked(numbers.delta(x), m)
            active = masked((x != 0).any(axis=-1, keepdims=True), m)
            frame.edited[f"#{index}"] = (active, (delta != 0).any(axis=-1, keepdims=True))
            return delta

        return write

    # What they leave behind ---------------------------------------------------------------------------------------

    def firings(self, frames: Sequence[Frame], row: int) -> tuple[Firing, ...]:
        """What every edit did on the prompt of one row, from the frames of a whole run, in the step's order."""

        def count(name: str, n: int) -> list[np.ndarray]:
            """How often each of n columns was active, and changed."""
            pairs = [f.edited[name] for f in frames if name in f.edited]
            return [
                sum((np.count_nonzero(np.array(p[i][row]), axis=0) for p in pairs), np.zeros(n, int)) for i in (0, 1)
            ]

        seen = [sum(where.row(f.offset, f.length).count(True) for f in frames) for where in self._prompts[row].edits]
        found: dict[int, list[Firing]] = {}
        for name, columns in self._columns.items():
            active, changed = count(name, len(columns))
            for j, c in enumerate(columns):
                text = self._edits[c.edit].text()
                firing = Firing(text, f"f{c.feature}", seen[c.edit], int(active[j]), int(changed[j]))
                found.setdefault(c.edit, []).append(firing)
        for i, e in enumerate(self._edits):
            if e.dictionary is None:
                active, changed = count(f"#{i}", 1)
                found[i] = [Firing(e.text(), "", seen[i], int(active[0]), int(changed[0]))]
        return tuple(f for i in sorted(found) for f in found[i])

    def recorded(self, frames: Sequence[Frame], row: int) -> dict[str, np.ndarray]:
        """Recorded activations of the prompt of one row: label -> [positions, width], or [positions] for a feature."""
        out: dict[str, np.ndarray] = {}
        n = sum(f.length for f in frames)
        for item, where in zip(self._step.records, self._prompts[row].records, strict=True):
            parts = [
                f.captured[item.site] if item.dictionary is None else f.kept[f"record {item.label}"] for f in frames
            ]
            whole = np.concatenate([np.array(p[row].astype(mx.float32)) for p in parts])
            start = frames[0].offset if frames else 0
            out[item.label] = whole[where.row(start, n)]
        return out


def _site_function(readers: Sequence[Reader], writers: Sequence[Writer], crossing: Sequence[Reader]) -> SiteFn:
    """All of one site: everything is read from the activation as it arrives, then the deltas are added.

    Args:
        readers: of dictionaries that write here too.
        writers: of every edit here.
        crossing: readers of dictionaries that write downstream: they see the edits here.
    """

    def function(x: mx.array, frame: Frame) -> mx.array:
        for read in readers:
            read(x, frame)
        deltas = [d for d in (write(x, frame) for write in writers) if d is not None]
        x = add(x, deltas)
        for read in crossing:
            read(x, frame)
        return x

    return function


def _masks(columns: Sequence[int], rows: Sequence[Sequence[PositionSet]]) -> Callable[[int, int], mx.array | bool]:
    """Where each column acts: (offset, length) -> True everywhere, False nowhere, else [batch, length, n] booleans.

    Args:
        columns: each column's edit.
        rows: each prompt's positions, by edit.
    """
    edits = sorted(set(columns))
    index = [edits.index(c) for c in columns]

    @lru_cache(maxsize=16)
    def mask(offset: int, length: int) -> mx.array | bool:
        rowwise = [[row[e].row(offset, length) for e in edits] for row in rows]
        flat = [b for row in rowwise for column in row for b in column]
        if all(flat):
            return True
        if not any(flat):
            return False
        whole = np.array(rowwise, dtype=bool).transpose(0, 2, 1)  # [batch, length, edits]
        return mx.array(whole[..., index])

    return mask


def batches(step: PlannedStep) -> Iterable[list[int]]:
    """Indices of the step's prompts, grouped by number of tokens: each group is one batch without padding."""
    groups: dict[int, list[int]] = {}
    for i, p in enumerate(step.prompts):
        groups.setdefault(len(p.tokens), []).append(i)
    return groups.values()
