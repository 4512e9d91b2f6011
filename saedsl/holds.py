"""The modes `frozen` and `direct`: what of an edited row is held at its shadow row, the unedited run of its tokens.

A batch holds unedited and edited rows. In `frozen`, queries and keys of a row are those of its shadow, so its attention
patterns are, whatever computes them. In `direct`, norms divide by the shadow's denominators and MLPs give the shadow's
output besides, so that what is left (the residual stream, values and output projections, the linear skip of a
transcoder) is linear in an edit.

Everything is a delta on the shadow's value: rows that do not differ stay bitwise the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from saedsl.errors import ModelError
from saedsl.sites import Site

if TYPE_CHECKING:
    from saedsl.anatomy import ModelInfo
    from saedsl.program import Mode
    from saedsl.trace import Frame

Hold = Callable[[nn.Module, mx.array, mx.array, "Frame"], mx.array]
"""(module, what it read, what it gave, frame) -> what the model goes on with, before any edit there."""

HeldNorm = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]
"""(input, output) of a norm -> the input and output that it is linear around."""

Skip = mx.array | Callable[[mx.array], mx.array]
"""W_skip [d_out, d_in] of a transcoder, or a linear function [batch, seq, d_in] -> [batch, seq, d_out]."""


def holds(info: ModelInfo, mode: Mode, shadow_of: Sequence[int], skips: Mapping[Site, Skip]) -> list[tuple[str, Hold]]:
    """What modules do after their call, in this order where a module is listed more than once.

    Args:
        info: the model.
        mode: what is held; nothing in `iterative`.
        shadow_of: [batch] the row that each is held against, itself for an unedited row.
        skips: linear paths from `mlp.in` that stay live in `direct`, by the site they write to: a layer's `mlp` or
            `mlp.raw`.

    Raises:
        ValueError: if a shadow is itself held against another row, or a skip writes elsewhere.
    """
    if any(not 0 <= s < len(shadow_of) or shadow_of[s] != s for s in shadow_of):
        raise ValueError(f"a shadow is a row of the batch and its own shadow; this is {list(shadow_of)}")
    if mode == "iterative" or list(shadow_of) == list(range(len(shadow_of))):
        return []
    shadow = mx.array(list(shadow_of))
    found: list[tuple[str, Hold]] = []
    for layer in range(info.n_layers):
        for component in ("attn.q", "attn.k"):
            point = info.hook_point(Site(layer, component))
            found.append((point.module, _output(shadow, point.columns)))
    if mode == "frozen":
        return found
    family = info.family
    found.append((family.final_norm, _norm(shadow, family.norm_offset)))
    for layer in range(info.n_layers):
        block = f"{family.blocks}.{layer}"
        found += [(f"{block}.{norm}", _norm(shadow, family.norm_offset)) for norm in family.norms]
        found.append((f"{block}.{family.mlp}", _mlp(shadow, layer)))
    for site, skip in skips.items():
        if site.layer is None or site.component not in ("mlp", "mlp.raw"):
            raise ValueError(f"a transcoder's skip in mode direct writes to a layer's mlp or mlp.raw, not to {site}")
        found.append((info.hook_point(site).module, _skip(site.layer, skip)))
    return found


def _output(shadow: mx.array, columns: tuple[int, int] | None) -> Hold:
    """The shadow's output, or these columns of it."""

    def hold(module: nn.Module, x: mx.array, y: mx.array, frame: Frame) -> mx.array:
        if columns is None:
            return y[shadow]
        first, end = columns
        return mx.concatenate([y[..., :first], y[shadow][..., first:end], y[..., end:]], axis=-1)

    return hold


def _norm(shadow: mx.array, offset: float) -> Hold:
    """A norm that divides by the shadow's denominator."""

    def hold(module: nn.Module, x: mx.array, y: mx.array, frame: Frame) -> mx.array:
        return linear_norm(module, x, x[shadow], y[shadow], offset).astype(y.dtype)

    return hold


def linear_norm(module: nn.Module, x: mx.array, x_held: mx.array, y_held: mx.array, offset: float) -> mx.array:
    """A norm with the denominator of another input: y = y_h + (x - x_h) w / rho_h, centred for LayerNorm; float32.

    Args:
        module: an RMSNorm or LayerNorm.
        x: [batch, seq, d_model].
        x_held: the other input, of a shape that broadcasts.
        y_held: what the norm makes of it.
        offset: what the family's norms add to their weight.

    Raises:
        ModelError: if the module is no norm that is known.
    """
    eps = getattr(module, "eps", None)
    if eps is None:
        raise ModelError(f"mode direct does not know the denominator of this {type(module).__name__}")
    held = x_held.astype(mx.float32)
    delta = x.astype(mx.float32) - held
    if isinstance(module, nn.LayerNorm):
        delta = delta - delta.mean(axis=-1, keepdims=True)
        square = held.var(axis=-1, keepdims=True)
    else:
        square = held.square().mean(axis=-1, keepdims=True)
    delta = delta * mx.rsqrt(square + eps)
    if "weight" in module:
        delta = delta * (offset + module.weight.astype(mx.float32))
    return y_held.astype(mx.float32) + delta


def linear_norms(info: ModelInfo, of: Callable[[str], HeldNorm]) -> list[tuple[str, Hold]]:
    """Holds, for `Hooks(held=...)`, that make every norm of the model linear.

    Args:
        info: the model.
        of: path of a norm -> (input, output) -> what its input and output are held at.
    """

    def hold(held: HeldNorm) -> Hold:
        def norm(module: nn.Module, x: mx.array, y: mx.array, frame: Frame) -> mx.array:
            return linear_norm(module, x, *held(x, y), info.family.norm_offset).astype(y.dtype)

        return norm

    return [(path, hold(of(path))) for path in norm_paths(info)]


def norm_paths(info: ModelInfo) -> list[str]:
    """Modules of all norms that the residual stream, or what is added to it, passes through."""
    family = info.family
    blocks = [f"{family.blocks}.{layer}.{norm}" for layer in range(info.n_layers) for norm in family.norms]
    return [*blocks, family.final_norm]


def _mlp(shadow: mx.array, layer: int) -> Hold:
    """The shadow's output; how far the input is from the shadow's is left for the skips."""

    def hold(module: nn.Module, x: mx.array, y: mx.array, frame: Frame) -> mx.array:
        frame.scratch["direct", layer] = x - x[shadow]
        return y[shadow]

    return hold


def _skip(layer: int, skip: Skip) -> Hold:
    def hold(module: nn.Module, x: mx.array, y: mx.array, frame: Frame) -> mx.array:
        delta = frame.scratch["direct", layer].astype(mx.float32)
        path = delta @ skip.astype(mx.float32).T if isinstance(skip, mx.array) else skip(delta)
        return (y.astype(mx.float32) + path).astype(y.dtype)

    return hold
