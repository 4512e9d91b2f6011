"""The engine that runs wherever MLX does: every form of dictionary, in operations that all its backends have.

    loss = mean over tokens of ||x^ - y||^2 + sparsity + auxiliary loss,  x^ = f W_dec + b_dec [+ x W_skip^T]

Of a Matryoshka the first term is the mean over its prefixes (arXiv:2503.17547), which one BatchTopK fills together.
Decoder rows have unit length whatever the form, as in arXiv:2404.16014 and 2407.14435; a crosscoder's over all sites.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.training.activations import Around, activate, l1_loss, of_all, sparsity_loss
from saedsl.training.adam import Moments, Weights, adam_in_place, project, scale_of, squares, sum_of_squares
from saedsl.training.engine import Arrays, Form, Outcome, Parallel, Settings
from saedsl.training.joint import Joint
from saedsl.training.linear import (
    decode_prefixes,
    decoder_gradients,
    encode,
    encoder_gradient,
    encoder_gradient_of,
    writing_mask,
)
from saedsl.training.revival import revive, weight

SHARED = ("b_dec", "W_skip")
"""The weights that belong to no feature."""
PARTS = 8
"""Of a batch, one after the other."""
FEWEST_ROWS = 128
"""Tokens of a part: matrix products of fewer are slow."""
BIAS, RECONSTRUCTION, FIRED, LENGTH = "d of the encoder's bias", "reconstruction", "fired", "sum of features"
L1, GATE, REVIVAL = "sums of features", "auxiliary loss of gated", "auxiliary loss"


class PortableEngine:
    """One dictionary in training; see `saedsl.training.engine.Engine`.

    Split by latents, weights and state are of this process's features only; everything else is of all of them:
    feature numbers, prefixes, `Settings.k` and outcomes.
    """

    def __init__(self, form: Form, weights: Mapping[str, np.ndarray], parallel: Parallel | None = None) -> None:
        """Start from `weights`, which are copied.

        Raises:
            TrainingError: if they are not those of `form`.
        """
        self.form = form
        self._joint = Joint(parallel)
        check_weights(form, weights, self._joint)
        self._w: Weights = {name: mx.array(np.asarray(value, np.float32)) for name, value in weights.items()}
        self._moments = Moments(*({name: mx.zeros_like(value) for name, value in self._w.items()} for _ in range(2)))
        n_features, width = self._w["W_dec"].shape
        self._mask = writing_mask(n_features, width, form.layers)
        self._mine = self._joint.features(n_features)
        ends = form.prefixes or (self._mine.stop,)
        self._ends = [min(max(end - self._mine.start, 0), n_features) for end in ends]
        self._bias = "b_gate" if form.activation == "gated" else "b_enc"
        self._border = 0.0

    def step(self, x: np.ndarray, y: np.ndarray, settings: Settings) -> Outcome:
        """One update; see `Engine.step`. The batch is taken in parts, so that few arrays [B, F] are there at once."""
        inputs = mx.array(x)
        targets = inputs if y is x else mx.array(y)
        n = self._joint.tokens(len(x))
        around = Around(self.form, settings, self._w, n, self._joint, 0.8 * self._border)
        u = inputs - self._w["b_dec"] if self.form.subtract_b_dec else inputs
        rows = max(-(-len(x) // PARTS), FEWEST_ROWS)
        parts = [slice(start, start + rows) for start in range(0, len(x), rows)]
        of_batch = 0.0
        if around.needs_all:
            pre = [self._encoded(u[part]) for part in parts]
            mx.eval(pre)
            of_batch = of_all(pre, around)
            del pre  # made anew: the same bits, and no memory while there are gradients
        sums = Sums()
        for part in parts:
            sums.add(self._part(self._encoded(u[part]), inputs[part], u[part], targets[part], around, of_batch))
        self._border = of_batch if self.form.activation == "batchtopk" else 0.0
        g, outcome = self._finished(sums, around, of_batch)
        self._update(g, settings)
        return outcome

    def weights(self) -> Arrays:
        """Copies of the weights."""
        return {name: np.array(value) for name, value in self._w.items()}

    def state(self) -> Arrays:
        """Copies of weights and moments; see `Engine.state`."""
        first, second = self._moments
        moments = {f"{letter}.{name}": v for letter, of in (("m", first), ("v", second)) for name, v in of.items()}
        return {name: np.array(value) for name, value in (self._w | moments).items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from `state`.

        Raises:
            TrainingError: if it is not of such a dictionary; nothing has changed then.
        """
        expected = {f"{of}{name}": value.shape for of in ("", "m.", "v.") for name, value in self._w.items()}
        compare_shapes(expected, {name: value.shape for name, value in state.items()}, "the state")
        arrays = {name: mx.array(np.asarray(value, np.float32)) for name, value in state.items()}
        names = list(self._w)
        self._w = {name: arrays[name] for name in names}
        self._moments = Moments({n: arrays[f"m.{n}"] for n in names}, {n: arrays[f"v.{n}"] for n in names})

    def replace_features(self, ids: np.ndarray, rows: Mapping[str, np.ndarray]) -> None:
        """Give features `ids` [n] new weights and moments of 0; see `Engine.replace_features`.

        Raises:
            TrainingError: if `rows` are not of weights that features have, or not of `n` of them; nothing has changed.
        """
        n = len(ids)
        expected = {
            name: (n, value.shape[1]) if name == "W_dec" else (*value.shape[:-1], n) for name, value in self._w.items()
        }
        given = {name: expected[name] for name in rows if name in expected and name not in SHARED}
        compare_shapes(given, {name: value.shape for name, value in rows.items()}, "the new features")
        here = self._local(ids)
        if here.size == 0:
            return
        chosen, places = self._is_mine(ids), mx.array(here)
        for name, value in rows.items():
            new = mx.array(np.asarray(value[..., chosen] if name == "W_enc" else value[chosen], np.float32))
            if name == "W_dec" and self._mask is not None:
                new = new * self._mask[places]
            for of, now in ((self._w, new), (self._moments.first, mx.zeros(1)), (self._moments.second, mx.zeros(1))):
                if name == "W_enc":
                    of[name][:, places] = now
                else:
                    of[name][places] = now
        mx.eval(self._w, self._moments)

    def _local(self, ids: np.ndarray) -> np.ndarray:
        """Those of the feature numbers `ids` [n] that are this process's, as it counts them itself: int32."""
        return np.asarray(ids[self._is_mine(ids)] - self._mine.start, np.int32)

    def _is_mine(self, ids: np.ndarray) -> np.ndarray:
        """[n] bool: which of the feature numbers `ids` [n] are this process's."""
        return np.asarray((ids >= self._mine.start) & (ids < self._mine.stop))

    def _encoded(self, u: mx.array) -> mx.array:
        """[R, F]: pre-activations of what the encoder multiplies, `u` [R, I]."""
        return encode(self._w["W_enc"], self._w[self._bias], u, self.form.layers)

    def _dead(self, settings: Settings) -> np.ndarray:
        """This process's features to revive, as it counts them; int32."""
        aux = settings.aux
        return self._local(aux.dead) if aux is not None and aux.coefficient else np.zeros(0, np.int32)

    def _part(
        self, pre: mx.array, x: mx.array, u: mx.array, y: mx.array, around: Around, of_batch: float
    ) -> dict[str, mx.array]:
        """Sums over the tokens of a part of a batch: gradients by the names of weights, losses and counts by others.

        Args:
            pre: [R, F].
            x: [R, I], the input.
            u: [R, I], what the encoder multiplied.
            y: [R, O], the target.
            around: the step.
            of_batch: `of_all`.
        """
        w, form, joint, n = self._w, self.form, self._joint, around.n
        offset = w["b_dec"] - y
        if form.skip:
            offset = offset + x @ w["W_skip"].T

        def missing(f: mx.array) -> mx.array:
            return joint.over_features(f @ w["W_dec"]) + offset

        active = activate(pre, around, of_batch, missing)
        e = [joint.over_features(part) + offset for part in decode_prefixes(active.f, w["W_dec"], self._ends)]
        g = [e[-1] * (2 / (n * len(e)))]
        for before in reversed(e[:-1]):  # a feature is in every prefix that ends after it
            g.insert(0, g[0] + before * (2 / (n * len(e))))
        df, dW_dec = decoder_gradients(active.f, w["W_dec"], g, self._ends)
        dpre, own = active.pull(df)
        out = {**own, "W_enc": encoder_gradient(u, dpre, form.layers), "W_dec": dW_dec, "b_dec": g[0].sum(axis=0)}
        if form.skip:
            out["W_skip"] = g[0].T @ x
        out[BIAS] = own["b_enc"] if self._bias == "b_enc" else dpre.sum(axis=0)  # gated: of both paths
        out[RECONSTRUCTION] = sum((sum_of_squares(part) for part in e), start=mx.array(0.0)) / (n * len(e))
        out[FIRED] = mx.sum(active.fires, axis=0)
        out[LENGTH] = mx.sum(active.f.sum(axis=0))
        if active.l1 is not None:
            out[L1] = active.l1
        if active.aux is not None:
            out[GATE] = active.aux
        aux, dead = around.settings.aux, self._dead(around.settings)
        if aux is not None and aux.coefficient and aux.dead.size:
            ids = mx.array(dead)
            revival = revive(mx.take(pre, ids, axis=1), w["W_dec"][ids], e[-1], n, aux, joint)
            out[REVIVAL] = revival.loss
            if dead.size:
                out["dead.W_enc"] = encoder_gradient_of(dead, u, revival.dpre, w["W_enc"].shape[1], form.layers)
                out["dead.W_dec"], out["dead.b"] = revival.dW_dec, revival.dpre.sum(axis=0)
        return out

    def _finished(self, sums: Sums, around: Around, of_batch: float) -> tuple[Weights, Outcome]:
        """The gradients, summed over processes where they share weights, and what the step saw; all evaluated."""
        w, form, joint, settings, n = self._w, self.form, self._joint, around.settings, around.n
        take = sums.of.pop
        g = {name: take(name) for name in w}
        bias, reconstruction, fired = take(BIAS), take(RECONSTRUCTION), take(FIRED)
        aux, sparse = take(GATE, mx.array(0.0)), mx.array(0.0)
        if L1 in sums.of:
            sparse, dW_dec = l1_loss(take(L1), around)
            g["W_dec"] = g["W_dec"] + dW_dec
        elif form.activation == "jumprelu":
            sparse = mx.sum(fired) / n
        if REVIVAL in sums.of:
            assert settings.aux is not None
            loss = take(REVIVAL)
            factor = weight(settings.aux, reconstruction, loss, joint)
            aux = aux + factor * loss
            if "dead.b" in sums.of:
                ids, more = mx.array(self._dead(settings)), factor * take("dead.b")
                g["W_enc"] = g["W_enc"].at[:, ids].add(factor * take("dead.W_enc"))
                g["W_dec"] = g["W_dec"].at[ids].add(factor * take("dead.W_dec"))
                g[self._bias] = g[self._bias].at[ids].add(more)
                bias = bias.at[ids].add(more)
        if form.subtract_b_dec:
            g["b_dec"] = g["b_dec"] - joint.over_features(w["W_enc"] @ bias)
        if self._mask is not None:
            g["W_dec"] = g["W_dec"] * self._mask
        for name in g:
            g[name] = joint.over_tokens(g[name])
            mx.eval(g[name])
        seen = mx.stack([mx.sum(fired) / n, take(LENGTH) / n, sparse])
        l0, l1, mean = (float(v) for v in joint.totals(np.array(seen, np.float64)))
        own = np.array(mx.stack([reconstruction, aux]), np.float64)
        main, auxiliary = (float(v) for v in (joint.totals(own) if joint.by_data else own))
        counts = joint.over_tokens(fired)
        return g, Outcome(
            reconstruction=main,
            sparsity=sparsity_loss(form, settings, mean),
            aux=auxiliary,
            l0=l0,
            l1=l1,
            fired=(joint.gather(counts).reshape(-1) if joint.by_latents else np.array(counts)) > 0,
            threshold=of_batch if form.activation == "batchtopk" else 0.0,
        )

    def _update(self, g: Weights, settings: Settings) -> None:
        """Adam, one weight after the other, in place of the old ones."""
        g["W_dec"] = project(g.pop("W_dec"), self._w["W_dec"])
        mx.eval(g["W_dec"])
        mine = squares({name: value for name, value in g.items() if name not in SHARED})
        shared = squares({name: value for name, value in g.items() if name in SHARED})
        scale = scale_of(mx.sqrt(self._joint.over_features(mine) + shared), settings.max_grad_norm)
        for name in list(self._w):
            adam_in_place(self._w, g.pop(name) * scale, self._moments, settings, name)


