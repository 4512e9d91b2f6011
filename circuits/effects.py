"""Effects of nodes on a metric: how far it moves when a feature, or an error, is patched.

Fast methods are first-order: (a_patch - a_clean) . dm/da. They differ in where the gradient is taken: at the clean run
(`atp`: Nanda 2023), along the path (`ig`), with parts of the model held (`relp`), with a layer dropped (`graddrop`),
with attention weights computed anew (`qk`), the last two together (`atp*`). `exact` patches every node: the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import mlx.core as mx
import numpy as np

from saedsl.circuits.gradients import Gradient, dropped_gradients, held_gradients, path_gradients
from saedsl.circuits.graph import CircuitGraph, Meta, Node
from saedsl.circuits.metric import LanguageMetric, Metric, metric_of
from saedsl.circuits.pairs import Prompts, pairs_of
from saedsl.circuits.patching import sweep
from saedsl.circuits.patterns import pattern_corrections
from saedsl.circuits.prepared import Setup, check_slope, finite, prepare
from saedsl.circuits.splice import Place, SAEs, firing, host, placed
from saedsl.errors import CircuitError
from saedsl.sites import Site

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel

Method = Literal["atp", "ig", "relp", "qk", "graddrop", "atp*", "exact"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, eq=False)
class SiteEffects:
    """The nodes of one dictionary. Only features that fire in the clean or in the corrupt prompt are nodes."""

    place: Place
    prompt: np.ndarray
    """[n] number of the clean prompt."""
    position: np.ndarray
    """[n] token."""
    feature: np.ndarray
    """[n]; -1 for the error at that position."""
    clean: np.ndarray
    """[n] activation; of an error, its norm."""
    patch: np.ndarray
    """[n] what it is patched to."""
    effect: np.ndarray
    """[n] metric when patched, less the metric as it is: what the node adds has the other sign."""
    delta: np.ndarray
    """[n, d_out] by which patching moves the site."""

    @property
    def site(self) -> str:
        """The text of the site."""
        return self.place.name


@dataclass(frozen=True, eq=False)
class NodeEffects:
    """Effects of all nodes of the dictionaries on one metric."""

    setup: Setup
    sites: tuple[SiteEffects, ...]
    """In the order of a forward."""
    method: Method
    steps: int
    """Of `ig`."""
    gradient: Gradient
    """The gradient at each site that flow goes on with: that of the method, else that of the clean run."""

    @property
    def value(self) -> np.ndarray:
        """[prompts] metric of the clean prompts."""
        return self.setup.value

    @property
    def patch_value(self) -> np.ndarray | None:
        """[prompts] metric of the corrupt prompts."""
        return self.setup.patch_value

    @property
    def effect(self) -> np.ndarray:
        """[n] of all nodes, site after site."""
        return np.concatenate([s.effect for s in self.sites])

    @property
    def n(self) -> int:
        """Number of nodes, of all prompts together."""
        return sum(len(s.effect) for s in self.sites)

    def sums(self) -> dict[str, float]:
        """Site -> sum of its effects, mean over the prompts: with `ig`, the change when all of the site is patched."""
        return {s.site: float(s.effect.sum(dtype=np.float64)) / len(self.setup.rows) for s in self.sites}

    def scores(self, positions: Literal["keep", "sum"] = "keep") -> dict[Node, tuple[float, float]]:
        """Node -> (effect, activation), both means over the prompts; `sum` adds a node's positions up."""
        found: dict[Node, tuple[float, float]] = {}
        share = 1 / len(self.setup.rows)
        for s in self.sites:
            for position, feature, effect, clean in zip(s.position, s.feature, s.effect, s.clean, strict=True):
                node = node_at(s.place, int(feature), int(position) if positions == "keep" else None)
                old = found.get(node, (0.0, 0.0))
                found[node] = (old[0] + share * float(effect), old[1] + share * float(clean))
        return found

    def graph(
        self, n: int | None = None, threshold: float = 0.0, positions: Literal["keep", "sum"] = "keep"
    ) -> CircuitGraph:
        """The strongest nodes, without edges.

        Args:
            n: how many at most; None for all.
            threshold: the least |effect|; nodes of effect 0 are never in.
            positions: `sum` makes one node of a feature at all positions.

        Raises:
            CircuitError: if `n` or `threshold` is impossible, or no node is as strong.
        """
        graph = CircuitGraph(meta=self.meta(positions))
        for node, (effect, activation) in chosen(self.scores(positions), n, threshold).items():
            graph.add_typed_node(node, score=effect, activation=activation)
        return graph

    def meta(self, positions: Literal["keep", "sum"] = "keep") -> Meta:
        """What it was measured on."""
        pairs, info = self.setup.pairs, self.setup.model.info
        one = len(pairs.clean) == 1
        notes = {"corrupt": [t.text for t in pairs.corrupt]} if pairs.corrupt else {}
        return Meta(
            model=info.name,
            prompts=tuple(t.text for t in pairs.clean),
            tokens=pairs.clean[0].pieces if one and positions == "keep" else None,
            metric=self.setup.metric.text,
            ablation="zero" if pairs.corrupt is None else "resample",
            errors="keep",
            method=f"{self.method}, {self.steps} steps" if self.method == "ig" else self.method,
            n_layers=info.n_layers,
            notes=notes,
        )


