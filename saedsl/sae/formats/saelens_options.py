"""What `model_from_pretrained_kwargs` of a SAELens config does to the activations that a dictionary was trained on.

The options are TransformerLens' (`HookedTransformer.from_pretrained`, `process_weights_`): they rewrite weights so that
the model's output stays what it was, but not every activation inside.
"""

from __future__ import annotations

from typing import Final

from saedsl.errors import SAEError
from saedsl.sites import Site

_WRITING: Final = ("resid_pre", "resid_mid", "resid_post", "attn", "mlp")
"""Sites of the residual stream, and of what is written to it. `center_writing_weights` takes each token's mean away
there and nowhere else: a LayerNorm takes it away itself."""
_CHANGES: Final[dict[str, tuple[str, ...]]] = {
    "center_unembed": (),
    "fold_ln": ("attn.in", "mlp.in", "final"),
    "fold_value_biases": ("attn.v", "attn.z"),
    "refactor_factored_attn_matrices": ("attn.q", "attn.k", "attn.v", "attn.z"),
}
"""Options -> the sites, other than logits, whose activations they change. `fold_ln` moves a norm's weights into the
layer behind it, `fold_value_biases` moves b_V into b_O."""
_HARMLESS: Final = frozenset({"device", "dtype", "torch_dtype", "n_devices", "trust_remote_code", "revision"})
"""Options of the model's loading that leave the activations what they are."""


def centred(site: Site | None) -> bool:
    """Whether `center_writing_weights` takes each token's mean away at `site`."""
    return site is not None and (site.component in _WRITING or site.component == "embed")


def check_model_options(options: object, sites: tuple[Site | None, ...]) -> bool:
    """Whether tokens at one of `sites` must lose their mean before the dictionary reads them.

    Raises:
        SAEError: if an option changes activations in another way, or it is not known where the dictionary is.
    """
    changing = {k: v for k, v in options.items() if v and k not in _HARMLESS} if isinstance(options, dict) else {}
    known = [site for site in sites if site is not None]
    for name, value in sorted(changing.items()):
        if name == "center_writing_weights" and known:
            continue
        if name in _CHANGES and known and not any(_changed(site, _CHANGES[name]) for site in known):
            continue
        where = ", whose activations there differ" if known else ", whose activations at an unknown site may differ"
        raise SAEError(
            f"trained on a model loaded with {name}={value}{where} from the model's own; saedsl does not support that"
        )
    return bool(changing.get("center_writing_weights")) and any(centred(site) for site in known)


def _changed(site: Site, components: tuple[str, ...]) -> bool:
    return site.component in components or site.component == "logits" or site.module is not None
