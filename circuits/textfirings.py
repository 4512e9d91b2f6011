"""Which features of a model's dictionaries fire over texts: windows of text in, sparse activations out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

import mlx.core as mx
import numpy as np

from saedsl.circuits.firings import Firings
from saedsl.circuits.splice import Place
from saedsl.circuits.waiting import Advance, quiet
from saedsl.errors import CircuitError, TrainingError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.training.stream import FIRST, StreamSource
from saedsl.training.texts import Texts

WINDOW: Final = 1 << 14
"""Tokens whose activations are held at once."""
BLOCK: Final = 1 << 23
"""Features, silent ones included, that are held at once."""
Data = Texts | str | Path | Iterable[str]
"""Texts, one document each, or the path of a file or folder of them: see `saedsl.training.texts.open_texts`."""


@dataclass(frozen=True, eq=False)
class TextFirings:
    """Sparse activations of several dictionaries over the same tokens; BOS and padding are not among them."""

    firings: dict[str, Firings]
    """By the text of the site that a dictionary writes, in the order of the forward."""
    documents: np.ndarray
    """[tokens] int64, the document of each token."""


def read_firings(
    model: InterpretableModel,
    places: Sequence[Place],
    data: Data,
    *,
    context: int = 128,
    max_tokens: int | None = None,
    advance: Advance = quiet,
) -> TextFirings:
    """Run a model over texts, once for all dictionaries, and keep what fires.

    Memory: 8 bytes for each token and feature that fires there, and one window of activations.

    Args:
        model: the model, as it is.
        places: the dictionaries.
        data: texts. Each document has rows of its own, so nothing is read from another.
        context: tokens of a row at most, BOS included.
        max_tokens: stop after as many; None for all.
        advance: told the tokens so far.

    Raises:
        CircuitError: if the data cannot be read, have no tokens but BOS and padding, or the model or a dictionary
            gives NaN or infinity.
    """
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {place.name: [] for place in places}
    documents: list[np.ndarray] = []
    tokens = 0
    try:
        sites = sorted({place.read for place in places})
        source = StreamSource(model, data, sites, context, window=WINDOW, packed=False, max_tokens=max_tokens)
        where = FIRST
        while where["pass"] == 0:
            window = source.window(where, Event())
            for place in places:
                parts[place.name] += _sparse(place, window.arrays[str(place.read)], tokens)
            documents.append(window.documents)
            tokens, where = tokens + len(window), window.next
            advance("reading activations", tokens, max_tokens)
    except TrainingError as e:
        raise CircuitError(str(e)) from e
    if not tokens:
        raise CircuitError("these texts have no tokens but BOS and padding: there is nothing to count")
    firings = {place.name: _joined(parts.pop(place.name), tokens, place.sae.config.d_sae) for place in places}
    return TextFirings(firings, np.concatenate(documents))


def _sparse(place: Place, x: np.ndarray, first: int) -> Iterator[tuple[np.ndarray, ...]]:
    """(firings of each token, features, values) of activations [tokens, d_in], block by block."""
    for f, at in encoded(place.sae, x):
        if not np.isfinite(f).all():
            bad = int(np.flatnonzero(~np.isfinite(f).all(axis=1))[0]) + first + at
            raise CircuitError(
                f"{place.name}: the dictionary gives NaN or infinity, first at token {bad}; look at its weights"
            )
        token, feature = np.nonzero(f)
        yield np.bincount(token, minlength=len(f)), feature.astype(np.int32), f[token, feature]


def encoded(sae: SAE, x: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """(features [n, d_sae], the first of their tokens) of activations [tokens, d_in], block by block."""
    rows = max(1, BLOCK // sae.config.d_sae)
    for at in range(0, len(x), rows):
        yield np.array(sae.encode(mx.array(x[at : at + rows]))), at


def _joined(parts: list[tuple[np.ndarray, ...]], tokens: int, width: int) -> Firings:
    start = np.zeros(tokens + 1, np.int64)
    np.cumsum(np.concatenate([p[0] for p in parts]), out=start[1:])
    return Firings(start, np.concatenate([p[1] for p in parts]), np.concatenate([p[2] for p in parts]), width)
