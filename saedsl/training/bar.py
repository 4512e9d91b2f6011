"""The progress bar of a training run."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from saedsl.training.report import Point

PAUSE = 0.1
"""Seconds between two updates, at least."""


class RichBar:
    """A bar on stderr with explained variance, L0 and dead features of the last batch."""

    def __init__(self, start: int, steps: int) -> None:
        """
        Args:
            start: steps that were made before.
            steps: of the whole run.
        """
        self._progress = Progress(
            *Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True), transient=True
        )
        self._task = self._progress.add_task("training", total=steps, completed=start)
        self._shown = 0.0

    def __enter__(self) -> RichBar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, step: int, point: Point) -> None:
        """Move the bar to `step`."""
        now = time.monotonic()
        if now - self._shown < PAUSE:
            return
        self._shown = now
        text = f"explained {point.explained_variance:.3f}  L0 {point.l0:.1f}  dead {point.dead}"
        self._progress.update(self._task, completed=step, description=text)
