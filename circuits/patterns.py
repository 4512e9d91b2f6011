"""The QK fix of AtP* (Kramár et al. 2024, arXiv:2403.00745): attention weights are computed anew, not linearised.

A node moves the residual stream at one position, and by it the queries and keys there in every later layer. Attribution
patching follows these through the slope of the softmax, which is flat where attention is saturated. Here the weights
under the moved stream are computed exactly, and their change is weighed by dm/dweights. What a node changes in the
stream by way of layers in between is not followed into the weights.
"""

from __future__ import annotations

from typing import Final

import mlx.core as mx
import numpy as np

from saedsl.circuits.prepared import Setup, added, constant
from saedsl.sites import Site
from saedsl.trace import Hooks

STREAM: Final = ("resid_pre", "attn", "resid_mid", "mlp", "resid_post")
"""Components whose nodes add to the residual stream."""


def pattern_corrections(
    setup: Setup, site: Site, prompts: np.ndarray, positions: np.ndarray, deltas: np.ndarray, batch_rows: int
) -> np.ndarray:
    """What is to be added to first-order effects so that attention weights are those under the moved stream.

    Args:
        setup: the task.
        site: where the nodes are; 0 for sites that do not add to the stream.
        prompts: [n] of each node.
        positions: [n]
        deltas: [n, d_model] by which each node moves its position.
        batch_rows: nodes of one forward.

    Returns:
        [n]
    """
    total = np.zeros(len(prompts), np.float64)
    if site != Site(None, "embed") and site.component not in STREAM:
        return total
    first = 0 if site.layer is None else site.layer + (site.component != "resid_pre")
    for layer in range(first, setup.model.info.n_layers):
        slope, weight = _slopes(setup, layer)
        plain = _weights(setup, layer, setup.rows, mx.zeros(setup.at[Site(layer, "resid_pre")].shape))
        linear = (slope[prompts, positions] * deltas).sum(axis=-1)
        exact = np.zeros(len(prompts), np.float64)
        for span in setup.spans(len(prompts), batch_rows):
            b, t = prompts[span], positions[span]
            move = np.zeros((len(b), setup.pairs.length, deltas.shape[-1]), np.float32)
            move[np.arange(len(b)), t] = deltas[span]
            rows = mx.array(b)
            change = _weights(setup, layer, b.tolist(), mx.array(move)) - plain[rows]
            exact[span] = np.array((change * weight[rows]).sum(axis=(1, 2)))
        total += exact - linear
    return total


def _slopes(setup: Setup, layer: int) -> tuple[np.ndarray, mx.array]:
    """(gradient of the weighed weights with respect to the stream [batch, seq, d_model],
    dm/dweights [batch, seq, n_heads * keys])."""
    info = setup.model.info
    z, v = Site(layer, "attn.z"), Site(layer, "attn.v")

    def value(delta: mx.array) -> tuple[mx.array, mx.array]:
        start = Site(layer, "resid_pre")
        functions = {start: constant(setup.at[start]), **added({z: delta})}
        logits, frame = Hooks(setup.model.model, info, functions, {v})(setup.pairs.ids)
        return setup.metric(logits, setup.rows, setup.logits).sum(), frame.captured[v]

    batch, n = setup.pairs.ids.shape
    (_, values), g = mx.value_and_grad(value)(mx.zeros((batch, n, info.n_heads * info.d_head)))
    group = info.n_heads // info.n_kv_heads
    v_heads = values.astype(mx.float32).reshape(batch, n, info.n_kv_heads, 1, info.d_head)
    v_heads = mx.broadcast_to(v_heads, (batch, n, info.n_kv_heads, group, info.d_head))
    v_heads = v_heads.reshape(batch, n, info.n_heads, info.d_head).transpose(0, 2, 3, 1)
    g_heads = g.reshape(batch, n, info.n_heads, info.d_head).transpose(0, 2, 1, 3)
    weight = mx.stop_gradient((g_heads @ v_heads).transpose(0, 2, 1, 3).reshape(batch, n, -1))

    def weighed(delta: mx.array) -> mx.array:
        return (_weights(setup, layer, setup.rows, delta) * weight).sum()

    slope = mx.grad(weighed)(mx.zeros(setup.at[Site(layer, "resid_pre")].shape))
    return np.array(slope), weight


def _weights(setup: Setup, layer: int, prompts: list[int], delta: mx.array) -> mx.array:
    """Attention weights [rows, seq, n_heads * keys] with the stream before the layer moved; only they are computed."""
    start, pattern = Site(layer, "resid_pre"), Site(layer, "attn.pattern")
    rows = mx.array(prompts)
    stream = constant(setup.at[start][rows].astype(mx.float32) + delta)
    _, frame = Hooks(setup.model.model, setup.model.info, {start: stream}, {pattern})(setup.pairs.ids[rows])
    return frame.captured[pattern]
