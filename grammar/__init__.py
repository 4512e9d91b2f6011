"""The language of saedsl: text -> tree -> text, and what is wrong with it.

Names are imported when they are first used: `saedsl.grammar.words` and `saedsl.grammar.nodes` do not load
lark.
`parse` is in the module of its name: `from saedsl.grammar.parse import parse`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saedsl.grammar.codes import CODES
    from saedsl.grammar.format import format_node, format_script
    from saedsl.grammar.parse import Parsed, parse_or_raise
    from saedsl.grammar.source import Diagnostic, Source

__all__ = [
    "CODES",
    "Diagnostic",
    "Parsed",
    "Source",
    "format_node",
    "format_script",
    "parse_or_raise",
]

_HOMES = {
    "CODES": "codes",
    "Diagnostic": "source",
    "Parsed": "parse",
    "Source": "source",
    "format_node": "format",
    "format_script": "format",
    "parse_or_raise": "parse",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
