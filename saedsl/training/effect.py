"""What a dictionary costs the model: its loss and its predictions with the site replaced by the reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.training.harvest import Batch

Function = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class ModelEffect:
    """Losses and divergences, in nats, mean per predicted token; BOS is predicted by nothing and left as it is."""

    tokens: int
    """How many were predicted."""
    ce_orig: float
    """Cross-entropy of the model as it is."""
    ce_sae: float
    """With the site replaced by what the dictionary makes."""
    ce_zero: float
    """With the site at 0."""
    kl_sae: float
    """KL(p_orig || p_sae)."""
    kl_zero: float
    """KL(p_orig || p_zero)."""

    @property
    def ce_recovered(self) -> float:
        """(CE_zero - CE_sae) / (CE_zero - CE_orig); nan where setting the site to 0 does not raise the loss."""
        lost = self.ce_zero - self.ce_orig
        return (self.ce_zero - self.ce_sae) / lost if lost > 0 else float("nan")

    @property
    def kl_score(self) -> float:
        """(KL_zero - KL_sae) / KL_zero; nan where setting the site to 0 changes nothing."""
        return (self.kl_zero - self.kl_sae) / self.kl_zero if self.kl_zero > 0 else float("nan")


def model_effect(model: InterpretableModel, sae: SAE, data: Iterable[Batch], sites: tuple[Site, Site]) -> ModelEffect:
    """Run the model as it is, through the dictionary, and with the site at 0, on the same tokens.

    Args:
        model: the model, as it is.
        sae: an SAE or transcoder.
        data: rows of tokens; every valid token but each row's first is predicted.
        sites: where the dictionary reads and writes; reading comes first in the forward.

    Raises:
        TrainingError: if no token is predicted, or the model's own loss is not finite.
    """
    read, write = sites
    sums, count = np.zeros(5), 0
    for b in data:
        content = mx.array(b.content)[..., None]
        valid = b.valid[:, 1:]
        if not valid.any():
            continue
        plain = _log_p(model, b, {})
        for i, at in enumerate(({}, _through(sae, read, write, content), _zero(write, content))):
            log_p = plain if i == 0 else _log_p(model, b, at)
            losses = -mx.take_along_axis(log_p, b.tokens[:, 1:][..., None], -1)[..., 0]
            sums[i] += _total(losses, valid)
            if i:
                sums[2 + i] += _total((mx.exp(plain) * (plain - log_p)).sum(axis=-1), valid)
        count += int(valid.sum())
    if count == 0:
        raise TrainingError("the data have no token that another one precedes: there is no loss to measure")
    means = sums / count
    if not np.isfinite(means).all():
        raise TrainingError(f"the model's loss is not finite at {write}: {means.tolist()}")
    return ModelEffect(count, *(float(v) for v in means))


def _log_p(model: InterpretableModel, b: Batch, at: dict[Site, Function]) -> mx.array:
    """Log probabilities [batch, seq - 1, d_vocab], float32."""
    logits = model.forward(b.tokens, functions=at)[0][:, :-1].astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _total(values: mx.array, valid: np.ndarray) -> float:
    return float(np.array(values)[valid].sum(dtype=np.float64))


def _zero(write: Site, content: mx.array) -> dict[Site, Function]:
    return {write: lambda x: mx.where(content, mx.zeros_like(x), x)}


def _through(sae: SAE, read: Site, write: Site, content: mx.array) -> dict[Site, Function]:
    if read == write:
        return {write: lambda x: mx.where(content, sae(x).astype(x.dtype), x)}
    seen: list[mx.array] = []

    def look(x: mx.array) -> mx.array:
        seen[:] = [x]
        return x

    return {read: look, write: lambda x: mx.where(content, sae(seen[0]).astype(x.dtype), x)}