class Sums:
    """Arrays by name, added up part by part; each is evaluated, so that what it was made of is free again."""

    def __init__(self) -> None:
        self.of: dict[str, mx.array] = {}

    def add(self, part: dict[str, mx.array]) -> None:
        """Add a part's arrays to the others."""
        for name in list(part):
            self.of[name] = self.of[name] + part.pop(name) if name in self.of else part.pop(name)
            mx.eval(self.of[name])


def check_weights(form: Form, weights: Mapping[str, np.ndarray], joint: Joint) -> None:
    """That the weights are those of the form, and that processes can share it."""
    if form.layers > 1 and (form.subtract_b_dec or joint.by_latents):
        raise TrainingError(
            "a cross-layer transcoder's b_dec cannot be subtracted from its input; set subtract_b_dec to False"
            if form.subtract_b_dec
            else "a cross-layer transcoder cannot be split by latents; split it by data"
        )
    if "W_dec" not in weights or "W_enc" not in weights:
        raise TrainingError("W_enc or W_dec is missing from the weights")
    n_features, width = weights["W_dec"].shape
    d_in = weights["W_enc"].shape[0]
    if form.subtract_b_dec and d_in != width:
        raise TrainingError(f"b_dec has {width} entries and cannot be subtracted from inputs of {d_in}")
    every = n_features * joint.size if joint.by_latents else n_features
    if form.prefixes and form.prefixes[-1] != every:
        raise TrainingError(f"prefixes {list(form.prefixes)} do not end at the {every} features there are")
    vectors = {"gated": ("b_gate", "r_mag", "b_mag"), "jumprelu": ("b_enc", "log_threshold")}
    expected: dict[str, tuple[int, ...]] = {
        "W_enc": (d_in, n_features),
        "W_dec": (n_features, width),
        "b_dec": (width,),
        **dict.fromkeys(vectors.get(form.activation, ("b_enc",)), (n_features,)),
    }
    if form.skip:
        expected["W_skip"] = (width, d_in * form.layers)
    compare_shapes(expected, {name: value.shape for name, value in weights.items()}, "the weights")
    mask = writing_mask(n_features, width, form.layers)
    if mask is not None and np.any(weights["W_dec"][np.array(mask) == 0]):
        raise TrainingError("W_dec of a cross-layer transcoder writes to layers before the one it reads")


def compare_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Raise a TrainingError that names the first array of `what` that is missing, unknown or of another shape."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise TrainingError(f"{name} {list(expected[name])} is missing from {what}")
        if name not in expected:
            raise TrainingError(f"{name} does not belong to {what} of this form; leave it out")
        if tuple(found[name]) != tuple(expected[name]):
            raise TrainingError(f"{name} is {list(found[name])}; this form needs {list(expected[name])}")
