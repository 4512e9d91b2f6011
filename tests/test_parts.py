"""Quantities: what is read of an activation, and what a change of it writes."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from saedsl.errors import RunError
from saedsl.parts import Coefficient, Components, Coordinates, Error, Features, Pattern, Quantity, Whole, measure
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

SITE = Site(0, "mlp")
RNG = np.random.default_rng(0)
X = mx.array(RNG.standard_normal((2, 3, 32)).astype(np.float32))


def test_columns_that_stand_twice_are_changed_twice() -> None:
    q = Coordinates(SITE, [4, 2, 4])
    delta = mx.array(RNG.standard_normal((2, 3, 3)).astype(np.float32))
    out = np.zeros((2, 3, 32), np.float32)
    for j, c in enumerate([4, 2, 4]):
        out[..., c] += np.array(delta[..., j])
    assert np.array_equal(np.array(q.write(delta, X)), out)
    assert np.array_equal(np.array(q.value(X, None)), np.array(X)[..., [4, 2, 4]])


def test_a_coordinate_that_a_site_has_not_is_an_error() -> None:
    with pytest.raises(RunError, match=r"L0\.mlp has 32 coordinates: there is no n40"):
        Coordinates(SITE, [1, 40]).value(X, None)


def test_the_pattern_of_a_head_is_its_columns() -> None:
    weights = mx.array(RNG.random((1, 3, 4 * 3)).astype(np.float32))  # 4 heads, 3 keys
    q = Pattern(Site(0, "attn.pattern"), [2, 0], 4)
    value = q.value(weights, None)
    assert np.array_equal(np.array(value[0, :, 0]), np.array(weights[0, :, 6:9]))
    changed = np.array(weights + q.write(-value, weights)).reshape(3, 4, 3)
    assert not changed[:, [0, 2]].any()
    assert np.array_equal(changed[:, [1, 3]], np.array(weights).reshape(3, 4, 3)[:, [1, 3]])


def test_a_projection_is_that_of_least_squares_even_where_vectors_depend_on_each_other() -> None:
    a, b = RNG.standard_normal((2, 32))
    vectors = np.array([a, b, a - 2 * b])
    q = Components(SITE, vectors)
    out = np.array(q.write(-q.value(X, None), X))
    x = np.array(X).astype(np.float64).reshape(-1, 32)
    fitted = (vectors.T @ np.linalg.lstsq(vectors.T, x.T, rcond=None)[0]).T
    np.testing.assert_allclose(out.reshape(-1, 32), -fitted, atol=1e-5)


def test_a_coefficient_counts_in_lengths_of_the_direction_as_stored() -> None:
    d = 3 * RNG.standard_normal(32)
    q = Coefficient(SITE, d.tolist())
    moved = q.value(X + 2 * mx.array(d.astype(np.float32)), None) - q.value(X, None)
    np.testing.assert_allclose(np.array(moved), 2, rtol=1e-4)
    np.testing.assert_allclose(np.array(q.write(mx.ones((1, 1, 1)), X))[0, 0], d, rtol=1e-6)


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_a_unit_of_a_feature_writes_a_vector_of_the_norm_that_is_said(
    normalize: str, sae_of: Callable[..., SAE]
) -> None:
    q = Features(sae_of(normalize=normalize), SITE, SITE, [3, 9])
    for j in range(2):
        one = np.zeros((2, 3, 2), np.float32)
        one[..., j] = 1
        written = np.linalg.norm(np.array(q.write(mx.array(one), X)), axis=-1)
        said = np.broadcast_to(np.array(q.unit_norms(X)), (2, 3, 2))[..., j]
        np.testing.assert_allclose(written, said, rtol=1e-5)


def test_the_error_of_a_transcoder_is_against_what_it_should_write(sae_of: Callable[..., SAE]) -> None:
    t = sae_of(site="L0.mlp", read="L0.mlp.in", skip=True)
    read, write = Site(0, "mlp.in"), Site(0, "mlp")
    found = measure(Error(t, read, write), {read: X, write: X + 1})
    np.testing.assert_allclose(np.array(found), np.array(X + 1 - t(X)), rtol=1e-6)


@pytest.mark.parametrize("q", [Whole(SITE), Coordinates(SITE, [1, 2]), Coefficient(SITE, [1.0] * 32)])
def test_no_change_writes_exact_zeros(q: Quantity) -> None:
    assert not np.array(q.write(mx.zeros(q.value(X, None).shape), X)).any()
