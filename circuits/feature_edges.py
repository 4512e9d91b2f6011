"""Edges between nodes of dictionaries: what a source does to a target directly, not by way of a site in between.

    w(u -> d) = delta_u . d(g_d . d) / du

with `g_d` the metric's gradient at the target (Marks et al. 2024, arXiv:2403.19647). The target is read live,
`f_d = enc(x_d)` with the encoder's gradient, or as what features leave; every dictionary's site in between is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np

from saedsl.circuits.frozen import Frozen, direct_gradients
from saedsl.circuits.prepared import Setup
from saedsl.circuits.splice import Place
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

WHOLE: Final = ("embed", "resid_pre", "resid_mid", "resid_post", "final")
"""Components that everything passes through: behind a cut there, nothing that is before it has a direct effect."""


@dataclass(frozen=True, eq=False)
class Sources:
    """Nodes that edges come from, at one site."""

    site: Site
    prompt: np.ndarray
    """[k]"""
    position: np.ndarray
    """[k]"""
    delta: np.ndarray
    """[k, width] by which each moves its position."""


@dataclass(frozen=True, eq=False)
class Targets:
    """Scalars that edges go to, each linear in what its site reads and writes: `read . x + write . y`."""

    read_at: Site
    write_at: Site
    prompt: np.ndarray
    """[n]"""
    position: np.ndarray
    """[n]"""
    read: np.ndarray | None
    """[n, width at `read_at`]"""
    write: np.ndarray | None = None
    """[n, width at `write_at`]"""


Progress = Callable[[int, int], None]


def edge_weights(
    setup: Setup,
    frozen: Frozen,
    targets: Targets,
    sources: Sequence[Sources],
    cut: Sequence[Site],
    batch_rows: int,
    done: Progress | None = None,
) -> list[np.ndarray]:
    """The direct effect of every source on every target.

    Args:
        setup: the task.
        frozen: what is held.
        targets: what is moved.
        sources: what moves it, by site.
        cut: sites of sources and of dictionaries in between.
        batch_rows: targets of one backward pass.
        done: called with (targets done, targets).

    Returns:
        [n, k] for each of `sources`; 0 for sources of other prompts and later positions.
    """
    found = [np.zeros((len(targets.prompt), len(s.prompt)), np.float32) for s in sources]
    sides = ((targets.read_at, targets.read), (targets.write_at, targets.write))
    wanted = [(site, part) for site, part in sides if part is not None]
    finished = 0
    for rows in _batches(targets, batch_rows):
        prompt, length = int(targets.prompt[rows[0]]), int(targets.position[rows].max()) + 1
        picks = {site: _dense(part, rows, targets.position, length) for site, part in wanted}

        def value(logits: mx.array, seen: Mapping[Site, mx.array], picks: Mapping[Site, mx.array] = picks) -> mx.array:
            return mx.stack([(seen[site].astype(mx.float32) * pick).sum() for site, pick in picks.items()]).sum()

        captures = [site for site, _ in wanted]
        grads = direct_gradients(setup, frozen, prompt, length, len(rows), cut, captures, value)
        for s, weights in zip(sources, found, strict=True):
            here = np.flatnonzero((s.prompt == prompt) & (s.position < length))
            for t in np.unique(s.position[here]):
                some = here[s.position[here] == t]
                weights[np.ix_(rows, some)] = grads[s.site][:, t] @ s.delta[some].T
        finished += len(rows)
        if done is not None:
            done(finished, len(targets.prompt))
    return found


def reaching(sites: Sequence[Site], target: Site) -> list[Site]:
    """Those of `sites` before `target` that have a direct path to it."""
    before = sorted(s for s in sites if s < target)
    last = max((i for i, s in enumerate(before) if s.component in WHOLE), default=0)
    return before[last:]


def feature_targets(
    place: Place, x: mx.array, prompt: np.ndarray, position: np.ndarray, feature: np.ndarray, weight: np.ndarray
) -> Targets:
    """Features, each times its weight, as targets.

    Args:
        place: the dictionary.
        x: [batch, seq, d_in] where it reads.
        prompt: [n] of each.
        position: [n]
        feature: [n]
        weight: [n]
    """

    def wanted(rows: mx.array, some: slice) -> mx.array:
        f = place.sae.encode(rows)
        own = mx.take_along_axis(f, mx.array(feature[some])[:, None], axis=-1)[:, 0]
        return (own * mx.array(weight[some].astype(np.float32))).sum()

    return Targets(place.read, place.write, prompt, position, _slopes(wanted, x, prompt, position))


def error_targets(place: Place, x: mx.array, prompt: np.ndarray, position: np.ndarray, gradient: np.ndarray) -> Targets:
    """Errors, each times the gradient at its site [n, d_out], as targets: all that features do not carry.

    That is `g . (y - s f W_dec)`: the error itself, with a normalising dictionary also the mean and spread of the
    token, with a transcoder also its skip. So a site's targets together carry all that goes through it.
    """

    def wanted(rows: mx.array, some: slice) -> mx.array:
        scale = mx.stop_gradient(place.sae.scale(rows))
        return -(scale * (place.sae.encode(rows) @ place.sae.W_dec) * mx.array(gradient[some])).sum()

    read = _slopes(wanted, x, prompt, position)
    if place.read == place.write:
        return Targets(place.read, place.write, prompt, position, read + gradient)
    return Targets(place.read, place.write, prompt, position, read, gradient)


def linear_form(sae: SAE, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(directions [n, d_in], biases [n]) of pre-activations: `p = direction . x + bias`.

    Of `gated`, the pre-activation of the magnitude. The dictionary takes its input as it is, or centred.
    """
    c = sae.config
    W = np.array(sae.W_enc)[:, feature].T
    bias = np.zeros(len(feature)) if sae.b_enc is None else np.array(sae.b_enc)[feature]
    if c.apply_b_dec_to_input:
        bias = bias - W @ np.array(sae.b_dec)
    if sae.r_mag is not None and sae.b_mag is not None:
        stretch = np.exp(np.array(sae.r_mag)[feature])
        W, bias = W * stretch[:, None], bias * stretch + np.array(sae.b_mag)[feature]
    if c.center_input:
        W = W - W.mean(axis=-1, keepdims=True)
    return W, bias


def _slopes(
    wanted: Callable[[mx.array, slice], mx.array], x: mx.array, prompt: np.ndarray, position: np.ndarray
) -> np.ndarray:
    """[n, d_in] gradient of a sum over nodes with respect to the token that each reads."""
    tokens = x[mx.array(prompt), mx.array(position)].astype(mx.float32)
    found = np.zeros(tokens.shape, np.float32)
    for start in range(0, len(prompt), 256):
        some = slice(start, start + 256)
        found[some] = np.array(mx.grad(lambda rows, some=some: wanted(rows, some))(tokens[some]))
    return found


def _batches(targets: Targets, size: int) -> Iterator[np.ndarray]:
    """Targets in batches of one prompt, by position: short batches run few tokens."""
    order = np.lexsort((targets.position, targets.prompt))
    for prompt in np.unique(targets.prompt):
        mine = order[targets.prompt[order] == prompt]
        for start in range(0, len(mine), size):
            yield mine[start : start + size]


def _dense(part: np.ndarray, rows: np.ndarray, position: np.ndarray, length: int) -> mx.array:
    """[rows, length, width] with each row's vector at its position."""
    dense = np.zeros((len(rows), length, part.shape[-1]), np.float32)
    dense[np.arange(len(rows)), position[rows]] = part[rows]
    return mx.array(dense)
