"""Faithfulness and completeness from the result of a circuit's program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from saedsl.circuits.dsl import METRIC, RUNS
from saedsl.circuits.quality import faithfulness
from saedsl.errors import CircuitError

if TYPE_CHECKING:
    from saedsl.results import Result


@dataclass(frozen=True)
class Scores:
    """What a circuit's program says of it; of means over the prompts."""

    whole: float
    """m(M), nothing ablated."""
    circuit: float
    """m(C), everything outside ablated."""
    nothing: float
    """m(0), everything ablated."""
    rest: float
    """m(M without C), the circuit ablated."""
    faithfulness: float
    """(m(C) - m(0)) / (m(M) - m(0)): near 1 is good."""
    completeness: float
    """The same of the rest: near 0 is good."""


def scores_of(result: Result) -> Scores:
    """Faithfulness and completeness of the result of a circuit's program.

    Raises:
        CircuitError: if it is no such result, or the metric is the same whatever is ablated.
    """
    found = {m.label: m for m in result.metrics if m.metric == METRIC}
    missing = [run for run in RUNS if run not in found]
    if missing:
        raise CircuitError(f"no run is called {missing[0]}: this is not the result of a circuit's program")
    m = {run: found[run].edited for run in RUNS}
    whole = found["circuit"].baseline
    return Scores(
        whole, m["circuit"], m["nothing"], m["rest"],
        faithfulness(m["circuit"], m["nothing"], whole), faithfulness(m["rest"], m["nothing"], whole),
    )  # fmt: skip
