"""Train dictionaries, one or several from one stream of activations.

Decoder rows have unit length throughout, `b_dec` starts at the middle of the data, the encoder at the decoder's
transpose; dead features are revived by the auxiliary loss (arXiv:2406.04093). Activations are scaled to unit
variance; the scale is folded into the result, which takes activations as the model makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.sae.dictionary import SAE
from saedsl.training.arrays import ArraySource
from saedsl.training.checkpoint import remove_checkpoints
from saedsl.training.config import SAEConfig
from saedsl.training.data import Activations, as_matrix
from saedsl.training.engine import Parallel
from saedsl.training.jobs import Job, Task, check_together
from saedsl.training.loop import Options, Run
from saedsl.training.report import Report
from saedsl.training.source import Source

Effects = Mapping[str, Callable[[SAE], float | None]]
Data = Activations | Source


@dataclass(frozen=True)
class Trained:
    """The dictionary and how it came to be."""

    sae: SAE
    """In the units of the activations that were given."""
    report: Report
    """Curve, validation and costs."""


def train(
    data: Data,
    config: SAEConfig | None = None,
    *,
    targets: Activations | None = None,
    inputs: Collection[str] = (),
    outputs: Collection[str] = (),
    save_path: str | PathLike[str] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    resume: bool = True,
    progress: bool = True,
    ce_recovered: Callable[[SAE], float | None] | None = None,
    parallel: Parallel | None = None,
) -> Trained:
    """Train a dictionary. Equal arguments give equal weights on the same machine.

    Args:
        data: activations [tokens, d_in] in any order, or a source of them.
        config: the settings; by default `SAEConfig()`.
        targets: [tokens, d_out], of the same tokens, for a transcoder on arrays.
        inputs: of a source: the streams that the encoder reads; by default all that are no outputs.
        outputs: of a source: the streams that the decoder writes; by default the inputs.
        save_path: a folder to save the dictionary in; `NAME.report.json` is written beside it.
        checkpoint_path: a folder for checkpoints; by default `NAME.checkpoint` beside `save_path`, else none are kept.
            They are removed once the dictionary is saved.
        resume: whether to go on from a checkpoint that is there; it is an error if there is one and this is false.
        progress: whether a bar is drawn on stderr, if that is a terminal.
        ce_recovered: called with the finished dictionary, for the report.
        parallel: the processes that train together; the first one writes.

    Raises:
        TrainingError: if there are fewer tokens than one batch, they are not finite, do not vary or do not
            match, the checkpoint is of another run, or the loss stops being finite.
        SAEError: if the dictionary cannot be saved at `save_path`; checked before training.
        Interrupted: after Ctrl-C, a KeyboardInterrupt; a checkpoint is written first.
    """
    config = config or SAEConfig()
    source = _source(data, targets)
    if targets is not None:
        inputs, outputs = ("x",), ("y",)
    jobs = {"sae": Job(config, tuple(inputs), tuple(outputs))}
    path = None if save_path is None else Path(save_path)
    return _train(
        source,
        jobs,
        {"sae": path},
        _checkpoints(path, checkpoint_path),
        Options(resume, progress, parallel),
        {"sae": ce_recovered} if ce_recovered else {},
    )["sae"]


def train_together(
    source: Source,
    jobs: Mapping[str, Job],
    *,
    save_path: str | PathLike[str] | None = None,
    checkpoint_path: str | PathLike[str] | None = None,
    resume: bool = True,
    progress: bool = True,
    ce_recovered: Effects | None = None,
    parallel: Parallel | None = None,
) -> dict[str, Trained]:
    """Train several dictionaries on the same tokens, so that the model is run once for all of them.

    Args:
        source: activations.
        jobs: by name; what they say of batches, tokens, seed and order must be the same.
        save_path: a folder for a folder per dictionary, by name.
        checkpoint_path: as in `train`, one for all.
        resume: as in `train`.
        progress: as in `train`.
        ce_recovered: by name, as in `train`.
        parallel: as in `train`.

    Raises:
        TrainingError, SAEError, Interrupted: as `train`.
    """
    path = None if save_path is None else Path(save_path)
    paths = {name: None if path is None else path / name for name in jobs}
    options = Options(resume, progress, parallel)
    return _train(source, jobs, paths, _checkpoints(path, checkpoint_path), options, ce_recovered or {})


def steps_of(config: SAEConfig, tokens: int | None) -> int:
    """How many batches a run has.

    Args:
        config: the settings.
        tokens: of one pass over what is trained on; None if that is not known.

    Raises:
        TrainingError: if they do not make up a batch, or are not known and `num_tokens` is not set.
    """
    if tokens is not None and tokens < config.batch_size:
        held = f" ({config.validation_share:g} of all are held out)" if config.validation_share else ""
        raise TrainingError(f"{tokens} tokens{held} are fewer than one batch of {config.batch_size}; lower batch_size")
    if config.num_tokens is not None:
        return config.num_tokens // config.batch_size
    if tokens is None:
        raise TrainingError("how many tokens this source has is not known beforehand: set num_tokens")
    return tokens * config.num_epochs // config.batch_size


def _source(data: Data, targets: Activations | None) -> Source:
    if not isinstance(data, np.ndarray | mx.array):
        if not hasattr(data, "batches"):
            raise TrainingError(f"activations are an array [tokens, d_in] or a source, not {type(data).__name__}")
        if targets is not None:
            raise TrainingError("targets go with arrays; of a source, name the streams: outputs=('L2.mlp',)")
        return data
    x = as_matrix(data, "activations")
    if targets is None:
        return ArraySource({"x": x})
    y = as_matrix(targets, "targets")
    if len(x) != len(y):
        raise TrainingError(f"{len(x)} activations but {len(y)} targets; they must be of the same tokens")
    return ArraySource({"x": x, "y": y})


def _checkpoints(save_path: Path | None, given: str | PathLike[str] | None) -> Path | None:
    if given is not None:
        return Path(given)
    return None if save_path is None else save_path.with_name(f"{save_path.name}.checkpoint")


def report_path(save_path: Path) -> Path:
    """Where the report of the dictionary in the folder `save_path` is."""
    return save_path.with_name(f"{save_path.name}.report.json")


def _train(
    source: Source,
    jobs: Mapping[str, Job],
    paths: Mapping[str, Path | None],
    checkpoints: Path | None,
    options: Options,
    effects: Effects,
) -> dict[str, Trained]:
    shared = check_together(jobs)
    for path in paths.values():
        if path is not None:
            check_savable(path)
    tasks = {name: Task.of(job, source) for name, job in jobs.items()}
    if shared.curriculum == "length" and getattr(source, "order", None) != "length":
        raise TrainingError(
            "curriculum 'length' needs texts, which are read short ones first: "
            "model.train_sae(dataset=texts), or StreamSource(order='length')"
        )
    held = None
    if shared.validation_share:
        source, held = _split(source, shared)
    if options.parallel is not None and shared.batch_size % options.parallel.size:
        raise TrainingError(
            f"a batch of {shared.batch_size} tokens does not divide into {options.parallel.size} processes"
        )
    tokens = source.tokens
    count: Callable[[], int] | None = getattr(source, "count", None)
    if tokens is None and shared.num_tokens is None and count is not None:
        tokens = count()
    steps = steps_of(shared, tokens)
    run = Run(shared, tasks, source, held, steps, checkpoints, options)
    run.go()
    trained = {}
    for name, learner in run.learners.items():
        sae = learner.dictionary(steps)
        measure_ce = effects.get(name)
        report = replace(run.report(name), ce_recovered=None if measure_ce is None else measure_ce(sae))
        path = paths[name]
        if path is not None and options.writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            sae = sae.save(path)
            report.save(report_path(path))
        trained[name] = Trained(sae, report)
    if checkpoints is not None and options.writes and None not in paths.values():
        remove_checkpoints(checkpoints)
    return trained


def _split(source: Source, config: SAEConfig) -> tuple[Source, Source | None]:
    """What is trained on, and what is held out, if that is anything."""
    split: Callable[[float, int], tuple[Source, Source]] | None = getattr(source, "split", None)
    if split is None:
        raise TrainingError(f"a {type(source).__name__} cannot hold tokens out: set validation_share to 0")
    try:
        train, held = split(config.validation_share, config.seed)
        held.sample(1)
    except TrainingError:  # so few documents that none is held out
        return source, None
    return train, held


def check_savable(path: Path) -> None:
    """
    Raises:
        SAEError: if saving at `path` would delete something else; now, not when the training is over.
    """
    from saedsl.sae.formats.saelens import FILES
    from saedsl.sae.replace import check_replaceable

    check_replaceable(path, FILES)
