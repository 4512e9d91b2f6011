"""Groups of nodes: proposed from decoders and co-activation, edited, merged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from saedsl.circuits.graph import CircuitGraph, Meta, Node, check
from saedsl.circuits.store import from_json, to_json
from saedsl.circuits.supernodes import group, merged, propose_supernodes, rename, ungroup
from saedsl.errors import CircuitError

IDS = ("L0.mlp.f0@1", "L0.mlp.f1@1", "L0.mlp.f2@1", "L0.mlp.f0@2", "L1.mlp.f0@1", "L1.mlp.f1@1")


def graph() -> CircuitGraph:
    g = CircuitGraph(meta=Meta())
    for i, name in enumerate(IDS):
        g.add_typed_node(Node.parse(name), score=i - 2.5, label="big" if i == 1 else None)
    g.add_typed_edge(Node.parse(IDS[0]), Node.parse(IDS[4]), 2.0, "flow")
    g.add_typed_edge(Node.parse(IDS[1]), Node.parse(IDS[4]), -0.5, "flow")
    return g


def groups(g: CircuitGraph) -> set[frozenset[str]]:
    return {frozenset(members) for _, members in g.meta.supernodes}


DECODERS = {"L0.mlp": np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1.0]]), "L1.mlp": np.eye(3)}


def test_features_that_write_alike_are_one_group_at_one_position() -> None:
    found = propose_supernodes(graph(), decoders=DECODERS)
    check(found)
    assert groups(found) == {frozenset(IDS[:2])}
    assert found.meta.supernodes[0][0] == IDS[0]  # the strongest member's id: it has no label
    across = propose_supernodes(graph(), decoders=DECODERS, across_positions=True)
    assert groups(across) == {frozenset((*IDS[:2], IDS[3]))}
    assert from_json(to_json(found)).meta == found.meta


def test_features_that_fire_together_are_one_group() -> None:
    together = CircuitGraph(meta=Meta())
    a, b = Node.parse("L1.mlp.f1"), Node.parse("L1.mlp.f0")
    for node in (a, b):
        together.add_typed_node(node)
    together.add_typed_edge(a, b, 0.7, "coactivation")
    assert groups(propose_supernodes(graph(), coactivation=together)) == {frozenset(IDS[4:])}
    both = propose_supernodes(graph(), coactivation=together, decoders=DECODERS)
    assert groups(both) == {frozenset(IDS[4:]), frozenset(IDS[:2])}


def test_groups_are_edited_and_a_proposal_leaves_them_alone() -> None:
    mine = group(graph(), "mine", [IDS[0], IDS[2]])
    assert groups(propose_supernodes(mine, decoders=DECODERS)) == {frozenset((IDS[0], IDS[2]))}
    moved = group(mine, "theirs", [Node.parse(IDS[0]), IDS[1]])
    assert dict(moved.meta.supernodes) == {"mine": (IDS[2],), "theirs": (IDS[0], IDS[1])}
    assert dict(rename(moved, "mine", "last").meta.supernodes)["last"] == (IDS[2],)
    assert dict(ungroup(moved, "theirs").meta.supernodes) == {"mine": (IDS[2],)}
    assert graph().meta.supernodes == ()


def test_a_merged_graph_adds_scores_and_weights_up() -> None:
    plain = merged(group(graph(), "both", IDS[:2]))
    assert plain.nodes["both"]["score"] == -4.0
    assert plain.edges["both", IDS[4]]["weight"] == 1.5
    assert merged(group(graph(), "all", IDS)).number_of_edges() == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g: propose_supernodes(g), "neither is given"),
        (lambda g: propose_supernodes(g, decoders=DECODERS, least_similarity=2), "least_similarity is 2, not a cosine"),
        (lambda g: group(g, "x", []), "supernode 'x' has no nodes"),
        (lambda g: group(g, "x", ["L3.mlp.f9"]), "L3.mlp.f9 is not in the graph"),
        (lambda g: group(group(g, "x", IDS[:1]), "x", IDS[1:2]), "there is a supernode 'x' with other nodes"),
        (lambda g: ungroup(g, "x"), "there is no supernode 'x'; there are none"),
        (lambda g: rename(group(group(g, "x", IDS[:1]), "y", IDS[1:2]), "x", "y"), "there is a supernode 'y' already"),
    ],
)
def test_what_cannot_be_is_refused(change: Callable[[CircuitGraph], CircuitGraph], says: str) -> None:
    with pytest.raises(CircuitError, match=says):
        change(graph())
