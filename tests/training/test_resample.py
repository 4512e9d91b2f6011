"""Dead features that start anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from saedsl.training import SAEConfig, train
from saedsl.training.engine import Arrays, Form
from saedsl.training.initial import initial_weights
from saedsl.training.learner import Learner
from saedsl.training.resample import new_features, token_losses

RNG = np.random.default_rng(0)


def weights(n_features: int = 6, d: int = 4, **more: np.ndarray) -> dict[str, np.ndarray]:
    w = {"W_enc": RNG.standard_normal((d, n_features)), "W_dec": RNG.standard_normal((n_features, d))}
    return {**w, "b_enc": np.ones(n_features), "b_dec": np.arange(d) / 3.0, **more}


def test_a_dead_feature_gets_the_direction_of_a_badly_explained_token() -> None:
    w, x = weights(), RNG.standard_normal((50, 4)).astype(np.float32)
    left = np.full((50, 4), 1e-6, np.float32)
    left[17] = 5
    dead = np.array([4])
    rows = new_features(Form("topk"), w, x, left, dead, np.random.default_rng(0))
    towards = x[17] - w["b_dec"]
    towards /= np.linalg.norm(towards)
    living = np.linalg.norm(w["W_enc"][:, [0, 1, 2, 3, 5]], axis=0).mean()
    np.testing.assert_allclose(rows["W_dec"], [towards], rtol=1e-5)
    np.testing.assert_allclose(rows["W_enc"], 0.2 * living * towards[:, None], rtol=1e-5)
    assert not rows["b_enc"].any()


def test_a_transcoder_writes_what_is_left_and_reads_from_the_middle_of_its_input() -> None:
    w, x = weights(), RNG.standard_normal((50, 4)).astype(np.float32) + 10
    left = np.full((50, 4), 1e-6, np.float32)
    left[3] = [0, 2, 0, 0]
    rows = new_features(Form("relu", subtract_b_dec=False), w, x, left, np.array([2]), np.random.default_rng(0))
    np.testing.assert_allclose(rows["W_dec"], [[0, 1, 0, 0]], atol=1e-6)
    at_middle = x.mean(axis=0) @ rows["W_enc"] + rows["b_enc"]
    np.testing.assert_allclose(at_middle, 0, atol=1e-4)
    assert (x[3] @ rows["W_enc"] + rows["b_enc"] > 0).all()


@pytest.mark.parametrize(
    ("activation", "names"),
    [
        ("gated", {"W_enc", "W_dec", "b_gate", "b_mag", "r_mag"}),
        ("jumprelu", {"W_enc", "W_dec", "b_enc", "log_threshold"}),
    ],
)
def test_every_weight_of_a_feature_starts_anew(activation: Any, names: set[str]) -> None:
    w, x = weights(log_threshold=np.arange(6.0)), RNG.standard_normal((9, 4)).astype(np.float32)
    rows = new_features(Form(activation), w, x, x, np.array([0]), np.random.default_rng(0))
    assert set(rows) == names
    if activation == "jumprelu":
        assert rows["log_threshold"] == [2.5]


def test_tokens_are_chosen_by_their_squared_loss() -> None:
    w, x = weights(), np.eye(4, dtype=np.float32)[np.arange(400) % 4] + np.arange(4) / 3.0
    left = np.where(np.arange(400)[:, None] < 200, 1.0, 2.0).astype(np.float32) * np.ones((400, 4), np.float32)
    counts = np.zeros(2)
    for seed in range(100):
        x = np.where(np.arange(400)[:, None] < 200, [1.0, 0, 0, 0], [0, 1.0, 0, 0]) + w["b_dec"]
        rows = new_features(Form("topk"), w, x.astype(np.float32), left, np.arange(3), np.random.default_rng(seed))
        counts += [(rows["W_dec"][:, 0] > 0.5).sum(), (rows["W_dec"][:, 1] > 0.5).sum()]
    assert counts[1] / counts.sum() == pytest.approx(16 / 17, abs=0.03)  # losses 4 and 16, squared


def test_resampling_happens_when_it_should_and_revives_what_was_never_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    x = (RNG.random((4000, 64)) * (RNG.random((4000, 64)) < 3 / 64) @ RNG.standard_normal((64, 24))).astype(np.float32)
    at: list[int] = []
    original = Learner.resample

    def counted(self: Learner, step: int, source: Any) -> int:
        found = original(self, step, source)
        if found:
            at.append(step)
        return found

    def half_dead(*args: Any) -> Arrays:
        w = initial_weights(*args)
        w["b_enc"][::2] = -1000
        return w

    monkeypatch.setattr(Learner, "resample", counted)
    monkeypatch.setattr("saedsl.training.learner.initial_weights", half_dead)
    config = SAEConfig(
        d_sae=64, k=3, learning_rate=5e-3, batch_size=100, num_tokens=30_000, dead_window=2_000, aux_coefficient=0
    )
    without = train(x, config, progress=False)
    assert not at
    with_it = train(x, replace(config, resample_every=4_000, resample_until=0.5), progress=False)
    assert at[0] == 40
    assert set(at) <= {40, 80, 120}
    assert with_it.report.resampled >= 32 > without.report.resampled
    assert without.report.curve[-1].dead >= 32 > with_it.report.curve[-1].dead + 8
    assert with_it.report.validation[-1].explained_variance > without.report.validation[-1].explained_variance + 0.02


def test_losses_of_tokens_are_those_of_the_scaled_targets() -> None:
    x = RNG.standard_normal((300, 6)).astype(np.float32)
    sae = train(x, SAEConfig(d_sae=12, k=2, batch_size=50, num_epochs=1, validation_share=0.0), progress=False).sae
    import mlx.core as mx

    want = np.square((x - np.array(sae(mx.array(x)))) * 3.0).sum(axis=1)
    np.testing.assert_allclose(token_losses(sae, x, x, np.full(6, 3.0, np.float32), 77), want, rtol=1e-4)
