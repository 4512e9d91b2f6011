"""Where dictionaries read and write, as the published formats spell it: hooks, modules, Hugging Face's names.

`ln2.hook_normalized` of TransformerLens is an RMSNorm's output *without* its weight, which no site of ours is. It is
the residual stream before that norm, each token scaled to norm sqrt(d): `resid_mid` with `constant_norm_rescale`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from saedsl.sae.config import Normalization
from saedsl.sae.hooknames import site_of_hook
from saedsl.sites import Site


class Reading(NamedTuple):
    """Where an encoder reads, and what is done to each token first."""

    site: Site | None
    normalize: Normalization = "none"


_MODULE: Final = re.compile(r"(?:.*\.)?(?:layers|h|blocks)[._](\d{1,9})(?:\.(.+))?", re.ASCII | re.DOTALL)
_MLP: Final = ("mlp", "feed_forward", "ffn")
_ATTN: Final = ("self_attn", "attn", "attention", "self_attention")
_POST_NORM: Final = re.compile(r"gemma-?[23]|olmo-?2")
_EMBED: Final = ("embed_tokens", "embed_in", "wte")
_HF: Final[dict[str, str]] = {
    "output": "resid_post",
    "input": "resid_pre",
    "pre_feedforward_layernorm.output": "mlp.in",
    "post_feedforward_layernorm.output": "mlp",
    "mlp.output": "mlp.raw",
    "mlp.input": "mlp.in",
    "self_attn.o_proj.input": "attn.z",
    "self_attn.output": "attn.raw",
    "post_attention_layernorm.output": "attn",
}
"""Hugging Face's modules of Gemma 3, and their sides."""


def reading_of(hook: str | None) -> Reading:
    """Where the TransformerLens hook `hook` of a model with RMSNorms reads."""
    site = None if hook is None else site_of_hook(hook)
    if hook is not None and site is not None and hook.endswith("ln2.hook_normalized"):
        return Reading(Site(site.layer, "resid_mid"), "constant_norm_rescale")
    if hook is not None and site is not None and hook.endswith("ln1.hook_normalized"):
        return Reading(Site(site.layer, "resid_pre"), "constant_norm_rescale")
    return Reading(site)


def sites_of_module(name: str, model: str) -> tuple[Site, Site] | None:
    """The input and the output of the module `name`, e.g. `model.layers.3.mlp` or `layers.3`; None if unknown.

    Args:
        name: as PyTorch names it.
        model: the model's name, or a path that may tell it. Gemma and OLMo 2 have a norm behind each sublayer, so that
            what the module puts out is not what reaches the residual stream.
    """
    if name.rpartition(".")[2] in _EMBED:
        return Site(None, "embed"), Site(None, "embed")
    match = _MODULE.fullmatch(name)
    if match is None:
        return None
    layer, rest = int(match[1]), match[2]
    raw = ".raw" if _POST_NORM.search(model.lower()) else ""
    if rest is None:
        return Site(layer, "resid_pre"), Site(layer, "resid_post")
    if rest in _MLP:
        return Site(layer, "mlp.in"), Site(layer, f"mlp{raw}")
    if rest in _ATTN:
        return Site(layer, "attn.in"), Site(layer, f"attn{raw}")
    return None


def site_of_hf_point(point: str | None) -> Site | None:
    """The site of a Gemma Scope 2 hook point, e.g. `model.layers.12.output`; None if unknown."""
    match = re.fullmatch(r"(?:.*\.)?layers\.(\d{1,9})\.([a-z_.]+)", point or "", re.ASCII)
    component = _HF.get(match[2]) if match else None
    return Site(int(match[1]), component) if match and component else None
