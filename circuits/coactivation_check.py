"""Do co-activation edges mean that one feature acts on the other? Held against exact ablation.

Candidates are the strongest pairs of the graph, of each measure, of a flow graph where one is given, and random pairs;
only pairs whose source writes before the target is read, for others no effect is possible. Of each the exact effect is
found (`saedsl.circuits.ablated`); a pair is true if the share of v that goes, or comes, is at least a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import networkx as nx
import numpy as np

from saedsl.circuits.ablated import Ablations, FeaturePair, ablation_effects, causal
from saedsl.circuits.association import MEASURES, Margins, Measure, associations, check_measure, logarithms
from saedsl.circuits.effects import node_at
from saedsl.circuits.firings import Documents, Firings
from saedsl.circuits.graph import CircuitGraph, Node
from saedsl.circuits.paircount import coactivation
from saedsl.circuits.rankstats import Estimate, bootstrap, precision, spearman
from saedsl.circuits.splice import Place, SAEs, placed
from saedsl.circuits.textfirings import Data, read_firings
from saedsl.circuits.waiting import bar
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel

KS: Final = (10, 30, 100)


@dataclass(frozen=True)
class Ranking:
    """How well one score of pairs tells which are true."""

    name: str
    """A measure, `graph` for the weights of the graph's edges, or `flow`."""
    spearman: Estimate
    """Of the score with |share|, over all candidates."""
    precision: Mapping[int, Estimate]
    """k -> the share of true pairs among its first k."""


@dataclass(frozen=True, eq=False)
class CoactivationCheck:
    """Candidates with their exact effects, and what that says of each ranking."""

    pairs: tuple[tuple[Node, Node], ...]
    """(u, v), position-free."""
    effects: Ablations
    scores: Mapping[str, np.ndarray]
    """Ranking -> [pairs]; what a graph does not have is 0 there, pairs that never fire together -inf in pmi, npmi."""
    random: np.ndarray
    """[pairs] bool: which were drawn at random."""
    rankings: tuple[Ranking, ...]
    chance: Estimate
    """The share of true pairs among the random ones: the precision of guessing."""
    threshold: float
    silent: int
    """Candidates left out since u fires nowhere in the prompts."""
    excluded: int
    """Edges of the graph between features that cannot act on one another: of one site, or against the forward."""

    def to_markdown(self) -> str:
        """A table of rankings; intervals are 95 %, drawn by source."""
        ks = list(self.rankings[0].precision) if self.rankings else []
        lines = [
            "| ranking | Spearman | " + " | ".join(f"precision@{k}" for k in ks) + " |",
            "|---|" + "---|" * (1 + len(ks)),
        ]
        for r in self.rankings:
            lines.append(f"| {r.name} | {r.spearman} | " + " | ".join(str(r.precision[k]) for k in ks) + " |")
        lines.append("| random pairs | | " + " | ".join([str(self.chance)] * len(ks)) + " |")
        return "\n".join(lines) + "\n"


