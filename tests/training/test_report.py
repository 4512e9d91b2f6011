"""The report of a run: JSON, figure, Weights & Biases, progress bar."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from saedsl.errors import TrainingError
from saedsl.training import SAEConfig, Trained, train

X = np.random.default_rng(0).standard_normal((2000, 12)).astype(np.float32) * np.arange(1, 13, dtype=np.float32)
CONFIG = SAEConfig(d_sae=48, k=4, learning_rate=1e-2, batch_size=50, num_tokens=50 * 250)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(X, CONFIG, ce_recovered=lambda sae: 0.75, progress=False)


def test_the_curve_and_the_held_out_measures_are_what_they_say(trained: Trained) -> None:
    report = trained.report
    assert (report.steps, report.tokens, report.d_sae, report.dead_window) == (250, 12_500, 48, 1_250)
    assert [p.step for p in report.curve] == [*range(2, 251, 2)]
    assert [v.step for v in report.validation] == [*range(25, 251, 25)]
    assert all(p.l0 == pytest.approx(4) and p.l0_sparsity == pytest.approx(4 / 48) for p in report.curve)
    last = report.validation[-1]
    assert last.explained_variance == pytest.approx(report.curve[-1].explained_variance, abs=0.1)
    assert last.l0_sparsity == last.l0 / 48
    assert report.ce_recovered == 0.75


def test_the_report_is_json(trained: Trained, tmp_path: Path) -> None:
    trained.report.save(tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["format"] == 1
    assert found["curve"][-1]["loss"] == trained.report.curve[-1].loss
    assert found["validation"][-1]["dead"] == trained.report.validation[-1].dead
    assert found["engine"] in ("fast", "portable")


def test_a_report_that_cannot_be_written_says_so(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"r\.json: the report cannot be written \(No such file or directory\)"):
        trained.report.save(tmp_path / "nowhere" / "r.json")


def test_the_report_is_written_beside_the_dictionary(tmp_path: Path) -> None:
    for _ in range(2):  # and may be written again
        train(X, CONFIG, save_path=tmp_path / "sae", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sae", "sae.report.json"]


def test_the_report_is_a_figure(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from saedsl.training.figures import save_figure

    figure = trained.report.figure()
    assert [a.get_ylabel() for a in figure.axes] == ["explained variance", "loss", "L0", "dead features of 48"]
    lines = figure.axes[0].get_lines()
    np.testing.assert_array_equal(lines[1].get_ydata(), [v.explained_variance for v in trained.report.validation])
    save_figure(figure, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 10_000


def test_a_bar_is_drawn_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, drawn in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        train(X, CONFIG)
        assert ("explained" in stream.getvalue()) == drawn


def log_records(raw: bytes) -> list[bytes]:
    """The records of a log in LevelDB's format, after wandb's own header of 7 bytes."""
    found, part, at = [], b"", 7
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        part += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            found.append(part)
            part = b""
    return found


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_keeps_the_curve_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from dataclasses import replace

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    train(X, replace(CONFIG, use_wandb=True, wandb_project="saedsl-test"), progress=False)
    import wandb

    wandb.teardown()  # its own process writes the file, and is waited for by nothing else
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    from wandb.proto import wandb_internal_pb2 as pb

    steps: list[int] = []
    keys: set[str] = set()
    for data in log_records(file.read_bytes()):
        record = pb.Record()
        record.ParseFromString(data)
        if record.history.item:
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            keys |= set(items)
            steps.append(items["_step"])
    assert {"explained_variance", "l0", "dead", "loss", "validation/explained_variance"} <= keys
    assert steps[-1] == 250


def test_without_the_package_weights_and_biases_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match=r"use_wandb needs the package wandb: pip install 'saedsl\[wandb\]'"):
        train(X, replace(CONFIG, use_wandb=True), progress=False)
