"""sparsify's folders: `HOOKPOINT/cfg.json` + `sae.safetensors`; SAEs, transcoders and skip transcoders, all TopK.

Source: https://github.com/EleutherAI/sparsify, `sparse_coder.py` 1.3. With row vectors,

    f = topk(relu((x - b_dec) E^T + e)),   x^ = f W_dec + b_dec [+ x W_skip^T]

and nothing is subtracted in a transcoder. The folder's name is the module; a transcoder reads its input. In files from
before transcoders `signed` may say that negative features count: those are refused, as is the activation `groupmax`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from saedsl.errors import SAEError
from saedsl.sae.formats.places import sites_of_module
from saedsl.sae.formats.reading import check_shapes, configured, described, kept, load, read_json, tensors_of, value_of
from saedsl.sae.header import SAEInfo

if TYPE_CHECKING:
    import mlx.core as mx

NAME: Final = "sparsify"
CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae.safetensors"


def matches(path: Path) -> bool:
    """Whether `path` is such a folder, or one of its two files."""
    folder = path.parent if path.is_file() and path.name in (CONFIG, WEIGHTS) else path
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_info(path: Path) -> SAEInfo:
    """Describe the dictionary; no weight is read.

    Raises:
        SAEError: if a file is damaged, they contradict one another, or it needs what saedsl does not compute.
    """
    folder = path.parent if path.is_file() else path
    where, weights = folder / CONFIG, folder / WEIGHTS
    raw = read_json(where)
    activation = value_of(raw, "activation", (str,), where, "topk")
    if activation != "topk" or value_of(raw, "signed", (bool,), where, False):
        what = "signed features" if activation == "topk" else f"activation {activation[:40]!r}"
        raise SAEError(f"{where}: has {what}, which saedsl does not compute; it reads topk")
    d = value_of(raw, "d_in", (int,), where)
    n = value_of(raw, "num_latents", (int,), where, 0) or d * value_of(raw, "expansion_factor", (int,), where)
    transcodes = value_of(raw, "transcode", (bool,), where, False)
    skips = value_of(raw, "skip_connection", (bool,), where, False)
    around = _around(folder)
    model = around.get("model")
    model = model if isinstance(model, str) else None
    places = sites_of_module(folder.absolute().name, model or str(folder.absolute()))
    read, written = (None, None) if places is None else places
    config = configured(
        where,
        d_in=d,
        d_sae=n,
        d_out=d,
        activation="topk",
        k=value_of(raw, "k", (int,), where),
        kind="transcoder" if transcodes else "sae",
        input_site=read if transcodes else written,
        output_site=written,
        apply_b_dec_to_input=not transcodes,
        skip=skips,
        model_name=model,
        context_size=around["ctx_len"] if type(around.get("ctx_len")) is int else None,
        metadata=kept(NAME, raw),
    )
    tensors = tensors_of(weights)
    shapes = {"encoder.weight": (n, d), "encoder.bias": (n,), "W_dec": (n, d), "b_dec": (d,)}
    check_shapes(tensors, {**shapes, **({"W_skip": (d, d)} if skips else {})}, weights)
    return described(config, tensors, NAME, folder, weights)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """Its weights.

    Raises:
        SAEError: if a weight is not finite, or the file is not the one described.
    """
    assert info.weights is not None
    stored = load(info.weights, frozenset(tensor.name for tensor in info.tensors))
    return {"W_enc": stored.pop("encoder.weight").T, "b_enc": stored.pop("encoder.bias"), **stored}


def _around(folder: Path) -> dict[str, Any]:
    """The training's `config.json` beside the hookpoints' folders, where there is one."""
    path = folder.absolute().parent / "config.json"
    try:
        return read_json(path) if path.is_file() else {}
    except SAEError:
        return {}
