"""The main job on real input that nobody trained here: a story model, real text, an SAE trained on the spot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import saedsl
from saedsl.training import SAEConfig, evaluate
from saedsl.training.harvest import harvest

SHARED = Path(__file__).parents[2] / "shared" / "fixtures"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/fixtures: a real model and real text")


@pytest.fixture(scope="module")
def model() -> saedsl.InterpretableModel:
    return saedsl.InterpretableModel.load(SHARED / "stories260k")


@pytest.fixture(scope="module")
def stories() -> list[str]:
    texts: list[str] = json.loads((SHARED / "text" / "tinystories_v2_1700.json").read_text())
    return texts


@pytest.fixture(scope="module")
def sae(
    model: saedsl.InterpretableModel, stories: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> saedsl.SAE:
    config = SAEConfig(expansion_factor=8, k=16, num_tokens=200_000, batch_size=1024, learning_rate=2e-3)
    path = tmp_path_factory.mktemp("saes") / "L2.mlp"
    return model.train_sae(2, "mlp", stories[100:300], config, path, context=128, max_tokens=40_000, progress=False)


@pytest.fixture(scope="module")
def busiest(model: saedsl.InterpretableModel, sae: saedsl.SAE, stories: Sequence[str]) -> list[int]:
    """The features with the largest mean activation on stories the SAE was not trained on."""
    site = saedsl.Site.parse("L2.mlp")
    import mlx.core as mx

    f = sae.encode(mx.array(harvest(model, stories[:20], [site])[site]))
    return [int(i) for i in np.array(mx.argsort(-f.mean(axis=0)))]


def test_the_sae_explains_text_it_was_not_trained_on(
    model: saedsl.InterpretableModel, sae: saedsl.SAE, stories: Sequence[str]
) -> None:
    site = saedsl.Site.parse("L2.mlp")
    measured = evaluate(sae, harvest(model, stories[:30], [site])[site])
    assert measured.explained_variance > 0.8
    assert measured.l0 < 20


def test_a_script_that_ablates_and_amplifies_features_changes_the_story(
    model: saedsl.InterpretableModel, sae: saedsl.SAE, busiest: Sequence[int]
) -> None:
    a, b, c = busiest[:3]
    script = f"""
    prompt start = "Once upon a time"
    at L2.mlp ablate {{f{a}, f{c}}}; amplify f{b} x 6
    generate start 60
    """
    (result,) = model.run(script, saes={"L2.mlp": sae}).prompts
    assert result.baseline.text.startswith(", there was a little girl named Lily.")
    assert result.edited.text != result.baseline.text
    assert len(result.edited.token_ids) == 60
    assert all(f.changed > 0 for f in result.firings)


def test_the_baseline_story_is_what_mlx_lm_generates(model: saedsl.InterpretableModel, sae: saedsl.SAE) -> None:
    from mlx_lm import generate

    (result,) = model.run("at L2.mlp ablate f1\ngenerate 40", prompts="Once upon a time", saes={"L2.mlp": sae}).prompts
    assert result.baseline.text == generate(model.model, model.tokenizer, "Once upon a time", max_tokens=40)
