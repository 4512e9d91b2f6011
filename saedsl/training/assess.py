"""A dictionary held against a model and texts: all measures of one `saedsl eval`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import mlx.core as mx
import numpy as np

from saedsl.errors import SAEError, TrainingError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.training.effect import ModelEffect, model_effect
from saedsl.training.harvest import Batch, batches
from saedsl.training.metrics import DENSITY_EDGES, Evaluation, measure
from saedsl.training.probing import Probe

FORMAT = 1
"""Of the JSON report."""


@dataclass(frozen=True)
class Assessment:
    """What was found."""

    model: str | None
    """Name of the model."""
    sites: tuple[Site, Site]
    """Where the dictionary reads and writes."""
    evaluation: Evaluation
    """On the activations."""
    effect: ModelEffect
    """On the model's loss and predictions."""
    probes: tuple[Probe, ...] = ()
    """Of the tasks that were given."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not a number is null."""
        e = asdict(self.evaluation)
        histogram = {"log10_edges": list(DENSITY_EDGES), "counts": list(self.evaluation.density_histogram)}
        e["density"] = [float(d) for d in self.evaluation.density]
        effect = {**asdict(self.effect), "ce_recovered": self.effect.ce_recovered, "kl_score": self.effect.kl_score}
        return {
            "format": FORMAT,
            "model": self.model,
            "reads": str(self.sites[0]),
            "writes": str(self.sites[1]),
            "activations": {k: _number(v) for k, v in e.items()} | {"density_histogram": histogram},
            "model_effect": {k: _number(v) for k, v in effect.items()},
            "probes": [asdict(p) for p in self.probes],
        }


def assess(
    model: InterpretableModel,
    sae: SAE,
    texts: Callable[[], Iterable[str]],
    *,
    sites: tuple[Site, Site] | None = None,
    context: int = 128,
    max_tokens: int | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Assessment:
    """Measure a dictionary over texts; memory does not grow with them, each is read three times.

    Args:
        model: the model, as it is.
        sae: an SAE or transcoder.
        texts: called once a pass, for the same documents each time.
        sites: where it reads and writes; by default where it says.
        context: tokens a row at most.
        max_tokens: stop after the row that reaches as many; None for all.
        progress: called with the pass (`mean`, `activations`, `loss`) and its tokens so far.

    Raises:
        SAEError: if the dictionary does not say its sites, or does not fit the model's.
        TrainingError: if the texts have no token but BOS, or activations are not finite.
    """
    read, write = sites or _sites(sae)
    for site, width, verb in ((read, sae.config.d_in, "reads"), (write, sae.config.d_out, "writes")):
        if site not in model.info.sites:
            raise SAEError(f"this model has no {site}: its layers are L0..L{model.info.n_layers - 1}")
        if model.info.width(site) != width:
            raise SAEError(f"{site} is {model.info.width(site)} wide, the dictionary {verb} {width}")
    if max_tokens is not None and max_tokens < 1:
        raise TrainingError(f"max_tokens is {max_tokens}; at least 1 is needed, or None for all")

    def rows(name: str) -> Iterator[Batch]:
        done = 0
        for b in batches(model, texts(), context):
            yield b
            done += int(b.content.sum())
            if progress is not None:
                progress(name, done)
            if max_tokens is not None and done >= max_tokens:
                return

    passes = iter(("mean", "activations"))

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for b in rows(next(passes)):
            if not b.content.any():
                continue
            found = model.activations(b.tokens, {read, write})
            x, y = (np.array(found[s].astype(mx.float32))[b.content] for s in (read, write))
            for site, values in ((read, x), (write, y)):
                if not np.isfinite(values).all():
                    raise TrainingError(f"the model's activations at {site} hold NaN or infinity")
            yield x, y

    evaluation = measure(sae, chunks)
    return Assessment(model.info.name, (read, write), evaluation, model_effect(model, sae, rows("loss"), (read, write)))


def _sites(sae: SAE) -> tuple[Site, Site]:
    read, write = sae.config.input_site, sae.config.output_site
    if read is None or write is None:
        raise SAEError("this dictionary does not say which site it reads and writes; name it")
    return read, write


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def rows_of(a: Assessment) -> Sequence[tuple[str, str]]:
    """The measures as (name, value) for people."""
    e, m = a.evaluation, a.effect
    return (
        ("tokens", f"{e.tokens:,}"),
        ("L0", f"{e.l0:.2f}  ({e.l0_sparsity:.2%} of {len(e.density):,} features)"),
        ("L1 magnitude", f"{e.l1:.4g}"),
        ("MSE", f"{e.mse:.4g}"),
        ("explained variance", f"{e.explained_variance:.4f}"),
        ("  legacy, per token", f"{e.explained_variance_legacy:.4f}"),
        ("  centred", f"{e.explained_variance_centred:.4f}"),
        ("cosine", f"{e.cosine:.4f}"),
        ("L2 ratio", f"{e.l2_ratio:.4f}"),
        ("shrinkage", f"{e.shrinkage:.4f}"),
        ("dead features", f"{e.dead:.2%}"),
        ("CE orig / SAE / zero", f"{m.ce_orig:.4f} / {m.ce_sae:.4f} / {m.ce_zero:.4f} nats"),
        ("CE recovered", f"{m.ce_recovered:.4f}"),
        ("KL SAE / zero", f"{m.kl_sae:.4f} / {m.kl_zero:.4f} nats"),
        ("KL score", f"{m.kl_score:.4f}"),
    )
