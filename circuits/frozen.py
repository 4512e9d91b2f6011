"""Clean prompts run again from what their clean run left: parts held, sites cut and moved. What edges are made of.

Attention weights can be those of the clean run, norms can keep its denominators; activations that are cut are the clean
ones, whatever happens upstream, plus what they are moved by. With both held and MLPs cut, what is left is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from saedsl.attention import unflatten
from saedsl.circuits.prepared import Setup
from saedsl.errors import CircuitError
from saedsl.holds import Hold, linear_norms, norm_paths
from saedsl.sites import Site
from saedsl.trace import Frame, Hooks, SiteFn


@dataclass(frozen=True, eq=False)
class Frozen:
    """What of the clean runs is held."""

    patterns: Mapping[int, mx.array] = field(default_factory=dict)
    """Layer -> attention weights [batch, n_kv_heads, group, seq, keys]; live where a layer is missing."""
    norms: Mapping[str, tuple[mx.array, mx.array]] = field(default_factory=dict)
    """Path -> input and output of the norm [batch, seq, d_model]; live where none is given."""
    skips: Mapping[Site, tuple[Site, mx.array]] = field(default_factory=dict)
    """Site that is cut -> (site, W_skip [d_out, d_in]) of a linear path that stays live around the cut."""
    at: Mapping[Site, mx.array] = field(default_factory=dict)
    """[batch, seq, width], clean activations where sites are cut and skips begin."""


def freeze(
    setup: Setup,
    patterns: bool,
    norms: bool,
    skips: Mapping[Site, tuple[Site, mx.array]] | None = None,
) -> Frozen:
    """One forward of the clean prompts that keeps what is to be held.

    Raises:
        CircuitError: if attention of this model is not its weights times its values.
    """
    info = setup.model.info
    layers = range(info.n_layers) if patterns else ()
    parts = {Site(layer, f"attn.{part}") for layer in layers for part in ("pattern", "v", "z")}
    paths = norm_paths(info) if norms else []
    sides = {path: (Site.of_module(path, "in"), Site.of_module(path, "out")) for path in paths}
    captures = {*parts, *(site for pair in sides.values() for site in pair)}
    _, frame = Hooks(setup.model.model, info, {}, captures)(setup.pairs.ids)
    seen = frame.captured
    batch, n = setup.pairs.ids.shape
    held = {}
    for layer in layers:
        weights = unflatten(seen[Site(layer, "attn.pattern")].astype(mx.float32), info.n_heads)
        held[layer] = weights.reshape(batch, info.n_kv_heads, -1, n, n)
        z, mixed = seen[Site(layer, "attn.z")].astype(mx.float32), mix(held[layer], seen[Site(layer, "attn.v")])
        worst, size = (float(mx.abs(x).max()) for x in (z - mixed, z))
        if not worst <= 2e-2 * max(size, 1e-6):
            raise CircuitError(
                f"in layer {layer} of this {info.model_type}, attention is not its weights times its values (off by "
                f"{worst:.2g} of {size:.2g}): its patterns cannot be held"
            )
    kept = {path: (seen[x], seen[y]) for path, (x, y) in sides.items()}
    mx.eval(list(held.values()), list(kept.values()))
    return Frozen(held, kept, dict(skips or {}), setup.at)


def mix(weights: mx.array, v: mx.array) -> mx.array:
    """Values mixed by attention weights, [rows, seq, n_heads * d_head] float32.

    Args:
        weights: [rows or 1, n_kv_heads, group, seq, keys].
        v: [rows, keys, n_kv_heads * d_head].
    """
    rows, n = v.shape[:2]
    kv = weights.shape[1]
    values = v.astype(mx.float32).reshape(rows, n, kv, -1).transpose(0, 2, 1, 3)[:, :, None]
    return (weights @ values).transpose(0, 3, 1, 2, 4).reshape(rows, n, -1)


Objective = Callable[[mx.array, Mapping[Site, mx.array]], mx.array]
"""(logits [rows, length, d_vocab], captured activations) -> a scalar, the sum of what is wanted of each row."""


def rerun(
    setup: Setup,
    frozen: Frozen,
    prompt: int,
    length: int,
    moved: Mapping[Site, mx.array],
    captures: Sequence[Site],
) -> tuple[mx.array, dict[Site, mx.array]]:
    """Rows of one prompt's first tokens, each with its own moves at the sites that are cut.

    Args:
        setup: the task.
        frozen: what is held.
        prompt: its number.
        length: tokens from the front; those behind have no influence on them.
        moved: by site that is cut [rows, length, width], added to the clean activation there.
        captures: sites that are wanted.

    Returns:
        Logits [rows, length, d_vocab] and activations, not evaluated; only what is asked of them is ever computed.
    """
    info = setup.model.info
    rows = next(iter(moved.values())).shape[0]
    functions: dict[Site, SiteFn] = {}
    for layer, weights in frozen.patterns.items():
        functions |= _held_attention(layer, weights[prompt : prompt + 1, ..., :length, :length])
    for site, (source, _) in frozen.skips.items():
        functions[source] = _remember(site)
    for site, delta in moved.items():
        functions[site] = _cut(frozen, site, prompt, length, delta)
    held: list[tuple[str, Hold]] = []
    if frozen.norms:
        held = linear_norms(info, lambda path: _held_norm(frozen.norms[path], prompt, length))
    tokens = mx.broadcast_to(setup.pairs.ids[prompt : prompt + 1, :length], (rows, length))
    logits, frame = Hooks(setup.model.model, info, functions, captures, held=held)(tokens)
    return logits, frame.captured


def direct_gradients(
    setup: Setup,
    frozen: Frozen,
    prompt: int,
    length: int,
    rows: int,
    cut: Sequence[Site],
    captures: Sequence[Site],
    objective: Objective,
) -> dict[Site, np.ndarray]:
    """Gradient of each row's objective with respect to the activation at each site, all sites in between cut.

    Args:
        setup: the task.
        frozen: what is held.
        prompt: its number.
        length: tokens that are run.
        rows: how many objectives there are.
        cut: the sites.
        captures: activations that the objective reads.
        objective: row r's is a function of row r alone.

    Returns:
        [rows, length, width] by site.
    """

    def value(deltas: list[mx.array]) -> mx.array:
        logits, seen = rerun(setup, frozen, prompt, length, dict(zip(cut, deltas, strict=True)), captures)
        return objective(logits, seen)

    zeros = [mx.zeros((rows, length, frozen.at[site].shape[-1])) for site in cut]
    grads = mx.grad(value)(zeros)
    mx.eval(grads)
    return {site: np.array(g) for site, g in zip(cut, grads, strict=True)}


def _cut(frozen: Frozen, site: Site, prompt: int, length: int, delta: mx.array) -> SiteFn:
    still = frozen.at[site][prompt : prompt + 1, :length].astype(mx.float32)
    source, skip = frozen.skips.get(site, (None, None))
    before = None if source is None else frozen.at[source][prompt : prompt + 1, :length].astype(mx.float32)

    def cut(x: mx.array, frame: Frame) -> mx.array:
        value = still + delta
        if skip is not None:
            value = value + (frame.scratch.pop(("skip", site)).astype(mx.float32) - before) @ skip.T
        return value.astype(x.dtype)

    return cut


def _remember(site: Site) -> SiteFn:
    def remember(x: mx.array, frame: Frame) -> mx.array:
        frame.scratch["skip", site] = x
        return x

    return remember


def _held_attention(layer: int, weights: mx.array) -> dict[Site, SiteFn]:
    def remember(v: mx.array, frame: Frame) -> mx.array:
        frame.scratch["values", layer] = v
        return v

    def held(z: mx.array, frame: Frame) -> mx.array:
        return mix(weights, frame.scratch.pop(("values", layer))).astype(z.dtype)

    return {Site(layer, "attn.v"): remember, Site(layer, "attn.z"): held}


def _held_norm(
    clean: tuple[mx.array, mx.array], prompt: int, length: int
) -> Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]:
    x, y = (part[prompt : prompt + 1, :length] for part in clean)
    return lambda live, out: (x, y)
