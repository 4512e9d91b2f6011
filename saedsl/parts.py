"""What edits change: features, an error, columns of a site, a direction's coefficient. Read, and written as a delta.

A quantity is a function of the activation where it is read and where it is written (one place, but for transcoders):
`value` gives [batch, length, n], `write` turns the change of that into a change of the activation. Plain runs give
the same quantity by `measure`: that is what patches, means and resamples take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import mlx.core as mx
import numpy as np

from saedsl.errors import RunError
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

TINY: Final = 1e-30
"""In place of a zero that divides: what it divides is zero too."""


class Quantity(Protocol):
    """Something of an activation that edits change."""

    site: Site
    """Where its change is written."""
    source: Site | None
    """Where it is read, if that is another site, upstream."""
    grouped: int
    """How many neighbouring columns are one thing (a head); 0: all of them are."""
    selected: bool
    """Whether it was asked for some columns, in their order; else it has what it has."""

    def read(self, x: mx.array) -> mx.array:
        """What `value` needs of the activation [batch, length, d_in] at `source`."""

    def value(self, x: mx.array, read: mx.array | None) -> mx.array:
        """[batch, length, n] float32, of the activation at `site` and of what was read at `source`."""

    def write(self, delta: mx.array, x: mx.array) -> mx.array:
        """The change [batch, length, width] of the activation `x` that changes the value by `delta`."""

    def unit_norms(self, x: mx.array) -> mx.array:
        """The norm of what a change by 1 of each column writes, [..., n]."""


def measure(q: Quantity, at: Mapping[Site, mx.array]) -> mx.array:
    """The quantity in a run whose activations are known, [batch, length, n].

    Args:
        q: the quantity.
        at: activations [batch, length, width] at `q.site` and `q.source`.
    """
    read = None if q.source is None else q.read(at[q.source])
    return q.value(at[q.site], read)


class Whole:
    """A whole activation."""

    grouped: int = 0
    selected: bool = False
    source: Site | None = None

    def __init__(self, site: Site) -> None:
        self.site = site

    def read(self, x: mx.array) -> mx.array:
        """Not needed: it has no source."""
        return x

    def value(self, x: mx.array, read: mx.array | None) -> mx.array:
        """[batch, length, width]"""
        return x.astype(mx.float32)

    def write(self, delta: mx.array, x: mx.array) -> mx.array:
        """The change itself."""
        return delta

    def unit_norms(self, x: mx.array) -> mx.array:
        """1."""
        return mx.array(1.0)


class Features(Whole):
    """Activations of features of a dictionary."""

    grouped, selected = 1, True

    def __init__(self, sae: SAE, read: Site, write: Site, ids: Sequence[int]) -> None:
        """`ids`: the columns' features; one can stand twice."""
        super().__init__(write)
        self.source = read if read != write else None
        self._sae = sae
        every = list(ids) == list(range(sae.config.d_sae))
        self._encode = sae.encode if every else sae.encoder(ids)
        self._rows = sae.W_dec if every else sae.W_dec[mx.array(list(ids), dtype=mx.int32)]
        mx.eval(self._rows)
        self._scaled = sae.config.normalize_activations != "none" and not sae.config.is_transcoder

    def read(self, x: mx.array) -> mx.array:
        """The features, where a transcoder reads."""
        return self._encode(x)

    def value(self, x: mx.array, read: mx.array | None) -> mx.array:
        """[batch, length, ids]"""
        return self._encode(x) if read is None else read

    def write(self, delta: mx.array, x: mx.array) -> mx.array:
        """s(x) * delta @ W_dec[ids]"""
        out = delta @ self._rows
        return out * self._sae.scale(x) if self._scaled else out

    def unit_norms(self, x: mx.array) -> mx.array:
        """Norms of decoder rows, de-normalised."""
        norms = mx.sqrt(mx.square(self._rows).sum(axis=-1))
        return norms * mx.maximum(self._sae.scale(x), TINY) if self._scaled else norms


class Error(Whole):
    """What a dictionary does not reconstruct of what it is compared with, [batch, length, d_out]."""

    def __init__(self, sae: SAE, read: Site, write: Site) -> None:
        super().__init__(write)
        self.source = read if read != write else None
        self._sae = sae

    def read(self, x: mx.array) -> mx.array:
        """A transcoder's prediction."""
        return self._sae(x)

    def value(self, x: mx.array, read: mx.array | None) -> mx.array:
        """x - sae(x), or y - t(x)."""
        return x.astype(mx.float32) - (self._sae(x) if read is None else read)


