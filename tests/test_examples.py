"""Every example runs as it stands, and every example program checks and runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import saedsl

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted((ROOT / "examples").glob("*.saedsl"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.name)
def test_an_example_program_runs_and_changes_what_the_model_says(path: Path) -> None:
    model = saedsl.InterpretableModel.load("demo")
    result = model.run(path)
    assert result.prompts
    assert max(p.kl for p in result.prompts) > 0


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.name)
def test_an_example_program_is_formatted(path: Path) -> None:
    source = saedsl.Source(path.read_text(), path.name)
    parsed = saedsl.parse(source)
    assert saedsl.format_script(parsed.script, source) == source.text


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("trace.py", [], "positions that changed at L2.mlp: [5]"),
        ("train_demo_saes.py", ["--quick"], "written to"),
        ("train_variants.py", [], "written to"),
    ],
)
def test_an_example_script_runs(script: str, arguments: list[str], says: str, tmp_path: Path) -> None:
    if script.startswith("train"):
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / script, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_the_page_of_the_readme_runs_without_a_word_of_complaint() -> None:
    text = (ROOT / "README.md").read_text()
    page = text.split("## The language in one page")[1].split("```")[1].removeprefix("saedsl\n")
    result = saedsl.InterpretableModel.load("demo").run(page)
    assert [p.kind for p in result.prompts] == ["run"] * 4 + ["generate"]  # a row for each strength
    assert not [w for w in result.warnings if "S610" not in w]


def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path: Path) -> None:
    blocks = [block.split("```")[0] for block in (ROOT / "README.md").read_text().split("```python\n")[1:]]
    assert len(blocks) == 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert saedsl.SAE.load(tmp_path / "my-sae").config.d_sae == 1024
    assert saedsl.Result.load(tmp_path / "results").prompts
