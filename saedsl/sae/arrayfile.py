"""Numpy's archives (`.npz`): headers without the arrays, and the arrays, never an object that would be unpickled.

Format: a zip archive with one `NAME.npy` an array (numpy.lib.format): a magic text, a version, a header that is a
Python literal, the numbers.
"""

from __future__ import annotations

import ast
import lzma
import struct
import zipfile
import zlib
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from saedsl.errors import SAEError
from saedsl.sae.tensorfile import AGAIN, Stamp, TensorInfo

if TYPE_CHECKING:
    import numpy as np

_DTYPES: Final = {
    "<f4": ("F32", 4), "<f8": ("F64", 8), "<f2": ("F16", 2), "<i8": ("I64", 8), "<i4": ("I32", 4), "<i2": ("I16", 2),
    "|i1": ("I8", 1), "|u1": ("U8", 1), "|b1": ("BOOL", 1),
}  # fmt: skip
"""numpy's type -> safetensors' name and bytes of a number; little-endian only."""
MAX_HEADER: Final = 4096
"""Bytes of an array's header."""
MAX_RATIO: Final = 64
"""How much smaller compressed weights can be; zeros alone shrink a thousandfold."""
MAX_AXES: Final = 8
_BAD: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    OverflowError,
    struct.error,
    NotImplementedError,
    EOFError,
    RuntimeError,
)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The arrays in the archive `path`, by name, without reading any of them.

    Raises:
        SAEError: if the file is missing, damaged, no such archive, or holds objects.
    """
    return dict(_header(Stamp.of(path)))


def read_arrays(path: Path, names: frozenset[str]) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that there are, as they are stored.

    Raises:
        SAEError: as `read_header`, or if the numbers are damaged.
    """
    import numpy as np

    wanted = names & set(read_header(path))
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in sorted(wanted)}
    except (*_BAD, OSError, KeyError, MemoryError) as error:
        raise SAEError(f"{path}: its arrays are damaged ({error}); {AGAIN}") from None


@lru_cache(maxsize=64)
def _header(stamp: Stamp) -> tuple[tuple[str, TensorInfo], ...]:
    path = stamp.path
    found: dict[str, TensorInfo] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                name = part.filename.removesuffix(".npy")
                if name == part.filename or name in found:
                    raise SAEError(f"{path}: holds {part.filename}, which is no array of numpy; {AGAIN}")
                if part.file_size > MAX_RATIO * max(part.compress_size, 4096):
                    raise SAEError(
                        f"{path}: {name} unpacks from {part.compress_size} to {part.file_size} bytes, as no weights do"
                    )
                with archive.open(part) as file:
                    found[name] = _array(name, file, part.file_size, path)
    except _BAD as error:
        raise SAEError(f"{path}: not an archive of numpy, or cut short ({error}); {AGAIN}") from None
    except OSError as error:
        raise SAEError(f"{path}: cannot be read ({error.strerror})") from None
    return tuple(found.items())


def _array(name: str, file: IO[bytes], size: int, path: Path) -> TensorInfo:
    """One array's header, checked against the `size` bytes of its part."""
    start = file.read(8)
    wide = start[6:7] != b"\x01"
    length = int.from_bytes(file.read(4 if wide else 2), "little")
    if start[:6] != b"\x93NUMPY" or length > MAX_HEADER:
        raise SAEError(f"{path}: {name} is no array of numpy; {AGAIN}")
    header = _literal(file.read(length))
    if not isinstance(header, dict) or not {"descr", "shape", "fortran_order"} <= set(header):
        raise SAEError(f"{path}: the header of {name} is damaged; {AGAIN}")
    descr, shape = header["descr"], header["shape"]
    if not isinstance(descr, str) or descr not in _DTYPES:
        kind = "objects, which are not read: they could run code" if "O" in str(descr) else f"numbers of type {descr!r}"
        raise SAEError(f"{path}: {name} holds {str(kind)[:80]}; little-endian numbers are expected")
    sizes = isinstance(shape, tuple) and len(shape) <= MAX_AXES and all(type(n) is int and n >= 0 for n in shape)
    dtype, itemsize = _DTYPES[descr]
    if not sizes or prod(shape) * itemsize != size - len(start) - (4 if wide else 2) - length:
        raise SAEError(f"{path}: {name} of {descr} {str(shape)[:60]} does not fill its {size} bytes; {AGAIN}")
    return TensorInfo(name, dtype, shape)


def _literal(text: bytes) -> Any:
    try:
        return ast.literal_eval(text.decode("latin1"))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
