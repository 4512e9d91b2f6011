"""A bar on terminals while long work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str, int, int | None], None]
"""Called with what is done, how much of it is, and out of how much (None: not known)."""


def quiet(label: str, done: int, total: int | None) -> None:
    """Show nothing."""


@contextmanager
def bar(shown: bool) -> Iterator[Advance]:
    """What moves a bar on stderr; nothing is drawn where that is no terminal, or it is not `shown`."""
    if not shown:
        yield quiet
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield quiet
        return
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as progress:
        tasks: dict[str, int] = {}

        def advance(label: str, done: int, total: int | None) -> None:
            if label not in tasks:
                tasks[label] = int(progress.add_task(label, total=total))
            progress.update(tasks[label], completed=done, total=total)  # type: ignore[arg-type]

        yield advance
