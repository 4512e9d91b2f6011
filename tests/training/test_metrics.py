"""Evaluation against the definitions, over all tokens at once."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.errors import TrainingError
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.dictionary import SAE
from saedsl.training import ce_recovered, evaluate
from saedsl.training.metrics import measure

D, F = 6, 30


def make(kind: str = "sae") -> SAE:
    transcoder = kind == "transcoder"
    config = DictionaryConfig(D, F, D, "topk", k=4, kind=kind, apply_b_dec_to_input=not transcoder)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {n: mx.array(0.4 * rng.standard_normal(s)) for n, s in config.weight_shapes.items()}
    return SAE(config, **weights)


X = np.random.default_rng(1).standard_normal((101, D)).astype(np.float32) + 3


@pytest.mark.parametrize("batch", [7, 101, 4096])
def test_measures_are_the_definitions_whatever_the_batch(batch: int) -> None:
    sae = make()
    got = evaluate(sae, X, batch=batch)
    f, out = (np.array(a).astype(np.float64) for a in (sae.encode(mx.array(X)), sae(mx.array(X))))
    x = X.astype(np.float64)
    variance = (x**2).sum(axis=1).mean() - (x.mean(axis=0) ** 2).sum()
    assert got.tokens == 101
    assert got.l0 == pytest.approx((f > 0).sum(axis=1).mean())
    assert got.l1 == pytest.approx(f.sum(axis=1).mean())
    assert got.mse == pytest.approx(((x - out) ** 2).sum(axis=1).mean())
    assert got.explained_variance == pytest.approx(1 - got.mse / variance)
    assert got.l0_sparsity == pytest.approx((f > 0).mean())
    spread = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
    assert got.explained_variance_legacy == pytest.approx((1 - ((x - out) ** 2).sum(axis=1) / spread).mean())
    centred = 1 - (x - out).var(axis=0).sum() / x.var(axis=0).sum()
    assert got.explained_variance_centred == pytest.approx(centred)
    assert got.shrinkage == pytest.approx((out**2).sum() / (x * out).sum())
    assert got.density == pytest.approx((f > 0).mean(axis=0))
    assert sum(got.density_histogram) == int((f > 0).any(axis=0).sum())
    lengths = np.linalg.norm(x, axis=1), np.linalg.norm(out, axis=1)
    assert got.cosine == pytest.approx(((x * out).sum(axis=1) / lengths[0] / lengths[1]).mean())
    assert got.l2_ratio == pytest.approx((lengths[1] / lengths[0]).mean())
    assert got.dead == pytest.approx(1 - (f > 0).any(axis=0).mean())


def test_a_transcoder_is_measured_against_its_targets() -> None:
    sae = make("transcoder")
    assert evaluate(sae, X, np.array(sae(mx.array(X)))).explained_variance == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "x", "y", "message"),
    [
        (
            "transcoder",
            X,
            None,
            "a transcoder is measured against targets: evaluate(sae, activations, targets)",
        ),
        ("sae", X, X, "an SAE takes no targets: evaluate(sae, activations)"),
        ("transcoder", X, X[:5], "101 activations but 5 targets; they must be of the same tokens"),
        ("sae", X[:0], None, "activations is empty: [0, 6]; there is nothing to learn from"),
    ],
)
def test_what_cannot_be_measured_is_refused(kind: str, x: np.ndarray, y: np.ndarray | None, message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        evaluate(make(kind), x, y)
    assert str(caught.value) == message


def test_ce_recovered_is_1_for_no_loss_and_0_for_all_of_it() -> None:
    assert ce_recovered(2.0, 2.0, 5.0) == 1
    assert ce_recovered(2.0, 5.0, 5.0) == 0
    assert ce_recovered(2.0, 2.3, 5.0) == pytest.approx(0.9)
    with pytest.raises(TrainingError, match=r"nothing is lost there, so nothing can be recovered"):
        ce_recovered(2.0, 2.0, 2.0)


def test_the_batch_changes_nothing_but_rounding() -> None:
    sae, rng = make(), np.random.default_rng(3)
    x = (rng.standard_normal((5000, D)) * 10 ** rng.uniform(-3, 3, (5000, 1)) + 1e3).astype(np.float32)
    a, b = evaluate(sae, x, batch=17), evaluate(sae, x, batch=5000)
    for name in ("l0", "l1", "mse", "explained_variance", "explained_variance_centred", "cosine", "shrinkage"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6), name
    assert (a.density == b.density).all()


def test_constant_activations_have_no_explained_variance() -> None:
    got = evaluate(make(), np.ones((50, D), np.float32))
    assert np.isnan(got.explained_variance)
    assert np.isfinite(got.mse)


def test_densities_fall_into_half_decades() -> None:
    sae = make()
    got = evaluate(sae, X)
    by_hand = [0] * 14
    for density in got.density[got.density > 0]:
        by_hand[min(int((np.log10(density) + 7) * 2), 13)] += 1
    assert list(got.density_histogram) == by_hand


def test_data_that_differ_between_the_passes_are_refused() -> None:
    passes = iter([X, X[:50]])

    def chunks() -> Any:
        x = next(passes)
        return [(x, x)]

    with pytest.raises(TrainingError, match="101 tokens first and 50 when they were read again"):
        measure(make(), chunks)
    with pytest.raises(TrainingError, match="there are no tokens to measure the dictionary on"):
        measure(make(), list)
