"""The portable engine against autodiff of an independently written loss, for every form; and what engines promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from typing import Literal

import mlx.core as mx
import numpy as np
import pytest

from saedsl.errors import TrainingError
from saedsl.training import portable
from saedsl.training.engine import Arrays, Aux, Form, Outcome, Settings
from saedsl.training.initial import initial_weights
from saedsl.training.portable import PortableEngine
from tests.training import definition

B, F, D, D_OUT = 24, 32, 6, 8
FREE = 1e9
"""A gradient norm that nothing reaches."""
DEAD = np.array([1, 5, 6, 17, 18, 30], np.int32)
AUX = Aux(DEAD, 3, 0.5)
Case = tuple[Form, Settings]

TOPK, BATCH = Form("topk"), Form("batchtopk")
RELU, JUMP, GATED = Form("relu"), Form("jumprelu"), Form("gated")
WITH_K = Settings(1, 1e-3, k=4.0, max_grad_norm=FREE)
WITH_L1 = Settings(1, 1e-3, sparsity=0.7, max_grad_norm=FREE)
WITH_L0 = Settings(1, 1e-3, sparsity=0.3, bandwidth=0.4, max_grad_norm=FREE)
TARGET = replace(WITH_L0, target_l0=5.0)
CASES: dict[str, Case] = {
    "topk": (TOPK, WITH_K),
    "topk, k past the features": (TOPK, replace(WITH_K, k=40.0)),
    "topk, aux": (TOPK, replace(WITH_K, aux=AUX)),
    "topk, aux of all dead": (TOPK, replace(WITH_K, aux=Aux(DEAD, 8, 0.5))),
    "topk, ghost": (TOPK, replace(WITH_K, aux=Aux(DEAD, 3, 0.5, "ghost"))),
    "topk, transcoder": (Form("topk", subtract_b_dec=False), WITH_K),
    "topk, skip": (Form("topk", skip=True, subtract_b_dec=False), replace(WITH_K, aux=AUX)),
    "topk, clt": (Form("topk", layers=2, subtract_b_dec=False), replace(WITH_K, aux=AUX)),
    "batchtopk": (BATCH, WITH_K),
    "batchtopk, k of half": (BATCH, replace(WITH_K, k=2.5)),
    "batchtopk, aux": (BATCH, replace(WITH_K, aux=AUX)),
    "batchtopk, clt": (Form("batchtopk", layers=2, subtract_b_dec=False), replace(WITH_K, aux=AUX)),
    "matryoshka": (Form("batchtopk", prefixes=(4, 12, F)), WITH_K),
    "matryoshka, aux": (Form("batchtopk", prefixes=(4, 12, F)), replace(WITH_K, aux=AUX)),
    "matryoshka, skip": (Form("batchtopk", prefixes=(4, 12, F), skip=True, subtract_b_dec=False), WITH_K),
    "relu": (RELU, WITH_L1),
    "relu, aux": (RELU, replace(WITH_L1, aux=AUX)),
    "relu, ghost": (RELU, replace(WITH_L1, aux=Aux(DEAD, 3, 0.5, "ghost"))),
    "relu, transcoder": (Form("relu", subtract_b_dec=False), WITH_L1),
    "relu, clt": (Form("relu", layers=2, subtract_b_dec=False), WITH_L1),
    "relu, matryoshka": (Form("relu", prefixes=(4, F)), WITH_L1),
    "jumprelu": (JUMP, WITH_L0),
    "jumprelu, target": (JUMP, TARGET),
    "jumprelu, aux": (JUMP, replace(WITH_L0, aux=AUX)),
    "jumprelu, skip": (Form("jumprelu", skip=True, subtract_b_dec=False), TARGET),
    "jumprelu, clt": (Form("jumprelu", layers=2, subtract_b_dec=False), TARGET),
    "gated": (GATED, WITH_L1),
    "gated, aux": (GATED, replace(WITH_L1, aux=AUX)),
    "gated, transcoder": (Form("gated", subtract_b_dec=False), WITH_L1),
    "gated, skip": (Form("gated", skip=True, subtract_b_dec=False), replace(WITH_L1, aux=AUX)),
    "clipped": (BATCH, replace(WITH_K, max_grad_norm=0.5)),
}
each_case = pytest.mark.parametrize("name", list(CASES))


def example(form: Form, seed: int = 0) -> tuple[Arrays, np.ndarray, np.ndarray]:
    """Weights away from their special starts, and a batch: every term of every gradient counts."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((B, D)).astype(np.float32) + 0.3
    y = x if form.subtract_b_dec else rng.standard_normal((B, D_OUT)).astype(np.float32)
    w = initial_weights(form, x, y, F, seed, "mean")
    for name, value in w.items():
        if name != "W_dec":
            w[name] = value + 0.2 * rng.standard_normal(value.shape).astype(np.float32)
    if "log_threshold" in w:
        w["log_threshold"] = rng.uniform(-2, -0.5, F).astype(np.float32)
    return w, x, y


