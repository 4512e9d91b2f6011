"""Activations in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from saedsl.errors import TrainingError
from saedsl.training.source import Batch, Cursor
from saedsl.training.split import check_share, held_out

_CHUNK = 1 << 14
"""Rows looked at together, so that checks take little memory."""


class ArraySource:
    """Arrays of the same tokens, shuffled anew in each pass: a permutation by `[seed, pass]`.

    A cursor is the number of tokens read so far; to go on from one costs no reading.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        about: Mapping[str, Any] | None = None,
        documents: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            arrays: stream -> [n, width], any float dtype; kept as they are, read as float32.
            about: `model_name`, `context_size`, `trained_on_bos`, as far as they are known.
            documents: [n] the index of the document that each token is of, for `split`; without, tokens are split.

        Raises:
            TrainingError: if there is no array or no token, the arrays are not [n, width] of as many tokens, or hold
                anything but finite numbers.
        """
        self._arrays = {name: np.asarray(x) for name, x in arrays.items()}
        _check(self._arrays)
        n = len(next(iter(self._arrays.values())))
        if documents is not None and np.shape(documents) != (n,):
            raise TrainingError(f"documents is of shape {np.shape(documents)}, but there are {n} tokens")
        self._documents = None if documents is None else np.asarray(documents)
        self._rows: np.ndarray | None = None
        self.widths: Mapping[str, int] = {name: x.shape[1] for name, x in self._arrays.items()}
        self.tokens: int = n
        self.about: Mapping[str, Any] = dict(about or {})

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the arrays, and of which rows are read."""
        digest = hashlib.sha256(b"arrays 1")
        for name, x in sorted(self._arrays.items()):
            digest.update(f"{name} {x.dtype.str} {x.shape}".encode())
            for i in range(0, len(x), _CHUNK):
                digest.update(x[i : i + _CHUNK].tobytes())
        if self._rows is not None:
            digest.update(self._rows.tobytes())
        return digest.hexdigest()

    def batches(self, size: int, seed: int, cursor: Cursor | None = None) -> Iterator[Batch]:
        """See `Source.batches`."""
        if size < 1:
            raise TrainingError(f"a batch of {size} tokens: at least 1 is needed")
        return self._batches(size, seed, int((cursor or {}).get("tokens", 0)))

    def _batches(self, size: int, seed: int, seen: int) -> Iterator[Batch]:
        n, number = self.tokens, -1
        order = np.empty(0, np.int64)
        while True:
            rows = np.empty(size, np.int64)
            filled = 0
            while filled < size:
                if number != seen // n:
                    number = seen // n
                    order = np.random.default_rng([seed, number]).permutation(n)
                at = seen % n
                some = order[at : at + size - filled]
                rows[filled : filled + len(some)] = some
                filled, seen = filled + len(some), seen + len(some)
            yield Batch(self._taken(rows), {"tokens": seen})

    def sample(self, tokens: int) -> Mapping[str, np.ndarray]:
        """See `Source.sample`: tokens chosen evenly."""
        if tokens >= self.tokens:
            return self._taken(np.arange(self.tokens))
        return self._taken(np.linspace(0, self.tokens, tokens, endpoint=False).astype(np.int64))

    def split(self, share: float, seed: int = 0) -> tuple[ArraySource, ArraySource]:
        """(training, held out), which share no document; no token, where documents are not known. Nothing is copied.

        Args:
            share: of the documents that are held out, about.
            seed: of the choice.

        Raises:
            TrainingError: if one side would have no tokens.
        """
        check_share(share)
        own = np.arange(len(next(iter(self._arrays.values())))) if self._rows is None else self._rows
        held = held_out(own if self._documents is None else self._documents[own], share, seed)
        if held.all() or not held.any():
            what = "tokens" if self._documents is None else "documents"
            raise TrainingError(
                f"these {self.tokens} tokens cannot be split: a share of {share} leaves one side without {what}"
            )
        return self._of(own[~held]), self._of(own[held])

    def _of(self, rows: np.ndarray) -> ArraySource:
        part = object.__new__(ArraySource)
        part._arrays, part._documents, part._rows = self._arrays, self._documents, rows
        part.widths, part.tokens, part.about = self.widths, len(rows), self.about
        return part

    def _taken(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        if self._rows is not None:
            rows = self._rows[rows]
        return {name: x[rows].astype(np.float32, copy=False) for name, x in self._arrays.items()}


def finite(x: np.ndarray) -> np.ndarray:
    """Whether each row of [n, width] is finite as float32: [n] bool."""
    with np.errstate(over="ignore"):
        return np.asarray(np.isfinite(x.astype(np.float32, copy=False)).all(axis=1))


def not_finite(name: str, rows: Sequence[int], n: int) -> TrainingError:
    """The error for a stream that holds NaN or infinity.

    Args:
        name: the stream.
        rows: which rows do.
        n: how many rows were looked at.
    """
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return TrainingError(
        f"activations {name!r} hold NaN or infinity in {len(rows)} of {n} rows: {shown}; "
        "leave these out, or run the model in float32"
    )


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    if not arrays:
        raise TrainingError("there are no activations to train on")
    for name, x in arrays.items():
        if x.ndim != 2 or x.dtype.kind != "f":
            raise TrainingError(f"activations {name!r} are floats [tokens, width], these are {x.dtype} {x.shape}")
    lengths = {name: len(x) for name, x in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name!r} has {n}" for name, n in lengths.items())
        raise TrainingError(f"activations are of the same tokens in the same order, but {found}")
    if 0 in lengths.values():
        raise TrainingError("the activations have no tokens: there is nothing to train on")
    for name, x in arrays.items():
        fine = np.concatenate([finite(x[i : i + _CHUNK]) for i in range(0, len(x), _CHUNK)])
        if not fine.all():
            raise not_finite(name, np.flatnonzero(~fine).tolist(), len(x))
