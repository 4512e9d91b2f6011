"""The linear maps of a dictionary, with the structure that forms give them, and their gradients.

A cross-layer transcoder's features read one layer each and write it and all later ones; a Matryoshka's decoder is cut
where its nested dictionaries end. Letters in shapes: B tokens, F features, I and O the widths of input and output, L
layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np


def encode(W_enc: mx.array, bias: mx.array, u: mx.array, layers: int) -> mx.array:
    """`u` [B, I] times `W_enc` [I / L, F], each layer's input with its own features, plus `bias` [F]: [B, F]."""
    if layers == 1:
        return mx.addmm(bias, u, W_enc)
    return _merged(_by_layer(u, layers) @ _by_layer(W_enc, layers)) + bias


def encoder_gradient(u: mx.array, dpre: mx.array, layers: int) -> mx.array:
    """The gradient of `W_enc`, [I / L, F], from that of the pre-activations `dpre` [B, F]."""
    if layers == 1:
        return u.T @ dpre
    return _merged(_by_layer(u, layers).swapaxes(1, 2) @ _by_layer(dpre, layers))


def encoder_gradient_of(ids: np.ndarray, u: mx.array, dpre: mx.array, n_features: int, layers: int) -> mx.array:
    """`encoder_gradient` of features `ids` [n], ascending, of `n_features`, from their `dpre` [B, n]: [I / L, n]."""
    borders = np.searchsorted(ids, np.arange(layers + 1) * (n_features // layers))
    width = u.shape[1] // layers
    parts = [
        u[:, layer * width : (layer + 1) * width].T @ dpre[:, int(borders[layer]) : int(borders[layer + 1])]
        for layer in range(layers)
        if borders[layer] < borders[layer + 1]
    ]
    return mx.concatenate(parts, axis=1)


def writing_mask(n_features: int, width: int, layers: int) -> mx.array | None:
    """[F, O]: 1 where a feature of a cross-layer transcoder writes, its own layer and later ones; None of one layer."""
    if layers == 1:
        return None
    reads = np.arange(n_features) // (n_features // layers)
    writes = np.arange(width) // (width // layers)
    return mx.array((reads[:, None] <= writes).astype(np.float32))


def decode_prefixes(f: mx.array, W_dec: mx.array, ends: Sequence[int]) -> list[mx.array]:
    """What the first `end` features decode to, [B, O], for each of the ascending `ends`, without bias."""
    out: list[mx.array] = []
    for start, end in zip((0, *ends), ends, strict=False):
        part = f[:, start:end] @ W_dec[start:end]
        out.append(out[-1] + part if out else part)
    return out


def decoder_gradients(
    f: mx.array, W_dec: mx.array, g: Sequence[mx.array], ends: Sequence[int]
) -> tuple[mx.array, mx.array]:
    """Gradients of the features, [B, F], and of `W_dec`, [F, O].

    Args:
        f: [B, F].
        W_dec: [F, O].
        g: for each of `ends`, the gradient [B, O] of what the features before it, from the last end on, decode to.
        ends: where the parts end, ascending, the last one F.
    """
    if len(ends) == 1:
        return g[0] @ W_dec.T, f.T @ g[0]
    parts = list(zip((0, *ends), ends, g, strict=False))
    return (
        mx.concatenate([part @ W_dec[start:end].T for start, end, part in parts], axis=1),
        mx.concatenate([f[:, start:end].T @ part for start, end, part in parts], axis=0),
    )


def _by_layer(x: mx.array, layers: int) -> mx.array:
    """[n, L * d] -> [L, n, d]."""
    return x.reshape(x.shape[0], layers, -1).swapaxes(0, 1)


def _merged(x: mx.array) -> mx.array:
    """[L, n, d] -> [n, L * d]."""
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)
