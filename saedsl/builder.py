"""Programs from Python: `saedsl.script()`, a method for every statement and edit of the language.

    s = saedsl.script()
    s.prompt("fr", "The capital of France is")
    s.at("L2.mlp", positions="prompt[-1]").ablate("f42").amplify("f7", 2)
    s.run("fr")
    model.run(s)

Every call says one statement or edit, whose parts are spelled as in the language (`"f3..9"`, `"prompt[-1] | gen"`), or
are numbers and lists; it is read at once by the language's own parser. What comes out is a program's text (`s.text`),
so that the two have one meaning and one hash. A mistake is shown at the line of the call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from os import PathLike, fspath
from typing import Any, Final, Literal, SupportsFloat

from saedsl.callers import Call, caller
from saedsl.errors import ProgramError
from saedsl.grammar import nodes as n
from saedsl.grammar.format import number, quote
from saedsl.grammar.nodes import Span
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Diagnostic, Source

Value = str | SupportsFloat
"""A number, or text: the name of a `let` or a sweep, `$k`, `2 * strength`."""
Features = str | int | Sequence[str | int]
"""What an edit changes: `"f42"`, `42`, `"f3..9"`, `["f1", "f8"]`, `"h3"`, `"n17"`, `"dir d"`, `"error"`, `"all"`."""
Where = str | Sequence[str]
"""Positions: `"prompt[-1]"`; of several, any."""
Path = str | PathLike[str]
Unit = Literal["max", "std", "norm"]
Mode = Literal["iterative", "frozen", "direct"]
NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """What takes the place of an ablated value: made by `saedsl.mean` and `saedsl.resample`."""

    kind: Literal["mean", "mean by position", "resample"]
    of: str


def mean(of: Path, *, by_position: bool = False) -> Reference:
    """The mean over a text or JSONL file, or over a set that `script.prompts` named: `ablate("f1", to=mean("a.txt"))`.

    Args:
        of: the file, or the set's name.
        by_position: a mean for each position; all texts and the prompt must be equally long.
    """
    return Reference("mean by position" if by_position else "mean", fspath(of))


def resample(of: Path) -> Reference:
    """The value in one of the texts of a file or a named set, drawn by the run's seed."""
    return Reference("resample", fspath(of))


@dataclass(frozen=True)
class _Piece:
    """Text of one call."""

    text: str
    call: Call | None

    def located(self, span: Span, text: str) -> tuple[Source, Span]:
        """Where in Python a span of `text`, the program's line or more, is: its own words there, else that line."""
        if self.call is None:
            return Source(text, "<script>"), span
        fragment = text[span.start : span.end]
        if fragment.strip():
            edges = r"(?<!\w)" if fragment[0].isalnum() else "", r"(?!\w)" if fragment[-1].isalnum() else ""
            found = [m.start() for m in re.finditer(edges[0] + re.escape(fragment) + edges[1], self.call.text)]
            if found:  # a chain of calls ends with this one
                start = self.call.span.start + found[-1]
                return self.call.file, Span(start, start + len(fragment))
        line, column = self.call.file.place(self.call.span.start)
        return Source(text, self.call.file.name, line, column), span


