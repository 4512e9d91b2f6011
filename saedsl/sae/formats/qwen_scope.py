"""Qwen-Scope's files: `SAE-Res-MODEL-W32K-L0_50/layerN.sae.pt`, TopK dictionaries of the residual stream.

Source: the cards of https://huggingface.co/Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50: W_enc [F, d], W_dec [d, F], b_enc,
b_dec; the k of TopK is in the repository's name only. Nothing is subtracted from x.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from saedsl.errors import SAEError
from saedsl.sae.formats.reading import (
    check_shapes,
    configured,
    described,
    has_tensors,
    load,
    only_file,
    read_json,
    shape_of,
    tensors_of,
    value_of,
)  # fmt: skip
from saedsl.sae.header import SAEInfo
from saedsl.sites import Site

if TYPE_CHECKING:
    import mlx.core as mx

NAME: Final = "qwen_scope"
CONFIG: Final = "config.json"
_FILE: Final = re.compile(r"layer(\d{1,9})\.sae\.pt", re.ASCII)
_REPOSITORY: Final = re.compile(r"SAE-Res-(?P<model>.+)-W\d+K-L0_(?P<k>\d{1,9})", re.ASCII)
_NAMES: Final = ("W_enc", "b_enc", "W_dec", "b_dec")


def matches(path: Path) -> bool:
    """Whether `path` is such a file, or a folder that holds some."""
    if path.is_file():
        return _FILE.fullmatch(path.name) is not None and has_tensors(path, *_NAMES)
    return bool(_files(path))


def read_info(path: Path) -> SAEInfo:
    """Describe the dictionary; no weight is read.

    Raises:
        SAEError: if the file is damaged, its tensors do not fit together, or nothing says the k of TopK.
    """
    file = only_file(path, _files(path), "layers of Qwen-Scope")
    tensors = tensors_of(file)
    n, d = shape_of(tensors, "W_enc", 2, file)
    check_shapes(tensors, {"W_enc": (n, d), "b_enc": (n,), "W_dec": (d, n), "b_dec": (d,)}, file)
    match = next((m for part in reversed(file.absolute().parts) if (m := _REPOSITORY.search(part))), None)
    beside = file.with_name(CONFIG)
    raw = read_json(beside) if beside.is_file() else {}
    if raw.get("k") is None and match is None:
        raise SAEError(
            f"{file}: the k of TopK is not in the file but in the repository's name; keep it in a folder named like "
            'SAE-Res-Qwen3-1.7B-Base-W32K-L0_50, or write {"k": 50} to a config.json beside it'
        )
    k = int(match["k"]) if match else 0
    layer = _FILE.fullmatch(file.name)
    site = Site(int(layer[1]), "resid_post") if layer else None
    config = configured(
        file,
        d_in=d,
        d_sae=n,
        d_out=d,
        activation="topk",
        k=value_of(raw, "k", (int,), beside, k),
        input_site=site,
        output_site=site,
        apply_b_dec_to_input=False,
        model_name=f"Qwen/{match['model']}" if match else None,
    )
    return described(config, tensors, NAME, path, file)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """Its weights.

    Raises:
        SAEError: if a weight is not finite, or the file is not the one described.
    """
    assert info.weights is not None
    stored = load(info.weights, frozenset(_NAMES))
    return {**stored, "W_enc": stored["W_enc"].T, "W_dec": stored["W_dec"].T}


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.glob("layer*.sae.pt") if _FILE.fullmatch(file.name)] if folder.is_dir() else []
