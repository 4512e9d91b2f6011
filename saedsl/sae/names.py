"""What dictionaries are called: a folder, a file, or a repository on the Hugging Face hub with a place in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from saedsl import paths
from saedsl.errors import SAEError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_HUB = re.compile(r"(?P<repo>[^:]+)(?::(?P<place>.*))?", re.DOTALL)


@dataclass(frozen=True)
class HubName:
    """`org/repo`, or `org/repo:subfolder`, or `org/repo:subfolder/file`."""

    repo: str
    """`org/repo`."""
    place: str | None = None
    """A folder or a file in it, its parts separated by `/`; None for its root."""

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """The hub name that `text` is, or None if it can only be a path.

        Raises:
            SAEError: if it names a place that no repository can have.
        """
        match = _HUB.fullmatch(text)
        if match is None or not is_repository(match["repo"]):
            return None
        place = match["place"]
        if place is None:
            return cls(match["repo"])
        parts = place.strip("/").split("/")
        if any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in parts):
            raise SAEError(f"{text}: {place!r} is no folder of a repository; write org/repo:folder/subfolder")
        return cls(match["repo"], "/".join(parts))

    def __str__(self) -> str:
        return self.repo if self.place is None else f"{self.repo}:{self.place}"


def is_repository(name: str) -> bool:
    """Whether `name` can be `org/repo` on the hub."""
    return _REPOSITORY.fullmatch(name) is not None and ".." not in name and "--" not in name


def local_or_hub(name: str | PathLike[str], download: bool = True) -> Path:
    """Where the dictionary called `name` is on this machine; what is not a hub name is taken as a path.

    Args:
        name: a path, or the text of a hub name. What exists on this machine under that name comes first.
        download: whether a hub repository that is not on this machine is fetched.

    Raises:
        SAEError: if a hub repository is not on this machine and cannot be, or must not be, fetched.
    """
    path = paths.written(name)
    if not isinstance(name, str) or paths.existing(path, Path()) is not None:
        return path
    hub_name = HubName.parse(name)
    if hub_name is None:
        return path
    from saedsl.sae.hub import find

    return find(hub_name, download)
