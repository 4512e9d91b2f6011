"""The editors' files say what the words say, and colour programs as the parser reads them."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pygments.token import Comment, Error, Keyword, Name, String, Token

from saedsl.grammar import words
from saedsl.grammar.highlight import SaedslLexer

ROOT = Path(__file__).parents[2]
EDITORS = ROOT / "grammar" / "editors"
SAMPLE = """\
# model "x" is no statement here
model "demo"
sae g = "a # b" on L12.mlp -> L12.mlp
prompt it = chat "What \\"is\\" at?" system "One word."
prompts io = "io.jsonl"
let truth = {f42, f7, f100..103}
dir d = "file.safetensors".key
metric diff = logit(" Paris") - logprob(io.answer) + norm(L3.resid) @ prompt[-1]
at L12.mlp, embed @ all except bos when f3 > 0.5 max and not g.f4 or f5 {
  ablate f42 to mean by position of "reference.txt"
  amplify truth x2
  amplify h3 x -0.5
  set f9 = 4 std then clamp f3 to 0..5 @ gen | last
}
at L8..14.attn.z.h2 patch @ prompt[-1] from it at " Paris"
at L{0, 2}.mlp add $k norm dir d; project out dir d; drop error; freeze n17; apply mine(2) all
at L*.resid keep only truth else resample of io @ everywhere
record g.f42, g.error, L5.resid @ span " Paris" | every " a"
sweep strength in 0..4 by 0.5
include "other.saedsl"
at module "model.norm" out ablate to zero
run it as first with mode = frozen, seed = 3
generate it 32 with temp = 0.8
reset
"""


def programs() -> list[str]:
    """Every program of the language's reference and of the examples."""
    text = (ROOT / "grammar" / "LANGUAGE.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```saedsl[^\n]*\n(.*?)```", text, re.DOTALL)
    return [SAMPLE, *blocks, *(p.read_text(encoding="utf-8") for p in (ROOT / "examples").glob("*.saedsl"))]


def test_the_files_are_what_the_words_say() -> None:
    made = runpy.run_path(str(EDITORS / "generate.py"))["files"]()
    for name, content in made.items():
        assert (EDITORS / name).read_text(encoding="utf-8") == content, (
            f"{name}: run python grammar/editors/generate.py"
        )
    kept = {
        p.relative_to(EDITORS).as_posix() for p in EDITORS.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert kept == {*made, "generate.py", "README.md"}


# Pygments -------------------------------------------------------------------------------------------------------------


def lexed(text: str) -> list[tuple[Any, str]]:
    return list(SaedslLexer(ensurenl=False, stripnl=False).get_tokens(text))


def test_pygments_reads_every_program_without_error() -> None:
    assert len(programs()) > 10
    for program in programs():
        found = lexed(program)
        assert [t for t in found if t[0] is Error] == []
        assert "".join(text for _, text in found) == program


def test_pygments_gives_every_word_its_kind() -> None:
    found = {(text.strip(), kind) for kind, text in lexed(SAMPLE)}
    assert {(w, Keyword) for w in words.STATEMENTS} <= found
    assert {(w, Keyword.Reserved) for w in words.EDITS} <= found
    assert {(w, Keyword.Type) for w in words.UNITS} <= found
    assert ('"a # b"', String.Double) in found
    assert ('# model "x" is no statement here', Comment.Single) in found
    assert ("L8..14.attn.z", Name.Class) in found
    assert ("h2", Name.Variable) in found
    assert ("logprob", Name.Builtin) in found
    assert ("frozen", Name.Constant) in found


def test_the_field_of_a_row_is_no_keyword() -> None:
    assert (Token.Name, "prompt") in lexed("run io.prompt")
    assert (Keyword, "prompt") not in lexed("run io.prompt")


def test_installing_registers_the_lexer() -> None:
    import tomllib

    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points["pygments.lexers"] == {"saedsl": f"{SaedslLexer.__module__}:{SaedslLexer.__name__}"}
    assert SaedslLexer.filenames == ("*.saedsl",)


# TextMate -------------------------------------------------------------------------------------------------------------


@cache
def textmate() -> list[tuple[str, re.Pattern[str]]]:
    grammar = json.loads((EDITORS / "vscode/syntaxes/saedsl.tmLanguage.json").read_text())
    assert grammar["scopeName"] == "source.saedsl"
    return [(p["name"], re.compile(p["match"])) for p in grammar["patterns"]]


def scopes(line: str) -> list[tuple[str, str]]:
    """The line as an editor cuts it: the leftmost match wins, of those the first pattern."""
    found: list[tuple[str, str]] = []
    at = 0
    while True:
        matches = [(m.start(), i, m) for i, (_, p) in enumerate(textmate()) if (m := p.search(line, at)) and m.group()]
        if not matches:
            return found
        _, i, m = min(matches, key=lambda x: x[:2])
        found.append((m.group().strip(), textmate()[i][0]))
        at = m.end()


def test_textmate_colours_every_word_of_the_sample() -> None:
    found = {s for line in SAMPLE.splitlines() for s in scopes(line)}
    assert {(w, "keyword.control.saedsl") for w in words.STATEMENTS} <= found
    assert {(w, "keyword.operator.word.saedsl") for w in words.EDITS} <= found
    assert {(w, "keyword.other.unit.saedsl") for w in words.UNITS} <= found
    coloured = {text for text, _ in found}
    for table in (words.POSITIONS, words.CLAUSES, words.FREE_WORDS, words.TARGETS):
        assert set(table) - coloured == set(table) & {"x"}  # part of the factor, x2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('prompt a = "at # b" # at', [('"at # b"', "string.quoted.double"), ("# at", "comment.line.number-sign")]),
        ("at L8..14.attn.z.h2 ablate", [("L8..14.attn.z", "support.class.site"), ("h2", "variable.parameter.feature")]),
        ("amplify f7 x -0.5", [("f7", "variable.parameter.feature"), ("x -0.5", "constant.numeric.factor")]),
        ("add $strength f3..9", [("$strength", "variable.other.bound"), ("f3..9", "variable.parameter.feature")]),
        ("run a with mode = frozen", [("mode", "support.type.property-name"), ("frozen", "constant.language.mode")]),
    ],
)
def test_textmate_scopes(line: str, expected: list[tuple[str, str]]) -> None:
    found = scopes(line)
    for text, scope in expected:
        assert (text, f"{scope}.saedsl") in found


