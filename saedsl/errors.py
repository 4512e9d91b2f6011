"""Every exception that saedsl raises on purpose.

SaedslError
├── ProgramError      the program has mistakes; `.diagnostics` lists them all
├── ModelError        a model cannot be found, read or understood
├── SAEError          a dictionary cannot be found, read, or does not fit
├── ShapeError        an array has the wrong shape (also a ValueError)
├── TrainingError     training cannot start or go on
├── CircuitError      a graph of nodes and edges is not a circuit, or cannot be written or read
├── RunError          a checked program failed while it ran
└── ResultError       a saved result cannot be written or read

SaedslWarning is no exception: the category of what a trace block warns of.

A message says what is wrong, where, and how to mend it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saedsl.grammar.source import Diagnostic


class SaedslError(Exception):
    """Root of all errors raised by saedsl."""


class ProgramError(SaedslError):
    """A program has mistakes. `diagnostics` holds every one of them, in source order; the message has the first 100."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        from saedsl.grammar.source import shown

        self.diagnostics = diagnostics
        first, more = shown(diagnostics)
        rest = [f"{more:,} more mistakes"] if more else []
        super().__init__("\n\n".join([*(d.render() for d in first), *rest]))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the mistakes say where they are, a traceback would hide them."""
        return str(self).split("\n")

    def _repr_html_(self) -> str:
        from saedsl.html import mistakes

        return mistakes(self.diagnostics)


class ModelError(SaedslError):
    """A model cannot be found, read or understood."""


class SAEError(SaedslError):
    """A dictionary cannot be found, read, or does not fit where it is used."""


class ShapeError(SaedslError, ValueError):
    """An array has the wrong shape."""


class TrainingError(SaedslError):
    """Training cannot start or go on."""


class CircuitError(SaedslError):
    """A graph of nodes and edges is not a circuit, or cannot be written or read."""


class RunError(SaedslError):
    """A checked program failed while it ran."""


class ResultError(SaedslError):
    """A saved result cannot be written or read."""


class SaedslWarning(UserWarning):
    """What a trace block has to say of a program that ran; a `Result` keeps such warnings in `warnings`."""
