"""Interrupted trainings end as if nothing had happened; what cannot go on says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saedsl.errors import SaedslWarning, SAEError, TrainingError
from saedsl.sae.dictionary import SAE
from saedsl.training import ArraySource, Interrupted, Job, SAEConfig, train, train_together
from saedsl.training import checkpoint as checkpoints
from saedsl.training.learner import Learner

ROOT = Path(__file__).parents[2]
X = np.random.default_rng(0).standard_normal((1500, 12)).astype(np.float32) @ np.diag(np.arange(1, 13)).astype(
    np.float32
)
CONFIG = SAEConfig(
    d_sae=48, k=4, learning_rate=1e-2, batch_size=64, num_tokens=64 * 60, checkpoint_every=7, dead_window=640
)
KINDS: dict[str, dict[str, Any]] = {
    "batchtopk": {},
    "topk, k warm-up": {"sae_type": "topk", "k_warm_up_steps": 30},
    "learnt k": {"target_variance": 0.6},
    "gated, steered": {"sae_type": "gated", "target_l0": 4.0},
    "jumprelu": {"sae_type": "jumprelu"},
    "ghost": {"use_ghost_grads": True},
    "resampling": {"resample_every": 640, "resample_until": 0.9},
    "curriculum": {"curriculum": "loss"},
}
SCRIPT = """
import sys, numpy as np
from saedsl.blas import preload; preload()
from pathlib import Path
from tests.training.test_resume import X, CONFIG
from dataclasses import replace
from saedsl.training import train
config = replace(CONFIG, num_tokens=64 * 150, checkpoint_every=2)
out = Path(sys.argv[1])
t = train(X, config, save_path=out, checkpoint_path=out.parent / "checkpoints", progress=False)
print(t.sae.sha256, t.report.resumed)
"""


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C is pressed while `step` is made."""
    original = Learner.step

    def pressed(self: Any, at: int, arrays: Any) -> Any:
        if at == step and self.task.outputs[0] in ("x", "L0.mlp"):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, at, arrays)

    monkeypatch.setattr(Learner, "step", pressed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_stopped_by_ctrl_c_and_resumed_equals_one_that_was_not(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, **KINDS[kind])
    whole = train(X, config, progress=False)
    with monkeypatch.context() as m:
        stop_after(m, 31)
        with pytest.raises(Interrupted) as caught:
            train(X, config, checkpoint_path=tmp_path / "c", progress=False)
    assert str(caught.value) == (
        f"training was stopped after step 31 of 60; {tmp_path / 'c'} holds the checkpoint: "
        "start it again in the same way to go on"
    )
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-00000031"]
    again = train(X, config, checkpoint_path=tmp_path / "c", progress=False)
    assert again.sae.sha256 == whole.sae.sha256
    assert again.report.curve == whole.report.curve
    assert again.report.validation == whole.report.validation
    assert again.report.resumed == (31,)


def test_several_dictionaries_resume_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ArraySource({"L0.mlp": X[:, :6].copy(), "L1.mlp": X[:, 6:].copy()})
    jobs = {s: Job(replace(CONFIG, k=k), (s,), (s,)) for s, k in (("L0.mlp", 3), ("L1.mlp", 4))}
    whole = train_together(source, jobs, progress=False)
    with monkeypatch.context() as m:
        stop_after(m, 20)
        with pytest.raises(Interrupted):
            train_together(source, jobs, save_path=tmp_path / "saes", progress=False)
    again = train_together(source, jobs, save_path=tmp_path / "saes", progress=False)
    for name, trained in again.items():
        assert trained.report.resumed == (20,)
        assert trained.report.curve == whole[name].report.curve
        assert np.array_equal(np.array(trained.sae.W_dec), np.array(whole[name].sae.W_dec))
    assert sorted(p.name for p in (tmp_path / "saes").iterdir()) == [
        "L0.mlp", "L0.mlp.report.json", "L1.mlp", "L1.mlp.report.json",
    ]  # fmt: skip
    assert not (tmp_path / "saes.checkpoint").exists()


def test_a_killed_process_resumes_bit_by_bit(tmp_path: Path) -> None:
    def start(name: str) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        out = tmp_path / name / "sae"
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(out)], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE
        )

    plain = start("plain").communicate(timeout=100)[0].split()
    folder = tmp_path / "killed" / "checkpoints"
    for least in (2, 60):
        process = start("killed")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if max((int(p.name[5:]) for p in folder.glob("step-*")), default=0) >= least:
                break
            time.sleep(0.001)
        process.kill()  # SIGKILL: in the middle of whatever it does, a checkpoint perhaps
        process.communicate()
    resumed = start("killed").communicate(timeout=100)[0].split()
    assert resumed[0] == plain[0]
    assert len(resumed) > 2, "it was never interrupted"
    assert SAE.load(tmp_path / "killed" / "sae").sha256 == SAE.load(tmp_path / "plain" / "sae").sha256


