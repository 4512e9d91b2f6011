"""What a training step is, for every implementation of it: `saedsl.training.fast` (numba) and `.portable` (MLX).

An engine owns the weights and Adam's state of one dictionary. Nothing outside reads them but through copies.
Letters in shapes: B tokens, F features, I and O the widths of input and output (all sites of each, one after another).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

Activation = Literal["relu", "topk", "batchtopk", "jumprelu", "gated"]
Arrays = dict[str, np.ndarray]
"""float32 arrays by name: W_enc [I, F], b_enc [F], W_dec [F, O], b_dec [O]; jumprelu: log_threshold [F]; gated:
b_gate [F], r_mag [F], b_mag [F] instead of b_enc; skip: W_skip [O, I]. Of a cross-layer transcoder of L layers, whose
feature reads its own layer only, W_enc is [I / L, F]. Adam's moments are `m.NAME` and `v.NAME`."""


@dataclass(frozen=True)
class Form:
    """The dictionary that is trained: fixed for a run."""

    activation: Activation
    """How pre-activations become features."""
    prefixes: tuple[int, ...] = ()
    """Matryoshka: where the nested dictionaries end, ascending, the last one F (arXiv:2503.17547); () for one."""
    subtract_b_dec: bool = True
    """Whether the encoder reads `x - b_dec`."""
    skip: bool = False
    """Whether a linear path `x @ W_skip.T` is trained as well."""
    layers: int = 1
    """More than 1: a cross-layer transcoder; feature j is of layer `j // (F / layers)`, writes from it on."""


@dataclass(frozen=True)
class Aux:
    """The dead features of a step, and how to revive them."""

    dead: np.ndarray
    """[n] int32, feature numbers, ascending."""
    k: int
    """auxk: of them, how many each token uses."""
    coefficient: float
    """Weight of the loss; for auxk, when there are at least `k` dead features."""
    method: Literal["auxk", "ghost"] = "auxk"
    """auxk: arXiv:2406.04093, appendix A.2. ghost: Anthropic, January 2024 update, "Ghost Grads"."""


@dataclass(frozen=True)
class Settings:
    """What the schedule says of one step."""

    step: int
    """From 1; Adam's bias correction counts by it."""
    rate: float
    """Adam's step size."""
    k: float = 0.0
    """topk, batchtopk: features per token now; topk rounds, batchtopk keeps round(B * k) in the batch."""
    sparsity: float = 0.0
    """relu, gated: weight of the L1 loss sum_j f_j ||W_dec_j||; jumprelu: of the L0 loss."""
    target_l0: float | None = None
    """jumprelu: the L0 loss is (L0 / target_l0 - 1)^2 instead of L0."""
    bandwidth: float = 0.001
    """jumprelu: width of the straight-through kernel (arXiv:2407.14435)."""
    aux: Aux | None = None
    """None while no feature is dead."""
    max_grad_norm: float = 1.0
    """All gradients together are scaled down to this norm."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Weight -> times which its step is larger than `rate`; 1 for those that are not here."""

    def rate_of(self, weight: str) -> float:
        """Adam's step of one weight."""
        return self.rate * self.factors.get(weight, 1.0)


@dataclass(frozen=True)
class Outcome:
    """What one step saw, before its update. Losses are means over tokens."""

    reconstruction: float
    """||x^ - y||^2; of Matryoshka, the mean over its prefixes."""
    sparsity: float
    """The sparsity loss, weight included."""
    aux: float
    """The auxiliary loss, weight included."""
    l0: float
    """Features that fired, mean per token."""
    l1: float
    """Sum of the features, mean per token."""
    fired: np.ndarray
    """[F] bool."""
    threshold: float
    """batchtopk: the smallest pre-activation that was kept; else 0."""


class Parallel(Protocol):
    """How processes work on one step together; `saedsl.training.parallel` speaks MLX's `mx.distributed`."""

    split: Literal["data", "latents"]
    """data: every process has all weights and its part of the batch; B, and the mean of a loss, are the whole batch's.
    latents: every process has all of the batch and F / size of the features; its weights and state are of these, while
    feature numbers, prefixes, k and outcomes are of all."""
    rank: int
    size: int

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The element-wise sum over processes; the same bits in all of them."""

    def gather(self, values: np.ndarray) -> np.ndarray:
        """[size, ...]: every process's `values`, all of one shape, in the order of ranks."""


class Engine(Protocol):
    """One dictionary in training."""

    form: Form

    def step(self, x: np.ndarray, y: np.ndarray, settings: Settings) -> Outcome:
        """One update: losses, gradients, projection of W_dec's gradient, clipping, Adam, unit rows of W_dec.

        Args:
            x: [B, I] float32, scaled already.
            y: [B, O] float32, the target; `x` itself for an SAE.
            settings: of this step.
        """

    def weights(self) -> Arrays:
        """Copies of the weights."""

    def state(self) -> Arrays:
        """Copies of weights and moments: all that `restore` needs to go on bitwise as if nothing had happened."""

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from `state`."""

    def replace_features(self, ids: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        """Give features new weights (`W_enc` [I, n], `W_dec` [n, O], `b_enc` [n] ...) and moments of 0."""
