"""The fast engine against autodiff and the portable one, in every form that it trains; and what engines promise."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from saedsl.errors import TrainingError
from saedsl.training.engine import Arrays, Aux, Engine, Form, Outcome, Parallel, Settings
from saedsl.training.initial import initial_weights
from saedsl.training.loop import make_engine
from saedsl.training.portable import PortableEngine
from tests.training import definition
from tests.training.test_portable import BATCH, CASES, RELU, TOPK, WITH_K, D, F, close, example

pytest.importorskip("numba", reason="the fast engine needs numba")
from saedsl.training.fast import FastEngine

NAMES = [name for name, (form, _) in CASES.items() if FastEngine.supports(form)]
each_case = pytest.mark.parametrize("name", NAMES)
WIDE, TOKENS, MANY = 24, 80, 300
"""Sizes that are no multiple of what kernels take at a time."""
PREFIXES = (30, 130, MANY)
SLOW = replace(WITH_K, rate=1e-4)
"""Adam's first step goes one `rate` along each gradient, those that are rounding only too."""


def wide(form: Form, seed: int = 0) -> tuple[Arrays, list[np.ndarray], list[np.ndarray]]:
    """Weights of `MANY` features, and four batches with their targets."""
    rng = np.random.default_rng(seed)
    x = [rng.standard_normal((TOKENS, WIDE)).astype(np.float32) + 0.2 for _ in range(4)]
    y = x if form.subtract_b_dec else [rng.standard_normal((TOKENS, WIDE + 3)).astype(np.float32) for _ in x]
    w = initial_weights(form, x[0], y[0], MANY, seed, "mean")
    for key, value in w.items():
        if key != "W_dec":
            w[key] = value + 0.1 * rng.standard_normal(value.shape).astype(np.float32)
    return w, x, y


def gradients(engine: Engine, x: np.ndarray, y: np.ndarray, settings: Settings) -> Arrays:
    """As Adam's first moment shows them when it forgets at once."""
    engine.step(x, y, replace(settings, betas=(0.0, 0.999)))
    return {name[2:]: value for name, value in engine.state().items() if name.startswith("m.")}


def same_outcome(ours: Outcome, theirs: Outcome) -> None:
    for key in ("reconstruction", "sparsity", "aux", "l0", "l1", "threshold"):
        assert getattr(ours, key) == pytest.approx(getattr(theirs, key), rel=1e-5, abs=1e-7), key
    np.testing.assert_array_equal(ours.fired, theirs.fired)


def same_arrays(ours: Arrays, theirs: Arrays) -> None:
    """To 1e-5 of the largest entry of each array."""
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert np.abs(ours[key] - value).max() <= 1e-5 * np.abs(value).max(), key


def bitwise(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)


def test_it_trains_topk_batchtopk_and_matryoshka() -> None:
    assert {name for name in CASES if FastEngine.supports(CASES[name][0])} == {
        name for name in CASES if name.startswith(("topk", "batchtopk", "matryoshka", "clipped")) and "clt" not in name
    }


@each_case
def test_gradients_are_those_of_autodiff(name: str) -> None:
    form, settings = CASES[name]
    w, x, y = example(form)
    ours = gradients(FastEngine(form, w), x, y, settings)
    theirs = definition.gradients(w, x, y, form, settings)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert np.linalg.norm(value) > 1e-3, f"{key} has no gradient: the test would see nothing"
        assert close(ours[key], value), key


DEAD = np.unique(np.random.default_rng(5).integers(0, MANY, 90)).astype(np.int32)


@pytest.mark.parametrize("limit", [1e9, 0.3], ids=["free", "clipped"])
@pytest.mark.parametrize("aux", [None, Aux(DEAD, 12, 0.3), Aux(DEAD, 200, 0.3), Aux(DEAD, 12, 0.3, "ghost")])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("prefixes", [(), PREFIXES])
@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_steps_are_those_of_the_portable_engine(
    activation: str, prefixes: tuple[int, ...], subtract: bool, aux: Aux | None, limit: float
) -> None:
    form = Form("topk" if activation == "topk" else "batchtopk", prefixes, subtract)
    w, x, y = wide(form)
    ours, theirs = FastEngine(form, w), PortableEngine(form, w)
    for i in range(6):
        factors = {"W_dec": 2.0, "b_enc": 3.0}
        dead = None if i == 2 else aux
        settings = Settings(i + 1, 1e-4, k=9.0 - i, aux=dead, max_grad_norm=limit, factors=factors)
        inputs, targets = x[i % 4], y[i % 4]
        same_outcome(ours.step(inputs, targets, settings), theirs.step(inputs, targets, settings))
    same_arrays(ours.state(), theirs.state())


