"""docs/roadmap.md names every item of the roadmap, and nothing in it that does not exist."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import pytest

from saedsl.cli import cli
from saedsl.grammar.parse import parse

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT.parent / "shared" / "reference" / "roadmap.md"


def rows() -> list[list[str]]:
    """item, API, example, test of every row."""
    lines = (ROOT / "docs" / "roadmap.md").read_text().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [c for c in cells if c[0] != "item"]


def plain(text: str) -> str:
    return re.sub(r"[*`]", "", text).strip()


@pytest.mark.parametrize("row", rows(), ids=lambda r: plain(r[0])[:50])
def test_every_name_of_the_row_resolves(row: list[str]) -> None:
    _, api, example, test = row
    names = re.findall(r"`([^`]+)`", api)
    assert names or api == "not yet"
    for name in names:
        resolve(name)
    for path in re.findall(r"`([^`]+)`", example + test):
        assert (ROOT / path).is_file(), f"{path} does not exist"
    if not api.startswith("not yet"):
        assert test, "an item that is done names its test"


def resolve(name: str) -> None:
    if name.startswith("program: "):
        assert not parse(name.removeprefix("program: ")).diagnostics
    elif name.startswith("saedsl "):
        assert cli.get_command(click.Context(cli), name.removeprefix("saedsl ")) is not None
    else:
        parts = name.split(".")
        for i in range(len(parts), 0, -1):
            try:
                found: object = import_module(".".join(parts[:i]))
            except ModuleNotFoundError:
                continue
            for part in parts[i:]:
                found = getattr(found, part)
            return
        raise AssertionError(f"{name} does not exist")


@pytest.mark.skipif(not REFERENCE.is_file(), reason="needs ../shared/reference/roadmap.md")
def test_every_item_of_the_reference_has_a_row() -> None:
    phases = REFERENCE.read_text().split("## Current Status")[0]
    items = re.findall(r"^\s*- (?:\[[^\]]*\] )?(.+)$", phases, flags=re.MULTILINE)
    known = {plain(row[0]) for row in rows()}
    assert [plain(i) for i in items if plain(i) not in known] == []