def validate_coactivation(
    graph: CircuitGraph,
    model: InterpretableModel,
    saes: SAEs,
    prompts: Sequence[str],
    *,
    data: Data | None = None,
    flow: nx.DiGraph | None = None,
    measures: Sequence[Measure] = MEASURES,
    ks: Sequence[int] = KS,
    threshold: float = 0.1,
    random_pairs: int | None = None,
    min_firings: int | None = None,
    rounds: int = 1000,
    seed: int = 0,
    context: int = 128,
    batch: int = 32,
    progress: bool = True,
) -> CoactivationCheck:
    """Hold a co-activation graph, every measure and a flow graph against exact ablation and random pairs.

    Args:
        graph: of `coactivation_graph`; its lag is used.
        model: the model, as it is.
        saes: the dictionaries of the graph.
        prompts: texts on which features are ablated; best others than those of the graph.
        data: texts on which the measures of all candidates are counted; by default the prompts.
        flow: any graph with `weight` on edges between features of these dictionaries; edges that differ in position
            only are added up by |weight|.
        measures: which are ranked.
        ks: of precision@k; the largest is also how many pairs each ranking puts forward.
        threshold: of |share| from which a pair is true.
        random_pairs: how many; by default as many as the largest k.
        min_firings: of features of measures and of random pairs; by default as in the graph, 50 if it does not say.
        rounds: of the bootstrap.
        seed: of random pairs and the bootstrap.
        context: tokens of a row, BOS included.
        batch: rows of a forward.
        progress: whether a bar is drawn, on terminals.

    Raises:
        CircuitError: if no pair of dictionaries can act on one another, the graph has nodes of others, or as
            `coactivation_graph`.
    """
    for measure in measures:
        check_measure(measure)
    if not ks or min(ks) < 1:
        raise CircuitError(f"ks is {list(ks)}; each is a whole number from 1")
    if not 0 < threshold <= 1:
        raise CircuitError(f"threshold is {threshold}; it is a share of activation, above 0 and at most 1")
    places = placed(model.info, saes)
    named = [(u.name, v.name) for u in places for v in places if causal(u, v)]
    if not named:
        raise CircuitError("no dictionary writes before another one reads: ablation cannot tell anything of these")
    told = graph.meta.notes.get("coactivation", {})
    lag, least = int(told.get("lag", 0)), min_firings or int(told.get("min_firings", 50))
    texts, n = list(prompts), max(ks)
    weights, excluded = _weights(graph, places)
    flows = None if flow is None else _weights(flow, places)[0]
    with bar(progress) as advance:
        read = read_firings(model, places, texts if data is None else data, context=context, advance=advance)
        put_forward: list[list[FeaturePair]] = [_strongest(weights, n)]
        number = {place.name: i for i, place in enumerate(places)}
        for measure in measures:
            table = coactivation(
                read.firings, read.documents, measure=measure, lag=lag, fdr=None, pairs=named, min_firings=least, top=n
            )
            ends = (table.source, table.source_feature, table.target, table.target_feature)
            rows = zip(*(e.tolist() for e in ends), strict=True)
            put_forward.append([(number[table.names[a]], f, number[table.names[b]], g) for a, f, b, g in rows])
        if flows is not None:
            put_forward.append(_strongest(flows, n))
        drawn = set(_random_pairs(read.firings, named, number, least, random_pairs or n, seed))
        pairs = sorted({pair for some in put_forward for pair in some} | drawn)
        found = ablation_effects(
            model, places, pairs, texts, lag=lag, context=context, batch=batch, advance=advance
        )  # fmt: skip
    fires = found.tokens > 0
    kept = [pair for pair, there in zip(pairs, fires, strict=True) if there]
    effects = Ablations(found.effect[fires], found.share[fires], found.tokens[fires])
    scores: dict[str, np.ndarray] = {"graph": np.array([weights.get(p, 0.0) for p in kept])}
    scores |= _measured(read.firings, Documents.of(read.documents), kept, [p.name for p in places], lag, measures)
    if flows is not None:
        scores["flow"] = np.array([flows.get(p, 0.0) for p in kept])
    random = np.array([p in drawn for p in kept], bool)
    true = np.abs(effects.share) >= threshold
    clusters = np.unique([p[0] * 10**9 + p[1] for p in kept], return_inverse=True)[1]
    rankings = tuple(_ranking(k, s, effects.share, true, clusters, ks, rounds, seed) for k, s in scores.items())
    chance = bootstrap(lambda i: float(true[random][i].mean()) if len(i) else np.nan, clusters[random], rounds, seed)
    nodes = tuple((node_at(places[u], f, None), node_at(places[v], g, None)) for u, f, v, g in kept)
    silent = len(pairs) - len(kept)
    return CoactivationCheck(nodes, effects, scores, random, rankings, chance, threshold, silent, excluded)


def _ranking(
    name: str, score: np.ndarray, share: np.ndarray, true: np.ndarray, clusters: np.ndarray, ks: Sequence[int],
    rounds: int, seed: int,
) -> Ranking:  # fmt: skip
    size = np.abs(share)
    return Ranking(
        name,
        bootstrap(lambda i: spearman(score[i], size[i]), clusters, rounds, seed),
        {k: bootstrap(lambda i, k=k: precision(score[i], true[i], k), clusters, rounds, seed) for k in ks},  # type: ignore[misc]
    )


