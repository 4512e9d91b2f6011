"""Paths that no file can have, wherever a program names a file: a mistake is said, nothing is raised."""

from __future__ import annotations

from pathlib import Path

import pytest

from saedsl import paths
from saedsl.analyse import Given, analyse
from saedsl.grammar.source import Source
from saedsl.lsp.document import Document
from saedsl.lsp.hover import definition

ODD = {"too long": "x" * 400, "null": "a\\u0000b", "nobody's home": "~nobody-of-this-name/x", "a circle": "circle/x"}
STATEMENTS = {
    'model "{}"\nrun': "S301",
    'sae g = "{}"\nrun': "S307",
    'prompts io = "{}"\nrun': "S327",
    'include "{}"\nrun': "S326",
    'dir d = "{}".key\nrun': "S328",
    'at L1.mlp ablate f1 to mean of "{}"\nrun': "S327",
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "circle").symlink_to("circle")
    return tmp_path


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_name_that_no_file_can_have_is_said_to_be_none(statement: str, odd: str, base: Path) -> None:
    text = statement.format(ODD[odd])
    _, report = analyse(Source(text), Given(base=base))
    assert [d.code for d in report.errors] == [STATEMENTS[statement]]
    assert report.errors[0].render()


@pytest.mark.parametrize("odd", ODD)
def test_an_editor_asks_where_such_a_name_leads(odd: str, base: Path) -> None:
    for statement in STATEMENTS:
        text = statement.format(ODD[odd])
        doc = Document(text, base / "p.saedsl")
        assert definition(doc, text.index('"') + 2) is None
        assert doc.included == ()


def test_a_name_is_looked_for_beside_the_program_then_here(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = base / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(base))
    (here / "a").touch()
    assert paths.existing("a", base) == Path("a")
    (base / "a").touch()
    assert paths.existing("a", base) == base / "a"
    assert paths.existing("~/a", here) == base / "a"
    assert paths.existing("b", base) is None
    assert paths.resolved(base / "here" / ".." / "a") == (base / "a").resolve()
    assert paths.resolved(base / "circle") == base / "circle"
