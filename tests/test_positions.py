"""Positions of the language -> positions of a prompt, and the algebra of sets of them."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saedsl.grammar.nodes import Ablate, At, Positions
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.positions import PositionProblem, PositionSet, everything, resolve, skipped
from saedsl.tokens import Tokens

PIECES = ("<s>", " the", " cat", " sat", " on", " a", " c", "at", ".")
"""Ten words in nine tokens: ` cat` is spelled at 2 and again by 6 and 7."""


def tokens(pieces: tuple[str, ...] = PIECES, bos: int = 0) -> Tokens:
    """Ids are 0 for `<s>`, else 1 and up."""
    ids, offsets, at = [], [], 0
    for i, piece in enumerate(pieces):
        special = piece == "<s>"
        ids.append(0 if special else i + 1)
        offsets.append((0, 0) if special else (at, at + len(piece)))
        at += 0 if special else len(piece)
    return Tokens(tuple(ids), pieces, tuple(offsets), "".join(p for p in pieces if p != "<s>"), bos)


def positions(text: str) -> Positions:
    (statement,) = parse(Source(f"at embed ablate @ {text}")).script.statements
    assert isinstance(statement, At)
    edit = statement.edits[0]
    assert isinstance(edit, Ablate)
    at = edit.at
    assert at is not None
    return at


OPEN = "gen[0..]"
SKIP = frozenset({0})
"""BOS: what an edit through a dictionary skips."""
TABLE: list[tuple[str, str, str]] = [
    # text, of a whole-site edit, of an edit through a dictionary that was not trained on BOS
    ("all", f"0..8, {OPEN}", f"1..8, {OPEN}"),
    ("everywhere", f"0..8, {OPEN}", f"0..8, {OPEN}"),
    ("prompt", "0..8", "1..8"),
    ("gen", OPEN, OPEN),
    ("last", f"8, {OPEN}", f"8, {OPEN}"),
    ("bos", "0", "0"),
    ("prompt[0]", "0", "0"),
    ("prompt[-1]", "8", "8"),
    ("prompt[2..4]", "2..4", "2..4"),
    ("prompt[-3..-1]", "6..8", "6..8"),
    ("prompt[3..-4]", "3..5", "3..5"),
    ("gen[3]", "gen[3..3]", "gen[3..3]"),
    ("gen[0..9]", "gen[0..9]", "gen[0..9]"),
    ('" on"', "4", "4"),
    ('" cat"[0]', "2", "2"),
    ('" cat"[1]', "7", "7"),
    ('" cat"[-1]', "7", "7"),
    ('every " cat"', "2, 7", "2, 7"),
    ('span " cat sat"', "2..3", "2..3"),
    ('span " cat."', "6..8", "6..8"),
    ('" cat."', "8", "8"),
    ('"the"', "1", "1"),
    ("prompt[1] | prompt[3] | gen[2]", "1, 3, gen[2..2]", "1, 3, gen[2..2]"),
    ("all except prompt", OPEN, OPEN),
    ("all except gen[5..7]", "0..8, gen[0..4], gen[8..]", "1..8, gen[0..4], gen[8..]"),
    ("prompt[1..3] | prompt[5] except prompt[2]", "1, 3, 5", "1, 3, 5"),
    ("everywhere except prompt except gen[0]", "gen[1..]", "gen[1..]"),
    ("gen[0..3] | gen[4..6]", "gen[0..6]", "gen[0..6]"),
]


@pytest.mark.parametrize(("text", "whole", "through_sae"), TABLE)
def test_positions_resolve_on_a_prompt(text: str, whole: str, through_sae: str) -> None:
    assert resolve((positions(text),), tokens()).text == whole
    assert resolve((positions(text),), tokens(), SKIP).text == through_sae


def test_no_positions_mean_all() -> None:
    assert resolve((), tokens()) == everything(tokens())
    assert resolve((), tokens(), SKIP).text == f"1..8, {OPEN}"


def test_every_leading_bos_is_left_out() -> None:
    for pieces, left in ((("<s>", "<s>", " a"), "2"), ((" a", "<s>", " b"), "0..2")):
        found = tokens(pieces)
        assert resolve((), found, skipped(found)).text == f"{left}, {OPEN}"


def test_position_lists_are_intersected() -> None:
    both = (positions("prompt[1..5] | gen[0..9]"), positions("prompt[4..8] | gen[3..12]"))
    assert resolve(both, tokens(), SKIP).text == "4..5, gen[3..9]"


PROBLEMS: list[tuple[str, str]] = [
    ('" dog"', "S401"),
    ('" cat"', "S402"),
    ('span " cat"', "S402"),
    ("prompt[9]", "S403"),
    ("prompt[-10]", "S403"),
    ("gen[-1]", "S403"),
    ('" cat"[2]', "S403"),
    ("bos except prompt[0]", "S404"),
]


@pytest.mark.parametrize(("text", "code"), PROBLEMS)
def test_what_does_not_resolve_says_why(text: str, code: str) -> None:
    with pytest.raises(PositionProblem) as e:
        resolve((positions(text),), tokens())
    assert e.value.problem.code == code


def test_a_tokenizer_without_bos_has_no_bos_position() -> None:
    with pytest.raises(PositionProblem, match="has no BOS token: this tokenizer adds none") as e:
        resolve((positions("bos"),), tokens((" a", " b")))
    assert e.value.problem.code == "S405"


# The algebra, against sets of plain numbers ------------------------------------------------------------------------

N = 5
HORIZON = 40
ranges = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda r: (min(r), max(r)))
sets = st.builds(
    lambda prompt, gen: _build(prompt, gen), st.frozensets(st.integers(0, N - 1)), st.lists(ranges, max_size=4)
)


def _build(prompt: frozenset[int], gen: Collection[tuple[int, int]]) -> PositionSet:
    result = PositionSet(N, prompt)
    for r in gen:
        result = result | PositionSet(N, frozenset(), (r,))
    return result


def numbers(s: PositionSet) -> set[int]:
    return {p for p in range(HORIZON) if p in s}


@given(sets, sets)
def test_union_intersection_and_difference_are_those_of_sets(a: PositionSet, b: PositionSet) -> None:
    assert numbers(a | b) == numbers(a) | numbers(b)
    assert numbers(a & b) == numbers(a) & numbers(b)
    assert numbers(a - b) == numbers(a) - numbers(b)
    assert bool(a) == bool(numbers(a))
    assert (a | b) == (b | a)


@given(sets, st.integers(0, 20), st.integers(1, 15))
def test_a_row_says_which_positions_of_a_forward_are_in_the_set(a: PositionSet, offset: int, length: int) -> None:
    assert a.row(offset, length) == [p in numbers(a) for p in range(offset, offset + length)]
