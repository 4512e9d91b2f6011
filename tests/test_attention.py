"""Queries, keys, values and attention patterns: where they are said to be, and edited as said."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import gemma2, llama
from mlx_lm.models.cache import QuantizedKVCache, RotatingKVCache, make_prompt_cache

from saedsl.anatomy import FAMILIES
from saedsl.attention import attend, flatten, unflatten
from saedsl.errors import RunError
from saedsl.generation import generate
from saedsl.model import InterpretableModel
from saedsl.sites import Site
from saedsl.trace import Frame, Hooks
from tests import tiny

Models = Callable[..., InterpretableModel]

IDS = [0, 5, 9, 2, 30, 7, 11, 3]
PARTS = ("attn.q", "attn.k", "attn.v", "attn.pattern", "attn.z")
DTYPES = ("float32", "bfloat16", "float16")


def same(x: mx.array, frame: Frame) -> mx.array:
    return x


def numbers(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))


# Reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_queries_keys_values_and_patterns_are_numpys(family: str, model_of: Models) -> None:
    lm = model_of(family)
    sites = [Site(layer, part) for layer in range(2) for part in PARTS]
    logits, frame = Hooks(lm.model, lm.info, captures=sites)(mx.array([IDS]))
    expected, seen = tiny.forward(lm.model, IDS)
    np.testing.assert_allclose(numbers(logits)[0], expected, rtol=1e-4, atol=1e-4)
    for site in sites:
        got = numbers(frame.captured[site])[0]
        want = seen[str(site)]
        if site.component == "attn.pattern":
            want = want.transpose(1, 0, 2).reshape(len(IDS), -1)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=str(site))


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_give_the_width_and_patterns_are_distributions(family: str, model_of: Models) -> None:
    lm = model_of(family)
    info = lm.info
    sites = {part: Site(1, part) for part in PARTS}
    _, frame = Hooks(lm.model, info, captures=sites.values())(mx.array([IDS, IDS[::-1]]))
    for site in sites.values():
        heads = info.heads(site)
        assert heads == (info.n_kv_heads if site.component in ("attn.k", "attn.v") else info.n_heads)
        width = info.width(site)
        assert frame.captured[site].shape == (2, len(IDS), width if width else heads * len(IDS))
    assert info.heads(Site(1, "mlp")) is None
    assert info.heads(Site(None, "embed")) is None
    p = numbers(unflatten(frame.captured[sites["attn.pattern"]], info.n_heads))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    assert np.abs(np.triu(p, 1)).max() == 0
    # z is what the pattern makes of the values
    v = numbers(frame.captured[sites["attn.v"]]).reshape(2, len(IDS), info.n_kv_heads, info.d_head)
    v = np.repeat(v, info.n_heads // info.n_kv_heads, axis=2)
    z = np.einsum("bhqk,bkhd->bqhd", p, v).reshape(2, len(IDS), -1)
    np.testing.assert_allclose(numbers(frame.captured[sites["attn.z"]]), z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_read_only_is_bitwise_as_without_hooks(family: str, dtype: str, model_of: Models) -> None:
    lm = model_of(family, dtype)
    tokens = mx.array([IDS])
    plain = lm.model(tokens)
    logits, _ = Hooks(lm.model, lm.info, dict.fromkeys(lm.info.sites, same), lm.info.sites)(tokens)
    assert mx.array_equal(logits, plain)
    # a value that is the same, in another array
    again, _ = Hooks(lm.model, lm.info, {s: lambda x, frame: x + 0 for s in lm.info.sites})(tokens)
    assert mx.array_equal(again, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_with_a_cache_are_those_of_one_forward(family: str, model_of: Models) -> None:
    lm = model_of(family)
    sites = [Site(1, part) for part in PARTS]
    hooks = Hooks(lm.model, lm.info, captures=sites)
    _, whole = hooks(mx.array([IDS]))
    cache = make_prompt_cache(lm.model)
    parts = [hooks(mx.array([IDS[a:b]]), cache)[1] for a, b in ((0, 3), (3, 7), (7, 8))]
    for site in sites[:3] + sites[4:]:
        got = np.concatenate([numbers(f.captured[site]) for f in parts], axis=1)
        np.testing.assert_allclose(got, numbers(whole.captured[site]), rtol=1e-4, atol=1e-5)
    expected = numbers(unflatten(whole.captured[sites[3]], lm.info.n_heads))
    for f in parts:
        end = f.offset + f.length
        got = numbers(unflatten(f.captured[sites[3]], lm.info.n_heads))  # as many keys as there are so far
        np.testing.assert_allclose(got, expected[:, :, f.offset : end, :end], rtol=1e-4, atol=1e-5)


def test_a_sliding_window_forgets_keys_but_not_their_columns(bare: Callable[..., nn.Module], tokenizer: Any) -> None:
    plain = bare("llama")
    config = {**vars(plain.args), "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4}
    model = llama.Model(llama.ModelArgs(**config))
    model.update(plain.parameters())
    lm = InterpretableModel(model, tokenizer)
    site = Site(1, "attn.pattern")
    hooks = Hooks(lm.model, lm.info, captures=[site])
    long = [*IDS, 4, 8, 15, 16, 23, 42]
    _, whole = hooks(mx.array([long]))
    expected = numbers(unflatten(whole.captured[site], 4))
    assert (expected > 0).sum(-1).max() == 4
    cache = make_prompt_cache(lm.model)
    assert isinstance(cache[1], RotatingKVCache)
    for a, b in ((0, 6), (6, 8), *((i, i + 1) for i in range(8, 14))):
        _, f = hooks(mx.array([long[a:b]]), cache)
        got = numbers(unflatten(f.captured[site], 4))
        np.testing.assert_allclose(got, expected[:, :, a:b, :b], rtol=1e-4, atol=1e-5)

    def newest_key(x: mx.array, frame: Frame) -> mx.array:  # and no other
        heads = unflatten(x, 4)
        newest = mx.arange(heads.shape[-1]) == mx.arange(frame.offset, frame.offset + frame.length)[:, None]
        return flatten(mx.broadcast_to(newest.astype(x.dtype), heads.shape))

    edited = Hooks(lm.model, lm.info, {site: newest_key})
    once = numbers(edited(mx.array([long]))[0])
    cache, pieces = make_prompt_cache(lm.model), []
    for a, b in ((0, 6), (6, 8), *((i, i + 1) for i in range(8, 14))):
        pieces.append(numbers(edited(mx.array([long[a:b]]), cache)[0]))
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), once, rtol=1e-4, atol=1e-4)


# Editing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("part", PARTS)
def test_edits_of_a_head_are_numpys(family: str, part: str, model_of: Models) -> None:
    lm = model_of(family)
    site = Site(0, part)
    heads = lm.info.heads(site) or 0

    def halve_head_1(x: mx.array, frame: Frame) -> mx.array:
        mask = np.ones(x.shape[-1], np.float32).reshape(heads, -1)
        mask[1] = 0.5
        return x * mx.array(mask.reshape(-1))

    def halve(x: tiny.Array) -> tiny.Array:
        if part == "attn.pattern":
            return x * np.where(np.arange(heads) == 1, 0.5, 1)[:, None, None]
        return (x.reshape(len(x), heads, -1) * np.where(np.arange(heads) == 1, 0.5, 1)[:, None]).reshape(len(x), -1)

    logits, _ = Hooks(lm.model, lm.info, {site: halve_head_1})(mx.array([IDS]))
    expected, _ = tiny.forward(lm.model, IDS, {str(site): halve})
    plain, _ = tiny.forward(lm.model, IDS)
    np.testing.assert_allclose(numbers(logits)[0], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(plain - expected).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_without_output_is_one_without_columns_in_the_output_projection(
    family: str, model_of: Models, bare: Callable[..., nn.Module]
) -> None:
    lm, other = model_of(family), bare(family)
    d = lm.info.d_head

    def zero(x: mx.array, frame: Frame) -> mx.array:
        return mx.concatenate([x[..., : 2 * d], mx.zeros_like(x[..., 2 * d : 3 * d]), x[..., 3 * d :]], axis=-1)

    path = lm.info.hook_point(Site(1, "attn.z")).module
    projection = dict(other.named_modules())[path]
    projection.weight[:, 2 * d : 3 * d] = 0
    logits, _ = Hooks(lm.model, lm.info, {Site(1, "attn.z"): zero})(mx.array([IDS]))
    np.testing.assert_allclose(numbers(logits), numbers(other(mx.array([IDS]))), rtol=1e-4, atol=1e-5)
    # and one whose pattern is nothing, since changed patterns are used as they are

    def no_pattern(x: mx.array, frame: Frame) -> mx.array:
        return x * (mx.arange(x.shape[-1]) // (x.shape[-1] // lm.info.n_heads) != 2)

    logits, _ = Hooks(lm.model, lm.info, {Site(1, "attn.pattern"): no_pattern})(mx.array([IDS]))
    np.testing.assert_allclose(numbers(logits), numbers(other(mx.array([IDS]))), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_whose_pattern_is_not_changed_are_bitwise_as_they_were(dtype: str, model_of: Models) -> None:
    lm = model_of("llama", dtype)
    tokens = mx.array([IDS, IDS])
    plain = lm.model(tokens)

    def second_row_from_4_on(x: mx.array, frame: Frame) -> mx.array:
        mask = np.ones(x.shape, np.float32)
        mask[1, 4:] = 0
        return x * mx.array(mask)

    logits, _ = Hooks(lm.model, lm.info, {Site(0, "attn.pattern"): second_row_from_4_on})(tokens)
    assert mx.array_equal(logits[0], plain[0])
    assert mx.array_equal(logits[1, :4], plain[1, :4])
    assert not mx.array_equal(logits[1, 4:], plain[1, 4:])


@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "additive", "window", "sinks"])
def test_attention_with_weights_is_the_fused_kernels(kind: str) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(rng.standard_normal((2, h, n, 8)).astype(np.float32)) for h, n in ((4, 5), (2, 7), (2, 7)))
    allowed = np.arange(2, 7)[:, None] >= np.arange(7)
    masks: dict[str, mx.array | str | None] = {
        "none": None,
        "causal": "causal",
        "boolean": mx.array(allowed),
        "additive": mx.array(np.where(allowed, rng.standard_normal((5, 7)), -1e9).astype(np.float32)),
        "window": mx.array(allowed & (np.arange(2, 7)[:, None] < np.arange(7) + 3))[None, None],
        "sinks": "causal",
    }
    sinks = mx.array(rng.standard_normal(4).astype(np.float32)) if kind == "sinks" else None
    fused = llama.scaled_dot_product_attention
    plain = fused(q, k, v, cache=None, scale=0.3, mask=masks[kind], sinks=sinks)
    # a change of 1e-12 is none in float32 but for zeros: every query goes through the weights
    shown = attend(fused, lambda p: p + 1e-12 * (p == 0) + p * 2**-23, q, k, v, None, 0.3, masks[kind], sinks)
    np.testing.assert_allclose(np.array(shown), np.array(plain), rtol=1e-5, atol=1e-5)
    assert not mx.array_equal(shown, plain)
    assert mx.array_equal(attend(fused, lambda p: p, q, k, v, None, 0.3, masks[kind], sinks), plain)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_quantised_cache_is_refused(family: str, model_of: Models) -> None:
    lm = model_of(family)
    hooks = Hooks(lm.model, lm.info, captures=[Site(0, "attn.pattern")])
    with pytest.raises(RunError) as e:
        hooks(mx.array([IDS]), [QuantizedKVCache(bits=8) for _ in range(2)])
    assert str(e.value) == "attn.pattern cannot be read with a quantised KV cache: run without kv_bits"


# The model's code is as it was -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_models_code_is_restored_when_a_function_raises(error: type[BaseException], model_of: Models) -> None:
    fused, core = llama.scaled_dot_product_attention, gemma2.mx

    def raises(x: mx.array, frame: Frame) -> mx.array:
        assert llama.scaled_dot_product_attention is not fused or gemma2.mx is not core
        raise error

    for family in ("llama", "gemma2"):
        lm = model_of(family)
        with pytest.raises(error):
            Hooks(lm.model, lm.info, {Site(1, "attn.pattern"): raises})(mx.array([IDS]))
        assert llama.scaled_dot_product_attention is fused
        assert gemma2.mx is core is mx


def test_the_models_code_is_replaced_for_patterns_only_and_never_while_the_caller_has_control(
    model_of: Models,
) -> None:
    lm = model_of("llama")
    fused = llama.scaled_dot_product_attention
    found: list[bool] = []

    def look(x: mx.array, frame: Frame) -> mx.array:
        found.append(llama.scaled_dot_product_attention is fused)
        return x

    Hooks(lm.model, lm.info, {Site(0, "mlp"): look})(mx.array([IDS]))
    assert found == [True]
    steps = generate(Hooks(lm.model, lm.info, {Site(0, "attn.pattern"): look}), [IDS], 5)
    next(steps)
    assert found[1:] == [False] * len(found[1:])
    assert llama.scaled_dot_product_attention is fused
    del steps
    gc.collect()
    assert llama.scaled_dot_product_attention is fused


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_trace_inside_a_trace_leaves_the_outer_one_in_place(family: str, model_of: Models) -> None:
    lm = model_of(family)
    tokens = mx.array([IDS])
    site = Site(0, "attn.pattern")

    def nothing(x: mx.array, frame: Frame) -> mx.array:
        return x * 0

    alone, _ = Hooks(lm.model, lm.info, {site: nothing, Site(1, "attn.pattern"): nothing})(tokens)

    def nested(x: mx.array, frame: Frame) -> mx.array:
        inner, _ = Hooks(lm.model, lm.info, {Site(1, "attn.pattern"): same})(tokens)
        assert mx.array_equal(inner, plain)
        return x * 0

    plain = lm.model(tokens)
    outer, _ = Hooks(lm.model, lm.info, {site: nested, Site(1, "attn.pattern"): nothing})(tokens)
    assert mx.array_equal(outer, alone)
    assert not mx.array_equal(outer, plain)


def test_a_plain_forward_in_another_thread_keeps_its_patterns(model_of: Models) -> None:
    lm = model_of("llama")
    tokens = mx.array([IDS])
    plain = np.array(lm.model(tokens))
    found: list[np.ndarray] = []

    def other() -> None:
        found.append(np.array(lm.model(tokens)))
        mx.synchronize()
        mx.clear_streams()

    def nothing(x: mx.array, frame: Frame) -> mx.array:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(30)
        return x * 0

    edited, _ = Hooks(lm.model, lm.info, {Site(0, "attn.pattern"): nothing})(tokens)
    assert np.array_equal(found[0], plain)
    assert not np.array_equal(np.array(edited), plain)


def test_gradients_flow_through_an_edited_pattern(model_of: Models) -> None:
    lm = model_of("llama")
    hooks = Hooks(lm.model, lm.info, {Site(0, "attn.pattern"): lambda x, frame: x * 0.5})
    _, grads = nn.value_and_grad(lm.model, lambda model: hooks(mx.array([IDS]))[0].square().mean())(lm.model)
    for projection in ("q_proj", "k_proj", "v_proj"):
        g = np.array(grads["model"]["layers"][0]["self_attn"][projection]["weight"])
        assert np.isfinite(g).all()
        assert np.abs(g).max() > 0
