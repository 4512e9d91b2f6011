"""Nothing is silent: metrics without a value, what a trace ignores, failing edits of the user's own, bad options."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import saedsl
from saedsl import registry
from saedsl.errors import ProgramError, RunError, SaedslWarning
from saedsl.grammar.source import Source
from saedsl.metrics import Measured, valueless
from saedsl.model import InterpretableModel
from saedsl.plan import Plan, PlannedMetric
from saedsl.positions import PositionSet
from saedsl.program import Metric, Term
from saedsl.sae.dictionary import SAE
from saedsl.sae.statistics import Statistics
from saedsl.sites import Site
from saedsl.sources import Sources
from saedsl.tokens import Tokens

PROMPT = "The cat sat on the mat"


@pytest.fixture
def sae(sae_of: Callable[..., SAE]) -> SAE:
    return sae_of(site="L1.mlp", seed=3)


@pytest.fixture(autouse=True)
def _own_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_EDITS", {})


# Metrics --------------------------------------------------------------------------------------------------------------

UNREAD = [
    ("norm(L1.mlp) @ gen[50]", "gen[50]", "generate 52"),
    ("norm(L1.mlp) @ gen[3]", "gen[3]", "generate 5"),
    ("norm(L1.mlp) @ gen[5..9]", "gen[5..9]", "generate 7"),
    ("norm(L1.mlp) @ prompt[1] | gen[3]", "gen[3]", "generate 5"),
    ("ce() @ gen[3]", "gen[3]", "generate 5"),
]


@pytest.mark.parametrize(("metric", "where", "hint"), UNREAD)
def test_a_metric_at_tokens_that_are_never_read_is_a_mistake(
    llama: InterpretableModel, metric: str, where: str, hint: str
) -> None:
    text = f"metric m = {metric}\ngenerate 4"
    with pytest.raises(ProgramError) as e:
        llama.run(text, prompts=PROMPT)
    (found,) = e.value.diagnostics
    assert (found.code, found.hints) == ("S404", (hint,))
    assert found.message == "this is never read: `generate 4` reads gen[0] to gen[2] as input"
    assert text[found.span.start : found.span.end] == where


def test_a_metrics_range_beyond_what_is_read_is_warned_of(llama: InterpretableModel) -> None:
    result = llama.run("metric m = norm(L1.mlp) @ gen[2..9]\ngenerate 4", prompts=PROMPT)
    (warning,) = result.warnings
    assert "warning[S404]: this metric is read up to gen[2] only: `generate 4`" in warning
    exact = llama.run("metric m = norm(L1.mlp) @ gen[0..2]\ngenerate 4", prompts=PROMPT)
    assert exact.warnings == ()


def test_a_metric_that_one_of_two_generates_reaches_is_warned_of_with_the_count(llama: InterpretableModel) -> None:
    result = llama.run("metric m = norm(L1.mlp) @ gen[5]\ngenerate 4\ngenerate 12", prompts=PROMPT)
    values = [p.metrics["m"].baseline for p in result.prompts]
    assert [math.isnan(v) for v in values] == [True, False]
    assert [w for w in result.warnings if "S611" in w] == [
        "warning[S611]: the metric m has no value on 1 of 2 prompts (1 without the edits, 1 with them): "
        "no token that was read is at its positions"
    ]


def test_texts_that_end_early_are_counted_on_each_side() -> None:
    where = PositionSet(3, frozenset(), ((5, 5),))
    kl: Any = Term("kl")
    planned = [PlannedMetric(Metric("m", kl), where, {}), PlannedMetric(Metric("q", ("/", kl, kl)), where, {})]
    nan = math.nan
    measured = [
        {"m": Measured(nan, 1.0), "q": Measured(1.0, 1.0)},
        {"m": Measured(nan, nan), "q": Measured(1.0, nan)},
        {"m": Measured(1.0, 1.0), "q": Measured(1.0, 1.0)},
    ]
    one, two = valueless(planned, measured)
    assert "m has no value on 2 of 3 prompts (2 without the edits, 1 with them)" in one
    assert "divides" not in one
    assert "q has no value on 1 of 3 prompts (0 without the edits, 1 with them)" in two
    assert two.endswith("or it divides by 0")
    assert list(valueless(planned, measured[2:])) == []


# Traces ---------------------------------------------------------------------------------------------------------------


def test_a_trace_warns_of_what_the_check_noticed_and_of_edits_that_did_nothing(
    llama: InterpretableModel, sae_of: Callable[..., SAE]
) -> None:
    other = sae_of(site="L0.mlp", seed=3)
    program = "at g ablate f7 @ gen\nmetric m = kl()\nrun with mode = frozen"
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    with pytest.warns(SaedslWarning) as caught, llama.trace(PROMPT, program, saes={"g": other}) as t:
        pass
    said = [str(w.message) for w in caught]
    assert tuple(said) == t.warnings
    assert [m.partition("]")[0].partition("[")[2] for m in said] == ["S602", "S602", "S610"]
    assert "the metric m is not computed" in said[0]
    assert "mode = frozen has no effect" in said[1]
    assert "never acted" in said[2]
    assert {(w.filename, w.lineno) for w in caught} == {(__file__, line)}


def test_a_trace_of_a_dictionary_of_another_site_warns(llama: InterpretableModel, sae: SAE) -> None:
    given = {"L0.mlp": sae}
    with pytest.warns(SaedslWarning, match="S316"), llama.trace(PROMPT, "at L0.mlp set f7 = 3", saes=given) as t:
        pass
    assert len(t.warnings) == 1


def test_a_trace_that_does_what_it_says_is_silent(llama: InterpretableModel, sae: SAE) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with llama.trace(PROMPT, "at L1.mlp set f7 = 3\nrun", saes={"L1.mlp": sae}) as t:
            pass
    assert t.warnings == ()


# Edits of the user's own ----------------------------------------------------------------------------------------------


def test_an_edit_of_ones_own_that_raises_is_named_with_its_line(llama: InterpretableModel, sae: SAE) -> None:
    @saedsl.edit("boom")
    def boom(f: mx.array) -> mx.array:
        raise KeyError("no such thing")

    program = Source('prompt p = "The cat"\nat L1.mlp ablate f2; apply boom f7\nrun', "steer.saedsl")
    with pytest.raises(RunError) as e:
        llama.run_source(program, saedsl.Given(saes={"L1.mlp": sae.info}), {"L1.mlp": sae})
    assert str(e.value) == (
        "steer.saedsl:2:22: `at L1.mlp apply boom f7`: the edit boom/1 failed (KeyError: 'no such thing')"
    )
    assert isinstance(e.value.__cause__, KeyError)


def test_an_edit_of_ones_own_is_found_in_the_python_file(llama: InterpretableModel, sae: SAE) -> None:
    saedsl.edit("odd")(lambda f: f[..., :0])
    line = inspect.currentframe().f_lineno + 2  # type: ignore[union-attr]
    with pytest.raises(RunError, match=rf"test_warnings\.py:{line}:\d+: `at L1.mlp apply odd f7`: odd/1 was given"):
        llama.run("at L1.mlp apply odd f7", prompts=PROMPT, saes={"L1.mlp": sae})


def test_a_plan_that_applies_an_edit_says_that_it_is_not_portable(llama: InterpretableModel, sae: SAE) -> None:
    saedsl.edit("soften")(lambda f: f * 0.5)
    given: dict[str, Any] = {"prompts": PROMPT, "saes": {"L1.mlp": sae, "L0.mlp": sae.with_config()}}
    plan = llama.plan("at L1.mlp apply soften f7 then ablate f2", **given)
    assert plan.to_json()["portable"] is False
    assert "portable" not in llama.plan("at L1.mlp ablate f7", **given).to_json()
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.portable is False
    assert plan != llama.plan("at L1.mlp apply soften f7 then ablate f3", **given)
    assert plan.program != "a program"


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "3"])
@pytest.mark.parametrize("option", ["top", "batch_size"])
def test_counts_below_one_are_refused_before_anything_runs(llama: InterpretableModel, option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{option} is a whole number, 1 or more, not {value!r}"):
        llama.run("at L0.mlp ablate", prompts=PROMPT, **{option: value})


def test_numpys_counts_are_counts(llama: InterpretableModel) -> None:
    result = llama.run("at L0.mlp ablate", prompts=PROMPT, top=np.int64(1), batch_size=np.int32(1))  # type: ignore[arg-type]
    assert len(result.prompts) == 1


# Means and statistics -------------------------------------------------------------------------------------------------


def test_means_leave_the_template_out_for_dictionaries_that_skip_it(
    llama: InterpretableModel, sae_of: Callable[..., SAE]
) -> None:
    saes = {
        "skips": sae_of(site="L1.mlp", trained_on_bos=False, seed=1),
        "trained": sae_of(site="L1.mlp", trained_on_bos=True, seed=2),
    }
    plan = llama.plan("at skips ablate f1\nat trained ablate f2", prompts=PROMPT, saes=saes)
    sources = Sources(plan, lambda key: pytest.fail("nothing is to be made"))
    tokens = Tokens((1, 5, 6, 7), ("<s>", "a", "b", "c"), ((0, 0), (0, 1), (1, 2), (2, 3)), "abc", 1, (1,))
    site = Site.parse("L1.mlp")

    def counted(kind: str, name: str) -> list[int]:
        return sources._counted(tokens, (kind, site, name, ()))

    assert counted("features", "skips") == counted("error", "skips") == [2, 3]
    assert counted("features", "trained") == counted("error", "trained") == [1, 2, 3]
    assert counted("site", "") == counted("heads", "") == [1, 2, 3]


@pytest.mark.parametrize("edit", ["set f1 = 2 max", "set f1 = 2 std", "ablate f2 when f1 > 2 max"])
def test_the_plans_hash_holds_the_statistics_that_units_are_taken_from(
    llama: InterpretableModel, sae_of: Callable[..., SAE], tmp_path: Path, edit: str
) -> None:
    saved = sae_of(site="L1.mlp", seed=3).save(tmp_path / "sae")

    def plan_id(scale: float, text: str) -> str:
        one = np.full(saved.config.d_sae, scale, np.float32)
        Statistics(one, one, one, one * 0, 10, "", saved.info.sha256, "L1.mlp", "tiny").save(tmp_path / "sae")
        plan = llama.plan(f"at L1.mlp {text}", prompts=PROMPT, saes={"L1.mlp": tmp_path / "sae"})
        return plan.plan_id({})

    assert plan_id(1, edit) == plan_id(1, edit)
    assert plan_id(1, edit) != plan_id(2, edit)
    assert plan_id(1, "set f1 = 2") == plan_id(2, "set f1 = 2")
