"""Training of dictionaries: `SAEConfig`, `train`, `evaluate`. MLX is imported by the latter two."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saedsl.training.config import SAEConfig

if TYPE_CHECKING:
    from saedsl.training.loop import Origin, Report, Trained, train
    from saedsl.training.metrics import Evaluation, ce_recovered, evaluate

_HOMES = {
    "Evaluation": "saedsl.training.metrics",
    "Origin": "saedsl.training.loop",
    "Report": "saedsl.training.loop",
    "Trained": "saedsl.training.loop",
    "ce_recovered": "saedsl.training.metrics",
    "evaluate": "saedsl.training.metrics",
    "train": "saedsl.training.loop",
}

__all__ = ["Evaluation", "Origin", "Report", "SAEConfig", "Trained", "ce_recovered", "evaluate", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'saedsl.training' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
