"""Every example of the language reference."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import saedsl
from saedsl import registry
from saedsl.analyse import Given, analyse
from saedsl.grammar.codes import CODES
from saedsl.grammar.explain import sections
from saedsl.grammar.format import format_script
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.grammar.words import (
    CLAUSES,
    COMPONENTS,
    EDITS,
    FREE_WORDS,
    FUNCTIONS,
    GLOBAL_SITES,
    MODES,
    OPTIONS,
    POSITIONS,
    STATEMENTS,
    TARGETS,
    UNITS,
)
from saedsl.model import InterpretableModel

PAGE = files("saedsl.grammar").joinpath("LANGUAGE.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCES = [(m[1], m[2]) for m in FENCE.finditer(PAGE)]
EXAMPLES = [text for kind, text in FENCES if kind == "saedsl"]
OUTSIDE = {"S204", "S320", "S321", "S323"}
"""What the caller, the dictionary or another model brings: `$k`, statistics, an edit of Python's, a chat template."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples name."""
    base = tmp_path_factory.mktemp("language")
    mx.save_safetensors(str(base / "vectors.safetensors"), {"up": mx.ones(128)})
    names = ("Mary", "John")
    rows = [
        {"prompt": f"{a} is", "corrupt": f"{b} is", "answer": " here", "positions": {"name": 1}}
        for a, b in (names, names[::-1])
    ]
    (base / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (base / "texts.txt").write_text("The capital of Italy is Rome.\nThe sky is blue and the grass is green.\n")
    (base / "edits.saedsl").write_text("at L2.mlp ablate f42\n")
    return base


@pytest.fixture(scope="module")
def demo() -> InterpretableModel:
    return InterpretableModel.load("demo")


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_a_program(text: str) -> None:
    parsed = parse(text)
    assert [d.render() for d in parsed.diagnostics] == []
    again = parse(format_script(parsed.script, parsed.source))
    assert again.script == parsed.script


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_fits_the_bundled_model(text: str, folder: Path) -> None:
    found = analyse(Source(text), Given(base=folder))[1].diagnostics
    assert [d.render() for d in found if d.severity == "error" and d.code not in OUTSIDE] == []


@pytest.mark.parametrize("text", [text for text in EXAMPLES if " = chat " not in text])
def test_an_example_runs(text: str, folder: Path, demo: InterpretableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_EDITS", {})
    saedsl.edit("soften", version=1)(lambda f, share: f * share)
    given = Given(base=folder, bind={"k": 3.0} if "$k" in text else {}, prompts={"p": "The capital of France is"})
    result = demo.run_source(Source(text), given)
    assert result.prompts
    assert all(np.isfinite(p.kl) for p in result.prompts)


@pytest.mark.parametrize("text", [text for kind, text in FENCES if kind == "saedsl error"])
def test_an_example_of_a_mistake_has_one(text: str) -> None:
    assert parse(text).diagnostics


def test_the_shown_diagnostics_are_the_real_ones() -> None:
    i = next(i for i, (kind, _) in enumerate(FENCES) if kind == "saedsl error")
    found = parse(FENCES[i][1], "steer.saedsl").diagnostics
    assert "\n\n".join(d.render() for d in found) + "\n" == FENCES[i + 1][1]


def test_the_page_names_every_word() -> None:
    words = set(re.findall(r"[\w.]+", PAGE))
    tables = (STATEMENTS, EDITS, POSITIONS, TARGETS, UNITS, CLAUSES, FREE_WORDS, FUNCTIONS, OPTIONS, MODES, COMPONENTS)
    assert {w for table in (*tables, GLOBAL_SITES) for w in table} <= words


def test_every_code_is_explained_on_the_page_of_diagnostics() -> None:
    assert list(sections()) == list(CODES)
