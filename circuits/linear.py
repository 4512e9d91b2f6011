"""Attribution graphs: exact linear effects of features, errors and tokens on features and logits, with transcoders.

Attention weights, denominators of norms and outputs of MLPs are those of the prompt (the skip of a transcoder stays
live); transcoders' features stand for MLPs. What is left is linear: with J the map of the held model,

    A[t, s] = a_s W_dec[s] . J . W_enc[t]

and a target's row adds up, with its bias, to its pre-activation (Ameisen et al. 2025,
transformer-circuits.pub/2025/attribution-graphs; Dunefsky et al. 2024, arXiv:2406.11944).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import mlx.core as mx
import numpy as np

from saedsl.circuits.feature_edges import Sources, Targets, edge_weights, linear_form
from saedsl.circuits.frozen import Frozen, freeze, rerun
from saedsl.circuits.graph import CircuitGraph, Meta, Node
from saedsl.circuits.influence import Scores, prune, scores
from saedsl.circuits.metric import Custom
from saedsl.circuits.pairs import Prompts, pairs_of
from saedsl.circuits.prepared import Setup, constant, finite, prepare
from saedsl.circuits.splice import Place, SAEs, host, placed
from saedsl.errors import CircuitError
from saedsl.sites import Site
from saedsl.trace import Hooks

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel

FINAL: Final = Site(None, "final")


@dataclass(frozen=True, eq=False)
class AttributionGraph:
    """Every node of one prompt, and what each adds to each target. Rows are targets, columns sources."""

    A: np.ndarray
    """[targets, sources] float32."""
    targets: tuple[Node, ...]
    """Features, then logits, in the order of a forward."""
    sources: tuple[Node, ...]
    """Tokens, then features and errors, in the order of a forward."""
    pre: np.ndarray
    """[targets] pre-activations of features; of logits, how far they are above the mean logit (before it is capped)."""
    bias: np.ndarray
    """[targets] what is left when every source is taken away: a row's sum and its bias are its pre-activation."""
    activation: np.ndarray
    """[sources] activations of features, norms of errors and embeddings."""
    probability: np.ndarray
    """[targets] of logits' tokens; 0 for features."""
    meta: Meta

    @cached_property
    def square(self) -> tuple[np.ndarray, tuple[Node, ...]]:
        """(A with a row and a column for each node [n, n], the nodes): sources, then logits."""
        logits = [t for t in self.targets if t.kind == "logit"]
        nodes = (*self.sources, *logits)
        place = {node: i for i, node in enumerate(nodes)}
        whole = np.zeros((len(nodes), len(nodes)), np.float32)
        whole[[place[t] for t in self.targets], : len(self.sources)] = self.A
        return whole, nodes

    def _kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(probabilities, whether a token, whether an error), of `square`'s nodes."""
        nodes = self.square[1]
        probability = np.concatenate([np.zeros(len(self.sources)), self.probability[self.probability > 0]])
        return (
            probability,
            np.array([n.kind == "embedding" for n in nodes]),
            np.array([n.kind == "error" for n in nodes]),
        )

    @cached_property
    def scores(self) -> Scores:
        """Replacement and completeness of the whole graph."""
        return scores(self.square[0], *self._kinds())

    def graph(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> CircuitGraph:
        """The graph pruned by influence on the logits; thresholds of 1 keep all that has any.

        A node's score is its influence, a logit's its probability; `influence` is the cumulative share of influence.
        Replacement and completeness of the whole graph are among the scores of its `meta`.

        Raises:
            CircuitError: if a threshold is impossible.
        """
        whole, nodes = self.square
        probability, tokens, errors = self._kinds()
        left = prune(whole, probability, tokens, errors, node_threshold, edge_threshold)
        of_all = {"replacement": self.scores.replacement, "graph_completeness": self.scores.completeness}
        graph = CircuitGraph(meta=replace(self.meta, scores=of_all))
        sizes = np.concatenate([self.activation, self.pre[self.probability > 0]])
        for i in np.flatnonzero(left.nodes):
            logit = bool(probability[i])
            graph.add_typed_node(
                nodes[i],
                score=float(probability[i] if logit else left.influence[i]),
                activation=float(sizes[i]),
                influence=None if logit else float(left.cumulative[i]),
                token_prob=float(probability[i]) if logit else None,
            )
        for t, s in zip(*np.nonzero(left.edges), strict=True):
            graph.add_typed_edge(nodes[s], nodes[t], float(whole[t, s]), "attribution")
        return graph


def attribution_graph(
    model: InterpretableModel,
    transcoders: SAEs,
    prompt: Prompts,
    *,
    max_features: int | None = 8192,
    max_logits: int = 10,
    logit_share: float = 0.95,
    batch_rows: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> AttributionGraph:
    """What every feature, error and token of one prompt adds to every feature's pre-activation and to the top logits.

    Where a transcoder has no nodes (BOS, unless it was trained on it) the whole output of its MLP is an error.

    Args:
        model: the model.
        transcoders: from `mlp.in` to `mlp` of as many layers as there are, best of all; other MLPs are constants.
        prompt: a text or token ids [seq].
        max_features: features that become nodes at most, those that write the longest vectors; the others count as part
            of the error. None for all.
        max_logits: logit nodes at most: the likeliest tokens that together have `logit_share`.
        logit_share: see `max_logits`.
        batch_rows: targets of one backward pass at most; bounds memory.
        progress: called with (targets done, targets).

    Raises:
        CircuitError: if the prompt is empty or several, a dictionary is none of an MLP or normalises its input, a
            number is impossible, or something is not finite.
    """
    for name, number in (("max_features", max_features), ("max_logits", max_logits), ("batch_rows", batch_rows)):
        if number is not None and (type(number) is not int or number < 1):
            raise CircuitError(f"{name} is {number!r}, not a whole number from 1")
    if not 0 < logit_share <= 1:
        raise CircuitError(f"logit_share is {logit_share!r}, not a share above 0 and at most 1")
    pairs = pairs_of(model, prompt)
    if len(pairs.clean) != 1:
        raise CircuitError(f"an attribution graph is of one prompt; these are {len(pairs.clean)}")
    places = placed(model.info, transcoders)
    for place in places:
        _check(place)
    none = Custom(lambda logits: mx.zeros((logits.shape[0],)), "nothing")
    setup = prepare(model, pairs, places, none, gradients=False)
    return _graph(setup, max_features, max_logits, logit_share, batch_rows, progress)


@dataclass(frozen=True, eq=False)
class _MLP:
    """What the MLP of a layer writes, taken apart; an MLP without a transcoder is all error."""

    write: Site
    place: Place | None
    position: np.ndarray
    """[k] of features."""
    feature: np.ndarray
    """[k]"""
    a: np.ndarray
    """[k]"""
    direction: np.ndarray
    """[k, d_out] what each feature writes."""
    error: np.ndarray
    """[seq, d_out]"""
    fixed: np.ndarray
    """[seq, d_out] the decoder's bias, where there are features; a constant, no node."""


def _graph(
    setup: Setup,
    max_features: int | None,
    max_logits: int,
    logit_share: float,
    batch_rows: int,
    progress: Callable[[int, int], None] | None,
) -> AttributionGraph:
    mlps = _mlps(setup, max_features)
    at = {**setup.at, **{m.write: mx.array((m.error + m.fixed)[None]) for m in mlps if m.place is None}}
    skips = {m.write: (m.place.read, m.place.sae.W_skip) for m in mlps if m.place and m.place.sae.W_skip is not None}
    held = freeze(setup, patterns=True, norms=True)
    frozen = Frozen(held.patterns, held.norms, skips, at)
    embed = Site(0, "resid_pre")
    cut = [embed, *(m.write for m in mlps)]
    sources = [_tokens(setup, embed), *(_written(m) for m in mlps)]
    rows = [(m, *_features(setup, m)) for m in mlps if m.place is not None]
    logits, ids = _logits(setup, max_logits, logit_share)
    targets = [*(t for _, t, _ in rows), logits]
    total, done, blocks = sum(len(t.prompt) for t in targets), 0, []
    for target in targets:
        before = [s for s in sources if s.site < target.read_at]
        base, done = done, done + len(target.prompt)

        def report(i: int, _: int, base: int = base) -> None:
            if progress is not None:
                progress(base + i, total)

        found = edge_weights(setup, frozen, target, before, [s.site for s in before], batch_rows, report)
        row = np.zeros((len(target.prompt), sum(len(s.prompt) for s in sources)), np.float32)
        row[:, : sum(block.shape[1] for block in found)] = np.concatenate(found, axis=1)
        finite(row, f"an attribution to {target.read_at}")
        blocks.append(row)
    own = np.concatenate([*(bias for _, _, bias in rows), np.zeros(len(ids))])
    clean = _values(setup, frozen, targets, {site: mx.zeros(at[site].shape) for site in cut})
    gone = {source.site: mx.array(-_whole(source, setup.pairs.length)[None]) for source in sources}
    n, info = setup.pairs.length, setup.model.info
    names = [Node.of("transcoder", str(m.write), int(j), int(t))
             for m, _, _ in rows for j, t in zip(m.feature, m.position, strict=True)]  # fmt: skip
    probability = np.array(mx.softmax(setup.logits[0, -1].astype(mx.float32)))[ids]
    return AttributionGraph(
        A=np.concatenate(blocks),
        targets=(*names, *(Node.of("logit", "logits", int(i), n - 1) for i in ids)),
        sources=(*_token_nodes(setup), *(node for m in mlps for node in _mlp_nodes(m))),
        pre=clean + own,
        bias=_values(setup, frozen, targets, gone) + own,
        activation=np.concatenate([_lengths(sources[0].delta), *(_strengths(m) for m in mlps)]),
        probability=np.concatenate([np.zeros(len(names)), probability]),
        meta=Meta(
            model=info.name,
            prompts=(setup.pairs.clean[0].text,),
            tokens=setup.pairs.clean[0].pieces,
            metric=f"the likeliest tokens at prompt[{n - 1}]",
            ablation="zero",
            method="attribution graph: attention weights, norm denominators and MLP outputs held",
            n_layers=info.n_layers,
        ),
    )


def _check(place: Place) -> None:
    c = place.sae.config
    if place.read.layer is None or place.read.component != "mlp.in" or place.write.component not in ("mlp", "mlp.raw"):
        raise CircuitError(
            f"{place.name}: an attribution graph needs transcoders, from mlp.in to mlp of a layer; this reads "
            f"{place.read} and writes {place.write}"
        )
    if place.read.layer != place.write.layer:
        raise CircuitError(f"{place.name}: the transcoder reads {place.read}, of another layer than it writes")
    if c.normalize_activations != "none":
        raise CircuitError(
            f"{place.name}: the transcoder normalises its input ({c.normalize_activations}): it is not linear"
        )


def _mlps(setup: Setup, max_features: int | None) -> list[_MLP]:
    """Every layer's MLP, the features chosen that write the longest vectors."""
    info = setup.model.info
    by_layer = {p.write.layer: p for p in setup.places}
    if len(by_layer) < len(setup.places):
        raise CircuitError("two transcoders are of the same layer: an attribution graph has one for each MLP")
    rest = [Site(i, "mlp") for i in range(info.n_layers) if i not in by_layer]
    outputs = setup.model.activations(setup.pairs.ids, rest) if rest else {}
    taken: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for layer, place in by_layer.items():
        f = setup.clean[place.write].f[0]
        t, j = np.nonzero(f)
        taken[layer or 0] = (t, j, f[t, j] * np.linalg.norm(host(place.sae.W_dec), axis=-1)[j])
    lengths = np.concatenate([size for _, _, size in taken.values()])
    least = -np.inf if max_features is None or len(lengths) <= max_features else np.sort(lengths)[-max_features]
    found = []
    for layer in range(info.n_layers):
        own = by_layer.get(layer)
        if own is None:
            y = np.array(outputs[Site(layer, "mlp")][0].astype(mx.float32))
            none = np.zeros(0, int)
            found.append(_MLP(Site(layer, "mlp"), None, none, none, y[:0, 0], y[:0], y, np.zeros_like(y)))
            continue
        place = own
        t, j, size = taken[layer]
        t, j = t[size >= least], j[size >= least]
        a = setup.clean[place.write].f[0][t, j]
        direction = a[:, None] * host(place.sae.W_dec)[j]
        y = np.array(setup.at[place.write][0].astype(mx.float32))
        allowed = setup.pairs.allowed(place.sae.config.trained_on_bos)[0][:, None]
        fixed = allowed * np.array(place.sae.b_dec)
        x = np.array(setup.at[place.read][0].astype(mx.float32))
        skip = 0.0 if place.sae.W_skip is None else x @ np.array(place.sae.W_skip).T
        error = y - fixed - skip
        np.add.at(error, t, -direction)
        found.append(_MLP(place.write, place, t, j, a, direction, error, fixed))
    return found


def _tokens(setup: Setup, embed: Site) -> Sources:
    x = np.array(setup.at[embed][0].astype(mx.float32))
    return Sources(embed, np.zeros(len(x), int), np.arange(len(x)), x)


def _token_nodes(setup: Setup) -> list[Node]:
    return [Node.of("embedding", "embed", int(i), t) for t, i in enumerate(setup.pairs.clean[0].ids)]


def _written(m: _MLP) -> Sources:
    """A layer's features, then its errors."""
    position = np.concatenate([m.position, np.arange(len(m.error))])
    return Sources(m.write, np.zeros(len(position), int), position, np.concatenate([m.direction, m.error]))


def _mlp_nodes(m: _MLP) -> list[Node]:
    features = [Node.of("transcoder", str(m.write), int(j), int(t)) for j, t in zip(m.feature, m.position, strict=True)]
    return [*features, *(Node.of("error", str(m.write), None, t) for t in range(len(m.error)))]


def _strengths(m: _MLP) -> np.ndarray:
    return np.concatenate([m.a, _lengths(m.error)])


def _whole(sources: Sources, length: int) -> np.ndarray:
    """[seq, width] what all sources of a site write together."""
    whole = np.zeros((length, sources.delta.shape[-1]), np.float32)
    np.add.at(whole, sources.position, sources.delta)
    return whole


def _lengths(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.linalg.norm(x, axis=-1)
    return found


def _features(setup: Setup, m: _MLP) -> tuple[Targets, np.ndarray]:
    """(pre-activations as targets, their biases)."""
    assert m.place is not None
    direction, bias = linear_form(m.place.sae, m.feature)
    zeros = np.zeros(len(m.feature), int)
    return Targets(m.place.read, m.place.read, zeros, m.position, direction), bias


def _logits(setup: Setup, most: int, share: float) -> tuple[Targets, np.ndarray]:
    """(the likeliest tokens' logits, above the mean of all, as targets, their ids).

    As functions of the last norm's output: its unembedding, or the slope of that where logits are capped.
    """
    x = np.array(setup.logits[0, -1].astype(mx.float32)).astype(np.float64)
    p = np.exp(x - x.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    n = min(most, int(np.searchsorted(np.cumsum(p[order]), share)) + 1, len(p))
    ids = np.sort(order[:n])
    final = setup.model.activations(setup.pairs.ids, [FINAL])[FINAL][:, -1:].astype(mx.float32)

    def above(last: mx.array) -> mx.array:
        hooks = Hooks(setup.model.model, setup.model.info, {FINAL: constant(last)})
        logits, _ = hooks(mx.broadcast_to(setup.pairs.ids[:, :1], (n, 1)))
        logits = logits[:, 0].astype(mx.float32)
        return mx.take_along_axis(logits, mx.array(ids)[:, None], axis=-1).sum() - logits.mean(axis=-1).sum()

    directions = np.array(mx.grad(above)(mx.broadcast_to(final, (n, 1, final.shape[-1]))))[:, 0]
    zeros = np.zeros(n, int)
    return Targets(FINAL, FINAL, zeros, zeros + setup.pairs.length - 1, directions), ids


def _values(setup: Setup, frozen: Frozen, targets: Sequence[Targets], moved: Mapping[Site, mx.array]) -> np.ndarray:
    """[targets] values, but for their own biases, when sites have been moved, from one forward of the held model."""
    _, seen = rerun(setup, frozen, 0, setup.pairs.length, moved, [t.read_at for t in targets])
    found = []
    for t in targets:
        x = np.array(seen[t.read_at][0].astype(mx.float32)).astype(np.float64)
        assert t.read is not None
        found.append(np.einsum("nd,nd->n", x[t.position], t.read))
    return np.concatenate(found)
