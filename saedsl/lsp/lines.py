"""Offsets of characters <-> an editor's lines and columns.

Lines end with \\n, \\r\\n or \\r, and columns count UTF-16 units unless the editor has agreed to another encoding
(Language Server Protocol 3.17, "Position").
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

Encoding = Literal["utf-8", "utf-16", "utf-32"]
END: Final = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Lines:
    """The lines of a text."""

    text: str
    encoding: Encoding = "utf-16"
    """What columns count: bytes, UTF-16 units or characters."""

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(m.end() for m in END.finditer(self.text))]

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 0, of the character at `offset`; offsets beyond the text are its end."""
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self._starts, offset) - 1
        return line, self._units(self.text[self._starts[line] : offset])

    def offset(self, line: int, column: int) -> int:
        """The offset of a place; a line or a column that does not exist is the nearest that does.

        A column inside a character is that character's.
        """
        if line < 0:
            return 0
        if line >= len(self._starts):
            return len(self.text)
        start = self._starts[line]
        end = self._starts[line + 1] if line + 1 < len(self._starts) else len(self.text)
        content = self.text[start:end].rstrip("\r\n")
        if content.isascii() or self.encoding == "utf-32":
            return start + max(0, min(column, len(content)))
        for i, char in enumerate(content):
            if column < (width := self._units(char)):
                return start + i
            column -= width
        return start + len(content)

    def _units(self, text: str) -> int:
        if text.isascii() or self.encoding == "utf-32":
            return len(text)
        if self.encoding == "utf-8":
            return len(text.encode(errors="surrogatepass"))
        return len(text) + sum(c > "\uffff" for c in text)
