"""Rows in few forwards: under a budget, padded, and each as if it ran alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import saedsl
from saedsl.batching import CPU_BUDGET, Budget, budget, groups, padded
from saedsl.errors import RunError
from saedsl.model import InterpretableModel
from saedsl.results import Result
from saedsl.sae.dictionary import SAE

PROGRAM = """
prompt a = " the cat sat on a mat"
prompt b = " a dog"
prompt c = "The cat sat on Paris Rome a"
metric m = logprob(" Paris Rome") - ce()
metric k = kl() + act(L0.mlp.f3) + norm(L1.resid) @ prompt[-2..-1]
at L0.mlp amplify {f1, f3} x strength @ p; clamp f5 to 0..0.1 when f3 > 0.1
at L0.attn.z freeze h1
at L1.resid keep only f1..20 @ last
sweep strength in [0, 2]
sweep p in prompt[1..2]
record L0.mlp, L0.mlp.f3 @ prompt[1..2]
"""


def test_groups_hold_similar_lengths_and_fit() -> None:
    lengths = [9, 2, 5, 3, 8, 2]
    found = list(groups(lengths, Budget(1, 10)))
    assert sorted(i for g in found for i in g) == list(range(6))
    assert found == [[1, 5, 3], [2], [4], [0]]
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= 10 for g in found)
    assert [len(g) for g in groups([3] * 5, Budget(1, 1, rows=2))] == [2, 2, 1]
    assert list(groups([], Budget(1, 1))) == []


def test_shadow_rows_are_counted_once_for_all_that_share_them() -> None:
    assert list(groups([2] * 4, Budget(1, 10), [0, 0, 0, 0])) == [[0, 1, 2, 3]]
    assert list(groups([2] * 4, Budget(1, 10), [0, 1, 2, 3])) == [[0, 1], [2, 3]]


def test_rows_are_padded_on_the_right() -> None:
    assert padded([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, 0, 0]]


def test_a_budget_grows_with_what_edits_hold(llama: InterpretableModel, sae_of: Callable[..., SAE]) -> None:
    saes = {"L0.mlp": sae_of(seed=1)}
    few, many = (
        llama.plan(f"at L0.mlp ablate {t}", prompts="a", saes=saes).program for t in ("f1", "all")
    )  # fmt: skip
    a, b = (budget(llama.info, p.steps, p.dictionaries) for p in (few, many))
    assert b.bytes_per_token - a.bytes_per_token == 4 * 4 * 39
    assert mx.default_device() != mx.cpu or a.most == CPU_BUDGET
    assert budget(llama.info, few.steps, few.dictionaries, 1).fits(2, 1) is False


def close(a: Result, b: Result) -> None:
    for p, q in zip(a.prompts, b.prompts, strict=True):
        assert (p.prompt, p.values, p.firings) == (q.prompt, q.values, q.firings)
        assert p.metrics.keys() == q.metrics.keys()
        for x, y in ((p.baseline, q.baseline), (p.edited, q.edited)):
            np.testing.assert_allclose(x.logits, y.logits, rtol=1e-5, atol=1e-5)
            assert x.token_ids == y.token_ids
            assert x.activations.keys() == y.activations.keys()
            for label in x.activations:
                np.testing.assert_allclose(x.activations[label], y.activations[label], rtol=1e-5, atol=1e-5)
        for name, m in p.metrics.items():
            assert (m.baseline, m.edited) == pytest.approx((q.metrics[name].baseline, q.metrics[name].edited), abs=1e-4)


@pytest.mark.parametrize("mode", ["iterative", "frozen"])
@pytest.mark.parametrize("command", ["run", "generate a 4", "generate b 4"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_together_are_the_rows_alone(
    family: str, command: str, mode: str, model_of: Callable[..., InterpretableModel], sae_of: Callable[..., SAE]
) -> None:
    lm = model_of(family)
    saes = {"L0.mlp": sae_of(seed=1), "L1.resid": sae_of(seed=2)}
    program = f"{PROGRAM}\n{command} with mode = {mode}"
    together = lm.run(program, saes=saes)
    assert len(together.prompts) == (12 if command == "run" else 4)
    close(together, lm.run(program, saes=saes, batch_size=1))
    close(together, lm.run(program, saes=saes, batch_size=5))


def test_what_is_run_without_edits_is_run_once(llama: InterpretableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    call = type(llama.model).__call__

    def counting(self: Any, tokens: mx.array, *args: Any, **kwargs: Any) -> Any:
        rows.append(tokens.shape[0])
        return call(self, tokens, *args, **kwargs)

    monkeypatch.setattr(type(llama.model), "__call__", counting)
    sweep = "at L0.mlp amplify x s\nsweep s in [0, 1, 2]\nrun"
    llama.run(sweep, prompts=[" a cat", " the dog sat"])
    assert rows == [2, 6]
    rows.clear()
    llama.run(f"{sweep} with mode = frozen", prompts=[" a cat", " the dog sat"])
    assert rows == [2 + 6]


@saedsl.edit("test_batching_flat")
def flat(f: mx.array) -> mx.array:
    return f[..., 0]


@saedsl.edit("test_batching_nan")
def nan(f: mx.array) -> mx.array:
    return f / 0


def test_what_an_edit_of_the_users_own_gives_is_checked(llama: InterpretableModel, sae_of: Callable[..., SAE]) -> None:
    saes = {"L0.mlp": sae_of(seed=1)}
    said = r"`at L0.mlp apply test_batching_flat f1..3`: .* was given \[1, 2, 3\] and gave back \[1, 2\]"
    with pytest.raises(RunError, match=said):
        llama.run("at L0.mlp apply test_batching_flat f1..3", prompts=" a", saes=saes)
    with pytest.raises(RunError, match=r"`at L0.mlp apply test_batching_nan f1..3`: .* gave NaN or inf"):
        llama.run("at L0.mlp apply test_batching_nan f1..3", prompts=" a", saes=saes)


def test_conditions_are_counted_and_one_that_never_held_is_warned_of(
    llama: InterpretableModel, sae_of: Callable[..., SAE]
) -> None:
    saes = {"L0.mlp": sae_of(seed=1)}
    result = llama.run(
        "at L0.mlp set f1 = 2 when f2 > 1000\nat L0.mlp set f4 = 2 when not f2 > 1000", prompts=" a cat", saes=saes
    )
    by_feature = {f.feature: f for f in result.prompts[0].firings}
    assert (by_feature["f1"].positions, by_feature["f1"].held, by_feature["f1"].changed) == (3, 0, 0)
    assert (by_feature["f4"].positions, by_feature["f4"].held, by_feature["f4"].changed) == (3, 3, 3)
    assert result.warnings == (
        "warning[S610]: `at L0.mlp set f1 = 2 when L0.mlp.f2 > 1000` never acted: "
        "its condition held at none of 3 positions",
    )
