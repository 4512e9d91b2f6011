"""A Llama-type forward taken apart: who writes into the residual stream, who reads it, and every edge between them.

Sources are the embedding, each head and each MLP; readers are each head's query, each key-value head's key and value,
each MLP and the logits. The forward here reads the weights of a model and calls its norms, MLPs and rotations; it
hooks nothing and changes nothing. `decompose` holds it against the model itself before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.base import create_causal_mask

from saedsl.circuits.node import Node
from saedsl.errors import ModelError, ShapeError

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""`model_type`s that can be taken apart. Others fuse their projections or put norms behind their sublayers."""
AGREEMENT: Final = 1e-3
"""Largest difference of logits, as a share of the largest logit, at which the parts still are the model."""


@dataclass(frozen=True)
class Wiring:
    """Sources and readers of the residual stream, in the order of the forward."""

    n_layers: int
    n_heads: int
    n_kv_heads: int

    @cached_property
    def sources(self) -> tuple[Node, ...]:
        """`embed`, then of each layer its heads and its MLP."""
        found = [Node.of("embedding", "embed")]
        for layer in range(self.n_layers):
            found += [Node.of("head", f"L{layer}.attn", h) for h in range(self.n_heads)]
            found.append(Node.of("mlp", f"L{layer}.mlp"))
        return tuple(found)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """`L0.attn.q.h2`, `L0.attn.k.h0` and `.v.` (of key-value heads), `L0.mlp`, and at the end `logits`."""
        found = []
        for layer in range(self.n_layers):
            for part, n in (("q", self.n_heads), ("k", self.n_kv_heads), ("v", self.n_kv_heads)):
                found += [f"L{layer}.attn.{part}.h{h}" for h in range(n)]
            found.append(f"L{layer}.mlp")
        return (*found, "logits")

    @property
    def readers_per_layer(self) -> int:
        return self.n_heads + 2 * self.n_kv_heads + 1

    @property
    def shape(self) -> tuple[int, int]:
        """(readers, sources): of masks and scores."""
        return len(self.readers), len(self.sources)

    def source(self, layer: int, head: int | None) -> int:
        """Index of a head among the sources, or of the layer's MLP where `head` is None."""
        return 1 + layer * (self.n_heads + 1) + (self.n_heads if head is None else head)

    def reader(self, layer: int, part: str, head: int = 0) -> int:
        """Index among the readers of `q`, `k`, `v` (of a head) or `mlp`; the logits are the last reader."""
        offset = {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_kv_heads, "mlp": self.readers_per_layer - 1}
        return layer * self.readers_per_layer + offset[part] + head

    def part(self, reader: int) -> str:
        """What a head reads with, `q`, `k` or `v`; `all` of an MLP and of the logits."""
        name = self.readers[reader]
        return name.split(".")[2] if ".attn." in name else "all"

    def heard(self, reader: int) -> int:
        """How many sources come before a reader: it hears these, the first of them."""
        layer, place = divmod(reader, self.readers_per_layer)
        in_mlp = layer < self.n_layers and place == self.readers_per_layer - 1
        return self.source(layer, 0) + (self.n_heads if in_mlp else 0)

    def owners(self, reader: int) -> tuple[int | None, ...]:
        """The sources whose output a reader shapes: heads or an MLP; (None,) for the logits."""
        layer, place = divmod(reader, self.readers_per_layer)
        if layer == self.n_layers:
            return (None,)
        if place == self.readers_per_layer - 1:
            return (self.source(layer, None),)
        if place < self.n_heads:
            return (self.source(layer, place),)
        group = self.n_heads // self.n_kv_heads
        first = (place - self.n_heads) % self.n_kv_heads * group
        return tuple(self.source(layer, h) for h in range(first, first + group))

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every (reader, source) pair that a forward has."""
        return tuple((r, s) for r in range(len(self.readers)) for s in range(self.heard(r)))

    def edge_name(self, edge: tuple[int, int]) -> str:
        """`L0.attn.h1 -> L1.attn.k.h0`."""
        return f"{self.sources[edge[1]]} -> {self.readers[edge[0]]}"


@dataclass(frozen=True, eq=False)
class Patch:
    """What readers see in place of what sources write: y becomes y + mask (other - y), per edge."""

    mask: mx.array
    """[n_masks, readers, sources]; 0 leaves an edge, 1 ablates it. Every mask is a forward of its own."""
    other: mx.array
    """[sources, batch, seq, d_model], the ablated outputs."""
    held: mx.array | None = None
    """Like `other`: stands for y in the difference `other - y`. With it, the gradient at mask 0 is EAP's score."""


