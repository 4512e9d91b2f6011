"""Program + tokenizer -> Plan: every position resolved on every prompt, every text encoded, and their mistakes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from saedsl.conflicts import report_conflicts
from saedsl.errors import ModelError
from saedsl.grammar.nodes import NOWHERE, PosIndex, Positions, Span
from saedsl.measures import planned_metric
from saedsl.patches import paired, prompt_only
from saedsl.plan import DEMO_PROMPT, PatchPlaces, Plan, PlannedMetric, PlannedPrompt, PlannedStep
from saedsl.positions import PositionProblem, PositionSet, Problem, Row, only_skipped, resolve, skipped, spelled_gen
from saedsl.program import Intervention, Metric, Places, Program, Prompt, RecordItem, Step, Written, terms
from saedsl.promptrow import RowOf, row_of
from saedsl.report import Report
from saedsl.tokens import Encoder, Tokens

MOST_PROMPTS: Final = 3
"""One position list is wrong on so many prompts at most, as far as the report goes."""


def plan(
    program: Program,
    encoder: Encoder | None,
    report: Report,
    prompts: Mapping[str, str | Tokens] | None = None,
    need_prompts: bool = True,
) -> Plan:
    """Resolve every position on every prompt; mistakes go to `report`.

    Args:
        program: checked.
        encoder: the model's tokenizer; without one, only what needs no tokens is checked.
        report: where mistakes go.
        prompts: the caller's, by name; they take the place of the program's where a step does not name its own.
        need_prompts: whether a step without any prompt is a mistake.
    """
    planner = _Planner(program, encoder, report)
    steps = []
    for step in program.steps:
        given = _prompts(step, program, prompts)
        if not given and need_prompts and not step.broken and not program.unread_prompts:
            hints = ['add one: prompt p = "Once upon a time"', "or give one: --prompt, or prompts= in Python"]
            report.error("S601", "there is no prompt to run on", step.span, hints=hints)
        planned = [p for i, (name, text) in enumerate(given.items()) if (p := planner.prompt(name, text, step, i))]
        if not planned:
            edits = [w for w in step.written if isinstance(w, Intervention)]
            report_conflicts(edits, None, program, report)
        steps.append(PlannedStep(step, tuple(planned)))
    planner.say_unmeasured()
    if prompts and all(step.named and not step.broken for step in program.steps):
        hints = [f"leave the prompt out of {'`generate`' if program.steps[-1].kind == 'generate' else '`run`'}"]
        message = "prompts are given that do not run: the program names its own"
        report.warning("S207", message, program.steps[-1].span, hints=hints)
    return Plan(program, tuple(steps), planner.references())


def _prompts(
    step: Step, program: Program, given: Mapping[str, str | Tokens] | None
) -> Mapping[str, str | Tokens | Prompt]:
    """What a step runs on: what it names, else what the caller gives, else all that is declared above it."""
    if given and not step.named:
        return given
    own: dict[str, str | Tokens | Prompt] = {name: program.prompts[name] for name in step.prompts}
    if not own and not step.named and not program.unread_prompts and not program.whole and program.model.name == "demo":
        return {DEMO_PROMPT: DEMO_PROMPT}
    return own


@dataclass
class _Texts:
    """Tokens of texts, each encoded once."""

    encoder: Encoder | None
    report: Report
    found: dict[tuple[str, bool, str | None], Tokens | None] = field(default_factory=dict)

    def tokens(self, text: str | Prompt | Tokens, span: Span) -> Tokens | None:
        """Tokens of a text; None without a tokenizer, and where a mistake is reported, at the prompt or at `span`."""
        if isinstance(text, Tokens) or self.encoder is None:
            return text if isinstance(text, Tokens) else None
        p = Prompt(text) if isinstance(text, str) else text
        key = (p.text, p.chat, p.system)
        if key not in self.found:
            self.found[key] = self._chat(p, p.span if p.span != NOWHERE else span) if p.chat else self._plain(p.text)
        return self.found[key]

    def _plain(self, text: str) -> Tokens | None:
        return self.encoder.encode(text) if self.encoder is not None else None

    def _chat(self, p: Prompt, span: Span) -> Tokens | None:
        if self.encoder is None or self.encoder.chat is None:
            hints = ["leave `chat` out, or use a model that was trained on chats (its name often ends in Instruct)"]
            self.report.error("S323", "this model's tokenizer has no chat template", span, hints=hints)
            return None
        try:
            return self.encoder.chat(p.text, p.system)
        except ModelError as e:
            hints = ["leave `system` out"] if p.system is not None else []
            self.report.error("S323", str(e), span, hints=hints)
            return None


class _Planner:
    """Resolves one program's positions on one prompt after the other; each mistake is said once."""

    def __init__(self, program: Program, encoder: Encoder | None, report: Report) -> None:
        self._program, self._encoder, self._report = program, encoder, report
        self._texts = _Texts(encoder, report)
        self._resolved: dict[tuple[int, str, tuple[Positions, ...], bool | None], PositionSet] = {}
        self._unresolved: dict[tuple[int, str, int, bool | None], PositionProblem] = {}
        """By where the positions are written: their problems say it."""
        self._metrics: dict[tuple[int, str, Metric, str, int], PlannedMetric] = {}
        self._compared: set[tuple[int, ...]] = set()
        """Prompts and edits whose conflicts are reported."""
        self._conflicts: set[Hashable] = set()
        self._references: dict[str, tuple[Tokens, ...] | None] = {}
        self._rows: dict[str, RowOf] = {}
        self._kept: list[Tokens] = []  # so that an id stays that of one object
        self._said: dict[tuple[str, Span], set[str]] = {}
        self._unmeasured: dict[tuple[Any, ...], dict[str, None]] = {}
        """Prompts by the metric, and the files whose rows they are not."""
        self._most: dict[int | Span, float] = {}
        """The most tokens that a `generate` with an edit, record or metric makes, by where that is written."""
        for s in program.steps:
            n = math.inf if s.broken else s.n
            for w in (*s.written, *s.metrics) if s.kind == "generate" else ():
                self._most[_written_at(w)] = max(self._most.get(_written_at(w), 0), n)

    def prompt(self, name: str, text: str | Tokens | Prompt, step: Step, index: int) -> PlannedPrompt | None:
        """One prompt of one step, the `index`-th; None if it has no tokens."""
        tokens = self._texts.tokens(text, step.span)
        if tokens is None:
            return None
        if not tokens.ids:
            self._report.error("S604", f"the prompt {name} has no tokens", step.span)
            return None
        self._kept.append(tokens)
        self._warn(name, tokens, step)
        on = _On(name, tokens, step, index, self._row(name))
        edits: list[Intervention] = []
        where: list[PositionSet] = []
        for item in step.written:
            at = self._written(item, on)
            if at is not None and isinstance(item, Intervention):
                edits.append(item)
                where.append(at)
        compared = (id(tokens), *map(id, edits))
        if compared not in self._compared:
            self._compared.add(compared)
            report_conflicts(edits, where, self._program, self._report, self._conflicts)
        places, patches = [], []
        for i in step.items:
            try:
                at, patch = self._places(i, on)
            except PositionProblem:  # said of what is written
                at, patch = PositionSet(len(tokens), frozenset()), None
            places.append(at)
            patches.append(patch)
        n = len(step.edits)
        metrics = (self._metric(m, on) for m in step.metrics)
        return PlannedPrompt(
            name, tokens, tuple(places[:n]), tuple(places[n:]),
            tuple(patches[:n]) if any(patches) else (),
            tuple(m for m in metrics if m is not None), self._resamples(on),
        )  # fmt: skip

    def references(self) -> dict[str, tuple[Tokens, ...]]:
        """The texts of every reference of the program."""
        used = {e.to.reference: e.span for s in self._program.steps for e in s.edits if e.to is not None}
        found = {key: self._reference(key, span) for key, span in sorted(used.items(), key=lambda item: item[0])}
        return {key: texts for key, texts in found.items() if texts is not None}

    def _warn(self, name: str, tokens: Tokens, step: Step) -> None:
        """What is odd of a prompt in itself."""
        if len(tokens.bos) > 1:
            self._report.warning(
                "S406",
                f"the prompt {name} starts with {len(tokens.bos)} BOS tokens: the tokenizer adds one itself",
                step.span,
                hints=[f"leave {tokens.pieces[0]} out of the text"],
            )
        context, n = self._program.model.context, len(tokens) + max(step.n - 1, 0)
        if context is not None and n > context and not step.broken:
            more = f" and the {step.n} to generate" if step.n else ""
            message = f"the prompt {name} has {len(tokens)} tokens{more}: this model was made for {context} at most"
            self._report.warning("S414", message, step.span)

    def _row(self, name: str) -> RowOf:
        if name not in self._rows:
            self._rows[name] = row_of(name, self._program.prompts)
        return self._rows[name]

    # Positions ----------------------------------------------------------------------------------------------------

    def _resolve(self, positions: tuple[Positions, ...], item: Written | None, tokens: Tokens, row: Row) -> PositionSet:
        """Positions of an item; None: of a metric, which skips nothing."""
        trained = self._trained_on_bos(item)
        key = (id(tokens), row.name if row.of else "", positions, trained)
        found = self._resolved.get(key)
        if found is None:
            written = (id(tokens), row.name if row.of else "", id(positions), trained)
            if written in self._unresolved:
                raise self._unresolved[written].with_traceback(None)
            try:
                found = self._resolved[key] = resolve(positions, tokens, _skipped(tokens, trained), row)
            except PositionProblem as e:
                self._unresolved[written] = e
                raise
        return found

    def _trained_on_bos(self, item: Written | None) -> bool | None:
        """Whether the dictionary that an edit goes through was; None for what goes through none."""
        if not isinstance(item, Intervention) or item.dictionary is None:
            return None
        return self._program.dictionaries[item.dictionary].info.config.trained_on_bos

    def _written(self, item: Written, on: _On) -> PositionSet | None:
        """Where something acts, as the text has it, its mistakes said; None if it has one."""
        try:
            at, _ = self._places(item, on)
        except PositionProblem as e:
            for p in e.problems:
                if p.code != "S404" or not isinstance(item, Places):
                    self._say(p, item.positions, item.span)
            return None
        if not isinstance(item, Places):
            self._say_unread(item, at, on)
        if isinstance(item, Intervention) and item.to is not None:
            self._check_reference(item, at, on)
        return at

    def _places(self, item: Written, on: _On) -> tuple[PositionSet, PatchPlaces | None]:
        """Where something acts, and where a patch takes its values; raises PositionProblem."""
        at = self._resolve(item.positions, item, on.tokens, on.row.row)
        if not isinstance(item, Intervention):
            return at, None
        if item.op == "patch" and item.source is not None:
            return self._patched(item, at, on)
        if item.to is not None and item.to.kind == "mean by position":
            at = prompt_only(at, item.positions, "S411", "texts of a reference have no generated tokens")
        return at, None

    def _patched(self, e: Intervention, at: PositionSet, on: _On) -> tuple[PositionSet, PatchPlaces | None]:
        assert e.source is not None
        why = "a patch takes its values from another prompt, which has no generated tokens"
        at = prompt_only(at, e.positions, "S410", why)
        if not at and (problem := only_skipped(e.positions, on.tokens, self._skip(e, on.tokens), on.row.row)):
            raise PositionProblem(problem)
        name, prompt = on.row.same_row(e.source.prompt, e.span)
        tokens = self._texts.tokens(prompt, e.span)
        if tokens is None:
            return at, None
        if not tokens.ids:
            raise PositionProblem(Problem("S604", f"the prompt {name} has no tokens", e.span))
        self._kept.append(tokens)
        source_at = None
        if e.source.positions:
            source_at = self._resolve(e.source.positions, e, tokens, self._row(name).row)
            source_at = prompt_only(source_at, e.source.positions, "S410", why)
        return at, PatchPlaces(tokens, paired(e, (on.name, on.tokens, at), (name, tokens, source_at)))

    def _skip(self, item: Written, tokens: Tokens) -> frozenset[int]:
        return _skipped(tokens, self._trained_on_bos(item))

    def _say(self, p: Problem, positions: tuple[Positions, ...], span: Span) -> None:
        """Report a problem, of `MOST_PROMPTS` prompts at most."""
        span = p.span if p.span != NOWHERE and (positions or p.code != "S404") else span
        if self._report.damaged(span):
            return
        said = self._said.setdefault((p.code, span), set())
        if len(said) < MOST_PROMPTS or p.message in said:
            said.add(p.message)
            self._report.error(p.code, p.message, span, hints=p.hints)

    def _say_unread(self, item: Intervention | RecordItem | Metric, at: PositionSet, on: _On) -> None:
        """Report positions that no forward ever reads."""
        most = self._most.get(_written_at(item))
        step = on.step
        reads = step.n - 1 if step.kind == "generate" and not step.broken else 0 if step.kind == "run" else math.inf
        reads = max(reads, (most or 0) - 1)
        if not at.prompt and at.gen and at.gen[0][0] >= reads:
            skip = self._skip(item, on.tokens) if not isinstance(item, Metric) else frozenset[int]()
            if skip and (problem := only_skipped(item.positions, on.tokens, skip, on.row.row)):
                self._say(problem, item.positions, item.span)
            elif most is not None or not self._program.whole:
                span = item.positions[-1].span if item.positions else item.span
                self._say(_never_read(span, most, at.gen[0][0]), item.positions, item.span)
        elif most is not None:
            for part in spelled_gen(item.positions):
                if isinstance(part, PosIndex) and part.first >= reads:
                    self._say(_never_read(part.span, most, part.first), item.positions, item.span)
                elif isinstance(part, PosIndex) and part.last >= reads and isinstance(item, Metric):
                    last = f"gen[{int(reads) - 1}]"
                    message = f"this metric is read up to {last} only: `generate {int(most)}` reads no more as input"
                    self._report.warning("S404", message, part.span, hints=[f"generate {part.last + 2}"])

    def say_unmeasured(self) -> None:
        """Warn of metrics of rows, and prompts that are none."""
        for (m, *files), names in self._unmeasured.items():
            listed = ", ".join([*names][:MOST_PROMPTS])
            listed += f" and {len(names) - MOST_PROMPTS} more" if len(names) > MOST_PROMPTS else ""
            are = "it is no row" if len(names) == 1 else "they are no rows"
            message = f"{m.name} is not measured on {listed}: {are} of {' and '.join(files)}"
            self._report.warning("S611", message, m.span, hints=[f"run {files[0]}"])

    # References ---------------------------------------------------------------------------------------------------

    def _reference(self, key: str, span: Span) -> tuple[Tokens, ...] | None:
        """Tokens of a reference's texts; None without a tokenizer, or if one of them cannot be read."""
        if key not in self._references:
            known = self._program.references.get(key)
            texts = [self._texts.tokens(p, span) for p in known.prompts] if known else [None]
            found = tuple(t for t in texts if t is not None)
            self._references[key] = found if len(found) == len(texts) else None
        return self._references[key]

    def _check_reference(self, e: Intervention, at: PositionSet, on: _On) -> None:
        """Whether the texts of a reference are as long as their use needs."""
        assert e.to is not None
        texts = self._reference(e.to.reference, e.span)
        if texts is None or e.to.kind == "mean":
            return
        if e.to.kind == "mean by position":
            for i, t in enumerate(texts):
                if len(t) != len(on.tokens):
                    message = (
                        f"mean by position needs one length: {on.name} has {len(on.tokens)} tokens, "
                        f"text {i} of {e.to.reference} has {len(t)}"
                    )
                    self._say(Problem("S411", message, e.span, ("`mean of` needs no equal lengths",)), (), e.span)
                    return
            return
        i = resample_index(on.step.seed, on.index, len(texts))
        ends = [min(b, on.step.n - 2) for a, b in at.gen if a <= on.step.n - 2]
        last = len(on.tokens) + ends[-1] if ends else max(at.prompt, default=-1)
        if last >= len(texts[i]):
            message = (
                f"{on.name} is resampled from text {i} of {e.to.reference}, which has {len(texts[i])} tokens: "
                f"position {last} is read"
            )
            self._say(Problem("S411", message, e.span, ("take longer texts, or fewer positions",)), (), e.span)

    def _resamples(self, on: _On) -> dict[str, int]:
        """By reference: which text takes the prompt's place."""
        used = sorted({e.to.reference for e in on.step.edits if e.to is not None and e.to.kind == "resample"})
        texts = {key: self._reference(key, on.step.span) for key in used}
        return {key: resample_index(on.step.seed, on.index, len(t)) for key, t in texts.items() if t}

    # Metrics ------------------------------------------------------------------------------------------------------

    def _metric(self, m: Metric, on: _On) -> PlannedMetric | None:
        others = {t.row_of for t in terms(m.value)} - {None, on.row.row.of}
        if others:
            self._unmeasured.setdefault((m, *sorted(filter(None, others))), {})[on.name] = None
            return None
        key = (id(on.tokens), on.name, m, on.step.kind, on.step.n)
        if key not in self._metrics:
            try:
                at = self._resolve(m.positions, None, on.tokens, on.row.row) if m.positions else None
                if at is not None:
                    self._say_unread(m, at, on)
                self._metrics[key] = planned_metric(m, at, on.tokens, on.row, on.step, self._encoder)
            except PositionProblem as e:
                generated = self._most.get(_written_at(m))
                for p in e.problems:
                    if p.code != "S407" or generated is None:
                        self._say(p, m.positions, m.span)
                return None
        return self._metrics[key]


