"""An end for waits that nobody answers: when a process is gone, MLX's ring can leave the others waiting for ever.

A wait inside MLX cannot be left, not by an exception and not by Ctrl-C. So a thread looks on, and ends this process.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Final

GRACE: Final = 5.0
"""Seconds in which what a closed connection still holds is read: a process may end right after its last answer."""
PATIENCE: Final = 1800.0
"""Seconds that a wait may last while all connections are open."""
EVERY: Final = 0.2
"""Seconds between two looks."""
KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Seconds, seconds (macOS's name), seconds, times: a machine without power closes its connections after a minute."""


def open_sockets() -> set[int]:
    """The numbers of this process's sockets; empty where the system does not list them."""
    found = set()
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # the folder's own number is closed by now
                if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    found.add(int(name))
    return found


class Watch:
    """Ends this process, with exit code 1 and a message, when a wait is in vain."""

    def __init__(
        self, numbers: Sequence[int], who: str, how: str, patience: float = PATIENCE, grace: float = GRACE
    ) -> None:
        """
        Args:
            numbers: of the sockets that lead to the other processes.
            who: begins the message: "process 0 of 2".
            how: ends it: how to go on.
            patience: seconds that a wait may last while all connections are open.
            grace: seconds that it may go on when one is closed.
        """
        self._who, self._how, self._patience, self._grace = who, how, patience, grace
        self._sockets = [s for s in map(_copy, numbers) if s is not None]
        self._since: float | None = None
        self._began = threading.Event()
        threading.Thread(target=self._look, name="saedsl-watch", daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it, the process waits for others."""
        self._since = monotonic()
        self._began.set()
        try:
            yield
        finally:
            self._since = None
            self._began.clear()

    def lost(self, why: str) -> str:
        """The message of a process that lost another one, and may only end now: within 10 seconds once it begins to."""
        atexit.register(signal.alarm, 10)  # threads of MLX's that wait for ever could hold up the end
        return f"{self._who} lost another one ({why}); {self._how}"

    def _look(self) -> None:
        closed: tuple[float, float] | None = None  # which wait it is, by its start, and when it was seen
        while True:
            self._began.wait()
            threading.Event().wait(EVERY)
            since, now = self._since, monotonic()
            if since is None:
                continue
            if now - since > self._patience:
                _end(f"{self._who} waited {self._patience:g} seconds for the others in vain; {self._how}")
            if closed is not None and closed[0] == since:
                if now - closed[1] > self._grace:
                    _end(f"{self._who} lost another one (its connection is closed); {self._how}")
            elif any(map(_hung_up, self._sockets)):
                closed = since, now


def _copy(number: int) -> socket.socket | None:
    """The connection, by a number of our own, which stays ours when MLX closes its own; None if it is none."""
    try:
        found = socket.socket(fileno=os.dup(number))
        if found.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        found.getpeername()  # an attempt that was refused, before the other process listened, has none
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:
        return None
    return found


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other end is closed; what it sent before can be unread yet."""
    asked = select.poll()
    asked.register(connection, getattr(select, "POLLRDHUP", 0))
    ends = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)
    if any(mask & ends for _, mask in asked.poll(0)):
        return True
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _end(message: str) -> None:
    """End the process at once: its other threads cannot be asked to."""
    show = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a progress bar hides
    os.write(2, f"{show}\n{message}\n".encode())
    os._exit(1)
