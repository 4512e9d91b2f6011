"""Co-activation of many large dictionaries: `python tests/bench/coactivation.py [growth | whole | real]`; else all.

Synthetic activations: 16 dictionaries x 16,384 features, 32 of them firing at each token: some by a group of features
that fire together (two in each dictionary; planted), some by what the document is about, the rest at random; all by
Zipf's law, as real features do. Pairs within a dictionary and between neighbours, of features that fire at 50 tokens
or more, phi, FDR 0.05 by 20 shifts. Targets: 100,000 tokens in <= 10 minutes and <= 4 GB on 2 cores; how time grows
with tokens and with L0 is fitted.

`real` holds the edges of the bundled model's four MLP dictionaries against the exact effect of ablating the source, and
so flow edges and random pairs.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from saedsl.circuits.coactivation import coactivation
from saedsl.circuits.firings import Firings

DICTIONARIES, WIDTH, L0 = 16, 16_384, 32
DOCUMENT = 200
"""Tokens of each."""
GROUPS = 2_000


def zipf(rng: np.random.Generator, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers below n, k about as often as 1 / (k + 50) ** 0.7."""
    weights = np.cumsum((np.arange(n) + 50.0) ** -0.7)
    return np.searchsorted(weights / weights[-1], rng.random(shape)).astype(np.int32)


def synthetic(tokens: int, l0: int, dictionaries: int = DICTIONARIES) -> tuple[dict[str, Firings], np.ndarray]:
    """(activations by dictionary, the document of each token)."""
    rng = np.random.default_rng(0)
    documents = np.arange(tokens) // DOCUMENT
    members = rng.integers(WIDTH // 8, WIDTH, (dictionaries, GROUPS, 2)).astype(np.int32)
    active = zipf(rng, GROUPS, (tokens, max(1, l0 // 8)))
    found = {}
    for d in range(dictionaries):
        about = zipf(rng, WIDTH, (documents[-1] + 1, 40))
        planted = members[d][active].reshape(tokens, -1)
        topic = about[documents[:, None], rng.integers(0, 40, (tokens, l0 // 4))]
        rest = zipf(rng, WIDTH, (tokens, 2 * l0))
        ids = np.concatenate([planted, topic, rest], axis=1)
        found[f"L{d}.mlp"] = first_distinct(ids, l0, rng)
    return found, documents


def first_distinct(ids: np.ndarray, l0: int, rng: np.random.Generator) -> Firings:
    """The first `l0` different numbers of each row [tokens, more than l0], with random values."""
    n = ids.shape[1]
    order = np.argsort(ids, axis=1, kind="stable")
    ranked = np.take_along_axis(ids, order, 1)
    new = np.ones_like(ranked, bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    place = np.where(new, order, n)
    border = np.sort(place, axis=1)[:, l0 - 1 : l0]
    kept = (place <= border) & new
    counts = kept.sum(axis=1)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = rng.exponential(1.0, int(start[-1])).astype(np.float32) + 0.1
    return Firings(start, ranked[kept].astype(np.int32), values, WIDTH)


def peak() -> float:
    """Gigabytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(tokens: int, l0: int, shifts: int, dictionaries: int = DICTIONARIES, least: int = 50) -> float:
    """Seconds of processors of one count of features that fire at `least` tokens, printed with what it found."""
    firings, documents = synthetic(tokens, l0, dictionaries)
    before, cpu = time.perf_counter(), time.process_time()
    table = coactivation(firings, documents, pairs="neighbours", min_firings=least, shifts=shifts, top=1_000_000)
    took, cpu = time.perf_counter() - before, time.process_time() - cpu
    frequent = sum(int((np.bincount(f.features) >= least).sum()) for f in firings.values())
    print(
        f"{tokens:7d} tokens, L0 {l0:2d}, {dictionaries} dictionaries, {shifts:2d} shifts: {took:6.1f} s "
        f"({cpu:.1f} s of processors), peak {peak():.2f} GB; "
        f"{frequent} features of >= {least}, {table.tested:.3g} pairs tested, {table.found} found",
        flush=True,
    )
    return cpu


def exponent(x: list[int], y: list[float]) -> float:
    """Slope of log y on log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def growth() -> None:
    """Time by tokens and by L0, of 4 dictionaries and 3 shifts.

    Features count from the same share of tokens on, 50 in 100,000 at L0 32: else more text and a larger L0 mean more
    features as well, and time grows with those too.
    """
    sizes = [25_000, 50_000, 100_000]
    times = [measured(n, L0, 3, 4, least=n // 2000) for n in sizes]
    print(f"grows with tokens ^ {exponent(sizes, times):.2f}")
    depths = [16, 32, 64]
    times = [measured(50_000, n, 3, 4, least=25 * n // 32) for n in depths]
    print(f"grows with L0 ^ {exponent(depths, times):.2f}")


def real() -> None:
    """The table of docs/circuits-benchmark.md: do edges of co-activation, and of flow, mean an effect?"""
    import networkx as nx

    from saedsl import load_demo
    from saedsl.circuits.coactivation import coactivation_graph
    from saedsl.circuits.coactivation_check import validate_coactivation
    from saedsl.circuits.flow import flow_graph
    from saedsl.demo.text import documents

    demo = load_demo()
    saes = {site: sae for site, sae in demo.saes.items() if site.endswith("mlp")}
    texts, held_out = list(documents(3000, 1)), list(documents(64, 2, "held_out"))
    graph = coactivation_graph(demo.model, saes, texts, fdr=None)
    flow = nx.DiGraph()
    for text in held_out[:16]:
        for u, v, weight in flow_graph(demo.model, saes, [text], metric="ce()", positions="sum", n=400).edges(
            data="weight"
        ):
            flow.add_edge(u, v, weight=abs(weight) + (flow[u][v]["weight"] if flow.has_edge(u, v) else 0.0))
    check = validate_coactivation(graph, demo.model, saes, held_out, data=texts, flow=flow)
    print(f"{len(check.pairs)} pairs; a pair is true where |share| >= {check.threshold}\n\n{check.to_markdown()}")


def main() -> None:
    which = sys.argv[1:] or ["growth", "whole", "real"]
    if "real" in which:
        real()
    if which == ["real"]:
        return
    measured(5_000, 16, 1, 2)  # compiles
    if "growth" in which:
        growth()
    if "whole" in which:
        measured(100_000, L0, 20)


if __name__ == "__main__":
    main()
