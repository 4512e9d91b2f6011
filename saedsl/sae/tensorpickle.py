"""PyTorch's files (`.pt`, `.pth`) as tables of tensors; nothing in them is ever run, and PyTorch is not needed.

A pickle is a program for a small stack machine, and two of its instructions can start any function of the computer:
that is why such files are dangerous. No unpickler reads them here. `pickletools.genops`, which only takes instructions
apart, lists them, and `tensorprogram.Machine` carries out the few that a table of tensors needs. It has no instruction
that imports: a name becomes a `Name`, a pair of texts. It has no instruction that calls: "reduce" is done for the five
names that `torch.save` writes for tensors, by code of that module, and any other name is refused by name. So no file
can make it do anything but build dictionaries, lists, tuples, numbers, texts and `Tensor` descriptions.

Sizes are bounded before anything is allocated: instructions by `MAX_PROGRAM`, a tensor by its storage, a storage by the
bytes in the file. Archives that are compressed (`torch.save` does not compress) or whose parts overlap are refused.

Both layouts of `torch.save` are read: the zip archive (since 1.6) and the older sequence of pickles.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from saedsl.errors import SAEError
from saedsl.sae.tensorfile import AGAIN, Stamp, TensorInfo
from saedsl.sae.tensorprogram import Machine, Refused, Tensor, called

if TYPE_CHECKING:
    import numpy as np

MAX_PROGRAM: Final = 4_000_000
"""Bytes of instructions; a table of a thousand tensors needs a hundredth of it."""

_BEGINNING: Final = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."
"""Of the older layout: a number, pickled."""
_NUMPY: Final = {
    "F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U8": "u1", "BOOL": "?",
}  # fmt: skip

_STRUCT: Final = {"F32": "f", "F64": "d", "I64": "q", "I32": "i", "I16": "h", "F16": "e", "BF16": "f"}
MAX_NUMBERS: Final = 4096


class Table(NamedTuple):
    """The tensors of a file, described."""

    tensors: Mapping[str, Tensor]
    places: Mapping[str, tuple[int, int]]
    """Storage -> where its bytes begin in the file, and how many there are."""


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors in the file that `torch.save` wrote at `path`, by name, without reading any of them.

    Names, types and shapes are as `tensorfile.read_header` gives them. What is in the table but no tensor is left out.

    Raises:
        SAEError: if the file is missing, cut short, of another kind, or holds anything but tensors and plain values.
    """
    table = _table(Stamp.of(path))
    return {name: TensorInfo(name, t.storage.dtype, t.shape) for name, t in table.tensors.items()}


def read_tensors(path: Path, names: frozenset[str] | None = None) -> dict[str, np.ndarray]:
    """Copies of the tensors, float32 where they are floating point; of `names` only, if given.

    Raises:
        SAEError: as `read_header`, or if a tensor's bytes are damaged.
    """
    import numpy as np

    table = _table(Stamp.of(path))
    found: dict[str, np.ndarray] = {}
    for name, tensor in table.tensors.items():
        if names is not None and name not in names:
            continue
        storage = tensor.storage
        begin, _ = table.places[storage.key]
        if prod(tensor.shape) == 0:
            found[name] = np.zeros(tensor.shape, np.float32)
            continue
        first = begin + tensor.offset * storage.itemsize
        length = (1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))) * storage.itemsize
        with path.open("rb") as file:
            file.seek(first)
            data = file.read(length)
        if len(data) < length:
            raise SAEError(f"{path}: cut short: {name} needs bytes up to {first + length}; {AGAIN}")
        strides = tuple(s * storage.itemsize for s in tensor.strides)
        view = np.ndarray(tensor.shape, dtype=_NUMPY[storage.dtype], buffer=data, strides=strides)
        if storage.dtype == "BF16":  # the upper half of a float32
            found[name] = (view.astype(np.uint32) << 16).view(np.float32)
        elif storage.dtype in ("F16", "F32", "F64"):
            with np.errstate(over="ignore"):  # beyond float32 is infinity, which readers refuse
                found[name] = view.astype(np.float32)
        else:
            found[name] = view.copy()
    return found


def read_numbers(path: Path, name: str) -> list[int | float]:
    """The numbers of the small contiguous tensor `name`, without numpy.

    Raises:
        SAEError: as `read_header`, or if the tensor is large or of another kind.
    """
    table = _table(Stamp.of(path))
    tensor = table.tensors[name]
    storage, count = tensor.storage, prod(tensor.shape)
    if count > MAX_NUMBERS or len(tensor.shape) > 1 or storage.dtype not in _STRUCT or tensor.strides not in ((), (1,)):
        raise SAEError(f"{path}: {name} is no short list of numbers; {AGAIN}")
    with path.open("rb") as file:
        file.seek(table.places[storage.key][0] + tensor.offset * storage.itemsize)
        data = file.read(count * storage.itemsize)
    if storage.dtype == "BF16":  # the upper half of a float32
        data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
    return list(struct.unpack(f"<{count}{_STRUCT[storage.dtype]}", data))


@lru_cache(maxsize=16)
def _table(stamp: Stamp) -> Table:
    path = stamp.path
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            tensors, places = _archive(file, stamp.size) if start == b"PK\x03\x04" else _sequence(file, stamp.size)
        for name, tensor in tensors.items():
            _check_view(name, tensor, places)
    except Refused as error:
        raise SAEError(f"{path}: {error}") from None
    except OSError as error:
        raise SAEError(f"{path}: cannot be read ({error.strerror})") from None
    return Table(tensors, places)


Places = dict[str, tuple[int, int]]


