"""The canonical form of a program: one form for one meaning, so that equal programs have equal hashes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from saedsl.grammar.format import format_node, number
from saedsl.places import never_read, simplest
from saedsl.program import (
    LANGUAGE,
    And,
    Condition,
    Direction,
    FeatureIds,
    Intervention,
    Metric,
    MetricValue,
    Not,
    Or,
    Program,
    Prompt,
    RecordItem,
    Step,
    Term,
    Test,
)
from saedsl.sites import Site
from saedsl.wording import condition_text

MERGED = {"features", "heads", "coordinates"}
"""Parts whose numbers may be spread over interventions without a change of meaning."""


def edit_key(e: Intervention) -> tuple[Any, ...]:
    """Everything of an edit but its features, in an order that sorts: by site first."""
    return (
        e.site.order,
        e.dictionary or "",
        e.op,
        e.args,
        tuple(sorted(format_node(p) for p in e.positions)),
        e.part,
        e.unit,
        (e.to.kind, e.to.reference) if e.to is not None else (),
        (e.source.prompt, *(format_node(p) for p in simplest(e.source.positions))) if e.source is not None else (),
        e.direction or "",
        condition_text(e.when) if e.when is not None else "",
        e.stage,
        e.name,
    )


def normal(e: Intervention) -> Intervention:
    """An edit with its positions and its condition in their simplest spelling; itself where they are.

    `keep only` that names nothing of a site keeps nothing of it: it is `ablate all`, or `ablate` of the site.
    """
    positions = simplest(e.positions)
    when = simplest_condition(e.when) if e.when is not None else None
    if e.op == "keep" and e.features == ():
        e = replace(e, op="ablate", features="all") if e.part == "features" else replace(e, op="ablate", part="site")
    if positions == e.positions and when == e.when:
        return e
    return replace(e, positions=positions, when=when)


def canonical(edits: Iterable[Intervention], sizes: Mapping[str, int] | None = None) -> tuple[Intervention, ...]:
    """Interventions in canonical order, those that differ in their features only made one.

    Deltas of edits add, so order has no meaning and neither has the way features are spread over statements. What
    `keep` and `apply` are given together stays together.

    Args:
        edits: as written; conflicts among them are `saedsl.plan`'s to report.
        sizes: number of features by dictionary: an edit of all of them is one of `all`.
    """
    groups: dict[tuple[Any, ...], Intervention] = {}
    features: dict[tuple[Any, ...], set[int]] = {}
    for e in edits:
        e = e.normal
        together = e.part not in MERGED or e.op in ("keep", "apply") or isinstance(e.features, str)
        key = (e.key, e.features if together else ())
        first = groups.setdefault(key, e)
        if not together and first is not e:
            features.setdefault(key, set(first.features)).update(e.features)  # type: ignore[arg-type]
    merged: dict[tuple[Any, ...], Intervention] = {}
    for key, e in groups.items():
        ids: FeatureIds = tuple(sorted(features[key])) if key in features else e.features
        if not isinstance(ids, str) and e.part in MERGED:
            ids = tuple(sorted(set(ids)))
            every = e.part == "features" and len(ids) == (sizes or {}).get(e.dictionary or "")
            ids = "all" if every and e.op not in ("keep", "apply") else ids
        order = (e.key, isinstance(ids, str), () if isinstance(ids, str) else ids)
        merged.setdefault(order, e if ids == e.features else replace(e, features=ids))
    return tuple(merged[order] for order in sorted(merged))


def dense(edits: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
    """Edits with the stages of each site counted from 0: a stage that is empty there changes nothing.

    >>> from saedsl.sites import Site
    >>> [e.stage for e in dense((Intervention(Site(2, "mlp"), "ablate", (), stage=3),))]
    [0]
    """
    if not any(e.stage for e in edits):
        return edits
    stages: dict[Site, set[int]] = {}
    for e in edits:
        stages.setdefault(e.site, set()).add(e.stage)
    numbers = {(site, stage): i for site, found in stages.items() for i, stage in enumerate(sorted(found))}
    return tuple(replace(e, stage=numbers[e.site, e.stage]) for e in edits)


def simplest_condition(c: Condition) -> Condition:
    """A condition without needless nesting, its parts sorted and none twice."""
    match c:
        case Test():
            return c
        case Not(item):
            inner = simplest_condition(item)
            return inner.item if isinstance(inner, Not) else Not(inner)
        case And(items) | Or(items):
            kind = type(c)
            parts: dict[str, Condition] = {}
            for i in map(simplest_condition, items):
                for part in i.items if isinstance(i, kind) else (i,):
                    parts[condition_text(part)] = part
            found = tuple(parts[text] for text in sorted(parts))
            return found[0] if len(found) == 1 else kind(found)


def direction_names(directions: Iterable[Direction]) -> dict[str, str]:
    """Directions' names -> v0, v1, ..., by content: equal vectors share one."""
    found = list(directions)
    numbers = {sha: f"v{i}" for i, sha in enumerate(sorted({d.sha256 for d in found}))}
    return {d.name: numbers[d.sha256] for d in found}


