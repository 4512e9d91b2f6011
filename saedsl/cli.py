"""The command line: `saedsl run | check | fmt | explain | diff | sites | demo | stats | harvest | circuit | ...`.

Exit codes: 0, 1 for a program's mistakes, 2 for usage (a wrong option, a file that is not there), 3 for a run that
failed. mlx is imported by the commands that run a model, and by no other.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from saedsl import __version__
from saedsl.commands.shared import MISTAKES, USAGE, Usage, exits, fail, plain, print_diagnostics
from saedsl.errors import ProgramError, ResultError

if TYPE_CHECKING:
    from saedsl.analyse import Given
    from saedsl.grammar.source import Source
    from saedsl.plan import Plan
    from saedsl.report import Report

ELSEWHERE: Final = {
    "convert": "convert",
    "train": "train",
    "stats": "stats",
    "harvest": "harvest",
    "eval": "eval",
    "circuit": "circuit",
    "lsp": "lsp",
}
"""Commands of a module of `saedsl.commands`, imported when they are asked for."""


class _Group(click.Group):
    """Commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *ELSEWHERE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        command: click.Command = import_module(f"saedsl.commands.{ELSEWHERE[cmd_name]}").command
        return command


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
        exits(as_json, partial(command, Arguments(**shared, as_json=as_json), **options))

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
            fail("usage", str(e), USAGE, a.as_json)
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
@click.argument("more", nargs=-1)
@click.option(
    "--explain", "code_to_explain", metavar="CODE", help="Say what a code means, e.g. S304: no program needed."
)
def check(a: Arguments, more: tuple[str, ...], code_to_explain: str | None) -> None:
    """Find every mistake of programs without running them; neither weights nor mlx are loaded.

    Of a Python file or a notebook, the strings that are programs are checked; what depends on the model, only where the
    program or --model names it.

    \b
    saedsl check steer.saedsl
    saedsl check experiments/*.py notebook.ipynb --model demo
    saedsl check -e 'at L12.mlp ablate f42' --json
    saedsl check --explain S304
    """
    if code_to_explain is not None:
        from saedsl.commands.codes import show_code

        show_code(code_to_explain, a.as_json)
        return
    from saedsl.commands.check import check_file

    checked = [check_file(*_read(replace(a, file=name))) for name in (a.file, *more)]
    if a.as_json:
        print_diagnostics(tuple(d for c in checked for d in c.diagnostics), True)
    else:
        for c in checked:
            print_diagnostics(tuple(d for d in c.diagnostics if d.severity != "note"), False)
            if not c.wrong:
                click.echo(c.summary)
            elif c.skipped:
                click.echo(f"{c.source.name}: {c.unchecked}")
    if any(c.wrong for c in checked):
        sys.exit(MISTAKES)


@cli.command()
@click.argument("files", nargs=-1)
@click.option("-e", "code", metavar="CODE", help="Format this and print it.")
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit with 1 if something would change.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
@plain
def fmt(files: tuple[str, ...], code: str | None, only_check: bool, diff: bool) -> None:
    """Format programs, in place; `-` formats standard input to standard output.

    \b
    saedsl fmt *.saedsl
    saedsl fmt --check --diff steer.saedsl
    """
    from saedsl.grammar.source import Source
    from saedsl.read import read_program, write_program

    if (code is None) == (not files):
        raise Usage("name the files to format, or give a program with -e")
    changed, wrong = False, 0
    for name in files or ("-e",):
        try:
            if code is not None:
                source = Source(code, "<command line>")
            else:
                source = Source(sys.stdin.read(), "<stdin>") if name == "-" else read_program(Path(name))
            formatted = _formatted(source)
        except ProgramError as e:
            print_diagnostics(e.diagnostics, False)
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
    from saedsl.explain import explain as steps_of

    source, given = _read(a)
    plan, report = _analysed(source, given, need_prompts=False)
    if a.as_json:
        found = [d.to_json() for d in report.diagnostics]
        steps = [s.to_json() for s in steps_of(plan)]
        more = {"program_id": plan.program_id, "explained": steps, "diagnostics": found}
        click.echo(json.dumps({**plan.summary(), **more}))
        return
    from saedsl import show

    print_diagnostics(report.diagnostics, False)
    show.to(show.terminal(soft_wrap=True), show.explained(plan))


@cli.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--model", "-m", metavar="M", help="A model folder, a hub id, or demo.")
@click.option("--sae", "saes", metavar="NAME=PATH", multiple=True, help="A dictionary; NAME may be a site.")
@click.option("--set", "values", metavar="K=V", multiple=True, help="The value of $K in the programs.")
@click.option("--prompt", "-p", "prompts", metavar="TEXT", multiple=True, help="What to run on.")
@click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")
@plain
def diff_plans(before: str, after: str, as_json: bool, **shared: Any) -> None:
    """Compare what two programs mean, not how they are written; exit with 1 if they differ.

    \b
    saedsl diff before.saedsl after.saedsl
    """
    from saedsl.plandiff import differences, listing

    plans = []
    for file in (before, after):
        source, given = _read(Arguments(file, None, as_json=as_json, **shared))
        plans.append(_analysed(source, given, need_prompts=False)[0])
    found = differences(*plans)
    if as_json:
        click.echo(json.dumps([d.to_json() for d in found], indent=1))
    else:
        click.echo("\n".join(listing(found)))
    if found:
        sys.exit(MISTAKES)


@cli.command()
@click.argument("model", default="demo")
@click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")
@plain
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
@plain
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
    from saedsl.included import fetch_declared
    from saedsl.locate import find_model, find_sae
    from saedsl.read import read_program
    from saedsl.sae.header import SAEInfo

    if (a.file is None) == (a.code is None):
        raise Usage("give a program: a FILE, or -e 'CODE'" + ("" if a.file is None else ", not both"))
    if a.file == "-":
        source, base = Source(sys.stdin.read(), "<stdin>"), Path()
    elif a.file is not None:
        source, base = read_program(Path(a.file)), Path(a.file).parent
    else:
        source, base = Source(a.code or "", "<command line>"), Path()
    info = ModelInfo.read(find_model(a.model, download=download), a.model) if a.model else None
    if download:
        fetch_declared(source, base, model=info is None)
    dictionaries = {
        k: SAEInfo.read(find_sae(v, download=download)) for k, v in _pairs(a.saes, "--sae", "NAME=PATH").items()
    }
    numbers = {k: _float(k, v) for k, v in _pairs(a.values, "--set", "K=V").items()}
    return source, Given(info, None, dictionaries, numbers, {t: t for t in a.prompts}, base)


def _pairs(items: tuple[str, ...], option: str, form: str) -> Mapping[str, str]:
    out = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not (key and sign and value):
            raise Usage(f"{option} {item}: write it as {form}")
        out[key.strip()] = value.strip()
    return out


def _float(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Usage(f"--set {key}={text}: {text} is not a number") from None
    if not math.isfinite(value):
        raise Usage(f"--set {key}={text}: the number must be finite")
    return value


def _analysed(source: Source, given: Given, need_prompts: bool) -> tuple[Plan, Report]:
    from saedsl.analyse import analyse

    plan, report = analyse(source, given, need_prompts=need_prompts)
    if report.errors or plan is None:
        raise ProgramError(report.diagnostics)
    return plan, report


def main() -> None:
    """Entry point of the `saedsl` command."""
    try:
        code = cli.main(prog_name="saedsl", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as e:
        fail("usage", e.format_message(), USAGE, "--json" in sys.argv)
    sys.exit(code if isinstance(code, int) else 0)
