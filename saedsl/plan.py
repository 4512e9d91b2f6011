"""Program + tokens -> Plan: which edit acts on which tokens of which prompt. Frozen, printable; no weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from saedsl.grammar.format import format_node
from saedsl.places import simplest
from saedsl.positions import PositionSet
from saedsl.program import Dictionary, Intervention, Metric, Program, RecordItem, Step, Term, tests
from saedsl.tokens import Tokens

DEMO_PROMPT = "Words: Mary stone John little Mary stone"
"""What a program runs on when neither it nor the caller gives a prompt and the model is the bundled one."""


@dataclass(frozen=True)
class PatchPlaces:
    """Where a patch takes its values on one prompt."""

    tokens: Tokens
    """The prompt that they come from."""
    pairs: tuple[tuple[int, int], ...]
    """(target, source) positions, by target; every target once."""


@dataclass(frozen=True)
class PlannedMetric:
    """A metric on one prompt."""

    metric: Metric
    positions: PositionSet
    token_ids: Mapping[Term, tuple[int, ...]]
    """Of each logit, prob (one) and logprob (all of its text's)."""
    ce: PositionSet = field(default=PositionSet(0, frozenset()))
    """Where its `ce()` is read: positions that have a next token, by default all of the prompt."""


@dataclass(frozen=True)
class PlannedPrompt:
    """One prompt of one step."""

    name: str
    tokens: Tokens
    edits: tuple[PositionSet, ...]
    """Where each edit of the step acts, in the step's order."""
    records: tuple[PositionSet, ...]
    """Where each record of the step reads."""
    patches: tuple[PatchPlaces | None, ...] = ()
    """For each edit, if it is a patch."""
    metrics: tuple[PlannedMetric, ...] = ()
    """Those of the step, in its order."""
    resamples: Mapping[str, int] = field(default_factory=dict)
    """By reference: which of its texts this prompt is resampled from."""

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
    references: Mapping[str, tuple[Tokens, ...]] = field(default_factory=dict)
    """The texts of the references that are used, by the key of `Program.references`."""

    @property
    def program_id(self) -> str:
        """SHA-256 of the canonical program; no weights, no tokens."""
        return digest(self.program.to_json())

    @property
    def portable(self) -> bool:
        """Whether it runs wherever saedsl does: it applies no edit that only this Python has registered."""
        return not any(e.op == "apply" for s in self.program.steps for e in s.edits)

    def _repr_html_(self) -> str:
        from saedsl.html import plan

        return plan(self)

    def to_json(self) -> dict[str, Any]:
        """Everything of the plan as JSON values, see `saedsl.planjson`: `Plan.from_json` gives an equal plan."""
        from saedsl.planjson import plan_json

        return plan_json(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` was called of.

        Raises:
            ResultError: if `data` is no plan, or one of another version of the language.
        """
        from saedsl.planjson import plan_from_json

        return plan_from_json(data)

    def to_dsl(self) -> str:
        """A program that means this plan, see `saedsl.dsl`."""
        from saedsl.dsl import program_text

        return program_text(self.program)

    def __add__(self, other: Plan) -> Plan:
        """The steps of this plan, then those of `other`, see `saedsl.compose`."""
        from saedsl.compose import joined

        return joined(self, other) if isinstance(other, Plan) else NotImplemented

    def summary(self) -> dict[str, Any]:
        """What is easily read: the canonical program, and the tokens and positions of every prompt of every step."""
        return {
            "portable": self.portable,
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

    @property
    def with_statistics(self) -> tuple[Dictionary, ...]:
        """The dictionaries whose statistics decide values: units `max` and `std`, in edits and conditions."""
        edits = [e for s in self.program.steps for e in s.edits]
        names = {e.dictionary for e in edits if e.unit in ("max", "std")}
        names |= {t.dictionary for e in edits if e.when is not None for t in tests(e.when) if t.unit}
        return tuple(d for d in self.program.used if d.name in names)

    def plan_id(self, weights: Mapping[str, str]) -> str:
        """SHA-256 of the plan and of the hashes of what it runs on; dictionaries' names and paths leave no trace.

        Args:
            weights: hashes of the model, the tokenizer (its chat template included) and each dictionary, by name.
        """
        used = {d.name for d in self.program.used}
        prints = {name: sha for name, sha in weights.items() if name in used}
        names = self.program.canonical_names(prints)
        program = self.program.to_json(prints)
        items = [i for s in self.program.steps for i in s.items]
        others = {name: sha for name, sha in weights.items() if name not in used}
        data: dict[str, Any] = {
            "program": program,
            "steps": [[_prompt(p, s.step, names) for p in s.prompts] for s in self.steps],
            "sites": {str(i.site): str(self.program.model.hook_point(i.site)) for i in items},
            "weights": dict(sorted(others.items())),
        }
        if self.references:
            texts = {json.dumps([list(t.ids) for t in r]) for r in self.references.values()}
            data["references"] = [json.loads(t) for t in sorted(texts)]
        if statistics := {names[d.name]: _statistics(d) for d in self.with_statistics}:
            data["statistics"] = statistics
        return digest(data)


def _prompt(p: PlannedPrompt, step: Step, names: Mapping[str, str]) -> dict[str, Any]:
    """One prompt as a plan's id sees it."""
    found: dict[str, Any] = {
        "prompt": p.name,
        "tokens": list(p.tokens.ids),
        "places": sorted({_place(i, where, names) for i, where in zip(step.items, p.places, strict=True)}),
    }
    if patches := {(tuple(x.tokens.ids), x.pairs) for x in p.patches if x is not None}:
        found["patches"] = sorted([list(ids), [list(pair) for pair in pairs]] for ids, pairs in patches)
    if p.metrics:
        found["metrics"] = sorted(
            [m.metric.name, m.positions.text, m.ce.text, sorted(list(ids) for ids in m.token_ids.values())]
            for m in p.metrics
        )
    if p.resamples:
        found["resamples"] = sorted(p.resamples.values())
    return found


def _statistics(d: Dictionary) -> str:
    """SHA-256 of the statistics that units are multiples of, whatever else their file says; "" where there is none."""
    if d.info.statistics is None:
        return ""
    from saedsl.sae.statistics import read_statistics

    found = read_statistics(d.info)
    return hashlib.sha256(found.max.tobytes() + found.std.tobytes()).hexdigest()


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
