"""Canonical texts of edits, and canonical positions."""

from __future__ import annotations

import pytest

from saedsl.analyse import Given, analyse
from saedsl.grammar.format import format_node
from saedsl.grammar.nodes import Ablate, At
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.places import simplest

BOTH = 'sae g = "demo:L2.mlp"\nsae t = "demo:L2.mlp.transcoder"\n'

TEXTS: list[tuple[str, str]] = [
    ("at L2.mlp ablate g.f66", "at L2.mlp ablate g.f66"),
    ("at t ablate f66", "at L2.mlp ablate t.f66"),
    ("at t set {f1, f3..5} = 2 @ last", "at L2.mlp set {t.f1, t.f3..5} = 2 @ last"),
    ("at g amplify f1..2 x -1", "at L2.mlp amplify {g.f1, g.f2} x -1"),
    ("at g ablate f1..3", "at L2.mlp ablate g.f1..3"),
    ("at g ablate all", "at g ablate all"),
    ("at g @ prompt ablate all @ last", "at g @ last ablate all @ prompt"),
    ("at L2.mlp @ prompt ablate t.f1 @ last", "at L2.mlp @ last ablate t.f1 @ prompt"),
    ("at L2.mlp ablate", "at L2.mlp ablate"),
    ("at L1.mlp ablate f1", "at L1.mlp ablate f1"),
    ("at L1.mlp ablate all", "at L1.mlp ablate all"),
]


@pytest.mark.parametrize(("program", "text"), TEXTS)
def test_an_edits_text_names_its_dictionary_where_there_are_several(program: str, text: str) -> None:
    plan, report = analyse(Source(BOTH + program), Given())
    again, _ = analyse(Source(BOTH + text), Given())
    assert report.errors == ()
    assert plan is not None
    assert again is not None
    (edit,) = plan.steps[0].step.edits
    assert edit.text() == text
    assert again.steps[0].step.edits == (edit,)
    assert again.program_id == plan.program_id


SIMPLEST: list[tuple[str, str]] = [
    ("all", ""),
    ("last", "last"),
    ("prompt[3] | prompt[1] | prompt[2]", "prompt[1..3]"),
    ("prompt[-1] | prompt[0]", "prompt[-1] | prompt[0]"),
    ("prompt[-3] | prompt[-2..-1]", "prompt[-3..-1]"),
    ("gen[0..4] | gen[2..9] | prompt[5]", "gen[0..9] | prompt[5]"),
    ("prompt[5..-2] | prompt[3]", "prompt[3] | prompt[5..-2]"),
    ("last | (bos | last)", "bos | last"),
    ("all except (last | bos)", "all except bos | last"),
    ("last | last", "last"),
]


@pytest.mark.parametrize(("text", "expected"), SIMPLEST)
def test_positions_have_one_spelling(text: str, expected: str) -> None:
    (statement,) = parse(f"at embed ablate @ {text}").script.statements
    assert isinstance(statement, At)
    (edit,) = statement.edits
    assert isinstance(edit, Ablate)
    assert edit.at is not None
    assert " @ ".join(map(format_node, simplest((edit.at,)))) == expected
