"""Two-stage top-k against a sort."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from saedsl.sae.topk import GROUP, keep_top_k, kth_largest


@pytest.mark.parametrize("n", [5, 8 * GROUP, 100, 40 * GROUP])
@pytest.mark.parametrize("levels", [3, 10_000])
def test_kth_largest_is_that_of_a_sort_ties_or_not(n: int, levels: int) -> None:
    x = np.random.default_rng(n).integers(-levels, levels, (7, 4, n)).astype(np.float32)
    for k in {1, 2, 5, n // 2, n}:
        expected = np.sort(x, axis=-1)[..., ::-1][..., k - 1 : k]
        np.testing.assert_array_equal(np.array(kth_largest(mx.array(x), k)), expected)


def test_ties_at_the_border_are_all_kept_and_nothing_negative_is() -> None:
    x = mx.array([[3.0, 1.0, 1.0, 2.0, -1.0], [-1.0, -2.0, 0.0, 5.0, -3.0]])
    assert keep_top_k(x, 3).tolist() == [[3, 1, 1, 2, 0], [0, 0, 0, 5, 0]]
