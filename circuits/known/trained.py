"""A trained model whose circuit is known from the literature: induction in two layers of attention only.

The model is Llama's, with MLPs whose output projection is zero and stays zero, so that they write nothing. It learns
to continue sequences of random tokens of which a stretch repeats at a distance that varies: a head
of layer 0 attends to the token before, and one of layer 1, reading it, to where the present token was followed
(Olsson et al. 2022, arXiv:2209.11895). Their prefix-matching and copying scores tell the heads apart without patching.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs

from saedsl.circuits.decomposed import Decomposed, decompose
from saedsl.circuits.edge_task import Ablation, EdgeTask, edge_task, logit_difference
from saedsl.circuits.known.build import BOS
from saedsl.errors import TrainingError


@dataclass(frozen=True)
class InductionConfig:
    """The model and its training. The defaults take less than a minute on one core."""

    vocab: int = 32
    """Tokens, BOS among them."""
    seq: int = 25
    lags: tuple[int, int] = (3, 16)
    """Least and most tokens from a token to its repetition."""
    d_model: int = 64
    n_heads: int = 2
    """Of each of the two layers."""
    batch: int = 32
    steps: int = 1200
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Scores of heads, [n_layers, n_heads], that need no patching."""

    previous: np.ndarray
    """Mean attention to the token before."""
    prefix_matching: np.ndarray
    """Mean attention to the token that followed the last time, from repeated tokens."""
    copying: np.ndarray
    """Share of tokens whose own logit the head raises most, of all logits, where it attends to them alone."""


