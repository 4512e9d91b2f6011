"""What changes from step to step: the rate, the sparsity loss, k; and steering them towards a target."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, exp, log, pi

from saedsl.training.config import L1_TYPES, SAEConfig

GAIN = 0.005
"""Change of a steered value per step and unit of error (of logarithms), in runs of 2000 steps and more."""
PUSH = 0.5
"""Part of the error that acts at once: it damps the swing that integration alone would have."""
MEMORY = 0.9
"""Per step, of the running mean of what is steered."""


def rate_at(step: int, steps: int, config: SAEConfig, peak: float) -> float:
    """The learning rate of step `step` of `steps`, counted from 1: warm-up, plateau, decay towards 0."""
    warm_up = min(config.lr_warm_up_steps, steps // 10)
    if step <= warm_up:
        return peak * step / warm_up
    decay = int(steps * config.lr_decay_share)
    if config.lr_scheduler == "constant" or step <= steps - decay:
        return peak
    left = (steps - step + 1) / (decay + 1)
    return peak * left if config.lr_scheduler == "linear" else peak * (1 - cos(pi * left)) / 2


def sparsity_steps(steps: int, config: SAEConfig) -> int:
    """Steps over which the sparsity loss grows; a steered one grows in a tenth of the run, to be steered after."""
    if config.sparsity_warm_up_steps is not None:
        return config.sparsity_warm_up_steps
    return steps // 10 if config.target_l0 is not None and config.sae_type in L1_TYPES else steps


def sparsity_at(step: int, steps: int, config: SAEConfig) -> float:
    """The share of the sparsity loss's weight at `step`, from 1 on."""
    warm_up = sparsity_steps(steps, config)
    return min(step / warm_up, 1.0) if warm_up else 1.0


def k_at(step: int, config: SAEConfig, d_sae: int) -> float:
    """k at `step`, from 1 on: it falls linearly from `k_start` (K-annealing, arXiv:2410.20526)."""
    warm_up = config.k_warm_up_steps
    if step > warm_up:
        return float(config.k)
    start = min(config.k_start or 4 * config.k, d_sae)
    return start + (config.k - start) * (step - 1) / warm_up


def difficulty_pool(step: int, steps: int, config: SAEConfig) -> int:
    """Of how many batches the easiest tokens make up the batch of `step`, from 1 on (arXiv:1904.03626, fixed pacing).

    It falls in equal stretches from `curriculum_pool` to 1, where all tokens are learnt from. A curriculum by length is
    an order of the texts.
    """
    if config.curriculum in (None, "length"):
        return 1
    share = (step - 1) / (config.curriculum_share * steps)
    return max(ceil(config.curriculum_pool * (1 - share)), 1) if share < 1 else 1


@dataclass(frozen=True)
class Steered:
    """A value that is moved until something reaches its target: the L1 coefficient for L0, k for the error."""

    value: float
    """Where integration has brought it."""
    mean: float | None = None
    """Running mean of what is steered; None before it was seen."""
    error: float = 0.0
    """log(mean / target), within -1 and 1."""

    @property
    def now(self) -> float:
        """The value to use: `value`, and a part of the present error at once."""
        return self.value * exp(PUSH * self.error)

    def seen(self, what: float, target: float, steps: int, limits: tuple[float, float]) -> Steered:
        """After a step: more of the value where `what` is above `target`, less where it is below.

        A proportional-integral controller on logarithms; both the L1 coefficient and k act in this direction, on L0
        and on the unexplained share of the variance.

        Args:
            what: what the step saw, positive.
            target: what it is to become.
            steps: of the run; short ones are steered faster.
            limits: of the value.
        """
        what = max(what, 1e-9)
        mean = what if self.mean is None else MEMORY * self.mean + (1 - MEMORY) * what
        error = min(max(log(mean / target), -1.0), 1.0)
        gain = min(max(GAIN, 10 / steps), 0.05)
        value = min(max(self.value * exp(gain * error), limits[0]), limits[1])
        return Steered(value, mean, error)