def gradients(engine: PortableEngine, x: np.ndarray, y: np.ndarray, settings: Settings) -> tuple[Outcome, Arrays]:
    """The outcome, and the gradients as Adam's first moment shows them when it forgets at once."""
    outcome = engine.step(x, y, replace(settings, betas=(0.0, 0.999)))
    return outcome, {name[2:]: value for name, value in engine.state().items() if name.startswith("m.")}


def close(ours: np.ndarray, theirs: np.ndarray, relative: float = 1e-5) -> bool:
    return bool(np.linalg.norm(ours - theirs) <= relative * np.linalg.norm(theirs) + 1e-7)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 24 tokens comes in parts of 7, 7, 7 and 3."""
    monkeypatch.setattr(portable, "FEWEST_ROWS", 7)


@each_case
@pytest.mark.parametrize("rows", [portable.FEWEST_ROWS, 7])
def test_gradients_are_those_of_autodiff(rows: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "FEWEST_ROWS", rows)
    form, settings = CASES[name]
    w, x, y = example(form)
    _, ours = gradients(PortableEngine(form, w), x, y, settings)
    theirs = definition.gradients(w, x, y, form, settings)
    assert ours.keys() == theirs.keys() == w.keys()
    for array in w:
        assert np.linalg.norm(theirs[array]) > 1e-3, f"{array} has no gradient: the test would see nothing"
        assert close(ours[array], theirs[array]), array


@each_case
@pytest.mark.usefixtures("in_parts")
def test_the_outcome_is_what_the_batch_saw_before_the_update(name: str) -> None:
    form, settings = CASES[name]
    w, x, y = example(form)
    got = PortableEngine(form, w).step(x, y, settings)
    arrays = {key: mx.array(value) for key, value in w.items()}
    parts = {key: np.array(v) for key, v in definition.loss(arrays, mx.array(x), mx.array(y), form, settings).items()}
    f = parts["f"]
    if form.activation == "jumprelu":
        f = f * (f > 0)
    for loss in ("reconstruction", "sparsity", "aux"):
        assert getattr(got, loss) == pytest.approx(float(parts[loss]), rel=1e-5, abs=1e-9), loss
    assert got.l0 == pytest.approx((f > 0).sum() / B)
    assert got.l1 == pytest.approx(f.sum() / B, rel=1e-5)
    np.testing.assert_array_equal(got.fired, (f > 0).any(axis=0))
    assert got.threshold == (pytest.approx(f[f > 0].min(), rel=1e-6) if form.activation == "batchtopk" else 0)


@pytest.mark.parametrize("name", ["topk, skip", "gated", "jumprelu", "relu, clt"])
def test_three_steps_are_adam_with_unit_decoder_rows(name: str) -> None:
    form, settings = CASES[name]
    factors = {"W_dec": 2.0, "b_enc": 3.0, "b_gate": 0.5}
    settings = replace(settings, rate=0.01, betas=(0.8, 0.95), max_grad_norm=2.0, factors=factors)
    w, x, y = example(form)
    engine = PortableEngine(form, w)
    m = {key: np.zeros(value.shape) for key, value in w.items()}
    v = {key: np.zeros(value.shape) for key, value in w.items()}
    expected = w
    for step in (1, 2, 3):
        g = definition.gradients(expected, x, y, form, settings)
        engine.step(x, y, replace(settings, step=step))
        new = {}
        for key in w:
            m[key] = 0.8 * m[key] + 0.2 * g[key]
            v[key] = 0.95 * v[key] + 0.05 * g[key] ** 2
            change = m[key] / (1 - 0.8**step) / (np.sqrt(v[key] / (1 - 0.95**step)) + 1e-8)
            new[key] = expected[key] - 0.01 * factors.get(key, 1) * change
        new["W_dec"] /= np.linalg.norm(new["W_dec"], axis=1, keepdims=True)
        expected = {key: value.astype(np.float32) for key, value in new.items()}
    for key, value in engine.weights().items():
        assert close(value, expected[key], 2e-5), key
    np.testing.assert_allclose(np.linalg.norm(engine.weights()["W_dec"], axis=1), 1, rtol=1e-6)


def test_losses_of_many_entries_are_exact() -> None:
    """Nothing fires, so that what is left is x - b_dec; 2^21 squares added one by one would be 1e-3 too few."""
    x = np.random.default_rng(0).standard_normal((16384, 128)).astype(np.float32)
    weights = initial_weights(TOPK, x[:100], x[:100], 4, 0, "mean")
    weights["b_enc"] -= 1000
    out = PortableEngine(TOPK, weights).step(x, x, replace(WITH_K, k=1))
    assert out.l0 == 0
    expected = np.square(x - weights["b_dec"], dtype=np.float64).sum(axis=1).mean()
    assert out.reconstruction == pytest.approx(float(expected), rel=1e-5)


def test_decoder_rows_of_a_cross_layer_transcoder_never_write_to_earlier_layers() -> None:
    form, settings = CASES["topk, clt"]
    w, x, y = example(form)
    engine = PortableEngine(form, w)
    for step in range(1, 6):
        engine.step(x, y, replace(settings, step=step, rate=0.05))
    rows = np.array([[1.0] * D_OUT] * 2, np.float32)
    engine.replace_features(np.array([3, 20]), {"W_dec": rows})
    later = engine.weights()["W_dec"][F // 2 :]
    assert not later[:, : D_OUT // 2].any()
    assert later[:, D_OUT // 2 :].any()


@each_case
def test_going_on_from_a_state_is_bitwise_going_on(name: str) -> None:
    form, settings = CASES[name]
    w, x, y = example(form)
    first = PortableEngine(form, w)
    for step in (1, 2):
        first.step(x, y, replace(settings, step=step))
    second = PortableEngine(form, w)
    second.restore(first.state())
    for engine in (first, second):
        for step in (3, 4):
            engine.step(y[:, :D] + x, y if y is not x else x, replace(settings, step=step))
    for key, value in first.state().items():
        np.testing.assert_array_equal(value, second.state()[key], err_msg=key)


def test_what_an_engine_hands_out_are_copies() -> None:
    w, x, y = example(TOPK)
    engine = PortableEngine(TOPK, w)
    for held in (w, engine.weights(), engine.state()):
        for value in held.values():
            value[...] = 9
    assert np.isfinite(engine.step(x, y, WITH_K).reconstruction)
    assert not (engine.weights()["W_enc"] == 9).any()


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "relu", "jumprelu", "gated", "topk, clt"])
@pytest.mark.parametrize("of", ["x", "y"])
def test_nan_gives_a_loss_that_is_not_finite(name: str, of: str) -> None:
    form, settings = CASES[name]
    w, x, y = example(form)
    if of == "x":
        x = x.copy()
        x[3, 2] = np.nan
    else:
        y = y.copy()
        y[3, 2] = np.nan
    assert not np.isfinite(PortableEngine(form, w).step(x, y, settings).reconstruction)


@pytest.mark.parametrize("name", ["gated", "jumprelu", "topk, clt"])
def test_replaced_features_have_their_new_weights_and_no_memory(name: str) -> None:
    form, settings = CASES[name]
    w, x, y = example(form)
    engine = PortableEngine(form, w)
    engine.step(x, y, settings)
    before, ids = engine.state(), np.array([4, 2])
    vectors = [key for key in w if key not in ("W_enc", "W_dec", "b_dec", "W_skip")]
    rows: Arrays = {"W_enc": np.ones((w["W_enc"].shape[0], 2)), "W_dec": np.eye(w["W_dec"].shape[1])[:2]}
    rows |= {key: np.array([7.0, 8.0], np.float32) for key in vectors}
    engine.replace_features(ids, rows)
    after = engine.state()
    others = np.delete(np.arange(F), ids)
    for key in w:
        for full in (key, f"m.{key}", f"v.{key}"):
            old, new = before[full], after[full]
            if key in ("W_enc", "W_dec", *vectors):
                axis = 1 if key == "W_enc" else 0
                np.testing.assert_array_equal(np.take(new, others, axis), np.take(old, others, axis), err_msg=full)
                expected = rows[key] if full == key else np.zeros_like(rows[key])
                np.testing.assert_array_equal(np.take(new, ids, axis), expected, err_msg=full)
            else:
                np.testing.assert_array_equal(new, old, err_msg=full)


def test_dictionaries_learn() -> None:
    """Sparse sums of 12 directions in 6 dimensions: every form explains most of them after 200 steps."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((12, D)).astype(np.float32)
    codes = rng.uniform(1, 2, (2048, 12)) * (rng.random((2048, 12)) < 1 / 12)
    x = (codes @ directions).astype(np.float32)
    x /= x.std()
    variance = float(x.var(axis=0).sum())
    for form, settings in (
        (TOPK, Settings(1, 3e-3, k=2)),
        (BATCH, Settings(1, 3e-3, k=2)),
        (Form("batchtopk", prefixes=(8, F)), Settings(1, 3e-3, k=2)),
        (RELU, Settings(1, 3e-3, sparsity=0.3)),
        (JUMP, Settings(1, 3e-3, sparsity=6.0, target_l0=2.0, bandwidth=0.03)),
        (GATED, Settings(1, 3e-3, sparsity=0.3)),
    ):
        engine = PortableEngine(form, initial_weights(form, x, x, F, 0, "mean"))
        for step in range(1, 201):
            batch = x[rng.integers(0, len(x), 256)]
            last = engine.step(batch, batch, replace(settings, step=step))
        assert last.reconstruction < 0.2 * variance, form
        assert last.l0 < 8, form


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"b_enc": None}, "b_enc [32] is missing from the weights"),
        ({"W_skip": np.zeros((6, 6))}, "W_skip does not belong to the weights of this form; leave it out"),
        ({"b_dec": np.zeros(5)}, "b_dec is [5]; this form needs [6]"),
        ({"W_dec": None}, "W_enc or W_dec is missing from the weights"),
        ({"W_enc": np.zeros((5, 32))}, "b_dec has 6 entries and cannot be subtracted from inputs of 5"),
    ],
)
def test_weights_of_another_form_are_refused(change: dict[str, np.ndarray | None], words: str) -> None:
    w = {**example(TOPK)[0], **change}
    with pytest.raises(TrainingError) as error:
        PortableEngine(TOPK, {name: value for name, value in w.items() if value is not None})
    assert str(error.value) == words


