"""Text -> Plan in one pass, without weights and without MLX: parse, check, plan, and every mistake of all three."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saedsl.anatomy import ModelInfo
from saedsl.check import Context, check
from saedsl.errors import ModelError
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.grammar.uncollected import uncollected
from saedsl.plan import Plan
from saedsl.planner import plan
from saedsl.report import Report
from saedsl.sae.header import SAEInfo
from saedsl.tokens import Encoder, Tokens, read_encoder


@dataclass(frozen=True)
class Given:
    """What the caller brings to a program."""

    model: ModelInfo | None = None
    """The model to run on; None: the script's own, or the bundled one."""
    encoder: Encoder | None = None
    """Its tokenizer; None reads the model folder's."""
    saes: Mapping[str, SAEInfo] = field(default_factory=dict)
    """Dictionaries by site text or by name."""
    bind: Mapping[str, Any] = field(default_factory=dict)
    """Values of `$name`."""
    prompts: Mapping[str, str | Tokens] = field(default_factory=dict)
    """Texts or tokens by name, for steps that do not name their own."""
    base: Path = Path()
    """The folder that relative paths of the program start from."""
    whole: bool = False
    """One unnamed step of every edit and record of the program, for a forward of the caller's own: the program's
    prompts, runs and generates do not count."""


@uncollected
def analyse(source: Source, given: Given | None = None, *, need_prompts: bool = True) -> tuple[Plan | None, Report]:
    """Everything that can be known of a program before weights are read.

    Args:
        source: the program's text.
        given: what the caller brings.
        need_prompts: whether a program that has nothing to run on is a mistake.

    Returns:
        The plan of the statements that have no mistake (None where not even the model is known), and the report.
    """
    given = given or Given()
    parsed = parse(source)
    program, report = check(parsed, Context(given.model, given.saes, given.bind, given.base, given.whole))
    report.extend(parsed.diagnostics)
    if program is None:
        return None, report
    encoder = given.encoder
    if encoder is None and program.model.path is not None:
        try:
            encoder = read_encoder(program.model.path, program.model.bos_token_id)
        except ModelError as e:
            report.error("S301", f"this model cannot be used: {e}", program.model_span)
        else:
            if encoder is None:
                message = f"{program.model.name} has no tokenizer.json: positions are not checked"
                report.warning("S329", message, program.model_span)
    return plan(program, encoder, report, given.prompts, need_prompts), report
