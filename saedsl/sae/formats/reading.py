"""What the readers of published formats share: JSON beside the weights, tensors of any container, exact shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from saedsl.errors import SAEError
from saedsl.sae import arrayfile, tensorfile, tensorpickle
from saedsl.sae.config import DictionaryConfig, freeze_metadata
from saedsl.sae.formats.tensors import check_finite, load_arrays
from saedsl.sae.header import SAEInfo
from saedsl.sae.tensorfile import AGAIN, Stamp, TensorInfo

if TYPE_CHECKING:
    import mlx.core as mx

Tensors = Mapping[str, TensorInfo]
FLOATS: Final = frozenset({"F32", "F16", "BF16", "F64"})
PICKLES: Final = (".pt", ".pth", ".bin")
TENSORS: Final = (".safetensors", ".npz", *PICKLES)
"""Suffixes of files with tensors."""


def tensors_of(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, an npz archive or a file of torch.save, by name; none is read.

    Raises:
        SAEError: if the file is damaged.
    """
    if path.suffix == ".npz":
        return arrayfile.read_header(path)
    return tensorpickle.read_header(path) if path.suffix in PICKLES else tensorfile.read_header(path)


def has_tensors(path: Path, *names: str) -> bool:
    """Whether `path` is a file that holds tensors of all these names; no error is raised."""
    try:
        return path.is_file() and set(names) <= set(tensors_of(path))
    except SAEError:
        return False


def load(stamp: Stamp, names: frozenset[str]) -> dict[str, mx.array]:
    """Those of the tensors `names` that the file has, float32.

    Raises:
        SAEError: if a tensor is damaged, or is not finite, or the file is not the one that `stamp` is of.
    """
    import mlx.core as mx
    import numpy as np

    path = stamp.path
    if Stamp.of(path) != stamp:
        raise SAEError(f"{path}: changed while it was read; load the dictionary again")
    if path.suffix not in (".npz", *PICKLES):
        found = {name: value for name, value in load_arrays(stamp).items() if name in names}
    else:
        read = arrayfile.read_arrays if path.suffix == ".npz" else tensorpickle.read_tensors
        with np.errstate(over="ignore"):  # beyond float32 is infinity, which is refused
            found = {name: mx.array(value.astype(np.float32)) for name, value in read(path, names).items()}
    check_finite(found, path)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`.

    Raises:
        SAEError: if there is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SAEError(f"{path.parent}: {path.name} is missing; {AGAIN}") from None
    except OSError as error:
        raise SAEError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise SAEError(f"{path}: not JSON{where}; {AGAIN}") from None
    if not isinstance(values, dict):
        raise SAEError(f"{path}: a JSON object is expected, not {type(values).__name__}")
    return values


def value_of(raw: Mapping[str, Any], key: str, kinds: tuple[type, ...], path: Path, default: Any = None) -> Any:
    """`raw[key]`, of one of `kinds`; `default` where it is missing or null. True and false are no numbers.

    Raises:
        SAEError: if it is of another type, or there is neither it nor a default.
    """
    value = raw.get(key)
    if value is None:
        if default is None:
            raise SAEError(f"{path}: has no {key}; {AGAIN}")
        return default
    if type(value) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise SAEError(f"{path}: has {key} = {json.dumps(value)[:40]}; {wanted} is expected")
    return value


def shape_of(tensors: Tensors, name: str, axes: int, path: Path) -> tuple[int, ...]:
    """The shape of the floating-point tensor `name`, which must have that many axes.

    Raises:
        SAEError: if it is missing, of another type or has other axes.
    """
    if name not in tensors:
        raise SAEError(f"{path}: has no {name}; it has {', '.join(sorted(tensors)[:8]) or 'no tensors'}")
    tensor = tensors[name]
    if tensor.dtype not in FLOATS:
        raise SAEError(f"{path}: {name} is of type {tensor.dtype}; floating point is expected")
    if len(tensor.shape) != axes:
        raise SAEError(f"{path}: {name} has shape {list(tensor.shape)}; {axes} axes are expected")
    return tensor.shape


def check_shapes(
    tensors: Tensors, expected: Mapping[str, tuple[int, ...]], path: Path, others: frozenset[str] = frozenset()
) -> None:
    """Raise SAEError unless `tensors` are those `expected`, and at most the `others`."""
    for name, shape in expected.items():
        found = shape_of(tensors, name, len(shape), path)
        if found != shape:
            raise SAEError(f"{path}: {name} has shape {list(found)}; the others imply {list(shape)}")
    surplus = sorted(set(tensors) - set(expected) - others)
    if surplus:
        raise SAEError(f"{path}: has {surplus[0]}, which saedsl does not know what to do with")


def configured(path: Path, **values: Any) -> DictionaryConfig:
    """The config of these values; what they contradict is said of the file `path`."""
    try:
        return DictionaryConfig(**values)
    except SAEError as error:
        raise SAEError(f"{path}: {error}") from None


def described(config: DictionaryConfig, tensors: Tensors, name: str, path: Path, weights: Path) -> SAEInfo:
    """The description of a dictionary at `path` whose weights are the file `weights`."""
    return SAEInfo(config, tuple(tensors[key] for key in sorted(tensors)), name, path, Stamp.of(weights))


def kept(name: str, raw: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What the file said, as metadata under the format's name: fingerprints see it, and saving again keeps it."""
    return freeze_metadata({name: dict(raw)}) if raw else ()


def only_file(path: Path, matching: list[Path], what: str) -> Path:
    """`path` itself if it is a file, else the one of the files `matching` in that folder.

    Raises:
        SAEError: if there are several; the message names them.
    """
    if path.is_file():
        return path
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(file.name for file in sorted(matching)[:3])
    raise SAEError(f"{path}: holds {len(matching)} {what}; name one of them: {names}{' ...' * (len(matching) > 3)}")
