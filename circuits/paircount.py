"""Pairs of features that fire together, counted in sparse activations and compared with chance.

Every pair that occurs is counted, in one dictionary or across two, at one token or some tokens apart; memory grows with
the activations and with the pairs that are kept, never with the square of the number of features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from saedsl.circuits.association import Margins, Measure, associations, check_measure, highest, logarithms
from saedsl.circuits.cocount import Engine, Found, Task, best_engine, collect, tally
from saedsl.circuits.firings import Documents, Firings, Index, check_data
from saedsl.circuits.pairtable import Coactivation
from saedsl.circuits.shiftnull import BINS, Strata, bins_of, false_discovery_rates, frequency_classes, shift_of
from saedsl.circuits.waiting import Advance, quiet
from saedsl.errors import CircuitError
from saedsl.training.threads import Crew, cores

Pairs = Literal["all", "within", "across", "neighbours"] | Sequence[tuple[str, str]]
"""Which dictionaries' features are paired: each with itself and with every later one (`all`), with itself only,
with later ones only, with itself and the next one (`neighbours`); or these (source, target)."""


def coactivation(
    firings: Mapping[str, Firings],
    documents: np.ndarray,
    *,
    measure: Measure = "phi",
    lag: int = 0,
    fdr: float | None = 0.05,
    pairs: Pairs = "all",
    min_firings: int = 50,
    min_together: int = 1,
    top: int | None = None,
    shifts: int = 20,
    seed: int = 0,
    engine: Engine | None = None,
    advance: Advance = quiet,
) -> Coactivation:
    """Pairs of features that fire together.

    Args:
        firings: sparse activations by the name of their dictionary, in the order of the forward, all of the same
            tokens; see `Firings.of`.
        documents: [tokens], the document of each token, those of one together and in their order; BOS and padding
            are not among them.
        measure: of association; see `saedsl.circuits.association`.
        lag: i fires `lag` tokens before j, in one document; 0 for the same token.
        fdr: keep pairs up to this false discovery rate, see `saedsl.circuits.shiftnull`; these fire together more
            often than chance. None keeps every pair that fires together at all.
        pairs: which dictionaries are paired.
        min_firings: features that fire at fewer tokens are left out.
        min_together: pairs that fire together at fewer tokens are left out, of the shifted ones too.
        top: keep the strongest so many; None for all.
        shifts: circular shifts that the null is pooled from.
        seed: of the shifts.
        engine: what counts; by default compiled code where numba is installed.
        advance: told how far it is.

    Raises:
        CircuitError: if there is nothing to count, activations and documents do not fit, no feature fires often
            enough, no document is longer than `lag`, or no document is long enough to be shifted.
    """
    check_measure(measure)
    check_numbers(fdr, min_firings, min_together, top, shifts)
    where = Documents.of(documents)
    check_data(firings, where, lag)
    if fdr is not None and int(where.lengths.max()) < 2:
        raise CircuitError("every document has one token, so none can be shifted: give longer documents, or fdr=None")
    chosen = _chosen(tuple(firings), pairs)
    names = [name for name in firings if any(name in pair for pair in chosen)]
    indexes = {name: Index.of(firings[name], min_firings, measure == "pearson") for name in names}
    _check_frequent(indexes, firings, min_firings, where)
    count = _Count(indexes, tuple(chosen), where, measure, lag, max(min_together, 1), engine or best_engine())
    return count.table(tuple(firings), fdr, top, shifts, seed, advance)


@dataclass(frozen=True, eq=False)
class _Count:
    """One question to sparse activations."""

    indexes: Mapping[str, Index]
    chosen: tuple[tuple[str, str], ...]
    documents: Documents
    measure: Measure
    lag: int
    least: int
    engine: Engine

    def table(
        self, names: tuple[str, ...], fdr: float | None, top: int | None, shifts: int, seed: int, advance: Advance
    ) -> Coactivation:
        """The pairs that pass, from passes over the activations: one to look, one a shift, one to collect."""
        crew = Crew(cores())
        tasks = self._tasks(self.documents.target(self.lag))
        strata, sizes = tasks[0].strata, self._sizes(tasks)
        passes = 1 + (shifts if fdr is not None else 0) + (fdr is not None or top is not None)
        done = 0

        def step() -> None:
            nonlocal done
            advance("counting pairs", done, passes)
            done += 1

        step()
        rates: np.ndarray | None = None
        border = np.full(len(strata), -1, np.int64)
        found: int | None = None
        if fdr is not None or top is not None:
            observed = tally(tasks, crew, self.engine)
            found = int(observed.sum())
            if fdr is not None:
                null = np.zeros_like(observed)
                for number in range(shifts):
                    step()
                    shift = shift_of(self.documents, seed, number)
                    null += tally(self._tasks(self.documents.target(self.lag, shift)), crew, self.engine)
                rates = false_discovery_rates(observed, null, sizes, shifts)
                passing = rates <= fdr
                border = np.where(passing.any(axis=1), passing.argmax(axis=1), BINS)
                found = int(observed[passing].sum())
            if top is not None:
                border = np.maximum(border, _border_of(observed, border, top))
            step()
        kept = collect(tasks, crew, self.engine, border)
        advance("counting pairs", passes, passes)
        parts = [
            self._part(task, pair, some, names, rates)
            for task, pair, some in zip(tasks, self.chosen, kept, strict=True)
        ]
        whole = Coactivation.joined(parts)
        whole = replace(whole, tested=int(sizes.sum()), found=len(whole) if found is None else found)
        return whole if top is None else whole.where(np.arange(min(top, len(whole))))

    def _tasks(self, to: np.ndarray) -> list[Task]:
        n = int((to >= 0).sum())
        reached = np.zeros(len(to), bool)
        reached[to[to >= 0]] = True
        sources = {name: self._margins(self.indexes[name], to >= 0, n) for name in {a for a, _ in self.chosen}}
        targets = {name: self._margins(self.indexes[name], reached, n) for name in {b for _, b in self.chosen}}
        classes, number = self._classes
        strata = Strata(number, ordered=self.measure == "conditional")
        logs = logarithms(n)
        return [
            Task(
                self.indexes[a], self.indexes[b], a == b, a == b and self.lag == 0 and self.measure != "conditional",
                self.measure, self.least, to, n, sources[a], targets[b], classes[a], classes[b], strata, logs,
            )
            for a, b in self.chosen
        ]  # fmt: skip

    @cached_property
    def _classes(self) -> tuple[dict[str, np.ndarray], int]:
        names = list(self.indexes)
        found = frequency_classes([self.indexes[name].counts for name in names])
        return dict(zip(names, found, strict=True)), 1 + max(int(c.max(initial=0)) for c in found)

    def _margins(self, index: Index, counted: np.ndarray, n: int) -> Margins:
        """Of the tokens where `counted` is true, n of them."""
        here = counted[index.tokens]
        feature = np.repeat(np.arange(len(index)), np.diff(index.start))[here]
        counts = np.bincount(feature, minlength=len(index))
        if self.measure != "pearson":
            return Margins.of_firing(counts, n)
        x = index.values[here].astype(np.float64)
        sums, squares = (np.bincount(feature, weights=w, minlength=len(index)) for w in (x, x**2))
        return Margins.of(counts, sums, squares, n)

    @staticmethod
    def _sizes(tasks: Sequence[Task]) -> np.ndarray:
        sizes = np.zeros(len(tasks[0].strata), np.int64)
        for task in tasks:
            sizes += task.strata.sizes(task.within, task.halved, task.class_a, task.class_b)
        return sizes

    def _part(
        self, task: Task, pair: tuple[str, str], found: Found, names: tuple[str, ...], rates: np.ndarray | None
    ) -> Coactivation:
        i, j = task.margins_a[found.i], task.margins_b[found.j]
        score = associations(self.measure, found.both, found.products, i, j, task.n, task.logs)
        fdr = np.full(len(found), np.nan)
        if rates is not None:
            strata = task.strata.of(task.within, task.class_a[found.i], task.class_b[found.j])
            fdr = rates[strata, bins_of(score, highest(self.measure, task.n))]
        first, second = task.a.ids[found.i], task.b.ids[found.j]
        turned = (first > second) & task.halved
        count_i, count_j = np.where(turned, j.counts, i.counts), np.where(turned, i.counts, j.counts)
        places = [np.full(len(found), names.index(name), np.int32) for name in pair]
        return Coactivation(
            names, places[0], np.where(turned, second, first), places[1], np.where(turned, first, second), found.both,
            count_i, count_j, score, fdr, self.measure, self.lag, task.n, 0, 0,
        )  # fmt: skip


def _border_of(observed: np.ndarray, border: np.ndarray, top: int) -> int:
    """The bin from which on there are at least `top` pairs not below the border; -1 where there are fewer."""
    fine = np.arange(BINS) >= border[:, None]
    above = (observed * fine).sum(axis=0)[::-1].cumsum()[::-1]
    enough = np.flatnonzero(above >= top)
    return int(enough[-1]) if enough.size else -1


def _chosen(names: tuple[str, ...], pairs: Pairs) -> list[tuple[str, str]]:
    within = [(a, a) for a in names]
    across = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    match pairs:
        case "all":
            return within + across
        case "within":
            return within
        case "across":
            chosen = across
        case "neighbours":
            return within + list(pairwise(names))
        case str():
            raise CircuitError(f"pairs is {pairs!r}; it can be all, within, across, neighbours or a list of pairs")
        case _:
            chosen = [(a, b) for a, b in pairs]
    unknown = sorted({name for pair in chosen for name in pair} - set(names))
    if unknown:
        raise CircuitError(f"pairs: there is no dictionary {unknown[0]!r}; there are {', '.join(names)}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise CircuitError("pairs: at least one pair of dictionaries is counted, and none twice")
    return chosen


def check_numbers(fdr: float | None, min_firings: int, min_together: int, top: int | None, shifts: int) -> None:
    """Raise CircuitError if a setting of `coactivation` is out of range."""
    if fdr is not None and not 0 < fdr <= 1:
        raise CircuitError(f"fdr is {fdr}; it is above 0 and at most 1, or None for every pair")
    for name, value in (("min_firings", min_firings), ("min_together", min_together), ("shifts", shifts)):
        if value < 1:
            raise CircuitError(f"{name} is {value}; it is a whole number from 1")
    if top is not None and top < 1:
        raise CircuitError(f"top is {top}; it is a whole number from 1, or None for all pairs")


def _check_frequent(
    indexes: Mapping[str, Index], firings: Mapping[str, Firings], least: int, documents: Documents
) -> None:
    if any(len(index) for index in indexes.values()):
        return
    most = max(int(np.bincount(f.features).max(initial=0)) for f in firings.values())
    raise CircuitError(
        f"no feature fires at {least} of the {int(documents.lengths.sum())} tokens, the most frequent one at {most}; "
        "give more text, or a smaller min_firings"
    )
