"""`saedsl eval`: how good a dictionary is, on its activations and for the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from saedsl.commands.shared import USAGE, fail, plain


@click.command("eval")
@click.argument("sae")
@click.option("--data", "-d", "files", multiple=True, required=True, type=click.Path(path_type=Path), metavar="FILE",
              help="Texts: .txt, .jsonl, .parquet or a dataset folder. Several can be given.")  # fmt: skip
@click.option("--model", "-m", metavar="M", help="A model folder, a hub id, or demo. Default: what the SAE names.")
@click.option("--site", metavar="SITE", help="Where an SAE reads and writes, e.g. L2.mlp. Default: what it says.")
@click.option("--context", default=128, show_default=True, type=click.IntRange(2), help="Tokens a row.")
@click.option("--max-tokens", type=click.IntRange(1), help="Stop after as many tokens. Default: all.")
@click.option("--probe", "tasks", multiple=True, type=click.Path(path_type=Path), metavar="JSONL",
              help='A task for sparse probing: lines of {"text": ..., "label": ...}.')  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as JSON.")
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), help="Draw it: .pdf, .svg or .png.")
@click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")
@plain
def command(
    sae: str,
    files: tuple[Path, ...],
    model: str | None,
    site: str | None,
    context: int,
    max_tokens: int | None,
    tasks: tuple[Path, ...],
    out: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Measure a dictionary on text that it was not trained on.

    L0, explained variance (three definitions), CE recovered, KL, densities, dead features, shrinkage, and k-sparse
    probing on tasks with labels. Sums are exact: neither batches nor memory change the numbers.

    \b
    saedsl eval demo:L2.mlp -d held_out.txt
    saedsl eval saes/L12-mlp -m mlx-community/Llama-3.2-1B-4bit -d pile.jsonl --max-tokens 200000 --out report.json
    saedsl eval saes/L12-mlp -d texts.txt --probe sentiment.jsonl --figure report.pdf
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from saedsl.locate import find_sae
    from saedsl.model import InterpretableModel
    from saedsl.sae.dictionary import SAE
    from saedsl.sites import Site
    from saedsl.training.assess import assess, rows_of
    from saedsl.training.figures import FIXED, evaluation_figure, new_figure, save_figure
    from saedsl.training.probing import probe, read_task
    from saedsl.training.texts import open_texts

    if figure is not None:
        new_figure(1, 1)  # matplotlib is missing now or after the work
        if figure.suffix.lower().lstrip(".") not in FIXED:
            fail("usage", f"{figure}: a figure is .pdf, .svg or .png", USAGE, as_json)
    for path in (out, figure):
        if path is not None and not path.absolute().parent.is_dir():
            fail("usage", f"{path}: there is no folder {path.parent}", USAGE, as_json)
    data = [open_texts(f) for f in files]
    given = [read_task(path) for path in tasks]
    dictionary = SAE.load(find_sae(sae, download=True))
    name = model or dictionary.config.model_name
    if name is None:
        fail("usage", f"{sae} does not say which model it was trained on: name it with --model", USAGE, as_json)
    try:
        where = None if site is None else (Site.parse(site), Site.parse(site))
    except ValueError as e:
        fail("usage", str(e), USAGE, as_json)
    lm = InterpretableModel.load(name)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("reading")
        found = assess(
            lm, dictionary, lambda: (e.text for d in data for e in d.entries()), sites=where, context=context,
            max_tokens=max_tokens, progress=lambda p, n: bar.update(line, description=f"{p}: {n:,} tokens"),
        )  # fmt: skip
        for task in given:
            bar.update(line, description=f"probing {task.name}")
            found = replace(
                found, probes=(*found.probes, *probe(lm, dictionary, task, found.sites[0], context=context))
            )
    report = {"sae": sae, **found.to_json()}
    if out is not None:
        from saedsl.sae.replace import write_file

        write_file(out, (json.dumps(report, indent=1) + "\n").encode())
    if figure is not None:
        save_figure(evaluation_figure(found), figure)
    if as_json:
        click.echo(json.dumps(report))
        return
    from rich.table import Table

    read, write = found.sites
    table = Table("measure", "value", title=f"{sae}: {read}" + (f" to {write}" if read != write else ""))
    for row in rows_of(found):
        table.add_row(*row)
    for p in found.probes:
        table.add_row(
            f"probe {p.task}: {p.label}",
            "  ".join([*(f"k={k} {v:.3f}" for k, v in p.accuracy.items()), f"all {p.activations:.3f}"])
            + f"  (floor {p.majority:.3f})",
        )
    Console().print(table)
