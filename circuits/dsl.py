"""A circuit of features as a program: validating it is running it. Knows graphs and the language's text, not models.

The program runs the prompts three times: `as circuit` with everything outside ablated, `as nothing` with everything
ablated, `as rest` with the circuit ablated. Its result holds m(M) (the baseline), m(C), m(0) and m(M without C), and
`saedsl.circuits.scores` makes faithfulness and completeness of them. Edges have no part in it; they stay in the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import networkx as nx

from saedsl.circuits.graph import Meta, Node
from saedsl.circuits.store import write_text
from saedsl.errors import CircuitError
from saedsl.grammar.format import quote

METRIC: Final = "effect"
"""What the metric is called in programs of circuits."""
RUNS: Final = ("circuit", "nothing", "rest")
_REFERENCE: Final = "ref"


@dataclass(frozen=True)
class CircuitProgram:
    """A program with the files that it names."""

    text: str
    files: Mapping[str, str]
    """Name -> content, to lie beside the program."""

    def write(self, path: str | Path) -> Path:
        """Write the program to `path` and its files beside it, each whole or not at all.

        Raises:
            CircuitError: if a file cannot be written.
        """
        path = Path(path)
        for name, content in self.files.items():
            write_text(path.with_name(name), content)
        return write_text(path, self.text)


def to_program(circuit: nx.DiGraph, name: str = "circuit") -> CircuitProgram:
    """The program of a circuit of features and errors, and its files.

    Args:
        circuit: a circuit that `find` made, or one with `meta.prompts`, `meta.metric` and zero ablation.
        name: of the files: `NAME.prompts.jsonl`, `NAME.reference.jsonl`.

    Raises:
        CircuitError: if it has no features, other nodes than a program can keep (heads, neurons, MLPs), or does not say
            its prompts and metric.
    """
    task = _task(circuit.graph.get("meta") or Meta())
    inside = _nodes(circuit, task)
    lines = [f"# {line}" for line in _about(circuit, task, inside)]
    lines += [f"model {quote(circuit.graph['meta'].model)}"]
    used = sorted(task["dictionaries"].items(), key=lambda item: Node.of("error", item[0]).order)
    for i, (_, d) in enumerate(used):
        if d["path"]:
            to = "" if d["read"] == d["write"] else f" -> {d['write']}"
            lines.append(f"sae d{i} = {quote(d['path'])} on {d['read']}{to}")
    files = {f"{name}.prompts.jsonl": _jsonl(task["rows"])}
    lines.append(f"prompts {task['name']} = {quote(f'{name}.prompts.jsonl')}")
    if task["ablation"] == "mean":
        files[f"{name}.reference.jsonl"] = _jsonl([{"prompt": text} for text in task["reference"]])
        lines.append(f"prompts {_REFERENCE} = {quote(f'{name}.reference.jsonl')}")
    lines.append(f"metric {METRIC} = {task['metric']}")
    for run in RUNS:
        lines += [""] if run == RUNS[0] else ["reset", "", f"metric {METRIC} = {task['metric']}"]
        for site, d in used:
            lines += _block(site, _edits(run, site, d["d_sae"], inside.get(site, {}), task))
        lines.append(f"run {task['name']} as {run}")
    return CircuitProgram("\n".join(lines) + "\n", files)


def to_dsl(circuit: nx.DiGraph, name: str = "circuit") -> str:
    """The text of `to_program`.

    Raises:
        CircuitError: as `to_program`.
    """
    return to_program(circuit, name).text


# What a circuit says of its task -----------------------------------------------------------------------------------


def _task(meta: Meta) -> dict[str, Any]:
    """What `find` wrote, or what the rest of `Meta` comes to."""
    task = meta.notes.get("task")
    if isinstance(task, Mapping):
        return dict(task)
    if not meta.prompts or not meta.metric:
        raise CircuitError("the circuit says neither prompts nor metric, which a program needs: set them in its meta")
    if meta.ablation != "zero":
        raise CircuitError(
            f"the circuit's ablation is {meta.ablation or 'not said'!r}; without a task, only zero is known"
        )
    return {
        "rows": [{"prompt": text} for text in meta.prompts], "reference": [], "ablation": "zero", "errors": meta.errors,
        "metric": meta.metric, "name": "io", "dictionaries": {},
    }  # fmt: skip


def _nodes(circuit: nx.DiGraph, task: dict[str, Any]) -> dict[str, dict[int | None, set[int]]]:
    """Site -> position -> features; -1 is the error."""
    inside: dict[str, dict[int | None, set[int]]] = {}
    for node in sorted(circuit):
        match node.kind:
            case "embedding" | "logit":
                continue
            case "feature" | "transcoder" | "error":
                inside.setdefault(node.site, {}).setdefault(node.position, set()).add(
                    -1 if node.index is None else node.index
                )
            case _:
                raise CircuitError(
                    f"node {node}: programs keep features; circuits with a {node.kind} run through Python"
                )
    if not inside:
        raise CircuitError("the circuit has no features: there is nothing that a program could keep")
    if not task["dictionaries"]:
        task["dictionaries"] = {site: {"path": "", "read": site, "write": site, "d_sae": None} for site in inside}
    strange = sorted(set(inside) - set(task["dictionaries"]))
    if strange:
        raise CircuitError(f"the circuit has nodes at {strange[0]}; its task has dictionaries at "
                           f"{', '.join(sorted(task['dictionaries']))}")  # fmt: skip
    return inside


def _about(circuit: nx.DiGraph, task: dict[str, Any], inside: dict[str, dict[int | None, set[int]]]) -> list[str]:
    n = sum(len(features) for by in inside.values() for features in by.values())
    found = [f"A circuit of {n} nodes at {', '.join(task['dictionaries'])}; what is outside is ablated."]
    found.append(
        f"Ablation: {_ablation(task)}; errors of dictionaries outside: "
        f"{'kept' if task['errors'] == 'keep' else 'removed'}."
    )
    if circuit.graph["meta"].method:
        found.append(f"Found by {' '.join(circuit.graph['meta'].method.split())}.")
    found.append("faithfulness = (circuit - nothing) / (baseline - nothing), completeness likewise of rest.")
    return found


def _ablation(task: Mapping[str, Any]) -> str:
    return {
        "zero": "zero",
        "mean": f"the mean at each position over {len(task['reference'])} texts",
        "resample": "the value in the row's corrupt prompt",
    }[task["ablation"]]


# Edits -------------------------------------------------------------------------------------------------------------


def _edits(
    run: str, site: str, d_sae: int | None, by: Mapping[int | None, set[int]], task: Mapping[str, Any]
) -> list[str]:
    free = by.get(None, set())
    at = {p: features | free for p, features in by.items() if p is not None}
    if run == "nothing":
        at, free = {}, set()
    edits = []
    groups: dict[tuple[int, ...], list[int]] = {}
    for p, at_p in at.items():
        groups.setdefault(tuple(sorted(f for f in at_p if f >= 0)), []).append(p)
    elsewhere = f" @ all except {_positions(at)}" if at else ""
    for features, places in [
        *sorted(groups.items(), key=lambda g: min(g[1])),
        (tuple(sorted(f for f in free if f >= 0)), []),
    ]:
        where = f" @ {_positions(places)}" if places else elsewhere
        edit = (
            _ablate(features, task["ablation"], task["name"], d_sae)
            if run == "rest"
            else _keep(features, task, d_sae, site)
        )
        if edit:
            edits.append(_placed(edit, where))
    kept = {p for p, features in at.items() if -1 in features}
    if run == "rest":
        if -1 in free:
            edits.append("drop error")
        elif kept:
            edits.append(f"drop error @ {_positions(kept)}")
    elif task["errors"] == "remove" and -1 not in free:
        edits.append("drop error" + (f" @ all except {_positions(kept)}" if kept else ""))
    return edits


def _placed(edit: str, where: str) -> str:
    """`patch T @ here from there`: of a patch, the place stands before the source."""
    head, found, tail = edit.partition(" from ")
    return head + where + found + tail


def _keep(features: Sequence[int], task: Mapping[str, Any], d_sae: int | None, site: str) -> str:
    """Ablate all but these."""
    if task["ablation"] == "resample":
        if d_sae is None:
            raise CircuitError(f"the circuit does not say how many features the dictionary at {site} has")
        outside = sorted(set(range(d_sae)) - set(features))
        return f"patch {_set(outside, d_sae)} from {task['name']}.corrupt" if outside else ""
    to = f"mean by position of {_REFERENCE}" if task["ablation"] == "mean" else ""
    if not features:
        return f"ablate all to {to}" if to else "ablate all"
    return f"keep only {_set(features, None)}" + (f" else {to}" if to else "")


def _ablate(features: Sequence[int], ablation: str, rows: str, d_sae: int | None) -> str:
    if not features:
        return ""
    chosen = _set(features, d_sae)
    if ablation == "resample":
        return f"patch {chosen} from {rows}.corrupt"
    return f"ablate {chosen}" + (f" to mean by position of {_REFERENCE}" if ablation == "mean" else "")


def _set(features: Sequence[int], d_sae: int | None) -> str:
    if d_sae is not None and len(features) == d_sae:
        return "all"
    return "{" + ", ".join(f"f{a}" if a == b else f"f{a}..{b}" for a, b in _ranges(features)) + "}"


def _positions(places: Iterable[int]) -> str:
    return " | ".join(f"prompt[{a}]" if a == b else f"prompt[{a}..{b}]" for a, b in _ranges(sorted(places)))


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of successive numbers, both ends included.

    >>> _ranges([1, 2, 3, 7])
    [(1, 3), (7, 7)]
    """
    found: list[tuple[int, int]] = []
    for n in numbers:
        if found and found[-1][1] == n - 1:
            found[-1] = found[-1][0], n
        else:
            found.append((n, n))
    return found


def _block(site: str, edits: Sequence[str]) -> list[str]:
    return [f"at {site} {{", *(f"  {edit}" for edit in edits), "}"] if edits else []


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
