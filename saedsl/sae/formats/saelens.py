"""SAELens folders: `cfg.json` + `sae_weights.safetensors` (version 6, and the flat configs before it).

Source: https://github.com/decoderesearch/SAELens, `sae_lens/saes` and `sae_lens/loading`, version 6.54.
Ours adds `metadata.saedsl` (what SAELens has no key for). The architectures `topk_transcoder` and
`topk_skip_transcoder`, which SAELens does not have, are read because saedsl wrote them before its own format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from saedsl.errors import SAEError
from saedsl.sae.config import Activation, DictionaryConfig, Normalization, freeze_metadata, thaw_metadata
from saedsl.sae.formats.saelens_options import centred, check_model_options
from saedsl.sae.formats.saelens_types import EITHER, OURS, TOP, check_types
from saedsl.sae.formats.tensors import WRITTEN, DType, check_finite, load_arrays, write_dictionary
from saedsl.sae.header import SAEInfo
from saedsl.sae.hooknames import hook_of_site, site_of_hook
from saedsl.sae.statistics import Statistics
from saedsl.sae.tensorfile import Stamp, TensorInfo, read_header
from saedsl.sites import Site

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np

NAME: Final = "saelens"
CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
FILES: Final = WRITTEN
"""What saving may replace."""
VERSION: Final = 1
"""Of the `metadata.saedsl` entry."""

ARCHITECTURES: Final[dict[str, tuple[Activation, bool, bool]]] = {
    "standard": ("relu", False, False),
    "gated": ("gated", False, False),
    "topk": ("topk", False, False),
    "jumprelu": ("jumprelu", False, False),
    "batchtopk": ("batchtopk", False, False),
    "matryoshka_batchtopk": ("batchtopk", False, False),
    "transcoder": ("relu", True, False),
    "jumprelu_transcoder": ("jumprelu", True, False),
    "topk_transcoder": ("topk", True, False),
    "skip_transcoder": ("relu", True, True),
    "jumprelu_skip_transcoder": ("jumprelu", True, True),
    "topk_skip_transcoder": ("topk", True, True),
}
"""`architecture` -> activation, whether a transcoder, whether it has a skip connection."""
_OURS_ONLY: Final = ("topk_transcoder", "topk_skip_transcoder")
_TRAINING: Final = ("batchtopk", "matryoshka_batchtopk")
"""Not written: SAELens loads them for training only."""
_REFUSED: Final = {
    "temporal": "its features depend on the tokens before, which no dictionary of saedsl does",
    "matching_pursuit": "it encodes by an iteration, not by an activation function",
}

_RENAMED: Final = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
    "meta": "metadata",
}
"""Keys of configs before 6.0."""
_USED: Final = frozenset({
    "architecture", "d_in", "d_sae", "d_out", "k", "apply_b_dec_to_input", "normalize_activations",
    "metadata", "reshape_activations", "rescale_acts_by_decoder_norm", "norm_scaling_factor",
    "dtype", "device", "activation_fn", "activation_fn_kwargs",
    "model_name", "hook_name", "hook_name_out", "context_size", "saedsl", "matryoshka_widths",
})  # fmt: skip
"""Keys that a field of the config, or the weights, stand for; all others are kept as metadata."""
_AVERAGE: Final = (True, "expected_average_only_in")
"""`normalize_activations` by one number for all tokens, as it is written before and since 6.0."""
MAX_SCALE: Final = 1e30
"""Of that number: beyond it float32 weights overflow."""


def matches(path: Path) -> bool:
    """Whether `path` is SAELens' weights, or a folder with a SAELens config or weights."""
    return path.name == WEIGHTS if path.is_file() else any((path / name).is_file() for name in (CONFIG, WEIGHTS))