class ScriptBuilder:
    """A program that grows by a statement with every call. Made by `saedsl.script()`.

    Methods return the script itself, so that calls can be chained; `at` returns an `Edits`.
    """

    def __init__(self) -> None:
        self._statements: list[_Piece | Edits] = []
        self._bound: dict[str, Any] = {}

    # What there is ------------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The program, as `saedsl fmt` writes it."""
        from saedsl.grammar.format import format_script

        source = Source(self._text())
        return format_script(parse(source).script, source) if self._statements else ""

    @property
    def source(self) -> Source:
        """The program for `saedsl.analyse`; its mistakes are shown at the lines of Python that say it."""
        text = self._text()
        pieces = list(self._pieces())
        starts = []
        at = 0
        for piece in pieces:
            at = text.index(piece.text, at)
            starts.append(at)
            at += len(piece.text)

        def outer(span: Span) -> tuple[Source, Span]:
            i = max((i for i, start in enumerate(starts) if start <= span.start), default=0)
            start = text.rfind("\n", 0, starts[i]) + 1
            end = max(span.end, (text + "\n").index("\n", starts[i]))
            return pieces[i].located(Span(span.start - start, span.end - start), text[start:end])

        return Source(text, "<script>", outer=outer if pieces else None)

    @property
    def bound(self) -> Mapping[str, Any]:
        """Values of `$name`."""
        return dict(self._bound)

    def __repr__(self) -> str:
        return f"<saedsl.script of {len(self._statements)} statements>\n{self.text}".rstrip()

    # Declarations -------------------------------------------------------------------------------------------------

    def model(self, path: Path) -> ScriptBuilder:
        """`model STRING`: what to load."""
        return self._add(n.ModelDecl, f"model {quote(fspath(path))}")

    def sae(self, name: str, path: Path, on: str | None = None, to: str | None = None) -> ScriptBuilder:
        """`sae NAME = STRING [on SITE [-> SITE]]`: a dictionary; `to` is where a transcoder writes."""
        where = "" if on is None else f" on {on}" + ("" if to is None else f" -> {to}")
        return self._add(n.SAEDecl, f"sae {name} = {quote(fspath(path))}{where}")

    def prompt(self, name: str, text: str, *, chat: bool = False, system: str | None = None) -> ScriptBuilder:
        """`prompt NAME = [chat] STRING [system STRING]`; a system message needs `chat=True`."""
        tail = "" if system is None else f" system {quote(system)}"
        return self._add(n.PromptDecl, f"prompt {name} = {'chat ' if chat else ''}{quote(text)}{tail}")

    def prompts(self, name: str, path: Path) -> ScriptBuilder:
        """`prompts NAME = STRING`: a file of prompts, a line each, or JSONL."""
        return self._add(n.PromptsDecl, f"prompts {name} = {quote(fspath(path))}")

    def let(self, name: str, value: Value | Sequence[str | int]) -> ScriptBuilder:
        """`let NAME = NUMBER | SET`: a number, `"{f42, f7}"`, or `["f42", "f7"]`."""
        text = _value(value) if isinstance(value, str | SupportsFloat) else _target(value)
        return self._add(n.LetDecl, f"let {name} = {text}")

    def dir(self, name: str, path: Path, key: str | None = None) -> ScriptBuilder:
        """`dir NAME = STRING[.KEY]`: a safetensors file's. For an array: `bind(d=array)`, target `dir $d`."""
        return self._add(n.DirDecl, f"dir {name} = {quote(fspath(path))}" + ("" if key is None else _key(key)))

    def metric(self, name: str, value: str, positions: Where | None = None) -> ScriptBuilder:
        """`metric NAME = expr [@ POS]`, e.g. `'logit(" Paris") - logit(" Rome")'`."""
        return self._add(n.MetricDecl, f"metric {name} = {value}{_clauses(positions, None)}")

    def bind(self, **values: Any) -> ScriptBuilder:
        """Values of `$name`: numbers, and arrays for `dir $name`. No statement."""
        self._bound.update(values)
        return self

    # Interventions ------------------------------------------------------------------------------------------------

    def at(self, *sites: str, positions: Where | None = None, when: str | None = None) -> Edits:
        """`at SITE[, SITE] [@ POS] [when COND]`; edits are methods of what is returned."""
        header = f"at {', '.join(sites)}{_clauses(positions, when)}"
        edits = Edits(self, header, caller())
        _read(n.At, f"{header} ablate", edits.call)
        self._statements.append(edits)
        return edits

    def record(self, *what: Features, positions: Where | None = None) -> ScriptBuilder:
        """`record TARGET[, ...] [@ POS]`: sites, dictionaries, `"g.f42"`."""
        items = ", ".join(_target(w) for w in what)
        return self._add(n.Record, f"record {items}{_clauses(positions, None)}")

    def sweep(self, name: str, values: str | Iterable[Value]) -> ScriptBuilder:
        """`sweep NAME in ...`: numbers `[0, 0.5]`, features `["f1", "f2"]`, or text: `"0..4 by 0.5"`, `"L0..11"`."""
        if isinstance(values, str):
            text = values
        else:
            items = list(values)
            texts = ", ".join(map(_value, items))
            text = f"{{{texts}}}" if items and all(_is_feature(i) for i in items) else f"[{texts}]"
        return self._add(n.SweepDecl, f"sweep {name} in {text}")

    def include(self, path: Path) -> ScriptBuilder:
        """`include STRING`: the statements of a file, relative to the working folder."""
        return self._add(n.Include, f"include {quote(fspath(path))}")

    def reset(self) -> ScriptBuilder:
        """`reset`: interventions, records, metrics and sweeps above no longer count."""
        return self._add(n.Reset, "reset")

    # Runs ---------------------------------------------------------------------------------------------------------

    def run(
        self, *prompts: str, name: str | None = None, mode: Mode | None = None, seed: Value | None = None
    ) -> ScriptBuilder:
        """`run [PROMPT, ...] [as NAME] [with mode = ..., seed = ...]`; no prompts: every one above."""
        return self._add(n.Run, " ".join(["run", ", ".join(prompts)]).rstrip() + _options(name, mode=mode, seed=seed))

    def generate(
        self,
        prompt: str | None,
        count: Value,
        *,
        name: str | None = None,
        temp: Value | None = None,
        top_p: Value | None = None,
        seed: Value | None = None,
        mode: Mode | None = None,
    ) -> ScriptBuilder:
        """`generate [PROMPT] N [as NAME] [with temp = ..., ...]`; prompt None: every one above."""
        words = " ".join(["generate", *([] if prompt is None else [prompt]), _value(count)])
        return self._add(n.Generate, words + _options(name, mode=mode, seed=seed, temp=temp, top_p=top_p))

    # Text ---------------------------------------------------------------------------------------------------------

    def _add(self, kind: type[n.Node], text: str) -> ScriptBuilder:
        piece = _Piece(text, caller())
        _read(kind, text, piece.call)
        self._statements.append(piece)
        return self

    def _last(self) -> _Piece | Edits | None:
        return self._statements[-1] if self._statements else None

    def _text(self) -> str:
        return "\n".join(s.text for s in self._statements)

    def _pieces(self) -> Iterable[_Piece]:
        for s in self._statements:
            if isinstance(s, Edits):
                yield from s.pieces
            else:
                yield s

    def _reference(self, to: Reference | str | None) -> str:
        """`mean of io`: of a set that the script names, else of a file."""
        if not isinstance(to, Reference):
            return to or ""
        heads = [s.text.split() for s in self._statements if isinstance(s, _Piece)]
        named = NAME.fullmatch(to.of) and any(words[:2] == ["prompts", to.of] for words in heads)
        return f"{to.kind} of {to.of if named else quote(to.of)}"


