"""Saved results: whole or not at all, and read back as they were."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saedsl.errors import ResultError
from saedsl.firing import Firing
from saedsl.metrics import Measured
from saedsl.results import PromptResult, Result, Side, TokenChange

LOGITS = np.arange(5, dtype=np.float32)


def result() -> Result:
    activations = {"L0.mlp": np.ones((2, 3), np.float32), "g.f4": np.array([0.5, 2.0], np.float32)}
    prompt = PromptResult(
        "generate", "fr", "The capital", (0, 7, 9), ("<s>", "The", " capital"),
        Side(LOGITS, activations, (3,), " a"), Side(LOGITS[::-1], activations, (4, 2), " bé"),
        (TokenChange(3, " a", 0.5, 0.25), TokenChange(4, " bé", 0.125, 0.75)), 0.75,
        (Firing("at L0.mlp ablate f1", "f1", 3, 2, 2),), {"L0.mlp": "0..1", "g.f4": "1, gen[0..]"},
        {"diff": Measured(1.5, float("nan")), "k": Measured(0.0, 0.25)}, "first", (("strength", "2"),), 3,
    )  # fmt: skip
    return Result("ab" * 32, "cd" * 32, "tiny", (prompt,), ("warning[S610]: nothing",))


def test_a_result_is_read_as_it_was_saved(tmp_path: Path) -> None:
    saved = result()
    saved.save(tmp_path / "deep" / "out")
    read = Result.load(tmp_path / "deep" / "out")
    assert read.to_json() == saved.to_json()
    assert read.warnings == saved.warnings
    (p,), (q,) = read.prompts, saved.prompts
    assert (p.label, p.values, p.statement, p.metrics["k"]) == (q.label, q.values, q.statement, q.metrics["k"])
    assert p.metrics["diff"].baseline == 1.5
    assert math.isnan(p.metrics["diff"].edited)
    for a, b in (
        (read.prompts[0].baseline, saved.prompts[0].baseline),
        (read.prompts[0].edited, saved.prompts[0].edited),
    ):
        assert np.array_equal(a.logits, b.logits)
        assert a.activations.keys() == b.activations.keys()
        assert all(np.array_equal(a.activations[k], b.activations[k]) for k in a.activations)
        assert (a.token_ids, a.text) == (b.token_ids, b.text)


def test_a_table_has_a_row_for_each_prompt_and_token() -> None:
    shared = {"step": 0, "kind": "generate", "prompt": "fr", "kl": 0.75, "strength": "2"}
    assert result().to_table() == [
        {**shared, "token": " a", "token_id": 3, "baseline": 0.5, "edited": 0.25, "difference": -0.25},
        {**shared, "token": " bé", "token_id": 4, "baseline": 0.125, "edited": 0.75, "difference": 0.625},
    ]


def test_metrics_are_averaged_over_the_prompts_of_a_run_and_a_combination() -> None:
    (p,) = result().prompts
    prompts = (
        replace(p, metrics={"m": Measured(1.0, 2.0)}),
        replace(p, metrics={"m": Measured(2.0, 6.0)}),
        replace(p, metrics={"m": Measured(9.0, math.nan)}),
        replace(p, metrics={"m": Measured(5.0, 5.5)}, values=(("strength", "4"),)),
    )
    means = replace(result(), prompts=prompts).metrics
    assert [(m.values, m.metric, m.baseline, m.edited, m.difference, m.n) for m in means] == [
        ((("strength", "2"),), "m", 1.5, 4.0, 2.5, 2),
        ((("strength", "4"),), "m", 5.0, 5.5, 0.5, 1),
    ]
    assert {(m.statement, m.label) for m in means} == {(3, "first")}
    rows = replace(result(), prompts=prompts).metric_table()
    assert rows[1] == {
        "step": 1, "kind": "generate", "label": "first", "prompt": "fr", "strength": "2",
        "metric": "m", "baseline": 2.0, "edited": 6.0, "difference": 4.0,
    }  # fmt: skip


def test_a_result_of_the_first_version_is_read(tmp_path: Path) -> None:
    result().save(tmp_path / "out")

    def older(data: dict[str, Any]) -> None:
        data["saedsl_result"] = 1
        del data["metrics"]
        for p in data["prompts"]:
            for key in ("label", "statement", "values", "metrics"):
                del p[key]
            for f in p["firings"]:
                del f["held"]

    edit(tmp_path / "out", older)
    (p,) = Result.load(tmp_path / "out").prompts
    assert (p.metrics, p.label, p.values, p.statement) == ({}, None, (), 0)
    assert p.firings == result().prompts[0].firings


def test_a_result_may_take_the_place_of_a_result_or_of_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for _ in range(2):
        result().save(tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"result.json", "arrays.safetensors"}
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ResultError, match=r"holds notes\.txt, which saving would delete"):
        result().save(tmp_path / "out")


def test_anything_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, said in (
        ("folder", "holds thesis.txt, which saving would delete; choose a new or empty folder"),
        ("file", "not a folder; choose another path"),
    ):
        with pytest.raises(ResultError) as e:
            result().save(tmp_path / name)
        assert str(e.value) == f"{tmp_path / name}: {said}"
    with pytest.raises(ResultError, match="cannot be written"):
        result().save(tmp_path / "file" / "out")
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {"folder", "folder/thesis.txt", "file"}


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result().save(tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResultError, match=r"out: cannot be written \(No space left on device\)"):
        result().save(tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / "result.json").read_text())
    change(data)
    (folder / "result.json").write_text(json.dumps(data))


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("no folder", shutil.rmtree, "cannot be read as a result"),
    ("no arrays", lambda d: (d / "arrays.safetensors").unlink(), "cannot be read as a result"),
    ("cut arrays", lambda d: (d / "arrays.safetensors").write_bytes(b"\x40"), "cannot be read as a result"),
    ("junk", lambda d: (d / "result.json").write_bytes(b"\xff\xfe\x00"), "cannot be read as a result"),
    ("a list", lambda d: (d / "result.json").write_text("[]"), "cannot be read as a result"),
    ("a later version", lambda d: edit(d, lambda r: r.update(saedsl_result=99)), "not a result of this version"),
    ("a missing key", lambda d: edit(d, lambda r: r.pop("prompts")), "cannot be read as a result"),
]


@pytest.mark.parametrize(("what", "damage", "said"), DAMAGE, ids=[d[0] for d in DAMAGE])
def test_a_damaged_result_is_refused(what: str, damage: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    result().save(tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(ResultError, match=said):
        Result.load(tmp_path / "out")
