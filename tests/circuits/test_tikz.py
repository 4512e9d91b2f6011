"""LaTeX: escaped, and compiled where pdflatex is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from saedsl.circuits.graph import CircuitGraph, nodes
from saedsl.circuits.tikz import escape, to_tikz
from tests.circuits import samples

LATEX = shutil.which("pdflatex") or shutil.which("tectonic")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("100 %", r"100 \%"),
        ("a_b^c", r"a\_b\textasciicircum{}c"),
        ("{x}", r"\{x\}"),
        ("a\\b", r"a\textbackslash{}b"),
        ("two\nlines", r"two\saedslnewline{}lines"),
        ("<script>", r"\textless{}script\textgreater{}"),
        ("--", "{-}{-}"),
        ("é", "é"),
        ("中", r"\saedslchar{4E2D}{中}"),
        ("\x00", r"{\scriptsize[U+0000]}"),
        ("\ud800", r"{\scriptsize[U+D800]}"),
    ],
)
def test_text_is_escaped(text: str, wanted: str) -> None:
    assert escape(text) == wanted


@pytest.mark.parametrize("graph", [samples.kinds(), samples.nasty(), samples.free()], ids=["kinds", "nasty", "free"])
def test_braces_balance_and_every_node_and_edge_is_drawn(graph: CircuitGraph) -> None:
    text = to_tikz(graph)
    bare = re.sub(r"\\[{}%\\]|(?<!\\)%.*", "", text)
    assert bare.count("{") == bare.count("}")
    assert len(re.findall(r"\\node\[\w+, fill=\w+![0-9]+!neutral", text)) == len(graph)
    assert text.count(r"\draw[") == graph.number_of_edges()
    assert text.isascii() or all(c.isprintable() or c == "\n" for c in text)


def test_a_picture_alone_is_the_inside_of_the_document() -> None:
    picture = to_tikz(samples.kinds(), form="picture")
    assert picture in to_tikz(samples.kinds())
    assert "documentclass" not in picture


@pytest.mark.skipif(LATEX is None, reason="neither pdflatex nor tectonic is installed")
@pytest.mark.parametrize("graph", [samples.kinds(), samples.nasty()], ids=["kinds", "nasty"])
def test_it_compiles(graph: CircuitGraph, tmp_path: Path) -> None:
    (tmp_path / "c.tex").write_text(to_tikz(graph))
    assert LATEX is not None
    options = ["-interaction=nonstopmode", "-halt-on-error"] if LATEX.endswith("pdflatex") else []
    done = subprocess.run([LATEX, *options, "c.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "c.pdf").stat().st_size > 5000
    if shutil.which("pdftotext") and LATEX.endswith("pdflatex"):
        shown = subprocess.run(
            ["pdftotext", "-raw", "c.pdf", "-"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        ).stdout
        squeezed = re.sub(r"\s", "", shown)
        for _, data in nodes(graph):
            label = data["label"] or ""
            if re.fullmatch(r"[A-Za-z0-9 <>/%&#;\[\]!.,:()]+", label):
                assert label.replace(" ", "") in squeezed, label
