"""Activations made as they are needed: a model over a data set, window after window."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any, Final, Literal

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.model import InterpretableModel
from saedsl.sites import Site
from saedsl.training.arrays import finite
from saedsl.training.packing import Convention, Packing, Row, Start
from saedsl.training.source import Batch, Cursor
from saedsl.training.split import check_share, held_out
from saedsl.training.texts import ByLength, Texts, open_texts
from saedsl.training.windows import Place, Stopped, Window, first_tokens, shuffled

Order = Literal["text", "length"]
FORWARD: Final = 4096
"""Tokens of one forward, about."""
FIRST: Final[Place] = {"pass": 0, "window": 0, "seen": 0, **Start().to_json()}
"""The place of the first window."""


@dataclass(frozen=True)
class Held:
    """Which documents a source reads."""

    share: float
    seed: int
    side: Literal["train", "held"]

    def __call__(self, document: int) -> bool:
        return bool(held_out(np.array([document]), self.share, self.seed)[0]) == (self.side == "held")


@dataclass(frozen=True)
class Span:
    """A window that the model has not read yet."""

    rows: tuple[Row, ...]
    """Its rows, the last one perhaps longer than it."""
    documents: np.ndarray
    """[tokens] int64: which document each token is of."""
    place: Place
    """Where it is."""
    next: Place
    """Where the one behind it is."""


class StreamSource:
    """Activations at any sites of a model over texts; BOS, separators and padding are left out.

    A pass is cut into windows of about `window` tokens, by the order of the texts; each is harvested whole and permuted
    by `[seed, pass, window]`, while the window before it is trained on. Memory: two windows, whatever the data set's
    size. To go on from a cursor, one window is harvested again.
    """

    def __init__(
        self,
        model: InterpretableModel,
        dataset: Texts | str | Path | Iterable[str],
        sites: Sequence[Site | str],
        context: int = 128,
        *,
        window: int = 1 << 16,
        packed: bool = True,
        order: Order = "text",
        field: str = "text",
        separator: str | None = None,
        split: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """
        Args:
            model: the model, as it is.
            dataset: texts, or the path of a file or folder; see `open_texts`, also for `field`, `separator`, `split`.
            sites: where to read, all from one forward; streams are named by their text.
            context: tokens of a row, BOS included.
            window: tokens that are shuffled together.
            packed: whether documents share rows, so that all are full; else each has rows of its own.
            order: "length": the first pass reads short documents first (a curriculum); further passes do not.
            max_tokens: tokens of a pass, from the start of the texts; None for all.

        Raises:
            TrainingError: if the data set cannot be read as one, or `context`, `window` or `max_tokens` is impossible.
            ValueError: if a site is none.
        """
        self._model = model
        self._texts = open_texts(dataset, field=field, separator=separator, split=split)
        self._sites = read_sites(model, sites)
        if window < 1:
            raise TrainingError(f"window is {window}; at least 1 token is shuffled")
        if max_tokens is not None and max_tokens < 1:
            raise TrainingError(f"max_tokens is {max_tokens}; at least 1 is needed, or None for all")
        self._packing = Packing(Convention.of(model), context, packed)
        self._window, self._order, self._max = window, order, max_tokens
        self._held: tuple[Held, ...] = ()
        self.widths: Mapping[str, int] = widths(model, self._sites)
        self.tokens: int | None = None
        self.about: Mapping[str, Any] = {
            "model_name": model.info.name,
            "context_size": context,
            "trained_on_bos": False,
        }

    @property
    def order(self) -> Order:
        """In which order texts are read."""
        return self._order

    @cached_property
    def parts(self) -> Mapping[str, Any]:
        """What makes the batches what they are, as JSON."""
        return {
            "format": "stream 1",
            "model": self._model.sha256,
            "tokenizer": self._model.tokenizer_sha256,
            "texts": self._texts.identity,
            "sites": [str(s) for s in self._sites],
            "context": self._packing.context,
            "packed": self._packing.packed,
            "window": self._window,
            "order": self._order,
            "max_tokens": self._max,
            "held": [[h.share, h.seed, h.side] for h in self._held],
        }

    @cached_property
    def identity(self) -> str:
        """SHA-256 of `parts`."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()

    def batches(self, size: int, seed: int, cursor: Cursor | None = None) -> Iterator[Batch]:
        """See `Source.batches`. Close the iterator to end its thread at once."""
        return shuffled(self.window, FIRST, size, seed, cursor)

    def sample(self, tokens: int) -> Mapping[str, np.ndarray]:
        """See `Source.sample`: the first tokens of the texts."""
        plain = self if self._order == "text" else self._with(order="text")
        window = min(tokens, self._window)
        return first_tokens(plain._with(window=window).window, FIRST, tokens)

    def count(self) -> int:
        """Tokens of one pass; the texts are read and tokenised once for it, the model does not run."""
        found = 0
        for row in self._packing.rows(self._texts, Start()):
            found += int(row.content.sum())
            if self._max is not None and found >= self._max:
                return self._max
        return found

    def split(self, share: float, seed: int = 0) -> tuple[StreamSource, StreamSource]:
        """(training, held out): the same texts, no document in both.

        Args:
            share: of the documents that are held out, about.
            seed: of the choice.

        Raises:
            TrainingError: if the share is not between 0 and 1. A side without tokens raises when it is read.
        """
        check_share(share)
        return self._with(held=Held(share, seed, "train")), self._with(held=Held(share, seed, "held"))

    def _with(self, held: Held | None = None, order: Order | None = None, window: int | None = None) -> StreamSource:
        other = object.__new__(StreamSource)
        own = {k: v for k, v in vars(self).items() if k not in ("identity", "parts")}
        vars(other).update(own)
        if held is not None:
            other._held = rules = (*self._held, held)
            other._packing = replace(self._packing, keep=lambda d: all(rule(d) for rule in rules))
        other._order = order or self._order
        other._window = window or self._window
        return other

    @cached_property
    def _by_length(self) -> Texts:
        return ByLength(self._texts)

    def window(self, place: Place, stop: Event) -> Window:
        """The window at a place, not shuffled; the first one is at `FIRST`.

        Raises:
            TrainingError: if the data set is damaged there, or the model gives NaN or infinity.
            Stopped: if `stop` is set meanwhile.
        """
        return self.harvested(self.span(place, stop), stop)

    def span(self, place: Place, stop: Event) -> Span:
        """The rows of the window at a place; the model does not run.

        Raises:
            TrainingError: if the data set is damaged there.
            Stopped: if `stop` is set meanwhile.
        """
        texts = self._by_length if self._order == "length" and place["pass"] == 0 else self._texts
        seen = int(place["seen"])
        rest = None if self._max is None else self._max - seen
        wanted = self._window if rest is None else min(self._window, rest)
        rows: list[Row] = []
        found = 0
        for row in self._packing.rows(texts, Start.from_json(place)):
            rows.append(row)
            found += int(row.content.sum())
            if found >= wanted:
                break
            if stop.is_set():
                raise Stopped
        ended = found < wanted or (rest is not None and found >= rest)
        following: Place = {**FIRST, "pass": place["pass"] + 1}
        if not ended:
            number, after = place["window"] + 1, rows[-1].after
            following = {"pass": place["pass"], "window": number, "seen": seen + found, **after.to_json()}
        documents = np.concatenate([np.empty(0, np.int64), *(r.documents[r.content] for r in rows)])
        return Span(tuple(rows), documents[:rest], place, following)

    def harvested(self, span: Span, stop: Event) -> Window:
        """The activations of a span.

        Raises:
            TrainingError: if the model gives NaN or infinity.
            Stopped: if `stop` is set meanwhile.
        """
        arrays = read_rows(self._model, self._sites, span.rows, stop, self.widths)
        arrays = {name: x[: len(span.documents)] for name, x in arrays.items()}
        return Window(arrays, span.documents, span.place, span.next)


