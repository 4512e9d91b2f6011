"""The engine for CPUs: TopK and BatchTopK, Matryoshka too, in time that is mostly the encoder's matmul.

Few features of a token are not 0, so everything after that matmul is sparse: rows of `W_dec` are added up, and
gradients are sums over a feature's own tokens. Numbers are those of `saedsl.training.portable` up to rounding; Adam's
moments of features that did not fire decay as there. The encoder is kept as [F, I], so that what belongs to a feature
lies together. A step with the same weights and batch is the same bitwise, whichever thread does what.

Letters in shapes: B tokens, F features, I and O the widths of input and output, P nested dictionaries, 1 unless
Matryoshka, n dead features.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, sqrt

import numpy as np

from saedsl.errors import TrainingError
from saedsl.training import fast_kernels as kernels
from saedsl.training.adam import EPSILON
from saedsl.training.blasthreads import single_threaded_blas
from saedsl.training.engine import Arrays, Aux, Form, Outcome, Parallel, Settings
from saedsl.training.fast_revival import Left, Revived, auxk, ghost, nothing
from saedsl.training.fast_selection import SMALLEST, Guess, Select, above, drop_below, gather_columns, largest, selected
from saedsl.training.joint import Joint
from saedsl.training.portable import SHARED, check_weights, compare_shapes
from saedsl.training.selection import nth_largest
from saedsl.training.sparse import ByFeature, Sparse, starts
from saedsl.training.threads import ROWS, Crew, cores, parts, shares

BLOCK = 1024
"""Tokens of one matmul, at most: each packs the encoder anew, and what all threads' give is in memory at once."""
FEATURES = 64
"""Features that a thread takes at a time, at least."""


