"""saedsl's own layout: when it is written, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from saedsl.errors import SAEError
from saedsl.sae.dictionary import SAE
from saedsl.sae.header import SAEInfo

SAEs = Callable[..., SAE]
AGAIN = "download or copy it again"


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ({}, "saelens"),
        ({"activation": "gated"}, "saelens"),
        ({"center": True}, "saelens"),
        ({"read": "L0.mlp.in"}, "saelens"),
        ({"read": "L0.mlp.in", "subtract_b_dec": False, "activation": "topk"}, "saedsl"),
        ({"read": "L0.mlp.in", "subtract_b_dec": False, "activation": "gated"}, "saedsl"),
        ({"site": "L0.mlp.act", "center": True}, "saedsl"),
    ],
)
def test_the_layout_is_saelens_where_it_says_the_same(
    kind: dict[str, Any], layout: str, tmp_path: Path, sae_of: SAEs
) -> None:
    sae = sae_of(**{"site": "L0.mlp", "subtract_b_dec": False, **kind})
    saved = sae.save(tmp_path / "sae")
    assert saved.info.format == layout
    assert saved.config == sae.config
    x = mx.array(np.random.default_rng(0).standard_normal((3, 32)))
    assert mx.array_equal(saved.encode(x), sae.encode(x))
    if layout == "saedsl":
        with pytest.raises(SAEError, match=r"SAELens' layout cannot say .*; write saedsl's own: format='native'"):
            sae.save(tmp_path / "other", format="saelens")
        assert not (tmp_path / "other").exists()
    assert sae.save(tmp_path / "sae", format="native").config == sae.config
    assert sae.save(tmp_path / "sae").info.format == layout


def test_a_transcoder_that_subtracts_b_dec_is_not_written_as_saelens(tmp_path: Path, sae_of: SAEs) -> None:
    saved = sae_of(site="L0.mlp", read="L0.mlp.in").save(tmp_path / "sae")
    assert saved.info.format == "saedsl"


def test_every_dictionary_has_one_hash_in_both_layouts(tmp_path: Path, sae_of: SAEs) -> None:
    sae = sae_of(site="L0.mlp", activation="gated")
    a, b = sae.save(tmp_path / "a"), sae.save(tmp_path / "b", format="native")
    assert a.info.fingerprint == b.info.fingerprint == sae.info.fingerprint
    assert b.save(tmp_path / "c", dtype="float16").sha256 != b.sha256


def test_the_folder_or_its_config_names_it(tmp_path: Path, sae_of: SAEs) -> None:
    saved = sae_of().save(tmp_path / "sae", format="native")
    assert SAEInfo.read(tmp_path / "sae" / "saedsl.json") == saved.info
    assert SAEInfo.read(tmp_path / "sae" / "weights.safetensors") == saved.info


def test_a_config_that_changed_beside_a_named_file_is_read_again(tmp_path: Path, sae_of: SAEs) -> None:
    layouts: tuple[tuple[Literal["native", "saelens"], str], ...] = (
        ("native", "saedsl.json"),
        ("saelens", "sae_weights.safetensors"),
    )
    for layout, name in layouts:
        sae_of(model_name="one").save(tmp_path / layout, format=layout)
        assert SAEInfo.read(tmp_path / layout / name).config.model_name == "one"
        sae_of(model_name="another").save(tmp_path / layout, format=layout)
        assert SAEInfo.read(tmp_path / layout / name).config.model_name == "another"
        assert SAE.load(tmp_path / layout / name).config.model_name == "another"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "/saedsl.json: written by a newer saedsl (format 2, this one reads 1); update it"),
        (
            {"version": True},
            f"/saedsl.json: not the config of a dictionary (its format is not 'saedsl.dictionary'); {AGAIN}",
        ),
        (
            {"format": "x"},
            f"/saedsl.json: not the config of a dictionary (its format is not 'saedsl.dictionary'); {AGAIN}",
        ),
        ({"config": 3}, f"/saedsl.json: damaged: it holds no config; {AGAIN}"),
        ({"config": {"d_in": 4}}, f"/saedsl.json: damaged: it has no d_sae; {AGAIN}"),
        ({"config": {"d_in": True}}, f"/saedsl.json: damaged: d_in is true; {AGAIN}"),
        ({"config": {"colour": 1}}, "/saedsl.json: says colour, which this saedsl does not know; update it"),
        (
            {"config": {"d_in": 1, "d_sae": 1, "d_out": 1, "input_site": "x"}},
            "/saedsl.json: 'x' is not a site; sites look like L3.mlp, L3.resid_post, embed or logits",
        ),
        (
            {"config": {"d_in": 1, "d_sae": 1, "d_out": 1, "metadata": [[1]]}},
            "/saedsl.json: damaged: metadata is no list of keys with their JSON text",
        ),
        (
            {"config": {"d_in": 1, "d_sae": 1, "d_out": 2}},
            "/saedsl.json: this dictionary cannot exist: an SAE writes what it reads, but d_in is 1 and d_out is 2",
        ),
        (
            {"config": {"d_in": 1, "d_sae": 1, "d_out": 1}},
            "/weights.safetensors: has W_enc of shape [32, 40]; saedsl.json implies [1, 1]",
        ),
    ],
)
def test_a_config_that_is_newer_or_damaged_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path, sae_of: SAEs
) -> None:
    sae_of().save(tmp_path / "sae", format="native")
    path = tmp_path / "sae/saedsl.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SAEError) as caught:
        SAE.load(tmp_path / "sae")
    assert str(caught.value) == f"{tmp_path / 'sae'}{message}"


@pytest.mark.parametrize("length", [0, 7, 100, -4])
def test_weights_that_are_cut_short_are_refused(length: int, tmp_path: Path, sae_of: SAEs) -> None:
    sae_of().save(tmp_path / "sae", format="native")
    path = tmp_path / "sae/weights.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SAEError, match=r"weights.safetensors: (cut short|not a safetensors file)"):
        SAE.load(tmp_path / "sae")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_enc": None}, "has no b_enc, which a relu sae needs"),
        ({"more": np.zeros(3, np.float32)}, "has more, which a relu sae does not use"),
        ({"b_enc": np.zeros(40, np.int32)}, "has b_enc of type I32; floating point is expected"),
        ({"b_enc": np.full(40, np.nan, np.float32)}, "b_enc holds NaN or infinity; the file is damaged"),
    ],
)
def test_tensors_that_are_not_the_configs_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path, sae_of: SAEs
) -> None:
    sae_of().save(tmp_path / "sae", format="native")
    path = tmp_path / "sae/weights.safetensors"
    save_file({n: v for n, v in {**load_file(path), **change}.items() if v is not None}, path)
    with pytest.raises(SAEError, match=message):
        SAE.load(tmp_path / "sae")


def test_doubles_are_read(tmp_path: Path, sae_of: SAEs) -> None:
    sae = sae_of(activation="jumprelu").save(tmp_path / "sae", format="native")
    path = tmp_path / "sae/weights.safetensors"
    save_file({n: v.astype(np.float64 if n == "threshold" else np.float32) for n, v in load_file(path).items()}, path)
    np.testing.assert_array_equal(np.array(SAE.load(tmp_path / "sae").threshold), np.array(sae.threshold))
