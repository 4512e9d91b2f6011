"""How good a dictionary is: L0, explained variance, dead features, and the model's loss through it.

Sums are float64, in numpy and streamed: a mean of batch values is another number.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.sae.dictionary import SAE
from saedsl.training.data import Activations, as_matrix


@dataclass(frozen=True)
class Evaluation:
    """Measures of one dictionary on one set of activations."""

    tokens: int
    """How many were measured."""
    l0: float
    """Features that fire, mean per token."""
    l1: float
    """Sum of the features, mean per token."""
    mse: float
    """||x - x^||^2, mean per token."""
    explained_variance: float
    """1 - E||x - x^||^2 / (E||x||^2 - ||E x||^2)."""
    cosine: float
    """Between x and x^, mean per token."""
    l2_ratio: float
    """||x^|| / ||x||, mean per token."""
    dead: float
    """Share of features that fired on none of these tokens."""


def evaluate(sae: SAE, activations: Activations, targets: Activations | None = None, batch: int = 2048) -> Evaluation:
    """Measure `sae` on activations that it was not trained on.

    Args:
        sae: the dictionary.
        activations: [tokens, d_in].
        targets: [tokens, d_out] for a transcoder; None for an SAE.
        batch: tokens at a time; changes speed, not the result.

    Raises:
        TrainingError: if there are no tokens, they hold NaN or infinity, or targets are missing or do not
            match.
    """
    x = as_matrix(activations, "activations")
    y = x if targets is None else as_matrix(targets, "targets")
    if (targets is None) == sae.config.is_transcoder:
        needs = "a transcoder is measured against targets" if sae.config.is_transcoder else "an SAE takes no targets"
        raise TrainingError(f"{needs}: evaluate(sae, activations{', targets' * sae.config.is_transcoder})")
    if len(x) != len(y):
        raise TrainingError(f"{len(x)} activations but {len(y)} targets; they must be of the same tokens")
    squares = error = l0 = l1 = cosine = ratio = 0.0
    total = np.zeros(y.shape[1])
    fired = np.zeros(sae.config.d_sae, dtype=bool)
    for start in range(0, len(x), batch):
        tokens = mx.array(x[start : start + batch])
        f = sae.encode(tokens)
        out = sae.decode(f, tokens)
        mx.eval(f, out)
        features, got = np.array(f, copy=False), np.array(out).astype(np.float64)
        want = y[start : start + batch].astype(np.float64)
        size, length = np.linalg.norm(want, axis=1), np.linalg.norm(got, axis=1)
        total += want.sum(axis=0)
        squares += float((want**2).sum())
        error += float(((want - got) ** 2).sum())
        l0 += int(np.count_nonzero(features))
        l1 += float(features.sum(dtype=np.float64))
        cosine += float(((want * got).sum(axis=1) / np.maximum(size * length, 1e-30)).sum())
        ratio += float((length / np.maximum(size, 1e-30)).sum())
        fired |= (features > 0).any(axis=0)
    n = len(x)
    variance = squares / n - float(((total / n) ** 2).sum())
    return Evaluation(
        tokens=n,
        l0=l0 / n,
        l1=l1 / n,
        mse=error / n,
        explained_variance=1 - error / n / variance if variance > 0 else float("nan"),
        cosine=cosine / n,
        l2_ratio=ratio / n,
        dead=float(1 - fired.mean()),
    )


def ce_recovered(ce_orig: float, ce_sae: float, ce_zero: float) -> float:
    """(CE_zero - CE_sae) / (CE_zero - CE_orig): 1 if the model loses nothing, 0 if all that the site gives.

    Args:
        ce_orig: cross-entropy of the model as it is, nats per token.
        ce_sae: with the site replaced by the dictionary's output.
        ce_zero: with the site set to 0.

    Raises:
        TrainingError: if setting the site to 0 does not hurt the model, so that there is nothing to recover.
    """
    if not ce_zero > ce_orig:
        raise TrainingError(
            f"cross-entropy is {ce_zero:.4f} with the site at 0 and {ce_orig:.4f} without; "
            "nothing is lost there, so nothing can be recovered"
        )
    return (ce_zero - ce_sae) / (ce_zero - ce_orig)
