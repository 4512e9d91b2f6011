"""The runs that effects start from: clean prompts with the metric's gradient at every dictionary, and corrupt ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from saedsl.circuits.metric import Metric
from saedsl.circuits.pairs import Pairs
from saedsl.circuits.splice import Place, Side, encoded, side
from saedsl.errors import CircuitError
from saedsl.holds import Hold
from saedsl.sites import Site
from saedsl.trace import Frame, Hooks, SiteFn

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel


@dataclass(frozen=True, eq=False)
class Setup:
    """A task on a model: prompts, dictionaries, metric, and what plain runs of them gave."""

    model: InterpretableModel
    pairs: Pairs
    places: tuple[Place, ...]
    metric: Metric
    logits: mx.array
    """[batch, seq, d_vocab] of the clean prompts."""
    at: Mapping[Site, mx.array]
    """[batch, seq, width] of the clean prompts: every `resid_pre`, and where dictionaries read and write."""
    value: np.ndarray
    """[batch] of the clean prompts."""
    patch_value: np.ndarray | None
    """[batch] of the corrupt prompts; None without."""
    gradient: Mapping[Site, np.ndarray]
    """[batch, seq, d_out] of the metric at each `Place.write`, of the clean prompts."""
    clean: Mapping[Site, Side]
    """By `Place.write`."""
    patch: Mapping[Site, Side | None]
    """Likewise; None stands for 0."""

    @property
    def rows(self) -> list[int]:
        """The number of each clean prompt."""
        return list(range(len(self.pairs.clean)))

    def spans(self, rows: int, size: int) -> list[slice]:
        """Rows in batches of at most `size`."""
        return [slice(i, min(i + size, rows)) for i in range(0, rows, size)]


def prepare(
    model: InterpretableModel, pairs: Pairs, places: Sequence[Place], metric: Metric, gradients: bool = True
) -> Setup:
    """Run the prompts: two forwards and one backward.

    Raises:
        CircuitError: if activations, the metric or its gradient are not finite.
    """
    info = model.info
    writes = [p.write for p in places]
    streams = [Site(layer, "resid_pre") for layer in range(info.n_layers)]
    captures = {*streams, *writes, *(p.read for p in places)}
    rows = list(range(len(pairs.clean)))

    def clean(deltas: list[mx.array]) -> tuple[mx.array, mx.array, mx.array, dict[Site, mx.array]]:
        hooks = Hooks(model.model, info, added(dict(zip(writes, deltas, strict=True))), captures)
        logits, frame = hooks(pairs.ids)
        values = metric(logits, rows, mx.stop_gradient(logits))
        return values.sum(), values, logits, frame.captured

    zeros = [mx.zeros((*pairs.ids.shape, p.sae.config.d_out)) for p in places]
    if gradients:
        (_, values, logits, at), grads = mx.value_and_grad(clean)(zeros)
    else:
        _, values, logits, at = clean(zeros)
        grads = []
    patch_values, both = None, at
    if pairs.corrupt_ids is not None:
        corrupt, frame = Hooks(model.model, info, {}, {*writes, *(p.read for p in places)})(pairs.corrupt_ids)
        patch_values = metric(corrupt, rows, logits)
        both = {s: mx.concatenate([at[s], x[:, pairs.first :]], axis=1) for s, x in frame.captured.items()}
    parts = [encoded(p, both[p.read], both[p.write]) for p in places]
    mx.eval(logits, values, list(at.values()), grads, parts, patch_values)
    allowed = {on_bos: pairs.allowed(on_bos) for on_bos in {p.sae.config.trained_on_bos for p in places}}
    clean_sides: dict[Site, Side] = {}
    patch_sides: dict[Site, Side | None] = {}
    n = pairs.length
    for place, part in zip(places, parts, strict=True):
        whole, keep = [as_numpy(x) for x in part], allowed[place.sae.config.trained_on_bos]
        f, rest, scale = (x[:, :n] for x in whole)
        clean_sides[place.write] = side(place, f, rest, scale, keep)
        patch_sides[place.write] = None
        if pairs.corrupt is not None:
            f, rest, scale = (np.concatenate([x[:, : pairs.first], x[:, n:]], axis=1) for x in whole)
            patch_sides[place.write] = side(place, f, rest, scale, keep)
    setup = Setup(
        model,
        pairs,
        tuple(places),
        metric,
        logits,
        at,
        as_numpy(values),
        None if patch_values is None else as_numpy(patch_values),
        dict(zip(writes, map(as_numpy, grads), strict=True)) if gradients else {},
        clean_sides,
        patch_sides,
    )
    _check(setup)
    return setup


def check_slope(setup: Setup, gradient: Mapping[Site, np.ndarray]) -> None:
    """Raise CircuitError if the metric does not depend on any dictionary's site."""
    if not any(g.any() for g in gradient.values()):
        raise CircuitError(
            f"the metric {setup.metric.text} is constant: its gradient is 0 at every dictionary, so it does not "
            "depend on them"
        )


