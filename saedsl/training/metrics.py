"""How good a dictionary is on activations: L0, explained variance in its three forms, dead features, densities.

Sums are float64, in numpy, and streamed: a mean of batch values is another number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.sae.dictionary import SAE
from saedsl.training.data import Activations, as_matrix

DENSITY_EDGES = tuple(i / 2 for i in range(-14, 1))
"""log10 of the densities that bound the bins of `Evaluation.density_histogram`: half a decade each, 1e-7 to 1."""
TINY = 1e-30

Chunks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""Called once a pass: (activations [n, d_in], targets [n, d_out]), float32; the same tokens in every pass."""


@dataclass(frozen=True)
class Evaluation:
    """Measures of one dictionary on one set of activations; x is the target, x^ what the dictionary makes."""

    tokens: int
    """How many were measured."""
    l0: float
    """Features that fire, mean per token."""
    l0_sparsity: float
    """L0 as a share of all features."""
    l1: float
    """L1 magnitude: sum of |f|, mean per token."""
    mse: float
    """||x - x^||^2, mean per token."""
    explained_variance: float
    """1 - E||x - x^||^2 / (E||x||^2 - ||E x||^2)."""
    explained_variance_legacy: float
    """Mean over tokens of 1 - ||x - x^||^2 / ||x - E x||^2: as SAEBench's paper has it."""
    explained_variance_centred: float
    """1 - sum_d Var(x - x^) / sum_d Var(x): a constant offset of x^ does not count."""
    cosine: float
    """Between x and x^, mean per token."""
    l2_ratio: float
    """||x^|| / ||x||, mean per token."""
    shrinkage: float
    """E||x^||^2 / E[x . x^]: below 1 where features come out too weak; nan if x^ is at right angles to x."""
    dead: float
    """Share of features that fired on none of these tokens."""
    density: np.ndarray = field(repr=False, compare=False)
    """[d_sae] float64: share of tokens on which each feature fires."""

    @property
    def density_histogram(self) -> tuple[int, ...]:
        """Living features by log10 of their density: the counts between `DENSITY_EDGES`, the last edge included."""
        alive = self.density[self.density > 0]
        logs = np.clip(np.log10(alive), DENSITY_EDGES[0], DENSITY_EDGES[-1])
        return tuple(int(n) for n in np.histogram(logs, DENSITY_EDGES)[0])


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
    if batch < 1:
        raise TrainingError(f"batch is {batch}; at least one token at a time is needed")
    return measure(sae, lambda: ((x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)))


def measure(sae: SAE, chunks: Chunks) -> Evaluation:
    """`evaluate` of activations that are read in two passes, so that memory does not grow with their number.

    Raises:
        TrainingError: if there are no tokens, or the two passes differ in their number.
    """
    n, total = 0, np.zeros(sae.config.d_out)
    for _, y in chunks():
        total += y.sum(axis=0, dtype=np.float64)
        n += len(y)
    if n == 0:
        raise TrainingError("there are no tokens to measure the dictionary on")
    mean = total / n
    sums = _Sums(sae.config.d_sae, sae.config.d_out)
    for x, y in chunks():
        tokens = mx.array(x)
        f = sae.encode(tokens)
        out = sae.decode(f, tokens)
        mx.eval(f, out)
        sums.add(np.array(f, copy=False), np.array(out).astype(np.float64), y.astype(np.float64), mean)
    if sums.n != n:
        raise TrainingError(f"the data gave {n} tokens first and {sums.n} when they were read again")
    return sums.result(mean)


class _Sums:
    """Float64 sums over tokens. Targets are taken less their mean: nothing large cancels."""

    def __init__(self, d_sae: int, d_out: int) -> None:
        self.n = 0
        self.l0 = 0
        self.l1 = self.error = self.spread = self.legacy = self.cosine = self.ratio = self.got = self.along = 0.0
        self.residual = np.zeros(d_out)
        self.fires = np.zeros(d_sae, np.int64)

    def add(self, f: np.ndarray, got: np.ndarray, want: np.ndarray, mean: np.ndarray) -> None:
        """`f` [n, F]; `got`, `want` [n, d] float64; `mean` [d] of all of `want`."""
        size, length = np.linalg.norm(want, axis=1), np.linalg.norm(got, axis=1)
        errors = ((want - got) ** 2).sum(axis=1)
        spreads = ((want - mean) ** 2).sum(axis=1)
        fires = np.count_nonzero(f, axis=0)
        self.n += len(want)
        self.l0 += int(fires.sum())
        self.l1 += float(f.sum(dtype=np.float64))
        self.error += float(errors.sum())
        self.spread += float(spreads.sum())
        self.legacy += float((1 - errors / np.maximum(spreads, TINY)).sum())
        self.cosine += float(((want * got).sum(axis=1) / np.maximum(size * length, TINY)).sum())
        self.ratio += float((length / np.maximum(size, TINY)).sum())
        self.got += float((got**2).sum())
        self.along += float((want * got).sum())
        self.residual += (want - got).sum(axis=0)
        self.fires += fires

    def result(self, mean: np.ndarray) -> Evaluation:
        n, spread = self.n, self.spread / self.n
        constant = spread <= 1e-12 * float((mean**2).sum())
        offset = float(((self.residual / n) ** 2).sum())
        nan = float("nan")
        return Evaluation(
            tokens=n,
            l0=self.l0 / n,
            l0_sparsity=self.l0 / n / len(self.fires),
            l1=self.l1 / n,
            mse=self.error / n,
            explained_variance=nan if constant else 1 - self.error / n / spread,
            explained_variance_legacy=nan if constant else self.legacy / n,
            explained_variance_centred=nan if constant else 1 - (self.error / n - offset) / spread,
            cosine=self.cosine / n,
            l2_ratio=self.ratio / n,
            shrinkage=self.got / self.along if self.along else nan,
            dead=float(np.mean(self.fires == 0)),
            density=self.fires / n,
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
