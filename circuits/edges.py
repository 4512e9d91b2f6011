"""Scores of the edges between heads, MLPs, embedding and logits: attribution, exact patching, pruning, chance.

Every score is the loss of the metric that ablating the edge is held responsible for, in the metric's own units, and
positive where ablating lowers it. Cost is in forwards (F) and backwards (B) of all prompts.

| method | source | cost |
|---|---|---|
| `eap` | Syed et al. 2023 (arXiv:2310.10348) | 1 F + 1 B |
| `eap_ig` | Hanna et al. 2024 (arXiv:2403.17806) | steps (F + B) |
| `ig_mask` | Marks et al. 2024 (arXiv:2403.19647), over all edges in place of nodes | steps (F + B) |
| `ig_contexts` | the same along random diagonals of the cube of masks | contexts x steps (F + B) |
| `exact` | patching of each edge alone | edges F |
| `greedy` | Conmy et al. 2023 (ACDC, arXiv:2304.14997) | edges F |
| `chance` | uniform numbers | nothing |

An edge that matters only where others are ablated (a backup, one head of an OR) has no exact effect of its own.
`ig_contexts` is for those: see there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from saedsl.circuits.decomposed import Wiring
from saedsl.circuits.edge_task import EdgeTask
from saedsl.circuits.graph import CircuitGraph, Meta
from saedsl.circuits.node import Node
from saedsl.errors import CircuitError

STEPS: Final = 50
"""Of `ig_mask`; saturated attention needs so many (a sum off by half at 10)."""
CONTEXTS: Final = 32
CONTEXT_STEPS: Final = 8


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """One score for every edge."""

    wiring: Wiring
    values: np.ndarray
    """[readers, sources], float64; 0 where there is no edge."""
    method: str

    def of(self, edges: Sequence[tuple[int, int]]) -> np.ndarray:
        """Scores of (reader, source) pairs, in their order."""
        return np.array([self.values[edge] for edge in edges])

    def graph(self, meta: Meta | None = None, least: float = 0.0) -> CircuitGraph:
        """Heads, MLPs, embedding and logits as nodes.

        An edge's weight is the sum over what its target reads it with; to heads it has the parts `q`, `k`, `v` too.
        A key-value head's score is shared equally by its heads. A node's score is the sum of its outgoing weights;
        the logits' is 0.

        Args:
            meta: what the graph says of itself; `method` and `n_layers` are filled in.
            least: edges of smaller |weight| are left out, nodes without edges too.
        """
        w = self.wiring
        logits = Node.of("logit", "logits")
        weights: dict[tuple[int, int | None], dict[str, float]] = {}
        for reader, source in w.edges:
            owners, part = w.owners(reader), w.part(reader)
            for owner in owners:
                weights.setdefault((source, owner), {})[part] = float(self.values[reader, source]) / len(owners)
        kept = {ends: parts for ends, parts in weights.items() if abs(sum(parts.values())) >= least}
        graph = CircuitGraph(meta=replace(meta or Meta(), method=self.method, n_layers=w.n_layers))
        used = {i for ends in kept for i in ends}
        for i in [*range(len(w.sources)), None]:
            if i in used:
                score = sum(sum(parts.values()) for (source, _), parts in kept.items() if source == i)
                graph.add_typed_node(logits if i is None else w.sources[i], score)
        for (source, owner), parts in kept.items():
            target = logits if owner is None else w.sources[owner]
            extra = {} if "all" in parts else parts
            graph.add_typed_edge(w.sources[source], target, sum(parts.values()), "flow", **extra)
        return graph


def eap(task: EdgeTask) -> EdgeScores:
    """Edge attribution patching: (clean - other) times the gradient at the clean prompts."""
    at = np.zeros((1, *task.wiring.shape))
    return _scores(task, task.gradients(at, held=True)[0], "EAP")


def eap_ig(task: EdgeTask, steps: int = 10) -> EdgeScores:
    """EAP with the gradient averaged between the clean embeddings and the ablated ones."""
    at = np.zeros((1, *task.wiring.shape))
    total = np.zeros(task.wiring.shape)
    for t in _midpoints(steps):
        embedded = task.embedded + t * (task.other[0] - task.embedded)
        total += task.gradients(at, embedded, held=True)[0] / steps
    return _scores(task, total, f"EAP-IG, {steps} steps")


def ig_mask(task: EdgeTask, steps: int = STEPS) -> EdgeScores:
    """Integrated gradients over the mask: all edges are ablated together, by the same share.

    Complete: the scores sum to what ablating everything takes, to the precision of the steps.
    """
    at = np.broadcast_to(_midpoints(steps)[:, None, None], (steps, *task.wiring.shape))
    return _scores(task, task.gradients(at).mean(axis=0), f"IG over the mask, {steps} steps")


def ig_contexts(task: EdgeTask, contexts: int = CONTEXTS, steps: int = CONTEXT_STEPS, seed: int = 0) -> EdgeScores:
    """Integrated gradients over the mask along random diagonals: edges go out while others come back.

    In a context each edge starts ablated with a probability p of the context's own (spread evenly over 0 to 1) and
    all edges move to the opposite together. An edge's part in it is the integral of its gradient: 0 for a function
    that ends where it began, whatever its slope. The score is the root of its mean square over contexts, with the
    sign of its mean, so that what an edge does in one context is not cancelled by another. p near 0 is `ig_mask`;
    in between, a backup is seen with its main path gone. The spread of p is that of Shapley's value.

    Args:
        task: what to score on.
        contexts: diagonals.
        steps: midpoints of each.
        seed: of the starting corners.
    """
    _at_least_one(contexts, "contexts")
    rng, t = np.random.default_rng(seed), _midpoints(steps)[:, None, None]
    found = []
    for p in _midpoints(contexts):
        start = (rng.random(task.wiring.shape) < p).astype(np.float64)
        found.append(task.gradients(start + (1 - 2 * start) * t).mean(axis=0))
    return _scores(task, _pooled(found), f"IG over {contexts} random diagonals of the mask, {steps} steps, seed {seed}")


def ig_contexts_nodes(
    task: EdgeTask, contexts: int = CONTEXTS, steps: int = CONTEXT_STEPS, seed: int = 0
) -> dict[Node, float]:
    """`ig_contexts` of whole heads and MLPs: all edges that leave one share its mask; the embedding is not ablated.

    Args:
        task: what to score on.
        contexts: diagonals.
        steps: midpoints of each.
        seed: of the starting corners.

    Returns:
        Every head and MLP with its score, the largest absolute value first.
    """
    _at_least_one(contexts, "contexts")
    rng, t = np.random.default_rng(seed), _midpoints(steps)[:, None]
    found = []
    for p in _midpoints(contexts):
        start = (rng.random(task.wiring.shape[1]) < p).astype(np.float64)
        masks = start + (1 - 2 * start) * t
        masks[:, 0] = 0
        whole = np.broadcast_to(masks[:, None], (steps, *task.wiring.shape))
        found.append(task.gradients(whole).sum(axis=1).mean(axis=0))
    scores = _pooled(found)
    named = [(node, float(scores[i])) for i, node in enumerate(task.wiring.sources) if i > 0]
    return dict(sorted(named, key=lambda pair: -abs(pair[1])))


def exact(task: EdgeTask) -> EdgeScores:
    """What ablating each edge alone takes from the metric."""
    edges = task.wiring.edges
    masks = np.zeros((len(edges), *task.wiring.shape), np.float32)
    for i, edge in enumerate(edges):
        masks[(i, *edge)] = 1
    values = np.zeros(task.wiring.shape)
    values[tuple(np.array(edges).T)] = task.effects(masks)
    return _scores(task, values, "exact patching of single edges")


def greedy(task: EdgeTask, share: float = 0.01) -> EdgeScores:
    """Pruning as in ACDC: from the logits back, an edge is ablated for good where that takes little.

    Args:
        task: what to score on.
        share: of `task.span`: the most that may be lost with an edge that goes.

    Returns:
        What the ablation of a kept edge would take, given those gone before it; 0 for edges that went.
    """
    gone = np.zeros((1, *task.wiring.shape), np.float32)
    values, lost = np.zeros(task.wiring.shape), 0.0
    for edge in reversed(task.wiring.edges):
        gone[(0, *edge)] = 1
        now = float(task.effects(gone)[0])
        if abs(now - lost) < share * abs(task.span):
            lost = now
        else:
            gone[(0, *edge)] = 0
            values[edge] = now - lost
    return _scores(task, values, f"greedy pruning, {share:.3g} of the effect an edge")


def chance(task: EdgeTask, seed: int = 0) -> EdgeScores:
    """Uniform numbers from 0 to `task.span`: the control."""
    values = np.random.default_rng(seed).random(task.wiring.shape) * task.span
    return _scores(task, values, f"chance, seed {seed}")


def _pooled(found: Sequence[np.ndarray]) -> np.ndarray:
    """Over contexts: the root of the mean square, with the sign of the mean."""
    parts = np.stack(found)
    signed: np.ndarray = np.sqrt((parts**2).mean(axis=0)) * np.where(parts.mean(axis=0) < 0, -1, 1)
    return signed


def _scores(task: EdgeTask, values: np.ndarray, method: str) -> EdgeScores:
    """`values` where there are edges.

    Raises:
        CircuitError: if one is not finite.
    """
    kept = np.zeros(task.wiring.shape)
    where = tuple(np.array(task.wiring.edges).T)
    kept[where] = values[where]
    if not np.isfinite(kept).all():
        bad = next(edge for edge in task.wiring.edges if not np.isfinite(kept[edge]))
        raise CircuitError(
            f"{method}: the score of {task.wiring.edge_name(bad)} is {kept[bad]}; "
            "the metric's gradient is not finite there"
        )
    return EdgeScores(task.wiring, kept, method)


def _midpoints(n: int) -> np.ndarray:
    _at_least_one(n, "steps")
    return (np.arange(n) + 0.5) / n


def _at_least_one(n: int, what: str) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise CircuitError(f"{what} is {n!r}, not a whole number from 1")
