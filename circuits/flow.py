"""Feature -> feature information flow: the nodes that matter for a metric, and what each does to the next directly.

Edges have the metric's unit: how far it moves when the source is patched, by way of this target. Attention carries them
over positions, its weights held as in the clean run (or live: then a node's edges add up to its first-order effect).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import numpy as np

from saedsl.circuits.effects import Method, NodeEffects, SiteEffects, chosen, node_at, node_effects
from saedsl.circuits.feature_edges import (
    Sources,
    Targets,
    edge_weights,
    error_targets,
    feature_targets,
    reaching,
)
from saedsl.circuits.frozen import Frozen, direct_gradients, freeze
from saedsl.circuits.graph import CircuitGraph, Node
from saedsl.circuits.metric import Metric
from saedsl.circuits.pairs import Prompts
from saedsl.circuits.prepared import finite
from saedsl.circuits.splice import SAEs, host
from saedsl.errors import CircuitError
from saedsl.sites import Site

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel

Attention = Literal["frozen", "live"]


def flow_graph(
    model: InterpretableModel,
    saes: SAEs,
    clean: Prompts,
    corrupt: Prompts | None = None,
    *,
    metric: Metric | str | Callable[[mx.array], mx.array],
    method: Method = "qk",
    steps: int = 10,
    n: int | None = 200,
    threshold: float = 0.0,
    edge_threshold: float = 0.0,
    attention: Attention = "frozen",
    positions: Literal["keep", "sum"] = "keep",
    batch_rows: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> CircuitGraph:
    """Nodes with their effects, and flow edges between them and to the metric.

    Args:
        model: the model.
        saes: as in `node_effects`, as are `clean`, `corrupt`, `metric`, `method`, `steps` and `batch_rows`.
        clean: prompts.
        corrupt: prompts, or None to patch 0 in.
        metric: what is explained.
        method: how nodes' effects are found.
        steps: of `ig`.
        n: nodes at most, the strongest; None for all.
        threshold: the least |effect| of a node.
        edge_threshold: the least |weight| of an edge; edges of weight 0 are never in.
        attention: whether weights of attention are held at the clean run's.
        positions: `sum` makes one node of a feature at all positions.
        batch_rows: targets of one backward pass at most; bounds memory.
        progress: called with (targets done, targets).

    Raises:
        CircuitError: as `node_effects`, and if no node is that strong or a number is impossible.
    """
    effects = node_effects(
        model, saes, clean, corrupt, metric=metric, method=method, steps=steps, batch_rows=batch_rows
    )
    return flow_of(effects, n, threshold, edge_threshold, attention, positions, batch_rows, progress)


def flow_of(
    effects: NodeEffects,
    n: int | None = 200,
    threshold: float = 0.0,
    edge_threshold: float = 0.0,
    attention: Attention = "frozen",
    positions: Literal["keep", "sum"] = "keep",
    batch_rows: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> CircuitGraph:
    """`flow_graph` of effects that are known."""
    if attention not in ("frozen", "live"):
        raise CircuitError(f"attention is {attention!r}; it can be frozen or live")
    if positions not in ("keep", "sum"):
        raise CircuitError(f"positions is {positions!r}; it can be keep or sum")
    if not 0 <= edge_threshold < float("inf"):
        raise CircuitError(f"edge_threshold is {edge_threshold!r}, not a number from 0")
    setup = effects.setup
    kept = chosen(effects.scores(positions), n, threshold)
    goal = Node.of("logit", "logits", None, setup.pairs.length - 1 if positions == "keep" else None)
    parts = [_part(s, kept, positions) for s in effects.sites]
    frozen = freeze(setup, patterns=attention == "frozen", norms=False)
    targets = [t for part in parts for t in _targets(effects, part)]
    total, done = sum(len(t.prompt) for t, _ in targets) + len(setup.rows), 0
    weights: dict[tuple[Node, Node], float] = {}
    for target, names in targets:
        cut = reaching([p.write for p in setup.places], target.read_at if target.write is None else target.write_at)
        given = [part for part in parts if part.sources.site in cut]
        base, done = done, done + len(target.prompt)
        if not given:
            continue

        def report(i: int, _: int, base: int = base) -> None:
            if progress is not None:
                progress(base + i, total)

        found = edge_weights(setup, frozen, target, [part.sources for part in given], cut, batch_rows, report)
        for part, block in zip(given, found, strict=True):
            finite(block, f"an edge from {part.sources.site} to {target.write_at}")
            _add(weights, part.names, names, block)
    for part, block in _to_metric(effects, frozen, parts):
        finite(block, f"an edge from {part.sources.site} to the metric")
        _add(weights, part.names, [goal], block)
    if progress is not None:
        progress(total, total)
    graph = CircuitGraph(meta=effects.meta(positions))
    for node, (effect, activation) in kept.items():
        graph.add_typed_node(node, score=effect, activation=activation)
    graph.add_typed_node(goal, score=float(setup.value.mean()), label=setup.metric.text)
    for (source, to), weight in weights.items():
        weight /= len(setup.rows)
        if weight != 0 and abs(weight) >= edge_threshold:
            graph.add_typed_edge(source, to, weight, "flow")
    return graph


@dataclass(frozen=True, eq=False)
class _Part:
    """The kept nodes of one site."""

    of: SiteEffects
    index: np.ndarray
    """Which of the site's nodes."""
    names: list[Node]
    sources: Sources


