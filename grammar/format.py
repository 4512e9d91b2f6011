"""Script -> canonical text: one spelling for one meaning, comments and single blank lines kept.

`parse(format_script(s)).script == s`, and formatting twice is formatting once. `format_node` prints a
single node on one line, for messages and for hashes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final

from saedsl.grammar import nodes as n
from saedsl.grammar.source import Source

WIDTH: Final = 100
"""An `at` that is longer becomes a block."""
INDENT: Final = "  "
ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
TIGHTNESS: Final = {"+": 1, "-": 1, "*": 2, "/": 2}


def format_script(script: n.Script, source: Source | None = None) -> str:
    """The canonical text of a script, with a final newline (empty for an empty script).

    Args:
        script: what `parse` returned, or nodes built in Python.
        source: what it was parsed from; without it blank lines are not kept.
    """
    page = _Page(source.text if source else "")
    comments = deque(sorted(script.comments, key=lambda c: c.span.start))
    for statement, follower in zip_longest(script.statements, script.statements[1:]):
        before, inside, behind = _around(statement, follower, comments)
        page.comments(before)
        page.statement(statement, inside)
        page.trailing(behind)
    page.comments(comments)
    return "".join(line + "\n" for line in page.lines)


def format_node(node: n.Node) -> str:
    """The canonical text of one node, on one line; that of an `at` in the one-line form."""
    match node:
        case n.Script(statements):
            return "\n".join(map(format_node, statements))
        case n.At(sites, edits, at):
            return " ".join(filter(None, (_header(sites, at), "; ".join(map(format_node, edits)))))
        case n.ModelDecl() | n.SAEDecl() | n.PromptDecl() | n.LetDecl() | n.Record() | n.RecordItem() | n.Run():
            return _statement(node)
        case n.Generate(prompt, count):
            return f"generate {prompt.id + ' ' if prompt else ''}{_closed(count, sign=False)}"
        case n.Ablate() | n.Amplify() | n.Set() | n.Clamp() | n.Add():
            return _edit(node)
        case n.PosWord() | n.PosIndex() | n.PosToken() | n.PosUnion() | n.PosExcept():
            return _position(node)
        case n.Number() | n.Bound() | n.Binary() | n.Negative():
            return _expr(node)
        case n.Comment(text):
            return text
    return _place(node)


def quote(text: str) -> str:
    """`text` as a string of the language."""
    return '"' + "".join(ESCAPES.get(c) or (c if c.isprintable() else _code(c)) for c in text) + '"'


def number(value: float) -> str:
    """The shortest text that reads back as `value`."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


# Nodes ------------------------------------------------------------------------------------------------------


def _statement(node: n.Node) -> str:
    match node:
        case n.ModelDecl(path):
            return f"model {quote(path)}"
        case n.SAEDecl(name, path, on):
            return f"sae {name} = {quote(path)}" + (f" on {_place(on)}" if on else "")
        case n.PromptDecl(name, text):
            return f"prompt {name} = {quote(text)}"
        case n.LetDecl(name, value):
            return f"let {name} = {format_node(value)}"
        case n.Record(items, at):
            return f"record {_list(items)}{_at(at)}"
        case n.RecordItem(what):
            return _place(what)
        case n.Run(prompts):
            return f"run {_list(prompts)}".rstrip()
    raise TypeError(f"{type(node).__name__} is not a statement")


def _edit(edit: n.Edit) -> str:
    target = _place(edit.target)
    words: tuple[str, ...]
    match edit:
        case n.Ablate():
            words = ("ablate", target)
        case n.Amplify(factor=n.Number(value)) if value >= 0:
            words = ("amplify", target, f"x{number(value)}")
        case n.Amplify(factor=factor):
            words = ("amplify", target, "x", _closed(factor))
        case n.Set(value=value):
            words = ("set", target, "=", _expr(value))
        case n.Clamp(low=low, high=high):
            words = ("clamp", target, "to", f"{_closed(low) if low else ''}..{_closed(high) if high else ''}")
        case n.Add(value=value):
            words = ("add", _closed(value), target)
    return " ".join(filter(None, words)) + _at(edit.at)


def _header(sites: Sequence[n.SiteRef], at: n.Positions | None) -> str:
    return f"at {_list(sites)}{_at(at)}"


def _at(at: n.Positions | None) -> str:
    return f" @ {_position(at)}" if at else ""


def _list(nodes: Sequence[n.Node]) -> str:
    return ", ".join(map(_place, nodes))


def _place(node: n.Node) -> str:
    """Sites, targets and what they are made of."""
    match node:
        case n.Name(name):
            return name
        case n.RecordItem(what):
            return _place(what)
        case n.Features(first, last, of):
            return (f"{_place(of)}." if of else "") + (f"f{first}" if first == last else f"f{first}..{last}")
        case n.FeatureSet(items):
            return "{" + _list(items) + "}"
        case n.AllFeatures():
            return "all"
        case n.WholeSite():
            return ""
        case n.SitePattern(layers, component):
            return f"{_place(layers)}.{component}" if layers else component
        case n.Layers(()):
            return "L*"
        case n.Layers((one,)):
            return f"L{_place(one)}"
        case n.Layers(items):
            return "L{" + _list(items) + "}"
        case n.LayerRange(first, last):
            return f"{first}" if first == last else f"{first}..{last}"
    raise TypeError(f"{type(node).__name__} has no text")


