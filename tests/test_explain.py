"""What `explain` says: modules, formulas, tokens, notes; and its count of rows and forwards, against real runs."""

# ruff: noqa: E501 (a row of a table stays one line)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from saedsl.analyse import Given, analyse
from saedsl.cli import cli
from saedsl.explain import explain
from saedsl.formulas import formula
from saedsl.grammar.source import Source
from saedsl.model import InterpretableModel
from saedsl.plan import Plan
from saedsl.trace import Hooks

PQ = 'prompt p = "Mary stone"\nprompt q = "John stone John"\n'


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs")
    (path / "ref.txt").write_text("Mary stone little\nJohn stone little Mary\n")
    return path


def planned(text: str, base: Path) -> Plan:
    plan, report = analyse(Source(text), Given(base=base))
    assert plan is not None
    assert not report.errors
    return plan


FORMULAS = [
    ("L2.mlp ablate f1", "x' = x + s(x) (f' - f) W_dec[f1],  f' = 0"),
    ("L2.mlp amplify {f1, f3} x -1.5", "x' = x + s(x) (f' - f) W_dec[{f1, f3}],  f' = -1.5 f"),
    ("L2.mlp set f1 = 2", "x' = x + s(x) (f' - f) W_dec[f1],  f' = 2"),
    ("L2.mlp set f1 = 2 max", "x' = x + s(x) (f' - f) W_dec[f1],  f' = 2 max(f)"),
    ("L2.mlp add 0.5 std f1", "x' = x + s(x) (f' - f) W_dec[f1],  f' = f + 0.5 std(f)"),
    ("L2.mlp add 0.4 norm f1", "x' = x + 0.4 ||x|| W_dec[i] / ||W_dec[i]||,  i in f1"),
    ("L2.mlp clamp f1 to 0..3 max", "x' = x + s(x) (f' - f) W_dec[f1],  f' = clip(f, 0 max(f), 3 max(f))"),
    ("L2.mlp clamp f1 to ..3", "x' = x + s(x) (f' - f) W_dec[f1],  f' = clip(f, -inf, 3)"),
    ("L2.mlp freeze f1", "x' = x + s(x) (f' - f) W_dec[f1],  f' = f of the unedited run"),
    ("L2.mlp project out f1", "x' = x - Q Q^T x,  Q an orthonormal basis of W_dec[f1]"),
    ("L2.mlp keep only f1", "x' = x + s(x) (f' - f) W_dec[others],  f' = 0 for every feature but f1"),
    ('L2.mlp ablate f1 to mean of "ref.txt"', "x' = x + s(x) (f' - f) W_dec[f1],  f' = mean of \"ref.txt\""),
    ("L2.mlp ablate f1 when f2 > 3", "x' = x + s(x) (f' - f) W_dec[f1],  f' = 0,  where L2.mlp.f2 > 3"),
    ("L2.mlp ablate", "x' = 0"),
    ("L2.mlp amplify x2", "x' = 2 x"),
    ("L2.mlp ablate error", "x' = x + e' - e,  e = x - sae(x),  e' = 0"),
    ("L2.attn.z ablate h2", "x' = 0 on h2"),
    ("L2.attn.z keep only h2", "x' = 0 for every head but h2"),
    ("L2.mlp.act set n3..5 = 1", "x' = 1 on n3..5"),
    ("L2.mlp patch @ prompt[1] from q at prompt[2]", "x' = x of q"),
]


@pytest.mark.parametrize(("edit", "expected"), FORMULAS)
def test_formulas_have_their_numbers(base: Path, edit: str, expected: str) -> None:
    (e,) = planned(f"{PQ}at {edit}\nrun p", base).steps[0].step.edits
    assert formula(e) == expected


