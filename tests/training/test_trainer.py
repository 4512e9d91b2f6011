"""Training on sparse data whose true directions are known, and everything that it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.errors import TrainingError
from saedsl.sae.config import thaw_metadata
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.training import ArraySource, SAEConfig, evaluate, train
from saedsl.training.engine import Arrays
from saedsl.training.initial import initial_weights

CONFIG = SAEConfig(d_sae=48, k=3, learning_rate=1e-2, batch_size=256, num_tokens=100_000, seed=1, validation_share=0.0)


def sparse_data(n: int = 6000, d: int = 16, directions: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that are sums of 3 of `directions` unit vectors, off centre and far from unit scale."""
    rng = np.random.default_rng(seed)
    true = rng.standard_normal((directions, d))
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    codes = np.zeros((n, directions))
    for row in codes:
        row[rng.choice(directions, 3, replace=False)] = rng.uniform(0.5, 1.5, 3)
    return (30 * (codes @ true) + 5).astype(np.float32), true


X, TRUE = sparse_data()
HOLED = np.where(np.arange(6000)[:, None] == 17, np.nan, X)


@pytest.mark.parametrize("sae_type", ["topk", "batchtopk"])
def test_the_directions_that_made_the_data_are_found(sae_type: Any) -> None:
    trained = train(X, replace(CONFIG, sae_type=sae_type), progress=False)
    quality = evaluate(trained.sae, X)
    assert quality.explained_variance > 0.9
    assert quality.l0 == pytest.approx(3, abs=0.25)
    best = np.abs(TRUE @ np.array(trained.sae.W_dec).T / np.linalg.norm(np.array(trained.sae.W_dec), axis=1)).max(
        axis=1
    )
    assert np.median(best) > 0.95


def test_the_threshold_of_a_short_run_keeps_k_features_on_unseen_data() -> None:
    config = replace(CONFIG, sae_type="batchtopk", d_sae=128, k=4, num_tokens=200 * 256)
    trained = train(X[:4800], config, progress=False)
    assert trained.report.steps == 200
    assert evaluate(trained.sae, X[4800:]).l0 == pytest.approx(config.k, rel=0.15)


def test_a_transcoder_learns_a_map_from_one_tensor_to_another() -> None:
    rng = np.random.default_rng(5)
    y = np.maximum(X @ rng.standard_normal((16, 12)).astype(np.float32), 0) / 10
    source = ArraySource({"L1.mlp.in": X, "L1.mlp": y}, {"model_name": "tiny", "context_size": 64})
    sae = train(source, replace(CONFIG, k=6), outputs=["L1.mlp"], progress=False).sae
    assert sae.config.is_transcoder
    assert (sae.config.input_site, sae.config.output_site) == (Site(1, "mlp.in"), Site(1, "mlp"))
    assert (sae.config.d_in, sae.config.d_out, sae.config.model_name) == (16, 12, "tiny")
    assert evaluate(sae, X, y).explained_variance > 0.8


def test_scaling_the_data_scales_the_reconstruction_and_nothing_else() -> None:
    config = replace(CONFIG, num_tokens=5120)
    one, thousand = (train(x, config, progress=False).sae for x in (X, X * 1024))
    np.testing.assert_allclose(
        np.array(thousand(mx.array(X * 1024))) / 1024, np.array(one(mx.array(X))), rtol=1e-3, atol=1e-2
    )


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    config = replace(CONFIG, num_tokens=5120)
    a, b, c = (train(X, cfg, progress=False).sae for cfg in (config, config, replace(config, seed=2)))
    assert a.sha256 == b.sha256 != c.sha256


def test_the_result_says_how_it_was_made_and_survives_saving(tmp_path: Path) -> None:
    config = replace(CONFIG, num_tokens=2560)
    trained = train(mx.array(X), config, progress=False)
    assert (trained.report.steps, trained.report.tokens) == (10, 2560)
    assert [p.step for p in trained.report.curve] == list(range(1, 11))
    assert thaw_metadata(trained.sae.config.metadata)["training"]["k"] == 3
    loaded = trained.sae.save(tmp_path / "sae")
    assert loaded.config == trained.sae.config
    assert mx.array_equal(SAE.load(tmp_path / "sae").encode(mx.array(X[:9])), trained.sae.encode(mx.array(X[:9])))


@pytest.mark.parametrize("revival", [{"aux_coefficient": 1.0}, {"use_ghost_grads": True}])
def test_features_that_are_too_weak_to_be_kept_are_revived(
    revival: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_weak(*args: Any) -> Arrays:
        w = initial_weights(*args)
        w["W_enc"][:, ::2] *= 1e-3
        return w

    monkeypatch.setattr("saedsl.training.learner.initial_weights", half_weak)
    config = replace(CONFIG, num_tokens=60_000, dead_window=5_000)
    dead = [
        train(X, replace(config, **change), progress=False).report.curve[-1].dead
        for change in ({"aux_coefficient": 0.0}, revival)
    ]
    assert dead[1] <= dead[0] - 4


@pytest.mark.parametrize(
    ("x", "changes", "message"),
    [
        (X[0], {}, "activations has shape [16]; one row per token is expected: [tokens, d]"),
        (X[:0], {}, "activations is empty: [0, 16]; there is nothing to learn from"),
        (HOLED, {}, "activations holds NaN or infinity in 1 rows, first in row 17; leave them out"),
        (X[:255], {}, "255 tokens are fewer than one batch of 256; lower batch_size"),
        (np.ones_like(X), {}, "activations are the same for all tokens; there is nothing to learn from"),
        (X, {"k": 49}, "k is 49, more than the 48 features there are; lower k or raise d_sae"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(x: np.ndarray, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        train(x, replace(CONFIG, **changes), progress=False)
    assert str(caught.value) == message


def test_targets_of_other_tokens_are_refused() -> None:
    with pytest.raises(TrainingError) as caught:
        train(X, CONFIG, targets=X[1:], progress=False)
    assert str(caught.value) == "6000 activations but 5999 targets; they must be of the same tokens"


def test_a_loss_that_explodes_is_reported_with_its_step() -> None:
    with pytest.raises(TrainingError, match=r"^the loss is (nan|inf) at step \d+; lower learning_rate \(now 1e\+30\)$"):
        train(X, replace(CONFIG, learning_rate=1e30, lr_warm_up_steps=0), progress=False)
