"""Numpy's archives are described without their arrays, and nothing in them is unpickled."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saedsl.errors import SAEError
from saedsl.sae.arrayfile import read_arrays, read_header


def test_shapes_and_types_are_read_without_the_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    arrays: dict[str, Any] = {
        "a": np.ones((3, 4), np.float32),
        "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "c": np.float16(2),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        found = {name: (t.dtype, t.shape) for name, t in read_header(path).items()}
        assert found == {"a": ("F32", (3, 4)), "b": ("F64", (2, 3)), "c": ("F16", ())}
        read = read_arrays(path, frozenset({"b", "c", "none"}))
        assert set(read) == {"b", "c"}
        np.testing.assert_array_equal(read["b"], arrays["b"])


def damaged(path: Path, name: str) -> None:
    array = np.ones(4, np.float32)
    if name == "text":
        path.write_bytes(b"hello")
    elif name == "empty":
        path.touch()
    elif name == "object":
        np.savez(path, a=np.array([{}], dtype=object))
    elif name == "bomb":
        np.savez_compressed(path, a=np.zeros(10**7, np.float32))
    elif name == "other":
        with zipfile.ZipFile(path, "w") as out:
            out.writestr("readme.txt", "hello")
    else:
        np.savez(path, a=array)
        content = path.read_bytes()
        change = {
            "shape": (b"(4,)", b"(5,)"),
            "huge": (b"(4,), }           ", b"(9999999999999,), }"[:18]),
            "negative": (b"(4,), ", b"(-4,),"),
            "type": (b"'<f4'", b"'<U4'"),
            "code": (b"(4,), }", b"exit(),"),
            "no array": (b"\x93NUMPY", b"\x93NAMPY"),
        }[name]
        assert change[0] in content
        path.write_bytes(content.replace(*change))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "not an archive of numpy, or cut short"),
        ("empty", "not an archive of numpy, or cut short"),
        ("object", "a holds objects, which are not read: they could run code; little-endian numbers are expected"),
        ("bomb", "a unpacks from [0-9]+ to 40000128 bytes, as no weights do"),
        ("other", r"holds readme\.txt, which is no array of numpy"),
        ("shape", r"a of <f4 \(5,\) does not fill its|CRC"),
        ("huge", "does not fill its|header of a is damaged|CRC"),
        ("negative", "does not fill its|CRC"),
        ("type", "a holds numbers of type '<U4'|CRC"),
        ("code", "header of a is damaged|CRC"),
        ("no array", "a is no array of numpy|CRC"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "a.npz"
    damaged(path, name)
    with pytest.raises(SAEError, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match=r"none\.npz: cannot be read"):
        read_header(tmp_path / "none.npz")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(20.0), b=np.ones((2, 2), np.float32))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "b.npz").write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with suppress(SAEError):
        read_arrays(tmp_path / "b.npz", frozenset(read_header(tmp_path / "b.npz")))
