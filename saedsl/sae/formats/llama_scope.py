"""Llama Scope's folders: `hyperparams.json` + `checkpoints/final.safetensors` (arXiv:2410.20526).

Source: https://github.com/OpenMOSS/Language-Model-SAEs. Activations are scaled to norm sqrt(d) on average, of the input
by s_in and of the output by s_out, s = sqrt(d) / average norm. With row vectors,

    h = (x * s_in) E^T + e,   f = h * 1[h > t_i],   x^ = (f D^T + d) / s_out

**The scale of the threshold.** `jump_relu_threshold` T is compared, in that package, after the average norms have been
folded into the weights and each feature has been multiplied by its decoder's length, so with what the feature writes
to the output in the model's own units: h * ||D_i|| / s_out > T, that is t_i = T * s_out / ||D_i||. The published
numbers bear that out: T * s_out is about 2 throughout (0.202 * 10.1 of L8R-8x, 0.330 * 5.92 of L15R-32x, 0.527 * 3.74
of L19R-8x, and of the transcoder L8TC-8x 0.104 * 18.9, where T * s_in would be 0.104). SAELens takes t = T * s_in,
which is the same for SAEs with decoders of unit length. Where `sparsity_include_decoder_norm` is false, the package
compares h / s_in with T, and so t = T * s_in.

A transcoder's input is TransformerLens' `ln2.hook_normalized`, see `saedsl.sae.formats.places`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from saedsl.errors import SAEError
from saedsl.sae.config import Activation
from saedsl.sae.formats.places import Reading, reading_of
from saedsl.sae.formats.reading import check_shapes, configured, described, kept, load, read_json, tensors_of, value_of
from saedsl.sae.header import SAEInfo
from saedsl.sae.hooknames import site_of_hook
from saedsl.sae.tensorfile import AGAIN

if TYPE_CHECKING:
    import mlx.core as mx

NAME: Final = "llama_scope"
CONFIG: Final = "hyperparams.json"
WEIGHTS: Final = ("checkpoints/final.safetensors", "final.safetensors")
NEVER: Final = 3e38
"""The threshold of a feature that writes nothing."""
_MODELS: Final = {"Llama3_1-8B-Base": "meta-llama/Llama-3.1-8B"}
"""How folders are named -> the model."""
_NUMBER: Final = (int, float)


@dataclass(frozen=True)
class Scales:
    """What the numbers of `hyperparams.json` mean for the weights."""

    activation: Activation
    by_token: bool
    """Whether each token is scaled to norm sqrt(d), instead of all by one number."""
    s_in: float
    s_out: float
    threshold: float
    by_decoder: bool
    """Whether features are compared by what they write."""
    subtracts: bool
    """Whether the decoder's bias is subtracted from the scaled input."""


def matches(path: Path) -> bool:
    """Whether `path` is a folder with a `hyperparams.json`, that file, or the weights beside it."""
    folder = _folder(path)
    return (folder / CONFIG).is_file()


