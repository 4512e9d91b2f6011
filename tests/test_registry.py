"""Edits of the user's own."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import saedsl
from saedsl import registry


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_EDITS", {})


def test_a_registered_edit_is_found_by_its_name_and_its_key() -> None:
    @saedsl.edit("soften", version=2)
    def soften(f: Any, strength: float = 0.5) -> Any:
        return f * (1 - strength)

    found = registry.find("soften")
    assert found is not None
    assert (found.name, found.version, found.key, found.arguments) == ("soften", 2, "soften/2", (0, 1))
    assert found.function is soften
    assert registry.get("soften/2") is found
    assert registry.names() == ("soften",)
    assert soften(8.0, 0.25) == 6.0  # the function itself is as it was


def test_the_latest_version_is_the_one_that_programs_use() -> None:
    for version in (1, 3, 2):
        registry.edit("soften", version=version)(lambda f: f)
    found = registry.find("soften")
    assert found is not None
    assert found.version == 3
    assert registry.get("soften/1").version == 1


def test_what_is_not_registered_is_not_found() -> None:
    assert registry.find("nope") is None
    with pytest.raises(KeyError, match="the edit nope/1 is not registered in this process"):
        registry.get("nope/1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is not a name"),
        ("a b", "'a b' is not a name"),
        ("1a", "'1a' is not a name"),
        ("f42", "'f42' is not a name"),
        ("L3", "'L3' is not a name"),
        ("x2", "'x2' is not a name"),
        ("ünder", "'ünder' is not a name"),
        ("ablate", "ablate is a word of the language"),
        ("apply", "apply is a word of the language"),
        ("then", "then is a word of the language"),
    ],
)
def test_a_name_that_programs_cannot_say_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.edit(name)


@pytest.mark.parametrize("version", [0, -1, True, 1.5, "1"])
def test_a_version_is_a_whole_number_from_one(version: Any) -> None:
    with pytest.raises(ValueError, match="a whole number from 1"):
        registry.edit("soften", version=version)


def test_two_functions_of_one_name_and_version_are_an_error() -> None:
    @registry.edit("soften")
    def one(f: Any) -> Any:
        return f

    with pytest.raises(ValueError, match=r"the edit soften/1 is .*one already: give this one another name or version"):

        @registry.edit("soften")
        def two(f: Any) -> Any:
            return f


def test_a_cell_that_is_run_again_replaces_its_function() -> None:
    def cell(factor: float) -> Callable[..., Any]:
        @registry.edit("soften")
        def soften(f: Any) -> Any:
            return f * factor

        return soften

    cell(2.0)
    second = cell(3.0)
    assert registry.get("soften/1").function is second
    assert registry.get("soften/1").function(1.0) == 3.0


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda f: f, (0, 0)),
        (lambda f, a: f, (1, 1)),
        (lambda f, a, b=1.0: f, (1, 2)),
        (lambda f, *rest: f, (0, math.inf)),
        (lambda f, a, *rest, key=1: f, (1, math.inf)),
        (lambda *all: all, (0, math.inf)),
    ],
)
def test_how_many_numbers_an_edit_takes_is_read_from_its_signature(
    function: Callable[..., Any], arguments: tuple[int, float]
) -> None:
    registry.edit("soften")(function)
    assert registry.get("soften/1").arguments == arguments


def test_a_function_that_programs_cannot_call_is_refused() -> None:
    def keyword(f: Any, *, k: float) -> Any:
        return f * k

    with pytest.raises(TypeError, match="the edit soften needs the keyword k: programs give numbers by position only"):
        registry.edit("soften")(keyword)
    with pytest.raises(TypeError, match="the edit soften takes no argument"):
        registry.edit("soften")(lambda: 0)
    with pytest.raises(TypeError, match=r"must be a function\(f, \*numbers\), not a int"):
        registry.edit("soften")(3)  # type: ignore[type-var]


def test_the_registry_imports_neither_mlx_nor_numpy() -> None:
    code = "import sys, saedsl.registry; assert not {'mlx', 'numpy', 'lark'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
