"""Ctrl-C between two steps, never within one: weights are changed in place."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training was ended by Ctrl-C; the message says what was kept, and how to go on."""


class Stop:
    """Within it, the first Ctrl-C only sets `asked`; the second one acts as always."""

    def __init__(self) -> None:
        self.asked = False
        """Whether to stop after this step."""
        self._before: Any = None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
