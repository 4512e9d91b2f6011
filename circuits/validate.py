"""Is a circuit what it is said to be? Ablation of all that is outside it, on prompts that it was not found on.

The headline numbers are those of the circuit's own program (`saedsl.circuits.dsl`), run as anyone would run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from saedsl.circuits.ablation import Bench, bench
from saedsl.circuits.dsl import to_program
from saedsl.circuits.effects import Method, node_at, node_effects
from saedsl.circuits.find import columns, described
from saedsl.circuits.graph import CircuitGraph, Node
from saedsl.circuits.necessity import completion, minimality, random_circuits
from saedsl.circuits.quality import SHARES, agreement, cmd, cpr, faithfulness, faithfulness_estimate, sizes
from saedsl.circuits.scores import Scores, scores_of
from saedsl.circuits.task import Task
from saedsl.circuits.verdict import Agreement, Choices, Control, Curve, Handling, Verdict
from saedsl.errors import CircuitError
from saedsl.sae.dictionary import SAE

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, of how much."""
NODES: Final = ("feature", "transcoder", "error")
FLOOR: Final = 1e-4
"""Nodes whose exact effect is at most this share of |m| are left out of the agreement with exact patching."""


def validate(
    circuit: CircuitGraph,
    task: Task,
    *,
    training: Task | None = None,
    scores: Mapping[Node, float] | None = None,
    effects: Method = "ig",
    subsets: int = 20,
    minimality_rows: int = 8,
    random: int = 20,
    exact_rows: int = 2,
    tried: int = 32,
    seed: int = 0,
    batch_rows: int = 64,
    progress: Progress | None = None,
) -> tuple[Verdict, CircuitGraph]:
    """Measure a circuit of features on prompts.

    Args:
        circuit: its features and errors count; edges are kept, and have no part in it.
        task: the prompts to validate on, with metric, dictionaries and ablation: held out, if `training` is given.
        training: the task that the circuit was found on; None if `task` is it.
        scores: effects of all nodes, of which curve and completion are made; None for neither.
        effects: the fast method that is held against exact patching.
        subsets: parts of the circuit that minimality looks at, besides leaving one node out.
        minimality_rows: prompts that minimality and completion are measured on, the first; 0 for neither.
        random: random circuits of equal size; 0 for none.
        exact_rows: prompts whose nodes are patched one at a time; 0 for none.
        tried: nodes outside that completion adds.
        seed: of all draws.
        batch_rows: rows of a forward at most; bounds memory.
        progress: called with what is done, how much, of how much.

    Returns:
        The verdict, and the circuit with these prompts and scores in its `meta`: its program gives the same numbers.

    Raises:
        CircuitError: if the circuit has no features, does not fit the task, or the metric does not depend on the
            dictionaries' nodes.
    """
    for name, value in (("subsets", subsets), ("minimality_rows", minimality_rows), ("random", random),
                        ("exact_rows", exact_rows), ("tried", tried)):  # fmt: skip
        if type(value) is not int or value < 0:
            raise CircuitError(f"{name} is {value!r}, not a whole number from 0")
    if training is not None and (shared := set(training.clean) & set(task.clean)):
        raise CircuitError(
            f"{len(shared)} prompts are held out and were used to find the circuit: {sorted(shared)[0]!r}"
        )
    tell = progress or (lambda what, i, n: None)
    nodes = [node for node in sorted(circuit) if node.kind in NODES]
    here = on(circuit, task)
    tell("program", 0, 1)
    found, plan_id = run_program(here, task)
    ready = bench(task, batch_rows)
    inside, nothing = ready.measure([nodes, []])
    tell("program", 1, 1)
    everything = float(ready.measure([[]], complement=True, errors="remove all").mean(dtype=np.float64))
    nothing_removed = float(ready.measure([[]], errors="remove").mean(dtype=np.float64))
    few = bench(task.with_rows(task.rows[:minimality_rows]), batch_rows) if minimality_rows else None
    needs = minimality(few, nodes, subsets, seed, lambda i, n: tell("minimality", i, n)) if few is not None else []
    additions = completion(few, nodes, scores, tried) if few is not None and scores else []
    verdict = Verdict(
        choices=_choices(circuit, task, training is not None, seed),
        nodes=len(nodes),
        active=len(ready.universe),
        share=ready.share(nodes),
        scores=found,
        interval=faithfulness_estimate(inside, nothing, ready.value, seed=seed),
        everything=faithfulness(everything, nothing_removed, found.whole),
        handlings=tuple(_handlings(ready, nodes)),
        training=None if training is None else run_program(on(circuit, training), training)[0],
        curve=_curve(ready, scores, tell) if scores else None,
        needs=tuple(needs),
        subsets=subsets,
        additions=tuple(additions),
        agreement=_agreement(task, effects, exact_rows, seed, tell) if exact_rows else None,
        control=_control(ready, nodes, random, seed, tell) if random else None,
        plan_id=plan_id,
    )
    told = {
        "faithfulness": found.faithfulness, "completeness": found.completeness, "error_share": 1 - verdict.everything,
    }  # fmt: skip
    return verdict, here.with_meta(replace(here.meta, scores=told, plan_id=plan_id))


