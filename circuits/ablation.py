"""The metric of circuits: everything outside is ablated, what is inside is computed anew. Many circuits at a time.

At every dictionary's site, with f = enc(x) of the activation as it arrives:

    y = x + s(x) (f' - f) W_dec - error        f' = f inside the circuit, the ablation's value outside

which is what `keep only ... else ...` and `drop error` of the language do; `error` is taken away where the task removes
errors and the circuit has not that error node. Nothing is done on BOS, unless a dictionary was trained on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import mlx.core as mx
import numpy as np

from saedsl.circuits.graph import Node
from saedsl.circuits.metric import Metric
from saedsl.circuits.pairs import Pairs, pairs_of
from saedsl.circuits.splice import Place
from saedsl.circuits.task import Errors, Task, metric_for
from saedsl.errors import CircuitError
from saedsl.sites import Site
from saedsl.trace import Frame, Hooks, SiteFn


@dataclass(frozen=True, eq=False)
class Bench:
    """A task made ready: prompts as tokens, values that ablated features have, what the plain model gives."""

    task: Task
    pairs: Pairs
    places: tuple[Place, ...]
    metric: Metric
    plain: mx.array
    """[prompts, seq, d_vocab] logits of the prompts without edits."""
    value: np.ndarray
    """[prompts] metric of the plain model."""
    active: dict[str, np.ndarray]
    """Site -> [prompts, seq, d_sae] bool: features that fire where the dictionary has nodes."""
    allowed: dict[str, np.ndarray]
    """Site -> [prompts, seq] bool: where the dictionary has nodes."""
    instead: dict[str, mx.array]
    """Site -> [prompts or 1, seq, d_sae]: what ablated features become; [1, 1, 1] zeros for zero."""
    batch_rows: int

    @property
    def universe(self) -> list[Node]:
        """Every feature node that fires in a prompt, in the order of a forward."""
        found = []
        for place in self.places:
            t, j = np.nonzero(self.active[place.name].any(axis=0))
            found += [Node.of(place.kind, place.name, int(b), int(a)) for a, b in zip(t, j, strict=True)]  # type: ignore[arg-type]
        return found

    def share(self, nodes: Iterable[Node]) -> float:
        """Of the (feature, position) pairs that fire in a prompt, how many are among `nodes`; mean over the prompts."""
        masks = self.masks([list(nodes)])
        inside = sum((self.active[s] & m[0]).sum(axis=(1, 2)) for s, m in masks.items())
        whole = sum(a.sum(axis=(1, 2)) for a in self.active.values())
        return float(np.mean(inside / np.maximum(whole, 1)))

    def masks(self, circuits: Sequence[Iterable[Node]]) -> dict[str, np.ndarray]:
        """Site -> [circuits, seq, d_sae] bool: what each circuit has.

        Raises:
            CircuitError: if a node's site has no dictionary here, or there is no such feature or position.
        """
        sizes = {p.name: p.sae.config.d_sae for p in self.places}
        found = {s: np.zeros((len(circuits), self.pairs.length, n), bool) for s, n in sizes.items()}
        for i, nodes in enumerate(circuits):
            for node in nodes:
                if node.kind in ("feature", "transcoder"):
                    self._check(node, sizes)
                    found[node.site][i, slice(None) if node.position is None else node.position, node.index] = True
        return found

    def error_masks(self, circuits: Sequence[Iterable[Node]]) -> dict[str, np.ndarray]:
        """Site -> [circuits, seq] bool: error nodes that each circuit has."""
        sizes = {p.name: p.sae.config.d_sae for p in self.places}
        found = {s: np.zeros((len(circuits), self.pairs.length), bool) for s in sizes}
        for i, nodes in enumerate(circuits):
            for node in nodes:
                if node.kind == "error":
                    self._check(node, sizes)
                    found[node.site][i, slice(None) if node.position is None else node.position] = True
        return found

    def _check(self, node: Node, sizes: dict[str, int]) -> None:
        if node.site not in sizes:
            raise CircuitError(f"node {node}: there is no dictionary at {node.site}; there are {', '.join(sizes)}")
        if node.index is not None and node.index >= sizes[node.site]:
            raise CircuitError(f"node {node}: the dictionary at {node.site} has {sizes[node.site]} features, from f0")
        if node.position is not None and node.position >= self.pairs.length:
            raise CircuitError(f"node {node}: the prompts have {self.pairs.length} tokens, from 0")

    def measure(
        self,
        circuits: Sequence[Iterable[Node]],
        *,
        complement: bool = False,
        errors: Errors | Literal["remove all"] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """The metric with everything outside each circuit ablated, [circuits, prompts].

        Args:
            circuits: sets of nodes; feature and error nodes count, others do not.
            complement: ablate what is inside instead: M without C, which has all errors that C has not.
            errors: whether errors outside are kept; None for what the task says. `remove all`: inside ones go too.
            progress: called with (rows done, rows).

        Raises:
            CircuitError: if a circuit does not fit the task, or the metric is not finite.
        """
        listed = [list(c) for c in circuits]
        masks, error_masks = self.masks(listed), self.error_masks(listed)
        if complement:
            masks, error_masks = {s: ~m for s, m in masks.items()}, {s: ~m for s, m in error_masks.items()}
        errors = errors or self.task.errors
        if errors == "remove all":
            error_masks = {s: np.zeros_like(m) for s, m in error_masks.items()}
        elif complement:
            errors = "remove"  # those of the circuit
        n = len(self.pairs.clean)
        rows = [(c, p) for c in range(len(listed)) for p in range(n)]
        found = np.zeros(len(rows), np.float32)
        for start in range(0, len(rows), self.batch_rows):
            some = rows[start : start + self.batch_rows]
            c, p = (np.array(x) for x in zip(*some, strict=True))
            functions: dict[Site, SiteFn] = {}
            for place in self.places:
                kept = None if errors == "keep" else mx.array(error_masks[place.name][c] | ~self.allowed[place.name][p])
                functions[place.write] = partial(
                    _ablated,
                    place=place,
                    kept=mx.array(masks[place.name][c] | ~self.allowed[place.name][p][..., None]),
                    errors=kept, instead=self._instead(place, p),
                )  # fmt: skip
            reads = {place.read for place in self.places if place.read != place.write}
            logits, _ = Hooks(self.task.model.model, self.task.model.info, functions, reads)(
                self.pairs.ids[mx.array(p)]
            )
            found[start : start + len(some)] = np.array(self.metric(logits, p.tolist(), self.plain))
            if progress is not None:
                progress(start + len(some), len(rows))
        if not np.isfinite(found).all():
            raise CircuitError(f"the metric {self.task.metric} is not finite with a circuit's outside ablated")
        return found.reshape(len(listed), n)

    def _instead(self, place: Place, prompts: np.ndarray) -> mx.array:
        value = self.instead[place.name]
        return value if value.shape[0] == 1 else value[mx.array(prompts)]


def bench(task: Task, batch_rows: int = 64) -> Bench:
    """Make a task ready: a forward of its prompts, and one of its reference or corrupt prompts.

    Raises:
        CircuitError: if the metric cannot be read, is not finite or is the same whatever is ablated.
    """
    if type(batch_rows) is not int or batch_rows < 1:
        raise CircuitError(f"batch_rows is {batch_rows!r}, not a whole number from 1")
    pairs, places, metric = task.pairs(), task.places, metric_for(task)
    captures = {site for p in places for site in (p.read, p.write)}
    hooks = Hooks(task.model.model, task.model.info, {}, captures)
    logits, frame = hooks(pairs.ids)
    value = np.array(metric(logits, list(range(len(pairs.clean))), logits))
    if not np.isfinite(value).all():
        raise CircuitError(f"the metric {task.metric} is not finite (nan or infinite) on the prompts")
    allowed = {p.name: pairs.allowed(p.sae.config.trained_on_bos) for p in places}
    active = {
        p.name: (np.array(p.sae.encode(frame.captured[p.read])) != 0) & allowed[p.name][..., None] for p in places
    }
    instead = {p.name: mx.zeros((1, 1, 1)) for p in places}
    if task.ablation == "mean":
        reference = pairs_of(task.model, list(task.reference))
        _, seen = hooks(reference.ids)
        instead = {p.name: p.sae.encode(seen.captured[p.read]).mean(axis=0, keepdims=True) for p in places}
    elif task.ablation == "resample":
        assert pairs.corrupt_ids is not None  # `checked` has seen to it
        _, seen = hooks(pairs.corrupt_ids)
        instead = {p.name: p.sae.encode(seen.captured[p.read]) for p in places}
    mx.eval(logits, list(instead.values()))
    return Bench(task, pairs, places, metric, logits, value, active, allowed, instead, batch_rows)


def _ablated(
    x: mx.array, frame: Frame, place: Place, kept: mx.array, errors: mx.array | None, instead: mx.array
) -> mx.array:
    """The site's activation with features that are not `kept` replaced, and errors not in `errors` taken away."""
    read = x if place.read == place.write else frame.captured[place.read]
    f = place.sae.encode(read)
    moved = mx.where(kept, 0.0, instead - f)
    y = x.astype(mx.float32) + place.sae.scale(read) * (moved @ place.sae.W_dec)
    if errors is not None:
        y = y - mx.where(errors[..., None], 0.0, x.astype(mx.float32) - place.sae.decode(f, read))
    return y.astype(x.dtype)