def test_textmate_leaves_names_alone() -> None:
    assert scopes("ablatef42 atL xs f4x models prompted") == []


def test_the_extension_names_files_that_exist() -> None:
    manifest = json.loads((EDITORS / "vscode/package.json").read_text())["contributes"]
    for entry in (*manifest["grammars"], *manifest["languages"]):
        assert (EDITORS / "vscode" / (entry.get("path") or entry["configuration"])).is_file()
    configuration = json.loads((EDITORS / "vscode/language-configuration.json").read_text())
    assert re.compile(configuration["wordPattern"])
    assert re.compile(configuration["indentationRules"]["increaseIndentPattern"]).match("at L2.mlp {  # edits")


# Vim ------------------------------------------------------------------------------------------------------------------


def test_vim_has_every_word_once() -> None:
    text = (EDITORS / "vim/syntax/saedsl.vim").read_text()
    found = [w for line in re.findall(r"^syntax keyword \w+ (.*)$", text, re.MULTILINE) for w in line.split()]
    assert len(found) == len(set(found))
    tables = (words.RESERVED - {"L"}, words.FREE_WORDS, words.FUNCTIONS, words.OPTIONS, words.MODES)
    assert set(found) == {w for table in tables for w in table}
    groups = set(re.findall(r"^syntax (?:keyword|match) (\w+)", text, re.MULTILINE))
    assert groups == set(re.findall(r"^highlight default link (\w+)", text, re.MULTILINE))


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
def test_vim_colours_the_sample(tmp_path: Path) -> None:
    (tmp_path / "a.saedsl").write_text(SAMPLE, encoding="utf-8")
    places = [
        ("model", 2, 1),
        ("at", 9, 1),
        ("ablate", 10, 3),
        ("f42", 10, 10),
        ("L12.mlp", 9, 4),
        ("# b", 3, 12),
        ("#", 1, 5),
    ]
    script = tmp_path / "show.vim"
    script.write_text(
        "set nocompatible\n"
        f"syntax clear\nunlet! b:current_syntax\nsource {EDITORS}/vim/syntax/saedsl.vim\n"
        "redir! > groups.txt\n"
        + "".join(f"silent echo synIDattr(synID({line}, {column}, 1), 'name')\n" for _, line, column in places)
        + "redir END\nqa!\n"
    )
    done = subprocess.run(
        ["vim", "-N", "-u", "NONE", "-es", "--cmd", "syntax on", "-S", str(script), "a.saedsl"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    if "E319" in done.stdout + done.stderr or not (tmp_path / "groups.txt").exists():
        pytest.skip("this vim is built without syntax colours")
    found = (tmp_path / "groups.txt").read_text().split()
    kinds = ["Statement", "Statement", "Edit", "Part", "Layer", "String", "Comment"]
    assert found == [f"saedsl{kind}" for kind in kinds]
