"""Co-activation graphs: which features fire together, more often than chance. `coactivation` does without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from saedsl.circuits.association import Measure, check_measure
from saedsl.circuits.communities import communities, with_communities
from saedsl.circuits.effects import node_at
from saedsl.circuits.firings import Firings
from saedsl.circuits.graph import CircuitGraph, Meta, Node
from saedsl.circuits.paircount import Pairs, check_numbers, coactivation
from saedsl.circuits.pairtable import Coactivation
from saedsl.circuits.splice import SAEs, placed
from saedsl.circuits.textfirings import Data, TextFirings, read_firings
from saedsl.circuits.waiting import bar
from saedsl.model import InterpretableModel

__all__ = [
    "Coactivation", "Firings", "TextFirings", "coactivation", "coactivation_graph", "communities", "graph_of",
    "read_firings", "with_communities",
]  # fmt: skip


def coactivation_graph(
    model: InterpretableModel,
    saes: SAEs,
    data: Data,
    measure: Measure = "phi",
    lag: int = 0,
    fdr: float | None = 0.05,
    *,
    pairs: Pairs = "all",
    min_firings: int = 50,
    min_together: int = 1,
    top: int | None = 50_000,
    shifts: int = 20,
    seed: int = 0,
    context: int = 128,
    max_tokens: int | None = None,
    progress: bool = True,
) -> CircuitGraph:
    """Which features of a model's dictionaries fire together on texts; BOS and padding are left out.

    Args:
        model: the model, as it is.
        saes: SAEs and transcoders, by the text of the site that each writes, or as a list.
        data: texts, one document each, or the path of a file or folder of them.
        measure: of association, the weight of edges; see `saedsl.circuits.association`.
        lag: the source fires `lag` tokens before the target, in the same document.
        fdr: false discovery rate up to which pairs are edges, see `saedsl.circuits.shiftnull`; None for every pair
            that fires together.
        pairs, min_firings, min_together, shifts, seed: as in `coactivation`; dictionaries are called by the site that
            each writes.
        top: edges at most, the strongest; None for all, which can be more than a graph can hold.
        context: tokens of a row at most, BOS included.
        max_tokens: read as many; None for all.
        progress: whether a bar is drawn, on terminals.

    Returns:
        Position-free feature nodes (attribute `firings`: at how many of the counted tokens) and edges of kind
        `coactivation` with `together`, `source_count`, `target_count`, `lag`, and `fdr` where it was estimated. Within
        one dictionary at lag 0 an edge goes from the smaller feature number to the larger, and has no direction but
        for `conditional`.
        `meta.notes["coactivation"]` says what was counted.

    Raises:
        CircuitError: if a dictionary does not fit the model, the data have no tokens, no feature fires often enough,
            no document is longer than `lag`, or the model yields NaN.
    """
    check_measure(measure)
    check_numbers(fdr, min_firings, min_together, top, shifts)
    places = placed(model.info, saes)
    with bar(progress) as advance:
        read = read_firings(model, places, data, context=context, max_tokens=max_tokens, advance=advance)
        table = coactivation(
            read.firings, read.documents, measure=measure, lag=lag, fdr=fdr, pairs=pairs, min_firings=min_firings,
            min_together=min_together, top=top, shifts=shifts, seed=seed, advance=advance,
        )  # fmt: skip
    by_name = {place.name: place for place in places}
    graph = graph_of(table, lambda name, feature: node_at(by_name[name], feature, None))
    notes = {
        "fdr": fdr, "shifts": shifts if fdr is not None else 0, "seed": seed, "min_firings": min_firings,
        "min_together": min_together, "documents": len(np.unique(read.documents)), "context": context,
    }  # fmt: skip
    told = {**graph.meta.notes["coactivation"], **notes}
    meta = replace(graph.meta, model=model.info.name, n_layers=model.info.n_layers, notes={"coactivation": told})
    return graph.with_meta(meta)


def graph_of(table: Coactivation, node: Callable[[str, int], Node] | None = None) -> CircuitGraph:
    """A table as a graph; features without an edge are not in it.

    Args:
        table: pairs of features.
        node: (name of the dictionary, feature) -> its node; by default names are sites.

    Raises:
        CircuitError: if a name is no site.
    """
    node = node or (lambda name, feature: Node.of("feature", name, feature))
    notes = {
        "measure": table.measure, "lag": table.lag, "tokens": table.tokens, "tested": table.tested,
        "found": table.found, "kept": len(table),
    }  # fmt: skip
    method = f"co-activation, {table.measure}, lag {table.lag}"
    graph = CircuitGraph(meta=Meta(method=method, notes={"coactivation": notes}))
    made: dict[tuple[int, int], Node] = {}
    ends = (
        (table.source, table.source_feature, table.source_count),
        (table.target, table.target_feature, table.target_count),
    )
    for dictionary, feature, count in ends:
        for d, f, n in zip(dictionary.tolist(), feature.tolist(), count.tolist(), strict=True):
            if (d, f) not in made:
                made[d, f] = node(table.names[d], f)
                graph.add_typed_node(made[d, f], firings=n)
    sources = zip(table.source.tolist(), table.source_feature.tolist(), strict=True)
    targets = zip(table.target.tolist(), table.target_feature.tolist(), strict=True)
    columns = (table.together, table.source_count, table.target_count, table.score, table.fdr)
    for u, v, together, a, b, score, rate in zip(sources, targets, *(c.tolist() for c in columns), strict=True):
        known = {} if rate != rate else {"fdr": rate}
        graph.add_typed_edge(
            made[u], made[v], score, "coactivation", together=together, source_count=a, target_count=b,
            lag=table.lag, **known,
        )  # fmt: skip
    return graph
