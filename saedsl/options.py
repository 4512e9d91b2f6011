"""Options of runs: `with mode = frozen, seed = 3`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.grammar.words import MODES, OPTIONS
from saedsl.program import Mode
from saedsl.report import Mistake, did_you_mean, each
from saedsl.scope import Scope

SAMPLING: Final = ("temp", "top_p")
"""Options of `generate` only."""
MAX_SEED: Final = 2**53
"""Above it not every whole number is one."""


@dataclass(frozen=True)
class Options:
    """What `with` says."""

    mode: Mode = "iterative"
    seed: int = 0
    temp: float = 0.0
    top_p: float = 1.0


def run_options(options: Iterable[n.Option], kind: Literal["run", "generate"], scope: Scope) -> Options:
    """The options of a run; those that are not given have their defaults.

    Raises:
        Mistake: S605 for an option that there is not, S606 for a value that it cannot have, S202 for one given twice.
    """
    found: dict[str, n.Span] = {}

    def check(o: n.Option) -> tuple[str, object]:
        span = o.name_span if o.name_span != n.NOWHERE else o.span
        if o.name not in OPTIONS:
            known = [name for name in OPTIONS if kind == "generate" or name not in SAMPLING]
            raise Mistake("S605", f"`{kind}` has no option {o.name}", span, hints=did_you_mean(o.name, known))
        if o.name in SAMPLING and kind == "run":
            hints = ["`generate` samples: generate fr 32 with temp = 0.8"]
            raise Mistake("S605", f"`run` has no option {o.name}: it samples nothing", span, hints=hints)
        if o.name in found:
            raise Mistake("S202", f"the option {o.name} is given twice", span)
        found[o.name] = span
        return o.name, _mode(o) if o.name == "mode" else _number(o, scope)

    values: Mapping[str, object] = dict(each(check, options))
    return Options(**values)  # type: ignore[arg-type]


def _mode(o: n.Option) -> Mode:
    if isinstance(o.value, n.Name) and o.value.id in MODES:
        return cast(Mode, o.value.id)
    said = format_node(o.value)
    hints = did_you_mean(said, MODES) if isinstance(o.value, n.Name) else ["mode = frozen"]
    raise Mistake("S606", f"there is no mode {said}", o.value.span, hints=hints)


def _number(o: n.Option, scope: Scope) -> float:
    value = scope.number(o.value)
    if o.name == "seed":
        if value != int(value) or not 0 <= value < MAX_SEED:
            raise Mistake("S606", "a seed is a whole number, 0 or more", o.value.span, hints=["seed = 3"])
        return int(value)
    if o.name == "temp" and value < 0:
        raise Mistake("S606", "a temperature is 0 or more", o.value.span, hints=["temp = 0 is greedy"])
    if o.name == "top_p" and not 0 < value <= 1:
        raise Mistake("S606", "top_p is above 0, and 1 at most", o.value.span, hints=["top_p = 0.9"])
    return value
