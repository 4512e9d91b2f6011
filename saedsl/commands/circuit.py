"""`saedsl circuit find | validate | draw | export | run`: circuits of a task that one TOML file describes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saedsl.commands.shared import USAGE, fail, plain

if TYPE_CHECKING:
    from saedsl.circuits.graph import CircuitGraph
    from saedsl.circuits.taskfile import TaskFile
    from saedsl.model import InterpretableModel

Tell = Callable[[str, int, int], None]
_path = click.Path(path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")
_rows = click.option("--rows", type=click.IntRange(1), help="Take the first so many prompts only, for a quick look.")


@click.group("circuit")
def command() -> None:
    """Find circuits of features, validate them by ablation, draw them, run them.

    \b
    # ioi.toml
    [task]
    model = "demo"
    metric = "logit(io.answer) - logit(io.wrong)"
    ablation = "resample"             # zero, mean (by position), resample (of `corrupt`)
    errors = "remove"                 # or keep: SAE errors outside the circuit
    [prompts]
    path = "ioi.jsonl"                # {"prompt": ..., "corrupt": ..., "answer": ..., "wrong": ...}
    held_out = "ioi.held_out.jsonl"
    [saes]
    "L1.resid_post" = "demo"          # site = a folder, a file, a hub id
    [find]
    effects = "ig"                    # atp, ig, relp, qk, graddrop, atp*, exact
    method = "top"                    # top, threshold, influence, greedy, acdc
    budget = 80                       # nodes, or a share such as 0.1
    [validate]
    subsets = 20

    \b
    saedsl circuit find ioi.toml                 writes ioi.circuit.json
    saedsl circuit validate ioi.toml             writes ioi.validated.json, ioi.verdict.json
    saedsl circuit draw ioi.toml ioi.pdf         or .svg, .png, .html
    saedsl circuit export ioi.toml ioi.saedsl    or .graphml, .gexf, .dot, .cyjs, .tex, .neuronpedia.json
    saedsl circuit run ioi.toml                  the circuit as a program, run
    """


@command.command()
@click.argument("task", type=_path)
@click.option("--budget", metavar="N", help="Nodes at most, or a share such as 0.1. Default: what the file says.")
@click.option("--method", help="How nodes are chosen. Default: what the file says.")
@click.option("--out", type=_path, help="Where the circuit is written. Default: TASK.circuit.json")
@_rows
@_json
@plain
def find(task: Path, budget: str | None, method: str | None, out: Path | None, rows: int | None, as_json: bool) -> None:
    """Find the circuit of the TASK's prompts: effects of all nodes, the strongest, edges between them.

    \b
    saedsl circuit find ioi.toml
    saedsl circuit find ioi.toml --budget 0.05 --method greedy --out small.circuit.json
    """
    from dataclasses import replace

    from saedsl.circuits.store import save
    from saedsl.circuits.taskfile import read_task_file

    file = read_task_file(task)
    out = out or file.circuit
    _folder_of(out, as_json)
    wanted = replace(
        file.find,
        **({} if budget is None else {"budget": _budget(budget, as_json)}),  # type: ignore[arg-type]
        **({} if method is None else {"method": method}),  # type: ignore[arg-type]
    )
    with _progress() as tell:
        from saedsl.circuits.find import find as search

        tell("loading the model", 0, 0)
        found = search(file.open(_model(file), most=rows), **vars(wanted), progress=tell)
    save(found.circuit, out)
    counts = {"nodes": sum(n.kind not in ("embedding", "logit") for n in found.circuit), "of": len(found.scores),
              "edges": found.circuit.number_of_edges()}  # fmt: skip
    if as_json:
        top = sorted(found.circuit.nodes(data="score"), key=lambda item: (-abs(item[1]), item[0]))
        click.echo(json.dumps({"circuit": str(out), **counts, "scores": {n.id: s for n, s in top}}))
        return
    click.echo(
        f"{out}: {counts['nodes']} of {counts['of']:,} nodes, {counts['edges']:,} edges ({found.circuit.meta.method})"
    )
    click.echo(f"next: saedsl circuit validate {task}")


@command.command()
@click.argument("task", type=_path)
@click.option("--circuit", type=_path, help="The circuit. Default: TASK.circuit.json, as `find` wrote it.")
@click.option("--out", type=_path, help="Where it is written with its scores. Default: TASK.validated.json")
@click.option("--quick", is_flag=True, help="Headline numbers, random circuits and the curve only.")
@_rows
@_json
@plain
def validate(task: Path, circuit: Path | None, out: Path | None, quick: bool, rows: int | None, as_json: bool) -> None:
    """Measure the circuit of TASK on its held-out prompts: is it faithful, complete, minimal?

    Exits with 0 whatever the verdict is: it is on standard output, and in TASK.verdict.json.

    \b
    saedsl circuit validate ioi.toml
    saedsl circuit validate ioi.toml --circuit by-hand.circuit.json --json
    """
    from dataclasses import replace

    from saedsl.circuits.store import dumps, load, save, write_text
    from saedsl.circuits.taskfile import read_task_file

    file = read_task_file(task)
    given = load(circuit or file.circuit)
    out = out or file.validated
    _folder_of(out, as_json)
    wanted = replace(file.validate, subsets=0, minimality_rows=0, exact_rows=0, tried=0) if quick else file.validate
    with _progress() as tell:
        from saedsl.circuits.ablation import bench
        from saedsl.circuits.find import measured
        from saedsl.circuits.validate import validate as measure

        tell("loading the model", 0, 0)
        model = _model(file)
        found_on = file.open(model, most=rows)
        held = file.prompts.held_out is not None
        tell("effects", 0, 0)
        effects = measured(bench(found_on), file.find.effects, file.find.steps)  # type: ignore[arg-type]
        scores = {n: e for n, (e, _) in effects.scores(file.find.positions).items() if n.kind != "error"}  # type: ignore[arg-type]
        verdict, scored = measure(
            given, file.open(model, held_out=True, most=rows) if held else found_on,
            training=found_on if held else None, scores=scores,
            effects="ig" if file.find.effects == "exact" else file.find.effects,  # type: ignore[arg-type]
            **vars(wanted), progress=tell,
        )  # fmt: skip
    save(scored, out)
    report = verdict.to_json()
    write_text(file.verdict if out == file.validated else out.with_suffix(".verdict.json"), dumps(report))
    click.echo(json.dumps(report) if as_json else f"{task}\n\n{verdict.text()}", nl=as_json)


@command.command()
@click.argument("circuit", type=_path)
@click.argument("out", type=_path)
@click.option("--width", type=click.Choice(["single", "double"]), default="single", show_default=True,
              help="Of a figure: one column, 3.25 in, or two.")  # fmt: skip
@click.option("--most-edges", type=click.IntRange(0), help="Edges that a figure draws at most, the strongest.")
@click.option("--most-nodes", type=click.IntRange(1), help="Nodes that are drawn at most, the strongest.")
@click.option("--no-caption", is_flag=True, help="A figure without the text below.")
@_json
@plain
def draw(
    circuit: Path,
    out: Path,
    width: Any,
    most_edges: int | None,
    most_nodes: int | None,
    no_caption: bool,
    as_json: bool,
) -> None:
    """Draw CIRCUIT, a file of `find` or `validate` or their TASK.toml, into OUT: .pdf, .svg, .png, .html.

    \b
    saedsl circuit draw ioi.toml ioi.pdf
    saedsl circuit draw ioi.validated.json ioi.html
    saedsl circuit draw ioi.toml ioi.pdf --most-nodes 24 --most-edges 60
    """
    from saedsl.circuits.draw import draw as render
    from saedsl.circuits.figure import MOST_EDGES

    graph = _circuit(circuit)
    if most_nodes is not None:
        graph = strongest(graph, most_nodes)
    render(graph, out, width=width, caption=not no_caption, most_edges=MOST_EDGES if most_edges is None else most_edges)
    click.echo(json.dumps({"drawn": str(out)}) if as_json else f"drawn: {out}")


@command.command()
@click.argument("circuit", type=_path)
@click.argument("out", type=_path)
@click.option("--format", "form", help="Where the ending of OUT says another, or none.")
@_json
@plain
def export(circuit: Path, out: Path, form: str | None, as_json: bool) -> None:
    """Write CIRCUIT, or that of TASK.toml, to OUT in another format; a .saedsl program with its files of prompts.

    \b
    saedsl circuit export ioi.toml ioi.saedsl
    saedsl circuit export ioi.validated.json ioi.graphml
    """
    from saedsl.circuits.dsl import to_program
    from saedsl.circuits.export import export as write

    graph = _circuit(circuit)
    _folder_of(out, as_json)
    if form == "saedsl" or (form is None and out.suffix == ".saedsl"):
        program = to_program(graph, out.stem)
        program.write(out)
        files = [str(out), *(str(out.with_name(name)) for name in program.files)]
    else:
        write(graph, out, form)  # type: ignore[arg-type]
        files = [str(out)]
    click.echo(json.dumps({"written": files}) if as_json else f"written: {', '.join(files)}")


@command.command()
@click.argument("circuit", type=_path)
@click.option("--model", "-m", metavar="M", help="A model folder, a hub id, or demo. Default: what the circuit says.")
@_json
@plain
def run(circuit: Path, model: str | None, as_json: bool) -> None:
    """Run CIRCUIT, or that of TASK.toml, as a program: the metric with everything outside it ablated.

    \b
    saedsl circuit run ioi.toml
    saedsl circuit run ioi.validated.json --json
    """
    from dataclasses import asdict
    from tempfile import TemporaryDirectory

    from saedsl.circuits.dsl import to_program
    from saedsl.circuits.scores import scores_of

    graph = _circuit(circuit)
    program = to_program(graph)
    with _progress() as tell, TemporaryDirectory() as folder:
        from saedsl.model import InterpretableModel

        tell("loading the model", 0, 0)
        lm = InterpretableModel.load(model or graph.meta.model)
        result = lm.run(
            program.write(Path(folder) / "circuit.saedsl"), progress=lambda name: tell(f"running {name}", 0, 0)
        )
    scores = scores_of(result)
    if as_json:
        click.echo(json.dumps({**asdict(scores), "program_id": result.program_id, "plan_id": result.plan_id}))
        return
    click.echo(
        f"m(M) {scores.whole:.4f}, m(C) {scores.circuit:.4f}, m(0) {scores.nothing:.4f}, m(M\\C) {scores.rest:.4f}"
    )
    click.echo(f"faithfulness {scores.faithfulness:.4f}, completeness {scores.completeness:.4f}; plan {result.plan_id}")


def strongest(graph: CircuitGraph, n: int) -> CircuitGraph:
    """The `n` nodes of largest |score|, with tokens and logits; its method says that others are left out of sight."""
    from dataclasses import replace

    ends = [node for node in graph if node.kind in ("embedding", "logit")]
    inner = sorted((node for node in graph if node not in set(ends)), key=lambda v: (-abs(graph.nodes[v]["score"]), v))
    shown = graph.part([*inner[:n], *ends])
    if len(inner) <= n:
        return shown
    method = f"{graph.meta.method}; the {n} strongest of {len(inner)} nodes drawn".lstrip("; ")
    return shown.with_meta(replace(shown.meta, method=method))


def _circuit(path: Path) -> CircuitGraph:
    """The circuit in a file, or of a task: validated if it is, else as it was found."""
    from saedsl.circuits.export import read
    from saedsl.circuits.store import load
    from saedsl.circuits.taskfile import read_task_file
    from saedsl.errors import CircuitError

    if path.suffix != ".toml":
        return load(path) if path.suffix == ".json" else read(path)
    file = read_task_file(path)
    for found in (file.validated, file.circuit):
        if found.is_file():
            return load(found)
    raise CircuitError(f"{path}: there is no circuit yet: saedsl circuit find {path}")


def _model(file: TaskFile) -> InterpretableModel:
    from saedsl.model import InterpretableModel

    return InterpretableModel.load(file.task.model, file.path.parent)


def _budget(text: str, as_json: bool) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        fail("usage", f"--budget {text}: it is a number of nodes, or a share such as 0.1", USAGE, as_json)


def _folder_of(path: Path, as_json: bool) -> None:
    """Refuse, before any work, what could not be written after it."""
    if not path.absolute().parent.is_dir():
        fail("usage", f"{path}: there is no folder {path.parent}", USAGE, as_json)


@contextmanager
def _progress() -> Iterator[Tell]:
    """Shown on terminals only, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("")
        yield lambda what, i, n: bar.update(line, description=what, completed=i, total=n or None)
