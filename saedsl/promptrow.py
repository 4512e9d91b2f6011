"""Which row of a file of prompts a prompt is: row 3 of `io` is `io[3]`, its field `corrupt` is `io.corrupt[3]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from saedsl.grammar.nodes import Span
from saedsl.positions import PositionProblem, Problem, Row
from saedsl.program import Prompt

_ROW = re.compile(r"(\w+)(?:\.(\w+))?\[(\d+)\]")


@dataclass(frozen=True)
class RowOf:
    """What is known of the row that a prompt is, or of a prompt that is none."""

    row: Row
    """Its named positions."""
    number: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)
    """Its strings."""
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    """Every prompt of the program."""

    def string(self, name: str, span: Span) -> str:
        """A field of the row.

        Raises:
            PositionProblem: if the prompt is no row, or its row has none by that name.
        """
        if name not in self.fields:
            known = ", ".join(sorted(self.fields))
            hints = (f"its row has {known}",) if known else ()
            raise PositionProblem(Problem("S415", f"{self.row.name}: its row has no field {name}", span, hints))
        return self.fields[name]

    def same_row(self, prompt: str, span: Span) -> tuple[str, Prompt]:
        """A prompt and its name: that called `prompt`, or where that is `io.corrupt` the field of this row.

        Raises:
            PositionProblem: if there is none.
        """
        if prompt in self.prompts:
            return prompt, self.prompts[prompt]
        of, _, name = prompt.partition(".")
        if of != self.row.of:
            message = f"{self.row.name} is no row of {of}: it has no {prompt}"
            raise PositionProblem(Problem("S415", message, span, (f"run {of}",)))
        found = f"{prompt}[{self.number}]"
        if found in self.prompts:
            return found, self.prompts[found]
        return found, Prompt(self.string(name, span), positions=self.row.positions)


def split_row(name: str) -> tuple[str, str, int] | None:
    """`io.corrupt[3]` -> (`io`, `corrupt`, 3); None for a prompt that is no row.

    >>> split_row("io[3]"), split_row("fr")
    (('io', '', 3), None)
    """
    match = _ROW.fullmatch(name)
    return (match[1], match[2] or "", int(match[3])) if match else None


def row_of(name: str, prompts: Mapping[str, Prompt]) -> RowOf:
    """What a program's prompts tell of the one called `name`."""
    found = split_row(name)
    own = prompts.get(name)
    base = prompts.get(f"{found[0]}[{found[2]}]", own) if found else None
    if found is None or base is None:
        return RowOf(Row(name), prompts=prompts)
    of, _, number = found
    own = own or Prompt("")
    return RowOf(Row(name, of, own.positions or base.positions), number, {**base.fields, **own.fields}, prompts)
