"""Loss and divergence through a dictionary, against plain logits and a softmax in numpy."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import saedsl
from saedsl.errors import TrainingError
from saedsl.sites import Site
from saedsl.training.effect import ModelEffect, model_effect
from saedsl.training.harvest import batches, cross_entropy

SITE = Site(1, "resid_post")
TEXTS = ["The capital of France is Paris.", "Mary went to the store.", "x"]


@pytest.fixture(scope="module")
def demo() -> Any:
    return saedsl.load_demo()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    z = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
def test_losses_and_divergences_are_the_definitions(demo: Any, kind: str) -> None:
    sae = demo.saes["L1.resid_post"] if kind == "sae" else demo.transcoders["L0.mlp"]
    read, write = sae.config.input_site, sae.config.output_site
    model, sums, n = demo.model, np.zeros(5), 0
    for text in TEXTS:
        ids = model.encoder.encode(text).ids
        tokens = mx.array([ids])
        x = model.activations(tokens, [read])[read]

        def swap(y: mx.array, new: mx.array) -> mx.array:
            return mx.concatenate([y[:, :1], new[:, 1:]], axis=1)  # BOS stays

        made = sae(x)
        plain, through, zero = (
            log_softmax(np.array(model.forward(tokens, functions=f)[0])[0, :-1])
            for f in ({}, {write: lambda y, m=made: swap(y, m)}, {write: lambda y: swap(y, mx.zeros_like(y))})
        )
        target = np.array(ids[1:])
        rows = np.arange(len(target))
        for i, p in enumerate((plain, through, zero)):
            sums[i] -= p[rows, target].sum()
        for i, p in ((3, through), (4, zero)):
            sums[i] += (np.exp(plain) * (plain - p)).sum()
        n += len(target)
    got = model_effect(model, sae, batches(model, TEXTS), (read, write))
    want = ModelEffect(n, *(sums / n))
    for name in ("tokens", "ce_orig", "ce_sae", "ce_zero", "kl_sae", "kl_zero", "ce_recovered", "kl_score"):
        assert getattr(got, name) == pytest.approx(getattr(want, name), rel=1e-4, abs=1e-5), name
    assert got.ce_orig == pytest.approx(cross_entropy(model, batches(model, TEXTS)), rel=1e-6)
    assert got.ce_recovered > 0.8


def test_a_loss_that_zero_does_not_raise_has_nothing_to_recover() -> None:
    assert np.isnan(ModelEffect(3, 2.0, 2.0, 2.0, 0.0, 0.0).ce_recovered)
    assert np.isnan(ModelEffect(3, 2.0, 2.0, 2.0, 0.0, 0.0).kl_score)


def test_rows_of_one_token_predict_nothing(demo: Any) -> None:
    sae = demo.saes["L1.resid_post"]
    with pytest.raises(TrainingError, match="no token that another one precedes"):
        model_effect(demo.model, sae, [], (SITE, SITE))
