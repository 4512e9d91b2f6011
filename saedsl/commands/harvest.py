"""`saedsl harvest`: a model's activations over text, on disk, to train on as often as wanted."""

from __future__ import annotations

import json
from pathlib import Path

import click

from saedsl.commands.shared import USAGE, fail, plain


@click.command("harvest")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--model", "-m", required=True, metavar="M", help="A model folder, a hub id, or demo.")
@click.option("--site", "-s", "sites", required=True, multiple=True, metavar="SITE", help="Where to read, e.g. L2.mlp.")
@click.option("--out", "-o", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The folder to fill.")
@click.option("--context", default=128, show_default=True, type=click.IntRange(2), help="Tokens a row, with BOS.")
@click.option("--tokens", type=click.IntRange(1), metavar="N", help="Stop after as many. Default: all.")
@click.option("--dtype", default="float16", show_default=True, type=click.Choice(["float16", "float32"]))
@click.option("--shard-tokens", default=1 << 16, show_default=True, type=click.IntRange(1), help="Tokens a file.")
@click.option("--field", default="text", show_default=True, help="Field or column of JSONL, Parquet, Arrow.")
@click.option("--separator", metavar="LINE", help='The line that ends documents of .txt; "" for an empty one.')
@click.option("--split", metavar="NAME", help="Which split of a folder. Default: train.")
@click.option("--unpacked", is_flag=True, help="Each document in rows of its own.")
@click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")
@plain
def command(
    dataset: Path,
    model: str,
    sites: tuple[str, ...],
    out: Path,
    context: int,
    tokens: int | None,
    dtype: str,
    shard_tokens: int,
    field: str,
    separator: str | None,
    split: str | None,
    unpacked: bool,
    as_json: bool,
) -> None:
    """Keep a model's activations on text in a folder: safetensors files and manifest.json; no BOS, no padding.

    DATASET is .txt (documents end with a line <|endoftext|>, or where there is none with an empty line), .jsonl,
    .parquet, .arrow, or a folder of a Hugging Face data set. All sites are read in one forward. A harvest that was
    interrupted goes on when the same command is given again.

    \b
    saedsl harvest texts.txt -m demo -s L2.mlp -o activations
    saedsl harvest ./fineweb -m mlx-community/Llama-3.2-1B-4bit -s L8.resid_post -s L8.mlp -o acts --tokens 10000000
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from saedsl.model import InterpretableModel
    from saedsl.training.parallel import join
    from saedsl.training.shards import harvest_to_disk

    parallel = join()
    lm = InterpretableModel.load(model)
    columns = SpinnerColumn(), TextColumn("{task.completed:,.0f} tokens"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("harvest", total=tokens)
        try:
            found = harvest_to_disk(
                lm,
                dataset,
                sites,
                out,
                context,
                dtype="float16" if dtype == "float16" else "float32",
                shard_tokens=shard_tokens,
                packed=not unpacked,
                field=field,
                separator=separator,
                split=split,
                max_tokens=tokens,
                progress=lambda n: bar.update(task, completed=n),
                parallel=parallel,
            )
        except ValueError as e:  # not a site
            fail("usage", str(e), USAGE, as_json)
    if parallel is not None and parallel.rank:
        return
    size = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    if as_json:
        about = {"folder": str(out), "tokens": found.tokens, "bytes": size, "widths": dict(found.widths)}
        click.echo(json.dumps({**about, "dtype": dtype, "shards": found.shards, "identity": found.identity}))
        return
    click.echo(
        f"{out}: {found.tokens:,} tokens at {', '.join(found.widths)}, {found.shards} shards, {size / 1e6:,.1f} MB"
    )
