"""The modes frozen and direct, against numpy, and: effects are linear, and rows without an edit are as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from saedsl.anatomy import FAMILIES
from saedsl.holds import holds
from saedsl.model import InterpretableModel
from saedsl.sites import Site
from saedsl.trace import Frame, Hooks, SiteFn
from tests import tiny

Models = Callable[..., InterpretableModel]
Held = Literal["frozen", "direct"]
HELD: tuple[Held, ...] = ("frozen", "direct")

IDS = [0, 5, 9, 2, 30, 7, 11, 3]
MLP = Site(0, "mlp")


def numbers(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))


def added(vector: np.ndarray, row: int = 1, factor: float = 1.0) -> SiteFn:
    """Adds `factor` times a vector [width] at positions 2 to 5 of one row."""

    def fn(x: mx.array, frame: Frame) -> mx.array:
        at = np.zeros((x.shape[0], x.shape[1], 1), np.float32)
        where = [p - frame.offset for p in range(2, 6) if 0 <= p - frame.offset < frame.length]
        at[row, where] = factor
        return x + (mx.array(at) * mx.array(vector.astype(np.float32))).astype(x.dtype)

    return fn


def vector(width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(width)


# Against numpy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("mode", HELD)
@pytest.mark.parametrize("site", ["embed", "L0.attn.v", "L0.attn.z", "L0.mlp", "L0.resid_mid", "L1.resid_pre"])
def test_held_forwards_are_numpys(family: str, mode: Held, site: str, model_of: Models) -> None:
    lm = model_of(family)
    where = Site.parse(site)
    v = vector(lm.info.width(where) or 0)

    def edit(x: tiny.Array) -> tiny.Array:
        x = x.copy()
        x[2:6] += v
        return x

    _, unedited = tiny.forward(lm.model, IDS)
    text = "L0.resid_pre" if site == "embed" else site
    expected, seen = tiny.forward(lm.model, IDS, {text: edit}, held=unedited, mode=mode)
    captures = [s for s in lm.info.sites if str(s) in seen and s.component not in ("attn.pattern", "attn.q", "attn.k")]
    hooks = Hooks(lm.model, lm.info, {where: added(v)}, captures, mode, (0, 0))
    logits, frame = hooks(mx.array([IDS, IDS]))
    np.testing.assert_allclose(numbers(logits)[1], expected, rtol=1e-3, atol=1e-3)
    for s in captures:
        np.testing.assert_allclose(numbers(frame.captured[s])[1], seen[str(s)], rtol=1e-3, atol=1e-3, err_msg=str(s))
    free, _ = tiny.forward(lm.model, IDS, {text: edit})
    assert np.abs(free - expected).max() > 1e-2  # holding matters
    assert mx.array_equal(logits[0], lm.model(mx.array([IDS, IDS]))[0])  # and the unedited row is what it was


# Every family ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("mode", HELD)
def test_rows_without_an_edit_are_bitwise_as_they_were(mode: Held, dtype: str, family: str, model_of: Models) -> None:
    lm = model_of(family, dtype)
    tokens = mx.array([IDS, IDS[::-1], IDS, IDS[::-1]])
    plain = lm.model(tokens)
    # held against equal rows, and with an edit in one row only
    logits, _ = Hooks(lm.model, lm.info, mode=mode, shadow_of=(0, 1, 0, 1))(tokens)
    assert mx.array_equal(logits, plain)
    hooks = Hooks(lm.model, lm.info, {MLP: added(vector(lm.info.d_model), row=2)}, (), mode, (0, 1, 0, 1))
    logits, _ = hooks(tokens)
    assert mx.array_equal(logits[:2], plain[:2])
    assert mx.array_equal(logits[3], plain[3])
    assert not mx.array_equal(logits[2], plain[2])
    assert mx.array_equal(logits[2, :2], plain[2, :2])  # before the first edited position


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", ["L0.mlp", "L0.attn.v", "embed", "L0.resid_mid"])
def test_direct_effects_are_linear_in_the_edit(site: str, family: str, model_of: Models) -> None:
    lm = model_of(family)
    where, late, final = Site.parse(site), Site(1, "resid_post"), Site(None, "final")
    a, b = vector(lm.info.width(where) or 0, 1), vector(lm.info.width(where) or 0, 2)
    functions = [added(a, 1), added(a, 2, 2.0), added(b, 3), added(a + b, 4)]

    def edits(x: mx.array, frame: Frame) -> mx.array:
        for fn in functions:
            x = fn(x, frame)
        return x

    tokens = mx.array([IDS] * 5)
    _, frame = Hooks(lm.model, lm.info, {where: edits}, [late, final], "direct", (0,) * 5)(tokens)
    for seen in (late, final):
        x = numbers(frame.captured[seen])
        one, two, other, both = (x[i] - x[0] for i in range(1, 5))
        size = np.abs(one).max()
        assert size > 1e-2
        np.testing.assert_allclose(two, 2 * one, atol=1e-4 * size, rtol=0)
        np.testing.assert_allclose(both, one + other, atol=1e-4 * max(size, np.abs(other).max()), rtol=0)
    _, free = Hooks(lm.model, lm.info, {where: edits}, [late])(tokens)
    x = numbers(free.captured[late])
    assert np.abs((x[2] - x[0]) - 2 * (x[1] - x[0])).max() > 1e-3  # else the test shows nothing


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", HELD)
def test_patterns_are_held_in_every_layer(mode: Held, family: str, model_of: Models) -> None:
    lm = model_of(family)
    patterns = [Site(layer, "attn.pattern") for layer in range(2)]
    v = Site(1, "attn.v")
    hooks = Hooks(lm.model, lm.info, {Site(None, "embed"): added(vector(32))}, [*patterns, v], mode, (0, 0))
    _, frame = hooks(mx.array([IDS, IDS]))
    for site in patterns:
        assert mx.array_equal(frame.captured[site][1], frame.captured[site][0])
    assert not mx.array_equal(frame.captured[v][1], frame.captured[v][0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", HELD)
def test_a_held_forward_in_pieces_is_the_whole_one(mode: Held, family: str, model_of: Models) -> None:
    lm = model_of(family)
    hooks = Hooks(lm.model, lm.info, {MLP: added(vector(32))}, (), mode, (0, 0))
    tokens = mx.array([IDS, IDS])
    whole, _ = hooks(tokens)
    cache = make_prompt_cache(lm.model)
    parts = [numbers(hooks(tokens[:, a:b], cache)[0]) for a, b in ((0, 3), (3, 7), (7, 8))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), numbers(whole), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_norms_of_a_family_are_all_of_them(family: str, model_of: Models) -> None:
    lm = model_of(family)
    family_of = lm.info.family
    named = {f"{family_of.blocks}.{i}.{norm}" for i in range(2) for norm in family_of.norms} | {family_of.final_norm}
    found = {name for name, m in lm.model.named_modules() if "Norm" in type(m).__name__}
    heads = {name for name in found if name.endswith(("q_norm", "k_norm"))}  # held with the queries and keys
    assert found - heads == named


@pytest.mark.parametrize("family", FAMILIES)
def test_a_held_norm_divides_by_the_shadows_denominator(family: str, model_of: Models) -> None:
    lm = model_of(family)
    modules = dict(lm.model.named_modules())
    x = np.random.default_rng(0).standard_normal((2, 3, 32)).astype(np.float32) * np.array([1, 5])[:, None, None]
    shown = 0
    for path, hold in holds(lm.info, "direct", (0, 0), {}):
        module = modules[path]
        if "Norm" not in type(module).__name__ or path.endswith(("q_norm", "k_norm")):
            continue
        centred = x - x.mean(-1, keepdims=True) if "Layer" in type(module).__name__ else x
        rho = np.sqrt((centred**2).mean(-1, keepdims=True) + module.eps)
        bias = np.array(module.bias) if "bias" in module else 0
        y = module(mx.array(x.astype(np.float32)))
        expected = (np.array(y[1]) - bias) * rho[1] / rho[0] + bias
        held = hold(module, mx.array(x.astype(np.float32)), y, Frame(0, 3, 2))
        np.testing.assert_allclose(np.array(held[1]), expected, rtol=1e-4, atol=1e-4)
        assert mx.array_equal(held[0], y[0])
        shown += 1
    assert shown == 2 * len(lm.info.family.norms) + 1


# Skips -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("component", ["mlp", "mlp.raw"])
def test_the_skip_of_a_transcoder_stays_live(component: str, family: str, model_of: Models) -> None:
    lm = model_of(family)
    W = np.random.default_rng(3).standard_normal((32, 32)).astype(np.float32)
    out, read = Site(1, component), Site(1, "mlp.in")
    edit = {Site(0, "resid_post"): added(vector(32))}
    tokens = mx.array([IDS, IDS])

    def seen(skips: dict[Site, mx.array | Callable[[mx.array], mx.array]]) -> tuple[np.ndarray, np.ndarray]:
        _, frame = Hooks(lm.model, lm.info, edit, [out, read], "direct", (0, 0), skips)(tokens)
        return numbers(frame.captured[out]), numbers(frame.captured[read])

    held, _ = seen({})
    live, x = seen({out: mx.array(W)})
    np.testing.assert_allclose(held[1], held[0], atol=1e-6)
    assert np.array_equal(live[0], held[0])
    np.testing.assert_allclose(live[1] - live[0], (x[1] - x[0]) @ W.T, rtol=1e-3, atol=1e-3)
    again, _ = seen({out: lambda dx: dx @ mx.array(W).T})
    np.testing.assert_allclose(again, live, rtol=1e-5, atol=1e-5)


# Mistakes ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_held_is_refused(model_of: Models) -> None:
    lm = model_of("llama")
    with pytest.raises(ValueError, match="mode frozen holds rows against others: it needs shadow_of"):
        Hooks(lm.model, lm.info, mode="frozen")
    for wrong in ((1, 0), (0, 2), (1, 1, 1, 2), (0, -1)):
        with pytest.raises(ValueError, match="a shadow is a row of the batch and its own shadow; this is "):
            Hooks(lm.model, lm.info, mode="direct", shadow_of=wrong)
    with pytest.raises(ValueError, match=r"writes to a layer's mlp or mlp\.raw, not to L0\.attn"):
        holds(lm.info, "direct", (0, 0), {Site(0, "attn"): mx.zeros((32, 32))})
    hooks = Hooks(lm.model, lm.info, mode="frozen", shadow_of=(0, 0))
    with pytest.raises(ValueError, match="3 rows, but shadow_of says 2"):
        hooks(mx.array([IDS] * 3))


def test_nothing_is_installed_where_no_row_is_held(model_of: Models) -> None:
    lm = model_of("llama")
    assert holds(lm.info, "iterative", (0, 0), {}) == []
    assert holds(lm.info, "direct", (0, 1), {}) == []
