"""Safetensors files without their tensors: the header, checked, and the file's hash.

Format: 8 bytes little-endian header length, that many bytes of JSON, then the data
(https://github.com/huggingface/safetensors#format). Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Final

from saedsl.errors import SAEError
from saedsl.hashes import sha256_of

MAX_HEADER: Final = 100_000_000
"""Bytes; the limit of the safetensors library itself."""
_BYTES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file."""

    name: str
    """Its key."""
    dtype: str
    """As safetensors spells it: F32, F16, BF16 ..."""
    shape: tuple[int, ...]
    """Its axes."""


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors in the safetensors file `path`, by name, without reading any of them.

    Raises:
        SAEError: if the file is missing, cut short or not safetensors.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > MAX_HEADER:
                raise SAEError(f"{path}: not a safetensors file (its header cannot be {length} bytes)")
            if 8 + length > size:
                raise SAEError(f"{path}: cut short: the header needs {8 + length} bytes, the file has {size}; {AGAIN}")
            text = file.read(length)
    except OSError as error:
        raise SAEError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_header(text, size - 8 - length, path)


AGAIN: Final = "download or copy it again"


def parse_header(text: bytes, available: int, path: Path) -> dict[str, TensorInfo]:
    """The tensors that the header `text` lists, checked against the `available` bytes of data behind it."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise SAEError(f"{path}: not a safetensors file (its header is not JSON); {AGAIN}") from None
    if not isinstance(header, dict):
        raise SAEError(f"{path}: not a safetensors file (its header is not a JSON object); {AGAIN}")
    free_text = header.pop("__metadata__", None)
    free_text = {} if free_text is None else free_text  # MLX writes null where there is none
    if not isinstance(free_text, dict) or not all(isinstance(value, str) for value in free_text.values()):
        raise SAEError(f"{path}: the header's __metadata__ is damaged; {AGAIN}")
    tensors = {name: _entry(name, entry, path) for name, entry in header.items()}
    claimed = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if claimed > available:
        raise SAEError(f"{path}: cut short: the tensors need {claimed} bytes, the file has {available}; {AGAIN}")
    return tensors


def _entry(name: str, entry: Any, path: Path) -> TensorInfo:
    """One header entry, checked in itself."""
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError):
        raise SAEError(f"{path}: the header's entry for {name} is damaged; {AGAIN}") from None
    lists = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not lists or not all(type(n) is int and n >= 0 for n in [*shape, *offsets]) or str(dtype) not in _BYTES:
        raise SAEError(f"{path}: the header's entry for {name} is damaged; {AGAIN}")
    begin, end = offsets
    if end - begin != prod(shape) * _BYTES[dtype]:
        raise SAEError(f"{path}: {name} of {dtype} {tuple(shape)} does not fill bytes {begin} to {end}; {AGAIN}")
    return TensorInfo(name, dtype, tuple(shape))


@dataclass(frozen=True)
class Stamp:
    """A file at one moment: a later write shows as another stamp."""

    path: Path
    """Absolute."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Last modification, nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of `path` now."""
        try:
            stat = path.stat()
        except OSError as error:
            raise SAEError(f"{path}: cannot be read ({error.strerror})") from None
        return cls(path.absolute(), stat.st_size, stat.st_mtime_ns)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file, remembered until its size or modification time changes."""
    return _sha256(Stamp.of(path))


@lru_cache(maxsize=256)
def _sha256(stamp: Stamp) -> str:
    return sha256_of(stamp.path, stamp.size, stamp.mtime_ns)
