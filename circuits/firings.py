"""Sparse activations: which features of a dictionary fire at which tokens, by token and by feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from saedsl.errors import CircuitError


@dataclass(frozen=True, eq=False)
class Firings:
    """The features of one dictionary over the tokens of some documents; what is not listed is 0."""

    start: np.ndarray
    """[tokens + 1] int64: where the entries of each token start."""
    features: np.ndarray
    """[entries] int32, ascending within a token."""
    values: np.ndarray
    """[entries] float32, above 0."""
    width: int
    """How many features the dictionary has."""

    @classmethod
    def of(cls, token: np.ndarray, feature: np.ndarray, value: np.ndarray, *, tokens: int, width: int) -> Firings:
        """From a list of activations in any order; those of 0 are left out.

        Args:
            token: [entries], from 0 to `tokens` - 1; BOS and padding are not counted as tokens.
            feature: [entries], from 0 to `width` - 1.
            value: [entries], at least 0.
            tokens: how many there are.
            width: how many features there are.

        Raises:
            CircuitError: if the arrays differ in length, a number is out of range, a value is NaN, infinite or
                negative, or a feature is listed twice at a token.
        """
        token, feature, value = np.asarray(token), np.asarray(feature), np.asarray(value)
        if not (token.ndim == feature.ndim == value.ndim == 1 and len(token) == len(feature) == len(value)):
            shapes = ", ".join(str(list(a.shape)) for a in (token, feature, value))
            raise CircuitError(f"token, feature and value are {shapes}; one entry for each activation is expected")
        for name, ids, end in (("token", token, tokens), ("feature", feature, width)):
            if len(ids) and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= end):
                raise CircuitError(f"{name} numbers are whole numbers from 0 to {end - 1}; these are not")
        _check_values(value, token)
        fires = value > 0
        token, feature = token[fires].astype(np.int64), feature[fires].astype(np.int64)
        key = token * width + feature
        order = np.argsort(key, kind="stable")
        key = key[order]
        twice = np.flatnonzero(key[1:] == key[:-1])
        if twice.size:
            at, which = divmod(int(key[twice[0]]), width)
            raise CircuitError(f"feature {which} is listed twice at token {at}; list each activation once")
        start = np.zeros(tokens + 1, np.int64)
        np.cumsum(np.bincount(token, minlength=tokens), out=start[1:])
        return cls(start, feature[order].astype(np.int32), value[fires][order].astype(np.float32), width)

    @classmethod
    def of_dense(cls, f: np.ndarray) -> Firings:
        """From activations [tokens, width].

        Raises:
            CircuitError: if one is NaN, infinite or negative.
        """
        token, feature = np.nonzero(f)
        return cls.of(token, feature, f[token, feature], tokens=f.shape[0], width=f.shape[1])

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        return len(self.start) - 1


def _check_values(value: np.ndarray, token: np.ndarray) -> None:
    wrong = np.flatnonzero(~(np.isfinite(value) & (value >= 0)))
    if wrong.size:
        raise CircuitError(
            f"{wrong.size} activations are NaN, infinite or negative, first {value[wrong[0]]} at token "
            f"{token[wrong[0]]}; features are finite and not below 0"
        )


@dataclass(frozen=True, eq=False)
class Index:
    """The features of one dictionary that fire often enough, renumbered: the most frequent one is 0."""

    ids: np.ndarray
    """[n] int32, their numbers in the dictionary."""
    counts: np.ndarray
    """[n] int64, at how many tokens each fires; descending."""
    row_start: np.ndarray
    """[tokens + 1] int64."""
    row_features: np.ndarray
    """[entries] uint16 where that is enough, else int32; ascending within a token."""
    row_values: np.ndarray
    """[entries] float32; [0] where values are not wanted."""
    start: np.ndarray
    """[n + 1] int64."""
    tokens: np.ndarray
    """[entries] int32, ascending within a feature."""
    values: np.ndarray
    """[entries] float32; [0] where values are not wanted."""

    @classmethod
    def of(cls, firings: Firings, least: int, with_values: bool) -> Index:
        """Features that fire at `least` tokens or more."""
        width = firings.width
        counts = np.bincount(firings.features, minlength=width)
        ids = np.lexsort((np.arange(width), -counts))
        ids = ids[counts[ids] >= max(least, 1)]
        new = np.full(width, -1, np.int32)
        new[ids] = np.arange(len(ids), dtype=np.int32)
        features = new[firings.features]
        kept = features >= 0
        token = np.repeat(np.arange(firings.tokens, dtype=np.int32), np.diff(firings.start))[kept]
        features = features[kept]
        by_row = np.argsort(token.astype(np.int64) * max(len(ids), 1) + features)
        by_feature = np.argsort(features, kind="stable")
        values = firings.values[kept] if with_values else np.empty(0, np.float32)
        row_start = np.zeros(firings.tokens + 1, np.int64)
        np.cumsum(np.bincount(token, minlength=firings.tokens), out=row_start[1:])
        start = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(counts[ids], out=start[1:])
        return cls(
            ids.astype(np.int32),
            counts[ids].astype(np.int64),
            row_start,
            features[by_row].astype(np.uint16 if len(ids) <= 1 << 16 else np.int32),
            values[by_row] if with_values else values,
            start,
            token[by_feature],
            values[by_feature] if with_values else values,
        )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Documents:
    """Where documents start and how long they are, by token."""

    starts: np.ndarray
    """[documents] int64, the first token of each."""
    lengths: np.ndarray
    """[documents] int64."""

    @classmethod
    def of(cls, documents: np.ndarray) -> Documents:
        """From the document of each token, [tokens].

        Raises:
            CircuitError: if the tokens of a document do not stand together.
        """
        documents = np.asarray(documents)
        if documents.ndim != 1:
            raise CircuitError(f"documents is {list(documents.shape)}; the document of each token is expected")
        if not len(documents):
            return cls(np.empty(0, np.int64), np.empty(0, np.int64))
        starts = np.concatenate([[0], np.flatnonzero(documents[1:] != documents[:-1]) + 1]).astype(np.int64)
        names = documents[starts]
        if len(np.unique(names)) < len(names):
            raise CircuitError("the tokens of a document must stand together, in their order; sort them by document")
        return cls(starts, np.diff(np.append(starts, len(documents))))

    def target(self, lag: int, shift: np.ndarray | None = None) -> np.ndarray:
        """[tokens] int32: which token lies `lag` after each one in its document, -1 where none does.

        Args:
            lag: in tokens.
            shift: [documents], by how many tokens each document is turned round before that; None for none.
        """
        n = int(self.lengths.sum())
        first, length = np.repeat(self.starts, self.lengths), np.repeat(self.lengths, self.lengths)
        place = np.arange(n) - first
        if shift is not None:
            place = (place + np.repeat(shift, self.lengths)) % length
        place = place + lag
        return np.where(place < length, first + place, -1).astype(np.int32)


def check_data(firings: Mapping[str, Firings], documents: Documents, lag: int) -> None:
    """Raise if there is nothing to count.

    Raises:
        CircuitError: if there is no dictionary or no token, dictionaries have different tokens, or no document is
            longer than `lag`.
    """
    tokens = int(documents.lengths.sum())
    if not firings:
        raise CircuitError("no dictionary is given; co-activation is counted between features of at least one")
    if not tokens:
        raise CircuitError("these data have no tokens but BOS and padding: there is nothing to count")
    for name, f in firings.items():
        if f.tokens != tokens:
            raise CircuitError(f"{name} has activations of {f.tokens} tokens, the documents have {tokens}")
    if isinstance(lag, bool) or not isinstance(lag, int) or lag < 0:
        raise CircuitError(f"lag is {lag!r}; it is a number of tokens from 0")
    longest = int(documents.lengths.max())
    if lag >= longest:
        raise CircuitError(f"lag is {lag}, but the longest document has {longest} tokens; give a lag below that")
