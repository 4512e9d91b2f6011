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
from saedsl.training.activations import Active, Around, activate, sparsity_loss
from saedsl.training.adam import Moments, Weights, adam, project, scaled_down, squares, sum_of_squares, unit_rows
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
from saedsl.training.revival import Residual, Revival, auxk, ghost

SHARED = ("b_dec", "W_skip")
"""The weights that belong to no feature."""


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
        """One update; see `Engine.step`."""
        inputs = mx.array(x)
        targets = inputs if y is x else mx.array(y)
        w, form, joint = self._w, self.form, self._joint
        n = joint.tokens(len(x))
        u = inputs - w["b_dec"] if form.subtract_b_dec else inputs
        offset = w["b_dec"] - targets
        if form.skip:
            offset = offset + inputs @ w["W_skip"].T

        def missing(f: mx.array) -> mx.array:
            return joint.over_features(f @ w["W_dec"]) + offset

        pre = encode(w["W_enc"], w[self._bias], u, form.layers)
        active = activate(pre, Around(form, settings, w, n, joint, missing, 0.8 * self._border))
        e = [joint.over_features(part) + offset for part in decode_prefixes(active.f, w["W_dec"], self._ends)]
        reconstruction = sum((sum_of_squares(part) for part in e), start=mx.array(0.0)) / (n * len(e))
        revival = self._revive(pre, Residual(e[-1], reconstruction, n), settings)
        g = self._gradients(inputs, u, active, [part * (2 / (n * len(e))) for part in e], settings, revival)
        self._update(g, settings)
        return self._outcome(active, reconstruction, revival, settings, n)

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

    def _revive(self, pre: mx.array, left: Residual, settings: Settings) -> Revival | None:
        aux = settings.aux
        if aux is None or aux.coefficient == 0 or aux.dead.size == 0:
            return None
        dead = mx.array(self._local(aux.dead))
        method = auxk if aux.method == "auxk" else ghost
        return method(mx.take(pre, dead, axis=1), self._w["W_dec"][dead], left, aux, self._joint)

    def _gradients(
        self, x: mx.array, u: mx.array, active: Active, e: list[mx.array], settings: Settings, revival: Revival | None
    ) -> Weights:
        """Gradients of all losses, summed over processes where they share weights.

        Args:
            x: [B, I], the input.
            u: [B, I], what the encoder multiplied.
            active: the features.
            e: for each prefix, the reconstruction loss's gradient of its reconstruction, [B, O].
            settings: of the step.
            revival: the auxiliary loss of dead features.
        """
        w, form, joint = self._w, self.form, self._joint
        g = [e[-1]]
        for part in reversed(e[:-1]):  # a feature is in every prefix that ends after it
            g.insert(0, g[0] + part)
        df, dW_dec = decoder_gradients(active.f, w["W_dec"], g, self._ends)
        dpre, own = active.pull(df)
        out = {**own, "W_enc": encoder_gradient(u, dpre, form.layers)}
        out["W_dec"] = dW_dec + own["W_dec"] if "W_dec" in own else dW_dec
        bias = out["b_enc"] if self._bias == "b_enc" else dpre.sum(axis=0)  # gated: of both paths
        out["b_dec"] = g[0].sum(axis=0)
        if form.skip:
            out["W_skip"] = g[0].T @ x
        ids = self._local(settings.aux.dead) if settings.aux is not None else np.zeros(0, np.int32)
        if revival is not None and ids.size:
            dead = mx.array(ids)
            da = revival.dpre.sum(axis=0)
            dW_enc = encoder_gradient_of(ids, u, revival.dpre, out["W_enc"].shape[1], form.layers)
            out["W_enc"] = out["W_enc"].at[:, dead].add(dW_enc)
            out["W_dec"] = out["W_dec"].at[dead].add(revival.dW_dec)
            out[self._bias] = out[self._bias].at[dead].add(da)
            bias = bias.at[dead].add(da)
        if form.subtract_b_dec:
            out["b_dec"] = out["b_dec"] - joint.over_features(w["W_enc"] @ bias)
        if self._mask is not None:
            out["W_dec"] = out["W_dec"] * self._mask
        return {name: joint.over_tokens(out[name]) for name in w}

    def _update(self, g: Weights, settings: Settings) -> None:
        g = project(g, self._w)
        mine = squares({name: value for name, value in g.items() if name not in SHARED})
        shared = squares({name: value for name, value in g.items() if name in SHARED})
        norm = mx.sqrt(self._joint.over_features(mine) + shared)
        w, self._moments = adam(self._w, scaled_down(g, norm, settings.max_grad_norm), self._moments, settings)
        self._w = unit_rows(w)

    def _outcome(
        self, active: Active, reconstruction: mx.array, revival: Revival | None, settings: Settings, n: int
    ) -> Outcome:
        """What the step saw; this evaluates all of it."""
        joint, nothing = self._joint, mx.array(0.0)
        fired = mx.sum(active.fires, axis=0)
        sparse = nothing if active.sparsity is None else active.sparsity
        sums = mx.stack([mx.sum(fired) / n, mx.sum(active.f.sum(axis=0)) / n, sparse])
        extra = nothing if active.aux is None else active.aux
        of_tokens = mx.stack([reconstruction, extra if revival is None else extra + revival.loss])
        mx.eval(self._w, self._moments, fired, sums, of_tokens)
        counts = joint.over_tokens(fired)
        l0, l1, mean = (float(v) for v in joint.totals(np.array(sums, np.float64)))
        own = np.array(of_tokens, np.float64)
        main, aux = (float(v) for v in (joint.totals(own) if joint.by_data else own))
        self._border = active.threshold
        return Outcome(
            reconstruction=main,
            sparsity=sparsity_loss(self.form, settings, mean),
            aux=aux,
            l0=l0,
            l1=l1,
            fired=(joint.gather(counts).reshape(-1) if joint.by_latents else np.array(counts)) > 0,
            threshold=active.threshold,
        )


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
