"""Crosscoders, cross-layer transcoders and nested dictionaries against plain numpy in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.errors import SAEError, ShapeError
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

L, D, F = 3, 5, 24
SITES = tuple(Site(i, "resid_post") for i in range(L))
INPUTS, OUTPUTS = (tuple(Site(i, c) for i in range(L)) for c in ("mlp.in", "mlp"))
CROSS = {"kind": "crosscoder", "d_in": L * D, "d_out": L * D, "input_sites": SITES, "output_sites": SITES}
ACROSS = {
    "kind": "crosscoder", "d_in": L * D, "d_out": 2 * D, "input_sites": SITES, "output_sites": OUTPUTS[:2],
    "apply_b_dec_to_input": False, "skip": True,
}  # fmt: skip
CLT = {
    "kind": "clt", "d_in": L * D, "d_out": L * D, "input_sites": INPUTS, "output_sites": OUTPUTS,
    "apply_b_dec_to_input": False,
}  # fmt: skip
KINDS = [
    {**place, "activation": activation}
    for place in (CROSS, ACROSS, CLT, {**CLT, "skip": True})
    for activation in ("relu", "topk", "batchtopk", "jumprelu", "gated")
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k['kind']}-{k['activation']}-{k.get('skip')}")


def make(**kind: Any) -> SAE:
    config = DictionaryConfig(**{"d_sae": F, "k": 4 if "topk" in kind["activation"] else None, **kind})
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in config.weight_shapes.items()}
    if config.kind == "clt":
        for j in range(F):
            weights["W_dec"][j, : j // (F // L) * D] = 0
    return SAE(config, **{n: mx.array(w) for n, w in weights.items()})  # type: ignore[arg-type]


def tokens(width: int = L * D) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 4, width)).astype(np.float32)


def reference(sae: SAE, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and output of one token, feature by feature."""
    c, w = sae.config, {n: v.astype(np.float64) for n, v in sae.numpy_weights().items()}
    x = x.astype(np.float64)
    f = np.zeros(F)
    for j in range(F):
        layer = j // (F // L)
        part = x[layer * D : (layer + 1) * D] if c.kind == "clt" else x - (w["b_dec"] if c.apply_b_dec_to_input else 0)
        dot = part @ w["W_enc"][:, j]
        if c.activation == "gated":
            gate, magnitude = dot + w["b_gate"][j], dot * np.exp(w["r_mag"][j]) + w["b_mag"][j]
            f[j] = magnitude if gate > 0 and magnitude > 0 else 0
            continue
        p = dot + w["b_enc"][j]
        f[j] = p if p > (max(w["threshold"][j], 0) if c.has_threshold else 0) else 0
    if c.activation == "topk":
        f[np.argsort(-f)[4:]] = 0
    out = sum((f[j] * w["W_dec"][j] for j in range(F)), start=w["b_dec"].copy())
    return f, out + (w["W_skip"] @ x if c.skip else 0)


@every_kind
def test_several_sites_are_encoded_and_decoded_by_the_formulas(kind: dict[str, Any]) -> None:
    sae, x = make(**kind), tokens()
    f, out = np.array(sae.encode(mx.array(x))), np.array(sae(mx.array(x)))
    for place in np.ndindex(x.shape[:2]):
        expected_f, expected_out = reference(sae, x[place])
        np.testing.assert_allclose(f[place], expected_f, atol=1e-4)
        np.testing.assert_allclose(out[place], expected_out, atol=1e-3)


@every_kind
def test_a_mapping_of_sites_is_the_same_as_one_array(kind: dict[str, Any]) -> None:
    sae, x = make(**kind), mx.array(tokens())
    parts = dict(zip(sae.config.input_sites, mx.split(x, L, axis=-1), strict=True))
    shuffled = {site: parts[site] for site in reversed(list(parts))}
    named = {str(site): value for site, value in parts.items()}
    assert mx.array_equal(sae.encode(shuffled), sae.encode(x))
    assert mx.array_equal(sae(named), sae(x))
    assert mx.array_equal(sae.decode(sae.encode(x), shuffled), sae(x))


@every_kind
def test_a_few_features_alone_are_those_of_all(kind: dict[str, Any]) -> None:
    sae, x, ids = make(**kind), mx.array(tokens()), [23, 0, 9, 9, 1]
    np.testing.assert_allclose(
        np.array(sae.encode_features(x, ids)), np.array(sae.encode(x)[..., mx.array(ids)]), atol=1e-5
    )


def test_features_of_a_token_do_not_depend_on_its_batch() -> None:
    sae, x = make(**CROSS, activation="batchtopk"), mx.array(tokens())
    np.testing.assert_allclose(np.array(sae.encode(x * 1)[0, :1]), np.array(sae.encode(x[0, :1])), atol=1e-5)
    loud = mx.concatenate([x[:, :1], 100 * x[:, 1:]], axis=1)
    np.testing.assert_allclose(np.array(sae.encode(loud)[:, 0]), np.array(sae.encode(x)[:, 0]), atol=1e-5)