def test_positions_are_tokens(base: Path) -> None:
    text = f"{PQ}at L2.mlp patch f1 @ prompt[-1] from q at prompt[1]; ablate f2; ablate f3 @ last\nat L2.mlp set f2 = 1 @ bos\ngenerate p 5"
    (step,) = explain(planned(text, base))
    found = {e.text: (e.at, e.notes) for e in step.edits}
    assert found["at L2.mlp patch f1 @ prompt[-1] from q at prompt[1]"] == (
        (('"Mary stone"', "2:' stone' <- 1:'John'"),),
        (),
    )
    skips = ("`all` skips BOS; @ everywhere includes them",)
    assert found["at L2.mlp ablate f2"] == ((('"Mary stone"', "1:'Mary' 2:' stone' and every generated token"),), skips)
    assert found["at L2.mlp ablate f3 @ last"][0][0][1] == "2:' stone' and every generated token"
    assert found["at L2.mlp set f2 = 1 @ bos"] == ((('"Mary stone"', "0:'<s>'"),), ())


def test_hooks_stages_and_options_are_said(base: Path) -> None:
    edits = "at L1.resid_mid ablate @ prompt[0]\nat L2.mlp ablate f1 then set f1 = 2\n"
    (step,) = explain(planned(f"{edits}generate 3 with temp = 0.5, seed = 3, mode = frozen", base))
    assert step.options == ("mode frozen", "seed 3", "temp 0.5, top_p 1")
    by_text = {e.text: e for e in step.edits}
    mid = by_text["at L1.resid_mid ablate @ prompt[0]"]
    assert (mid.hook, mid.notes) == (
        "model.layers.1.post_attention_layernorm in",
        ("as a delta of attention's contribution",),
    )
    assert by_text["at L2.mlp set f1 = 2"].notes[0] == "reads what stage 0 left at this site"


COUNTS = [
    (PQ + "at L2.mlp ablate f1\nrun p, q", 4),
    (PQ + "at L2.mlp ablate f1\nrun p, q with mode = frozen", 4),
    (PQ + "at L2.mlp amplify f1 x s\nsweep s in [1, 2, 3]\nrun p, q", 8),
    (PQ + "at L2.mlp freeze f1\nrun p", 2),
    (PQ + "at L2.mlp patch @ prompt[1] from q at prompt[1]\nrun p", 3),
    (PQ + 'at L2.mlp ablate f1 to mean of "ref.txt"\nrun p', 4),
    (PQ + 'metric m = logprob(" Mary Mary")\nat L2.mlp ablate f1\nrun p', 4),
]  # fmt: skip


@pytest.mark.parametrize(("text", "rows"), COUNTS)
def test_forwards_are_those_of_a_run(base: Path, text: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    plain = Hooks.__call__

    def call(self: Hooks, tokens: Any, *more: Any, **named: Any) -> Any:
        counted.append(tokens.shape[0])
        return plain(self, tokens, *more, **named)

    path = base / "program.saedsl"
    path.write_text(text)
    model = InterpretableModel.load("demo")
    monkeypatch.setattr(Hooks, "__call__", call)
    model.run(path)
    (step,) = explain(planned(text, base))
    assert (step.cost.rows, step.cost.forwards) == (rows, len(counted))
    assert sum(counted) == rows


def test_a_sweep_is_one_entry_with_its_values(base: Path) -> None:
    (step,) = explain(planned("at L2.mlp amplify f1 x s\nsweep s in 1..200\nrun", base))
    assert (len(step.values), step.values[:2], step.cost.rows) == (200, ("s = 1", "s = 2"), 201)


def test_explain_says_that_a_step_waits_for_the_callers_prompts(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["explain", "-e", "at L2.mlp ablate f1 @ prompt[1]\nrecord L1.mlp\nmetric m = kl()", "--json"]
    )
    data = json.loads(done.stdout)
    assert data["explained"][0]["records"] == ["L1.mlp"]
    assert data["explained"][0]["cost"]["rows"] == 2
    shown = CliRunner().invoke(cli, ["explain", "-e", "at L2.mlp ablate f1 @ prompt[1]\nmetric m = kl()"])
    assert shown.exit_code == 0
    assert "hook     model.layers.2.mlp out" in shown.output
    assert "metric m on " in shown.output
