"""Threads that share out a step, and BLAS with one thread each."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from saedsl.training import blasthreads
from saedsl.training.blasthreads import single_threaded_blas
from saedsl.training.threads import PARTS, Crew, cores, parts, shares


def test_parts_cover_everything_once() -> None:
    assert parts(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert parts(0, 3) == []


@pytest.mark.parametrize("n", [0, 1, 31, 64, 65, 4096, 4097, 100_003])
def test_shares_cover_everything_once_and_are_neither_small_nor_many(n: int) -> None:
    found = shares(n, 32)
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(n))
    assert len(found) <= PARTS
    assert all(part.stop - part.start >= 32 for part in found[:-1])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_results_are_in_the_order_of_the_parts_whoever_did_them(size: int) -> None:
    def work(i: int, part: slice) -> tuple[int, int]:
        time.sleep(0.002 * (i % 3))
        return i, part.start

    assert Crew(size).each(work, parts(20, 2)) == [(i, 2 * i) for i in range(10)]
    assert Crew(size).each(work, []) == []


def test_the_crew_is_as_many_threads_as_its_size() -> None:
    meet, seen = threading.Barrier(3, timeout=10), set()

    def work(i: int, part: slice) -> None:
        seen.add(threading.get_ident())
        meet.wait()

    Crew(3).each(work, parts(3, 1))
    assert len(seen) == 3
    assert threading.get_ident() in seen
    assert cores() >= 1


@pytest.mark.parametrize("bad", [0, 3])
def test_what_goes_wrong_in_any_thread_is_raised_here(bad: int) -> None:
    def work(i: int, part: slice) -> None:
        time.sleep(0.005)
        if i == bad:
            raise ValueError("no")

    crew = Crew(2)
    with pytest.raises(ValueError, match="no"):
        crew.each(work, parts(4, 1))
    assert crew.each(lambda i, _: i, parts(4, 1)) == [0, 1, 2, 3]


def test_blas_has_one_thread_inside_and_as_many_as_before_afterwards() -> None:
    calls = blasthreads._calls()
    if calls is None:
        pytest.skip("numpy is not linked to an OpenBLAS that can be asked")
    get, set_ = calls
    before = get()
    try:
        set_(2)
        with single_threaded_blas() as outer:
            with single_threaded_blas() as inner:
                assert outer
                assert inner
                assert get() == 1
            assert get() == 1
        assert get() == 2
        with pytest.raises(ValueError, match="no"), single_threaded_blas():
            raise ValueError("no")
        assert get() == 2
    finally:
        set_(before)


def test_where_blas_cannot_be_asked_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blasthreads, "_calls", lambda: None)
    with single_threaded_blas() as single:
        assert not single
        np.testing.assert_array_equal(np.eye(3) @ np.eye(3), np.eye(3))
