"""What a folder of harvested activations holds: `manifest.json`, and safetensors files beside it, the shards."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from saedsl.errors import SAEError, TrainingError
from saedsl.sae.tensorfile import file_sha256, read_header

NAME: Final = "manifest.json"
KIND: Final = "saedsl activations"
VERSION: Final = 1
DOCUMENT: Final = "document"
"""The tensor [tokens] int64 of each shard that says which document a token is of."""
DType = Literal["float16", "float32"]
_SPELLED: Final = {"float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Shard:
    """One file."""

    file: str
    """Its name."""
    tokens: int
    """How many it holds."""
    sha256: str
    """Of the whole file."""
    documents: tuple[int, int]
    """Of its first token and of its last one."""


@dataclass(frozen=True)
class Manifest:
    """A harvest, finished or not."""

    model_name: str
    parts: Mapping[str, Any]
    """Hashes of model, tokenizer and texts, sites, context, packing; as of `StreamSource.parts`."""
    widths: Mapping[str, int]
    """Stream -> width."""
    dtype: DType
    shards: tuple[Shard, ...] = ()
    next: Mapping[str, Any] | None = None
    """Where the next shard starts; None once the harvest is finished."""

    @property
    def tokens(self) -> int:
        """Of all shards."""
        return sum(s.tokens for s in self.shards)

    def with_shard(self, shard: Shard, following: Mapping[str, Any] | None) -> Manifest:
        """One shard further."""
        return replace(self, shards=(*self.shards, shard), next=following)

    def write(self, folder: Path) -> None:
        """Put it into a folder, whole or not at all."""
        data = {"format": KIND, "version": VERSION, "tokens": self.tokens, **asdict(self)}
        part = folder / f"{NAME}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / NAME)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """That of a folder.

        Raises:
            TrainingError: if there is none, or it is damaged.
        """
        path = folder / NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise TrainingError(
                f"{folder}: no harvested activations here (no {NAME}); `saedsl harvest` makes them"
            ) from None
        except (OSError, ValueError, RecursionError) as e:
            raise TrainingError(f"{path}: cannot be read ({e}); harvest again into another folder") from None
        if not isinstance(data, dict) or data.get("format") != KIND:
            raise TrainingError(f"{path}: not a manifest of harvested activations")
        if data.get("version") != VERSION:
            raise TrainingError(
                f"{path}: version {data.get('version')}, this saedsl reads {VERSION}; install the newer one"
            )
        try:
            shards = tuple(
                Shard(
                    str(s["file"]), int(s["tokens"]), str(s["sha256"]), (int(s["documents"][0]), int(s["documents"][1]))
                )
                for s in data["shards"]
            )
            widths = {str(k): int(v) for k, v in data["widths"].items()}
            found = cls(str(data["model_name"]), dict(data["parts"]), widths, data["dtype"], shards, data["next"])
            whole = found.dtype in _SPELLED and found.tokens == data["tokens"] and widths and "model" in found.parts
            plain = all(Path(s.file).name == s.file and s.tokens > 0 for s in shards)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            raise TrainingError(f"{path}: damaged ({type(e).__name__}: {e}); harvest again") from None
        if not whole or not plain:
            raise TrainingError(f"{path}: damaged: its entries contradict one another; harvest again")
        return found

    def check(self, folder: Path) -> None:
        """See that all shards are there with the tensors that they should have; their bytes are not read.

        Raises:
            TrainingError: if one is missing, cut short, or another.
        """
        for shard in self.shards:
            path = folder / shard.file
            if not path.is_file():
                raise TrainingError(f"{path}: this shard is missing; copy it again, or harvest into another folder")
            try:
                tensors = read_header(path)
            except SAEError as e:
                raise TrainingError(f"{e} (a shard of {folder / NAME})") from None
            shapes = {name: (t.dtype, t.shape) for name, t in tensors.items()}
            wanted: dict[str, tuple[str, tuple[int, ...]]] = {
                name: (_SPELLED[self.dtype], (shard.tokens, w)) for name, w in self.widths.items()
            }
            wanted[DOCUMENT] = ("I64", (shard.tokens,))
            for name in sorted(shapes.keys() | wanted.keys()):
                if shapes.get(name) != wanted.get(name):
                    raise TrainingError(
                        f"{path}: {name} is {_said(shapes.get(name))}, but {NAME} says {_said(wanted.get(name))}; "
                        "the shard is of another harvest"
                    )

    def check_hashes(self, folder: Path) -> None:
        """See that every byte is as it was written.

        Raises:
            TrainingError: if one is not.
        """
        self.check(folder)
        for shard in self.shards:
            if file_sha256(folder / shard.file) != shard.sha256:
                raise TrainingError(
                    f"{folder / shard.file}: its bytes are not those that were written (SHA-256 differs); "
                    "copy it again, or harvest into another folder"
                )


def _said(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "not there" if tensor is None else f"{tensor[0]} {list(tensor[1])}"


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a shard, memory-mapped: nothing is read until it is used.

    Raises:
        TrainingError: if the file is gone.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        raw = np.memmap(path, np.uint8, "r", offset=0)
    except (OSError, ValueError) as e:
        raise TrainingError(f"{path}: this shard cannot be read any more ({e})") from None
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = {"F16": np.float16, "F32": np.float32, "I64": np.int64}[entry["dtype"]]
            found[name] = raw[8 + length + begin : 8 + length + end].view(kind).reshape(entry["shape"])
    return found
