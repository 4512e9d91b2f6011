"""Programs in Python files and notebooks: found, and their mistakes shown where they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saedsl.analyse import Given, analyse
from saedsl.cli import cli
from saedsl.embedded import cell_program, find_cells, find_literal, find_programs
from saedsl.errors import SaedslError
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source


def programs(text: str) -> list[str]:
    return [p.text for p in find_programs(Source(text, "a.py")).programs]


@pytest.mark.parametrize(
    ("python", "found"),
    [
        ('P = "at L2.mlp ablate f42"', ["at L2.mlp ablate f42"]),
        ('P = "# first\\n\\n  at L2.mlp ablate f42"', ["# first\n\n  at L2.mlp ablate f42"]),
        ('P = "at g ablate f1"', ["at g ablate f1"]),
        ('P = "at module \\"a.b\\" in ablate"', ['at module "a.b" in ablate']),
        ('P = "let k = 3"', ["let k = 3"]),
        ('P = "sweep s in [1, 2]"', ["sweep s in [1, 2]"]),
        ('P = "generate fr 32"', ["generate fr 32"]),
        ('P = "record L2.mlp, g.f3"', ["record L2.mlp, g.f3"]),
        ('P = """\nmodel "demo"\n"""', ['\nmodel "demo"\n']),
        ('P = ("at L2.mlp "\n     "ablate f42")', ["at L2.mlp ablate f42"]),
        ('P = r"at L2.mlp ablate f42"', ["at L2.mlp ablate f42"]),
        # prose, other languages, and docstrings are none
        ('P = "at the end of the day"', []),
        ('P = "let x be 3"', []),
        ('P = "model trains"', []),
        ('P = "run away"', []),
        ('P = "record the results"', []),
        ('P = b"at L2.mlp ablate f42"', []),
        ('def f():\n    """at L2.mlp ablate f42"""', []),
        # arguments of calls, once the file uses saedsl
        ('import saedsl\nm.run("att L2.mlp ablate f42")', ["att L2.mlp ablate f42"]),
        ('import saedsl\nm.plan("att L2.mlp ablate f42")', ["att L2.mlp ablate f42"]),
        ('from saedsl import x\nm.trace("at the end", "att L2.mlp")', ["att L2.mlp"]),
        ('import saedsl\nm.trace("at the end", program="att L2.mlp")', ["att L2.mlp"]),
        ('import saedsl\nsaedsl.parse("att L2.mlp")', ["att L2.mlp"]),
        ('import saedsl\nm.run("att L2.mlp", prompts="a b")', ["att L2.mlp"]),
        # not those of other modules, nor names of prompts, nor without saedsl
        ('import saedsl, subprocess\nsubprocess.run("ls -l")', []),
        ('import saedsl\ns.run("fr")', []),
        ('import saedsl\ns.run("fr", "it")', []),
        ('task.run("do it now")', []),
    ],
)
def test_strings_that_are_programs_are_found(python: str, found: list[str]) -> None:
    assert programs(python) == found


@pytest.mark.parametrize(
    "python",
    [
        'P = "at L2.mlp ablat f42"',
        '    \nif 1:\n    P = """\n        # a comment\n        at L2.mlp ablat f42\n    """',
        'P = ("at L2.mlp "  # a\n     "ablat f42")',
        "P = \"at L2.mlp \" 'ablat f42'",
        'P = "\\x61t\\tL2.mlp \\u0061\\142lat f42"',
        'P = "at L2.mlp \\\n  ablat f42"',
        'é = "ü"; P = "at L2.mlp ablat f42"',
        'P = r"at L2.mlp ablat f42"',
        'P = "prompt p = \\"Paris 巴黎\\"\\nat L2.mlp ablat f42"',
    ],
)
def test_a_mistake_is_shown_where_it_stands_in_the_file(python: str) -> None:
    file = Source(python, "a.py")
    (program,) = find_programs(file).programs
    (mistake,) = parse(program).diagnostics
    shown = mistake.outward
    assert shown.source is file
    spelled = python[shown.span.start : shown.span.end]
    assert spelled in ("ablat", "\\u0061\\142lat"[: len(spelled)]), spelled
    assert spelled.endswith("lat")
    line = python[: shown.span.start].count("\n") + 1
    assert mistake.to_json()["span"]["line"] == line
    assert f"--> a.py:{line}:" in mistake.render()
    assert python.splitlines()[line - 1].strip() in mistake.render()


