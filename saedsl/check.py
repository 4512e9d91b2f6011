"""Script + ModelInfo + SAEInfo -> Program: every name resolved, every mistake reported, no weight read.

One `Report` collects the mistakes of a pass; an edit with a mistake is left out of the program, its positions and the
next edit are checked all the same, so that one run shows all mistakes. Names live in `saedsl.scope`, the model's sites
in `saedsl.selection`, its dictionaries in `saedsl.binding`, what edits change in `saedsl.target` and `saedsl.changes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from saedsl.anatomy import ModelInfo
from saedsl.binding import Bindings, bind_dictionaries
from saedsl.errors import ModelError
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.grammar.parse import Parsed
from saedsl.included import Whole, whole_program
from saedsl.locate import find_model
from saedsl.program import Program
from saedsl.report import Report
from saedsl.runs import Runs
from saedsl.sae.header import SAEInfo
from saedsl.scope import Scope
from saedsl.sweeps import Dependence, bound
from saedsl.unread import Unread

Declaration = n.SAEDecl | n.PromptDecl | n.PromptsDecl | n.LetDecl | n.DirDecl | n.MetricDecl | n.SweepDecl
DECLARE: Final[Mapping[type[n.Statement], str]] = {
    n.SAEDecl: "sae",
    n.PromptDecl: "prompt",
    n.PromptsDecl: "prompts",
    n.LetDecl: "let",
    n.DirDecl: "dir",
    n.MetricDecl: "metric",
    n.SweepDecl: "sweep",
}
"""The words of statements that declare names."""
REFUSED = {"S100", "S101"}
"""Codes of texts that are not read at all."""


@dataclass(frozen=True)
class Context:
    """What a program is checked against."""

    model: ModelInfo | None = None
    """The caller's model; None: the script's own, or the bundled one."""
    saes: Mapping[str, SAEInfo] = field(default_factory=dict)
    """The caller's dictionaries, by the text of a site or by a name."""
    bind: Mapping[str, Any] = field(default_factory=dict)
    """Values of `$name`: numbers, and for `dir $name` arrays [d]."""
    base: Path = Path()
    """The folder that relative paths of the program start from."""
    whole: bool = False
    """One unnamed step of every edit and record of the program; its own prompts, runs and generates do not count."""


def check(parsed: Parsed, context: Context | None = None) -> tuple[Program | None, Report]:
    """Resolve every name of a parsed script.

    Returns:
        The program, without the statements that have a mistake (None if the model itself cannot be read, or the text
        is none), and the report with every mistake found.
    """
    context = context or Context()
    report = Report(parsed.source)
    if any(d.code in REFUSED for d in parsed.diagnostics):
        return None, report
    text = whole_program(parsed, context.base, report)
    model = _model(text, context, report)
    if model is not None:
        bindings = bind_dictionaries(text.good, model, context.saes, context.base, report, text.lost, text.missing)
    else:
        names = {s.name for s in text.good if isinstance(s, n.SAEDecl)}
        bindings = Bindings({}, frozenset(names | set(context.saes)), frozenset({None}))
    program = _Checker(text, model, bindings, context, report).program()
    _unused_values(text, context.bind, report)
    return program, report


def _model(text: Whole, context: Context, report: Report) -> ModelInfo | None:
    """The model the program runs on: the caller's, the script's, or the bundled one."""
    declared = [s for s in text.good if isinstance(s, n.ModelDecl)]
    for again in declared[1:]:
        report.error("S202", "the model is named twice", again.span, hints=["keep one `model` statement"])
    if context.model is not None:
        for d in declared[:1]:
            if d.path != context.model.name and not _same_folder(d.path, context):
                report.warning(
                    "S315",
                    f"the program names another model than the one it runs on, {context.model.name}",
                    d.path_span,
                )
        return context.model
    if not declared and (text.missing or any(u.word == "model" for u in text.lost)):
        return None
    name = declared[0].path if declared else "demo"
    span = declared[0].path_span if declared else n.NOWHERE
    try:
        return ModelInfo.read(find_model(name, context.base), name)
    except ModelError as e:
        report.error("S301", f"this model cannot be used: {e}", span)
        return None


