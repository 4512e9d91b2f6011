"""Llama and GPT-2 in plain numpy float64, with any edit at any site: what saedsl's numbers are held against.

Slow, and written from the definitions: no cache, no delta form, no batch, nothing of saedsl. A sequence is always
computed whole, so a position is a row of an array, whether a prompt or generation brought it there; what the unedited
run holds is computed by running it first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.oracle_edits import Array, Bools, Dictionary, Edit, Mode, Op, Part, Reads, Reference, Run, Tokens, resampled

__all__ = [
    "Array", "Bools", "Dictionary", "Edit", "Mode", "Model", "Op", "Part", "Reads", "Reference", "Run", "Tokens",
    "log_softmax", "resampled",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Model:
    """An mlx-lm checkpoint's weights and the keys of its config.json."""

    weights: Mapping[str, Array]
    config: Mapping[str, Any]

    def run(self, tokens: Tokens, edits: Sequence[Edit] = (), mode: Mode = "iterative") -> Run:
        """A forward over everything."""
        plain = mode == "iterative" and not edits
        taken = [self._taken(e, tokens) for e in edits]
        at = Run(edits, taken, mode, None if plain else self.run(tokens), self._heads)
        at.logits = {"llama": _llama, "gpt2": _gpt2}[self.config["model_type"]](self, np.array(tokens), at)
        return at

    def forward(self, tokens: Tokens, edits: Sequence[Edit] = ()) -> tuple[Array, dict[str, Array]]:
        """Logits [tokens, d_vocab], and every site's activation [tokens, width]."""
        at = self.run(tokens, edits)
        return at.logits, at.seen

    def generate(self, prompt: Tokens, n: int, edits: Sequence[Edit] = (), mode: Mode = "iterative") -> list[int]:
        """Greedy continuation, each token from a forward over everything before it."""
        made: list[int] = []
        for _ in range(n):
            made.append(int(self.run([*prompt, *made], edits, mode).logits[-1].argmax()))
        return made

    @property
    def _heads(self) -> dict[str, int]:
        c = self.config
        heads = c.get("num_attention_heads") or c["n_head"]
        by_part = {"q": heads, "z": heads, "pattern": heads}
        by_part |= dict.fromkeys("kv", c.get("num_key_value_heads") or heads)
        layers = range(c.get("num_hidden_layers") or c["n_layer"])
        return {f"L{i}.attn.{part}": n for i in layers for part, n in by_part.items()}

    def _value(self, e: Edit, tokens: Tokens) -> Array:
        """What `e` edits, in the plain run of `tokens`."""
        run = self.run(tokens)
        return e.value(run.seen[e.reads], run.seen[e.site], self._heads.get(e.site, 0))

    def _taken(self, e: Edit, tokens: Tokens) -> Array | None:
        """What `e` takes from other runs, [tokens, numbers], where it acts."""
        if e.op == "freeze":
            return self._value(e, tokens)
        if e.source is not None:
            other, pairs = e.source
            value = self._value(e, other)
            out = np.full((len(tokens), value.shape[1]), np.nan)
            out[list(pairs)] = value[list(pairs.values())]
            return out
        if e.to is None:
            return None
        values = [self._value(e, text) for text in e.to.texts]
        match e.to.kind:
            case "mean":
                mean = np.concatenate([v[e.to.skipped :] for v in values]).mean(axis=0)
                return np.tile(mean, (len(tokens), 1))
            case "mean by position":
                out = np.mean(values, axis=0)
            case "resample":
                (out,) = values
        rows = np.full((len(tokens), out.shape[1]), np.nan)
        n = min(len(tokens), len(out))
        rows[:n] = out[:n]
        return rows


HELD: Collection[Mode] = ("frozen", "direct")
"""Modes that hold attention patterns."""


