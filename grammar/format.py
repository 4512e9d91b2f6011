"""Script -> canonical text: one spelling for one meaning, comments and single blank lines kept.

`parse(format_script(s)).script == s`, and formatting twice is formatting once. `format_node` prints a
single node on one line, for messages and for hashes.
"""

from __future__ import annotations

import re
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
KEY: Final = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*", re.ASCII)
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
        case n.At(edits=edits):
            return " ".join(filter(None, (_header(node), "; ".join(map(_edit, edits)))))
        case n.Then() | n.Ablate() | n.Amplify() | n.Set() | n.Clamp() | n.Add() | n.ProjectOut() | n.Patch():
            return _edit(node)
        case n.Freeze() | n.KeepOnly() | n.Apply():
            return _edit(node)
        case n.PosWord() | n.PosIndex() | n.PosToken() | n.PosField() | n.PosName() | n.PosUnion() | n.PosExcept():
            return _position(node)
        case n.Compare() | n.Not() | n.And() | n.Or():
            return _condition(node)
        case n.Number() | n.Bound() | n.Binary() | n.Negative() | n.Call():
            return _expr(node)
        case n.Text(value):
            return quote(value)
        case n.Reference():
            return _replacement(node)
        case n.Comment(text):
            return text
    return _statement(node) or _place(node)


def quote(text: str) -> str:
    """`text` as a string of the language."""
    return '"' + "".join(ESCAPES.get(c) or (c if c.isprintable() else _code(c)) for c in text) + '"'


