"""`saedsl check --explain S304`."""

from __future__ import annotations

import json

import click

from saedsl.commands.shared import USAGE, fail


def show_code(code: str, as_json: bool) -> None:
    """Print what a code means; an unknown one is wrong usage."""
    from saedsl.grammar.explain import explained

    try:
        text = explained(code)
    except KeyError as e:
        fail("usage", e.args[0], USAGE, as_json)
    click.echo(json.dumps({"code": code.upper(), "text": text}) if as_json else text)