def _same_folder(path: str, context: Context) -> bool:
    try:
        return context.model is not None and find_model(path, context.base) == context.model.path
    except ModelError:
        return False


def _unused_values(text: Whole, bind: Mapping[str, object], report: Report) -> None:
    """Warn of values of the caller's that the program does not name."""
    if not bind or text.missing:
        return
    used = frozenset[str]().union(*map(bound, text.good))
    for name in bind:
        if name not in used and not any(re.search(rf"\${re.escape(name)}\b", u.text) for u in text.lost):
            hints = (
                [f"the program says ${name} nowhere"]
                if not used
                else ["it says " + ", ".join(f"${u}" for u in sorted(used))]
            )
            report.warning(
                "S207", f"a value is given for ${name}, which the program does not use", n.NOWHERE, hints=hints
            )


def _ignored(text: Whole, report: Report) -> None:
    """Warn of statements that change nothing in a forward of the caller's own."""
    above = False
    for s in text.good:
        what = ""
        match s:
            case n.At() | n.Record():
                above = True
            case n.MetricDecl(name):
                what = f"the metric {name} is not computed"
            case n.Generate():
                what = "nothing is generated"
            case n.Run(options=options):
                given = [f"{o.name} = {format_node(o.value)}" for o in options]
                given = [option for option in given if option != "mode = iterative"]
                what = f"{', '.join(given)} {'has' if len(given) == 1 else 'have'} no effect" if given else ""
            case n.Reset() if above:
                what, above = "what stands above this `reset` does not count", False
        if what:
            hints = ["run the program: model.run(program)"]
            report.warning("S602", f"a trace is one forward over its own prompt: {what}", s.span, hints=hints)


class _Checker:
    """One pass over the statements, in order."""

    def __init__(
        self, text: Whole, model: ModelInfo | None, bindings: Bindings, context: Context, report: Report
    ) -> None:
        self.text, self.model, self.bindings, self.report = text, model, bindings, report
        self.whole = context.whole
        good = text.good
        self.dependence = Dependence(good)
        self.scope = Scope(
            bindings,
            [s.name for s in good if isinstance(s, n.SAEDecl)],
            self.dependence.names,
            text.broken | {u.name for u in text.lost if u.name},
            context.bind,
            context.base,
            report,
            complete=not text.missing,
            later={s.name: (i, DECLARE[type(s)]) for i, s in enumerate(text.statements) if isinstance(s, Declaration)},
        )
        self.runs = Runs(self.scope, self.dependence, bindings, model, report)

    def program(self) -> Program | None:
        for i, s in enumerate(self.text.statements):
            self.scope.here = i
            self._statement(s)
        steps = self.runs.finish(self.whole)
        if self.whole:
            _ignored(self.text, self.report)
        if self.model is None:
            return None
        named = next((s.path_span for s in self.text.good if isinstance(s, n.ModelDecl)), n.NOWHERE)
        return Program(
            self.model,
            self.bindings.dictionaries,
            self.scope.prompts,
            steps,
            self.report.source,
            named,
            self.whole,
            directions=self.scope.directions,
            references=self.scope.references,
            unread_prompts=self.text.missing or any(u.word in ("prompt", "prompts", "") for u in self.text.lost),
            files=self.scope.files,
        )

    def _statement(self, s: n.Statement | Unread) -> None:
        match s:
            case n.ModelDecl() | n.Include():
                pass
            case n.SAEDecl():
                self.scope.declare(s.name, s.span)
            case n.PromptDecl():
                self.scope.declare_prompt(s)
                self.runs.declared(s)
            case n.PromptsDecl():
                self.scope.declare_prompts(s)
                self.runs.declared(s)
            case n.DirDecl():
                self.scope.declare_dir(s)
            case n.LetDecl():
                self.scope.declare_let(s, varies=bool(self.dependence.of(s.value)))
            case n.At() | n.Record() | n.MetricDecl():
                self.runs.above(s)
            case n.SweepDecl():
                self.runs.sweep(s)
            case n.Reset():
                self.runs.reset()
            case n.Run() | n.Generate():
                self.runs.run(s)
            case Unread(word="reset"):
                self.runs.reset()
            case Unread(word="run" | "generate" | ""):
                self.runs.unread("run" if s.word == "run" else "generate", s.span)
