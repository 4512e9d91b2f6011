"""What happened in a training run: curve, validation, costs; as JSON and as a figure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saedsl.errors import TrainingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
"""Of the JSON report."""
POINTS = 100
"""Points of the curve, about."""


@dataclass(frozen=True)
class Point:
    """One place on the curve: what one batch saw before its update. Losses are of activations as they are scaled."""

    step: int
    """From 1."""
    reconstruction: float
    """||x^ - y||^2, mean per token; of a matryoshka, the mean over its prefixes."""
    sparsity: float
    """The sparsity loss, weight included."""
    aux: float
    """The loss for dead features, weight included."""
    explained_variance: float
    """1 - reconstruction / variance of the activations."""
    l0: float
    """Features that fired, mean per token."""
    l0_sparsity: float
    """Their share of all features."""
    l1: float
    """L1 magnitude: the sum of the features, mean per token."""
    dead: int
    """Features that had not fired for the dead window."""
    rate: float
    """Adam's step size."""
    k: float
    """topk, batchtopk, matryoshka: features kept per token; else 0."""
    coefficient: float
    """relu, gated, jumprelu: weight of the sparsity loss; else 0."""

    @property
    def loss(self) -> float:
        """All losses together."""
        return self.reconstruction + self.sparsity + self.aux


@dataclass(frozen=True)
class Validation:
    """The dictionary on tokens of documents that it is not trained on, in the model's units."""

    step: int
    """After which step."""
    tokens: int
    """How many were measured."""
    explained_variance: float
    """1 - E||x - x^||^2 / (E||x||^2 - ||E x||^2)."""
    mse: float
    """||x - x^||^2, mean per token."""
    l0: float
    """Features that fire, mean per token."""
    l0_sparsity: float
    """Their share of all features."""
    l1: float
    """Sum of the features, mean per token."""
    cosine: float
    """Between x and x^, mean per token."""
    dead: float
    """Share of features that fired on none of these tokens."""


@dataclass(frozen=True)
class Report:
    """One dictionary's training."""

    steps: int
    """Batches."""
    tokens: int
    """Tokens learnt from, repeats counted."""
    seconds: float
    """Wall time, of all sittings."""
    d_sae: int
    """Features."""
    dead_window: int
    """Tokens after which a feature that did not fire is dead."""
    engine: str
    """What computed the steps: `fast` or `portable`."""
    curve: tuple[Point, ...]
    """About 100 points, the last step among them."""
    validation: tuple[Validation, ...] = ()
    """After each tenth of the run, if any tokens were held out."""
    resampled: int = 0
    """Features that started anew, altogether."""
    resumed: tuple[int, ...] = ()
    """Steps after which training was interrupted and went on."""
    ce_recovered: float | None = None
    """Of the finished dictionary, where a model was at hand."""

    @property
    def tokens_per_second(self) -> float:
        """Of the whole run."""
        return self.tokens / self.seconds if self.seconds else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a number is null."""
        own = {k: v for k, v in asdict(self).items() if k not in ("curve", "validation")}
        curve = [{**_plain(asdict(p)), "loss": _number(p.loss)} for p in self.curve]
        return {
            "format": FORMAT,
            **_plain(own),
            "tokens_per_second": _number(self.tokens_per_second),
            "curve": curve,
            "validation": [_plain(asdict(v)) for v in self.validation],
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Write the JSON to the file `path`, whole or not at all.

        Raises:
            TrainingError: if it cannot be written.
        """
        from saedsl.sae.replace import write_file

        try:
            write_file(Path(path), (json.dumps(self.to_json(), indent=1) + "\n").encode())
        except OSError as error:
            raise TrainingError(f"{path}: the report cannot be written ({error.strerror})") from None

    def figure(self) -> Figure:
        """Explained variance, losses, L0 and dead features over the steps.

        Raises:
            TrainingError: if matplotlib is missing.
        """
        from saedsl.training.figures import new_figure

        figure = new_figure(7.0, 5.0)
        axes = figure.subplots(2, 2)
        steps = [p.step for p in self.curve]
        variance, losses, l0, dead = axes.flat
        variance.plot(steps, [p.explained_variance for p in self.curve], label="batches")
        if self.validation:
            at = [v.step for v in self.validation]
            variance.plot(at, [v.explained_variance for v in self.validation], "o-", label="held out")
            l0.plot(at, [v.l0 for v in self.validation], "o-", label="held out")
        variance.set_ylabel("explained variance")
        for name in ("reconstruction", "sparsity", "aux"):
            values = [getattr(p, name) for p in self.curve]
            if any(values):
                losses.plot(steps, values, label=name)
        losses.set(ylabel="loss", yscale="log")
        l0.plot(steps, [p.l0 for p in self.curve], label="batches")
        l0.set_ylabel("L0")
        dead.plot(steps, [p.dead for p in self.curve])
        dead.set_ylabel(f"dead features of {self.d_sae:,}")
        for axis in axes.flat:
            axis.set_xlabel("step")
        for axis in (variance, losses, l0):
            axis.legend()
        return figure


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _number(value) for key, value in values.items()}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