def test_another_line_that_a_mistake_names_is_the_files() -> None:
    python = 'x = 1\ny = 2\nP = """\nlet a = 3\nlet a = 4\nmetric m = kl()\nrun as r\nrun as r\n"""\n'
    (program,) = find_programs(Source(python, "a.py")).programs
    messages = [d.message for d in analyse(program)[1].diagnostics if d.code == "S202"]
    assert messages == ["a is declared twice, first on line 4", "two runs are called r, first on line 7"]
    cell = Source("%%saedsl\nlet a = 3\nlet a = 4\nrun", "cell")
    (mistake,) = [d for d in analyse(cell_program(cell))[1].diagnostics if d.code == "S202"]
    assert mistake.message == "a is declared twice, first on line 2"


def test_the_line_of_an_included_file_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "more.saedsl").write_text("# one\nlet a = 3\n")
    python = 'x = 1\nP = """include "more.saedsl"\nlet a = 4\nrun"""\n'
    (program,) = find_programs(Source(python, "a.py")).programs
    (mistake,) = [d for d in analyse(program, Given(base=tmp_path))[1].diagnostics if d.code == "S202"]
    assert mistake.message == f"a is declared twice, first on line 2 of {tmp_path / 'more.saedsl'}"


def test_the_whole_mistake_is_asserted_once() -> None:
    python = 'import saedsl\nmodel.run("""\n    at L2.mlp ablat f42\n""")\n'
    (program,) = find_programs(Source(python, "steer.py")).programs
    (mistake,) = parse(program).diagnostics
    assert mistake.render() == (
        "error[S111]: unknown edit ablat\n"
        "  --> steer.py:3:15\n"
        "   |\n"
        " 3 |     at L2.mlp ablat f42\n"
        "   |               ^^^^^\n"
        "   = help: did you mean ablate?"
    )


def test_f_strings_are_skipped_and_counted() -> None:
    python = 'import saedsl\nm.run(f"at L{i}.mlp ablate f1")\nm.run("a" f"{b}")\n'
    python += 'print(f"{x} at last")\nm.run("at L1.mlp ablate")'
    found = find_programs(Source(python, "a.py"))
    assert [python[s.span.start : s.span.end] for s in found.skipped] == ['f"at L{i}.mlp ablate f1"', '"a" f"{b}"']
    assert [p.text for p in found.programs] == ["at L1.mlp ablate"]


@pytest.mark.parametrize(
    "made",
    [
        '"at L2.mlp " + "ablate f1"',
        '"at L2.mlp " + edit + "; ablate f2"',
        '"at L2.mlp ablate f%d" % i',
        '"at L2.mlp ablate f{}".format(i)',
        'f"at L{i}.mlp " + "ablate"',
        'PROMPT + "at L2.mlp abl"',
        '"\\n".join(lines)',
    ],
)
def test_a_text_that_is_put_together_is_skipped_whole(made: str) -> None:
    found = find_programs(Source(f"import saedsl\nm.run({made})\n", "a.py"))
    assert [found.source.text[s.span.start : s.span.end] for s in found.skipped] == [made]
    assert found.programs == ()


def test_a_piece_that_is_no_argument_counts_if_it_starts_a_program() -> None:
    python = 'P = f"at L{i}.mlp ablate f" + str(i)\nQ = "a b" + "at L2.mlp abl"\nR = x + 1\n'
    found = find_programs(Source(python, "a.py"))
    assert [python[s.span.start : s.span.end] for s in found.skipped] == ['f"at L{i}.mlp ablate f" + str(i)']
    assert found.programs == ()


def test_a_file_that_is_not_python_is_said_to_be_none() -> None:
    with pytest.raises(SaedslError, match=r"a\.py: is not Python"):
        find_programs(Source("def (", "a.py"))
    with pytest.raises(SaedslError, match=r"a\.ipynb: is not a notebook"):
        find_cells(Source("{}", "a.ipynb"))


