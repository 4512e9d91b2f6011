"""Which dictionary is trained on which streams of a source, and what it becomes: settings -> form -> dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import sqrt
from typing import Any

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.sae.config import Activation as DictionaryActivation
from saedsl.sae.config import DictionaryConfig, freeze_metadata
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.training.config import SHARED, Kind, SAEConfig
from saedsl.training.engine import Activation, Arrays, Form
from saedsl.training.source import Source

ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu", "relu": "relu", "topk": "topk", "batchtopk": "batchtopk", "matryoshka": "batchtopk",
    "jumprelu": "jumprelu", "gated": "gated",
}  # fmt: skip
PASSING = {"checkpoint_every", "use_wandb", "wandb_project", "wandb_name"}
"""Settings that do not change the result."""


@dataclass(frozen=True)
class Job:
    """One dictionary to train."""

    config: SAEConfig
    """Its settings."""
    inputs: tuple[str, ...] = ()
    """Streams that its encoder reads, one after another; () for all that are no targets."""
    outputs: tuple[str, ...] = ()
    """Streams that its decoder writes; () for the inputs."""


@dataclass(frozen=True)
class Task:
    """A job that fits its source: everything but the weights."""

    config: SAEConfig
    """Its settings."""
    kind: Kind
    """What the sites make of it."""
    inputs: tuple[str, ...]
    """Streams that are read."""
    outputs: tuple[str, ...]
    """Streams that are written."""
    widths: Mapping[str, int]
    """Of these streams."""
    about: Mapping[str, Any]
    """What the source says of the model."""

    @classmethod
    def of(cls, job: Job, source: Source) -> Task:
        """
        Raises:
            TrainingError: if the source does not have the streams, or they do not make up what the settings say.
        """
        inputs = job.inputs or tuple(s for s in source.widths if s not in job.outputs)
        outputs = job.outputs or inputs
        missing = [s for s in (*inputs, *outputs) if s not in source.widths]
        if missing:
            raise TrainingError(f"there are no activations {missing[0]!r}; there are {', '.join(source.widths)}")
        kind = job.config.kind or ("sae" if outputs == inputs else "transcoder")
        _check(kind, inputs, outputs, job.config, source.widths)
        widths = {s: source.widths[s] for s in (*inputs, *outputs)}
        task = cls(job.config, kind, inputs, outputs, widths, source.about)
        _ = task.form
        return task

    @property
    def d_in(self) -> int:
        """Width of all inputs together."""
        return sum(self.widths[s] for s in self.inputs)

    @property
    def d_out(self) -> int:
        """Width of all outputs together."""
        return sum(self.widths[s] for s in self.outputs)

    @property
    def same(self) -> bool:
        """Whether it writes what it reads."""
        return self.inputs == self.outputs

    @cached_property
    def d_sae(self) -> int:
        """Features; of a cross-layer transcoder, in all layers."""
        return self.config.features(self.d_in)

    @cached_property
    def form(self) -> Form:
        """What the engine trains."""
        c = self.config
        subtract = self.same if c.subtract_b_dec is None else c.subtract_b_dec
        layers = len(self.inputs) if self.kind == "clt" else 1
        return Form(ACTIVATIONS[c.sae_type], c.nested(self.d_sae), subtract, c.skip, layers)

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        settings = {k: v for k, v in asdict(self.config).items() if k not in PASSING}
        return {"config": settings, "inputs": list(self.inputs), "outputs": list(self.outputs)}

    def dictionary(self, weights: Arrays, scales: Scales, threshold: float, k: float) -> SAE:
        """The dictionary of the model's own activations: the scales are folded in.

        Args:
            weights: of scaled activations.
            scales: theirs.
            threshold: batchtopk's.
            k: features kept per token at last.
        """
        c, form, w = self.config, self.form, dict(weights)
        activation: DictionaryActivation = form.activation
        x, y = scales.x, scales.y
        if form.layers > 1:
            w["W_enc"] = w["W_enc"] * x.reshape(form.layers, -1).T.repeat(self.d_sae // form.layers, axis=1)
        else:
            w["W_enc"] = w["W_enc"] * x[:, None]
        w["W_dec"] = w["W_dec"] / y
        w["b_dec"] = w["b_dec"] / y
        if form.skip:
            w["W_skip"] = w["W_skip"] * x / y[:, None]
        if form.activation == "jumprelu":
            w["threshold"] = np.exp(w.pop("log_threshold"))
        elif form.activation == "batchtopk":
            w["threshold"] = np.full(self.d_sae, threshold, np.float32)
        many = self.kind in ("crosscoder", "clt")
        read, write = _sites(self.inputs), _sites(self.outputs)
        more: dict[str, Any] = {"input_sites": read, "output_sites": write} if many else {
            "input_site": read[0] if read else None, "output_site": write[0] if write else None
        }  # fmt: skip
        if form.prefixes:
            more["prefixes"] = form.prefixes
        config = DictionaryConfig(
            d_in=self.d_in,
            d_sae=self.d_sae,
            d_out=self.d_out,
            activation=activation,
            k=max(round(k), 1) if form.activation in ("topk", "batchtopk") else None,
            kind=self.kind,
            apply_b_dec_to_input=form.subtract_b_dec,
            skip=form.skip,
            model_name=self.about.get("model_name"),
            context_size=self.about.get("context_size"),
            trained_on_bos=bool(self.about.get("trained_on_bos", False)),
            metadata=freeze_metadata({"training": asdict(c)}),
            **more,
        )
        arrays: dict[str, Any] = {name: mx.array(np.asarray(value, np.float32)) for name, value in w.items()}
        return SAE(config, **arrays)


@dataclass(frozen=True)
class Scales:
    """What activations are multiplied by, and how much they vary then."""

    x: np.ndarray
    """[I] float32, equal within a stream."""
    y: np.ndarray
    """[O] float32."""
    variance: float
    """Of the scaled targets: E||y - E y||^2."""

    @classmethod
    def of(cls, task: Task, sample: Mapping[str, np.ndarray]) -> Scales:
        """From a sample of the activations: unit variance per dimension, on average over each stream.

        Raises:
            TrainingError: if a stream does not vary.
        """
        factors, variances = {}, {}
        for name in {*task.inputs, *task.outputs}:
            variance = float(sample[name].var(axis=0, dtype=np.float64).mean())
            if not variance > 0:
                of = "activations" if name == "x" else "targets" if name == "y" else f"activations {name!r}"
                raise TrainingError(f"{of} are the same for all tokens; there is nothing to learn from")
            factors[name] = 1 / sqrt(variance) if task.config.input_scale == "dataset" else 1.0
            variances[name] = variance * task.widths[name] * factors[name] ** 2
        x, y = (
            np.concatenate([np.full(task.widths[s], factors[s], np.float32) for s in streams])
            for streams in (task.inputs, task.outputs)
        )
        return cls(x, y, sum(variances[s] for s in task.outputs))


def joined(arrays: Mapping[str, np.ndarray], streams: tuple[str, ...], scale: np.ndarray | None = None) -> np.ndarray:
    """The streams side by side, [n, all widths] float32, scaled if `scale` [all widths] is given."""
    x = arrays[streams[0]] if len(streams) == 1 else np.concatenate([arrays[s] for s in streams], axis=1)
    return x if scale is None else x * scale


def check_together(jobs: Mapping[str, Job]) -> SAEConfig:
    """The settings that all jobs share; those of the first one.

    Raises:
        TrainingError: if there is no job, or two jobs differ in how the stream is read.
    """
    if not jobs:
        raise TrainingError("there is no dictionary to train")
    first_name, first = next(iter(jobs.items()))
    for name, job in jobs.items():
        for key in SHARED:
            a, b = getattr(first.config, key), getattr(job.config, key)
            if a != b:
                raise TrainingError(
                    f"dictionaries that are trained together read the same batches, but {key} is {a!r} for "
                    f"{first_name} and {b!r} for {name}"
                )
    return first.config


def _check(
    kind: Kind, inputs: tuple[str, ...], outputs: tuple[str, ...], c: SAEConfig, widths: Mapping[str, int]
) -> None:
    reads, writes = ", ".join(inputs), ", ".join(outputs)
    if kind == "sae" and inputs != outputs:
        raise TrainingError(f"an SAE writes what it reads, but it reads {reads} and writes {writes}; it has no targets")
    if kind in ("sae", "transcoder") and (len(inputs) > 1 or len(outputs) > 1):
        raise TrainingError(
            f"this {kind} reads {reads} and writes {writes}, but has one site of each; "
            "several are a crosscoder's or a clt's: set kind"
        )
    if kind == "transcoder" and inputs == outputs:
        raise TrainingError(f"a transcoder writes another site than {reads}: give targets, or an output")
    if kind == "crosscoder" and len(inputs) < 2 and len(outputs) < 2:
        raise TrainingError(f"a crosscoder reads or writes several sites, this one only {reads}")
    if kind == "clt":
        if len(inputs) < 2 or len(inputs) != len(outputs) or inputs == outputs:
            raise TrainingError(
                f"a clt reads one site of each of several layers and writes another of each, not {reads} to {writes}"
            )
        if len({widths[s] for s in inputs}) > 1 or len({widths[s] for s in outputs}) > 1:
            raise TrainingError("the sites that a clt reads are of one width, and those that it writes")
        n = c.d_sae or c.expansion_factor * sum(widths[s] for s in inputs)
        if n % len(inputs):
            raise TrainingError(f"{n} features do not divide into {len(inputs)} layers; choose another d_sae")
    if c.skip and kind != "transcoder":
        raise TrainingError(f"skip is a transcoder's, this is {'an' if kind == 'sae' else 'a'} {kind}")
    subtract = inputs == outputs if c.subtract_b_dec is None else c.subtract_b_dec
    if subtract and sum(widths[s] for s in inputs) != sum(widths[s] for s in outputs):
        raise TrainingError("b_dec cannot be subtracted from inputs of another width; leave subtract_b_dec off")


def _sites(streams: tuple[str, ...]) -> tuple[Site, ...]:
    """The streams as sites; () if one is none."""
    try:
        return tuple(Site.parse(s) for s in streams)
    except ValueError:
        return ()
