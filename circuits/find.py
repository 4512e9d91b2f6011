"""A circuit from prompts alone: effects of all nodes over them, a choice of nodes, edges between those. Automatic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from saedsl.circuits.ablation import Bench, bench
from saedsl.circuits.discover import METHODS, Evaluate, counted, discover
from saedsl.circuits.discover import Method as Choice
from saedsl.circuits.effects import Method, NodeEffects, node_at, node_effects
from saedsl.circuits.flow import flow_of
from saedsl.circuits.graph import CircuitGraph, Meta, Node
from saedsl.circuits.quality import faithfulness
from saedsl.circuits.task import NAME, Row, Task
from saedsl.errors import CircuitError

Positions = Literal["keep", "sum"]
Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, of how much."""
MOST_CANDIDATES: Final = 4
"""`greedy` looks at this many times the budget."""


@dataclass(frozen=True, eq=False)
class Found:
    """A circuit with what it was chosen from."""

    circuit: CircuitGraph
    scores: Mapping[Node, float]
    """The fast effect of every node that fires, mean over the prompts."""


def find(
    task: Task,
    *,
    budget: int | float | None = None,
    threshold: float | None = None,
    method: Choice = "top",
    effects: Method = "ig",
    steps: int = 10,
    positions: Positions = "keep",
    edge_rows: int = 8,
    edge_threshold: float = 0.0,
    batch_rows: int = 64,
    progress: Progress | None = None,
) -> Found:
    """The circuit of a behaviour: nodes scored over all prompts of `task`, chosen, joined by flow edges.

    Args:
        task: prompts, metric, dictionaries, ablation. Effects patch in corrupt prompts if every row has one, else 0.
        budget: nodes at most, or a float up to 1 for a share of the nodes that fire in the prompts.
        threshold: see `discover`.
        method: how nodes are chosen from their effects, one of `discover.METHODS`. `greedy` and `acdc` measure
            |1 - faithfulness| + max(0, completeness) on the prompts.
        effects: how effects are found, one of `effects.METHODS`.
        steps: of `ig`.
        positions: `keep`: a node for each position; prompts are equally long and alike by position. `sum`: a node
            stands for all positions.
        edge_rows: prompts that edges are measured on; 0 for no edges (not with `influence`).
        edge_threshold: edges of smaller |weight| are left out.
        batch_rows: rows of a forward at most; bounds memory.
        progress: called with what is done, how much, of how much.

    Raises:
        CircuitError: as `node_effects` and `discover`, and if the whole model is no better than nothing.
    """
    if positions not in ("keep", "sum"):
        raise CircuitError(f"positions is {positions!r}; it can be keep or sum")
    if method not in METHODS:
        raise CircuitError(f"method is {method!r}; it can be {', '.join(METHODS)}")
    if type(edge_rows) is not int or edge_rows < 0:
        raise CircuitError(f"edge_rows is {edge_rows!r}, not a whole number from 0")
    if method == "influence" and not edge_rows:
        raise CircuitError("influence needs edges: give edge_rows")
    tell = progress or (lambda what, i, n: None)
    tell("effects", 0, 1)
    ready = bench(task, batch_rows)
    found = measured(ready, effects, steps)
    scores = {node: s for node, s in found.scores(positions).items() if node.kind != "error"}
    if budget is not None:
        budget = counted(budget, len(scores))
    graph = CircuitGraph(meta=meta_of(task, ready, effects, steps, positions))
    for node, (effect, activation) in scores.items():
        graph.add_typed_node(node, score=effect, activation=activation)
    tell("effects", 1, 1)
    if method == "influence":
        graph = _joined(graph, found, list(scores), edge_rows, edge_threshold, positions, batch_rows, tell)
    kept = discover(
        graph, budget=budget, threshold=threshold, method=method,
        evaluate=distance(ready) if method in ("greedy", "acdc") else None,
        progress=lambda i, n: tell("choosing", i, n),
    )  # fmt: skip
    if method != "influence" and edge_rows:
        kept = _joined(kept, found, list(kept), edge_rows, edge_threshold, positions, batch_rows, tell)
    return Found(kept, {node: effect for node, (effect, _) in scores.items()})


def each(task: Task, rows: Iterable[Row], **options: Any) -> list[CircuitGraph]:
    """`find` for every row alone; rows may differ in length."""
    found = []
    for row in rows:
        reference = task.reference
        alone = replace(task, rows=(row,), reference=reference)
        found.append(find(alone, **options).circuit)
    return found


def aggregated(circuits: Sequence[CircuitGraph], least_share: float = 0.0) -> CircuitGraph:
    """What circuits of single prompts have in common, positions summed up.

    Args:
        circuits: one for each prompt.
        least_share: nodes of fewer prompts are left out.

    Raises:
        CircuitError: if there are none.
    """
    if not circuits:
        raise CircuitError("there are no circuits to aggregate")
    sums: dict[Node, list[float]] = {}
    weights: dict[tuple[Node, Node], list[float]] = {}
    for circuit in circuits:
        here: dict[Node, float] = {}
        for node, data in circuit.nodes(data=True):
            free = replace(node, position=None)
            here[free] = here.get(free, 0.0) + data["score"]
        for node, score in here.items():
            sums.setdefault(node, []).append(score)
        joined: dict[tuple[Node, Node], float] = {}
        for u, v, data in circuit.edges(data=True):
            key = replace(u, position=None), replace(v, position=None)
            joined[key] = joined.get(key, 0.0) + data["weight"]
        for key, weight in joined.items():
            weights.setdefault(key, []).append(weight)
    n = len(circuits)
    first = circuits[0].meta
    prompts = tuple(text for circuit in circuits for text in circuit.meta.prompts)
    graph = CircuitGraph(meta=replace(first, prompts=prompts, tokens=None, scores={}, supernodes=(), notes={}))
    for node, several in sums.items():
        if len(several) / n >= least_share:
            graph.add_typed_node(node, score=float(np.mean(several)), share=len(several) / n)
    for (u, v), several in weights.items():
        if u in graph and v in graph and u.depth < v.depth:
            graph.add_typed_edge(u, v, float(np.sum(several)) / n, "flow")
    return graph