class Edits:
    """An `at` and its edits. Every edit returns the same object; `then` joins it to the next edit.

    Its `positions` and `when` narrow those of the `at`; a `target` of None is the whole site.
    """

    def __init__(self, script: ScriptBuilder, header: str, call: Call | None) -> None:
        self._script, self.header, self.call = script, header, call
        self._chains: list[list[_Piece]] = []
        self._joins = False

    def ablate(
        self,
        target: Features | None = None,
        *,
        to: Reference | Literal["zero"] | None = None,
        positions: Where | None = None,
        when: str | None = None,
    ) -> Edits:
        """`ablate T [to zero | to mean of REF | to resample of REF]`"""
        replaced = f" to {self._script._reference(to)}" if to is not None else ""
        return self._add(n.Ablate, f"ablate {_target(target)}{replaced}{_clauses(positions, when)}")

    def amplify(
        self, target: Features | None, factor: Value, *, positions: Where | None = None, when: str | None = None
    ) -> Edits:
        """`amplify T xN`"""
        return self._add(n.Amplify, f"amplify {_target(target)} x {_value(factor)}{_clauses(positions, when)}")

    def set(
        self,
        target: Features | None,
        value: Value,
        *,
        unit: Unit | None = None,
        positions: Where | None = None,
        when: str | None = None,
    ) -> Edits:
        """`set T = V`"""
        text = f"set {_target(target)} = {_value(value)} {unit or ''}"
        return self._add(n.Set, text.rstrip() + _clauses(positions, when))

    def clamp(
        self,
        target: Features | None,
        low: Value | None = None,
        high: Value | None = None,
        *,
        unit: Unit | None = None,
        positions: Where | None = None,
        when: str | None = None,
    ) -> Edits:
        """`clamp T to a..b`; None is an open end."""
        a, b = ("" if v is None else _value(v) for v in (low, high))
        text = f"clamp {_target(target)} to {a}..{b} {unit or ''}"
        return self._add(n.Clamp, text.rstrip() + _clauses(positions, when))

    def add(
        self,
        value: Value,
        target: Features | None,
        *,
        unit: Unit | None = None,
        positions: Where | None = None,
        when: str | None = None,
    ) -> Edits:
        """`add V T`: V times the decoder direction, or `"dir d"`."""
        words = ["add", _value(value), *([unit] if unit else []), _target(target)]
        return self._add(n.Add, " ".join(words) + _clauses(positions, when))

    def project_out(self, target: Features, *, positions: Where | None = None, when: str | None = None) -> Edits:
        """`project out T`"""
        return self._add(n.ProjectOut, f"project out {_target(target)}{_clauses(positions, when)}")

    def patch(
        self,
        target: Features | None = None,
        *,
        source: str,
        positions: Where | None = None,
        source_at: Where | None = None,
        when: str | None = None,
    ) -> Edits:
        """`patch [T] [@ POS] from PROMPT [at POS]`; `source` is a prompt's name, or `"io.corrupt"`."""
        tail = "" if source_at is None else f" at {_where(source_at)}"
        return self._add(n.Patch, f"patch {_target(target)}{_clauses(positions, when)} from {source}{tail}")

    def freeze(
        self, target: Features | None = None, *, positions: Where | None = None, when: str | None = None
    ) -> Edits:
        """`freeze [T]`: hold at the unedited run's value."""
        return self._add(n.Freeze, f"freeze {_target(target)}{_clauses(positions, when)}")

    def keep_only(
        self,
        target: Features,
        *,
        otherwise: Reference | Literal["zero"] | None = None,
        positions: Where | None = None,
        when: str | None = None,
    ) -> Edits:
        """`keep only T [else zero | mean of REF | resample of REF]`"""
        rest = f" else {self._script._reference(otherwise)}" if otherwise is not None else ""
        return self._add(n.KeepOnly, f"keep only {_target(target)}{rest}{_clauses(positions, when)}")

    def drop_error(self, *, positions: Where | None = None, when: str | None = None) -> Edits:
        """`drop error`: remove the dictionary's reconstruction error."""
        return self._add(n.Ablate, f"drop error{_clauses(positions, when)}")

    def apply(
        self,
        name: str,
        target: Features | None = None,
        *numbers: Value,
        positions: Where | None = None,
        when: str | None = None,
    ) -> Edits:
        """`apply NAME(numbers) T`: an edit that `@saedsl.edit` registered."""
        given = f"({', '.join(map(_value, numbers))})" if numbers else ""
        return self._add(n.Apply, f"apply {name}{given} {_target(target)}{_clauses(positions, when)}")

    @property
    def then(self) -> Edits:
        """Joins the last edit to the next, which reads what it left: `.set("f5", 4).then.amplify("f5", 2)`."""
        if not self._chains or self._joins:
            raise ValueError("`then` goes between two edits: .ablate('f1').then.amplify('f1', 2)")
        self._joins = True
        return self

    @property
    def pieces(self) -> list[_Piece]:
        """Header and edits, each with its call."""
        return [_Piece(self.header, self.call), *(p for chain in self._chains for p in chain)]

    @property
    def text(self) -> str:
        """The statement."""
        chains = [" then ".join(p.text for p in chain) for chain in self._chains]
        if len(chains) < 2:
            return " ".join([self.header, *chains])
        return "\n".join([f"{self.header} {{", *(f"  {c}" for c in chains), "}"])

    def __repr__(self) -> str:
        return self.text

    def _add(self, kind: type[n.Node], text: str) -> Edits:
        piece = _Piece(re.sub(r"  +(?=[^\"]*$)", " ", text).rstrip() if '"' not in text else text.rstrip(), caller())
        _read(kind, piece.text, piece.call, "at embed ")
        if self._script._last() is not self:  # statements are in the order of the calls
            if self._joins:
                raise ValueError("`then` joins edits of one `at`: no other statement goes between them")
            again = Edits(self._script, self.header, self.call)
            self._script._statements.append(again)
            return again._append(piece)
        return self._append(piece)

    def _append(self, piece: _Piece) -> Edits:
        if self._joins:
            self._chains[-1].append(piece)
        else:
            self._chains.append([piece])
        self._joins = False
        return self