def _position(node: n.Positions) -> str:
    match node:
        case n.PosWord(word):
            return word
        case n.PosIndex(of, first, last):
            return f"{of}[{first}]" if first == last else f"{of}[{first}..{last}]"
        case n.PosToken(text, "one", index):
            return quote(text) + (f"[{index}]" if index is not None else "")
        case n.PosToken(text, which):
            return f"{which} {quote(text)}"
        case n.PosUnion(items):
            return " | ".join(_grouped(i, n.PosUnion, n.PosExcept) for i in items)
        case n.PosExcept(base, removed):
            return f"{_position(base)} except {_grouped(removed, n.PosExcept)}"


def _grouped(node: n.Positions, *looser: type[n.Node]) -> str:
    return f"({_position(node)})" if isinstance(node, looser) else _position(node)


def _expr(node: n.Expr) -> str:
    match node:
        case n.Number(value):
            return number(value)
        case n.Name(name):
            return name
        case n.Bound(name):
            return f"${name}"
        case n.Negative(operand):
            return f"-({_expr(operand)})" if isinstance(operand, n.Binary | n.Number) else f"-{_expr(operand)}"
        case n.Binary(op, left, right):
            tight = TIGHTNESS[op]
            a = f"({_expr(left)})" if isinstance(left, n.Binary) and TIGHTNESS[left.op] < tight else _expr(left)
            b = f"({_expr(right)})" if isinstance(right, n.Binary) and TIGHTNESS[right.op] <= tight else _expr(right)
            return f"{a} {op} {b}"


def _closed(node: n.Expr, *, sign: bool = True) -> str:
    """An expression that words may follow; `sign`: it may start with a minus."""
    negative = isinstance(node, n.Negative) or (isinstance(node, n.Number) and node.value < 0)
    return f"({_expr(node)})" if isinstance(node, n.Binary) or (negative and not sign) else _expr(node)


def _code(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))


# Lines and comments -----------------------------------------------------------------------------------------

Comments = Iterable[n.Comment]


def _around(node: n.Node, follower: n.Node | None, comments: deque[n.Comment]) -> tuple[list[n.Comment], ...]:
    """Take from `comments` those before a node, inside it, and behind it on its last line."""
    before = _take(comments, node.span.start)
    inside = _take(comments, node.span.end)
    behind = (
        comments and not comments[0].own_line and (follower is None or comments[0].span.start < follower.span.start)
    )
    return before, inside, [comments.popleft()] if behind else []


def _take(comments: deque[n.Comment], end: int) -> list[n.Comment]:
    taken = []
    while comments and comments[0].span.start < end:
        taken.append(comments.popleft())
    return taken


class _Page:
    def __init__(self, text: str) -> None:
        self.text = text
        self.lines: list[str] = []
        self.end = -1
        """Where the last thing written ended in the text; -1: nothing to keep a distance from."""

    def write(self, line: str, span: n.Span, indent: str = "") -> None:
        """A line, after a blank one where the text has one."""
        if self.end >= 0 and self.text[self.end : span.start].count("\n") > 1:
            self.lines.append("")
        self.lines.append(indent + line)
        self.end = span.end

    def comments(self, comments: Comments, indent: str = "") -> None:
        for c in comments:
            self.write(c.text, c.span, indent)

    def trailing(self, comments: Comments) -> None:
        for c in comments:
            self.lines[-1] += f"  {c.text}"
            self.end = c.span.end

    def statement(self, node: n.Statement, comments: list[n.Comment]) -> None:
        line = format_node(node)
        if isinstance(node, n.At) and (node.block or (len(line) > WIDTH and len(node.edits) > 1)):
            self.block(node, deque(comments))
            return
        self.hoisted(comments, node.span)
        self.write(line, node.span)

    def hoisted(self, comments: Comments, span: n.Span, indent: str = "") -> None:
        """Comments from inside something that is written on one line, above it."""
        for c in comments:
            self.write(c.text, n.Span(span.start, span.start), indent)

    def block(self, node: n.At, comments: deque[n.Comment]) -> None:
        self.write(_header(node.sites, node.at) + " {", node.span)
        self.end = -1
        if comments and not comments[0].own_line and comments[0].span.start < node.edits[0].span.start:
            self.trailing([comments.popleft()])
            self.end = -1
        for edit, follower in zip_longest(node.edits, node.edits[1:]):
            before, inside, behind = _around(edit, follower, comments)
            self.comments(before, INDENT)
            self.hoisted(inside, edit.span, INDENT)
            self.write(_edit(edit), edit.span, INDENT)
            self.trailing(behind)
        self.comments(comments, INDENT)
        self.lines.append("}")
        self.end = node.span.end