@pytest.mark.parametrize(
    ("python", "value"),
    [
        ('x = "at L2.mlp ablate f42"', "at L2.mlp ablate f42"),
        ('x = dedent("""\n    at L2.mlp ablate f42\n      run\n    """)', "\nat L2.mlp ablate f42\n  run\n"),
        ('x = """\n    at L2.mlp ablate f42\n    """.strip()', "at L2.mlp ablate f42"),
        ('x = cleandoc("""\n    at L2.mlp {\n      ablate f42\n    }\n    """)', "at L2.mlp {\n  ablate f42\n}"),
    ],
)
def test_a_value_is_found_again_in_its_file(python: str, value: str) -> None:
    found = find_literal(value, python, 1)
    assert found is not None
    assert found.value == value
    assert "".join(python[i] for i in found.offsets[:-1]) == value


def test_of_equal_strings_the_nearest_is_meant() -> None:
    python = 'a = "at L1.mlp ablate"\nb = 1\nc = "at L1.mlp ablate"\nd = c\ne = "at L1.mlp ablate"\n'
    found = find_literal("at L1.mlp ablate", python, 4)
    assert found is not None
    assert found.line == 3
    assert find_literal("at L9.mlp ablate", python, 4) is None


def notebook(*cells: str) -> str:
    return json.dumps({"cells": [{"cell_type": "code", "source": c.splitlines(True)} for c in cells]})


def test_programs_of_a_notebook_are_found_in_both_kinds_of_cells() -> None:
    text = notebook(
        "%load_ext saedsl\nimport saedsl",
        "%%saedsl -m model\nat L2.mlp ablat f42",
        '!pip list\n%time model.run("x")\nP = "at L3.mlp ablat f7"',
        "%%bash\nat L2.mlp ablat f1",
        "def (",
    )
    found = find_cells(Source(text, "n.ipynb"))
    places = [parse(p).diagnostics[0].to_json()["span"] for p in found.programs]
    assert [(p["file"], p["line"], p["column"]) for p in places] == [("n.ipynb[2]", 2, 11), ("n.ipynb[3]", 3, 16)]


# The command ------------------------------------------------------------------------------------------------------


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as e:
        cli.main(["check", *arguments], prog_name="saedsl")
    out = capsys.readouterr()
    return int(e.value.code or 0), out.out, out.err


def test_several_files_of_all_kinds_are_checked_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, python, cells = tmp_path / "a.saedsl", tmp_path / "b.py", tmp_path / "c.ipynb"
    good.write_text("at L2.mlp ablate f42\n")
    python.write_text('import saedsl\nm.run("at L2.mlp ablate f42")\nm.run(f"at L{i}.mlp ablate f1")\n')
    cells.write_text(notebook("%%saedsl\nat L2.mlp ablate f42"))
    code, out, err = check(capsys, str(good), str(python), str(cells))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{good}: no mistakes   program ")
    assert lines[1:] == [
        f"{python}: 1 program, no mistakes   not checked: 1 text that Python puts together",
        f"{cells}: 1 program, no mistakes",
    ]
    python.write_text('import saedsl\nm.run("at L2.mlp ablat f42")\nm.run("at " + site)\n')
    code, out, err = check(capsys, str(python), str(good))
    assert code == 1
    assert f"{python}: not checked: 1 text that Python puts together" in out
    assert f"--> {python}:2:18" in err
    assert f"{good}: no mistakes" in out


def test_the_json_of_a_python_file_has_notes_of_f_strings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = tmp_path / "b.py"
    python.write_text('import saedsl\nm.run(f"at L{i}.mlp ablate f1")\n')
    code, out, _ = check(capsys, "--json", str(python))
    (note,) = json.loads(out)
    assert code == 0
    assert (note["code"], note["severity"], note["span"]["line"]) == ("S608", "note", 2)


def test_what_depends_on_the_model_is_checked_where_the_model_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "b.py"
    python.write_text('import saedsl\nm.run("at L22.mlp ablate f42; amplify f1 x $k")\n')
    assert check(capsys, str(python))[0] == 0
    code, _, err = check(capsys, str(python), "--model", "demo")
    assert code == 1
    assert "error[S304]: layer 22 does not exist" in err
    assert "$k" not in err.replace('x $k")', "")
    python.write_text('import saedsl\nm.run("""model "demo"\nat L22.mlp ablate f42""")\n')
    code, _, err = check(capsys, str(python))
    assert code == 1
    assert f"--> {python}:3:4" in err
