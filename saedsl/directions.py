"""Vectors that a program names: tensors of safetensors files, and arrays that the caller binds. No mlx, no numpy."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any, Final

from saedsl import paths
from saedsl.errors import SAEError
from saedsl.program import Direction
from saedsl.sae.tensorfile import TensorInfo, read_header

FORMATS: Final = {"F64": ("d", 8), "F32": ("f", 4), "F16": ("e", 2), "BF16": ("H", 2)}
"""Types that are read: struct's letter, bytes."""
MAX_WIDTH: Final = 1_000_000


class DirectionError(Exception):
    """Why there is no such direction."""


def read_direction(name: str, path: str, key: str | None, base: Path) -> Direction:
    """A vector of a safetensors file, as stored.

    Args:
        name: what the program calls it.
        path: as the program gives it, relative to `base`, then to here.
        key: of the tensor; None: the file's only one.
        base: the folder of the program.

    Raises:
        DirectionError: if it cannot be read, is not one vector, or has no direction.
    """
    file = paths.existing(path, base)
    if file is None:
        raise DirectionError(f"{path}: there is no such file")
    if file.is_dir():
        raise DirectionError(f"{path}: is a folder; a safetensors file is needed")
    try:
        tensors = read_header(file)
    except SAEError as e:
        raise DirectionError(str(e)) from None
    shown = ", ".join(sorted(tensors)[:8]) + (" ..." if len(tensors) > 8 else "")
    if key is None and len(tensors) != 1:
        which = f"has {len(tensors)} tensors, say which: {shown}" if tensors else "has no tensors"
        raise DirectionError(f"{path}: {which}")
    if key is not None and key not in tensors:
        raise DirectionError(f"{path}: has no tensor {key}; it has {shown}")
    info = tensors[key] if key is not None else next(iter(tensors.values()))
    return _direction(name, path, key, _values(file, path, info))


def bound_direction(name: str, value: object) -> Direction:
    """An array that the caller binds to `$name`: a list of numbers, or anything with `tolist`, [d] or [1, d].

    Raises:
        DirectionError: if it is not a vector of finite numbers.
    """
    tolist = getattr(value, "tolist", None)
    found: Any = tolist() if callable(tolist) else value
    while isinstance(found, list | tuple) and len(found) == 1 and isinstance(found[0], list | tuple):
        found = found[0]
    if not isinstance(found, list | tuple) or not found:
        raise DirectionError(f"${name} is bound to {_shown(value)}, which is not a vector")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in found):
        raise DirectionError(f"${name} is bound to something that is not a vector of numbers")
    return _direction(f"${name}", f"${name}", None, [float(v) for v in found])


def _direction(name: str, path: str, key: str | None, values: list[float]) -> Direction:
    try:
        data = struct.pack(f"<{len(values)}f", *values)
    except OverflowError:
        raise DirectionError(f"{path}: a number of it does not fit in float32") from None
    rounded = struct.unpack(f"<{len(values)}f", data)
    if not all(map(math.isfinite, rounded)):
        raise DirectionError(f"{path}: has numbers that are not finite")
    if not any(rounded):
        raise DirectionError(f"{path}: is zero everywhere, which is no direction")
    return Direction(name, path, key, len(values), hashlib.sha256(data).hexdigest(), rounded)


def _values(file: Path, path: str, info: TensorInfo) -> list[float]:
    """The numbers of one tensor."""
    shape = [n for n in info.shape if n != 1] or [1]
    if len(shape) != 1 or not info.shape or shape[0] > MAX_WIDTH or shape[0] == 0:
        raise DirectionError(f"{path}: {info.name} is {list(info.shape)}; a vector [d] is needed")
    if info.dtype not in FORMATS:
        raise DirectionError(f"{path}: {info.name} is of type {info.dtype}; {', '.join(FORMATS)} are read")
    letter, size = FORMATS[info.dtype]
    with file.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        begin = json.loads(f.read(length))[info.name]["data_offsets"][0]
        f.seek(8 + length + begin)
        data = f.read(size * shape[0])
    numbers = struct.unpack(f"<{shape[0]}{letter}", data)
    if info.dtype != "BF16":
        return [float(v) for v in numbers]
    return list(struct.unpack(f"<{shape[0]}f", struct.pack(f"<{shape[0]}I", *(v << 16 for v in numbers))))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
