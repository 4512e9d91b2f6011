"""Places in an editor and offsets in a text, against Python's own encoders."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saedsl.lsp.lines import Encoding, Lines

TEXT = st.text(st.sampled_from("a\n\ré漢😀\u2028\x0c\u0301 "), max_size=40)
ENCODERS: dict[Encoding, tuple[str, int]] = {
    "utf-8": ("utf-8", 1),
    "utf-16": ("utf-16-le", 2),
    "utf-32": ("utf-32-le", 4),
}


@pytest.mark.parametrize("encoding", ENCODERS)
@given(text=TEXT)
def test_places_are_those_of_pythons_encoders(encoding: Encoding, text: str) -> None:
    codec, size = ENCODERS[encoding]
    lines = Lines(text, encoding)
    for offset in range(len(text) + 1):
        if text[offset - 1 : offset + 1] == "\r\n":
            continue  # no place is inside a line's end
        before = re.split(r"\r\n|\n|\r", text[:offset])
        assert lines.place(offset) == (len(before) - 1, len(before[-1].encode(codec)) // size)
        line, column = lines.place(offset)
        assert lines.offset(line, column) == offset


@given(text=TEXT, line=st.integers(-3, 50), column=st.integers(-3, 80))
def test_places_that_do_not_exist_are_the_nearest(text: str, line: int, column: int) -> None:
    offset = Lines(text).offset(line, column)
    assert 0 <= offset <= len(text)
    found = Lines(text).place(offset)
    assert found[0] <= max(line, 0)
    assert found[1] <= max(column, 0) or found[0] < line
