"""Where a patch takes its values: each position of a prompt paired with one of another prompt."""

from __future__ import annotations

from itertools import zip_longest

from saedsl.grammar.nodes import Positions
from saedsl.positions import PositionProblem, PositionSet, Problem, spelled_gen
from saedsl.program import Intervention
from saedsl.tokens import Tokens


def prompt_only(at: PositionSet, positions: tuple[Positions, ...], code: str, why: str) -> PositionSet:
    """The prompt positions of `at`.

    Raises:
        PositionProblem: with `code`, for each part of `positions` that names generated tokens outright.
    """
    named = list(spelled_gen(positions))
    if named:
        raise PositionProblem(*(Problem(code, why, p.span, ("@ prompt", "@ prompt[-1]")) for p in named))
    return PositionSet(at.n_prompt, at.prompt)


def paired(
    e: Intervention, target: tuple[str, Tokens, PositionSet], source: tuple[str, Tokens, PositionSet | None]
) -> tuple[tuple[int, int], ...]:
    """(target, source) positions, by target.

    Args:
        e: the patch.
        target: name, tokens and positions of the prompt that is edited.
        source: likewise of the one that values come from; None: the same positions.

    Raises:
        PositionProblem: if they do not pair.
    """
    (name, tokens, at), (from_name, from_tokens, from_at) = target, source
    to = sorted(at.prompt)
    if from_at is None:
        if len(tokens) != len(from_tokens):
            what = f"{name} has {len(tokens)} tokens, {from_name} has {len(from_tokens)}"
            said = e.source.prompt if e.source is not None else from_name
            hints = (f"say which: @ prompt[-1] from {said} at prompt[-1]", side_by_side(tokens, from_tokens))
            raise PositionProblem(Problem("S408", f"{what}: which position goes with which?", e.span, hints))
        return tuple((p, p) for p in to)
    taken = sorted(from_at.prompt)
    if len(taken) == 1:
        taken *= len(to)
    if len(taken) != len(to):
        message = (
            f"{len(to)} positions of {name} ({at.text}) do not pair with {len(taken)} of {from_name} ({from_at.text})"
        )
        hint = "both sides need as many, or the source one for all"
        raise PositionProblem(Problem("S409", message, e.span, (hint,)))
    return tuple(zip(to, taken, strict=True))


def side_by_side(a: Tokens, b: Tokens) -> str:
    """Two tokenisations, position by position, `|` where they differ.

    >>> one = Tokens((1, 2), (" a", " b"), ((0, 2), (2, 4)), " a b")
    >>> print(side_by_side(one, Tokens((1,), (" a",), ((0, 2),), " a")))
    the tokens are
      0  ' a'   ' a'
      1  ' b' |
    """
    rows = [(repr(x) if x is not None else "", repr(y) if y is not None else "", x == y)
            for x, y in zip_longest(a.pieces, b.pieces)]  # fmt: skip
    wide = max((len(x) for x, _, _ in rows), default=0)
    lines = [f"  {i:<2} {x:<{wide}} {' ' if same else '|'} {y}".rstrip() for i, (x, y, same) in enumerate(rows)]
    if len(lines) > 24:
        lines = [*lines[:12], "  ...", *lines[-11:]]
    return "\n".join(["the tokens are", *lines])
