"""What commands share: exit codes, and saedsl's errors as messages."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NoReturn

import click

from saedsl.errors import ProgramError, ResultError, RunError, SaedslError

MISTAKES, USAGE, FAILED = 1, 2, 3


class Usage(click.ClickException):
    """A wrong option, or a file that is not there."""

    exit_code = USAGE


def exits(as_json: bool, command: Callable[[], None]) -> None:
    """Call a command; turn saedsl's errors into messages and exit codes."""
    try:
        command()
        sys.stdout.flush()
    except ProgramError as e:
        print_diagnostics(e.diagnostics, as_json)
        sys.exit(MISTAKES)
    except (RunError, ResultError, MemoryError) as e:
        fail("failed", str(e) or type(e).__name__, FAILED, as_json)
    except SaedslError as e:
        fail("usage", str(e), USAGE, as_json)
    except KeyboardInterrupt:
        click.echo("interrupted: nothing was written", err=True)
        sys.exit(130)
    except BrokenPipeError:  # `saedsl run ... | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def plain(command: Callable[..., None]) -> Callable[..., None]:
    """A command that is on no program."""

    @wraps(command)
    def run(**options: Any) -> None:
        exits(bool(options.get("as_json")), partial(command, **options))

    return run


def fail(kind: str, message: str, code: int, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": {"kind": kind, "message": message}}))
    else:
        click.echo(f"{'interrupted' if kind == 'interrupted' else 'error'}: {message}", err=True)
    sys.exit(code)


def print_diagnostics(diagnostics: tuple[Any, ...], as_json: bool) -> None:
    """As JSON on standard output, for people on standard error."""
    if as_json:
        click.echo(json.dumps([d.to_json() for d in diagnostics], indent=1))
        return
    if diagnostics:
        from rich.console import Console

        from saedsl import show
        from saedsl.grammar.source import shown

        console = Console(stderr=True, soft_wrap=True)
        first, more = shown(diagnostics)
        for d in first:
            console.print(show.diagnostic(d), "", sep="\n", highlight=False)
        if more:
            console.print(f"{more:,} more: --json lists all of them", highlight=False)
