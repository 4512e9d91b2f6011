"""Folders appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from saedsl.errors import SAEError
from saedsl.sae.replace import write_folder

OLD = {"a": b"old", "b": b"old"}
NEW = {"a": b"new", "b": b"new"}


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_folders_are_made_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x" / "y"
    for files in (OLD, NEW):
        write_folder(target, files, replaceable=OLD)
        assert content(target) == files
    assert [p.name for p in target.parent.iterdir()] == ["y"]


@pytest.mark.parametrize("broken", ["open", "rename", "fsync"])
def test_failure_midway_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    target = tmp_path / "y"
    write_folder(target, OLD, replaceable=OLD)
    calls = 0

    def second_call_fails(function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise OSError(28, "No space left on device")
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        if broken == "fsync":
            patch.setattr("os.fsync", second_call_fails(os.fsync))
        else:
            patch.setattr(Path, broken, second_call_fails(getattr(Path, broken)))
        with pytest.raises(SAEError) as caught:
            write_folder(target, NEW, replaceable=OLD)
    assert str(caught.value) == f"{target}: cannot be written (No space left on device)"
    assert content(target) == OLD
    assert [p.name for p in tmp_path.iterdir()] == ["y"]


def test_foreign_files_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SAEError) as caught:
        write_folder(tmp_path, NEW, replaceable=OLD)
    assert str(caught.value) == (
        f"{tmp_path}: holds thesis.tex, which saving would delete; choose a new or empty folder"
    )
    assert content(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "y"
    target.write_text("mine")
    with pytest.raises(SAEError, match=r"y: not a folder; choose another path"):
        write_folder(target, NEW, replaceable=OLD)
    assert target.read_text() == "mine"
