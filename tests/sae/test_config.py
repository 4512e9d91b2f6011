"""DictionaryConfig: what can exist, and its canonical form."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

from saedsl.errors import SAEError
from saedsl.sae.config import Activation, DictionaryConfig, freeze_metadata, thaw_metadata
from saedsl.sites import Site

MLP = Site(2, "mlp")
ACTIVATIONS: tuple[Activation, ...] = ("relu", "topk", "batchtopk", "jumprelu")
SAE = DictionaryConfig(8, 32, 8, "topk", k=4, input_site=MLP, output_site=MLP)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_in": 0}, "d_in is 0, not a positive whole number"),
        ({"d_sae": 2.5}, "d_sae is 2.5, not a positive whole number"),
        ({"d_out": True}, "d_out is True, not a positive whole number"),
        ({"activation": "tanh"}, "activation is 'tanh'; it can be relu, topk, batchtopk, jumprelu, gated"),
        ({"k": None}, "topk needs k, a positive whole number, not None"),
        ({"k": 33}, "k is 33, more than the 32 features there are"),
        ({"d_out": 9}, "an SAE writes what it reads, but d_in is 8 and d_out is 9"),
        ({"output_site": None}, "an SAE writes where it reads, but reads L2.mlp and writes None"),
        ({"skip": True}, "only a transcoder has a skip connection"),
        (
            {"kind": "transcoder", "d_out": 9},
            "b_dec has d_out = 9 entries and cannot be subtracted from d_in = 8",
        ),
        (
            {"normalize_activations": "sphere"},
            "normalize_activations is 'sphere'; it can be none, layer_norm, constant_norm_rescale",
        ),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SAEError) as caught:
        replace(SAE, **changes)
    assert str(caught.value) == f"this dictionary cannot exist: {message}"


def test_every_contradiction_is_named_at_once() -> None:
    with pytest.raises(SAEError, match=r"activation is .*; an SAE writes what it reads"):
        DictionaryConfig(8, 32, 9, "tanh")  # type: ignore[arg-type]


def test_only_topk_needs_all_features_at_once() -> None:
    made = {a: DictionaryConfig(8, 32, 8, a, k=4).elementwise for a in ("relu", "topk", "batchtopk", "jumprelu")}
    assert made == {"relu": True, "topk": False, "batchtopk": True, "jumprelu": True}


def test_configs_are_hashable_picklable_and_canonical() -> None:
    a = replace(SAE, metadata=freeze_metadata({"b": [1, {"x": None}], "a": 2}))
    b = replace(SAE, metadata=freeze_metadata({"a": 2, "b": [1, {"x": None}]}))
    assert a == b
    assert hash(a) == hash(b)
    assert a.canonical() == b.canonical() != SAE.canonical()
    assert pickle.loads(pickle.dumps(a)) == a
    assert thaw_metadata(a.metadata) == {"a": 2, "b": [1, {"x": None}]}


def test_weight_shapes_follow_the_config() -> None:
    t = DictionaryConfig(8, 32, 6, "jumprelu", kind="transcoder", apply_b_dec_to_input=False, skip=True)
    assert t.weight_shapes == {
        "W_enc": (8, 32), "b_enc": (32,), "W_dec": (32, 6), "b_dec": (6,),
        "threshold": (32,), "W_skip": (6, 8),
    }  # fmt: skip


def test_fields_that_came_later_leave_older_fingerprints_as_they_were() -> None:
    site = Site(2, "mlp")
    assert DictionaryConfig(8, 32, 8, "topk", 4, input_site=site, output_site=site).canonical() == (
        '{"activation":"topk","apply_b_dec_to_input":true,"context_size":null,"d_in":8,"d_out":8,"d_sae":32,'
        '"hook_name":null,"hook_name_out":null,"input_site":"L2.mlp","k":4,"kind":"sae","metadata":[],'
        '"model_name":null,"normalize_activations":"none","output_site":"L2.mlp","skip":false,"trained_on_bos":false}'
    )
    assert '"prefixes":[4,32]' in DictionaryConfig(8, 32, 8, prefixes=(4, 32)).canonical()
