"""The known circuits. Each maker takes a vocabulary and a seed, and gives a model with samplers of its prompts.

| model | circuit | what it is hard for |
|---|---|---|
| induction | previous-token head -> match head | saturated softmax |
| lookup | units that are the AND of two tokens | nothing |
| either | OR of two heads | single ablations, gradients: flat at both ends |
| backup | a second path that opens when the first is empty | everything that ablates all at the same pace |
| majority | two of three heads | single ablations |
| cancel | +1 directly, -1 through a second head | gradients at the clean prompt |
| dip | f(0) = f(1) = 0 with slope 2.7 at 1 | gradients show what has no effect |
| relay | a head that copies what another copied | nothing |
| reserve | a third path that opens when two are empty | as backup, one ablation further |
| exclusive | one of two heads, not both, kills the answer | the ablation of both has no effect |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from saedsl.circuits.known.build import BOS, Builder, KnownModel, Norm, Sampler, Tokens
from saedsl.errors import CircuitError


class Maker(Protocol):
    """Makes one known model."""

    def __call__(self, vocab: int = ..., seed: int = ..., norm: Norm = ...) -> KnownModel:
        """
        Args:
            vocab: tokens, BOS among them.
            seed: of the places of the heads, the rotation, and the model's table where it has one.
            norm: `identity`: RMSNorm does nothing; `live`: it is a real one, and ablations change it a little.

        Raises:
            CircuitError: if the vocabulary is too small for the prompts or too large for a head.
        """


def induction(vocab: int = 17, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """The last token was there once before; the answer is what followed it."""
    length = min(vocab - 1, 16)
    b = Builder(["previous", "next"], 2, 3, _checked(vocab), seed, norm)
    b.copy(0, "previous", "token", "previous")
    b.match(1, "token", "previous", "token", "next")
    b.unembed(next=1)

    def placed(t: Tokens, first: np.ndarray) -> tuple[Tokens, np.ndarray]:
        rows = np.arange(len(t))
        t[:, -1] = t[rows, first]
        return t, t[rows, first + 1]

    def sample(rng: np.random.Generator, n: int) -> tuple[Tokens, np.ndarray]:
        return placed(_distinct(rng, n, length, vocab), rng.integers(1, length - 2, n))

    def every() -> tuple[Tokens, np.ndarray]:
        """Every repeated token, every token after it, every place; the others at random."""
        rng, first = np.random.default_rng(0), []
        rows = []
        for a in range(1, vocab):
            for c in range(1, vocab):
                for i in range(1, length - 2):
                    if a != c:
                        rest = rng.permutation([x for x in range(1, vocab) if x not in (a, c)])
                        rows.append([BOS, *rest[: i - 1], a, c, *rest[i - 1 : length - 3]])
                        first.append(i)
        t = np.array(rows)
        return placed(t, np.array(first))

    return b.build("induction", sample, every)


def lookup(vocab: int = 9, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """The answer is in a random table of the last two tokens."""
    table = np.random.default_rng(seed).integers(1, vocab, (vocab, vocab))
    b = Builder(["previous", "out"], 1, 3, _checked(vocab), seed, norm, units=vocab * vocab)
    b.copy(0, "previous", "token", "previous")
    for i, j in np.ndindex(vocab, vocab):
        b.unit(0, {("previous", i): 1, ("token", j): 1}, -1.5, 2, ("out", int(table[i, j])), 40)
    b.unembed(out=1)
    return b.build("lookup", *_of_last_two(vocab, lambda i, j: table[i, j]))


def either(vocab: int = 9, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """Two heads write the token before; one is enough."""
    return _copies("either", vocab, seed, norm, "pq", _ramp("pq", 0.25, 0.75), {"out": 1})


def backup(vocab: int = 9, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """One head writes the token before; a second one's counts where the first wrote nothing."""

    def mlp(b: Builder) -> None:
        for j in range(vocab):
            b.unit(0, {("q", j): 1, **{("p", i): -1 for i in range(vocab)}}, -0.5, 2, ("out", j), 80)

    return _copies("backup", vocab, seed, norm, "pq", mlp, {"p": 1, "out": 1})