def _archive(file: io.BufferedIOBase, size: int) -> tuple[dict[str, Tensor], Places]:
    """Tensors and storages of the zip layout: `NAME/data.pkl` and `NAME/data/KEY`."""
    try:
        parts = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, NotImplementedError) as error:
        raise Refused(f"a damaged archive ({error}); {AGAIN}") from None
    programs = [part for part in parts if PurePosixPath(part.filename).name == "data.pkl"]
    if len(programs) != 1:
        raise Refused(f"not a file of torch.save (an archive with {len(programs)} data.pkl); TorchScript is not read")
    root = programs[0].filename.removesuffix("data.pkl")
    spans: dict[str, tuple[int, int]] = {}
    for part in parts:
        if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size or part.flag_bits & 1:
            raise Refused(f"{part.filename} is compressed or encrypted, which torch.save does not do; nothing is read")
        if part.filename in spans:
            raise Refused(f"{part.filename} is there twice; nothing is read")
        spans[part.filename] = (_data_offset(file, part, size), part.file_size)
    _check_apart(spans)
    if "constants.pkl" in {PurePosixPath(part.filename).name for part in parts}:
        raise Refused("a TorchScript program, not a table of tensors; save its state_dict() with torch.save")
    order = _part(file, spans.get(root + "byteorder"), 16)
    if order not in (None, b"little"):
        raise Refused("written on a big-endian machine; load and save it again on another")
    begin, length = spans[programs[0].filename]
    if length > MAX_PROGRAM:
        raise Refused(f"its table is {length} bytes, more than the {MAX_PROGRAM} that tensors need; nothing is read")
    program = io.BytesIO(_part(file, (begin, length), MAX_PROGRAM) or b"")
    places = {
        name.removeprefix(root + "data/"): span for name, span in spans.items() if name.startswith(root + "data/")
    }
    return _tensors_of(Machine(program, legacy=False).run()), places


def _data_offset(file: io.BufferedIOBase, part: zipfile.ZipInfo, size: int) -> int:
    """Where the bytes of `part` begin: behind its local header (APPNOTE.TXT 4.3.7)."""
    file.seek(part.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise Refused(f"a damaged archive (no {part.filename}); {AGAIN}")
    begin = part.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if begin + part.file_size > size:
        raise Refused(f"cut short: {part.filename} needs bytes up to {begin + part.file_size} of {size}; {AGAIN}")
    return begin


def _check_apart(spans: Mapping[str, tuple[int, int]]) -> None:
    end, before = 0, ""
    for begin, length, name in sorted((begin, length, name) for name, (begin, length) in spans.items()):
        if length and begin < end:
            raise Refused(f"{before} and {name} share bytes; nothing is read")
        end, before = max(end, begin + length), name


def _part(file: io.BufferedIOBase, span: tuple[int, int] | None, limit: int) -> bytes | None:
    if span is None:
        return None
    file.seek(span[0])
    return file.read(min(span[1], limit))


def _sequence(file: io.BufferedIOBase, size: int) -> tuple[dict[str, Tensor], Places]:
    """Tensors and storages of the older layout: five pickles, then the storages in the order of the fifth."""
    stream = io.BytesIO(file.read(MAX_PROGRAM))
    if not stream.getvalue().startswith(_BEGINNING):
        raise Refused("not a file of torch.save, or cut short")
    Machine(stream, legacy=True).run()
    version, system = Machine(stream, legacy=True).run(), Machine(stream, legacy=True).run()
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("written by a PyTorch or on a machine that is not known; load and save it again with a new one")
    machine = Machine(stream, legacy=True)
    tensors = _tensors_of(machine.run())
    keys = Machine(stream, legacy=True).run()
    if not isinstance(keys, list) or any(not isinstance(key, str) or key not in machine.storages for key in keys):
        raise Refused(f"its list of storages is damaged; {AGAIN}")
    places, at = {}, stream.tell()
    for key in keys:
        file.seek(at)
        numel = int.from_bytes(file.read(8), "little")
        storage = machine.storages[key]
        if numel != storage.numel or key in places:
            raise Refused(f"storage {key} holds {numel} numbers, not the {storage.numel} that its table says; {AGAIN}")
        places[key] = (at + 8, numel * storage.itemsize)
        at += 8 + numel * storage.itemsize
    if at > size:
        raise Refused(f"cut short: the tensors need {at} bytes, the file has {size}; {AGAIN}")
    return tensors, places


def _tensors_of(value: Any) -> dict[str, Tensor]:
    """The table itself, or the one table of tensors inside it that training scripts call `state_dict` or the like."""
    if not isinstance(value, dict):
        raise Refused(f"holds {called(value)}, not a table of named tensors; save a state_dict()")
    tables = [value, *(value[key] for key in ("state_dict", "model_state_dict", "model", "state") if key in value)]
    for table in tables:
        if isinstance(table, dict) and any(isinstance(v, Tensor) for v in table.values()):
            return {k: v for k, v in table.items() if isinstance(k, str) and isinstance(v, Tensor)}
    raise Refused("holds no tensors; save a state_dict()")


def _check_view(name: str, tensor: Tensor, places: Mapping[str, tuple[int, int]]) -> None:
    """Raise if a tensor is larger than its storage, or reaches out of it."""
    storage = tensor.storage
    if storage.key not in places:
        raise Refused(f"the numbers of {name} are missing; {AGAIN}")
    stored = places[storage.key][1]
    if stored < storage.numel * storage.itemsize:
        raise Refused(f"cut short: {name} needs {storage.numel * storage.itemsize} bytes, there are {stored}; {AGAIN}")
    numbers = prod(tensor.shape)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if numbers and (last >= storage.numel or numbers > storage.numel):
        raise Refused(f"{name} of shape {list(tensor.shape)} reaches beyond the {storage.numel} numbers stored for it")
