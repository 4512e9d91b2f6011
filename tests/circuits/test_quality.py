"""Faithfulness, areas under curves, agreement: against hand-made answers and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from saedsl.circuits.quality import SHARES, agreement, cmd, cpr, faithfulness, faithfulness_estimate, overlap, sizes
from saedsl.errors import CircuitError


def test_faithfulness_is_the_share_of_the_effect() -> None:
    assert faithfulness(3.0, 1.0, 5.0) == 0.5
    assert faithfulness(1.0, 1.0, -5.0) == 0.0


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((1.0, 2.0, 2.0), "it does not depend on them"),
        ((math.nan, 0.0, 1.0), r"not finite: m\(C\) nan"),
        ((0.0, math.inf, 1.0), "not finite"),
    ],
)
def test_a_metric_that_nothing_changes_has_no_faithfulness(numbers: tuple[float, float, float], says: str) -> None:
    with pytest.raises(CircuitError, match=says):
        faithfulness(*numbers)


def test_the_interval_of_faithfulness_holds_its_value_and_shrinks_with_prompts() -> None:
    rng = np.random.default_rng(0)

    def width(n: int) -> float:
        whole = 4 + rng.normal(size=n)
        found = faithfulness_estimate(0.9 * whole + 0.3 * rng.normal(size=n), np.zeros(n), whole)
        assert found.low < found.value < found.high
        return found.high - found.low

    assert width(400) < width(20) / 2


def test_a_perfect_curve_has_no_distance_and_its_own_area() -> None:
    ones = [1.0] * len(SHARES)
    assert cmd(ones) == 0
    assert cpr(ones) == pytest.approx(1 - SHARES[0])
    assert cmd([0.0] * len(SHARES)) == pytest.approx(cpr(ones))
    over = [2.0, *ones[1:]]
    assert cmd(over) == pytest.approx((SHARES[1] - SHARES[0]) / 2)  # a triangle, above 1 as bad as below


def test_sizes_are_shares_of_all_and_at_least_one() -> None:
    assert sizes(2000) == [2, 4, 10, 20, 40, 100, 200, 400, 1000, 2000]
    assert sizes(3, (0.001, 1.0)) == [1, 3]


def test_overlap_counts_common_members_of_both_tops() -> None:
    assert overlap(np.array([5, -4, 1, 0.1]), np.array([-9, 0, 8, 1]), 2) == 0.5


def test_agreement_is_scipys_spearman_with_an_interval() -> None:
    rng = np.random.default_rng(1)
    exact = rng.normal(size=60)
    fast = exact + 0.3 * rng.normal(size=60)
    rank, top = agreement(fast, exact, 10)
    assert rank.value == pytest.approx(spearmanr(fast, exact).statistic)
    assert rank.low < rank.value < rank.high
    assert 0 <= top.low <= top.value <= top.high <= 1
    with pytest.raises(CircuitError, match="too few"):
        agreement(fast[:3], exact[:3], 10)
    with pytest.raises(CircuitError, match="all the same"):
        agreement(np.ones(20), exact[:20], 3)
