"""The codes of syntax mistakes. A code keeps its meaning for ever; a new mistake gets a new code."""

from __future__ import annotations

from typing import Final

CODES: Final[dict[str, str]] = {
    "S100": "the program is too large",
    "S101": "this is not text",
    "S102": "the string is not closed",
    "S103": "unknown escape in a string",
    "S104": "strings are written in straight double quotes",
    "S105": "unexpected character",
    "S106": "a bracket is not closed",
    "S107": "a closing bracket without an opening one",
    "S108": "nested too deeply",
    "S109": "this does not look like a program",
    "S110": "a line starts with no statement",
    "S111": "unknown edit",
    "S112": "words of the language are lower-case",
    "S113": "not part of this version of the language",
    "S114": "this is Python",
    "S115": "an edit without a site",
    "S116": "`at` without edits",
    "S117": "one statement a line",
    "S118": "`;` or a new line goes between edits",
    "S120": "something else was expected",
    "S121": "the statement ends too early",
    "S122": "not a target",
    "S123": "not a site",
    "S124": "a factor is written xN",
    "S125": "not a position",
    "S126": "a string needs quotes",
    "S127": "not a name",
    "S128": "not a number",
    "S129": "the range runs backwards",
    "S130": "not a range",
}
"""Code -> what it means, in one line."""
