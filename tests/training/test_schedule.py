"""What changes from step to step."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from saedsl.training import SAEConfig
from saedsl.training.schedule import Steered, difficulty_pool, k_at, rate_at, sparsity_at


def test_the_rate_warms_up_stays_and_decays() -> None:
    config = SAEConfig(lr_warm_up_steps=10, lr_scheduler="linear")
    rates = [rate_at(step, 100, config, 1.0) for step in range(1, 101)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert set(rates[10:80]) == {1.0}
    np.testing.assert_allclose(rates[80:], np.arange(20, 0, -1) / 21)
    cosine = [rate_at(step, 100, replace(config, lr_scheduler="cosine"), 1.0) for step in range(80, 101)]
    assert all(a > b > 0 for a, b in pairwise(cosine))
    assert rate_at(100, 100, replace(config, lr_scheduler="constant"), 1.0) == 1.0
    assert rate_at(1, 3, config, 1.0) == 1.0


def test_the_sparsity_loss_grows_over_its_warm_up_by_default_over_the_whole_run() -> None:
    relu = SAEConfig(sae_type="relu")
    assert [sparsity_at(s, 4, relu) for s in range(1, 5)] == [0.25, 0.5, 0.75, 1.0]
    assert [sparsity_at(s, 4, replace(relu, sparsity_warm_up_steps=2)) for s in range(1, 5)] == [0.5, 1.0, 1.0, 1.0]
    assert sparsity_at(1, 4, replace(relu, sparsity_warm_up_steps=0)) == 1.0
    assert sparsity_at(10, 100, replace(relu, target_l0=5.0)) == 1.0


def test_k_falls_to_its_value() -> None:
    config = SAEConfig(k=10, k_warm_up_steps=3)
    assert [k_at(s, config, 1000) for s in range(1, 6)] == [40, 30, 20, 10, 10]
    assert k_at(1, config, 16) == 16
    assert k_at(1, replace(config, k_start=20), 1000) == 20
    assert k_at(1, SAEConfig(k=10), 1000) == 10


def test_a_curriculum_opens_until_all_tokens_are_learnt_from() -> None:
    config = SAEConfig(curriculum="norm", curriculum_share=0.5, curriculum_pool=4)
    assert [difficulty_pool(s, 16, config) for s in range(1, 17)] == [4, 4, 3, 3, 2, 2, *[1] * 10]
    assert difficulty_pool(1, 16, SAEConfig()) == 1


@pytest.mark.parametrize("elasticity", [-0.5, -1.0, -2.0])
@pytest.mark.parametrize("delay", [1, 50, 200])
def test_steering_reaches_its_target_however_slowly_the_dictionary_follows(elasticity: float, delay: int) -> None:
    steered, l0, steps = Steered(5.0), 300.0, 4000
    for _ in range(steps):
        aim = 100.0 * steered.now**elasticity
        l0 *= (aim / l0) ** (1 / delay)
        steered = steered.seen(l0, 20.0, steps, (1e-3, 1e5))
    assert l0 == pytest.approx(20.0, rel=0.05)


def test_steering_stays_within_its_limits() -> None:
    steered = Steered(5.0)
    for _ in range(1000):
        steered = steered.seen(100.0, 1.0, 100, (1.0, 8.0))
    assert steered.value == 8.0
