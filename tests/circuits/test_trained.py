"""Induction, trained: the heads that patching finds are those that attention patterns tell."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from saedsl.circuits.decomposed import decompose
from saedsl.circuits.edges import ig_contexts_nodes
from saedsl.circuits.known.trained import InductionConfig, head_scores, induction_task, repeated, train_induction
from saedsl.errors import TrainingError

SHORT = InductionConfig(steps=3, batch=4)


def test_sequences_repeat_from_their_start_at_their_lag() -> None:
    tokens, starts, lags = repeated(np.random.default_rng(0), 50, SHORT)
    assert (tokens[:, 0] == 0).all()
    for row, start, lag in zip(tokens, starts, lags, strict=True):
        assert 3 <= lag <= 16
        assert len(set(row[:start])) == start
        assert (row[start:] == row[start - lag : len(row) - lag]).all()


def test_the_same_config_gives_the_same_model_and_another_seed_another() -> None:
    one, again, other = (train_induction(c) for c in (SHORT, SHORT, replace(SHORT, seed=1)))
    for (name, a), (_, b), (_, c) in zip(*(tree_flatten(m.parameters()) for m in (one, again, other)), strict=True):
        assert mx.array_equal(a, b), name
        if "embed" in name:
            assert not mx.array_equal(a, c)


def test_mlps_write_nothing() -> None:
    parts = decompose(train_induction(SHORT))
    _, written = parts.forward(parts.embed(mx.array([[0, 1, 2]])))
    for layer in range(2):
        assert mx.abs(written[0, parts.wiring.source(layer, None)]).max().item() == 0


def test_scores_of_an_untrained_model_are_low() -> None:
    scores = head_scores(train_induction(SHORT), SHORT, n=16)
    assert scores.previous.shape == scores.prefix_matching.shape == scores.copying.shape == (2, 2)
    assert scores.prefix_matching.max() < 0.3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SHORT, lags=(1, 5)), "lags 1 to 5, 25 positions and 32 tokens: lags are 2 to seq - 5"),
        (replace(SHORT, vocab=20), "lags 3 to 16, 25 positions and 20 tokens: .* the vocabulary is not smaller"),
        (replace(SHORT, d_model=62), "d_model 62 has to be a multiple of twice the 2 heads, and batch and steps"),
        (replace(SHORT, steps=0), "and batch and steps at least 1"),
    ],
)
def test_configs_that_cannot_be_are_refused(config: InductionConfig, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train_induction(config)


@pytest.mark.slow
def test_the_two_heads_of_induction_are_the_top_two() -> None:
    config = InductionConfig()
    losses: list[float] = []
    model = train_induction(config, lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.05
    scores = head_scores(model, config)
    previous, induction = int(scores.previous[0].argmax()), int(scores.prefix_matching[1].argmax())
    assert scores.previous[0, previous] > 0.8
    assert scores.prefix_matching[1, induction] > 0.7
    assert scores.copying[1, induction] == 1
    for ablation in ("resample", "zero", "mean"):
        ranked = ig_contexts_nodes(induction_task(model, config, ablation=ablation), contexts=16)
        assert {str(node) for node in list(ranked)[:2]} == {f"L0.attn.h{previous}", f"L1.attn.h{induction}"}