@pytest.mark.parametrize("form", [TOPK, BATCH])
def test_entries_that_tie_with_the_border_all_stay(form: Form) -> None:
    """Small whole numbers: pre-activations are exact in both engines, and many are equal."""
    rng = np.random.default_rng(1)
    w, _, _ = wide(form)
    w["W_enc"] = rng.integers(-1, 2, w["W_enc"].shape).astype(np.float32)
    w["b_enc"] = rng.integers(-1, 2, MANY).astype(np.float32)
    w["b_dec"] = np.zeros(WIDE, np.float32)
    x = rng.integers(0, 2, (TOKENS, WIDE)).astype(np.float32)
    ours, theirs = (engine(form, w).step(x, x, replace(WITH_K, k=7.0)) for engine in (FastEngine, PortableEngine))
    assert theirs.l0 > 7.1
    assert ours.l0 * TOKENS == round(theirs.l0 * TOKENS)
    assert ours.threshold == theirs.threshold
    same_outcome(ours, theirs)


@pytest.mark.parametrize("scale", [[1, 30, 0.01, 5], [1, 0, 1, 1], [0, 0, 3, 3]])
def test_the_border_is_exact_however_much_it_moves_between_batches(scale: list[float]) -> None:
    w, x, _ = wide(BATCH)
    w["b_enc"] = np.zeros(MANY, np.float32)
    w["b_dec"] = np.zeros(WIDE, np.float32)
    ours, theirs = FastEngine(BATCH, w), PortableEngine(BATCH, w)
    for i, s in enumerate(scale):
        batch = x[i] * np.float32(s)
        settings = Settings(i + 1, 1e-5, k=6.0)
        same_outcome(ours.step(batch, batch, settings), theirs.step(batch, batch, settings))


def test_where_few_entries_are_positive_all_of_them_stay() -> None:
    w, x, _ = wide(BATCH)
    w["b_enc"] = np.full(MANY, -4.0, np.float32)
    ours, theirs = FastEngine(BATCH, w), PortableEngine(BATCH, w)
    for step in (1, 2, 3):
        settings = Settings(step, 1e-5, k=200.0)
        a, b = ours.step(x[step], x[step], settings), theirs.step(x[step], x[step], settings)
        same_outcome(a, b)
        assert 0 < a.l0 < 100


@each_case
def test_two_runs_are_the_same_bitwise(name: str) -> None:
    form, settings = CASES[name]
    if form.prefixes:
        form = replace(form, prefixes=PREFIXES)
    w, x, y = wide(form)
    if settings.aux is not None:
        settings = replace(settings, aux=replace(settings.aux, dead=DEAD))
    states = []
    for _ in range(2):
        engine = FastEngine(form, w)
        for i in range(4):
            engine.step(x[i], y[i], replace(settings, step=i + 1))
        states.append(engine.state())
    bitwise(states[0], states[1])