def test_the_error_is_exact() -> None:
    x, y = mx.array(tokens()), mx.array(tokens(2 * D))
    sae, t = make(**CROSS, activation="relu"), make(**ACROSS, activation="relu")
    assert mx.array_equal(sae.error(x), x - sae(x))
    assert mx.array_equal(sae.error(dict(zip(SITES, mx.split(x, L, axis=-1), strict=True))), sae.error(x))
    assert mx.array_equal(t.error(x, y), y - t(x))
    with pytest.raises(SAEError, match=r"its error is target - sae\(x\): error\(x, target\)"):
        t.error(x)
    with pytest.raises(SAEError, match="reconstructs its input; its error takes no target"):
        sae.error(x, y)
    with pytest.raises(ShapeError, match="its last axis must be d_out = 10"):
        t.error(x, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {**p, "L7.mlp": p["L0.resid_post"]}, "L7.mlp is not one of them"),
        (lambda p: {k: v for k, v in p.items() if k != "L1.resid_post"}, "L1.resid_post is missing"),
        (lambda p: {}, "no activations are given"),
        (lambda p: {**p, "L1.resid_post": p["L1.resid_post"][:1]}, "must be of the same tokens"),
        (lambda p: {**p, "L1.resid_post": p["L1.resid_post"][..., :2]}, "its last axis must be d_in = 15"),
    ],
)
def test_activations_that_are_not_of_the_sites_are_refused(change: Any, message: str) -> None:
    parts = dict(zip(map(str, SITES), mx.split(mx.array(tokens()), L, axis=-1), strict=True))
    with pytest.raises(ShapeError, match=message):
        make(**CROSS, activation="relu").encode(change(parts))


def test_a_cross_layer_feature_that_writes_an_earlier_layer_is_refused() -> None:
    sae = make(**CLT, activation="relu")
    wrong = np.array(sae.W_dec)
    wrong[F - 1, D] = 0.5
    with pytest.raises(SAEError, match="layer 2 writes a layer before it; those entries must be 0"):
        SAE(sae.config, sae.W_enc, sae.b_enc, mx.array(wrong), sae.b_dec)


@pytest.mark.parametrize("activation", ["batchtopk", "gated"])
def test_a_nested_dictionary_is_the_first_features_alone(activation: str) -> None:
    kind = {"d_in": D, "d_out": D, "activation": activation, "prefixes": (6, 12, F)}
    sae, x = make(**kind), mx.array(tokens(D))
    small = sae.nested(12)
    assert small.config.d_sae == 12
    assert small.config.prefixes == (6, 12)
    f = np.array(sae.encode(x), dtype=np.float64)[..., :12]
    np.testing.assert_allclose(np.array(small.encode(x)), f, atol=1e-5)
    expected = f @ np.array(sae.W_dec, dtype=np.float64)[:12] + np.array(sae.b_dec)
    np.testing.assert_allclose(np.array(small(x)), expected, atol=1e-4)
    with pytest.raises(SAEError, match="no nested dictionary has 7 features; there are: 6, 12, 24"):
        sae.nested(7)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({**CROSS, "input_sites": ()}, "a crosscoder needs input_sites"),
        ({**CROSS, "input_sites": (*SITES[:2], SITES[0])}, "input_sites names L0.resid_post twice"),
        ({**CROSS, "input_site": SITES[0]}, "input_site and output_site are of the other kinds"),
        ({**CROSS, "normalize_activations": "layer_norm"}, "whose tokens layer_norm would mix"),
        ({**CROSS, "center_input": True}, "whose tokens center_input would mix"),
        ({**CROSS, "skip": True}, "reconstructs its input has no skip connection"),
        ({**CROSS, "d_out": 4}, "has d_in = d_out, not 15 and 4"),
        ({**ACROSS, "apply_b_dec_to_input": True}, "b_dec is of the output sites"),
        ({**CLT, "apply_b_dec_to_input": True}, "does not subtract b_dec"),
        ({**CLT, "output_sites": OUTPUTS[:2]}, "reads 3 and writes 2"),
        ({**CLT, "d_sae": 25}, "d_sae is 25, no multiple of its 3 layers"),
        ({"d_in": 4, "d_out": 4, "input_sites": SITES}, "this sae has input_site and output_site"),
        ({"d_in": 4, "d_out": 4, "prefixes": [4, 24]}, r"prefixes is \[4, 24\], not a tuple"),
        ({"d_in": 4, "d_out": 4, "prefixes": (8, 4, 24)}, "not ascending"),
        ({"d_in": 4, "d_out": 4, "prefixes": (4, 8)}, "the last of the prefixes is 8, not all 24 features"),
    ],
)
def test_contradictions_are_refused(kind: dict[str, Any], message: str) -> None:
    with pytest.raises(SAEError, match=message):
        DictionaryConfig(**{"d_sae": F, **kind})


@every_kind
def test_saving_and_loading_loses_nothing(kind: dict[str, Any], tmp_path: Path) -> None:
    sae = make(**kind)
    loaded = sae.save(tmp_path / "sae")
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == ["saedsl.json", "weights.safetensors"]
    assert loaded.config == sae.config
    assert loaded.info.format == "saedsl"
    assert loaded.info.fingerprint == sae.info.fingerprint
    for name in sae.config.weight_shapes:
        assert mx.array_equal(getattr(loaded, name), getattr(sae, name))
