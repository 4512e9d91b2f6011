"""Figures of an evaluation, drawn by matplotlib without a display: the same bytes for the same numbers."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saedsl.errors import TrainingError
from saedsl.sae.replace import write_file
from saedsl.training.assess import Assessment, rows_of
from saedsl.training.metrics import DENSITY_EDGES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIXED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
"""Metadata that would differ from run to run, by file type."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches; no display, no global state.

    Raises:
        TrainingError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise TrainingError("figures need matplotlib: pip install 'saedsl[figures]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as its suffix says (.pdf, .svg or .png), whole or not at all.

    Raises:
        TrainingError: if the suffix is another, or the file cannot be written.
    """
    import matplotlib as mpl

    kind = path.suffix.lower().lstrip(".")
    if kind not in FIXED:
        raise TrainingError(f"{path}: a figure is .pdf, .svg or .png")
    content = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "saedsl", "pdf.fonttype": 42}):
        figure.savefig(content, format=kind, metadata=FIXED[kind], dpi=200)
    try:
        write_file(path, content.getvalue())
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error.strerror})") from None


def evaluation_figure(a: Assessment) -> Figure:
    """Densities of the features, the sorted densities, and the measures as a table."""
    figure = new_figure(7.0, 2.9)
    histogram, ranks, table = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    e = a.evaluation
    lefts = np.array(DENSITY_EDGES[:-1])
    histogram.bar(lefts, e.density_histogram, width=0.5, align="edge", color="0.45", edgecolor="white", linewidth=0.5)
    histogram.set(xlabel="log10 of density", ylabel="features", title=f"{e.dead:.1%} never fire", xlim=(-7, 0))
    ordered = np.sort(e.density)[::-1]
    ranks.plot(np.arange(1, len(ordered) + 1), np.where(ordered > 0, ordered, np.nan), color="0.15", linewidth=1.2)
    ranks.set(xscale="log", yscale="log", xlabel="feature, by rank", ylabel="density", title=f"L0 = {e.l0:.1f}")
    for axes in (histogram, ranks):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_size(8)
        axes.yaxis.label.set_size(8)
        axes.title.set_size(8)
    table.axis("off")
    read, write = a.sites
    title = f"{read}" if read == write else f"{read} to {write}"
    table.text(0, 1, f"{title}  {a.model or ''}".strip(), fontsize=8, weight="bold", va="top")
    rows = rows_of(a)
    for i, (name, value) in enumerate(rows):
        height = 0.92 - 0.92 * i / len(rows)
        table.text(0, height, name.replace("  ", "   "), fontsize=5.8, va="top", parse_math=False)
        table.text(1.0, height, value, fontsize=5.8, va="top", ha="right", parse_math=False)
    return figure
