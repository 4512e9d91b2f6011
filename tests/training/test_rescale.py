"""Scales that undo shrinkage: held against the normal equations, solved densely in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.sae.config import DictionaryConfig
from saedsl.sae.dictionary import SAE
from saedsl.training import SAEConfig, evaluate, train
from saedsl.training.rescale import PULL, rescaled, scales

RNG = np.random.default_rng(0)
D, F, N = 24, 40, 900
W = RNG.standard_normal((F, D)).astype(np.float32)
W /= np.linalg.norm(W, axis=1, keepdims=True)
TRUTH = (np.maximum(RNG.standard_normal((N, F)) - 1.5, 0) * 3).astype(np.float32)
X = TRUTH @ W


def dictionary(activation: Any) -> SAE:
    config = DictionaryConfig(d_in=D, d_out=D, d_sae=F, activation=activation)
    weights: dict[str, Any] = {"W_enc": mx.array(W.T * 0.6), "W_dec": mx.array(W), "b_dec": mx.zeros(D)}
    some = mx.array(RNG.standard_normal(F).astype(np.float32) * 0.1 - 0.3)
    if activation == "relu":
        return SAE(config, **weights, b_enc=some)
    return SAE(config, **weights, b_gate=some, r_mag=mx.zeros(F), b_mag=some * 0.5)


@pytest.mark.parametrize("activation", ["relu", "gated"])
@pytest.mark.parametrize("weight", [1.0, np.linspace(0.5, 2, D)])
def test_scales_solve_the_least_squares_of_the_features_sizes(activation: str, weight: Any) -> None:
    sae = dictionary(activation)
    f = np.array(sae.encode(mx.array(X)), np.float64)
    w = W.astype(np.float64) * weight
    A = (f.T @ f) * (w @ w.T)
    left = (X - f @ W) * weight
    pull = PULL * np.diag(A).mean()
    expected = 1 + np.linalg.solve(A + pull * np.eye(F), ((f.T @ left) * w).sum(axis=1))
    found = scales(sae, X, X, weight)
    assert expected.min() > 0.1
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("activation", ["relu", "gated"])
def test_the_same_features_fire_stronger_and_reconstruct_better(activation: str) -> None:
    sae = dictionary(activation)
    new = rescaled(sae, X, X)
    before, after = (np.array(s.encode(mx.array(X))) for s in (sae, new))
    np.testing.assert_array_equal(before > 0, after > 0)
    fires = before.sum(axis=0) > 1
    ratio = after.sum(axis=0)[fires] / before.sum(axis=0)[fires]
    np.testing.assert_allclose(ratio, scales(sae, X, X)[fires], rtol=1e-4)
    np.testing.assert_array_equal(np.array(new.W_dec), np.array(sae.W_dec))
    assert evaluate(new, X).explained_variance > evaluate(sae, X).explained_variance + 0.02


def test_a_dictionary_in_which_nothing_fires_stays_as_it_is() -> None:
    sae = replace(dictionary("relu"), b_enc=mx.full(F, -1e6))
    np.testing.assert_array_equal(scales(sae, X, X), 1)


def test_training_rescales_l1_dictionaries_and_can_leave_it() -> None:
    config = SAEConfig(
        sae_type="relu", target_l0=5.0, d_sae=F, batch_size=64, num_tokens=64 * 200, learning_rate=5e-3,
        validation_share=0.0,
    )  # fmt: skip
    plain, mended = (train(X, replace(config, rescale=r), progress=False).sae for r in (False, True))
    assert evaluate(mended, X).explained_variance > evaluate(plain, X).explained_variance
    assert evaluate(mended, X).l0 == evaluate(plain, X).l0
    assert abs(evaluate(mended, X).shrinkage - 1) < abs(evaluate(plain, X).shrinkage - 1)
