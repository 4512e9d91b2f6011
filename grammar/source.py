"""Where text came from, and what is wrong with it: `Source`, `Diagnostic`, in caret form and as JSON."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal
from unicodedata import combining, east_asian_width

from saedsl.grammar.nodes import Span

Severity = Literal["error", "warning", "note"]

MOST_SHOWN: Final = 100
"""Mistakes of one program that are printed; JSON has all of them."""


@dataclass(frozen=True)
class Source:
    """A program's text and the name under which people know it.

    `first_line` and `first_column` place text that is embedded in another file (a string in a Python file):
    the line and the column, both from 1, of the text's first character there. Included files stand behind the
    program's own text, see `with_part`.
    """

    text: str
    name: str = "<program>"
    first_line: int = 1
    first_column: int = 1
    parts: tuple[tuple[int, Source], ...] = ()
    """Included files with the offsets at which their texts start, in order."""
    outer: Callable[[Span], tuple[Source, Span]] | None = field(default=None, compare=False, repr=False)
    """Of text that stands in another file, or was built by it: where a span is there."""

    def with_part(self, part: Source) -> tuple[Source, int]:
        """The source with the text of an included file behind it, and the offset of that text."""
        start = len(self.text) + 1
        return replace(self, text=f"{self.text}\n{part.text}", parts=(*self.parts, (start, part))), start

    def locate(self, offset: int) -> tuple[Source, int]:
        """The file that has the character at `offset`, and the offset there."""
        i = bisect_right([start for start, _ in self.parts], offset) - 1
        if i < 0:
            return self._own, offset
        return self.parts[i][1], offset - self.parts[i][0]

    @cached_property
    def _own(self) -> Source:
        """The program's own text, without the files that it includes."""
        return replace(self, text=self.text[: self.parts[0][0] - 1], parts=()) if self.parts else self

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(i + 1 for i, c in enumerate(self.text) if c == "\n")]

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of a character offset; in an included file, those there."""
        if self.parts and offset >= self.parts[0][0]:
            part, offset = self.locate(offset)
            return part.place(offset)
        line = bisect_right(self._starts, offset) - 1
        column = offset - self._starts[line] + 1
        return line + self.first_line, column + (self.first_column - 1 if line == 0 else 0)

    def outward(self, span: Span) -> tuple[Source, Span]:
        """The file that people know a span of, and the span there: an included file, or that which the text is in."""
        part, start = self.locate(span.start)
        there = Span(start, start + span.end - span.start)
        return part.outer(there) if part.outer is not None else (part, there)

    def where(self, span: Span) -> str:
        """`steer.saedsl:3:11`: where a span starts, for people."""
        source, there = self.outward(span)
        line, column = source.place(there.start)
        return f"{source.name}:{line}:{column}"

    def line_start(self, number: int) -> int:
        """The offset of the first character of line `number`, as `place` counts."""
        return self._starts[number - self.first_line]

    def line(self, number: int) -> str:
        """The text of line `number`, as `place` counts, without its end."""
        i = number - self.first_line
        end = self._starts[i + 1] - 1 if i + 1 < len(self._starts) else len(self.text)
        return self.text[self._starts[i] : end].rstrip("\r")


MAX_COLUMNS = 100
"""Longer lines are cut around the carets."""


def _excerpt(text: str, start: int, stop: int) -> tuple[str, str, str]:
    """A line as shown, what goes below it before the carets, and the carets."""
    if len(text) > MAX_COLUMNS:
        first = max(0, min(start - MAX_COLUMNS // 3, len(text) - MAX_COLUMNS))
        last = min(len(text), first + MAX_COLUMNS)
        head, tail = "..." if first else "", "..." if last < len(text) else ""
        stop = max(start, min(stop, last))
        text = head + text[first:last] + tail
        start, stop = start - first + len(head), stop - first + len(head)
    lead = "".join("\t" if c == "\t" else " " * _columns(c) for c in text[:start])
    return text, lead, "^" * max(1, sum(map(_columns, text[start:stop])))


def _columns(char: str) -> int:
    """Columns of a terminal that a character takes: two for CJK, none for combining marks."""
    if char.isascii():
        return 1
    return 0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1


@dataclass(frozen=True)
class Diagnostic:
    """One mistake: a stable code, a place, a cause, and how to mend it."""

    code: str
    """`S1xx` syntax, `S2xx` names, `S3xx` model, dictionaries, `S4xx` positions, `S5xx` edits, `S6xx` run."""
    message: str
    span: Span
    source: Source = field(compare=False, repr=False)
    label: str = ""
    """Said next to the carets."""
    hints: tuple[str, ...] = ()
    severity: Severity = "error"

    @property
    def outward(self) -> Diagnostic:
        """The same mistake in the file that its program is embedded in; of an included file's, itself."""
        outer = self.source.outer
        if outer is None or self.source.locate(self.span.start)[1] != self.span.start:
            return self
        source, span = outer(self.span)
        return replace(self, source=source, span=span)

    def render(self) -> str:
        """The caret form, plain text, without a final newline."""
        if self.source.outer is not None and (there := self.outward) is not self:
            return there.render()
        line, column = self.source.place(self.span.start)
        text = self.source.line(line)
        start = self.span.start - self.source.line_start(line)
        stop = min(self.span.end - self.source.line_start(line), len(text))
        shown, lead, carets = _excerpt(text, min(start, len(text)), max(stop, start))
        margin = " " * (len(str(line)) + 1)
        rows = [
            f"{self.severity}[{self.code}]: {self.message}",
            f"{margin}--> {self.source.name}:{line}:{column}",
            f"{margin} |",
            f" {line} | {shown}".rstrip(),
            f"{margin} | {lead}{carets} {self.label}".rstrip(),
            *(f"{margin} = help: {hint}" for hint in self.hints),
        ]
        return "\n".join(rows)

    def to_json(self) -> dict[str, Any]:
        """`{code, severity, message, span{file, line, column, end_line, end_column}, hints}`, JSON types."""
        if self.source.outer is not None and (there := self.outward) is not self:
            return there.to_json()
        line, column = self.source.place(self.span.start)
        end_line, end_column = self.source.place(self.span.end)
        span = {
            "file": self.source.name,
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
        }
        message = self.message if not self.label else f"{self.message}: {self.label}"
        return {
            "code": self.code,
            "severity": self.severity,
            "message": message,
            "span": span,
            "hints": list(self.hints),
        }


def shown(diagnostics: Sequence[Diagnostic]) -> tuple[tuple[Diagnostic, ...], int]:
    """What people see of many mistakes, in their order, and how many more there are; errors go before the rest."""
    if len(diagnostics) <= MOST_SHOWN:
        return tuple(diagnostics), 0
    rank = {id(d): i for i, d in enumerate(diagnostics)}
    first = sorted(diagnostics, key=lambda d: d.severity != "error")[:MOST_SHOWN]
    return tuple(sorted(first, key=lambda d: rank[id(d)])), len(diagnostics) - MOST_SHOWN