def on(circuit: CircuitGraph, task: Task) -> CircuitGraph:
    """The circuit with the prompts, ablation and dictionaries of `task` in its `meta`: its program runs on these."""
    notes = {**circuit.meta.notes, "task": described(task)}
    same = tuple(task.clean) == circuit.meta.prompts
    meta = replace(
        circuit.meta, prompts=tuple(task.clean), metric=task.metric, errors=task.errors, notes=notes,
        scores=circuit.meta.scores if same else {}, model=task.model.info.name,
        tokens=None if circuit.meta.tokens is None else columns(task),
    )  # fmt: skip
    return circuit.with_meta(meta)


def run_program(circuit: CircuitGraph, task: Task) -> tuple[Scores, str]:
    """The scores of a circuit's program, and the hash of its plan."""
    with TemporaryDirectory() as folder:
        path = to_program(circuit).write(Path(folder) / "circuit.saedsl")
        result = task.model.run(path, saes=None if task.paths is not None else _given(task))
    return scores_of(result), result.plan_id


def _given(task: Task) -> dict[str, SAE | str | Path]:
    return dict(task.saes)


def _choices(circuit: CircuitGraph, task: Task, held_out: bool, seed: int) -> Choices:
    ablation = {
        "zero": "zero",
        "mean": f"mean at each position over {len(task.reference)} texts",
        "resample": "resample: the value in the prompt's corrupt one",
    }[task.ablation]
    return Choices(
        task.model.info.name, task.metric, ablation, task.errors, tuple(p.name for p in task.places),
        circuit.meta.method, len(task.rows), held_out, task.rows[0].prompt, seed,
    )  # fmt: skip


def _handlings(ready: Bench, nodes: Sequence[Node]) -> list[Handling]:
    whole = float(ready.value.mean(dtype=np.float64))
    found = []
    for name, inner, outer in (
        ("kept everywhere", "keep", "keep"),
        ("removed outside", "remove", "remove"),
        ("removed everywhere", "remove all", "remove all"),
    ):
        c, zero = ready.measure([nodes, []], errors=inner).mean(axis=1, dtype=np.float64)  # type: ignore[arg-type]
        (rest,) = ready.measure([nodes], complement=True, errors=outer).mean(axis=1, dtype=np.float64)  # type: ignore[arg-type]
        c, zero, rest = float(c), float(zero), float(rest)
        found.append(Handling(name, c, zero, rest, faithfulness(c, zero, whole), faithfulness(rest, zero, whole)))
    return found


def _curve(ready: Bench, scores: Mapping[Node, float], tell: Progress) -> Curve:
    ordered = sorted(scores, key=lambda node: (-abs(scores[node]), node))
    ks = sizes(len(ordered))
    parts = [ordered[:k] for k in ks]
    whole = float(ready.value.mean(dtype=np.float64))
    nothing = float(ready.measure([[]]).mean(dtype=np.float64))
    inside = ready.measure(parts, progress=lambda i, n: tell("curve", i, 2 * n))
    outside = ready.measure(parts, complement=True, progress=lambda i, n: tell("curve", n + i, 2 * n))
    f, g = (
        [(float(v) - nothing) / (whole - nothing) for v in values.mean(axis=1, dtype=np.float64)]
        for values in (inside, outside)
    )
    return Curve(SHARES, tuple(ks), tuple(f), tuple(g), cpr(f), cmd(f))


def _agreement(task: Task, effects: Method, rows: int, seed: int, tell: Progress) -> Agreement | None:
    """Fast against exact effects of every feature and error of the first prompts."""
    some = task.with_rows(task.rows[:rows])
    few = bench(some)
    both = [
        node_effects(
            some.model, some.saes, some.clean, some.corrupt, metric=few.metric, method=method,
            progress=(lambda i, n: tell("exact patching", i, n)) if method == "exact" else None,
        )
        for method in (effects, "exact")
    ]  # fmt: skip
    named = [
        {
            (int(p), node_at(s.place, int(f), int(t))): float(e)
            for s in one.sites
            for p, t, f, e in zip(s.prompt, s.position, s.feature, s.effect, strict=True)
        }
        for one in both
    ]
    floor = FLOOR * abs(float(few.value.mean()))
    keys = [key for key, e in named[1].items() if abs(e) > floor]
    if len(keys) < 10:
        return None
    fast, exact = (np.array([one[key] for key in keys]) for one in named)
    top = min(20, len(keys) // 2)
    rank, overlap = agreement(fast, exact, top, seed)
    return Agreement(len(keys), rows, rank, top, overlap)


def _control(ready: Bench, nodes: Sequence[Node], n: int, seed: int, tell: Progress) -> Control:
    drawn = random_circuits(ready, nodes, n, seed)
    whole = float(ready.value.mean(dtype=np.float64))
    nothing = float(ready.measure([[]]).mean(dtype=np.float64))
    values = ready.measure(drawn, progress=lambda i, m: tell("random circuits", i, m)).mean(axis=1, dtype=np.float64)
    f = (values - nothing) / (whole - nothing)
    return Control(n, float(f.mean()), float(np.percentile(f, 2.5)), float(np.percentile(f, 97.5)))
