"""A forward taken apart is the forward; its edges are edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from saedsl.circuits.decomposed import FAMILIES, Patch, Wiring, decompose
from saedsl.circuits.edge_task import edge_task, logit_difference
from saedsl.errors import CircuitError, ModelError, ShapeError
from saedsl.model import InterpretableModel
from tests import tiny

IDS = [[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]]
TOKENS = mx.array(IDS)


def largest(x: mx.array) -> float:
    return float(np.abs(np.array(x.astype(mx.float32))).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_mlps_add_up_to_the_model(bare: Callable[..., nn.Module], family: str) -> None:
    model = bare(family)
    parts = decompose(model)
    logits, written = parts.forward(parts.embed(TOKENS))
    whole = model(TOKENS)
    assert largest(logits[0] - whole) < 1e-5 * largest(whole)
    assert written.shape == (1, len(parts.wiring.sources), 2, 6, 32)


def test_biases_are_no_source_and_are_not_lost(bare: Callable[..., nn.Module]) -> None:
    from mlx_lm.models.llama import Model

    args = bare("llama").args
    args.attention_bias = True
    model = Model(args)
    for layer in model.layers:
        for name in "qkvo":
            projection = layer.self_attn[f"{name}_proj"]
            projection.bias = mx.random.normal(projection.bias.shape, key=mx.random.key(ord(name)))
    parts = decompose(model)
    logits, _ = parts.forward(parts.embed(TOKENS))
    assert largest(logits[0] - model(TOKENS)) < 1e-5
    patterns = parts.patterns(parts.embed(TOKENS))
    x = model.layers[0](parts.embed(TOKENS), "causal")
    attn, x = model.layers[1].self_attn, model.layers[1].input_layernorm(x)
    q = attn.rope(attn.q_proj(x).reshape(2, 6, 4, -1).swapaxes(1, 2))
    k = mx.repeat(attn.rope(attn.k_proj(x).reshape(2, 6, 2, -1).swapaxes(1, 2)), 2, axis=1)
    scores = mx.where(mx.tril(mx.ones((6, 6))) > 0, q @ k.swapaxes(2, 3) * attn.scale, -mx.inf)
    assert largest(patterns[1] - mx.softmax(scores, axis=-1)) < 1e-5


def test_patterns_are_the_oracle_s(llama: InterpretableModel) -> None:
    parts = decompose(llama)
    patterns = np.array(parts.patterns(parts.embed(TOKENS)))
    for row, ids in enumerate(IDS):
        _, seen = tiny.forward(llama.model, ids)
        for layer in range(2):
            assert np.abs(patterns[layer, row] - seen[f"L{layer}.attn.pattern"]).max() < 1e-5


@pytest.mark.parametrize("node", ["L0.attn.h1", "L0.mlp", "L1.attn.h3", "L1.mlp"])
def test_all_edges_of_a_node_together_are_the_node(llama: InterpretableModel, node: str) -> None:
    parts = decompose(llama)
    source = [str(n) for n in parts.wiring.sources].index(node)
    mask = np.zeros((1, *parts.wiring.shape))
    mask[:, :, source] = 1
    embedded = parts.embed(TOKENS)
    zeros = mx.zeros((parts.wiring.shape[1], *embedded.shape))
    logits, _ = parts.forward(embedded, Patch(mx.array(mask), zeros))

    def without(z: tiny.Array) -> tiny.Array:
        head = int(node[-1])
        return np.where(np.arange(z.shape[-1]) // 12 == head, 0.0, z)

    edits: dict[str, tiny.Edit] = {node: np.zeros_like} if node.endswith("mlp") else {f"{node[:2]}.attn.z": without}
    for row, ids in enumerate(IDS):
        expected, _ = tiny.forward(llama.model, ids, edits)
        assert np.abs(np.array(logits[0, row]) - expected).max() < 1e-4


def test_an_edge_to_a_query_leaves_keys_values_and_the_rest_alone(llama: InterpretableModel) -> None:
    """Embedding -> L1's query of head 2, with the oracle's query made from a stream that lacks the embedding."""
    parts = decompose(llama)
    embedded = parts.embed(TOKENS[:1])
    mask = np.zeros((1, *parts.wiring.shape))
    mask[0, parts.wiring.reader(1, "q", 2), 0] = 1
    zeros = mx.zeros((parts.wiring.shape[1], *embedded.shape))
    logits, _ = parts.forward(embedded, Patch(mx.array(mask), zeros))
    ids = IDS[0]
    _, seen = tiny.forward(llama.model, ids)
    w = tiny.weights_of(llama.model)
    stream = seen["L1.resid_pre"] - seen["L0.resid_pre"]
    normed = stream / np.sqrt((stream**2).mean(-1, keepdims=True) + 1e-5) * w["model.layers.1.input_layernorm.weight"]
    other = normed @ w["model.layers.1.self_attn.q_proj.weight"].T
    edit: tiny.Edit = lambda q: np.where(np.arange(48) // 12 == 2, other, q)  # noqa: E731
    expected, _ = tiny.forward(llama.model, ids, {"L1.attn.q": edit})
    assert np.abs(np.array(logits[0, 0]) - expected).max() < 1e-4
    unpatched, _ = parts.forward(embedded)
    assert np.abs(np.array(logits[0, 0] - unpatched[0, 0])).max() > 1e-3


def test_gradients_are_finite_differences(bare: Callable[..., nn.Module]) -> None:
    """In double precision, of which MLX's own norms and rotations keep seven digits: steps cannot be smaller."""
    model = bare("llama")
    model.set_dtype(mx.float64)
    with mx.stream(mx.cpu):
        task = edge_task(model, TOKENS[:1], logit_difference([7], [8]), corrupt=TOKENS[1:])
        at = np.random.default_rng(0).random((1, *task.wiring.shape))
        gradient = np.array(mx.grad(lambda m: task.values(m).sum())(mx.array(at, mx.float64)))[0]
        edges = sorted(task.wiring.edges, key=lambda edge: -abs(gradient[edge]))
        for edge in edges[:10]:
            step = np.zeros_like(at)
            step[(0, *edge)] = 2e-3
            up, down = np.array(task.values(mx.array(np.concatenate([at + step, at - step]), mx.float64)))
            assert (up - down) / 4e-3 == pytest.approx(gradient[edge], rel=2e-3)


