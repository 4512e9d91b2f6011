"""Dictionaries spliced into a model: values stay what they are, and every feature and error can be moved.

    y = x + s(x) * df W_dec + deps

at a dictionary's output site, differentiated with respect to `df` and `deps` at 0 (Marks et al. 2024,
arXiv:2403.19647). The gradient goes through x on to what is upstream, so all nodes have theirs from one backward pass:
that of feature j is `s * (g . W_dec[j])`, g being the gradient at the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from saedsl.anatomy import ModelInfo
from saedsl.errors import CircuitError
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

SAEs = Mapping[str, SAE] | Sequence[SAE]
"""Dictionaries, by the text of the site that each writes where they do not say it themselves."""


@dataclass(frozen=True, eq=False)
class Place:
    """A dictionary at its place in a model."""

    sae: SAE
    read: Site
    """Where it encodes."""
    write: Site
    """Where its features write, and where its nodes are."""

    @property
    def name(self) -> str:
        """The text of `write`."""
        return str(self.write)

    @property
    def kind(self) -> str:
        """Of its feature nodes."""
        return "transcoder" if self.sae.config.is_transcoder else "feature"


@dataclass(frozen=True, eq=False)
class Side:
    """What one run of the prompts is made of at one place."""

    f: np.ndarray
    """[batch, seq, d_sae] features; 0 where the dictionary has no nodes."""
    error: np.ndarray
    """[batch, seq, d_out]; 0 where the dictionary has no nodes."""
    scale: np.ndarray
    """[batch, seq, 1], what one unit of the decoder is stretched by."""


def placed(info: ModelInfo, saes: SAEs) -> tuple[Place, ...]:
    """Dictionaries at their places, in the order in which a forward writes them.

    Raises:
        CircuitError: if there are none, one does not say its site or names another than it is given for, does not fit
            the model, was trained on another, reads or writes several sites, or two write the same.
    """
    given = list(saes.items()) if isinstance(saes, Mapping) else [(None, sae) for sae in saes]
    if not given:
        raise CircuitError("there are no dictionaries: without them there are no features")
    found = [_place(info, key, sae) for key, sae in given]
    for place in found:
        if sum(p.write == place.write for p in found) > 1:
            raise CircuitError(f"two dictionaries write {place.write}: effects at one site are of one dictionary")
    return tuple(sorted(found, key=lambda p: p.write))


def encoded(place: Place, x: mx.array, y: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """(features, what the site is without them, what they are stretched by) of a run, not evaluated.

    Args:
        place: the dictionary.
        x: [batch, seq, d_in] at `place.read`.
        y: [batch, seq, d_out] at `place.write`; `x` for an SAE.
    """
    sae = place.sae
    nothing = sae.decode(mx.zeros((1, 1, sae.config.d_sae)), x)  # the decoder's bias, the token's mean, the skip
    return sae.encode(x), y.astype(mx.float32) - nothing, mx.broadcast_to(sae.scale(x), (*x.shape[:2], 1))


def side(place: Place, f: np.ndarray, rest: np.ndarray, scale: np.ndarray, allowed: np.ndarray) -> Side:
    """A run at one place, from `encoded`.

    Args:
        place: the dictionary.
        f: [batch, seq, d_sae]
        rest: [batch, seq, d_out]
        scale: [batch, seq, 1]
        allowed: [batch, seq] where it has nodes.
    """
    keep = allowed[..., None]
    f = f if allowed.all() else np.where(keep, f, 0)
    error = rest.reshape(-1, rest.shape[-1]).copy()
    at, feature = firing(f)
    if len(at):  # few features fire: their rows are added up, in place of a product with the whole decoder
        values = f.reshape(-1, f.shape[-1])[at, feature] * scale.reshape(-1)[at]
        rows = values[:, None] * host(place.sae.W_dec)[feature]
        starts = np.flatnonzero(np.diff(at, prepend=-1))
        error[at[starts]] -= np.add.reduceat(rows, starts, axis=0)
    return Side(f, np.where(keep, error.reshape(rest.shape), 0), scale)


def firing(f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(token, feature) of every feature that is not 0, tokens counted over the batch."""
    flat = np.flatnonzero(f)
    return flat // f.shape[-1], flat % f.shape[-1]


def host(x: mx.array) -> np.ndarray:
    """A view of a float32 array for numpy; no copy on a CPU."""
    return np.asarray(x)


def moved(place: Place, clean: Side, patch: Side | None) -> np.ndarray:
    """[batch, seq, d_out] by which the site moves when all nodes there are patched at once; to 0 without a patch."""
    f = -clean.f if patch is None else patch.f - clean.f
    error = -clean.error if patch is None else patch.error - clean.error
    moved: np.ndarray = (f @ host(place.sae.W_dec)) * clean.scale + error
    return moved


def _place(info: ModelInfo, key: str | None, sae: SAE) -> Place:
    if not isinstance(sae, SAE):
        raise CircuitError(f"{key}: this {type(sae).__name__} is no dictionary; SAE.load reads one from a folder")
    c = sae.config
    called = key or str(c.output_site)
    if c.several_sites:
        raise CircuitError(f"{called}: a {c.kind} reads or writes several sites; effects are of SAEs and transcoders")
    site = _site(key) if key is not None else c.output_site
    if site is None:
        raise CircuitError('a dictionary does not say which site it was trained on; say it: {"L2.mlp": sae}')
    write = c.output_site or site
    if site not in (write, c.input_site):
        raise CircuitError(f"{site}: the dictionary given for it was trained on {write}; give it as {str(write)!r}")
    read = c.input_site if c.is_transcoder else write
    if read is None:
        raise CircuitError(f"{called}: this transcoder does not say which site it reads")
    for where, width, verb in ((read, c.d_in, "reads"), (write, c.d_out, "writes")):
        _check_fit(info, called, where, width, verb)
    if c.model_name is not None and not _same_model(c.model_name, info):
        raise CircuitError(
            f"{called}: the dictionary was trained on the model {c.model_name}, this is {info.name}; if they are the "
            "same, say so: sae.with_config(model_name=None)"
        )
    return Place(sae, read, write)


def _site(key: str) -> Site:
    try:
        return Site.parse(str(key))
    except ValueError as error:
        raise CircuitError(str(error)) from None


def _check_fit(info: ModelInfo, called: str, site: Site, width: int, verb: str) -> None:
    if site.layer is not None and site.layer >= info.n_layers:
        raise CircuitError(f"{called}: the dictionary {verb} {site}; {info.name} has {info.n_layers} layers, from L0")
    if site.module is not None or site.component in ("attn.pattern", "logits"):
        raise CircuitError(f"{called}: effects of features at {site} are not supported; give a named site's dictionary")
    here = info.width(site)
    if here != width:
        raise CircuitError(
            f"{called}: the dictionary {verb} vectors of {width} numbers, {site} of {info.name} has {here}: it belongs "
            "to another model or site"
        )


def _same_model(name: str, info: ModelInfo) -> bool:
    """Whether a recorded model name means this model: the last part of a path or of a hub id is what people keep."""
    here = {info.name.rstrip("/").rsplit("/", 1)[-1], info.path.name if info.path else info.name}
    return name.rstrip("/").rsplit("/", 1)[-1] in here