@dataclass(frozen=True, eq=False)
class _Heads:
    """A projection by head."""

    weight: mx.array
    """[n, d_model, d_head] of q, k, v; [n, d_head, d_model] of o."""
    bias: mx.array | None
    """[n, 1, d_head]; None where there is none. Not used for o."""

    def __call__(self, x: mx.array) -> mx.array:
        """[n_masks, n, batch, seq, d] -> [n_masks * batch, n, seq, d_head]."""
        m, n, b, t, d = x.shape
        y = x.reshape(m, n, b * t, d) @ self.weight
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(m, n, b, t, -1).swapaxes(1, 2).reshape(m * b, n, t, -1)


@dataclass(frozen=True, eq=False)
class Decomposed:
    """A model that `decompose` took apart. It is read at every forward, never changed."""

    model: nn.Module
    wiring: Wiring

    def embed(self, tokens: mx.array) -> mx.array:
        """[batch, seq] -> [batch, seq, d_model]."""
        x: mx.array = self.model.model.embed_tokens(tokens)
        return x

    def forward(self, embedded: mx.array, patch: Patch | None = None) -> tuple[mx.array, mx.array]:
        """Logits and what every source writes.

        Args:
            embedded: [batch, seq, d_model].
            patch: edges to ablate; None ablates none.

        Returns:
            [n_masks, batch, seq, d_vocab] and [n_masks, sources, batch, seq, d_model]; n_masks is 1 without a patch.

        Raises:
            ShapeError: if the patch does not fit the model or the batch.
        """
        if patch is not None:
            self._check(patch, embedded)
        inner, w = self.model.model, self.wiring
        stream = _Stream(embedded, patch)
        for i, layer in enumerate(inner.layers):
            first, n_readers = w.reader(i, "q"), w.readers_per_layer - 1
            for y in self._heads(layer, stream.read(first, n_readers)):
                stream.add(y)
            if (bias := self._biases[i]) is not None:
                stream.shift(bias)
            x = stream.read(w.reader(i, "mlp"), 1)[:, 0]
            stream.add(layer.mlp(layer.post_attention_layernorm(x)))
        x = inner.norm(stream.read(len(w.readers) - 1, 1)[:, 0])
        tied = getattr(self.model.args, "tie_word_embeddings", False)
        logits = inner.embed_tokens.as_linear(x) if tied else self.model.lm_head(x)
        return logits, mx.stack(stream.written, axis=1)

    def patterns(self, embedded: mx.array) -> mx.array:
        """What each head attends to: [n_layers, batch, n_heads, query, key].

        Args:
            embedded: [batch, seq, d_model].
        """
        written = self.forward(embedded)[1][0]
        found = []
        for i, layer in enumerate(self.model.model.layers):
            x = written[: self.wiring.source(i, 0)].sum(axis=0)
            readers = mx.broadcast_to(x, (1, self.wiring.readers_per_layer - 1, *x.shape))
            bias = sum((b for b in self._biases[:i] if b is not None), mx.zeros_like(x))
            queries, keys, _, mask = self._attention(layer, readers + bias)
            keys = mx.repeat(keys, self.wiring.n_heads // self.wiring.n_kv_heads, axis=1)
            scores = queries @ keys.swapaxes(2, 3) * layer.self_attn.scale
            found.append(mx.softmax(mx.where(mask, scores, -mx.inf), axis=-1))
        return mx.stack(found)

    @property
    def _biases(self) -> list[mx.array | None]:
        """Of each layer's output projection: constants that are no source."""
        return [layer.self_attn.o_proj.get("bias") for layer in self.model.model.layers]

    def _heads(self, layer: Any, x: mx.array) -> Iterator[mx.array]:
        """What each head writes, [n_masks, batch, seq, d_model], for what its readers see, [n_masks, readers, ...]."""
        m, _, b, t, d = x.shape
        n = self.wiring.n_heads
        queries, keys, values, mask = self._attention(layer, x)
        z = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=layer.self_attn.scale, mask=mask)
        z = z.reshape(m, b, n, t, -1).swapaxes(1, 2).reshape(m, n, b * t, -1)
        W_O = layer.self_attn.o_proj.weight.reshape(d, n, -1).transpose(1, 2, 0)
        out = (z @ W_O).reshape(m, n, b, t, d)
        return (out[:, h] for h in range(n))

    def _attention(self, layer: Any, x: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Queries and keys, turned, and values, [n_masks * batch, heads, seq, d_head], and the mask [seq, seq]."""
        attn, n, kv = layer.self_attn, self.wiring.n_heads, self.wiring.n_kv_heads
        x = layer.input_layernorm(x)
        queries = _by_head(attn.q_proj, n)(x[:, :n])
        keys = _by_head(attn.k_proj, kv)(x[:, n : n + kv])
        values = _by_head(attn.v_proj, kv)(x[:, n + kv :])
        if "q_norm" in attn:
            queries, keys = attn.q_norm(queries), attn.k_norm(keys)
        window = self.model.args.sliding_window if getattr(layer, "use_sliding", False) else None
        mask = create_causal_mask(x.shape[3], window_size=window)
        return attn.rope(queries), attn.rope(keys), values, mask

    def _check(self, patch: Patch, embedded: mx.array) -> None:
        expected = (self.wiring.shape[1], *embedded.shape)
        for name, value in (("other", patch.other), ("held", patch.held)):
            if value is not None and value.shape != expected:
                raise ShapeError(f"{name} is {list(value.shape)}; [sources, batch, seq, d_model] is {list(expected)}")
        if patch.mask.ndim != 3 or patch.mask.shape[1:] != self.wiring.shape:
            shape = f"[n_masks, {self.wiring.shape[0]}, {self.wiring.shape[1]}]"
            raise ShapeError(f"mask is {list(patch.mask.shape)}; [n_masks, readers, sources] is {shape}")


class _Stream:
    """The residual stream of one forward: grows source by source, and shows each reader its own mixture."""

    def __init__(self, embedded: mx.array, patch: Patch | None) -> None:
        self._patch = patch
        n_masks = 1 if patch is None else patch.mask.shape[0]
        self._total: mx.array = mx.zeros((n_masks, *embedded.shape), embedded.dtype)
        self.written: list[mx.array] = []
        self._changes: list[mx.array] = []
        self.add(mx.broadcast_to(embedded, self._total.shape))

    def add(self, y: mx.array) -> None:
        """One source's output, [n_masks, batch, seq, d_model]."""
        if self._patch is not None:
            i = len(self.written)
            other, held = self._patch.other[i], self._patch.held
            self._changes.append(other - y if held is None else (other - held[i])[None])
        self.written.append(y)
        self._total = self._total + y

    def shift(self, bias: mx.array) -> None:
        """A constant, which is no source."""
        self._total = self._total + bias

    def read(self, first: int, n: int) -> mx.array:
        """What readers `first`, ... see: [n_masks, n, batch, seq, d_model]."""
        x = self._total[:, None]
        m, _, b, t, d = x.shape
        if self._patch is None:
            return mx.broadcast_to(x, (m, n, b, t, d))
        k = len(self.written)
        changes = mx.stack(self._changes, axis=1)
        mask = self._patch.mask[:, first : first + n, :k].astype(changes.dtype)
        return x + (mask @ changes.reshape(changes.shape[0], k, -1)).reshape(m, n, b, t, d)


def decompose(model: Any) -> Decomposed:
    """Take a model apart.

    Args:
        model: an `InterpretableModel`, or an mlx-lm model of one of `FAMILIES`, not quantised.

    Raises:
        ModelError: if the family is another, weights are quantised, or the parts do not add up to the model.
    """
    from saedsl.model import InterpretableModel

    if isinstance(model, InterpretableModel):
        model = model.model
    args = getattr(model, "args", None)
    family = getattr(args, "model_type", type(model).__name__)
    if args is None or family not in FAMILIES:
        raise ModelError(
            f"a {family} cannot be taken apart into heads and MLPs; edges are scored for {', '.join(FAMILIES)}"
        )
    if any(isinstance(m, nn.QuantizedLinear | nn.QuantizedEmbedding) for m in model.modules()):
        raise ModelError("this model is quantised, and its heads cannot be read apart; load the unquantised one")
    attn = model.model.layers[0].self_attn
    parts = Decomposed(model, Wiring(len(model.model.layers), attn.n_heads, attn.n_kv_heads))
    tokens = mx.array([[i % args.vocab_size for i in range(5)]])
    whole, sum_of_parts = model(tokens), parts.forward(parts.embed(tokens))[0][0]
    largest = mx.maximum(mx.abs(whole).max(), 1e-6)
    off = float(np.array((mx.abs(whole - sum_of_parts).max() / largest).astype(mx.float32)))
    tolerance = AGREEMENT if whole.dtype == mx.float32 else 50 * AGREEMENT
    if not off < tolerance:
        raise ModelError(f"the heads and MLPs of this {family} do not add up to its logits (off by {off:.1e})")
    return parts


def _by_head(projection: Any, n: int) -> _Heads:
    """The weights of a q, k or v projection, head by head."""
    W = projection.weight
    bias = projection.get("bias")
    return _Heads(W.reshape(n, -1, W.shape[1]).swapaxes(1, 2), None if bias is None else bias.reshape(n, 1, -1))
