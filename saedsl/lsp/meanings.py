"""What the words of the language mean, for those who point at them."""

from __future__ import annotations

from typing import Final

from saedsl.grammar.words import (
    CLAUSES,
    COMPONENT_ALIASES,
    COMPONENTS,
    EDITS,
    FREE_WORDS,
    FUNCTIONS,
    GLOBAL_SITES,
    MODES,
    OPTIONS,
    POSITIONS,
    STATEMENTS,
    TARGETS,
    UNITS,
)

TABLES: Final = (EDITS, CLAUSES, FREE_WORDS, FUNCTIONS, GLOBAL_SITES, UNITS, TARGETS, POSITIONS, STATEMENTS)
"""Words that a statement may hold, in the order in which one that is in several is explained."""

FORMULAS: Final[dict[str, str]] = {
    "ablate": "x' = x + s(x) (r - f) W_dec, r = 0 or the reference's value",
    "amplify": "x' = x + s(x) (N - 1) f W_dec",
    "set": "x' = x + s(x) (V - f) W_dec",
    "clamp": "x' = x + s(x) (min(max(f, a), b) - f) W_dec",
    "add": "x' = x + s(x) V W_dec",
    "project": "x' = x - Q Q^T x, Q an orthonormal basis of the decoder directions",
    "patch": "x' = x + s(x) (f of the other prompt - f) W_dec",
    "freeze": "x' = x + s(x) (f of the unedited run - f) W_dec",
    "keep": "x' = x - s(x) f W_dec over every feature that is not named",
    "drop": "x' = SAE(x)",
    "apply": "x' = x + s(x) (fn(f) - f) W_dec",
}
"""Edit -> what becomes of the activation x of a token, f its features; whole sites, heads and neurons: f is x."""


def meaning(word: str) -> str:
    """What a word of the language says; empty for any other."""
    said = [table[word] for table in TABLES if word in table]
    return "; ".join(dict.fromkeys(said))


def component(name: str) -> str:
    """What a layer's component is; empty for what is none."""
    return COMPONENTS.get(COMPONENT_ALIASES.get(name, name), "")


def option(word: str) -> str:
    """What an option of a run, or a mode, says."""
    return OPTIONS.get(word) or MODES.get(word, "")
