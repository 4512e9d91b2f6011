"""The metric of circuits: against float64 numpy, against the language, and at its ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from saedsl.circuits.ablation import Bench, bench
from saedsl.circuits.graph import Node
from saedsl.circuits.splice import Place
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from tests import oracle, tiny
from tests.circuits.circuit_tasks import ROWS, SAEOf, small_task

Plain = Callable[..., oracle.Dictionary]


def drawn(ready: Bench, errors: bool = True) -> list[Node]:
    """Half of the features that fire, and some errors."""
    rng = np.random.default_rng(5)
    nodes = [n for n in ready.universe if rng.random() < 0.5]
    return (
        [*nodes, Node.of("error", "L0.resid_post", None, 2), Node.of("error", "L1.mlp", None, 4)] if errors else nodes
    )


def by_numpy(ready: Bench, plain: Plain, circuit: list[Node], complement: bool = False) -> list[float]:
    """m(C) of every prompt by its definition."""
    task, found = ready.task, []
    inside = set(circuit)
    for row, tokens in enumerate(ready.pairs.clean):
        _, _clean = tiny.forward(task.model.model, tokens.ids)
        corrupt = None
        if ready.pairs.corrupt is not None:
            _, corrupt = tiny.forward(task.model.model, ready.pairs.corrupt[row].ids)
        references = [tiny.forward(task.model.model, task.model.encoder.encode(text).ids)[1] for text in task.reference]
        read: dict[str, np.ndarray] = {}

        def edit_of(place: Place, row: int = row, corrupt: Any = corrupt, references: Any = references,
                    read: dict[str, np.ndarray] = read) -> tiny.Edit:  # fmt: skip
            d = plain(place.sae)

            def edit(y: tiny.Array) -> tiny.Array:
                x = y if place.read == place.write else read[str(place.read)]
                f, new = d.encode(x), y.copy()
                if task.ablation == "mean":
                    instead = np.mean([d.encode(seen[str(place.read)]) for seen in references], axis=0)
                elif corrupt is not None:
                    instead = d.encode(corrupt[str(place.read)])
                else:
                    instead = 0 * f
                for t in range(len(y)):
                    if not ready.allowed[place.name][row, t]:
                        continue
                    for j in range(f.shape[1]):
                        here = Node.of(place.kind, place.name, j, t) in inside  # type: ignore[arg-type]
                        if here == complement:
                            f[t, j] = instead[t, j]
                    error = y[t] - d.decode(d.encode(x), x)[t]
                    has = Node.of("error", place.name, None, t) in inside
                    drop = has if complement else (not has and task.errors == "remove")
                    new[t] = d.decode(f, x)[t] + (0 if drop else error)
                return new

            return edit

        edits = {p.name: edit_of(p) for p in ready.places}

        def remember(x: tiny.Array, read: dict[str, np.ndarray] = read) -> tiny.Array:
            read["L0.mlp.in"] = x
            return x

        logits, _ = tiny.forward(task.model.model, tokens.ids, {**edits, "L0.mlp.in": remember})
        a, b = (task.model.encoder.ids(dict(task.rows[row].fields)[f])[0] for f in ("answer", "wrong"))
        found.append(float(logits[-1, a] - logits[-1, b]))
    return found


@pytest.mark.parametrize("errors", ["keep", "remove"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_circuits_are_measured_as_numpy_does(
    ablation: str, errors: str, llama: InterpretableModel, sae_of: SAEOf, plain: Plain
) -> None:
    ready = bench(small_task(llama, sae_of, ablation=ablation, errors=errors), batch_rows=3)
    circuit = drawn(ready)
    inside = ready.measure([circuit, []])
    outside = ready.measure([circuit], complement=True)
    assert inside[0] == pytest.approx(by_numpy(ready, plain, circuit), abs=2e-4)
    assert inside[1] == pytest.approx(by_numpy(ready, plain, []), abs=2e-4)
    assert outside[0] == pytest.approx(by_numpy(ready, plain, circuit, complement=True), abs=2e-4)
    assert np.abs(inside[0] - inside[1]).min() > 1e-2


def test_everything_is_the_model_and_nothing_is_m0(llama: InterpretableModel, sae_of: SAEOf) -> None:
    ready = bench(small_task(llama, sae_of, ablation="zero"))
    errors = [Node.of("error", p.name) for p in ready.places]
    whole, nothing = ready.measure([[*ready.universe, *errors], []])
    assert whole == pytest.approx(ready.value, abs=1e-4)
    assert ready.measure([[]], complement=True)[0] == pytest.approx(ready.value, abs=1e-4)
    every = [Node.of(p.kind, p.name, j) for p in ready.places for j in range(p.sae.config.d_sae)]  # type: ignore[arg-type]
    assert ready.measure([every], complement=True, errors="remove all")[0] == pytest.approx(nothing, abs=1e-4)
    assert ready.share(ready.universe) == 1
    assert ready.share([]) == 0


def test_a_node_without_position_is_one_at_every_position(llama: InterpretableModel, sae_of: SAEOf) -> None:
    ready = bench(small_task(llama, sae_of, ablation="zero"))
    some = sorted({(n.site, n.kind, n.index) for n in ready.universe})[::3]
    free = [Node.of(kind, site, j) for site, kind, j in some]
    each = [Node.of(kind, site, j, t) for site, kind, j in some for t in range(ready.pairs.length)]
    a, b = ready.measure([free, each])
    assert np.array_equal(a, b)


def test_the_number_of_rows_at_a_time_changes_nothing(llama: InterpretableModel, sae_of: SAEOf) -> None:
    task = small_task(llama, sae_of, ablation="resample")
    few, many = bench(task, 1), bench(task, 64)
    circuits = [drawn(many), [], drawn(many, errors=False)]
    seen: list[tuple[int, int]] = []
    assert few.measure(circuits, progress=lambda i, n: seen.append((i, n))) == pytest.approx(
        many.measure(circuits), abs=1e-5
    )
    assert seen[-1] == (6, 6)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ("L1.resid_post.f3@2", "there is no dictionary at L1.resid_post; there are L0.mlp, L0.resid_post, L1.mlp"),
        ("L1.mlp.f4096@2", "the dictionary at L1.mlp has"),
        ("L1.mlp.f3@99", "the prompts have"),
    ],
)
def test_a_circuit_of_something_else_is_refused(node: str, says: str, llama: InterpretableModel, sae_of: SAEOf) -> None:
    ready = bench(small_task(llama, sae_of, ablation="zero"))
    with pytest.raises(CircuitError, match=says):
        ready.measure([[Node.parse(node)]])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows": ()}, "there are no prompts"),
        ({"rows": [{"answer": " a"}]}, "this one has no prompt"),
        ({"rows": [{"prompt": "", "answer": " a", "wrong": " on"}]}, "clean prompt is empty"),
        ({"rows": [ROWS[0], {**ROWS[1], "prompt": " a"}]}, "the prompts of a batch are equally long"),
        ({"rows": [{**ROWS[0], "corrupt": " the dog"}], "ablation": "resample"}, "different numbers of tokens"),
        (
            {"rows": [{"prompt": " a", "answer": " a", "wrong": " on"}], "ablation": "resample"},
            "row 1 has no `corrupt`",
        ),
        ({"ablation": "mean", "reference": [" a"]}, "texts of the reference have 7 tokens"),
        ({"ablation": "noise"}, "ablation is 'noise'; it can be zero, mean, resample"),
        ({"errors": "hide"}, "errors is 'hide'; it can be keep, remove"),
        ({"metric": " "}, "the metric is empty"),
    ],
)
def test_a_task_whose_parts_do_not_fit_is_refused(
    options: dict[str, Any], says: str, llama: InterpretableModel, sae_of: SAEOf
) -> None:
    with pytest.raises(CircuitError, match=says):
        small_task(llama, sae_of, **options)


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("logit(io.nothing)", "cannot be read"),
        ("logit(", "cannot be read"),
        ("norm(L1.mlp)", r"reads norm\(\) inside the model"),
        ('logprob(" Paris Rome")', "is several tokens"),
    ],
)
def test_a_metric_that_effects_cannot_be_of_is_refused(
    metric: str, says: str, llama: InterpretableModel, sae_of: SAEOf
) -> None:
    with pytest.raises(CircuitError, match=says):
        bench(small_task(llama, sae_of, metric=metric))


def test_dictionaries_of_another_model_are_refused(llama: InterpretableModel, sae_of: SAEOf) -> None:
    for sae in (sae_of(d_in=48, site="L0.mlp"), sae_of(site="L0.mlp", model_name="another")):
        with pytest.raises(CircuitError, match=r"another model|trained on the model another"):
            small_task(llama, sae_of, saes={"L0.mlp": sae})
