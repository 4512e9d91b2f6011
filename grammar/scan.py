"""Text -> statements, cut so that a mistake in one cannot spoil another.

The scanner knows brackets and the words that start statements and edits; what is inside a
statement is the grammar's business. A statement is cut into parts: an `at` into its header and its edits,
anything else is one part. Newlines are free inside brackets, after commas and after `then`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from saedsl.grammar.nodes import Comment, Span
from saedsl.grammar.source import Diagnostic, Source
from saedsl.grammar.tokens import Token, is_unclosed, tokenize
from saedsl.grammar.words import EDITS, GLOBAL_SITES, POSITIONS, STATEMENTS

MAX_DEPTH: Final = 40
"""Brackets inside brackets."""
MAX_MISTAKES: Final = 500
"""After so many the rest of a text is not read."""

SITE: Final = re.compile(r"L(\d+)?$")
"""The first word of a site that is no name."""
A_CHAIN: Final = "write set f5 = 4 then amplify f5 x2"
CLOSES: Final = {")": "(", "]": "[", "}": "{"}
OPENS: Final = {v: k for k, v in CLOSES.items()}


@dataclass
class Part:
    """What the grammar parses at once."""

    tokens: list[Token] = field(default_factory=list)
    blind: int = sys.maxsize
    """Mistakes from this offset on follow from one that is already reported."""
    then: Span | None = None
    """The `then` that joins this edit to the one before it."""

    @property
    def end(self) -> int:
        return self.tokens[-1].end


@dataclass
class Chunk:
    """A statement: `parts[0]` is the header of an `at`, or the whole of any other statement."""

    parts: list[Part] = field(default_factory=lambda: [Part()])
    block: Span | None = None
    """The braces of `at ... { }`."""
    closed: bool = False
    """The block's closing brace has been read."""
    semicolon: Span | None = None
    """A `;` between the header and the edits."""
    skip: bool = False
    """A mistake already reported makes the statement unreadable."""
    excused: bool = False
    """Already reported as `at` without edits."""

    @property
    def first(self) -> Token:
        return self.parts[0].tokens[0]

    @property
    def is_at(self) -> bool:
        return self.first.text.lower() == "at"

    @property
    def in_header(self) -> bool:
        return self.is_at and len(self.parts) == 1

    @property
    def end(self) -> int:
        ends = [p.end for p in self.parts if p.tokens]
        return max(*ends, self.block.end) if self.block else max(ends)


@dataclass
class Scan:
    chunks: list[Chunk] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)


def scan(source: Source) -> Scan:
    """Cut a program into statements; mistakes in strings and brackets are reported on the way."""
    scanner = _Scanner(source)
    for i in range(len(scanner.tokens)):
        if len(scanner.out.diagnostics) > MAX_MISTAKES:
            break
        scanner.take(i)
    scanner.unclosed(0)
    scanner.finish()
    return scanner.out


