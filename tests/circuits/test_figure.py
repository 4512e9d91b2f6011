"""Figures: of a column's width, deterministic, fonts embedded, nothing cut off, told in words."""

from __future__ import annotations

import base64
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from saedsl.circuits.caption import caption
from saedsl.circuits.colours import blend
from saedsl.circuits.draw import draw
from saedsl.circuits.figure import WIDTHS, render
from saedsl.circuits.graph import CircuitGraph, Meta, Node, edges, nodes
from saedsl.errors import CircuitError
from tests.circuits import samples

pytest.importorskip("matplotlib")
SVG = "{http://www.w3.org/2000/svg}"
POPPLER = pytest.mark.skipif(shutil.which("pdftotext") is None, reason="poppler-utils is not installed")


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@cache
def kinds_svg() -> bytes:
    return render(samples.kinds(), "svg")


def texts(svg: bytes) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}text")]


def test_equal_graphs_give_equal_bytes_in_another_process_too(tmp_path: Path) -> None:
    code = (
        "import sys; from saedsl.circuits.store import load; from saedsl.circuits.draw import draw\n"
        "[draw(load(sys.argv[1]), f'{sys.argv[2]}/c.{form}') for form in ('pdf', 'svg', 'html')]"
    )
    from saedsl.circuits.store import save

    graph = samples.kinds()
    save(graph, tmp_path / "c.json")
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c.json"), str(tmp_path)], env=env, check=True, timeout=120
    )
    for form in ("pdf", "svg", "html"):
        assert draw(graph, tmp_path / f"here.{form}").read_bytes() == (tmp_path / f"c.{form}").read_bytes(), form


