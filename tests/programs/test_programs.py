"""Programs with what comes of them, in files to read: `valid/*.saedsl` beside its plan and numbers, `invalid/*.saedsl`
beside its diagnostics.

`python tests/programs/test_programs.py --write` writes what is expected anew; read the difference before it is
committed. Numbers are those of the bundled model; they are held against an independent forward elsewhere
(tests/semantics), here they are kept from changing unseen.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from saedsl import registry
from saedsl.analyse import Given, analyse
from saedsl.grammar.format import format_script
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.model import InterpretableModel
from saedsl.plan import Plan
from saedsl.read import read_program
from saedsl.results import Result

HERE = Path(__file__).parent
VALID = sorted((HERE / "valid").glob("*.saedsl"))
INVALID = sorted((HERE / "invalid").glob("*.saedsl"))
BIND = {"names-bound": {"k": 3.0}}
"""Values of `$name`, by program."""
SAME = [
    ("laws-order-a", "laws-order-b"),
    ("edits-ablate-error", "edits-drop-error"),
    ("edits-ablate-head", "edits-ablate-head-in-the-site"),
]
"""Two texts, one meaning."""
TOLERANCE = 1e-4
"""Of numbers, relative and absolute: across machines the order of sums differs."""


@cache
def demo() -> InterpretableModel:
    return InterpretableModel.load("demo")


@cache
def run(path: Path) -> tuple[Plan, Result]:
    bind = BIND.get(path.stem, {})
    return demo().plan(path, bind=bind), demo().run(path, bind=bind)


def expected(path: Path) -> dict[str, Any]:
    """What is kept of a valid program: its plan, whole, and the numbers of its run."""
    plan, result = run(path)
    rows = []
    for p in result.prompts:
        best = max(p.top, key=lambda t: t.baseline), max(p.top, key=lambda t: t.edited)
        rows.append(
            {
                "prompt": p.text,
                "baseline": [best[0].token, round(best[0].baseline, 6)],
                "edited": [best[1].token, round(best[1].edited, 6)],
                "kl": round(p.kl, 6),
                "metrics": {name: [round(m.baseline, 6), round(m.edited, 6)] for name, m in sorted(p.metrics.items())},
                "generated": [p.baseline.text, p.edited.text],
                "recorded": {label: list(a.shape) for label, a in sorted(p.edited.activations.items())},
            }
        )
    return {
        "program_id": plan.program_id,
        "plan": plan.to_json(),
        "runs": rows,
        "warnings": [w.splitlines()[0] for w in result.warnings],
    }


def diagnostics(path: Path) -> str:
    """What `saedsl check` says of a program, called in its folder."""
    with contextlib.chdir(path.parent):
        _, report = analyse(read_program(Path(path.name)), Given(base=Path()))
    return "\n\n".join(d.render() for d in report.diagnostics) + "\n"


def same(a: Any, b: Any) -> bool:
    """Equal, numbers up to the tolerance."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(a == b)


@pytest.mark.parametrize("path", VALID, ids=lambda p: p.stem)
def test_a_valid_program_does_what_it_did(path: Path) -> None:
    found = json.loads(json.dumps(expected(path)))
    wanted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert found["plan"] == wanted["plan"]
    assert same(found, wanted), json.dumps(found["runs"], indent=1)


@pytest.mark.parametrize("path", VALID, ids=lambda p: p.stem)
def test_a_valid_program_is_formatted_and_read_back(path: Path) -> None:
    source = read_program(path)
    parsed = parse(source)
    text = format_script(parsed.script, source)
    again = parse(text)
    assert again.script == parsed.script
    assert format_script(again.script, again.source) == text


@pytest.mark.parametrize("path", VALID, ids=lambda p: p.stem)
def test_a_plan_goes_to_text_and_json_and_back(path: Path) -> None:
    plan, _ = run(path)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))).to_json() == plan.to_json()
    given = Given(demo().info, demo().encoder, bind=BIND.get(path.stem, {}), base=path.parent)
    again, report = analyse(Source(plan.to_dsl()), given)
    assert not report.errors
    assert again is not None
    assert again.program_id == plan.program_id


@pytest.mark.parametrize(("a", "b"), SAME)
def test_two_texts_with_one_meaning_have_one_id(a: str, b: str) -> None:
    (first, _), (second, _) = (run(HERE / "valid" / f"{name}.saedsl") for name in (a, b))
    assert first.program_id == second.program_id


@pytest.mark.parametrize("path", INVALID, ids=lambda p: p.stem)
def test_an_invalid_program_gives_these_diagnostics(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_EDITS", {})  # edits that other tests have registered
    found = diagnostics(path)
    assert "error[" in found or "warning[" in found
    assert found == path.with_suffix(".txt").read_text(encoding="utf-8")


def test_there_are_enough_of_them() -> None:
    assert len(VALID) >= 100
    assert len(VALID) + len(INVALID) >= 150


def write() -> None:
    """Write what is expected of every program."""
    for path in INVALID:
        path.with_suffix(".txt").write_text(diagnostics(path), encoding="utf-8")
    for path in VALID:
        try:
            text = json.dumps(expected(path), indent=1, ensure_ascii=False)
        except Exception as e:  # all of them are to be seen at once
            print(f"{path.name}: {type(e).__name__}: {e}\n")
            continue
        path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__" and "--write" in sys.argv:
    write()
