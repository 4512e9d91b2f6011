"""What is true of a known model's edges, for one ablation, one set of prompts and one metric.

* wired: on a path of slots written and read that ends at the logits, unless the ablation keeps all that it carries.
* single: ablating the edge alone changes the metric by more than 1 % of the whole effect.
* pivotal: there is a set of other wired edges on top of whose ablation this edge changes the metric by more than 1 %.
  Every set is tried. An edge of a backup, of an OR or of a majority is pivotal without being single.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import mlx.core as mx
import numpy as np

from saedsl.circuits.edge_task import Ablation, EdgeTask, edge_task, logit_difference
from saedsl.circuits.known.build import KnownModel
from saedsl.errors import CircuitError

SHARE: Final = 0.01
"""Of the whole effect: what counts as a change."""
Edge = tuple[int, int]
"""(reader, source)."""


@dataclass(frozen=True, eq=False)
class KnownPrompts:
    """Pairs of prompts with different answers."""

    known: KnownModel
    clean: np.ndarray
    """[n, seq]"""
    corrupt: np.ndarray
    right: np.ndarray
    """[n], answers of the clean prompts."""
    wrong: np.ndarray
    """Answers of the corrupt ones."""

    def task(self, ablation: Ablation) -> EdgeTask:
        """Edges scored by `logit(right) - logit(wrong)` at the last position; `zero` keeps the constant coordinate."""
        return edge_task(
            self.known.model,
            mx.array(self.clean),
            logit_difference(self.right.tolist(), self.wrong.tolist()),
            corrupt=mx.array(self.corrupt),
            ablation=ablation,
            kept=self.known.constant_direction,
        )


@dataclass(frozen=True, eq=False)
class Truth:
    """Three labels for every edge."""

    edges: tuple[Edge, ...]
    wired: np.ndarray
    """[edges] bool"""
    single: np.ndarray
    pivotal: np.ndarray
    effects: np.ndarray
    """[edges], share of the whole effect that ablating the edge alone takes: exact patching."""

    @cached_property
    def hidden(self) -> np.ndarray:
        """[edges] bool: pivotal but not single, what exact patching of single edges misses."""
        found: np.ndarray = self.pivotal & ~self.single
        return found


def prompts(known: KnownModel, n: int = 16, seed: int = 0) -> KnownPrompts:
    """`n` random pairs of prompts.

    Raises:
        CircuitError: if `n` is less than 1.
    """
    if n < 1:
        raise CircuitError(f"{n} prompts: at least one is needed")
    rng = np.random.default_rng(seed)
    clean, right = known.sample(rng, n)
    corrupt, wrong = known.sample(rng, n)
    while (same := right == wrong).any():
        corrupt[same], wrong[same] = known.sample(rng, int(same.sum()))
    return KnownPrompts(known, clean, corrupt, right, wrong)


def wired(known: KnownModel, ablation: Ablation) -> frozenset[Edge]:
    """Edges on a path from the embedding to the logits.

    The constant is the same whatever is ablated; BOS stands at position 0 of every prompt, so only `zero` changes it.
    """
    kept = {"1"} if ablation == "zero" else {"1", "bos"}
    alive: set[int | None] = {None}
    found = set()
    for reader, source in reversed(known.wiring.edges):
        carried = (known.writes.get(source, frozenset()) & known.reads.get(reader, frozenset())) - kept
        if carried and alive.intersection(known.wiring.owners(reader)):
            found.add((reader, source))
            alive.add(source)
    return frozenset(found)


def labels(known: KnownModel, task: EdgeTask, share: float = SHARE) -> Truth:
    """The truth about every edge, by exhaustive patching: 2^(wired edges) forwards.

    Args:
        known: the model.
        task: one of its tasks, see `KnownPrompts.task`.
        share: of the whole effect, above which a change counts.
    """
    edges, wires = known.wiring.edges, sorted(wired(known, task.ablation))
    effects = task.effects(single_masks(task, edges)) / task.span
    subsets = (np.arange(2 ** len(wires))[:, None] >> np.arange(len(wires))) & 1
    masks = np.zeros((len(subsets), *known.wiring.shape), np.float32)
    for i, edge in enumerate(wires):
        masks[(slice(None), *edge)] = subsets[:, i]
    loss = task.effects(masks) / task.span
    pivots = set()
    for i, edge in enumerate(wires):
        without = np.flatnonzero(subsets[:, i] == 0)
        if (np.abs(loss[without + 2**i] - loss[without]) > share).any():
            pivots.add(edge)
    return Truth(
        edges,
        np.array([e in wires for e in edges]),
        np.abs(effects) > share,
        np.array([e in pivots for e in edges]),
        effects,
    )


def single_masks(task: EdgeTask, edges: tuple[Edge, ...]) -> np.ndarray:
    """[edges, readers, sources]: one mask an edge."""
    masks = np.zeros((len(edges), *task.wiring.shape), np.float32)
    for i, edge in enumerate(edges):
        masks[(i, *edge)] = 1
    return masks
