"""The command line: `saedsl run | check | fmt | explain | sites | demo`.

Exit codes: 0, 1 for a program's mistakes, 2 for usage (a wrong option, a file that is not there), 3 for a run that
failed. mlx is imported by the commands that run a model, and by no other.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from saedsl import __version__
from saedsl.errors import ProgramError, ResultError, RunError, SaedslError

if TYPE_CHECKING:
    from saedsl.analyse import Given
    from saedsl.grammar.source import Source
    from saedsl.plan import Plan
    from saedsl.report import Report

MISTAKES, USAGE, FAILED = 1, 2, 3


class _Usage(click.ClickException):
    """A wrong option, or a file that is not there."""

    exit_code = USAGE


class _Group(click.Group):
    """Commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="saedsl")
def cli() -> None:
    """Interventions on language-model features, written as programs.

    \b
    saedsl demo                                        see it work
    saedsl run -e 'at L2.mlp ablate f42; amplify f7 x2'
    saedsl run steer.saedsl --model mlx-community/Llama-3.2-1B-Instruct-4bit
    saedsl check steer.saedsl                          find every mistake, in a moment
    """


@dataclass(frozen=True)
class Arguments:
    """What all commands on programs are given."""

    file: str | None
    code: str | None
    model: str | None
    saes: tuple[str, ...]
    values: tuple[str, ...]
    prompts: tuple[str, ...]
    as_json: bool


def _program(command: Callable[..., None]) -> Callable[..., None]:
    """Options of a command on a program; it is called with `Arguments` and its own options."""

    @wraps(command)
    def run(*, as_json: bool, **options: Any) -> None:
        shared = {f.name: options.pop(f.name) for f in fields(Arguments) if f.name != "as_json"}
        _exits(as_json, partial(command, Arguments(**shared, as_json=as_json), **options))

    decorated: Callable[..., None] = run
    for decorate in reversed(
        [
            click.argument("file", required=False),
            click.option("-e", "code", metavar="CODE", help="The program itself instead of a file."),
            click.option("--model", "-m", metavar="M", help="A model folder, a hub id, or demo."),
            click.option("--sae", "saes", metavar="NAME=PATH", multiple=True, help="A dictionary; NAME may be a site."),
            click.option("--set", "values", metavar="K=V", multiple=True, help="The value of $K in the program."),
            click.option("--prompt", "-p", "prompts", metavar="TEXT", multiple=True, help="What to run on."),
            click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output."),
        ]
    ):
        decorated = decorate(decorated)
    return decorated


def _exits(as_json: bool, command: Callable[[], None]) -> None:
    """Call a command; turn saedsl's errors into messages and exit codes."""
    try:
        command()
        sys.stdout.flush()
    except ProgramError as e:
        _print_diagnostics(e.diagnostics, as_json)
        sys.exit(MISTAKES)
    except (RunError, ResultError, MemoryError) as e:
        _fail("failed", str(e) or type(e).__name__, FAILED, as_json)
    except SaedslError as e:
        _fail("usage", str(e), USAGE, as_json)
    except KeyboardInterrupt:
        click.echo("interrupted: nothing was written", err=True)
        sys.exit(130)
    except BrokenPipeError:  # `saedsl run ... | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _plain(command: Callable[..., None]) -> Callable[..., None]:
    """A command that is on no program."""

    @wraps(command)
    def run(**options: Any) -> None:
        _exits(bool(options.get("as_json")), partial(command, **options))

    return run