def node_effects(
    model: InterpretableModel,
    saes: SAEs,
    clean: Prompts,
    corrupt: Prompts | None = None,
    *,
    metric: Metric | str | Callable[[mx.array], mx.array],
    method: Method = "atp",
    steps: int = 10,
    batch_rows: int = 64,
    results: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NodeEffects:
    """Effects of every feature that fires, and of every error, at every position.

    A dictionary has no nodes on BOS, unless it was trained on it; BOS is left as it is there.

    Args:
        model: the model.
        saes: SAEs and transcoders, by the site they write or as they say themselves.
        clean: a text, several of equally many tokens, or token ids [seq] or [batch, seq].
        corrupt: prompts of the same lengths whose activations are patched in; None patches 0 in.
        metric: a text of the language, `logit_difference(...)`, or a function of logits [rows, seq, d_vocab].
        method: see the module.
        steps: `ig`: points along the path.
        batch_rows: rows of a forward at most, where a method has many; bounds memory.
        results: `exact`: a file that keeps what has been measured; a sweep that was stopped goes on from it.
        progress: `exact`: called with (nodes done, nodes), of those that patching moves.

    Raises:
        CircuitError: if prompts, dictionaries and metric do not fit together, the metric is constant, or something is
            not finite.
    """
    if method not in METHODS:
        raise CircuitError(f"method is {method!r}; it can be {', '.join(METHODS)}")
    for name, number in (("steps", steps), ("batch_rows", batch_rows)):
        if type(number) is not int or number < 1:
            raise CircuitError(f"{name} is {number!r}, not a whole number from 1")
    if results is not None and method != "exact":
        raise CircuitError(f'results keeps what method="exact" has measured; {method} is fast enough to start again')
    pairs = pairs_of(model, clean, corrupt)
    setup = prepare(model, pairs, placed(model.info, saes), metric_of(model, metric, pairs))
    return effects_of(setup, method, steps, batch_rows, results, progress)


def effects_of(
    setup: Setup,
    method: Method = "atp",
    steps: int = 10,
    batch_rows: int = 64,
    results: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NodeEffects:
    """`node_effects` of a task that has been prepared."""
    gradient = setup.gradient
    match method:
        case "ig":
            gradient = path_gradients(setup, steps, batch_rows)
        case "relp":
            gradient = held_gradients(setup)
    if method not in ("ig", "exact") and isinstance(setup.metric, LanguageMetric) and setup.metric.divergence:
        raise CircuitError(
            f"the metric {setup.metric.text} is smallest at the clean run: a divergence from the clean run has no "
            'slope there; use method="ig" or "exact"'
        )
    if method != "exact":
        check_slope(setup, gradient)
    found = [_nodes(setup, place) for place in setup.places]
    if method in ("graddrop", "atp*"):
        dropped = dropped_gradients(setup)
        effects = [[_first_order(s, g[s.place.write]) for g in dropped] for s in found]
    else:
        effects = [[_first_order(s, gradient[s.place.write])] for s in found]
    if method in ("qk", "atp*"):
        fixes = [pattern_corrections(setup, *_where(s), batch_rows) for s in found]
        effects = [[e + fix for e in several] for several, fix in zip(effects, fixes, strict=True)]
    if method == "exact":
        effects = [[e] for e in _patched(setup, found, batch_rows, results, progress)]
    if not any(e.any() for several in effects for e in several):
        raise CircuitError(f"the metric {setup.metric.text} is constant: no node has any effect on it")
    done = []
    for s, several in zip(found, effects, strict=True):
        stacked = np.stack(several)
        mean = stacked[0] if len(stacked) == 1 else np.sign(stacked.mean(axis=0)) * _mean_size(stacked)
        finite(mean, f"an effect at {s.site}")
        done.append(SiteEffects(s.place, s.prompt, s.position, s.feature, s.clean, s.patch, mean, s.delta))
    return NodeEffects(setup, tuple(done), method, steps, gradient)


def node_at(place: Place, feature: int, position: int | None) -> Node:
    """The graph's node for a feature, or for the error (-1)."""
    if feature < 0:
        return Node.of("error", place.name, None, position)
    return Node.of(place.kind, place.name, feature, position)  # type: ignore[arg-type]


def chosen(scores: dict[Node, tuple[float, float]], n: int | None, threshold: float) -> dict[Node, tuple[float, float]]:
    """The nodes with the largest |effect|, the strongest first, ties in the order of the forward."""
    if n is not None and (type(n) is not int or n < 1):
        raise CircuitError(f"n is {n!r}, not a whole number from 1")
    if not 0 <= threshold < float("inf"):
        raise CircuitError(f"threshold is {threshold!r}, not a number from 0")
    strong = [(node, s) for node, s in scores.items() if abs(s[0]) >= threshold and s[0] != 0]
    if not strong:
        most = max((abs(e) for e, _ in scores.values()), default=0.0)
        raise CircuitError(f"no node has an effect of at least {threshold:g}; the strongest has {most:g}")
    return dict(sorted(strong, key=lambda item: (-abs(item[1][0]), item[0]))[:n])


def _nodes(setup: Setup, place: Place) -> SiteEffects:
    """Every node of a place, its effect still 0."""
    site = place.write
    clean, patch = setup.clean[site], setup.patch[site]
    at, j = firing(clean.f if patch is None else (clean.f != 0) | (patch.f != 0))
    b, t = at // clean.f.shape[1], at % clean.f.shape[1]
    a, a_patch = clean.f[b, t, j], np.zeros(len(j), np.float32) if patch is None else patch.f[b, t, j]
    features = ((a_patch - a) * clean.scale[b, t, 0])[:, None] * host(place.sae.W_dec)[j]
    moved = (np.zeros_like(clean.error) if patch is None else patch.error) - clean.error
    eb, et = np.nonzero(moved.any(axis=-1))
    patch_error = 0 * clean.error if patch is None else patch.error
    return SiteEffects(
        place,
        np.concatenate([b, eb]),
        np.concatenate([t, et]),
        np.concatenate([j, np.full(len(eb), -1)]),
        np.concatenate([a, np.linalg.norm(clean.error[eb, et], axis=-1)]),
        np.concatenate([a_patch, np.linalg.norm(patch_error[eb, et], axis=-1)]),
        np.zeros(len(b) + len(eb)),
        np.concatenate([features, moved[eb, et]]),
    )


def _patched(
    setup: Setup,
    found: Sequence[SiteEffects],
    batch_rows: int,
    results: str | Path | None,
    progress: Callable[[int, int], None] | None,
) -> list[np.ndarray]:
    """Exact effects; nodes that patching does not move have none, and are not run."""
    moving = [np.flatnonzero(s.delta.any(axis=1)) for s in found]
    nodes = [(s.place.write, s.prompt[k], s.position[k], s.delta[k]) for s, k in zip(found, moving, strict=True)]
    features = [s.feature[k] for s, k in zip(found, moving, strict=True)]
    effects = [np.zeros(len(s.effect)) for s in found]
    for e, k, values in zip(effects, moving, sweep(setup, nodes, features, batch_rows, results, progress), strict=True):
        e[k] = values
    return effects


def _first_order(s: SiteEffects, gradient: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.einsum("nd,nd->n", s.delta, gradient[s.prompt, s.position])
    return found.astype(np.float64)


def _mean_size(effects: np.ndarray) -> np.ndarray:
    """Mean |effect| over the dropped layers, as if one more of n had not been dropped: sum / (n - 1), n > 1."""
    n = len(effects)
    size: np.ndarray = np.abs(effects).sum(axis=0) / max(n - 1, 1)
    return size


def _where(s: SiteEffects) -> tuple[Site, np.ndarray, np.ndarray, np.ndarray]:
    return s.place.write, s.prompt, s.position, s.delta
