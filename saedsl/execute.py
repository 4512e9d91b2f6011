"""Rows + weights -> functions at sites, and the numbers that they leave behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from saedsl.conditions import Conditions
from saedsl.edits import add
from saedsl.errors import RunError
from saedsl.firing import Firing, names
from saedsl.lanes import Row, Use
from saedsl.making import Key, Maker, columns_of, key_of
from saedsl.positions import PositionSet
from saedsl.program import Intervention, Program, RecordItem, Step, Term, terms
from saedsl.recording import DictionaryRecorder, recorded
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.sources import Sources
from saedsl.tasks import Surroundings, Task
from saedsl.trace import Frame, SiteFn

__all__ = ["Firing", "StepFunctions", "needs_shadow", "skips_of"]


def needs_shadow(step: Step) -> bool:
    """Whether a step's edited rows are held against rows without edits in the same forward."""
    return step.mode != "iterative" or any(e.op == "freeze" for e in step.edits)


def skips_of(
    steps: Iterable[Step], program: Program, weights: Mapping[str, SAE]
) -> dict[Site, Callable[[mx.array], mx.array]]:
    """Linear paths of the transcoders that steps edit, by the site they write: `direct` keeps them live."""
    names = sorted({e.dictionary for s in steps for e in s.edits if e.dictionary is not None})
    paths: dict[Site, list[mx.array]] = {}
    for name in names:
        skip, d = weights[name].W_skip, program.dictionaries[name]
        if skip is not None and not any(skip is known for known in paths.get(d.write, ())):
            paths.setdefault(d.write, []).append(skip)

    def path(skips: Sequence[mx.array]) -> Callable[[mx.array], mx.array]:
        total = sum(skips[1:], skips[0]).T
        return lambda x: x @ total

    return {site: path(skips) for site, skips in paths.items()}