def measured(ready: Bench, effects: Method = "ig", steps: int = 10) -> NodeEffects:
    """Fast effects of every node on the task's metric."""
    task = ready.task
    return node_effects(
        task.model, task.saes, task.clean, task.corrupt, metric=ready.metric, method=effects, steps=steps,
        batch_rows=ready.batch_rows,
    )  # fmt: skip


def distance(ready: Bench) -> Evaluate:
    """|1 - faithfulness| + max(0, completeness) of circuits, on the task's prompts."""
    whole = float(ready.value.mean(dtype=np.float64))
    nothing = float(ready.measure([[]]).mean(dtype=np.float64))
    faithfulness(whole, nothing, whole)

    def evaluate(circuits: Sequence[Sequence[Node]]) -> list[float]:
        inside = ready.measure(circuits).mean(axis=1, dtype=np.float64)
        outside = ready.measure(circuits, complement=True).mean(axis=1, dtype=np.float64)
        span = whole - nothing
        return [
            abs(1 - (float(a) - nothing) / span) + max(0.0, (float(b) - nothing) / span)
            for a, b in zip(inside, outside, strict=True)
        ]

    return evaluate


def meta_of(task: Task, ready: Bench, effects: str, steps: int, positions: Positions) -> Meta:
    """What a graph of the task was measured on; enough to make the program of a circuit."""
    one = len({row.prompt for row in task.rows}) == 1
    return Meta(
        model=task.model.info.name,
        prompts=tuple(task.clean),
        tokens=columns(task) if positions == "keep" else (ready.pairs.clean[0].pieces if one else None),
        metric=task.metric,
        ablation={"mean": f"mean by position of {len(task.reference)} texts"}.get(task.ablation, task.ablation),
        errors=task.errors,
        method=f"{effects}, {steps} steps" if effects == "ig" else effects,
        n_layers=task.model.info.n_layers,
        notes={"task": described(task)},
    )


def described(task: Task) -> dict[str, Any]:
    """A task as JSON holds it: rows, reference, ablation, errors, where dictionaries are."""
    paths = {p.name: (task.paths or {}).get(p.name, "") for p in task.places}
    return {
        "rows": [row.to_dict() for row in task.rows],
        "reference": list(task.reference),
        "ablation": task.ablation,
        "errors": task.errors,
        "metric": task.metric,
        "name": NAME,
        "dictionaries": {
            p.name: {"path": paths[p.name], "read": str(p.read), "write": str(p.write), "d_sae": p.sae.config.d_sae}
            for p in task.places
        },
    }


def columns(task: Task) -> tuple[str, ...]:
    """Text of each position: the token where all prompts have the same, else that of the first with a mark."""
    rows = [t.pieces for t in task.pairs().clean]
    return tuple(p if all(r[i] == p for r in rows) else f"{p}*" for i, p in enumerate(rows[0]))


def _joined(
    graph: CircuitGraph,
    found: NodeEffects,
    kept: Sequence[Node],
    rows: int,
    edge_threshold: float,
    positions: Positions,
    batch_rows: int,
    tell: Progress,
) -> CircuitGraph:
    """`graph` with flow edges among `kept` and to the metric, mean over the first prompts."""
    inside = set(kept)
    total = len(found.setup.rows)
    sites = []
    for s in found.sites:
        wanted = np.array(
            [
                p < rows and node_at(s.place, int(f), int(t) if positions == "keep" else None) in inside
                for p, t, f in zip(s.prompt, s.position, s.feature, strict=True)
            ],
            bool,
        )
        names = ("prompt", "position", "feature", "clean", "patch", "effect", "delta")
        sites.append(replace(s, **{name: getattr(s, name)[wanted] for name in names}))
    some = replace(found, sites=tuple(sites))
    if not any(s.effect.any() for s in sites):
        return graph
    flow = flow_of(some, None, 0.0, 0.0, "frozen", positions, batch_rows, lambda i, n: tell("edges", i, n))
    joined: CircuitGraph = graph.copy()
    for node, data in flow.nodes(data=True):
        if node.kind == "logit" and node not in joined:
            joined.add_typed_node(node, activation=data["score"], label=data["label"])  # its value; it has no effect
    stretch = total / min(rows, total)  # flow's mean is over all prompts; only these were looked at
    for u, v, data in flow.edges(data=True):
        if u in joined and v in joined and abs(data["weight"] * stretch) >= edge_threshold:
            joined.add_typed_edge(u, v, data["weight"] * stretch, "flow")
    return joined
