"""SHA-256 of large files, remembered between processes by (path, size, modification time).

A small JSON file in the user's cache folder; that it cannot be written or read costs time, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

VERSION: Final = 1
SMALL: Final = 1 << 20
"""Bytes; smaller files are hashed faster than they are looked up."""
MOST: Final = 1000
"""Files that are remembered."""
FRESH_NS: Final = 2_000_000_000
"""A file younger than this may be written again without a new modification time: it is not remembered."""


def cache_file() -> Path:
    """Where hashes are kept: under XDG_CACHE_HOME, else the user's own cache folder."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        folder = Path(given)
    else:
        folder = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return folder / "saedsl" / "hashes.json"


def sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    """Hexadecimal SHA-256 of a file.

    Args:
        path: absolute.
        size: bytes, now.
        mtime_ns: its last modification, now.

    Raises:
        OSError: if the file cannot be read.
    """
    known = _read().get(str(path)) if size >= SMALL else None
    if known is not None and known[:2] == [size, mtime_ns]:
        return str(known[2])
    with path.open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    after = path.stat()
    unchanged = (after.st_size, after.st_mtime_ns) == (size, mtime_ns)
    if size >= SMALL and unchanged and time.time_ns() - mtime_ns > FRESH_NS:
        with suppress(OSError, RuntimeError):  # no home, no permission, a full disk
            _write(_read() | {str(path): [size, mtime_ns, sha]})
    return sha


def _read() -> dict[str, list[Any]]:
    """What is remembered; nothing where the file is missing or damaged."""
    try:
        data = json.loads(cache_file().read_text(encoding="utf-8"))
        found = data["files"] if data["version"] == VERSION else {}
        return {k: v for k, v in found.items() if _entry(v)}
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _entry(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(n) is int for n in value[:2])
        and isinstance(value[2], str)
        and len(value[2]) == 64
    )


def _write(files: dict[str, list[Any]]) -> None:
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = dict(list(files.items())[-MOST:])
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "files": kept}, file)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
