"""Llama and GPT-2 in plain numpy float64, with any edit at any site: what saedsl's numbers are held against.

Slow, and written from the definitions: no cache, no delta form, no batch, nothing of saedsl. A sequence is always
computed whole, so a position is a row of an array, whether a prompt or generation brought it there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Op = Literal["ablate", "amplify", "set", "clamp", "add"]


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A sparse dictionary by its definition: SAELens' formulas, one token a row."""

    W_enc: Array
    b_enc: Array
    W_dec: Array
    b_dec: Array
    activation: str = "relu"
    k: int = 0
    threshold: Array | None = None
    normalize: str = "none"
    subtract_b_dec: bool = True
    transcoder: bool = False
    W_skip: Array | None = None

    def encode(self, x: Array) -> Array:
        """Features [tokens, d_sae] of activations [tokens, d_in]."""
        n, _, _ = self._normalised(x)
        pre = (n - self.b_dec if self.subtract_b_dec else n) @ self.W_enc + self.b_enc
        if self.activation == "relu":
            return np.maximum(pre, 0)
        if self.activation == "topk":
            out = np.zeros_like(pre)
            for row, p in zip(out, pre, strict=True):
                best = np.argsort(-p)[: self.k]
                row[best] = np.maximum(p[best], 0)
            return out
        assert self.threshold is not None
        return np.where(pre > np.maximum(self.threshold, 0), pre, 0)

    def decode(self, f: Array, x: Array) -> Array:
        """What features write, [tokens, d_out], for the tokens that they were read from."""
        y = f @ self.W_dec + self.b_dec
        if self.transcoder:
            return y if self.W_skip is None else y + x @ self.W_skip.T
        _, centre, spread = self._normalised(x)
        return y * spread + centre

    def _normalised(self, x: Array) -> tuple[Array, Array, Array]:
        zero = np.zeros((len(x), 1))
        if self.normalize == "layer_norm":
            centre, spread = x.mean(axis=1, keepdims=True), x.std(axis=1, ddof=1, keepdims=True)
            return (x - centre) / (spread + 1e-5), centre, spread
        if self.normalize == "constant_norm_rescale":
            spread = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1])
            return x / spread, zero, spread
        return x, zero, zero + 1


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit: of the activation at `site`, or of features that `dictionary` reads at `read` and writes at `site`."""

    site: str
    op: Op
    args: tuple[float, ...]
    where: Collection[int]
    """Absolute positions: those of the prompt first, then those of the generated tokens."""
    features: Sequence[int] = ()
    dictionary: Dictionary | None = None
    read: str = ""
    """By default the same as `site`."""

    def new(self, f: Array) -> Array:
        """The value that takes the place of `f`."""
        match self.op, self.args:
            case "ablate", ():
                return np.zeros_like(f)
            case "amplify", (factor,):
                return f * factor
            case "set", (value,):
                return np.full_like(f, value)
            case "add", (value,):
                return f + value
            case "clamp", (low, high):
                return np.clip(f, low, high)
        raise AssertionError(self)


@dataclass(eq=False)
class Sites:
    """Passes activations through the edits, and keeps what comes out."""

    edits: Sequence[Edit]
    seen: dict[str, Array] = field(default_factory=dict)
    """Activations [tokens, width] by site, after the edits."""
    features: dict[int, tuple[Array, Array, Dictionary]] = field(default_factory=dict)
    """By dictionary: what it read, before and after the edits of its features."""

    def __call__(self, site: str, x: Array) -> Array:
        rows = np.arange(len(x))
        arrived = {
            id(d): d for e in self.edits if (d := e.dictionary) is not None and (e.read or e.site) == e.site == site
        }
        for d in arrived.values():
            self._read(d, x)
        out = x.copy()
        for e in self.edits:
            if e.site == site and e.dictionary is None:
                here = np.isin(rows, list(e.where))[:, None]
                out += np.where(here, e.new(x) - x, 0)
        for key, (source, edited, d) in self.features.items():
            if any(e.site == site and id(e.dictionary) == key for e in self.edits):
                out += d.decode(edited, source) - d.decode(d.encode(source), source)
        self.seen[site] = out
        # A transcoder's features are those of what the sublayer reads, whatever was done to it.
        crossing = {
            id(d): d for e in self.edits if (d := e.dictionary) is not None and e.read == site and e.read != e.site
        }
        for d in crossing.values():
            self._read(d, out)
        return out

    def _read(self, d: Dictionary, x: Array) -> None:
        f = d.encode(x)
        edited = f.copy()
        for e in self.edits:
            if e.dictionary is d:
                here = np.ix_([p for p in range(len(x)) if p in e.where], list(e.features))
                edited[here] = e.new(f[here])
        self.features[id(d)] = (x, edited, d)


@dataclass(frozen=True, eq=False)
class Model:
    """An mlx-lm checkpoint's weights and the keys of its config.json."""

    weights: Mapping[str, Array]
    config: Mapping[str, Any]

    def forward(self, tokens: Sequence[int], edits: Sequence[Edit] = ()) -> tuple[Array, dict[str, Array]]:
        """Logits [tokens, d_vocab], and every site's activation [tokens, width]."""
        at = Sites(edits)
        out = {"llama": _llama, "gpt2": _gpt2}[self.config["model_type"]](self, np.array(tokens), at)
        return out, at.seen

    def generate(self, prompt: Sequence[int], n: int, edits: Sequence[Edit] = ()) -> list[int]:
        """Greedy continuation, each token from a forward over everything before it."""
        made: list[int] = []
        for _ in range(n):
            logits, _ = self.forward([*prompt, *made], edits)
            made.append(int(logits[-1].argmax()))
        return made


