"""Every example of the language reference."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from saedsl.grammar.codes import CODES
from saedsl.grammar.format import format_script
from saedsl.grammar.parse import parse
from saedsl.grammar.words import COMPONENTS, EDITS, POSITIONS, STATEMENTS

PAGE = files("saedsl.grammar").joinpath("LANGUAGE.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCES = [(m[1], m[2]) for m in FENCE.finditer(PAGE)]


@pytest.mark.parametrize("text", [text for kind, text in FENCES if kind == "saedsl"])
def test_an_example_is_a_program(text: str) -> None:
    parsed = parse(text)
    assert [d.render() for d in parsed.diagnostics] == []
    again = parse(format_script(parsed.script, parsed.source))
    assert again.script == parsed.script


@pytest.mark.parametrize("text", [text for kind, text in FENCES if kind == "saedsl error"])
def test_an_example_of_a_mistake_has_one(text: str) -> None:
    assert parse(text).diagnostics


def test_the_shown_diagnostics_are_the_real_ones() -> None:
    i = next(i for i, (kind, _) in enumerate(FENCES) if kind == "saedsl error")
    found = parse(FENCES[i][1], "steer.saedsl").diagnostics
    assert "\n\n".join(d.render() for d in found) + "\n" == FENCES[i + 1][1]


def test_the_page_names_every_word_and_code() -> None:
    words = set(re.findall(r"[\w.]+", PAGE))
    assert {*STATEMENTS, *EDITS, *POSITIONS, *COMPONENTS} <= words
    assert all(f"| `{code}` | {title} |" in PAGE for code, title in CODES.items())
