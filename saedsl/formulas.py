"""What edits compute, as on the language page, with their numbers."""

from __future__ import annotations

import math

from saedsl.program import Intervention
from saedsl.wording import condition_text, ids_text, replacement_text

_PLAIN = {"site": "x", "heads": "x", "coordinates": "x", "features": "f", "error": "e", "direction": "c"}
"""What a part's value is called."""


def formula(e: Intervention) -> str:
    """How the activation x becomes x', for one edit.

    >>> from saedsl.sites import Site
    >>> formula(Intervention(Site(2, "mlp"), "amplify", (2.0,), "g", (7,), part="features"))
    "x' = x + s(x) (f' - f) W_dec[f7],  f' = 2 f"
    """
    old = _PLAIN[e.part]
    new = f"{old}' = {_value(e, old)}"
    if e.op == "project":
        span = "d" if e.part == "direction" else f"W_dec[{_ids(e)}]"
        rule = f"x' = x - Q Q^T x,  Q an orthonormal basis of {span}"
    elif e.op == "keep":
        what = {"features": "feature", "heads": "head"}.get(e.part, "coordinate")
        to = replacement_text(e.to) if e.to is not None else "0"
        frame = f"{_frame(e).format(ids='others')},  " if e.part == "features" else ""
        rule = f"{frame}{old}' = {to} for every {what} but {_ids(e)}"
    elif e.op == "add" and e.unit == "norm":
        along = "d / ||d||" if e.part == "direction" else f"W_dec[i] / ||W_dec[i]||,  i in {_ids(e)}"
        rule = f"x' = x + {_number(e.args[0])} ||x|| {along}"
    elif e.part in ("features", "error", "direction"):
        rule = f"{_frame(e).format(ids=_ids(e))},  {new}"
    else:
        rule = f"{new}" + (f" on {_ids(e)}" if e.part != "site" else "")
    if e.when is not None:
        rule += f",  where {condition_text(e.when)}"
    return rule


def _frame(e: Intervention) -> str:
    """What the new value is put into."""
    return {
        "features": "x' = x + s(x) (f' - f) W_dec[{ids}]",
        "error": "x' = x + e' - e,  e = x - sae(x)",
        "direction": f"x' = x + (c' - c) d,  c = x.d / d.d,  d = {e.direction}",
    }[e.part]


def _value(e: Intervention, old: str) -> str:
    """The new value, in terms of the old."""
    args = [_number(a) for a in e.args]
    unit = f" {e.unit}({old})" if e.unit in ("max", "std") else ""
    match e.op:
        case "ablate":
            return replacement_text(e.to) if e.to is not None else "0"
        case "amplify":
            return f"{args[0]} {old}"
        case "set":
            return args[0] + unit
        case "add":
            return f"{old} + {args[0]}{unit}"
        case "clamp":
            return f"clip({old}, {', '.join(a + (unit if a not in ('inf', '-inf') else '') for a in args)})"
        case "patch":
            return f"{old} of {e.source.prompt}" if e.source is not None else old
        case "freeze":
            return f"{old} of the unedited run"
        case "apply":
            return f"{e.name.partition('/')[0]}({', '.join([old, *args])})"
        case _:
            return "0"


def _ids(e: Intervention) -> str:
    if isinstance(e.features, str):
        return "all"
    return ids_text(e.features, "", {"heads": "h", "coordinates": "n"}.get(e.part, "f"))


def _number(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else ("inf" if value > 0 else "-inf")
