"""Program + tokens -> Plan: which edit acts on which tokens of which prompt. Frozen, hashable, printable; no weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from saedsl.positions import PositionProblem, PositionSet, everything, resolve
from saedsl.program import Intervention, Program, RecordItem, Step, feature_text
from saedsl.report import Report
from saedsl.tokens import Encoder, Tokens

DEMO_PROMPT = "Words: Mary stone John little Mary stone"
"""What a program runs on when neither it nor the caller gives a prompt and the model is the bundled one."""


@dataclass(frozen=True)
class PlannedPrompt:
    """One prompt of one step."""

    name: str
    tokens: Tokens
    edits: tuple[PositionSet, ...]
    """Where each edit of the step acts, in the step's order."""
    records: tuple[PositionSet, ...]
    """Where each record of the step reads."""


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
        """SHA-256 of the plan and of the hashes of what it runs on.

        Args:
            weights: hashes of the model, the tokenizer and each dictionary, by name.
        """
        return digest({"plan": self.to_json(), "weights": dict(sorted(weights.items()))})


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
    own = {name: text for name, text in program.prompts.items()}
    cache: dict[str | Tokens, Tokens] = {}

    def tokens(text: str | Tokens) -> Tokens | None:
        if isinstance(text, Tokens):
            return text
        if text not in cache and encoder is not None:
            cache[text] = encoder.encode(text)
        return cache.get(text)

    generating = frozenset(item for s in program.steps if s.kind == "generate" for item in s.items)
    steps = []
    for step in program.steps:
        given: Mapping[str, str | Tokens] = {name: own[name] for name in step.prompts}
        if prompts and not step.named:
            given = prompts
        elif not given and program.model.name == "demo":
            given = {DEMO_PROMPT: DEMO_PROMPT}
        if not given and need_prompts:
            report.error(
                "S601",
                "there is no prompt to run on",
                step.span,
                hints=[
                    'add one: prompt p = "Once upon a time"',
                    "or give one: --prompt, or prompts= in Python",
                ],
            )
        planned = []
        for name, text in given.items():
            encoded = tokens(text)
            if encoded is None:
                continue
            if not encoded.ids:
                report.error("S604", f"the prompt {name} has no tokens", step.span)
                continue
            planned.append(_prompt(name, encoded, step, program, report, generating))
        if not planned:
            _conflicts(step, None, report)
        steps.append(PlannedStep(step, tuple(planned)))
    return Plan(program, tuple(steps))


def _prompt(
    name: str,
    tokens: Tokens,
    step: Step,
    program: Program,
    report: Report,
    generating: frozenset[Intervention | RecordItem],
) -> PlannedPrompt:
    if len(tokens.bos) > 1:
        report.warning(
            "S406",
            f"the prompt {name} starts with {len(tokens.bos)} BOS tokens: the tokenizer adds one itself",
            step.span,
            hints=[f"leave {tokens.pieces[0]} out of the text"],
        )
    edits = tuple(_positions(e, tokens, program, report) for e in step.edits)
    records = tuple(_positions(r, tokens, program, report) for r in step.records)
    if step.kind == "run":
        for item, where in zip(step.items, (*edits, *records), strict=True):
            if where.gen and not where.prompt and item not in generating:
                report.error(
                    "S407",
                    "generated tokens never come in a `run`, and no `generate` uses this",
                    item.positions[-1].span if item.positions else item.span,
                    hints=["generate 32"],
                )
    _conflicts(step, edits, report)
    return PlannedPrompt(name, tokens, edits, records)


def _positions(item: Intervention | RecordItem, tokens: Tokens, program: Program, report: Report) -> PositionSet:
    skip_bos = (
        isinstance(item, Intervention)
        and item.dictionary is not None
        and not program.dictionaries[item.dictionary].info.config.trained_on_bos
    )
    try:
        return resolve(item.positions, tokens, skip_bos)
    except PositionProblem as e:
        p = e.problem
        report.error(p.code, p.message, p.span if item.positions else item.span, hints=p.hints)
        return PositionSet(len(tokens), frozenset())


def _conflicts(step: Step, where: Sequence[PositionSet] | None, report: Report) -> None:
    """Report features, or whole sites, that two edits change at the same position.

    Without tokens (`where` is None) only what holds for every prompt is reported: equal positions.
    """
    by_target: dict[tuple[str, object], list[int]] = {}
    for i, e in enumerate(step.edits):
        if e.dictionary is None:
            by_target.setdefault((str(e.site), None), []).append(i)
        elif e.features != "all":
            for f in e.features:
                by_target.setdefault((e.dictionary, f), []).append(i)
    for i, e in enumerate(step.edits):
        if e.features == "all":
            for (name, feature), users in by_target.items():
                if name == e.dictionary and feature is not None:
                    users.append(i)
            by_target.setdefault((e.dictionary or "", "all"), []).append(i)
    seen = set()
    for (name, feature), users in by_target.items():
        for i, j in combinations(users, 2):
            a, b = sorted((i, j), key=lambda k: step.edits[k].span.start)
            if (a, b) in seen or not _meet(a, b, step, where):
                continue
            seen.add((a, b))
            what = "the whole site" if feature is None else "every feature" if feature == "all" else f"f{feature}"
            first, _ = report.source.place(step.edits[a].span.start)
            report.error(
                "S501",
                f"{what} of {name} is edited twice at the same position",
                step.edits[b].span,
                label=f"first on line {first}",
                hints=["all edits of a site read the activation as it arrives, so two of one feature contradict"],
            )


def _meet(a: int, b: int, step: Step, where: Sequence[PositionSet] | None) -> bool:
    if where is not None:
        return bool(where[a] & where[b])
    return step.edits[a].positions == step.edits[b].positions


def touched_everywhere(where: PositionSet, tokens: Tokens) -> bool:
    """Whether a set holds every prompt and every generated position."""
    return where == everything(tokens)


__all__ = ["DEMO_PROMPT", "Plan", "PlannedPrompt", "PlannedStep", "digest", "feature_text", "plan"]
