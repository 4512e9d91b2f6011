"""What training reads: named streams of activations, all of the same tokens in the same order.

`saedsl.training.arrays` holds them in memory, `.shards` maps them from disk, `.stream` makes them as they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Cursor = Mapping[str, Any]
"""A place in a source, as JSON can hold it."""


@dataclass(frozen=True)
class Batch:
    """Some tokens."""

    arrays: Mapping[str, np.ndarray]
    """Stream -> [n, width] float32, finite. Streams are sites as text (`L2.mlp`), or `x` and `y` of bare arrays."""
    cursor: Cursor
    """The place right after this batch."""


class Source(Protocol):
    """Activations, shuffled, BOS and padding left out."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Stream -> its width."""

    @property
    def tokens(self) -> int | None:
        """Tokens of one pass; None if not known before reading."""

    @property
    def identity(self) -> str:
        """SHA-256 of data, model, sites and order: a checkpoint goes on only with the same."""

    @property
    def about(self) -> Mapping[str, Any]:
        """`model_name`, `context_size`, `trained_on_bos`, as far as they are known: kept in the dictionary's config."""

    def batches(self, size: int, seed: int, cursor: Cursor | None = None) -> Iterator[Batch]:
        """Batches of exactly `size` tokens, pass after pass without end, each pass in another order.

        Equal arguments give the same batches; from a batch's cursor on they go on as they would have.

        Raises:
            TrainingError: if there are no tokens, or activations hold NaN or infinity.
        """

    def sample(self, tokens: int) -> Mapping[str, np.ndarray]:
        """At least min(tokens, all) tokens' activations, for means and scales; always the same."""
