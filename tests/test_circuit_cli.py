"""`saedsl circuit`: the example tasks from end to end, and what it says to bad files."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saedsl.circuits.discover import counted
from saedsl.circuits.store import load
from saedsl.circuits.taskfile import read_task_file
from saedsl.cli import cli
from saedsl.demo.tasks import split_of
from saedsl.model import InterpretableModel

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "circuits"
TASKS = ("ioi", "greater_than", "capital", "capitals")


def saedsl(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples."""
    for path in EXAMPLES.iterdir():
        if path.suffix in (".toml", ".jsonl"):
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_found_validated_drawn_exported_and_run(task: str, here: Path) -> None:
    found = saedsl("circuit", "find", f"{task}.toml", "--rows", "12", "--budget", "24", "--json")
    assert found.exit_code == 0, found.output
    said = json.loads(found.output)
    assert said["nodes"] == 24 < said["of"]
    assert said["edges"] > 0
    circuit = load(here / f"{task}.circuit.json")
    assert len(circuit) == 25
    assert circuit.meta.model == "demo"

    validated = saedsl("circuit", "validate", f"{task}.toml", "--rows", "6", "--quick", "--json")
    assert validated.exit_code == 0, validated.output
    verdict = json.loads(validated.output)
    assert verdict == json.loads((here / f"{task}.verdict.json").read_text())
    assert verdict["choices"]["held_out"]
    assert verdict["choices"]["prompts"] == 6
    assert verdict["control"]["mean"] < verdict["scores"]["faithfulness"]

    ran = saedsl("circuit", "run", f"{task}.toml", "--json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.output)["faithfulness"] == verdict["scores"]["faithfulness"]  # the very number
    assert json.loads(ran.output)["plan_id"] == verdict["plan_id"]

    for out in ("c.pdf", "c.html"):
        assert saedsl("circuit", "draw", f"{task}.toml", out, "--most-nodes", "12").exit_code == 0
        assert (here / out).stat().st_size > 5000
    viewed = "c.dot" if task.startswith("capital") else "c.neuronpedia.json"  # which knows no circuit of layer 0 alone
    for out in ("c.graphml", "c.saedsl", viewed):
        exported = saedsl("circuit", "export", f"{task}.validated.json", out)
        assert exported.exit_code == 0, exported.output
    assert saedsl("check", "c.saedsl").exit_code == 0
    result = InterpretableModel.load("demo").run(Path("c.saedsl"))
    assert {p.label for p in result.prompts} == {"circuit", "nothing", "rest"}


def test_the_table_for_people_states_every_choice(here: Path) -> None:
    assert saedsl("circuit", "find", "ioi.toml", "--rows", "8").output.startswith("ioi.circuit.json: 80 of ")
    told = saedsl("circuit", "validate", "ioi.toml", "--rows", "4", "--quick").output
    for said in (
        "metric ",
        "ablation outside  ",
        "errors of dictionaries removed",
        "L1.resid_post of demo",
        "first: When",
    ):
        assert said in told, told
    assert "faithfulness" in saedsl("circuit", "run", "ioi.toml").output


def test_the_prompts_of_the_examples_are_made_by_their_script(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_prompts", EXAMPLES / "make_prompts.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.main(tmp_path)
    files = sorted(EXAMPLES.glob("*.jsonl"))
    assert [f.name for f in files] == sorted(f.name for f in tmp_path.iterdir())
    assert len(files) == 2 * len(TASKS)
    for file in files:
        assert file.read_text() == (tmp_path / file.name).read_text(), file.name


@pytest.mark.parametrize("task", TASKS)
def test_held_out_prompts_are_others(task: str) -> None:
    file = read_task_file(EXAMPLES / f"{task}.toml")
    training, held_out = ({r.prompt for r in file.rows(h)} for h in (False, True))
    assert not training & held_out
    assert counted(file.find.budget or 0, 10_000)


def test_held_out_combinations_were_never_in_training_text() -> None:
    for row in read_task_file(EXAMPLES / "ioi.toml").rows(held_out=True):
        words = row.prompt.replace(",", "").split()
        assert split_of(f"ioi|{'|'.join(sorted((words[1], words[3])))}|{words[7]}") == "held_out"


GOOD = (EXAMPLES / "ioi.toml").read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[task", "no TOML"),
        (GOOD.replace("[find]", "[fnd]"), r"there is no [fnd]; did you mean find?; there are task"),
        (GOOD.replace("budget", "buget"), "[find] has no buget; did you mean budget?"),
        (GOOD.replace("budget = 80", 'budget = "many"'), "[find] budget is 'many', not int or float"),
        (GOOD.replace("metric", "#"), "[task] needs metric"),
        (GOOD.replace("[saes]\n", "[saes]\n#"), "[saes] says which dictionary is at which site"),
        (GOOD.replace('"ioi.jsonl"', '"none.jsonl"'), "none.jsonl: cannot be read"),
        (GOOD.replace('"ioi.jsonl"', '"empty.jsonl"'), "empty.jsonl: has no prompts"),
        (GOOD.replace('"ioi.jsonl"', '"broken.jsonl"'), "broken.jsonl, line 2"),
        (GOOD.replace('"ioi.jsonl"', '"uneven.jsonl"'), "equally long"),
        (GOOD.replace("budget = 80", "budget = 0"), "the budget is 0"),
        (GOOD.replace("budget = 80", "budget = 99999"), "the budget is 99999 nodes; there are"),
        (GOOD.replace("budget = 80", ""), "top needs a budget"),
        (GOOD.replace("io.wrong", "io.wrnog"), "cannot be read"),
        (GOOD.replace("io.wrong", "io.answer"), "constant"),
        (GOOD.replace('"ig"', '"best"'), "method is 'best'"),
        (GOOD.replace('"L1.resid_post" =', '"L9.resid_post" ='), "L9"),
    ],
)
def test_a_bad_file_is_refused_and_nothing_is_written(text: str, says: str, here: Path) -> None:
    (here / "bad.toml").write_text(text)
    (here / "empty.jsonl").write_text("\n")
    first = (here / "ioi.jsonl").read_text().splitlines()[0]
    (here / "broken.jsonl").write_text(f'{first}\n{{"answer": 3}}\n')
    (here / "uneven.jsonl").write_text(
        f'{first}\n{{"prompt": "A", "corrupt": "B", "answer": " Paul", "wrong": " Kate"}}\n'
    )
    before = sorted(here.iterdir())
    result = saedsl("circuit", "find", "bad.toml", "--rows", "4")
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert sorted(here.iterdir()) == before
    as_json = saedsl("circuit", "find", "bad.toml", "--rows", "4", "--json")
    assert says in json.loads(as_json.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("find", "none.toml"), "none.toml: cannot be read"),
        (("find", "ioi.toml", "--budget", "some"), "--budget some: it is a number of nodes, or a share"),
        (("find", "ioi.toml", "--out", "no/where.json"), "there is no folder no"),
        (("validate", "ioi.toml"), "ioi.circuit.json: cannot be read"),
        (("draw", "ioi.toml", "x.pdf"), "there is no circuit yet: saedsl circuit find ioi.toml"),
        (("run", "ioi.toml"), "there is no circuit yet"),
        (("export", "ioi.jsonl", "x.dot"), "the name says no format"),
    ],
)
def test_what_is_missing_is_named(arguments: tuple[str, ...], says: str, here: Path) -> None:
    result = saedsl("circuit", *arguments)
    assert result.exit_code == 2, result.output
    assert says in result.output, result.output


def test_help_shows_a_whole_task_file() -> None:
    text = saedsl("circuit", "--help").output
    for said in ("[task]", "[prompts]", "[saes]", "[find]", "saedsl circuit validate ioi.toml", "find", "export"):
        assert said in text
    for name in ("find", "validate", "draw", "export", "run"):
        assert f"saedsl circuit {name}" in saedsl("circuit", name, "--help").output


def test_ctrl_c_leaves_nothing_half_written(here: Path) -> None:
    code = "from saedsl.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "circuit", "find", "capitals.toml", "--method", "greedy"],
        cwd=here, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(3)  # it is still at work: a greedy search of this size takes longer, here and on any machine
    before = sorted(p.name for p in here.iterdir())
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: nothing was written" in told
    assert sorted(p.name for p in here.iterdir()) == before
    assert not any(name.endswith(".circuit.json") for name in before)
