"""Circuits: graphs of features, found, validated by patching, and drawn. Built on `saedsl`'s plans and traces.

Import from the modules; graphs are read, exported and drawn without MLX:

    from saedsl.circuits.draw import draw
    from saedsl.circuits.export import export
    from saedsl.circuits.graph import CircuitGraph, Meta, Node

    graph = CircuitGraph(meta=Meta(model="demo", tokens=("The", " capital")))
    graph.add_typed_node(Node.parse("L1.mlp.f42@1"), score=0.8, label="say a capital")
    draw(graph, "circuit.pdf")
    draw(graph, "circuit.html")
    export(graph, "circuit.graphml")

A circuit from prompts alone, and what it is worth:

    from saedsl.circuits import task_of
    from saedsl.circuits.find import find
    from saedsl.circuits.validate import validate

    task = task_of(model, saes, rows, "logit(io.answer) - logit(io.wrong)", ablation="resample", errors="remove")
    found = find(task, budget=80)
    verdict, circuit = validate(found.circuit, task.with_rows(held_out), training=task, scores=found.scores)
    print(verdict.text(), circuit.to_dsl())

The names below are loaded when they are first used. Functions that are called as their modules are (`discover`, `draw`,
`export`, `find`, `validate`) are imported from these.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saedsl.circuits.coactivation import coactivation_graph
    from saedsl.circuits.dsl import to_dsl, to_program
    from saedsl.circuits.effects import node_effects
    from saedsl.circuits.flow import flow_graph
    from saedsl.circuits.graph import CircuitGraph, Meta, Node
    from saedsl.circuits.scores import scores_of
    from saedsl.circuits.supernodes import propose_supernodes
    from saedsl.circuits.task import Row, Task, task_of
    from saedsl.circuits.verdict import Verdict

_HOMES = {
    "CircuitGraph": "graph",
    "Meta": "graph",
    "Node": "graph",
    "Row": "task",
    "Task": "task",
    "Verdict": "verdict",
    "coactivation_graph": "coactivation",
    "flow_graph": "flow",
    "node_effects": "effects",
    "propose_supernodes": "supernodes",
    "scores_of": "scores",
    "task_of": "task",
    "to_dsl": "dsl",
    "to_program": "dsl",
}

__all__ = [
    "CircuitGraph", "Meta", "Node", "Row", "Task", "Verdict", "coactivation_graph", "flow_graph", "node_effects",
    "propose_supernodes", "scores_of", "task_of", "to_dsl", "to_program",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'saedsl.circuits' has no attribute {name!r}")
    return getattr(import_module(f"saedsl.circuits.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
