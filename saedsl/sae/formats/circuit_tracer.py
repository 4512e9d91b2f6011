"""circuit-tracer's transcoders: `layer_N.safetensors`, one a layer, or cross-layer ones in `W_enc_N`, `W_dec_N`.

Source: https://github.com/safety-research/circuit-tracer, `circuit_tracer/transcoder`. W_enc [F, d], W_dec [F, d],
p = x W_enc^T + b_enc; f = relu(p), or p * 1[p > threshold] where there is a threshold, or TopK where there is a k;
x^ = f W_dec + b_dec [+ x W_skip^T]. Older files hold a matrix transposed: b_enc and b_dec tell by their lengths.
Cross-layer: W_dec_N [F, L - N, d] writes layer N and all later ones. The hooks are in a `config.yaml` beside; without
one a cross-layer transcoder has circuit-tracer's defaults, and a single layer does not know its sites.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from saedsl.errors import SAEError
from saedsl.sae.config import Activation
from saedsl.sae.formats.cross_layer import Layer, clt_weights
from saedsl.sae.formats.places import Reading, reading_of
from saedsl.sae.formats.reading import (
    Tensors,
    check_shapes,
    configured,
    described,
    has_tensors,
    kept,
    load,
    only_file,
    shape_of,
    tensors_of,
    value_of,
)  # fmt: skip
from saedsl.sae.header import SAEInfo
from saedsl.sae.hooknames import site_of_hook
from saedsl.sae.tensorfile import Stamp
from saedsl.sites import Site

if TYPE_CHECKING:
    import mlx.core as mx

NAME: Final = "circuit_tracer"
CONFIG: Final = "config.yaml"
HOOKS: Final = ("hook_resid_mid", "hook_mlp_out")
"""circuit-tracer's defaults for cross-layer transcoders."""
_FILE: Final = re.compile(r"(?:.*_)?(\d{1,9})\.safetensors", re.ASCII)
_ENCODER: Final = re.compile(r"W_enc_(\d{1,9})\.safetensors", re.ASCII)
_NAMES: Final = ("W_enc", "b_enc", "W_dec", "b_dec")
_THRESHOLDS: Final = ("activation_function.threshold", "threshold")
_KEPT: Final = ("model_name", "model_kind", "feature_input_hook", "feature_output_hook", "scan", "activation", "k")


def matches(path: Path) -> bool:
    """Whether `path` is a transcoder of one layer, a folder with some, or that of a cross-layer transcoder."""
    if path.is_file():
        return path.suffix == ".safetensors" and has_tensors(path, *_NAMES)
    return bool(_encoders(path) or _files(path))


def read_info(path: Path) -> SAEInfo:
    """Describe the transcoder; no weight is read, but the k of TopK.

    Raises:
        SAEError: if a file is damaged or missing, or config and tensors contradict one another.
    """
    encoders = _encoders(path)
    return _read_cross_layer(path, encoders) if encoders else _read_layer(path)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """Its weights.

    Raises:
        SAEError: if a weight is not finite, or a file is not the one described.
    """
    assert info.path is not None
    assert info.weights is not None
    if info.config.kind == "clt":
        return clt_weights(info, [_layer(file, n) for n, file in sorted(_encoders(info.path).items())])
    stored = load(info.weights, frozenset(tensor.name for tensor in info.tensors))
    weights: dict[str, mx.array] = {name: stored[name] for name in (*_NAMES, "W_skip") if name in stored}
    n, d = info.d_sae, info.d_in
    if weights["W_enc"].shape == (n, d):
        weights["W_enc"] = weights["W_enc"].T
    if weights["W_dec"].shape != (n, info.d_out):
        weights["W_dec"] = weights["W_dec"].T
    if info.config.has_threshold:
        weights["threshold"] = stored[_threshold(stored)].reshape(n)
    return weights


def _read_layer(path: Path) -> SAEInfo:
    """One layer's transcoder."""
    file = only_file(path, _files(path), "transcoders of single layers")
    tensors = tensors_of(file)
    (n,), (d,) = shape_of(tensors, "b_enc", 1, file), shape_of(tensors, "b_dec", 1, file)
    expected: dict[str, tuple[int, ...]] = {"b_enc": (n,), "b_dec": (d,)}
    for name in ("W_enc", "W_dec"):
        found = shape_of(tensors, name, 2, file)
        expected[name] = found if sorted(found) == sorted((n, d)) else (n, d)
    skips = "W_skip" in tensors
    if skips:
        expected["W_skip"] = (d, d)
    where = file.with_name(CONFIG)
    raw = _yaml(where)
    activation, k = _activation(tensors, raw, where, file)
    if activation == "jumprelu":
        name = _threshold(tensors)
        expected[name] = (1, n) if tensors[name].shape == (1, n) else (n,)
    check_shapes(tensors, expected, file, frozenset({"k"}))
    number = _FILE.fullmatch(file.name)
    reading, written = _places(raw, where, int(number[1]) if number else None)
    config = configured(
        file,
        d_in=d,
        d_sae=n,
        d_out=d,
        activation=activation,
        k=k,
        kind="transcoder",
        input_site=reading.site,
        output_site=written,
        normalize_activations=reading.normalize,
        apply_b_dec_to_input=False,
        skip=skips,
        model_name=value_of(raw, "model_name", (str,), where, "") or None,
        metadata=kept(NAME, {key: raw[key] for key in _KEPT if key in raw}),
    )
    return described(config, tensors, NAME, path, file)


def _threshold(tensors: Any) -> str:
    return next(name for name in _THRESHOLDS if name in tensors)


