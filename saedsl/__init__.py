"""saedsl: interventions on language-model features, written as programs.

    import saedsl
    model = saedsl.InterpretableModel.load("demo")
    result = model.run("at L2.mlp ablate f42; amplify f7 x2", prompts="The capital of France is")

Names are loaded when they are first used, so that checking a program imports neither mlx nor mlx-lm. The one side
effect of importing this package: on Linux CPUs a fast BLAS is loaded before mlx can bind to a slow one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from saedsl.blas import preload as _preload

if TYPE_CHECKING:
    from saedsl.analyse import Given, analyse
    from saedsl.anatomy import ModelInfo
    from saedsl.builder import mean, resample, script
    from saedsl.demo import Demo, load_demo
    from saedsl.errors import (
        ModelError,
        ProgramError,
        ResultError,
        RunError,
        SaedslError,
        SaedslWarning,
        SAEError,
        TrainingError,
    )
    from saedsl.grammar.format import format_script
    from saedsl.grammar.parse import parse
    from saedsl.grammar.source import Diagnostic, Source
    from saedsl.model import InterpretableModel
    from saedsl.registry import edit
    from saedsl.results import Result
    from saedsl.sae.dictionary import SAE
    from saedsl.sae.header import SAEInfo
    from saedsl.sites import Site
    from saedsl.training import SAEConfig, train

__version__ = "0.1.0"

_HOMES = {
    "Demo": "saedsl.demo",
    "Diagnostic": "saedsl.grammar.source",
    "Given": "saedsl.analyse",
    "InterpretableModel": "saedsl.model",
    "ModelError": "saedsl.errors",
    "ModelInfo": "saedsl.anatomy",
    "ProgramError": "saedsl.errors",
    "Result": "saedsl.results",
    "ResultError": "saedsl.errors",
    "RunError": "saedsl.errors",
    "SAE": "saedsl.sae.dictionary",
    "SAEConfig": "saedsl.training",
    "SAEError": "saedsl.errors",
    "SAEInfo": "saedsl.sae.header",
    "SaedslError": "saedsl.errors",
    "SaedslWarning": "saedsl.errors",
    "Site": "saedsl.sites",
    "Source": "saedsl.grammar.source",
    "TrainingError": "saedsl.errors",
    "analyse": "saedsl.analyse",
    "edit": "saedsl.registry",
    "format_script": "saedsl.grammar.format",
    "load_demo": "saedsl.demo",
    "load_ipython_extension": "saedsl.magic",
    "mean": "saedsl.builder",
    "parse": "saedsl.grammar.parse",
    "resample": "saedsl.builder",
    "script": "saedsl.builder",
    "train": "saedsl.training",
}

__all__ = [
    "SAE", "Demo", "Diagnostic", "Given", "InterpretableModel", "ModelError", "ModelInfo", "ProgramError", "Result",
    "ResultError", "RunError", "SAEConfig", "SAEError", "SAEInfo", "SaedslError", "SaedslWarning", "Site", "Source",
    "TrainingError", "analyse", "edit", "format_script", "load_demo", "mean", "parse", "resample", "script", "train",
]  # fmt: skip

_preload()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'saedsl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
