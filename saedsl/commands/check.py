"""`saedsl check` of program files, and of the programs in Python files and notebooks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from saedsl.analyse import Given, analyse
from saedsl.embedded import Found, find_cells, find_programs
from saedsl.grammar.nodes import ModelDecl
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Diagnostic, Source

if TYPE_CHECKING:
    from saedsl.plan import Plan

HOSTS: Final = {".py": find_programs, ".ipynb": find_cells}
"""Files that hold programs among other things."""
WITHOUT_MODEL: Final = re.compile(r"S1\d\d|S202|S502|S606")
"""Mistakes whatever the model is: that of an embedded program is known to Python only."""
BOUND: Final = "S204"
"""`$name` without a value, which Python may give."""


@dataclass(frozen=True)
class Checked:
    """What there is to say of one file."""

    source: Source
    diagnostics: tuple[Diagnostic, ...]
    plan: Plan | None
    """Of a program file."""
    programs: int = 1
    skipped: int = 0
    """Texts that are put together when Python runs, which are not checked."""

    @property
    def wrong(self) -> bool:
        """Whether there is an error."""
        return any(d.severity == "error" for d in self.diagnostics)

    @property
    def summary(self) -> str:
        """One line for a file without mistakes."""
        if self.plan is not None:
            return f"{self.source.name}: no mistakes   program {self.plan.program_id[:16]}"
        programs = "no programs" if not self.programs else f"{_count(self.programs, 'program')}, no mistakes"
        return f"{self.source.name}: {programs}   {self.unchecked}".rstrip()

    @property
    def unchecked(self) -> str:
        """What is to be said of those texts."""
        return f"not checked: {_count(self.skipped, 'text')} that Python puts together" if self.skipped else ""


def check_file(source: Source, given: Given) -> Checked:
    """Check a file, by the end of its name.

    Raises:
        SaedslError: if a Python file is not Python, or a notebook no notebook.
    """
    finder = next((f for end, f in HOSTS.items() if source.name.endswith(end)), None)
    if finder is not None:
        return _embedded(finder(source), given)
    plan, report = analyse(source, given, need_prompts=False)
    return Checked(source, report.diagnostics, None if report.errors else plan)


def _embedded(found: Found, given: Given) -> Checked:
    diagnostics = [d for program in found.programs for d in _of_program(program, given)]
    message = "this is not checked: its text is known only when it runs"
    hints = ("write a program, and give values with bind: amplify f7 x $k",)
    notes = [Diagnostic("S608", message, s.span, s.source, hints=hints, severity="note") for s in found.skipped]
    return Checked(found.source, (*diagnostics, *notes), None, len(found.programs), len(found.skipped))


def _of_program(program: Source, given: Given) -> Iterable[Diagnostic]:
    own = any(isinstance(s, ModelDecl) for s in parse(program).script.statements)
    known = own or given.model is not None
    _, report = analyse(program, replace(given, prompts=given.prompts or {}), need_prompts=False)
    for d in report.diagnostics:
        if d.code != BOUND and (known or WITHOUT_MODEL.fullmatch(d.code)):
            yield d.outward


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