def test_the_wiring_counts_readers_and_sources() -> None:
    w = Wiring(n_layers=2, n_heads=4, n_kv_heads=2)
    assert w.shape == (2 * (4 + 2 + 2 + 1) + 1, 1 + 2 * 5)
    assert w.readers[:5] == ("L0.attn.q.h0", "L0.attn.q.h1", "L0.attn.q.h2", "L0.attn.q.h3", "L0.attn.k.h0")
    assert w.readers[w.reader(1, "v", 1)] == "L1.attn.v.h1"
    assert [str(n) for n in w.sources[:6]] == ["embed", *(f"L0.attn.h{h}" for h in range(4)), "L0.mlp"]
    assert w.owners(w.reader(1, "k", 1)) == (w.source(1, 2), w.source(1, 3))
    assert w.owners(len(w.readers) - 1) == (None,)
    assert [w.heard(w.reader(0, "q")), w.heard(w.reader(0, "mlp")), w.heard(w.reader(1, "v"))] == [1, 5, 6]
    assert w.edge_name((w.reader(1, "k", 1), 2)) == "L0.attn.h1 -> L1.attn.k.h1"


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "phi3", "starcoder2"])
def test_other_families_are_refused(bare: Callable[..., nn.Module], family: str) -> None:
    message = f"a {family} cannot be taken apart into heads and MLPs; edges are scored for llama, mistral, qwen2, qwen3"
    with pytest.raises(ModelError, match=message):
        decompose(bare(family))


def test_a_quantised_model_is_refused(bare: Callable[..., nn.Module]) -> None:
    model = bare("llama")
    nn.quantize(model, group_size=32, bits=8, class_predicate=lambda path, m: path.endswith("lm_head"))
    with pytest.raises(ModelError, match="this model is quantised, and its heads cannot be read apart; load the"):
        decompose(model)


def test_parts_that_do_not_add_up_are_refused(bare: Callable[..., nn.Module]) -> None:
    class Louder(type(bare("llama"))):  # type: ignore[misc]
        def __call__(self, *args: Any) -> mx.array:
            logits: mx.array = super().__call__(*args)
            return 1.5 * logits

    with pytest.raises(ModelError, match="the heads and MLPs of this llama do not add up to its logits"):
        decompose(Louder(bare("llama").args))


def test_patches_of_the_wrong_shape_are_refused(llama: InterpretableModel) -> None:
    parts = decompose(llama)
    embedded = parts.embed(TOKENS)
    other = mx.zeros((11, 2, 6, 32))
    with pytest.raises(ShapeError, match=r"mask is \[3, 4\]; \[n_masks, readers, sources\] is \[n_masks, 19, 11\]"):
        parts.forward(embedded, Patch(mx.zeros((3, 4)), other))
    with pytest.raises(ShapeError, match=r"other is \[11, 1, 6, 32\]; .* is \[11, 2, 6, 32\]"):
        parts.forward(embedded, Patch(mx.zeros((1, 19, 11)), other[:, :1]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clean": mx.zeros((0, 3), mx.int32)}, r"clean is \[0, 3\]; \[batch, seq\] needs one prompt and one token"),
        ({"corrupt": None}, "resample puts the corrupt prompts' activations in place: give corrupt="),
        ({"corrupt": TOKENS[:, :4]}, r"corrupt is \[2, 4\] and clean \[2, 6\]: they must be alike"),
        ({"corrupt": TOKENS}, "with nothing and with everything ablated: there is no effect"),
        ({"ablation": "nothing"}, "ablation is 'nothing'; it can be resample, mean, zero"),
        ({"metric": lambda x: x[:, -1, 0] * mx.nan}, "the metric is nan on the clean prompts and nan ablated"),
    ],
)
def test_tasks_without_a_meaning_are_refused(llama: InterpretableModel, given: dict[str, Any], message: str) -> None:
    arguments = {"clean": TOKENS, "metric": logit_difference([1, 2], [3, 4]), "corrupt": TOKENS[::-1], **given}
    with pytest.raises(CircuitError, match=message):
        edge_task(llama, **arguments)
