"""Files of odd content: every one is a dictionary or an SAEError, never another exception."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from saedsl.errors import SAEError
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.dictionary import SAE
from saedsl.sae.header import SAEInfo
from saedsl.sae.tensorfile import read_header
from saedsl.sites import Site

CFG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SITE = Site(2, "mlp")


def make(folder: Path) -> Path:
    """A good dictionary; its config has every kind of key."""
    config = DictionaryConfig(
        4,
        6,
        4,
        "jumprelu",
        input_site=SITE,
        output_site=SITE,
        model_name="m",
        context_size=8,
    )
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {n: mx.array(rng.standard_normal(s)) for n, s in config.weight_shapes.items()}
    SAE(config, **weights).save(folder)
    cfg = json.loads((folder / CFG).read_text())
    cfg |= {"norm_scaling_factor": 2.0, "rescale_acts_by_decoder_norm": False, "activation_fn_kwargs": {}}
    cfg["metadata"] |= {"model_from_pretrained_kwargs": {"n_devices": 1}, "hook_head_index": None}
    (folder / CFG).write_text(json.dumps(cfg))
    return folder


def put(values: Any, path: tuple[str, ...], new: Any) -> Any:
    """A copy of the JSON `values` with `new` at `path`."""
    if not path:
        return new
    return {**values, path[0]: put(values.get(path[0], {}), path[1:], new)}


def paths(values: Any) -> list[tuple[str, ...]]:
    """The way to everything in a JSON object, itself included."""
    inner = [(key, *rest) for key, value in values.items() for rest in paths(value)] if isinstance(values, dict) else []
    return [(), *inner]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("odd") / "sae")


@pytest.fixture
def sae(tmp_path: Path) -> Path:
    return make(tmp_path / "sae")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("metadata", "model_name"), 5, "model_name = 5; text is expected"),
        (("metadata", "hook_name"), ["a"], 'hook_name = ["a"]; text is expected'),
        (("metadata", "context_size"), 8.5, "context_size = 8.5; a whole number is expected"),
        (("metadata", "prepend_bos"), "no", 'prepend_bos = "no"; true or false is expected'),
        (
            ("metadata", "model_from_pretrained_kwargs"),
            [1],
            "model_from_pretrained_kwargs = [1]; an object is expected",
        ),
        (("metadata", "saedsl", "added"), None, "metadata.saedsl.added = null; a list is expected"),
        (("metadata", "saedsl", "added"), [[]], "a metadata.saedsl.added that does not list names"),
        (("metadata", "saedsl", "input_site"), 5, "metadata.saedsl.input_site = 5; text is expected"),
        (("metadata", "saedsl", "input_site"), [], "metadata.saedsl.input_site = []; text is expected"),
        (("metadata", "saedsl", "trained_on_bos"), 1, "metadata.saedsl.trained_on_bos = 1; true or false is expected"),
        (("metadata", "saedsl", "format"), True, "a metadata.saedsl that is not ours; delete that entry"),
        (("architecture",), {}, "architecture = {}; text is expected"),
        (("k",), True, "k = true; a whole number is expected"),
        (("activation_fn_kwargs",), [4], "activation_fn_kwargs = [4]; an object is expected"),
        (("rescale_acts_by_decoder_norm",), 1, "rescale_acts_by_decoder_norm = 1; true or false is expected"),
        (
            ("norm_scaling_factor",),
            "x" * 60,
            f'norm_scaling_factor = "{"x" * 36}...; a whole number or a number is expected',
        ),
    ],
)
def test_a_value_of_another_type_is_named(sae: Path, path: tuple[str, ...], value: Any, message: str) -> None:
    cfg = json.loads((sae / CFG).read_text())
    (sae / CFG).write_text(json.dumps(put(cfg, path, value)))
    for read in (SAEInfo.read, SAE.load):
        with pytest.raises(SAEError) as caught:
            read(sae)
        assert str(caught.value) == f"{sae}: cfg.json has {message}"


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf"), 10**400])
def test_a_scale_that_is_none_is_refused(sae: Path, factor: float) -> None:
    cfg = json.loads((sae / CFG).read_text())
    cfg |= {"normalize_activations": "expected_average_only_in", "norm_scaling_factor": factor}
    (sae / CFG).write_text(json.dumps(cfg))
    with pytest.raises(SAEError, match="but not the scale"):
        SAE.load(sae)


def test_the_scale_is_folded_however_old_the_config(sae: Path) -> None:
    cfg = json.loads((sae / CFG).read_text())
    before = SAE.load(sae)
    for spelled in (True, "expected_average_only_in"):
        (sae / CFG).write_text(json.dumps(cfg | {"normalize_activations": spelled, "norm_scaling_factor": 2.0}))
        assert mx.array_equal(SAE.load(sae).W_enc, 2 * before.W_enc)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"])
def test_a_weight_that_is_not_finite_is_named(sae: Path, name: str, value: float) -> None:
    weights = load_file(sae / WEIGHTS)
    weights[name].flat[-1] = value
    save_file(weights, sae / WEIGHTS)
    with pytest.raises(SAEError) as caught:
        SAE.load(sae)
    assert str(caught.value) == f"{sae / WEIGHTS}: {name} holds NaN or infinity; the file is damaged"


def test_the_logarithm_of_a_threshold_of_0_is_no_damage(sae: Path) -> None:
    weights = load_file(sae / WEIGHTS)
    weights["log_threshold"] = np.full_like(weights.pop("threshold"), -np.inf)
    save_file(weights, sae / WEIGHTS)
    threshold = SAE.load(sae).threshold
    assert threshold is not None
    assert mx.array_equal(threshold, mx.zeros(6))


odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.sampled_from([10**30, 10**400, 1e300, -0.5])
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(
        ["L1.mlp", "L" + "9" * 5000 + ".mlp", "blocks." + "9" * 5000 + ".hook_mlp_out", "\ud800", "topk"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "k", "format"]), inner, max_size=2)
    ),
    max_leaves=4,
)
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(data=st.data())
def test_any_config_is_a_dictionary_or_refused(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / WEIGHTS).write_bytes((good / WEIGHTS).read_bytes())
    cfg = json.loads((good / CFG).read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        cfg = put(cfg, data.draw(st.sampled_from(paths(cfg))), data.draw(odd)) if isinstance(cfg, dict) else cfg
    (tmp_path / CFG).write_text(json.dumps(cfg))
    for read in (SAEInfo.read, SAE.load):
        with suppress(SAEError):
            info = read(tmp_path)
            assert info.config.canonical()
            _ = info.info.fingerprint if isinstance(info, SAE) else info.fingerprint


@FUZZ
@given(data=st.data())
def test_any_header_is_a_dictionary_or_refused(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / CFG).write_bytes((good / CFG).read_bytes())
    content = (good / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": {"format": "pt"}, **json.loads(content[8 : 8 + length])}
    header = put(header, data.draw(st.sampled_from(paths(header))), data.draw(odd))
    text = json.dumps(header).encode()
    (tmp_path / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    for read in (SAEInfo.read, SAE.load):
        with suppress(SAEError):
            read(tmp_path)


@pytest.mark.parametrize("value", [5, [], "pt", {"format": 5}, False])
def test_free_text_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    text = json.dumps({"__metadata__": value}).encode()
    path = tmp_path / "t.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(SAEError) as caught:
        read_header(path)
    assert str(caught.value) == f"{path}: the header's __metadata__ is damaged; download or copy it again"
