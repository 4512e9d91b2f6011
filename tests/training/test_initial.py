"""Weights before the first step: what they are of the data, for every form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saedsl.errors import TrainingError
from saedsl.training.engine import Activation, Form
from saedsl.training.initial import centre, initial_weights

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((200, 6)) + 3).astype(np.float32)
Y = (X @ RNG.standard_normal((6, 8)) - 1).astype(np.float32)
F = 24


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu", "gated"])
def test_arrays_are_those_of_the_form(activation: Activation) -> None:
    w = initial_weights(Form(activation, subtract_b_dec=False, skip=True), X, Y, F, 0)
    expected = {"W_enc": (6, F), "W_dec": (F, 8), "b_dec": (8,), "W_skip": (8, 6)}
    biases = {"gated": ["b_gate", "r_mag", "b_mag"], "jumprelu": ["b_enc", "log_threshold"]}.get(activation, ["b_enc"])
    assert {name: value.shape for name, value in w.items()} == expected | dict.fromkeys(biases, (F,))
    assert all(value.dtype == np.float32 and value.flags.c_contiguous for value in w.values())
    np.testing.assert_allclose(np.linalg.norm(w["W_dec"], axis=1), 1, rtol=1e-6)
    assert not w["W_skip"].any()


def test_an_autoencoder_is_tied_and_centred() -> None:
    w = initial_weights(Form("topk"), X, X, F, 0)
    np.testing.assert_array_equal(w["W_enc"], w["W_dec"].T)
    np.testing.assert_allclose(w["b_dec"], X.mean(axis=0), rtol=1e-6)
    assert not w["b_enc"].any()


def test_directions_are_half_way_to_tokens() -> None:
    tokens = (X - X.mean(axis=0)) / np.linalg.norm(X - X.mean(axis=0), axis=1, keepdims=True)
    nearest = (initial_weights(Form("topk"), X, X, 1000, 0)["W_dec"] @ tokens.T).max(axis=1)
    assert np.median(nearest) > 0.7
    at_rest = initial_weights(Form("topk"), np.ones_like(X), np.ones_like(X), F, 0)["W_dec"]
    np.testing.assert_allclose(np.linalg.norm(at_rest, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("activation", ["topk", "gated"])
def test_without_b_dec_the_encoder_biases_centre_the_input(activation: Activation) -> None:
    for y in (X, Y):
        w = initial_weights(Form(activation, subtract_b_dec=False), X, y, F, 0)
        for bias in ("b_gate", "b_mag") if activation == "gated" else ("b_enc",):
            np.testing.assert_allclose((X @ w["W_enc"] + w[bias]).mean(axis=0), 0, atol=1e-4)


def test_a_transcoders_rows_are_where_the_linear_map_takes_its_columns() -> None:
    w = initial_weights(Form("topk", subtract_b_dec=False), X, Y, F, 0)
    linear = np.linalg.lstsq(X - X.mean(axis=0), Y - Y.mean(axis=0), rcond=None)[0]
    rows = w["W_enc"].T @ linear
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(w["W_dec"], rows, atol=5e-3)


def test_features_of_a_cross_layer_transcoder_read_one_layer_and_write_later_ones() -> None:
    """Each layer's features are a transcoder's of that layer's input and all outputs from it on."""
    w = initial_weights(Form("topk", subtract_b_dec=False, layers=2), X, Y, F, 0)
    assert w["W_enc"].shape == (3, F)
    assert not w["W_dec"][F // 2 :, :4].any()
    assert (w["W_dec"][: F // 2] != 0).all()
    for layer in (0, 1):
        mine, x, y = slice(layer * 12, layer * 12 + 12), X[:, layer * 3 : layer * 3 + 3], Y[:, layer * 4 :]
        linear = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(axis=0), rcond=None)[0]
        rows = w["W_enc"][:, mine].T @ linear
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(w["W_dec"][mine, layer * 4 :], rows, atol=1e-2)
        np.testing.assert_allclose((x @ w["W_enc"][:, mine] + w["b_enc"][mine]).mean(axis=0), 0, atol=1e-4)


def test_a_sixth_of_the_features_of_a_jumprelu_fire_at_first() -> None:
    w = initial_weights(Form("jumprelu"), X, X, 1000, 0)
    fires = (X - w["b_dec"]) @ w["W_enc"] > np.exp(w["log_threshold"])
    assert 0.14 < fires.mean() < 0.18


def test_the_geometric_median_has_the_least_summed_distance_and_outliers_do_not_move_it() -> None:
    data = np.concatenate([X, np.full((20, 6), 1e3, np.float32)])
    median = centre(data, "geometric_median").astype(np.float64)

    def summed(point: np.ndarray) -> float:
        return float(np.linalg.norm(data - point, axis=1).sum())

    for axis in np.eye(6):
        for step in (-0.02, 0.02):
            assert summed(median + step * axis) > summed(median)
    assert np.linalg.norm(median - 3) < 0.5 < 100 < np.linalg.norm(data.mean(axis=0) - 3)


def test_the_geometric_median_of_equal_rows_and_of_a_row_that_is_met() -> None:
    np.testing.assert_allclose(centre(np.ones((5, 3), np.float32), "geometric_median"), 1)
    line = np.array([[-1.0], [0.0], [0.0], [0.0], [10.0]], np.float32)
    np.testing.assert_allclose(centre(line, "geometric_median"), 0, atol=1e-4)


def test_zeros_are_zeros_and_leave_the_encoder_uncentred() -> None:
    w = initial_weights(Form("topk", subtract_b_dec=False), X, Y, F, 0, "zeros")
    assert not w["b_dec"].any()
    assert not w["b_enc"].any()


def test_equal_arguments_give_equal_weights_and_another_seed_others() -> None:
    first, again, other = (initial_weights(Form("relu"), X, X, F, seed)["W_dec"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(
    ("form", "d_sae", "words"),
    [
        (Form("topk"), F, "b_dec has 8 entries and cannot be subtracted from inputs of 6; leave subtract_b_dec off"),
        (Form("topk", subtract_b_dec=False, layers=4), F, "6 inputs do not divide into 4 layers"),
        (Form("topk", subtract_b_dec=False, layers=2), 25, "25 features do not divide into 2 layers"),
        (
            Form("topk", subtract_b_dec=False, prefixes=(4, 12)),
            F,
            "prefixes [4, 12] do not ascend to the 24 features there are",
        ),
    ],
)
def test_widths_that_do_not_fit_are_refused(form: Form, d_sae: int, words: str) -> None:
    with pytest.raises(TrainingError) as error:
        initial_weights(form, X, Y, d_sae, 0)
    assert str(error.value) == words


def test_inputs_and_targets_of_different_tokens_are_refused() -> None:
    with pytest.raises(TrainingError, match="200 inputs but 199 targets"):
        initial_weights(replace(Form("topk"), subtract_b_dec=False), X, Y[1:], F, 0)
