"""mlxterp's folders: `config.json` + `weights.safetensors`.

Source: https://github.com/coairesearch/mlxterp, `mlxterp/sae`: SAE (TopK) and BatchTopKSAE. Inputs are normalised by a
mean m and a deviation s of each dimension, reconstructions back, here folded into the weights:

    z = topk(relu(((x - m) / (s + 1e-8)) E^T + e)),   x^ = (z D^T + d) * s + m

BatchTopKSAE chooses features among all tokens of a call and stores no threshold, so that a token's features depend on
its company. It is read where `config.json` says the threshold to use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from saedsl.errors import SAEError
from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS
from saedsl.sae.formats.reading import check_shapes, configured, described, kept, load, read_json, tensors_of, value_of
from saedsl.sae.header import SAEInfo
from saedsl.sites import Site

if TYPE_CHECKING:
    import mlx.core as mx

NAME: Final = "mlxterp"
CONFIG: Final = "config.json"
WEIGHTS: Final = "weights.safetensors"
CLASSES: Final = ("SAE", "BatchTopKSAE")
EPSILON: Final = 1e-8
"""Added to the deviation when inputs are divided by it, not when reconstructions are multiplied."""
_COMPONENTS: Final = {"residual": "resid_post", "output": "resid_post", "self_attn": "attn", "attention": "attn"}
"""mlxterp's words for places that ours lack."""
_NORMS: Final = ("input_mean", "input_std")


def matches(path: Path) -> bool:
    """Whether `path` is such a folder, or one of its two files."""
    folder = path.parent if path.is_file() and path.name in (CONFIG, WEIGHTS) else path
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_info(path: Path) -> SAEInfo:
    """Describe the dictionary; no weight is read.

    Raises:
        SAEError: if a file is damaged, they contradict one another, or it has no features of single tokens.
    """
    folder = path.parent if path.is_file() else path
    where, weights = folder / CONFIG, folder / WEIGHTS
    raw = read_json(where)
    kind = value_of(raw, "class", (str,), where)
    if kind not in CLASSES:
        raise SAEError(f"{where}: is of class {kind[:40]!r}; of mlxterp, saedsl reads {' and '.join(CLASSES)}")
    if kind == "BatchTopKSAE" and raw.get("threshold") is None:
        raise SAEError(
            f"{where}: a BatchTopKSAE of mlxterp stores no threshold: a token's features depend on the others; "
            'add "threshold": the smallest activation that it kept, on average'
        )
    d, n = value_of(raw, "d_model", (int,), where), value_of(raw, "d_hidden", (int,), where)
    k = value_of(raw, "k", (int,), where)
    meta = value_of(raw, "metadata", (dict,), where, {})
    site = _site(meta, where)
    model = value_of(meta, "model_name", (str,), where, "")
    config = configured(
        where,
        d_in=d,
        d_sae=n,
        d_out=d,
        activation="topk" if kind == "SAE" else "batchtopk",
        k=min(k, n),
        input_site=site,
        output_site=site,
        apply_b_dec_to_input=False,
        model_name=model or None,
        metadata=kept(NAME, {key: value for key, value in raw.items() if key not in _NORMS}),
    )
    tensors = tensors_of(weights)
    tied = value_of(raw, "tied_weights", (bool,), where, False)
    value_of(raw, "normalize_input", (bool,), where, True)
    decoder = {"decoder_bias": (d,)} if tied else {"decoder.weight": (d, n), "decoder.bias": (d,)}
    norms = dict.fromkeys(_NORMS, (d,))
    check_shapes(tensors, {"encoder.weight": (n, d), "encoder.bias": (n,), **decoder, **norms}, weights)
    return described(config, tensors, NAME, folder, weights)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """Its weights, the input's mean and deviation folded.

    Raises:
        SAEError: if a weight is not finite, or the file is not the one described.
    """
    import mlx.core as mx

    assert info.path is not None
    assert info.weights is not None
    raw = read_json(info.path / CONFIG)
    stored = load(info.weights, frozenset(tensor.name for tensor in info.tensors))
    encoder = stored["encoder.weight"].T
    tied = "decoder_bias" in stored
    W_dec, b_dec = (encoder.T, stored["decoder_bias"]) if tied else (stored["decoder.weight"].T, stored["decoder.bias"])
    b_enc = stored["encoder.bias"]
    if raw.get("normalize_input", True):
        mean, deviation = stored["input_mean"], stored["input_std"]
        if mx.any(deviation < 0).item():
            raise SAEError(f"{info.weights.path}: input_std has negative entries; the file is damaged")
        encoder = encoder / (deviation + EPSILON)[:, None]
        b_enc = b_enc - mean @ encoder
        W_dec, b_dec = W_dec * deviation, b_dec * deviation + mean
    weights = {"W_enc": encoder, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    if info.config.has_threshold:
        threshold = value_of(raw, "threshold", (int, float), info.path / CONFIG)
        weights["threshold"] = mx.full((info.d_sae,), float(threshold))
    return weights


def _site(meta: dict[str, Any], where: Path) -> Site | None:
    layer, component = meta.get("layer"), meta.get("component")
    if type(layer) is not int or not isinstance(component, str) or layer < 0:
        return None
    found = _COMPONENTS.get(component, COMPONENT_ALIASES.get(component, component))
    return Site(layer, found) if found in COMPONENTS else None
