"""Mistakes found in one pass over a program, gathered instead of raised one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from saedsl.grammar.nodes import Span
from saedsl.grammar.source import Diagnostic, Source


class Mistake(Exception):
    """Ends the check of one statement or edit; becomes a `Diagnostic`."""

    def __init__(self, code: str, message: str, span: Span, *, label: str = "", hints: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.span, self.label, self.hints = code, message, span, label, tuple(hints)

    @classmethod
    def silent(cls, span: Span) -> Mistake:
        """Something follows from a mistake that is reported already: nothing more is said."""
        return cls("", "", span)


class Report:
    """The diagnostics of one source, in the order of the text, none twice."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._found: list[Diagnostic] = []

    def add(self, mistake: Mistake) -> None:
        """Keep a mistake, unless it is a silent one."""
        if mistake.code:
            self.error(mistake.code, mistake.message, mistake.span, label=mistake.label, hints=mistake.hints)

    def error(self, code: str, message: str, span: Span, *, label: str = "", hints: Sequence[str] = ()) -> None:
        """Keep an error."""
        self.extend([Diagnostic(code, message, span, self.source, label, tuple(hints))])

    def warning(self, code: str, message: str, span: Span, *, hints: Sequence[str] = ()) -> None:
        """Keep a warning."""
        self.extend([Diagnostic(code, message, span, self.source, "", tuple(hints), "warning")])

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Keep diagnostics that were made elsewhere."""
        self._found += [d for d in diagnostics if d not in self._found]

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Everything found, in the order of the text."""
        return tuple(sorted(self._found, key=lambda d: (d.span.start, d.span.end)))

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
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return [f"did you mean {near[0]}?"]
    if 0 < len(names) <= 8:
        return ["there is " + ", ".join(names)]
    return []
