"""Text -> plan -> text -> plan is the identity, for every construct; plans as JSON; plans that add up."""

# ruff: noqa: E501 (a row of a table stays one line)

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from saedsl import registry
from saedsl.analyse import Given, analyse
from saedsl.errors import ModelError, ResultError
from saedsl.grammar.source import Source
from saedsl.plan import Plan
from saedsl.plandiff import differences
from saedsl.planjson import plan_json

T = 'sae t = "demo:L2.mlp.transcoder"\n'
G = 'sae g = "demo:L2.mlp"\n'
IO = 'prompts io = "io.jsonl"\n'
AB = 'prompt a = "Mary stone"\nprompt b = "John stone John"\n'
D = 'dir d = "dirs.safetensors".up\n'
ROWS = [
    {"prompt": "Mary stone", "corrupt": "John stone", "answer": " John", "positions": {"S2": 1, "END": -1}},
    {"prompt": "little Mary", "corrupt": "little John", "answer": " stone", "positions": {"S2": 2, "END": -1}},
]

PROGRAMS = [
    "",
    "at L2.mlp ablate f1",
    "at L2.mlp ablate f1 @ prompt[2..-1] except prompt[3] | bos",
    "at L2.mlp ablate {f1, f7..9, f4}; amplify f2 x -1.5; set f3 = 4; clamp f5 to ..5; add 0.25 f6; project out {f10, f11}",
    "at L2.mlp ablate all",
    "at L2.mlp @ prompt ablate f1 @ last",
    "at L0..3.mlp, embed ablate @ prompt[0]",
    "at L*.attn.z ablate {h1, h3} @ prompt[-1]",
    "at L1.attn.z.h2 freeze",
    "at L1.mlp.act set n17 = 2; amplify n3..9 x0",
    "at L1.mlp keep only {f1, f2} @ prompt[-1]",
    "at L1.attn.z keep only h1",
    "at L2.mlp drop error",
    "at L2.mlp freeze f1; freeze error",
    "at L2.mlp set f1 = 2 max; add 1 std f2; add 0.4 norm f3; clamp f4 to 0.5..1 max",
    "at L2.mlp ablate f1 when f2 > 0.5",
    "at L2.mlp when f2 ablate f1 when not (f3 >= 1 or L1.mlp.f4 < 2 max) and f5 != 0",
    "at L2.mlp set f5 = 4 then amplify f5 x2",
    "at L2.mlp ablate f1 then set f1 = 2; ablate f2 then amplify f2 x2 then clamp f2 to 0..1; ablate f3",
    "at L2.mlp @ prompt[-1] ablate f1 @ last then set f1 = 2",
    "at L2.mlp ablate {f1, f2} then set f1 = 3\nat L2.mlp ablate f9 @ prompt then set f9 = 1 @ prompt",
    "at L3.mlp ablate then add 1 f2 then amplify x2",
    G + "at g ablate f1\nrecord g, L1.resid\nrecord g.f3 @ prompt",
    T + "at t ablate all\nrecord t.f3",
    T + G + "at L2.mlp ablate {t.f1, g.f2}; set g.f7 = 1\nat g ablate error",
    T + G + "at g ablate all\nat t set all = 1 @ prompt[0]",
    D + "at L2.resid ablate dir d @ prompt[1..-1]; add 2 dir d @ prompt[0]\nat L3.resid project out dir d",
    'prompt a = "Mary"\nprompt b = "John stone"\nat L2.mlp patch f3 @ prompt[-1] from b at prompt[-1]\nrun a',
    'prompt a = "Mary"\nrun\nprompt b = "John"\nat L2.mlp ablate f1\nrun\nrun a as one\nreset\ngenerate b 3 as two',
    'at L2.mlp ablate f1 to mean of "ref.txt"; ablate f2 to resample of "ref.txt" @ prompt[1]\nrun with seed = 3',
    'at L2.attn.z.h1 ablate to mean of "ref.txt"\nat L3.mlp keep only f1 else mean of "ref.txt"',
    IO + "at L2.mlp patch from io.corrupt; ablate f1 @ io.S2 | io.END\nrun io",
    IO + "at L1.resid patch @ prompt[1] from io.corrupt at io.S2\nrun io, io.corrupt with mode = frozen",
    IO + "metric m = logit(io.answer) - 2 * (prob(\" stone\") + 1) / 4 @ io.END\nrun io",
    'metric d = logit(" Mary") - (logit(" John") - kl())\nmetric c = ce() @ prompt\nmetric a = act(L2.mlp.f3) + norm(L1.resid)\nrun',
    "at L2.mlp amplify f7 x strength\nsweep strength in [0, 0.5, 2]\nrun",
    "sweep s in 0..1 by 0.5\nsweep v in {f1, f2}\nsweep layer in L0..1\nat layer.mlp ablate v @ prompt[-1]\nat L3.mlp amplify f7 x s\nrun as all_of",
    "sweep p in prompt[0..2]\nat L2.mlp ablate @ p\nrecord L2.mlp @ p\nrun",
    "at L2.mlp ablate f1\ngenerate 5 with temp = 0.8, top_p = 0.9, seed = 1, mode = frozen",
    "at L2.mlp ablate f1 @ gen[1..3] | last\ngenerate 6\nrun with mode = direct",
    "at L1.mlp, L2.mlp keep only L1.mlp.f3 @ prompt[-1]",
    "at L2.mlp keep only {f1, f2} then amplify f1 x2",
    "at L3.attn.z set {h1, h2} = 1 @ prompt[0]; ablate h1 @ prompt[1..-1] then amplify n3 x2",
    "at L1.mlp, L2.mlp ablate L1.mlp.f1 then set L2.mlp.f2 = 1; set L1.mlp.f5 = 1",
    'include "other.saedsl"\nat L3.mlp ablate f9',
    'prompt a = "Mary \\"stone\\" \\n \\u00e9 #1"\nrun a',
    'prompt a = "Mary stone Mary"\nat L2.mlp ablate f2 @ every " Mary" | span " stone" except "stone"\nrun a',
    T + G + "at L2.mlp ablate {t.f1, g.f4} @ prompt[1]; set {t.f1, g.f2} = 2 @ prompt[2]",
    T + "at t ablate f5 when f6\nat L2.mlp add 1 t.f7 when not (t.f8 > 2)",
    'at L1.attn.pattern ablate h2 @ prompt[-1]',
    'at L1.attn.q, L1.attn.k amplify h0 x2',
    "at L2.mlp apply quarter_of_it(0.5, 2) f1..3",
    'at module "model.layers.3.self_attn.o_proj" in ablate @ prompt[-1]',
    "at logits set n5 = -3 @ last\nat final amplify x0.5\nrecord logits @ prompt[-1]",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs")
    (path / "io.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (path / "io2.jsonl").write_text("\n".join(map(json.dumps, ROWS[::-1])))
    (path / "ref.txt").write_text("Mary stone little John\nJohn little stone Mary\nstone Mary John little\n")
    (path / "other.saedsl").write_text("let k = 2\nat L2.mlp amplify f1 x k\nrecord L2.mlp @ last\n")
    rng = np.random.default_rng(0)
    vectors = {name: rng.standard_normal(128).astype(np.float32) for name in ("up", "down")}
    save_file(vectors, path / "dirs.safetensors")
    return path


@pytest.fixture(autouse=True, scope="module")
def quarter_of_it() -> Iterator[None]:
    """An edit that the programs below apply; other modules' tests do not see it."""

    @registry.edit("quarter_of_it", version=2)
    def quarter(f: Any, *args: float) -> Any:
        return f

    yield
    del registry._EDITS["quarter_of_it/2"]


def planned(text: str, base: Path) -> Plan:
    plan, report = analyse(Source(text), Given(base=base))
    assert plan is not None
    assert not report.errors, "\n".join(d.render() for d in report.errors) + "\n" + text
    return plan


@pytest.mark.parametrize("text", PROGRAMS)
def test_text_to_plan_to_text_to_plan_is_the_identity(base: Path, text: str) -> None:
    plan = planned(text, base)
    again = planned(plan.to_dsl(), base)
    assert again.program_id == plan.program_id
    assert again.plan_id({}) == plan.plan_id({})
    assert bare(again.to_dsl()) == bare(plan.to_dsl())


def bare(text: str) -> str:
    """Without the comments that say the values of a sweep."""
    return re.sub(r"  # .*", "", text)


@pytest.mark.parametrize("text", PROGRAMS)
def test_a_plan_comes_back_from_json_unchanged(base: Path, text: str) -> None:
    plan = planned(text, base)
    written = json.dumps(plan.to_json(), allow_nan=False)
    again = Plan.from_json(json.loads(written))
    assert again == plan
    assert again.program_id == plan.program_id
    assert again.plan_id({}) == plan.plan_id({}) or plan.with_statistics  # whose file is found by its path
    assert json.dumps(again.to_json()) == written
    assert again.to_dsl() == plan.to_dsl()
    assert str(base) not in written


# Plans that add up -------------------------------------------------------------------------------------------------

SUMS = [
    ("at L2.mlp ablate f1", "at L2.mlp set f1 = 2"),
    (AB + "at L2.mlp ablate f1\nrun a", AB + "record L1.mlp\nrun b"),
    ('prompt a = "Mary"\nrun a as one', 'prompt a = "John"\nat L2.mlp ablate f1\nrun a as one'),
    (G + "at g ablate f1", 'sae g = "demo:L1.mlp"\nat g ablate f1 when g.f2\nrecord g\nmetric m = act(g.f1)\nrun'),
    (IO + "at L1.mlp ablate @ io.S2\nrun io", 'prompts io = "io2.jsonl"\nat L1.mlp patch @ io.S2 | prompt[0] from io.corrupt at io.S2\nmetric m = logit(io.answer)\nrun io, io.corrupt'),
    (D + "at L2.resid ablate dir d", 'dir d = "dirs.safetensors".down\nat L2.resid project out dir d'),
    ('at L1.mlp ablate to mean of "ref.txt"\nrun', 'at L1.mlp ablate to resample of "ref.txt" @ prompt[0]\nrun with seed = 2'),
    ("at L2.mlp amplify f1 x s\nsweep s in [1, 2]\nrun", "at L2.mlp amplify f1 x s\nsweep s in [3, 4]\ngenerate 3"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SUMS)
def test_a_sum_has_the_steps_of_both_and_a_text(base: Path, a: str, b: str) -> None:
    one, two = planned(a, base), planned(b, base)
    both = one + two
    assert both.steps[: len(one.steps)] == one.steps
    assert len(both.steps) == len(one.steps) + len(two.steps)
    for ours, theirs in zip(both.steps[len(one.steps) :], two.steps, strict=True):
        assert [p.tokens for p in ours.prompts] == [p.tokens for p in theirs.prompts]
        assert [p.places for p in ours.prompts] == [p.places for p in theirs.prompts]
        assert [p.patches for p in ours.prompts] == [p.patches for p in theirs.prompts]
        assert len(ours.step.edits) == len(theirs.step.edits)
    again = planned(both.to_dsl(), base)
    assert again.program_id == both.program_id
    assert Plan.from_json(json.loads(json.dumps(both.to_json()))).to_json() == both.to_json()


def test_adding_is_associative_as_far_as_meaning_goes(base: Path) -> None:
    a, b, c = (planned(f'prompt p = "{name}"\nat L2.mlp ablate f1\nrun p', base) for name in ("Mary", "John", "stone"))
    texts = [[p.tokens.text for s in x.steps for p in s.prompts] for x in ((a + b) + c, a + (b + c))]
    assert texts == [["Mary", "John", "stone"]] * 2


def test_a_name_that_means_two_things_is_renamed_everywhere(base: Path) -> None:
    a, b = SUMS[4]
    both = planned(a, base) + planned(b, base)
    assert [p.name for s in both.steps for p in s.prompts] == [
        "io[0]", "io[1]", "io2[0]", "io2[1]", "io2.corrupt[0]", "io2.corrupt[1]",
    ]  # fmt: skip
    assert "patch @ io2.S2 | prompt[0] from io2.corrupt at io2.S2" in both.to_dsl()
    assert "logit(io2.answer)" in both.to_dsl()


def test_plans_of_two_models_do_not_add_up(base: Path) -> None:
    one = planned("at L2.mlp ablate f1", base)
    other = replace(one, program=replace(one.program, model=replace(one.program.model, name="other")))
    with pytest.raises(ModelError, match="plans of two models do not add up: demo and other"):
        one + other
    with pytest.raises(TypeError):
        one + 1  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is": "Result"}, "this is not the JSON of a plan"),
        ({"language": 2}, "this plan is of version 2 of the language, not 1"),
        ({"program_id": "0"}, "this plan is damaged: it is not the program that its program_id is of"),
        ({"steps": 3}, "this plan is damaged"),
        ({"program": {"is": "Nothing"}}, "this plan is damaged"),
        ({"program": {"is": "Program"}}, "this plan is damaged"),
        ({"extra": 3}, "this plan is damaged"),
    ],
)
def test_what_is_no_plan_is_refused(base: Path, change: dict[str, object], message: str) -> None:
    data = json.loads(json.dumps(planned("at L2.mlp ablate f1 @ last", base).to_json()))
    with pytest.raises(ResultError, match=message):
        Plan.from_json({**data, **change})


@pytest.mark.parametrize("text", ["last ablate", "", "L3", "last; ablate", "last\\nrun"])
def test_positions_of_a_plan_are_positions(base: Path, text: str) -> None:
    data = json.dumps(planned("at L2.mlp ablate f1 @ last", base).to_json())
    with pytest.raises(ResultError, match="are no positions"):
        Plan.from_json(json.loads(data.replace('"last"', f'"{text}"')))


# Any program -------------------------------------------------------------------------------------------------------

numbers = st.sampled_from(["0", "1", "-2.5", "0.1", "1e-9", "12345678"])
features = st.lists(st.integers(0, 60), min_size=1, max_size=4, unique=True).map(
    lambda ids: "{" + ", ".join(f"f{i}" for i in ids) + "}"
)
places = st.sampled_from(
    ["", " @ last", " @ prompt[-1]", " @ prompt[1..3] | gen[0..4]", " @ all except prompt[2]", " @ bos | prompt[1]"]
)
conditions = st.sampled_from(["", " when f70", " when f71 > 0.5 and not f72 <= 1 max", " when f70 or (f71 and f72)"])
EDITS = [
    "ablate {t}", "set {t} = {v}", "set {t} = {v} max", "amplify {t} x {v}", "add {v} {t}", "add {v} norm {t}",
    "clamp {t} to ..{v}", "project out {t}", "freeze {t}", "keep only {t}", 'ablate {t} to mean of "ref.txt"',
]  # fmt: skip
edits = st.builds(
    lambda form, t, v, at, when: form.format(t=t, v=v) + at + when,
    st.sampled_from(EDITS), features, numbers, places, conditions,
)  # fmt: skip
chained = st.lists(edits, min_size=1, max_size=3).map(" then ".join)
statements = st.builds(
    lambda site, at, chain: f"at {site}{at} {chain}",
    st.sampled_from(["L0.mlp", "L1.mlp", "L2.mlp", "L3.resid"]),
    places,
    chained,
)
programs = st.builds(
    lambda body, sweep, run: "\n".join([*body, *sweep, run]),
    st.lists(statements, max_size=4),
    st.sampled_from([[], ["at L3.mlp add s f900", "sweep s in [1, 2]"]]),
    st.sampled_from(["run", "generate 7", "run with mode = frozen, seed = 4"]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(programs)
def test_any_program_without_mistakes_comes_back(base: Path, text: str) -> None:
    plan, report = analyse(Source(text), Given(base=base))
    if plan is None or report.errors:
        return  # conflicts: random edits meet
    again = planned(plan.to_dsl(), base)
    assert again.program_id == plan.program_id
    assert plan_json(Plan.from_json(json.loads(json.dumps(plan_json(plan))))) == plan_json(plan)
    assert differences(plan, again) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "at L2.mlp ablate n1 @ gen; ablate n2\nrecord L2.mlp @ gen\nmetric m = kl() @ gen\nrun\ngenerate 7",
            "at L2.mlp ablate n2; at L2.mlp ablate n1 @ gen; record L2.mlp @ gen; metric m = kl() @ gen; run; generate 7",
        ),
        (
            "at L2.mlp ablate n1 @ gen[3]; ablate n2\ngenerate 7\ngenerate 4\nrun",
            "at L2.mlp ablate n2; at L2.mlp ablate n1 @ gen[3]; generate 7; reset; at L2.mlp ablate n2; generate 4; run",
        ),
        (
            "sweep s in [2, 3]\nat L2.mlp ablate n1 @ gen; amplify n2 x s\nmetric m = kl() @ gen\nrun\ngenerate 7",
            "at L2.mlp amplify n2 x2; run  # s = 2; reset; at L2.mlp amplify n2 x3; run  # s = 3; reset; "
            "at L2.mlp ablate n1 @ gen; at L2.mlp amplify n2 x2; metric m = kl() @ gen; generate 7  # s = 2; reset; "
            "at L2.mlp ablate n1 @ gen; at L2.mlp amplify n2 x3; metric m = kl() @ gen; generate 7  # s = 3",
        ),
        (
            "at L2.mlp set n1 = 2 @ gen then amplify n1 x2 @ prompt[1]\nrun\ngenerate 3",
            "at L2.mlp set n1 = 2 @ gen then amplify n1 x2 @ prompt[1]; run; generate 3",
        ),
    ],
)
def test_a_step_says_what_it_can_read(base: Path, text: str, said: str) -> None:
    plan = planned('prompt p = "The"\n' + text, base)
    assert "; ".join(plan.to_dsl().splitlines()[2:]) == said
    assert planned(plan.to_dsl(), base).program_id == plan.program_id


def test_a_file_that_only_a_metric_names_is_declared(base: Path) -> None:
    (base / "io.jsonl").write_text('{"prompt": "The", "answer": " Paris"}\n')
    text = 'prompt p = "The"\nprompts io = "io.jsonl"\nmetric m = logit(io.answer)\nrun p'
    plan = planned(text, base)
    assert plan.to_dsl() == f'model "demo"\n{text}\n'
