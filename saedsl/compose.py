"""`plan + plan`: the steps of one, then those of the other, names that mean two things renamed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from saedsl.dsl import free_name
from saedsl.errors import ModelError
from saedsl.grammar.nodes import PosExcept, PosField, Positions, PosUnion
from saedsl.plan import Plan, PlannedMetric, PlannedPrompt, PlannedStep
from saedsl.program import (
    And,
    Condition,
    Dictionary,
    Direction,
    Intervention,
    Metric,
    MetricValue,
    Not,
    Or,
    Program,
    RecordItem,
    Step,
    Term,
    Test,
)
from saedsl.promptrow import split_row

_Named = TypeVar("_Named", Dictionary, Direction)


def joined(a: Plan, b: Plan) -> Plan:
    """One plan with the steps of `a` and then those of `b`; each keeps its own edits, records and metrics.

    Prompts, files, dictionaries, directions and references of both are there under their names; where a name means two
    things, that of `b` gets a number.

    Raises:
        ModelError: if the plans are of two models, or one of them is of a forward of the caller's own.
    """
    p, q = a.program, b.program
    if p.model != q.model:
        raise ModelError(f"plans of two models do not add up: {p.model.name} and {q.model.name}")
    if p.whole or q.whole:
        raise ModelError("a plan of one forward of the caller's own does not add up with another")
    names = _renames(p, q)
    last = max((s.statement for s in p.steps), default=-1)
    taken = {s.label for s in p.steps}
    steps = tuple(
        PlannedStep(_step(s.step, names, last + 1, taken), tuple(_prompt(x, names) for x in s.prompts)) for s in b.steps
    )
    program = replace(
        p,
        dictionaries={**p.dictionaries, **{d.name: d for d in _renamed(q.dictionaries.values(), names)}},
        prompts={**p.prompts, **{names.prompt(k): v for k, v in q.prompts.items()}},
        files={**p.files, **{names.other(k): v for k, v in q.files.items()}},
        directions={**p.directions, **{d.name: d for d in _renamed(q.directions.values(), names)}},
        references={**p.references, **{names.reference(k): r for k, r in q.references.items()}},
        steps=(*(s.step for s in a.steps), *(s.step for s in steps)),
    )
    references = {**a.references, **{names.reference(k): v for k, v in b.references.items()}}
    return Plan(program, (*a.steps, *steps), references)


@dataclass(frozen=True)
class Renames:
    """New names of what the second plan calls by a name that the first uses for another thing."""

    new: Mapping[str, str]
    references: Mapping[str, str]

    def other(self, name: str) -> str:
        """Of anything but a reference or a prompt."""
        return self.new.get(name, name)

    def reference(self, key: str) -> str:
        """Of a reference."""
        return self.references.get(key, key)

    def prompt(self, name: str) -> str:
        """`io.corrupt[3]` -> `io2.corrupt[3]`"""
        of = re.split(r"[.\[]", name, maxsplit=1)[0]
        return self.other(of) + name[len(of) :]


def _renamed(things: Iterable[_Named], names: Renames) -> list[_Named]:
    """Dictionaries or directions under their new names."""
    return [replace(t, name=names.other(t.name)) for t in things]


def _renames(p: Program, q: Program) -> Renames:
    mine, theirs = _meanings(p), _meanings(q)
    taken = {*mine, *theirs}
    new: dict[str, str] = {}
    for name, meaning in theirs.items():
        if name in mine and mine[name] != meaning:
            new[name] = free_name(name, taken)
            taken.add(new[name])
    references: dict[str, str] = {}
    known = {*p.references, *q.references}
    for key, r in q.references.items():
        if key in p.references and p.references[key].sha256 != r.sha256:
            references[key] = free_name(key, known)
            known.add(references[key])
    return Renames(new, references)


def _meanings(p: Program) -> dict[str, Any]:
    """What every name of a program stands for; equal for one thing."""
    found: dict[str, Any] = {}
    for d in p.used:
        if not d.at_site:
            found[d.name] = ("dictionary", d.path, d.read, d.write)
    for name, direction in p.directions.items():
        found[name] = ("direction", direction.sha256)
    rows: dict[str, list[Any]] = {}
    for name, prompt in p.prompts.items():
        row = split_row(name)
        if row is None:
            found[name] = ("prompt", prompt.text, prompt.chat, prompt.system)
        else:
            rows.setdefault(row[0], []).append((name, prompt))
    found |= {name: ("rows", items) for name, items in rows.items()}
    return found


def _step(s: Step, names: Renames, offset: int, taken: Iterable[str | None]) -> Step:
    label = s.label
    if label is not None and label in taken:
        label = free_name(label, {t for t in taken if t is not None})
    return replace(
        s,
        prompts=tuple(map(names.prompt, s.prompts)),
        edits=tuple(renamed_edit(e, names) for e in s.edits),
        records=tuple(renamed_record(r, names) for r in s.records),
        metrics=tuple(renamed_metric(m, names) for m in s.metrics),
        written=tuple(replace(w, positions=_positions(w.positions, names)) for w in s.written),
        named=True if s.prompts else s.named,
        statement=s.statement + offset,
        label=label,
    )


def renamed_edit(e: Intervention, names: Renames) -> Intervention:
    """An edit under new names."""
    return replace(
        e,
        dictionary=names.other(e.dictionary) if e.dictionary is not None else None,
        positions=_positions(e.positions, names),
        direction=names.other(e.direction) if e.direction is not None else None,
        to=replace(e.to, reference=names.reference(e.to.reference)) if e.to is not None else None,
        source=replace(
            e.source, prompt=names.prompt(e.source.prompt), positions=_positions(e.source.positions, names)
        ) if e.source is not None else None,
        when=_condition(e.when, names) if e.when is not None else None,
    )  # fmt: skip


def renamed_record(r: RecordItem, names: Renames) -> RecordItem:
    """A record under new names."""
    if r.dictionary is None:
        return replace(r, positions=_positions(r.positions, names))
    name = names.other(r.dictionary)
    return replace(
        r, dictionary=name, label=name + r.label.removeprefix(r.dictionary), positions=_positions(r.positions, names)
    )


def renamed_metric(m: Metric, names: Renames) -> Metric:
    """A metric under new names."""
    return replace(m, value=_value(m.value, names), positions=_positions(m.positions, names))


def _value(value: MetricValue, names: Renames) -> MetricValue:
    match value:
        case Term():
            return _term(value, names)
        case (op, left, right):
            return (op, _value(left, names), _value(right, names))
        case _:
            return value


def _term(t: Term, names: Renames) -> Term:
    if t.row_of is not None:
        return replace(t, row_of=names.other(t.row_of))
    return replace(t, dictionary=names.other(t.dictionary)) if t.dictionary is not None else t


def _condition(c: Condition, names: Renames) -> Condition:
    match c:
        case Test():
            return replace(c, dictionary=names.other(c.dictionary))
        case Not(item):
            return Not(_condition(item, names))
        case And(items) | Or(items):
            return type(c)(tuple(_condition(i, names) for i in items))


def _positions(positions: tuple[Positions, ...], names: Renames) -> tuple[Positions, ...]:
    return tuple(_position(p, names) for p in positions) if names.new else positions


def _position(p: Positions, names: Renames) -> Positions:
    match p:
        case PosField(of):
            return replace(p, of=names.other(of))
        case PosUnion(items):
            return replace(p, items=tuple(_position(i, names) for i in items))
        case PosExcept(base, removed):
            return replace(p, base=_position(base, names), removed=_position(removed, names))
    return p


def _prompt(x: PlannedPrompt, names: Renames) -> PlannedPrompt:
    """Positions and tokens stay as they are."""
    return replace(
        x,
        name=names.prompt(x.name),
        metrics=tuple(_measured(m, names) for m in x.metrics),
        resamples={names.reference(k): v for k, v in x.resamples.items()},
    )


def _measured(m: PlannedMetric, names: Renames) -> PlannedMetric:
    ids = {_term(t, names): v for t, v in m.token_ids.items()}
    return replace(m, metric=renamed_metric(m.metric, names), token_ids=ids)
