"""How a dictionary is trained: one frozen value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal, get_args

from saedsl.errors import TrainingError

SAEType = Literal["topk", "batchtopk"]
Scheduler = Literal["linear", "cosine", "constant"]
InputScale = Literal["dataset", "none"]


@dataclass(frozen=True)
class SAEConfig:
    """Settings of one training run.

    Raises:
        TrainingError: if a value is impossible; the message names every one.
    """

    sae_type: SAEType = "batchtopk"
    """`topk`: exactly k features per token. `batchtopk`: k on average over a batch (arXiv:2412.06410)."""
    expansion_factor: int = 32
    """Features per input dimension; ignored when `d_sae` is given."""
    d_sae: int | None = None
    """Number of features; None for `expansion_factor * d_in`."""
    k: int = 128
    """Features kept per token."""
    learning_rate: float | Literal["auto"] = 3e-4
    """Adam's peak step; `auto` is 2e-4 / sqrt(d_sae / 2^14) (arXiv:2406.04093, appendix A)."""
    lr_scheduler: Scheduler = "cosine"
    """Shape of the decay to 0 at the end."""
    lr_warm_up_steps: int = 100
    """Steps over which the rate grows linearly from 0; at most a tenth of all steps are used."""
    lr_decay_share: float = 0.2
    """Share of the steps, at the end, in which the rate decays."""
    num_epochs: int = 3
    """Passes over the activations; ignored when `num_tokens` is given."""
    num_tokens: int | None = None
    """Tokens to train on, in as many passes as it takes; None for `num_epochs`."""
    batch_size: int = 4096
    """Tokens per step."""
    max_grad_norm: float = 1.0
    """Gradients of all weights together are scaled down to this norm."""
    aux_coefficient: float = 1 / 32
    """Weight of the auxiliary loss for dead features (arXiv:2406.04093, appendix A.2); 0 for none."""
    aux_k: int | None = None
    """Dead features that the auxiliary loss uses per token; None for d_out / 2."""
    dead_window: int | None = None
    """A feature is dead that has not fired for this many tokens; None for a tenth of the run, at most 10M."""
    threshold_momentum: float = 0.99
    """Per step, of the running mean of BatchTopK's threshold, which replaces the batch after training."""
    input_scale: InputScale = "dataset"
    """`dataset` trains on activations of unit variance; the scale is folded into the weights that result."""
    seed: int = 0
    """Of the initial weights and of the order of the tokens."""

    def __post_init__(self) -> None:
        wrong = list(_impossible(self))
        if wrong:
            raise TrainingError("this training cannot run: " + "; ".join(wrong))

    def features(self, d_in: int) -> int:
        """The number of features for inputs of width `d_in`.

        Raises:
            TrainingError: if it is less than k.
        """
        d_sae = self.expansion_factor * d_in if self.d_sae is None else self.d_sae
        if self.k > d_sae:
            raise TrainingError(f"k is {self.k}, more than the {d_sae} features there are; lower k or raise d_sae")
        return d_sae

    def rate(self, d_sae: int) -> float:
        """The peak learning rate for `d_sae` features."""
        return 2e-4 / sqrt(d_sae / 2**14) if self.learning_rate == "auto" else self.learning_rate


def _impossible(c: SAEConfig) -> list[str]:
    wrong = []
    for name, choices in (("sae_type", SAEType), ("lr_scheduler", Scheduler), ("input_scale", InputScale)):
        if getattr(c, name) not in get_args(choices):
            wrong.append(f"{name} is {getattr(c, name)!r}; it can be {', '.join(get_args(choices))}")
    for name in (
        "expansion_factor",
        "d_sae",
        "k",
        "num_epochs",
        "num_tokens",
        "batch_size",
        "aux_k",
        "dead_window",
    ):
        value = getattr(c, name)
        optional = name in ("d_sae", "num_tokens", "aux_k", "dead_window")
        if not (optional and value is None) and not (type(value) is int and value > 0):
            wrong.append(f"{name} is {value!r}, not a positive whole number")
    if c.learning_rate != "auto" and not (isinstance(c.learning_rate, int | float) and c.learning_rate > 0):
        wrong.append(f"learning_rate is {c.learning_rate!r}, not a positive number or 'auto'")
    if c.lr_warm_up_steps < 0:
        wrong.append(f"lr_warm_up_steps is {c.lr_warm_up_steps}, less than 0")
    for name, low, high in (("lr_decay_share", 0.0, 1.0), ("threshold_momentum", 0.0, 1.0)):
        if not low <= getattr(c, name) < high:
            wrong.append(f"{name} is {getattr(c, name)}, not from {low:g} up to and without {high:g}")
    if c.max_grad_norm <= 0:
        wrong.append(f"max_grad_norm is {c.max_grad_norm}, not positive")
    if not wrong and c.num_tokens is not None and c.num_tokens < c.batch_size:
        wrong.append(f"num_tokens is {c.num_tokens}, less than one batch of {c.batch_size}")
    if c.aux_coefficient < 0:
        wrong.append(f"aux_coefficient is {c.aux_coefficient}, less than 0")
    return wrong
