"""Where text came from, and what is wrong with it: `Source`, `Diagnostic`, in caret form and as JSON."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from saedsl.grammar.nodes import Span

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Source:
    """A program's text and the name under which people know it.

    `first_line` and `first_column` place text that is embedded in another file (a string in a Python file): the line
    and the column, both from 1, of the text's first character there.
    """

    text: str
    name: str = "<program>"
    first_line: int = 1
    first_column: int = 1

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(i + 1 for i, c in enumerate(self.text) if c == "\n")]

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of a character offset."""
        line = bisect_right(self._starts, offset) - 1
        column = offset - self._starts[line] + 1
        return line + self.first_line, column + (self.first_column - 1 if line == 0 else 0)

    def line(self, number: int) -> str:
        """The text of line `number`, as `place` counts, without its end."""
        i = number - self.first_line
        end = self._starts[i + 1] - 1 if i + 1 < len(self._starts) else len(self.text)
        return self.text[self._starts[i] : end].rstrip("\r")


@dataclass(frozen=True)
class Diagnostic:
    """One mistake: a stable code, a place, a cause, and how to mend it."""

    code: str
    """`S1xx` syntax, `S2xx` names, `S3xx` model and dictionaries, `S4xx` positions, `S5xx` edits, `S6xx` run."""
    message: str
    span: Span
    source: Source = field(compare=False, repr=False)
    label: str = ""
    """Said next to the carets."""
    hints: tuple[str, ...] = ()
    severity: Severity = "error"

    def render(self) -> str:
        """The caret form, plain text, without a final newline."""
        line, column = self.source.place(self.span.start)
        end_line, end_column = self.source.place(max(self.span.end, self.span.start))
        text = self.source.line(line)
        shift = self.source.first_column - 1 if line == self.source.first_line else 0
        start = column - 1 - shift
        stop = end_column - 1 - shift if end_line == line else len(text)
        margin = " " * len(str(line))
        lead = "".join("\t" if c == "\t" else " " for c in text[:start])
        carets = lead + "^" * max(1, stop - start) + (f" {self.label}" if self.label else "")
        rows = [
            f"{self.severity}[{self.code}]: {self.message}",
            f"{margin} --> {self.source.name}:{line}:{column}",
            f"{margin}  |",
            f"{line}  | {text}".rstrip(),
            f"{margin}  | {carets}",
            *(f"{margin}  = help: {hint}" for hint in self.hints),
        ]
        return "\n".join(rows)

    def to_json(self) -> dict[str, Any]:
        """`{code, severity, message, span{file, line, column, end_line, end_column}, hints}`, all JSON types."""
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
