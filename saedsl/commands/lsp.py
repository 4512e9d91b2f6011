"""`saedsl lsp`: the language server, for editors."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec

import click

from saedsl.commands.shared import USAGE, fail, plain


@click.command("lsp")
@plain
def command() -> None:
    """Serve editors on standard input and output: mistakes, completion, hover, definitions, formatting.

    Editors start it themselves; grammar/editors in the package has their settings.
    """
    if find_spec("pygls") is None:
        fail("usage", "the language server needs pygls: pip install 'saedsl[lsp]'", USAGE, False)
    from saedsl.lsp.server import make_server

    # nothing is lost, and the thread that waits for input would keep an orderly end waiting
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anything prints must not stand among the messages
    make_server().start_io(stdout=out)
