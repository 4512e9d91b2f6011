"""`saedsl stats`: how strongly a dictionary's features fire, counted over text and kept beside its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from saedsl.commands.shared import USAGE, fail, plain


@click.command("stats")
@click.argument("sae")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", "-m", metavar="M", help="A model folder, a hub id, or demo. Default: what the SAE names.")
@click.option("--site", metavar="SITE", help="Where the dictionary reads, e.g. L2.mlp. Default: what it says.")
@click.option("--context", default=128, show_default=True, type=click.IntRange(2), help="Tokens a row.")
@click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")
@plain
def command(
    sae: str, files: tuple[Path, ...], model: str | None, site: str | None, context: int, as_json: bool
) -> None:
    """Count how strongly the features of an SAE fire on text, for `4 max` and `2 std` in programs.

    The result goes into the SAE's folder, as statistics.safetensors. FILES hold a text a line, or are JSONL: lines that
    are strings, or objects with "prompt" or "text".

    \b
    saedsl stats saes/L12-mlp texts.txt
    saedsl stats ./sae texts.jsonl -m mlx-community/Llama-3.2-1B-4bit --site L12.mlp
    """
    from saedsl.locate import DEMO, find_sae
    from saedsl.sae.header import SAEInfo

    folder = find_sae(sae, download=True)
    if DEMO.resolve() in folder.resolve().parents:
        message = f"{sae}: the bundled dictionaries have their statistics; copy {folder} to count anew"
        fail("usage", message, USAGE, as_json)
    info = SAEInfo.read(folder)
    name = model or info.config.model_name
    if name is None:
        fail("usage", f"{sae} does not say which model it was trained on: name it with --model", USAGE, as_json)
    texts = [text for file in files for text in read_texts(file, as_json)]
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from saedsl.model import InterpretableModel
    from saedsl.sae.dictionary import SAE

    lm, dictionary = InterpretableModel.load(name), SAE.load(folder)
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True), transient=True
    ) as bar:

        def counted() -> Iterator[str]:
            yield from bar.track(texts, description="texts")

        try:
            found = lm.feature_statistics(dictionary, counted(), site=site, context=context)
        except ValueError as e:  # not a site
            fail("usage", str(e), USAGE, as_json)
    found.save(folder)
    silent = int((found.max == 0).sum())
    if as_json:
        about = {"sae": str(folder), "model": found.model, "site": found.site, "tokens": found.tokens}
        values = {t: [float(v) for v in getattr(found, t)] for t in ("max", "std", "mean", "frequency")}
        click.echo(json.dumps({**about, "texts": found.texts, "weights": found.weights, "silent": silent, **values}))
        return
    click.echo(
        f"{folder}: {info.d_sae} features at {found.site} over {found.tokens:,} tokens of {len(texts):,} texts; "
        f"{silent} never fired"
    )


def read_texts(file: Path, as_json: bool) -> list[str]:
    """The texts of a file, a line each; empty lines are left out."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        fail("usage", f"{file}: cannot be read as text ({e})", USAGE, as_json)
    if file.suffix != ".jsonl":
        return [line for line in lines if line.strip()]
    texts = []
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            fail("usage", f"{file}:{i}: not JSON ({e})", USAGE, as_json)
        text = row.get("prompt", row.get("text")) if isinstance(row, dict) else row
        if not isinstance(text, str):
            fail("usage", f'{file}:{i}: a line is a string, or an object with "prompt" or "text"', USAGE, as_json)
        texts.append(text)
    return texts
