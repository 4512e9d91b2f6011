"""The null of shifted documents and its false discovery rate: held against the formula, and against known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saedsl.circuits.association import logarithms
from saedsl.circuits.firings import Documents, Firings
from saedsl.circuits.paircount import coactivation
from saedsl.circuits.shiftnull import BINS, CLASS, Strata, false_discovery_rates, frequency_classes, shift_of


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 9), st.integers(0, 99))
def test_shifts_stay_within_documents_and_move_every_token(lengths: list[int], lag: int, seed: int) -> None:
    names = np.repeat(np.arange(len(lengths)), lengths)
    documents = Documents.of(names)
    shift = shift_of(documents, seed, 0)
    to = documents.target(0, shift)
    assert sorted(to) == list(range(len(names))), "each token has another one's place"
    assert (names[to] == names).all()
    alone = np.repeat(np.array(lengths) == 1, lengths)
    assert ((to == np.arange(len(names))) == alone).all()
    later = documents.target(lag, shift)
    there = later >= 0
    assert (later[there] == to[there] + lag).all()
    assert (names[later[there]] == names[there]).all()
    assert there.sum() == sum(max(n - lag, 0) for n in lengths)


def test_shifts_differ_by_number_and_seed_and_are_reproducible() -> None:
    documents = Documents.of(np.repeat(np.arange(30), 50))
    drawn = [tuple(shift_of(documents, seed, number)) for seed in (0, 1) for number in (0, 1, 2)]
    assert len(set(drawn)) == 6
    assert tuple(shift_of(documents, 1, 2)) == drawn[-1]


def brute_fdr(f: np.ndarray, documents: np.ndarray, shifts: int, seed: int) -> dict[tuple[int, int], float]:
    """Each pair's FDR by the module's words, from dense phi of every shift; one frequency class."""
    width = f.shape[1]
    upper = np.triu_indices(width, 1)
    where = Documents.of(documents)
    order = np.lexsort((np.arange(width), -(f > 0).sum(axis=0)))  # the more frequent one of a pair is shifted
    x = (f > 0).astype(float)[:, order]

    def bins(source: np.ndarray) -> np.ndarray:
        phi = np.corrcoef(source.T, x.T)[:width, width:][upper]
        together = (source.T @ x)[upper]
        return np.where((phi > 0) & (together > 0), np.minimum(phi * BINS, BINS - 1).astype(int), -1)

    observed = bins(x)
    null = []
    for number in range(shifts):
        turned = np.empty_like(x)
        for first, length, by in zip(where.starts, where.lengths, shift_of(where, seed, number), strict=True):
            turned[first : first + length] = np.roll(x[first : first + length], by, axis=0)
        null.append(bins(turned))
    pooled, m = np.concatenate(null), len(observed)
    rate = np.array([(1 + (pooled >= b).sum()) / (1 + shifts * m) for b in observed])
    fdr = np.array([r * m / (rate[observed >= 0] <= r).sum() for r in rate])
    smallest = [min(1.0, fdr[(rate >= r) & (observed >= 0)].min(initial=1.0)) for r in rate]
    pairs = zip(order[upper[0]].tolist(), order[upper[1]].tolist(), strict=True)
    return {(min(p), max(p)): q for p, q, b in zip(pairs, smallest, observed, strict=True) if b >= 0}


def test_the_false_discovery_rate_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(3)
    f = np.maximum(rng.standard_normal((300, 12)) - 0.8, 0).astype(np.float32)
    f[:, 1] = f[:, 0] * (rng.random(300) < 0.8)
    f[:, 5] = f[:, 4] * (rng.random(300) < 0.5) + f[:, 5] * (rng.random(300) < 0.3)
    documents = np.arange(300) // 30
    wanted = brute_fdr(f, documents, 20, 7)
    table = coactivation({"L0.mlp": Firings.of_dense(f)}, documents, fdr=1.0, min_firings=5, seed=7)
    found = dict(
        zip(zip(table.source_feature.tolist(), table.target_feature.tolist(), strict=True), table.fdr, strict=True)
    )
    assert found.keys() <= wanted.keys()
    assert {p for p in wanted if wanted[p] < 1} <= found.keys()
    np.testing.assert_allclose([found[p] for p in found], [wanted[p] for p in found], rtol=1e-12)
    assert found[0, 1] < 0.05 < np.median(list(wanted.values()))


def test_a_pooled_rate_weighs_strata_by_their_own_null() -> None:
    observed, null = np.zeros((2, BINS), np.int64), np.zeros((2, BINS), np.int64)
    observed[0, [10, 100]] = 50, 5
    null[0, 10] = 1000
    observed[1, 10], null[1, 300] = 4, 40
    q = false_discovery_rates(observed, null, np.array([100, 100]), 20)
    assert q[0, 100] == pytest.approx(1 / 2001 * 200 / 5)
    assert q[1, 10] == pytest.approx(41 / 2001 * 200 / 9), "the 5 of the other stratum are found at that rate too"
    assert q[0, 10] == 1
    assert q[1, 100] == 1, "nothing was observed there"


def test_classes_are_octaves_and_hold_enough_features() -> None:
    counts = np.concatenate([np.full(100, 60), np.full(40, 150), np.full(10, 300), np.full(25, 1000)])
    (found,) = frequency_classes([counts])
    assert len(set(found[:100])) == len(set(found[100:140])) == 1
    assert len(set(found)) == 3
    assert all((found == c).sum() >= CLASS for c in set(found))
    assert set(found[140:150]) == set(found[150:]), "10 and 25 are one class"
    few = frequency_classes([np.array([50, 500, 5000])])
    assert few[0].tolist() == [0, 0, 0]


def test_sizes_of_strata_count_every_pair_once() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 9), rng.integers(0, 3, 7)
    for ordered in (False, True):
        strata = Strata(3, ordered)
        for within, halved in ((True, True), (True, False), (False, False)):
            other = a if within else b
            wanted = np.zeros(len(strata), np.int64)
            for i in range(len(a)):
                for j in range(len(other)):
                    if not within or (j > i if halved else j != i):
                        wanted[strata.of(within, a[i], other[j])] += 1
            if not (ordered and halved):  # a pair without an order has no ordered stratum
                np.testing.assert_array_equal(strata.sizes(within, halved, a, other), wanted)


def planted(rng: np.random.Generator, true: int, features: int = 80, tokens: int = 1500) -> tuple[np.ndarray, set[int]]:
    """Bursty features that fire by document and independently of each other, but for 2k and 2k + 1 with k < true."""
    length = 50
    rate = np.repeat(rng.gamma(0.7, 0.12, (tokens // length, features)), length, axis=0)
    f = rng.random((tokens, features)) < np.minimum(rate, 0.6)
    for k in range(true):
        together = rng.random(tokens) < 0.35
        f[:, 2 * k + 1] = np.where(together, f[:, 2 * k], f[:, 2 * k + 1])
    return f.astype(np.float32), set(range(true))


@pytest.mark.parametrize("nominal", [0.1, 0.3])
def test_realised_false_discoveries_are_near_the_nominal_rate(nominal: float) -> None:
    rng = np.random.default_rng(0)
    shares, power = [], []
    for seed in range(12):
        f, true = planted(rng, 30)
        table = coactivation(
            {"L0.mlp": Firings.of_dense(f)}, np.arange(len(f)) // 50, fdr=nominal, min_firings=20, seed=seed
        )
        right = (table.source_feature // 2 == table.target_feature // 2) & (table.source_feature // 2 < len(true))
        shares.append(float((~right).mean()) if len(table) else 0.0)
        power.append(right.sum() / len(true))
    assert nominal / 3 < np.mean(shares) < 1.5 * nominal
    assert np.mean(power) > 0.9


def test_where_nothing_is_planted_hardly_anything_is_found() -> None:
    """Documents differ in what fires, and naive independence would find dozens of pairs."""
    rng = np.random.default_rng(1)
    found = []
    for seed in range(20):
        f, _ = planted(rng, 0, tokens=1000)
        documents = np.arange(len(f)) // 50
        found.append(len(coactivation({"L0.mlp": Firings.of_dense(f)}, documents, fdr=0.05, min_firings=20, seed=seed)))
    assert np.mean(np.array(found) > 0) <= 0.25
    x = (f > 0).astype(float)
    phi = np.corrcoef(x.T)[np.triu_indices(80, 1)]
    assert (phi * np.sqrt(len(x)) > 3.5).sum() > 20, "of 3,160 independent pairs, 0.7 would be so high"


def test_logarithms_begin_with_that_of_1() -> None:
    np.testing.assert_array_equal(logarithms(3), [0, 0, np.log(2), np.log(3)])
