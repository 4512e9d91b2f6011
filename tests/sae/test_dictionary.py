"""SAE: encode and decode of every activation and normalisation against plain numpy loops in float64."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.errors import SAEError, ShapeError
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

D, F, D_OUT, K = 12, 64, 10, 5

KINDS = [
    {"activation": a, "normalize_activations": n, **kind}
    for a in ("relu", "topk", "batchtopk", "jumprelu")
    for n in ("none", "layer_norm", "constant_norm_rescale")
    for kind in (
        {},
        {"apply_b_dec_to_input": False},
        {"kind": "transcoder", "d_out": D_OUT, "apply_b_dec_to_input": False},
        {"kind": "transcoder", "d_out": D_OUT, "apply_b_dec_to_input": False, "skip": True},
    )
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: "-".join(str(v) for v in k.values()))


def make(seed: int = 0, **kind: Any) -> SAE:
    config = DictionaryConfig(**{"d_in": D, "d_sae": F, "d_out": D, "k": K, **kind})
    rng = np.random.default_rng(seed)
    weights: dict[str, Any] = {n: mx.array(rng.standard_normal(s)) for n, s in config.weight_shapes.items()}
    return SAE(config, **weights)


def tokens(seed: int = 1, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or (3, 7, D)).astype(np.float32) * 2 + 0.5


def reference(sae: SAE, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and output of one token, from the formulas, in float64."""
    w = {name: value.astype(np.float64) for name, value in sae.numpy_weights().items()}
    c, x = sae.config, token.astype(np.float64)
    shift, inside, outside = 0.0, 1.0, 1.0
    if c.normalize_activations == "layer_norm":
        shift, outside = x.mean(), x.std(ddof=1)
        inside = outside + 1e-5
    elif c.normalize_activations == "constant_norm_rescale":
        inside = outside = np.linalg.norm(x) / np.sqrt(c.d_in)
    u = (x - shift) / inside - (w["b_dec"] if c.apply_b_dec_to_input else 0)
    p = u @ w["W_enc"] + w["b_enc"]
    keep = p > 0
    if c.activation == "topk":
        keep &= np.argsort(np.argsort(-p)) < K
    elif c.has_threshold:
        keep &= p > w["threshold"]
    f = np.where(keep, p, 0)
    out = f @ w["W_dec"] + w["b_dec"]
    if c.is_transcoder:
        return f, out + (w["W_skip"] @ x if c.skip else 0)
    return f, out * outside + shift


@every_kind
def test_encode_and_decode_match_the_formulas(kind: dict[str, Any]) -> None:
    sae, x = make(**kind), tokens()
    f = sae.encode(mx.array(x))
    out = sae.decode(f, mx.array(x))
    assert f.dtype == out.dtype == mx.float32
    for place in np.ndindex(x.shape[:2]):
        expected_f, expected_out = reference(sae, x[place])
        np.testing.assert_allclose(np.array(f)[place], expected_f, atol=2e-4, rtol=1e-4)
        np.testing.assert_allclose(np.array(out)[place], expected_out, atol=2e-3, rtol=1e-4)
    assert mx.array_equal(out, sae(mx.array(x)))


@every_kind
def test_a_few_features_alone_are_those_of_all(kind: dict[str, Any]) -> None:
    sae, x, ids = make(**kind), mx.array(tokens()), [3, 0, 63, 3]
    all_of_them = sae.encode(x)[..., mx.array(ids)]
    few = sae.encode_features(x, ids)
    assert few.shape == (3, 7, 4)
    assert mx.array_equal(few > 0, all_of_them > 0)
    np.testing.assert_allclose(np.array(few), np.array(all_of_them), rtol=1e-5, atol=1e-5)


def test_topk_features_agree_where_pre_activations_tie() -> None:
    sae = make(activation="topk")
    tied = mx.repeat(mx.round(sae.W_enc[:, :16]), 4, axis=1)
    sae = SAE(sae.config, tied, mx.zeros(F), sae.W_dec, mx.zeros(D))
    x = mx.round(mx.array(tokens()))
    f = sae.encode(x)
    assert int(mx.max(mx.sum(f > 0, axis=-1))) > K
    for ids in ([5], [5, 6], list(range(F))):
        assert mx.array_equal(sae.encode_features(x, ids) > 0, f[..., mx.array(ids)] > 0)