class StepFunctions:
    """Edits, records and metrics of the rows of a batch, compiled to a function a site."""

    def __init__(
        self,
        rows: Sequence[Row],
        program: Program,
        weights: Mapping[str, SAE],
        sources: Sources | None = None,
        shadow_of: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            rows: what each row of the batch is; shorter ones are padded on the right.
            program: what they are of.
            weights: the dictionaries that they use, by name.
            sources: values of other runs; None if no edit takes one.
            shadow_of: [batch] the row that each is held against, where an edit freezes something.
        """
        self._rows, self._program, self._weights = rows, program, weights
        self._info, self._dictionaries = program.model, program.dictionaries
        steps = {id(r.step): r.step for r in rows}
        items = list(dict.fromkeys(i for s in steps.values() for i in s.records))
        calls = list(dict.fromkeys(t for s in steps.values() for m in s.metrics for t in terms(m.value)))
        norms = {t.site for t in calls if t.site is not None}
        self.captures = {r.site for r in items if r.dictionary is None} | norms
        """Sites that records and metrics need."""
        edits = list(dict.fromkeys(e for r in rows if r.edited for e in r.step.edits))
        self._conditions = Conditions(edits, self._dictionaries, weights)
        self._tasks = self._all_tasks(Surroundings(rows, weights, self._conditions, sources, shadow_of, program.source))
        self._recorders = self._all_recorders(items, calls)
        sites = {t.quantity.site for _, _, t in self._tasks} | self._conditions.sites
        sites |= {t.quantity.source for _, _, t in self._tasks if t.quantity.source is not None}
        sites |= {s for r in self._recorders for s in (r.dictionary.read, r.dictionary.write)}
        self.functions: dict[Site, SiteFn] = {site: self._function(site) for site in sites}
        """What to install where."""

    # Arranging ------------------------------------------------------------------------------------------------------

    def _all_tasks(self, around: Surroundings) -> list[tuple[Key, int, Task]]:
        """(what is changed, in which stage, how), in an order that does not depend on that of the edits."""
        found: dict[tuple[Key, int], list[list[Use]]] = {}
        columns: dict[Intervention, tuple[int, ...]] = {}
        for r, row in enumerate(self._rows):
            for i, e in enumerate(row.step.edits) if row.edited else ():
                if e not in columns:
                    columns[e] = columns_of(e, self._info, self._dictionaries)
                if columns[e]:
                    uses = found.setdefault((key_of(e), e.stage), [[] for _ in self._rows])
                    uses[r].append(Use(i, e, row.prompt.edits[i], columns[e]))
        return [
            (key, stage, Task(f"{stage} {key}", found[key, stage], self.maker(key), around))
            for key, stage in sorted(found)
        ]

    def _all_recorders(self, items: Sequence[RecordItem], calls: Sequence[Term]) -> list[DictionaryRecorder]:
        used = {i.dictionary for i in items} | {t.dictionary for t in calls}
        return [
            DictionaryRecorder(
                self._dictionaries[name],
                self._weights[name],
                [i for i in items if i.dictionary == name],
                [t for t in calls if t.dictionary == name],
            )
            for name in sorted(n for n in used if n is not None)
        ]

    def maker(self, key: Key) -> Maker:
        """What makes the quantity of a key."""
        return Maker(key, self._info, self._dictionaries, self._weights, self._program.directions)

    def _function(self, site: Site) -> SiteFn:
        """All of one site: in each stage everything is read first, then the deltas are added.

        Records and upstream conditions read the activation as it arrives, dictionaries that write downstream read it
        behind the edits.
        """
        here = [(key, stage, t) for key, stage, t in self._tasks if t.quantity.site == site]
        stages = [[(k, t) for k, s, t in here if s == stage] for stage in sorted({s for _, s, _ in here})]
        numbers = sorted({s for _, s, _ in here})
        crossing = [t for _, _, t in self._tasks if t.quantity.source == site]
        arriving = [r for r in self._recorders if r.dictionary.read == site and not r.crosses]
        written = [r for r in self._recorders if r.dictionary.write == site]
        behind = [r for r in self._recorders if r.dictionary.read == site and r.crosses]
        conditions = self._conditions if site in self._conditions.sites else None

        def function(x: mx.array, frame: Frame) -> mx.array:
            if conditions is not None:
                conditions.read(x, frame, (site, None))
            for r in arriving:
                r.read(x, frame)
            for r in written:
                r.arrive(x, frame)
            for number, tasks in zip(numbers, stages, strict=True):
                if conditions is not None:
                    conditions.read(x, frame, (site, number))
                deltas = []
                for key, t in tasks:
                    if (change := t.write(x, frame)) is not None:
                        deltas.append(change[0])
                        for r in written:
                            if r.dictionary.name == key[2]:
                                r.add(key[0], t.columns, change[1], frame)
                x = add(x, deltas)
            for r in written:
                r.finish(frame)
            for r in behind:
                r.read(x, frame)
            for t in crossing:
                t.read(x, frame)
            return x

        return function

    # What they leave behind -----------------------------------------------------------------------------------------

    def firings(self, frames: Sequence[Frame], row: int) -> tuple[Firing, ...]:
        """What every edit did on one row, from the frames of its whole run, in the step's order.

        Raises:
            RunError: if an edit of the user's own gave NaN or inf.
        """
        r = self._rows[row]
        found: dict[int, list[Firing]] = {}
        for _, _, task in self._tasks:
            for c in task.counted(frames, row):
                text = c.use.edit.text()
                if not c.finite:
                    raise RunError(f"`{text}`: {c.use.edit.name} gave NaN or inf")
                seen = sum(r.inside(c.use.where, f.offset, f.length).count(True) for f in frames)
                called = names(c.use.edit, len(c.active))
                found.setdefault(c.use.index, []).extend(
                    Firing(text, name, seen, a, b, c.held)
                    for name, a, b in zip(called, c.active, c.changed, strict=True)
                )
        return tuple(f for i in sorted(found) for f in found[i])

    def recorded(
        self,
        frames: Sequence[Frame],
        row: int,
        of: tuple[Sequence[RecordItem], Sequence[PositionSet]] | None = None,
    ) -> dict[str, np.ndarray]:
        """Recorded activations of one row: label -> [positions, width], or [positions] for a feature.

        Args:
            frames: of the row's whole run.
            row: its index.
            of: other records than those of the row's own step, with their positions.
        """
        r = self._rows[row]
        items, where = (r.step.records, r.prompt.records) if of is None else of
        return recorded(items, where, frames, row, r, self._info, self._dictionaries)
