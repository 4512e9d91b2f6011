"""Dictionaries of a model's own activations: sites and texts -> source and jobs -> trained dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from saedsl.errors import TrainingError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.training.arrays import ArraySource
from saedsl.training.config import SAEConfig
from saedsl.training.engine import Parallel
from saedsl.training.jobs import Job
from saedsl.training.source import Source
from saedsl.training.split import held_out
from saedsl.training.stream import FIRST, StreamSource
from saedsl.training.texts import Texts, open_texts
from saedsl.training.trainer import Trained, check_savable, train, train_together

MEMORY = 1 << 30
"""Bytes of activations that are kept in memory; of larger data sets the model makes them anew in each pass."""
EFFECT_TEXTS = 64
"""Held-out documents on which CE recovered is measured, at most."""
Dataset = Texts | str | Path | Iterable[str] | Source


@dataclass(frozen=True)
class Where:
    """Which dictionaries are trained where."""

    layers: tuple[int, ...]
    """Blocks."""
    components: tuple[str, ...]
    """What is read of each."""
    outputs: tuple[str, ...] = ()
    """What is written, one for each component; () for SAEs and crosscoders, which write what they read."""

    def pairs(self, model: InterpretableModel) -> list[tuple[Site, Site]]:
        """(read, written) of every layer and component.

        Raises:
            ValueError: if one is no site of this model.
            TrainingError: if there is none, or there are not as many outputs as components.
        """
        if not self.layers or not self.components:
            raise TrainingError("name a layer and a component to train a dictionary at")
        if self.outputs and len(self.outputs) != len(self.components):
            raise TrainingError(
                f"{len(self.components)} components but {len(self.outputs)} outputs; each component has its own"
            )
        written = self.outputs or self.components
        found = [
            (Site.parse(f"L{layer}.{read}"), Site.parse(f"L{layer}.{write}"))
            for layer in self.layers
            for read, write in zip(self.components, written, strict=True)
        ]
        for site in (s for pair in found for s in pair):
            if site not in model.info.sites:
                raise ValueError(f"this model has {model.info.n_layers} layers: L0..L{model.info.n_layers - 1}")
        return found


def jobs_at(pairs: Sequence[tuple[Site, Site]], config: SAEConfig) -> dict[str, Job]:
    """A dictionary for each pair of sites, by the site it writes; one for all pairs of a crosscoder or a clt."""
    reads, writes = tuple(str(r) for r, _ in pairs), tuple(str(w) for _, w in pairs)
    if config.kind in ("crosscoder", "clt"):
        return {config.kind: Job(config, reads, writes)}
    twice = {w for w in writes if writes.count(w) > 1}
    return {(f"{r}-{w}" if w in twice else w): Job(config, (r,), (w,)) for r, w in zip(reads, writes, strict=True)}


def source_at(
    model: InterpretableModel,
    pairs: Sequence[tuple[Site, Site]],
    dataset: Dataset,
    config: SAEConfig,
    context: int = 128,
    max_tokens: int | None = None,
    memory: int = MEMORY,
) -> Source:
    """Activations at all these sites, in memory where they fit, else streamed; a source is taken as it is.

    Raises:
        TrainingError: if the data set cannot be read, or has no tokens.
    """
    if hasattr(dataset, "batches"):
        return dataset  # type: ignore[return-value]
    sites = sorted({s for pair in pairs for s in pair})
    by_length = config.curriculum == "length"
    stream = StreamSource(
        model, dataset, sites, context, order="length" if by_length else "text", max_tokens=max_tokens
    )
    if by_length:  # which is an order of texts
        return stream
    enough = None if config.num_tokens is None else ceil(config.num_tokens / (1 - config.validation_share))
    return _held_in_memory(stream, memory, enough) or stream


def train_at(
    model: InterpretableModel,
    where: Where,
    dataset: Dataset,
    config: SAEConfig,
    *,
    context: int = 128,
    max_tokens: int | None = None,
    memory: int = MEMORY,
    save_path: str | Path | None = None,
    checkpoint_path: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
    parallel: Parallel | None = None,
) -> dict[str, Trained]:
    """Train dictionaries on a model's activations, all of them from the same forwards.

    Args:
        model: the model, as it is.
        where: the sites.
        dataset: texts, their path, or a source.
        config: the settings of all of them.
        context: tokens of a row, BOS included.
        max_tokens: of the data set; None for all.
        memory: bytes of activations that are kept in memory.
        save_path: a folder; of several dictionaries, for a folder each.
        checkpoint_path, resume, progress, parallel: as in `train`.

    Raises:
        ValueError: if there is no such site.
        TrainingError, SAEError, Interrupted: as `train`.
    """
    pairs = where.pairs(model)
    jobs = jobs_at(pairs, config)
    if save_path is not None:
        for name in jobs:
            check_savable(Path(save_path) if len(jobs) == 1 else Path(save_path) / name)
    with _reading(progress):
        source = source_at(model, pairs, dataset, config, context, max_tokens, memory)
    effects = {
        name: effect
        for name, job in jobs.items()
        if (effect := _effect(model, job, dataset, config, context)) is not None
    }
    if len(jobs) == 1:
        ((name, job),) = jobs.items()
        one = train(
            source, config, inputs=job.inputs, outputs=job.outputs, save_path=save_path,
            checkpoint_path=checkpoint_path, resume=resume, progress=progress, ce_recovered=effects.get(name),
            parallel=parallel,
        )  # fmt: skip
        return {name: one}
    return train_together(
        source, jobs, save_path=save_path, checkpoint_path=checkpoint_path, resume=resume, progress=progress,
        ce_recovered=effects, parallel=parallel,
    )  # fmt: skip


def _reading(progress: bool) -> AbstractContextManager[object]:
    """Something to look at on terminals while the model reads."""
    if not progress:
        return nullcontext()
    from rich.console import Console

    console = Console(stderr=True)
    return console.status("reading activations") if console.is_terminal else nullcontext()


def _held_in_memory(stream: StreamSource, limit: int, enough: int | None) -> ArraySource | None:
    """One pass of a stream, or its first `enough` tokens, if they take at most `limit` bytes."""
    place: Mapping[str, Any] = FIRST
    parts: dict[str, list[np.ndarray]] = {name: [] for name in stream.widths}
    documents: list[np.ndarray] = []
    left = limit // (4 * sum(stream.widths.values()))
    found = 0
    while place["pass"] == 0 and (enough is None or found < enough):
        window = stream.window(place, Event())
        found += len(window)
        left -= len(window)
        if left < 0:
            return None
        for name, x in window.arrays.items():
            parts[name].append(x)
        documents.append(window.documents)
        place = window.next
    arrays = {}
    for name in list(parts):
        arrays[name] = np.concatenate(parts.pop(name))
    if not len(next(iter(arrays.values()))):
        raise TrainingError("these texts have no tokens: there is nothing to read activations of")
    return ArraySource(arrays, stream.about, np.concatenate(documents))


def _effect(
    model: InterpretableModel, job: Job, dataset: Dataset, config: SAEConfig, context: int
) -> Callable[[SAE], float | None] | None:
    """What measures CE recovered on documents that are held out; None where there are none, or several sites."""
    if hasattr(dataset, "batches") or len(job.inputs) > 1 or not config.validation_share:
        return None
    return partial(_ce_recovered, model, job, open_texts(dataset), config, context)


def _ce_recovered(
    model: InterpretableModel, job: Job, texts: Texts, config: SAEConfig, context: int, sae: SAE
) -> float | None:
    from saedsl.training.effect import model_effect
    from saedsl.training.harvest import batches

    sites = Site.parse(job.inputs[0]), Site.parse(job.outputs[0])
    held = list(_held(texts, config))
    return model_effect(model, sae, batches(model, held, context), sites).ce_recovered if held else None


def _held(texts: Texts, config: SAEConfig) -> Iterator[str]:
    found = 0
    for entry in texts.entries():
        if held_out(np.array([entry.document]), config.validation_share, config.seed)[0]:
            yield entry.text
            found += 1
            if found == EFFECT_TEXTS:
                return
