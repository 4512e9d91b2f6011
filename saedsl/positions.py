"""Positions of a program, resolved on one prompt: which prompt tokens, and which generated tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from saedsl.grammar.nodes import (
    PosExcept,
    PosField,
    PosIndex,
    Positions,
    PosName,
    PosToken,
    PosUnion,
    PosWord,
    Span,
)
from saedsl.tokens import Tokens

_OPEN = 2**62
"""Stands for "and all later ones" in a range of generated tokens."""

Intervals = tuple[tuple[int, int], ...]
"""Disjoint, sorted, inclusive ranges."""


@dataclass(frozen=True)
class PositionSet:
    """Positions of one prompt and its continuation.

    Absolute position p < n_prompt is a prompt token; p >= n_prompt is generated token p - n_prompt, read as input.
    """

    n_prompt: int
    prompt: frozenset[int]
    gen: Intervals = ()

    def __or__(self, other: PositionSet) -> PositionSet:
        return PositionSet(self.n_prompt, self.prompt | other.prompt, _merge(self.gen + other.gen))

    def __and__(self, other: PositionSet) -> PositionSet:
        both = ((max(a, c), min(b, d)) for a, b in self.gen for c, d in other.gen)
        return PositionSet(self.n_prompt, self.prompt & other.prompt, _merge(tuple(r for r in both if r[0] <= r[1])))

    def __sub__(self, other: PositionSet) -> PositionSet:
        gen = self.gen
        for c, d in other.gen:
            parts = (part for a, b in gen for part in ((a, min(b, c - 1)), (max(a, d + 1), b)))
            gen = tuple(r for r in parts if r[0] <= r[1])
        return PositionSet(self.n_prompt, self.prompt - other.prompt, _merge(gen))

    def __bool__(self) -> bool:
        return bool(self.prompt or self.gen)

    def __contains__(self, position: int) -> bool:
        if position < self.n_prompt:
            return position in self.prompt
        return any(a <= position - self.n_prompt <= b for a, b in self.gen)

    def row(self, offset: int, length: int) -> list[bool]:
        """Which of the absolute positions offset .. offset + length - 1 are in the set."""
        return [p in self for p in range(offset, offset + length)]

    @property
    def text(self) -> str:
        """`1, 4..7, gen[0..9], gen[12..]`"""
        prompt = [str(a) if a == b else f"{a}..{b}" for a, b in _merge(tuple((p, p) for p in self.prompt))]
        gen = [f"gen[{a}..{'' if b == _OPEN else b}]" for a, b in self.gen]
        return ", ".join([*prompt, *gen])


@dataclass(frozen=True)
class Problem:
    """Why positions do not resolve on a prompt."""

    code: str
    message: str
    span: Span
    hints: tuple[str, ...] = ()


class PositionProblem(Exception):
    """Carries every `Problem` of a position list; caught by `saedsl.plan`, which knows the source."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems[0].message)
        self.problems = problems

    @property
    def problem(self) -> Problem:
        """The first one."""
        return self.problems[0]


def _merge(intervals: Intervals) -> Intervals:
    out: list[tuple[int, int]] = []
    for a, b in sorted(intervals):
        if out and a <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], b))
        else:
            out.append((a, b))
    return tuple(out)


def everything(tokens: Tokens) -> PositionSet:
    """Every prompt position and every generated token."""
    return PositionSet(len(tokens), frozenset(range(len(tokens))), ((0, _OPEN),))


@dataclass(frozen=True)
class Row:
    """What a row of a file of prompts says of its positions."""

    name: str
    """The prompt's, `io[3]`."""
    of: str = ""
    """The file's name in the program, `io`; "" for a prompt that is no row."""
    positions: Mapping[str, int] = field(default_factory=dict)
    """By name, counted in the prompt's tokens; negative from the end."""


NO_ROW = Row("this prompt")


def skipped(tokens: Tokens, trained_on_bos: bool = False) -> frozenset[int]:
    """What `all` and `prompt` leave out for edits through a dictionary: BOS and the chat template's tokens."""
    return frozenset((() if trained_on_bos else tokens.bos) + tokens.template)


