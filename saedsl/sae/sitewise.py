"""Several sites in one dictionary: their activations one after another, and features that belong to layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import mlx.core as mx

from saedsl.errors import ShapeError
from saedsl.sae.config import DictionaryConfig
from saedsl.sites import Site


class Columns(NamedTuple):
    """The encoder of n features; what an activation does not use is None."""

    W: mx.array
    """[d_in, n]"""
    b: mx.array | None
    """[n], as are all below."""
    threshold: mx.array | None
    b_gate: mx.array | None
    r_mag: mx.array | None
    b_mag: mx.array | None
    ids: mx.array | None = None
    """Their numbers; None for all features."""


def concatenated(x: Mapping[Site, mx.array] | Mapping[str, mx.array], config: DictionaryConfig) -> mx.array:
    """The activations of `config.input_sites`, each [..., width], as one array [..., d_in].

    Args:
        x: by site, or by the text of a site.
        config: of a dictionary; one with a single input site takes a mapping with it alone.

    Raises:
        ShapeError: if a site is missing or surplus, or arrays do not fit together.
    """
    single = () if config.input_site is None else (config.input_site,)
    wanted = [str(site) for site in config.input_sites or single]
    given = {str(site): value for site, value in x.items()}
    missing = [site for site in wanted if site not in given]
    surplus = [site for site in given if site not in wanted]
    if not given:
        raise ShapeError(f"this dictionary reads {', '.join(wanted) or 'an unknown site'}: no activations are given")
    if missing or surplus:
        wrong = f"{missing[0]} is missing" if missing else f"{surplus[0]} is not one of them"
        raise ShapeError(f"this dictionary reads {', '.join(wanted) or 'an unknown site'}: {wrong}")
    leading = {value.shape[:-1] for value in given.values()}
    if len(leading) > 1:
        shapes = ", ".join(f"{site} {list(given[site].shape)}" for site in wanted)
        raise ShapeError(f"activations of several sites must be of the same tokens, not {shapes}")
    return mx.concatenate([given[site].astype(mx.float32) for site in wanted], axis=-1)


def by_layer(u: mx.array, W: mx.array, config: DictionaryConfig, ids: mx.array | None) -> mx.array:
    """Products of a cross-layer transcoder, whose features read their own layer only.

    Args:
        u: [..., d_in], layer after layer.
        W: [d_in / L, n], the encoder of n features.
        config: L = `config.layers`; feature j is of layer `j // (d_sae / L)`.
        ids: [n] their numbers, in any order; None for all.

    Returns:
        [..., n]
    """
    n_layers, per_layer = config.layers, config.d_sae // config.layers
    parts = mx.split(u, n_layers, axis=-1)
    if ids is None:
        return mx.concatenate([a @ w for a, w in zip(parts, mx.split(W, n_layers, axis=-1), strict=True)], axis=-1)
    numbers: list[int] = ids.tolist()  # type: ignore[assignment]
    places = [[i for i, j in enumerate(numbers) if j // per_layer == layer] for layer in range(n_layers)]
    found = [a @ W[:, mx.array(p)] for a, p in zip(parts, places, strict=True) if p]
    order = [i for p in places for i in p]
    back = sorted(range(len(order)), key=order.__getitem__)
    return mx.concatenate(found, axis=-1)[..., mx.array(back)] if found else mx.zeros((*u.shape[:-1], 0))


def writes_backwards(W_dec: mx.array, layers: int) -> int | None:
    """The first layer, counted from 0, with a feature that writes a layer before its own; None if there is none."""
    features, width = W_dec.shape[0] // layers, W_dec.shape[1] // layers
    for layer in range(1, layers):
        block = W_dec[layer * features : (layer + 1) * features, : layer * width]
        if mx.any(block != 0).item():
            return layer
    return None
