"""`saedsl train`: dictionaries as a TOML file describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saedsl.commands.shared import USAGE, fail, plain

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel
    from saedsl.training.source import Source
    from saedsl.training.toml import TrainingFile


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of a training that was interrupted.")
@click.option("--dry-run", is_flag=True, help="Train nothing; say how large everything is.")
@click.option(
    "--hosts", metavar="A,B", help="Train on several machines, or several times 127.0.0.1; or mlx.launch's hosts.json."
)
@click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")
@plain
def command(config: Path, resume: bool, dry_run: bool, hosts: str | None, as_json: bool) -> None:
    """Train sparse dictionaries on a model's activations, as the file CONFIG says.

    \b
    [model]
    name = "demo"            # a folder, a hub id, or demo
    layer = 2                # or several: [1, 2]
    component = "mlp"        # output = "..." makes a transcoder
    [data]
    path = "texts.jsonl"     # .txt, .jsonl, .parquet, a folder, or what `saedsl harvest` wrote
    [sae]                    # the fields of saedsl.SAEConfig
    sae_type = "batchtopk"
    k = 32
    [output]
    path = "saes/L2.mlp"     # checkpoints and the report are written beside it

    \b
    saedsl train config.toml --dry-run
    saedsl train config.toml
    saedsl train config.toml --resume                           after Ctrl-C, or a machine that went down
    saedsl train config.toml --hosts a.local,b.local            several machines, each with a part of every batch
    """
    from saedsl.training.toml import read_training_file

    file = read_training_file(config)
    if file.output.figure is not None:
        from saedsl.training.figures import FIXED, new_figure

        new_figure(1, 1)  # matplotlib is missing now or after the work
        if Path(file.output.figure).suffix.lower().lstrip(".") not in FIXED:
            fail("usage", f"{file.output.figure}: a figure is .pdf, .svg or .png", USAGE, as_json)
    if hosts is not None and not dry_run:
        from saedsl.commands.hosts import on_hosts

        _say(on_hosts(hosts, ["train", str(config.absolute()), *(["--resume"] if resume else [])], as_json), as_json)
        return
    from saedsl.model import InterpretableModel
    from saedsl.training.parallel import join, launched
    from saedsl.training.stopping import Interrupted

    if launched():
        from saedsl.commands.hosts import hear_interrupts

        hear_interrupts()
    parallel = join()
    model = InterpretableModel.load(file.model.name, file.folder)
    try:
        if dry_run:
            _say(sizes(file, model), as_json)
            return
        reports = _train(file, model, resume, parallel)
    except ValueError as e:  # not a site
        fail("usage", str(e), USAGE, as_json)
    except Interrupted as e:
        fail("interrupted", str(e).replace("start it again in the same way", "add --resume"), 130, as_json)
    if parallel is None or parallel.rank == 0:
        _say(reports, as_json)


def sizes(file: TrainingFile, model: InterpretableModel) -> dict[str, Any]:
    """What a training would take, by dictionary: `--dry-run`."""
    from saedsl.training.jobs import Task
    from saedsl.training.of_model import jobs_at
    from saedsl.training.trainer import steps_of

    where = _where(file)
    pairs = where.pairs(model)
    source = _source(file, model)
    tokens = source.tokens
    count = getattr(source, "count", None)
    if tokens is None and file.sae.num_tokens is None and count is not None:
        tokens = round(count() * (1 - file.sae.validation_share))
    steps = steps_of(file.sae, tokens)
    found: dict[str, Any] = {}
    for name, job in jobs_at(pairs, file.sae).items():
        task = Task.of(job, source)
        c, layers = task.config, task.form.layers
        biases = {"gated": 3, "jumprelu": 2}.get(task.form.activation, 1)
        weights = task.d_in // layers * task.d_sae + task.d_sae * task.d_out + biases * task.d_sae + task.d_out
        weights += task.d_in * task.d_out if task.form.skip else 0
        found[name] = {
            "kind": task.kind,
            "sae_type": c.sae_type,
            "d_in": task.d_in,
            "d_out": task.d_out,
            "d_sae": task.d_sae,
            "parameters": weights,
            "steps": steps,
            "tokens": steps * c.batch_size,
            "weights_bytes": 4 * weights,
            "training_bytes": 12 * weights + 4 * c.batch_size * (2 * task.d_sae + 8 * max(task.d_in, task.d_out)),
            "checkpoint_bytes": 12 * weights,
        }
    return found


def _where(file: TrainingFile) -> Any:
    from saedsl.training.of_model import Where

    m = file.model
    return Where(
        (m.layer,) if isinstance(m.layer, int) else tuple(m.layer),
        (m.component,) if isinstance(m.component, str) else tuple(m.component),
        () if m.output is None else (m.output,) if isinstance(m.output, str) else tuple(m.output),
    )


def _source(file: TrainingFile, model: InterpretableModel) -> Source:
    """The activations, none of them read yet."""
    from saedsl.training.stream import StreamSource

    dataset = _dataset(file, model)
    if hasattr(dataset, "batches"):
        source: Source = dataset
        return source
    sites = sorted({s for pair in _where(file).pairs(model) for s in pair})
    return StreamSource(model, dataset, sites, file.data.context, max_tokens=file.data.max_tokens)


def _dataset(file: TrainingFile, model: InterpretableModel) -> Any:
    """Texts, or the activations in a folder that `saedsl harvest` filled."""
    from saedsl.training.manifest import NAME
    from saedsl.training.shards import ShardSource
    from saedsl.training.texts import open_texts

    path = file.at(file.data.path)
    if (path / NAME).is_file():
        return ShardSource(path, model=model)
    return open_texts(path, field=file.data.field, separator=file.data.separator, split=file.data.split)


def _train(file: TrainingFile, model: InterpretableModel, resume: bool, parallel: Any) -> dict[str, Any]:
    from saedsl.training.figures import save_figure
    from saedsl.training.of_model import train_at

    out = file.at(file.output.path)
    trained = train_at(
        model,
        _where(file),
        _dataset(file, model),
        file.sae,
        context=file.data.context,
        max_tokens=file.data.max_tokens,
        memory=file.data.memory,
        save_path=out,
        checkpoint_path=None if file.output.checkpoints is None else file.at(file.output.checkpoints),
        resume=resume,
        parallel=parallel,
    )
    if file.output.figure is not None and (parallel is None or parallel.rank == 0):
        figure = file.at(file.output.figure)
        for name, t in trained.items():
            one = figure if len(trained) == 1 else figure.with_name(f"{figure.stem}.{name}{figure.suffix}")
            save_figure(t.report.figure(), one)
    folders = {name: str(out if len(trained) == 1 else out / name) for name in trained}
    return {name: {"path": folders[name], **t.report.to_json()} for name, t in trained.items()}


def _say(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    for name, values in found.items():
        table = Table("", "", title=name, show_header=False)
        for key, value in values.items():
            if key.endswith("_bytes"):
                table.add_row(key.removesuffix("_bytes"), f"{value / 1e6:,.1f} MB")
            elif isinstance(value, int):
                table.add_row(key.replace("_", " "), f"{value:,}")
            elif isinstance(value, float):
                table.add_row(key.replace("_", " "), f"{value:.4g}")
            elif isinstance(value, str):
                table.add_row(key.replace("_", " "), value)
        held = values.get("validation")
        if held:
            for key in ("explained_variance", "l0", "dead"):
                table.add_row(f"{key.replace('_', ' ')}, held out", f"{held[-1][key]:.4g}")
        Console().print(table)