class Coordinates(Whole):
    """Some columns of an activation; `grouped` neighbours are one head."""

    def __init__(self, site: Site, columns: Sequence[int], grouped: int = 1) -> None:
        super().__init__(site)
        self.grouped, self.selected = grouped, True
        self._columns = list(columns)

    def value(self, x: mx.array, read: mx.array | None) -> mx.array:
        """[batch, length, columns]"""
        if max(self._columns, default=0) >= x.shape[-1]:
            raise RunError(f"{self.site} has {x.shape[-1]} coordinates: there is no n{max(self._columns)}")
        return x[..., mx.array(self._columns, dtype=mx.int32)].astype(mx.float32)

    def write(self, delta: mx.array, x: mx.array) -> mx.array:
        """The change, spread over the width of `x`."""
        none = mx.zeros((*delta.shape[:-1], 1))
        extended = mx.concatenate([delta, none], axis=-1)
        out, *rest = [extended[..., mx.array(taken)] for taken in spread(self._columns, range(x.shape[-1]))]
        for part in rest:
            out = out + part
        return out


class Pattern(Whole):
    """Attention weights of some heads: [batch, query, heads, keys]; the site's width is n_heads * keys."""

    def __init__(self, site: Site, heads: Sequence[int], n_heads: int) -> None:
        super().__init__(site)
        self.grouped, self.selected = 1, True
        self._columns = Coordinates(site, heads)
        self._heads, self._n_heads = mx.array(list(heads), dtype=mx.int32), n_heads

    def value(self, x: mx.array, read: mx.array | None) -> mx.array:
        """[batch, query, heads, keys]"""
        return x.reshape(*x.shape[:-1], self._n_heads, -1)[..., self._heads, :].astype(mx.float32)

    def write(self, delta: mx.array, x: mx.array) -> mx.array:
        """[batch, query, n_heads * keys]"""
        by_key = delta.swapaxes(-1, -2)  # [batch, query, keys, heads]
        every = self._columns.write(by_key, mx.zeros((self._n_heads,)))
        return every.swapaxes(-1, -2).reshape(x.shape)


class Coefficient(Whole):
    """How much of a direction an activation has, c = x.d / d.d, [batch, length, 1]."""

    grouped = 1

    def __init__(self, site: Site, direction: Sequence[float]) -> None:
        super().__init__(site)
        d = np.array(direction, np.float64)
        square = max(float(d @ d), TINY)
        self._read = mx.array((d[:, None] / square).astype(np.float32))
        self._rows = mx.array(d[None].astype(np.float32))
        self._norm = mx.array(float(np.sqrt(square)))

    def value(self, x: mx.array, read: mx.array | None) -> mx.array:
        """[batch, length, 1]"""
        return x.astype(mx.float32) @ self._read

    def write(self, delta: mx.array, x: mx.array) -> mx.array:
        """delta * d"""
        return delta @ self._rows

    def unit_norms(self, x: mx.array) -> mx.array:
        """||d||"""
        return self._norm


class Components(Whole):
    """Coordinates of an activation's projection on the span of vectors, in an orthonormal basis of it."""

    def __init__(self, site: Site, vectors: np.ndarray) -> None:
        """`vectors`: [n, width]."""
        super().__init__(site)
        u, s, _ = np.linalg.svd(vectors.astype(np.float64).T, full_matrices=False)
        self._basis = mx.array(u[:, s > s.max(initial=0.0) * 1e-10].astype(np.float32))

    def value(self, x: mx.array, read: mx.array | None) -> mx.array:
        """[batch, length, rank]"""
        return x.astype(mx.float32) @ self._basis

    def write(self, delta: mx.array, x: mx.array) -> mx.array:
        """[batch, length, width]"""
        return delta @ self._basis.T


def spread(columns: Sequence[int], wanted: Sequence[int]) -> list[np.ndarray]:
    """For each of `wanted` the index of the column that is it, len(columns) for none; several lists where several are.

    >>> [a.tolist() for a in spread([4, 2, 4], range(5))]
    [[3, 3, 1, 3, 0], [3, 3, 3, 3, 2]]
    """
    place = {c: i for i, c in enumerate(wanted)}
    layers = [np.full(len(place), len(columns), np.int32)]
    depth: dict[int, int] = {}
    for j, c in enumerate(columns):
        if c in place:
            d = depth[c] = depth.get(c, -1) + 1
            if d == len(layers):
                layers.append(np.full(len(place), len(columns), np.int32))
            layers[d][place[c]] = j
    return layers
