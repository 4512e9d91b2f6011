"""The dictionary itself: weights in MLX, encode, decode, load and save.

With `n` and `n^-1` the normalisation and its inverse, and row vectors:

    p = (n(x) - b_dec) W_enc + b_enc,   f = activation(p),   x^ = n^-1(f W_dec + b_dec) [+ x W_skip^T]

Formulas and names are SAELens'. Norms and scales that a file keeps apart are folded when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mlx.core as mx

from saedsl.errors import SAEError, ShapeError
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.header import SAEInfo
from saedsl.sae.statistics import Statistics, read_statistics
from saedsl.sae.topk import keep_top_k, kth_largest

if TYPE_CHECKING:
    import numpy as np

LAYER_NORM_EPS = 1e-5
"""Added to the standard deviation when `layer_norm` divides, not when it multiplies back: as in SAELens."""


@dataclass(frozen=True, eq=False)
class SAE:
    """A sparse dictionary with its weights, float32 in memory whatever the file holds. Nothing changes it."""

    config: DictionaryConfig
    """What the weights mean."""
    W_enc: mx.array
    """[d_in, d_sae]"""
    b_enc: mx.array
    """[d_sae]"""
    W_dec: mx.array
    """[d_sae, d_out]; row j is what feature j writes."""
    b_dec: mx.array
    """[d_out]"""
    threshold: mx.array | None = None
    """[d_sae], `jumprelu` and `batchtopk` only: a feature fires above it; negative ones count as 0."""
    W_skip: mx.array | None = None
    """[d_out, d_in], skip transcoders only."""
    source: SAEInfo | None = None
    """Where the weights were read from."""

    def __post_init__(self) -> None:
        for name, shape in self.config.weight_shapes.items():
            value = getattr(self, name)
            if value is None or value.shape != shape:
                found = "missing" if value is None else f"{list(value.shape)}"
                raise ShapeError(f"{name} is {found}; this config needs {list(shape)}")
            value = value.astype(mx.float32)
            object.__setattr__(self, name, mx.maximum(value, 0) if name == "threshold" else value)
        for name in ("threshold", "W_skip"):
            if name not in self.config.weight_shapes and getattr(self, name) is not None:
                raise ShapeError(f"{name} is given; this config has none")

    def encode(self, x: mx.array) -> mx.array:
        """Feature activations of `x`.

        Args:
            x: [..., d_in], activations at the input site, any float dtype.

        Returns:
            [..., d_sae], float32, non-negative. `topk` keeps every feature that is positive and not below the
            k-th largest pre-activation of its token: more than k where pre-activations are exactly equal.

        Raises:
            ShapeError: if the last axis of `x` is not d_in.
        """
        return self._activate(self._pre(x, self.W_enc, self.b_enc), self.threshold)

    def encode_features(self, x: mx.array, ids: Sequence[int] | mx.array) -> mx.array:
        """Columns `ids` of `encode(x)`, [..., len(ids)]; only these are computed where the activation allows.

        Where it does not (`topk`), the same features fire as in `encode`, ties included.

        Raises:
            ShapeError: if the last axis of `x` is not d_in.
        """
        return self.encoder(ids)(x)

    def encoder(self, ids: Sequence[int] | mx.array) -> Callable[[mx.array], mx.array]:
        """`encode_features` of the same features again and again: their columns are gathered once."""
        columns = ids if isinstance(ids, mx.array) else mx.array(list(ids), dtype=mx.int32)
        if self.config.elementwise:
            W, b = self.W_enc[:, columns], self.b_enc[columns]
            threshold = None if self.threshold is None else self.threshold[columns]
            mx.eval(W, b, *(() if threshold is None else (threshold,)))
            return lambda x: self._activate(self._pre(x, W, b), threshold)
        k = self.config.k
        assert k is not None

        def encode(x: mx.array) -> mx.array:
            pre = self._pre(x, self.W_enc, self.b_enc)
            mine = pre[..., columns]
            if columns.size == 1:  # not below the k-th largest: fewer than k are larger
                fires = (pre > mine).sum(axis=-1, keepdims=True) < k
            else:
                fires = mine >= kth_largest(pre, k)
            return mx.where(fires & (mine > 0), mine, 0)

        return encode

    def decode(self, f: mx.array, x: mx.array | None = None) -> mx.array:
        """What the features `f` write at the output site.

        Args:
            f: [..., d_sae].
            x: [..., d_in], the tokens that `f` was encoded from; needed only where the dictionary normalises
                each token or has a skip connection.

        Returns:
            [..., d_out], float32.

        Raises:
            ShapeError: if a last axis is wrong.
            SAEError: if `x` is needed and not given.
        """
        _check_last_axis(f, self.config.d_sae, "f", "d_sae")
        out = f.astype(mx.float32) @ self.W_dec + self.b_dec
        if not self._needs_tokens:
            return out
        if x is None:
            why = "has a skip connection" if self.config.skip else f"uses {self.config.normalize_activations}"
            raise SAEError(f"this dictionary {why}, so decoding needs the tokens too: decode(f, x)")
        if self.config.is_transcoder:
            return out if self.W_skip is None else out + self._tokens(x) @ self.W_skip.T
        return out * self.scale(x) + self._shift(x)

    def __call__(self, x: mx.array) -> mx.array:
        """The reconstruction of `x`, or a transcoder's prediction of its output: [..., d_out], float32."""
        return self.decode(self.encode(x), x)

    def error(self, x: mx.array) -> mx.array:
        """`x` minus its reconstruction, [..., d_in], float32.

        Raises:
            SAEError: for a transcoder, whose error is against another tensor: `target - sae(x)`.
        """
        if self.config.is_transcoder:
            raise SAEError("a transcoder does not reconstruct its input; its error is target - sae(x)")
        return self._tokens(x) - self(x)

    def scale(self, x: mx.array) -> mx.array:
        """By how much one unit of decoder output is stretched for each token: s(x).

        An edit of features f to f' is `x + s(x) * (f' - f) @ W_dec`. It is 1 without normalisation and for
        every transcoder (SAELens normalises its input only), the token's standard deviation for `layer_norm`,
        and ||x|| / sqrt(d) for `constant_norm_rescale`.

        Returns:
            [..., 1], or a scalar 1 where it is the same for all tokens; float32.
        """
        x = self._tokens(x)
        if self.config.is_transcoder or self.config.normalize_activations == "none":
            return mx.array(1.0)
        return self._spread(x)

    @property
    def info(self) -> SAEInfo:
        """The description that checks and plans use."""
        return self._info

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights: of their file, or of the bytes that `save` would write."""
        return self.info.sha256

    @cached_property
    def statistics(self) -> Statistics:
        """How strongly its features fire: maximum, deviation, mean and frequency, read on first use.

        Raises:
            SAEError: if the dictionary's folder carries none, they are of other weights, or they are damaged.
        """
        return read_statistics(self.info)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SAE:
        """Read a dictionary from the folder `path`, in any format that `saedsl.sae.formats` knows.

        Raises:
            SAEError: if there is none, or its files are damaged, contradict one another or need what we lack.
        """
        from saedsl.sae.formats import detect

        folder = Path(path)
        info = SAEInfo.read(folder)
        return cls(info.config, **detect(folder).read_weights(info), source=info)

    def save(self, path: str | PathLike[str], dtype: Literal["float32", "float16"] = "float32") -> SAE:
        """Write the dictionary as a SAELens folder; it appears whole or not at all.

        BatchTopK is written as `jumprelu`, which computes the same. A TopK transcoder, which SAELens does not
        know, is written as `topk_transcoder`, which it refuses. Statistics that the dictionary carries are kept unless
        float16 rounds a weight.

        Args:
            path: the folder; made if missing, replaced if it is a dictionary already.
            dtype: how numbers are stored. `float16` halves the file and rounds the weights.

        Returns:
            The dictionary as `load(path)` gives it.

        Raises:
            SAEError: if `path` holds something else, or a weight does not fit in float16.
        """
        from saedsl.sae.formats import saelens

        carried = None
        if self.info.statistics is not None:
            with suppress(SAEError):  # of other weights, or damaged: they are left behind
                carried = self.statistics
        saelens.write(Path(path), self.config, self.numpy_weights(), dtype, carried)
        return SAE.load(path)

    def numpy_weights(self) -> dict[str, np.ndarray]:
        """Copies of the weights as numpy arrays, by name."""
        import numpy as np

        return {name: np.array(getattr(self, name)) for name in self.config.weight_shapes}

    def with_config(self, **changes: object) -> SAE:
        """The same weights under a changed config, e.g. another site; no longer tied to a file."""
        return replace(self, config=replace(self.config, **changes), source=None)  # type: ignore[arg-type]

    @cached_property
    def _info(self) -> SAEInfo:
        if self.source is not None:
            return self.source
        from saedsl.sae.formats import saelens

        return saelens.describe(self.config, self.numpy_weights())

    @property
    def _needs_tokens(self) -> bool:
        if self.config.is_transcoder:
            return self.config.skip
        return self.config.normalize_activations != "none"

    def _tokens(self, x: mx.array) -> mx.array:
        _check_last_axis(x, self.config.d_in, "x", "d_in")
        return x.astype(mx.float32)

    def _pre(self, x: mx.array, W: mx.array, b: mx.array) -> mx.array:
        """Pre-activations [..., n] for encoder columns `W` [d_in, n] and `b` [n]."""
        u = self._tokens(x)
        if self.config.normalize_activations == "layer_norm":
            u = (u - self._shift(u)) / (self._spread(u) + LAYER_NORM_EPS)
        elif self.config.normalize_activations == "constant_norm_rescale":
            u = u / mx.maximum(self._spread(u), 1e-30)
        if self.config.apply_b_dec_to_input:
            u = u - self.b_dec
        return mx.addmm(b, u, W)

    def _activate(self, pre: mx.array, threshold: mx.array | None) -> mx.array:
        if threshold is not None:
            return mx.maximum(pre, 0) * (pre > threshold)
        if self.config.activation == "topk" and self.config.k is not None:
            return keep_top_k(pre, self.config.k)
        return mx.maximum(pre, 0)

    def _spread(self, x: mx.array) -> mx.array:
        """What `n` divides each token by, [..., 1]."""
        if self.config.normalize_activations == "layer_norm":
            return mx.sqrt(mx.var(x, axis=-1, keepdims=True, ddof=1))
        return mx.sqrt(mx.sum(mx.square(x), axis=-1, keepdims=True)) / sqrt(self.config.d_in)

    def _shift(self, x: mx.array) -> mx.array:
        """What `n` subtracts from each token, [..., 1] or 0."""
        if self.config.normalize_activations == "layer_norm":
            return mx.mean(x.astype(mx.float32), axis=-1, keepdims=True)
        return mx.array(0.0)


def _check_last_axis(x: mx.array, size: int, name: str, axis: str) -> None:
    if x.ndim == 0 or x.shape[-1] != size:
        raise ShapeError(f"{name} is {list(x.shape)}; its last axis must be {axis} = {size}")