def repeated(rng: np.random.Generator, n: int, config: InductionConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random tokens of which none comes twice, until they repeat what was there `lag` positions before.

    Returns:
        Tokens [n, seq], the first BOS; the first repeated position of each [n]; its lag [n].
    """
    low, high = config.lags
    lags = rng.integers(low, high + 1, n)
    starts = rng.integers(lags + 1, config.seq - 3)
    once = rng.permuted(np.tile(np.arange(1, config.vocab), (n, 1)), axis=1)[:, : config.seq - 1]
    tokens = np.concatenate([np.full((n, 1), BOS), once], axis=1)
    for i in range(low + 1, config.seq):
        tokens[:, i] = np.where(i >= starts, tokens[np.arange(n), np.maximum(i - lags, 0)], tokens[:, i])
    return tokens, starts, lags


def train_induction(
    config: InductionConfig = InductionConfig(), progress: Callable[[int, float], None] | None = None
) -> nn.Module:
    """Train the model; the same config gives the same model.

    Args:
        config: sizes, steps and seed.
        progress: called with the step and the loss (nats a token) after every 100 steps.

    Raises:
        TrainingError: if the config cannot be.
    """
    _check(config)
    rng = np.random.default_rng(config.seed)
    model = _untrained(config, rng)
    warmup = optim.linear_schedule(0, config.learning_rate, 50)
    decay = optim.cosine_decay(config.learning_rate, config.steps)
    optimizer = optim.Adam(learning_rate=optim.join_schedules([warmup, decay], [50]), betas=[0.9, 0.98])
    step_loss = nn.value_and_grad(model, _loss)
    for step in range(1, config.steps + 1):
        tokens, starts, _ = repeated(rng, config.batch, config)
        known = np.arange(1, config.seq)[None] > starts[:, None]  # from the second repeated token on
        loss, gradient = step_loss(model, mx.array(tokens), mx.array(known.astype(np.float32)))
        gradient, _ = optim.clip_grad_norm(gradient, 1.0)
        optimizer.update(model, gradient)
        mx.eval(model.parameters(), optimizer.state)
        if progress is not None and step % 100 == 0:
            progress(step, loss.item())
    return model


def head_scores(model: nn.Module, config: InductionConfig, n: int = 64, seed: int = 1) -> HeadScores:
    """Score every head on `n` new sequences."""
    parts = decompose(model)
    tokens, starts, lags = repeated(np.random.default_rng(seed), n, config)
    pattern = np.array(parts.patterns(parts.embed(mx.array(tokens))))  # [layers, batch, heads, query, key]
    queries = np.arange(2, config.seq)
    before = pattern[:, :, :, queries, queries - 1].mean(axis=(1, 3))
    matched = [
        pattern[:, i, :, np.arange(start, config.seq), np.arange(start, config.seq) - lag + 1].mean(axis=0)
        for i, (start, lag) in enumerate(zip(starts, lags, strict=True))
    ]
    return HeadScores(before, np.mean(matched, axis=0), _copying(parts, config.vocab))


def induction_task(
    model: nn.Module, config: InductionConfig, n: int = 16, seed: int = 2, ablation: Ablation = "resample"
) -> EdgeTask:
    """Edges scored on what follows the last token.

    The corrupt prompts are the clean ones with every token replaced by another, the same wherever it stands, so that
    they call for another answer by the same circuit; the metric is the clean answer's logit less the corrupt one's.
    """
    rng = np.random.default_rng(seed)
    clean, _, lags = repeated(rng, n, config)
    order = rng.permutation(np.arange(1, config.vocab))
    swapped = np.zeros(config.vocab, int)
    swapped[order] = np.roll(order, 1)
    corrupt = swapped[clean]
    right = clean[np.arange(n), config.seq - lags]
    wrong = swapped[right]
    metric = logit_difference(right.tolist(), wrong.tolist())
    return edge_task(model, mx.array(clean), metric, corrupt=mx.array(corrupt), ablation=ablation)


def _loss(model: nn.Module, tokens: mx.array, known: mx.array) -> mx.array:
    """Nats a token, over the tokens that can be known."""
    losses = nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
    loss: mx.array = (losses * known).sum() / known.sum()
    return loss


def _untrained(config: InductionConfig, rng: np.random.Generator) -> nn.Module:
    model = Model(
        ModelArgs(
            model_type="llama", hidden_size=config.d_model, num_hidden_layers=2, intermediate_size=4,
            num_attention_heads=config.n_heads, rms_norm_eps=1e-5, vocab_size=config.vocab, tie_word_embeddings=False,
            rope_theta=10.0, max_position_embeddings=config.seq, attention_bias=True,
        )
    )  # fmt: skip
    weights = []
    for name, value in tree_flatten(model.parameters()):
        new = rng.normal(size=value.shape)
        if ".mlp." in name or name.endswith(("v_proj.bias", "o_proj.bias")):
            new = np.zeros(value.shape)
        elif value.ndim == 1 and not name.endswith(".bias"):
            new = np.ones(value.shape)
        elif name.endswith("o_proj.weight"):  # small beside the embeddings of size 1: else tokens drown, and no
            new *= 0.5 / np.sqrt(config.d_model)  # head of layer 1 learns to match them
        elif value.ndim == 2 and "embed" not in name:
            new /= np.sqrt(config.d_model)
        weights.append((name, mx.array(new.astype(np.float32))))
    model.load_weights(weights)
    for layer in model.layers:
        layer.mlp.freeze()
    return model


def _copying(parts: Decomposed, vocab: int) -> np.ndarray:
    """Through the OV circuit alone, without norms: embedding -> value -> output -> logits."""
    inner, n = parts.model.model, parts.wiring.n_heads
    W_E, W_U = np.array(inner.embed_tokens.weight), np.array(parts.model.lm_head.weight)
    found = []
    for layer in inner.layers:
        d = W_E.shape[1]
        W_V = np.array(layer.self_attn.v_proj.weight * layer.input_layernorm.weight).reshape(n, -1, d)
        W_O = np.array(layer.self_attn.o_proj.weight).reshape(d, n, -1)
        gain = np.array(inner.norm.weight)
        for h in range(n):
            logits = (W_E @ W_V[h].T @ W_O[:, h].T * gain) @ W_U.T
            found.append((logits[1:].argmax(axis=1) == np.arange(1, vocab)).mean())
    return np.array(found).reshape(len(inner.layers), n)


def _check(config: InductionConfig) -> None:
    low, high = config.lags
    if not 2 <= low <= high <= config.seq - 5 or config.seq > config.vocab:
        raise TrainingError(
            f"lags {low} to {high}, {config.seq} positions and {config.vocab} tokens: lags are 2 to seq - 5, and the "
            "vocabulary is not smaller than seq"
        )
    if config.d_model % (2 * config.n_heads) or min(config.batch, config.steps) < 1:
        raise TrainingError(
            f"d_model {config.d_model} has to be a multiple of twice the {config.n_heads} heads, and batch and steps "
            "at least 1"
        )
