"""Cross-layer transcoders from one file a layer: their layers side by side in the weights of one dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saedsl.sae.formats.reading import load
from saedsl.sae.header import SAEInfo
from saedsl.sae.tensorfile import Stamp

if TYPE_CHECKING:
    import mlx.core as mx


@dataclass(frozen=True)
class Layer:
    """The features of one layer, as a format stores them."""

    encoder: Stamp
    """The file with the encoder and the biases."""
    decoder: Stamp
    """The file with the decoder, perhaps the same."""
    names: Mapping[str, str]
    """Our name of a tensor -> the file's; `threshold`, and `W_skip` [d, d] from input to output, if there are any."""
    encoder_by_input: bool
    """Whether the encoder is [d, F], not [F, d]."""
    whole_decoder: bool
    """Whether the decoder is [F, L, d] with unused layers before the own one, not [F, L - layer, d]."""


def clt_weights(info: SAEInfo, layers: Sequence[Layer]) -> dict[str, mx.array]:
    """The weights of the cross-layer transcoder `info`, as `SAE` takes them.

    Raises:
        SAEError: if a weight is not finite, or a file changed meanwhile.
    """
    import mlx.core as mx

    width = info.d_in // len(layers)
    parts: dict[str, list[mx.array]] = {}
    skips: list[mx.array] = []
    for number, layer in enumerate(layers):
        stored = load(layer.encoder, frozenset(layer.names.values()))
        if layer.decoder != layer.encoder:
            stored |= load(layer.decoder, frozenset(layer.names.values()))
        found = {ours: stored[theirs] for ours, theirs in layer.names.items()}
        decoder = found["W_dec"][:, number:] if layer.whole_decoder else found["W_dec"]
        written = decoder.reshape(decoder.shape[0], -1)
        parts.setdefault("W_dec", []).append(mx.pad(written, [(0, 0), (number * width, 0)]))
        parts.setdefault("W_enc", []).append(found["W_enc"] if layer.encoder_by_input else found["W_enc"].T)
        for name in ("b_enc", "b_dec", "threshold"):
            if name in found:
                parts.setdefault(name, []).append(found[name])
        if "W_skip" in found:
            before, after = number * width, (len(layers) - number - 1) * width
            skips.append(mx.pad(found["W_skip"].T, [(0, 0), (before, after)]))
    weights = {name: mx.concatenate(values, axis=1 if name == "W_enc" else 0) for name, values in parts.items()}
    return {**weights, "W_skip": mx.concatenate(skips, axis=0)} if skips else weights
