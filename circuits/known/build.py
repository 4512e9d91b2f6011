"""A builder of Llama models from slots and heads: like Tracr (arXiv:2301.05062), with an exact RMSNorm.

The residual stream has one slot a variable, a one-hot of the vocabulary's size, and a constant coordinate of 1. Each
slot is written by one source. A random rotation hides the coordinates; its columns are the true dictionary.

RMSNorm is made the identity: eps = 2^20 outweighs the mean square of any stream here, ablated ones too (off by 1e-6),
and its weight is the square root of their sum. With `norm="live"` it is a real one instead: eps is 1e-5, and the
constant, 32 there, outweighs the rest enough that ablations scale what is read by a thousandth or so. Attention to the
previous token turns the first RoPE pair, whose logit is 1000 cos(distance - 1); contents sit in the last pairs, which
RoPE does not turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.llama import Model, ModelArgs

from saedsl.circuits.decomposed import Wiring

BOS: Final = 0
"""The token that every prompt starts with."""
Norm = Literal["identity", "live"]
EPS: Final[Mapping[Norm, float]] = {"identity": 2.0**20, "live": 1e-5}
CONSTANT: Final[Mapping[Norm, float]] = {"identity": 1.0, "live": 32.0}
"""The coordinate that is the same at every position."""
SHARPNESS: Final = 1000.0
"""Scale of the logits of attention by position."""
KAPPA: Final = 10.0
"""Logit of a slot's token."""

Tokens = np.ndarray
"""[n, seq] int."""
Sampler = Callable[[np.random.Generator, int], tuple[Tokens, np.ndarray]]
"""(generator, number of prompts) -> tokens and right answers [n]."""


@dataclass(frozen=True, eq=False)
class KnownModel:
    """A model and what is known of it."""

    name: str
    model: nn.Module
    wiring: Wiring
    slots: Mapping[str, slice]
    """Coordinates of each variable before the rotation; the constant is the coordinate behind the last."""
    rotation: np.ndarray
    """[d_model, d_model], orthogonal, float64: column i is the direction of coordinate i."""
    writes: Mapping[int, frozenset[str]]
    """Slots that a source writes; `1` is the constant and `bos` the slot of BOS at position 0."""
    reads: Mapping[int, frozenset[str]]
    """Slots that a reader reads."""
    sample: Sampler
    every: Callable[[], tuple[Tokens, np.ndarray]]
    """Prompts with every value of what the answer depends on, and the answers."""
    norm: Norm = "identity"

    @property
    def constant(self) -> int:
        """The coordinate that is `CONSTANT` at every position."""
        return max(int(s.stop) for s in self.slots.values())

    @property
    def constant_direction(self) -> mx.array:
        """[d_model], what ablating the embedding to zero leaves: without it no head could find its position."""
        return mx.array((CONSTANT[self.norm] * self.rotation[:, self.constant]).astype(np.float32))


