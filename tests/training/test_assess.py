"""A dictionary held against a model and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

import saedsl
from saedsl.cli import cli
from saedsl.errors import SAEError, TrainingError
from saedsl.sites import Site
from saedsl.training.assess import assess
from saedsl.training.harvest import batches, harvest, recovered
from saedsl.training.metrics import evaluate

TEXTS = [
    "The capital of France is Paris.",
    "Mary went to the store.",
    "The capital of Spain is Madrid and it is old.",
    "",
]


@pytest.fixture(scope="module")
def demo() -> Any:
    return saedsl.load_demo()


def test_measures_are_those_of_the_activations_and_of_the_loss(demo: Any) -> None:
    sae, site = demo.saes["L1.resid_post"], Site(1, "resid_post")
    got = assess(demo.model, sae, lambda: TEXTS)
    want = evaluate(sae, harvest(demo.model, TEXTS, [site])[site])
    for name in ("tokens", "l0", "mse", "explained_variance", "dead"):
        assert getattr(got.evaluation, name) == pytest.approx(getattr(want, name), rel=1e-6), name
    rows = list(batches(demo.model, TEXTS))
    assert got.effect.ce_recovered == pytest.approx(recovered(demo.model, sae, rows), rel=1e-5)


def test_a_transcoder_is_held_against_what_the_mlp_writes(demo: Any) -> None:
    got = assess(demo.model, demo.transcoders["L0.mlp"], lambda: TEXTS)
    x = harvest(demo.model, TEXTS, [Site(0, "mlp.in"), Site(0, "mlp")])
    want = evaluate(demo.transcoders["L0.mlp"], x[Site(0, "mlp.in")], x[Site(0, "mlp")])
    assert got.evaluation.explained_variance == pytest.approx(want.explained_variance, rel=1e-6)
    assert got.to_json()["reads"] == "L0.mlp.in"


def test_reading_stops_at_max_tokens_in_every_pass(demo: Any) -> None:
    seen: dict[str, int] = {}
    got = assess(demo.model, demo.saes["L2.mlp"], lambda: TEXTS, max_tokens=8, progress=seen.__setitem__, context=6)
    assert got.evaluation.tokens == got.effect.tokens == seen["mean"] == seen["activations"] == seen["loss"]


def test_what_does_not_fit_is_refused(demo: Any) -> None:
    sae = demo.saes["L2.mlp"]
    with pytest.raises(SAEError, match=r"this model has no L9.mlp: its layers are L0..L3"):
        assess(demo.model, sae, lambda: TEXTS, sites=(Site(9, "mlp"),) * 2)
    with pytest.raises(SAEError, match=r"L2.mlp.act is \d+ wide, the dictionary reads 128"):
        assess(demo.model, sae, lambda: TEXTS, sites=(Site(2, "mlp.act"),) * 2)
    with pytest.raises(TrainingError, match="there are no tokens to measure the dictionary on"):
        assess(demo.model, sae, lambda: ["", ""])
    with pytest.raises(SAEError, match="does not say which site it reads and writes; name it"):
        assess(demo.model, sae.with_config(input_site=None, output_site=None), lambda: TEXTS)


def test_activations_that_are_no_numbers_are_said(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tokens: mx.array, sites: Any) -> dict[Site, mx.array]:
        return {s: mx.full((*tokens.shape, 128), np.nan) for s in sites}

    monkeypatch.setattr(type(demo.model), "activations", lambda self, tokens, sites: broken(tokens, sites))
    with pytest.raises(TrainingError, match=r"the model's activations at L2.mlp hold NaN or infinity"):
        assess(demo.model, demo.saes["L2.mlp"], lambda: TEXTS)


def test_the_command_writes_report_and_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    data, task = tmp_path / "t.jsonl", tmp_path / "task.jsonl"
    data.write_text("\n".join(json.dumps({"text": t}) for t in TEXTS))
    labelled = [(f"The capital of {c} is", "place") for c in ("France", "Spain", "Italy", "Japan")]
    labelled += [(f"{n} went to the store", "people") for n in ("Mary", "John", "Tom", "Anna")]
    task.write_text("\n".join(json.dumps({"text": t, "label": c}) for t, c in labelled))
    out, figure = tmp_path / "r.json", tmp_path / "r.svg"
    args = [
        "eval",
        "demo:L1.resid_post",
        "-d",
        str(data),
        "--probe",
        str(task),
        "--out",
        str(out),
        "--figure",
        str(figure),
    ]
    done = CliRunner().invoke(cli, [*args, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert json.loads(done.stdout) == report
    assert report["activations"]["explained_variance"] > 0.8
    assert report["model_effect"]["ce_recovered"] > 0.8
    assert [p["label"] for p in report["probes"]] == ["place"]
    before = figure.read_bytes()
    assert b"</svg>" in before
    assert "explained variance" in CliRunner().invoke(cli, args).stdout
    assert figure.read_bytes() == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--figure", "r.bmp"], "a figure is .pdf, .svg or .png"),
        (["--out", "nowhere/r.json"], "there is no folder nowhere"),
        (["--site", "L2.typo"], "typo"),
        (["--probe", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(tmp_path: Path, extra: list[str], message: str) -> None:
    data = tmp_path / "t.txt"
    data.write_text("The capital of France is Paris.")
    done = CliRunner().invoke(cli, ["eval", "demo:L2.mlp", "-d", str(data), *extra])
    assert done.exit_code == 2
    assert message in done.output
