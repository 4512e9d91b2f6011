"""The exact effect of ablating one feature on another one downstream: a forward for each source, many to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from saedsl.circuits.splice import Place
from saedsl.circuits.waiting import Advance, quiet
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from saedsl.sites import Site
from saedsl.trace import Hooks
from saedsl.training.harvest import Batch, batches

FeaturePair = tuple[int, int, int, int]
"""(place of u, feature u, place of v, feature v); places by their number."""


@dataclass(frozen=True, eq=False)
class Ablations:
    """What ablating u, at every token but BOS, does to v; over the tokens `lag` behind those where u fires.

    Arrays are [pairs].
    """

    effect: np.ndarray
    """float64: by how much v falls, mean over these tokens, in its own units."""
    share: np.ndarray
    """float64, -1 to 1: sum(v - v') / sum(max(v, v')): 1 if all of v goes, 0 if it stays, negative if it grows."""
    tokens: np.ndarray
    """int64: how many of these tokens there are; where there are none, effect and share are 0."""


def causal(u: Place, v: Place) -> bool:
    """Whether a feature of `u` can act on one of `v`: it writes before the other reads."""
    return u.write < v.read


def ablation_effects(
    model: InterpretableModel,
    places: Sequence[Place],
    pairs: Sequence[FeaturePair],
    prompts: Sequence[str],
    *,
    lag: int = 0,
    context: int = 128,
    batch: int = 32,
    advance: Advance = quiet,
) -> Ablations:
    """Ablate each source and read its targets.

    Args:
        model: the model, as it is.
        places: the dictionaries.
        pairs: of features; those of one u share its forwards.
        prompts: texts; in rows of at most `context` tokens.
        lag: v is read that many tokens behind u.
        context: tokens of a row, BOS included.
        batch: rows of a forward.
        advance: told how many rows are done.

    Raises:
        CircuitError: if a pair's u does not act before v is read, the prompts have no tokens, or the model gives NaN.
    """
    for u, _, v, _ in pairs:
        if not causal(places[u], places[v]):
            raise CircuitError(
                f"{places[u].name} does not act on {places[v].name}: it writes at {places[u].write}, the other is "
                f"read at {places[v].read}, which is not behind it"
            )
    sums = np.zeros((3, len(pairs)))
    by_source: dict[tuple[int, int], list[int]] = {}
    for number, (u, f, _, _) in enumerate(pairs):
        by_source.setdefault((u, f), []).append(number)
    todo = list(batches(model, prompts, context, batch))
    if not todo:
        raise CircuitError("these prompts have no tokens but BOS: there is nothing to ablate")
    for done, rows in enumerate(todo):
        advance("ablating", done, len(todo))
        _Rows(model, places, pairs, by_source, rows, lag).add_to(sums, batch)
    advance("ablating", len(todo), len(todo))
    fallen, mass, tokens = sums
    return Ablations(
        np.divide(fallen, tokens, where=tokens > 0, out=np.zeros(len(pairs))),
        np.divide(fallen, mass, where=mass > 0, out=np.zeros(len(pairs))),
        tokens.astype(np.int64),
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Some rows of prompts, and what is asked of them."""

    model: InterpretableModel
    places: Sequence[Place]
    pairs: Sequence[FeaturePair]
    by_source: dict[tuple[int, int], list[int]]
    rows: Batch
    lag: int

    def add_to(self, sums: np.ndarray, size: int) -> None:
        """Add fallen activation, mass and tokens of each pair, [3, pairs]."""
        wanted: dict[int, set[int]] = {}
        for u, f, v, g in self.pairs:
            wanted.setdefault(u, set()).add(f)
            wanted.setdefault(v, set()).add(g)
        ids = {p: sorted(features) for p, features in wanted.items()}
        reads = {self.places[p].read for p in ids}
        x = self.model.activations(self.rows.tokens, reads)
        clean = {p: self._features(p, some, x) for p, some in ids.items()}
        jobs: dict[int, list[tuple[int, int]]] = {}
        for u, f in self.by_source:
            fires = (clean[u][..., ids[u].index(f)] > 0) & self.rows.content
            jobs.setdefault(u, []).extend((f, int(row)) for row in np.flatnonzero(fires.any(axis=1)))
        for u, todo in jobs.items():
            for at in range(0, len(todo), size):
                self._forward(u, todo[at : at + size], ids, clean, sums)

    def _features(self, place: int, ids: Sequence[int], x: dict[Site, mx.array]) -> np.ndarray:
        p = self.places[place]
        f = np.array(p.sae.encode_features(x[p.read], ids))
        if not np.isfinite(f).all():
            raise CircuitError(f"{p.name}: features are NaN or infinite; run the model in float32, look at the weights")
        return f

    def _forward(
        self, u: int, todo: list[tuple[int, int]], ids: dict[int, list[int]], clean: dict[int, np.ndarray],
        sums: np.ndarray,
    ) -> None:  # fmt: skip
        """One forward of rows that each ablate one feature of `u`; todo: (feature, row)."""
        rows = np.array([row for _, row in todo])
        content = self.rows.content[rows]
        targets = {self.pairs[n][2] for f, _ in todo for n in self.by_source[u, f]}
        functions = ablating(self.places[u], [f for f, _ in todo], mx.array(content))
        tokens = self.rows.tokens[mx.array(rows)]
        at_sites = {site: (lambda x, frame, fn=fn: fn(x)) for site, fn in functions.items()}
        reads = {self.places[v].read for v in targets}
        x = Hooks(self.model.model, self.model.info, at_sites, reads)(tokens)[1].captured
        after = {v: self._features(v, ids[v], x) for v in targets}
        for k, (f, row) in enumerate(todo):
            fires = (clean[u][row, :, ids[u].index(f)] > 0) & content[k]
            at = np.flatnonzero(fires) + self.lag
            at = at[at < len(fires)]
            at = at[content[k][at]]
            for n in self.by_source[u, f]:
                v, g = self.pairs[n][2:]
                column = ids[v].index(g)
                before = clean[v][row, at, column].astype(np.float64)
                now = after[v][k, at, column].astype(np.float64)
                sums[:, n] += (before - now).sum(), np.maximum(before, now).sum(), len(at)


def ablating(place: Place, features: Sequence[int], content: mx.array) -> dict[Site, Callable[[mx.array], mx.array]]:
    """Functions for a forward whose row k has feature `features[k]` of a dictionary at 0; the error stays.

    Args:
        place: the dictionary.
        features: one for each row.
        content: [rows, seq] bool, where it is ablated.
    """
    distinct = sorted(set(features))
    encode = place.sae.encoder(distinct)
    column = mx.array([[[distinct.index(f)]] for f in features])
    directions = place.sae.W_dec[mx.array(list(features))][:, None, :]
    seen: list[mx.array] = []

    def look(x: mx.array) -> mx.array:
        seen[:] = [x]
        return x

    def ablate(y: mx.array) -> mx.array:
        x = seen[0] if seen else y
        f = encode(x)
        own = mx.take_along_axis(f, mx.broadcast_to(column, (*f.shape[:2], 1)), axis=-1)
        delta = mx.where(content[..., None], -own * place.sae.scale(x) * directions, 0)
        return (y.astype(mx.float32) + delta).astype(y.dtype)

    return {place.write: ablate} if place.read == place.write else {place.read: look, place.write: ablate}
