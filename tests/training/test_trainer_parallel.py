"""Two processes train what one trains: the same global batches, the same dead features, one writer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saedsl.errors import TrainingError
from saedsl.sae.dictionary import SAE
from saedsl.training import SAEConfig, train
from tests.training.launch import launch

X = (np.random.default_rng(0).standard_normal((1200, 10)) * np.arange(1, 11)).astype(np.float32)
CONFIG = SAEConfig(
    d_sae=40, k=3, learning_rate=5e-3, batch_size=60, num_tokens=60 * 25, dead_window=300, resample_every=600,
    curriculum="loss", checkpoint_every=10,
)  # fmt: skip
PLAIN = SAEConfig(d_sae=40, k=3, learning_rate=5e-3, batch_size=60, num_tokens=60, validation_share=0)
SCRIPT = """
from saedsl.blas import preload; preload()
from saedsl.training import train
from saedsl.training.parallel import join
from tests.training.test_trainer_parallel import CONFIG, X
trained = train(X, CONFIG, save_path=OUT / "sae", parallel=join({split!r}), progress=False)
(OUT / f"{{RANK}}.txt").write_text(f"{{trained.sae.sha256}} {{trained.report.curve[-1].dead}}")
"""


@pytest.mark.parametrize("split", ["data", "latents"])
def test_two_processes_train_the_dictionary_of_one(split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saedsl.training.loop.find_spec", lambda name: None)  # no numba: the same engine alone
    alone = train(X, CONFIG, progress=False)
    done = launch(SCRIPT.format(split=split), tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"{r}.txt").read_text().split() for r in range(2))
    assert first == second
    assert int(first[1]) == alone.report.curve[-1].dead
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("sae")) == ["sae", "sae.report.json"]
    together = SAE.load(tmp_path / "sae")
    for name, value in alone.sae.numpy_weights().items():
        np.testing.assert_allclose(together.numpy_weights()[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


LONG = """
from dataclasses import replace
import numpy as np
from saedsl.blas import preload; preload()
from saedsl.training import train
from saedsl.training.parallel import join
from tests.training.test_trainer_parallel import PLAIN, X
p = join({split!r})
for steps in (1, 200):
    t = train(X, replace(PLAIN, num_tokens=60 * steps), parallel=p, progress=False)
    if p.rank == 0:
        np.savez(OUT / f"{{steps}}.npz", loss=t.report.curve[-1].reconstruction, **t.sae.numpy_weights())
"""


@pytest.mark.slow
def test_one_step_is_equal_to_1e_6_and_the_loss_of_200_to_a_thousandth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saedsl.training.loop.find_spec", lambda name: None)
    done = launch(LONG.format(split="data"), tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr
    first, last = (dict(np.load(tmp_path / f"{n}.npz")) for n in (1, 200))
    one = train(X, replace(PLAIN, num_tokens=60), progress=False)
    for name, value in one.sae.numpy_weights().items():
        np.testing.assert_allclose(first[name], value, rtol=0, atol=1e-6, err_msg=name)
    long = train(X, replace(PLAIN, num_tokens=60 * 200), progress=False).report.curve
    assert float(last["loss"]) == pytest.approx(long[-1].reconstruction, rel=1e-3)
    assert long[-1].reconstruction < 0.5 * long[0].reconstruction  # it learnt


def test_a_batch_that_does_not_divide_is_refused() -> None:
    class Three:
        split, rank, size = "data", 0, 3

    three: Any = Three()
    with pytest.raises(TrainingError, match="a batch of 64 tokens does not divide into 3 processes"):
        train(X, SAEConfig(d_sae=40, k=3, batch_size=64), parallel=three, progress=False)