@dataclass(frozen=True)
class _Names:
    """What stands for the names that a program chose."""

    dictionaries: Mapping[str, str]
    directions: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)

    def edit(self, e: Intervention) -> Intervention:
        return replace(
            e,
            dictionary=self.dictionaries.get(e.dictionary or ""),
            direction=self.directions.get(e.direction or ""),
            to=replace(e.to, reference=self.references[e.to.reference]) if e.to is not None else None,
            when=self.condition(e.when) if e.when is not None else None,
        )

    def condition(self, c: Condition) -> Condition:
        match c:
            case Test():
                return replace(c, dictionary=self.dictionaries[c.dictionary])
            case Not(item):
                return Not(self.condition(item))
            case And(items) | Or(items):
                return type(c)(tuple(map(self.condition, items)))


def program_json(program: Program, paths: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The canonical JSON of a program, see `Program.to_json`. Keys with nothing to say are left out."""
    names = program.canonical_names(paths)
    used = {names[d.name]: d for d in program.used}
    edits = [e for s in program.steps for e in s.edits]
    vectors = [program.directions[name] for name in sorted({e.direction for e in edits if e.direction is not None})]
    texts = sorted({e.to.reference for e in edits if e.to is not None})
    sets = sorted((program.references[t].sha256, t) for t in texts)
    if paths is None:
        references = {t: f"r{i}" for i, (_, t) in enumerate(sets)}
    else:
        numbers = {sha: f"r{i}" for i, sha in enumerate(sorted({sha for sha, _ in sets}))}
        references = {t: numbers[sha] for sha, t in sets}
    n = _Names(names, direction_names(vectors), references)
    sizes = {name: d.info.d_sae for name, d in used.items()}
    prompts = {p for s in program.steps for p in s.prompts} | {e.source.prompt for e in edits if e.source is not None}
    found: dict[str, Any] = {
        "language": LANGUAGE,
        "model": program.model.name,
        "dictionaries": {
            names[d.name]: {"path": (paths or {}).get(d.name, d.path), "read": str(d.read), "write": str(d.write)}
            for d in used.values()
        },
        "prompts": {name: _prompt_json(p) for name, p in sorted(program.prompts.items()) if name in prompts},
        "steps": [_step_json(s, n, sizes) for s in program.steps],
    }
    if vectors:
        found["directions"] = {
            n.directions[d.name]: {"width": d.width, "sha256": d.sha256}
            | ({"path": d.path, "key": d.key} if paths is None else {})
            for d in sorted(vectors, key=lambda d: (d.path, d.key or "", d.name), reverse=True)
        }
    if sets:
        found["references"] = {
            references[t]: {"sha256": sha} | ({"path": t} if paths is None else {}) for sha, t in sets
        }
    return found


def prompts_json(prompts: Iterable[Prompt]) -> list[Any]:
    """Prompts as canonical JSON: what the hash of a reference is of."""
    return [_prompt_json(p) for p in prompts]


def _prompt_json(p: Prompt) -> Any:
    """A plain prompt is its text."""
    more = {
        "chat": p.chat,
        "system": p.system,
        "fields": dict(sorted(p.fields.items())),
        "positions": dict(sorted(p.positions.items())),
    }
    said = {k: v for k, v in more.items() if v}
    return {"text": p.text, **said} if said else p.text


def _step_json(s: Step, names: _Names, sizes: Mapping[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": s.kind,
        "prompts": list(s.prompts),
        "n": s.n,
        "edits": [edit_json(e) for e in canonical(map(names.edit, s.edits), sizes)],
        "records": _records_json(s.records, names.dictionaries),
    }
    metrics = [_metric_json(m, names.dictionaries) for m in measured(s)]
    if metrics:
        found["metrics"] = sorted(metrics, key=lambda m: json.dumps(m, sort_keys=True))
    defaults = {"mode": "iterative", "seed": 0, "temp": 0.0, "top_p": 1.0}
    return found | {k: getattr(s, k) for k, v in defaults.items() if getattr(s, k) != v}


def edit_json(e: Intervention) -> dict[str, Any]:
    """One edit; `part` is left out where the dictionary, or its absence, says it."""
    found: dict[str, Any] = {
        "site": str(e.site),
        "op": e.op,
        "args": [number(a) if math.isfinite(a) else ("inf" if a > 0 else "-inf") for a in e.args],
        "dictionary": e.dictionary,
        "features": e.features if isinstance(e.features, str) else list(e.features),
        "positions": sorted(format_node(p) for p in e.positions),
    }
    if e.part != ("features" if e.dictionary is not None else "site"):
        found["part"] = e.part
    if e.to is not None:
        found["to"] = {"kind": e.to.kind, "reference": e.to.reference}
    if e.source is not None:
        found["source"] = {
            "prompt": e.source.prompt,
            "positions": [format_node(p) for p in simplest(e.source.positions)],
        }
    if e.when is not None:
        found["when"] = _condition_json(e.when)
    more = {"unit": e.unit, "direction": e.direction, "stage": e.stage, "name": e.name}
    return found | {k: v for k, v in more.items() if v}


def _condition_json(c: Condition) -> list[Any]:
    """`["test", dictionary, feature, op, value, unit]`, `["not", c]`, `["and", c, ...]`, `["or", c, ...]`."""
    match c:
        case Test(dictionary, feature, op, value, unit):
            return ["test", dictionary, feature, op, number(value), unit]
        case Not(item):
            return ["not", _condition_json(item)]
        case And(items):
            return ["and", *map(_condition_json, items)]
        case Or(items):
            return ["or", *map(_condition_json, items)]


def measured(s: Step) -> tuple[Metric, ...]:
    """The metrics of a step; of a `run`, less those of generated tokens, which a `generate` below it measures."""
    return tuple(m for m in s.metrics if s.kind == "generate" or not never_read(m.positions, 0))


def _metric_json(m: Metric, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": m.name,
        "value": _value_json(m.value, names),
        "positions": [format_node(p) for p in simplest(m.positions)],
    }


def _value_json(value: MetricValue, names: Mapping[str, str]) -> Any:
    """A number as text, a call as an object, an operation as `[op, left, right]`."""
    match value:
        case Term():
            more = {
                "function": value.function,
                "text": value.text,
                "row_field": value.row_field,
                "row_of": value.row_of,
                "dictionary": names.get(value.dictionary or ""),
                "feature": value.feature if value.function == "act" else None,
                "site": str(value.site) if value.site is not None else None,
            }
            return {k: v for k, v in more.items() if v is not None}
        case (op, left, right):
            return [op, _value_json(left, names), _value_json(right, names)]
        case _:
            return number(value)


def _records_json(records: Iterable[RecordItem], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Without labels: they are the names that the program chose."""
    found = []
    for r in records:
        item: dict[str, Any] = {
            "site": str(r.site),
            "dictionary": names.get(r.dictionary or ""),
            "features": r.features if isinstance(r.features, str) else list(r.features),
            "positions": [format_node(p) for p in simplest(r.positions)],
        }
        if r.part != ("features" if r.dictionary is not None else "site"):
            item["part"] = r.part
        found.append(item)
    return [json.loads(text) for text in sorted({json.dumps(r, sort_keys=True) for r in found})]
