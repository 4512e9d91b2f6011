"""The file formats that dictionaries come in, one module each, and which of them a folder is.

None imports MLX before weights are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from saedsl import paths
from saedsl.errors import SAEError
from saedsl.sae.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    goodfire,
    llama_scope,
    mlxterp,
    native,
    qwen_scope,
    saelens,
    sparsify,
)  # fmt: skip
from saedsl.sae.formats.reading import TENSORS, tensors_of
from saedsl.sae.header import SAEInfo

if TYPE_CHECKING:
    import mlx.core as mx


class Format(Protocol):
    """What a format's module offers. `path` is a folder or a single file; `info.path` is what `read_info` got, or
    the folder of which that file is a part."""

    def matches(self, path: Path, /) -> bool:
        """Whether `path` looks like this format; for a file, by its name, its suffix or its first bytes."""

    def read_info(self, path: Path, /) -> SAEInfo:
        """Describe the dictionary at `path`, every contradiction refused."""

    def read_weights(self, info: SAEInfo, /) -> dict[str, mx.array]:
        """Its weights as `SAE` takes them: float32, all norms folded."""


FORMATS: Final[tuple[Format, ...]] = (
    native, mlxterp, sparsify, llama_scope, dictionary_learning, goodfire, qwen_scope, gemma_scope, saelens,
    circuit_tracer,
)  # fmt: skip
"""Tried in this order."""


def detect(path: Path) -> Format:
    """The format of the dictionary at `path`, a folder or a single file.

    Raises:
        SAEError: if there is nothing, or no format recognises it.
    """
    if paths.existing(path, Path()) is None:
        raise SAEError(f"{path}: no such dictionary; check the path")
    for candidate in FORMATS:
        if candidate.matches(path):
            return candidate
    if path.suffix in TENSORS and path.is_file():
        names = ", ".join(sorted(tensors_of(path))[:8])  # or why it cannot be read
        raise SAEError(f"{path}: holds {names or 'no tensors'}; no dictionary that saedsl can read has these tensors")
    if not path.is_dir():
        raise SAEError(f"{path}: not a dictionary that saedsl can read; name the folder that holds it")
    raise SAEError(
        f"{path}: not a dictionary that saedsl can read; expected cfg.json and sae_weights.safetensors (SAELens), or "
        "the files of mlxterp, Gemma Scope, Llama Scope, sparsify, dictionary_learning, Goodfire, Qwen-Scope or "
        "circuit-tracer"
    )