def _activation(tensors: Tensors, raw: dict[str, Any], where: Path, file: Path) -> tuple[Activation, int | None]:
    """As the tensors say it, and the config where they do not."""
    named = value_of(raw, "activation", (str,), where, "")
    if "k" in tensors or named == "topk":
        k = value_of(raw, "k", (int,), where, -1)
        if "k" in tensors:
            stored = _scalar(file, tensors)
            if k not in (-1, stored):
                raise SAEError(f"{where}: says k = {k}, but {file.name} says {stored}")
            k = stored
        if k < 1:
            raise SAEError(f"{where}: has activation topk but no k; write k: and how many features a token keeps")
        return "topk", k
    if any(name in tensors for name in _THRESHOLDS):
        return "jumprelu", None
    if named not in ("", "relu"):
        raise SAEError(f"{where}: has activation {named[:40]!r}, but {file.name} has no threshold; download it again")
    return "relu", None


def _scalar(file: Path, tensors: Tensors) -> int:
    """The whole number `k` of a safetensors file whose header has been checked."""
    if tensors["k"].shape not in ((), (1,)) or tensors["k"].dtype not in ("I64", "I32"):
        raise SAEError(f"{file}: k is no whole number")
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        begin, end = json.loads(content.read(length))["k"]["data_offsets"]
        content.seek(8 + length + begin)
        return int.from_bytes(content.read(end - begin), "little", signed=True)


def _places(raw: dict[str, Any], where: Path, layer: int | None) -> tuple[Reading, Site | None]:
    """Where layer `layer` reads and writes, as the config says it."""
    hooks = [value_of(raw, f"feature_{side}_hook", (str,), where, "") for side in ("input", "output")]
    if layer is None:
        return Reading(None), None
    read, written = (f"blocks.{layer}.{hook}" if hook else None for hook in hooks)
    return reading_of(read), None if written is None else site_of_hook(written)


def _yaml(where: Path) -> dict[str, Any]:
    """The mapping in `config.yaml`, {} without one."""
    import yaml  # type: ignore[import-untyped]

    if not where.is_file():
        return {}
    try:
        values = yaml.safe_load(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise SAEError(f"{where}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SAEError(f"{where}: not YAML ({str(error).splitlines()[0][:80]}); download or copy it again") from None
    if not isinstance(values, dict):
        raise SAEError(f"{where}: a mapping is expected, not {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("layer_*.safetensors")) if folder.is_dir() else []


def _encoders(folder: Path) -> dict[int, Path]:
    """The encoders of a cross-layer transcoder, by layer."""
    if not folder.is_dir():
        return {}
    return {int(m[1]): file for file in folder.glob("W_enc_*.safetensors") if (m := _ENCODER.fullmatch(file.name))}


def _layer(file: Path, number: int) -> Layer:
    """How one layer of a cross-layer transcoder is stored."""
    threshold = {"threshold": f"threshold_{number}"} if f"threshold_{number}" in tensors_of(file) else {}
    names = {name: f"{name}_{number}" for name in _NAMES} | threshold
    decoder = file.with_name(f"W_dec_{number}.safetensors")
    return Layer(Stamp.of(file), Stamp.of(decoder), names, encoder_by_input=False, whole_decoder=False)


def _read_cross_layer(folder: Path, encoders: dict[int, Path]) -> SAEInfo:
    """A cross-layer transcoder, all of whose layers must be there."""
    count = len(encoders)
    missing = [n for n in range(count) if n not in encoders or not (folder / f"W_dec_{n}.safetensors").is_file()]
    if missing:
        raise SAEError(f"{folder}: layer {missing[0]} of a cross-layer transcoder is missing; download all its files")
    first = tensors_of(encoders[0])
    n, d = shape_of(first, "W_enc_0", 2, encoders[0])
    jumps = "threshold_0" in first
    for number, file in sorted(encoders.items()):
        shapes = {"W_enc": (n, d), "b_enc": (n,), "b_dec": (d,), **({"threshold": (n,)} if jumps else {})}
        check_shapes(tensors_of(file), {f"{name}_{number}": shape for name, shape in shapes.items()}, file)
        decoder = folder / f"W_dec_{number}.safetensors"
        check_shapes(tensors_of(decoder), {f"W_dec_{number}": (n, count - number, d)}, decoder)
    where = folder / CONFIG
    raw = _yaml(where)
    hooks = {f"feature_{side}_hook": hook for side, hook in zip(("input", "output"), HOOKS, strict=True)}
    named = {**hooks, **{key: value for key, value in raw.items() if value is not None}}
    places = [_places(named, where, number) for number in range(count)]
    reads, writes = [reading.site for reading, _ in places], [written for _, written in places]
    if None in reads or None in writes or any(reading.normalize != "none" for reading, _ in places):
        raise SAEError(
            f"{where}: reads {named['feature_input_hook']} and writes {named['feature_output_hook']} of each layer; "
            "saedsl knows cross-layer transcoders that read hook_resid_mid or mlp.hook_in"
        )
    config = configured(
        folder,
        d_in=count * d,
        d_sae=count * n,
        d_out=count * d,
        activation="jumprelu" if jumps else "relu",
        kind="clt",
        apply_b_dec_to_input=False,
        input_sites=tuple(site for site in reads if site is not None),
        output_sites=tuple(site for site in writes if site is not None),
        model_name=value_of(raw, "model_name", (str,), where, "") or None,
        metadata=kept(NAME, {key: raw[key] for key in _KEPT if key in raw}),
    )
    return described(config, first, NAME, folder, encoders[0])
