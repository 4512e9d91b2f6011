"""Columns, rows and order of nodes; text that covers nothing."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saedsl.circuits.graph import CircuitGraph, Meta, Node, edges
from saedsl.circuits.labels import LINE, Box, Taken, fold, place
from saedsl.circuits.layout import Layout, layout
from saedsl.errors import CircuitError
from tests.circuits import samples


@pytest.mark.parametrize(
    "make", [samples.kinds, samples.nasty, samples.free, samples.large], ids=["kinds", "nasty", "free", "large"]
)
def test_every_node_has_a_place_of_its_own_in_its_column_and_row(make: Callable[[], CircuitGraph]) -> None:
    graph = make()
    found = layout(graph, "own")
    assert set(found.places) == set(graph)
    assert len(set(found.places.values())) == len(graph)
    columns = {c.position: c for c in found.columns if c.text != "…"}
    for node, (x, y) in found.places.items():
        column = columns[node.position]
        assert column.left <= x <= column.right
        row = next(r for r in found.rows if r.bottom <= y <= r.top)
        assert row.text in (node.site, f"L{node.layer}")
        assert 0 < x < found.width
        assert 0 < y < found.height
    for a, b in itertools.pairwise(sorted(found.places.values(), key=lambda p: (p[1], p[0]))):
        assert b[1] > a[1] or b[0] - a[0] >= 0.99


def test_tokens_go_from_left_to_right_and_the_forward_upwards() -> None:
    found = layout(samples.kinds())
    assert [c.text for c in found.columns] == ["<s>", "The", " capital", " of", " France", " is"]
    assert [r.text for r in found.rows] == ["embed", "L0.attn", "L0.mlp.act", "L0.mlp", "L1.attn", "L1.mlp", "logits"]
    assert all(a.right < b.left for a, b in itertools.pairwise(found.columns))
    assert all(a.top < b.bottom for a, b in itertools.pairwise(found.rows))
    for u, v, _ in edges(samples.kinds()):
        assert found.places[u][1] < found.places[v][1]


def test_a_long_prompt_shows_the_tokens_that_have_nodes() -> None:
    graph = CircuitGraph(meta=Meta(tokens=tuple(f"t{i}" for i in range(100))))
    for position in (3, 4, 90):
        graph.add_typed_node(Node.of("feature", "L0.mlp", 1, position))
    assert [c.text for c in layout(graph).columns] == ["…", "t3", "t4", "…", "t90"]


def test_sites_of_a_layer_share_a_row_where_there_are_many() -> None:
    graph = CircuitGraph(meta=Meta())
    for layer in range(14):
        for site in ("mlp", "attn"):
            graph.add_typed_node(Node.of("feature", f"L{layer}.{site}", 1))
    assert [r.text for r in layout(graph).rows] == [f"L{i}" for i in range(14)]


def test_members_of_a_supernode_lie_side_by_side() -> None:
    listed = [Node.of("feature", "L0.mlp", i, 0) for i in range(8)]
    members = (listed[0], listed[5], listed[7])
    graph = CircuitGraph(meta=Meta(tokens=("a",), supernodes=(("s", tuple(n.id for n in members)),)))
    for node in listed:
        graph.add_typed_node(node)
    places = layout(graph).places
    line = sorted(listed, key=lambda n: places[n][0])
    at = sorted(line.index(n) for n in members)
    assert at == list(range(at[0], at[0] + 3))


def crossings(graph: CircuitGraph, found: Layout) -> int:
    def row(node: Node) -> int:
        return next(i for i, r in enumerate(found.rows) if r.bottom <= found.places[node][1] <= r.top)

    lines = [(u, v) for u, v, _ in edges(graph) if row(v) == row(u) + 1]
    return sum(
        (found.places[a][0] - found.places[c][0]) * (found.places[b][0] - found.places[d][0]) < 0
        for (a, b), (c, d) in itertools.combinations(lines, 2)
        if row(a) == row(c)
    )


def scrambled() -> CircuitGraph:
    """Two rows whose nodes pair up, the upper ones numbered backwards: 45 crossings as they sort, none is possible."""
    graph = CircuitGraph(meta=Meta())
    for i in range(10):
        u, v = Node.of("feature", "L0.mlp", i), Node.of("feature", "L1.mlp", 9 - i)
        graph.add_typed_node(u)
        graph.add_typed_node(v)
        graph.add_typed_edge(u, v, 1.0, "coactivation")
    return graph


@pytest.mark.parametrize(
    "order",
    ["own", pytest.param("dot", marks=pytest.mark.skipif(shutil.which("dot") is None, reason="no graphviz"))],
)
def test_edges_cross_little(order: str) -> None:
    assert crossings(scrambled(), layout(scrambled(), order)) == 0  # type: ignore[arg-type]


def test_it_works_without_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    graph = samples.free()
    assert layout(graph) == layout(graph, "own")
    with pytest.raises(
        CircuitError, match="graphviz' dot is not installed: install graphviz, or leave order to saedsl"
    ):
        layout(graph, "dot")


def test_an_empty_graph_has_a_layout() -> None:
    assert layout(CircuitGraph(meta=Meta())) == Layout({}, (), (), 1.0, 1.0)


# Text


def measure(text: str, size: float) -> float:
    return len(text) * size * 0.5


@settings(deadline=None)
@given(st.text(st.sampled_from("ab …éx"), max_size=60), st.floats(8, 60), st.integers(1, 4))
def test_folded_text_fits(text: str, width: float, most: int) -> None:
    lines = fold(text, width, 4.0, measure, most)
    assert 1 <= len(lines) <= most
    assert all(measure(line, 4.0) <= width for line in lines)
    if not any("…" in line for line in lines):
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_labels_cover_nothing_and_stay_inside() -> None:
    area, taken = Box(0, 0, 200, 100), Taken()
    glyphs = [Box(x, y, x + 6, y + 6) for x in range(4, 190, 14) for y in range(10, 90, 20)]
    for box in glyphs:
        taken.add(box)
    placed = [place(box, [("a long label",), ("ab",)], 5.0, measure, taken, area) for box in glyphs]
    boxes = [label.box for label in placed if label]
    assert len(boxes) > len(glyphs) / 2
    for a, b in itertools.combinations([*boxes, *glyphs], 2):
        assert not a.meets(b)
    for label in placed:
        if label:
            assert label.box.inside(area)
            assert label.box.right - label.box.left == pytest.approx(measure(label.lines[0], 5.0))
            assert label.box.top - label.box.bottom == pytest.approx(len(label.lines) * 5.0 * LINE)
