"""Colours for programs: the patterns that all editors share, and the Pygments lexer `saedsl`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pygments.lexer import RegexLexer, bygroups
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text

from saedsl.grammar.words import (
    CLAUSES,
    EDITS,
    FREE_WORDS,
    FUNCTIONS,
    GLOBAL_SITES,
    MODES,
    OPTIONS,
    POSITIONS,
    STATEMENTS,
    TARGETS,
    UNITS,
)

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "statement": tuple(STATEMENTS),
    "edit": tuple(EDITS),
    "site": tuple(GLOBAL_SITES),
    "position": tuple(POSITIONS),
    "target": tuple(TARGETS),
    "unit": tuple(UNITS),
    "clause": tuple(CLAUSES),
}
"""Reserved words by what they do; the first group that has a word colours it."""


def any_of(words: Iterable[str]) -> str:
    """One of `words`, whole, and not the field of something: `io.prompt` is none."""
    return rf"(?<![\w.$])(?:{'|'.join(words)})(?!\w)"


COMMENT: Final = r"#.*$"
STRING: Final = r'"(?:\\.|[^"\\\r\n])*"?'
BOUND: Final = r"\$[A-Za-z_]\w*"
SITE: Final = r"(?<![\w.])L(?:-?\d+(?:\.\.-?\d+)?|\*|\{[-\d., ]*\})(?:\.(?!error\b|[fhn]\d)[a-z_]+)+"
PART: Final = r"(?<!\w)[fhn]\d+(?:\.\.\d+)?(?!\w)"
FACTOR: Final = r"(?<!\w)x\s*-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?!\w)"
NUMBER: Final = r"(?<!\w)(?:\d+(?:\.\d+)?|(?<!\.)\.\d+)(?:[eE][+-]?\d+)?(?!\w)"
FUNCTION: Final = rf"(?<![\w.])(?:{'|'.join(FUNCTIONS)})(?=\s*\()"
FREE: Final = rf"(?<![\w.$])(?:{'|'.join(FREE_WORDS)})(?!\w|\s*[.=])"
"""Words that are keywords in one place only, where they are not plainly a name."""


class SaedslLexer(RegexLexer):  # type: ignore[misc]
    """Pygments lexer of saedsl programs: `pygmentize -l saedsl steer.saedsl`, and ```` ```saedsl ```` in documents."""

    name = "saedsl"
    aliases = ("saedsl",)
    filenames = ("*.saedsl",)

    tokens = {  # noqa: RUF012 (Pygments' own form)
        "root": [
            (r"\s+|\ufeff", Text),
            (r"#[^\r\n]*", Comment.Single),
            (STRING, String.Double),
            (r"'[^'\r\n]*'|[“”„«»‘’][^\r\n“”„«»‘’\"]*[“”„«»‘’\"]", String.Other),
            (BOUND, Name.Variable.Magic),
            (SITE, Name.Class),
            (PART, Name.Variable),
            (FACTOR, Number),
            (NUMBER, Number),
            (FUNCTION, Name.Builtin),
            (rf"(?<![\w.])(?:{'|'.join(OPTIONS)})(?=\s*=)", Name.Attribute),
            (rf"(=)(\s*)({'|'.join(MODES)})(?!\w)", bygroups(Operator, Text, Name.Constant)),
            (any_of(GROUPS["statement"]), Keyword),
            (any_of(GROUPS["edit"]), Keyword.Reserved),
            (any_of(GROUPS["site"]), Name.Class),
            (any_of(GROUPS["position"]), Keyword.Constant),
            (any_of(GROUPS["target"]), Keyword.Pseudo),
            (any_of(GROUPS["unit"]), Keyword.Type),
            (any_of(GROUPS["clause"]), Operator.Word),
            (FREE, Keyword.Type),
            (r"[^\W\d]\w*", Name),
            (r"\d\w*", Number),
            (r"->|\.\.|[<>=!]=|[-+*/<>=@|]", Operator),
            (r"[][(){},;.:]", Punctuation),
        ]
    }
