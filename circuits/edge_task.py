"""What edges are scored on: clean prompts, what ablated sources become, and a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import mlx.core as mx
import numpy as np

from saedsl.circuits.decomposed import Decomposed, Patch, Wiring, decompose
from saedsl.errors import CircuitError

Ablation = Literal["resample", "mean", "zero"]
"""What an ablated source's output becomes: that on the corrupt prompts, its mean over the clean ones by position, 0."""
Metric = Callable[[mx.array], mx.array]
"""Logits [batch, seq, d_vocab] -> [batch]."""
ROWS: int = 256
"""Most rows (masks times prompts) of one forward."""


@dataclass(frozen=True, eq=False)
class EdgeTask:
    """Prompts, ablation and metric; made by `edge_task`."""

    parts: Decomposed
    embedded: mx.array
    """[batch, seq, d_model]"""
    clean: mx.array
    """[sources, batch, seq, d_model], what each source writes."""
    other: mx.array
    """Like `clean`: what it writes when it is ablated."""
    metric: Metric
    ablation: Ablation
    base: float
    """The metric's mean over the prompts."""
    ablated: float
    """The same with every edge ablated."""

    @property
    def wiring(self) -> Wiring:
        return self.parts.wiring

    @property
    def span(self) -> float:
        """`base - ablated`: what effects are shares of."""
        return self.base - self.ablated

    def values(self, masks: mx.array, embedded: mx.array | None = None, *, held: bool = False) -> mx.array:
        """The metric's mean over the prompts under each mask: [n_masks]. One forward, differentiable.

        Args:
            masks: [n_masks, readers, sources].
            embedded: in place of the clean embeddings.
            held: whether `other - clean` is added, constant, in place of `other - y` with y live.
        """
        patch = Patch(masks, self.other, self.clean if held else None)
        logits, _ = self.parts.forward(self.embedded if embedded is None else embedded, patch)
        return mx.stack([self.metric(x).mean() for x in logits])

    def effects(self, masks: np.ndarray, rows: int = ROWS) -> np.ndarray:
        """By how much each mask lowers the metric: [n_masks], float64.

        Args:
            masks: [n_masks, readers, sources].
            rows: most rows of one forward.
        """
        found = []
        for part in _chunks(masks, rows, self.embedded.shape[0]):
            value = self.values(part)
            mx.eval(value)
            found.append(np.array(value, np.float64))
        return self.base - np.concatenate(found)

    def gradients(
        self, masks: np.ndarray, embedded: mx.array | None = None, *, held: bool = False, rows: int = ROWS
    ) -> np.ndarray:
        """How fast the metric falls with each edge's mask: [n_masks, readers, sources], float64.

        Args:
            masks: [n_masks, readers, sources], where.
            embedded: in place of the clean embeddings.
            held: as in `values`.
            rows: most rows of one forward.
        """
        gradient = mx.grad(lambda m: self.values(m, embedded, held=held).sum())
        found = []
        for part in _chunks(masks, rows, self.embedded.shape[0]):
            value = gradient(part)
            mx.eval(value)
            found.append(-np.array(value, np.float64))
        return np.concatenate(found)


def edge_task(
    model: Any,
    clean: mx.array,
    metric: Metric,
    *,
    corrupt: mx.array | None = None,
    ablation: Ablation = "resample",
    kept: mx.array | None = None,
) -> EdgeTask:
    """Prepare prompts for the scoring of edges.

    Args:
        model: an `InterpretableModel`, an mlx-lm model, or what `decompose` made of one.
        clean: [batch, seq] token ids.
        metric: e.g. `logit_difference(right, wrong)`.
        corrupt: like `clean`, row by row; what `resample` puts in place.
        ablation: what ablated sources become.
        kept: [d_model], what `zero` leaves of the embedding; nothing by default.

    Raises:
        ModelError: if the model cannot be taken apart.
        CircuitError: if prompts are empty or of different shape, `resample` has no corrupt prompts, or the metric is
            not finite or the same with everything ablated.
    """
    parts = model if isinstance(model, Decomposed) else decompose(model)
    if ablation not in get_args(Ablation):
        raise CircuitError(f"ablation is {ablation!r}; it can be {', '.join(get_args(Ablation))}")
    if clean.ndim != 2 or 0 in clean.shape:
        raise CircuitError(f"clean is {list(clean.shape)}; [batch, seq] needs one prompt and one token at least")
    if corrupt is None and ablation == "resample":
        raise CircuitError("resample puts the corrupt prompts' activations in place: give corrupt=, or ablation='mean'")
    if corrupt is not None and corrupt.shape != clean.shape:
        raise CircuitError(f"corrupt is {list(corrupt.shape)} and clean {list(clean.shape)}: they must be alike")
    embedded = parts.embed(clean)
    written = parts.forward(embedded)[1][0]
    if corrupt is not None and ablation == "resample":
        other = parts.forward(parts.embed(corrupt))[1][0]
    elif ablation == "mean":
        other = mx.broadcast_to(written.mean(axis=1, keepdims=True), written.shape)
    else:
        other = mx.zeros_like(written)
        if kept is not None:
            other[0] = mx.broadcast_to(kept, written.shape[1:])
    mx.eval(written, other)
    task = EdgeTask(parts, embedded, written, other, metric, ablation, 0.0, 0.0)
    none, every = np.zeros(parts.wiring.shape), np.ones(parts.wiring.shape)
    base, ablated = -task.effects(np.stack([none, every]))
    if not np.isfinite([base, ablated]).all():
        raise CircuitError(f"the metric is {base} on the clean prompts and {ablated} ablated: it must be finite")
    if abs(base - ablated) < 1e-6 * max(1.0, abs(base)):
        raise CircuitError(f"the metric is {base:.4g} with nothing and with everything ablated: there is no effect")
    return EdgeTask(parts, embedded, written, other, metric, ablation, float(base), float(ablated))


def logit_difference(right: Sequence[int], wrong: Sequence[int], position: int = -1) -> Metric:
    """`logit(right) - logit(wrong)` of each prompt at one position.

    Args:
        right: token ids, one a prompt.
        wrong: likewise.
        position: of the tokens, from the end where negative.
    """
    yes, no = mx.array(list(right))[:, None], mx.array(list(wrong))[:, None]

    def metric(logits: mx.array) -> mx.array:
        last = logits[:, position]
        difference: mx.array = (mx.take_along_axis(last, yes, 1) - mx.take_along_axis(last, no, 1))[:, 0]
        return difference

    return metric


def _chunks(masks: np.ndarray, rows: int, batch: int) -> list[mx.array]:
    size = max(1, rows // batch)
    return [mx.array(masks[i : i + size].astype(np.float32)) for i in range(0, len(masks), size)]
