"""Notebooks: the magic, what is shown, and the example, run by a real kernel."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import saedsl
from saedsl import html
from saedsl.errors import ProgramError
from saedsl.grammar.parse import parse_or_raise
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE

ROOT = Path(__file__).parents[1]
PROMPT = "The cat sat on the mat"


class Tags(HTMLParser):
    """Well-formed, and nothing from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"style", "div", "table", "thead", "tbody", "tr", "th", "td", "span", "pre", "b", "i", "mark"}, (
            tag
        )
        assert {a for a, _ in attrs} <= {"class", "style"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def shown(page: str) -> str:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert "url(" not in page
    assert "http" not in html.STYLE
    return tags.text


def test_a_result_is_shown_with_its_tokens_and_hashes(llama: InterpretableModel) -> None:
    result = llama.run("at L1.mlp amplify x3\nrecord L0.mlp", prompts=PROMPT)
    text = shown(result._repr_html_())
    assert PROMPT in text
    assert f"program {result.program_id[:16]}" in text
    assert f"KL(baseline || edited) {result.prompts[0].kl:.4f} nats" in text
    for t in result.prompts[0].top[:5]:
        assert repr(t.token) in text
    assert "recorded L0.mlp" in text


def test_generated_text_is_shown_side_by_side(llama: InterpretableModel) -> None:
    result = llama.run("at L1.mlp amplify x3\ngenerate 4", prompts=PROMPT)
    page = result._repr_html_()
    assert result.prompts[0].edited.text.strip("\n") in shown(page)


def test_what_programs_and_models_say_is_never_html(llama: InterpretableModel) -> None:
    nasty = "<script>alert(1)</script> & <b>"
    result = llama.run("at L1.mlp amplify x3", prompts=nasty)
    result = replace(result, warnings=(nasty,), model=nasty)
    page = result._repr_html_()
    assert "<script" not in page
    assert shown(page).count(nasty) == 3
    plan = llama.plan("at L1.mlp ablate", prompts=nasty)
    assert "<script" not in plan._repr_html_()
    assert "alert(1)" in shown(plan._repr_html_())
    with pytest.raises(ProgramError) as e:
        parse_or_raise("at <script> ablate")
    assert "<script" not in e.value._repr_html_()
    assert "at <script> ablate" in shown(e.value._repr_html_())


def test_mistakes_are_shown_with_their_carets_in_colour() -> None:
    with pytest.raises(ProgramError) as e:
        parse_or_raise("at L2.mlp ablat f42")
    page = e.value._repr_html_()
    assert shown(page) == str(e.value)
    assert '<span class="error">error[S111]: unknown edit ablat</span>' in page
    assert "\n".join(e.value._render_traceback_()) == str(e.value)


# The magic --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(llama: InterpretableModel) -> Iterator[Any]:
    interactive = pytest.importorskip("IPython.core.interactiveshell")
    shell = interactive.InteractiveShell()
    shell.run_line_magic("load_ext", "saedsl")
    shell.user_ns["model"] = llama
    yield shell
    shell.history_manager.end_session()


def test_a_cell_is_a_program_and_its_result_a_variable(shell: Any, llama: InterpretableModel) -> None:
    shell.user_ns["k"] = 3
    line = f'-m model -o result --prompt "{PROMPT}"'
    result = shell.run_cell_magic("saedsl", line, "at L1.mlp amplify x $k\n")
    assert shell.user_ns["result"] is result
    assert result.plan_id == llama.run("at L1.mlp amplify x3", prompts={PROMPT: PROMPT}).plan_id
    again = shell.run_cell_magic("saedsl", f'-p "{PROMPT}" --set k=5', "at L1.mlp amplify x $k\n")
    assert again.program_id == llama.plan("at L1.mlp amplify x5", prompts=PROMPT).program_id


def test_dictionaries_are_variables_or_folders(
    shell: Any, sae_of: Callable[..., SAE], tmp_path: Path, llama: InterpretableModel
) -> None:
    shell.user_ns["mine"] = sae = sae_of(site="L1.mlp", seed=3)
    sae.save(tmp_path / "sae")
    for given in ("mine", str(tmp_path / "sae")):
        found = shell.run_cell_magic("saedsl", f'--plan --sae g={given} -p "{PROMPT}"', "at L1.mlp ablate g.f7")
        assert [e.features for e in found.program.steps[0].edits] == [(7,)]


def test_mistakes_of_a_cell_are_shown_not_raised(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.run_cell_magic("saedsl", "", "\nat L17.mlp ablate\n") is None
    assert "--> this cell:3:4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-m nowhere/at-all", "nowhere/at-all"),
        ("-m k", "-m k: this variable is a int, not an InterpretableModel"),
        ("-o 1a", "-o 1a: is not the name of a variable"),
        ("--set k", "--set k: write it as K=V"),
        ("--set k=x", "--set k=x: x is not a number"),
        ("--set k=inf", "the number must be finite"),
        ('-p "open', "No closing quotation"),
    ],
)
def test_wrong_options_are_usage_errors(shell: Any, line: str, message: str) -> None:
    from IPython.core.error import UsageError

    shell.user_ns["k"] = 3
    with pytest.raises(UsageError) as e:
        shell.run_cell_magic("saedsl", line, "at L1.mlp ablate")
    assert message in str(e.value)


# The example ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda p: p.name)
def test_an_example_notebook_runs_in_a_kernel(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "this",
        "language": "python",
    }
    (tmp_path / "kernels" / "this").mkdir(parents=True)
    (tmp_path / "kernels" / "this" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, 4)
    assert all(c.cell_type != "code" or (not c.outputs and c.execution_count is None) for c in notebook.cells)
    client.NotebookClient(
        notebook, timeout=120, kernel_name="this", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    pages = [
        o.data["text/html"]
        for c in notebook.cells
        if c.cell_type == "code"
        for o in c.outputs
        if "data" in o and "text/html" in o.data
    ]
    texts = [shown(p) for p in pages]
    assert len(texts) == 3
    assert "paris" in texts[0]
    assert "L2.mlp" in texts[1]
    assert "layer 12 does not exist" in texts[2]
    assert "unknown edit ablat" in texts[2]
    if where := os.environ.get("SAEDSL_KEEP_HTML"):
        Path(where).write_text("<!doctype html><meta charset=utf-8>" + "<hr>".join(pages))


def test_the_extension_is_found_by_the_name_of_the_package() -> None:
    assert callable(saedsl.load_ipython_extension)