@pytest.mark.parametrize("size", [1, 3])
def test_the_number_of_threads_hardly_matters(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x, y = wide(BATCH)
    expected = FastEngine(BATCH, w)
    monkeypatch.setattr("saedsl.training.fast.cores", lambda: size)
    for engine in (engines := [FastEngine(BATCH, w), expected]):
        for i in range(3):
            engine.step(x[i], y[i], replace(SLOW, step=i + 1))
    same_arrays(engines[0].state(), expected.state())


def test_a_blas_that_cannot_be_asked_for_one_thread_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x, y = wide(TOPK)
    expected = FastEngine(TOPK, w).step(x[0], y[0], WITH_K)
    monkeypatch.setattr("saedsl.training.blasthreads._calls", lambda: None)
    same_outcome(FastEngine(TOPK, w).step(x[0], y[0], WITH_K), expected)


def test_kernels_are_compiled_where_nothing_can_be_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    from saedsl.training.compiled import compiled

    def twice(x: float) -> float:
        return 2 * x

    real = numba.njit

    def without_folder(**options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", without_folder)
    assert compiled(twice)(3.0) == 6.0


@each_case
def test_going_on_from_a_state_is_bitwise_going_on(name: str) -> None:
    form, settings = CASES[name]
    if form.prefixes:
        form = replace(form, prefixes=PREFIXES)
    w, x, y = wide(form)
    first = FastEngine(form, w)
    for i in (0, 1):
        first.step(x[i], y[i], replace(settings, step=i + 1))
    second = FastEngine(form, w)
    second.restore(first.state())
    for engine in (first, second):
        for i in (2, 3):
            engine.step(x[i], y[i], replace(settings, step=i + 1))
    bitwise(first.state(), second.state())


def test_each_engine_goes_on_from_the_other_ones_state() -> None:
    w, x, y = wide(TOPK)
    ours, theirs = FastEngine(TOPK, w), PortableEngine(TOPK, w)
    for i in (0, 1):
        theirs.step(x[i], y[i], replace(SLOW, step=i + 1))
    ours.restore(theirs.state())
    bitwise(ours.state(), theirs.state())
    for i in (2, 3):
        for engine in (ours, theirs):
            engine.step(x[i], y[i], replace(SLOW, step=i + 1))
    same_arrays(ours.state(), theirs.state())


def test_what_an_engine_hands_out_are_copies() -> None:
    w, x, y = example(TOPK)
    engine = FastEngine(TOPK, w)
    for held in (w, engine.weights(), engine.state()):
        for value in held.values():
            value[...] = 9
    assert np.isfinite(engine.step(x, y, WITH_K).reconstruction)
    assert not (engine.weights()["W_enc"] == 9).any()


def test_a_step_leaves_its_batch_alone_and_takes_one_that_cannot_be_written() -> None:
    w, x, _ = wide(TOPK)
    batch = x[0].copy()
    batch.setflags(write=False)
    one, other = FastEngine(TOPK, w), FastEngine(TOPK, w)
    one.step(batch, batch, WITH_K)
    other.step(np.asfortranarray(x[0]), x[0].copy(), WITH_K)
    np.testing.assert_array_equal(batch, x[0])
    bitwise(one.state(), other.state())


@pytest.mark.parametrize("name", ["topk", "topk, transcoder", "batchtopk", "matryoshka"])
@pytest.mark.parametrize("of", ["x", "y"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_gives_a_loss_that_is_not(name: str, of: str, value: float) -> None:
    form, settings = CASES[name]
    w, x, y = example(form)
    x, y = x.copy(), y.copy()
    (x if of == "x" else y)[3, 2] = value
    assert not np.isfinite(FastEngine(form, w).step(x, y, settings).reconstruction)


def test_replaced_features_have_their_new_weights_and_no_memory() -> None:
    w, x, y = wide(TOPK)
    ours, theirs = FastEngine(TOPK, w), PortableEngine(TOPK, w)
    ids = np.array([4, 2, 299])
    rng = np.random.default_rng(2)
    rows: Arrays = {"W_enc": rng.random((WIDE, 3)), "W_dec": rng.random((3, WIDE)), "b_enc": rng.random(3)}
    for engine in (ours, theirs):
        engine.step(x[0], y[0], SLOW)
        engine.replace_features(ids, rows)
    same_arrays(ours.state(), theirs.state())
    assert not ours.state()["m.W_enc"][:, ids].any()
    np.testing.assert_array_equal(ours.weights()["W_dec"][ids], rows["W_dec"].astype(np.float32))
    for engine in (ours, theirs):
        engine.step(x[1], y[1], replace(SLOW, step=2))
    same_arrays(ours.state(), theirs.state())


def test_features_that_do_not_fire_move_on_with_adam() -> None:
    w, x, y = wide(TOPK)
    engine = FastEngine(TOPK, w)
    first = engine.step(x[0], y[0], WITH_K)
    before = engine.weights()
    second = engine.step(x[1][:4], y[1][:4], replace(WITH_K, step=2))
    silent = np.flatnonzero(first.fired & ~second.fired)
    assert silent.size > 10
    moved = np.abs(engine.weights()["W_enc"] - before["W_enc"])[:, silent]
    assert (moved.max(axis=0) > 0).all()


@pytest.mark.parametrize("form", [TOPK, Form("batchtopk", PREFIXES)])
def test_decoder_rows_have_length_1(form: Form) -> None:
    w, x, y = wide(form)
    engine = FastEngine(form, w)
    for i in range(4):
        engine.step(x[i], y[i], replace(WITH_K, step=i + 1, rate=0.05))
    np.testing.assert_allclose(np.linalg.norm(engine.weights()["W_dec"], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("form", [TOPK, BATCH])
def test_a_step_needs_little_memory(form: Form) -> None:
    """Weights, moments, one array [B, F] for dead features, one for pre-activations or gradients, and 8 [B, d]."""
    n, width, n_features = 512, 16, 2048
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, width)).astype(np.float32)
    w = initial_weights(form, x, x, n_features, 0, "mean")
    settings = Settings(1, 1e-3, k=8.0, aux=Aux(np.arange(0, n_features, 2, dtype=np.int32), 8, 0.1))
    FastEngine(form, w).step(x, x, settings)  # compiled by now
    gc.collect()
    tracemalloc.start()
    engine = FastEngine(form, w)
    for step in range(1, 5):
        engine.step(x, x, replace(settings, step=step))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    parameters = 4 * (2 * n_features * width + n_features + width)
    assert peak < 3 * parameters + 2 * 4 * n * n_features + 8 * 4 * n * width + 2**17


def test_dictionaries_learn() -> None:
    """Sparse sums of 12 directions in 6 dimensions: most of them is explained after 200 steps."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((12, D)).astype(np.float32)
    codes = rng.uniform(1, 2, (2048, 12)) * (rng.random((2048, 12)) < 1 / 12)
    x = (codes @ directions).astype(np.float32)
    x /= x.std()
    for form in (TOPK, BATCH, Form("batchtopk", prefixes=(8, F))):
        engine = FastEngine(form, initial_weights(form, x, x, F, 0, "mean"))
        for step in range(1, 201):
            batch = x[rng.integers(0, len(x), 256)]
            last = engine.step(batch, batch, Settings(step, 3e-3, k=2))
        assert last.reconstruction < 0.2 * float(x.var(axis=0).sum()), form


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"b_enc": None}, "b_enc [32] is missing from the weights"),
        ({"W_skip": np.zeros((6, 6))}, "W_skip does not belong to the weights of this form; leave it out"),
        ({"b_dec": np.zeros(5)}, "b_dec is [5]; this form needs [6]"),
    ],
)
def test_weights_of_another_form_are_refused(change: dict[str, np.ndarray | None], words: str) -> None:
    w, _, _ = example(TOPK)
    given = {key: value for key, value in {**w, **change}.items() if value is not None}
    with pytest.raises(TrainingError) as error:
        FastEngine(TOPK, given)
    assert str(error.value) == words


def test_states_and_features_of_another_form_are_refused_and_change_nothing() -> None:
    w, x, y = example(TOPK)
    engine = FastEngine(TOPK, w)
    engine.step(x, y, WITH_K)
    before = engine.state()
    with pytest.raises(TrainingError, match=r"m.W_enc \[6, 32\] is missing from the state"):
        engine.restore({key: 0 * value for key, value in before.items() if key != "m.W_enc"})
    with pytest.raises(TrainingError, match="b_dec does not belong to the new features of this form"):
        engine.replace_features(np.array([1]), {"b_dec": np.zeros(1), "b_enc": np.zeros(1)})
    with pytest.raises(TrainingError, match=r"W_enc is \[1, 6\]; this form needs \[6, 1\]"):
        engine.replace_features(np.array([1]), {"W_enc": np.zeros((1, 6)), "b_enc": np.zeros(1)})
    bitwise(engine.state(), before)


class TestTheEngineOfARun:
    def test_is_this_one_where_it_can_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(make_engine(BATCH, example(BATCH)[0]), FastEngine)
        assert isinstance(make_engine(RELU, example(RELU)[0]), PortableEngine)

    def test_is_the_portable_one_without_numba(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("saedsl.training.loop.find_spec", lambda name: None)
        assert isinstance(make_engine(TOPK, example(TOPK)[0]), PortableEngine)

    def test_is_the_portable_one_where_mlx_computes_on_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mlx.core.default_device", lambda: "a GPU")
        assert isinstance(make_engine(TOPK, example(TOPK)[0]), PortableEngine)

    def test_is_the_portable_one_for_processes_together(self) -> None:
        class Two:
            split, rank, size = "data", 0, 2

        assert isinstance(make_engine(TOPK, example(TOPK)[0], cast(Parallel, Two())), PortableEngine)
        with pytest.raises(TrainingError, match="in one process; use PortableEngine"):
            FastEngine(TOPK, example(TOPK)[0], cast(Parallel, Two()))
