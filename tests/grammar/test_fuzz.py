"""Some seconds of mutated programs; `python tests/grammar/fuzz.py 200000` tries more."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from saedsl.grammar.parse import parse

SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).with_name("fuzz.py"))
assert SPEC is not None
assert SPEC.loader is not None
fuzz = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz)


def test_programs_that_are_mutated_are_valid() -> None:
    for text in fuzz.CORPUS[-14:]:
        assert [d.render() for d in parse(text).diagnostics] == []


def test_mutated_programs_never_raise_hang_or_print_something_else() -> None:
    assert fuzz.fuzz(1_000_000, seed=7, seconds=4) > 100


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        "}",
        "(",
        "at ",
        '"',
        '"\n',
        "“",
        "then then ",
        "ablate f1; ",
        "ablate f1 then ",
        "h{",
        "L1.mlp,",
        "not ",
        "f1,",
    ],
)
@pytest.mark.parametrize("start", ["", "at L1.mlp ablate f1 when ", "metric m = ", "record "])
def test_long_texts_of_one_piece_are_answered(start: str, piece: str) -> None:
    assert fuzz.fails(start + piece * (20_000 // len(piece))) is None