def _fail(kind: str, message: str, code: int, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": {"kind": kind, "message": message}}))
    else:
        click.echo(f"error: {message}", err=True)
    sys.exit(code)


@cli.command()
@_program
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Save results here, as JSON and safetensors.",
)
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Next tokens to show of either side.")
def run(a: Arguments, out: Path | None, top: int) -> None:
    """Run a program: every prompt as it is and edited, side by side.

    \b
    saedsl run steer.saedsl
    saedsl run -e 'at L2.mlp amplify f7 x $k' --set k=3 --prompt 'The capital of France is'
    saedsl run -m ./model --sae L12.mlp=./sae -e 'at L12.mlp ablate f42' -p 'Once upon a time' --out results
    """
    source, given = _read(a, download=True)
    plan, _ = _analysed(source, given, need_prompts=True)  # every mistake, before mlx is imported
    from rich.console import Console

    from saedsl.model import InterpretableModel
    from saedsl.results import refuse_other_content

    if out is not None:
        try:
            refuse_other_content(out)  # now, not when the run is over
        except ResultError as e:
            _fail("usage", str(e), USAGE, a.as_json)
    name, base = plan.program.model.name, Path() if given.model else given.base
    with Console(stderr=True).status(f"loading {name}") as line:  # shown on terminals only
        lm = InterpretableModel.load(name, base)
        result = lm.run_source(source, given, top=max(top, 10), progress=lambda text: line.update(f"running {text}"))
    if out is not None:
        result.save(out)
    if a.as_json:
        click.echo(json.dumps(result.to_json()))
        return
    from saedsl import show

    show.to(show.terminal(), show.result(result, top))
    if out is not None:
        click.echo(f"saved in {out}")


@cli.command()
@_program
def check(a: Arguments) -> None:
    """Find every mistake of a program without running it; neither weights nor mlx are loaded.

    \b
    saedsl check steer.saedsl
    saedsl check -e 'at L12.mlp ablate f42' --json
    """
    source, given = _read(a)
    plan, report = _analysed(source, given, need_prompts=False)
    if a.as_json:
        _print_diagnostics(report.diagnostics, True)
        return
    _print_diagnostics(report.diagnostics, False)
    click.echo(f"{source.name}: no mistakes   program {plan.program_id[:16]}")


@cli.command()
@click.argument("files", nargs=-1)
@click.option("-e", "code", metavar="CODE", help="Format this and print it.")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit with 1 if something would change.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
@_plain
def fmt(files: tuple[str, ...], code: str | None, only_check: bool, diff: bool) -> None:
    """Format programs, in place; `-` formats standard input to standard output.

    \b
    saedsl fmt *.saedsl
    saedsl fmt --check --diff steer.saedsl
    """
    from saedsl.grammar.source import Source
    from saedsl.read import read_program, write_program

    if (code is None) == (not files):
        raise _Usage("name the files to format, or give a program with -e")
    changed, wrong = False, 0
    for name in files or ("-e",):
        try:
            if code is not None:
                source = Source(code, "<command line>")
            else:
                source = Source(sys.stdin.read(), "<stdin>") if name == "-" else read_program(Path(name))
            formatted = _formatted(source)
        except ProgramError as e:
            _print_diagnostics(e.diagnostics, False)
            wrong = MISTAKES
            continue
        different = formatted != source.text
        changed |= different
        if diff and different:
            click.echo(_diff(source.text, formatted, source.name), nl=False)
        elif only_check and different:
            click.echo(f"would reformat {source.name}")
        elif not (diff or only_check):
            if code is not None or name == "-":
                click.echo(formatted, nl=False)
            elif different:
                write_program(Path(name), formatted)
                click.echo(f"reformatted {name}")
    if wrong:
        sys.exit(wrong)
    if only_check and changed:
        sys.exit(MISTAKES)


def _formatted(source: Source) -> str:
    from saedsl.grammar.format import format_script
    from saedsl.grammar.parse import parse_or_raise

    return format_script(parse_or_raise(source), source)


def _diff(old: str, new: str, name: str) -> str:
    from difflib import unified_diff

    lines = unified_diff(old.splitlines(True), new.splitlines(True), name, f"{name} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ no newline at the end\n" for line in lines)


@cli.command()
@_program
def explain(a: Arguments) -> None:
    """Say what a program will do, before anything runs: modules, formulas, tokens, cost.

    \b
    saedsl explain steer.saedsl
    saedsl explain -e 'at L2.mlp ablate f42 @ prompt[-1]' --prompt 'The capital of France is'
    """
    source, given = _read(a)
    plan, report = _analysed(source, given, need_prompts=False)
    if a.as_json:
        found = [d.to_json() for d in report.diagnostics]
        click.echo(json.dumps({**plan.to_json(), "program_id": plan.program_id, "diagnostics": found}))
        return
    from saedsl import show

    _print_diagnostics(report.diagnostics, False)
    show.to(show.terminal(soft_wrap=True), show.explained(plan))


