"""What is at the cursor: a site, a feature, a name, a word of the language."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saedsl.errors import SAEError
from saedsl.grammar.nodes import Span
from saedsl.grammar.tokens import Token
from saedsl.grammar.words import COMPONENT_ALIASES, EDITS, STATEMENTS
from saedsl.locate import find_sae
from saedsl.lsp.document import Document
from saedsl.lsp.features import describe
from saedsl.lsp.meanings import FORMULAS, component, meaning, option
from saedsl.sae.header import SAEInfo
from saedsl.sites import Site

DOTTED: Final = re.compile(
    r"""L(?P<layer>-?\d+)\.(?P<component>[a-z_]+(?:\.(?:raw|in|z|act|q|k|v|pattern))?)(?:\.(?P<part>[fhn]\d+|error))?
      | (?P<name>(?![fhn]\d)[^\W\d]\w*)(?:\.(?P<own>f\d+|\w+))?
      | f(?P<feature>\d+)""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Hover:
    """What is said of a place."""

    markdown: str
    span: Span


def hover(doc: Document, offset: int) -> Hover | None:
    """What is at `offset`; None where there is nothing to say."""
    token = doc.token_at(offset)
    if token is None:
        return None
    if token.kind in ("string", "quoted"):
        said = _string(doc, token)
        return Hover(said, token.span) if said else None
    line = max(doc.text.rfind("\n", 0, token.start), doc.text.rfind("\r", 0, token.start)) + 1
    for m in DOTTED.finditer(doc.text, line):
        if m.start() > offset:
            return None
        if offset < m.end() or offset == m.end() == token.end:
            said = _said(doc, m, token)
            return Hover(said, Span(*m.span())) if said else None
    return None


def _said(doc: Document, m: re.Match[str], token: Token) -> str:
    if m["layer"] is not None:
        return _site(doc, m)
    if m["feature"] is not None:
        d = doc.header_dictionary(token.start)
        return describe(d, int(m["feature"])) if d and len(m["feature"]) < 12 else ""
    word, own = m["name"], m["own"]
    d = doc.dictionaries.get(word)
    if own and d and re.fullmatch(r"f\d{1,11}", own):
        return describe(d, int(own[1:]))
    if word in doc.declared and not _starts(doc, token):
        declared = doc.declared[word]
        where = f" in {declared.path.name}" if declared.path and declared.path != doc.path else ""
        return f"```saedsl\n{declared.line}\n```\n\n{STATEMENTS[declared.word]}{where}"
    if word in FORMULAS and _starts(doc, token):
        return f"**{word}**: {EDITS[word]}\n\n`{FORMULAS[word]}`"
    if _starts(doc, token) and word in STATEMENTS:
        return f"**{word}**: {STATEMENTS[word]}"
    said = meaning(word) or option(word)
    return f"**{word}**: {said}" if said else ""


def _starts(doc: Document, token: Token) -> bool:
    """Whether the token is the first of a statement or of an edit."""
    chunk = doc.chunk_at(token.start)
    return chunk is not None and any(p.tokens and p.tokens[0] == token for p in chunk.parts)


def _site(doc: Document, m: re.Match[str]) -> str:
    name = COMPONENT_ALIASES.get(m["component"], m["component"])
    said = component(name)
    if not said or doc.model is None or len(m["layer"]) > 6:
        return ""
    layer = int(m["layer"])
    site = Site(layer + doc.model.n_layers if layer < 0 else layer, name)
    if site not in doc.model.sites:
        return f"**{site}**: this model has {doc.model.n_layers} layers: L0..L{doc.model.n_layers - 1}"
    lines = [
        f"**{site}**: {said}",
        f"module `{doc.model.hook_point(site)}`, width {doc.model.width(site)}",
    ]
    lines += [f"dictionary `{d.name}`: {d.info.d_sae} features" for d in doc.dictionaries.values() if d.write == site]
    part = m["part"] or ""
    d = doc.dictionary_named(str(site))
    if part.startswith("f") and d is not None and len(part) < 12:
        lines.append(describe(d, int(part[1:])))
    return "\n\n".join(lines)


def _string(doc: Document, token: Token) -> str:
    """What the file of a string holds, where it names one."""
    chunk = doc.chunk_at(token.start)
    if chunk is None or chunk.first.text != "sae":
        return ""
    try:
        info = SAEInfo.read(find_sae(token.text.strip("\"'"), doc.base))
    except SAEError as e:
        return str(e)
    c = info.config
    read, write = (
        ", ".join(map(str, several)) or str(one)
        for several, one in ((c.input_sites, c.input_site), (c.output_sites, c.output_site))
    )
    where = f" at {read}" if read == write else f" from {read} to {write}"
    counted = "with statistics" if info.statistics else "no statistics: saedsl stats counts them"
    return f"{c.activation} {c.kind}{where}: {c.d_sae} features, d_in {c.d_in}, {counted}"


@dataclass(frozen=True)
class Target:
    """Where something is declared."""

    path: Path | None
    """None: in the same text."""
    span: Span
    """In that file's text."""
    text: str
    """That file's text; empty for a file that is opened at its start."""


def definition(doc: Document, offset: int) -> Target | None:
    """Where the name at `offset` is declared, or the file that a string names."""
    token = doc.token_at(offset)
    if token is None:
        return None
    if token.kind in ("string", "quoted"):
        chunk = doc.chunk_at(offset)
        word = chunk.first.text if chunk else ""
        path = doc.base / token.text.strip("\"'")
        if word in ("sae", "dir", "model", "prompts", "include"):
            if word == "sae":
                try:
                    path = find_sae(token.text.strip("\"'"), doc.base)
                except SAEError:
                    return None
            found = next((p for p in (path / "cfg.json", path / "config.json", path) if os.path.isfile(p)), None)
            return Target(found.resolve(), Span(0, 0), "") if found is not None else None
        return None
    declared = doc.declared.get(token.text.removeprefix("$"))
    if declared is None:
        return None
    home = next((d for d in doc.included if d.path == declared.path), None)
    if home is None or declared.path == doc.path:
        return Target(None, declared.span, doc.text)
    return Target(declared.path, declared.span, home.text)