def _weights(graph: nx.DiGraph, places: Sequence[Place]) -> tuple[dict[FeaturePair, float], int]:
    """|weight| of edges between features that can act on one another, and how many other edges between features."""
    by_site = {place.name: i for i, place in enumerate(places)}
    found: dict[FeaturePair, float] = {}
    excluded = 0
    for u, v, weight in graph.edges(data="weight"):
        if any(node.kind not in ("feature", "transcoder") for node in (u, v)):
            continue
        for node in (u, v):
            if node.site not in by_site or node.index >= places[by_site[node.site]].sae.config.d_sae:
                raise CircuitError(f"{node} is of none of these dictionaries; they write {', '.join(by_site)}")
        a, b = by_site[u.site], by_site[v.site]
        if causal(places[a], places[b]):
            pair = (a, u.index, b, v.index)
            found[pair] = found.get(pair, 0.0) + abs(weight)
        else:
            excluded += 1
    return found, excluded


def _strongest(weights: Mapping[FeaturePair, float], n: int) -> list[FeaturePair]:
    return sorted(weights, key=lambda pair: (-weights[pair], pair))[:n]


def _random_pairs(
    firings: Mapping[str, Firings], named: Sequence[tuple[str, str]], number: Mapping[str, int], least: int, n: int,
    seed: int,
) -> list[FeaturePair]:  # fmt: skip
    """Pairs of features that fire often enough, every pair as likely as any other."""
    frequent = {name: np.flatnonzero(np.bincount(f.features) >= least) for name, f in firings.items()}
    sizes = np.array([len(frequent[a]) * len(frequent[b]) for a, b in named])
    rng = np.random.default_rng(seed)
    drawn = rng.choice(int(sizes.sum()), min(n, int(sizes.sum())), replace=False) if sizes.sum() else np.empty(0, int)
    ends = np.cumsum(sizes)
    out: list[FeaturePair] = []
    for at in np.sort(drawn).tolist():
        which = int(np.searchsorted(ends, at, side="right"))
        a, b = named[which]
        i, j = divmod(at - int(ends[which] - sizes[which]), len(frequent[b]))
        out.append((number[a], int(frequent[a][i]), number[b], int(frequent[b][j])))
    return out


def _measured(
    firings: Mapping[str, Firings], documents: Documents, pairs: Sequence[FeaturePair], names: Sequence[str], lag: int,
    measures: Sequence[Measure],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Measures of any pairs, those included that never fire together."""
    to = documents.target(lag)
    n = int((to >= 0).sum())
    reached = np.zeros(len(to), bool)
    reached[to[to >= 0]] = True
    columns: dict[tuple[int, int], np.ndarray] = {}

    def column(place: int, feature: int) -> np.ndarray:
        if (place, feature) not in columns:
            f = firings[names[place]]
            at = np.flatnonzero(f.features == feature)
            x = np.zeros(len(to))
            x[np.searchsorted(f.start, at, side="right") - 1] = f.values[at]
            columns[place, feature] = x
        return columns[place, feature]

    rows = np.zeros((len(pairs), 8))
    for k, (u, f, v, g) in enumerate(pairs):
        x, y = column(u, f)[to >= 0], column(v, g)[to[to >= 0]]
        fires, follows = x > 0, y > 0
        rows[k] = (
            fires.sum(), x.sum(), x @ x, follows.sum(), y.sum(), y @ y, (fires & follows).sum(), x @ y
        )  # fmt: skip
    a, b, both = (rows[:, c].astype(np.int64) for c in (0, 3, 6))
    by_value = (Margins.of(a, rows[:, 1], rows[:, 2], n), Margins.of(b, rows[:, 4], rows[:, 5], n))
    by_firing = (Margins.of_firing(a, n), Margins.of_firing(b, n))
    there = both > 0
    out: dict[str, np.ndarray] = {}
    for measure in measures:
        i, j = by_value if measure == "pearson" else by_firing
        score = np.full(len(pairs), -np.inf)
        which = there if measure in ("pmi", "npmi") else np.ones(len(pairs), bool)
        score[which] = associations(measure, both[which], rows[which, 7], i[which], j[which], n, logarithms(n))
        out[measure] = np.nan_to_num(score, nan=0.0, neginf=-np.inf)
    return out
