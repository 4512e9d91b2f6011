"""`saedsl convert`: a dictionary of any format that saedsl reads, written as SAELens' or as its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from saedsl.commands.shared import USAGE, fail, plain


@click.command("convert")
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--to", "form", default="auto", show_default=True, type=click.Choice(["auto", "saelens", "native"]),
    help="auto: SAELens' layout where it can say the dictionary, else saedsl's own.",
)  # fmt: skip
@click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "float16"]),
    help="float16 halves the file and rounds the weights.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For machines: JSON on standard output.")
@plain
def command(
    source: str,
    out: Path,
    form: Literal["auto", "saelens", "native"],
    dtype: Literal["float32", "float16"],
    as_json: bool,
) -> None:
    """Write the dictionary IN, of any format that saedsl reads, to the folder OUT.

    IN is a folder, a file, or a hub repository, org/repo or org/repo:subfolder. OUT may be a dictionary that saedsl or
    SAELens wrote: it is replaced, whole or not at all.

    \b
    saedsl convert layer_12/width_16k/average_l0_82/params.npz saes/L12
    saedsl convert org/repo:layer_12 saes/L12 --to saelens --dtype float16
    """
    from saedsl.locate import find_sae
    from saedsl.sae.dictionary import SAE

    sae = SAE.load(find_sae(source, download=True))
    if out.exists() and sae.info.path is not None and out.resolve() == sae.info.path.resolve():
        fail("usage", f"{out}: IN and OUT are the same; choose another folder", USAGE, as_json)
    saved = sae.save(out, dtype=dtype, format=form)
    if as_json:
        c = saved.config
        about = {"d_in": c.d_in, "d_sae": c.d_sae, "d_out": c.d_out, "activation": c.activation, "kind": c.kind}
        formats = {"from": sae.info.format, "to": saved.info.format, "dtype": dtype}
        click.echo(json.dumps({"in": source, "out": str(out), **formats, **about, "sha256": saved.sha256}))
        return
    c = saved.config
    click.echo(f"{out}: {c.activation} {c.kind}, {c.d_sae} features, {sae.info.format} -> {saved.info.format}")