@POPPLER
@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("make", [samples.kinds, samples.nasty, samples.free], ids=["kinds", "nasty", "free"])
def test_a_pdf_has_a_columns_width_embedded_fonts_and_no_text_over_text(make: Any, width: Any, tmp_path: Path) -> None:
    graph = make()
    path = str(draw(graph, tmp_path / "c.pdf", width=width))
    wide, high = re.search(r"Page size: +([\d.]+) x ([\d.]+)", run("pdfinfo", path)).groups()  # type: ignore[union-attr]
    assert float(wide) == pytest.approx({"single": 3.25 * 72, "double": 6.75 * 72}[width], abs=0.1)
    fonts = run("pdffonts", path).splitlines()[2:]
    assert fonts
    assert all(re.search(r"TrueType .* yes (yes|no) +yes|CID TrueType .* yes", line) for line in fonts), fonts
    page = ET.fromstring(re.sub(r"[\x00-\x08\x0b-\x1f]", "", run("pdftotext", "-bbox", path, "-")))
    words = []
    for word in page.iter("{http://www.w3.org/1999/xhtml}word"):
        x0, y0, x1, y1 = (float(word.attrib[k]) for k in ("xMin", "yMin", "xMax", "yMax"))
        assert x0 >= 0, word.text
        assert y0 >= 0, word.text
        assert x1 <= float(wide), word.text
        assert y1 <= float(high), word.text
        if y1 - y0 < 12:  # not the turned ones, whose boxes are large
            third = (y1 - y0) / 3  # of a line's height, letters fill the middle
            words.append((x0 + 0.3, y0 + third, x1 - 0.3, y1 - third, word.text))
    assert len(words) > 10
    for a, b in itertools.combinations(words, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


def test_text_of_an_svg_is_text_in_a_font_that_is_inside() -> None:
    from fontTools.ttLib import TTFont

    svg = kinds_svg()
    shown = texts(svg)
    for wanted in ("say a capital", "European countries", "France", "L0.mlp.act", "Paris 0.81", "error", "SAE error"):
        assert wanted in shown
    fonts = re.findall(rb"font-weight:(\d+);src:url\(data:font/ttf;base64,([A-Za-z0-9+/=]+)\) format", svg)
    known = {weight: set(TTFont(io.BytesIO(base64.b64decode(data))).getBestCmap()) for weight, data in fonts}
    assert set(known) == {b"400", b"700"}
    assert {ord(c) for c in "say a capital" + "France"} <= known[b"700"]
    assert {ord(c) for text in shown for c in text} <= known[b"400"] | known[b"700"]
    root = ET.fromstring(svg)
    assert all("saedsl-figure" in t.attrib["style"] for t in root.iter(f"{SVG}text"))
    assert b"<dc:date>" not in svg


def test_labels_of_any_kind_are_shown_as_text() -> None:
    shown = " ".join(texts(render(samples.nasty(), "svg", width="double")))
    for wanted in ("</script>", "100 % of {a_b}^c ~ #1", "back\\slash \\N \\n \\label", "[4E2D][6587]", "&lt;b&gt;"):
        assert wanted in shown


def dashed(svg: bytes) -> int:
    """Curves, which edges are, that are dashed."""
    return sum(
        "stroke-dasharray" in p.attrib.get("style", "") and " C " in p.attrib["d"].replace("\n", " ")
        for p in ET.fromstring(svg).iter(f"{SVG}path")
    )


def test_signs_differ_in_print_without_colour() -> None:
    graph = samples.kinds()
    assert dashed(kinds_svg()) == sum(d["weight"] < 0 for *_, d in edges(graph))
    grey = [sum(w * c for w, c in zip((0.299, 0.587, 0.114), blend(s), strict=True)) for s in (-1, 0, 1)]
    assert grey[0] - grey[2] > 0.3
    assert grey[1] - grey[0] > 0.25


def curves(svg: bytes) -> int:
    return sum(
        "fill: none" in p.attrib.get("style", "") and " C " in p.attrib["d"].replace("\n", " ")
        for p in ET.fromstring(svg).iter(f"{SVG}path")
    )


def test_the_strongest_edges_are_drawn_and_the_caption_says_how_many() -> None:
    graph = samples.kinds()
    assert curves(kinds_svg()) == 18
    svg = render(graph, "svg", most_edges=5)
    assert curves(svg) == 5
    words = " ".join(texts(svg))
    assert "18 edges (the 5 of largest |weight| drawn)" in words
    assert "18 edges" not in " ".join(texts(render(graph, "svg", caption=False)))


def test_the_caption_says_what_a_reader_needs() -> None:
    assert caption(samples.kinds()) == (
        'Circuit of org/tiny model: 14 nodes, 18 edges; metric logit(" Paris") - logit(" Rome"); '
        'ablation mean of "texts.txt" (SAE errors removed); method integrated gradients, 10 steps; '
        "prompt “The capital of France is”; faithfulness 0.97; completeness 0.12; error share 0.21; plan 0123456789ab."
    )
    bare = CircuitGraph(meta=Meta())
    bare.add_typed_node(Node.parse("L0.mlp.f1"))
    assert caption(bare) == "Circuit: 1 node, 0 edges."
    many = bare.with_meta(Meta(prompts=("two\nlines" * 20, "b", "c"), ablation="zero"))
    assert "ablation zero (SAE errors kept); prompt “two⏎lines" in caption(many)
    assert caption(many).endswith("…” and 2 more.")


def test_a_png_and_graphs_of_every_shape_are_drawn(tmp_path: Path) -> None:
    assert draw(samples.free(), tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    alone = CircuitGraph(meta=Meta())
    alone.add_typed_node(Node.parse("L0.mlp.f1"), 0.0)
    assert render(alone, "svg") == render(alone, "svg")
    big = samples.large(400, 12, 6)
    named = {t.split(" ")[0] for t in texts(render(big, "svg"))}
    assert any(node.short in named for node, _ in nodes(big))


@pytest.mark.parametrize(
    ("graph", "name", "how", "message"),
    [
        (CircuitGraph(meta=Meta()), "c.pdf", {}, "the circuit has no nodes: nothing to draw"),
        (CircuitGraph(meta=Meta()), "c.html", {}, "the circuit has no nodes: nothing to draw"),
        (samples.kinds(), "c.doc", {}, "c.doc: a figure ends in .pdf, .svg, .png or .html, not .doc"),
        (samples.kinds(), "c", {}, "c: a figure ends in .pdf, .svg, .png or .html, not nothing"),
        (samples.kinds(), "c.pdf", {"width": "triple"}, "width is 'triple'; it can be single, double"),
        (samples.kinds(), "none/c.html", {}, "c.html: cannot be written (No such file or directory)"),
    ],
)
def test_what_cannot_be_drawn_is_told(
    graph: CircuitGraph, name: str, how: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CircuitError) as caught:
        draw(graph, tmp_path / name, **how)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_figures_without_matplotlib_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CircuitError, match=r"figures need matplotlib: pip install 'saedsl\[figures\]'"):
        draw(samples.kinds(), tmp_path / "c.pdf")
    assert draw(samples.kinds(), tmp_path / "c.html").stat().st_size > 10_000


def test_a_graph_that_is_no_circuit_is_not_drawn(tmp_path: Path) -> None:
    graph = samples.kinds()
    graph.graph["meta"] = replace(graph.meta, scores={"faithfulness": float("nan")})
    for name in ("c.pdf", "c.html"):
        with pytest.raises(CircuitError, match="score faithfulness is nan"):
            draw(graph, tmp_path / name)


def test_widths_are_those_of_columns() -> None:
    assert {name: points / 72 for name, points in WIDTHS.items()} == {"single": 3.25, "double": 6.75}
