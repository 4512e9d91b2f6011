"""Circuits of the bundled model's tasks: found, validated on held-out prompts, drawn; the tables of docs/circuits.md.

    python tests/bench/circuits.py [--docs docs/circuits.md] [--figures docs/figures] [TASK ...]

Without --docs the tables are printed. A figure shows the strongest nodes and edges of a circuit.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from saedsl import InterpretableModel
from saedsl.circuits.draw import draw
from saedsl.circuits.find import find
from saedsl.circuits.taskfile import read_task_file
from saedsl.circuits.validate import validate
from saedsl.circuits.verdict import Verdict
from saedsl.commands.circuit import strongest

EXAMPLES = Path(__file__).parents[2] / "examples" / "circuits"
TASKS = ("ioi", "greater_than", "capital", "capitals")
SHOWN = 20
"""Nodes of a figure."""


def one(name: str, model: InterpretableModel, figures: Path | None) -> tuple[Verdict, float, float]:
    """(verdict, seconds to find, seconds to validate) of an example task."""
    file = read_task_file(EXAMPLES / f"{name}.toml")
    training, held_out = file.open(model), file.open(model, held_out=True)
    start = time.perf_counter()
    found = find(training, **vars(file.find))
    middle = time.perf_counter()
    verdict, circuit = validate(found.circuit, held_out, training=training, scores=found.scores, **vars(file.validate))
    end = time.perf_counter()
    if figures is not None:
        draw(strongest(circuit, SHOWN), figures / f"circuit-{name.replace('_', '-')}.pdf", most_edges=60)
    return verdict, middle - start, end - middle


def summary(verdicts: dict[str, tuple[Verdict, float, float]]) -> str:
    """One row a task."""
    head = ("task", "dictionaries", "nodes", "of those that fire", "in one prompt", "faithfulness", "completeness",
            "random circuits", "CMD", "Spearman with exact patching")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, (v, _, _) in verdicts.items():
        assert v.control is not None
        assert v.curve is not None
        assert v.agreement is not None
        cells = (
            f"`{name}`", ", ".join(v.choices.sites), f"{v.nodes}", f"{v.nodes / v.active:.1%}", f"{v.share:.1%}",
            f"**{v.scores.faithfulness:.3f}** [{v.interval.low:.2f}, {v.interval.high:.2f}]",
            f"**{v.scores.completeness:.3f}**", f"{v.control.mean:.3f} [{v.control.low:.2f}, {v.control.high:.2f}]",
            f"{v.curve.cmd:.3f}", str(v.agreement.spearman),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    given = parser.parse_args()
    model = InterpretableModel.load("demo")
    verdicts = {}
    for name in given.tasks:
        verdicts[name] = one(name, model, given.figures)
        v, finding, validating = verdicts[name]
        print(f"{name}: found in {finding:.1f} s, validated in {validating:.1f} s\n\n{v.text()}", flush=True)
    text = summary(verdicts)
    for name, (v, _, _) in verdicts.items():
        text += f"\n### `{name}`\n\n{v.markdown()}"
    if given.docs is None:
        print(text)
        return
    page = given.docs.read_text(encoding="utf-8")
    between = re.compile(r"(<!-- verdicts -->\n).*(<!-- end of verdicts -->\n)", re.DOTALL)
    assert between.search(page), f"{given.docs} has no place for verdicts"
    given.docs.write_text(between.sub(lambda m: f"{m[1]}\n{text}\n{m[2]}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
