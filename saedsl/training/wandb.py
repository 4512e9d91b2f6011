"""The curve of a run on Weights & Biases; with `WANDB_MODE=offline` in a folder `wandb`, to be synced later."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

from saedsl.errors import TrainingError
from saedsl.training.config import SAEConfig
from saedsl.training.report import Point, Validation


def run_id() -> str:
    """A name that no other run has; a checkpoint keeps it, so that a resumed run goes on in the same curve."""
    return secrets.token_hex(4)


class WandbLog:
    """A run that is open within `with`."""

    def __init__(self, config: SAEConfig, about: Mapping[str, Any], id: str, *, single: bool) -> None:
        """
        Args:
            config: says project and name.
            about: what is kept as the run's configuration.
            id: of the run.
            single: whether there is one dictionary, whose name need not be said.

        Raises:
            TrainingError: if the package is missing.
        """
        try:
            import wandb
        except ImportError:
            raise TrainingError("use_wandb needs the package wandb: pip install 'saedsl[wandb]'") from None
        self._wandb, self._config, self._about, self._id, self._single = wandb, config, about, id, single
        self._run: Any = None

    def __enter__(self) -> WandbLog:
        self._run = self._wandb.init(
            project=self._config.wandb_project,
            name=self._config.wandb_name,
            config=dict(self._about),
            id=self._id,
            resume="allow",
            settings=self._wandb.Settings(console="off", silent=True),
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)

    def point(self, name: str, point: Point) -> None:
        """Log a point of the curve."""
        self._send(name, "", {**asdict(point), "loss": point.loss}, point.step)

    def validation(self, name: str, seen: Validation) -> None:
        """Log what the held-out tokens say."""
        self._send(name, "validation/", asdict(seen), seen.step)

    def _send(self, name: str, part: str, values: dict[str, Any], step: int) -> None:
        lead = "" if self._single else f"{name}/"
        self._run.log({f"{lead}{part}{k}": v for k, v in values.items() if k != "step"}, step=step)
