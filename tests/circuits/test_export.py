"""Every format is read by a reader that is not ours, and the lossless ones come back whole."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saedsl.circuits import dot as dot_module
from saedsl.circuits.export import FORMATS, READERS, WRITERS, Format, export, format_of, read
from saedsl.circuits.graph import CircuitGraph, Meta, Node, edges, nodes
from saedsl.errors import CircuitError
from tests.circuits import samples

GRAPHS: dict[str, Callable[[], CircuitGraph]] = {
    "kinds": samples.kinds, "nasty": samples.nasty, "free": samples.free,
    "empty": lambda: CircuitGraph(meta=Meta()),
}  # fmt: skip
NEEDS_DOT = pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz' dot is not installed")


def case(form: Format) -> Any:
    return pytest.param(form, marks=NEEDS_DOT) if form == "dot" else form


LOSSLESS = [case(form) for form in READERS]


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_come_back_whole(form: Format, name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]()
    path = export(graph, tmp_path / "c.any", form)
    assert nx.utils.graphs_equal(read(path, form), graph)
    assert WRITERS[form](read(path, form)) == WRITERS[form](graph)


@pytest.mark.parametrize("form", FORMATS)
def test_equal_graphs_are_equal_bytes(form: Format) -> None:
    graph = samples.kinds()
    other = CircuitGraph(meta=graph.meta)
    for node, data in reversed(nodes(graph)):
        other.add_typed_node(node, **dict(reversed(data.items())))
    for u, v, data in reversed(edges(graph)):
        other.add_typed_edge(u, v, **dict(reversed(data.items())))
    assert WRITERS[form](other) == WRITERS[form](graph)


LABELS = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)


@settings(max_examples=60, deadline=None)
@given(label=LABELS, token=LABELS)
def test_any_text_survives(label: str, token: str) -> None:
    graph = CircuitGraph(meta=Meta(tokens=(token,), prompts=(label,), supernodes=((token, ("L1.mlp.f1@0",)),)))
    graph.add_typed_node(Node.parse("L1.mlp.f1@0"), 0.5, label=label, note=token)
    for form in (f for f in READERS if f != "dot"):
        text = WRITERS[form](graph)
        assert nx.utils.graphs_equal(READERS[form](text.encode().decode()), graph), form
    packed = dot_module.to_dot(graph)
    assert dot_module._unpacked(packed.partition('saedsl="')[2].partition('"')[0])["tokens"] == [token]


# Readers of others


def test_networkx_reads_graphml() -> None:
    other = nx.parse_graphml(WRITERS["graphml"](samples.kinds()))
    assert type(other) is nx.DiGraph
    assert other.nodes["L1.mlp.f42@5"] == {
        "kind": "feature", "layer": 1, "site": "L1.mlp", "index": 42, "position": 5, "score": 0.8, "activation": 1.25,
        "label": "say a capital city", "influence": 0.1,
    }  # fmt: skip
    assert other.nodes["L1.attn.h3@5"]["hot"] is True
    assert other.edges["L1.attn.h3@5", "L1.mlp.f42@5"]["weight"] == 1.0
    assert json.loads(other.graph["meta"])["metric"] == 'logit(" Paris") - logit(" Rome")'


def test_networkx_reads_gexf_and_it_has_places_and_colours_for_gephi() -> None:
    text = WRITERS["gexf"](samples.kinds())
    other = nx.read_gexf(io.BytesIO(text.encode()))
    assert other.nodes["L1.mlp.f42@5"]["label"] == "say a capital city"
    assert other.nodes["L1.mlp.f42@5"]["score"] == 0.8
    assert other.nodes["L1.mlp.f42@5"]["viz"]["position"]["y"] > other.nodes["embed.t17@4"]["viz"]["position"]["y"]
    assert {k: other.nodes["logits.t31@5"]["viz"]["color"][k] for k in "rgb"} == {"r": 0x54, "g": 0x27, "b": 0x88}
    assert other.edges["L1.attn.h3@5", "g:L1.mlp.f42@5"]["weight"] == -0.6
    assert "lastmodified" not in text


def test_networkx_reads_cytoscape_and_supernodes_are_parents() -> None:
    other = nx.cytoscape_graph(json.loads(WRITERS["cytoscape"](samples.kinds())))
    assert other.is_directed()
    assert other.nodes["L1.mlp.f42@5"]["score"] == 0.8
    parent = other.nodes["L1.mlp.f42@5"]["parent"]
    assert other.nodes[parent]["name"] == "say a capital"
    assert other.nodes["g:L1.mlp.f42@5"]["parent"] == parent
    assert other.edges["L1.attn.h3@5", "L1.mlp.f42@5"]["weight"] == 1.0


@NEEDS_DOT
@pytest.mark.parametrize("name", ["kinds", "nasty", "free"])
def test_dot_draws_the_labels_as_they_are(name: str) -> None:
    graph = GRAPHS[name]()
    drawn = subprocess.run(["dot", "-Tsvg"], input=WRITERS["dot"](graph).encode(), capture_output=True, timeout=60)
    assert drawn.returncode == 0
    assert b"Warning" not in drawn.stderr
    assert b"Error" not in drawn.stderr
    root = ET.fromstring(drawn.stdout)
    shown = {"".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")}
    for node, data in nodes(graph):
        for line in (data["label"] or node.id).split("\n"):
            if line.isprintable() and line.strip() == line and line:
                assert line.replace("  ", " ") in {s.replace("\u00a0", " ") for s in shown}, line
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sum("->" in (t or "") for t in titles) == graph.number_of_edges()


# Tables and errors


def test_names_say_formats(tmp_path: Path) -> None:
    wanted: dict[str, Format] = {
        "a.json": "json", "a.neuronpedia.json": "neuronpedia", "A.GraphML": "graphml", "a.gexf": "gexf", "a.gv": "dot",
        "a.dot": "dot", "a.cyjs": "cytoscape", "a.tex": "tikz",
    }  # fmt: skip
    assert {name: format_of(name) for name in wanted} == wanted
    graph = samples.kinds()
    for name, form in wanted.items():
        assert export(graph, tmp_path / name).read_text() == WRITERS[form](graph)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda g, p: export(g, p / "c.xyz"), "c.xyz: the name says no format; it can end in .neuronpedia.json"),
        (lambda g, p: export(g, p / "c", cast(Any, "xml")), "'xml' is not a format; it can be json, graphml, gexf"),
        (lambda g, p: export(g, p / "none" / "c.gexf"), "c.gexf: cannot be written (No such file or directory)"),
        (lambda g, p: read(p / "c.tex"), "c.tex: tikz is not read back; circuits are read from json, graphml"),
        (lambda g, p: read(p / "c.gexf"), "c.gexf: cannot be read (No such file or directory)"),
        (lambda g, p: read(write(p / "c.graphml", "<x>")), "c.graphml: not GraphML of a circuit: "),
        (lambda g, p: read(write(p / "c.graphml", nx_graphml())), "c.graphml: not a circuit: the graph says not what"),
        (lambda g, p: read(write(p / "c.gexf", "")), "c.gexf: not GEXF of a circuit: "),
        (lambda g, p: read(write(p / "c.cyjs", "{}")), "c.cyjs: not Cytoscape JSON of a circuit: KeyError"),
        (lambda g, p: read(write(p / "c.cyjs", changed("cytoscape", "0.8,", "null,"))), "score is None, not a finite"),
        (lambda g, p: read(write(p / "c.graphml", changed("graphml", ">0.8<", ">nan<"))), "score is nan, not a finite"),
        (lambda g, p: read(write(p / "c.gexf", changed("gexf", '"L1.mlp.f42@5"', '"x y"'))), "'x y' names no node"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_or_read_is_told(act: Callable[..., Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CircuitError) as caught:
        act(samples.kinds(), tmp_path)
    assert message in str(caught.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def changed(form: Format, old: str, new: str) -> str:
    text = WRITERS[form](samples.kinds())
    assert old in text
    return text.replace(old, new)


def nx_graphml() -> str:
    return "\n".join(nx.generate_graphml(nx.DiGraph([("L0.mlp.f1", "L1.mlp.f2")])))


@NEEDS_DOT
@pytest.mark.parametrize(
    ("text", "message"),
    [("digraph { a -> ", "not DOT: "), ("digraph { a -> b }", "DOT of another program: no attribute saedsl")],
)
def test_other_dot_is_told(text: str, message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        READERS["dot"](text)


def test_reading_dot_without_graphviz_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CircuitError, match="DOT is read by graphviz, which is not installed: install graphviz"):
        READERS["dot"](WRITERS["dot"](samples.kinds()))


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_that_is_no_circuit_is_written(form: Format, tmp_path: Path) -> None:
    graph = samples.kinds()
    graph.nodes[Node.parse("L1.mlp.f42@5")]["score"] = float("nan")
    with pytest.raises(CircuitError, match="score is nan"):
        export(graph, tmp_path / "c", form)
    assert list(tmp_path.iterdir()) == []


def test_a_file_keeps_its_content_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.gexf", "before")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CircuitError, match=r"c.gexf: cannot be written \(No space left on device\)"):
        export(samples.kinds(), path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
