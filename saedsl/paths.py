"""Paths as people write them: nothing raises for a name that no file can have."""

from __future__ import annotations

import os
from pathlib import Path


def written(name: str | os.PathLike[str]) -> Path:
    """The path that `name` spells, `~` being the home folder where there is one."""
    return Path(os.path.expanduser(name))


def existing(name: str | os.PathLike[str], base: Path) -> Path | None:
    """The file or folder of that name, relative to `base`, then to here; None where there is none.

    A name that is too long, has a null character, or lies in a folder that may not be read leads nowhere.
    """
    path = written(name)
    return next((p for p in (base / path, path) if os.path.exists(p)), None)


def resolved(path: Path) -> Path:
    """The path without links and dots; as it is where that is not possible."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):  # too long; a null character; links in a circle
        return path
