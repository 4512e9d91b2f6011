"""A checked program: every name resolved, every number known. Built by `saedsl.check` from text.

No weights, no tokens: `saedsl.plan` adds the prompts' tokens and positions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from saedsl.anatomy import ModelInfo
from saedsl.grammar.format import format_node
from saedsl.grammar.nodes import NOWHERE, Positions, Span
from saedsl.grammar.source import Source
from saedsl.places import simplest
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

    @property
    def at_site(self) -> bool:
        """Whether it is called by its site: a program cannot say that name where several are bound there."""
        return self.name == str(self.write)

    @property
    def bundled(self) -> bool:
        """Whether it came with the model, unasked."""
        return self.path == f"demo:{self.name}"

    @property
    def identity(self) -> tuple[str, Site]:
        """Equal for one dictionary under two names: its weights, and where it writes."""
        weights, path = self.info.weights, self.info.path
        file = weights.path if weights is not None else path
        return (str(file.resolve()) if file is not None else self.info.digest or self.name, self.write)


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
    qualified: bool = field(default=False, compare=False)
    """Whether its text names the dictionary: several are bound to the site."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Everything but the features: interventions that share it are one."""
        texts = tuple(sorted(format_node(p) for p in self.positions))
        return (self.site, self.dictionary or "", self.op, self.args, texts)

    def text(self) -> str:
        """Canonical text, e.g. `at L2.mlp amplify f7 x2 @ prompt[-1]`, or `at g ablate all`."""
        where = self.dictionary if self.qualified and self.features == "all" else self.site
        header = "".join(f" @ {format_node(p)}" for p in self.positions[:-1])
        return f"at {where}{header} {replace(self, positions=self.positions[-1:]).edit_text()}"

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
        """`f42`, `{g.f1, g.f3..5}`, `all`, or nothing for the whole site."""
        if self.dictionary is None:
            return ""
        of = f"{self.dictionary}." if self.qualified else ""
        return "all" if self.features == "all" else feature_text(self.features, of)


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
class Places:
    """The positions of an edit or record that has another mistake: they are checked all the same."""

    positions: tuple[Positions, ...]
    span: Span = field(default=NOWHERE, compare=False)


Written = Intervention | RecordItem | Places


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
    written: tuple[Written, ...] = field(default=(), compare=False)
    """Edits and records as the text has them, each with its own span: what mistakes are reported of."""
    broken: bool = field(default=False, compare=False)
    """The statement has a mistake, reported already: its prompts are those that are known, its `n` may be unknown."""

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
    whole: bool = field(default=False, compare=False)
    """Its one step is for a forward of the caller's own, see `check.Context`."""
    unread_prompts: bool = field(default=False, compare=False)
    """A prompt's declaration could not be read: that there is none is not to be said."""

    @property
    def used(self) -> tuple[Dictionary, ...]:
        """The dictionaries that edits or records need, sorted by name."""
        names = {i.dictionary for s in self.steps for i in s.items}
        return tuple(self.dictionaries[n] for n in sorted(n for n in names if n is not None))

    def canonical_names(self, paths: Mapping[str, str] | None = None) -> dict[str, str]:
        """The used dictionaries' names -> d0, d1, ..., by where they write and read and by path; aliases share one.

        Args:
            paths: what stands for a dictionary's path, by name; else the path as the program has it.
        """
        keys = {d.name: (d.write, d.read, (paths or {}).get(d.name, d.path)) for d in self.used}
        numbers = {key: f"d{i}" for i, key in enumerate(sorted(set(keys.values())))}
        return {name: numbers[key] for name, key in keys.items()}

    def to_json(self, paths: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The canonical form: what is hashed. Order, spelling, comments, aliases and what is unused leave no trace.

        Args:
            paths: as in `canonical_names`.
        """
        names = self.canonical_names(paths)
        used = {names[d.name]: d for d in self.used}
        prompts = {p for s in self.steps for p in s.prompts}
        return {
            "language": LANGUAGE,
            "model": self.model.name,
            "dictionaries": {
                names[d.name]: {
                    "path": (paths or {}).get(d.name, d.path),
                    "read": str(d.read),
                    "write": str(d.write),
                }
                for d in used.values()
            },
            "prompts": {name: text for name, text in sorted(self.prompts.items()) if name in prompts},
            "steps": [
                {
                    "kind": s.kind,
                    "prompts": list(s.prompts),
                    "n": s.n,
                    "edits": [
                        _edit_json(e)
                        for e in canonical(
                            (replace(e, dictionary=names.get(e.dictionary or "")) for e in s.edits),
                            {name: d.info.d_sae for name, d in used.items()},
                        )
                    ],
                    "records": _records_json(s.records, names),
                }
                for s in self.steps
            ],
        }


def canonical(edits: Iterable[Intervention], sizes: Mapping[str, int] | None = None) -> tuple[Intervention, ...]:
    """Interventions in canonical order, those that differ in their features only made one.

    Deltas of edits add, so order has no meaning and neither has the way features are spread over statements.

    Args:
        edits: as written; conflicts among them are `saedsl.plan`'s to report.
        sizes: number of features by dictionary: an edit of all of them is one of `all`.
    """
    groups: dict[tuple[Any, ...], Intervention] = {}
    features: dict[tuple[Any, ...], set[int]] = {}
    for e in edits:
        e = replace(e, positions=simplest(e.positions))
        everything = e.features == "all"
        groups.setdefault((*e.key, everything), e)
        if e.dictionary is not None and not everything:
            features.setdefault((*e.key, everything), set()).update(f for f in e.features if isinstance(f, int))
    merged: dict[tuple[Any, ...], Intervention] = {}
    for key, e in groups.items():
        ids: FeatureIds = tuple(sorted(features[key])) if key in features else e.features
        if e.dictionary is not None and len(ids) == (sizes or {}).get(e.dictionary) and ids != "all":
            ids = "all"
        merged.setdefault((*e.key, ids), replace(e, features=ids))
    return tuple(sorted(merged.values(), key=lambda e: (e.key[0], *map(repr, e.key[1:]), repr(e.features))))


def feature_text(ids: tuple[int, ...], of: str = "") -> str:
    """`f42` or `{f1, f3..5}`; `of` goes before each, as in `g.f42`."""
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    parts = [f"{of}f{a}" if a == b else f"{of}f{a}..{b}" if b > a + 1 else f"{of}f{a}, {of}f{b}" for a, b in runs]
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


def _records_json(records: Iterable[RecordItem], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Without labels: they are the names that the program chose."""
    found = [
        {
            "site": str(r.site),
            "dictionary": names.get(r.dictionary or ""),
            "features": r.features if isinstance(r.features, str) else list(r.features),
            "positions": [format_node(p) for p in simplest(r.positions)],
        }
        for r in records
    ]
    return [json.loads(text) for text in sorted({json.dumps(r, sort_keys=True) for r in found})]
