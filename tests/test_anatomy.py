"""config.json: sizes that are missing, odd or absurd."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saedsl.anatomy import ModelInfo
from saedsl.errors import ModelError

GOOD: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 100,
    "bos_token_id": 1,
}


def test_the_sizes_are_read() -> None:
    assert ModelInfo.from_config(GOOD, "m") == ModelInfo("m", "llama", 2, 32, 4, 2, 12, 40, 100, bos_token_id=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10_001}, "config.json gives 10001 as the number of layers; at most 10000 can be"),
        ({"hidden_size": 10**9 + 1}, "config.json gives 1000000001 as the d_model; at most 1000000000 can be"),
        (
            {"vocab_size": 10**30},
            "config.json gives a number of more than 20 digits as the vocabulary size; at most 1000000000 can be",
        ),
        ({"hidden_size": 3.5}, "config.json gives no d_model (looked for hidden_size, n_embd)"),
        ({"hidden_size": True}, "config.json gives no d_model (looked for hidden_size, n_embd)"),
        ({"num_attention_heads": 0}, "config.json gives no number of heads (looked for num_attention_heads, n_head)"),
        ({"model_type": 5}, "config.json has no model_type, so this is not a language model's folder"),
    ],
)
def test_a_size_that_no_model_has_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        ModelInfo.from_config(GOOD | change, "m")
    assert str(caught.value) == f"m: {message}"


@pytest.mark.parametrize("bos", [True, -1, "1", [1], None])
def test_a_bos_token_that_is_no_token_id_is_none(bos: Any) -> None:
    assert ModelInfo.from_config(GOOD | {"bos_token_id": bos}, "m").bos_token_id is None


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(sorted(GOOD)), odd, min_size=1, max_size=3))
def test_any_config_is_a_model_or_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GOOD | changes))
    with suppress(ModelError):
        info = ModelInfo.read(tmp_path)
        assert info.n_layers <= 10_000
        assert info.sites


@pytest.mark.parametrize("text", ["", "[1]", "{", "5", "9" * 5000, "[" * 100_000, '{"model_type": "bert"}'])
def test_what_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError):
        ModelInfo.read(tmp_path)
