"""Generation of a batch: shadow rows, ended rows, sampling; and the loop is mlx-lm's."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step

from saedsl.anatomy import FAMILIES
from saedsl.generation import Made, generate, greedy, sampling
from saedsl.model import InterpretableModel
from saedsl.sites import Site
from saedsl.trace import Frame, Hooks, SiteFn
from tests import tiny

Models = Callable[..., InterpretableModel]

A, B = [0, 5, 9, 2, 30, 7], [0, 8, 3, 3, 40, 12]
N = 10


def shifted(row: int, size: float = 1.0) -> SiteFn:
    v = mx.array(np.random.default_rng(5).standard_normal(32).astype(np.float32) * size)

    def fn(x: mx.array, frame: Frame) -> mx.array:
        rows = mx.arange(x.shape[0])[:, None, None] == row
        return x + mx.where(rows, v, 0).astype(x.dtype)

    return fn


def rows_of(made: Sequence[Made]) -> list[list[int]]:
    return [list(row) for row in zip(*(m.tokens for m in made), strict=True)]


# Rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_rows_are_mlx_lms(family: str, model_of: Models) -> None:
    lm = model_of(family)
    made = list(generate(Hooks(lm.model, lm.info), [A, B], N))
    for i, prompt in enumerate((A, B)):
        expected = [(int(t), np.array(lp)) for t, lp in generate_step(mx.array(prompt), lm.model, max_tokens=N)]
        assert rows_of(made)[i] == [t for t, _ in expected]
        for m, (_, lp) in zip(made, expected, strict=True):
            np.testing.assert_allclose(np.array(m.logprobs[i]), lp, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefill", [1, 2, 512])
def test_frames_hold_every_token_that_was_read_once(prefill: int, model_of: Models) -> None:
    lm = model_of("llama")
    hooks = Hooks(lm.model, lm.info, captures=[Site(1, "resid_post")])
    steps = generate(hooks, [A, B], 4, prefill=prefill)
    end = 0
    for i, made in enumerate(steps):
        for frame in made.frames:
            assert (frame.offset, frame.rows) == (end, 2)
            assert frame.captured[Site(1, "resid_post")].shape == (2, frame.length, 32)
            end += frame.length
        assert end == len(A) + i  # the forward that runs ahead is not counted
    assert end == len(A) + 3


def test_a_shadow_row_reads_the_tokens_of_its_edited_row(model_of: Models) -> None:
    lm = model_of("llama")
    resid = Site(1, "resid_post")
    hooks = Hooks(lm.model, lm.info, {Site(0, "mlp"): shifted(2)}, [resid], shadow_of=(0, 1, 1))
    made = list(generate(hooks, [A, A, A], N))
    free, shadow, edited = rows_of(made)
    alone = rows_of(list(generate(Hooks(lm.model, lm.info, {Site(0, "mlp"): shifted(0)}), [A], N)))[0]
    assert edited == alone
    assert shadow == edited
    assert free == rows_of(list(generate(Hooks(lm.model, lm.info), [A], N)))[0]
    assert free != edited
    # the shadow is the unedited model on those tokens
    logits, seen = tiny.forward(lm.model, [*A, *shadow])
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for i, m in enumerate(made):
        np.testing.assert_allclose(np.array(m.logprobs[1]), logprobs[len(A) - 1 + i], rtol=1e-3, atol=1e-3)
    got = np.concatenate([np.array(f.captured[resid][1]) for m in made for f in m.frames])
    np.testing.assert_allclose(got, seen["L1.resid_post"][: len(got)], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", ["frozen", "direct"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_held_generation_is_numpys(family: str, mode: Any, model_of: Models) -> None:
    lm = model_of(family)
    v = np.array(np.random.default_rng(5).standard_normal(32), np.float32).astype(np.float64)
    hooks = Hooks(lm.model, lm.info, {Site(0, "mlp"): shifted(1)}, (), mode, (0, 0))
    ids = list(A)
    for made in generate(hooks, [A, A], N):
        _, unedited = tiny.forward(lm.model, ids)
        logits, _ = tiny.forward(lm.model, ids, {"L0.mlp": lambda x: x + v}, held=unedited, mode=mode)
        expected = logits[-1] - np.log(np.exp(logits[-1]).sum())
        np.testing.assert_allclose(np.array(made.logprobs[1]), expected, rtol=1e-3, atol=2e-3)
        assert made.tokens == [int(expected.argmax())] * 2
        ids.append(made.tokens[1])


def test_a_row_that_has_ended_is_marked_and_fed_on(model_of: Models) -> None:
    lm = model_of("llama")
    hooks = Hooks(lm.model, lm.info)
    whole = rows_of(list(generate(hooks, [A, B], N)))
    stop = next(t for t in whole[0] if t not in whole[1])
    end = whole[0].index(stop)
    made = list(generate(hooks, [A, B], N, stop={stop}))
    assert rows_of(made) == whole
    assert [m.done for m in made] == [[i > end, False] for i in range(N)]
    # all of them ended: no further token
    both = {stop, whole[1][3]}
    ends = [min(row.index(t) for t in both if t in row) for row in whole]
    assert len(list(generate(hooks, [A, B], N, stop=both))) == max(ends) + 1


@pytest.mark.parametrize(
    ("prompts", "shadow_of", "message"),
    [
        ([], None, "prompts are rows of token ids, at least one each, all equally long"),
        ([[]], None, "prompts are rows of token ids, at least one each, all equally long"),
        ([[1, 2], [1]], None, "prompts are rows of token ids, at least one each, all equally long"),
        ([[1], [1], [1]], (0, 0, 0), "row 0 is the shadow of rows 1 and 2, which read other tokens"),
    ],
)
def test_rows_that_cannot_run_together_are_refused(
    prompts: list[list[int]], shadow_of: Sequence[int] | None, message: str, model_of: Models
) -> None:
    lm = model_of("llama")
    with pytest.raises(ValueError) as e:
        next(generate(Hooks(lm.model, lm.info), prompts, 3, shadow_of=shadow_of))
    assert str(e.value) == message


@pytest.mark.parametrize("n", [0, 1, 2])
def test_as_many_tokens_are_made_as_were_asked_for(n: int, model_of: Models) -> None:
    lm = model_of("llama")
    assert len(list(generate(Hooks(lm.model, lm.info), [A], n))) == n
    assert len(list(generate(Hooks(lm.model, lm.info), [A[:1]], n))) == n


def test_a_dropped_generation_leaves_nothing_behind(model_of: Models) -> None:
    lm = model_of("llama")
    types = [type(m) for _, m in lm.model.named_modules()]
    hooks = Hooks(lm.model, lm.info, {Site(0, "attn.pattern"): lambda x, frame: x * 0}, (), "direct", (0, 0))
    steps = generate(hooks, [A, A], 9)
    for _ in range(3):
        next(steps)
        assert [type(m) for _, m in lm.model.named_modules()] == types
    del steps
    gc.collect()
    assert [type(m) for _, m in lm.model.named_modules()] == types


# Sampling ----------------------------------------------------------------------------------------------------------


def test_sampling_depends_on_the_seed_and_on_nothing_else(model_of: Models) -> None:
    lm = model_of("llama")
    hooks = Hooks(lm.model, lm.info)

    def text(prompts: list[list[int]], seed: int) -> list[list[int]]:
        return rows_of(list(generate(hooks, prompts, N, sampler=sampling(1.0, 0.95, seed))))

    first = text([A], 3)[0]
    mx.random.seed(99)
    random: Any = mx.random.state
    state = [np.array(s) for s in random]
    assert text([A], 3)[0] == first
    assert all(np.array_equal(np.array(a), b) for a, b in zip(random, state, strict=True))
    assert text([B, A, A], 3)[1:] == [first, first]
    assert len({tuple(text([A], seed)[0]) for seed in range(6)}) > 3


def test_samples_follow_the_distribution() -> None:
    p = np.array([0.5, 0.3, 0.15, 0.05])
    logprobs = mx.array(np.log(p).astype(np.float32))[None]

    def shares(temp: float, top_p: float, n: int = 2000) -> np.ndarray:
        pick = sampling(temp, top_p, seed=7)
        tokens = mx.concatenate([pick(logprobs, i) for i in range(n)])
        return np.bincount(np.array(tokens), minlength=4) / n

    np.testing.assert_allclose(shares(1.0, 1.0), p, atol=0.03)
    np.testing.assert_allclose(shares(0.5, 1.0), p**2 / (p**2).sum(), atol=0.03)
    np.testing.assert_allclose(shares(1.0, 0.6), [0.625, 0.375, 0, 0], atol=0.03)  # 0.5 is short of 0.6
    np.testing.assert_allclose(shares(1.0, 0.5, 200), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(1.0, 1e-6, 200), [1, 0, 0, 0])
    # temperature first: at 0.5 the likeliest token has 0.68 of the whole
    np.testing.assert_allclose(shares(0.5, 0.6, 200), [1, 0, 0, 0])


def test_steps_of_a_sampler_can_come_in_any_order() -> None:
    logprobs = mx.zeros((1, 1000))
    pick, other = sampling(1.0, seed=1), sampling(1.0, seed=1)
    forwards = [pick(logprobs, i).item() for i in range(5)]
    assert [other(logprobs, i).item() for i in reversed(range(5))] == forwards[::-1]
    assert len(set(forwards)) == 5


def test_no_temperature_is_greedy() -> None:
    assert sampling(0, 0.5, seed=4) is greedy


@pytest.mark.parametrize("seed", [-1, 0, 2**31, 2**64 - 1, 2**70])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    (token,) = np.array(sampling(1.0, seed=seed)(mx.zeros((1, 9)), 0))
    assert 0 <= token < 9


@pytest.mark.parametrize(("temp", "top_p"), [(-1, 1), (float("nan"), 1), (float("inf"), 1), (1, 0), (1, 1.1)])
def test_a_sampler_that_cannot_be_is_refused(temp: float, top_p: float) -> None:
    with pytest.raises(ValueError, match="temp is a number from 0 on" if top_p == 1 else "top_p is above 0"):
        sampling(temp, top_p)
