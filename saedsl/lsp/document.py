"""A program in an editor: mostly unfinished, so that everything here works on broken text too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from saedsl import paths
from saedsl.analyse import Given, analyse
from saedsl.anatomy import ModelInfo
from saedsl.binding import bind_dictionaries
from saedsl.errors import ModelError, SaedslError, SAEError
from saedsl.grammar import nodes as n
from saedsl.grammar.parse import MAX_CHARACTERS, parse
from saedsl.grammar.scan import Chunk, Scan, scan
from saedsl.grammar.source import Diagnostic, Source
from saedsl.grammar.tokens import Token
from saedsl.locate import find_model
from saedsl.program import Dictionary
from saedsl.read import read_program
from saedsl.report import Mistake, Report
from saedsl.sae.header import SAEInfo
from saedsl.selection import site_list
from saedsl.sites import Site

if TYPE_CHECKING:
    from saedsl.sae.statistics import Statistics

DECLARING: Final = ("sae", "prompt", "prompts", "let", "dir", "metric", "sweep")
"""Statement words that a declared name follows."""


@dataclass(frozen=True)
class Declaration:
    """Where a name comes from."""

    name: str
    word: str
    """The statement: `let`, `sae` ..."""
    span: n.Span
    """Of the name."""
    line: str
    """The line that declares it."""
    path: Path | None
    """The file, None for an editor's unsaved text."""


@dataclass(frozen=True)
class Document:
    """One text."""

    text: str
    path: Path | None = None
    """The file it is the text of, absolute."""

    @property
    def base(self) -> Path:
        """The folder that its relative paths start from."""
        return self.path.parent if self.path else Path()

    @cached_property
    def source(self) -> Source:
        return Source(self.text, str(self.path) if self.path else "<program>")

    @cached_property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Every mistake, against the program's model and dictionaries; no weight is read."""
        return analyse(self.source, Given(base=self.base), need_prompts=False)[1].diagnostics

    @cached_property
    def scan(self) -> Scan:
        return scan(self.source) if len(self.text) <= MAX_CHARACTERS else Scan()

    def statements(self, *words: str) -> Iterator[tuple[n.Statement, int]]:
        """The statements that start with one of `words` and have no mistake, with the offsets they start at."""
        for chunk in self.scan.chunks:
            if chunk.first.text in words and not chunk.skip:
                start = chunk.first.start
                for s in parse(self.text[start : chunk.end]).script.statements:
                    yield s, start + s.span.start

    @cached_property
    def included(self) -> tuple[Document, ...]:
        """The files that this one includes, and those that they include; what cannot be read is left out."""
        found: dict[Path, Document] = {}
        waiting = [self]
        while waiting:
            doc = waiting.pop()
            for s, _ in doc.statements("include"):
                path = paths.resolved(doc.base / s.path) if isinstance(s, n.Include) else None
                if path is None or path in found or path == self.path:
                    continue
                try:
                    found[path] = Document(read_program(path).text, path)
                except SaedslError:
                    continue
                waiting.append(found[path])
        return tuple(found.values())

    @cached_property
    def own(self) -> Mapping[str, Declaration]:
        """The names that this text declares, the first of each name."""
        found: dict[str, Declaration] = {}
        for chunk in self.scan.chunks:
            tokens = chunk.parts[0].tokens
            if len(tokens) > 1 and tokens[0].text in DECLARING and tokens[1].kind == "word":
                name = tokens[1].text
                stop = self.text.find("\n", tokens[0].start)
                line = self.text[tokens[0].start : stop if stop >= 0 else None].rstrip()
                found.setdefault(name, Declaration(name, tokens[0].text, tokens[1].span, line, self.path))
        return found

    @cached_property
    def declared(self) -> Mapping[str, Declaration]:
        """The names that this text and what it includes declare."""
        found: dict[str, Declaration] = {}
        for doc in (self, *self.included):
            for name, d in doc.own.items():
                found.setdefault(name, d)
        return found

    @cached_property
    def model(self) -> ModelInfo | None:
        """The model that the program names, or the bundled one; None if it cannot be read."""
        name, base = "demo", self.base
        for doc in reversed((self, *self.included)):
            for s, _ in doc.statements("model"):
                if isinstance(s, n.ModelDecl):
                    name, base = s.path, doc.base
        try:
            return ModelInfo.read(find_model(name, base), name)
        except ModelError:
            return None

    @cached_property
    def dictionaries(self) -> Mapping[str, Dictionary]:
        """The dictionaries that are bound, by name."""
        if self.model is None:
            return {}
        found: dict[str, Dictionary] = {}
        for doc in (self, *self.included):
            own = [s for s, _ in doc.statements("sae")]
            try:
                bound = bind_dictionaries(own, self.model, {}, doc.base, Report(doc.source))
            except SAEError:
                continue
            for name, d in bound.dictionaries.items():
                if doc is self or not d.bundled:
                    found.setdefault(name, d)
        return found

    def chunk_at(self, offset: int) -> Chunk | None:
        """The statement that `offset` is in, or directly behind."""
        return next((c for c in self.scan.chunks if c.first.start <= offset <= c.end), None)

    def token_at(self, offset: int) -> Token | None:
        """The word, number or string at `offset`, or directly before it."""
        chunk = self.chunk_at(offset)
        near = [t for p in (chunk.parts if chunk else ()) for t in p.tokens if t.start <= offset <= t.end]
        inside = (t for t in near if offset < t.end)
        return next(inside, next((t for t in near if t.kind != "punct"), None))

    def header_dictionary(self, offset: int) -> Dictionary | None:
        """The dictionary that a bare `f42` at `offset` belongs to: the only one at the first site of its `at`."""
        chunk = self.chunk_at(offset)
        if chunk is None or not chunk.is_at:
            return None
        head = chunk.parts[0]
        read = parse(self.text[head.tokens[0].start : head.end] + " ablate").script.statements
        site = read[0].sites[0] if read and isinstance(read[0], n.At) else None
        return self.dictionary_of(site)

    def dictionary_of(self, site: n.SiteRef | None) -> Dictionary | None:
        """The dictionary of that name, or the only one that writes at that site."""
        if isinstance(site, n.Name):
            return self.dictionaries.get(site.id)
        if isinstance(site, n.SitePattern) and self.model is not None:
            try:
                sites = site_list(site, self.model)
            except Mistake:
                return None
            found = [d for d in self.dictionaries.values() if sites and d.write == sites[0]]
            return found[0] if len(found) == 1 else None
        return None

    def dictionary_named(self, text: str) -> Dictionary | None:
        """The dictionary of a qualifier: `g`, `L2.mlp`."""
        if text in self.dictionaries:
            return self.dictionaries[text]
        try:
            site = Site.parse(text)
        except ValueError:
            return None
        found = [d for d in self.dictionaries.values() if d.write == site]
        return found[0] if len(found) == 1 else None


def labels(info: SAEInfo) -> Mapping[int, str]:
    """What people call the features: `labels.json` beside the weights, `{"42": "countries"}`; empty without one."""
    if info.path is None:
        return {}
    try:
        data = json.loads((info.path / "labels.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    items = data.items() if isinstance(data, dict) else ()
    return {int(k): v for k, v in items if k.isascii() and k.isdigit() and isinstance(v, str)}


def statistics(info: SAEInfo) -> Statistics | None:
    """What a dictionary's folder says of its features, if anything."""
    return None if info.statistics is None else _statistics(info)


@lru_cache(maxsize=32)
def _statistics(info: SAEInfo) -> Statistics | None:
    from saedsl.sae.statistics import read_statistics

    try:
        return read_statistics(info)
    except SAEError:
        return None
