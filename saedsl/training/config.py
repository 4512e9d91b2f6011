"""How a dictionary is trained: one frozen value, checked when it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import isfinite, sqrt
from typing import Any, Literal, get_args

from saedsl.errors import TrainingError

SAEType = Literal["batchtopk", "topk", "matryoshka", "jumprelu", "gated", "relu", "standard"]
Kind = Literal["sae", "transcoder", "crosscoder", "clt"]
Scheduler = Literal["linear", "cosine", "constant"]
InputScale = Literal["dataset", "none"]
BiasInit = Literal["mean", "geometric_median", "zeros"]
Curriculum = Literal["norm", "loss", "length"]

TOPK_TYPES = ("topk", "batchtopk", "matryoshka")
L1_TYPES = ("relu", "standard", "gated")
SHARED = (
    "batch_size", "num_epochs", "num_tokens", "seed", "validation_share", "checkpoint_every", "curriculum",
    "curriculum_share", "curriculum_pool", "use_wandb", "wandb_project", "wandb_name",
)  # fmt: skip
"""What dictionaries that are trained together, from one stream of activations, have in common."""


@dataclass(frozen=True)
class SAEConfig:
    """Settings of one training run.

    Raises:
        TrainingError: if a value is impossible, or has no effect beside the others; the message names every one.
    """

    # The dictionary
    sae_type: SAEType = "batchtopk"
    """`batchtopk`: k features a token on average over a batch (arXiv:2412.06410). `topk`: k in each (2406.04093).
    `matryoshka`: batchtopk whose first features are dictionaries themselves (2503.17547). `jumprelu` (2407.14435),
    `gated` (2404.16014), `relu` with an L1 loss, which SAELens calls `standard`."""
    kind: Kind | None = None
    """`crosscoder`: several sites read and written together. `clt`: each layer's features write its own and all later
    layers. None: `transcoder` where there are targets, else `sae`."""
    expansion_factor: int = 32
    """Features per input dimension; ignored when `d_sae` is given."""
    d_sae: int | None = None
    """Number of features; None for `expansion_factor * d_in`."""
    k: int = 128
    """topk, batchtopk, matryoshka: features kept per token."""
    prefixes: tuple[int, ...] | None = None
    """matryoshka: where the nested dictionaries end, ascending, the last one d_sae; None for d_sae / 16, 8, 4, 2, 1."""
    subtract_b_dec: bool | None = None
    """Whether the encoder reads `x - b_dec`; None: where it reads what it writes."""
    skip: bool = False
    """transcoder: whether a linear path from input to output is trained as well (arXiv:2501.18823)."""
    b_dec_init: BiasInit = "mean"
    """Where `b_dec` starts: at the mean of the activations, their geometric median, or 0."""
    input_scale: InputScale = "dataset"
    """`dataset` trains on activations of unit variance; the scale is folded into the weights that result."""

    # The budget
    num_epochs: int = 3
    """Passes over the activations; ignored when `num_tokens` is given."""
    num_tokens: int | None = None
    """Tokens to train on, in as many passes as it takes; None for `num_epochs`."""
    batch_size: int = 4096
    """Tokens per step."""
    seed: int = 0
    """Of the initial weights and of the order of the tokens."""

    # The optimiser
    learning_rate: float | Literal["auto"] = 3e-4
    """Adam's peak step; `auto` is 2e-4 / sqrt(d_sae / 2^14) (arXiv:2406.04093, appendix A)."""
    lr_scheduler: Scheduler = "cosine"
    """Shape of the decay to 0 at the end."""
    lr_warm_up_steps: int = 100
    """Steps over which the rate grows linearly from 0; at most a tenth of all steps are used."""
    lr_decay_share: float = 0.2
    """Share of the steps, at the end, in which the rate decays."""
    decoder_rate: float = 2.0
    """Times which `W_dec` learns faster than the encoder."""
    bias_rate: float | None = None
    """Times which the biases of features learn faster than the encoder; None for 0.4 sqrt(d_in), at least 1: they are
    pre-activations, whose size grows like the length of an activation."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """How long Adam remembers gradients and their squares."""
    max_grad_norm: float = 1.0
    """Gradients of all weights together are scaled down to this norm."""

    # Sparsity
    l1_coefficient: float | None = None
    """relu, gated: weight of the L1 loss, or with `target_l0` what it starts from; None for 0.08 sqrt(d_out), which is
    the 5 of Anthropic's April 2024 update at a width of 4096."""
    l0_coefficient: float | None = None
    """jumprelu: weight of the L0 loss; None for d_out / 1000, with `target_l0` for d_out (arXiv:2407.14435, scaled)."""
    target_l0: float | None = None
    """relu, gated: the L1 coefficient is steered until so many features fire. jumprelu: its loss has its minimum there.
    Others have `k`."""
    target_variance: float | None = None
    """topk, batchtopk, matryoshka: k is learnt: it is steered, from `k` on, until the explained variance of batches
    is this."""
    sparsity_warm_up_steps: int | None = None
    """relu, gated, jumprelu: steps over which the sparsity loss grows from 0; None for all of them."""
    k_warm_up_steps: int = 0
    """topk, batchtopk, matryoshka: steps over which k falls to its value from `k_start`."""
    k_start: int | None = None
    """Features per token before `k_warm_up_steps`; None for 4 k."""
    threshold_momentum: float = 0.99
    """Per step, of the running mean of BatchTopK's threshold, which replaces the batch after training."""
    rescale: bool = True
    """relu, gated: whether features are scaled at the end, each by itself, to make good what the L1 loss has shrunk."""
    bandwidth: float | None = None
    """jumprelu: width of the kernel that learns thresholds; None for sqrt(d_out) / 1000 (arXiv:2407.14435, scaled)."""

    # Dead features
    dead_window: int | None = None
    """A feature is dead that has not fired for this many tokens; None for a tenth of the run, at most 10M."""
    aux_coefficient: float | None = None
    """Weight of the auxiliary loss for dead features (arXiv:2406.04093, appendix A.2); 0 for none; None for 1/32, or 1
    with `use_ghost_grads`."""
    aux_k: int | None = None
    """Dead features that the auxiliary loss uses per token; None for d_out / 2."""
    use_ghost_grads: bool = False
    """Revive dead features by ghost gradients (Anthropic, January 2024) instead."""
    resample_every: int | None = None
    """Tokens after which dead features start anew on badly explained tokens, again and again; None for never."""
    resample_until: float = 0.7
    """Share of the run after which none is resampled any more."""

    # Order of the tokens
    curriculum: Curriculum | None = None
    """At first only the easier tokens are learnt from: by the `norm` of activations, by the dictionary's own `loss`, by
    the `length` of the text; None for all from the start."""
    curriculum_share: float = 0.5
    """Share of the steps until all tokens are learnt from."""
    curriculum_pool: int = 4
    """At the start, the easiest of so many tokens is learnt from."""

    # What is kept and shown
    validation_share: float = 0.05
    """Share of the documents (of the tokens, where documents are not known) that is held out to measure the dictionary
    on; 0 for none. Of very few documents, none may be held out."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, where there is a folder for them."""
    use_wandb: bool = False
    """Send the curve to Weights & Biases; `WANDB_MODE=offline` keeps it here."""
    wandb_project: str = "saedsl"
    """Its project."""
    wandb_name: str | None = None
    """What the run is called there; None for a name of its own."""

    def __post_init__(self) -> None:
        if isinstance(self.prefixes, list):  # as TOML and JSON have it
            object.__setattr__(self, "prefixes", tuple(self.prefixes))
        if isinstance(self.adam_betas, list):
            object.__setattr__(self, "adam_betas", tuple(self.adam_betas))
        wrong = [*_impossible_alone(self)] or [*_impossible_together(self)]
        if wrong:
            raise TrainingError("this training cannot run: " + "; ".join(wrong))

    def features(self, d_in: int) -> int:
        """The number of features for inputs of width `d_in`.

        Raises:
            TrainingError: if k, or where a prefix ends, is not among them.
        """
        d_sae = self.expansion_factor * d_in if self.d_sae is None else self.d_sae
        if self.sae_type in TOPK_TYPES and self.k > d_sae:
            raise TrainingError(f"k is {self.k}, more than the {d_sae} features there are; lower k or raise d_sae")
        if self.prefixes is not None and self.prefixes[-1] != d_sae:
            raise TrainingError(f"prefixes end at {self.prefixes[-1]}, the dictionary has {d_sae} features; end there")
        return d_sae

    def nested(self, d_sae: int) -> tuple[int, ...]:
        """Where the nested dictionaries of `d_sae` features end; () if there is one only."""
        if self.sae_type != "matryoshka":
            return ()
        return self.prefixes or tuple(sorted({max(d_sae // n, 1) for n in (16, 8, 4, 2, 1)}))

    def rate(self, d_sae: int) -> float:
        """The peak learning rate for `d_sae` features."""
        return 2e-4 / sqrt(d_sae / 2**14) if self.learning_rate == "auto" else self.learning_rate

    def rate_factors(self, d_in: int) -> dict[str, float]:
        """Weight -> times which its step is larger than that of the encoder, which reads `d_in` inputs."""
        bias = max(0.4 * sqrt(d_in), 1.0) if self.bias_rate is None else self.bias_rate
        return {"W_dec": self.decoder_rate, "b_enc": bias, "b_gate": bias, "b_mag": bias}

    def revival(self) -> float:
        """The weight of the loss for dead features."""
        if self.aux_coefficient is not None:
            return self.aux_coefficient
        return 1.0 if self.use_ghost_grads else 1 / 32

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "SAEConfig") -> SAEConfig:
        """A config from JSON's or TOML's values.

        Raises:
            TrainingError: if a key is unknown; the message suggests one.
        """
        from difflib import get_close_matches

        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                close = get_close_matches(key, known, 1)
                hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
                raise TrainingError(f"{where} has no {key}{hint}")
        return cls(**values)


_WHOLE = {
    "expansion_factor": False, "d_sae": True, "k": False, "num_epochs": False, "num_tokens": True, "batch_size": False,
    "k_start": True, "aux_k": True, "dead_window": True, "resample_every": True, "curriculum_pool": False,
    "checkpoint_every": False,
}  # fmt: skip
"""Positive whole numbers -> whether they can be None."""
_POSITIVE = {"l1_coefficient": True, "l0_coefficient": True, "target_l0": True, "bandwidth": True,
             "max_grad_norm": False, "decoder_rate": False, "bias_rate": True}  # fmt: skip
"""Positive numbers -> whether they can be None."""
_SHARES = ("lr_decay_share", "threshold_momentum", "validation_share")
_CHOICES: dict[str, tuple[Any, bool]] = {
    "sae_type": (SAEType, False), "kind": (Kind, True), "lr_scheduler": (Scheduler, False),
    "input_scale": (InputScale, False), "b_dec_init": (BiasInit, False), "curriculum": (Curriculum, True),
}  # fmt: skip


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _impossible_alone(c: SAEConfig) -> Iterator[str]:
    """Values that are wrong whatever the others are."""
    for name, (choices, optional) in _CHOICES.items():
        value = getattr(c, name)
        if value not in get_args(choices) and not (optional and value is None):
            yield f"{name} is {value!r}; it can be {', '.join(get_args(choices))}"
    for name, optional in _WHOLE.items():
        value = getattr(c, name)
        if not (optional and value is None) and not (type(value) is int and value > 0):
            yield f"{name} is {value!r}, not a positive whole number"
    for name, optional in _POSITIVE.items():
        value = getattr(c, name)
        if not (optional and value is None) and not (_number(value) and value > 0):
            yield f"{name} is {value!r}, not a positive number"
    if c.learning_rate != "auto" and not (_number(c.learning_rate) and c.learning_rate > 0):
        yield f"learning_rate is {c.learning_rate!r}, not a positive number or 'auto'"
    for name in ("lr_warm_up_steps", "sparsity_warm_up_steps", "k_warm_up_steps", "seed"):
        value = getattr(c, name)
        if not (name == "sparsity_warm_up_steps" and value is None) and not (type(value) is int and value >= 0):
            yield f"{name} is {value!r}, not a whole number from 0"
    for name in _SHARES:
        value = getattr(c, name)
        if not (_number(value) and 0 <= value < 1):
            yield f"{name} is {value!r}, not from 0 up to and without 1"
    for name in ("resample_until", "curriculum_share"):
        value = getattr(c, name)
        if not (_number(value) and 0 < value <= 1):
            yield f"{name} is {value!r}, not above 0 and at most 1"
    if c.target_variance is not None and not (_number(c.target_variance) and 0 < c.target_variance < 1):
        yield f"target_variance is {c.target_variance!r}, not between 0 and 1"
    if c.aux_coefficient is not None and not (_number(c.aux_coefficient) and c.aux_coefficient >= 0):
        yield f"aux_coefficient is {c.aux_coefficient!r}, less than 0 or not a number"
    betas = c.adam_betas
    if not (isinstance(betas, tuple) and len(betas) == 2 and all(_number(b) and 0 <= b < 1 for b in betas)):
        yield f"adam_betas is {betas!r}, not two numbers from 0 up to and without 1"
    ends = c.prefixes
    if ends is not None and not (
        isinstance(ends, tuple)
        and ends
        and all(type(n) is int and n > 0 for n in ends)
        and list(ends) == sorted(set(ends))
    ):
        yield f"prefixes is {ends!r}, not ascending positive whole numbers"


def _impossible_together(c: SAEConfig) -> Iterator[str]:
    """Values that exclude one another, or would silently do nothing."""
    topk = c.sae_type in TOPK_TYPES
    if c.num_tokens is not None and c.num_tokens < c.batch_size:
        yield f"num_tokens is {c.num_tokens}, less than one batch of {c.batch_size}"
    if c.prefixes is not None and c.sae_type != "matryoshka":
        yield f"prefixes are a matryoshka's, sae_type is {c.sae_type}"
    if c.target_l0 is not None and topk:
        yield f"target_l0 has no use for {c.sae_type}, which keeps k features: set k"
    if c.target_variance is not None and not topk:
        yield f"target_variance steers k, which {c.sae_type} does not have: set target_l0"
    if c.target_variance is not None and c.k_warm_up_steps:
        yield "k_warm_up_steps and target_variance both decide k; leave one of them out"
    if c.k_start is not None and not (topk and c.k_warm_up_steps):
        yield "k_start is k before k_warm_up_steps; set those, of a topk, batchtopk or matryoshka"
    elif c.k_warm_up_steps and not topk:
        yield f"k_warm_up_steps has no use for {c.sae_type}, which has no k"
    elif c.k_start is not None and c.k_start < c.k:
        yield f"k falls from k_start to k, but k_start is {c.k_start} and k is {c.k}"
    if topk and c.sparsity_warm_up_steps is not None:
        yield f"sparsity_warm_up_steps has no use for {c.sae_type}, which has no sparsity loss: set k_warm_up_steps"
    if c.l1_coefficient is not None and c.sae_type not in L1_TYPES:
        yield f"l1_coefficient is relu's and gated's, sae_type is {c.sae_type}"
    if c.l0_coefficient is not None and c.sae_type != "jumprelu":
        yield f"l0_coefficient is jumprelu's, sae_type is {c.sae_type}"
    if c.bandwidth is not None and c.sae_type != "jumprelu":
        yield f"bandwidth is jumprelu's, sae_type is {c.sae_type}"
    if c.use_ghost_grads and c.aux_k is not None:
        yield "aux_k is the auxiliary loss's, which use_ghost_grads replaces"
    if c.use_ghost_grads and c.aux_coefficient == 0:
        yield "use_ghost_grads with aux_coefficient 0 does nothing"
    if c.skip and c.kind not in (None, "transcoder"):
        yield f"skip is a transcoder's, kind is {c.kind}"
    if c.subtract_b_dec and c.kind in ("transcoder", "clt"):
        yield f"a {c.kind} does not read what it writes: b_dec cannot be subtracted before its encoder"
    if c.kind == "clt" and c.resample_every is not None:
        yield "resample_every has no use for a clt, whose features read different layers"
    if c.kind == "clt" and c.sae_type in ("matryoshka", "gated"):
        yield f"a clt is not trained as {c.sae_type}"