def read_info(folder: Path) -> SAEInfo:
    """Describe the dictionary in `folder`, or of which it is the weights' file; no weight is read.

    Raises:
        SAEError: if a file is missing or damaged, config and tensors contradict one another, or the
            dictionary needs something that we do not have.
    """
    folder = folder.parent if folder.is_file() else folder
    raw = _read_json(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        raise SAEError(f"{folder}: {WEIGHTS} is missing beside {CONFIG}; download or copy it too")
    stamp = Stamp.of(path)
    tensors = read_header(path)
    try:
        config = config_of(raw)
        _check_tensors(config, tensors, raw)
    except SAEError as error:
        raise SAEError(f"{folder}: {error}") from None
    return SAEInfo(config, tuple(tensors[name] for name in sorted(tensors)), NAME, folder, stamp)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """The weights of the described dictionary: float32, decoder norms and input scale folded.

    Raises:
        SAEError: if a weight is not finite, or the file is not the one described.
    """
    import mlx.core as mx

    assert info.path is not None
    assert info.weights is not None
    raw = _renamed(_read_json(info.path / CONFIG))
    stored = load_arrays(info.weights)
    # log 0 is a threshold like any other
    check_finite({name: value for name, value in stored.items() if name != "log_threshold"}, info.weights.path)
    weights = {name: stored[name] for name in info.config.weight_shapes if name in stored}
    if "log_threshold" in stored:
        weights["threshold"] = mx.exp(stored["log_threshold"])
    if "topk_threshold" in stored:
        weights["threshold"] = mx.broadcast_to(stored["topk_threshold"].reshape(1), (info.d_sae,))
    if "threshold" in weights:
        weights["threshold"] = mx.maximum(weights["threshold"], 0)
    if "scaling_factor" in stored and not mx.all(stored["scaling_factor"] == 1).item():
        raise SAEError(f"{info.path}: its scaling_factor is not all ones, which saedsl does not apply")
    if raw.get("rescale_acts_by_decoder_norm"):
        norms = mx.sqrt(mx.sum(mx.square(weights["W_dec"]), axis=1))
        if not mx.all(norms > 0).item():
            raise SAEError(f"{info.path}: a decoder row is zero, so its norm cannot be folded")
        weights["W_enc"] = weights["W_enc"] * norms
        for name in ("b_enc", "b_gate", "b_mag"):
            if name in weights:
                weights[name] = weights[name] * norms
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
    if raw.get("normalize_activations") in _AVERAGE:
        scale = float(raw["norm_scaling_factor"])
        weights["W_enc"] = weights["W_enc"] * scale
        weights["W_dec"] = weights["W_dec"] / scale
        weights["b_dec"] = weights["b_dec"] / scale
    check_finite(weights, info.weights.path)
    return weights


def write(
    folder: Path,
    config: DictionaryConfig,
    weights: Mapping[str, np.ndarray],
    dtype: DType = "float32",
    statistics: Statistics | None = None,
) -> None:
    """Write a dictionary to `folder`, whole or not at all; see `write_dictionary`.

    Raises:
        SAEError: if SAELens cannot say it (see `lacks`), `folder` holds something else, or a weight does not fit in
            float16.
    """
    if (why := lacks(config)) is not None:
        raise SAEError(f"SAELens' layout cannot say {why}; write saedsl's own: format='native'")
    text = json.dumps(to_json(config, dtype), indent=2, sort_keys=True) + "\n"
    write_dictionary(folder, (CONFIG, text), WEIGHTS, weights, dtype, statistics)


def lacks(config: DictionaryConfig) -> str | None:
    """What SAELens cannot say or would compute otherwise, in words; None if it has all of `config`."""
    if config.several_sites:
        return "a crosscoder" if config.kind == "crosscoder" else "a cross-layer transcoder"
    if config.is_transcoder and _architecture(config) is None:
        return f"a {config.activation} transcoder"
    if config.is_transcoder and config.apply_b_dec_to_input:
        return "a transcoder that subtracts b_dec from its input"
    if config.center_input and not centred(config.input_site):
        return f"that each token loses its mean at {config.input_site or 'an unknown site'}"
    if config.center_input and config.is_transcoder:
        return "a transcoder whose input loses its mean"
    return None


def _architecture(config: DictionaryConfig) -> str | None:
    """SAELens' name of it, if it has one; a BatchTopK computes what a JumpReLU does."""
    stored: Activation = "jumprelu" if config.activation == "batchtopk" else config.activation
    wanted = (stored, config.is_transcoder, config.skip)
    return next((a for a, v in ARCHITECTURES.items() if v == wanted and a not in (*_OURS_ONLY, *_TRAINING)), None)


def to_json(config: DictionaryConfig, dtype: str) -> dict[str, Any]:
    """`config` as the content of `cfg.json`."""
    kept = thaw_metadata(config.metadata)
    # without its version SAELens takes the file for one from before 6.0 and drops the metadata
    added = {"sae_lens_version": "6.0.0", "prepend_bos": config.trained_on_bos}
    added = {key: value for key, value in added.items() if key not in kept}
    ours = {
        "format": VERSION,
        "added": sorted(added),
        "activation": config.activation,
        "k": config.k,
        "trained_on_bos": config.trained_on_bos,
        "input_site": None if config.input_site is None else str(config.input_site),
        "output_site": None if config.output_site is None else str(config.output_site),
    }
    if config.prefixes:
        ours["prefixes"] = list(config.prefixes)
    if config.center_input and "model_from_pretrained_kwargs" not in kept:
        added["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
        ours["added"] = sorted(added)
    metadata = {
        **added,
        **kept,
        "model_name": config.model_name,
        "hook_name": config.hook_name or _hook(config.input_site),
        "context_size": config.context_size,
        "saedsl": ours,
    }
    if config.is_transcoder:
        metadata["hook_name_out"] = config.hook_name_out or _hook(config.output_site)
    at_z = config.input_site is not None and config.input_site.component == "attn.z"
    out = {
        "architecture": _architecture(config),
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": config.apply_b_dec_to_input,
        "normalize_activations": config.normalize_activations,
        "reshape_activations": "hook_z" if at_z else "none",
        "metadata": metadata,
    }
    if config.is_transcoder:
        out["d_out"] = config.d_out
    if config.activation == "topk":
        out |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    return out


def config_of(raw: Mapping[str, Any]) -> DictionaryConfig:
    """The config that the content of a `cfg.json` means.

    Raises:
        SAEError: if it is incomplete, contradicts itself or needs what we do not have. No path is named.
    """
    raw = _renamed(raw)
    flat = {**{key: value for key, value in raw.items() if key != "metadata"}, **raw.get("metadata", {})}
    check_types(raw, TOP, "")
    check_types(flat, EITHER, "")
    architecture = raw.get("architecture", "standard")
    k = raw.get("k")
    if architecture in ("standard", "topk") and raw.get("activation_fn") == "topk":
        architecture, k = "topk", (raw.get("activation_fn_kwargs") or {}).get("k", k)
    elif raw.get("activation_fn", "relu") not in ("relu", "topk"):
        raise SAEError(f"{CONFIG} has activation_fn {raw['activation_fn']!r}, which saedsl does not compute")
    if architecture in _REFUSED:
        raise SAEError(f"{CONFIG} has architecture {architecture!r}: {_REFUSED[architecture]}")
    if architecture not in ARCHITECTURES:
        known = ", ".join(a for a in ARCHITECTURES if a not in _OURS_ONLY)
        raise SAEError(f"{CONFIG} has architecture {architecture!r}; saedsl reads {known}")
    activation, transcoder, skip = ARCHITECTURES[architecture]
    missing = [key for key in ("d_in", "d_sae", *(("d_out",) if transcoder else ())) if key not in raw]
    if missing:
        raise SAEError(f"{CONFIG} has no {' and no '.join(missing)}; it is not the config of a {architecture} SAE")
    ours = _ours(flat.get("saedsl"))
    if ours.get("activation") == "batchtopk" and activation == "jumprelu":
        activation, k = "batchtopk", ours.get("k")
    unkept = _USED | set(ours.get("added", ()))
    hook, hook_out = flat.get("hook_name"), flat.get("hook_name_out")
    whole = flat.get("hook_head_index") is None
    input_site = _site(ours.get("input_site"), hook if whole else None)
    output_site = _site(ours.get("output_site"), hook_out) if transcoder else input_site
    of_heads = None if whole or hook is None else site_of_hook(hook)
    places = (input_site or of_heads, output_site or of_heads)
    center = check_model_options(flat.get("model_from_pretrained_kwargs"), places)
    if center and transcoder:
        raise SAEError(
            "trained on a model loaded with center_writing_weights=True: a transcoder's input or output there differs "
            "from the model's own; saedsl does not support that"
        )
    prefixes = raw.get("matryoshka_widths") if architecture == "matryoshka_batchtopk" else ours.get("prefixes")
    return DictionaryConfig(
        d_in=raw["d_in"],
        d_sae=raw["d_sae"],
        d_out=raw["d_out"] if transcoder else raw["d_in"],
        activation=activation,
        k=k if activation in ("topk", "batchtopk") else None,
        kind="transcoder" if transcoder else "sae",
        input_site=input_site,
        output_site=output_site,
        normalize_activations=_normalization(raw),
        apply_b_dec_to_input=bool(raw.get("apply_b_dec_to_input", not transcoder)),
        skip=skip,
        model_name=flat.get("model_name"),
        hook_name=None if hook == _hook(input_site) else hook,
        hook_name_out=None if hook_out == _hook(output_site) or not transcoder else hook_out,
        context_size=flat.get("context_size"),
        trained_on_bos=bool(
            ours.get("trained_on_bos", flat.get("prepend_bos") and not flat.get("exclude_special_tokens"))
        ),
        prefixes=_prefixes(prefixes, raw["d_sae"]),
        center_input=center,
        metadata=freeze_metadata({key: value for key, value in flat.items() if key not in unkept}),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SAEError(f"{path.parent}: {CONFIG} is missing beside {WEIGHTS}; download or copy it too") from None
    except OSError as error:
        raise SAEError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise SAEError(f"{path}: not JSON{where}; download or copy it again") from None
    if not isinstance(raw, dict):
        raise SAEError(f"{path}: a JSON object is expected, not {type(raw).__name__}")
    for key in ("metadata", "meta"):
        if not isinstance(raw.get(key, {}), dict):
            raise SAEError(f"{path}: {key} must be a JSON object, not {type(raw[key]).__name__}")
    return raw


def _renamed(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(key, key): value for key, value in raw.items()}


def _ours(entry: object) -> dict[str, Any]:
    """`metadata.saedsl`, or nothing for a file that SAELens wrote."""
    if entry is None:
        return {}
    if not isinstance(entry, dict) or type(entry.get("format")) is not int:
        raise SAEError(f"{CONFIG} has a metadata.saedsl that is not ours; delete that entry")
    if entry["format"] > VERSION:
        raise SAEError(f"written by a newer saedsl (format {entry['format']}, this one reads {VERSION}); update it")
    check_types(entry, OURS, "metadata.saedsl.")
    if not all(isinstance(key, str) for key in entry.get("added", [])):
        raise SAEError(f"{CONFIG} has a metadata.saedsl.added that does not list names")
    return entry


def _prefixes(widths: Any, d_sae: Any) -> tuple[int, ...]:
    """Where nested dictionaries end; SAELens may leave the last one out, and one alone is no nesting."""
    if not widths:
        return ()
    if not all(type(width) is int for width in widths):
        raise SAEError(f"{CONFIG} has matryoshka_widths that are not whole numbers")
    ends = tuple(widths) if widths[-1] == d_sae else (*widths, d_sae)
    return ends if len(ends) > 1 else ()


def _site(text: str | None, hook_name: str | None) -> Site | None:
    """The site as we wrote it, else as the hook name says it."""
    if text is None:
        return None if hook_name is None else site_of_hook(hook_name)
    try:
        return Site.parse(text)
    except ValueError as error:
        raise SAEError(f"{CONFIG}, metadata.saedsl: {error}") from None


def _hook(site: Site | None) -> str | None:
    return None if site is None else hook_of_site(site)


def _normalization(raw: Mapping[str, Any]) -> Normalization:
    value = raw.get("normalize_activations") or "none"
    if value in _AVERAGE:
        scale = raw.get("norm_scaling_factor")
        if scale is None or not 0 < scale < MAX_SCALE:
            raise SAEError(
                f"{CONFIG} has normalize_activations 'expected_average_only_in' but not the scale; "
                f'add "norm_scaling_factor": sqrt(d_in) / (mean norm of the training activations) to {CONFIG}'
            )
        return "none"
    return cast(Normalization, value)  # DictionaryConfig checks it


def _check_tensors(config: DictionaryConfig, tensors: Mapping[str, TensorInfo], raw: Mapping[str, Any]) -> None:
    """Names and shapes of the stored tensors against the config."""
    expected = dict(config.weight_shapes)
    if config.has_threshold and "threshold" not in tensors:
        if "log_threshold" in tensors:
            expected["log_threshold"] = expected.pop("threshold")
        elif "topk_threshold" in tensors:
            expected["topk_threshold"] = ()
            del expected["threshold"]
    for name, shape in expected.items():
        if name not in tensors:
            raise SAEError(f"{WEIGHTS} has no {name}, which a {config.activation} {config.kind} needs")
        if tensors[name].shape != shape:
            raise SAEError(f"{WEIGHTS} has {name} of shape {list(tensors[name].shape)}; {CONFIG} implies {list(shape)}")
        if tensors[name].dtype not in ("F32", "F16", "BF16", "F64"):
            raise SAEError(f"{WEIGHTS} has {name} of type {tensors[name].dtype}; floating point is expected")
    surplus = sorted(set(tensors) - set(expected) - {"scaling_factor"})
    if surplus:
        raise SAEError(f"{WEIGHTS} has {', '.join(surplus)}, which a {config.activation} {config.kind} does not use")