def majority(vocab: int = 9, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """Three heads write the token before; two are needed."""
    return _copies("majority", vocab, seed, norm, "pqr", _ramp("pqr", 1.25, 1.75), {"out": 1})


def dip(vocab: int = 9, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """One head writes the answer; a second one's output goes through a function that is 0 at 0 and at 1."""

    def mlp(b: Builder) -> None:
        b.piecewise(0, "p", [(0.25, -1 / 0.375), (0.625, 2 / 0.375)], "out")

    return _copies("dip", vocab, seed, norm, "ap", mlp, {"a": 1, "out": 1})


def cancel(vocab: int = 9, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """One head writes the answer; a second one's output reaches the logits twice, with opposite signs."""
    b = Builder(["a", "p", "n"], 2, 4, _checked(vocab), seed, norm)
    for slot in "ap":
        b.copy(0, "previous", "token", slot)
    b.copy(1, "self", "p", "n")
    b.unembed(a=1, p=1, n=-1)
    return b.build("cancel", *_of_last_two(vocab, lambda i, j: i))


def relay(vocab: int = 9, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """The answer is the token two before, copied twice."""
    b = Builder(["p", "n"], 2, 3, _checked(vocab), seed, norm)
    b.copy(0, "previous", "token", "p")
    b.copy(1, "previous", "p", "n")
    b.unembed(n=1)
    sample, _ = _of_last_two(vocab, lambda i, j: i)

    def shifted(t: Tokens) -> tuple[Tokens, np.ndarray]:
        return t, t[:, -3]

    def every() -> tuple[Tokens, np.ndarray]:
        return shifted(np.roll(_last_two(vocab), -1, axis=1)[:, [-1, *range(5)]])

    return b.build("relay", lambda rng, n: shifted(sample(rng, n)[0]), every)


def reserve(vocab: int = 9, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """Three heads write the token before; the second counts without the first, the third without both."""

    def mlp(b: Builder) -> None:
        for j in range(vocab):
            no_p = {("p", i): -1.0 for i in range(vocab)}
            no_q = {("q", i): -1.0 for i in range(vocab)}
            b.unit(0, {("q", j): 1, **no_p}, -0.5, 2, ("out", j), 80)
            b.unit(0, {("r", j): 1, **no_p, **no_q}, -0.5, 2, ("out", j), 80)

    return _copies("reserve", vocab, seed, norm, "pqr", mlp, {"p": 1, "out": 1})


def exclusive(vocab: int = 9, seed: int = 0, norm: Norm = "identity") -> KnownModel:
    """One head writes the answer; what is written by exactly one of two others is taken off it."""

    def mlp(b: Builder) -> None:
        b.piecewise(0, "pq", [(0.25, 2), (0.75, -2), (1.25, -2), (1.75, 2)], "out")

    return _copies("exclusive", vocab, seed, norm, "apq", mlp, {"a": 1, "out": -1})


KNOWN: Final[Mapping[str, Maker]] = {
    "induction": induction, "lookup": lookup, "either": either, "backup": backup, "majority": majority,
    "cancel": cancel, "dip": dip, "relay": relay, "reserve": reserve, "exclusive": exclusive,
}  # fmt: skip
"""Every known circuit by its name."""


def _copies(
    name: str, vocab: int, seed: int, norm: Norm, slots: Sequence[str], mlp: Callable[[Builder], None],
    unembed: Mapping[str, float],
) -> KnownModel:  # fmt: skip
    """One layer: a head a slot writes the previous token, an MLP puts them together, the answer is that token."""
    b = Builder([*slots, "out"], 1, 4, _checked(vocab), seed, norm, units=4 * vocab)
    for slot in slots:
        b.copy(0, "previous", "token", slot)
    mlp(b)
    b.unembed(**unembed)
    return b.build(name, *_of_last_two(vocab, lambda i, j: i))


def _ramp(slots: str, low: float, high: float) -> Callable[[Builder], None]:
    """0 up to `low`, 1 from `high`."""
    slope = 1 / (high - low)
    return lambda b: b.piecewise(0, slots, [(low, slope), (high, -slope)], "out")


def _of_last_two(
    vocab: int, answer: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[Sampler, Callable[[], tuple[Tokens, np.ndarray]]]:
    """Prompts of six different tokens whose answer is a function of the last two."""

    def answered(t: Tokens) -> tuple[Tokens, np.ndarray]:
        return t, answer(t[:, -2], t[:, -1])

    return lambda rng, n: answered(_distinct(rng, n, 6, vocab)), lambda: answered(_last_two(vocab))


def _distinct(rng: np.random.Generator, n: int, length: int, vocab: int) -> Tokens:
    """[n, length]: BOS, then tokens of which none comes twice."""
    rows = [rng.permutation(np.arange(1, vocab))[: length - 1] for _ in range(n)]
    return np.concatenate([np.full((n, 1), BOS), np.array(rows)], axis=1)


def _last_two(vocab: int) -> Tokens:
    """Six different tokens, with every pair as the last two; the others at random."""
    rng, rows = np.random.default_rng(0), []
    for i in range(1, vocab):
        for j in range(1, vocab):
            if i != j:
                rest = rng.permutation([x for x in range(1, vocab) if x not in (i, j)])
                rows.append([BOS, *rest[:3], i, j])
    return np.array(rows)


def _checked(vocab: int) -> int:
    if not 7 <= vocab <= 29:
        raise CircuitError(f"a vocabulary of {vocab}: known models have 7 to 29 tokens, BOS among them")
    return vocab
