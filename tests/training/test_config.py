"""SAEConfig: what can run."""

from __future__ import annotations

from typing import Any

import pytest

from saedsl.errors import TrainingError
from saedsl.training import SAEConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sae_type": "vanilla"}, "sae_type is 'vanilla'; it can be topk, batchtopk"),
        ({"lr_scheduler": "step"}, "lr_scheduler is 'step'; it can be linear, cosine, constant"),
        ({"input_scale": True}, "input_scale is True; it can be dataset, none"),
        ({"k": 0}, "k is 0, not a positive whole number"),
        ({"batch_size": True}, "batch_size is True, not a positive whole number"),
        ({"num_tokens": 1.5}, "num_tokens is 1.5, not a positive whole number"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', not a positive number or 'auto'"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0, not a positive number or 'auto'"),
        ({"lr_warm_up_steps": -1}, "lr_warm_up_steps is -1, less than 0"),
        ({"lr_decay_share": 1.0}, "lr_decay_share is 1.0, not from 0 up to and without 1"),
        ({"threshold_momentum": -0.5}, "threshold_momentum is -0.5, not from 0 up to and without 1"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0, not positive"),
        ({"aux_coefficient": -1}, "aux_coefficient is -1, less than 0"),
        ({"num_tokens": 100}, "num_tokens is 100, less than one batch of 4096"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        SAEConfig(**changes)
    assert str(caught.value) == f"this training cannot run: {message}"


def test_features_follow_the_expansion_factor_unless_given() -> None:
    assert SAEConfig(expansion_factor=4, k=8).features(64) == 256
    assert SAEConfig(d_sae=100, k=8).features(64) == 100


def test_more_features_kept_than_there_are_is_refused() -> None:
    with pytest.raises(TrainingError) as caught:
        SAEConfig(expansion_factor=1, k=128).features(64)
    assert str(caught.value) == "k is 128, more than the 64 features there are; lower k or raise d_sae"


def test_the_automatic_rate_falls_with_the_number_of_features() -> None:
    assert SAEConfig(learning_rate="auto").rate(2**14) == pytest.approx(2e-4)
    assert SAEConfig(learning_rate="auto").rate(2**12) == pytest.approx(4e-4)
    assert SAEConfig().rate(7) == 3e-4
