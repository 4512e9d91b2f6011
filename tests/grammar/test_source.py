"""The human and the machine form of a diagnostic."""

from __future__ import annotations

import json

from saedsl.errors import ProgramError
from saedsl.grammar.nodes import Span
from saedsl.grammar.source import MOST_SHOWN, Diagnostic, Source, shown

TEXT = "# steer\n\nat L12.mlp ablate f42; amplify f7 x2\n"


def lines(text: str, start: int, end: int, label: str = "") -> list[str]:
    return Diagnostic("S100", "m", Span(start, end), Source(text, "f"), label).render().split("\n")[3:5]


def test_the_caret_form() -> None:
    diagnostic = Diagnostic(
        "S304",
        "layer 12 does not exist",
        Span(12, 15),
        Source(TEXT, "steer.saedsl"),
        "this model has 4 layers: L0..L3",
        ("did you mean L2.mlp?",),
    )
    assert (
        diagnostic.render()
        == """\
error[S304]: layer 12 does not exist
  --> steer.saedsl:3:4
   |
 3 | at L12.mlp ablate f42; amplify f7 x2
   |    ^^^ this model has 4 layers: L0..L3
   = help: did you mean L2.mlp?"""
    )


def test_the_margin_grows_with_the_line_number() -> None:
    source = Source("run\n" * 12, "a.saedsl")
    assert (
        Diagnostic("S120", "m", Span(40, 43), source).render()
        == """\
error[S120]: m
   --> a.saedsl:11:1
    |
 11 | run
    | ^^^"""
    )


def test_the_json_form_is_json() -> None:
    diagnostic = Diagnostic("S304", "no such layer", Span(12, 15), Source(TEXT, "s"), "4 layers", ("help",))
    assert json.loads(json.dumps(diagnostic.to_json())) == {
        "code": "S304",
        "severity": "error",
        "message": "no such layer: 4 layers",
        "span": {"file": "s", "line": 3, "column": 4, "end_line": 3, "end_column": 7},
        "hints": ["help"],
    }


def test_embedded_text_has_the_place_of_its_file() -> None:
    source = Source("run a\nrun b", "a.py", first_line=10, first_column=20)
    assert source.place(4) == (10, 24)
    assert source.place(6) == (11, 1)
    shown = Diagnostic("S120", "m", Span(4, 5), source).render().split("\n")
    assert shown[1:] == ["   --> a.py:10:24", "    |", " 10 | run a", "    |     ^"]


def test_tabs_and_wide_characters_keep_the_carets_in_place() -> None:
    assert lines("\tlet a = 1", 5, 6) == [" 1 | \tlet a = 1", "   | \t    ^"]
    assert lines("日本 b", 3, 4) == [" 1 | 日本 b", "   |      ^"]
    assert lines("e\u0301 b", 3, 4) == [" 1 | e\u0301 b", "   |   ^"]
    assert lines("a 日本", 2, 4) == [" 1 | a 日本", "   |   ^^^^"]


def test_a_span_of_several_lines_shows_the_first() -> None:
    assert lines("let a = {\n1}", 8, 12) == [" 1 | let a = {", "   |         ^"]


def test_the_end_of_a_line_gets_one_caret() -> None:
    assert lines("let a =\n", 7, 7, "here") == [" 1 | let a =", "   |        ^ here"]
    assert lines("", 0, 0) == [" 1 |", "   | ^"]


def test_long_lines_are_cut_around_the_carets() -> None:
    text = "let a = {" + "f1, " * 1000 + "8}"
    shown, carets = lines(text, len(text) - 2, len(text) - 1)
    assert shown == " 1 | ..." + text[-100:]
    assert carets == "   | " + " " * 101 + "^"
    shown, carets = lines(text, 0, len(text))
    assert shown == " 1 | " + text[:100] + "..."
    assert carets == "   | " + "^" * 100


def test_of_very_many_mistakes_the_first_are_shown_errors_before_warnings() -> None:
    source = Source(TEXT, "f")
    warnings = [Diagnostic("S501", f"w{i}", Span(i % 9, 9), source, severity="warning") for i in range(MOST_SHOWN)]
    errors = [Diagnostic("S502", f"e{i}", Span(i, 9), source) for i in range(7)]
    mixed = (*warnings[:50], *errors[:3], *warnings[50:], *errors[3:])
    assert shown(mixed[:100]) == (mixed[:100], 0)
    first, more = shown(mixed)
    assert more == 7
    assert first == tuple(d for d in mixed if d in errors or d in warnings[: MOST_SHOWN - 7])
    error = ProgramError(mixed)
    assert error.diagnostics == mixed
    assert str(error).count("S50") == MOST_SHOWN
    assert str(error).endswith("\n\n7 more mistakes")
