"""The language server: `saedsl.lsp`'s answers in the words of the Language Server Protocol, over pygls."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Final

from lsprotocol import types as t
from pygls import uris
from pygls.lsp.server import LanguageServer

from saedsl import __version__, paths
from saedsl.errors import ProgramError
from saedsl.grammar.format import format_script
from saedsl.grammar.nodes import Include, Span
from saedsl.grammar.parse import parse_or_raise
from saedsl.grammar.source import Diagnostic
from saedsl.lsp.complete import Item, complete
from saedsl.lsp.document import Document
from saedsl.lsp.hover import definition, hover
from saedsl.lsp.lines import Encoding, Lines
from saedsl.lsp.mend import mend

PAUSE: Final = 0.15
"""Seconds without a change after which a program is checked."""
CALLERS: Final = frozenset({"S204"})
"""Codes of what a program leaves to its caller: `$name` has no value while it is written."""
SEVERITIES: Final = {
    "error": t.DiagnosticSeverity.Error,
    "warning": t.DiagnosticSeverity.Warning,
    "note": t.DiagnosticSeverity.Information,
}
KINDS: Final = {
    "keyword": t.CompletionItemKind.Keyword,
    "name": t.CompletionItemKind.Variable,
    "site": t.CompletionItemKind.Module,
    "feature": t.CompletionItemKind.Value,
    "option": t.CompletionItemKind.Property,
    "field": t.CompletionItemKind.Field,
}


class Server(LanguageServer):
    """Documents as last seen, checked a moment after each change."""

    def __init__(self) -> None:
        # whole texts: an editor's lines end where the protocol says, not where Python's splitlines says
        super().__init__("saedsl", __version__, text_document_sync_kind=t.TextDocumentSyncKind.Full)
        self.documents: dict[str, Document] = {}
        self.waiting: dict[str, asyncio.Task[None]] = {}
        self.checker = ThreadPoolExecutor(max_workers=1)

    def document(self, uri: str) -> Document:
        """The text of `uri` now; the same object while the text is the same."""
        text = self.workspace.get_text_document(uri).source
        known = self.documents.get(uri)
        if known is None or known.text != text:
            name = uris.to_fs_path(uri) if uri.startswith("file:") else None
            known = self.documents[uri] = Document(text, Path(name).resolve() if name else None)
        return known

    def lines(self, text: str) -> Lines:
        """Places in `text`, in the units agreed upon with the editor."""
        encoding: Encoding = "utf-16"
        agreed = str(getattr(self.workspace.position_encoding, "value", self.workspace.position_encoding))
        if agreed == "utf-8":
            encoding = "utf-8"
        elif agreed == "utf-32":
            encoding = "utf-32"
        return Lines(text, encoding)

    def range(self, text: str, span: Span) -> t.Range:
        """A span of a text as the protocol says it."""
        lines = self.lines(text)
        return t.Range(t.Position(*lines.place(span.start)), t.Position(*lines.place(span.end)))

    def offset(self, doc: Document, position: t.Position) -> int:
        """The offset of a place."""
        return self.lines(doc.text).offset(position.line, position.character)

    def check(self, uri: str) -> None:
        """Check the text of `uri` once it has not changed for a moment."""
        if (old := self.waiting.pop(uri, None)) is not None:
            old.cancel()
        self.waiting[uri] = asyncio.ensure_future(self._check(uri))

    async def _check(self, uri: str) -> None:
        await asyncio.sleep(PAUSE)
        doc = self.document(uri)
        version = self.workspace.get_text_document(uri).version
        found = await asyncio.get_running_loop().run_in_executor(self.checker, lambda: doc.diagnostics)
        if self.documents.get(uri) is doc:
            self.text_document_publish_diagnostics(
                t.PublishDiagnosticsParams(uri, [self.diagnostic(doc, d) for d in found], version)
            )

    def diagnostic(self, doc: Document, d: Diagnostic) -> t.Diagnostic:
        """A mistake as the protocol says it; one of an included file is shown where the file is included."""
        source, offset = d.source.locate(d.span.start)
        span, message = d.span, d.message if not d.label else f"{d.message}: {d.label}"
        if source.text != doc.text or offset != d.span.start:
            line, column = source.place(offset)
            message = f"{source.name}:{line}:{column}: {message}"
            span = _including(doc, Path(source.name))
        severity = t.DiagnosticSeverity.Information if d.code in CALLERS else SEVERITIES[d.severity]
        return t.Diagnostic(
            self.range(doc.text, span),
            "\n".join([message, *(f"help: {hint}" for hint in d.hints)]),
            severity=severity,
            code=d.code,
            code_description=t.CodeDescription(page(d.code)),
            source="saedsl",
        )


def _including(doc: Document, path: Path) -> Span:
    """The `include` that brings `path` in; the first one for a file that an included file includes."""
    found = [(s, at) for s, at in doc.statements("include") if isinstance(s, Include)]
    direct = [at for s, at in found if paths.resolved(doc.base / s.path) == path.resolve()]
    at = next(iter(direct or [at for _, at in found]), None)
    return Span(0, 0) if at is None else Span(at, at + len("include"))


def page(code: str) -> str:
    """The address of the section that explains a code."""
    path = Path(str(files("saedsl.grammar").joinpath("DIAGNOSTICS.md")))
    return f"{path.resolve().as_uri()}#{code.lower()}"


def make_server() -> Server:
    """A server with all it can do; `start_io` runs it."""
    server = Server()

    @server.feature(t.TEXT_DOCUMENT_DID_OPEN)
    async def opened(ls: Server, p: t.DidOpenTextDocumentParams) -> None:
        ls.check(p.text_document.uri)

    @server.feature(t.TEXT_DOCUMENT_DID_CHANGE)
    async def changed(ls: Server, p: t.DidChangeTextDocumentParams) -> None:
        ls.check(p.text_document.uri)

    @server.feature(t.TEXT_DOCUMENT_DID_SAVE)
    async def saved(ls: Server, p: t.DidSaveTextDocumentParams) -> None:
        for uri in list(ls.documents):  # whoever includes the saved file is checked again
            del ls.documents[uri]
            ls.check(uri)

    @server.feature(t.TEXT_DOCUMENT_DID_CLOSE)
    async def closed(ls: Server, p: t.DidCloseTextDocumentParams) -> None:
        uri = p.text_document.uri
        if (task := ls.waiting.pop(uri, None)) is not None:
            task.cancel()
        ls.documents.pop(uri, None)
        ls.text_document_publish_diagnostics(t.PublishDiagnosticsParams(uri, []))

    @server.feature(t.TEXT_DOCUMENT_COMPLETION, t.CompletionOptions(trigger_characters=[".", "@", "$"]))
    def completions(ls: Server, p: t.CompletionParams) -> t.CompletionList:
        doc = ls.document(p.text_document.uri)
        items = complete(doc, ls.offset(doc, p.position))
        return t.CompletionList(is_incomplete=True, items=[_item(ls, doc, i, n) for n, i in enumerate(items)])

    @server.feature(t.TEXT_DOCUMENT_HOVER)
    def hovered(ls: Server, p: t.HoverParams) -> t.Hover | None:
        doc = ls.document(p.text_document.uri)
        found = hover(doc, ls.offset(doc, p.position))
        if found is None:
            return None
        return t.Hover(t.MarkupContent(t.MarkupKind.Markdown, found.markdown), ls.range(doc.text, found.span))

    @server.feature(t.TEXT_DOCUMENT_DEFINITION)
    def defined(ls: Server, p: t.DefinitionParams) -> t.Location | None:
        uri = p.text_document.uri
        doc = ls.document(uri)
        target = definition(doc, ls.offset(doc, p.position))
        if target is None:
            return None
        return t.Location(target.path.as_uri() if target.path else uri, ls.range(target.text, target.span))

    @server.feature(t.TEXT_DOCUMENT_FORMATTING)
    def formatted(ls: Server, p: t.DocumentFormattingParams) -> list[t.TextEdit] | None:
        doc = ls.document(p.text_document.uri)
        try:
            text = format_script(parse_or_raise(doc.source), doc.source)
        except ProgramError:
            return None  # the mistakes are shown already
        return [] if text == doc.text else [t.TextEdit(ls.range(doc.text, Span(0, len(doc.text))), text)]

    @server.feature(t.TEXT_DOCUMENT_CODE_ACTION, t.CodeActionOptions([t.CodeActionKind.QuickFix]))
    def mended(ls: Server, p: t.CodeActionParams) -> list[t.CodeAction]:
        doc = ls.document(p.text_document.uri)
        start, end = ls.offset(doc, p.range.start), ls.offset(doc, p.range.end)
        actions = []
        for d in doc.diagnostics:
            if d.span.start <= end and start <= d.span.end and (m := mend(doc, d)) is not None:
                edit = t.TextEdit(ls.range(doc.text, m.span), m.text)
                actions.append(
                    t.CodeAction(
                        m.title,
                        kind=t.CodeActionKind.QuickFix,
                        diagnostics=[ls.diagnostic(doc, d)],
                        edit=t.WorkspaceEdit({p.text_document.uri: [edit]}),
                    )
                )
        return actions

    return server


def _item(ls: Server, doc: Document, item: Item, order: int) -> t.CompletionItem:
    return t.CompletionItem(
        item.text,
        kind=KINDS[item.kind],
        detail=item.detail or None,
        documentation=item.documentation or None,
        sort_text=f"{order:05d}",
        filter_text=item.text,
        text_edit=t.TextEdit(ls.range(doc.text, item.span), item.text),
    )
