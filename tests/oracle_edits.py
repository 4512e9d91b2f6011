"""Dictionaries and edits in plain numpy float64, from the definitions: the language's meaning at one site."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Tokens = Sequence[int]
Op = Literal["ablate", "amplify", "set", "clamp", "add", "project", "patch", "freeze", "keep", "apply"]
Part = Literal["site", "features", "error", "heads", "coordinates", "direction"]
Mode = Literal["iterative", "frozen", "direct"]
Reads = Callable[["Dictionary", str], Array]
"""(dictionary, site that it reads) -> its features [tokens, d_sae]: what a condition is made of."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A sparse dictionary by its definition: SAELens' formulas, one token a row."""

    W_enc: Array
    b_enc: Array
    W_dec: Array
    b_dec: Array
    activation: str = "relu"
    k: int = 0
    threshold: Array | None = None
    normalize: str = "none"
    subtract_b_dec: bool = True
    transcoder: bool = False
    W_skip: Array | None = None
    gate: tuple[Array, Array, Array] | None = None
    """Gated: b_gate, r_mag, b_mag; `b_enc` is 0."""
    center: bool = False
    """Whether each token loses its mean first, and its reconstruction gets it back."""
    maximum: Array | None = None
    """Of each feature over some text, [d_sae]: the unit `max`."""
    std: Array | None = None
    """The unit `std`, [d_sae]."""

    def encode(self, x: Array) -> Array:
        """Features [tokens, d_sae] of activations [tokens, d_in]."""
        n, _, _ = self._normalised(x)
        if self.gate is not None:
            b_gate, r_mag, b_mag = self.gate
            u = n - self.b_dec if self.subtract_b_dec else n
            magnitude = u @ (self.W_enc * np.exp(r_mag)) + b_mag
            return np.where((u @ self.W_enc + b_gate > 0) & (magnitude > 0), magnitude, 0)
        pre = (n - self.b_dec if self.subtract_b_dec else n) @ self.W_enc + self.b_enc
        if self.activation == "relu":
            return np.maximum(pre, 0)
        if self.activation == "topk":
            out = np.zeros_like(pre)
            for row, p in zip(out, pre, strict=True):
                best = np.argsort(-p)[: self.k]
                row[best] = np.maximum(p[best], 0)
            return out
        assert self.threshold is not None
        return np.where(pre > np.maximum(self.threshold, 0), pre, 0)

    def decode(self, f: Array, x: Array) -> Array:
        """What features write, [tokens, d_out], for the tokens that they were read from."""
        y = f @ self.W_dec + self.b_dec
        if self.transcoder:
            return y if self.W_skip is None else y + x @ self.W_skip.T
        _, centre, spread = self._normalised(x)
        return y * spread + centre

    def _normalised(self, x: Array) -> tuple[Array, Array, Array]:
        zero = np.zeros((len(x), 1))
        if self.center and self.normalize != "layer_norm":
            mean = x.sum(axis=1, keepdims=True) / x.shape[1]
            x, zero = x - mean, mean
        if self.normalize == "layer_norm":
            centre, spread = x.mean(axis=1, keepdims=True), x.std(axis=1, ddof=1, keepdims=True)
            return (x - centre) / (spread + 1e-5), centre, spread
        if self.normalize == "constant_norm_rescale":
            spread = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1])
            return x / spread, zero, spread
        return x, zero, np.ones((len(x), 1))


@dataclass(frozen=True)
class Reference:
    """What takes the place of what is ablated: the mean over texts, over texts position by position, or one text."""

    kind: Literal["mean", "mean by position", "resample"]
    texts: Sequence[Tokens]
    skipped: int = 1
    """Tokens at the start of each text that a mean leaves out: BOS."""