@dataclass(frozen=True)
class _On:
    """One prompt of one step."""

    name: str
    tokens: Tokens
    step: Step
    index: int
    row: RowOf


def _skipped(tokens: Tokens, trained_on_bos: bool | None) -> frozenset[int]:
    return frozenset() if trained_on_bos is None else skipped(tokens, trained_on_bos)


def _written_at(item: Written | Metric) -> int | Span:
    """What tells two statements apart; the steps of a sweep have the same."""
    return item.span if item.span != NOWHERE else id(item)


def _never_read(span: Span, most: float | None, first: int) -> Problem:
    if most is None:
        message = "generated tokens never come in a `run`, and no `generate` uses this"
        return Problem("S407", message, span, ("generate 32",))
    n = int(most)
    read = "no generated token" if n == 1 else "gen[0]" if n == 2 else f"gen[0] to gen[{n - 2}]"
    message = f"this is never read: `generate {n}` reads {read} as input"
    return Problem("S404", message, span, (f"generate {first + 2}",))


def resample_index(seed: int, index: int, n: int) -> int:
    """Which of `n` texts the `index`-th prompt of a step is resampled from.

    >>> [resample_index(0, i, 10) for i in range(4)]
    [9, 2, 9, 1]
    """
    return int(hashlib.sha256(f"{seed} {index}".encode()).hexdigest(), 16) % n