def number(value: float) -> str:
    """The shortest text that reads back as `value`."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


# Nodes ------------------------------------------------------------------------------------------------------


def _statement(node: n.Node) -> str:
    """Of any statement but `at`; empty for other nodes."""
    match node:
        case n.ModelDecl(path):
            return f"model {quote(path)}"
        case n.SAEDecl(name, path, on, to):
            where = (f" on {_place(on)}" if on else "") + (f" -> {_place(to)}" if to else "")
            return f"sae {name} = {quote(path)}{where}"
        case n.PromptDecl(name, text, chat, system):
            told = f" system {quote(system)}" if system is not None else ""
            return f"prompt {name} = {'chat ' if chat else ''}{quote(text)}{told}"
        case n.PromptsDecl(name, path):
            return f"prompts {name} = {quote(path)}"
        case n.LetDecl(name, value):
            return f"let {name} = {format_node(value)}"
        case n.DirDecl(name, path, key):
            return f"dir {name} = {quote(path)}" + (f".{_key(key)}" if key is not None else "")
        case n.MetricDecl(name, value, at):
            return f"metric {name} = {_expr(value)}{_at(at)}"
        case n.Record(items, at):
            return f"record {_list(items)}{_at(at)}"
        case n.SweepDecl(name, values):
            return f"sweep {name} in {format_node(values)}"
        case n.SweepList(values):
            return "[" + ", ".join(map(_expr, values)) + "]"
        case n.SweepRange(first, last, by):
            return f"{_expr(first)}..{_expr(last)}" + (f" by {_expr(by)}" if by else "")
        case n.Include(path):
            return f"include {quote(path)}"
        case n.Reset():
            return "reset"
        case n.Run(prompts, name, options):
            return _ran(f"run {_list(prompts)}".rstrip(), name, options)
        case n.Generate(prompt, count, name, options):
            before = f"{_place(prompt)} " if prompt else ""
            return _ran(f"generate {before}{_closed(count, sign=False)}", name, options)
        case n.Option(name, value):
            return f"{name} = {_expr(value)}"
    return ""


def _ran(words: str, name: str | None, options: Sequence[n.Option]) -> str:
    named = f" as {name}" if name else ""
    return words + named + (" with " + ", ".join(map(_statement, options)) if options else "")


def _edit(edit: n.Edit | n.Then) -> str:
    words: tuple[str, ...]
    if isinstance(edit, n.Then):
        return " then ".join(map(_edit, edit.edits))
    target = _place(edit.target)
    match edit:
        case n.Ablate(to=to):
            words = ("ablate", target, f"to {_replacement(to)}" if to else "")
        case n.Amplify(factor=n.Number(value)) if value >= 0:
            words = ("amplify", target, f"x{number(value)}")
        case n.Amplify(factor=factor):
            words = ("amplify", target, "x", _closed(factor))
        case n.Set(value=value, unit=unit):
            words = ("set", target, "=", _expr(value), unit)
        case n.Clamp(low=low, high=high, unit=unit):
            between = f"{_closed(low) if low else ''}..{_closed(high) if high else ''}"
            words = ("clamp", target, "to", between, unit)
        case n.Add(value=value, unit=unit):
            words = ("add", _closed(value), unit, target)
        case n.ProjectOut():
            words = ("project out", target)
        case n.Patch(source=source, source_at=source_at, at=at, when=when):
            there = f"at {_position(source_at)}" if source_at else ""
            before = f"{' '.join(filter(None, ('patch', target)))}{_at(at)}"
            return " ".join(filter(None, (before, f"from {_place(source)}", there))) + _when(when)
        case n.Freeze():
            words = ("freeze", target)
        case n.KeepOnly(otherwise=otherwise):
            words = ("keep only", target, f"else {_replacement(otherwise)}" if otherwise else "")
        case n.Apply(name, arguments):
            given = "(" + ", ".join(map(_expr, arguments)) + ")" if arguments else ""
            words = ("apply", name + given, target)
    return " ".join(filter(None, words)) + _at(edit.at) + _when(edit.when)


def _header(node: n.At) -> str:
    return f"at {_list(node.sites)}{_at(node.at)}{_when(node.when)}"


def _at(at: n.Positions | None) -> str:
    return f" @ {_position(at)}" if at else ""


def _when(when: n.Condition | None) -> str:
    return f" when {_condition(when)}" if when else ""


def _replacement(node: n.Reference) -> str:
    return f"{node.kind} of {format_node(node.of)}"


def _condition(node: n.Condition) -> str:
    match node:
        case n.Compare(feature, op, value, unit):
            return " ".join(filter(None, (_place(feature), op, _expr(value), unit)))
        case n.Not(item):
            return f"not {_joined(item, n.And, n.Or)}"
        case n.And(items):
            return " and ".join(_joined(i, n.And, n.Or) for i in items)
        case n.Or(items):
            return " or ".join(_joined(i, n.Or) for i in items)


def _joined(node: n.Condition, *looser: type[n.Node]) -> str:
    return f"({_condition(node)})" if isinstance(node, looser) else _condition(node)


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
            return _numbered("f", first, last, of)
        case n.Heads(first, last, of):
            return _numbered("h", first, last, of)
        case n.Neurons(first, last, of):
            return _numbered("n", first, last, of)
        case n.ErrorTarget(of):
            return f"{_place(of)}.error" if of else "error"
        case n.Direction(name):
            return f"dir {_expr(name)}"
        case n.Field(of_rows, name):
            return f"{of_rows}.{name}"
        case n.ModuleSite(path, side):
            return f"module {quote(path)} {side}"
        case n.FeatureSet(items):
            return "{" + _list(items) + "}"
        case n.AllFeatures():
            return "all"
        case n.WholeSite():
            return ""
        case n.SitePattern(layers, component, heads):
            return (f"{_place(layers)}.{component}" if layers else component) + _heads(heads)
        case n.Layers(()):
            return "L*"
        case n.Layers((one,)):
            return f"L{_place(one)}"
        case n.Layers(items):
            return "L{" + _list(items) + "}"
        case n.LayerRange(first, last):
            return f"{first}" if first == last else f"{first}..{last}"
    raise TypeError(f"{type(node).__name__} has no text")


def _numbered(letter: str, first: int, last: int, of: n.SiteRef | None) -> str:
    own = f"{letter}{first}" if first == last else f"{letter}{first}..{last}"
    return f"{_place(of)}.{own}" if of else own


def _heads(heads: Sequence[n.LayerRange]) -> str:
    match heads:
        case ():
            return ""
        case (one,):
            return f".h{_place(one)}"
    return ".h{" + _list(heads) + "}"


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
        case n.PosField(of_rows, name):
            return f"{of_rows}.{name}"
        case n.PosName(name):
            return name
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
        case n.Call(function, argument):
            return f"{function}({format_node(argument) if argument else ''})"
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


def _key(key: str) -> str:
    return key if KEY.fullmatch(key) else quote(key)


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
        self.write(_header(node) + " {", node.span)
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
