"""The kernels of a step against sorts, loops and MLX's own optimizer."""

from __future__ import annotations

import mlx.core as mx
import mlx.optimizers
import numpy as np
import pytest

from saedsl.training.kernels import (
    Moments,
    adam,
    clip,
    nth_largest,
    project,
    select_batch_top_k,
    select_top_k,
    unit_rows,
)

RNG = np.random.default_rng(0)
PRE = RNG.standard_normal((32, 48)).astype(np.float32)


@pytest.mark.parametrize("hint", [0.0, 0.5, 1.5, 100.0])
@pytest.mark.parametrize("k", [1, 6, 40])
def test_batch_top_k_is_that_of_a_sort_whatever_the_hint(k: int, hint: float) -> None:
    chosen = select_batch_top_k(mx.array(PRE), k, hint)
    positive = np.sort(PRE[PRE > 0])[::-1]
    threshold = positive[min(32 * k, positive.size) - 1]
    assert chosen.threshold == pytest.approx(threshold, abs=0)
    np.testing.assert_array_equal(np.array(chosen.f), np.where(threshold <= PRE, np.maximum(PRE, 0), 0))


def test_top_k_keeps_k_of_each_row() -> None:
    f = np.array(select_top_k(mx.array(PRE), 6).f)
    assert ((f > 0).sum(axis=1) == 6).all()


def test_nothing_positive_keeps_nothing() -> None:
    assert nth_largest(np.array([-1.0, 0.0]), 1, 0.0) == 0.0
    assert not mx.any(select_batch_top_k(-mx.abs(mx.array(PRE)), 3).f).item()


def test_adam_is_that_of_mlx() -> None:
    w = {name: mx.array(RNG.standard_normal(5)) for name in ("a", "b")}
    zeros = {name: mx.zeros(5) for name in w}
    moments, ours, theirs = Moments(zeros, zeros), w, dict(w)
    optimizer = mlx.optimizers.Adam(learning_rate=0.01, bias_correction=True)
    for step in range(1, 6):
        g = {name: mx.array(RNG.standard_normal(5)) for name in w}
        ours, moments = adam(ours, g, moments, 0.01, step)
        theirs = optimizer.apply_gradients(g, theirs)
    for name in w:
        np.testing.assert_allclose(np.array(ours[name]), np.array(theirs[name]), rtol=1e-5)


def test_projected_gradients_do_not_lengthen_unit_rows() -> None:
    w = unit_rows({"W_dec": mx.array(RNG.standard_normal((7, 5)))})
    np.testing.assert_allclose(np.linalg.norm(np.array(w["W_dec"]), axis=1), np.ones(7), rtol=1e-6)
    g = project({"W_dec": mx.array(RNG.standard_normal((7, 5)))}, w)
    np.testing.assert_allclose(np.array((g["W_dec"] * w["W_dec"]).sum(axis=1)), np.zeros(7), atol=1e-6)


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    g = {"a": mx.array([3.0, 0.0]), "b": mx.array([[4.0]])}
    clipped = clip(g, 1.0)
    np.testing.assert_allclose(np.array(clipped["a"]), [0.6, 0], rtol=1e-5)
    np.testing.assert_allclose(np.array(clipped["b"]), [[0.8]], rtol=1e-5)
    assert all(mx.allclose(value, g[name]).item() for name, value in clip(g, 10.0).items())