def _llama(m: Model, tokens: npt.NDArray[np.int64], at: Run) -> Array:
    w, c = m.weights, m.config
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]

    def norm(x: Array, name: str) -> Array:
        size = np.sqrt((x**2).mean(axis=1, keepdims=True) + c["rms_norm_eps"])
        out: Array = x / at.hold(name, size, ["direct"]) * w[f"{name}.weight"]
        return out

    x = at("embed", w["model.embed_tokens.weight"][tokens])
    for i in range(c["num_hidden_layers"]):
        block = f"model.layers.{i}"
        x = at(f"L{i}.resid_pre", x)
        h = at(f"L{i}.attn.in", norm(x, f"{block}.input_layernorm"))
        q, k, v = (
            _heads(at(f"L{i}.attn.{p}", h @ w[f"{block}.self_attn.{p}_proj.weight"].T), n)
            for p, n in zip("qkv", (heads, kv, kv), strict=True)
        )
        q, k = _rope(q, c["rope_theta"]), _rope(k, c["rope_theta"])
        k, v = (np.repeat(t, heads // kv, axis=0) for t in (k, v))
        z = at(f"L{i}.attn.z", _attention(at, i, q, k, v))
        x = _residual(at, i, x, z @ w[f"{block}.self_attn.o_proj.weight"].T)
        h = at(f"L{i}.mlp.in", norm(x, f"{block}.post_attention_layernorm"))
        gate, up = (h @ w[f"{block}.mlp.{p}_proj.weight"].T for p in ("gate", "up"))
        act = at(f"L{i}.mlp.act", gate / (1 + np.exp(-gate)) * up)
        x = _after_mlp(at, i, x, act @ w[f"{block}.mlp.down_proj.weight"].T)
    y = at("final", norm(x, "model.norm"))
    head = w["model.embed_tokens.weight"] if c["tie_word_embeddings"] else w["lm_head.weight"]
    return at("logits", y @ head.T)


def _gpt2(m: Model, tokens: npt.NDArray[np.int64], at: Run) -> Array:
    w, c = m.weights, m.config

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(axis=1, keepdims=True)
        size = np.sqrt((centred**2).mean(axis=1, keepdims=True) + c["layer_norm_epsilon"])
        out: Array = centred / at.hold(name, size, ["direct"]) * w[f"{name}.weight"] + w[f"{name}.bias"]
        return out

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = at("embed", w["model.wte.weight"][tokens] + w["model.wpe.weight"][: len(tokens)])
    for i in range(c["n_layer"]):
        block = f"model.h.{i}"
        x = at(f"L{i}.resid_pre", x)
        h = at(f"L{i}.attn.in", norm(x, f"{block}.ln_1"))
        qkv = np.split(linear(h, f"{block}.attn.c_attn"), 3, axis=1)
        q, k, v = (_heads(at(f"L{i}.attn.{p}", t), c["n_head"]) for p, t in zip("qkv", qkv, strict=True))
        z = at(f"L{i}.attn.z", _attention(at, i, q, k, v))
        x = _residual(at, i, x, linear(z, f"{block}.attn.c_proj"))
        h = linear(at(f"L{i}.mlp.in", norm(x, f"{block}.ln_2")), f"{block}.mlp.c_fc")
        gelu = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = _after_mlp(at, i, x, linear(at(f"L{i}.mlp.act", gelu), f"{block}.mlp.c_proj"))
    return at("logits", at("final", norm(x, "model.ln_f")) @ w["model.wte.weight"].T)


def _residual(at: Run, i: int, x: Array, contribution: Array) -> Array:
    return at(f"L{i}.resid_mid", x + at(f"L{i}.attn", at(f"L{i}.attn.raw", contribution)))


def _after_mlp(at: Run, i: int, x: Array, contribution: Array) -> Array:
    contribution = at.hold(f"L{i}.mlp", contribution, ["direct"]) + at.skipped(i)
    return at(f"L{i}.resid_post", x + at(f"L{i}.mlp", at(f"L{i}.mlp.raw", contribution)))


def _heads(x: Array, n: int) -> Array:
    """[tokens, n * d_head] -> [n, tokens, d_head]"""
    return x.reshape(len(x), n, -1).transpose(1, 0, 2)


def _rope(x: Array, theta: float) -> Array:
    """Rotary positions, Su et al. 2021 in the half-split order: pair j is (j, j + d_head / 2)."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def _attention(at: Run, i: int, q: Array, k: Array, v: Array) -> Array:
    """Causal softmax attention: [heads, tokens, d_head] three times -> [tokens, heads * d_head]."""
    heads, tokens, d_head = q.shape
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(d_head)
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    weights = at.hold(f"L{i}.attn", weights, HELD)
    # A row of this site is what one token looks at: [tokens, heads * tokens].
    weights = at(f"L{i}.attn.pattern", weights.transpose(1, 0, 2).reshape(tokens, -1))
    weights = weights.reshape(tokens, heads, tokens).transpose(1, 0, 2)
    out: Array = (weights @ v).transpose(1, 0, 2).reshape(tokens, -1)
    return out


def log_softmax(logits: Array) -> Array:
    """Over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    out: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return out
