"""Activations in memory: every token once a pass, cursors, refusals, splits."""

from __future__ import annotations

from itertools import chain, islice

import numpy as np
import pytest

from saedsl.errors import TrainingError
from saedsl.training.arrays import ArraySource


def numbered(n: int = 10) -> ArraySource:
    """Streams whose rows say their number."""
    x = np.arange(n, dtype=np.float32)[:, None]
    return ArraySource({"x": np.repeat(x, 3, 1), "y": x * 100}, {"model_name": "demo"})


def numbers(source: ArraySource, size: int, count: int, seed: int = 0) -> list[list[int]]:
    return [b.arrays["x"][:, 0].astype(int).tolist() for b in islice(source.batches(size, seed), count)]


def test_each_pass_has_every_token_once_in_an_order_of_its_own() -> None:
    flat = list(chain(*numbers(numbered(), 4, 5)))  # 20 tokens: two passes, the third batch across both
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert flat[:10] == np.random.default_rng([0, 0]).permutation(10).tolist()
    assert flat != list(chain(*numbers(numbered(), 4, 5, seed=1)))


def test_streams_are_of_the_same_tokens_as_float32() -> None:
    source = ArraySource({"x": np.arange(6.0).reshape(6, 1), "y": np.arange(6, dtype=np.float16).reshape(6, 1)})
    for batch in islice(source.batches(5, 3), 4):
        assert {a.dtype for a in batch.arrays.values()} == {np.dtype(np.float32)}
        np.testing.assert_array_equal(batch.arrays["x"], batch.arrays["y"])


def test_a_batch_may_be_larger_than_a_pass() -> None:
    (batch,) = numbers(numbered(4), 10, 1)
    assert sorted(batch[:4]) == sorted(batch[4:8]) == [0, 1, 2, 3]


@pytest.mark.parametrize("stop", [1, 2, 3, 7])
def test_from_any_cursor_batches_go_on_as_they_would_have(stop: int) -> None:
    whole = list(islice(numbered().batches(4, 5), 9))
    again = islice(numbered().batches(4, 5, whole[stop - 1].cursor), 9 - stop)
    for a, b in zip(whole[stop:], again, strict=True):
        np.testing.assert_array_equal(a.arrays["x"], b.arrays["x"])
        assert a.cursor == b.cursor


def test_a_split_shares_no_document_and_loses_no_token() -> None:
    x = np.arange(300, dtype=np.float32)[:, None]
    documents = np.arange(300) // 3
    train, held = ArraySource({"x": x}, documents=documents).split(0.2, seed=1)
    seen = [sorted(numbers(s, s.tokens, 1)[0]) for s in (train, held)]
    assert sorted(seen[0] + seen[1]) == list(range(300))
    assert not {i // 3 for i in seen[0]} & {i // 3 for i in seen[1]}
    assert 30 <= held.tokens <= 90
    assert len({train.identity, held.identity, ArraySource({"x": x}).identity}) == 3
    assert train.split(0.5)[0].tokens < train.tokens


def test_without_documents_tokens_are_split() -> None:
    train, held = numbered(1000).split(0.1)
    assert train.tokens + held.tokens == 1000
    assert 60 <= held.tokens <= 140
    with pytest.raises(TrainingError, match=r"cannot be split: a share of 0.001 leaves one side without tokens"):
        numbered(3).split(0.001)
    with pytest.raises(TrainingError, match=r"the share held out is 1.0; it lies between 0 and 1"):
        numbered(3).split(1.0)


def test_a_sample_is_spread_evenly_and_always_the_same() -> None:
    assert numbered(100).sample(4)["x"][:, 0].tolist() == [0, 25, 50, 75]
    assert len(numbered(10).sample(99)["y"]) == 10


def test_the_identity_is_of_the_numbers() -> None:
    other = {"x": np.zeros((10, 3), np.float32), "y": np.zeros((10, 1), np.float32)}
    assert numbered().identity == numbered().identity != ArraySource(other).identity


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "there are no activations to train on"),
        ({"x": np.zeros((0, 3))}, "the activations have no tokens: there is nothing to train on"),
        ({"x": np.zeros(3)}, "activations 'x' are floats [tokens, width], these are float64 (3,)"),
        ({"x": np.zeros((2, 2), int)}, "activations 'x' are floats [tokens, width], these are int64 (2, 2)"),
        ({"x": np.zeros((2, 2)), "y": np.zeros((3, 2))}, "but 'x' has 2, 'y' has 3"),
        ({"x": np.array([[0.0], [np.nan], [1e300]])}, "hold NaN or infinity in 2 of 3 rows: 1, 2; leave these out"),
        ({"x": np.full((9, 1), np.inf)}, "in 9 of 9 rows: 0, 1, 2, 3, 4, ...;"),
    ],
    ids=["none", "empty", "one-axis", "integers", "lengths", "nan", "inf"],
)  # fmt: skip
def test_arrays_that_cannot_be_trained_on_are_refused(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(TrainingError) as e:
        ArraySource(arrays)
    assert message in str(e.value)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"a batch of 0 tokens: at least 1 is needed"):
        numbered().batches(0, 0)
