"""A checked program: every name resolved, every number known. Built by `saedsl.check` from text.

No weights, no tokens: `saedsl.plan` adds the prompts' tokens and positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from saedsl.anatomy import ModelInfo
from saedsl.grammar.format import format_node
from saedsl.grammar.nodes import NOWHERE, Positions, Span
from saedsl.grammar.source import Source
from saedsl.sites import Site

if TYPE_CHECKING:
    from saedsl.sae.header import SAEInfo

LANGUAGE: Final = 1
"""Version of the language that a program's JSON carries."""

Op = Literal["ablate", "amplify", "set", "clamp", "add"]
FeatureIds = tuple[int, ...] | Literal["all"]


@dataclass(frozen=True)
class Dictionary:
    """A dictionary bound to a model: where it reads, and where edits of its features write."""

    name: str
    """The name that programs use: of its `sae` statement, or the text of its site."""
    path: str
    """As the program or the caller gave it."""
    read: Site
    write: Site
    info: SAEInfo = field(compare=False)


@dataclass(frozen=True)
class Intervention:
    """One edit at one site."""

    site: Site
    """Where it writes."""
    op: Op
    args: tuple[float, ...]
    """amplify: factor; set, add: value; clamp: low, high (infinite for an open end)."""
    dictionary: str | None = None
    """Name of the dictionary whose features are edited; None edits the activation itself."""
    features: FeatureIds = ()
    positions: tuple[Positions, ...] = ()
    """All must hold; none means `all`."""
    span: Span = field(default=NOWHERE, compare=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """Everything but the features: interventions that share it are one."""
        texts = tuple(sorted(format_node(p) for p in self.positions))
        return (self.site, self.dictionary or "", self.op, self.args, texts)

    def text(self) -> str:
        """Canonical text, e.g. `at L2.mlp amplify f7 x2 @ prompt[-1]`."""
        return f"at {self.site} {self.edit_text()}"

    def edit_text(self) -> str:
        """The edit without its site, e.g. `amplify f7 x2`."""
        target = self.target_text()
        match self.op, self.args:
            case "ablate", _:
                words = ["ablate", target]
            case "amplify", (factor,):
                words = ["amplify", target, f"x{number(factor)}" if factor >= 0 else f"x {number(factor)}"]
            case "set", (value,):
                words = ["set", target, "=", number(value)]
            case "add", (value,):
                words = ["add", number(value), target]
            case _, args:
                low, high = ("" if math.isinf(a) else number(a) for a in args)
                words = ["clamp", target, "to", f"{low}..{high}"]
        for p in self.positions:
            words += ["@", format_node(p)]
        return " ".join(w for w in words if w)

    def target_text(self) -> str:
        """`f42`, `{f1, f3..5}`, `all`, or nothing for the whole site."""
        if self.dictionary is None:
            return ""
        return "all" if self.features == "all" else feature_text(self.features)


@dataclass(frozen=True)
class RecordItem:
    """One activation that is kept: of a whole site, or of one dictionary's features."""

    label: str
    """Its key in a result: `L5.resid_post`, `g.f42`, `g`."""
    site: Site
    """Where it is read."""
    dictionary: str | None = None
    features: FeatureIds = ()
    positions: tuple[Positions, ...] = ()
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Step:
    """One `run` or `generate`, with the statements above it."""

    kind: Literal["run", "generate"]
    prompts: tuple[str, ...]
    """Names of prompts."""
    n: int
    """Tokens to generate; 0 for `run`."""
    edits: tuple[Intervention, ...]
    records: tuple[RecordItem, ...]
    named: bool = True
    """Whether the statement names its prompts; if not, prompts that the caller gives take their place."""
    span: Span = field(default=NOWHERE, compare=False)

    @property
    def items(self) -> tuple[Intervention | RecordItem, ...]:
        """Edits, then records."""
        return (*self.edits, *self.records)


@dataclass(frozen=True)
class Program:
    """What a script means on one model."""

    model: ModelInfo
    dictionaries: Mapping[str, Dictionary]
    """By name; those that no statement uses included."""
    prompts: Mapping[str, str]
    """Text by name."""
    steps: tuple[Step, ...]
    source: Source = field(compare=False, repr=False)
    model_span: Span = field(default=NOWHERE, compare=False)
    """Where the program names its model."""

    @property
    def used(self) -> tuple[Dictionary, ...]:
        """The dictionaries that edits or records need, sorted by name."""
        names = {i.dictionary for s in self.steps for i in s.items}
        return tuple(self.dictionaries[n] for n in sorted(n for n in names if n is not None))

    def to_json(self) -> dict[str, Any]:
        """The canonical form: what is hashed. Statements' order, spelling, comments and spans leave no trace."""
        return {
            "language": LANGUAGE,
            "model": self.model.name,
            "dictionaries": {d.name: {"path": d.path, "read": str(d.read), "write": str(d.write)} for d in self.used},
            "prompts": dict(sorted(self.prompts.items())),
            "steps": [
                {
                    "kind": s.kind,
                    "prompts": list(s.prompts),
                    "n": s.n,
                    "edits": [_edit_json(e) for e in s.edits],
                    "records": [
                        {"label": r.label, "positions": [format_node(p) for p in r.positions]} for r in s.records
                    ],
                }
                for s in self.steps
            ],
        }


def canonical(edits: list[Intervention]) -> tuple[Intervention, ...]:
    """Interventions in canonical order, those that differ in their features only made one.

    Deltas of edits add, so order has no meaning and neither has the way features are spread over statements. A
    feature that stands twice in one edit stays twice: `saedsl.plan` reports it.
    """
    groups: dict[tuple[Any, ...], list[Intervention]] = {}
    for e in edits:
        groups.setdefault((*e.key, e.features == "all"), []).append(e)
    merged = []
    for key in sorted(groups, key=repr):
        first = groups[key][0]
        if first.features == "all" or first.dictionary is None:
            merged.extend(groups[key])
            continue
        for batch in _without_repeats(groups[key]):
            ids = tuple(sorted(f for e in batch for f in e.features if isinstance(f, int)))
            merged.append(
                Intervention(first.site, first.op, first.args, first.dictionary, ids, batch[0].positions, batch[0].span)
            )
    return tuple(sorted(merged, key=lambda e: (e.key[0], *map(repr, e.key[1:]), repr(e.features))))


def _without_repeats(edits: list[Intervention]) -> list[list[Intervention]]:
    """Split so that no batch names a feature twice: a repeat keeps its own span, for its diagnostic."""
    batches: list[tuple[set[int], list[Intervention]]] = []
    for e in edits:
        ids = {f for f in e.features if isinstance(f, int)}
        for seen, batch in batches:
            if not seen & ids:
                seen |= ids
                batch.append(e)
                break
        else:
            batches.append((ids, [e]))
    return [batch for _, batch in batches]


def feature_text(ids: tuple[int, ...]) -> str:
    """`f42` or `{f1, f3..5}`."""
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    parts = [f"f{a}" if a == b else f"f{a}..{b}" if b > a + 1 else f"f{a}, f{b}" for a, b in runs]
    return parts[0] if len(parts) == 1 and ", " not in parts[0] else "{" + ", ".join(parts) + "}"


def number(value: float) -> str:
    """The shortest text that reads back as `value`."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _edit_json(e: Intervention) -> dict[str, Any]:
    return {
        "site": str(e.site),
        "op": e.op,
        "args": [number(a) if math.isfinite(a) else ("inf" if a > 0 else "-inf") for a in e.args],
        "dictionary": e.dictionary,
        "features": e.features if isinstance(e.features, str) else list(e.features),
        "positions": sorted(format_node(p) for p in e.positions),
    }