class FastEngine:
    """One dictionary in training; see `saedsl.training.engine.Engine`."""

    def __init__(self, form: Form, weights: Mapping[str, np.ndarray], parallel: Parallel | None = None) -> None:
        """Start from `weights`, which are copied.

        Raises:
            TrainingError: if they are not those of `form`, or this engine does not train it.
        """
        if not self.supports(form) or parallel is not None:
            raise TrainingError(
                "this engine trains topk and batchtopk of one layer, in one process; use PortableEngine"
            )
        check_weights(form, weights, Joint(None))
        self.form = form
        self._w = {name: _inside(name, value) for name, value in weights.items()}
        self._m, self._v = ({name: np.zeros_like(value) for name, value in self._w.items()} for _ in range(2))
        n_features = len(self._w["W_dec"])
        self._db_enc, self._moved = np.zeros(n_features, np.float32), np.zeros(n_features, np.bool_)
        self._ends = np.array(form.prefixes or (n_features,), np.int64)
        starts = [0, *self._ends[:-1].tolist()]
        self._parts = [
            (p, slice(start + s.start, start + s.stop))
            for p, (start, end) in enumerate(zip(starts, self._ends.tolist(), strict=True))
            for s in shares(end - start, FEATURES)
        ]
        self._crew = Crew(cores())
        self._room: dict[str, np.ndarray] = {}
        self._guess = Guess()

    @staticmethod
    def supports(form: Form) -> bool:
        """Whether this engine trains `form`."""
        return form.activation in ("topk", "batchtopk") and form.layers == 1

    @np.errstate(over="ignore", invalid="ignore")  # the loss says it
    def step(self, x: np.ndarray, y: np.ndarray, settings: Settings) -> Outcome:
        """One update; see `Engine.step`."""
        n = len(x)
        u, finite = self._encoder_input(x)
        aux = settings.aux
        dead = None if aux is None or aux.coefficient == 0 or aux.dead.size == 0 else aux
        kept, threshold = self._keep(u, settings, dead)
        g, df, reconstruction, db_dec = self._reconstruct(kept, x, y)
        revived = self._revive(Left(u, g[-1], n * len(g) / 2, reconstruction), dead)
        living = kernels.by_feature(kept, df, len(self._moved))
        squares, through = self._gradients(living, g, u, revived)
        shared = {"b_dec": db_dec - through if self.form.subtract_b_dec else db_dec}
        if self.form.skip:
            shared["W_skip"] = g[0].T @ x
        squares += sum(float(np.sum(np.square(value, dtype=np.float64))) for value in shared.values())
        self._update(shared, sqrt(squares) if isfinite(squares) else float("nan"), settings)
        return Outcome(
            reconstruction=reconstruction if finite else float("nan"),
            sparsity=0.0,
            aux=revived.loss,
            l0=len(kept.values) / n,
            l1=float(kept.values.sum(dtype=np.float64)) / n,
            fired=np.diff(living.start) > 0,
            threshold=threshold,
        )

    def weights(self) -> Arrays:
        """Copies of the weights."""
        return {name: _outside(name, value) for name, value in self._w.items()}

    def state(self) -> Arrays:
        """Copies of weights and moments; see `Engine.state`."""
        every = (("", self._w), ("m.", self._m), ("v.", self._v))
        return {f"{of}{name}": _outside(name, value) for of, arrays in every for name, value in arrays.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from `state`.

        Raises:
            TrainingError: if it is not of such a dictionary; nothing has changed then.
        """
        shapes = {name: value.shape[::-1] if name == "W_enc" else value.shape for name, value in self._w.items()}
        expected = {f"{of}{name}": shape for of in ("", "m.", "v.") for name, shape in shapes.items()}
        compare_shapes(expected, {name: value.shape for name, value in state.items()}, "the state")
        for of, arrays in (("", self._w), ("m.", self._m), ("v.", self._v)):
            for name, value in arrays.items():
                new = state[f"{of}{name}"]
                value[...] = new.T if name == "W_enc" else new

    def replace_features(self, ids: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        """Give features `ids` [n] new weights and moments of 0; see `Engine.replace_features`.

        Raises:
            TrainingError: if `rows` are not of weights that features have, or not of `n` of them; nothing has changed.
        """
        n = len(ids)
        widths = {name: value.shape[1:] for name, value in self._w.items() if name not in SHARED}
        expected = {name: (*width, n) if name == "W_enc" else (n, *width) for name, width in widths.items()}
        given = {name: expected[name] for name in rows if name in expected}
        compare_shapes(given, {name: value.shape for name, value in rows.items()}, "the new features")
        for name, value in rows.items():
            self._w[name][ids] = value.T if name == "W_enc" else value
            self._m[name][ids], self._v[name][ids] = 0, 0

    # Forward ----------------------------------------------------------------------------------------------------------

    def _encoder_input(self, x: np.ndarray) -> tuple[np.ndarray, bool]:
        """What the encoder multiplies, [B, I], and whether all of it is finite."""
        u, b_dec = self._take("u", x.shape), self._w["b_dec"] if self.form.subtract_b_dec else np.float32(0)

        def work(_: int, rows: slice) -> bool:
            np.subtract(x[rows], b_dec, out=u[rows])
            return isfinite(float(u[rows].sum()))

        return u, all(self._crew.each(work, shares(len(x))))

    def _keep(self, u: np.ndarray, settings: Settings, dead: Aux | None) -> tuple[Sparse, float]:
        """The features that fire, and BatchTopK's threshold; pre-activations of `dead` are put aside."""
        if self.form.activation == "topk":
            k = max(round(settings.k), 1)
            return self._encode(u, dead, min(k, len(self._moved)) + 1, largest(k)), 0.0
        n = max(round(len(u) * settings.k), 1)
        room = 4 * n // len(u) + 1
        border = self._guess.border or self._sampled(u, n, room)
        found = self._encode(u, dead, room, above(border))
        if len(found.values) < n and border > SMALLEST:
            again = self._sampled(u, n, room)
            if again < border:
                border, found = again, self._encode(u, dead, room, above(again))
        if len(found.values) < n and border > SMALLEST:
            found = self._encode(u, dead, room, above(float(SMALLEST)))
        threshold = nth_largest(found.values, n)
        self._guess = self._guess.after(threshold, len(found.values) / n)
        counts = np.diff(found.start)
        left = drop_below(found.features, found.values, counts, np.float32(threshold))
        return Sparse(starts(counts), found.features[:left], found.values[:left]), threshold

    def _sampled(self, u: np.ndarray, n: int, room: int) -> float:
        """A guess below the `n`-th largest pre-activation of the batch, from some of its tokens."""
        few = np.ascontiguousarray(u[:: max(len(u) // ROWS, 1)])
        found = self._encode(few, None, room, above(float(SMALLEST)))
        return max(0.8 * nth_largest(found.values, max(n * len(few) // len(u), 1)), float(SMALLEST))

    def _encode(self, u: np.ndarray, dead: Aux | None, room: int, select: Select) -> Sparse:
        """What `select` leaves of the pre-activations; those of dead features are put aside, [B, n].

        Args:
            u: [B, I].
            dead: the dead features.
            room: how many entries a token is expected to keep at most.
            select: see `saedsl.training.fast_selection`.
        """
        W_enc, bias = self._w["W_enc"], self._w["b_enc"]
        counts = np.empty(len(u), np.int64)
        aside = None if dead is None else self._take("dead", (len(u), dead.dead.size))
        size = min(BLOCK, max(-(-len(u) // self._crew.size), ROWS))

        def look(pre: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
            if aside is not None and dead is not None:
                gather_columns(pre, bias, dead.dead, aside[rows])
            return selected(pre, bias, room, select, counts[rows])

        with single_threaded_blas() as single:  # else one block at a time, by all of BLAS's threads
            crew = self._crew if single else Crew(1)
            space = self._take("pre", (crew.size, size, len(W_enc)))
            free = [*space]

            def work(_: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
                mine = free.pop()
                pre = mine[: rows.stop - rows.start]
                np.matmul(u[rows], W_enc.T, out=pre)
                found = look(pre, rows)
                free.append(mine)
                return found

            found = crew.each(work, parts(len(u), size))
        return Sparse(starts(counts), np.concatenate([f for f, _ in found]), np.concatenate([v for _, v in found]))

    def _reconstruct(
        self, kept: Sparse, x: np.ndarray, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        """The loss, and its gradients of what is decoded [P, B, O], of the features [entries] and of b_dec [O]."""
        w, n = self._w, len(y)
        count = n * len(self._ends)
        g, df = self._take("g", (len(self._ends), *y.shape)), np.empty_like(kept.values)
        of_rows = shares(n)
        totals = np.empty((len(of_rows), y.shape[1]), np.float32)
        skipped = x @ w["W_skip"].T if self.form.skip else None

        def work(i: int, rows: slice) -> float:
            np.subtract(w["b_dec"], y[rows], out=g[0, rows])
            if skipped is not None:
                g[0, rows] += skipped[rows]
            start, scale = kept.start[rows.start : rows.stop + 1], np.float32(2 / count)
            return kernels.reconstruct(
                start, kept.features, kept.values, w["W_dec"], self._ends, scale, g[:, rows], df, totals[i]
            )

        loss = sum(self._crew.each(work, of_rows)) / count
        return g, df, loss, totals.sum(axis=0)

    # Backward ---------------------------------------------------------------------------------------------------------

    def _revive(self, left: Left, dead: Aux | None) -> Revived:
        """The auxiliary loss of the `dead` features, whose pre-activations were put aside."""
        W_dec = self._w["W_dec"]
        if dead is None:
            return nothing(left, len(W_dec))
        pre = self._take("dead", (len(left.u), dead.dead.size))
        if dead.method == "ghost":
            return ghost(pre, W_dec, left, dead)
        return auxk(pre, W_dec, left, dead, self._take("g_revived", left.g.shape), self._crew)

    def _gradients(self, living: ByFeature, g: np.ndarray, u: np.ndarray, revived: Revived) -> tuple[float, np.ndarray]:
        """Leave the gradients of what features have in their buffers.

        Returns:
            The sum of their squares, and what flows through the encoder to its input, [I].
        """
        w, (dW_dec, dW_enc) = self._w, self._of_weights()
        through = np.empty((len(self._parts), u.shape[1]), np.float32)

        def work(i: int, own: slice) -> float:
            return kernels.gradients(
                own.start,
                own.stop,
                living,
                g[self._parts[i][0]],
                revived.sparse,
                revived.g,
                revived.extra,
                u,
                w["W_dec"],
                w["W_enc"],
                dW_dec,
                dW_enc,
                self._db_enc,
                self._moved,
                through[i],
            )

        squares = self._crew.each(work, [own for _, own in self._parts])
        return sum(squares), through.sum(axis=0)

    def _of_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the gradients of W_dec [F, O] and W_enc [F, I] are: in the room of the pre-activations, done with."""
        W_dec, W_enc = self._w["W_dec"], self._w["W_enc"]
        room = self._take("pre", (W_dec.size + W_enc.size,))
        return room[: W_dec.size].reshape(W_dec.shape), room[W_dec.size :].reshape(W_enc.shape)

    def _update(self, shared: Arrays, norm: float, settings: Settings) -> None:
        """Clip by the `norm` of all gradients, and go one step."""
        w, m, v, rules = self._w, self._m, self._v, {name: adam_rule(settings, name) for name in self._w}
        factor = np.float32(min(settings.max_grad_norm / (norm + 1e-6), 1.0) if isfinite(norm) else norm)
        dW_dec, dW_enc = self._of_weights()

        def work(_: int, own: slice) -> None:
            for name, g, unit in (("W_dec", dW_dec, True), ("W_enc", dW_enc, False)):
                kernels.update_rows(
                    w[name][own], g[own], m[name][own], v[name][own], self._moved[own], factor, rules[name], unit
                )

        self._crew.each(work, [own for _, own in self._parts])
        for name, g in (("b_enc", self._db_enc), *shared.items()):
            of = np.ascontiguousarray(g).reshape(-1)
            kernels.adam(w[name].reshape(-1), of, m[name].reshape(-1), v[name].reshape(-1), factor, rules[name])

    def _take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array to work in, the same one as long as it is large enough; the content is anything."""
        size = int(np.prod(shape))
        if name not in self._room or self._room[name].size < size:
            self._room[name] = np.empty(size, np.float32)
        return self._room[name][:size].reshape(shape)


def adam_rule(settings: Settings, weight: str) -> np.ndarray:
    """Numbers of Adam that kernels need: both betas with what is left to 1, step, 1 / bias correction, epsilon."""
    a, b = settings.betas
    step = settings.rate_of(weight) / (1 - a**settings.step)
    return np.array([a, 1 - a, b, 1 - b, step, 1 / (1 - b**settings.step), EPSILON], np.float32)


def _inside(name: str, value: np.ndarray) -> np.ndarray:
    """A copy of a weight, the encoder as [F, I]."""
    return np.array(value.T if name == "W_enc" else value, np.float32, order="C")


def _outside(name: str, value: np.ndarray) -> np.ndarray:
    """A copy of a weight as others know it, the encoder as [I, F]."""
    return np.array(value.T if name == "W_enc" else value, order="C")