def test_prefixes_that_end_elsewhere_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"prefixes \[4, 12\] do not end at the 32 features there are"):
        PortableEngine(Form("batchtopk", prefixes=(4, 12)), example(BATCH)[0])


def test_states_and_features_that_do_not_fit_are_refused_and_change_nothing() -> None:
    w, _, _ = example(TOPK)
    engine = PortableEngine(TOPK, w)
    before = engine.state()
    with pytest.raises(TrainingError, match=r"m.W_dec \[32, 6\] is missing from the state"):
        engine.restore({name: value for name, value in before.items() if name != "m.W_dec"})
    with pytest.raises(TrainingError, match="b_dec does not belong to the new features of this form"):
        engine.replace_features(np.array([1]), {"b_enc": np.zeros(1), "b_dec": np.zeros(6)})
    with pytest.raises(TrainingError, match=r"W_enc is \[6, 2\]; this form needs \[6, 1\]"):
        engine.replace_features(np.array([1]), {"W_enc": np.zeros((6, 2))})
    for name, value in engine.state().items():
        np.testing.assert_array_equal(value, before[name])


def test_a_cross_layer_transcoder_has_limits() -> None:
    form = CASES["topk, clt"][0]
    w, _, _ = example(form)
    with pytest.raises(TrainingError, match="b_dec cannot be subtracted"):
        PortableEngine(replace(form, subtract_b_dec=True), w)
    with pytest.raises(TrainingError, match="cannot be split by latents"):
        PortableEngine(form, w, Together("latents", 2).of(0))
    w["W_dec"][-1, 0] = 1
    with pytest.raises(TrainingError, match="writes to layers before"):
        PortableEngine(form, w)


