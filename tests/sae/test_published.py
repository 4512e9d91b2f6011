"""Published formats that have no package to ask: files in their layout, against their formulas in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from saedsl.errors import SAEError
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

D, F, K, L = 6, 20, 3, 3
RNG = np.random.default_rng(7)
X = (RNG.standard_normal((9, D)) * 2 + 0.3).astype(np.float32)


def random(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.7).astype(np.float32)


def relu(p: np.ndarray) -> np.ndarray:
    return np.maximum(p, 0)  # type: ignore[no-any-return]


def jump(p: np.ndarray, threshold: Any) -> np.ndarray:
    return relu(p) * (p > threshold)  # type: ignore[no-any-return]


def top(p: np.ndarray, k: int = K) -> np.ndarray:
    return relu(p) * (p >= np.sort(p, axis=-1)[..., [-k]])


def length(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt((x.astype(np.float64) ** 2).sum(axis=-1, keepdims=True)))


def check(sae: SAE, f: np.ndarray, out: np.ndarray, x: np.ndarray = X) -> None:
    assert 0 < (f > 0).mean() < 1
    np.testing.assert_allclose(np.array(sae.encode(mx.array(x))), f, atol=1e-5)
    np.testing.assert_allclose(np.array(sae(mx.array(x))), out, atol=1e-5)


def put(file: Path, tensors: dict[str, np.ndarray]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npz":
        np.savez(file, **tensors)  # type: ignore[arg-type]
    else:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, file)
    return file


# -- Llama Scope ------------------------------------------------------------------------------------------------------


def llama(folder: Path, tensors: dict[str, np.ndarray] | None = None, **options: Any) -> dict[str, np.ndarray]:
    """A dictionary of Llama Scope in `folder`; its tensors."""
    made = tensors or {
        "encoder.weight": random(F, D), "encoder.bias": random(F), "decoder.weight": random(D, F),
        "decoder.bias": random(D),
    }  # fmt: skip
    put(folder / "checkpoints" / "final.safetensors", made)
    config = {
        "hook_point_in": "blocks.8.hook_resid_post", "hook_point_out": "blocks.8.hook_resid_post", "d_model": D,
        "d_sae": F, "act_fn": "jumprelu", "jump_relu_threshold": 0.9, "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 1.5, "out": 4.0}, "sparsity_include_decoder_norm": True,
        "top_k": K, **options,
    }  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(config))
    return made


def openmoss(w: dict[str, np.ndarray], x: np.ndarray, norms: tuple[float, float], act: Any, lengths: bool) -> Any:
    """What the package computes for inference: norms folded first, features scaled by what they write, then the act.

    Returns:
        features as they enter the decoder, and the output.
    """
    s_in, s_out = (np.sqrt(D) / norm for norm in norms)
    W_D, b_E = w["decoder.weight"].T * s_in / s_out, w["encoder.bias"] / s_in
    hidden = x @ w["encoder.weight"].T + b_E
    n = length(W_D).T if lengths else 1.0
    f = act(hidden * n) / n
    return f, f @ W_D + w.get("decoder.bias", np.zeros(D)) / s_out


@pytest.mark.parametrize("lengths", [True, False])
def test_llama_scope_compares_what_features_write_with_the_threshold(tmp_path: Path, lengths: bool) -> None:
    w = llama(tmp_path, sparsity_include_decoder_norm=lengths)
    f, out = openmoss(w, X, (1.5, 4.0), lambda p: jump(p, 0.9), lengths)
    sae = SAE.load(tmp_path)
    check(sae, f * np.sqrt(D) / 1.5, out)
    assert sae.info.format == "llama_scope"
    assert SAE.load(tmp_path / "hyperparams.json").sha256 == sae.sha256
    assert SAE.load(tmp_path / "checkpoints" / "final.safetensors").sha256 == sae.sha256


def test_llama_scope_transcoders_read_before_the_norm_that_their_hook_is_behind(tmp_path: Path) -> None:
    hooks = {"hook_point_in": "blocks.8.ln2.hook_normalized", "hook_point_out": "blocks.8.hook_mlp_out"}
    w = llama(tmp_path, dataset_average_activation_norm={"in": np.sqrt(D), "out": 1.1}, **hooks)  # type: ignore[arg-type]
    behind = X / np.sqrt((X**2).mean(axis=-1, keepdims=True))
    f, out = openmoss(w, behind, (np.sqrt(D), 1.1), lambda p: jump(p, 0.9), True)
    sae = SAE.load(tmp_path)
    check(sae, f, out)
    assert (sae.config.kind, sae.config.input_site, sae.config.output_site) == (
        "transcoder",
        Site(8, "resid_mid"),
        Site(8, "mlp"),
    )


def test_llama_scope_topk_keeps_the_features_that_write_most(tmp_path: Path) -> None:
    w = llama(tmp_path, act_fn="topk", jump_relu_threshold=0.0)
    f, out = openmoss(w, X, (1.5, 4.0), top, True)
    check(SAE.load(tmp_path), f * np.sqrt(D) / 1.5 * length(w["decoder.weight"].T).T, out)


def test_llama_scope_topk_with_a_threshold_is_a_jumprelu(tmp_path: Path) -> None:
    w = llama(tmp_path, act_fn="topk")
    f, out = openmoss(w, X, (1.5, 4.0), lambda p: jump(p, 0.9), True)
    check(SAE.load(tmp_path), f * np.sqrt(D) / 1.5, out)


def test_llama_scope_by_token_and_with_the_bias_subtracted(tmp_path: Path) -> None:
    options: dict[str, Any] = {"norm_activation": "token-wise", "apply_decoder_bias_to_pre_encoder": True}
    w = llama(tmp_path, act_fn="relu", **options)
    scale = np.sqrt(D) / length(X)
    f = relu((X * scale - w["decoder.bias"]) @ w["encoder.weight"].T + w["encoder.bias"])
    check(SAE.load(tmp_path), f, (f @ w["decoder.weight"].T + w["decoder.bias"]) / scale)


def test_llama_scope_without_a_decoder_bias_and_with_a_feature_that_writes_nothing(tmp_path: Path) -> None:
    w = {"encoder.weight": random(F, D), "encoder.bias": random(F), "decoder.weight": random(D, F)}
    w["decoder.weight"][:, 2] = 0
    llama(tmp_path, w, use_decoder_bias=False)
    sae = SAE.load(tmp_path)
    assert not np.array(sae.encode(mx.array(X)))[:, 2].any()
    w["decoder.weight"][:, 2] = 1e-30
    f, out = openmoss(w, X, (1.5, 4.0), lambda p: jump(p, 0.9), True)
    check(sae, f * np.sqrt(D) / 1.5, out)


def test_llama_scope_weights_that_are_folded_already(tmp_path: Path) -> None:
    w = llama(tmp_path, norm_activation="inference")
    f, out = openmoss(w, X, (np.sqrt(D), np.sqrt(D)), lambda p: jump(p, 0.9), True)
    check(SAE.load(tmp_path), f, out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_activation": "batch-wise"}, "has norm_activation 'batch-wise'; saedsl reads dataset-wise"),
        ({"act_fn": "mixtopk"}, "has act_fn 'mixtopk'; saedsl reads relu, topk and jumprelu"),
        ({"use_glu_encoder": True}, "has use_glu_encoder, which saedsl does not compute"),
        ({"jump_relu_threshold": -1}, "has jump_relu_threshold = -1; a number not below 0 is expected"),
        ({"jump_relu_threshold": float("nan")}, "has jump_relu_threshold = nan"),
        ({"dataset_average_activation_norm": {"in": 0, "out": 1}}, "activation_norm.in = 0; a norm is positive"),
        ({"dataset_average_activation_norm": {"in": 1}}, "has no out"),
        ({"dataset_average_activation_norm": None}, "has no dataset_average_activation_norm"),
        ({"d_model": "6"}, 'has d_model = "6"; int is expected'),
        ({"d_model": True}, "has d_model = true; int is expected"),
        ({"d_sae": F + 1}, r"encoder.weight has shape \[20, 6\]; the others imply \[21, 6\]"),
        ({"d_sae": 0}, "d_sae is 0, not a positive whole number"),
        ({"hook_point_in": 5}, "has hook_point_in = 5; str is expected"),
        ({"use_decoder_bias": False}, "has decoder.bias, which saedsl does not know"),
    ],
)
def test_contradictions_of_llama_scope_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    llama(tmp_path, **options)
    with pytest.raises(SAEError, match=message):
        SAE.load(tmp_path)


def test_llama_scope_without_its_weights_is_named(tmp_path: Path) -> None:
    llama(tmp_path)
    (tmp_path / "checkpoints" / "final.safetensors").unlink()
    with pytest.raises(SAEError, match=r"checkpoints/final.safetensors is missing beside hyperparams.json"):
        SAE.load(tmp_path)


def test_dictionaries_that_differ_in_a_scale_only_have_different_fingerprints(tmp_path: Path) -> None:
    w = llama(tmp_path / "a")
    llama(tmp_path / "b", w, jump_relu_threshold=0.8)
    a, b = SAE.load(tmp_path / "a").info, SAE.load(tmp_path / "b").info
    assert a.sha256 == b.sha256
    assert a.fingerprint != b.fingerprint


# -- mlxterp ----------------------------------------------------------------------------------------------------------


def mlxterp(folder: Path, tied: bool = False, **options: Any) -> dict[str, np.ndarray]:
    made = {
        "encoder.weight": random(F, D), "encoder.bias": random(F), "input_mean": random(D),
        "input_std": np.abs(random(D)) + 0.1,
    }  # fmt: skip
    made |= {"decoder_bias": random(D)} if tied else {"decoder.weight": random(D, F), "decoder.bias": random(D)}
    put(folder / "weights.safetensors", made)
    metadata = {"layer": 4, "component": "mlp", "model_name": "mlx-community/Llama-3.2-1B-Instruct"}
    config = {
        "d_model": D, "d_hidden": F, "class": "SAE", "metadata": metadata, "k": K, "normalize_input": True,
        "tied_weights": tied, "input_mean": made["input_mean"].tolist(), **options,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return made


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_mlxterp_normalises_each_dimension(tmp_path: Path, tied: bool, normalize: bool) -> None:
    w = mlxterp(tmp_path, tied, normalize_input=normalize)
    mean, deviation = (w["input_mean"], w["input_std"]) if normalize else (np.zeros(D), np.ones(D))
    f = top(relu((X - mean) / (deviation + 1e-8) @ w["encoder.weight"].T + w["encoder.bias"]))
    decoder, bias = (w["encoder.weight"], w["decoder_bias"]) if tied else (w["decoder.weight"].T, w["decoder.bias"])
    sae = SAE.load(tmp_path)
    check(sae, f, (f @ decoder + bias) * deviation + mean)
    assert (sae.info.format, sae.config.output_site) == ("mlxterp", Site(4, "mlp"))
    assert SAE.load(tmp_path / "config.json").sha256 == SAE.load(tmp_path / "weights.safetensors").sha256
    assert sae.save(tmp_path / "again").config.model_name == "mlx-community/Llama-3.2-1B-Instruct"


def test_a_batchtopk_of_mlxterp_needs_a_threshold(tmp_path: Path) -> None:
    w = mlxterp(tmp_path, **{"class": "BatchTopKSAE"})  # type: ignore[arg-type]
    with pytest.raises(SAEError, match=r'stores no threshold: .*; add "threshold": the smallest activation'):
        SAE.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"threshold": 0.8}))
    p = (X - w["input_mean"]) / (w["input_std"] + 1e-8) @ w["encoder.weight"].T + w["encoder.bias"]
    f = jump(p, 0.8)
    check(SAE.load(tmp_path), f, (f @ w["decoder.weight"].T + w["decoder.bias"]) * w["input_std"] + w["input_mean"])


def test_a_k_that_keeps_all_features_is_no_contradiction(tmp_path: Path) -> None:
    mlxterp(tmp_path, k=100)
    assert SAE.load(tmp_path).config.k == F


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class": "Crosscoder"}, "is of class 'Crosscoder'; of mlxterp, saedsl reads SAE and BatchTopKSAE"),
        ({"class": None}, "has no class"),
        ({"d_model": 7}, r"encoder.weight has shape \[20, 6\]; the others imply \[20, 7\]"),
        ({"tied_weights": True}, "has no decoder_bias; it has decoder.bias, decoder.weight"),
        ({"k": 0}, "topk needs k"),
        ({"metadata": []}, r"has metadata = \[\]; dict is expected"),
    ],
)
def test_contradictions_of_mlxterp_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    mlxterp(tmp_path, **options)
    with pytest.raises(SAEError, match=message):
        SAE.load(tmp_path)


# -- circuit-tracer ---------------------------------------------------------------------------------------------------


def layer() -> dict[str, np.ndarray]:
    return {"W_enc": random(F, D), "b_enc": random(F), "W_dec": random(F, D), "b_dec": random(D)}


HOOKS = "model_name: google/gemma-2-2b\nfeature_input_hook: {}\nfeature_output_hook: hook_mlp_out\n"


def test_circuit_tracer_with_a_threshold_and_a_skip(tmp_path: Path) -> None:
    w = layer() | {"activation_function.threshold": np.abs(random(F)), "W_skip": random(D, D)}
    file = put(tmp_path / "layer_5.safetensors", w)
    f = jump(X @ w["W_enc"].T + w["b_enc"], w["activation_function.threshold"])
    sae = SAE.load(file)
    check(sae, f, f @ w["W_dec"] + w["b_dec"] + X @ w["W_skip"].T)
    assert (sae.info.format, sae.config.input_site, sae.config.skip) == ("circuit_tracer", None, True)
    (tmp_path / "config.yaml").write_text(HOOKS.format("ln2.hook_normalized"))
    behind = X / np.sqrt((X**2).mean(axis=-1, keepdims=True))
    f = jump(behind @ w["W_enc"].T + w["b_enc"], w["activation_function.threshold"])
    known = SAE.load(file)
    np.testing.assert_allclose(np.array(known.encode(mx.array(X))), f, atol=1e-5)
    assert (known.config.input_site, known.config.output_site) == (Site(5, "resid_mid"), Site(5, "mlp"))


def test_circuit_tracer_files_with_a_transposed_decoder(tmp_path: Path) -> None:
    w = layer()
    f = relu(X @ w["W_enc"].T + w["b_enc"])
    for name in ("W_enc", "W_dec"):
        file = put(tmp_path / name / "layer_0.safetensors", {**w, name: w[name].T})
        check(SAE.load(file.parent), f, f @ w["W_dec"] + w["b_dec"])


def test_circuit_tracer_with_topk(tmp_path: Path) -> None:
    w = layer() | {"k": np.array(K)}
    file = put(tmp_path / "layer_0.safetensors", w)
    f = top(X @ w["W_enc"].T + w["b_enc"])
    check(SAE.load(file), f, f @ w["W_dec"] + w["b_dec"])
    del w["k"]
    put(file, w)
    (tmp_path / "config.yaml").write_text(HOOKS.format("hook_resid_mid") + f"activation: topk\nk: {K}\n")
    check(SAE.load(file), f, f @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"b_enc": random(F + 1)}, "", r"W_enc has shape \[20, 6\]; the others imply \[21, 6\]"),
        ({"W_dec": random(F, D + 1)}, "", r"W_dec has shape \[20, 7\]; the others imply \[20, 6\]"),
        ({"W_dec": random(F, 2, D)}, "", "W_dec has shape .*; 2 axes are expected"),
        ({"b_dec": np.zeros(D, np.int32)}, "", "b_dec is of type I32; floating point is expected"),
        ({"W_skip": random(D)}, "", "W_skip has shape .*; 2 axes are expected"),
        ({"extra": random(2)}, "", "has extra, which saedsl does not know what to do with"),
        ({"b_enc": np.full(F, np.nan, np.float32)}, "", "b_enc holds NaN or infinity; the file is damaged"),
        ({"k": np.array(K)}, "k: 4\n", "says k = 4, but layer_0.safetensors says 3"),
        ({}, "activation: topk\n", "has activation topk but no k"),
        ({}, "activation: jump_relu\n", "has activation 'jump_relu', but layer_0.safetensors has no threshold"),
        ({}, "a: [", "not YAML"),
        ({}, "- a", "a mapping is expected, not list"),
        ({}, "feature_input_hook: 3\n", "has feature_input_hook = 3; str is expected"),
        ({}, "a: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_contradictions_of_circuit_tracer_are_named(tmp_path: Path, change: Any, config: str, message: str) -> None:
    put(tmp_path / "layer_0.safetensors", {**layer(), **change})
    if config:
        (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(SAEError, match=message):
        SAE.load(tmp_path)


def test_one_of_several_layers_must_be_named(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / f"layer_{number}.safetensors", layer())
    with pytest.raises(
        SAEError, match=r"holds 4 transcoders of single layers; name one of them: layer_0.safetensors, "
    ):
        SAE.load(tmp_path)


def clt(folder: Path, threshold: bool = False) -> list[dict[str, np.ndarray]]:
    layers = []
    for i in range(L):
        w = {"W_enc": random(F, D), "b_enc": random(F), "b_dec": random(D), "W_dec": random(F, L - i, D)}
        if threshold:
            w["threshold"] = np.abs(random(F))
        layers.append(w)
        put(folder / f"W_enc_{i}.safetensors", {f"{k}_{i}": v for k, v in w.items() if k != "W_dec"})
        put(folder / f"W_dec_{i}.safetensors", {f"W_dec_{i}": w["W_dec"]})
    return layers


@pytest.mark.parametrize("threshold", [False, True])
def test_a_cross_layer_transcoder_writes_its_own_and_all_later_layers(tmp_path: Path, threshold: bool) -> None:
    layers = clt(tmp_path, threshold)
    x = (RNG.standard_normal((L, 9, D)) * 2).astype(np.float32)
    features, out = [], np.stack([np.tile(w["b_dec"], (9, 1)) for w in layers])
    for i, w in enumerate(layers):
        p = x[i] @ w["W_enc"].T + w["b_enc"]
        features.append(jump(p, w["threshold"]) if threshold else relu(p))
        for later in range(i, L):
            out[later] += features[i] @ w["W_dec"][:, later - i]
    sae = SAE.load(tmp_path)
    flat = x.transpose(1, 0, 2).reshape(9, L * D)
    check(sae, np.concatenate(features, axis=-1), out.transpose(1, 0, 2).reshape(9, L * D), flat)
    assert sae.config.kind == "clt"
    assert sae.config.input_sites == tuple(Site(i, "resid_mid") for i in range(L))
    assert sae.config.output_sites == tuple(Site(i, "mlp") for i in range(L))


def test_incomplete_cross_layer_transcoders_are_named(tmp_path: Path) -> None:
    clt(tmp_path)
    (tmp_path / "W_dec_1.safetensors").unlink()
    with pytest.raises(SAEError, match="layer 1 of a cross-layer transcoder is missing; download all its files"):
        SAE.load(tmp_path)
    put(tmp_path / "W_dec_1.safetensors", {"W_dec_1": random(F, L, D)})
    with pytest.raises(SAEError, match=r"W_dec_1 has shape \[20, 3, 6\]; the others imply \[20, 2, 6\]"):
        SAE.load(tmp_path)
    put(tmp_path / "W_dec_1.safetensors", {"W_dec_1": random(F, L - 1, D)})
    (tmp_path / "config.yaml").write_text(HOOKS.format("ln2.hook_normalized"))
    with pytest.raises(SAEError, match=r"reads ln2.hook_normalized and writes hook_mlp_out of each layer"):
        SAE.load(tmp_path)


# -- Gemma Scope ------------------------------------------------------------------------------------------------------


def upper(**change: np.ndarray) -> dict[str, np.ndarray]:
    made = {"W_enc": random(D, F), "W_dec": random(F, D), "b_enc": random(F), "b_dec": random(D)}
    return made | {"threshold": np.abs(random(F))} | change


def test_embeddings_of_gemma_scope_are_scaled_to_the_model_s_own(tmp_path: Path) -> None:
    w = upper()
    file = put(tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6" / "params.npz", w)
    f = jump(X / np.sqrt(D) @ w["W_enc"] + w["b_enc"], w["threshold"])
    sae = SAE.load(file.parent)
    check(sae, f, (f @ w["W_dec"] + w["b_dec"]) * np.sqrt(D))
    assert sae.config.input_site == Site(None, "embed")


def test_instruction_tuned_models_and_unknown_paths_of_gemma_scope(tmp_path: Path) -> None:
    known = put(tmp_path / "gemma-scope-9b-it-res" / "layer_9" / "width_16k" / "average_l0_14" / "params.npz", upper())
    assert SAE.load(known).config.model_name == "google/gemma-2-9b-it"
    unknown = put(tmp_path / "somewhere" / "params.npz", upper())
    assert SAE.load(unknown).config.input_site is None


def gemma_clt(folder: Path, skip: bool) -> list[dict[str, np.ndarray]]:
    layers = []
    for i in range(L):
        w = {"w_enc": random(D, F), "w_dec": random(F, L, D), "b_enc": random(F), "b_dec": random(D)}
        w["threshold"] = np.abs(random(F))
        if skip:
            w["affine_skip_connection"] = random(D, D)
        layers.append(w)
        put(folder / f"params_layer_{i}.safetensors", w)
    return layers


@pytest.mark.parametrize("skip", [False, True])
def test_cross_layer_transcoders_of_gemma_scope_2(tmp_path: Path, skip: bool) -> None:
    folder = tmp_path / "gemma-scope-2-1b-pt" / "clt" / "width_262k"
    layers = gemma_clt(folder, skip)
    x = (RNG.standard_normal((L, 9, D)) * 2).astype(np.float32)
    features, out = [], np.stack([np.tile(w["b_dec"], (9, 1)) for w in layers])
    for i, w in enumerate(layers):
        features.append(jump(x[i] @ w["w_enc"] + w["b_enc"], w["threshold"]))
        if skip:
            out[i] += x[i] @ w["affine_skip_connection"]
        for later in range(i, L):
            out[later] += features[i] @ w["w_dec"][:, later]
    sae = SAE.load(folder)
    flat = x.transpose(1, 0, 2).reshape(9, L * D)
    check(sae, np.concatenate(features, axis=-1), out.transpose(1, 0, 2).reshape(9, L * D), flat)
    assert (sae.info.format, sae.config.model_name) == ("gemma_scope", "google/gemma-3-1b-pt")
    (folder / "params_layer_1.safetensors").unlink()
    with pytest.raises(SAEError, match=r"has the layers \[0, 2\] of a cross-layer transcoder of 3; download all"):
        SAE.load(folder)
    with pytest.raises(SAEError, match="one layer of a cross-layer transcoder; name the folder"):
        SAE.load(folder / "params_layer_0.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": random(F + 1)}, r"threshold has shape \[21\]; the others imply \[20\]"),
        ({"W_dec": random(D, F)}, r"W_dec has shape|b_dec has shape|d_in is 6 and d_out is 20"),
        ({"b_dec": np.full(D, np.inf)}, "b_dec holds NaN or infinity"),
        ({"b_dec": np.full(D, 1e300)}, "b_dec holds NaN or infinity"),
        ({"b_dec": np.array([object()])}, "b_dec holds objects, which are not read: they could run code"),
        ({"b_dec": np.zeros(D, ">f4")}, "b_dec holds numbers of type '>f4'; little-endian"),
        ({"b_dec": np.zeros(D, np.int64)}, "b_dec is of type I64; floating point is expected"),
    ],
)
def test_contradictions_of_gemma_scope_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SAEError, match=message):
        SAE.load(put(tmp_path / "params.npz", upper(**change)).parent)


def test_gemma_scope_2_says_where_config_and_tensors_differ(tmp_path: Path) -> None:
    put(tmp_path / "params.safetensors", {name.lower(): value for name, value in upper().items()})
    for config, message in [
        ({"affine_connection": True}, "says affine_connection, but params.safetensors has no affine_skip_connection"),
        ({"architecture": "topk"}, "has architecture 'topk'; Gemma Scope has jump_relu"),
        ({"model_name": 3}, "has model_name = 3; str is expected"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(SAEError, match=message):
            SAE.load(tmp_path)


# -- sparsify, Qwen-Scope ---------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "groupmax"}, "has activation 'groupmax', which saedsl does not compute; it reads topk"),
        ({"signed": True}, "has signed features, which saedsl does not compute"),
        ({"k": None}, "has no k"),
        ({"d_in": 9}, r"encoder.weight has shape \[24, 8\]; the others imply \[27, 9\]"),
        ({"skip_connection": True}, "only a transcoder has a skip connection"),
        ({"skip_connection": True, "transcode": True}, "has no W_skip; it has W_dec, b_dec"),
        ({"k": 99}, "k is 99, more than the 24 features there are"),
    ],
)
def test_contradictions_of_sparsify_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    source = GOLDEN / "sparsify_sae" / "layers.1.mlp"
    (tmp_path / "sae.safetensors").write_bytes((source / "sae.safetensors").read_bytes())
    (tmp_path / "cfg.json").write_text(json.dumps(json.loads((source / "cfg.json").read_text()) | change))
    with pytest.raises(SAEError, match=message):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    ("hookpoint", "model", "site"),
    [
        ("layers.3", "a", Site(3, "resid_post")),
        ("model.layers.3.mlp", "google/gemma-2-2b", Site(3, "mlp.raw")),
        ("gpt_neox.layers.3.attention", "EleutherAI/pythia-70m", Site(3, "attn")),
        ("transformer.h.3.mlp", "gpt2", Site(3, "mlp")),
        ("embed_tokens", "a", Site(None, "embed")),
        ("layers.3.somewhere", "a", None),
    ],
)
def test_the_folder_of_sparsify_names_the_site(tmp_path: Path, hookpoint: str, model: str, site: Site | None) -> None:
    folder = tmp_path / hookpoint
    folder.mkdir()
    for file in (GOLDEN / "sparsify_sae" / "layers.1.mlp").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model": model, "ctx_len": 64}))
    config = SAE.load(folder).config
    assert (config.output_site, config.model_name, config.context_size) == (site, model, 64)


def test_the_k_of_qwen_scope_is_in_the_repository_s_name(tmp_path: Path) -> None:
    source = GOLDEN / "published" / "Qwen" / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5" / "layer3.sae.pt"
    file = tmp_path / "layer3.sae.pt"
    file.write_bytes(source.read_bytes())
    with pytest.raises(SAEError, match=r"the k of TopK is not in the file .* write \{\"k\": 50\} to a config.json"):
        SAE.load(file)
    (tmp_path / "config.json").write_text('{"k": 6}')
    assert SAE.load(file).config.k == SAE.load(tmp_path).config.k == 6
    cached = tmp_path / "models--Qwen--SAE-Res-Qwen3-8B-Base-W64K-L0_7" / "snapshots" / "0a1b"
    cached.mkdir(parents=True)
    (cached / "layer3.sae.pt").write_bytes(source.read_bytes())
    config = SAE.load(cached).config
    assert (config.k, config.model_name) == (7, "Qwen/Qwen3-8B-Base")
