"""Circuits found from prompts, as programs, validated: on the tiny model; numbers against each other and by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from saedsl.circuits.ablation import bench
from saedsl.circuits.discover import METHODS
from saedsl.circuits.dsl import CircuitProgram, to_program
from saedsl.circuits.effects import node_effects
from saedsl.circuits.find import Found, aggregated, distance, each, find
from saedsl.circuits.graph import CircuitGraph, Meta, Node, check
from saedsl.circuits.necessity import completion, errors_of, minimality, random_circuits, scale_of
from saedsl.circuits.scores import scores_of
from saedsl.circuits.store import from_json, to_json
from saedsl.circuits.task import Row
from saedsl.circuits.validate import validate
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from tests.circuits.circuit_tasks import METRIC, ROWS, SAEOf, dictionaries, small_task

OTHER = [
    {"prompt": " the dog sat on a cat", "corrupt": " the cat sat on a dog", "answer": " Paris", "wrong": " Rome"},
    {"prompt": " a mat sat on the dog", "corrupt": " a cat sat on the dog", "answer": " Rome", "wrong": " dog"},
]


def inner(circuit: CircuitGraph) -> list[Node]:
    return [n for n in sorted(circuit) if n.kind != "logit"]


@pytest.fixture(scope="module")
def found(llama: InterpretableModel, sae_of: SAEOf) -> Found:
    return find(small_task(llama, sae_of, ablation="resample"), budget=20, steps=3, edge_rows=1)


def test_the_strongest_nodes_are_joined_by_edges(found: Found, llama: InterpretableModel, sae_of: SAEOf) -> None:
    check(found.circuit)
    effects = node_effects(
        llama, dictionaries(sae_of), [r["prompt"] for r in ROWS], [r["corrupt"] for r in ROWS],
        metric=bench(small_task(llama, sae_of)).metric, method="ig", steps=3,
    )  # fmt: skip
    scores = {n: e for n, (e, _) in effects.scores().items() if n.kind != "error"}
    assert found.scores == pytest.approx(scores)
    best = sorted(scores, key=lambda n: (-abs(scores[n]), n))[:20]
    assert inner(found.circuit) == sorted(best)
    assert found.circuit.number_of_edges() > 5
    assert {v.kind for _, v in found.circuit.edges} >= {"logit"}
    meta = found.circuit.meta
    assert (meta.metric, meta.ablation, meta.errors) == (METRIC, "resample", "remove")
    assert meta.method == f"ig, 3 steps; top 20 of {len(scores)}"
    assert meta.tokens is not None
    assert meta.tokens[1] == " the*"


def test_edges_are_means_over_the_prompts_that_are_looked_at(llama: InterpretableModel, sae_of: SAEOf) -> None:
    task = small_task(llama, sae_of, ablation="resample")
    twice = task.with_rows([task.rows[0], task.rows[0]])
    one, both = (find(t, budget=10, steps=2, edge_rows=1).circuit for t in (task.with_rows(task.rows[:1]), twice))
    assert dict(one.edges)
    assert {(u, v): w for u, v, w in one.edges(data="weight")} == pytest.approx(
        {(u, v): w for u, v, w in both.edges(data="weight")}, rel=1e-3
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_a_circuit(method: str, llama: InterpretableModel, sae_of: SAEOf) -> None:
    task = small_task(llama, sae_of, ablation="resample")
    needs = {"budget": 5} if method in ("top", "greedy", "influence") else {"threshold": 0.3}
    if method == "acdc":  # few nodes: it measures each
        task = small_task(llama, sae_of, ablation="resample", saes={"L1.mlp": dictionaries(sae_of)["L1.mlp"]})
    done = find(task, method=method, steps=2, edge_rows=1, effects="atp", **needs)  # type: ignore[arg-type]
    assert 0 < len(inner(done.circuit)) < len(done.scores)
    if method == "greedy":
        ready = bench(task)
        top = find(task, budget=5, steps=2, edge_rows=0, effects="atp").circuit
        greedy, plain, nothing = distance(ready)([inner(done.circuit), inner(top), []])
        assert greedy <= plain
        assert greedy < nothing


def test_prompts_of_different_lengths_are_aggregated_without_positions(
    llama: InterpretableModel, sae_of: SAEOf
) -> None:
    longer = Row.of({"prompt": " the cat sat on a mat on a mat", "corrupt": " the dog sat on a mat on a mat",
                     "answer": " Paris", "wrong": " Rome"})  # fmt: skip
    task = small_task(llama, sae_of, ablation="resample")
    circuits = each(task, [task.rows[0], longer], budget=8, steps=2, edge_rows=1)
    whole = aggregated(circuits)
    check(whole)
    assert all(n.position is None for n in whole)
    counts = {n: sum(any(replace(m, position=None) == n for m in c) for c in circuits) for n in whole}
    assert {n: round(2 * s) for n, s in whole.nodes(data="share")} == counts
    assert set(aggregated(circuits, least_share=1.0)) == {n for n, k in counts.items() if k == 2}
    with pytest.raises(CircuitError, match="no circuits to aggregate"):
        aggregated([])


def test_positions_can_be_summed(llama: InterpretableModel, sae_of: SAEOf) -> None:
    done = find(small_task(llama, sae_of, ablation="zero"), budget=10, positions="sum", steps=2, edge_rows=1)
    assert all(n.position is None for n in done.circuit)
    with pytest.raises(CircuitError, match="positions is 'all'; it can be keep or sum"):
        find(small_task(llama, sae_of), budget=1, positions="all")  # type: ignore[arg-type]


def test_a_budget_of_more_than_there_is_is_refused(llama: InterpretableModel, sae_of: SAEOf) -> None:
    task = small_task(llama, sae_of)
    for budget, says in ((0, "the budget is 0"), (10_000, "the budget is 10000 nodes; there are")):
        with pytest.raises(CircuitError, match=says):
            find(task, budget=budget, effects="atp")
    with pytest.raises(CircuitError, match="constant"):
        find(small_task(llama, sae_of, metric='logit(" a") - logit(" a")'), budget=3, effects="atp")


# Programs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["keep", "sum"])
@pytest.mark.parametrize("errors", ["keep", "remove"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_a_circuits_program_measures_what_many_circuits_at_a_time_do(
    ablation: str, errors: str, positions: str, llama: InterpretableModel, sae_of: SAEOf, tmp_path: Path
) -> None:
    task = small_task(llama, sae_of, ablation=ablation, errors=errors)
    circuit = find(task, budget=15, positions=positions, steps=1, edge_rows=0, effects="atp").circuit  # type: ignore[arg-type]
    position = 2 if positions == "keep" else None
    circuit.add_typed_node(Node.of("error", "L0.resid_post", None, position))
    program = to_program(from_json(to_json(circuit)), "mine")
    result = llama.run(program.write(tmp_path / "mine.saedsl"), saes=dict(task.saes))
    scores, ready = scores_of(result), bench(task)
    inside, nothing = ready.measure([inner(circuit), []]).mean(axis=1)
    (rest,) = ready.measure([inner(circuit)], complement=True).mean(axis=1)
    assert asdict(scores) == pytest.approx(
        {
            "whole": ready.value.mean(), "circuit": inside, "nothing": nothing, "rest": rest,
            "faithfulness": (inside - nothing) / (ready.value.mean() - nothing),
            "completeness": (rest - nothing) / (ready.value.mean() - nothing),
        },
        abs=1e-3, rel=1e-3,
    )  # fmt: skip


def test_a_program_says_what_it_keeps_and_the_graph_gives_it(found: Found) -> None:
    text = found.circuit.to_dsl()
    assert 'model "' in text
    assert 'prompts io = "circuit.prompts.jsonl"' in text
    assert f"metric effect = {METRIC}" in text
    assert [line for line in text.splitlines() if line.startswith("run")] == [
        "run io as circuit", "run io as nothing", "run io as rest",
    ]  # fmt: skip
    assert "from io.corrupt" in text
    assert "drop error" in text
    rows = [json.loads(line) for line in to_program(found.circuit).files["circuit.prompts.jsonl"].splitlines()]
    assert rows == [dict(r) for r in ROWS]


def test_a_hand_made_circuit_has_a_program_too(llama: InterpretableModel, sae_of: SAEOf, tmp_path: Path) -> None:
    meta = Meta(model=llama.info.name, prompts=(" the cat sat",), metric='logit(" mat")', ablation="zero")
    graph = CircuitGraph(meta=meta)
    with pytest.raises(CircuitError, match="has no features"):
        to_program(graph)
    graph.add_typed_node(Node.parse("L1.mlp.f3@2"))
    graph.add_typed_node(Node.parse("L1.mlp.f4@2"))
    program = to_program(graph)
    assert "  keep only {f3..4} @ prompt[2]\n  ablate all @ all except prompt[2]\n" in program.text
    sae = dictionaries(sae_of)["L1.mlp"]
    with llama.trace(" the cat sat") as traced:
        active = np.array(sae.encode(traced.activations["L1.mlp"][0, -1]))
    whole = CircuitGraph(meta=meta)
    last = traced.tokens.shape[1] - 1
    for f in np.flatnonzero(active):
        whole.add_typed_node(Node.parse(f"L1.mlp.f{f}@{last}"))
    scores = scores_of(llama.run(to_program(whole).write(tmp_path / "c.saedsl"), saes={"L1.mlp": sae}))
    assert scores.nothing != scores.whole
    assert scores.faithfulness == pytest.approx(1, abs=1e-4)  # nothing above it reads other positions
    for change, says in (
        ({"prompts": ()}, "neither prompts nor metric"),
        ({"ablation": "resample"}, "without a task, only zero is known"),
    ):
        with pytest.raises(CircuitError, match=says):
            to_program(graph.with_meta(replace(meta, **change)))
    graph.add_typed_node(Node.parse("L0.attn.h1@2"))
    with pytest.raises(CircuitError, match="circuits with a head run through Python"):
        to_program(graph)


def test_a_result_of_something_else_has_no_scores(llama: InterpretableModel) -> None:
    result = llama.run('metric effect = logit(" mat")\nat L0.mlp ablate', prompts=" the cat")
    with pytest.raises(CircuitError, match="no run is called circuit"):
        scores_of(result)


def test_a_program_is_written_with_its_files(tmp_path: Path) -> None:
    CircuitProgram("x\n", {"a.jsonl": "y\n"}).write(tmp_path / "p.saedsl")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"p.saedsl": "x\n", "a.jsonl": "y\n"}


# Validation --------------------------------------------------------------------------------------------------------


def test_a_verdict_has_every_number_and_its_program_gives_the_same(
    found: Found, llama: InterpretableModel, sae_of: SAEOf, tmp_path: Path
) -> None:
    training = small_task(llama, sae_of, ablation="resample")
    held_out = training.with_rows([Row.of(r) for r in OTHER])
    told: list[str] = []
    verdict, circuit = validate(
        found.circuit, held_out, training=training, scores=found.scores, subsets=2, minimality_rows=1, random=3,
        exact_rows=1, tried=4, progress=lambda what, i, n: told.append(what),
    )  # fmt: skip
    ready, nodes = bench(held_out), inner(found.circuit)
    inside, nothing = ready.measure([nodes, []]).mean(axis=1)
    assert verdict.scores.faithfulness == pytest.approx((inside - nothing) / (ready.value.mean() - nothing), abs=1e-4)
    assert verdict.nodes == 20
    assert verdict.active == len(ready.universe)
    assert 0 < verdict.share < 1
    assert [h.errors for h in verdict.handlings] == ["kept everywhere", "removed outside", "removed everywhere"]
    assert verdict.handlings[1].faithfulness == pytest.approx(verdict.scores.faithfulness, abs=1e-4)
    assert verdict.curve is not None
    assert verdict.control is not None
    assert verdict.agreement is not None
    assert len(verdict.needs) == 20
    assert verdict.training is not None
    assert verdict.interval.low <= verdict.interval.value <= verdict.interval.high
    assert set(told) == {"program", "minimality", "curve", "exact patching", "random circuits"}
    # the same number again, from the program of the circuit that comes back, through its file
    again = to_program(from_json(to_json(circuit))).write(tmp_path / "circuit.saedsl")
    result = llama.run(again, saes=dict(held_out.saes))
    assert scores_of(result) == verdict.scores
    assert result.plan_id == verdict.plan_id == circuit.meta.plan_id
    assert circuit.meta.scores["faithfulness"] == verdict.scores.faithfulness
    assert set(circuit.edges) == set(found.circuit.edges)
    data = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert data["scores"]["faithfulness"] == verdict.scores.faithfulness
    text = verdict.text()
    for said in ("faithfulness", "completeness", "not used to find the circuit", "errors: kept everywhere", "removed",
                 "random circuits", "minimality", "CMD", "Spearman", METRIC):  # fmt: skip
        assert said in text
    assert verdict.markdown().count("\n") == len(verdict.rows()) + 2


def test_prompts_that_were_used_are_not_held_out(found: Found, llama: InterpretableModel, sae_of: SAEOf) -> None:
    task = small_task(llama, sae_of, ablation="resample")
    with pytest.raises(CircuitError, match="2 prompts are held out and were used to find the circuit"):
        validate(found.circuit, task, training=task)
    with pytest.raises(CircuitError, match="random is -1, not a whole number from 0"):
        validate(found.circuit, task, random=-1)


def test_minimality_is_leave_one_out_and_over_parts(llama: InterpretableModel, sae_of: SAEOf) -> None:
    ready = bench(small_task(llama, sae_of, ablation="zero"))
    circuit = ready.universe[::9][:4]
    needs = {n.node: n for n in minimality(ready, circuit, subsets=30)}
    scale = scale_of(ready)

    def f(nodes: list[Node]) -> float:
        return float(scale.of(ready.measure([nodes]))[0])

    parts = [[n for k, n in enumerate(circuit) if mask >> k & 1] for mask in range(16)]
    for node in circuit:  # 30 draws of 16 parts miss few: each value is one of the exhaustive ones
        without = [n for n in circuit if n != node]
        assert needs[node].alone == pytest.approx(f(circuit) - f(without), abs=1e-4)
        every = [abs(f([*p, node]) - f([n for n in p if n != node])) for p in parts if node not in p]
        assert min(abs(needs[node].most - e) for e in every) < 1e-4
        assert needs[node].most >= abs(needs[node].alone) - 1e-6


def test_completion_names_what_was_taken_away(llama: InterpretableModel, sae_of: SAEOf) -> None:
    ready = bench(small_task(llama, sae_of, ablation="zero", errors="remove"))
    whole = [*ready.universe, *errors_of(ready)]
    assert ready.measure([whole])[0] == pytest.approx(ready.value, abs=1e-4)
    without = ready.measure([[m for m in whole if m != n] for n in whole[:60]]).mean(axis=1)
    alone = {n: abs(v - ready.value.mean()) for n, v in zip(whole, without, strict=False)}
    lost = max(alone, key=lambda n: alone[n])
    added = completion(ready, [n for n in whole if n != lost], dict.fromkeys(ready.universe, 1.0))
    assert added[0].node == lost
    assert added[0].together == pytest.approx(1, abs=1e-3)
    assert completion(ready, whole, {}) == []


def test_random_circuits_are_as_large_at_every_site(llama: InterpretableModel, sae_of: SAEOf) -> None:
    ready = bench(small_task(llama, sae_of))
    circuit = ready.universe[::7]
    drawn = random_circuits(ready, circuit, 3)
    for other in drawn:
        assert sorted(n.site for n in other) == sorted(n.site for n in circuit)
        assert len(set(other)) == len(other)
        assert set(other) <= set(ready.universe)
    assert drawn[0] != drawn[1]
    assert drawn == random_circuits(ready, circuit, 3)


def test_a_site_that_the_metric_does_not_read_has_no_faithfulness(llama: InterpretableModel, sae_of: SAEOf) -> None:
    task = small_task(llama, sae_of, rows=[ROWS[0]], metric='logit(" a") - logit(" a")')
    with pytest.raises(CircuitError, match="it does not depend on them"):
        scale_of(bench(task))
    assert np.isfinite(bench(task).value).all()