def test_a_full_disk_keeps_the_checkpoint_before_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(X, CONFIG, progress=False)
    fill = checkpoints._fill

    def full(place: Path, c: checkpoints.Checkpoint) -> None:
        fill(place, c)
        if c.step > 14:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(checkpoints, "_fill", full)
        stop_after(m, 30)
        with (
            pytest.warns(
                SaedslWarning, match=r"of step \d\d cannot be written \(No space left on device\); the one before"
            ),
            pytest.raises(Interrupted, match=r"step 30 of 60; .* the checkpoint of step 14: start it again"),
        ):
            train(X, CONFIG, checkpoint_path=tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000014"]
    again = train(X, CONFIG, checkpoint_path=tmp_path, progress=False)
    assert again.report.resumed == (14,)
    assert again.sae.sha256 == whole.sae.sha256


def test_a_dictionary_that_cannot_be_saved_is_kept_in_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: SAE, path: Path) -> SAE:
        raise SAEError(f"{path}: cannot be written (No space left on device)")

    with monkeypatch.context() as m:
        m.setattr(SAE, "save", full)
        with pytest.raises(SAEError, match="No space left"):
            train(X, CONFIG, save_path=tmp_path / "sae", progress=False)
    assert [p.name for p in (tmp_path / "sae.checkpoint").iterdir()] == ["step-00000060"]
    with monkeypatch.context() as m:
        m.setattr(Learner, "step", None)  # there is nothing left to train
        trained = train(X, CONFIG, save_path=tmp_path / "sae", progress=False)
    assert trained.sae.sha256 == train(X, CONFIG, save_path=tmp_path / "again", progress=False).sae.sha256
    assert not (tmp_path / "sae.checkpoint").exists()


def test_a_file_that_cannot_be_written_is_a_checkpoint_that_cannot(tmp_path: Path) -> None:
    found = checkpoints.Checkpoint(3, {}, {}, {"a": np.ones(4)})
    checkpoints.write_checkpoint(tmp_path / "c", found)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        checkpoints.write_checkpoint(tmp_path / "file", found)
    broken = checkpoints.Checkpoint(4, {}, {"not JSON": object()}, {})
    with pytest.raises(TypeError):
        checkpoints.write_checkpoint(tmp_path / "c", broken)
    read = checkpoints.read_checkpoint(tmp_path / "c")
    assert read is not None
    assert read.step == 3
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-00000003"]


def test_a_checkpoint_that_is_half_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may be killed while it removes the last one, after the dictionary was saved."""
    whole = train(X, CONFIG, save_path=tmp_path / "sae", progress=False)

    class Killed(BaseException):
        pass

    def killed(path: Path, ignore_errors: bool = False) -> None:
        for file in path.glob("*.json"):
            file.unlink()
            raise Killed

    place = tmp_path / "other.checkpoint"
    with monkeypatch.context() as m:
        stop_after(m, 31)
        with pytest.raises(Interrupted):
            train(X, CONFIG, save_path=tmp_path / "other", progress=False)
    with monkeypatch.context() as m:
        m.setattr("shutil.rmtree", killed)
        with pytest.raises(Killed):
            checkpoints.remove_checkpoints(place)
    assert checkpoints.read_checkpoint(place) is None
    assert train(X, CONFIG, save_path=tmp_path / "other", progress=False).sae.sha256 == whole.sae.sha256
    assert not place.exists()


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"k": 3, "learning_rate": 0.5}, X, "k is 4 there and 3 here; learning_rate is 0.01 there and 0.5 here; go on"),
        ({}, X + 1, r"the activations are others \(their data, model, sites, order or share held out\); go on"),
        ({"checkpoint_every": 2}, X, None),
    ],
)
def test_a_checkpoint_goes_on_only_as_the_same_training(
    changes: dict[str, Any], data: np.ndarray, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as m:
        stop_after(m, 9)
        with pytest.raises(Interrupted):
            train(X, CONFIG, checkpoint_path=tmp_path, progress=False)
    if message is None:
        assert train(data, replace(CONFIG, **changes), checkpoint_path=tmp_path, progress=False).report.resumed == (9,)
        return
    with pytest.raises(TrainingError, match=f"^{tmp_path} holds the checkpoint of another training: {message}"):
        train(data, replace(CONFIG, **changes), checkpoint_path=tmp_path, progress=False)
    with pytest.raises(TrainingError, match="holds a checkpoint of step 9: resume it, or delete the folder"):
        train(X, CONFIG, checkpoint_path=tmp_path, resume=False, progress=False)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("state.safetensors", b"\0" * 100, r"damaged, its hash is not the one that state\.json says; delete"),
        ("state.json", b"{", r"state\.json: damaged \(JSONDecodeError"),
        ("state.json", b'{"format": 99}', r"written by a newer saedsl \(format 99, this one reads 1\); update it"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    file: str, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as m:
        stop_after(m, 2)
        with pytest.raises(Interrupted):
            train(X, CONFIG, checkpoint_path=tmp_path, progress=False)
    (tmp_path / "step-00000002" / file).write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        train(X, CONFIG, checkpoint_path=tmp_path, progress=False)


def test_without_a_folder_ctrl_c_says_that_nothing_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 5)
    with pytest.raises(Interrupted, match="nothing was kept: give a save_path or checkpoint_path"):
        train(X, CONFIG, progress=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_activations_that_break_off_lose_nothing_that_was_kept(tmp_path: Path) -> None:
    source = ArraySource({"x": X})

    class Failing(ArraySource):
        def batches(self, size: int, seed: int, cursor: Any = None) -> Any:
            for i, batch in enumerate(source.batches(size, seed, cursor)):
                if i == 10:
                    raise TrainingError("the shard is cut short")
                yield batch

    config = replace(CONFIG, validation_share=0.0)
    with pytest.raises(TrainingError, match="the shard is cut short"):
        train(Failing({"x": X}), config, checkpoint_path=tmp_path, progress=False)
    assert train(source, config, checkpoint_path=tmp_path, progress=False).report.resumed == (7,)
