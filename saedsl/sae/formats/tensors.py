"""Weights on disk, for every format: read and checked, or written whole with their config beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

from saedsl.errors import SAEError
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.header import SAEInfo
from saedsl.sae.replace import write_folder
from saedsl.sae.statistics import FILE, Statistics
from saedsl.sae.tensorfile import AGAIN, Stamp, parse_header, read_header

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np

DType = Literal["float32", "float16"]

WRITTEN: Final = frozenset({
    "cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "saedsl.json", "weights.safetensors", FILE,
})  # fmt: skip
"""All that a folder which saedsl or SAELens wrote holds: saving may replace it."""


def load_arrays(stamp: Stamp) -> dict[str, mx.array]:
    """The tensors of a safetensors file, float32.

    Raises:
        SAEError: if MLX cannot read it, or it is not the file that `stamp` is of.
    """
    import mlx.core as mx

    if Stamp.of(stamp.path) != stamp:
        raise SAEError(f"{stamp.path}: changed while it was read; load the dictionary again")
    if any(tensor.dtype == "F64" for tensor in read_header(stamp.path).values()):
        return _with_doubles(stamp.path)
    try:  # a .safetensors suffix is what mx.load goes by
        loaded = cast("dict[str, mx.array]", mx.load(str(stamp.path)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise SAEError(f"{stamp.path}: MLX cannot read it ({error}); {AGAIN}") from None
    return {name: value.astype(mx.float32) for name, value in loaded.items()}


def _with_doubles(path: Path) -> dict[str, mx.array]:
    """As `load_arrays`, of a file with float64 tensors, which MLX does not read: a threshold that SAELens trained."""
    import mlx.core as mx
    import numpy as np

    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    found = {}
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    for name, tensor in read_header(path).items():
        if tensor.dtype not in kinds:
            raise SAEError(f"{path}: {name} is of type {tensor.dtype}; floating point is expected")
        begin, end = header[name]["data_offsets"]
        flat = np.frombuffer(content[start + begin : start + end], dtype=kinds[tensor.dtype])
        if tensor.dtype == "BF16":  # the upper half of a float32
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):  # beyond float32 is infinity, which is refused
            found[name] = mx.array(flat.astype(np.float32).reshape(tensor.shape))
    return found


def check_finite(weights: Mapping[str, mx.array], path: Path) -> None:
    """Raise SAEError if a weight of the file `path` is NaN or infinite."""
    import mlx.core as mx

    finite = {name: mx.all(mx.isfinite(value)) for name, value in weights.items()}
    try:
        mx.eval(weights, finite)
    except (RuntimeError, ValueError) as error:
        raise SAEError(f"{path}: MLX cannot read it ({error}); {AGAIN}") from None
    for name, good in finite.items():
        if not good.item():
            raise SAEError(f"{path}: {name} holds NaN or infinity; the file is damaged")


def serialise(weights: Mapping[str, np.ndarray], dtype: DType) -> bytes:
    """The safetensors bytes; equal weights give equal bytes.

    Raises:
        SAEError: if a weight does not fit in float16.
    """
    import numpy as np
    from safetensors.numpy import save

    for name, value in weights.items():
        if dtype == "float16" and np.abs(value).max(initial=0) > np.finfo(np.float16).max:
            raise SAEError(f"{name} has entries beyond float16's 65504; save with dtype='float32'")
    return bytes(save({name: np.ascontiguousarray(value, dtype=dtype) for name, value in weights.items()}))


def describe(config: DictionaryConfig, weights: Mapping[str, np.ndarray]) -> SAEInfo:
    """The description of a dictionary in memory; its hash is that of the file that saving would write."""
    data = serialise(weights, "float32")
    length = int.from_bytes(data[:8], "little")
    tensors = parse_header(data[8 : 8 + length], len(data) - 8 - length, Path("memory"))
    digest = hashlib.sha256(data).hexdigest()
    return SAEInfo(config, tuple(tensors[name] for name in sorted(tensors)), digest=digest)


def write_dictionary(
    folder: Path,
    config: tuple[str, str],
    weights_name: str,
    weights: Mapping[str, np.ndarray],
    dtype: DType,
    statistics: Statistics | None,
) -> None:
    """Write a dictionary to `folder`, whole or not at all; an existing dictionary is replaced, its statistics too.

    Args:
        folder: where.
        config: name and content of the file beside the weights.
        weights_name: of the weights' file.
        weights: float32, by name.
        dtype: how they are stored.
        statistics: those of `weights`; left out where storing rounds a weight.

    Raises:
        SAEError: if `folder` holds something else, or a weight does not fit in float16.
    """
    files = {config[0]: config[1].encode(), weights_name: serialise(weights, dtype)}
    if statistics is not None and all((w == w.astype(dtype)).all() for w in weights.values()):
        files[FILE] = statistics.serialise(hashlib.sha256(files[weights_name]).hexdigest())
    write_folder(folder, files, replaceable=WRITTEN)
