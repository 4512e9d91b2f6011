"""Losses and hand-written gradients against the definitions in float64 and against finite differences."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from saedsl.training.kernels import Weights, select_batch_top_k, select_top_k
from saedsl.training.losses import Aux, Losses, losses, pre_activations

D_IN, D_OUT, F, B, K = 5, 4, 24, 16, 3
Arrays = dict[str, np.ndarray]
DEAD = np.array([2, 7, 11, 20])


def example(is_transcoder: bool) -> tuple[Arrays, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    d_out = D_OUT if is_transcoder else D_IN
    x = rng.standard_normal((B, D_IN))
    y = rng.standard_normal((B, d_out)) if is_transcoder else x
    w = {
        "W_enc": rng.standard_normal((D_IN, F)),
        "b_enc": rng.standard_normal(F) * 0.1,
        "W_dec": rng.standard_normal((F, d_out)),
        "b_dec": rng.standard_normal(d_out) * 0.1,
    }
    return w, x, y


def ours(w: Arrays, x: np.ndarray, y: np.ndarray, is_transcoder: bool, aux: Aux, batch: bool) -> Losses:
    weights: Weights = {name: mx.array(value.astype(np.float32)) for name, value in w.items()}
    u, pre = pre_activations(weights, mx.array(x.astype(np.float32)), not is_transcoder)
    chosen = (select_batch_top_k if batch else select_top_k)(pre, K)
    return losses(weights, u, pre, chosen, mx.array(y.astype(np.float32)), not is_transcoder, aux)


def definition(
    w: Arrays,
    x: np.ndarray,
    y: np.ndarray,
    is_transcoder: bool,
    aux: Aux,
    batch: bool,
    missing: np.ndarray | None,
) -> tuple[float, float, np.ndarray]:
    """Both losses and the residual, token by token; the auxiliary loss holds `missing` fixed."""
    pre = (x if is_transcoder else x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    border = np.sort(pre.ravel())[-B * K] if batch else np.sort(pre, axis=1)[:, -K:][:, :1]
    f = np.where((pre >= border) & (pre > 0), pre, 0)
    left = y - (f @ w["W_dec"] + w["b_dec"])
    fixed = left if missing is None else missing
    main, extra = 0.0, 0.0
    for t in range(B):
        main += (left[t] ** 2).sum() / B
        best = sorted(aux.dead, key=lambda j: -pre[t, j])[: aux.k]
        z = sum((max(pre[t, j], 0) * w["W_dec"][j] for j in best), start=np.zeros(y.shape[1]))
        extra += ((z - fixed[t]) ** 2).sum() / B
    return main, aux.coefficient * min(len(aux.dead) / aux.k, 1) * extra, left


@pytest.mark.parametrize("is_transcoder", [False, True])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("aux", [Aux(DEAD, 2, 0.5), Aux(DEAD, 8, 0.5)], ids=["fewer", "all"])
def test_losses_and_gradients_are_those_of_the_definition(is_transcoder: bool, batch: bool, aux: Aux) -> None:
    w, x, y = example(is_transcoder)
    got = ours(w, x, y, is_transcoder, aux, batch)
    main, extra, fixed = definition(w, x, y, is_transcoder, aux, batch, None)
    assert float(got.reconstruction) == pytest.approx(main, rel=1e-4)
    assert float(got.aux) == pytest.approx(extra, rel=1e-4)
    step = 1e-6
    for name, value in w.items():
        expected = np.zeros_like(value)
        for place in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                moved = {**w, name: value.copy()}
                moved[name][place] += sign * step
                ends.append(sum(definition(moved, x, y, is_transcoder, aux, batch, fixed)[:2]))
            expected[place] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(np.array(got.gradients[name]), expected, rtol=2e-3, atol=2e-4, err_msg=name)


def test_no_dead_feature_no_auxiliary_loss() -> None:
    w, x, y = example(False)
    none = Aux(np.array([], np.int64), 2, 0.5)
    got = ours(w, x, y, False, none, True)
    assert float(got.aux) == 0
    off = ours(w, x, y, False, Aux(DEAD, 2, 0.0), True)
    assert all(mx.array_equal(off.gradients[n], got.gradients[n]) for n in w)


def test_fired_and_l0_count_features() -> None:
    w, x, y = example(False)
    got = ours(w, x, y, False, Aux(DEAD, 2, 0.5), True)
    assert float(got.l0) == K
    assert got.fired.shape == (F,)
