"""What is offered at a cursor, `|`, and that no text stops it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saedsl.grammar.words import EDITS, MODES, OPTIONS, STATEMENTS
from saedsl.lsp.complete import complete
from saedsl.lsp.document import Document
from saedsl.lsp.hover import definition, hover

PROGRAM = (
    'sae g = "demo:L2.mlp"\nlet s = {f1}\nsweep layer in L0..3\nat g ablate g.f42 @ prompt[-1]; amplify s x2\nrun\n'
)


def offered(text: str) -> list[str]:
    at = text.index("|")
    return [i.text for i in complete(Document(text.replace("|", "", 1)), at)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("|", list(STATEMENTS)),
        ("re|", ["record", "reset"]),
        ("at L2.mlp {\n  |", list(EDITS)),
        ("at L2.mlp ablate f1 @ la|", ["last"]),
        ("at L2.mlp set f9 = 4 m|", ["max"]),
        ("at L2.mlp ablate f9 to r|", ["resample"]),
        ("at L2.mlp keep |", ["only"]),
        ("at L2.mlp.a|", ["L2.mlp.act"]),
        ("at L0..2.mlp.a|", ["L0..2.mlp.act"]),
        ("at L*.mlp.a|", ["L*.mlp.act"]),
        ("sweep layer in L0..3\nat layer.mlp.a|", ["layer.mlp.act"]),
        ("at L9.m|", []),
        ("at L2.mlp ablate f102|", ["f102", "f1020", "f1021", "f1022", "f1023"]),
        ("at L2.mlp ablate f1 th|", ["then"]),
        ("let |", []),
        ('prompt p = "at |', []),
        ("# at |", []),
        ("at L2.mlp ablate ?? |", []),
        ('prompt a = "x"\nrun a with |', list(OPTIONS)),
        ('prompt a = "x"\nrun a with mode = |', list(MODES)),
        ("metric m = lo|", ["logit", "logprob"]),
    ],
)
def test_what_is_offered(text: str, expected: list[str]) -> None:
    assert offered(text) == expected


def test_at_a_site_edits_follow() -> None:
    assert set(EDITS) <= set(offered("at L2.mlp |"))
    assert "when" in offered("at L2.mlp |")


@settings(max_examples=150, deadline=None)
@given(
    cut=st.integers(0, len(PROGRAM)),
    extra=st.text(st.sampled_from("at L2.mlp{}[]()\"'@#f1 g.;,|=$x\n\r\\\x00😀"), max_size=12),
)
@example(cut=0, extra="L2.")
@example(cut=30, extra='"')
def test_no_text_stops_the_answers(cut: int, extra: str) -> None:
    text = PROGRAM[:cut] + extra + PROGRAM[cut:]
    doc = Document(text)
    for offset in {0, cut, cut + len(extra), len(text)}:
        complete(doc, offset)
        hover(doc, offset)
        definition(doc, offset)
