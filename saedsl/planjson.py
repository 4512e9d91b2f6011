"""Plans as JSON and back, with nothing lost: every value says what it is, so that one reader reads them all.

`{"is": "Intervention", ...}` is a dataclass without the fields that have their default; `{"@": "prompt[-1]"}` are
positions, as text. Lists are tuples. Spans of source text are left out: they are of a text, not of a plan; so are the
places of files on one machine: dictionaries are found again by the path that the program gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, Final

from saedsl.anatomy import ModelInfo
from saedsl.errors import ResultError
from saedsl.grammar.format import format_node
from saedsl.grammar.nodes import Ablate, At, Node, Positions, Span
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.plan import PatchPlaces, Plan, PlannedMetric, PlannedPrompt, PlannedStep
from saedsl.positions import PositionSet
from saedsl.program import (
    LANGUAGE,
    And,
    Dictionary,
    Direction,
    Intervention,
    Metric,
    Not,
    Or,
    PatchSource,
    Program,
    Prompt,
    RecordItem,
    ReferenceSet,
    Replacement,
    Step,
    Term,
    Test,
)
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.header import SAEInfo
from saedsl.sites import Site
from saedsl.tokens import Tokens

_CLASSES: Final[Mapping[str, type]] = {
    c.__name__: c
    for c in (
        And, Dictionary, DictionaryConfig, Direction, Intervention, Metric, ModelInfo, Not, Or, PatchPlaces,
        PatchSource, Plan, PlannedMetric, PlannedPrompt, PlannedStep, PositionSet, Program, Prompt, RecordItem,
        ReferenceSet, Replacement, SAEInfo, Site, Step, Term, Test, Tokens,
    )
}  # fmt: skip
_LEFT_OUT: Final[Mapping[str, frozenset[str]]] = {
    "Program": frozenset({"source", "model_span"}),
    "Step": frozenset({"written"}),
    "ModelInfo": frozenset({"path", "modules"}),
    "SAEInfo": frozenset({"path", "weights", "tensors", "statistics"}),
}
"""Fields that are of one text or one machine, by class; so is every `span`."""


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON values; dictionaries that nothing uses are left out.

    Beside the plan's own fields it says the version of the language and the program's hash; and `"portable": false`
    where the plan applies an edit that only this Python has registered.
    """
    used = {d.name: d for d in plan.program.used}
    encoded = _encoded(replace(plan, program=replace(plan.program, dictionaries=used)))
    head = {"language": LANGUAGE, "program_id": plan.program_id}
    return {**head, **encoded} if plan.portable else {**head, "portable": False, **encoded}


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """The plan that `plan_json` was given.

    Raises:
        ResultError: if `data` is no plan, or one of another version of the language.
    """
    if not isinstance(data, Mapping) or data.get("is") != "Plan":
        raise ResultError("this is not the JSON of a plan")
    if data.get("language") != LANGUAGE:
        raise ResultError(f"this plan is of version {data.get('language')} of the language, not {LANGUAGE}")
    try:
        plan = _decoded({k: v for k, v in data.items() if k not in ("language", "program_id", "portable")})
        steps = [s.step for s in plan.steps]
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as e:
        raise ResultError(f"this plan is damaged ({e})") from None
    if not isinstance(plan, Plan) or steps != list(plan.program.steps) or plan.program_id != data.get("program_id"):
        raise ResultError("this plan is damaged: it is not the program that its program_id is of")
    return plan


def _encoded(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"is": "float", "value": str(value)}
        case Node():
            return {"@": format_node(value)}
        case tuple() | list():
            return [_encoded(v) for v in value]
        case frozenset():
            return {"is": "set", "items": sorted(value)}
        case Mapping() if all(isinstance(k, str) and k not in ("is", "@") for k in value):
            return {k: _encoded(v) for k, v in value.items()}
        case Mapping():
            return {"is": "map", "items": [[_encoded(k), _encoded(v)] for k, v in value.items()]}
    if not is_dataclass(value) or type(value).__name__ not in _CLASSES:
        raise TypeError(f"{type(value).__name__} is no part of a plan")
    found: dict[str, Any] = {"is": type(value).__name__}
    left_out = _LEFT_OUT.get(type(value).__name__, frozenset())
    for f in fields(value):
        own = getattr(value, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if f.name != "span" and f.name not in left_out and own != default:
            found[f.name] = _encoded(own)
    return found


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_decoded, value))
    if not isinstance(value, dict):
        return value
    if "@" in value:
        return _positions(value["@"])
    kind = value.get("is")
    match kind:
        case None:
            return {k: _decoded(v) for k, v in value.items()}
        case "float":
            return float(value["value"])
        case "set":
            return frozenset(value["items"])
        case "map":
            return {_decoded(k): _decoded(v) for k, v in value["items"]}
    own = {k: _decoded(v) for k, v in value.items() if k != "is"}
    if kind == "Program":
        own["source"] = Source("", "<plan>")
    elif kind == "SAEInfo":
        own["tensors"] = ()
    return _CLASSES[str(kind)](**own)


@lru_cache(maxsize=4096)
def _positions(text: str) -> Positions:
    """Positions as text -> the node, without its place in that text."""
    parsed = parse(Source(f"at embed ablate @ {text}"))
    match parsed.script.statements:
        case (At(edits=(Ablate(at=at),)),) if at is not None and not parsed.diagnostics:
            found: Positions = _placeless(at)
            return found
    raise ValueError(f"{text} are no positions")


def _placeless(node: Any) -> Any:
    """A node without the spans of the text that it was read from."""
    if isinstance(node, tuple):
        return tuple(map(_placeless, node))
    if not isinstance(node, Node):
        return node
    own = {f.name: _placeless(getattr(node, f.name)) for f in fields(node) if f.name != "span"}
    return type(node)(**own, span=Span(0, 0))
