"""Prompts of equal length, as they are and corrupted: what effects are measured between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from saedsl.errors import CircuitError, RunError
from saedsl.positions import skipped
from saedsl.tokens import Tokens

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | mx.array
"""A text, several, token ids [seq] or [batch, seq]."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean prompts, each with a corrupt one or none."""

    clean: tuple[Tokens, ...]
    corrupt: tuple[Tokens, ...] | None
    """None: what is taken away becomes 0."""

    @property
    def length(self) -> int:
        """Tokens of every prompt."""
        return len(self.clean[0])

    @property
    def ids(self) -> mx.array:
        """[batch, seq] of the clean prompts."""
        return mx.array([t.ids for t in self.clean])

    @property
    def corrupt_ids(self) -> mx.array | None:
        """[batch, seq]"""
        return None if self.corrupt is None else mx.array([t.ids for t in self.corrupt])

    @property
    def first(self) -> int:
        """The first position at which a clean and its corrupt prompt differ; before it both are the same run."""
        differ = [[x != y for x, y in zip(a.ids, b.ids, strict=True)] for a, b in self._both]
        return min((row.index(True) for row in differ if any(row)), default=0)

    @property
    def _both(self) -> list[tuple[Tokens, Tokens]]:
        return list(zip(self.clean, self.corrupt or (), strict=self.corrupt is not None))

    def allowed(self, trained_on_bos: bool) -> np.ndarray:
        """[batch, seq] bool: where a dictionary has nodes: not on BOS unless it was trained so, as in the language.

        A position that is BOS in one prompt of a pair only counts as BOS.
        """
        keep = np.ones((len(self.clean), self.length), bool)
        for side in (self.clean, self.corrupt or ()):
            for row, tokens in enumerate(side):
                keep[row, sorted(skipped(tokens, trained_on_bos))] = False
        return keep


def pairs_of(model: InterpretableModel, clean: Prompts, corrupt: Prompts | None = None) -> Pairs:
    """Tokenise prompts and hold them against each other.

    Raises:
        CircuitError: if there are none, one is empty, or lengths differ; both tokenisations are in the message.
    """
    a = _rows(model, clean, "clean")
    b = None if corrupt is None else _rows(model, corrupt, "corrupt")
    for i, tokens in enumerate(a):
        if len(tokens) != len(a[0]):
            raise CircuitError(
                "the prompts of a batch are equally long, so that positions mean the same; "
                f"{_listed('prompt 1', a[0])}\n{_listed(f'prompt {i + 1}', tokens)}"
            )
    if b is None:
        return Pairs(a, None)
    if len(b) != len(a):
        raise CircuitError(
            f"there are {len(a)} clean and {len(b)} corrupt prompts; each clean one has its own corrupt one"
        )
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        if len(x) != len(y):
            which = "" if len(a) == 1 else f" of pair {i + 1}"
            raise CircuitError(
                f"the clean and the corrupt prompt{which} have different numbers of tokens, so their positions do not "
                f"correspond\n{_listed('clean', x)}\n{_listed('corrupt', y)}"
            )
    if all(x.ids == y.ids for x, y in zip(a, b, strict=True)):
        raise CircuitError("the corrupt prompts are the clean ones: nothing differs, so nothing has an effect")
    return Pairs(a, b)


def _rows(model: InterpretableModel, prompts: Prompts, which: str) -> tuple[Tokens, ...]:
    several = isinstance(prompts, Sequence) and not isinstance(prompts, str)
    if several and not prompts:
        raise CircuitError(f"there are no {which} prompts")
    texts = [p for p in prompts if isinstance(p, str)] if several else []
    if several and len(texts) == len(prompts):
        found = [model.encoder.encode(text) for text in texts]
    else:
        try:
            found = model.rows(prompts)  # type: ignore[arg-type]
        except RunError as error:
            raise CircuitError(f"{which} prompts: {error}") from None
    for i, tokens in enumerate(found):
        if len(tokens) == len(tokens.bos):
            number = f" {i + 1}" if len(found) > 1 else ""
            raise CircuitError(f"the {which} prompt{number} is empty: give it a token besides BOS")
    return tuple(found)


def _listed(name: str, tokens: Tokens) -> str:
    return f"  {name}, {len(tokens)} tokens: {' '.join(map(repr, tokens.pieces))}"
