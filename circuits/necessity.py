"""Which nodes a circuit needs, and which it lacks: minimality and completion, all by exact ablation.

Minimality after Wang et al. 2022 (arXiv:2211.00593): a node is needed if, for some part of the circuit, taking it away
as well changes the metric. A node that a backup stands in for matters only when the backup is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saedsl.circuits.ablation import Bench
from saedsl.circuits.graph import Node
from saedsl.circuits.quality import faithfulness

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Need:
    """How much a circuit's faithfulness changes without a node."""

    node: Node
    alone: float
    """f(C) - f(C without the node)."""
    most: float
    """The largest |change| by the node over sampled parts of the circuit, and the whole."""


@dataclass(frozen=True)
class Addition:
    """A node outside the circuit, and how much nearer to 1 faithfulness comes with it."""

    node: Node
    gain: float
    """|1 - f(C)| - |1 - f(C and the node)|."""
    together: float
    """Faithfulness with this and all additions above it."""


@dataclass(frozen=True)
class Scale:
    """What the metric is without anything ablated and with everything: faithfulness of any value."""

    nothing: float
    whole: float

    def of(self, values: np.ndarray) -> np.ndarray:
        """Faithfulness of metrics [circuits, prompts], [circuits]."""
        found: np.ndarray = (values.mean(axis=1, dtype=np.float64) - self.nothing) / (self.whole - self.nothing)
        return found


def scale_of(ready: Bench) -> Scale:
    """m(0) and m(M) of a task.

    Raises:
        CircuitError: if they are the same.
    """
    nothing = float(ready.measure([[]]).mean(dtype=np.float64))
    whole = float(ready.value.mean(dtype=np.float64))
    faithfulness(whole, nothing, whole)
    return Scale(nothing, whole)


def minimality(
    ready: Bench, circuit: Sequence[Node], subsets: int = 20, seed: int = 0, progress: Progress | None = None
) -> list[Need]:
    """How much each node is needed: alone, and over sampled parts of the circuit; the least needed last.

    Args:
        ready: the task.
        circuit: its features and errors.
        subsets: parts that are drawn, each node in with probability 1/2; the same for all nodes.
        seed: of the draws.
        progress: called with (nodes done, nodes).
    """
    scale, rng = scale_of(ready), np.random.default_rng(seed)
    parts = [np.ones(len(circuit), bool), *(rng.random((subsets, len(circuit))) < 0.5)]
    bases = scale.of(ready.measure([_some(circuit, part) for part in parts]))
    found = []
    for i, node in enumerate(circuit):
        flipped = [part ^ (np.arange(len(circuit)) == i) for part in parts]
        changes = bases - scale.of(ready.measure([_some(circuit, part) for part in flipped]))
        found.append(Need(node, float(changes[0]), float(np.abs(changes).max())))
        if progress is not None:
            progress(i + 1, len(circuit))
    return sorted(found, key=lambda need: (-need.most, need.node))


def completion(
    ready: Bench, circuit: Sequence[Node], scores: Mapping[Node, float], tried: int = 64, listed: int = 10
) -> list[Addition]:
    """Nodes that restore what the circuit misses: the best of the strongest outside, errors included.

    Args:
        ready: the task.
        circuit: its features and errors.
        scores: effects of nodes, to say which are tried.
        tried: features outside the circuit that are added, the strongest; and every error, where errors are removed.
        listed: how many are returned at most, those that help.
    """
    scale, inside = scale_of(ready), set(circuit)
    ordered = sorted((n for n in scores if n not in inside), key=lambda n: (-abs(scores[n]), n))[:tried]
    if ready.task.errors == "remove":
        free = any(node.position is None for node in circuit)
        ordered += [e for e in errors_of(ready, free) if e not in inside]
    if not ordered:
        return []
    values = scale.of(ready.measure([list(circuit), *([*circuit, node] for node in ordered)]))
    gains = abs(1 - values[0]) - np.abs(1 - values[1:])
    best = [i for i in np.argsort(-gains, kind="stable")[:listed] if gains[i] > 0]
    chosen = [ordered[i] for i in best]
    together: Sequence[float] | np.ndarray = (
        scale.of(ready.measure([[*circuit, *chosen[: k + 1]] for k in range(len(chosen))])) if chosen else []
    )
    return [Addition(ordered[i], float(gains[i]), float(f)) for i, f in zip(best, together, strict=True)]


def errors_of(ready: Bench, free: bool = False) -> list[Node]:
    """Every error node of a task; `free`: one for all positions."""
    found = []
    for place in ready.places:
        places: Iterable[int | None] = (
            [None] if free else [int(t) for t in np.flatnonzero(ready.allowed[place.name].any(axis=0))]
        )
        found += [Node.of("error", place.name, None, t) for t in places]
    return found


def random_circuits(ready: Bench, circuit: Sequence[Node], n: int, seed: int = 0) -> list[list[Node]]:
    """Circuits of as many features at every site, drawn from those that fire in the prompts."""
    rng = np.random.default_rng(seed)
    free = any(node.position is None for node in circuit)
    firing: dict[str, list[Node]] = {}
    for node in ready.universe:
        firing.setdefault(node.site, []).append(Node.of(node.kind, node.site, node.index) if free else node)
    firing = {site: sorted(set(several)) for site, several in firing.items()}
    wanted: dict[str, int] = {}
    for node in circuit:
        if node.kind != "error":
            wanted[node.site] = wanted.get(node.site, 0) + 1
    return [
        [
            firing[site][int(i)]
            for site, k in sorted(wanted.items())
            for i in rng.choice(len(firing.get(site, ())), min(k, len(firing.get(site, ()))), replace=False)
        ]
        for _ in range(n)
    ]


def _some(circuit: Sequence[Node], part: np.ndarray) -> list[Node]:
    return [node for node, inside in zip(circuit, part, strict=True) if inside]