@every_kind
def test_an_edit_of_features_moves_the_output_by_scale_times_decoder(kind: dict[str, Any]) -> None:
    sae, x = make(**kind), mx.array(tokens())
    f = sae.encode(x)
    edited = mx.concatenate([f[..., :1] + 2.5, f[..., 1:]], axis=-1)
    step = sae.scale(x) * (edited - f) @ sae.W_dec
    moved = sae.decode(edited, x) - sae.decode(f, x)
    np.testing.assert_allclose(np.array(moved), np.array(step), atol=3e-4)


def test_error_is_what_the_reconstruction_leaves() -> None:
    sae, x = make(activation="relu"), mx.array(tokens())
    np.testing.assert_allclose(np.array(sae(x) + sae.error(x)), np.array(x), atol=1e-4)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_input_is_computed_in_float32(dtype: mx.Dtype) -> None:
    sae, x = make(activation="topk"), mx.array(tokens()).astype(dtype)
    assert mx.array_equal(sae.encode(x), sae.encode(x.astype(mx.float32)))


@pytest.mark.parametrize("normalize", ["layer_norm", "constant_norm_rescale"])
def test_constant_tokens_do_not_end_in_nan(normalize: str) -> None:
    x = mx.zeros((2, D))
    assert mx.all(mx.isfinite(make(activation="relu", normalize_activations=normalize)(x))).item()


@pytest.mark.parametrize("shape", [(D + 1,), (D, 3), ()])
def test_wrong_last_axis_is_refused(shape: tuple[int, ...]) -> None:
    for call in (make().encode, make().scale, lambda x: make().encode_features(x, [0])):
        with pytest.raises(ShapeError) as caught:
            call(mx.zeros(shape))
        assert str(caught.value) == f"x is {list(shape)}; its last axis must be d_in = {D}"
    with pytest.raises(ShapeError, match=r"f is \[5\]; its last axis must be d_sae = 64"):
        make().decode(mx.zeros(5))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ({"normalize_activations": "layer_norm"}, "uses layer_norm"),
        (
            {"kind": "transcoder", "apply_b_dec_to_input": False, "skip": True},
            "has a skip connection",
        ),
    ],
)
def test_decoding_without_the_tokens_it_needs_is_refused(kind: dict[str, Any], why: str) -> None:
    with pytest.raises(SAEError) as caught:
        make(**kind).decode(mx.zeros(F))
    assert str(caught.value) == f"this dictionary {why}, so decoding needs the tokens too: decode(f, x)"


def test_the_error_of_a_transcoder_needs_its_target() -> None:
    with pytest.raises(SAEError, match=r"its error is target - sae\(x\)"):
        make(kind="transcoder", apply_b_dec_to_input=False).error(mx.zeros(D))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_enc": mx.zeros((F, D))}, "W_enc is [64, 12]; this config needs [12, 64]"),
        ({"threshold": None}, "threshold is missing; this config needs [64]"),
        ({"W_skip": mx.zeros((D, D))}, "W_skip is given; this config has none"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    good = make(activation="jumprelu")
    weights = {n: getattr(good, n) for n in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    with pytest.raises(ShapeError) as caught:
        SAE(good.config, **{**weights, **change})
    assert str(caught.value) == message


def test_hash_follows_the_weights_and_fingerprint_the_config_too() -> None:
    a, b, other = make(), make(), make(seed=9)
    assert a.sha256 == b.sha256 != other.sha256
    moved = a.with_config(model_name="m")
    assert moved.sha256 == a.sha256
    assert moved.info.fingerprint != a.info.fingerprint


def test_a_dictionary_is_shown_in_one_line_without_its_weights() -> None:
    def shown(**changes: Any) -> str:
        config = DictionaryConfig(**{"d_in": 4, "d_sae": 6, "d_out": 4, "activation": "relu", **changes})
        weights: dict[str, Any] = {n: mx.zeros(s) for n, s in config.weight_shapes.items()}
        return repr(SAE(config, **weights))

    assert shown() == "SAE(relu sae, 4 -> 6 features -> 4)"
    mlp, resid = Site(2, "mlp"), Site(1, "resid_post")
    assert (
        shown(activation="topk", k=3, input_site=mlp, output_site=mlp)
        == "SAE(topk sae, 4 -> 6 features -> 4, k=3, L2.mlp)"
    )
    assert shown(kind="transcoder", apply_b_dec_to_input=False, input_site=resid, output_site=mlp).endswith(
        "L1.resid_post -> L2.mlp)"
    )
    both = (resid, Site(2, "resid_post"))
    assert shown(kind="crosscoder", input_sites=both, output_sites=both).endswith("L1.resid_post, L2.resid_post)")
