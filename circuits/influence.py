"""Influence in attribution graphs, pruning by it, and how much of a graph is explained. After circuit-tracer.

Rows are targets, columns sources: `A[t, s]`. With |A| normalised by rows, the influence of all nodes on the logits is
`w (N + N^2 + ...)`, `w` being the logits' probabilities (Ameisen et al. 2025,
transformer-circuits.pub/2025/attribution-graphs). No mlx here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saedsl.errors import CircuitError


@dataclass(frozen=True)
class Scores:
    """How much of what the logits depend on is explained."""

    replacement: float
    """Influence of tokens / influence of tokens and errors."""
    completeness: float
    """Share of nodes' input that does not come from errors, weighed by influence; not the completeness of a circuit."""


def normalised(A: np.ndarray) -> np.ndarray:
    """|A| with rows that sum to 1; rows of zeros stay."""
    N: np.ndarray = np.abs(A)
    N /= np.maximum(N.sum(axis=1, keepdims=True), 1e-30)
    return N


def influence(N: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`weights (N + N^2 + ...)`: how much each node matters for what has weight.

    Args:
        N: [n, n] from `normalised`, without cycles.
        weights: [n]

    Raises:
        CircuitError: if there is a cycle.
    """
    now = weights.astype(np.float64)
    total = np.zeros_like(now)
    for _ in range(len(N) + 1):
        now = now @ N
        if not now.any():
            return total
        total += now
    raise CircuitError("the graph has a cycle: influence would never end")


def scores(A: np.ndarray, weights: np.ndarray, tokens: np.ndarray, errors: np.ndarray) -> Scores:
    """Replacement and completeness of a graph.

    Args:
        A: [n, n], rows targets.
        weights: [n] probabilities of logits, 0 elsewhere.
        tokens: [n] bool, which nodes are embeddings.
        errors: [n] bool, which nodes are errors.
    """
    N = normalised(A)
    reach = influence(N, weights)
    i_tokens, i_errors = reach[tokens].sum(), reach[errors].sum()
    output = reach + weights
    inner = ~(tokens | errors)
    explained = 1 - N[:, errors].sum(axis=1)
    total = output[inner].sum()
    return Scores(
        float(i_tokens / (i_tokens + i_errors)) if i_tokens + i_errors > 0 else 0.0,
        float((explained * output)[inner].sum() / total) if total > 0 else 0.0,
    )


@dataclass(frozen=True, eq=False)
class Pruned:
    """What is left of a graph."""

    nodes: np.ndarray
    """[n] bool"""
    edges: np.ndarray
    """[n, n] bool"""
    influence: np.ndarray
    """[n] of the whole graph's nodes."""
    cumulative: np.ndarray
    """[n] share of influence that a node and all stronger ones have: small is important."""


def prune(
    A: np.ndarray,
    weights: np.ndarray,
    tokens: np.ndarray,
    errors: np.ndarray,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
) -> Pruned:
    """The strongest nodes that have `node_threshold` of the influence, then edges likewise; tokens and logits stay.

    Features that nothing enters or leaves, and errors that nothing leaves, go too.

    Args:
        A: [n, n], rows targets.
        weights: [n] probabilities of logits, 0 elsewhere.
        tokens: [n] bool, which nodes are embeddings.
        errors: [n] bool, which nodes are errors.
        node_threshold: share of nodes' influence that is kept, above 0, at most 1.
        edge_threshold: likewise of edges.

    Raises:
        CircuitError: if a threshold is impossible.
    """
    for name, value in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 < value <= 1:
            raise CircuitError(f"{name} is {value!r}, not a share above 0 and at most 1")
    reach = influence(normalised(A), weights)
    logits = weights > 0
    keep = (reach >= _least(reach, node_threshold)) | tokens | logits
    kept = np.where(keep[:, None] & keep[None], A, 0)
    N = normalised(kept)
    flow = N * (influence(N, weights) + weights)[:, None]
    edges = (flow >= _least(flow.ravel(), edge_threshold)) & (kept != 0)
    while True:
        inner = keep & ~tokens & ~logits
        alive = edges.any(axis=0) & (edges.any(axis=1) | errors)
        lost = inner & ~alive
        if not lost.any():
            break
        keep = keep & ~lost
        edges = edges & keep[:, None] & keep[None]
    order = np.argsort(-reach, kind="stable")
    cumulative = np.empty_like(reach)
    cumulative[order] = np.cumsum(reach[order]) / max(reach.sum(), 1e-30)
    return Pruned(keep, edges, reach, cumulative)


def _least(values: np.ndarray, share: float) -> float:
    """The smallest of the largest values that make up this share of the sum."""
    ordered = np.sort(values[values > 0])[::-1]
    if not len(ordered):
        return float("inf")
    sums = np.cumsum(ordered, dtype=np.float64)
    return float(ordered[min(int(np.searchsorted(sums, share * sums[-1])), len(ordered) - 1)])
