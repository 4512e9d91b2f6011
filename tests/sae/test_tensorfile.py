"""Safetensors headers: read without tensors, and every kind of damage named."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from saedsl.errors import SAEError
from saedsl.sae.tensorfile import TensorInfo, file_sha256, read_header

GOOD = save({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.float16)})


def file(folder: Path, content: bytes) -> Path:
    path = folder / "t.safetensors"
    path.write_bytes(content)
    return path


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_header_lists_names_types_and_shapes(tmp_path: Path) -> None:
    assert read_header(file(tmp_path, GOOD)) == {
        "a": TensorInfo("a", "F32", (2, 3)),
        "b": TensorInfo("b", "F16", ()),
    }


def test_free_text_of_a_header_is_no_tensor(tmp_path: Path) -> None:
    assert read_header(file(tmp_path, with_header({"__metadata__": {"format": "pt"}}))) == {}


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


NOT_ONE = "not a safetensors file"
AGAIN = "download or copy it again"
DAMAGED = f"the header's entry for a is damaged; {AGAIN}"
LENGTH = int.from_bytes(GOOD[:8], "little")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f"{NOT_ONE} (its header cannot be 0 bytes)"),
        (b"\xff" * 16, f"{NOT_ONE} (its header cannot be 18446744073709551615 bytes)"),
        (GOOD[:20], f"cut short: the header needs {8 + LENGTH} bytes, the file has 20; {AGAIN}"),
        (GOOD[:-3], f"cut short: the tensors need 26 bytes, the file has 23; {AGAIN}"),
        (b"\x02" + b"\0" * 7 + b"{]", f"{NOT_ONE} (its header is not JSON); {AGAIN}"),
        (with_header([1]), f"{NOT_ONE} (its header is not a JSON object); {AGAIN}"),
        (with_header({"a": 1}), DAMAGED),
        (with_header({"a": {**A, "dtype": "F31"}}), DAMAGED),
        (with_header({"a": {**A, "dtype": ["F32"]}}), DAMAGED),
        (with_header({"a": {**A, "shape": [-2]}}), DAMAGED),
        (with_header({"a": {**A, "shape": 2}}), DAMAGED),
        (with_header({"a": {**A, "data_offsets": [0]}}), DAMAGED),
        (
            with_header({"a": {**A, "shape": [3]}}, bytes(8)),
            f"a of F32 (3,) does not fill bytes 0 to 8; {AGAIN}",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = file(tmp_path, content)
    with pytest.raises(SAEError) as caught:
        read_header(path)
    assert str(caught.value) == f"{path}: {message}"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match=r"nothing: cannot be read \(No such file or directory\)"):
        read_header(tmp_path / "nothing")


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, len(GOOD)), at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_no_damage_ends_in_anything_but_an_sae_error(tmp_path_factory: Any, cut: int, at: int, byte: int) -> None:
    broken = bytearray(GOOD)
    broken[at] = byte
    path = file(tmp_path_factory.getbasetemp(), bytes(broken[:cut]))
    with suppress(SAEError):
        read_header(path)


def test_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD)
    first = file_sha256(path)
    assert file_sha256(path) == first
    path.write_bytes(GOOD + b"x")
    assert file_sha256(path) != first


def test_files_that_mlx_wrote_have_no_metadata(tmp_path: Path) -> None:
    mx.save_safetensors(str(tmp_path / "x.safetensors"), {"up": mx.ones(3)})
    assert read_header(tmp_path / "x.safetensors")["up"].shape == (3,)
