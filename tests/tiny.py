"""The forward of a tiny Llama and GPT-2 in float64 numpy, written from their papers: what the hooks are held against.

Attention patterns, denominators of norms and outputs of MLPs can be those of another forward, literally.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

Array = np.ndarray[Any, np.dtype[np.float64]]
Edit = Callable[[Array], Array]
Seen = dict[str, Array]
"""Activations [seq, width] by the text of their site, patterns [heads, query, key], denominators `L0.attn.in /`."""


def weights_of(model: nn.Module) -> dict[str, Array]:
    return {
        name: np.array(value.astype(mx.float32)).astype(np.float64) for name, value in tree_flatten(model.parameters())
    }


def forward(
    model: nn.Module,
    ids: Sequence[int],
    edits: Mapping[str, Edit] | None = None,
    held: Seen | None = None,
    mode: Literal["frozen", "direct"] = "frozen",
) -> tuple[Array, Seen]:
    """Logits [seq, d_vocab] and what was seen, of one row.

    Args:
        edits: what becomes of the activation at a site.
        held: what another forward saw, whose patterns (and in `direct` denominators and MLPs' outputs) are used.
    """
    llama = model.args.model_type == "llama"
    w, args, seen = weights_of(model), model.args, Seen()
    heads = args.num_attention_heads if llama else args.n_head
    kv_heads = args.num_key_value_heads if llama else heads

    def at(site: str, x: Array) -> Array:
        x = edits[site](x) if edits and site in edits else x
        seen[site] = x
        return x

    def norm(name: str, x: Array, key: str) -> Array:
        if not llama:
            x = x - x.mean(-1, keepdims=True)
        eps = args.rms_norm_eps if llama else args.layer_norm_epsilon
        rho = np.sqrt((x**2).mean(-1, keepdims=True) + eps)
        seen[f"{key} /"] = rho
        if held and mode == "direct":
            rho = held[f"{key} /"]
        return np.asarray(x / rho * w[f"{name}.weight"] + w.get(f"{name}.bias", 0.0))

    def linear(name: str, x: Array) -> Array:
        return np.asarray(x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0))

    def rotate(x: Array) -> Array:  # [seq, heads, d_head]
        half = x.shape[-1] // 2
        angle = np.arange(len(x))[:, None] * args.rope_theta ** (-np.arange(half) / half)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    n = len(ids)
    x = w["model.embed_tokens.weight"][list(ids)] if llama else w["model.wte.weight"][list(ids)]
    if not llama:
        x = x + w["model.wpe.weight"][:n]
    for layer in range(2):
        L, block = f"L{layer}", f"model.layers.{layer}" if llama else f"model.h.{layer}"
        x = at(f"{L}.resid_pre", x)
        a = at(f"{L}.attn.in", norm(f"{block}.{'input_layernorm' if llama else 'ln_1'}", x, f"{L}.attn.in"))
        if llama:
            q, k, v = (linear(f"{block}.self_attn.{p}_proj", a) for p in "qkv")
        else:
            q, k, v = np.split(linear(f"{block}.attn.c_attn", a), 3, axis=-1)
        q, k, v = at(f"{L}.attn.q", q), at(f"{L}.attn.k", k), at(f"{L}.attn.v", v)
        q, k, v = q.reshape(n, heads, -1), k.reshape(n, kv_heads, -1), v.reshape(n, kv_heads, -1)
        if llama:
            q, k = rotate(q), rotate(k)
        k, v = np.repeat(k, heads // kv_heads, axis=1), np.repeat(v, heads // kv_heads, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        seen[f"{L} /"] = p
        if held:
            p = held[f"{L} /"]
        p = at(f"{L}.attn.pattern", p)
        z = at(f"{L}.attn.z", np.einsum("hqk,khd->qhd", p, v).reshape(n, -1))
        x = at(
            f"{L}.resid_mid",
            x + at(f"{L}.attn", linear(f"{block}.{'self_attn.o_proj' if llama else 'attn.c_proj'}", z)),
        )
        m = norm(f"{block}.{'post_attention_layernorm' if llama else 'ln_2'}", x, f"{L}.mlp.in")
        m = at(f"{L}.mlp.in", m)
        if llama:
            gate = linear(f"{block}.mlp.gate_proj", m)
            act = gate / (1 + np.exp(-gate)) * linear(f"{block}.mlp.up_proj", m)
        else:
            h = linear(f"{block}.mlp.c_fc", m)
            act = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        out = linear(f"{block}.mlp.{'down_proj' if llama else 'c_proj'}", act)
        seen[f"{L}.mlp /"] = out
        if held and mode == "direct":
            out = held[f"{L}.mlp /"]
        x = at(f"{L}.resid_post", x + at(f"{L}.mlp", out))
    x = at("final", norm("model.norm" if llama else "model.ln_f", x, "final"))
    return x @ w["lm_head.weight" if llama else "model.wte.weight"].T, seen
