"""File hashes are remembered by path, size and time of the last change, and by nothing less."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from saedsl import hashes
from saedsl.sae.tensorfile import file_sha256

OLD = time.time_ns() - 60 * 10**9


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "saedsl" / "hashes.json"


def large(path: Path, byte: bytes = b"a", mtime_ns: int = OLD) -> Path:
    path.write_bytes(byte * hashes.SMALL)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def hashed(path: Path) -> str:
    s = path.stat()
    return hashes.sha256_of(path, s.st_size, s.st_mtime_ns)


def test_a_hash_is_computed_once_and_kept_in_a_file(tmp_path: Path, cache: Path) -> None:
    path = large(tmp_path / "w")
    wanted = hashlib.sha256(b"a" * hashes.SMALL).hexdigest()
    assert hashed(path) == file_sha256(path) == wanted
    assert json.loads(cache.read_text())["files"] == {str(path): [hashes.SMALL, OLD, wanted]}
    cache.write_text(cache.read_text().replace(wanted, "0" * 64))
    assert hashed(path) == "0" * 64  # it is read from there
    assert [p.name for p in cache.parent.iterdir()] == ["hashes.json"]


def test_another_size_or_time_is_another_file(tmp_path: Path, cache: Path) -> None:
    path = large(tmp_path / "w")
    hashed(path)
    large(path, b"b", OLD + 1)
    assert hashed(path) == hashlib.sha256(b"b" * hashes.SMALL).hexdigest()
    path.write_bytes(b"b" * (hashes.SMALL + 1))
    os.utime(path, ns=(OLD + 1, OLD + 1))
    assert hashed(path) == hashlib.sha256(b"b" * (hashes.SMALL + 1)).hexdigest()


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    hashed(large(tmp_path / "w", mtime_ns=time.time_ns()))
    assert not cache.exists()


def test_a_small_file_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"abc")
    os.utime(path, ns=(OLD, OLD))
    assert hashed(path) == hashlib.sha256(b"abc").hexdigest()
    assert not cache.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1}', '{"version": 2, "files": {}}', '{"version": 1, "files": {"FILE": [1]}}', '{"version": 1, "files": 3}', "[" * 100_000],  # noqa: E501
)  # fmt: skip
def test_a_damaged_cache_is_replaced(tmp_path: Path, cache: Path, text: str) -> None:
    path = large(tmp_path / "w")
    cache.parent.mkdir(parents=True)
    cache.write_text(text.replace("FILE", str(path)))
    wanted = hashlib.sha256(b"a" * hashes.SMALL).hexdigest()
    assert hashed(path) == wanted
    assert json.loads(cache.read_text())["files"][str(path)][2] == wanted


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    path = large(tmp_path / "w")
    assert hashed(path) == hashlib.sha256(b"a" * hashes.SMALL).hexdigest()


def test_few_files_are_remembered(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "MOST", 2)
    paths = [large(tmp_path / name) for name in "abc"]
    for path in paths:
        hashed(path)
    assert list(json.loads(cache.read_text())["files"]) == [str(p) for p in paths[1:]]
