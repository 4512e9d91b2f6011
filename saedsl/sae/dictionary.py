"""The dictionary itself: weights in MLX, encode, decode, load and save.

With `n` and `n^-1` the normalisation and its inverse, and row vectors:

    p = (n(x) - b_dec) W_enc + b_enc,   f = activation(p),   x^ = n^-1(f W_dec + b_dec) [+ x W_skip^T]

Gated (arXiv:2404.16014): with u = (n(x) - b_dec) W_enc, f = 1[u + b_gate > 0] relu(u exp(r_mag) + b_mag).
Cross-layer transcoder of L layers: p of the features of layer l reads part l of x only.
Formulas and names are SAELens'. Norms and scales that a file keeps apart are folded when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import mlx.core as mx

from saedsl.errors import SAEError, ShapeError
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.header import SAEInfo
from saedsl.sae.sitewise import Columns, by_layer, concatenated, writes_backwards
from saedsl.sae.statistics import Statistics, read_statistics
from saedsl.sae.topk import keep_top_k, kth_largest
from saedsl.sites import Site

if TYPE_CHECKING:
    import numpy as np

LAYER_NORM_EPS = 1e-5
"""Added to the standard deviation when `layer_norm` divides, not when it multiplies back: as in SAELens."""

_NOT_GIVEN: Final = cast("mx.array", None)
"""Stands for a weight that every dictionary has; the constructor refuses it."""
Activations = mx.array | Mapping[Site, mx.array] | Mapping[str, mx.array]
"""[..., d_in]; of several sites also site -> [..., width]."""


@dataclass(frozen=True, eq=False, repr=False)
class SAE:
    """A sparse dictionary with its weights, float32 in memory whatever the file holds. Nothing changes it."""

    config: DictionaryConfig
    """What the weights mean."""
    W_enc: mx.array
    """[d_in, d_sae]; [d_in / L, d_sae] of a cross-layer transcoder of L layers."""
    b_enc: mx.array | None = None
    """[d_sae]; all but `gated`."""
    W_dec: mx.array = _NOT_GIVEN
    """[d_sae, d_out]; row j is what feature j writes. Cross-layer: zeros for the layers before the feature's own."""
    b_dec: mx.array = _NOT_GIVEN
    """[d_out]"""
    threshold: mx.array | None = None
    """[d_sae], `jumprelu` and `batchtopk` only: a feature fires above it; negative ones count as 0."""
    W_skip: mx.array | None = None
    """[d_out, d_in], skip transcoders only."""
    b_gate: mx.array | None = None
    """[d_sae], `gated` only, as are the next two: a feature fires where its gate is above 0."""
    r_mag: mx.array | None = None
    """[d_sae], the logarithm of what the gate's product is stretched by."""
    b_mag: mx.array | None = None
    """[d_sae], the bias of the feature's magnitude."""
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
        for name in ("b_enc", "threshold", "W_skip", "b_gate", "r_mag", "b_mag"):
            if name not in self.config.weight_shapes and getattr(self, name) is not None:
                raise ShapeError(f"{name} is given; this config has none")
        if self.config.layers > 1 and (layer := writes_backwards(self.W_dec, self.config.layers)) is not None:
            raise SAEError(
                f"W_dec: a feature of the cross-layer transcoder's layer {layer} writes a layer before it; "
                "those entries must be 0"
            )

    def __repr__(self) -> str:
        c = self.config
        ends = [
            ", ".join(map(str, c.input_sites or (c.input_site,))),
            ", ".join(map(str, c.output_sites or (c.output_site,))),
        ]
        where = "" if ends[0] == "None" else f", {' -> '.join(dict.fromkeys(ends))}"
        kept = "" if c.k is None else f", k={c.k}"
        return f"SAE({c.activation} {c.kind}, {c.d_in} -> {c.d_sae} features -> {c.d_out}{kept}{where})"

    def encode(self, x: Activations) -> mx.array:
        """Feature activations of `x`; those of a token depend on no other token.

        Args:
            x: [..., d_in], activations at the input site, any float dtype. Of several sites: one after another in
                the order of `config.input_sites`, or a mapping from each of them (a `Site` or its text) to its own.

        Returns:
            [..., d_sae], float32, non-negative. `topk` keeps every feature that is positive and not below the
            k-th largest pre-activation of its token: more than k where pre-activations are exactly equal.
            `batchtopk` keeps what is above the threshold that was learnt.

        Raises:
            ShapeError: if the last axis of `x` is not d_in, or a mapping has not exactly the input sites.
        """
        return self._encode(x, self._all_columns)

    def encode_features(self, x: Activations, ids: Sequence[int] | mx.array) -> mx.array:
        """Columns `ids` of `encode(x)`, [..., len(ids)]; only these are computed where the activation allows.

        Where it does not (`topk`), the same features fire as in `encode`, ties included.

        Raises:
            ShapeError: as `encode`.
        """
        return self.encoder(ids)(x)

    def encoder(self, ids: Sequence[int] | mx.array) -> Callable[[Activations], mx.array]:
        """`encode_features` of the same features again and again: their columns are gathered once."""
        columns = ids if isinstance(ids, mx.array) else mx.array(list(ids), dtype=mx.int32)
        if self.config.elementwise:
            some = self._columns(columns)
            mx.eval([value for value in some if isinstance(value, mx.array)])
            return lambda x: self._encode(x, some)
        k = self.config.k
        assert k is not None

        def encode(x: Activations) -> mx.array:
            pre = self._pre(x, self._all_columns)
            mine = pre[..., columns]
            if columns.size == 1:  # not below the k-th largest: fewer than k are larger
                fires = (pre > mine).sum(axis=-1, keepdims=True) < k
            else:
                fires = mine >= kth_largest(pre, k)
            return mx.where(fires & (mine > 0), mine, 0)

        return encode

    def decode(self, f: mx.array, x: Activations | None = None) -> mx.array:
        """What the features `f` write at the output site, or at all of them, one after another.

        Args:
            f: [..., d_sae].
            x: [..., d_in] or a mapping, the tokens that `f` was encoded from; needed only where the dictionary
                normalises or centres each token, or has a skip connection.

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
            raise SAEError(f"this dictionary {self._why_tokens}, so decoding needs the tokens too: decode(f, x)")
        if self.config.is_transcoder:
            return out if self.W_skip is None else out + self._tokens(x) @ self.W_skip.T
        return out * self.scale(x) + self._shift(self._tokens(x))

    def __call__(self, x: Activations) -> mx.array:
        """The reconstruction of `x`, or a transcoder's prediction of its output: [..., d_out], float32."""
        if isinstance(x, Mapping):
            x = self._tokens(x)
        return self.decode(self.encode(x), x)

    def nested(self, size: int) -> SAE:
        """The nested dictionary of the first `size` features, one of `config.prefixes`; a copy in memory.

        Its features are the first ones of this one's; `topk` alone chooses its k anew among them.

        Raises:
            SAEError: if no nested dictionary has that size.
        """
        c = self.config
        if size not in c.prefixes:
            sizes = ", ".join(map(str, c.prefixes)) or "none, it is no Matryoshka dictionary"
            raise SAEError(f"no nested dictionary has {size} features; there are: {sizes}")
        smaller = replace(
            c, d_sae=size, prefixes=tuple(p for p in c.prefixes if p <= size), k=None if c.k is None else min(c.k, size)
        )
        weights = {name: getattr(self, name) for name in c.weight_shapes}
        by_feature = {name: w for name, w in weights.items() if name not in _BY_WIDTH}
        cut = {name: w[:, :size] if name == "W_enc" else w[:size] for name, w in by_feature.items()}
        return SAE(smaller, **{**weights, **cut})

    def error(self, x: Activations, target: mx.array | None = None) -> mx.array:
        """What the dictionary leaves unexplained: `target - sae(x)`, [..., d_out], float32.

        Args:
            x: as in `encode`.
            target: [..., d_out], what a transcoder predicts; None where the input itself is reconstructed.

        Raises:
            SAEError: if a transcoder has no target, or another dictionary has one.
            ShapeError: if the last axis of `target` is not d_out.
        """
        x = self._tokens(x)
        if not self.config.is_transcoder:
            if target is not None:
                raise SAEError("this dictionary reconstructs its input; its error takes no target")
            return x - self(x)
        if target is None:
            message = "a transcoder does not reconstruct its input; its error is target - sae(x): error(x, target)"
            raise SAEError(message)
        _check_last_axis(target, self.config.d_out, "target", "d_out")
        return target.astype(mx.float32) - self(x)

    def scale(self, x: Activations) -> mx.array:
        """By how much one unit of decoder output is stretched for each token: s(x).

        An edit of features f to f' is `x + s(x) * (f' - f) @ W_dec`. It is 1 without normalisation and for
        every transcoder (SAELens normalises its input only), the token's standard deviation for `layer_norm`,
        and ||x|| / sqrt(d) for `constant_norm_rescale`, of the centred token where the input is centred.

        Returns:
            [..., 1], or a scalar 1 where it is the same for all tokens; float32.
        """
        x = self._tokens(x)
        if self.config.is_transcoder or self.config.normalize_activations == "none":
            return mx.array(1.0)
        return self._spread(self._centred(x))

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
        """Read a dictionary from `path`, in any format that `saedsl.sae.formats` knows.

        Args:
            path: a folder, a file, or `org/repo` or `org/repo:subfolder` on the Hugging Face hub, which is downloaded
                where this machine has no copy. A local folder of that name comes first.

        Raises:
            SAEError: if there is none, or its files are damaged, contradict one another or need what we lack.
        """
        from saedsl.sae.formats import detect
        from saedsl.sae.names import local_or_hub

        folder = local_or_hub(path)
        info = SAEInfo.read(folder)
        return cls(info.config, **detect(folder).read_weights(info), source=info)

    def save(
        self,
        path: str | PathLike[str],
        dtype: Literal["float32", "float16"] = "float32",
        format: Literal["auto", "saelens", "native"] = "auto",
    ) -> SAE:
        """Write the dictionary to a folder; it appears whole or not at all.

        BatchTopK is written to SAELens' layout as `jumprelu`, which computes the same. Statistics that the dictionary
        carries are kept unless float16 rounds a weight.

        Args:
            path: the folder; made if missing, replaced if it is a dictionary already.
            dtype: how numbers are stored. `float16` halves the file and rounds the weights.
            format: `auto` is SAELens' layout (cfg.json) where it can say what this dictionary computes, else saedsl's
                own (saedsl.json).

        Returns:
            The dictionary as `load(path)` gives it.

        Raises:
            SAEError: if `path` holds something else, SAELens' layout is asked for and cannot say this dictionary, or
                a weight does not fit in float16.
        """
        from saedsl.sae.formats import native, saelens

        carried = None
        if self.info.statistics is not None:
            with suppress(SAEError):  # of other weights, or damaged: they are left behind
                carried = self.statistics
        own = format == "native" or (format == "auto" and saelens.lacks(self.config) is not None)
        write = native.write if own else saelens.write
        write(Path(path), self.config, self.numpy_weights(), dtype, carried)
        return SAE.load(path)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        subfolder: str | None = None,
        message: str = "Upload a dictionary with saedsl",
        report: Mapping[str, Any] | None = None,
    ) -> str:
        """Upload the dictionary to the Hugging Face hub with a model card; the repository is made if missing.

        Args:
            repo: `org/repo`.
            private: whether a new repository is private.
            subfolder: where in the repository; by default its root. The card is written for the root only.
            message: of the commit.
            report: measured numbers for the card, e.g. of `evaluate`; by default those of the `report.json` beside
                the weights, if there is one.

        Returns:
            The address of the commit.

        Raises:
            SAEError: if the name cannot be one, or the hub refuses or cannot be reached.
        """
        from saedsl.sae.hub import push

        return push(self, repo, private=private, subfolder=subfolder, message=message, report=report)

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
        from saedsl.sae.formats.tensors import describe

        return describe(self.config, self.numpy_weights())

    @property
    def _needs_tokens(self) -> bool:
        if self.config.is_transcoder:
            return self.config.skip
        return self.config.normalize_activations != "none" or self.config.center_input

    @property
    def _why_tokens(self) -> str:
        if self.config.skip:
            return "has a skip connection"
        if self.config.normalize_activations != "none":
            return f"uses {self.config.normalize_activations}"
        return "centres its input"

    def _tokens(self, x: Activations) -> mx.array:
        """`x` as one array [..., d_in], float32."""
        if isinstance(x, Mapping):
            x = concatenated(x, self.config)
        _check_last_axis(x, self.config.d_in, "x", "d_in")
        return x.astype(mx.float32)

    @cached_property
    def _all_columns(self) -> Columns:
        return Columns(self.W_enc, self.b_enc, self.threshold, self.b_gate, self.r_mag, self.b_mag)

    def _columns(self, ids: mx.array) -> Columns:
        """The encoder of the features `ids`."""
        b, threshold, b_gate, r_mag, b_mag = (
            None if value is None else value[ids]
            for value in (self.b_enc, self.threshold, self.b_gate, self.r_mag, self.b_mag)
        )
        return Columns(self.W_enc[:, ids], b, threshold, b_gate, r_mag, b_mag, ids)

    def _encode(self, x: Activations, c: Columns) -> mx.array:
        """Features [..., n] of the encoder's columns `c`."""
        pre = self._pre(x, c)
        if c.b_gate is not None and c.r_mag is not None and c.b_mag is not None:
            return mx.maximum(pre * mx.exp(c.r_mag) + c.b_mag, 0) * (pre + c.b_gate > 0)
        if c.threshold is not None:
            return mx.maximum(pre, 0) * (pre > c.threshold)
        if self.config.activation == "topk" and self.config.k is not None:
            return keep_top_k(pre, self.config.k)
        return mx.maximum(pre, 0)

    def _pre(self, x: Activations, c: Columns) -> mx.array:
        """Pre-activations [..., n] of the encoder's columns `c`; of `gated`, without a bias."""
        u = self._centred(self._tokens(x))
        if self.config.normalize_activations == "layer_norm":
            u = (u - mx.mean(u, axis=-1, keepdims=True)) / (self._spread(u) + LAYER_NORM_EPS)
        elif self.config.normalize_activations == "constant_norm_rescale":
            u = u / mx.maximum(self._spread(u), 1e-30)
        if self.config.apply_b_dec_to_input:
            u = u - self.b_dec
        if self.config.layers > 1:
            out = by_layer(u, c.W, self.config, c.ids)
            return out if c.b is None else out + c.b
        return u @ c.W if c.b is None else mx.addmm(c.b, u, c.W)

    def _centred(self, x: mx.array) -> mx.array:
        """`x` as the dictionary takes it, before the normalisation."""
        return x - mx.mean(x, axis=-1, keepdims=True) if self.config.center_input else x

    def _spread(self, x: mx.array) -> mx.array:
        """What `n` divides each token by, [..., 1]."""
        if self.config.normalize_activations == "layer_norm":
            return mx.sqrt(mx.var(x, axis=-1, keepdims=True, ddof=1))
        return mx.sqrt(mx.sum(mx.square(x), axis=-1, keepdims=True)) / sqrt(self.config.d_in)

    def _shift(self, x: mx.array) -> mx.array:
        """What each token loses before the encoder and gets back, [..., 1] or 0."""
        if self.config.normalize_activations == "layer_norm" or self.config.center_input:
            return mx.mean(x, axis=-1, keepdims=True)
        return mx.array(0.0)


_BY_WIDTH: Final = ("b_dec", "W_skip")
"""Weights without an axis of features."""


def _check_last_axis(x: mx.array, size: int, name: str, axis: str) -> None:
    if x.ndim == 0 or x.shape[-1] != size:
        raise ShapeError(f"{name} is {list(x.shape)}; its last axis must be {axis} = {size}")
