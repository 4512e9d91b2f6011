"""Long programs: what makes them quick to answer changes nothing of the answer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import saedsl
from saedsl import runs, scope
from saedsl.analyse import Given, analyse
from saedsl.grammar.nodes import Span
from saedsl.grammar.source import Source
from saedsl.report import MANY, Report, did_you_mean
from saedsl.tokens import Tokens

PROMPT = 'prompt p = "The capital of France is"\n'


def said(text: str, base: Path = Path()) -> list[tuple[str, str]]:
    _, report = analyse(Source(text), Given(base=base))
    return [(d.code, d.message) for d in report.diagnostics]


def test_places_of_a_text_are_those_of_a_search_through_all_tokens() -> None:
    rng = random.Random(3)
    for trial in range(60):
        text = "".join(rng.choice("ab ") for _ in range(30))
        cuts = sorted(rng.sample(range(1, 30), 9))
        offsets = [(0, 0), *zip([0, *cuts], [*cuts, 30], strict=True)]
        if trial % 3 == 1:
            offsets.insert(4, offsets[3])  # a character of two tokens
        if trial % 3 == 2:
            offsets.append((0, 0))  # EOS, out of order
            offsets[2], offsets[3] = offsets[3], offsets[2]
        tokens = Tokens(tuple(range(len(offsets))), tuple(text[a:b] for a, b in offsets), tuple(offsets), text, 0)
        for word in ("a", "ab", " b", "ba a"):
            places = [(i, i + len(word)) for i in range(31) if text.startswith(word, i)]
            if word[0] == " " and text.startswith(word[1:]):
                places.insert(0, (0, len(word) - 1))  # the first word, without its space
            wanted = []
            for a, b in places:
                inside = [p for p, (s, e) in enumerate(offsets) if s < b and e > a and e > s]
                visible = [p for p in inside if text[max(a, offsets[p][0]) : min(b, offsets[p][1])].strip()]
                wanted.append(tuple(visible or inside))
            assert tokens.spelled(word) == tuple(w for w in wanted if w)


def test_of_many_names_the_neighbour_in_the_alphabet_is_meant() -> None:
    names = [f"name{i:05}" for i in range(MANY + 200)]
    assert did_you_mean("name0032x", iter(names))[0].startswith("did you mean name003")
    assert did_you_mean("zebra", names) == []
    text = "".join(f"let {n} = {{f1}}\n" for n in names) + "at L0.mlp ablate name00321x\nrun"
    _, report = analyse(Source(text))
    (mistake,) = report.errors
    assert mistake.code == "S201"
    assert mistake.hints == ("did you mean name00321?",)


def test_damaged_strings_are_found_by_their_places() -> None:
    report = Report(Source('prompt a = "b\nprompt c = "d"\nprompt e = "f\n'))
    for start in (33, 11):
        report.error("S102", "the string is not closed", Span(start, start + 2))
    report.error("S201", "another", Span(20, 22))
    assert report.damaged(Span(0, 13))
    assert report.damaged(Span(28, 40))
    assert not report.damaged(Span(14, 28))
    assert not report.damaged(Span(0, 11))


def test_own_mistakes_beside_an_included_file_are_shown_in_one_source(tmp_path: Path) -> None:
    (tmp_path / "more.saedsl").write_text("let a = 1\n")
    _, report = analyse(Source('include "more.saedsl"\nat L9.mlp ablate\nat L8.mlp ablate\n'), Given(base=tmp_path))
    first, second = report.errors
    assert first.source is second.source
    assert first.source.text.endswith("at L8.mlp ablate\n")
    assert "<program>:3:4" in second.render()


# Sets ------------------------------------------------------------------------------------------------------------


def test_sets_of_sets_of_sets_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "MAX_COPIED", 2000)
    lines = ["let a0 = {f1}", *(f"let a{i} = {{a{i - 1}, f{i}}}" for i in range(1, 70))]
    assert said(PROMPT + "\n".join([*lines[:60], "at L0.mlp ablate a59", "run"])) == []
    ((code, message),) = said(PROMPT + "\n".join([*lines, "at L0.mlp ablate a65", "run"]))
    assert (code, message) == ("S505", "sets in sets come to more than 2,000 items")


def test_a_set_means_the_same_wherever_it_is_used_and_its_mistakes_are_said_at_each_use() -> None:
    text = (
        PROMPT + "let s = {f1, f3..5}\nat L0.mlp ablate s\nat L1.mlp ablate s\nat L0.mlp amplify s x2 @ prompt[0]\nrun"
    )
    plan, report = analyse(Source(text))
    assert plan is not None
    assert not report.errors
    assert [e.features for e in plan.steps[0].step.edits] == [(1, 3, 4, 5)] * 3
    text = PROMPT + "let s = {f1, f9999}\nat L0.mlp ablate s\nat L1.mlp ablate s\nrun"
    _, report = analyse(Source(text))
    assert [(d.code, text[d.span.start : d.span.end], report.line(d.span)) for d in report.errors] == [
        ("S311", "s", "line 3"),
        ("S311", "s", "line 4"),
    ]


def test_every_feature_of_a_set_that_does_not_exist_is_said_though_others_stand_twice() -> None:
    assert said(PROMPT + "at L0.mlp ablate {f0..1023, f0..1023, f5000, f1, f6000}\nrun") == [
        ("S311", "feature 5000 does not exist"),
        ("S311", "feature 6000 does not exist"),
    ]
    assert said(PROMPT + "at L0.mlp ablate {f0..1023, f0..1023, f1}\nrun") == [
        ("S501", "f0 of L0.mlp is edited twice at the same position")
    ]


def test_a_set_of_a_dictionary_that_is_declared_further_down_is_a_mistake_at_the_early_use_only() -> None:
    text = 'let s = {g.f1}\nat L2.mlp ablate s @ last\nsae g = "demo:L2.mlp"\nat L2.mlp amplify s x2 @ prompt[1]\n'
    assert [code for code, _ in said(text + PROMPT + "run")] == ["S205"]


def test_the_sets_of_a_sweep_are_not_mixed_up() -> None:
    text = PROMPT + "let t = {f8, f9}\nsweep s in {f1, f2}\nat L0.mlp ablate s; amplify t x2\nrun"
    plan, report = analyse(Source(text))
    assert plan is not None
    assert not report.errors
    assert [sorted(e.features for e in s.step.edits) for s in plan.steps] == [[(1,), (8, 9)], [(2,), (8, 9)]]


def test_a_program_that_runs_too_often_is_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_STEPS", 20)
    text = PROMPT + "at L0.mlp ablate f1\n" + "run\n" * 23
    _, report = analyse(Source(text))
    (mistake,) = report.errors
    assert (mistake.code, mistake.message) == ("S511", "a program makes 20 runs at most")
    assert mistake.source.place(mistake.span.start)[0] == 23


@pytest.mark.parametrize(
    ("limit", "text", "line", "message"),
    [
        ("MOST_PLANNED", "at L0.mlp ablate f1\n" + "run\n" * 23, 8, "over all its runs, this program"),
        ("MOST_PLANNED", "sweep s in 1..9\nat L0.mlp amplify f1 x s\nrun", 4, "over all its runs, this program"),
        ("MOST_ITEMS", "sweep s in 1..9\nat L0.mlp amplify f1 x s\nrun", 3, "at all sites and values"),
        ("MOST_ITEMS", "at L*.mlp {\namplify x2\namplify x3\namplify x4\n}\nrun", 2, "at all sites and values"),
    ],
)  # fmt: skip
def test_what_comes_to_too_much_is_refused_once(
    limit: str, text: str, line: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, limit, 10)
    monkeypatch.setattr(runs, "CHARACTERS", 1000)
    _, report = analyse(Source(PROMPT + text))
    mistakes = [d for d in report.diagnostics if d.code != "S501"]
    assert [d.code for d in mistakes] == ["S511"]
    assert mistakes[0].message.startswith(message)
    assert mistakes[0].source.place(mistakes[0].span.start)[0] == line


def test_rows_of_a_file_of_prompts_are_not_what_the_text_comes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MOST_PLANNED", 30)
    (tmp_path / "io.jsonl").write_text('{"prompt": "a"}\n' * 50)
    assert not said('prompts io = "io.jsonl"\nat L0.mlp ablate f1\nrun io\nrun io\n', tmp_path)


def test_lines_that_cannot_be_read_are_no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_STEPS", 20)
    found = said(PROMPT + "at L0.mlp ablate f1\n" + ";\n" * 30 + "at L0.mlp ablat f1\nrun p\n")
    assert {code for code, _ in found} == {"S110", "S111"}


# Prompts ---------------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_given_twice_runs_twice() -> None:
    result = saedsl.load_demo().model.run("at L0.mlp ablate f1\nrun", prompts=["A b", "A c", "A b"])
    assert [p.text for p in result.prompts] == ["A b", "A c", "A b"]
    with pytest.raises(ValueError, match="prompts is empty: give a text or several, or leave it out"):
        saedsl.load_demo().model.run("at L0.mlp ablate f1\nrun", prompts=[])
