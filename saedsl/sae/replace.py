"""Write a folder whole or not at all: a sibling folder is filled, then renamed into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from saedsl.errors import SAEError


def write_folder(folder: Path, files: Mapping[str, bytes], *, replaceable: Collection[str]) -> None:
    """Make `folder` hold exactly `files`; if anything fails, what was there before is still there.

    Args:
        folder: missing, empty, or holding nothing but files named in `replaceable`.
        files: content by file name.
        replaceable: names of files that may be lost.

    Raises:
        SAEError: if `folder` is a file, holds anything else, or cannot be written.
    """
    folder = folder.absolute()
    check_replaceable(folder, replaceable)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise SAEError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        for name, content in files.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _swap(fresh, folder, scratch / "old")
    except OSError as error:
        raise SAEError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_replaceable(folder: Path, replaceable: Collection[str]) -> None:
    """Raise SAEError if `folder` is a file or holds anything that is not named in `replaceable`."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise SAEError(f"{folder}: not a folder; choose another path")
    others = sorted(p.name for p in folder.iterdir() if p.name not in replaceable) if folder.exists() else []
    if others:
        raise SAEError(f"{folder}: holds {others[0]}, which saving would delete; choose a new or empty folder")


def _swap(fresh: Path, folder: Path, old: Path) -> None:
    """Rename `fresh` to `folder`; what was there goes to `old`, and back if the second rename fails."""
    existed = folder.exists()
    if existed:
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if existed:
            old.rename(folder)
        raise


def write_file(path: Path, content: bytes) -> None:
    """Make `path` hold `content`, whole or not at all.

    Raises:
        OSError: if it cannot be written; what was there before is still there.
    """
    path = path.absolute()
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