class _Scanner:
    def __init__(self, source: Source) -> None:
        self.source = source
        read = tokenize(source)
        self.tokens = read.tokens
        self.out = Scan(comments=read.comments, diagnostics=read.diagnostics)
        self.chunk = Chunk()
        self.stack: list[Token] = []
        """Open brackets, outermost first."""
        self.open: Counter[str] = Counter()
        """How many of each kind are in `stack`."""
        self.deaf = False
        """The rest of the part is unreadable; only its brackets count."""
        self.swallowed: Counter[str] = Counter()
        """Brackets that an unclosed string holds: their partners are not to blame."""

    def report(self, code: str, message: str, span: Span, label: str = "", *hints: str) -> None:
        self.out.diagnostics.append(Diagnostic(code, message, span, self.source, label, hints))

    # One token ----------------------------------------------------------------------------------------------

    def take(self, i: int) -> None:
        tok = self.tokens[i]
        if tok.fresh and self.chunk.parts[0].tokens:
            self.new_line(i)
        chunk = self.chunk
        if tok.kind == "punct" and tok.text in CLOSES:
            self.close(tok)
            return
        if chunk.closed:
            self.after_block(i)
            return
        if chunk.parts[0].tokens and (not self.stack or self.in_block):
            if tok.text == ";":
                self.semicolon(i)
                return
            if tok.kind == "word" and self.cut(i):
                return
            if tok.text == "{" and self.opens_block(i):
                self.push(tok)
                chunk.block = tok.span
                self.new_part()
                return
        self.append(tok)

    def append(self, tok: Token) -> None:
        part = self.chunk.parts[-1]
        if is_unclosed(tok):
            part.blind = min(part.blind, tok.start)
            self.swallowed.update(c for c in tok.text if c in CLOSES or c in OPENS)
        if not self.deaf:
            part.tokens.append(tok)
        if tok.kind == "punct" and tok.text in OPENS:
            self.push(tok)

    def push(self, tok: Token) -> None:
        self.stack.append(tok)
        self.open[tok.text] += 1
        if len(self.stack) > MAX_DEPTH and not self.chunk.skip:
            self.chunk.skip = True
            label = f"{MAX_DEPTH} brackets are open already"
            self.report("S108", "brackets are nested too deeply", tok.span, label)

    def close(self, tok: Token) -> None:
        """Match a closing bracket with the innermost of its kind; those inside it are not closed."""
        chunk, opener = self.chunk, CLOSES[tok.text]
        if not self.open[opener]:
            self.stray(tok)
            return
        depth = len(self.stack) - 1
        while self.stack[depth].text != opener:
            depth -= 1
        self.unclosed(depth + 1)
        self.stack.pop()
        self.open[opener] -= 1
        if chunk.block and not self.stack and opener == "{":
            chunk.block = Span(chunk.block.start, tok.end)
            chunk.closed = True
        elif not self.deaf:
            chunk.parts[-1].tokens.append(tok)

    def stray(self, tok: Token) -> None:
        chunk, opener = self.chunk, CLOSES[tok.text]
        if self.swallowed[opener]:
            self.swallowed[opener] -= 1
        elif not chunk.skip and not self.deaf:
            self.report("S107", f"{tok.text} without {opener}", tok.span, f"no {opener} is open here")
        if not chunk.parts[0].tokens:
            chunk.parts[0].tokens.append(tok)
            chunk.skip = True
        part = chunk.parts[-1]
        part.blind = min(part.blind, part.end if part.tokens else 0)
        self.deaf = True

    def unclosed(self, depth: int) -> None:
        """Report, and forget, the open brackets from `depth` on."""
        for tok in self.stack[depth:]:
            self.open[tok.text] -= 1
            closer = OPENS[tok.text]
            if self.swallowed[closer]:
                self.swallowed[closer] -= 1
            elif not self.chunk.skip:
                self.report("S106", f"{tok.text} is not closed", tok.span, f"no {closer} for it")
            part = self.chunk.parts[-1]
            if part.tokens:
                part.blind = min(part.blind, tok.end if tok.text == "(" else part.end)
        del self.stack[depth:]

    # Where statements and parts end -------------------------------------------------------------------------

    def new_line(self, i: int) -> None:
        """`tokens[i]` is the first of its line: end the statement, or an edit, before it, or nothing."""
        tok, comma = self.tokens[i], self.tokens[i - 1].text == ","
        if self.starts_statement(i):
            self.swallowed["{"] += self.open["{"]  # a closing brace may still follow
            self.unclosed(0)
            self.finish()
            return
        is_edit = tok.text in EDITS
        if self.dangling or (tok.text == "then" and self.in_block):
            return
        if is_edit:
            self.unclosed(1 if self.chunk.block else 0)
        if self.stack:
            if self.in_block and (is_edit or not comma):
                self.new_part()
        elif comma and not is_edit:
            return
        elif self.chunk.in_header and (tok.text == "{" or is_edit):
            if is_edit:
                self.excuse()
                self.new_part()
        elif self.chunk.excused and is_edit:
            self.new_part()
        else:
            self.finish()

    def cut(self, i: int) -> bool:
        """Start a new part or statement at a word that starts one; False when the word is just a word."""
        tok, prev, chunk = self.tokens[i], self.tokens[i - 1], self.chunk
        if not chunk.is_at or chunk.skip or prev.text == ".":
            return False
        part = chunk.parts[-1]
        if tok.text == "then" and not chunk.in_header:
            self.then(tok, prev)
            return True
        if self.dangling:
            return False
        if chunk.in_header:
            odd = tok.text not in EDITS
            if odd and (tok.text.lower() not in EDITS or prev.text in {"@", ","} or prev is chunk.first):
                return False
            self.new_part()
        elif tok.text in EDITS:
            if part.tokens and part.tokens[0].text.lower() in EDITS:
                label = f"`;` or a new line goes before `{tok.text}`"
                self.report("S118", "two edits without `;` between them", tok.span, label)
            self.new_part()
        elif self.starts_statement(i) and not self.stack and not self.says_where(i):
            self.two_statements(tok)
        else:
            return False
        self.append(tok)
        return True

    def then(self, tok: Token, prev: Token) -> None:
        """Start the next edit of a chain."""
        if not self.chunk.parts[-1].tokens and not self.deaf:
            message, hint = "an edit is missing before `then`", A_CHAIN
            if prev.text == ";":
                message, hint = "`;` and `then` are two ways to go on", "leave one of them out"
            self.report("S131", message, tok.span, "", hint)
        elif self.chunk.parts[-1].tokens:
            self.new_part()
            self.chunk.parts[-1].then = tok.span

    def nothing_follows(self) -> None:
        """Report a `then` that nothing follows."""
        part = self.chunk.parts[-1]
        if part.then and self.dangling:
            self.report("S131", "an edit is missing after `then`", part.then, "", A_CHAIN)
            part.then = None

    def semicolon(self, i: int) -> None:
        """`;` keeps the site of an `at` until the end of the line; elsewhere it is a mistake."""
        tok, chunk = self.tokens[i], self.chunk
        nothing_follows = i + 1 == len(self.tokens) or self.tokens[i + 1].fresh
        if chunk.is_at:
            if chunk.in_header:
                chunk.semicolon = tok.span
            self.new_part()
        elif not nothing_follows and self.starts_statement(i + 1):
            self.two_statements(self.tokens[i + 1])
        else:
            if not self.deaf and not chunk.skip:
                hint = "remove it" if nothing_follows else "start a new line"
                self.report("S117", "`;` only goes between the edits of an `at`", tok.span, "", hint)
            self.deaf = True

    def after_block(self, i: int) -> None:
        """What follows the closing brace of a block on its line."""
        tok = self.tokens[i]
        if self.starts_statement(i):
            self.two_statements(tok)
            self.append(tok)
        elif tok.text != ";" and not self.deaf:
            self.report("S117", "something follows the block", tok.span, "a new line goes after }")
            self.deaf = True

    def two_statements(self, tok: Token) -> None:
        if not self.chunk.skip and not self.deaf:
            self.report("S117", "two statements on one line", tok.span, f"`{tok.text}` starts a new line")
        self.finish()

    def excuse(self) -> None:
        """Report an `at` whose edits are not on its line, once."""
        chunk = self.chunk
        if chunk.in_header and not chunk.excused:
            if not chunk.skip and chunk.parts[0].blind == sys.maxsize:
                self.out.diagnostics.append(no_edits(chunk, self.source))
            chunk.excused = True

    def new_part(self) -> None:
        self.deaf = False
        self.nothing_follows()
        if len(self.chunk.parts) == 1 or self.chunk.parts[-1].tokens:
            self.chunk.parts.append(Part())

    def finish(self) -> None:
        self.nothing_follows()
        if self.chunk.parts[0].tokens:
            self.out.chunks.append(self.chunk)
        self.chunk, self.stack, self.deaf = Chunk(), [], False
        self.open.clear()

    # Questions ----------------------------------------------------------------------------------------------

    @property
    def dangling(self) -> bool:
        """Whether the last word was a `then`."""
        part = self.chunk.parts[-1]
        return part.then is not None and not part.tokens

    @property
    def in_block(self) -> bool:
        return len(self.stack) == 1 and self.chunk.block is not None

    def opens_block(self, i: int) -> bool:
        """Whether the `{` opens a block of edits: not that of `L{1,5}`, nor a set after an edit word."""
        prev = self.tokens[i - 1]
        follower = self.tokens[i + 1] if i + 1 < len(self.tokens) else None
        numbers = follower is not None and (follower.kind == "number" or follower.text == "-")
        heads = prev.text == "h" and prev.end == self.tokens[i].start and self.tokens[i - 2].text == "."
        listed = heads or prev.text == "L" or (numbers and prev.text.lower() in {"l", "layer", "layers"})
        if self.stack or not self.chunk.in_header or listed:
            return False
        return prev is not self.chunk.first or (follower is not None and follower.text in EDITS)

    def says_where(self, i: int) -> bool:
        """Whether `at` or `prompt` at `tokens[i]` goes on with an edit: `ablate f1 at prompt`, `@ prompt`."""
        tok, part = self.tokens[i], self.chunk.parts[-1].tokens
        if not part:
            return False
        if tok.text == "at":
            follower = self.tokens[i + 1].text if i + 1 < len(self.tokens) else ""
            if part[0].text == "patch":
                return not (SITE.match(follower) or follower in GLOBAL_SITES or follower == "module")
            return follower in POSITIONS
        return tok.text == "prompt" and (i + 2 >= len(self.tokens) or self.tokens[i + 2].text != "=")

    def starts_statement(self, i: int) -> bool:
        """Whether a statement starts at `tokens[i]`, as two words can tell: `prompt` is also a position.

        `dir` is also a word of targets: `add 2 dir d`; behind a dot any word is a field: `io.prompt`.
        """
        word = self.tokens[i].text
        if (word == "dir" and not self.tokens[i].fresh) or (i and self.tokens[i - 1].text == "."):
            return False
        if word != "prompt" or not self.stack:
            return word in STATEMENTS
        follower = self.tokens[i + 1] if i + 1 < len(self.tokens) else None
        return follower is not None and follower.kind == "word" and follower.text != "except"


def no_edits(chunk: Chunk, source: Source) -> Diagnostic:
    end = chunk.parts[0].end
    header = source.text[chunk.first.start : end]
    hints = (
        (f"write {header} ablate f42", f"or put the edits in a block: {header} {{ ... }}") if len(header) < 60 else ()
    )
    if chunk.block is not None:
        return Diagnostic("S116", "the block has no edits", chunk.block, source)
    label = "an edit is missing here"
    return Diagnostic("S116", "`at` needs an edit on its line", Span(end, end), source, label, hints)
