"""k-sparse probing: does a handful of features tell the classes of a task apart?

As SAEBench defines it (arXiv:2503.09532, appendix; after Gurnee et al. 2023, arXiv:2305.01610): a text is the mean of
its tokens' features, BOS and padding left out; the k features whose means differ most between the classes, on the
training half, feed a logistic regression; its accuracy on the other half is the score. The same regression on the
activations themselves is the ceiling, the larger class the floor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.training.harvest import batches


@dataclass(frozen=True)
class Task:
    """Texts with labels."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """One class of a task against the others."""

    task: str
    label: str
    """The class."""
    texts: int
    """How many were tested on."""
    majority: float
    """Accuracy of always saying the larger class."""
    activations: float
    """Accuracy of a regression on the activations."""
    accuracy: dict[int, float]
    """k -> accuracy of a regression on k features."""
    features: tuple[int, ...]
    """The features chosen, the best first; as many as the largest k."""


def read_task(path: Path) -> Task:
    """A JSONL file of {"text": ..., "label": ...}, a line each.

    Raises:
        TrainingError: naming file and line, if a line is anything else or there are no two classes.
    """
    texts, labels = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read as text ({error})") from None
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TrainingError(f"{path}:{i}: not JSON ({error})") from None
        text, label = (row.get("text"), row.get("label")) if isinstance(row, dict) else (None, None)
        if not isinstance(text, str) or not isinstance(label, str | int):
            raise TrainingError(f'{path}:{i}: a line is {{"text": "...", "label": "..."}}')
        texts.append(text)
        labels.append(str(label))
    return Task(path.stem, tuple(texts), tuple(labels))


def probe(
    model: InterpretableModel,
    sae: SAE,
    task: Task,
    site: Site,
    ks: Sequence[int] = (1, 2, 5),
    *,
    context: int = 128,
    seed: int = 0,
) -> tuple[Probe, ...]:
    """Probe every class of `task` against the others; a task of two classes gives one probe, of the later label.

    Args:
        model: the model, as it is.
        sae: the dictionary.
        task: at least four texts of each class.
        site: where the dictionary reads.
        ks: how many features a probe may use.
        context: tokens of a text that are read.
        seed: of the halves; each class is halved.

    Raises:
        TrainingError: if the task is too small, a text has no tokens, or scikit-learn is missing.
    """
    labels = np.array(task.labels)
    names = sorted(set(task.labels))
    if len(names) < 2:
        raise TrainingError(f"task {task.name} has the labels {names}; a probe tells two classes apart")
    few = [n for n in names if (labels == n).sum() < 4]
    if few:
        raise TrainingError(f"task {task.name} has fewer than 4 texts labelled {few[0]!r}; give more")
    if not ks or min(ks) < 1 or max(ks) > sae.config.d_sae:
        raise TrainingError(f"k is {list(ks)}; it goes from 1 to the {sae.config.d_sae} features there are")
    x, f = _means(model, sae, task, site, context)
    train = _halves(labels, np.random.default_rng(seed))
    return tuple(
        _probed(task.name, name, x, f, labels == name, train, sorted(set(ks)))
        for name in (names if len(names) > 2 else names[1:])
    )


def _means(model: InterpretableModel, sae: SAE, task: Task, site: Site, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean activations [texts, d] and features [texts, F] over each text's first row."""
    x = np.zeros((len(task.texts), sae.config.d_in), np.float32)
    f = np.zeros((len(task.texts), sae.config.d_sae), np.float32)
    for i, text in enumerate(task.texts):
        row = next(iter(batches(model, [text], context)), None)
        content = np.flatnonzero(row.content[0]) if row is not None else np.zeros(0, int)
        if row is None or not content.size:
            raise TrainingError(f"text {i + 1} of task {task.name} has no tokens")
        a = model.activations(row.tokens[:1], [site])[site][0][mx.array(content)].astype(mx.float32)
        x[i], f[i] = np.array(a.mean(axis=0)), np.array(sae.encode(a).mean(axis=0))
    return x, f


def _halves(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[texts] bool: half of each class, at random."""
    train = np.zeros(len(labels), bool)
    for name in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == name))
        train[members[: (len(members) + 1) // 2]] = True
    return train


def _probed(
    task: str, label: str, x: np.ndarray, f: np.ndarray, is_label: np.ndarray, train: np.ndarray, ks: list[int]
) -> Probe:
    test = is_label[~train]
    difference = np.abs(f[train & is_label].mean(axis=0) - f[train & ~is_label].mean(axis=0))
    chosen = np.argsort(-difference, kind="stable")[: ks[-1]]
    return Probe(
        task=task,
        label=label,
        texts=int(test.size),
        majority=float(max(test.mean(), 1 - test.mean())),
        activations=_accuracy(x, is_label, train),
        accuracy={k: _accuracy(f[:, chosen[:k]], is_label, train) for k in ks},
        features=tuple(int(i) for i in chosen),
    )


def _accuracy(x: np.ndarray, y: np.ndarray, train: np.ndarray) -> float:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise TrainingError("probing needs scikit-learn: pip install 'saedsl[probing]'") from None
    spread = x[train].std(axis=0)
    x = (x - x[train].mean(axis=0)) / np.where(spread > 0, spread, 1)
    fitted = LogisticRegression(max_iter=1000).fit(x[train], y[train])
    return float(fitted.score(x[~train], y[~train]))
