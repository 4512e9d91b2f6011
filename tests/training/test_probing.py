"""Sparse probing: classes that one feature tells apart are told apart by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import saedsl
from saedsl.errors import TrainingError
from saedsl.training.probing import Task, _accuracy, _halves, probe, read_task

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def demo() -> Any:
    return saedsl.load_demo()


def task(n: int = 12) -> Task:
    countries = ("France", "Spain", "Italy", "Japan", "China", "Egypt")
    names = ("Mary", "John", "Tom", "Anna", "Peter", "Lucy")
    texts = [f"The capital of {countries[i % 6]} is" for i in range(n)]
    texts += [f"{names[i % 6]} and {names[(i + 1 + i // 6) % 6]} went to the" for i in range(n)]
    return Task("topic", tuple(texts), ("place",) * n + ("people",) * n)


def test_a_few_features_tell_two_topics_apart(demo: Any) -> None:
    sae = demo.saes["L2.resid_post"]
    (got,) = probe(demo.model, sae, task(), sae.config.input_site, ks=(1, 5))
    assert got.label == "place"
    assert got.texts == 12
    assert got.majority == 0.5
    assert got.accuracy[5] >= got.accuracy[1] >= 0.9
    assert got.activations >= 0.9
    assert len(got.features) == 5


def test_three_classes_give_a_probe_each(demo: Any) -> None:
    t, sae = task(), demo.saes["L0.mlp"]
    three = Task("t", t.texts, tuple("abc"[i % 3] for i in range(len(t.texts))))
    assert [p.label for p in probe(demo.model, sae, three, sae.config.input_site, ks=(1,))] == ["a", "b", "c"]


def test_labels_at_random_are_not_told_apart() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 5)), rng.random(400) > 0.5
    assert 0.35 < _accuracy(x, y, _halves(y, rng)) < 0.65


def test_each_class_is_halved() -> None:
    labels = np.array(["a"] * 7 + ["b"] * 20)
    train = _halves(labels, np.random.default_rng(1))
    assert (train[:7].sum(), train[7:].sum()) == (4, 10)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": "a"}'], r':1: a line is {"text": "...", "label": "..."}'),
        (['{"text": "a", "label": "x"}', "{"], r":2: not JSON"),
    ],
)
def test_a_damaged_task_names_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(lines))
    with pytest.raises(TrainingError) as e:
        read_task(file)
    assert message in str(e.value)


def test_tasks_that_cannot_be_probed_are_refused(demo: Any, tmp_path: Path) -> None:
    sae = demo.saes["L0.mlp"]
    site, t = sae.config.input_site, task()
    with pytest.raises(TrainingError, match="a probe tells two classes apart"):
        probe(demo.model, sae, Task("t", t.texts, ("x",) * len(t.texts)), site)
    with pytest.raises(TrainingError, match="fewer than 4 texts labelled 'y'"):
        probe(demo.model, sae, Task("t", t.texts, ("x",) * (len(t.texts) - 1) + ("y",)), site)
    with pytest.raises(TrainingError, match="it goes from 1 to the 1024 features"):
        probe(demo.model, sae, t, site, ks=(0,))
    with pytest.raises(TrainingError, match="text 1 of task t has no tokens"):
        probe(demo.model, sae, Task("t", ("",) * 8, ("a", "b") * 4), site)
    file = tmp_path / "good.jsonl"
    file.write_text("\n".join(json.dumps({"text": "a", "label": i}) for i in range(2)) + "\n\n")
    assert read_task(file) == Task("good", ("a", "a"), ("0", "1"))