def resampled(texts: Sequence[Tokens], seed: int, prompt: int) -> Reference:
    """The text that prompt number `prompt` of a step is resampled from."""
    chosen = int(hashlib.sha256(f"{seed} {prompt}".encode()).hexdigest(), 16) % len(texts)
    return Reference("resample", [texts[chosen]])


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit: of the activation at `site`, or of features that `dictionary` reads at `read` and writes at `site`."""

    site: str
    op: Op
    args: tuple[float, ...]
    where: Collection[int]
    """Absolute positions: those of the prompt first, then those of the generated tokens."""
    features: Sequence[int] = ()
    """Numbers of the features, heads or coordinates that are edited."""
    dictionary: Dictionary | None = None
    read: str = ""
    """By default the same as `site`."""
    part: Part | None = None
    """By default features of the dictionary, the whole site without one."""
    unit: Literal["", "max", "std", "norm"] = ""
    to: Reference | None = None
    """ablate, keep: in place of zero."""
    source: tuple[Tokens, Mapping[int, int]] | None = None
    """patch: the other prompt, and its position for each one of this prompt."""
    direction: Array | None = None
    """[width]"""
    when: Callable[[Reads], Bools] | None = None
    """Where it holds, [tokens], e.g. `lambda f: f(d, "L0.mlp")[:, 3] > 0.5`."""
    stage: int = 0
    function: Callable[[Array], Array] | None = None
    """apply"""

    @property
    def kind(self) -> Part:
        """What is edited."""
        return self.part or ("site" if self.dictionary is None else "features")

    @property
    def reads(self) -> str:
        """Where its dictionary reads."""
        return self.read or self.site

    def value(self, read: Array, x: Array, n_heads: int) -> Array:
        """What is edited, [tokens, numbers], of activations where the dictionary reads and where the edit writes."""
        match self.kind:
            case "features":
                assert self.dictionary is not None
                return self.dictionary.encode(read)[:, self.numbers(self.dictionary.W_enc.shape[1])]
            case "error":
                assert self.dictionary is not None
                return x - self.dictionary.decode(self.dictionary.encode(read), read)
            case "direction":
                assert self.direction is not None
                return (x @ self.direction / (self.direction @ self.direction))[:, None]
        return x[:, self._columns(x, n_heads)]

    def delta(self, old: Array, new: Array, read: Array, x: Array, n_heads: int) -> Array:
        """What has to be added to `x` so that its `value` is `new`, as far as one edit can say."""
        match self.kind:
            case "features":
                d = self.dictionary
                assert d is not None
                f = d.encode(read)
                edited = f.copy()
                edited[:, self.numbers(f.shape[1])] += new - old
                out: Array = d.decode(edited, read) - d.decode(f, read)
                return out
            case "error":
                return new - old
            case "direction":
                assert self.direction is not None
                return np.asarray((new - old) * self.direction)
        out = np.zeros_like(x)
        out[:, self._columns(x, n_heads)] = new - old
        return out

    def new(self, old: Array, taken: Array | None) -> Array:
        """The value that takes the place of `old`; `taken` comes from another run."""
        unit = np.ones(old.shape[1])
        if self.unit in ("max", "std"):
            assert self.dictionary is not None
            statistic = self.dictionary.maximum if self.unit == "max" else self.dictionary.std
            assert statistic is not None
            unit = statistic[list(self.features)]
        match self.op, self.args:
            case (("ablate" | "keep"), ()):
                return np.zeros_like(old) if taken is None else taken
            case (("patch" | "freeze"), ()):
                assert taken is not None
                return taken
            case "amplify", (factor,):
                return old * factor
            case "set", (value,):
                return np.zeros_like(old) + value * unit
            case "add", (value,):
                return old + value * unit
            case "clamp", (low, high):
                return np.minimum(np.maximum(old, low * unit), high * unit)
            case "apply", ():
                assert self.function is not None
                return self.function(old)
        raise AssertionError(self)

    def numbers(self, size: int) -> list[int]:
        """Which of `size` features, heads or coordinates are changed: those that are not kept, for `keep`."""
        if self.op == "keep":
            return [i for i in range(size) if i not in self.features]
        return list(self.features)

    def _columns(self, x: Array, n_heads: int) -> list[int]:
        width = x.shape[1]
        if self.kind == "heads":
            d = width // n_heads
            return [h * d + j for h in self.numbers(n_heads) for j in range(d)]
        return self.numbers(width) if self.kind == "coordinates" else list(range(width))

    def change(self, read: Array, x: Array, n_heads: int, taken: Array | None) -> Array:
        """The delta [tokens, width] where the edit acts everywhere."""
        directions = [] if self.dictionary is None else [self.dictionary.W_dec[i] for i in self.features]
        if self.direction is not None:
            directions = [self.direction]
        if self.op == "project":
            basis = np.array(directions).T  # [width, numbers]
            return np.asarray(-x @ (basis @ np.linalg.pinv(basis)).T)
        if self.unit == "norm":
            size = self.args[0] * np.linalg.norm(x, axis=1, keepdims=True)
            return np.asarray(size * np.sum([d / np.linalg.norm(d) for d in directions], axis=0))
        old = self.value(read, x, n_heads)
        return self.delta(old, self.new(old, taken), read, x, n_heads)


@dataclass(eq=False)
class Run:
    """One forward of one sequence: passes activations through the edits, and keeps what comes in and out."""

    edits: Sequence[Edit] = ()
    taken: Sequence[Array | None] = ()
    """For each edit, what it takes from other runs, [tokens, numbers]."""
    mode: Mode = "iterative"
    unedited: Run | None = None
    """The same tokens without edits, for the modes that hold some of it."""
    heads: Mapping[str, int] = field(default_factory=dict)
    """Number of heads by site."""
    arrived: dict[str, Array] = field(default_factory=dict)
    """Activations [tokens, width] by site, before the edits."""
    seen: dict[str, Array] = field(default_factory=dict)
    """After them."""
    features: dict[int, Array] = field(default_factory=dict)
    """Edited features [tokens, d_sae] by the dictionary's id()."""
    holdable: dict[str, Array] = field(default_factory=dict)
    """Attention patterns, norms' denominators, MLP outputs."""
    logits: Array = field(default_factory=lambda: np.zeros((0, 0)))
    """[tokens, d_vocab]"""

    def __call__(self, site: str, x: Array) -> Array:
        """The activation that the model goes on with, for the one that arrives, both [tokens, width]."""
        self.arrived[site] = x
        here = [(e, t) for e, t in zip(self.edits, self.taken, strict=True) if e.site == site]
        for stage in sorted({e.stage for e, _ in here}):
            x = x + sum(self._delta(e, t, x) for e, t in here if e.stage == stage)
        self.seen[site] = x
        return x

    def _delta(self, e: Edit, taken: Array | None, x: Array) -> Array:
        read = x if e.reads == e.site else self.seen[e.reads]
        acts = np.isin(np.arange(len(x)), list(e.where))
        if e.when is not None:
            acts &= e.when(lambda d, site: d.encode(x if site == e.site else self.arrived[site]))
        if e.dictionary is not None and e.kind == "features" and e.op not in ("project",) and e.unit != "norm":
            f = self.features.setdefault(id(e.dictionary), e.dictionary.encode(read))
            old = e.value(read, x, 0)
            numbers = e.numbers(f.shape[1])
            f[:, numbers] += np.where(acts[:, None], e.new(old, taken) - old, 0)
        return np.where(acts[:, None], e.change(read, x, self.heads.get(e.site, 0), taken), 0)

    def hold(self, name: str, x: Array, modes: Collection[Mode]) -> Array:
        """`x`, or in these modes what it was in the unedited run."""
        self.holdable[name] = x
        if self.mode not in modes:
            return x
        assert self.unedited is not None
        return self.unedited.holdable[name]

    def skipped(self, i: int) -> Array | float:
        """What transcoders' linear skips let through block `i`'s MLP in `direct` mode."""
        used = {id(d): d for e in self.edits if (d := e.dictionary) is not None and e.reads == f"L{i}.mlp.in"}
        if self.mode != "direct" or self.unedited is None:
            return 0.0
        moved = self.seen[f"L{i}.mlp.in"] - self.unedited.seen[f"L{i}.mlp.in"]
        return sum((moved @ d.W_skip.T for d in used.values() if d.W_skip is not None), np.zeros(()))