@cli.command()
@click.argument("model", default="demo")
@click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")
@_plain
def sites(model: str, as_json: bool) -> None:
    """List the sites of a MODEL (a folder, a hub id, or demo), and verify them on its weights.

    \b
    saedsl sites demo
    saedsl sites ./my-model
    """
    from saedsl.model import InterpretableModel

    info = InterpretableModel.load(model).info
    if as_json:
        points = {str(s): {"module": str(info.hook_point(s)), "width": info.width(s)} for s in info.sites}
        click.echo(json.dumps({"model": info.name, "model_type": info.model_type, "sites": points}))
        return

    from saedsl import show

    show.to(show.terminal(soft_wrap=True), show.sites(info))
    click.echo(f"verified: resid_pre + attn + mlp == resid_post in all {info.n_layers} layers")


@cli.command()
@_plain
def demo() -> None:
    """A feature edit changes what the bundled model says; what was done is explained."""
    from saedsl.demo.show import main as show_demo

    show_demo()


# Shared -----------------------------------------------------------------------------------------------------------


def _read(a: Arguments, download: bool = False) -> tuple[Source, Given]:
    """The program and everything the command line gives it; `download` fetches a hub model that is not here."""
    from saedsl.analyse import Given
    from saedsl.anatomy import ModelInfo
    from saedsl.grammar.source import Source
    from saedsl.locate import find_model, find_sae
    from saedsl.read import read_program
    from saedsl.sae.header import SAEInfo

    if (a.file is None) == (a.code is None):
        raise _Usage("give a program: a FILE, or -e 'CODE'" + ("" if a.file is None else ", not both"))
    if a.file == "-":
        source, base = Source(sys.stdin.read(), "<stdin>"), Path()
    elif a.file is not None:
        source, base = read_program(Path(a.file)), Path(a.file).parent
    else:
        source, base = Source(a.code or "", "<command line>"), Path()
    info = ModelInfo.read(find_model(a.model, download=download), a.model) if a.model else None
    if download and info is None:
        _fetch_declared(source, base)
    dictionaries = {k: SAEInfo.read(find_sae(v)) for k, v in _pairs(a.saes, "--sae", "NAME=PATH").items()}
    numbers = {k: _float(k, v) for k, v in _pairs(a.values, "--set", "K=V").items()}
    return source, Given(info, None, dictionaries, numbers, {t: t for t in a.prompts}, base)


def _fetch_declared(source: Source, base: Path) -> None:
    """Download the hub model that a program names; a mistake in its name is left to the check."""
    from saedsl.errors import ModelError
    from saedsl.grammar.nodes import ModelDecl
    from saedsl.grammar.parse import parse
    from saedsl.locate import find_model

    for s in parse(source).script.statements:
        if isinstance(s, ModelDecl):
            with suppress(ModelError):
                find_model(s.path, base, download=True)


def _pairs(items: tuple[str, ...], option: str, form: str) -> Mapping[str, str]:
    out = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not (key and sign and value):
            raise _Usage(f"{option} {item}: write it as {form}")
        out[key.strip()] = value.strip()
    return out


def _float(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _Usage(f"--set {key}={text}: {text} is not a number") from None
    if not math.isfinite(value):
        raise _Usage(f"--set {key}={text}: the number must be finite")
    return value


def _analysed(source: Source, given: Given, need_prompts: bool) -> tuple[Plan, Report]:
    from saedsl.analyse import analyse

    plan, report = analyse(source, given, need_prompts=need_prompts)
    if report.errors or plan is None:
        raise ProgramError(report.diagnostics)
    return plan, report


def _print_diagnostics(diagnostics: tuple[Any, ...], as_json: bool) -> None:
    """As JSON on standard output, for people on standard error."""
    if as_json:
        click.echo(json.dumps([d.to_json() for d in diagnostics], indent=1))
        return
    if diagnostics:
        from rich.console import Console

        from saedsl import show

        console = Console(stderr=True, soft_wrap=True)
        for d in diagnostics:
            console.print(show.diagnostic(d), "", sep="\n", highlight=False)


def main() -> None:
    """Entry point of the `saedsl` command."""
    try:
        code = cli.main(prog_name="saedsl", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as e:
        _fail("usage", e.format_message(), USAGE, "--json" in sys.argv)
    sys.exit(code if isinstance(code, int) else 0)