def script() -> ScriptBuilder:
    """An empty program, to be built by calls: `s = saedsl.script(); s.at("L2.mlp").ablate("f42"); model.run(s)`."""
    return ScriptBuilder()


def _read(kind: type[n.Node], text: str, call: Call | None, lead: str = "") -> None:
    """Raise ProgramError if `text` is not one statement (with `lead`: one edit of it) of this kind."""
    piece = _Piece(text, call)

    def outer(span: Span) -> tuple[Source, Span]:
        return piece.located(Span(max(span.start - len(lead), 0), max(span.end - len(lead), 0)), text)

    source = Source(lead + text, "<script>", outer=outer)
    parsed = parse(source)
    if parsed.diagnostics:
        raise ProgramError(tuple(d.outward for d in parsed.diagnostics))
    found: Sequence[n.Node] = parsed.script.statements
    if lead and len(found) == 1 and isinstance(found[0], n.At):
        found = found[0].edits
    if len(found) == 1 and isinstance(found[0], kind) and not parsed.script.comments:
        return
    message = "a call says one statement or edit, without comments"
    raise ProgramError((Diagnostic("S117", message, Span(len(lead), len(source.text)), source).outward,))


# Parts ------------------------------------------------------------------------------------------------------------


def _value(value: Value) -> str:
    """A number or an expression."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not (isinstance(value, Real) or hasattr(value, "__float__")):
        raise TypeError(f"this is no number: {value!r}")
    if not math.isfinite(number_ := float(value)):
        raise ValueError(f"the number must be finite, not {number_}")
    return number(number_)


def _target(target: Features | None) -> str:
    """`f42`, `{f1, f8}`, or nothing for the whole site."""
    if target is None:
        return ""
    if isinstance(target, str):
        return target
    if isinstance(target, int) and not isinstance(target, bool):
        return f"f{target}"
    if not isinstance(target, Iterable):
        raise TypeError(f"features are text, numbers or a list of them, not {target!r}")
    return f"{{{', '.join(_target(t) for t in target)}}}"


def _is_feature(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"(?:[\w*.-]+\.)?f\d+(?:\.\.\d+)?", value))


def _where(positions: Where) -> str:
    return positions if isinstance(positions, str) else " | ".join(positions)


def _clauses(positions: Where | None, when: str | None) -> str:
    return ("" if positions is None else f" @ {_where(positions)}") + ("" if when is None else f" when {when}")


def _options(name: str | None, **options: Value | None) -> str:
    given = ", ".join(f"{k} = {_value(v)}" for k, v in options.items() if v is not None)
    return ("" if name is None else f" as {name}") + (f" with {given}" if given else "")


def _key(key: str) -> str:
    return f".{key}" if NAME.fullmatch(key) else f".{quote(key)}"
