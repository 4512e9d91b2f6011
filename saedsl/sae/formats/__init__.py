"""The file formats that dictionaries come in, one module each, and which of them a folder is.

None imports MLX before weights are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from saedsl.errors import SAEError
from saedsl.sae.formats import saelens
from saedsl.sae.header import SAEInfo

if TYPE_CHECKING:
    import mlx.core as mx


class Format(Protocol):
    """What a format's module offers."""

    def matches(self, folder: Path, /) -> bool:
        """Whether `folder` looks like this format."""

    def read_info(self, folder: Path, /) -> SAEInfo:
        """Describe the dictionary in `folder`, every contradiction refused."""

    def read_weights(self, info: SAEInfo, /) -> dict[str, mx.array]:
        """Its weights as `SAE` takes them: float32, all norms folded."""


FORMATS: Final[tuple[Format, ...]] = (saelens,)
"""Tried in this order."""


def detect(folder: Path) -> Format:
    """The format of the dictionary in `folder`.

    Raises:
        SAEError: if there is no such folder, or no format recognises it.
    """
    if not folder.exists():
        raise SAEError(f"{folder}: no such dictionary; check the path")
    for candidate in FORMATS:
        if candidate.matches(folder):
            return candidate
    if not folder.is_dir():
        raise SAEError(f"{folder}: a file, not a dictionary; name the folder that holds cfg.json")
    raise SAEError(
        f"{folder}: not a dictionary that saedsl can read; expected cfg.json and sae_weights.safetensors (SAELens)"
    )