def added(deltas: Mapping[Site, mx.array]) -> dict[Site, SiteFn]:
    """Functions that add [batch, seq, width] at each site."""

    def add(delta: mx.array) -> SiteFn:
        return lambda x, frame: x + delta.astype(x.dtype)

    return {site: add(delta) for site, delta in deltas.items()}


def constant(value: mx.array) -> SiteFn:
    """A function that puts `value` in place of what is there; what is there is then not computed."""

    def put(x: mx.array, frame: Frame) -> mx.array:
        return value.astype(x.dtype)

    return put


def run_from(
    setup: Setup,
    site: Site,
    delta: mx.array,
    prompts: Sequence[int],
    more: Mapping[Site, SiteFn] | None = None,
    held: Sequence[tuple[str, Hold]] = (),
) -> mx.array:
    """The metric of runs in which the clean activation of `site` has been moved; nothing upstream is computed again.

    Args:
        setup: the task.
        site: where a dictionary writes.
        delta: [rows, seq, d_out].
        prompts: the clean prompt of each row.
        more: functions at other sites.
        held: see `Hooks`.

    Returns:
        [rows] float32, not evaluated.
    """
    rows = mx.array(list(prompts))
    functions: dict[Site, SiteFn] = dict(more or {})
    start = Site(site.layer, "resid_pre")
    if site.layer is not None and site != start:
        functions[start] = constant(setup.at[start][rows])
    functions[site] = constant(setup.at[site][rows].astype(mx.float32) + delta)
    logits, _ = Hooks(setup.model.model, setup.model.info, functions, held=held)(setup.pairs.ids[rows])
    return setup.metric(logits, prompts, setup.logits)


def as_numpy(x: mx.array) -> np.ndarray:
    """A float32 copy on the host."""
    return np.array(x if x.dtype == mx.float32 else x.astype(mx.float32))


def finite(values: np.ndarray, what: str) -> None:
    """Raise CircuitError, naming what is not finite."""
    if not np.isfinite(values).all():
        raise CircuitError(f"{what} is not finite (nan or infinite): nothing can be said of its effects")


def _check(setup: Setup) -> None:
    for site, x in setup.at.items():
        finite(as_numpy(x), f"the activation at {site} of the clean prompts")
    for which, values in (("clean", setup.value), ("corrupt", setup.patch_value)):
        if values is not None:
            finite(values, f"the metric {setup.metric.text} of the {which} prompts")
    for name, of in (("clean", setup.clean), ("corrupt", setup.patch)):
        for site, half in of.items():
            for part in () if half is None else (half.error, half.scale):
                finite(part, f"what the dictionary at {site} makes of the {name} prompts")
    for site, g in setup.gradient.items():
        finite(g, f"the gradient of {setup.metric.text} at {site}")
