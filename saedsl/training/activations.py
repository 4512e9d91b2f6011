"""How pre-activations become features while a dictionary learns, and how gradients come back: one function a form.

The gradients are written out: they need no graph, are the same on every machine, and sums over processes fit in
between. Tests hold them against autodiff. Letters in shapes: B tokens, F features, O the width of the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from saedsl.training.adam import Weights, row_norms, sum_of_squares
from saedsl.training.engine import Form, Settings
from saedsl.training.joint import Joint
from saedsl.training.selection import batch_border, keep, row_borders


class Pulled(NamedTuple):
    """What the gradient of the features becomes."""

    dpre: mx.array
    """[B, F], of `u @ W_enc`."""
    own: Weights
    """Of the encoder's bias and what else only the activation knows; what it has of W_dec's is added to the rest."""


@dataclass(frozen=True)
class Active:
    """The features of a batch."""

    f: mx.array
    """[B, F]"""
    fires: mx.array
    """[B, F] bool: where `f` is positive."""
    pull: Callable[[mx.array], Pulled]
    """From the reconstruction's gradient of `f` [B, F]; the sparsity loss, and gated's auxiliary one, are added."""
    sparsity: mx.array | None = None
    """This process's part of the mean that the sparsity loss weighs: of L1, or of L0."""
    aux: mx.array | None = None
    """This process's part of the auxiliary loss of gated."""
    threshold: float = 0.0
    """batchtopk: the smallest pre-activation that was kept."""


@dataclass(frozen=True)
class Around:
    """What activations need to know of the step."""

    form: Form
    settings: Settings
    w: Weights
    n: int
    """Tokens of the whole batch."""
    joint: Joint
    missing: Callable[[mx.array], mx.array]
    """From features [B, F], what they decode to minus the target, [B, O]."""
    hint: float
    """A guess below BatchTopK's threshold."""


def activate(pre: mx.array, around: Around) -> Active:
    """The features of `pre` [B, F], of gated the gate's pre-activations."""
    return _FORMS[around.form.activation](pre, around)


def sparsity_loss(form: Form, settings: Settings, mean: float) -> float:
    """The sparsity loss, weight included, of the `mean` of L1 (relu, gated) or L0 (jumprelu) of the whole batch."""
    if form.activation == "jumprelu" and settings.target_l0 is not None:
        return settings.sparsity * (mean / settings.target_l0 - 1) ** 2
    return settings.sparsity * mean


def _topk(pre: mx.array, around: Around) -> Active:
    """arXiv:2406.04093, section 2.3, over a ReLU."""
    return _selected(pre, row_borders(pre, max(round(around.settings.k), 1), around.joint), 0.0)


def _batchtopk(pre: mx.array, around: Around) -> Active:
    """arXiv:2412.06410."""
    border = batch_border(pre, max(round(around.n * around.settings.k), 1), around.hint, around.joint)
    return _selected(pre, border, border)


def _selected(pre: mx.array, border: mx.array | float, threshold: float) -> Active:
    f, fires = keep(pre, border)

    def pull(df: mx.array) -> Pulled:
        dpre = df * fires
        return Pulled(dpre, {"b_enc": dpre.sum(axis=0)})

    return Active(f, fires, pull, threshold=threshold)


def _relu(pre: mx.array, around: Around) -> Active:
    """L1 weighted by decoder norms (Anthropic, April 2024 update); a crosscoder's row is as long as all its sites'."""
    f = mx.maximum(pre, 0)
    fires, l1 = f > 0, _L1(f, around)

    def pull(df: mx.array) -> Pulled:
        dpre = (df + l1.df) * fires
        return Pulled(dpre, {"b_enc": dpre.sum(axis=0), "W_dec": l1.dW_dec})

    return Active(f, fires, pull, sparsity=l1.mean)


def _jumprelu(pre: mx.array, around: Around) -> Active:
    """arXiv:2407.14435, section 3: thresholds learn by straight-through estimators, the encoder by what fires."""
    s = around.settings
    theta = mx.exp(around.w["log_threshold"])
    above = pre > theta
    l0 = mx.sum(above) / around.n

    def pull(df: mx.array) -> Pulled:
        weight = mx.array(s.sparsity / around.n)
        if s.target_l0 is not None:
            l0_of_all = around.joint.over_both(l0.reshape(1))
            weight = weight * 2 * (l0_of_all / s.target_l0 - 1) / s.target_l0
        near = (mx.abs(pre - theta) < s.bandwidth / 2) * (1 / s.bandwidth)
        dtheta = -mx.sum(near * (theta * df + weight), axis=0)
        dpre = df * above
        return Pulled(dpre, {"b_enc": dpre.sum(axis=0), "log_threshold": theta * dtheta})

    return Active(pre * above, above, pull, sparsity=l0)


def _gated(pre: mx.array, around: Around) -> Active:
    """arXiv:2404.16014, section 3.2; the auxiliary reconstruction goes through a frozen copy of the decoder."""
    w = around.w
    gate, scale = mx.maximum(pre, 0), mx.exp(w["r_mag"])
    linear = pre - w["b_gate"]
    magnitude = mx.maximum(linear * scale + w["b_mag"], 0)
    f = magnitude * (pre > 0)
    fires = f > 0
    l1 = _L1(gate, around)
    missing = around.missing(gate)

    def pull(df: mx.array) -> Pulled:
        dmagnitude = df * fires
        dgate = ((2 / around.n) * missing @ w["W_dec"].T + l1.df) * (pre > 0)
        own = {
            "b_gate": dgate.sum(axis=0),
            "b_mag": dmagnitude.sum(axis=0),
            "r_mag": scale * mx.sum(dmagnitude * linear, axis=0),
            "W_dec": l1.dW_dec,
        }
        return Pulled(dgate + dmagnitude * scale, own)

    return Active(f, fires, pull, sparsity=l1.mean, aux=sum_of_squares(missing) / around.n)


class _L1:
    """The L1 loss of features `f` [B, F], and its gradients."""

    def __init__(self, f: mx.array, around: Around) -> None:
        W_dec = around.w["W_dec"]
        norms, summed = row_norms(W_dec), f.sum(axis=0)
        weight = around.settings.sparsity / around.n
        self.mean = mx.sum(summed * norms) / around.n
        self.df = weight * norms
        self.dW_dec = (weight * summed / norms)[:, None] * W_dec


_FORMS: dict[str, Callable[[mx.array, Around], Active]] = {
    "relu": _relu,
    "topk": _topk,
    "batchtopk": _batchtopk,
    "jumprelu": _jumprelu,
    "gated": _gated,
}
