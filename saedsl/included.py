"""`include`: the statements of other files in the place of the statement that names them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from saedsl import paths
from saedsl.errors import ModelError, SaedslError, SAEError
from saedsl.grammar import nodes as n
from saedsl.grammar.parse import Parsed, parse
from saedsl.grammar.source import Source
from saedsl.locate import find_model, find_sae
from saedsl.read import read_program
from saedsl.report import Report
from saedsl.unread import Unread, unread

MAX_FILES: Final = 200
MAX_CHARACTERS: Final = 4_000_000
"""Of a program with all that it includes."""

N = TypeVar("N", bound=n.Node)


@dataclass(frozen=True)
class Whole:
    """A program with what it includes in its place."""

    statements: tuple[n.Statement | Unread, ...]
    """In the order in which they count; no `include` among them."""
    broken: frozenset[str] = frozenset()
    """Names that statements with mistakes declare."""
    missing: bool = False
    """An included file could not be read: what it declares is not known."""

    @property
    def good(self) -> tuple[n.Statement, ...]:
        """The statements that could be read."""
        return tuple(s for s in self.statements if not isinstance(s, Unread))

    @property
    def lost(self) -> list[Unread]:
        """Those that could not."""
        return [s for s in self.statements if isinstance(s, Unread)]


def whole_program(parsed: Parsed, base: Path, report: Report) -> Whole:
    """A program with the statements of the files that it includes.

    Args:
        parsed: the program's own text; its diagnostics are the caller's to report.
        base: its folder.
        report: where mistakes go: S326, and those of syntax in the included files. Its source is extended by them.
    """
    own = base / Path(parsed.source.name).name
    reader = _Reader(base, report)
    found = reader.statements(parsed, 0, base, (own.resolve(),) if own.is_file() else ())
    return Whole(tuple(found), parsed.broken | reader.broken, reader.missing)


class _Reader:
    """Reads files as they are named; nothing is read twice as part of itself."""

    def __init__(self, base: Path, report: Report) -> None:
        self.base, self.report = base, report
        self.broken: set[str] = set()
        self.missing = False
        self.files = 0

    def statements(
        self, parsed: Parsed, offset: int, folder: Path, above: tuple[Path, ...]
    ) -> list[n.Statement | Unread]:
        """The statements of one file, in order, with spans behind those of the files that were read before.

        Args:
            parsed: the file.
            offset: where its text starts in the report's source.
            folder: what paths in it start from.
            above: the files that include it, and itself.
        """
        lost = unread(parsed)
        gone = {u.span.start for u in lost}
        good = [s for s in parsed.script.statements if s.span.start not in gone]
        found: list[n.Statement | Unread] = []
        for s in sorted([*good, *parsed.headers, *lost], key=lambda s: s.span.start):
            if isinstance(s, Unread):
                found.append(replace(s, span=_moved(s.span, offset)))
                self.missing |= s.word == "include"
                continue
            s = shifted(s, offset) if offset else s
            if isinstance(s, n.Include):
                found += self.included(s, folder, above)
            else:
                found.append(_from(s, folder, self.base) if folder != self.base else s)
        return found

    def included(self, s: n.Include, folder: Path, above: tuple[Path, ...]) -> list[n.Statement | Unread]:
        """The statements of an included file; none, and `missing`, if it cannot be read."""
        path = folder / paths.written(s.path)
        real = paths.resolved(path)
        problem, hints = None, []
        if real in above:
            chain = " -> ".join(p.name for p in (*above[above.index(real) :], path))
            problem, hints = f"this file includes itself: {chain}", ["leave one of these includes out"]
        elif self.files == MAX_FILES:
            problem = f"a program can include {MAX_FILES} files at most"
        else:
            try:
                source = read_program(path)
            except SaedslError as e:
                problem = f"this file cannot be included: {e}"
                hints = ["paths are relative to the file that says them"]
            else:
                if len(self.report.source.text) + len(source.text) > MAX_CHARACTERS:
                    problem = f"a program and what it includes have {MAX_CHARACTERS:,} characters at most"
        if problem is not None:
            self.missing = True
            if not self.report.damaged(s.span):
                self.report.error("S326", problem, s.path_span, hints=hints)
            return []
        self.files += 1
        self.report.source, offset = self.report.source.with_part(source)
        parsed = parse(source)
        self.report.extend(parsed.diagnostics, offset)
        self.broken |= parsed.broken
        return self.statements(parsed, offset, path.parent, (*above, real))


def shifted(node: N, offset: int) -> N:
    """A node with every span in it moved by `offset`."""
    changes: dict[str, Any] = {}
    for name, value in vars(node).items():
        if isinstance(value, n.Span):
            changes[name] = _moved(value, offset) if value != n.NOWHERE else value
        elif isinstance(value, n.Node):
            changes[name] = shifted(value, offset)
        elif isinstance(value, tuple):
            changes[name] = tuple(shifted(v, offset) if isinstance(v, n.Node) else v for v in value)
    return replace(node, **changes)


def _moved(span: n.Span, offset: int) -> n.Span:
    return n.Span(span.start + offset, span.end + offset)


def _from(node: N, folder: Path, base: Path) -> N:
    """A statement of a file in `folder`, with its paths as seen from `base` where there is something of that name."""
    match node:
        case n.ModelDecl() | n.SAEDecl() | n.PromptsDecl() | n.DirDecl():
            return replace(node, path=_seen(node.path, folder, base))
        case n.Reference(of=n.Text() as text):
            return replace(node, of=replace(text, value=_seen(text.value, folder, base)))
    changes: dict[str, Any] = {}
    for name, value in vars(node).items():
        if isinstance(value, tuple) and any(isinstance(v, n.Edit | n.Then) for v in value):
            changes[name] = tuple(_from(v, folder, base) for v in value)
        elif isinstance(value, n.Reference):
            changes[name] = _from(value, folder, base)
    return replace(node, **changes) if changes else node


def _seen(path: str, folder: Path, base: Path) -> str:
    given = paths.written(path)
    if given.is_absolute() or paths.existing(given, folder) != folder / given:
        return path
    try:
        return str((folder / given).relative_to(base))
    except ValueError:
        return str((folder / given).resolve())


def fetch_declared(source: Source, base: Path, model: bool = True) -> None:
    """Download what a program, or a file it includes, names on the hub; mistakes are left to the check.

    Args:
        source: the program.
        base: where relative paths start.
        model: whether its model is downloaded too.
    """
    for s in whole_program(parse(source), base, Report(source)).good:
        if isinstance(s, n.ModelDecl) and model:
            with suppress(ModelError):
                find_model(s.path, base, download=True)
        elif isinstance(s, n.SAEDecl):
            with suppress(SAEError):
                find_sae(s.path, base, download=True)
