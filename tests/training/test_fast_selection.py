"""What the kernels keep against a full sort, with ties, zeros, negatives and what is not finite."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the fast engine needs numba")
from saedsl.training.fast_selection import SMALLEST, Guess, above, drop_below, gather_columns, largest, selected
from saedsl.training.selection import nth_largest
from saedsl.training.sparse import starts

KINDS = ("normal", "ties", "few positive", "none positive", "all positive", "not finite")


def rows(kind: str, n_features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[7, F] pre-activations without their bias, and the bias."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((7, n_features)).astype(np.float32)
    bias = rng.standard_normal(n_features).astype(np.float32)
    match kind:
        case "ties":
            return np.round(x * 2), np.round(bias)
        case "few positive":
            return x - 2, np.minimum(bias, 0)
        case "none positive":
            return -np.abs(x), np.zeros_like(bias)
        case "all positive":
            return np.abs(x), np.abs(bias)
        case "not finite":
            x[rng.random(x.shape) < 0.2] = np.nan
            x[rng.random(x.shape) < 0.1] = np.inf
            x[rng.random(x.shape) < 0.1] = -np.inf
    return x, bias


def dense(found: tuple[np.ndarray, np.ndarray], counts: np.ndarray, n_features: int) -> np.ndarray:
    """[B, F] of what is kept, 0 elsewhere."""
    features, values = found
    assert len(features) == len(values) == counts.sum()
    out = np.zeros((len(counts), n_features), np.float32)
    start = starts(counts)
    for b in range(len(counts)):
        own = features[start[b] : start[b + 1]]
        assert (np.diff(own) > 0).all()
        out[b, own] = values[start[b] : start[b + 1]]
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [1, 15, 16, 100, 700])
@pytest.mark.parametrize("k", [1, 3, 30, 100, 900])
@pytest.mark.parametrize("room", [1, 40])
def test_topk_keeps_what_is_positive_and_not_below_the_kth_largest(
    kind: str, n_features: int, k: int, room: int
) -> None:
    x, bias = rows(kind, n_features, k)
    counts = np.zeros(7, np.int64)
    got = dense(selected(x, bias, room, largest(k), counts), counts, n_features)
    for of, row in zip(got, x + bias, strict=True):
        positive = np.sort(row[row > 0])[::-1]
        border = positive[k - 1] if len(positive) >= k else 0
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(of, np.where((row > 0) & (row >= border), row, 0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [1, 17, 700])
@pytest.mark.parametrize("border", [float(SMALLEST), 1.0, 2.5])
def test_a_border_keeps_what_is_not_below_it(kind: str, n_features: int, border: float) -> None:
    x, bias = rows(kind, n_features, 3)
    counts = np.zeros(7, np.int64)
    got = dense(selected(x, bias, 2, above(border), counts), counts, n_features)
    pre = x + bias
    np.testing.assert_array_equal(got, np.where(pre >= border, pre, 0))


@pytest.mark.parametrize("higher", [0.1, 1.0, 9.0])
def test_a_higher_border_drops_more(higher: float) -> None:
    x, bias = rows("ties", 50, 0)
    counts = np.zeros(7, np.int64)
    features, values = selected(x, bias, 50, above(float(SMALLEST)), counts)
    left = drop_below(features, values, counts, np.float32(higher))
    got = dense((features[:left], values[:left]), counts, 50)
    np.testing.assert_array_equal(got, np.where(x + bias >= higher, x + bias, 0))


def test_columns_are_put_aside_with_their_bias() -> None:
    x, bias = rows("normal", 50, 0)
    columns, out = np.array([0, 7, 49], np.int32), np.zeros((7, 3), np.float32)
    gather_columns(x, bias, columns, out)
    np.testing.assert_array_equal(out, (x + bias)[:, columns])


def test_the_guess_settles_where_a_few_times_as_many_entries_are_looked_at_as_are_kept() -> None:
    values = np.abs(np.random.default_rng(0).standard_normal(100_000)).astype(np.float32)
    border = nth_largest(values, 500)
    guess, looked = Guess(), []
    for _ in range(20):
        looked.append(float((values >= (guess.border or 0)).sum() / 500))
        guess = guess.after(border, looked[-1])
    assert 1.2 < looked[-1] < 4
    assert min(looked) >= 1


def test_the_guess_is_anything_positive_where_too_few_are() -> None:
    assert Guess(0.5, 0.9).after(0.4, 0.7).border == float(SMALLEST)
