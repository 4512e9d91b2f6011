"""SAEConfig: what can run."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from saedsl.errors import TrainingError
from saedsl.training import SAEConfig
from saedsl.training import config as module

RELU = {"sae_type": "relu"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sae_type": "vanilla"},
         "sae_type is 'vanilla'; it can be batchtopk, topk, matryoshka, jumprelu, gated, relu, standard"),
        ({"kind": "diff"}, "kind is 'diff'; it can be sae, transcoder, crosscoder, clt"),
        ({"lr_scheduler": "step"}, "lr_scheduler is 'step'; it can be linear, cosine, constant"),
        ({"input_scale": True}, "input_scale is True; it can be dataset, none"),
        ({"b_dec_init": "median"}, "b_dec_init is 'median'; it can be mean, geometric_median, zeros"),
        ({"curriculum": "hard"}, "curriculum is 'hard'; it can be norm, loss, length"),
        ({"k": 0}, "k is 0, not a positive whole number"),
        ({"batch_size": True}, "batch_size is True, not a positive whole number"),
        ({"num_tokens": 1.5}, "num_tokens is 1.5, not a positive whole number"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0, not a positive whole number"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', not a positive number or 'auto'"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0, not a positive number or 'auto'"),
        ({"learning_rate": float("inf")}, "learning_rate is inf, not a positive number or 'auto'"),
        ({"lr_warm_up_steps": -1}, "lr_warm_up_steps is -1, not a whole number from 0"),
        ({"seed": -1}, "seed is -1, not a whole number from 0"),
        ({"lr_decay_share": 1.0}, "lr_decay_share is 1.0, not from 0 up to and without 1"),
        ({"threshold_momentum": -0.5}, "threshold_momentum is -0.5, not from 0 up to and without 1"),
        ({"validation_share": 1}, "validation_share is 1, not from 0 up to and without 1"),
        ({"resample_until": 0}, "resample_until is 0, not above 0 and at most 1"),
        ({"target_variance": 1.0}, "target_variance is 1.0, not between 0 and 1"),
        ({"adam_betas": (0.9, 1.0)}, "adam_betas is (0.9, 1.0), not two numbers from 0 up to and without 1"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0, not a positive number"),
        ({"decoder_rate": 0}, "decoder_rate is 0, not a positive number"),
        ({"max_grad_norm": None}, "max_grad_norm is None, not a positive number"),
        ({"aux_coefficient": -1}, "aux_coefficient is -1, less than 0 or not a number"),
        ({"sae_type": "matryoshka", "prefixes": (4, 4)}, "prefixes is (4, 4), not ascending positive whole numbers"),
        ({"num_tokens": 100}, "num_tokens is 100, less than one batch of 4096"),
        ({"prefixes": (4, 8)}, "prefixes are a matryoshka's, sae_type is batchtopk"),
        ({"target_l0": 5.0}, "target_l0 has no use for batchtopk, which keeps k features: set k"),
        ({"sparsity_warm_up_steps": 5},
         "sparsity_warm_up_steps has no use for batchtopk, which has no sparsity loss: set k_warm_up_steps"),
        ({**RELU, "target_variance": 0.9}, "target_variance steers k, which relu does not have: set target_l0"),
        ({**RELU, "k_warm_up_steps": 9}, "k_warm_up_steps has no use for relu, which has no k"),
        ({"k_start": 9}, "k_start is k before k_warm_up_steps; set those, of a topk, batchtopk or matryoshka"),
        ({"k_start": 9, "k_warm_up_steps": 5}, "k falls from k_start to k, but k_start is 9 and k is 128"),
        ({"target_variance": 0.9, "k_warm_up_steps": 5},
         "k_warm_up_steps and target_variance both decide k; leave one of them out"),
        ({"l0_coefficient": 1.0}, "l0_coefficient is jumprelu's, sae_type is batchtopk"),
        ({"bandwidth": 1.0}, "bandwidth is jumprelu's, sae_type is batchtopk"),
        ({"use_ghost_grads": True, "aux_k": 4}, "aux_k is the auxiliary loss's, which use_ghost_grads replaces"),
        ({"use_ghost_grads": True, "aux_coefficient": 0}, "use_ghost_grads with aux_coefficient 0 does nothing"),
        ({"skip": True, "kind": "crosscoder"}, "skip is a transcoder's, kind is crosscoder"),
        ({"subtract_b_dec": True, "kind": "clt"},
         "a clt does not read what it writes: b_dec cannot be subtracted before its encoder"),
        ({"kind": "clt", "sae_type": "gated"}, "a clt is not trained as gated"),
        ({"resample_every": 5, "kind": "clt"},
         "resample_every has no use for a clt, whose features read different layers"),
        ({"k": 0, "batch_size": 0},
         "k is 0, not a positive whole number; batch_size is 0, not a positive whole number"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        SAEConfig(**changes)
    found = str(caught.value).removeprefix("this training cannot run: ")
    assert sorted(found.split("; ")) == sorted(message.split("; "))


def test_the_roadmaps_own_sample_is_accepted() -> None:
    config = SAEConfig(
        sae_type="batchtopk", expansion_factor=32, k=128, learning_rate=3e-4, lr_scheduler="cosine",
        sparsity_warm_up_steps=None, use_ghost_grads=True, num_epochs=3, use_wandb=True,
    )  # fmt: skip
    assert config.features(64) == 2048


def test_every_setting_is_documented() -> None:
    tree = ast.parse(inspect.getsource(module))
    (body,) = [n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "SAEConfig"]
    documented = {
        a.target.id
        for a, b in pairwise(body)
        if isinstance(a, ast.AnnAssign) and isinstance(a.target, ast.Name) and isinstance(b, ast.Expr)
    }
    names = {f.name for f in fields(SAEConfig)}
    assert documented == names
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert not {name for name in names if f"`{name}`" not in page}


def test_features_follow_the_expansion_factor_unless_given() -> None:
    assert SAEConfig(expansion_factor=4, k=8).features(64) == 256
    assert SAEConfig(d_sae=100, k=8).features(64) == 100


def test_more_features_kept_than_there_are_is_refused() -> None:
    with pytest.raises(TrainingError) as caught:
        SAEConfig(expansion_factor=1, k=128).features(64)
    assert str(caught.value) == "k is 128, more than the 64 features there are; lower k or raise d_sae"
    assert SAEConfig(sae_type="relu", expansion_factor=1).features(64) == 64


def test_the_prefixes_of_a_matryoshka_end_with_the_dictionary() -> None:
    config = SAEConfig(sae_type="matryoshka", k=2)
    assert config.nested(64) == (4, 8, 16, 32, 64)
    assert SAEConfig().nested(64) == ()
    with pytest.raises(TrainingError, match="prefixes end at 32, the dictionary has 64 features; end there"):
        SAEConfig(sae_type="matryoshka", k=2, prefixes=(8, 32), d_sae=64).features(4)


def test_the_automatic_rate_falls_with_the_number_of_features() -> None:
    assert SAEConfig(learning_rate="auto").rate(2**14) == pytest.approx(2e-4)
    assert SAEConfig(learning_rate="auto").rate(2**12) == pytest.approx(4e-4)
    assert SAEConfig().rate(7) == 3e-4


def test_unknown_settings_are_refused_with_a_suggestion() -> None:
    with pytest.raises(TrainingError, match=r"^\[sae\] has no leraning_rate; did you mean learning_rate\?$"):
        SAEConfig.from_mapping({"leraning_rate": 1}, "[sae]")
    assert SAEConfig.from_mapping({"sae_type": "matryoshka", "prefixes": [2, 4]}).prefixes == (2, 4)


def test_biases_learn_faster_as_activations_are_longer() -> None:
    assert SAEConfig().rate_factors(100)["b_enc"] == pytest.approx(4.0)
    assert SAEConfig().rate_factors(4)["b_enc"] == 1.0
    assert SAEConfig(bias_rate=2.0, decoder_rate=1.0).rate_factors(100) == {
        "W_dec": 1.0, "b_enc": 2.0, "b_gate": 2.0, "b_mag": 2.0,
    }  # fmt: skip
