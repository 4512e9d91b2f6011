"""Mistakes and the exact words about them, in a file to read: tests/grammar/mistakes.golden.txt.

`python tests/grammar/test_golden_mistakes.py --write` writes the diagnostics anew; a new case is a program between two
lines of the file, with no diagnostics yet.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from saedsl.grammar.codes import CODES
from saedsl.grammar.parse import parse

PAGE = Path(__file__).with_name("mistakes.golden.txt")
RULE = "-" * 100
HEAD, *CASES = PAGE.read_text(encoding="utf-8").split(RULE + "\n")


def program(case: str) -> str:
    """The program of a case: what stands before its diagnostics."""
    return case.split("\nerror[")[0].strip("\n")


def answered(text: str) -> str:
    """A case: the program, an empty line, its diagnostics."""
    rendered = "\n\n".join(d.render() for d in parse(text, "p.saedsl").diagnostics)
    return f"{text}\n\n{rendered}\n"


@pytest.mark.parametrize("case", CASES, ids=[program(case).splitlines()[0] for case in CASES])
def test_diagnostics_are_word_for_word_those_of_the_page(case: str) -> None:
    assert answered(program(case)) == case


def test_no_mistake_stands_twice() -> None:
    programs = [program(case) for case in CASES]
    assert len(programs) == len(set(programs))
    assert len(programs) >= 60


def test_one_line_has_one_mistake() -> None:
    for case in CASES:
        if "\n" not in program(case):
            assert case.count("\nerror[") == 1, case


def test_the_codes_are_those_of_the_table() -> None:
    codes = {d.code for case in CASES for d in parse(program(case)).diagnostics}
    assert codes <= set(CODES)
    assert {c for c in CODES if c.startswith("S1")} - codes <= {"S100", "S101", "S109"}


def write() -> None:
    """Write the page anew, from its own programs."""
    cases = [answered(program(case)) for case in CASES]
    PAGE.write_text(RULE.join([HEAD, *("\n" + case for case in cases)]), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/grammar/test_golden_mistakes.py --write")
    write()
