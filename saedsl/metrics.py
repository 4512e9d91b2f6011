"""Metrics: numbers of one row's forward, read where a program says.

Each call is the mean over its positions; what an expression makes of calls, it makes of these means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np

from saedsl.lanes import Row
from saedsl.plan import PlannedMetric
from saedsl.positions import PositionSet
from saedsl.program import MetricValue, Term, terms
from saedsl.recording import label_of
from saedsl.trace import Frame

OPS: Final[Mapping[str, Callable[[float, float], float]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else math.nan,
}
"""What operators compute; a division by zero has no value."""


@dataclass(frozen=True)
class Measured:
    """A metric of one prompt."""

    baseline: float
    """Without the edits; NaN where there is no position to read it at."""
    edited: float

    @property
    def difference(self) -> float:
        """edited - baseline."""
        return self.edited - self.baseline


@dataclass(frozen=True, eq=False)
class Reading:
    """One row of a forward that has run."""

    row: Row
    index: int
    """Of the row in its batch."""
    logits: mx.array
    """[length, d_vocab]; of the row's own tokens, padding left out."""
    frame: Frame
    unedited: Mapping[int, np.ndarray] | None = None
    """Logits [d_vocab] behind the same tokens without edits, where `kl()` needs them; None: this is that run."""

    def places(self, where: PositionSet) -> list[int]:
        """Indices of the row's tokens at these positions."""
        positions = self.row.positions(0, len(self.row.tokens))
        return [i for i, p in enumerate(positions) if p >= 0 and p in where]

    def log_softmax(self, at: Sequence[int]) -> np.ndarray:
        """Log-probabilities [n, d_vocab] float64 behind these tokens."""
        return log_softmax(np.array(self.logits[mx.array(list(at))].astype(mx.float32)))


@dataclass(frozen=True)
class Continued:
    """A row that `logprob` of several tokens needs: a text, put behind a position of another row."""

    ids: tuple[int, ...]
    """Tokens up to that position, then the text but its last token."""
    places: tuple[int, ...]
    """Their positions: those of the text are generated tokens."""
    at: int
    """The index of the token that the text follows."""
    text: tuple[int, ...]


def continued(row: Row, at: int, text: tuple[int, ...]) -> Continued:
    """The row, cut behind its `at`-th token, with a text behind it."""
    positions = row.positions(0, len(row.tokens))[: at + 1]
    first = max(positions[-1] + 1, len(row.prompt.tokens))
    more = tuple(range(first, first + len(text) - 1))
    return Continued((*row.tokens[: at + 1], *text[:-1]), (*positions, *more), at, text)


def continuations(row: Row, metrics: Sequence[PlannedMetric]) -> Iterator[Continued]:
    """Every row that metrics of a row need beside it."""
    positions = row.positions(0, len(row.tokens))
    for m in metrics:
        for t in terms(m.metric.value):
            ids = m.token_ids.get(t, ())
            if t.function == "logprob" and len(ids) > 1:
                for i, p in enumerate(positions):
                    if p in m.positions:
                        yield continued(row, i, ids)


def value(m: PlannedMetric, reading: Reading, nexts: Sequence[int], others: Callable[[Continued], float]) -> float:
    """A metric's value in one run.

    Args:
        m: the metric, with its positions on the prompt.
        reading: the run.
        nexts: the row's tokens and the one that follows the last, if it is known.
        others: `joint` of the rows that `continuations` asked for.
    """

    def evaluate(v: MetricValue) -> float:
        match v:
            case Term():
                return _term(v, m, reading, nexts, others)
            case (op, left, right):
                return OPS[op](evaluate(left), evaluate(right))
            case _:
                return float(v)

    return evaluate(m.metric.value)


def _term(t: Term, m: PlannedMetric, r: Reading, nexts: Sequence[int], others: Callable[[Continued], float]) -> float:
    at = r.places(m.ce if t.function == "ce" else m.positions)
    if t.function == "ce":
        at = [i for i in at if i + 1 < len(nexts)]
    if not at:
        return math.nan
    match t.function:
        case "logit":
            (token,) = m.token_ids[t]
            found = np.array(r.logits[mx.array(at), token].astype(mx.float32)).astype(np.float64)
        case "prob":
            (token,) = m.token_ids[t]
            found = np.exp(r.log_softmax(at)[:, token])
        case "logprob":
            ids = m.token_ids[t]
            if len(ids) == 1:
                found = r.log_softmax(at)[:, ids[0]]
            else:
                found = np.array([others(continued(r.row, i, ids)) for i in at])
        case "kl":
            if r.unedited is None:
                return 0.0
            p = log_softmax(np.array([r.unedited[i] for i in at]))
            found = np.array([kl(a, b) for a, b in zip(p, r.log_softmax(at), strict=True)])
        case "ce":
            rows = r.log_softmax(at)
            found = -rows[np.arange(len(at)), [nexts[i + 1] for i in at]]
        case "act":
            found = np.array(r.frame.kept[label_of(t)][r.index].astype(mx.float32)).astype(np.float64)[at]
        case "norm":
            assert t.site is not None
            x = np.array(r.frame.captured[t.site][r.index].astype(mx.float32)).astype(np.float64)[at]
            found = np.linalg.norm(x, axis=-1)
    return float(np.mean(found))


def valueless(planned: Iterable[PlannedMetric], measured: Iterable[Mapping[str, Measured]]) -> Iterator[str]:
    """A warning for each metric that has no value somewhere.

    Args:
        planned: every metric that was planned, on any prompt.
        measured: what came of them, on each prompt.
    """
    divides = {m.metric.name for m in planned if _divides(m.metric.value)}
    found: dict[str, list[Measured]] = {}
    for values in measured:
        for name, m in values.items():
            found.setdefault(name, []).append(m)
    for name, all_of_it in found.items():
        without = [math.isnan(m.baseline) for m in all_of_it]
        edited = [math.isnan(m.edited) for m in all_of_it]
        n = sum(a or b for a, b in zip(without, edited, strict=True))
        of = f"{len(all_of_it)} prompt{'s' * (len(all_of_it) != 1)}"
        if n:
            why = "no token that was read is at its positions" + (", or it divides by 0" if name in divides else "")
            yield (
                f"warning[S611]: the metric {name} has no value on {n} of {of} "
                f"({sum(without)} without the edits, {sum(edited)} with them): {why}"
            )


def _divides(value: MetricValue) -> bool:
    return isinstance(value, tuple) and (value[0] == "/" or _divides(value[1]) or _divides(value[2]))


def joint(r: Reading, c: Continued) -> float:
    """Log-probability of all of a text's tokens, each given those before it."""
    rows = r.log_softmax(range(c.at, c.at + len(c.text)))
    return float(rows[np.arange(len(c.text)), list(c.text)].sum())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    out: np.ndarray = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return out


def kl(lp: np.ndarray, lq: np.ndarray) -> float:
    """KL(p || q) in nats, from log-probabilities [d_vocab]."""
    p = np.exp(lp)
    some = p > 0
    return max(0.0, float(np.sum(p[some] * (lp[some] - lq[some]))))
