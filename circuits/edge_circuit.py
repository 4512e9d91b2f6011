"""Circuits of edges, run: every edge outside the circuit is ablated, those inside carry what the model writes.

A circuit of edges has no program: the language names nodes. It keeps its edges in the JSON, and runs here.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np

from saedsl.circuits.decomposed import Wiring
from saedsl.circuits.edge_task import EdgeTask
from saedsl.circuits.quality import faithfulness
from saedsl.errors import CircuitError

PARTS = ("q", "k", "v")
"""What a head reads with; an edge has those whose weight it gives and is not 0, and without any, all."""


@dataclass(frozen=True)
class EdgeRun:
    """What a circuit of edges does, and what all others do without it; metrics are means over the prompts."""

    edges: int
    """Of the circuit, each part of a head's reading counted."""
    of: int
    """Of the model."""
    whole: float
    """m(M): nothing is ablated."""
    nothing: float
    """m(0): every edge is."""
    circuit: float
    """m(C): every edge outside the circuit is."""
    rest: float
    """The circuit's edges are, all others are not."""

    @property
    def faithfulness(self) -> float:
        """(m(C) - m(0)) / (m(M) - m(0)); 1 is the model."""
        return faithfulness(self.circuit, self.nothing, self.whole)

    @property
    def completeness(self) -> float:
        """The same of the rest; near 0 is good."""
        return faithfulness(self.rest, self.nothing, self.whole)


def run_edges(circuit: nx.DiGraph, task: EdgeTask) -> EdgeRun:
    """Run a circuit of edges on prompts, best on others than those that it was found on.

    Args:
        circuit: of `EdgeScores.graph` or `discover`, or read from its JSON.
        task: the prompts, what ablated sources become, and the metric.

    Raises:
        CircuitError: if the circuit has no edges, or one that the model does not have.
    """
    kept = edges_of(circuit, task.wiring)
    inside = np.zeros(task.wiring.shape)
    inside[tuple(np.array(sorted(kept)).T)] = 1
    without, alone = task.effects(np.stack([inside, 1 - inside]))
    return EdgeRun(
        len(kept), len(task.wiring.edges), task.base, task.ablated, task.base - float(alone), task.base - float(without)
    )


def edges_of(circuit: nx.DiGraph, wiring: Wiring) -> frozenset[tuple[int, int]]:
    """(reader, source) pairs of a circuit's edges; key-value heads are shared by the heads that read with them.

    Raises:
        CircuitError: as `run_edges`.
    """
    sources = {node: i for i, node in enumerate(wiring.sources)}
    shaping: dict[int | None, list[int]] = {}
    for reader in range(len(wiring.readers)):
        for owner in wiring.owners(reader):
            shaping.setdefault(owner, []).append(reader)
    found = set()
    for u, v, data in circuit.edges(data=True):
        if u not in sources:
            raise CircuitError(f"{u} is no source of this model; they are {wiring.sources[0]} to {wiring.sources[-1]}")
        named = [part for part in PARTS if data.get(part)]
        readers = shaping.get(None if v.kind == "logit" else sources.get(v, -1), [])
        readers = [r for r in readers if not named or wiring.part(r) in (*named, "all")]
        if not readers or any(sources[u] >= wiring.heard(reader) for reader in readers):
            raise CircuitError(f"this model has no edge from {u} to {v}")
        found |= {(reader, sources[u]) for reader in readers}
    if not found:
        raise CircuitError("the circuit has no edges; `find` and `discover` keep them where the graph has them")
    return frozenset(found)