def resolve(
    positions: tuple[Positions, ...], tokens: Tokens, skip: Collection[int] = (), row: Row = NO_ROW
) -> PositionSet:
    """The positions of `tokens` that lie in every one of `positions`; no positions at all means `all`.

    Args:
        positions: the header's and the edit's `@`, intersected.
        tokens: the prompt.
        skip: prompt positions that `all` and `prompt` leave out, see `skipped`.
        row: what `io.S2` is looked up in.

    Raises:
        PositionProblem: if one of them cannot be resolved, or nothing is left.
    """
    where = _Prompt(tokens, frozenset(skip), row)
    if not positions:
        return _word(PosWord("all"), where)
    result, *rest = _each(positions, where)
    for other in rest:
        result = result & other
    if not result:
        if skip and (problem := only_skipped(positions, tokens, skip, row)):
            raise PositionProblem(problem)
        why = "these two position lists have nothing in common" if rest else "no position is left"
        raise PositionProblem(
            Problem("S404", f"no position matches in {_quote(tokens)}: {why}", positions[-1].span, _listing(tokens))
        )
    return result


def only_skipped(
    positions: tuple[Positions, ...], tokens: Tokens, skip: Collection[int], row: Row = NO_ROW
) -> Problem | None:
    """What to say where a dictionary's edit acts on no prompt token because it skips some; None if that is not why."""
    try:
        if not resolve(positions, tokens, (), row).prompt:
            return None
    except PositionProblem:
        return None
    template = bool(set(skip) & set(tokens.template))
    if set(skip) >= set(range(len(tokens))):
        what = f"{_quote(tokens)} has no token but {'the template' if template else 'BOS'}"
    else:
        what = f"only {'BOS or template tokens are' if template else 'BOS is'} left in {_quote(tokens)}"
    span = positions[-1].span if positions else Span(0, 0)
    return Problem("S404", f"{what}, which dictionary edits skip", span, ("write @ everywhere",))


def spelled_gen(positions: Sequence[Positions]) -> Iterator[Positions]:
    """The parts of positions that name generated tokens outright, `gen` and `gen[3]`; not `all` or `last`."""
    for p in positions:
        match p:
            case PosWord("gen") | PosIndex("gen"):
                yield p
            case PosUnion(items):
                yield from spelled_gen(items)
            case PosExcept(base):
                yield from spelled_gen((base,))


@dataclass(frozen=True)
class _Prompt:
    """What positions are resolved on."""

    tokens: Tokens
    skip: frozenset[int]
    row: Row


def _each(positions: Sequence[Positions], where: _Prompt) -> list[PositionSet]:
    """The set of each; the problems of all, together."""
    sets: list[PositionSet] = []
    problems: list[Problem] = []
    for p in positions:
        try:
            sets.append(_resolve(p, where))
        except PositionProblem as e:
            problems += e.problems
    if problems:
        raise PositionProblem(*problems)
    return sets


def _resolve(node: Positions, where: _Prompt) -> PositionSet:
    match node:
        case PosWord():
            return _word(node, where)
        case PosIndex():
            return _index(node, where.tokens)
        case PosToken():
            return _token(node, where.tokens)
        case PosField():
            return _field(node, where)
        case PosName(name):
            raise TypeError(f"the value of {name} is known when a program is checked")
        case PosUnion(items):
            first, *rest = _each(items, where)
            for other in rest:
                first = first | other
            return first
        case PosExcept(base, removed):
            whole, _ = _each((base, removed), where)
            return whole - _resolve(removed, _Prompt(where.tokens, frozenset(), where.row))


def _word(node: PosWord, where: _Prompt) -> PositionSet:
    tokens = where.tokens
    n = len(tokens)
    whole = everything(tokens)
    bos = PositionSet(n, frozenset(tokens.bos))
    match node.word:
        case "prompt":
            return PositionSet(n, whole.prompt - where.skip)
        case "gen":
            return PositionSet(n, frozenset(), whole.gen)
        case "last":
            return PositionSet(n, frozenset({n - 1}), whole.gen)
        case "all":
            return whole - PositionSet(n, where.skip)
        case "everywhere":
            return whole
        case "bos":
            if not bos:
                raise PositionProblem(
                    Problem("S405", f"{_quote(tokens)} has no BOS token: this tokenizer adds none", node.span)
                )
            return bos


