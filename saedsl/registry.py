"""Edits of the user's own: `@saedsl.edit("soften", version=1)` in Python, `apply soften(0.5) f42` in a program."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from saedsl.grammar.words import RESERVED

NAME: Final = re.compile(r"(?![fLhnx]\d)[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Registered:
    """A function that programs may apply."""

    name: str
    version: int
    function: Callable[..., Any] = field(repr=False)
    """function(f, *args) -> f': f and f' are mx.array [..., n], args are numbers."""
    arguments: tuple[int, float]
    """How few and how many numbers it takes beside f; infinite for `*args`."""

    @property
    def key(self) -> str:
        """What plans call it: `soften/1`."""
        return f"{self.name}/{self.version}"


_EDITS: Final[dict[str, Registered]] = {}
"""By key. The one registry of the process: a decorator has no other place to put what it decorates."""


def edit(name: str, *, version: int = 1) -> Callable[[F], F]:
    """Make a function an edit of the language: `apply NAME T`, or `apply NAME(0.5, 2) T`.

        @saedsl.edit("soften")
        def soften(f, strength=0.5):
            return f * (1 - strength)

    The function gets what the target names, `f` mx.array [..., n] (feature activations, heads' columns, coordinates,
    or a whole site), and the numbers of the program; it gives back an array of the same shape, and must not depend on
    anything else. Programs use the latest version; results and plans say which. Change the version when the function
    changes: a plan's hash holds its name and version, not its code.

    Args:
        name: a name of the language: letters, digits and `_`, no reserved word, nothing that reads as `f42` or `L3`.
        version: from 1.

    Raises:
        ValueError: if the name cannot be one, or another function has this name and version.
        TypeError: if the function cannot be called with positional arguments only.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name: letters, digits and _, nothing that reads as f42, L3, h1, x2")
    if name in RESERVED:
        raise ValueError(f"{name} is a word of the language: give the edit another name")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"the version of an edit is a whole number from 1, not {version!r}")

    def register(function: F) -> F:
        new = Registered(name, version, function, _arguments(name, function))
        old = _EDITS.get(new.key)
        if old is not None and _home(old.function) != _home(function):
            where = ".".join(_home(old.function))
            raise ValueError(f"the edit {new.key} is {where} already: give this one another name or version")
        _EDITS[new.key] = new
        return function

    return register


def find(name: str) -> Registered | None:
    """The latest version of an edit, or None."""
    versions = [e for e in _EDITS.values() if e.name == name]
    return max(versions, key=lambda e: e.version, default=None)


def get(key: str) -> Registered:
    """The edit of a key, `soften/1`. Raises KeyError if it is not registered in this process."""
    if key not in _EDITS:
        raise KeyError(
            f"the edit {key} is not registered in this process: import the module that says @saedsl.edit first"
        )
    return _EDITS[key]


def names() -> tuple[str, ...]:
    """Names of all registered edits, sorted."""
    return tuple(sorted({e.name for e in _EDITS.values()}))


def _home(function: Callable[..., Any]) -> tuple[str, str]:
    """Where a function was defined: the same for a notebook's cell that is run again."""
    return (
        str(getattr(function, "__module__", "?")),
        str(getattr(function, "__qualname__", type(function).__qualname__)),
    )


def _arguments(name: str, function: Callable[..., Any]) -> tuple[int, float]:
    """How many numbers a function takes beside its array."""
    if not callable(function):
        raise TypeError(f"the edit {name} must be a function(f, *numbers), not a {type(function).__name__}")
    parameters = inspect.signature(function).parameters.values()
    least, most = 0, 0.0
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            most = math.inf
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            most += 1
            least += p.default is p.empty
        elif p.kind is p.KEYWORD_ONLY and p.default is p.empty:
            raise TypeError(f"the edit {name} needs the keyword {p.name}: programs give numbers by position only")
    if most < 1:
        raise TypeError(f"the edit {name} takes no argument: it is called with an array [..., n] and its numbers")
    return max(least - 1, 0), most - 1
