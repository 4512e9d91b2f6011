"""Files in the layouts of torch.save, written without PyTorch: good ones, and ones that would run code."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


class Call:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


class Named:
    """Pickled as the bare name `module.name`."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None: ...


class Stored:
    """Pickled as a reference to a storage."""

    def __init__(self, kind: str, key: str, numel: int) -> None:
        self.kind, self.key, self.numel = kind, key, numel


class Writer(pickle._Pickler):
    """Writes what torch.save writes, names and storages included, without PyTorch."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Stored):
            return ("storage", Named("torch", obj.kind), obj.key, "cpu", obj.numel)
        return None

    def save(self, obj: Any, save_persistent_id: bool = True) -> Any:
        if isinstance(obj, Named):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())  # type: ignore[attr-defined]
            return None
        if isinstance(obj, Call) and isinstance(obj.function, Named):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(b"R")  # type: ignore[attr-defined]
            return None
        return super().save(obj, save_persistent_id)  # type: ignore[misc]


def tensor(stored: Any, offset: Any, shape: Any, strides: Any) -> Call:
    """As PyTorch writes one."""
    hooks = Call(Named("collections", "OrderedDict"))
    return Call(Named("torch._utils", "_rebuild_tensor_v2"), stored, offset, shape, strides, False, hooks)


def program(value: Any) -> bytes:
    out = io.BytesIO()
    Writer(out, protocol=2).dump(value)
    return out.getvalue()


def archive(path: Path, table: Any, compression: int = zipfile.ZIP_STORED, **storages: bytes) -> Path:
    """A file in the layout of torch.save; `table` is pickled unless it is bytes."""
    with zipfile.ZipFile(path, "w", compression) as out:
        out.writestr("archive/data.pkl", table if isinstance(table, bytes) else program(table))
        out.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            out.writestr(f"archive/data/{key.removeprefix('s')}", data)
    return path


FOUR = np.arange(4, dtype=np.float32).tobytes()


def storage(numel: int = 4, kind: str = "FloatStorage", key: str = "0") -> Stored:
    return Stored(kind, key, numel)


def old(path: Path, content: bytes, *storages: bytes) -> Path:
    """The older layout around the pickle `content`."""
    magic, version = program(0x1950A86A20F9469CFC6C), program(1001)
    system = program({"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    data = b"".join((len(s) // 4).to_bytes(8, "little") + s for s in storages)
    path.write_bytes(magic + version + system + content + program([str(i) for i in range(len(storages))]) + data)
    return path