def _index(node: PosIndex, tokens: Tokens) -> PositionSet:
    n = len(tokens)
    if node.of == "gen":
        if node.first < 0 or node.last < 0:
            raise PositionProblem(
                Problem(
                    "S403",
                    "generated tokens cannot be counted from the end: the end is not known yet",
                    node.span,
                    ("`last` is the newest token at every step",),
                )
            )
        first, last = node.first, node.last
    else:
        first, last = (i + n if i < 0 else i for i in (node.first, node.last))
        if not (0 <= first < n and 0 <= last < n):
            raise PositionProblem(
                Problem(
                    "S403",
                    f"{_quote(tokens)} has {n} tokens: prompt[0] to prompt[{n - 1}]",
                    node.span,
                    _listing(tokens),
                )
            )
    if first > last:
        raise PositionProblem(
            Problem(
                "S403",
                f"this range is empty: it runs from {first} to {last}",
                node.span,
                ("a..b includes both ends, a first",),
            )
        )
    if node.of == "gen":
        return PositionSet(n, frozenset(), ((first, last),))
    return PositionSet(n, frozenset(range(first, last + 1)))


def _field(node: PosField, where: _Prompt) -> PositionSet:
    tokens, row = where.tokens, where.row
    n = len(tokens)
    name = f"{node.of}.{node.name}"
    if row.of != node.of:
        raise PositionProblem(Problem("S412", f"{row.name} is no row of {node.of}: it has no {name}", node.span))
    if node.name not in row.positions:
        known = ", ".join(f"{node.of}.{k}" for k in sorted(row.positions))
        hints = (f"it has {known}" if known else 'give the row one: "positions": {"' + node.name + '": 3}',)
        raise PositionProblem(Problem("S412", f"{row.name} has no position {node.name}", node.span, hints))
    given = row.positions[node.name]
    if not -n <= given < n:
        message = f"{row.name} has {n} tokens, its position {node.name} is {given}"
        raise PositionProblem(Problem("S412", message, node.span, _listing(tokens)))
    return PositionSet(n, frozenset({given % n}))


def _token(node: PosToken, tokens: Tokens) -> PositionSet:
    places = tokens.spelled(node.text)
    n = len(tokens)
    shown = f'"{node.text}"'
    if not places:
        raise PositionProblem(Problem("S401", f"{_quote(tokens)} does not spell {shown}", node.span, _listing(tokens)))
    if node.which == "every":
        return PositionSet(n, frozenset(place[-1] for place in places))
    if node.index is not None:
        if not -len(places) <= node.index < len(places):
            raise PositionProblem(
                Problem(
                    "S403",
                    f"{_quote(tokens)} spells {shown} {len(places)} times: {shown}[0] to {shown}[{len(places) - 1}]",
                    node.span,
                )
            )
        places = (places[node.index],)
    if len(places) > 1:
        at = ", ".join(str(place[-1]) for place in places)
        raise PositionProblem(
            Problem(
                "S402",
                f"{_quote(tokens)} spells {shown} {len(places)} times, at positions {at}",
                node.span,
                (f"choose one, {shown}[0], or take all of them, every {shown}",),
            )
        )
    (place,) = places
    return PositionSet(n, frozenset(place if node.which == "span" else place[-1:]))


def _quote(tokens: Tokens) -> str:
    text = tokens.text if len(tokens.text) <= 40 else tokens.text[:37] + "..."
    return f'the prompt "{text}"'


def _listing(tokens: Tokens) -> tuple[str, ...]:
    """The prompt's tokens with their positions, for a hint."""
    shown = [f"{i} {piece!r}" for i, piece in enumerate(tokens.pieces)]
    if len(shown) > 16:
        shown = [*shown[:8], "...", *shown[-7:]]
    return ("the tokens are " + ", ".join(shown),)
