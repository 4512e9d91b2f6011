"""Gradients that stand for effects: along a path (IG), with parts of the model held (RelP), a layer dropped (GradDrop).

All are gradients at dictionaries' output sites, [batch, seq, d_out]; what a node's effect is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np

from saedsl.anatomy import ModelInfo
from saedsl.circuits.prepared import Setup, added, as_numpy, run_from
from saedsl.circuits.splice import moved
from saedsl.errors import CircuitError
from saedsl.holds import Hold, linear_norms
from saedsl.sites import Site
from saedsl.trace import Frame, Hooks, SiteFn

Gradient = Mapping[Site, np.ndarray]
"""By `Place.write`: [batch, seq, d_out] float32."""


def path_gradients(setup: Setup, steps: int, batch_rows: int) -> Gradient:
    """Mean gradient along the straight path of each site's activations, features and errors, from clean to patched.

    At the midpoints (k + 1/2) / steps (Sundararajan et al. 2017, arXiv:1703.01365; Marks et al. 2024). Sites move one
    at a time. A row is a prompt at a step; upstream of the site nothing is computed again.
    """
    found = {}
    for place in setup.places:
        site = place.write
        whole = mx.array(moved(place, setup.clean[site], setup.patch[site]))
        prompts = [b for _ in range(steps) for b in setup.rows]
        alpha = np.repeat((np.arange(steps, dtype=np.float32) + 0.5) / steps, len(setup.rows))
        total = np.zeros(whole.shape, np.float64)
        for span in setup.spans(len(prompts), batch_rows):
            some = prompts[span]

            def value(delta: mx.array, some: Sequence[int] = some, site: Site = site) -> mx.array:
                return run_from(setup, site, delta, some).sum()

            here = whole[mx.array(some)] * mx.array(alpha[span])[:, None, None]
            np.add.at(total, some, as_numpy(mx.grad(value)(here)))
        found[site] = (total / steps).astype(np.float32)
    return found


def held_gradients(setup: Setup) -> Gradient:
    """RelP (Jafari et al. 2025): norms' denominators and attention weights are constants, units' slopes are ratios.

    A unit f(g) is `g` times the constant f(g) / g; of the two factors of a gated unit each counts half.
    """
    info = setup.model.info
    functions: dict[Site, SiteFn] = {}
    for layer in range(info.n_layers):
        for part in ("attn.q", "attn.k"):
            functions[Site(layer, part)] = lambda x, frame: mx.stop_gradient(x)
        functions |= _linear_units(info, layer)

    def still(x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
        return mx.stop_gradient(x), mx.stop_gradient(y)

    return backward(setup, functions, linear_norms(info, lambda path: still))


def dropped_gradients(setup: Setup) -> list[Gradient]:
    """GradDrop (Kramár et al. 2024, arXiv:2403.00745): for each layer, with no gradient through what it adds."""
    found = []
    for layer in range(setup.model.info.n_layers):
        stops: dict[Site, SiteFn] = {
            Site(layer, part): lambda x, frame: mx.stop_gradient(x) for part in ("attn", "mlp")
        }
        found.append(backward(setup, stops))
    return found


def backward(setup: Setup, functions: Mapping[Site, SiteFn], held: Sequence[tuple[str, Hold]] = ()) -> Gradient:
    """Gradients of the clean prompts with these functions in the model; a dictionary's own site is moved after them."""
    writes = [p.write for p in setup.places]

    def value(deltas: list[mx.array]) -> mx.array:
        moves = added(dict(zip(writes, deltas, strict=True)))
        both = {site: _both(functions[site], moves[site]) if site in functions else moves[site] for site in moves}
        logits, _ = Hooks(setup.model.model, setup.model.info, {**functions, **both}, held=held)(setup.pairs.ids)
        return setup.metric(logits, setup.rows, setup.logits).sum()

    grads = mx.grad(value)([mx.zeros(setup.at[site].shape) for site in writes])
    return dict(zip(writes, map(as_numpy, grads), strict=True))


def _both(first: SiteFn, then: SiteFn) -> SiteFn:
    return lambda x, frame: then(first(x, frame), frame)


def _linear_units(info: ModelInfo, layer: int) -> dict[Site, SiteFn]:
    """Functions that make the units of one MLP linear where they are; values stay."""
    block = f"{info.family.blocks}.{layer}.{info.family.mlp}"
    modules = info.modules or frozenset()
    inputs = next(
        (names for names in (("gate_proj", "up_proj"), ("gate_up_proj",), ("c_fc",))
         if all(f"{block}.{name}" in modules for name in names)),
        None,
    )  # fmt: skip
    if inputs is None:
        raise CircuitError(f"relp does not know the MLP of {info.model_type}: {block} has no gate_proj or c_fc")

    def remember(name: str) -> SiteFn:
        def keep(x: mx.array, frame: Frame) -> mx.array:
            frame.scratch["relp", layer, name] = x
            return x

        return keep

    def linear(h: mx.array, frame: Frame) -> mx.array:
        seen = [frame.scratch.pop(("relp", layer, name)) for name in inputs]
        factors = mx.split(seen[0], 2, axis=-1) if inputs == ("gate_up_proj",) else seen
        share = 1 / len(factors)
        parts = [share * x.astype(mx.float32) * mx.stop_gradient(_ratio(h, x)) for x in factors]
        total = sum(parts[1:], parts[0])
        return mx.stop_gradient(h) + (total - mx.stop_gradient(total)).astype(h.dtype)

    names = {Site.of_module(f"{block}.{name}", "out"): remember(name) for name in inputs}
    return {**names, Site(layer, "mlp.act"): linear}


def _ratio(h: mx.array, x: mx.array) -> mx.array:
    """h / x, 0 where x is."""
    x = x.astype(mx.float32)
    return mx.where(x == 0, 0.0, h.astype(mx.float32) / mx.where(x == 0, 1.0, x))
