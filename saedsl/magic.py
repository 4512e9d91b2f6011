"""`%load_ext saedsl`, then cells of the language:

%%saedsl -m model -o result --prompt "The capital of France is"
at L2.mlp amplify f7 x $strength
"""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from IPython.core.error import UsageError

from saedsl import html
from saedsl.analyse import Given
from saedsl.errors import ProgramError, SaedslError
from saedsl.grammar.source import Source
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from saedsl.plan import Plan
    from saedsl.results import Result


class _Parser(ArgumentParser):
    """Its mistakes are the notebook's usage errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"%%saedsl: {message}\n{self.format_usage()}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise UsageError(message or "")


def _parser() -> ArgumentParser:
    p = _Parser("%%saedsl", description="Run the cell as a program.", add_help=False)
    p.add_argument("-m", "--model", help="a variable that holds an InterpretableModel, a folder, a hub id, or demo")
    p.add_argument("-o", "--out", metavar="NAME", help="also keep the result in this variable")
    p.add_argument("-p", "--prompt", action="append", default=[], metavar="TEXT", help="what to run on")
    p.add_argument("--set", dest="values", action="append", default=[], metavar="K=V", help="the value of $K")
    p.add_argument("--sae", dest="saes", action="append", default=[], metavar="NAME=SAE", help="a variable, or a path")
    p.add_argument("--plan", action="store_true", help="say what would be done; run nothing")
    return p


class _Cells:
    """`%%saedsl` in one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._models: dict[str, InterpretableModel] = {}

    def saedsl(self, line: str, cell: str) -> Result | Plan | None:
        """Run a program; the result is shown. `$name` is the variable of that name: a number, or an array."""
        try:
            a = _parser().parse_args(shlex.split(line))
        except ValueError as e:
            raise UsageError(f"%%saedsl {line}: {e}") from None
        if a.out is not None and not a.out.isidentifier():
            raise UsageError(f"-o {a.out}: is not the name of a variable")
        try:
            found = self._run(a, Source(cell, "this cell", first_line=2))
        except ProgramError as e:
            bundle = {"text/html": html.mistakes(e.diagnostics), "text/plain": str(e)}
            self._shell.display_pub.publish(bundle)
            return None
        except SaedslError as e:
            raise UsageError(str(e)) from None
        if a.out is not None:
            self._space[a.out] = found
        return found

    @property
    def _space(self) -> dict[str, Any]:
        space: dict[str, Any] = self._shell.user_ns
        return space

    def _run(self, a: Any, source: Source) -> Result | Plan:
        model = self._model(a.model)
        saes = {k: self._sae(v) for k, v in _pairs(a.saes, "--sae").items()}
        infos = {k: sae.info for k, sae in saes.items()}
        bind = {**self._named(source.text), **{k: _number(k, v) for k, v in _pairs(a.values, "--set").items()}}
        given = Given(model.info, model.encoder, infos, bind, {p: p for p in a.prompt})
        if a.plan:
            return model.plan_source(source, given, saes)
        return model.run_source(source, given, saes)

    def _model(self, name: str | None) -> InterpretableModel:
        """The variable of that name, or the model that is loaded by it; without a name, `model`, or the bundled one."""
        there = self._space.get(name or "model")
        if isinstance(there, InterpretableModel):
            return there
        if name is not None and there is not None:
            raise UsageError(f"-m {name}: this variable is a {type(there).__name__}, not an InterpretableModel")
        key = name or "demo"
        if key not in self._models:
            self._models[key] = InterpretableModel.load(key)
        return self._models[key]

    def _sae(self, name: str) -> SAE:
        there = self._space.get(name)
        return there if isinstance(there, SAE) else SAE.load(name)

    def _named(self, program: str) -> dict[str, Any]:
        """The variables that a program's `$name` say, those that are numbers or arrays."""
        names = set(re.findall(r"\$([A-Za-z_]\w*)", program))
        known = {k: self._space[k] for k in names if k in self._space}
        return {k: v for k, v in known.items() if _bindable(v)}


def _bindable(value: Any) -> bool:
    if isinstance(value, bool | str):
        return False
    return isinstance(value, Real) or hasattr(value, "__array__") or hasattr(value, "__mlx_array__")


def _pairs(items: list[str], option: str) -> dict[str, str]:
    found = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not (key and sign and value):
            raise UsageError(f"{option} {item}: write it as K=V")
        found[key] = value
    return found


def _number(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"--set {key}={text}: {text} is not a number") from None
    if not np.isfinite(value):
        raise UsageError(f"--set {key}={text}: the number must be finite")
    return value


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext saedsl` calls."""
    shell.register_magic_function(_Cells(shell).saedsl, magic_kind="cell", magic_name="saedsl")
