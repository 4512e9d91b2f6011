"""TransformerLens' hook names, and our sites: `blocks.3.hook_mlp_out` is `L3.mlp`.

`hook_mlp_out` is what the MLP adds to the residual stream, after Gemma's post-norm, and so is `L3.mlp`.
`hook_mlp_in` lies before the norm and so is `L3.resid_mid`; what the MLP reads is `ln2.hook_normalized`.
There TransformerLens leaves the weight of an RMSNorm out (and of a LayerNorm when it folds), our `L3.mlp.in`
has it in.
"""

from __future__ import annotations

import re
from typing import Final

from saedsl.sites import Site

_HOOKS: Final[dict[str, str]] = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn",
    "hook_mlp_out": "mlp",
    "ln1.hook_normalized": "attn.in",
    "ln2.hook_normalized": "mlp.in",
    "attn.hook_z": "attn.z",
    "mlp.hook_post": "mlp.act",
}
_ALIASES: Final[dict[str, str]] = {
    "hook_mlp_in": "resid_mid",
    "mlp.hook_in": "mlp.in",
    "mlp.hook_out": "mlp",
}
"""Other spellings of the same places; read, never written."""
_GLOBAL: Final[dict[str, str]] = {"hook_embed": "embed", "ln_final.hook_normalized": "final"}

_BLOCK: Final = re.compile(r"blocks\.(\d{1,9})\.(.+)", re.ASCII)
_COMPONENTS: Final = {component: hook for hook, component in _HOOKS.items()}
_GLOBAL_COMPONENTS: Final = {component: hook for hook, component in _GLOBAL.items()}


def site_of_hook(hook_name: str) -> Site | None:
    """The site that `hook_name` means, or None if we have no such site."""
    if hook_name in _GLOBAL:
        return Site(None, _GLOBAL[hook_name])
    match = _BLOCK.fullmatch(hook_name)
    component = (_HOOKS | _ALIASES).get(match[2]) if match else None
    return Site(int(match[1]), component) if match and component else None


def hook_of_site(site: Site) -> str | None:
    """The hook name that means `site`, or None if TransformerLens has no such hook."""
    if site.layer is None:
        return _GLOBAL_COMPONENTS.get(site.component)
    hook = _COMPONENTS.get(site.component)
    return f"blocks.{site.layer}.{hook}" if hook else None
