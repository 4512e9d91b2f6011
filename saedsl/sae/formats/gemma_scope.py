"""Gemma Scope (`layer_20/width_16k/average_l0_71/params.npz`) and Gemma Scope 2 (`params.safetensors`).

Sources: arXiv:2408.05147 and the cards of google/gemma-scope*; https://huggingface.co/google/gemma-scope-2. JumpReLU:
with p = x W_enc + b_enc, f = p * 1[p > threshold], x^ = f W_dec + b_dec; b_dec is not subtracted from x.

* The first release says model and site in its path alone: `gemma-scope-2b-pt-res` is `resid_post`, `-mlp` what the MLP
  adds to the residual stream (behind Gemma's post-norm), `-att` the heads' outputs. Its transcoders read just behind
  the norm before the MLP with that norm's gain folded away (page 18 of the paper), see `saedsl.sae.formats.places`.
  Dictionaries of embeddings were trained before Gemma scales these by sqrt(d); they are scaled to our `embed`.
* The second release writes its names in lower case, has a `config.json` in most folders, and transcoders with
  `affine_skip_connection` A: x^ + x A. Cross-layer transcoders are a folder with one file a layer, W_dec [F, L, d].
"""

from __future__ import annotations

import re
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from saedsl.errors import SAEError
from saedsl.sae.formats.cross_layer import Layer, clt_weights
from saedsl.sae.formats.places import site_of_hf_point
from saedsl.sae.formats.reading import (
    check_shapes,
    configured,
    described,
    has_tensors,
    kept,
    load,
    only_file,
    read_json,
    shape_of,
    tensors_of,
    value_of,
)  # fmt: skip
from saedsl.sae.header import SAEInfo
from saedsl.sae.tensorfile import Stamp
from saedsl.sites import Site

if TYPE_CHECKING:
    import mlx.core as mx

    from saedsl.sae.config import Normalization

NAME: Final = "gemma_scope"
CONFIG: Final = "config.json"
CONTEXT: Final = 1024
"""Tokens per training context of the first release."""
_UPPER: Final = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
_LOWER: Final = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
_SKIP: Final = "affine_skip_connection"
_MODEL: Final = re.compile(r"gemma-scope-(?P<size>\d+b)-(?P<tuned>pt|it)-(?P<kind>res|mlp|att|transcoders)")
_MODEL_2: Final = re.compile(r"gemma-scope-2-(?P<size>\d+[mb])-(?P<tuned>pt|it)")
_LAYER: Final = re.compile(r"layer_(\d{1,9})", re.ASCII)
_PLACES: Final = {"res": "resid_post", "mlp": "mlp", "att": "attn.z", "transcoders": "mlp"}
_PLACES_2: Final = {"resid_post": "resid_post", "attn_out": "attn.z", "mlp_out": "mlp"}


class Place(NamedTuple):
    """Where a dictionary reads and writes, of which model."""

    model: str | None
    read: Site | None
    written: Site | None
    transcodes: bool = False
    normalize: Normalization = "none"


def matches(path: Path) -> bool:
    """Whether `path` is such a file, a folder with one, or the folder of a cross-layer transcoder."""
    if path.is_file():
        names = _UPPER if path.suffix == ".npz" else _LOWER
        return path.suffix in (".npz", ".safetensors") and has_tensors(path, *names[:1], *names[2:])
    return any((path / name).is_file() for name in ("params.npz", "params.safetensors")) or bool(_layers(path))


def read_info(path: Path) -> SAEInfo:
    """Describe the dictionary; no weight is read.

    Raises:
        SAEError: if a file is damaged, or path, config and tensors contradict one another.
    """
    layers = _layers(path)
    if layers:
        return _read_cross_layer(path, layers)
    single = [file for name in ("params.npz", "params.safetensors") if (file := path / name).is_file()]
    file = only_file(path, single, "dictionaries of Gemma Scope")
    tensors = tensors_of(file)
    if file.suffix == ".npz" and "W_enc" not in tensors and "w_enc" in tensors:
        raise SAEError(f"{file}: names its tensors as Gemma Scope 2, which comes as safetensors; convert it")
    first = file.suffix == ".npz"
    W_enc, b_enc, W_dec, b_dec, threshold = _UPPER if first else _LOWER
    d, n = shape_of(tensors, W_enc, 2, file)
    if len(tensors[W_dec].shape if W_dec in tensors else ()) == 3:
        raise SAEError(f"{file}: one layer of a cross-layer transcoder; name the folder with all of its layers")
    d_out = shape_of(tensors, W_dec, 2, file)[1]
    raw = _raw(file)
    place = _place(file) if first else _place_2(file, raw)
    skips = _SKIP in tensors
    if skips and not place.transcodes:
        place = place._replace(transcodes=True)
    shapes = {W_enc: (d, n), b_enc: (n,), W_dec: (n, d_out), b_dec: (d_out,), threshold: (n,)}
    check_shapes(tensors, {**shapes, **({_SKIP: (d, d_out)} if skips else {})}, file)
    if raw.get("affine_connection") is True and not skips:
        raise SAEError(f"{file.with_name(CONFIG)}: says affine_connection, but {file.name} has no {_SKIP}")
    config = configured(
        file,
        d_in=d,
        d_sae=n,
        d_out=d_out,
        activation="jumprelu",
        kind="transcoder" if place.transcodes else "sae",
        input_site=place.read,
        output_site=place.written,
        normalize_activations=place.normalize,
        apply_b_dec_to_input=False,
        skip=skips,
        model_name=place.model,
        context_size=CONTEXT if first else None,
        metadata=kept(NAME, raw),
    )
    return described(config, tensors, NAME, path, file)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """Its weights.

    Raises:
        SAEError: if a weight is not finite, or the file is not the one described.
    """
    assert info.path is not None
    assert info.weights is not None
    if info.config.kind == "clt":
        return clt_weights(info, [_layer(file) for file in _layers(info.path)])
    stored = load(info.weights, frozenset(tensor.name for tensor in info.tensors))
    names = _LOWER if "w_enc" in stored else _UPPER
    weights = {ours: stored[theirs] for ours, theirs in zip(_UPPER, names, strict=True)}
    if _SKIP in stored:
        weights["W_skip"] = stored[_SKIP].T
    if "embedding" in info.weights.path.parts and names is _UPPER:
        root = sqrt(info.d_in)
        weights |= {name: weights[name] * root for name in ("W_dec", "b_dec")}
        weights["W_enc"] = weights["W_enc"] / root
    return weights


