"""The progress bar of a training run."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import Progress

from saedsl.training.loop import Point


class RichBar:
    """A bar on stderr with the loss, L0 and dead features of the last report."""

    def __init__(self, steps: int) -> None:
        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("training", total=steps)

    def __enter__(self) -> RichBar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, point: Point) -> None:
        """Move the bar to `point`."""
        text = f"loss {point.loss:.3f}  L0 {point.l0:.1f}  dead {point.dead}"
        self._progress.update(self._task, completed=point.step, description=text)
