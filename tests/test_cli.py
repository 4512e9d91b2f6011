"""The command line: exit codes, JSON, and what it says to bad input; nothing is written when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from saedsl.cli import cli
from saedsl.errors import ModelError
from saedsl.grammar.source import Source
from saedsl.included import fetch_declared
from saedsl.sae.dictionary import SAE

ROOT = Path(__file__).parents[1]
PROMPT = "The cat sat on the mat"
Run = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_folder: Path, sae_folder: Path) -> Path:
    """An empty working directory beside `model` and `sae`, which are links to the tiny ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(llama_folder)
    (tmp_path / "sae").symlink_to(sae_folder)
    return tmp_path


def saedsl(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin)


GIVEN = ("-m", "model", "--sae", "L0.mlp=sae")


def contents(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


# What goes well ----------------------------------------------------------------------------------------------------


def test_run_shows_both_sides_and_the_hashes(here: Path) -> None:
    done = saedsl("run", *GIVEN, "-e", "at L0.mlp ablate f1; amplify f2 x2", "-p", PROMPT)
    assert done.exit_code == 0, done.output
    for said in (f'"{PROMPT}"', "next token", "KL(baseline || edited)", "at L0.mlp ablate f1", "program ", "plan "):
        assert said in done.output
    assert contents(here) == {"model", "sae"}


def test_run_as_json_is_the_result(here: Path) -> None:
    done = saedsl("run", *GIVEN, "-e", "at L0.mlp set f1 = $v", "--set", "v=3", "-p", PROMPT, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["saedsl_result"] == 2
    (prompt,) = data["prompts"]
    assert prompt["text"] == PROMPT
    assert prompt["pieces"][0] == "<s>"
    assert prompt["firings"][0]["edit"] == "at L0.mlp set f1 = 3"
    assert prompt["kl"] > 0


def test_run_saves_what_result_load_reads(here: Path) -> None:
    from saedsl.results import Result as Saved

    Path("p.saedsl").write_text(
        f'model "model"\nsae g = "sae"\nprompt p = "{PROMPT}"\nat g ablate f1..9\nrecord g.f2, L1.resid\nrun p\n'
    )
    for _ in range(2):  # a result may take a result's place
        done = saedsl("run", "p.saedsl", "--out", "out")
        assert done.exit_code == 0, done.output
        assert done.output.endswith("saved in out\n")
    saved = Saved.load("out")
    assert set(saved.prompts[0].edited.activations) == {"g.f2", "L1.resid_post"}
    assert contents(here) == {"model", "sae", "p.saedsl", "out", "out/result.json", "out/arrays.safetensors"}


def test_a_model_that_an_included_file_names_is_fetched(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, Path, bool]] = []

    def find(name: str, base: Path = Path(), download: bool = False) -> Path:
        fetched.append((name, base, download))
        raise ModelError("not here")

    monkeypatch.setattr("saedsl.included.find_model", find)
    Path("sub").mkdir()
    Path("sub/model.saedsl").write_text('model "some/hub-model"\n')
    fetch_declared(Source('include "sub/model.saedsl"\nat L0.mlp ablate\n', "main.saedsl"), here)
    assert fetched == [("some/hub-model", here, True)]


def test_paths_in_a_program_start_from_its_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("p.saedsl").write_text('model "model"\nsae g = "sae"\nat g ablate f1\n')
    Path("deeper").mkdir()
    monkeypatch.chdir("deeper")
    assert saedsl("check", "../p.saedsl").exit_code == 0
    assert saedsl("run", "../p.saedsl", "-p", PROMPT).exit_code == 0


def test_a_dictionary_may_be_given_for_an_alias_of_its_site(here: Path) -> None:
    assert (
        saedsl(
            "run", "-m", "model", "--sae", "L0.resid=sae", "-e", "at L0.resid_post ablate f1", "-p", PROMPT
        ).exit_code
        == 0
    )


def test_check_says_that_there_is_no_mistake(here: Path) -> None:
    done = saedsl("check", *GIVEN, "-e", "at L0.mlp ablate f1")
    assert done.exit_code == 0
    assert done.output.startswith("<command line>: no mistakes   program ")
    assert json.loads(saedsl("check", *GIVEN, "-e", "at L0.mlp ablate f1", "--json").stdout) == []


def test_a_program_may_come_from_standard_input(here: Path) -> None:
    assert saedsl("check", *GIVEN, "-", stdin="at L0.mlp ablate f1").exit_code == 0
    assert saedsl("check", *GIVEN, "-", stdin="at L9.mlp ablate f1").exit_code == 1


def test_diagnostics_as_json(here: Path) -> None:
    done = saedsl("check", *GIVEN, "-e", "# x\nat L9.mlp ablate f1", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == [
        {
            "code": "S304",
            "severity": "error",
            "message": "layer 9 does not exist: this model has 2 layers: L0..L1",
            "span": {"file": "<command line>", "line": 2, "column": 4, "end_line": 2, "end_column": 6},
            "hints": ["did you mean L1.mlp?"],
        }
    ]


def test_of_very_many_mistakes_people_see_the_first(here: Path) -> None:
    program = "at L9.mlp ablate f1\n" * 130
    done = saedsl("check", *GIVEN, "-e", program)
    assert done.exit_code == 1
    assert done.stderr.count("error[S304]") == 100
    assert done.stderr.endswith("30 more: --json lists all of them\n")
    assert len(json.loads(saedsl("check", *GIVEN, "-e", program, "--json").stdout)) == 130


def test_warnings_do_not_change_the_exit_code(here: Path) -> None:
    done = saedsl("check", *GIVEN, "-e", 'model "other"\nat L0.mlp ablate f1')
    assert done.exit_code == 0
    assert "warning[S315]" in done.stderr


def test_explain_names_module_formula_and_tokens(here: Path) -> None:
    done = saedsl("explain", *GIVEN, "-e", 'at L0.mlp amplify f1 x2 @ " cat"', "-p", PROMPT)
    assert done.exit_code == 0, done.output
    for said in ("model.layers.0.mlp out", "x' = x + s(x) (f' - f) W_dec[f1],  f' = 2 f", "4:' cat'"):
        assert said in done.output
    data = json.loads(saedsl("explain", *GIVEN, "-e", "at L0.mlp ablate f1", "-p", PROMPT, "--json").stdout)
    assert data["program"]["language"] == 1
    assert data["steps"][0][0]["edits"] == ["0..8, gen[0..]"]  # trained on BOS


def test_sites_are_verified_and_listed(here: Path) -> None:
    done = saedsl("sites", "model")
    assert done.exit_code == 0, done.output
    assert "verified: resid_pre + attn + mlp == resid_post in all 2 layers" in done.output
    data = json.loads(saedsl("sites", "model", "--json").stdout)
    assert data["sites"]["L1.attn.z"] == {"module": "model.layers.1.self_attn.o_proj in", "width": 48}


def test_fmt_formats_in_place_and_checks(here: Path) -> None:
    path = Path("p.saedsl")
    path.write_text("at   L0.mlp   ablate f1\n")
    assert saedsl("fmt", "--check", "p.saedsl").exit_code == 1
    assert path.read_text() == "at   L0.mlp   ablate f1\n"
    assert saedsl("fmt", "p.saedsl").exit_code == 0
    assert path.read_text() == "at L0.mlp ablate f1\n"
    assert saedsl("fmt", "--check", "p.saedsl").exit_code == 0
    assert saedsl("fmt", "-", stdin="at   L0.mlp ablate\n").stdout == "at L0.mlp ablate\n"
    assert contents(here) == {"model", "sae", "p.saedsl"}


def test_fmt_leaves_a_file_with_mistakes_as_it_is(here: Path) -> None:
    Path("p.saedsl").write_text("at L0.mlp ablat   f1\n")
    done = saedsl("fmt", "p.saedsl")
    assert done.exit_code == 1
    assert "error[S111]" in done.stderr
    assert Path("p.saedsl").read_text() == "at L0.mlp ablat   f1\n"


# What does not -----------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[str, str]] = [
    ("at L9.mlp ablate f1", "error[S304]: layer 9 does not exist"),
    ("at L0.mpl ablate f1", "error[S303]: L0.mpl is not a site"),
    ("at L0.mlp ablate f999", "error[S311]: feature 999 does not exist"),
    ("at L0.mlp oblate f1", "error[S111]"),
    ("at L1.mlp ablate f1", "error[S309]: no dictionary is bound to L1.mlp"),
    ("at h ablate f1", "error[S201]: nothing above is called h"),
    ('sae h = "nothing/here"\nat h ablate f1', "error[S307]: this dictionary cannot be used: nothing/here"),
    ('sae h = "model"\nat h ablate f1', "error[S307]"),
    ("at L0.mlp set f1 = $k", "error[S204]: $k has no value"),
    ('at L0.mlp ablate f1 @ " dog"', "error[S401]"),
]


@pytest.mark.parametrize("command", ["run", "check", "explain"])
@pytest.mark.parametrize(("program", "said"), MISTAKES)
def test_a_programs_mistake_exits_with_1(command: str, program: str, said: str, here: Path) -> None:
    out = ("--out", "out") if command == "run" else ()
    done = saedsl(command, *GIVEN, "-e", program, "-p", PROMPT, *out)
    assert done.exit_code == 1, done.output
    assert said in done.stderr
    assert "-->" in done.stderr
    assert done.stdout == ""
    assert contents(here) == {"model", "sae"}


def test_run_without_a_prompt_exits_with_1(here: Path) -> None:
    done = saedsl("run", *GIVEN, "-e", "at L0.mlp ablate f1")
    assert done.exit_code == 1
    assert "error[S601]: there is no prompt to run on" in done.stderr


USAGE: list[tuple[tuple[str, ...], str]] = [
    (("check",), "give a program: a FILE, or -e 'CODE'"),
    (("check", "a.saedsl", "-e", "run"), "give a program: a FILE, or -e 'CODE', not both"),
    (("check", "absent.saedsl"), "absent.saedsl: there is no such file"),
    (("check", "model"), "model: is a folder; a program is a file"),
    (("check", "-e", "run", "-m", "absent"), "absent: there is no such folder"),
    (("check", "-e", "run", "-m", "sae"), "sae: not a model's folder, it has no config.json"),
    (
        ("check", "-e", "run", "-m", "model/config.json"),
        "model/config.json: a model is a folder with config.json, this is a file",
    ),
    (("check", "-e", "run", "-m", "model", "--sae", "sae"), "--sae sae: write it as NAME=PATH"),
    (("check", "-e", "run", "-m", "model", "--sae", "g=absent"), "absent: there is no such file or folder"),
    (("check", "-e", "run", "-m", "model", "--sae", "g=model"), "model: not a dictionary that saedsl can read"),
    (("check", "-e", "run", "-m", "model", "--set", "k=two"), "--set k=two: two is not a number"),
    (("check", "-e", "run", "-m", "model", "--set", "k=inf"), "--set k=inf: the number must be finite"),
    (("check", "-e", "run", "-m", "model", "--set", "k"), "--set k: write it as K=V"),
    (("check", "--nonsense"), "No such option"),
    (("chekc",), "No such command"),
    (("fmt",), "name the files to format, or give a program with -e"),
    (("sites", "absent"), "absent: there is no such folder"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], said: str, here: Path) -> None:
    done = saedsl(*arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert contents(here) == {"model", "sae"}


def test_usage_errors_are_json_where_json_is_asked_for(here: Path) -> None:
    done = saedsl("check", "absent.saedsl", "--json")
    assert done.exit_code == 2
    assert json.loads(done.stdout) == {"error": {"kind": "usage", "message": "absent.saedsl: there is no such file"}}


def test_a_run_whose_numbers_overflow_exits_with_3(here: Path) -> None:
    arguments = ("run", *GIVEN, "-e", "at L0.mlp set f1 = 1e39", "-p", PROMPT, "--out", "out")
    done = saedsl(*arguments)
    assert done.exit_code == 3, done.output
    assert "error: the model's output is not finite (NaN or inf): an edit is too strong" in done.stderr
    assert json.loads(saedsl(*arguments, "--json").stdout)["error"]["kind"] == "failed"
    assert contents(here) == {"model", "sae"}


def test_a_folder_that_holds_something_else_is_not_replaced(here: Path) -> None:
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    for out, said in (("out", "holds notes.txt, which saving would delete"), ("file", "not a folder")):
        done = saedsl("run", *GIVEN, "-e", "at L0.mlp ablate f1", "-p", PROMPT, "--out", out)
        assert done.exit_code == 2
        assert f"error: {out}: {said}" in done.stderr
        assert done.stdout == ""
    assert contents(here) == {"model", "sae", "out", "out/notes.txt", "file"}


# Damaged files -----------------------------------------------------------------------------------------------------


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def junk(path: Path) -> None:
    path.write_bytes(bytes((i * 73 + 41) % 256 for i in range(4096)))


SAE_DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("weights cut short", lambda d: cut(d / "sae_weights.safetensors", 0.5), "cut short"),
    ("weights empty", lambda d: cut(d / "sae_weights.safetensors", 0), "not a safetensors file"),
    ("weights junk", lambda d: junk(d / "sae_weights.safetensors"), "not a safetensors file"),
    ("weights missing", lambda d: (d / "sae_weights.safetensors").unlink(), "sae_weights.safetensors is missing"),
    ("config cut short", lambda d: cut(d / "cfg.json", 0.5), "cfg.json"),
    ("config junk", lambda d: junk(d / "cfg.json"), "cfg.json"),
    ("config empty", lambda d: (d / "cfg.json").write_text("{}"), "cfg.json has no d_in"),
    ("config a list", lambda d: (d / "cfg.json").write_text("[1]"), "cfg.json"),
]


@pytest.mark.parametrize(("what", "damage", "said"), SAE_DAMAGE, ids=lambda x: x if isinstance(x, str) else "")
def test_a_damaged_dictionary_is_refused(what: str, damage: Callable[[Path], object], said: str, here: Path) -> None:
    shutil.copytree("sae", "bad")
    damage(Path("bad"))
    given = saedsl("run", "-m", "model", "--sae", "L0.mlp=bad", "-e", "at L0.mlp ablate f1", "-p", PROMPT)
    assert given.exit_code == 2, (given.output, given.exception)
    assert said in given.stderr
    named = saedsl("run", "-m", "model", "-e", 'sae g = "bad"\nat g ablate f1', "-p", PROMPT)
    assert named.exit_code == 1, (named.output, named.exception)
    assert "error[S307]" in named.stderr
    assert said in named.stderr


MODEL_DAMAGE: list[tuple[str, Callable[[Path], object], int, str]] = [
    ("weights cut short", lambda d: cut(d / "model.safetensors", 0.5), 2, "model"),
    ("weights empty", lambda d: cut(d / "model.safetensors", 0), 2, "model"),
    ("weights junk", lambda d: junk(d / "model.safetensors"), 2, "model"),
    ("weights missing", lambda d: (d / "model.safetensors").unlink(), 2, "model"),
    ("config cut short", lambda d: cut(d / "config.json", 0.5), 2, "config.json: cannot be read as JSON"),
    ("config junk", lambda d: junk(d / "config.json"), 2, "config.json: cannot be read as JSON"),
    ("config a list", lambda d: (d / "config.json").write_text("[]"), 2, "config.json: holds no JSON object"),
    ("config of nothing", lambda d: (d / "config.json").write_text("{}"), 2, "config.json has no model_type"),
    ("tokenizer junk", lambda d: junk(d / "tokenizer.json"), 1, "tokenizer.json: cannot be read as a tokenizer"),
    ("tokenizer missing", lambda d: (d / "tokenizer.json").unlink(), 2, "model"),
    (
        "another family",
        lambda d: edit(d, model_type="mamba"),
        2,
        "model_type 'mamba' is not supported; supported: llama",
    ),
    ("another width", lambda d: edit(d, hidden_size=64), 2, "cannot be loaded"),
    ("no sizes", lambda d: edit(d, hidden_size=None), 2, "config.json gives no d_model"),
]


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("what", "damage", "code", "said"), MODEL_DAMAGE, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_damaged_model_is_refused(
    what: str, damage: Callable[[Path], object], code: int, said: str, here: Path
) -> None:
    shutil.copytree("model", "bad-model")
    damage(Path("bad-model"))
    before = contents(here)
    done = saedsl("run", "-m", "bad-model", "-e", "at L0.mlp ablate", "-p", PROMPT, "--out", "out")
    assert done.exit_code == code, (done.output, done.exception)
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert contents(here) == before


def test_binary_junk_is_no_program(here: Path) -> None:
    junk(Path("junk.saedsl"))
    done = saedsl("check", *GIVEN, "junk.saedsl")
    assert done.exit_code == 1
    assert "error[S101]" in done.stderr
    assert len(done.stderr) < 2000


def test_a_program_of_ten_megabytes_is_refused_at_once(here: Path) -> None:
    Path("big.saedsl").write_text("at L0.mlp ablate f1\n" * 500_000)
    done = saedsl("check", *GIVEN, "big.saedsl")
    assert done.exit_code == 1
    assert "error[S100]" in done.stderr
    assert len(done.stderr) < 2000


# As a process ------------------------------------------------------------------------------------------------------

GENERATING = """
import pathlib
import saedsl.model, saedsl.runner
real = saedsl.runner.generate
def generate(*arguments, **more):
    for i, step in enumerate(real(*arguments, **more)):
        if i == 20:
            pathlib.Path("generating").touch()
        yield step
saedsl.runner.generate = generate
from saedsl.cli import main
main()
"""


def test_an_interrupted_command_writes_nothing(here: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["run", *GIVEN, "-e", "at L0.mlp ablate f1\ngenerate 10000000", "-p", PROMPT, "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", GENERATING, *arguments],
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not Path("generating").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert err == "interrupted: nothing was written\n"
    assert contents(here) == {"model", "sae", "generating"}


def test_an_sae_of_another_width_is_refused(here: Path, sae_of: Callable[..., SAE]) -> None:
    sae_of(16, site="L0.mlp").save("narrow")
    done = saedsl("run", "-m", "model", "--sae", "L0.mlp=narrow", "-e", "at L0.mlp ablate f1", "-p", PROMPT)
    assert done.exit_code == 1
    assert "error[S317]: L0.mlp reads activations 16 wide, L0.mlp of this model is 32 wide" in done.stderr


# The command as it is started ----------------------------------------------------------------------------------------


def started(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from saedsl.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--json"), "give a program: a FILE, or -e 'CODE'"),
        (("run", "--json", "-e", "run", "--set", "k=nan"), "the number must be finite"),
        (("run", "--json", "-e", "run", "--top", "0"), "0 is not in the range x>=1"),
        (("check", "--json", "--nonsense"), "No such option"),
    ],
)
def test_wrong_options_are_json_too_where_json_is_asked_for(arguments: tuple[str, ...], said: str) -> None:
    done = started(*arguments)
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "usage"
    assert said in error["message"]


def test_a_reader_who_has_seen_enough_is_no_failure() -> None:
    line = f"{sys.executable} -c 'from saedsl.cli import main; main()' sites demo | head -1; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "demo: llama, 4 layers, d_model 128\n"


def test_diagnostics_have_no_colour_where_none_is_wanted() -> None:
    done = started("check", "-e", "at L12.mlp ablate", FORCE_COLOR="1", NO_COLOR="1")
    assert done.returncode == 1
    assert "\x1b[3" not in done.stderr
    assert "this model has 4 layers: L0..L3" in done.stderr


def test_fmt_goes_on_after_a_file_with_mistakes_and_keeps_links(tmp_path: Path) -> None:
    (tmp_path / "real.saedsl").write_text("at  L0.mlp   ablate f1")
    (tmp_path / "link.saedsl").symlink_to("real.saedsl")
    (tmp_path / "bad.saedsl").write_text("at at")
    done = saedsl("fmt", str(tmp_path / "bad.saedsl"), str(tmp_path / "link.saedsl"))
    assert done.exit_code == 1
    assert (tmp_path / "link.saedsl").is_symlink()
    assert (tmp_path / "real.saedsl").read_text() == "at L0.mlp ablate f1\n"
