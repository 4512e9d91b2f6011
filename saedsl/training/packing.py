"""Texts to rows of tokens: packed into full rows, or each document in rows of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from saedsl.errors import TrainingError
from saedsl.model import InterpretableModel
from saedsl.training.texts import Texts

CHARACTERS: Final = 1 << 16
"""Of a long text that are tokenised together: the tokenizer's memory grows with them."""


@dataclass(frozen=True)
class Convention:
    """How a model's tokenizer starts rows and separates documents."""

    lead: tuple[int, ...]
    """What a row starts with: BOS, or nothing."""
    separator: tuple[int, ...]
    """What stands between documents of a packed row: BOS, without one EOS, without either nothing."""
    left_out: frozenset[int]
    """Tokens that are not trained on wherever they stand: BOS."""
    words: Callable[[str], tuple[int, ...]]
    """Text -> its ids without BOS."""

    @classmethod
    def of(cls, model: InterpretableModel) -> Convention:
        """That of a model: BOS where the tokenizer puts it in front of texts."""
        empty = model.encoder.encode("")
        lead = empty.ids[: len(empty.bos)]
        eos = getattr(model.tokenizer, "eos_token_id", None)
        separator = lead[:1] or (() if eos is None else (int(eos),))
        bos = model.encoder.bos_token_id
        return cls(lead, separator, frozenset(() if bos is None else (bos,)), _words(model))


def _words(model: InterpretableModel) -> Callable[[str], tuple[int, ...]]:
    own = model.encoder.words
    if own is not None:
        return own

    def words(text: str) -> tuple[int, ...]:
        tokens = model.encoder.encode(text)
        return tokens.ids[len(tokens.bos) :]

    return words


def tokenise(text: str, words: Callable[[str], tuple[int, ...]]) -> np.ndarray:
    """The ids of a text [n], a long one piece by piece, cut at white space."""
    pieces: list[np.ndarray] = []
    start = 0
    while start < len(text):
        end = min(len(text), start + CHARACTERS)
        if end < len(text):
            space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = space if space > 0 else end
        pieces.append(np.array(words(text[start:end]), np.int64))
        start = end
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


@dataclass(frozen=True)
class Start:
    """A place between two rows of a data set."""

    at: list[Any] | None = None
    """The place of an entry in the texts; None for the first."""
    skip: int = 0
    """Tokens of it that earlier rows hold, a separator before it included."""
    document: int = -1
    """The document before it, -1 for none."""

    def to_json(self) -> dict[str, Any]:
        """As a cursor holds it."""
        return {"at": self.at, "skip": self.skip, "document": self.document}

    @classmethod
    def from_json(cls, place: Mapping[str, Any]) -> Start:
        """What `to_json` gave, among other things."""
        return cls(place["at"], int(place["skip"]), int(place["document"]))


@dataclass(frozen=True)
class Row:
    """One row of a forward, not padded."""

    ids: np.ndarray
    """[n] token ids, n at most the context."""
    content: np.ndarray
    """[n] bool, false at BOS and at separators."""
    documents: np.ndarray
    """[n] the document of each token; for what starts the row, of the token behind it."""
    after: Start
    """Where the next row starts."""


@dataclass(frozen=True)
class Packing:
    """How rows are made.

    Packed: the documents' tokens in one line, a separator between two documents, cut every `context - lead` tokens;
    each row is `lead` and such a piece, so all but the last are full. Not packed: each document is cut alone.
    """

    convention: Convention
    context: int
    packed: bool
    keep: Callable[[int], bool] | None = None
    """Which documents are read; None for all."""

    def __post_init__(self) -> None:
        least = len(self.convention.lead) + 1
        if self.context < max(2, least):
            raise TrainingError(
                f"context is {self.context}; a row of at least {max(2, least)} tokens is needed, BOS included"
            )

    def rows(self, texts: Texts, start: Start) -> Iterator[Row]:
        """The rows of a data set, from a place on; the same rows however often it is started again in between."""
        convention = self.convention
        lead = np.array(convention.lead, np.int64)
        room = self.context - len(lead)
        left_out = np.array(sorted(convention.left_out), np.int64)
        ids: list[np.ndarray] = []
        fine: list[np.ndarray] = []
        owners: list[np.ndarray] = []
        filled = 0

        def row(after: Start) -> Row:
            own = np.concatenate([lead, *ids])
            content = np.concatenate([np.zeros(len(lead), bool), *fine]) & ~np.isin(own, left_out)
            documents = np.concatenate([np.full(len(lead), owners[0][0]), *owners])
            return Row(own, content, documents, after)

        at, skip, before = start.at, start.skip, start.document
        for entry in texts.entries(at):
            if self.keep is not None and not self.keep(entry.document):
                at = entry.after
                continue
            found = tokenise(entry.text, convention.words)
            apart = len(convention.separator) if self.packed and before not in (-1, entry.document) else 0
            line = np.concatenate([np.array(convention.separator[:apart], np.int64), found])
            own = np.arange(len(line)) >= apart
            while skip < len(line):
                n = min(room - filled, len(line) - skip)
                ids.append(line[skip : skip + n])
                fine.append(own[skip : skip + n])
                owners.append(np.full(n, entry.document))
                filled, skip = filled + n, skip + n
                if filled == room or not (self.packed or skip < len(line)):
                    yield row(Start(at, skip, before))
                    ids, fine, owners, filled = [], [], [], 0
            at, skip, before = entry.after, 0, entry.document
        if filled:
            yield row(Start(at, 0, before))
