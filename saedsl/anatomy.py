"""Where each mlx-lm model family keeps its sites, and what is known of a model before its weights are read.

No mlx here: `ModelInfo` comes from `config.json` alone. `saedsl.trace.verify` holds the table against a loaded model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from saedsl.errors import ModelError
from saedsl.grammar.words import COMPONENTS, GLOBAL_SITES
from saedsl.sites import Site

Side = Literal["in", "out", "pattern"]
"""Of a module's call; `pattern`: the attention weights that an attention module computes on the way."""

MAX_LAYERS: Final = 10_000
"""Blocks; a config.json that says more is damaged."""
MAX_SIZE: Final = 10**9
"""Of any width, and of the vocabulary."""


@dataclass(frozen=True)
class HookPoint:
    """One side of one module's call."""

    module: str
    """Dotted path from the model, "" for the model itself."""
    side: Side
    columns: tuple[int, int] | None = None
    """[first, end) of the last axis, where one module computes several sites: queries, keys and values."""

    def __str__(self) -> str:
        columns = "" if self.columns is None else f" [{self.columns[0]}:{self.columns[1]}]"
        return f"{self.module or 'model'} {self.side}{columns}"


@dataclass(frozen=True)
class Family:
    """Module paths of one block, relative to the block."""

    attn: str = "self_attn"
    """The attention sublayer."""
    mlp: str = "mlp"
    """The MLP sublayer."""
    q: str = "self_attn.q_proj"
    """Its output is q: before the rotation, after a norm of q, where a family has one."""
    k: str = "self_attn.k_proj"
    """Likewise."""
    v: str = "self_attn.v_proj"
    """Its output is v."""
    qkv: str = ""
    """In place of the three, where one projection makes queries, keys and values, side by side."""
    o_proj: str = "self_attn.o_proj"
    """Its input is z."""
    down_proj: str = "mlp.down_proj"
    """Its input is the neurons."""
    mid_norm: str = "post_attention_layernorm"
    """Its input is resid_mid."""
    attn_norm: str = "input_layernorm"
    """Its output is what attention reads."""
    attn_post_norm: str = ""
    """Norm applied to attention's output before it is added, if the family has one."""
    mlp_post_norm: str = ""
    """Likewise for the MLP."""
    norm_offset: float = 0.0
    """What the norms add to their weight."""
    blocks: str = "model.layers"
    final_norm: str = "model.norm"

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms of one block that the residual stream, or what is added to it, passes through."""
        every = (self.attn_norm, self.attn_post_norm, self.mid_norm, self.mlp_post_norm)
        return tuple(norm for norm in every if norm)


_LLAMA = Family()

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": Family(q="self_attn.q_norm", k="self_attn.k_norm"),
    "smollm3": _LLAMA,
    "phi3": Family(qkv="self_attn.qkv_proj"),
    "starcoder2": Family(down_proj="mlp.c_proj"),
    "gemma2": Family(
        mid_norm="pre_feedforward_layernorm",
        attn_post_norm="post_attention_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
        norm_offset=1.0,
    ),
    "gpt2": Family(
        attn="attn",
        qkv="attn.c_attn",
        o_proj="attn.c_proj",
        down_proj="mlp.c_proj",
        attn_norm="ln_1",
        mid_norm="ln_2",
        blocks="model.h",
        final_norm="model.ln_f",
    ),
}
"""By `model_type` of config.json. A family that is not here is refused."""


@dataclass(frozen=True)
class ModelInfo:
    """What config.json tells: enough to check and plan a program."""

    name: str
    """As the user named it: a folder, a hub id, or `demo`."""
    model_type: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    bos_token_id: int | None = None
    path: Path | None = field(default=None, compare=False)
    """The model's folder; None for a model that exists in memory only."""
    context: int | None = None
    """Tokens that it was made for at most; None if config.json does not say."""
    modules: frozenset[str] | None = field(default=None, compare=False, repr=False)
    """The paths of a loaded model's modules; None where no model is loaded."""

    def has_module(self, path: str) -> bool:
        """Whether a module of that path can exist: known of a loaded model, else only that there are so many blocks."""
        if self.modules is not None:
            return path in self.modules
        family = FAMILIES.get(self.model_type)
        block = re.match(rf"{re.escape(family.blocks)}\.(\d+)(?:\.|$)", path) if family is not None else None
        return block is None or int(block[1]) < self.n_layers

    @property
    def family(self) -> Family:
        """Raises ModelError for a model_type that is not supported."""
        try:
            return FAMILIES[self.model_type]
        except KeyError:
            raise ModelError(
                f"{self.name}: model_type {self.model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
            ) from None

    def width(self, site: Site) -> int | None:
        """Size of the last axis of the activation at `site`; None where the text or the module decides it."""
        if site.component == "attn.pattern" or site.module is not None:
            return None
        heads = self.heads(site)
        if heads is not None:
            return heads * self.d_head
        return {"mlp.act": self.d_mlp, "logits": self.d_vocab}.get(site.component, self.d_model)

    def heads(self, site: Site) -> int | None:
        """How many heads the activation at `site` has; None where it has none."""
        if site.component in ("attn.k", "attn.v"):
            return self.n_kv_heads
        return self.n_heads if site.component in ("attn.q", "attn.pattern", "attn.z") else None

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every named site of the model, in the order of a forward."""
        layered = (Site(layer, c) for layer in range(self.n_layers) for c in COMPONENTS)
        return tuple(sorted([*layered, *(Site(None, c) for c in GLOBAL_SITES)]))

    def hook_point(self, site: Site) -> HookPoint:
        """Where `site` is read, and edited too, but for `resid_mid`: its edits go into attention's contribution."""
        family = self.family
        if site.module is not None:
            return HookPoint(*site.module)
        if site.layer is None:
            return {
                "embed": HookPoint(f"{family.blocks}.0", "in"),
                "final": HookPoint(family.final_norm, "out"),
                "logits": HookPoint("", "out"),
            }[site.component]
        module, side = _in_block(family)[site.component]
        columns = self._columns.get(site.component) if family.qkv else None
        return HookPoint(f"{family.blocks}.{site.layer}{'.' if module else ''}{module}", side, columns)

    @property
    def _columns(self) -> dict[str, tuple[int, int]]:
        """Where a projection that makes queries, keys and values puts them."""
        q, kv = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        return {"attn.q": (0, q), "attn.k": (q, q + kv), "attn.v": (q + kv, q + 2 * kv)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], name: str, path: Path | None = None) -> ModelInfo:
        """Read a config.json's keys, whichever of the families' spellings they have.

        Raises:
            ModelError: if a size is missing, is not a positive whole number, or is one that no model has.
        """

        def size(what: str, *keys: str, default: int | None = None) -> int:
            value = next((config[k] for k in keys if config.get(k) is not None), default)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ModelError(f"{name}: config.json gives no {what} (looked for {', '.join(keys)})")
            most = MAX_LAYERS if what == "number of layers" else MAX_SIZE
            if value > most:
                shown = value if value < 10**20 else "a number of more than 20 digits"
                raise ModelError(f"{name}: config.json gives {shown} as the {what}; at most {most} can be")
            return value

        model_type = config.get("model_type")
        if not isinstance(model_type, str):
            raise ModelError(f"{name}: config.json has no model_type, so this is not a language model's folder")
        if model_type not in FAMILIES:
            return cls(name, model_type, 1, 1, 1, 1, 1, 1, 1, path=path)
        d_model = size("d_model", "hidden_size", "n_embd")
        n_heads = size("number of heads", "num_attention_heads", "n_head")
        bos = config.get("bos_token_id")
        context = next((c for k in ("max_position_embeddings", "n_positions") if type(c := config.get(k)) is int), None)
        return cls(
            name=name,
            model_type=model_type,
            n_layers=size("number of layers", "num_hidden_layers", "n_layer"),
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=size("number of KV heads", "num_key_value_heads", default=n_heads),
            d_head=size("head size", "head_dim", default=d_model // n_heads),
            d_mlp=size("MLP width", "intermediate_size", "n_inner", default=4 * d_model),
            d_vocab=size("vocabulary size", "vocab_size"),
            bos_token_id=bos if type(bos) is int and bos >= 0 else None,
            path=path,
            context=context,
        )

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> ModelInfo:
        """Read a model folder's config.json. Raises ModelError if there is none, it is broken, or it is unsupported."""
        name = name or str(path)
        config = path / "config.json"
        if not path.is_dir():
            raise ModelError(f"{name}: there is no such folder")
        if not config.is_file():
            raise ModelError(f"{name}: not a model's folder, it has no config.json")
        try:
            data = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as e:
            raise ModelError(f"{config}: cannot be read as JSON ({e})") from None
        if not isinstance(data, dict):
            raise ModelError(f"{config}: holds no JSON object")
        info = cls.from_config(data, name, path)
        _ = info.family
        return info


def _in_block(family: Family) -> dict[str, tuple[str, Side]]:
    """Component -> (module in the block, side)."""
    return {
        "resid_pre": ("", "in"),
        "attn.in": (family.attn, "in"),
        "attn.q": (family.qkv or family.q, "out"),
        "attn.k": (family.qkv or family.k, "out"),
        "attn.v": (family.qkv or family.v, "out"),
        "attn.pattern": (family.attn, "pattern"),
        "attn.z": (family.o_proj, "in"),
        "attn.raw": (family.attn, "out"),
        "attn": (family.attn_post_norm or family.attn, "out"),
        "resid_mid": (family.mid_norm, "in"),
        "mlp.in": (family.mlp, "in"),
        "mlp.act": (family.down_proj, "in"),
        "mlp.raw": (family.mlp, "out"),
        "mlp": (family.mlp_post_norm or family.mlp, "out"),
        "resid_post": ("", "out"),
    }
