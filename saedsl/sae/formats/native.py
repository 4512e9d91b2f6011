"""saedsl's own folders: `saedsl.json` + `weights.safetensors`, for what SAELens' layout cannot say.

`saedsl.json` is `{"format": "saedsl.dictionary", "version": 1, "config": {...}}`: the fields of `DictionaryConfig`,
sites as their text. Tensors are named and shaped as `DictionaryConfig.weight_shapes` says. A version is raised when
what an older reader would do with the file is wrong; fields that it does not know are refused in any case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from saedsl.errors import SAEError
from saedsl.sae.config import DictionaryConfig, config_to_json
from saedsl.sae.formats.tensors import DType, check_finite, load_arrays, write_dictionary
from saedsl.sae.header import SAEInfo
from saedsl.sae.statistics import Statistics
from saedsl.sae.tensorfile import AGAIN, Stamp, TensorInfo, read_header
from saedsl.sites import Site

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np

NAME: Final = "saedsl"
CONFIG: Final = "saedsl.json"
WEIGHTS: Final = "weights.safetensors"
FORMAT: Final = "saedsl.dictionary"
VERSION: Final = 1
FLOATS: Final = ("F32", "F16", "BF16", "F64")

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "d_in": (int,), "d_sae": (int,), "d_out": (int,), "activation": (str,), "k": (int, type(None)), "kind": (str,),
    "input_site": (str, type(None)), "output_site": (str, type(None)), "normalize_activations": (str,),
    "apply_b_dec_to_input": (bool,), "skip": (bool,), "model_name": (str, type(None)),
    "hook_name": (str, type(None)), "hook_name_out": (str, type(None)), "context_size": (int, type(None)),
    "trained_on_bos": (bool,), "input_sites": (list,), "output_sites": (list,), "prefixes": (list,),
    "center_input": (bool,), "metadata": (list,),
}  # fmt: skip
"""The JSON types of every field of a config; true and false are no numbers."""


def matches(path: Path) -> bool:
    """Whether `path` is a `saedsl.json`, the weights beside one, or a folder that holds one."""
    folder = path.parent if path.is_file() and path.name in (CONFIG, WEIGHTS) else path
    return (folder / CONFIG).is_file()


def read_info(path: Path) -> SAEInfo:
    """Describe the dictionary in the folder `path`, or whose `saedsl.json` it is; no weight is read.

    Raises:
        SAEError: if a file is missing or damaged, is of a newer version, or config and tensors contradict one another.
    """
    folder = path.parent if path.is_file() else path
    weights = folder / WEIGHTS
    config = config_of(_read_json(folder / CONFIG), folder / CONFIG)
    if not weights.is_file():
        raise SAEError(f"{folder}: {WEIGHTS} is missing beside {CONFIG}; {AGAIN}")
    stamp = Stamp.of(weights)
    tensors = read_header(weights)
    check_tensors(config, tensors, weights)
    return SAEInfo(config, tuple(tensors[name] for name in sorted(tensors)), NAME, folder, stamp)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """The weights of the described dictionary, float32.

    Raises:
        SAEError: if a weight is not finite, or the file is not the one described.
    """
    assert info.weights is not None
    weights = load_arrays(info.weights)
    check_finite(weights, info.weights.path)
    return weights


def write(
    folder: Path,
    config: DictionaryConfig,
    weights: Mapping[str, np.ndarray],
    dtype: DType = "float32",
    statistics: Statistics | None = None,
) -> None:
    """Write a dictionary to `folder`, whole or not at all; see `write_dictionary`."""
    values = {"format": FORMAT, "version": VERSION, "config": config_to_json(config)}
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    write_dictionary(folder, (CONFIG, text), WEIGHTS, weights, dtype, statistics)


def config_of(raw: Any, path: Path) -> DictionaryConfig:
    """The config that the content of the `saedsl.json` at `path` means.

    Raises:
        SAEError: if it is of a newer version, says something unknown, or contradicts itself.
    """
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or type(raw.get("version")) is not int:
        raise SAEError(f"{path}: not the config of a dictionary (its format is not {FORMAT!r}); {AGAIN}")
    if raw["version"] > VERSION:
        newer = f"written by a newer saedsl (format {raw['version']}, this one reads {VERSION}); update it"
        raise SAEError(f"{path}: {newer}")
    values = raw.get("config")
    if raw["version"] < 1 or not isinstance(values, dict):
        raise SAEError(f"{path}: damaged: it holds no config; {AGAIN}")
    unknown = sorted(set(values) - {f.name for f in fields(DictionaryConfig)})
    if unknown:
        raise SAEError(f"{path}: says {unknown[0]}, which this saedsl does not know; update it")
    for name, value in values.items():
        if type(value) not in _TYPES[name]:
            raise SAEError(f"{path}: damaged: {name} is {json.dumps(value)[:40]}; {AGAIN}")
    missing = [name for name in ("d_in", "d_sae", "d_out") if name not in values]
    if missing:
        raise SAEError(f"{path}: damaged: it has no {missing[0]}; {AGAIN}")
    try:
        return DictionaryConfig(**_parsed(values))
    except (ValueError, TypeError, SAEError) as error:
        raise SAEError(f"{path}: {error}") from None


def check_tensors(config: DictionaryConfig, tensors: Mapping[str, TensorInfo], path: Path) -> None:
    """Raise SAEError if the tensors of the file `path` are not exactly those of `config`."""
    for name, shape in config.weight_shapes.items():
        if name not in tensors:
            raise SAEError(f"{path}: has no {name}, which a {config.activation} {config.kind} needs")
        if tensors[name].shape != shape:
            raise SAEError(f"{path}: has {name} of shape {list(tensors[name].shape)}; {CONFIG} implies {list(shape)}")
        if tensors[name].dtype not in FLOATS:
            raise SAEError(f"{path}: has {name} of type {tensors[name].dtype}; floating point is expected")
    surplus = sorted(set(tensors) - set(config.weight_shapes))
    if surplus:
        raise SAEError(f"{path}: has {surplus[0]}, which a {config.activation} {config.kind} does not use")


def _parsed(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values as the fields of a config."""
    parsed = dict(values)
    for name in ("input_site", "output_site"):
        if parsed.get(name) is not None:
            parsed[name] = Site.parse(parsed[name])
    for name in ("input_sites", "output_sites"):
        parsed[name] = tuple(Site.parse(text) for text in parsed.get(name, ()))
    parsed["prefixes"] = tuple(parsed.get("prefixes", ()))
    pairs = [tuple(pair) for pair in parsed.get("metadata", ())]
    if not all(len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str) for pair in pairs):
        raise ValueError("damaged: metadata is no list of keys with their JSON text")
    for _, text in pairs:
        json.loads(text)
    parsed["metadata"] = tuple(pairs)
    return parsed


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SAEError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise SAEError(f"{path}: not JSON{where}; {AGAIN}") from None
