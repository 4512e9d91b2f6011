"""Values of other runs: what patches, means and resamples take, from the plain model on other texts.

Computed once for a plan, before anything is edited: texts are padded on the right and run together; of a text whose
values are taken one by one, activations are kept; of a reference whose mean is taken, sums in float64 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from saedsl.errors import RunError
from saedsl.making import Key, Maker, columns_of, key_of
from saedsl.parts import Quantity, measure
from saedsl.plan import Plan, PlannedPrompt
from saedsl.program import Intervention
from saedsl.sites import Site
from saedsl.tokens import Tokens

Ids = tuple[int, ...]
Plain = Callable[[Sequence[Ids], "frozenset[Site]"], Iterator[tuple[int, Mapping[Site, mx.array]]]]
"""(texts, sites) -> (index of a text, its activations [1, length, width] in the plain model), in any order."""


@dataclass(frozen=True)
class Taken:
    """A quantity of another run, position by position."""

    values: np.ndarray
    """[positions there, n, ...] float32."""
    pairs: Mapping[int, int] | None = None
    """Position here -> position there; None: the same."""

    def at(self, position: int, e: Intervention) -> np.ndarray:
        """The value for one position of the row that is edited.

        Raises:
            RunError: if the other run is too short.
        """
        there = position if self.pairs is None else self.pairs.get(position, -1)
        if not 0 <= there < len(self.values):
            raise RunError(
                f"`{e.text()}`: position {position} has no value in the run it is taken from, "
                f"of {len(self.values)} tokens"
            )
        value: np.ndarray = self.values[there]
        return value


@dataclass
class Sources:
    """What a plan's edits take from other runs."""

    plan: Plan
    make: Callable[[Key], Maker]
    _texts: dict[Ids, dict[Site, mx.array]] = field(default_factory=dict)
    _means: dict[tuple[str, Key], tuple[dict[int, int], np.ndarray]] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, make: Callable[[Key], Maker], plain: Plain) -> Sources | None:
        """Run the model on every text that a plan takes values from; None if it takes none."""
        edits = {e: None for s in plan.steps for e in s.step.edits if e.to is not None or e.op == "patch"}
        if not edits:
            return None
        sources = cls(plan, make)
        sources._run_texts(plain)
        sources._run_means([e for e in edits if e.to is not None and e.to.kind == "mean"], plain)
        return sources

    # Runs -----------------------------------------------------------------------------------------------------------

    def _run_texts(self, plain: Plain) -> None:
        wanted: dict[Ids, set[Site]] = {}
        for s in self.plan.steps:
            for p in s.prompts:
                for i, e in enumerate(s.step.edits):
                    for tokens in self._read_by(e, i, p):
                        wanted.setdefault(tokens.ids, set()).update(self._sites(e))
        by_sites: dict[frozenset[Site], list[Ids]] = {}
        for ids, sites in wanted.items():
            by_sites.setdefault(frozenset(sites), []).append(ids)
        for at, texts in by_sites.items():
            for i, found in plain(texts, at):
                self._texts[texts[i]] = dict(found)

    def _read_by(self, e: Intervention, index: int, p: PlannedPrompt) -> Iterable[Tokens]:
        """Texts whose values one edit takes for one prompt, position by position."""
        if e.op == "patch":
            places = p.patches[index] if p.patches else None
            return () if places is None else (places.tokens,)
        if e.to is None or e.to.kind == "mean":
            return ()
        texts = self.plan.references[e.to.reference]
        return texts if e.to.kind == "mean by position" else (texts[p.resamples[e.to.reference]],)

    def _run_means(self, edits: Sequence[Intervention], plain: Plain) -> None:
        info, dictionaries = self.plan.program.model, self.plan.program.dictionaries
        columns: dict[str, dict[Key, set[int]]] = {}
        for e in edits:
            assert e.to is not None
            found = columns.setdefault(e.to.reference, {}).setdefault(key_of(e), set())
            found.update(columns_of(e, info, dictionaries))
        for reference, wanted in columns.items():
            texts = self.plan.references[reference]
            quantities = {key: self.make(key)(sorted(c)) for key, c in wanted.items()}
            sums: dict[Key, np.ndarray] = {}
            counts = dict.fromkeys(quantities, 0)
            sites = {s for q in quantities.values() for s in (q.site, q.source) if s is not None}
            for i, at in plain([t.ids for t in texts], frozenset(sites)):
                for key, q in quantities.items():
                    kept = self._counted(texts[i], key)
                    if kept:
                        values = np.array(measure(q, at)[0]).astype(np.float64)[kept]
                        sums[key] = sums.get(key, 0) + values.sum(axis=0)
                        counts[key] += len(kept)
            for key, c in wanted.items():
                if not counts[key]:
                    raise RunError(f"{reference}: no token is left to take the mean of")
                self._means[reference, key] = ({x: i for i, x in enumerate(sorted(c))}, sums[key] / counts[key])

    def _counted(self, tokens: Tokens, key: Key) -> list[int]:
        """Positions that a mean counts: all but BOS, and the template's where it is of a dictionary that skips them."""
        skipped = set(tokens.bos)
        kind, _, name, _ = key
        if kind in ("features", "error") and not self.plan.program.dictionaries[name].info.config.trained_on_bos:
            skipped.update(tokens.template)
        return [i for i in range(len(tokens)) if i not in skipped]

    def _sites(self, e: Intervention) -> set[Site]:
        q = self.make(key_of(e))((0,))
        return {q.site} if q.source is None else {q.site, q.source}

    # Values ---------------------------------------------------------------------------------------------------------

    def mean(self, e: Intervention, columns: Sequence[int], selected: bool) -> np.ndarray:
        """The mean that takes the place of what `e` changes, [n] float64."""
        assert e.to is not None
        places, mean = self._means[e.to.reference, key_of(e)]
        return mean[[places[c] for c in columns]] if selected else mean

    def taken(self, e: Intervention, index: int, p: PlannedPrompt, q: Quantity) -> Taken:
        """What `e`, the step's `index`-th edit, takes for a prompt, as the quantity `q`."""
        texts = [np.array(measure(q, self._texts[t.ids])[0]) for t in self._read_by(e, index, p)]
        if e.op == "patch":
            places = p.patches[index]
            assert places is not None
            return Taken(texts[0], dict(places.pairs))
        if len(texts) == 1:
            return Taken(texts[0])
        return Taken(np.mean(np.array(texts, np.float64), axis=0).astype(np.float32))
