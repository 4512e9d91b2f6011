"""Training of dictionaries: `SAEConfig`, `train`, `evaluate`. MLX is imported by the latter two."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saedsl.training.config import SAEConfig

if TYPE_CHECKING:
    from saedsl.training.arrays import ArraySource
    from saedsl.training.jobs import Job
    from saedsl.training.metrics import Evaluation, ce_recovered, evaluate
    from saedsl.training.report import Report
    from saedsl.training.stopping import Interrupted
    from saedsl.training.trainer import Trained, train, train_together

_HOMES = {
    "ArraySource": "saedsl.training.arrays",
    "Evaluation": "saedsl.training.metrics",
    "Interrupted": "saedsl.training.stopping",
    "Job": "saedsl.training.jobs",
    "Report": "saedsl.training.report",
    "Trained": "saedsl.training.trainer",
    "ce_recovered": "saedsl.training.metrics",
    "evaluate": "saedsl.training.metrics",
    "train": "saedsl.training.trainer",
    "train_together": "saedsl.training.trainer",
}

__all__ = [
    "ArraySource",
    "Evaluation",
    "Interrupted",
    "Job",
    "Report",
    "SAEConfig",
    "Trained",
    "ce_recovered",
    "evaluate",
    "train",
    "train_together",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'saedsl.training' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
