"""What may stand at the cursor: the parser says which words it would take there, the program which names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from lark import TextSlice, UnexpectedInput

from saedsl.errors import SAEError
from saedsl.grammar.nodes import PromptsDecl, Span
from saedsl.grammar.parse import RULES, grammar
from saedsl.grammar.pieces import Mistake
from saedsl.grammar.scan import Chunk, Part, scan
from saedsl.grammar.source import Source
from saedsl.grammar.words import COMPONENTS, EDITS, FUNCTIONS, GLOBAL_SITES, MODES, OPTIONS, STATEMENTS
from saedsl.lsp.document import DECLARING, Document, labels
from saedsl.lsp.features import numbers_of
from saedsl.lsp.meanings import TABLES, meaning
from saedsl.program import Dictionary

Kind = Literal["keyword", "name", "site", "feature", "option", "field"]

CURSOR: Final = "zzcursor"
"""Stands for the word that is being written."""
PREFIX: Final = re.compile(r"(?:L\*\.|\$?\w)[\w.]*$")
FEATURE: Final = re.compile(r"(?:(.+)\.)?(?:f\d*)?$")
LAYERED: Final = re.compile(r"(L(?:-?\d+(?:\.\.-?\d+)?|\*))\.[a-z_.]*$")
MOST: Final = 200
"""Completions of one kind; more are cut, those that begin as the text does first."""

WORDS: Final = {w.upper(): (w,) for table in TABLES for w in table} | {
    "GLOBAL": tuple(GLOBAL_SITES),
    "TOKEN_FUNCTION": ("logit", "prob", "logprob"),
    "RUN_FUNCTION": ("kl", "ce"),
}
"""Terminal -> its words."""


@dataclass(frozen=True)
class Item:
    """One completion."""

    text: str
    kind: Kind
    detail: str
    """One line."""
    span: Span
    """What it replaces."""
    documentation: str = ""


def complete(doc: Document, offset: int) -> list[Item]:
    """What may be written at `offset`, the part of a word before it included; empty in strings and comments."""
    if _in_text(doc, offset):
        return []
    found = PREFIX.search(doc.text[:offset])
    prefix = found[0] if found else ""
    start = offset - len(prefix)
    words = scan(Source(doc.text[:start] + CURSOR))
    chunk = words.chunks[-1] if words.chunks else None
    part = chunk.parts[-1] if chunk else None
    if chunk is None or part is None or not part.tokens or part.tokens[-1].text != CURSOR or chunk.skip:
        return []
    span = Span(start, offset)
    items = [i for i in _here(doc, chunk, part, prefix, span) if i.text.startswith(prefix)]
    unique = {i.text: i for i in reversed(items)}
    return list(reversed(unique.values()))


def _in_text(doc: Document, offset: int) -> bool:
    """Whether `offset` is inside a string or a comment."""
    line = max(doc.text.rfind("\n", 0, offset), doc.text.rfind("\r", 0, offset)) + 1
    before = doc.text[line:offset]
    quoted = False
    i = 0
    while i < len(before):
        char = before[i]
        if quoted and char == "\\":
            i += 1
        elif char == '"':
            quoted = not quoted
        elif char == "#" and not quoted:
            return True
        i += 1
    return quoted


def _here(doc: Document, chunk: Chunk, part: Part, prefix: str, span: Span) -> Iterator[Item]:
    first = part.tokens[0]
    in_header = part is chunk.parts[0]
    if first.text == CURSOR:
        table = STATEMENTS if in_header else EDITS
        yield from (Item(w, "keyword", said, span) for w, said in table.items())
        return
    rule = RULES.get(first.text) if in_header or first.text in EDITS else None
    if rule is None:
        return
    taken = accepts(doc.text, first.start, span.start, rule)
    if not taken:
        return
    if "$END" in taken and chunk.is_at:
        more = EDITS if in_header else {"then": meaning("then")}
        yield from (Item(w, "keyword", said, span) for w, said in more.items())
    for terminal in sorted(taken):
        for word in WORDS.get(terminal, ()):
            said = FUNCTIONS[word] if terminal.endswith("FUNCTION") else meaning(word)
            yield Item(word, "keyword", said, span)
    previous = part.tokens[-2].text
    if {"LAYER", "COMPONENT"} & taken:
        yield from _sites(doc, prefix, span)
    if "NAME" in taken and previous not in (*DECLARING, "as"):
        options = first.text in ("run", "generate") and any(t.text == "with" for t in part.tokens)
        yield from _options(part, span) if options else _names(doc, span)
    if {"FEATURE", "FIELD", "DOT"} & taken or "NAME" in taken:
        yield from _dotted(doc, prefix, span, "FEATURE" in taken)


def accepts(text: str, start: int, stop: int, rule: str) -> frozenset[str]:
    """The terminals that the parser would take at `stop`, after text[start:stop]; none if that has a mistake."""
    try:
        parser: Any = grammar().parse_interactive(TextSlice(text, start, stop), start=rule)
        for _ in parser.iter_parse():
            pass
        return frozenset(parser.accepts())
    except (UnexpectedInput, Mistake):
        return frozenset()


def _sites(doc: Document, prefix: str, span: Span) -> Iterator[Item]:
    layered = LAYERED.match(prefix)
    n = doc.model.n_layers if doc.model else 0
    if layered and n and any(int(i) >= n for i in re.findall(r"\d{1,9}", layered[1])):
        return
    if layered:
        yield from (Item(f"{layered[1]}.{c}", "site", said, span) for c, said in COMPONENTS.items())
    elif doc.model is not None:
        sites = (s for s in doc.model.sites if s.layer is not None and str(s).startswith(prefix))
        for site, _ in zip(sites, range(MOST), strict=False):
            yield Item(str(site), "site", COMPONENTS.get(site.component, ""), span)


def _names(doc: Document, span: Span) -> Iterator[Item]:
    for name, d in doc.declared.items():
        yield Item(name, "name", d.line, span)


def _options(part: Part, span: Span) -> Iterator[Item]:
    before = [t.text for t in part.tokens[:-1]]
    if before[-2:] == ["mode", "="]:
        yield from (Item(w, "option", said, span) for w, said in MODES.items())
    elif before[-1] != "=":
        yield from (Item(w, "option", said, span) for w, said in OPTIONS.items())


def _dotted(doc: Document, prefix: str, span: Span, feature: bool) -> Iterator[Item]:
    """Features, behind `g.` or `f`; fields, behind the name of a file of prompts; components, of a swept layer."""
    match = FEATURE.match(prefix)
    owner = match[1] if match else prefix.rpartition(".")[0]
    if match and (prefix.endswith(".") or "f" in prefix.rpartition(".")[2]):
        d = doc.dictionary_named(owner) if owner else doc.header_dictionary(max(0, span.start - 1)) if feature else None
        if d is not None:
            yield from _features(d, f"{owner}." if owner else "", prefix, span)
    declared = doc.declared.get(prefix.partition(".")[0])
    if declared is not None and "." in prefix:
        if declared.word == "sweep":
            yield from (Item(f"{declared.name}.{c}", "site", said, span) for c, said in COMPONENTS.items())
        if declared.word == "prompts":
            yield from (
                Item(f"{declared.name}.{f}", "field", "of every row", span) for f in _fields(doc, declared.name)
            )


def _features(d: Dictionary, owner: str, prefix: str, span: Span) -> Iterator[Item]:
    named = labels(d.info)
    ids: Iterable[int] = [*named, *(i for i in range(d.info.d_sae) if i not in named)]
    texts = ((i, f"{owner}f{i}") for i in ids if i < d.info.d_sae)
    for (i, text), _ in zip(((i, t) for i, t in texts if t.startswith(prefix)), range(MOST), strict=False):
        yield Item(text, "feature", named.get(i, ""), span, numbers_of(d, i))


def _fields(doc: Document, name: str) -> list[str]:
    """The fields of the rows of a file of prompts, as its first row has them."""
    import json

    for some in (doc, *doc.included):
        for s, _ in some.statements("prompts"):
            if isinstance(s, PromptsDecl) and s.name == name:
                try:
                    with (some.base / s.path).open(encoding="utf-8") as file:
                        row = json.loads(file.readline(1_000_000))
                except (OSError, ValueError, RecursionError, SAEError):
                    return []
                places = row.get("positions") if isinstance(row, dict) else None
                fields = [k for k, v in row.items() if isinstance(v, str)] if isinstance(row, dict) else []
                return [*fields, *(places if isinstance(places, dict) else ())]
    return []
