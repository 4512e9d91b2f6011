"""Pairs of features that fire together: held against dense counts, the engines against each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saedsl.circuits import cocount_kernels, cocount_portable
from saedsl.circuits.association import MEASURES, Measure
from saedsl.circuits.cocount import best_engine
from saedsl.circuits.firings import Firings
from saedsl.circuits.paircount import coactivation
from saedsl.circuits.pairtable import Coactivation
from saedsl.errors import CircuitError

Pair = tuple[int, int, int, int]


def dense(seed: int, tokens: int = 160, documents: int = 11) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three dictionaries that share causes; some features never fire, one fires always."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((tokens, 5))
    f = {
        name: np.maximum(causes @ rng.standard_normal((5, n)) + rng.standard_normal((tokens, n)) - 1.5, 0)
        for name, n in (("L0.mlp", 7), ("L1.mlp", 5), ("L2.mlp", 9))
    }
    f["L0.mlp"][:, 3], f["L1.mlp"][:, 0] = 0, 1.5
    return {name: x.astype(np.float32) for name, x in f.items()}, np.sort(rng.integers(0, documents, tokens))


def measured(measure: Measure, x: np.ndarray, y: np.ndarray) -> float:
    """The measure of two features from their values [n] at the tokens that are compared, by its definition."""
    a, b = (x > 0).astype(float), (y > 0).astype(float)
    p, q, both = a.mean(), b.mean(), (a * b).mean()
    match measure:
        case "phi" | "pearson":
            u, v = (a, b) if measure == "phi" else (x.astype(float), y.astype(float))
            return float(np.corrcoef(u, v)[0, 1]) if u.std() > 0 and v.std() > 0 else 0.0
        case "jaccard":
            return float((a * b).sum() / np.maximum(a, b).sum())
        case "conditional":
            return float(both / p)
        case "pmi":
            return float(np.log(both / (p * q)))
        case "npmi":
            return float(np.log(both / (p * q)) / -np.log(both)) if both < 1 else 1.0
    raise AssertionError(measure)


def brute(f: dict[str, np.ndarray], documents: np.ndarray, measure: Measure, lag: int) -> dict[Pair, tuple[Any, ...]]:
    """(together, first, second, score) by (dictionary, feature, dictionary, feature), from every pair of columns."""
    n = len(documents)
    at = np.array([t for t in range(n - lag) if documents[t] == documents[t + lag]])
    names, found = list(f), {}
    for a, b in combinations_with_replacement(range(len(names)), 2):
        for i in range(f[names[a]].shape[1]):
            for j in range(f[names[b]].shape[1]):
                once = a == b and lag == 0 and measure != "conditional"
                if a == b and (j <= i if once else j == i):
                    continue
                x, y = f[names[a]][at, i], f[names[b]][at + lag, j]
                together = int(((x > 0) & (y > 0)).sum())
                if together:
                    found[a, i, b, j] = (together, int((x > 0).sum()), int((y > 0).sum()), measured(measure, x, y))
    return found


def rows(table: Coactivation) -> Iterator[tuple[Pair, tuple[Any, ...]]]:
    ends = (table.source, table.source_feature, table.target, table.target_feature)
    numbers = (table.together, table.source_count, table.target_count, table.score)
    keys = zip(*(c.tolist() for c in ends), strict=True)
    return zip(keys, zip(*(c.tolist() for c in numbers), strict=True), strict=True)


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("measure", MEASURES)
def test_counts_and_measures_are_those_of_every_pair_of_columns(measure: Measure, lag: int) -> None:
    f, documents = dense(lag)
    firings = {name: Firings.of_dense(x) for name, x in f.items()}
    table = coactivation(firings, documents, measure=measure, lag=lag, fdr=None, min_firings=1)
    wanted = brute(f, documents, measure, lag)
    found = dict(rows(table))
    assert found.keys() == wanted.keys()
    assert all(found[pair][:3] == wanted[pair][:3] for pair in wanted)
    np.testing.assert_allclose([found[p][3] for p in wanted], [wanted[p][3] for p in wanted], atol=2e-6)
    assert (np.diff(table.score) <= 0).all()
    features = [int((x > 0).any(axis=0).sum()) for x in f.values()]
    within = sum(n * (n - 1) for n in features) // (2 if lag == 0 and measure != "conditional" else 1)
    assert table.tested == within + features[0] * features[1] + features[2] * (features[0] + features[1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_counts_are_exact_whatever_fires_in_whatever_documents(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 24))
    widths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=2))
    bits = st.lists(st.booleans(), min_size=tokens, max_size=tokens)
    f = {
        f"L{i}.mlp": np.array(data.draw(st.lists(bits, min_size=n, max_size=n))).T.astype(np.float32)
        for i, n in enumerate(widths)
    }
    documents = np.cumsum(data.draw(bits))
    lag = data.draw(st.integers(0, int(np.bincount(documents).max()) - 1))
    firings = {name: Firings.of_dense(x) for name, x in f.items()}
    if not any(x.any() for x in f.values()):
        with pytest.raises(CircuitError, match="no feature fires at 1 of"):
            coactivation(firings, documents, lag=lag, fdr=None, min_firings=1)
        return
    for engine in (cocount_kernels, cocount_portable):
        table = coactivation(firings, documents, lag=lag, fdr=None, min_firings=1, engine=engine)
        wanted = brute(f, documents, "jaccard", lag)
        assert {k: v[:3] for k, v in rows(table)} == {k: v[:3] for k, v in wanted.items()}


@pytest.mark.parametrize("measure", MEASURES)
def test_compiled_code_and_numpy_give_the_same_bits(measure: Measure) -> None:
    f, documents = dense(5, tokens=400)
    firings = {name: Firings.of_dense(x) for name, x in f.items()}
    for lag, fdr, top in ((0, 0.3, None), (2, None, 30), (1, 0.3, 20)):
        one, other = (
            coactivation(firings, documents, measure=measure, lag=lag, fdr=fdr, top=top, min_firings=5, engine=engine)
            for engine in (cocount_kernels, cocount_portable)
        )
        assert (one.found, one.tested) == (other.found, other.tested)
        for name in ("source", "source_feature", "target", "target_feature", "together", "score", "fdr"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_without_numba_numpy_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert best_engine() is cocount_kernels
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr("saedsl.circuits.cocount.find_spec", lambda name: None)
    assert best_engine() is cocount_portable


def test_blocks_of_numpy_do_not_change_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    f, documents = dense(1)
    firings = {name: Firings.of_dense(x) for name, x in f.items()}
    whole = coactivation(firings, documents, fdr=None, min_firings=1, engine=cocount_portable)
    monkeypatch.setattr(cocount_portable, "EVENTS", 7)
    blocks = coactivation(firings, documents, fdr=None, min_firings=1, engine=cocount_portable)
    assert dict(rows(whole)) == dict(rows(blocks))


def test_the_strongest_pairs_are_the_first_of_all() -> None:
    f, documents = dense(2)
    firings = {name: Firings.of_dense(x) for name, x in f.items()}
    for measure in MEASURES:
        every = coactivation(firings, documents, measure=measure, fdr=None, min_firings=1)
        for top in (1, 10, 10_000):
            few = coactivation(firings, documents, measure=measure, fdr=None, min_firings=1, top=top)
            assert list(rows(few)) == list(rows(every))[:top]


def test_other_measures_come_from_the_counts_of_a_table() -> None:
    f, documents = dense(3)
    firings = {name: Firings.of_dense(x) for name, x in f.items()}
    table = coactivation(firings, documents, fdr=None, min_firings=1)
    for measure in MEASURES[:-1]:
        wanted = dict(rows(coactivation(firings, documents, measure=measure, fdr=None, min_firings=1)))
        np.testing.assert_array_equal(table.scores(measure), [wanted[key][3] for key, _ in rows(table)])
    with pytest.raises(CircuitError, match='this table was made with measure "phi"; make one with "pearson"'):
        table.scores("pearson")


def test_pairs_say_which_dictionaries_are_paired() -> None:
    f, documents = dense(4)
    firings = {name: Firings.of_dense(x) for name, x in f.items()}

    def paired(pairs: Any) -> set[tuple[int, int]]:
        table = coactivation(firings, documents, fdr=None, min_firings=1, pairs=pairs)
        return set(zip(table.source.tolist(), table.target.tolist(), strict=True))

    assert paired("all") == {(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)}
    assert paired("within") == {(0, 0), (1, 1), (2, 2)}
    assert paired("across") == {(0, 1), (0, 2), (1, 2)}
    assert paired("neighbours") == {(0, 0), (1, 1), (2, 2), (0, 1), (1, 2)}
    assert paired([("L2.mlp", "L0.mlp")]) == {(2, 0)}


def test_rare_features_and_rare_pairs_are_left_out() -> None:
    f, documents = dense(6)
    firings = {name: Firings.of_dense(x) for name, x in f.items()}
    table = coactivation(firings, documents, fdr=None, min_firings=20, min_together=8)
    counts = {(i, j): int((x[:, j] > 0).sum()) for i, x in enumerate(f.values()) for j in range(x.shape[1])}
    wanted = {
        key
        for key, (together, *_) in brute(f, documents, "phi", 0).items()
        if together >= 8 and counts[key[:2]] >= 20 and counts[key[2:]] >= 20
    }
    assert {key for key, _ in rows(table)} == wanted


def test_memory_grows_with_what_fires_and_not_with_the_square_of_the_width() -> None:
    """A table of 4 million x 4 million features could not be held."""
    rng = np.random.default_rng(0)
    token = np.repeat(np.arange(200), 4)
    feature = np.tile(np.array([5, 77, 3_999_999, 123_456]), 200)
    firings = {"L0.mlp": Firings.of(token, feature, rng.random(800) + 0.1, tokens=200, width=4_000_000)}
    table = coactivation(firings, np.arange(200) // 50, fdr=None)
    assert len(table) == 6
    assert table.together.tolist() == [200] * 6


def test_activations_are_taken_in_any_order() -> None:
    x = dense(7)[0]["L2.mlp"]
    token, feature = np.nonzero(x)
    order = np.random.default_rng(0).permutation(len(token))
    again = Firings.of(token[order], feature[order], x[token, feature][order], tokens=len(x), width=x.shape[1])
    plain = Firings.of_dense(x)
    for name in ("start", "features", "values"):
        np.testing.assert_array_equal(getattr(again, name), getattr(plain, name))
    assert again.features.dtype == np.int32


ONE = Firings.of(np.array([0, 1]), np.array([0, 1]), np.array([1.0, 1.0]), tokens=3, width=2)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"firings": {}}, "no dictionary is given"),
    ({"documents": np.zeros(0)}, "these data have no tokens but BOS and padding: there is nothing to count"),
    ({"documents": np.zeros(4)}, "L0.mlp has activations of 3 tokens, the documents have 4"),
    ({"documents": np.array([0, 1, 0])}, "the tokens of a document must stand together"),
    ({"documents": np.zeros((3, 1))}, r"documents is \[3, 1\]; the document of each token is expected"),
    ({"lag": 3}, "lag is 3, but the longest document has 3 tokens; give a lag below that"),
    ({"lag": -1}, "lag is -1; it is a number of tokens from 0"),
    ({"lag": 0.5}, "lag is 0.5; it is a number of tokens from 0"),
    ({"measure": "tea"}, "measure is 'tea'; it can be phi, jaccard, pmi, npmi, conditional, pearson"),
    ({"fdr": 0}, "fdr is 0; it is above 0 and at most 1, or None for every pair"),
    ({"fdr": float("nan")}, "fdr is nan; it is above 0 and at most 1"),
    ({"top": 0}, "top is 0; it is a whole number from 1, or None for all pairs"),
    ({"shifts": 0}, "shifts is 0; it is a whole number from 1"),
    ({"min_firings": 0}, "min_firings is 0; it is a whole number from 1"),
    ({"min_firings": 2}, "no feature fires at 2 of the 3 tokens, the most frequent one at 1; give more text"),
    ({"documents": np.arange(3)}, "every document has one token, so none can be shifted"),
    ({"pairs": "near"}, "pairs is 'near'; it can be all, within, across, neighbours or a list of pairs"),
    ({"pairs": "across"}, "at least one pair of dictionaries is counted, and none twice"),
    ({"pairs": [("L0.mlp", "L5.mlp")]}, "there is no dictionary 'L5.mlp'; there are L0.mlp"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=lambda v: str(v)[:40])
def test_what_cannot_be_counted_is_said(given: dict[str, Any], message: str) -> None:
    arguments = {"firings": {"L0.mlp": ONE}, "documents": np.zeros(3), "min_firings": 1, **given}
    with pytest.raises(CircuitError, match=message):
        coactivation(arguments.pop("firings"), arguments.pop("documents"), **arguments)


@pytest.mark.parametrize(
    ("token", "feature", "value", "message"),
    [
        ([0], [0, 1], [1.0], r"token, feature and value are \[1\], \[2\], \[1\]; one entry for each activation"),
        ([3], [0], [1.0], "token numbers are whole numbers from 0 to 2; these are not"),
        ([0], [2], [1.0], "feature numbers are whole numbers from 0 to 1; these are not"),
        ([0.5], [0], [1.0], "token numbers are whole numbers"),
        ([2], [0], [float("nan")], "1 activations are NaN, infinite or negative, first nan at token 2"),
        ([1], [0], [-1.0], "1 activations are NaN, infinite or negative, first -1.0 at token 1"),
        ([1, 1], [0, 0], [1.0, 2.0], "feature 0 is listed twice at token 1; list each activation once"),
    ],
)
def test_damaged_activations_are_refused(token: Any, feature: Any, value: Any, message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        Firings.of(np.array(token), np.array(feature), np.array(value), tokens=3, width=2)


def test_ctrl_c_ends_all_threads_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    f, documents = dense(8)
    firings = {name: Firings.of_dense(x) for name, x in f.items()}
    wanted = dict(rows(coactivation(firings, documents, fdr=None, min_firings=1)))
    calls = []

    class Interrupted:
        tally = staticmethod(cocount_kernels.tally)

        @staticmethod
        def collect(*arguments: Any) -> Any:
            calls.append(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coactivation(firings, documents, fdr=None, min_firings=1, engine=Interrupted())
    assert len(calls) <= 2, "each thread stops at its next part"
    assert dict(rows(coactivation(firings, documents, fdr=None, min_firings=1))) == wanted