class Builder:
    """Collects heads and units, then `build`s. Places of heads are random; unused heads copy tokens, as decoys."""

    def __init__(
        self,
        slots: Sequence[str],
        n_layers: int,
        n_heads: int,
        vocab: int,
        seed: int,
        norm: Norm = "identity",
        *,
        d_head: int = 32,
        units: int = 4,
    ) -> None:
        """
        Args:
            slots: variables beside `token`, which the embedding writes.
            n_layers: blocks.
            n_heads: of each block.
            vocab: tokens, BOS among them.
            seed: of the places of heads and the rotation.
            norm: whether RMSNorm does nothing, or what it does.
            d_head: even, at least vocab + 3.
            units: width of the MLPs.
        """
        self.vocab, self.n_heads, self.n_layers, self.d_head, self.norm = vocab, n_heads, n_layers, d_head, norm
        self.rng = np.random.default_rng(seed)
        decoys = [f"decoy {layer}.{head}" for layer in range(n_layers) for head in range(n_heads)]
        self.slots = {name: slice(i * vocab, (i + 1) * vocab) for i, name in enumerate(["token", *slots, *decoys])}
        self.one = len(self.slots) * vocab
        self.d_model = d = -(-(self.one + 1) // 32) * 32
        self.wiring = Wiring(n_layers, n_heads, n_heads)
        self.attn = [
            {c: np.zeros((n_heads, d_head, d)) for c in "qkv"} | {"o": np.zeros((d, n_heads, d_head))}
            for _ in range(n_layers)
        ]
        self.mlp = [{"gate": np.zeros((units, d)), "up": np.zeros((units, d)), "down": np.zeros((d, units))}
                    for _ in range(n_layers)]  # fmt: skip
        self.W_U = np.zeros((vocab, d))
        self.places = [list(self.rng.permutation(n_heads)) for _ in range(n_layers)]
        self.filled = [0] * n_layers
        self.writes: dict[int, set[str]] = {0: {"token", "1", "bos"}}
        self.reads: dict[int, set[str]] = {}

    def copy(self, layer: int, attend: Literal["previous", "self"], value: str, out: str) -> None:
        """A head that copies slot `value` of the previous or the same position to slot `out`."""
        h, W = self._place(layer), self.attn[layer]
        step = float(attend == "previous")
        scale = SHARPNESS * self.d_head**0.5
        W["q"][h, 0, self.one], W["q"][h, self.d_head // 2, self.one] = scale * np.cos(step), -scale * np.sin(step)
        W["k"][h, 0, self.one] = 1
        self._moves(layer, h, value, out, {"1"}, {"1"})

    def match(self, layer: int, query: str, key: str, value: str, out: str, coldness: float = 40.0) -> None:
        """A head that attends where slot `key` equals its own slot `query`, with logit `coldness`; else to BOS."""
        h, W = self._place(layer), self.attn[layer]
        scale = coldness * self.d_head**0.5
        for j in range(self.vocab):
            W["q"][h, self._content(j), self.slots[query].start + j] = scale
            W["k"][h, self._content(j), self.slots[key].start + j] = 1
        W["q"][h, self._content(self.vocab), self.one] = scale / 2
        W["k"][h, self._content(self.vocab), self.slots["token"].start + BOS] = 1
        self._moves(layer, h, value, out, {query, "1"}, {key, "bos"})

    def unit(
        self, layer: int, gate: Mapping[tuple[str, int], float], bias: float, slope: float, out: tuple[str, int],
        sharpness: float,
    ) -> None:  # fmt: skip
        """A SwiGLU unit: close to slope * relu(sum of gate + bias), added to one coordinate of slot `out`."""
        i, W = self.filled[layer], self.mlp[layer]
        self.filled[layer] += 1
        for (slot, j), weight in gate.items():
            W["gate"][i, self.slots[slot].start + j] = sharpness * weight
            self.reads.setdefault(self.wiring.reader(layer, "mlp"), set()).add(slot)
        W["gate"][i, self.one], W["up"][i, self.one] = sharpness * bias, slope / sharpness
        W["down"][self.slots[out[0]].start + out[1], i] = 1
        self.writes.setdefault(self.wiring.source(layer, None), set()).add(out[0])

    def piecewise(
        self, layer: int, slots: Sequence[str], shape: Sequence[tuple[float, float]], out: str, sharpness: float = 80.0
    ) -> None:
        """For every value: a piecewise linear function of the sum of `slots`, by (knot, change of slope), to `out`."""
        for j in range(self.vocab):
            for knot, slope in shape:
                self.unit(layer, {(s, j): 1 for s in slots}, -knot, slope, (out, j), sharpness)

    def unembed(self, **weights: float) -> None:
        """Logits are `KAPPA` times the weighted sum of slots."""
        for name, weight in weights.items():
            self.W_U[:, self.slots[name]] = KAPPA * weight * np.eye(self.vocab)
        self.reads[len(self.wiring.readers) - 1] = set(weights)

    def build(self, name: str, sample: Sampler, every: Callable[[], tuple[Tokens, np.ndarray]]) -> KnownModel:
        """The model, rotated at random."""
        for layer in range(self.n_layers):
            while self.places[layer]:
                attend: Literal["self", "previous"] = "previous" if len(self.places[layer]) % 2 else "self"
                self.copy(layer, attend, "token", f"decoy {layer}.{self.places[layer][0]}")
        d = self.d_model
        Q = np.linalg.qr(self.rng.normal(size=(d, d)))[0]
        model = Model(self._args())
        model.load_weights([(k, mx.array(v.astype(np.float32))) for k, v in self._weights(Q).items()])
        mx.eval(model.parameters())
        writes = {s: frozenset(names) for s, names in self.writes.items()}
        reads = {r: frozenset(names) for r, names in self.reads.items()}
        return KnownModel(name, model, self.wiring, dict(self.slots), Q, writes, reads, sample, every, self.norm)

    def _place(self, layer: int) -> int:
        return int(self.places[layer].pop(0))

    def _content(self, j: int) -> int:
        """Coordinates of a head for content, those that RoPE turns least first."""
        half = self.d_head // 2
        return (half - 1 - j // 2) + (j % 2) * half

    def _moves(self, layer: int, h: int, value: str, out: str, query: set[str], key: set[str]) -> None:
        W, n = self.attn[layer], self.vocab
        W["v"][h, :n, self.slots[value]] = np.eye(n)
        W["o"][self.slots[out], h, :n] = np.eye(n)
        self.writes[self.wiring.source(layer, h)] = {out}
        for part, read in (("q", query), ("k", key), ("v", {value})):
            self.reads[self.wiring.reader(layer, part, h)] = read

    def _args(self) -> ModelArgs:
        return ModelArgs(
            model_type="llama", hidden_size=self.d_model, num_hidden_layers=self.n_layers, head_dim=self.d_head,
            intermediate_size=self.mlp[0]["gate"].shape[0], num_attention_heads=self.n_heads,
            rms_norm_eps=EPS[self.norm], vocab_size=self.vocab, rope_theta=1e30, tie_word_embeddings=False,
            max_position_embeddings=32,
        )  # fmt: skip

    def _weights(self, Q: np.ndarray) -> dict[str, np.ndarray]:
        d = self.d_model
        W_E = np.zeros((self.vocab, d))
        constant = CONSTANT[self.norm]
        W_E[:, self.slots["token"]], W_E[:, self.one] = np.eye(self.vocab), constant
        R = Q.copy()  # what is read of the constant is read as 1
        R[:, self.one] /= constant
        weights = {"model.embed_tokens.weight": W_E @ Q.T, "lm_head.weight": self.W_U @ Q.T}
        for layer, (attn, mlp) in enumerate(zip(self.attn, self.mlp, strict=True)):
            block = f"model.layers.{layer}"
            for c in "qkv":
                weights[f"{block}.self_attn.{c}_proj.weight"] = attn[c].reshape(-1, d) @ R.T
            weights[f"{block}.self_attn.o_proj.weight"] = Q @ attn["o"].reshape(d, -1)
            weights[f"{block}.mlp.gate_proj.weight"] = mlp["gate"] @ R.T
            weights[f"{block}.mlp.up_proj.weight"] = mlp["up"] @ R.T
            weights[f"{block}.mlp.down_proj.weight"] = Q @ mlp["down"]
            weights[f"{block}.input_layernorm.weight"] = self._norm(self.wiring.source(layer, 0))
            weights[f"{block}.post_attention_layernorm.weight"] = self._norm(self.wiring.source(layer, None))
        return weights | {"model.norm.weight": self._norm(len(self.wiring.sources))}

    def _norm(self, n: int) -> np.ndarray:
        """The weight of the norm that `n` sources have written before: the embedding its constant and 1, others 1."""
        square = CONSTANT[self.norm] ** 2 + 1 + sum(1 for s in range(1, n) if self.writes.get(s))
        return np.full(self.d_model, np.sqrt(square / self.d_model + EPS[self.norm]))