def _raw(file: Path) -> dict[str, Any]:
    """What `config.json` beside the file says, if there is one."""
    where = file.with_name(CONFIG)
    raw = read_json(where) if where.is_file() else {}
    if value_of(raw, "architecture", (str,), where, "jump_relu") != "jump_relu":
        raise SAEError(f"{where}: has architecture {raw['architecture'][:40]!r}; Gemma Scope has jump_relu")
    return raw


def _place(file: Path) -> Place:
    """As the path of a dictionary of the first release says it."""
    path = str(file.absolute())
    found = _MODEL.search(path)
    layer = _LAYER.search(path)
    model = f"google/gemma-2-{found['size']}{'-it' * (found['tuned'] == 'it')}" if found else None
    if "embedding" in file.parts:
        return Place(model, Site(None, "embed"), Site(None, "embed"))
    if found is None or layer is None:
        return Place(model, None, None, "transcoder" in path)
    site = Site(int(layer[1]), _PLACES[found["kind"]])
    if found["kind"] == "transcoders":
        return Place(model, Site(int(layer[1]), "resid_mid"), site, True, "constant_norm_rescale")
    return Place(model, site, site)


def _place_2(file: Path, raw: dict[str, Any]) -> Place:
    """As `config.json` says it, else the path."""
    where, path = file.with_name(CONFIG), str(file.absolute())
    found = _MODEL_2.search(path)
    named = value_of(raw, "model_name", (str,), where, "")
    guessed = f"google/gemma-3-{found['size']}-{found['tuned']}" if found else None
    model = named or guessed
    read = value_of(raw, "hf_hook_point_in", (str,), where, "") or None
    written = value_of(raw, "hf_hook_point_out", (str,), where, "") or read
    if read is not None:
        return Place(model, site_of_hf_point(read), site_of_hf_point(written), written != read)
    match = _LAYER.search(path)
    layer = int(match[1]) if match else None
    if "transcoder" in path:
        if layer is None:
            return Place(model, None, None, True)
        return Place(model, Site(layer, "mlp.in"), Site(layer, "mlp"), True)
    component = next((c for part, c in _PLACES_2.items() if part in path), None)
    site = Site(layer, component) if layer is not None and component is not None else None
    return Place(model, site, site)


def _layers(folder: Path) -> list[Path]:
    """The files of a cross-layer transcoder, by layer."""
    if not folder.is_dir():
        return []
    files = {int(m[1]): file for file in folder.glob("*layer_*.safetensors") if (m := _LAYER.search(file.stem))}
    ordered = [files[layer] for layer in sorted(files)]
    whole = next((file for file in ordered if has_tensors(file, "w_enc", "w_dec")), None)
    return ordered if whole is not None and len(tensors_of(whole)["w_dec"].shape) == 3 else []


def _layer(file: Path) -> Layer:
    """How one layer is stored."""
    names = {"W_enc": "w_enc", "b_enc": "b_enc", "W_dec": "w_dec", "b_dec": "b_dec", "threshold": "threshold"}
    skip = {"W_skip": _SKIP} if _SKIP in tensors_of(file) else {}
    return Layer(Stamp.of(file), Stamp.of(file), {**names, **skip}, encoder_by_input=True, whole_decoder=True)


def _read_cross_layer(folder: Path, files: list[Path]) -> SAEInfo:
    tensors = tensors_of(files[0])
    d, n = shape_of(tensors, "w_enc", 2, files[0])
    _, count, _ = shape_of(tensors, "w_dec", 3, files[0])
    numbers = [int(_LAYER.findall(file.stem)[0]) for file in files]
    if numbers != list(range(count)):
        raise SAEError(f"{folder}: has the layers {numbers[:8]} of a cross-layer transcoder of {count}; download all")
    skips = _SKIP in tensors
    shapes = {"w_enc": (d, n), "b_enc": (n,), "w_dec": (n, count, d), "b_dec": (d,), "threshold": (n,)}
    for file in files:
        check_shapes(tensors_of(file), {**shapes, **({_SKIP: (d, d)} if skips else {})}, file)
    raw = _raw(files[0])
    config = configured(
        folder,
        d_in=d * count,
        d_sae=n * count,
        d_out=d * count,
        activation="jumprelu",
        kind="clt",
        apply_b_dec_to_input=False,
        skip=skips,
        input_sites=tuple(Site(layer, "mlp.in") for layer in range(count)),
        output_sites=tuple(Site(layer, "mlp") for layer in range(count)),
        model_name=_place_2(files[0], {**raw, "hf_hook_point_in": None}).model,
        metadata=kept(NAME, raw),
    )
    return described(config, tensors, NAME, folder, files[0])
