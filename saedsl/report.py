"""Mistakes found in one pass over a program, gathered instead of raised one by one."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Final, ParamSpec, TypeVar

from saedsl.grammar.nodes import Span
from saedsl.grammar.source import Diagnostic, Source

DAMAGED: Final = frozenset({"S102", "S103"})
"""Codes of strings whose text is not known for sure."""
MANY: Final = 500
"""Of more names than these, a word is held against its neighbours in the alphabet only."""
NEIGHBOURS: Final = 4

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")


class Mistake(Exception):
    """Ends the check of one part of a statement; becomes a `Diagnostic`."""

    def __init__(self, code: str, message: str, span: Span, *, label: str = "", hints: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.span, self.label, self.hints = code, message, span, label, tuple(hints)
        self.parts: tuple[Mistake, ...] = ()
        """Mistakes that have nothing to do with one another, in place of an own message."""

    @classmethod
    def silent(cls, span: Span) -> Mistake:
        """Something follows from a mistake that is reported already: nothing more is said."""
        return cls("", "", span)

    @classmethod
    def together(cls, mistakes: Sequence[Mistake]) -> Mistake:
        """Several mistakes as one exception; at least one."""
        whole = cls.silent(mistakes[0].span)
        whole.parts = tuple(mistakes)
        return mistakes[0] if len(mistakes) == 1 else whole


def each(check: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """`check` of every item.

    Raises:
        Mistake: those of all items that have one, together.
    """
    results: list[B] = []
    wrong: list[Mistake] = []
    for item in items:
        try:
            results.append(check(item))
        except Mistake as e:
            wrong.append(e)
    if wrong:
        raise Mistake.together(wrong)
    return results


def both(first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """Two things that have nothing to do with one another.

    Raises:
        Mistake: those of both, together.
    """
    try:
        a = first()
    except Mistake as e:
        try:
            second()
        except Mistake as other:
            raise Mistake.together([e, other]) from None
        raise
    return a, second()


class Report:
    """The diagnostics of one source and the files it includes, in the order of the text, none twice."""

    def __init__(self, source: Source) -> None:
        """
        Args:
            source: the program; its parts, if any, are the included files.
        """
        self.source = source
        self._found: dict[tuple[str, str, str, Span], tuple[Span, Diagnostic]] = {}
        self._damaged: list[int] = []

    def attempt(self, check: Callable[P, B], *args: P.args, **kwargs: P.kwargs) -> B | None:
        """What `check` returns, or None if it has a mistake, which is kept."""
        try:
            return check(*args, **kwargs)
        except Mistake as e:
            self.add(e)
            return None

    def add(self, mistake: Mistake) -> None:
        """Keep a mistake, unless it is a silent one."""
        for part in mistake.parts:
            self.add(part)
        if mistake.code:
            self.error(mistake.code, mistake.message, mistake.span, label=mistake.label, hints=mistake.hints)

    def error(self, code: str, message: str, span: Span, *, label: str = "", hints: Sequence[str] = ()) -> None:
        """Keep an error."""
        self._keep(span, lambda source, at: Diagnostic(code, message, at, source, label, tuple(hints)))

    def warning(self, code: str, message: str, span: Span, *, hints: Sequence[str] = ()) -> None:
        """Keep a warning."""
        self._keep(span, lambda source, at: Diagnostic(code, message, at, source, "", tuple(hints), "warning"))

    def extend(self, diagnostics: Iterable[Diagnostic], offset: int = 0) -> None:
        """Keep diagnostics that were made elsewhere; of those that say the same of the same place, the first.

        Args:
            diagnostics: of the program's own text, or of an included file.
            offset: where the text of that file starts in `source`.
        """
        for d in diagnostics:
            self._add(Span(d.span.start + offset, d.span.end + offset), d)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._found)

    def damaged(self, span: Span) -> bool:
        """Whether a string in `span` is reported to be unreadable: what follows from its text is not to be said."""
        i = bisect_left(self._damaged, span.start)
        return i < len(self._damaged) and self._damaged[i] < span.end

    def line(self, span: Span) -> str:
        """Where a span starts, to be said at another place: `line 3`, or `line 3 of lib.saedsl` in an included file."""
        included = self.source.locate(span.start)[1] != span.start
        source, there = self.source.outward(span)
        number, _ = source.place(there.start)
        return f"line {number} of {source.name}" if included else f"line {number}"

    def _keep(self, span: Span, make: Callable[[Source, Span], Diagnostic]) -> None:
        """A diagnostic of the file that `span` is in."""
        part, start = self.source.locate(span.start)
        self._add(span, make(part, Span(start, start + span.end - span.start)))

    def _add(self, span: Span, d: Diagnostic) -> None:
        self._found.setdefault((d.code, d.message, d.source.name, d.span), (span, d))
        if d.code in DAMAGED:
            insort(self._damaged, span.start)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Everything found, in the order of the text, included files behind it."""
        return tuple(d for _, d in sorted(self._found.values(), key=lambda f: (f[0].start, f[0].end)))

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """Those that keep the program from running."""
        return tuple(d for d in self.diagnostics if d.severity == "error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """Those that do not."""
        return tuple(d for d in self.diagnostics if d.severity == "warning")


def did_you_mean(word: str, known: Iterable[str]) -> list[str]:
    """A hint with the nearest of `known`, or with all of them when they are few and none is near."""
    names = _in_order(tuple(known))
    i = bisect_left(names, word)
    likely = names if len(names) <= MANY else names[max(0, i - NEIGHBOURS) : i + NEIGHBOURS]
    near = get_close_matches(word, likely, n=1, cutoff=0.6)
    if near:
        return [f"did you mean {near[0]}?"]
    if 0 < len(names) <= 8:
        return ["there is " + ", ".join(names)]
    return []


@lru_cache(maxsize=16)
def _in_order(names: tuple[str, ...]) -> list[str]:
    return sorted(names)