def _llama(m: Model, tokens: npt.NDArray[np.int64], at: Sites) -> Array:
    w, c = m.weights, m.config
    eps, heads, kv = c["rms_norm_eps"], c["num_attention_heads"], c["num_key_value_heads"]
    x = at("embed", w["model.embed_tokens.weight"][tokens])
    for i in range(c["num_hidden_layers"]):
        block = f"model.layers.{i}"
        x = at(f"L{i}.resid_pre", x)
        h = at(f"L{i}.attn.in", _rms_norm(x, w[f"{block}.input_layernorm.weight"], eps))
        q, k, v = (
            _heads(h @ w[f"{block}.self_attn.{p}_proj.weight"].T, n)
            for p, n in zip("qkv", (heads, kv, kv), strict=True)
        )
        q, k = _rope(q, c["rope_theta"]), _rope(k, c["rope_theta"])
        k, v = (np.repeat(t, heads // kv, axis=0) for t in (k, v))
        z = at(f"L{i}.attn.z", _attention(q, k, v))
        x = _residual(at, i, x, z @ w[f"{block}.self_attn.o_proj.weight"].T)
        h = at(f"L{i}.mlp.in", _rms_norm(x, w[f"{block}.post_attention_layernorm.weight"], eps))
        gate, up = (h @ w[f"{block}.mlp.{p}_proj.weight"].T for p in ("gate", "up"))
        act = at(f"L{i}.mlp.act", gate / (1 + np.exp(-gate)) * up)
        x = _after_mlp(at, i, x, act @ w[f"{block}.mlp.down_proj.weight"].T)
    y = at("final", _rms_norm(x, w["model.norm.weight"], eps))
    head = w["model.embed_tokens.weight"] if c["tie_word_embeddings"] else w["lm_head.weight"]
    return at("logits", y @ head.T)


def _gpt2(m: Model, tokens: npt.NDArray[np.int64], at: Sites) -> Array:
    w, c = m.weights, m.config
    eps = c["layer_norm_epsilon"]

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1, keepdims=True)
        out: Array = centred / np.sqrt(variance + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]
        return out

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = at("embed", w["model.wte.weight"][tokens] + w["model.wpe.weight"][: len(tokens)])
    for i in range(c["n_layer"]):
        block = f"model.h.{i}"
        x = at(f"L{i}.resid_pre", x)
        h = at(f"L{i}.attn.in", norm(x, f"{block}.ln_1"))
        q, k, v = (_heads(t, c["n_head"]) for t in np.split(linear(h, f"{block}.attn.c_attn"), 3, axis=1))
        z = at(f"L{i}.attn.z", _attention(q, k, v))
        x = _residual(at, i, x, linear(z, f"{block}.attn.c_proj"))
        h = linear(at(f"L{i}.mlp.in", norm(x, f"{block}.ln_2")), f"{block}.mlp.c_fc")
        gelu = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = _after_mlp(at, i, x, linear(at(f"L{i}.mlp.act", gelu), f"{block}.mlp.c_proj"))
    return at("logits", at("final", norm(x, "model.ln_f")) @ w["model.wte.weight"].T)


def _residual(at: Sites, i: int, x: Array, contribution: Array) -> Array:
    return at(f"L{i}.resid_mid", x + at(f"L{i}.attn", at(f"L{i}.attn.raw", contribution)))


def _after_mlp(at: Sites, i: int, x: Array, contribution: Array) -> Array:
    return at(f"L{i}.resid_post", x + at(f"L{i}.mlp", at(f"L{i}.mlp.raw", contribution)))


def _rms_norm(x: Array, weight: Array, eps: float) -> Array:
    out: Array = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * weight
    return out


def _heads(x: Array, n: int) -> Array:
    """[tokens, n * d_head] -> [n, tokens, d_head]"""
    return x.reshape(len(x), n, -1).transpose(1, 0, 2)


def _rope(x: Array, theta: float) -> Array:
    """Rotary positions, Su et al. 2021 in the half-split order: pair j is (j, j + d_head / 2)."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def _attention(q: Array, k: Array, v: Array) -> Array:
    """Causal softmax attention: [heads, tokens, d_head] three times -> [tokens, heads * d_head]."""
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(q.shape[1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out: Array = (weights @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)
    return out


def log_softmax(logits: Array) -> Array:
    """Over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    out: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return out
