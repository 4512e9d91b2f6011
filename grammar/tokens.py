"""Text -> words, strings, numbers and symbols; mistakes inside strings are found here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from saedsl.grammar.nodes import Comment, Span
from saedsl.grammar.source import Diagnostic, Source

LOOKALIKES: Final = {
    **dict.fromkeys("−–—‐‑", "-"),
    **dict.fromkeys("“”„«»", '"'),
    "‘": '"',
    "’": '"',
    "×": "x",
    "·": "*",
    "…": "..",
    "，": ",",
    "；": ";",
    "：": ":",
    "＝": "=",
    "＠": "@",
    "（": "(",
    "）": ")",
    "｛": "{",
    "｝": "}",
}
"""Characters that word processors and keyboards put in the place of ours."""

MAX_MISTAKES: Final = 1000
"""In strings; more are not looked for."""

TOKEN: Final = re.compile(
    r"""
      (?P<newline> \r?\n | \r )
    | (?P<space>   [^\S\r\n]+ | \ufeff )
    | (?P<comment> \#[^\r\n]* )
    | (?P<string>  "(?:\\[^\r\n]|[^"\\\r\n])*(?:"|\\?) )
    | (?P<quoted>  '[^'\r\n]*' | [“”„«»‘’][^\r\n“”„«»‘’"]*[“”„«»‘’"] )
    | (?P<number>  (?:\d+(?:\.\d+)?|(?<!\.)\.\d+)(?:[eE][+-]?\d+)?\w* )
    | (?P<word>    [^\W\d]\w* )
    | (?P<punct>   \.\. | == | \*\* | [-=]> | <= | >= | != | [][(){}@,;|=+*/.:$<>&!^-] )
    | (?P<junk>    . )
    """,
    re.VERBOSE | re.DOTALL,
)
ESCAPE: Final = re.compile(r'\\(?:["\\nt]|u[0-9A-Fa-f]{4})')
UNCLOSED: Final = re.compile(r'"(?:\\[^\r\n]|[^"\\\r\n])*\\?')


class Token(NamedTuple):
    """A word of the program as a reader sees it; the grammar has its own, finer ones."""

    kind: str
    text: str
    start: int
    end: int
    fresh: bool
    """First on its line."""

    @property
    def span(self) -> Span:
        return Span(self.start, self.end)


@dataclass(frozen=True)
class Tokens:
    """A text, cut into words."""

    tokens: list[Token] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)


def tokenize(source: Source) -> Tokens:
    """Cut a text into words; strings that are not closed, not quoted as ours or badly escaped are reported."""
    out = Tokens()
    fresh = True
    for m in TOKEN.finditer(source.text):
        kind, text = m.lastgroup or "", m.group()
        if kind == "newline":
            fresh = True
        elif kind == "comment":
            out.comments.append(Comment(text.rstrip(), fresh, span=Span(m.start(), m.end())))
        elif kind != "space":
            tok = Token(kind, text, m.start(), m.end(), fresh)
            fresh = False
            out.tokens.append(tok)
            if kind in {"string", "quoted"} and len(out.diagnostics) < MAX_MISTAKES:
                out.diagnostics.extend(_mistakes(tok, source))
    return out


def is_unclosed(tok: Token) -> bool:
    """Whether `tok` is a string that its line ended."""
    return tok.kind == "string" and UNCLOSED.fullmatch(tok.text) is not None


def _mistakes(tok: Token, source: Source) -> Iterator[Diagnostic]:
    """What is wrong inside a string."""
    if tok.kind == "quoted":
        quoted = '"' + tok.text[1:-1].replace('"', '\\"') + '"'
        message = "strings are written in straight double quotes"
        yield Diagnostic("S104", message, tok.span, source, "", (f"write {quoted}",))
        return
    if is_unclosed(tok):
        label = 'a string ends with " on its own line'
        yield Diagnostic("S102", "the string is not closed", tok.span, source, label)
    at = tok.text.find("\\")
    while 0 <= at < len(tok.text) - 1:
        good = ESCAPE.match(tok.text, at)
        if good is None:
            bad = tok.text[at : at + 2]
            span = Span(tok.start + at, tok.start + at + 2)
            label = 'the escapes are \\" \\\\ \\n \\t and \\uXXXX'
            hints = () if bad == "\\u" else (f"for a backslash write \\\\{bad[1:]}",)
            yield Diagnostic("S103", f"unknown escape {bad} in a string", span, source, label, hints)
        at = tok.text.find("\\", good.end() if good else at + 2)
