"""Goodfire's files: `Llama-3.3-70B-Instruct-SAE-l50.pt`, a ReLU dictionary of the residual stream.

Source: https://huggingface.co/Goodfire, `encoder_linear` and `decoder_linear` of the cards' example. Model and layer
are in the file's name. f = relu(x E^T + e), x^ = f D^T + d; nothing is subtracted from x.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from saedsl.sae.formats.reading import (
    PICKLES,
    check_shapes,
    configured,
    described,
    has_tensors,
    load,
    only_file,
    shape_of,
    tensors_of,
)  # fmt: skip
from saedsl.sae.header import SAEInfo
from saedsl.sites import Site

if TYPE_CHECKING:
    import mlx.core as mx

NAME: Final = "goodfire"
_FILE: Final = re.compile(r"(?P<model>Llama.*)-SAE-l(?P<layer>\d{1,9})", re.ASCII)
_NAMES: Final = ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias")


def matches(path: Path) -> bool:
    """Whether `path` is such a file, or a folder that holds some."""
    return has_tensors(path, *_NAMES[::2]) if path.is_file() else bool(_files(path))


def read_info(path: Path) -> SAEInfo:
    """Describe the dictionary; no weight is read.

    Raises:
        SAEError: if the file is damaged or its tensors do not fit together.
    """
    file = only_file(path, _files(path), "dictionaries of Goodfire")
    tensors = tensors_of(file)
    n, d = shape_of(tensors, "encoder_linear.weight", 2, file)
    check_shapes(tensors, dict(zip(_NAMES, ((n, d), (n,), (d, n), (d,)), strict=True)), file)
    match = _FILE.search(file.stem)
    site = Site(int(match["layer"]), "resid_post") if match else None
    config = configured(
        file,
        d_in=d,
        d_sae=n,
        d_out=d,
        input_site=site,
        output_site=site,
        apply_b_dec_to_input=False,
        model_name=f"meta-llama/{match['model']}" if match else None,
    )
    return described(config, tensors, NAME, path, file)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """Its weights.

    Raises:
        SAEError: if a weight is not finite, or the file is not the one described.
    """
    assert info.weights is not None
    encoder, b_enc, decoder, b_dec = (load(info.weights, frozenset(_NAMES))[name] for name in _NAMES)
    return {"W_enc": encoder.T, "b_enc": b_enc, "W_dec": decoder.T, "b_dec": b_dec}


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*-SAE-l*") if file.suffix in PICKLES] if folder.is_dir() else []
