"""Where Python code calls us from: so that a mistake in a program is shown at the line that holds the program."""

from __future__ import annotations

import linecache
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from saedsl.embedded import find_literal
from saedsl.grammar.nodes import Span
from saedsl.grammar.source import Source

OURS: Final = f"{Path(__file__).parent}{os.sep}"


@dataclass(frozen=True)
class Call:
    """A call of saedsl in the caller's code."""

    file: Source
    """The whole file, or notebook cell."""
    span: Span
    """The call there; its line at least."""

    @property
    def text(self) -> str:
        """The call as written."""
        return self.file.text[self.span.start : self.span.end]


def caller() -> Call | None:
    """The innermost call from outside this package; None if its source is not to be had (a prompt, `exec`)."""
    frame = _outside(sys._getframe(1))
    if frame is None:
        return None
    path = frame.f_code.co_filename
    lines = linecache.getlines(path, frame.f_globals)
    if not lines or frame.f_lineno > len(lines):
        return None
    file = Source("".join(lines), _shown(path))
    places = list(frame.f_code.co_positions())
    i = frame.f_lasti // 2
    first, last, left, right = places[i] if i < len(places) else (None, None, None, None)
    if first is None or last is None or left is None or right is None:
        first = last = frame.f_lineno
        left, right = 0, len(lines[first - 1].encode())
    start = file.line_start(first) + len(lines[first - 1].encode()[:left].decode(errors="ignore"))
    end = file.line_start(last) + len(lines[last - 1].encode()[:right].decode(errors="ignore"))
    return Call(file, Span(start, max(start, end)))


def at_caller(text: str) -> Source:
    """A program whose mistakes are shown in its caller's file, where that spells it; else on their own."""
    if (call := caller()) is None:
        return Source(text)
    alone = Source(text)

    def outer(span: Span) -> tuple[Source, Span]:
        literal = find_literal(text, call.file.text, call.file.place(call.span.start)[0])
        return (alone, span) if literal is None else (call.file, literal.span(span))

    return Source(text, outer=outer)


def _outside(frame: FrameType | None) -> FrameType | None:
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(OURS) and frame.f_globals.get("__name__") != "contextlib":
            return frame
        frame = frame.f_back
    return None


def _shown(path: str) -> str:
    """A file's name in messages: short below the working folder; a notebook's cell has none."""
    if re.search(r"ipykernel_\d+[/\\]|^<ipython-input", path):
        return "this cell"
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