class Together:
    """Processes as threads of this one: what `Parallel` promises, without a network."""

    def __init__(self, split: Literal["data", "latents"], size: int) -> None:
        self.split, self.size = split, size
        self.slots: list[np.ndarray] = [np.empty(0)] * size
        self.barrier = Barrier(size, timeout=20)

    def of(self, rank: int) -> Member:
        return Member(self, rank)

    def run(self, work: Callable[[int], None]) -> None:
        errors: list[BaseException] = []

        def guarded(rank: int) -> None:
            try:
                work(rank)
            except BaseException as error:
                errors.append(error)
                self.barrier.abort()

        threads = [Thread(target=guarded, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


class Member:
    def __init__(self, together: Together, rank: int) -> None:
        self.together, self.rank = together, rank
        self.split, self.size = together.split, together.size

    def gather(self, values: np.ndarray) -> np.ndarray:
        assert isinstance(values, np.ndarray)
        self.together.slots[self.rank] = values
        self.together.barrier.wait()
        shapes = {(slot.shape, slot.dtype) for slot in self.together.slots}
        assert len(shapes) == 1, f"processes sent {shapes}"
        out = np.stack(self.together.slots)
        self.together.barrier.wait()
        return out

    def sum(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(self.gather(values).sum(axis=0), values.dtype)


@each_case
@pytest.mark.usefixtures("in_parts")
def test_processes_with_parts_of_the_batch_are_one_process(name: str) -> None:
    form, settings = CASES[name]
    w, x, y = example(form)
    alone, expected = gradients(PortableEngine(form, w), x, y, settings)
    together, found = Together("data", 2), {}

    def work(rank: int) -> None:
        mine = slice(rank * B // 2, (rank + 1) * B // 2)
        a = x[mine]
        found[rank] = gradients(PortableEngine(form, w, together.of(rank)), a, a if y is x else y[mine], settings)

    together.run(work)
    for outcome, g in found.values():
        same_outcome(outcome, alone)
        np.testing.assert_array_equal(outcome.fired, alone.fired)
        for key in w:
            assert close(g[key], expected[key]), key
            np.testing.assert_array_equal(g[key], found[0][1][key])


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("name", [name for name, (form, _) in CASES.items() if form.layers == 1])
def test_processes_with_parts_of_the_features_are_one_process(name: str) -> None:
    form, settings = CASES[name]
    w, x, y = example(form)
    alone, expected = gradients(PortableEngine(form, w), x, y, settings)
    together, found = Together("latents", 2), {}

    def part(rank: int) -> Arrays:
        mine = slice(rank * F // 2, (rank + 1) * F // 2)
        cut = {key: value if key in ("b_dec", "W_skip") else value[mine] for key, value in w.items()}
        return {**cut, "W_enc": w["W_enc"][:, mine]}

    def work(rank: int) -> None:
        engine = PortableEngine(form, part(rank), together.of(rank))
        found[rank] = gradients(engine, x, y, settings)

    together.run(work)
    for key in w:
        parts = [found[r][1][key] for r in (0, 1)]
        if key in ("b_dec", "W_skip"):
            np.testing.assert_array_equal(parts[0], parts[1])
            assert close(parts[0], expected[key]), key
        else:
            assert close(np.concatenate(parts, axis=1 if key == "W_enc" else 0), expected[key]), key
    for outcome, _ in found.values():
        np.testing.assert_array_equal(outcome.fired, alone.fired)
        same_outcome(outcome, alone)


def test_each_process_replaces_those_of_the_features_that_are_its_own() -> None:
    w, _, _ = example(TOPK)
    ids = np.array([20, 3, 31])
    rows = {"W_enc": np.arange(18.0).reshape(D, 3), "W_dec": np.eye(D)[:3], "b_enc": np.array([1.0, 2.0, 3.0])}
    alone = PortableEngine(TOPK, w)
    alone.replace_features(ids, rows)
    together, found = Together("latents", 2), {}

    def work(rank: int) -> None:
        mine = slice(rank * F // 2, (rank + 1) * F // 2)
        cut = {"W_enc": w["W_enc"][:, mine], "W_dec": w["W_dec"][mine], "b_enc": w["b_enc"][mine], "b_dec": w["b_dec"]}
        engine = PortableEngine(TOPK, cut, together.of(rank))
        engine.replace_features(ids, rows)
        found[rank] = engine.weights()

    together.run(work)
    for key, axis in (("W_enc", 1), ("W_dec", 0), ("b_enc", 0)):
        whole = np.concatenate([found[0][key], found[1][key]], axis=axis)
        np.testing.assert_array_equal(whole, alone.weights()[key], err_msg=key)


def same_outcome(ours: Outcome, theirs: Outcome) -> None:
    for key in ("reconstruction", "sparsity", "aux", "l0", "l1", "threshold"):
        assert getattr(ours, key) == pytest.approx(getattr(theirs, key), rel=1e-5), key


GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "saelens_steps.npz")
SAELENS_DEAD = Aux(np.array([1, 2, 5, 8, 13, 14, 20], np.int32), 4, 0.5)
SAELENS: dict[str, Case] = {
    "relu": (RELU, WITH_L1),
    "topk": (TOPK, WITH_K),
    "topk_aux": (TOPK, replace(WITH_K, aux=SAELENS_DEAD)),
    "batchtopk": (BATCH, WITH_K),
    "batchtopk_aux": (BATCH, replace(WITH_K, aux=SAELENS_DEAD)),
    "matryoshka": (Form("batchtopk", prefixes=(6, 12, 24)), WITH_K),
    "jumprelu": (JUMP, WITH_L0),
}


@pytest.mark.parametrize("name", list(SAELENS))
def test_losses_and_gradients_are_those_of_saelens(name: str) -> None:
    """SAELens adds a Matryoshka's losses up, we take their mean; it learns thresholds, we their logarithms."""
    form, settings = SAELENS[name]
    given = {key.removeprefix(f"{name}."): GOLDEN[key] for key in GOLDEN if key.startswith(f"{name}.")}
    w: Arrays = {key: given[key] for key in ("W_enc", "b_enc", "W_dec", "b_dec")}
    theirs: Arrays = {key: given[f"grad.{key}"] / max(len(form.prefixes), 1) for key in w}
    if form.activation == "jumprelu":
        w["log_threshold"] = np.log(given["threshold"])
        theirs["log_threshold"] = given["grad.threshold"] * given["threshold"]
    theirs["W_dec"] = theirs["W_dec"] - (theirs["W_dec"] * w["W_dec"]).sum(axis=1, keepdims=True) * w["W_dec"]
    outcome, ours = gradients(PortableEngine(form, w), given["x"], given["x"], settings)
    for key in w:
        assert close(ours[key], theirs[key]), key
    total = sum(value for key, value in given.items() if key.startswith("loss.")) / max(len(form.prefixes), 1)
    assert outcome.reconstruction + outcome.sparsity + outcome.aux == pytest.approx(float(total), rel=1e-5)
