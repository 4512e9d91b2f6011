"""Program + tokens -> Plan: which edit acts on which tokens of which prompt. Frozen, printable; no weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from saedsl.conflicts import report_conflicts
from saedsl.grammar.format import format_node
from saedsl.grammar.nodes import Positions, Span
from saedsl.places import simplest
from saedsl.positions import PositionProblem, PositionSet, Problem, only_bos, resolve
from saedsl.program import Intervention, Places, Program, RecordItem, Step, Written
from saedsl.report import Report
from saedsl.tokens import Encoder, Tokens

DEMO_PROMPT = "Words: Mary stone John little Mary stone"
"""What a program runs on when neither it nor the caller gives a prompt and the model is the bundled one."""
MOST_PROMPTS: Final = 3
"""One position list is wrong on so many prompts at most, as far as the report goes."""


@dataclass(frozen=True)
class PlannedPrompt:
    """One prompt of one step."""

    name: str
    tokens: Tokens
    edits: tuple[PositionSet, ...]
    """Where each edit of the step acts, in the step's order."""
    records: tuple[PositionSet, ...]
    """Where each record of the step reads."""

    @property
    def places(self) -> tuple[PositionSet, ...]:
        """Where the step's items act: edits, then records."""
        return (*self.edits, *self.records)


@dataclass(frozen=True)
class PlannedStep:
    """One `run` or `generate` with its prompts' positions."""

    step: Step
    prompts: tuple[PlannedPrompt, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first forward."""

    program: Program
    steps: tuple[PlannedStep, ...]

    @property
    def program_id(self) -> str:
        """SHA-256 of the canonical program; no weights, no tokens."""
        return digest(self.program.to_json())

    def to_json(self) -> dict[str, Any]:
        """The program with tokens and positions."""
        return {
            "program": self.program.to_json(),
            "steps": [
                [
                    {
                        "prompt": p.name,
                        "tokens": list(p.tokens.ids),
                        "edits": [e.text for e in p.edits],
                        "records": [r.text for r in p.records],
                    }
                    for p in s.prompts
                ]
                for s in self.steps
            ],
        }

    def plan_id(self, weights: Mapping[str, str]) -> str:
        """SHA-256 of the plan and of the hashes of what it runs on; dictionaries' names and paths leave no trace.

        Args:
            weights: hashes of the model, the tokenizer and each dictionary, by name.
        """
        used = {d.name for d in self.program.used}
        prints = {name: sha for name, sha in weights.items() if name in used}
        names = self.program.canonical_names(prints)
        steps = [
            [
                {
                    "prompt": p.name,
                    "tokens": list(p.tokens.ids),
                    "places": sorted(
                        {_place(i, where, names) for i, where in zip(s.step.items, p.places, strict=True)}
                    ),
                }
                for p in s.prompts
            ]
            for s in self.steps
        ]
        others = {name: sha for name, sha in weights.items() if name not in used}
        return digest(
            {"program": self.program.to_json(prints), "steps": steps, "weights": dict(sorted(others.items()))}
        )


def _place(item: Intervention | RecordItem, where: PositionSet, names: Mapping[str, str]) -> tuple[str, str, str]:
    """Where something acts, by what decides it: through which dictionary, and the positions as written."""
    return (
        names.get(item.dictionary or "", ""),
        " @ ".join(format_node(p) for p in simplest(item.positions)),
        where.text,
    )


def digest(data: Any) -> str:
    """SHA-256, in hex, of JSON with sorted keys and no spaces."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
    planner = _Planner(program, report)
    cache: dict[str, Tokens] = {}
    steps = []
    for step in program.steps:
        given = _prompts(step, program, prompts)
        if not given and need_prompts and not step.broken and not program.unread_prompts:
            hints = ['add one: prompt p = "Once upon a time"', "or give one: --prompt, or prompts= in Python"]
            report.error("S601", "there is no prompt to run on", step.span, hints=hints)
        planned = []
        for name, text in given.items():
            if isinstance(text, str) and text not in cache and encoder is not None:
                cache[text] = encoder.encode(text)
            encoded = cache.get(text) if isinstance(text, str) else text
            if encoded is None:
                continue
            if not encoded.ids:
                report.error("S604", f"the prompt {name} has no tokens", step.span)
                continue
            planned.append(planner.prompt(name, encoded, step))
        if not planned:
            edits = [w for w in step.written if isinstance(w, Intervention)]
            report_conflicts(edits, None, program.dictionaries, report)
        steps.append(PlannedStep(step, tuple(planned)))
    return Plan(program, tuple(steps))


def _prompts(step: Step, program: Program, given: Mapping[str, str | Tokens] | None) -> Mapping[str, str | Tokens]:
    """What a step runs on: what it names, else what the caller gives, else all that is declared above it."""
    if given and not step.named:
        return given
    own: dict[str, str | Tokens] = {name: program.prompts[name] for name in step.prompts}
    if not own and not step.named and not program.unread_prompts and not program.whole and program.model.name == "demo":
        return {DEMO_PROMPT: DEMO_PROMPT}
    return own


class _Planner:
    """Resolves one program's positions on one prompt after the other; each mistake is said once."""

    def __init__(self, program: Program, report: Report) -> None:
        self._program, self._report = program, report
        self._said: dict[tuple[str, Span], set[str]] = {}
        self._most: dict[int, float] = {}
        """The most tokens that a `generate` with an edit or record makes, by the id of that."""
        for s in program.steps:
            n = math.inf if s.broken else s.n
            for w in s.written if s.kind == "generate" else ():
                self._most[id(w)] = max(self._most.get(id(w), 0), n)

    def prompt(self, name: str, tokens: Tokens, step: Step) -> PlannedPrompt:
        """One prompt of one step."""
        if len(tokens.bos) > 1:
            self._report.warning(
                "S406",
                f"the prompt {name} starts with {len(tokens.bos)} BOS tokens: the tokenizer adds one itself",
                step.span,
                hints=[f"leave {tokens.pieces[0]} out of the text"],
            )
        found: dict[tuple[tuple[Positions, ...], bool], PositionSet] = {}

        def resolved(item: Written) -> PositionSet:
            key = (item.positions, self._skips_bos(item))
            if key not in found:
                found[key] = resolve(item.positions, tokens, key[1])
            return found[key]

        edits: list[Intervention] = []
        where: list[PositionSet] = []
        for item in step.written:
            try:
                at = resolved(item)
            except PositionProblem as e:
                for p in e.problems:
                    if p.code != "S404" or not isinstance(item, Places):
                        self._say(p, item)
                continue
            if not isinstance(item, Places) and (problem := self._unread(item, at, tokens, step)):
                self._say(problem, item)
            if isinstance(item, Intervention):
                edits.append(item)
                where.append(at)
        report_conflicts(edits, where, self._program.dictionaries, self._report)
        places = []
        for i in step.items:
            try:
                places.append(resolved(i))
            except PositionProblem:  # said of what is written
                places.append(PositionSet(len(tokens), frozenset()))
        return PlannedPrompt(name, tokens, tuple(places[: len(step.edits)]), tuple(places[len(step.edits) :]))

    def _skips_bos(self, item: Written) -> bool:
        if not isinstance(item, Intervention) or item.dictionary is None:
            return False
        return not self._program.dictionaries[item.dictionary].info.config.trained_on_bos

    def _say(self, p: Problem, item: Written) -> None:
        """Report a problem, of `MOST_PROMPTS` prompts at most."""
        span = p.span if item.positions else item.span
        if self._report.damaged(span):
            return
        said = self._said.setdefault((p.code, span), set())
        if len(said) < MOST_PROMPTS or p.message in said:
            said.add(p.message)
            self._report.error(p.code, p.message, span, hints=p.hints)

    def _unread(self, item: Intervention | RecordItem, at: PositionSet, tokens: Tokens, step: Step) -> Problem | None:
        """What to say of positions that no forward ever reads."""
        most = self._most.get(id(item))
        reads = step.n - 1 if step.kind == "generate" and not step.broken else 0 if step.kind == "run" else math.inf
        if at.prompt or at.gen[0][0] < max(reads, (most or 0) - 1):
            return None
        if self._skips_bos(item) and (problem := only_bos(item.positions, tokens)):
            return problem
        span = item.positions[-1].span if item.positions else item.span
        if most is None:
            message = "generated tokens never come in a `run`, and no `generate` uses this"
            return None if self._program.whole else Problem("S407", message, span, ("generate 32",))
        n = int(most)
        read = "no generated token" if n == 1 else "gen[0]" if n == 2 else f"gen[0] to gen[{n - 2}]"
        message = f"this is never read: `generate {n}` reads {read} as input"
        return Problem("S404", message, span, (f"generate {at.gen[0][0] + 2}",))
