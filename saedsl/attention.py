"""Attention with its weights at hand: where a model calls the fused kernel, they can be read and edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from saedsl.errors import RunError

PatternFn = Callable[[mx.array], mx.array]
"""Attention weights [batch, query, n_heads * keys], a head's columns side by side -> the weights to go on with."""


def attend(
    fused: Callable[..., mx.array],
    pattern: PatternFn,
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """What `scaled_dot_product_attention` of mlx-lm gives, with the weights seen and changed by `pattern`.

    A query's output comes from the fused kernel where its weights are as they were, so what is only read is bitwise
    as without it. Changed weights are used as they are: they need not add up to 1.

    Args:
        fused: the model's own `scaled_dot_product_attention`.
        pattern: returns its argument itself if it changes nothing.
        queries: [batch, n_heads, query, d_head].
        keys: [batch, n_kv_heads, keys, d_head].
        values: [batch, n_kv_heads, keys, d_v].
        cache: the layer's cache, or None.
        scale: of the scores.
        mask: None, "causal", or booleans or numbers to add, broadcast to [batch, n_heads, query, keys].
        sinks: [n_heads] scores of a key without a value.

    Returns:
        [batch, n_heads, query, d_v].

    Raises:
        RunError: if the cache is quantised, or forgets keys other than the oldest.
    """
    if not isinstance(keys, mx.array):
        raise RunError("attn.pattern cannot be read with a quantised KV cache: run without kv_bits")
    weights = _weights(queries, keys, scale, mask, sinks)
    seen = _by_position(weights, cache)
    flat = flatten(seen.values)
    out = pattern(flat)
    plain = fused(
        queries, keys, values, cache=cache, scale=scale, mask=mask, **({} if sinks is None else {"sinks": sinks})
    )
    if out is flat:
        return plain
    changed = (unflatten(out, queries.shape[1]) != seen.values).any(axis=-1, keepdims=True)
    explicit = _mix(seen.by_slot(unflatten(out, queries.shape[1])), values)
    return mx.where(changed, explicit.astype(plain.dtype), plain)


def flatten(weights: mx.array) -> mx.array:
    """[batch, n_heads, query, keys] -> [batch, query, n_heads * keys]."""
    b, h, q, k = weights.shape
    return weights.transpose(0, 2, 1, 3).reshape(b, q, h * k)


def unflatten(flat: mx.array, n_heads: int) -> mx.array:
    """[batch, query, n_heads * keys] -> [batch, n_heads, query, keys]."""
    b, q, _ = flat.shape
    return flat.reshape(b, q, n_heads, -1).transpose(0, 2, 1, 3)


def _weights(
    queries: mx.array, keys: mx.array, scale: float, mask: mx.array | str | None, sinks: mx.array | None
) -> mx.array:
    """[batch, n_heads, query, keys] float32, as precise as the fused kernel's."""
    b, h, n, d = queries.shape
    kv, k = keys.shape[1:3]
    grouped = (queries.astype(mx.float32) * scale).reshape(b, kv, h // kv, n, d)
    scores = (grouped @ keys.astype(mx.float32)[:, :, None].swapaxes(-1, -2)).reshape(b, h, n, k)
    if isinstance(mask, str):
        mask = mx.arange(k - n, k)[:, None] >= mx.arange(k)
    if mask is not None and mask.dtype == mx.bool_:
        scores = mx.where(mask, scores, mx.finfo(mx.float32).min)
    elif mask is not None:
        scores = scores + mask.astype(mx.float32)
    if sinks is None:
        return mx.softmax(scores, axis=-1)
    sink = mx.broadcast_to(sinks.astype(mx.float32)[:, None, None], (b, h, n, 1))
    return mx.softmax(mx.concatenate([scores, sink], axis=-1), axis=-1)[..., :-1]


def _mix(weights: mx.array, values: mx.array) -> mx.array:
    """Weighted sums of values: [batch, n_heads, query, d_v] float32."""
    b, h, n, k = weights.shape
    kv = values.shape[1]
    grouped = weights.astype(mx.float32).reshape(b, kv, h // kv, n, k)
    return (grouped @ values.astype(mx.float32)[:, :, None]).reshape(b, h, n, -1)


class _ByPosition:
    """Attention weights by the absolute position of their keys; those that a sliding cache has forgotten are 0."""

    def __init__(self, weights: mx.array, positions: np.ndarray | None = None, total: int = 0) -> None:
        """`positions`: [keys] the absolute position of each slot of the cache; None if they are slots 0, 1, ..."""
        self.values, self._positions = weights, None
        if positions is not None:
            self._positions = mx.array(positions)
            slots = np.full(total, len(positions))
            slots[positions] = np.arange(len(positions))
            none = mx.zeros((*weights.shape[:-1], 1), weights.dtype)
            self.values = mx.concatenate([weights, none], axis=-1)[..., mx.array(slots)]

    def by_slot(self, values: mx.array) -> mx.array:
        """Weights of this kind in the order of the cache again."""
        return values if self._positions is None else values[..., self._positions]


def _by_position(weights: mx.array, cache: Any) -> _ByPosition:
    n = weights.shape[-1]
    total = getattr(cache, "offset", n)
    index = getattr(cache, "_idx", None)
    if not isinstance(total, int) or index is None:
        return _ByPosition(weights)
    if getattr(cache, "keep", 0):
        raise RunError("attn.pattern cannot be read with a KV cache that keeps its first tokens and forgets others")
    slots = np.arange(n)  # a ring: slots from `index` on hold the oldest keys
    positions = total - index + slots - np.where(slots >= index, n, 0)
    return _ByPosition(weights) if np.array_equal(positions, slots) else _ByPosition(weights, positions, total)
