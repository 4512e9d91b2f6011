"""How pre-activations become features while a dictionary learns, and how gradients come back: one function a form.

The gradients are written out: they need no graph, are the same on every machine, and sums over processes fit in
between. A batch comes in parts of R tokens, whose sums add up; what a form must know of all of it first is `of_all`.
Tests hold the gradients against autodiff. Letters in shapes: B tokens, F features, O the width of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from saedsl.training.adam import Weights, row_norms, sum_of_squares
from saedsl.training.engine import Form, Settings
from saedsl.training.joint import Joint
from saedsl.training.selection import batch_border, keep, row_borders


class Pulled(NamedTuple):
    """What the gradient of the features becomes."""

    dpre: mx.array
    """[R, F], of `u @ W_enc`."""
    own: Weights
    """Of the encoder's bias and what else only the activation knows."""


@dataclass(frozen=True)
class Active:
    """The features of a part of a batch."""

    f: mx.array
    """[R, F]"""
    fires: mx.array
    """[R, F] bool: where `f` is positive."""
    pull: Callable[[mx.array], Pulled]
    """From the reconstruction's gradient of `f` [R, F]; the sparsity loss, and gated's auxiliary one, are added."""
    l1: mx.array | None = None
    """[F]: sums over tokens of what the L1 loss weighs."""
    aux: mx.array | None = None
    """This part's share of the auxiliary loss of gated."""


@dataclass(frozen=True)
class Around:
    """What activations need to know of the step."""

    form: Form
    settings: Settings
    w: Weights
    n: int
    """Tokens of the whole batch."""
    joint: Joint
    hint: float
    """A guess below BatchTopK's threshold."""

    @property
    def needs_all(self) -> bool:
        """Whether the form must see all pre-activations of a batch before it can say which features are active."""
        adaptive = self.form.activation == "jumprelu" and self.settings.target_l0 is not None
        return adaptive or self.form.activation == "batchtopk"

    @cached_property
    def dl1(self) -> mx.array:
        """[F]: the L1 loss's gradient of a feature, the same in every part of the batch."""
        return self.settings.sparsity / self.n * row_norms(self.w["W_dec"])


def of_all(parts: Sequence[mx.array], around: Around) -> float:
    """What `around.needs_all` is about, of pre-activations [R, F]: BatchTopK's threshold, or JumpReLU's L0."""
    if around.form.activation == "batchtopk":
        return batch_border(parts, max(round(around.n * around.settings.k), 1), around.hint, around.joint)
    theta = mx.exp(around.w["log_threshold"])
    fires = sum((mx.sum(mx.sum(pre > theta, axis=-1)) for pre in parts), start=mx.array(0)) / around.n
    return float(np.array(around.joint.over_both(fires.reshape(1)))[0])


def activate(
    pre: mx.array, around: Around, of_batch: float = 0.0, missing: Callable[[mx.array], mx.array] | None = None
) -> Active:
    """The features of a part of a batch.

    Args:
        pre: [R, F], of gated the gate's pre-activations.
        around: the step.
        of_batch: `of_all`, where the form needs it.
        missing: gated: from features [R, F], what they decode to minus the target, [R, O].
    """
    match around.form.activation:
        case "topk":  # arXiv:2406.04093, section 2.3, over a ReLU
            return _selected(pre, row_borders(pre, max(round(around.settings.k), 1), around.joint))
        case "batchtopk":  # arXiv:2412.06410
            return _selected(pre, of_batch)
        case "relu":
            return _relu(pre, around)
        case "jumprelu":
            return _jumprelu(pre, around, of_batch)
        case "gated":
            assert missing is not None
            return _gated(pre, around, missing)


def l1_loss(sums: mx.array, around: Around) -> tuple[mx.array, mx.array]:
    """The mean over tokens of the L1 loss and its gradient of W_dec [F, O], from sums over tokens of features [F]."""
    W_dec = around.w["W_dec"]
    norms = row_norms(W_dec)
    return mx.sum(sums * norms) / around.n, (around.settings.sparsity / around.n * sums / norms)[:, None] * W_dec


def sparsity_loss(form: Form, settings: Settings, mean: float) -> float:
    """The sparsity loss, weight included, of the `mean` of L1 (relu, gated) or L0 (jumprelu) of the whole batch."""
    if form.activation == "jumprelu" and settings.target_l0 is not None:
        return settings.sparsity * (mean / settings.target_l0 - 1) ** 2
    return settings.sparsity * mean


def _selected(pre: mx.array, border: mx.array | float) -> Active:
    f, fires = keep(pre, border)

    def pull(df: mx.array) -> Pulled:
        dpre = df * fires
        return Pulled(dpre, {"b_enc": dpre.sum(axis=0)})

    return Active(f, fires, pull)


def _relu(pre: mx.array, around: Around) -> Active:
    """L1 weighted by decoder norms (Anthropic, April 2024 update); a crosscoder's row is as long as all its sites'."""
    f = mx.maximum(pre, 0)
    fires = f > 0

    def pull(df: mx.array) -> Pulled:
        dpre = (df + around.dl1) * fires
        return Pulled(dpre, {"b_enc": dpre.sum(axis=0)})

    return Active(f, fires, pull, l1=f.sum(axis=0))


def _jumprelu(pre: mx.array, around: Around, l0: float) -> Active:
    """arXiv:2407.14435, section 3: thresholds learn by straight-through estimators, the encoder by what fires."""
    s = around.settings
    theta = mx.exp(around.w["log_threshold"])
    above = pre > theta

    def pull(df: mx.array) -> Pulled:
        weight = s.sparsity / around.n
        if s.target_l0 is not None:
            weight *= 2 * (l0 / s.target_l0 - 1) / s.target_l0
        near = (mx.abs(pre - theta) < s.bandwidth / 2) * (1 / s.bandwidth)
        dtheta = -mx.sum(near * (theta * df + weight), axis=0)
        dpre = df * above
        return Pulled(dpre, {"b_enc": dpre.sum(axis=0), "log_threshold": theta * dtheta})

    return Active(pre * above, above, pull)


def _gated(pre: mx.array, around: Around, missing: Callable[[mx.array], mx.array]) -> Active:
    """arXiv:2404.16014, section 3.2; the auxiliary reconstruction goes through a frozen copy of the decoder."""
    w = around.w
    gate, scale = mx.maximum(pre, 0), mx.exp(w["r_mag"])
    linear = pre - w["b_gate"]
    magnitude = mx.maximum(linear * scale + w["b_mag"], 0)
    f = magnitude * (pre > 0)
    fires = f > 0
    without = missing(gate)

    def pull(df: mx.array) -> Pulled:
        dmagnitude = df * fires
        dgate = ((2 / around.n) * without @ w["W_dec"].T + around.dl1) * (pre > 0)
        own = {
            "b_gate": dgate.sum(axis=0),
            "b_mag": dmagnitude.sum(axis=0),
            "r_mag": scale * mx.sum(dmagnitude * linear, axis=0),
        }
        return Pulled(dgate + dmagnitude * scale, own)

    return Active(f, fires, pull, l1=gate.sum(axis=0), aux=sum_of_squares(without) / around.n)
