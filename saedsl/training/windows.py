"""Windows of tokens, each read whole and shuffled in itself, the next one while this one is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np

from saedsl.errors import TrainingError
from saedsl.training.source import Batch, Cursor

Place = Mapping[str, Any]
"""Where a window starts, as JSON can hold it; `pass` and `window` number it."""


@dataclass(frozen=True)
class Window:
    """Some tokens of one pass."""

    arrays: Mapping[str, np.ndarray]
    """Stream -> [n, width] float32; n may be 0."""
    documents: np.ndarray
    """[n] the index of the document that each token is of."""
    place: Place
    """Where it starts."""
    next: Place
    """Where the one after it starts, in this pass or the next."""

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))


class Stopped(Exception):
    """Nobody waits for this window any more."""


Make = Callable[[Place, Event], Window]
"""The window at a place. It looks at the event now and then, and raises `Stopped` once that is set."""


def shuffled(make: Make, start: Place, size: int, seed: int, cursor: Cursor | None) -> Iterator[Batch]:
    """Batches out of windows, each window permuted by `[seed, pass, window]`.

    One further thread makes the next window while batches of this one are taken, so two windows are held at most. What
    it raises is raised here. When the iterator is closed or dropped, the thread ends at its next look at the event.

    Args:
        make: what makes windows.
        start: the first window of the first pass.
        size: tokens a batch.
        seed: of the permutations.
        cursor: of the batch to go on after: the place of its last window, and `used`, tokens taken of it.

    Raises:
        TrainingError: if `size` is not positive, or a whole pass has no token.
    """
    if size < 1:
        raise TrainingError(f"a batch of {size} tokens: at least 1 is needed")
    return _shuffled(make, start, size, seed, cursor)


def _shuffled(make: Make, start: Place, size: int, seed: int, cursor: Cursor | None) -> Iterator[Batch]:
    place: Place = start if cursor is None else {k: v for k, v in cursor.items() if k != "used"}
    used = 0 if cursor is None else int(cursor["used"])
    stop = Event()
    pool = ThreadPoolExecutor(1, "saedsl activations")
    try:
        coming = pool.submit(make, place, stop)
        window = coming.result()
        coming = pool.submit(make, window.next, stop)
        order = _order(window, seed)
        barren = 0
        while True:
            taken: list[Mapping[str, np.ndarray]] = []
            missing = size
            while missing:
                if used == len(window):
                    barren = 0 if len(window) else barren + (window.next["pass"] > window.place["pass"])
                    if barren > 1:
                        raise TrainingError(
                            "these data have no tokens but BOS and padding: there is nothing to train on"
                        )
                    window = coming.result()
                    coming = pool.submit(make, window.next, stop)
                    order, used = _order(window, seed), 0
                    continue
                rows = order[used : used + missing]
                taken.append({name: x[rows] for name, x in window.arrays.items()})
                used, missing = used + len(rows), missing - len(rows)
            arrays = {name: np.concatenate([t[name] for t in taken]) for name in taken[0]} if taken[1:] else taken[0]
            yield Batch(arrays, {**window.place, "used": used})
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _order(window: Window, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, window.place["pass"], window.place["window"]])
    return rng.permutation(len(window))


def first_tokens(make: Make, start: Place, tokens: int) -> dict[str, np.ndarray]:
    """The first `tokens` tokens of a pass, or all of them: stream -> [n, width].

    Raises:
        TrainingError: if there are none.
    """
    parts: list[Mapping[str, np.ndarray]] = []
    found, place, stop = 0, start, Event()
    while found < tokens and place["pass"] == start["pass"]:
        window = make(place, stop)
        parts.append(window.arrays)
        found, place = found + len(window), window.next
    if not found:
        raise TrainingError("these data have no tokens but BOS and padding: there is nothing to train on")
    return {name: np.concatenate([p[name] for p in parts])[:tokens] for name in parts[0]}
