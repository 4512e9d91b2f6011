"""What differs between two programs, and what is only written differently; as a command."""

# ruff: noqa: E501 (a row of a table stays one line)

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saedsl.analyse import Given, analyse
from saedsl.cli import cli
from saedsl.grammar.source import Source
from saedsl.plan import Plan
from saedsl.plandiff import differences

T = 'sae t = "demo:L2.mlp.transcoder"\n'


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs")
    (path / "ref.txt").write_text("Mary stone\nJohn little\n")
    (path / "same.txt").write_text("Mary stone\nJohn little\n")
    (path / "other.txt").write_text("Mary stone\n")
    return path


def planned(text: str, base: Path) -> Plan:
    plan, report = analyse(Source(text), Given(base=base))
    assert plan is not None
    assert not report.errors
    return plan


SAME = [
    ("at L2.mlp ablate f1; set f2 = 3", "let k = 3\nat L2.mlp { set f2 = k  # three\n ablate f1 @ all }\nrun"),
    ('sae g = "demo:L2.mlp"\nat g ablate f1\nrecord g.f2', "at L2.mlp ablate f1\nrecord L2.mlp.f2"),
    (
        T + 'sae a = "demo:L2.mlp"\nat t ablate f1 when a.f2\nat a ablate f2',
        'sae z = "demo:L2.mlp.transcoder"\nsae b = "demo:L2.mlp"\nat b ablate f2\nat z ablate f1 when b.f2 > 0',
    ),
    ("at L2.mlp ablate f1 when f2 and f3", "at L2.mlp when f3 ablate f1 when f2"),
    ('at L1.mlp ablate to mean of "ref.txt"', 'at L1.mlp ablate to mean of "same.txt"'),
    ("at L2.mlp amplify f1 x s\nsweep s in [1, 2]\nrun", "at L2.mlp amplify f1 x1\nrun\nreset\nat L2.mlp amplify f1 x2\nrun"),
    ("metric m = 2 * kl()\nrun", "let k = 2\nmetric m = k * kl()\nrun"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SAME)
def test_two_texts_of_one_meaning_have_no_difference(base: Path, a: str, b: str) -> None:
    assert differences(planned(a, base), planned(b, base)) == []


P = 'prompt p = "Mary"\n'
DIFFERENT = [
    ("at L2.mlp ablate f1", "at L2.mlp ablate f1; ablate f2 @ last", ["+ edit `at L2.mlp ablate f2 @ last`"]),
    ("at L2.mlp ablate f1\nrecord L1.mlp", "at L2.mlp set f1 = 2", ["~ edit `at L2.mlp ablate f1` -> `at L2.mlp set f1 = 2`", "- record `record L1.mlp`"]),
    ("at L2.mlp set f1 = 2", "at L2.mlp set f1 = 3", ["~ edit `at L2.mlp set f1 = 2` -> `at L2.mlp set f1 = 3`"]),
    ("at L2.mlp ablate f1", "at L2.mlp ablate f1 when f2", ["~ edit `at L2.mlp ablate f1` -> `at L2.mlp ablate f1 when L2.mlp.f2 > 0`"]),
    (P + "run p", 'prompt p = "John"\nrun p with mode = frozen, seed = 3', ['~ prompt p "Mary" -> "John"', "~ mode iterative -> frozen", "~ seed 0 -> 3"]),
    (P + "run p", P + 'prompt q = chat "John"\nrun p', []),
    (P + "run p", P + "generate p 5", ["~ kind run -> generate", "~ n 0 -> 5"]),
    (P + "at L2.mlp ablate f1\nrun p", P + "at L2.mlp ablate f1\nrun p\nrun p", ["step 2: + step run p"]),
    (P + "run p\nat L2.mlp ablate f1\nrun p", P + "run p\nat L2.mlp ablate f2\nrun p", ["step 2: - edit `at L2.mlp ablate f1`", "step 2: + edit `at L2.mlp ablate f2`"]),
    ('at L1.mlp ablate to mean of "ref.txt"', 'at L1.mlp ablate to mean of "other.txt"', ['~ edit `at L1.mlp ablate to mean of "ref.txt"` -> `at L1.mlp ablate to mean of "other.txt"`']),
    (T + "at t ablate f1", 'sae t = "demo:L2.mlp"\nat t ablate f1', ["- edit `at L2.mlp ablate t.f1`", "+ edit `at L2.mlp ablate f1`"]),
    ("metric m = kl()\nrun", "metric m = kl() @ prompt\nrun", ["- metric `metric m = kl()`", "+ metric `metric m = kl() @ prompt`"]),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "listed"), DIFFERENT)
def test_differences_are_listed(base: Path, a: str, b: str, listed: list[str]) -> None:
    assert [str(d) for d in differences(planned(a, base), planned(b, base))] == listed


def diff(a: str, b: str, path: Path, *options: str) -> Result:
    for name, text in (("a.saedsl", a), ("b.saedsl", b)):
        (path / name).write_text(text)
    return CliRunner().invoke(cli, ["diff", str(path / "a.saedsl"), str(path / "b.saedsl"), *options])


def test_the_command_says_it_with_its_exit_code(tmp_path: Path) -> None:
    done = diff(SAME[0][0], SAME[0][1], tmp_path)
    assert (done.exit_code, done.output) == (0, "no difference\n")
    done = diff("at L2.mlp set f1 = $k", "at L2.mlp set f1 = 3", tmp_path, "--set", "k=2")
    assert (done.exit_code, done.output) == (1, "~ edit `at L2.mlp set f1 = 2` -> `at L2.mlp set f1 = 3`\n")
    done = diff("at L2.mlp ablate f1", "", tmp_path, "--json")
    assert json.loads(done.output) == [{"what": "edit", "change": "removed", "before": "`at L2.mlp ablate f1`"}]
    assert done.exit_code == 1
    done = diff("at L2.mlp ablate f1", "at L99.mlp ablate f1", tmp_path)
    assert done.exit_code == 1
    assert "b.saedsl:1:4" in done.stderr
    assert CliRunner().invoke(cli, ["diff", "nowhere.saedsl", "nowhere.saedsl"]).exit_code == 2
