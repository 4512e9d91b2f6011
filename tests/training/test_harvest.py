"""Activations over texts, and the loss with activations replaced, against plain loops over the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import saedsl
from saedsl.errors import TrainingError
from saedsl.sites import Site
from saedsl.tokens import Tokens
from saedsl.training.harvest import batches, cross_entropy, harvest, recovered

SITE = Site(2, "mlp")
TEXTS = [
    "The capital of France is Paris.",
    "Mary went to the store.",
    "The capital of Spain is Madrid and it is old.",
    "",
]


@pytest.fixture(scope="module")
def demo() -> saedsl.InterpretableModel:
    return saedsl.InterpretableModel.load("demo")


def plain_logits(demo: saedsl.InterpretableModel, ids: tuple[int, ...]) -> np.ndarray:
    return np.array(demo.model(mx.array([ids]))[0]).astype(np.float64)


def test_every_token_but_bos_and_padding_is_harvested_once(demo: saedsl.InterpretableModel) -> None:
    x = harvest(demo, TEXTS, [SITE, Site(0, "resid_pre")])
    alone = []
    for text in TEXTS:
        ids = demo.encoder.encode(text).ids
        if len(ids) > 1:
            alone.append(np.array(demo.activations(mx.array([ids]), [SITE])[SITE])[0, 1:])
    expected = np.concatenate(sorted(alone, key=len))
    assert x[SITE].shape == x[Site(0, "resid_pre")].shape == expected.shape
    np.testing.assert_allclose(x[SITE], expected, atol=1e-4)


def test_long_texts_go_on_in_further_rows_with_bos_again(demo: saedsl.InterpretableModel) -> None:
    n = len(demo.encoder.encode(TEXTS[2]).ids) - 1
    rows = list(batches(demo, [TEXTS[2]], context=6))
    assert sum(int(b.content.sum()) for b in rows) == n
    bos = demo.info.bos_token_id
    assert all((np.array(b.tokens)[:, 0] == bos).all() and b.tokens.shape[1] <= 6 for b in rows)


def test_reading_stops_at_max_tokens(demo: saedsl.InterpretableModel) -> None:
    assert harvest(demo, TEXTS, [SITE], max_tokens=7)[SITE].shape == (7, 128)


def test_cross_entropy_is_the_mean_over_next_tokens(demo: saedsl.InterpretableModel) -> None:
    losses = []
    for text in TEXTS:
        ids = demo.encoder.encode(text).ids
        logits = plain_logits(demo, ids)
        logp = (
            logits
            - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - logits.max(-1, keepdims=True)
        )
        losses += [-logp[i, t] for i, t in enumerate(ids[1:])]
    assert cross_entropy(demo, batches(demo, TEXTS)) == pytest.approx(np.mean(losses), abs=1e-4)


def test_replacing_an_activation_by_itself_loses_nothing_and_bos_is_left_alone(
    demo: saedsl.InterpretableModel,
) -> None:
    rows = list(batches(demo, TEXTS[:1]))
    before = cross_entropy(demo, rows)
    assert cross_entropy(demo, rows, {SITE: lambda x: x + 0}) == before
    seen = []

    def mark(x: mx.array) -> mx.array:
        return x + 1e6

    logits, kept = demo.forward(rows[0].tokens, [SITE])
    seen.append(kept[SITE])
    assert cross_entropy(demo, rows, {SITE: mark}) > before
    assert np.isfinite(np.array(logits)).all()


def test_a_transcoder_is_measured_where_it_writes(demo: saedsl.InterpretableModel) -> None:
    bundle = saedsl.load_demo()
    rows = list(batches(demo, TEXTS))
    assert 0.8 < recovered(bundle.model, bundle.transcoders["L0.mlp"], rows) <= 1.1
    assert 0.8 < recovered(bundle.model, bundle.saes["L0.mlp"], rows) <= 1.1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "these texts have no tokens: there is nothing to read activations of"),
        (["", ""], "these texts have no tokens: there is nothing to read activations of"),
        ([3], "a data set is texts, this entry is int"),
    ],
)
def test_data_without_tokens_is_refused(demo: saedsl.InterpretableModel, texts: list[str], message: str) -> None:
    with pytest.raises(TrainingError) as e:
        harvest(demo, texts, [SITE])
    assert str(e.value) == message


ONE_TEXT = "a data set is a list of texts, this is one text"
NO_ROOM = "context is {}; a row of at least 2 tokens is needed, BOS included"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": TEXTS[0]}, ONE_TEXT),
        ({"context": 1}, NO_ROOM.format(1)),
        ({"context": -3}, NO_ROOM.format(-3)),
        ({"max_tokens": 0}, "max_tokens is 0; at least 1 is needed, or None for all"),
        ({"max_tokens": -5}, "max_tokens is -5; at least 1 is needed, or None for all"),
    ],
)
def test_settings_that_give_no_tokens_are_refused(
    demo: saedsl.InterpretableModel, change: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"texts": TEXTS, "context": 128, "max_tokens": None, **change}
    with pytest.raises(TrainingError) as e:
        harvest(demo, given.pop("texts"), [SITE], **given)
    assert str(e.value) == message
    if "texts" in change:  # which train_sae takes for a path
        return
    with pytest.raises(TrainingError) as e:
        demo.train_sae(1, "mlp", change.get("texts", TEXTS), **given, progress=False)
    assert str(e.value) == message


def test_a_context_has_room_behind_every_bos(demo: saedsl.InterpretableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = demo.encoder.encode

    def doubled(text: str) -> Tokens:
        t = encode(text)
        return replace(t, ids=(*t.ids[:1], *t.ids), pieces=("", *t.pieces), offsets=((0, 0), *t.offsets))

    monkeypatch.setattr(demo, "encoder", replace(demo.encoder, encode=doubled))
    with pytest.raises(TrainingError, match=r"^context is 2; a row of at least 3 tokens is needed"):
        batches(demo, TEXTS, context=2)
    assert {len(b.tokens[0]) for b in batches(demo, TEXTS, context=3)} == {3}


def test_train_sae_of_the_model_saves_what_it_trained(demo: saedsl.InterpretableModel, tmp_path: Path) -> None:
    config = saedsl.SAEConfig(k=4, d_sae=32, batch_size=16, num_tokens=160)
    sae = demo.train_sae(1, "mlp", TEXTS * 3, config, tmp_path / "sae", progress=False)
    again = saedsl.SAE.load(tmp_path / "sae")
    assert again.sha256 == sae.sha256
    assert str(sae.config.output_site) == "L1.mlp"
    assert sae.config.model_name == "demo"
    with pytest.raises(ValueError, match="this model has 4 layers"):
        demo.train_sae(9, "mlp", TEXTS, config)