def read_info(path: Path) -> SAEInfo:
    """Describe the dictionary; no weight is read.

    Raises:
        SAEError: if a file is damaged, they contradict one another, or it needs what saedsl does not compute.
    """
    folder = _folder(path)
    where = folder / CONFIG
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise SAEError(f"{folder}: {WEIGHTS[0]} is missing beside {CONFIG}; {AGAIN}")
    raw = read_json(where)
    d, n = value_of(raw, "d_model", (int,), where), _width(raw, where)
    scales = _scales(raw, where)
    hook_in = value_of(raw, "hook_point_in", (str,), where)
    hook_out = value_of(raw, "hook_point_out", (str,), where, hook_in)
    transcodes = hook_in != hook_out
    reading = reading_of(hook_in) if transcodes else Reading(site_of_hook(hook_in))
    if scales.by_token and transcodes:
        raise SAEError(f"{where}: a transcoder with norm_activation 'token-wise', which saedsl does not compute")
    k = value_of(raw, "top_k", (int,), where) if scales.activation == "topk" else None
    config = configured(
        where,
        d_in=d,
        d_sae=n,
        d_out=d,
        activation=scales.activation,
        k=k,
        kind="transcoder" if transcodes else "sae",
        input_site=reading.site,
        output_site=site_of_hook(hook_out) if transcodes else reading.site,
        normalize_activations="constant_norm_rescale" if scales.by_token else reading.normalize,
        apply_b_dec_to_input=False,
        model_name=next((m for part, m in _MODELS.items() if part in folder.absolute().name), None),
        hook_name=hook_in if reading.site is None else None,
        hook_name_out=hook_out if transcodes and site_of_hook(hook_out) is None else None,
        metadata=kept(NAME, raw),
    )
    tensors = tensors_of(weights)
    bias = {"decoder.bias": (d,)} if value_of(raw, "use_decoder_bias", (bool,), where, True) else {}
    shapes = {"encoder.weight": (n, d), "encoder.bias": (n,), "decoder.weight": (d, n), **bias}
    check_shapes(tensors, shapes, weights)
    return described(config, tensors, NAME, folder, weights)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """Its weights, scales folded and the threshold on the scale of h.

    Raises:
        SAEError: if a weight is not finite, or the file is not the one described.
    """
    import mlx.core as mx

    assert info.path is not None
    assert info.weights is not None
    scales = _scales(read_json(info.path / CONFIG), info.path / CONFIG)
    stored = load(info.weights, frozenset(tensor.name for tensor in info.tensors))
    encoder, b_enc, decoder = stored["encoder.weight"].T, stored["encoder.bias"], stored["decoder.weight"].T
    b_dec = stored.get("decoder.bias", mx.zeros(info.d_out))
    norms = mx.sqrt(mx.sum(mx.square(decoder), axis=1))
    if scales.subtracts:
        b_enc = b_enc - b_dec @ encoder
    weights = {"W_enc": encoder * scales.s_in, "b_enc": b_enc}
    weights |= {"W_dec": decoder / scales.s_out, "b_dec": b_dec / scales.s_out}
    if scales.activation == "jumprelu" and scales.by_decoder:
        weights["threshold"] = mx.minimum(mx.where(norms > 0, scales.threshold * scales.s_out / norms, NEVER), NEVER)
    elif scales.activation == "jumprelu":
        weights["threshold"] = mx.full((info.d_sae,), scales.threshold * scales.s_in)
    elif scales.activation == "topk" and scales.by_decoder:  # the largest are those that write most
        norms = mx.where(norms > 0, norms, 1)
        weights |= {name: weights[name] * norms for name in ("W_enc", "b_enc")}
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
    return weights


def _folder(path: Path) -> Path:
    if not path.is_file():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _width(raw: Mapping[str, Any], where: Path) -> int:
    if raw.get("d_sae") is not None:
        return int(value_of(raw, "d_sae", (int,), where))
    return int(value_of(raw, "d_model", (int,), where) * value_of(raw, "expansion_factor", (int,), where))


def _scales(raw: Mapping[str, Any], where: Path) -> Scales:
    """The numbers, checked."""
    if value_of(raw, "use_glu_encoder", (bool,), where, False):
        raise SAEError(f"{where}: has use_glu_encoder, which saedsl does not compute")
    norm = value_of(raw, "norm_activation", (str,), where, "dataset-wise")
    if norm not in ("dataset-wise", "token-wise", "inference"):
        raise SAEError(f"{where}: has norm_activation {norm[:40]!r}; saedsl reads dataset-wise, token-wise, inference")
    threshold = value_of(raw, "jump_relu_threshold", _NUMBER, where, 0.0)
    if not 0 <= threshold < NEVER:
        raise SAEError(f"{where}: has jump_relu_threshold = {threshold}; a number not below 0 is expected")
    act = value_of(raw, "act_fn", (str,), where, "jumprelu")
    if act == "topk" and threshold > 0:  # what the package itself does for inference
        act = "jumprelu"
    if act not in ("relu", "topk", "jumprelu"):
        raise SAEError(f"{where}: has act_fn {act[:40]!r}; saedsl reads relu, topk and jumprelu")
    s_in = s_out = 1.0
    if norm == "dataset-wise":
        norms = value_of(raw, "dataset_average_activation_norm", (dict,), where)
        root = sqrt(max(value_of(raw, "d_model", (int,), where), 0))
        s_in, s_out = (root / _positive(norms, side, where) for side in ("in", "out"))
    return Scales(
        activation=cast("Activation", act),
        by_token=norm == "token-wise",
        s_in=s_in,
        s_out=s_out,
        threshold=float(threshold),
        by_decoder=value_of(raw, "sparsity_include_decoder_norm", (bool,), where, True),
        subtracts=value_of(raw, "apply_decoder_bias_to_pre_encoder", (bool,), where, False),
    )


def _positive(norms: Mapping[str, Any], side: str, where: Path) -> float:
    value = value_of(norms, side, _NUMBER, where)
    try:
        number = float(value)
    except OverflowError:
        number = 0.0
    if not (isfinite(number) and 1e-30 < number < 1e30):
        raise SAEError(f"{where}: has dataset_average_activation_norm.{side} = {str(value)[:20]}; a norm is positive")
    return number