def _part(s: SiteEffects, kept: Mapping[Node, object], positions: str) -> _Part:
    names = [
        node_at(s.place, int(j), int(t) if positions == "keep" else None)
        for j, t in zip(s.feature, s.position, strict=True)
    ]
    index = np.array([i for i, node in enumerate(names) if node in kept], int)
    sources = Sources(s.place.write, s.prompt[index], s.position[index], s.delta[index])
    return _Part(s, index, [names[i] for i in index], sources)


def _targets(effects: NodeEffects, part: _Part) -> list[tuple[Targets, list[Node]]]:
    """The kept nodes of a site as targets: features that fire in the clean prompt, and errors."""
    s, place, setup = part.of, part.of.place, effects.setup
    gradient, x = effects.gradient[place.write], setup.at[place.read]
    fires = [i for i, k in enumerate(part.index) if s.feature[k] >= 0 and s.clean[k] != 0]
    errors = [i for i, k in enumerate(part.index) if s.feature[k] < 0]
    found = []
    if fires:
        b, t, j = (a[part.index[fires]] for a in (s.prompt, s.position, s.feature))
        g = np.einsum("nd,nd->n", gradient[b, t], host(place.sae.W_dec)[j]) * setup.clean[place.write].scale[b, t, 0]
        found.append((feature_targets(place, x, b, t, j, g), [part.names[i] for i in fires]))
    if errors:
        b, t = (a[part.index[errors]] for a in (s.prompt, s.position))
        found.append((error_targets(place, x, b, t, gradient[b, t]), [part.names[i] for i in errors]))
    return found


def _to_metric(effects: NodeEffects, frozen: Frozen, parts: Sequence[_Part]) -> Iterator[tuple[_Part, np.ndarray]]:
    """Edges [1, k] from each site with a direct path to the metric."""
    setup = effects.setup
    cut = reaching([p.write for p in setup.places], Site(None, "logits"))
    grads = []
    for prompt in setup.rows:

        def value(logits: mx.array, seen: Mapping[Site, mx.array], prompt: int = prompt) -> mx.array:
            return setup.metric(logits, [prompt], setup.logits).sum()

        grads.append(direct_gradients(setup, frozen, prompt, setup.pairs.length, 1, cut, (), value))
    for part in parts:
        site, s = part.sources.site, part.sources
        if site in cut:
            at = np.stack([g[site][0] for g in grads])
            yield part, np.einsum("kd,kd->k", at[s.prompt, s.position], s.delta)[None]


def _add(
    weights: dict[tuple[Node, Node], float], sources: Sequence[Node], targets: Sequence[Node], block: np.ndarray
) -> None:
    """Add weights [targets, sources] up, by ends."""
    for i, k in zip(*np.nonzero(block), strict=True):
        key = sources[k], targets[i]
        weights[key] = weights.get(key, 0.0) + float(block[i, k])