def read_sites(model: InterpretableModel, sites: Sequence[Site | str]) -> tuple[Site, ...]:
    """Sites by themselves or by their text.

    Raises:
        ValueError: if one is no site of this model.
        TrainingError: if there is none, or one twice.
    """
    if isinstance(sites, str | Site):
        sites = [sites]
    found = tuple(s if isinstance(s, Site) else Site.parse(s) for s in sites)
    if not found or len(set(found)) < len(found):
        raise TrainingError("activations are read at one site or several different ones")
    for site in found:
        if site.layer is not None and site not in model.info.sites:
            raise ValueError(f"{site} is no site of this model; it has layers L0..L{model.info.n_layers - 1}")
        if site.component == "attn.pattern":
            raise ValueError(f"{site} is as wide as its row is long; a dictionary needs a site of one width")
    return found


def widths(model: InterpretableModel, sites: Sequence[Site]) -> dict[str, int]:
    """Stream -> how wide its site is, by a forward of two tokens."""
    x = model.activations(mx.array([[0, 0]]), sites)
    return {str(s): int(x[s].shape[-1]) for s in sites}


def read_rows(
    model: InterpretableModel, sites: Sequence[Site], rows: Sequence[Row], stop: Event, widths: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Activations of the content of rows, in their order.

    Args:
        model: the model.
        sites: where to read.
        rows: of any lengths; rows of one length after another share forwards.
        stop: looked at before each forward.
        widths: of the streams.

    Returns:
        stream -> [tokens, width] float32.

    Raises:
        Stopped: if `stop` is set.
        TrainingError: if the model gives NaN or infinity.
    """
    counts = [int(r.content.sum()) for r in rows]
    ends = np.cumsum([0, *counts])
    out = {str(s): np.empty((int(ends[-1]), widths[str(s)]), np.float32) for s in sites}
    for some in _forwards([len(r.ids) for r in rows]):
        if stop.is_set():
            raise Stopped
        ids = np.zeros((len(some), max(len(rows[i].ids) for i in some)), np.int64)
        for j, i in enumerate(some):
            ids[j, : len(rows[i].ids)] = rows[i].ids
        found = model.activations(mx.array(ids), sites)
        for site in sites:
            x = np.array(found.pop(site).astype(mx.float32))
            for j, i in enumerate(some):
                out[str(site)][ends[i] : ends[i + 1]] = x[j, : len(rows[i].ids)][rows[i].content]
    for name, values in out.items():
        fine = finite(values)
        if not fine.all():
            documents = np.concatenate([r.documents[r.content] for r in rows])[~fine]
            raise TrainingError(
                f"the model's activations at {name} are NaN or infinity for {len(documents)} of {len(values)} tokens, "
                f"first in document {documents[0]}; run it in float32, or leave the document out"
            )
    return out


def _forwards(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Rows of similar length together, at most about `FORWARD` tokens with their padding."""
    some: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if some and (len(some) + 1) * lengths[i] > FORWARD:
            yield some
            some = []
        some.append(i)
    if some:
        yield some
