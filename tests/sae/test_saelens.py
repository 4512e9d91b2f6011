"""SAELens folders: what we write we read, what SAELens wrote we read, and damage is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from saedsl.errors import SAEError
from saedsl.sae.config import DictionaryConfig, freeze_metadata
from saedsl.sae.dictionary import SAE
from saedsl.sae.header import SAEInfo
from saedsl.sites import Site

D, F = 6, 20
MLP, MLP_IN = Site(2, "mlp"), Site(2, "mlp.in")


def make(**kind: Any) -> SAE:
    given = {"d_in": D, "d_sae": F, "d_out": D, "k": 3 if "topk" in str(kind) else None, **kind}
    config = DictionaryConfig(**given)
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {n: mx.array(rng.standard_normal(s)) for n, s in config.weight_shapes.items()}
    return SAE(config, **weights)


TRANSCODER = {
    "kind": "transcoder", "d_out": 5, "apply_b_dec_to_input": False, "input_site": MLP_IN, "output_site": MLP
}  # fmt: skip
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("standard", {"activation": "relu"}),
    ("topk", {"activation": "topk", "input_site": MLP, "output_site": MLP, "model_name": "m"}),
    ("jumprelu", {"activation": "jumprelu", "normalize_activations": "layer_norm"}),
    ("jumprelu", {"activation": "batchtopk", "trained_on_bos": True, "context_size": 128}),
    ("standard", {"input_site": Site(1, "attn.z"), "output_site": Site(1, "attn.z")}),
    ("standard", {"input_site": Site(1, "mlp.raw"), "output_site": Site(1, "mlp.raw")}),
    (
        "standard",
        {"hook_name": "blocks.0.hook_q", "metadata": freeze_metadata({"dataset_path": "d", "x": [1]})},
    ),
    ("transcoder", TRANSCODER),
    ("jumprelu_transcoder", {**TRANSCODER, "activation": "batchtopk"}),
    ("gated", {"activation": "gated", "input_site": MLP, "output_site": MLP}),
    ("jumprelu", {"activation": "batchtopk", "prefixes": (4, 20)}),
    ("standard", {"center_input": True, "input_site": MLP, "output_site": MLP}),
    ("skip_transcoder", {**TRANSCODER, "skip": True}),
]


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
def test_saving_and_loading_loses_nothing(tmp_path: Path, architecture: str, kind: dict[str, Any]) -> None:
    sae = make(**kind)
    loaded = sae.save(tmp_path / "sae")
    assert json.loads((tmp_path / "sae/cfg.json").read_text())["architecture"] == architecture
    assert loaded.config == sae.config
    assert loaded.info == SAEInfo.read(tmp_path / "sae")
    assert loaded.info.fingerprint == sae.info.fingerprint
    for name in sae.config.weight_shapes:
        assert mx.array_equal(getattr(loaded, name), getattr(sae, name))
    first = {p.name: p.read_bytes() for p in (tmp_path / "sae").iterdir()}
    loaded.save(tmp_path / "sae")
    assert {p.name: p.read_bytes() for p in (tmp_path / "sae").iterdir()} == first


def test_float16_halves_the_file_and_rounds(tmp_path: Path) -> None:
    sae = make()
    half = sae.save(tmp_path / "half", dtype="float16")
    assert half.W_enc.dtype == mx.float32
    assert mx.array_equal(half.W_enc, sae.W_enc.astype(mx.float16).astype(mx.float32))
    assert {t.dtype for t in half.info.tensors} == {"F16"}


def test_what_does_not_fit_in_float16_is_refused_and_the_old_file_kept(tmp_path: Path) -> None:
    sae = make()
    sae.save(tmp_path / "sae")
    big = SAE(sae.config, sae.W_enc * 1e6, sae.b_enc, sae.W_dec, sae.b_dec)
    with pytest.raises(SAEError) as caught:
        big.save(tmp_path / "sae", dtype="float16")
    assert str(caught.value) == "W_enc has entries beyond float16's 65504; save with dtype='float32'"
    assert mx.array_equal(SAE.load(tmp_path / "sae").W_enc, sae.W_enc)


def test_reading_info_imports_neither_mlx_nor_numpy(tmp_path: Path) -> None:
    make().save(tmp_path / "sae")
    code = (
        f"import sys; from saedsl.sae.header import SAEInfo; info = SAEInfo.read({str(tmp_path / 'sae')!r}); "
        "print(info.d_sae, 'mlx.core' in sys.modules, 'numpy' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["20", "False", "False"]


def folder(path: Path, cfg: dict[str, Any], **tensors: Any) -> Path:
    """A folder as SAELens might have written it."""
    rng = np.random.default_rng(1)
    weights = {
        "W_enc": rng.standard_normal((D, F)),
        "b_enc": rng.standard_normal(F),
        "W_dec": rng.standard_normal((F, D)),
        "b_dec": rng.standard_normal(D),
        **tensors,
    }
    path.mkdir(exist_ok=True)
    (path / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": F, **cfg}))
    save_file(
        {n: np.asarray(v, np.float32) for n, v in weights.items() if v is not None},
        path / "sae_weights.safetensors",
    )
    return path


X = mx.array(np.random.default_rng(2).standard_normal((4, D)).astype(np.float32))


def test_decoder_norms_are_folded(tmp_path: Path) -> None:
    sae = SAE.load(folder(tmp_path, {"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True}))
    w = load_file(tmp_path / "sae_weights.safetensors")
    norms = np.linalg.norm(w["W_dec"], axis=1)
    p = ((np.array(X) - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms
    f = np.where((p >= np.sort(p)[:, -3:-2]) & (p > 0), p, 0)
    np.testing.assert_allclose(np.array(sae.encode(X)), f, atol=1e-4)
    np.testing.assert_allclose(np.array(sae(X)), (f / norms) @ w["W_dec"] + w["b_dec"], atol=1e-4)


def test_the_scale_of_the_training_is_folded(tmp_path: Path) -> None:
    cfg = {"normalize_activations": "expected_average_only_in", "norm_scaling_factor": 3.0}
    sae = SAE.load(folder(tmp_path, cfg))
    w = load_file(tmp_path / "sae_weights.safetensors")
    f = np.maximum((np.array(X) * 3 - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    np.testing.assert_allclose(np.array(sae(X)), (f @ w["W_dec"] + w["b_dec"]) / 3, atol=1e-4)


@pytest.mark.parametrize(
    ("tensors", "threshold"),
    [
        ({"threshold": np.full(F, -1)}, 0.0),
        ({"log_threshold": np.full(F, np.log(0.5))}, 0.5),
        ({"topk_threshold": 0.25}, 0.25),
    ],
)
def test_every_spelling_of_a_threshold_is_read(tmp_path: Path, tensors: dict[str, Any], threshold: float) -> None:
    cfg = {"architecture": "batchtopk", "k": 3} if "topk_threshold" in tensors else {"architecture": "jumprelu"}
    sae = SAE.load(folder(tmp_path, cfg, **tensors))
    np.testing.assert_allclose(np.array(sae.threshold), np.full(F, threshold), rtol=1e-6)


@pytest.mark.parametrize("named", [{}, {"architecture": "standard"}, {"architecture": "topk"}])
def test_flat_configs_from_before_6_are_read(tmp_path: Path, named: dict[str, str]) -> None:
    cfg = named | {
        "hook_point": "blocks.7.hook_resid_pre",
        "model_name": "gpt2-small",
        "prepend_bos": True,
        "context_size": 128,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 4},
        "normalize_activations": False,
        "dataset_path": "some/text",
        "l1_coefficient": 8e-5,
    }
    config = SAEInfo.read(folder(tmp_path, cfg, scaling_factor=np.ones(F))).config
    assert config == DictionaryConfig(
        D, F, D, "topk", k=4, input_site=Site(7, "resid_pre"), output_site=Site(7, "resid_pre"),
        model_name="gpt2-small", context_size=128, trained_on_bos=True,
        metadata=freeze_metadata({"dataset_path": "some/text", "l1_coefficient": 8e-5, "prepend_bos": True}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "trained_on_bos"),
    [
        ({}, False),
        ({"prepend_bos": True}, True),
        ({"prepend_bos": True, "exclude_special_tokens": True}, False),
    ],
)
def test_bos_is_trained_on_when_it_was_there_and_kept(tmp_path: Path, metadata: Any, trained_on_bos: bool) -> None:
    assert SAEInfo.read(folder(tmp_path, {"metadata": metadata})).config.trained_on_bos is trained_on_bos


def test_the_site_of_one_head_is_unknown(tmp_path: Path) -> None:
    metadata = {"hook_name": "blocks.1.attn.hook_z", "hook_head_index": 3}
    config = SAEInfo.read(folder(tmp_path, {"metadata": metadata})).config
    assert config.input_site is None
    assert config.hook_name == "blocks.1.attn.hook_z"


CENTRED = {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True, "n_devices": 1}}}
NEWER = {"metadata": {"saedsl": {"format": 2}}}
KNOWN = (
    "standard, gated, topk, jumprelu, batchtopk, matryoshka_batchtopk, transcoder, jumprelu_transcoder, "
    "skip_transcoder, jumprelu_skip_transcoder"
)


IMPOSSIBLE = "this dictionary cannot exist"
FILE = "sae_weights.safetensors"


@pytest.mark.parametrize(
    ("cfg", "tensors", "message"),
    [
        ({"architecture": "gated"}, {"b_enc": None}, f"{FILE} has no b_gate, which a gated sae needs"),
        ({"architecture": "spline"}, {}, f"cfg.json has architecture 'spline'; saedsl reads {KNOWN}"),
        (
            {"architecture": "temporal"},
            {},
            "cfg.json has architecture 'temporal': its features depend on the tokens before, which no dictionary of "
            "saedsl does",
        ),
        (
            {"architecture": "matching_pursuit"},
            {},
            "cfg.json has architecture 'matching_pursuit': it encodes by an iteration, not by an activation function",
        ),
        ({"activation_fn": "tanh"}, {}, "cfg.json has activation_fn 'tanh', which saedsl does not compute"),
        (
            {"architecture": "transcoder"},
            {},
            "cfg.json has no d_out; it is not the config of a transcoder SAE",
        ),
        ({"architecture": "topk"}, {}, f"{IMPOSSIBLE}: topk needs k, a positive whole number, not None"),
        (
            {"normalize_activations": "sphere"},
            {},
            f"{IMPOSSIBLE}: normalize_activations is 'sphere'; it can be none, layer_norm, constant_norm_rescale",
        ),
        (
            {"normalize_activations": True},
            {},
            "cfg.json has normalize_activations 'expected_average_only_in' but not the scale; add "
            '"norm_scaling_factor": sqrt(d_in) / (mean norm of the training activations) to cfg.json',
        ),
        (
            CENTRED,
            {},
            "trained on a model loaded with center_writing_weights=True, whose activations at an unknown site may "
            "differ from the model's own; saedsl does not support that",
        ),
        (NEWER, {}, "written by a newer saedsl (format 2, this one reads 1); update it"),
        ({}, {"b_enc": None}, f"{FILE} has no b_enc, which a relu sae needs"),
        ({}, {"W_enc": np.zeros((F, D))}, f"{FILE} has W_enc of shape [20, 6]; cfg.json implies [6, 20]"),
        ({}, {"b_gate": np.zeros(F)}, f"{FILE} has b_gate, which a relu sae does not use"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, cfg: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    folder(tmp_path, cfg, **tensors)
    for read in (SAEInfo.read, SAE.load):
        with pytest.raises(SAEError) as caught:
            read(tmp_path)
        assert str(caught.value) == f"{tmp_path}: {message}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cfg.json", None, f": cfg.json is missing beside {FILE}; download or copy it too"),
        (FILE, None, f": {FILE} is missing beside cfg.json; download or copy it too"),
        (
            "cfg.json",
            b"[1,\n2",
            "/cfg.json: not JSON (line 2: Expecting ',' delimiter); download or copy it again",
        ),
        ("cfg.json", b"\xff\xfe", "/cfg.json: not JSON; download or copy it again"),
        ("cfg.json", b"[]", "/cfg.json: a JSON object is expected, not list"),
        ("cfg.json", b'{"metadata": 3}', "/cfg.json: metadata must be a JSON object, not int"),
        (FILE, b"", f"/{FILE}: not a safetensors file (its header cannot be 0 bytes)"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    folder(tmp_path, {})
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SAEError) as caught:
        SAE.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}{message}"


def test_a_place_without_a_dictionary_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in [
        (tmp_path / "none", "no such dictionary; check the path"),
        (tmp_path / "file", "not a dictionary that saedsl can read; name the folder that holds it"),
        (
            tmp_path,
            "not a dictionary that saedsl can read; expected cfg.json and sae_weights.safetensors (SAELens), or the "
            "files of mlxterp, Gemma Scope, Llama Scope, sparsify, dictionary_learning, Goodfire, Qwen-Scope or "
            "circuit-tracer",
        ),
    ]:
        with pytest.raises(SAEError) as caught:
            SAE.load(path)
        assert str(caught.value) == f"{path}: {message}"


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, {}, b_dec=np.full(D, np.nan))
    with pytest.raises(SAEError, match=r"b_dec holds NaN or infinity; the file is damaged"):
        SAE.load(tmp_path)


def test_a_file_that_changes_after_loading_is_not_hashed_as_what_was_loaded(tmp_path: Path) -> None:
    sae = SAE.load(folder(tmp_path, {}))
    folder(tmp_path, {}, b_dec=np.ones(D))
    os.utime(tmp_path / "sae_weights.safetensors", ns=(1, 1))
    with pytest.raises(SAEError, match=r"changed since it was read; load the dictionary again"):
        _ = sae.sha256


@pytest.mark.parametrize(
    ("options", "hook", "centred"),
    [
        ({"center_writing_weights": True}, "blocks.1.hook_resid_pre", True),
        ({"center_writing_weights": True}, "blocks.1.hook_mlp_out", True),
        ({"center_writing_weights": True}, "blocks.1.hook_attn_out", True),
        ({"center_writing_weights": True}, "blocks.1.hook_mlp_in", True),
        ({"center_writing_weights": False}, "blocks.1.hook_resid_pre", False),
        ({"center_writing_weights": True}, "blocks.1.attn.hook_z", False),
        ({"center_writing_weights": True}, "blocks.1.ln2.hook_normalized", False),
        ({"center_writing_weights": True, "fold_ln": True, "center_unembed": True}, "blocks.1.hook_resid_post", True),
        ({"fold_ln": True}, "blocks.1.hook_mlp_out", False),
        ({"fold_value_biases": True}, "blocks.1.hook_attn_out", False),
    ],
)
def test_options_of_the_models_loading_are_applied_or_harmless(
    tmp_path: Path, options: dict[str, Any], hook: str, centred: bool
) -> None:
    metadata = {"model_from_pretrained_kwargs": options, "hook_name": hook}
    sae = SAE.load(folder(tmp_path, {"metadata": metadata}))
    assert sae.config.center_input is centred
    w = load_file(tmp_path / "sae_weights.safetensors")
    x = np.array(X, dtype=np.float64)
    mean = x.mean(axis=1, keepdims=True) if centred else 0
    f = np.maximum((x - mean - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    np.testing.assert_allclose(np.array(sae.encode(X)), f, atol=1e-5)
    np.testing.assert_allclose(np.array(sae(X)), f @ w["W_dec"] + w["b_dec"] + mean, atol=1e-5)
    again = sae.save(tmp_path / "again")
    assert again.config == sae.config
    kept = json.loads((tmp_path / "again/cfg.json").read_text())["metadata"]["model_from_pretrained_kwargs"]
    assert kept == options


@pytest.mark.parametrize(
    ("option", "hook"),
    [
        ("fold_ln", "blocks.1.ln2.hook_normalized"),
        ("fold_ln", "blocks.1.hook_q"),
        ("fold_value_biases", "blocks.1.attn.hook_z"),
        ("refactor_factored_attn_matrices", "blocks.1.attn.hook_z"),
        ("default_padding", "blocks.1.hook_mlp_out"),
    ],
)
def test_options_that_change_the_site_are_refused_by_name(tmp_path: Path, option: str, hook: str) -> None:
    metadata = {"model_from_pretrained_kwargs": {option: True}, "hook_name": hook}
    with pytest.raises(SAEError, match=rf"trained on a model loaded with {option}=True, whose activations"):
        SAEInfo.read(folder(tmp_path, {"metadata": metadata}))


def test_a_transcoder_between_centred_sites_is_refused(tmp_path: Path) -> None:
    metadata = {
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
        "hook_name": "blocks.1.ln2.hook_normalized",
        "hook_name_out": "blocks.1.hook_mlp_out",
    }
    cfg = {"architecture": "transcoder", "d_out": D, "apply_b_dec_to_input": False, "metadata": metadata}
    with pytest.raises(SAEError, match="center_writing_weights=True: a transcoder's input or output there differs"):
        SAEInfo.read(folder(tmp_path, cfg))


@pytest.mark.parametrize("skip", [False, True])
def test_topk_transcoders_that_older_versions_wrote_are_read(tmp_path: Path, skip: bool) -> None:
    cfg = {
        "architecture": "topk_skip_transcoder" if skip else "topk_transcoder",
        "d_out": D, "k": 3, "apply_b_dec_to_input": False,
    }  # fmt: skip
    sae = SAE.load(folder(tmp_path, cfg, W_skip=np.ones((D, D)) if skip else None))
    assert (sae.config.kind, sae.config.activation, sae.config.skip) == ("transcoder", "topk", skip)
    assert sae.save(tmp_path / "new").info.format == "saedsl"
