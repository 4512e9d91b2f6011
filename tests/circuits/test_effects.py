"""Effects of nodes, against float64 numpy: brute force, finite differences, sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from saedsl.circuits.effects import METHODS, Method, NodeEffects, node_effects
from saedsl.circuits.graph import Node, check
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from tests import tiny
from tests.circuits.flow_tasks import CLEAN, CORRUPT, METRIC, run, shift, slope, without_b_dec

Models = Callable[..., InterpretableModel]
SAEOf = Callable[..., SAE]


def dictionaries(sae_of: SAEOf) -> list[SAE]:
    """One of each kind of activation and normalisation, on different sites."""
    return [
        sae_of(site="L0.attn", seed=1, trained_on_bos=False),
        sae_of(site="L0.mlp", read="L0.mlp.in", seed=2, trained_on_bos=False, skip=True),
        sae_of(site="L0.resid_post", seed=3, activation="jumprelu", trained_on_bos=False),
        sae_of(site="L1.mlp", seed=4, activation="topk", k=6, trained_on_bos=False),
        sae_of(site="L1.resid_post", seed=5, normalize="layer_norm", trained_on_bos=False),
    ]


def some(effects: NodeEffects, every: int) -> list[tuple[str, int, np.ndarray, float]]:
    """(site, position, delta, effect) of every so many nodes."""
    return [
        (s.site, int(s.position[i]), s.delta[i].astype(np.float64), float(s.effect[i]))
        for s in effects.sites
        for i in range(0, len(s.effect), every)
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("corrupt", [CORRUPT, None], ids=["resample", "zero"])
def test_exact_effects_are_brute_force_in_numpy(
    family: str, corrupt: Sequence[int] | None, model_of: Models, sae_of: SAEOf
) -> None:
    model = model_of(family)
    effects = node_effects(model, dictionaries(sae_of), CLEAN, corrupt, metric=METRIC, method="exact")
    plain = run(model)
    assert effects.value == pytest.approx([plain], abs=1e-4)
    nodes = some(effects, 23)
    assert len(nodes) > 10
    for site, position, delta, effect in nodes:
        assert run(model, edits={site: shift(position, delta)}) - plain == pytest.approx(effect, abs=2e-4), site


def test_a_node_moves_its_site_by_what_its_feature_or_error_changes(
    llama: InterpretableModel, sae_of: SAEOf, plain: Callable[[SAE], Any]
) -> None:
    sae = sae_of(site="L0.resid_post", seed=3, trained_on_bos=False)
    effects = node_effects(llama, [sae], CLEAN, CORRUPT, metric=METRIC)
    (s,) = effects.sites
    x, y = (tiny.forward(llama.model, ids)[1]["L0.resid_post"] for ids in (CLEAN, CORRUPT))
    whole = np.zeros_like(x)
    np.add.at(whole, s.position, s.delta)
    np.testing.assert_allclose(whole, y - x, atol=1e-4)
    W_enc, b_enc, W_dec, b_dec = (np.array(w) for w in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec))
    f, g = (np.maximum((z - b_dec) @ W_enc + b_enc, 0) for z in (x, y))
    is_feature = s.feature >= 0
    t, j = s.position[is_feature], s.feature[is_feature]
    np.testing.assert_allclose(s.clean[is_feature], f[t, j], atol=1e-4)
    np.testing.assert_allclose(s.delta[is_feature], (g - f)[t, j][:, None] * W_dec[j], atol=1e-4)
    firing = np.argwhere(f[1:] > 1e-4) + np.array([1, 0])  # not on BOS
    assert {tuple(node) for node in firing.tolist()} <= set(zip(t.tolist(), j.tolist(), strict=True))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_attribution_is_the_finite_difference_times_the_change(family: str, model_of: Models, sae_of: SAEOf) -> None:
    model = model_of(family)
    effects = node_effects(model, dictionaries(sae_of), CLEAN, CORRUPT, metric=METRIC, method="atp")
    for site, position, delta, effect in some(effects, 41):
        change = slope(lambda h, s=site, p=position, d=delta: run(model, edits={s: shift(p, h * d)}))  # type: ignore[misc]
        assert change == pytest.approx(effect, abs=1e-4), site


@pytest.mark.parametrize(("site", "corrupt"), [("L0.mlp", CORRUPT), ("L0.resid_post", CORRUPT), ("L0.mlp", None)])
def test_integrated_gradients_of_a_site_add_up_to_the_metrics_change(
    site: str, corrupt: Sequence[int] | None, llama: InterpretableModel, sae_of: SAEOf
) -> None:
    sae = sae_of(site=site, seed=1, trained_on_bos=False)
    patched = tiny.forward(llama.model, corrupt or CLEAN)[1][site]
    patched[0] = tiny.forward(llama.model, CLEAN)[1][site][0]
    if corrupt is None:
        patched[1:] = np.array(sae.b_dec)
    change = run(llama, edits={site: lambda x: patched}) - run(llama)
    for steps, tolerance in ((10, 1e-2), (100, 1e-3)):
        effects = node_effects(llama, [sae], CLEAN, corrupt, metric=METRIC, method="ig", steps=steps)
        assert effects.sums()[site] == pytest.approx(change, rel=tolerance), steps


def test_dropped_gradients_are_those_with_a_layers_contributions_held(llama: InterpretableModel, sae_of: SAEOf) -> None:
    saes = [sae_of(site="L0.resid_post", seed=3, trained_on_bos=False)]
    effects = node_effects(llama, saes, CLEAN, CORRUPT, metric=METRIC, method="graddrop")
    seen = tiny.forward(llama.model, CLEAN)[1]
    for site, position, delta, effect in some(effects, 29):
        one = []
        for layer in (0, 1):
            held = {f"L{layer}.{part}": lambda x, k=f"L{layer}.{part}": seen[k] for part in ("attn", "mlp")}
            one.append(
                slope(lambda h, s=site, p=position, d=delta, k=held: run(llama, edits={**k, s: shift(p, h * d)}))  # type: ignore[misc]
            )
        expected = np.sign(sum(one)) * (abs(one[0]) + abs(one[1]))  # two layers: the sum over n - 1
        assert effect == pytest.approx(expected, abs=1e-4)


def test_relp_conserves_the_metric_of_a_model_without_biases(llama: InterpretableModel, sae_of: SAEOf) -> None:
    """All that is held makes the model homogeneous: the parts of the stream add up to the logits, at every depth."""
    saes = [without_b_dec(sae_of(site=site, seed=2)) for site in ("L0.resid_pre", "L0.resid_post", "L1.resid_post")]
    effects = node_effects(llama, saes, CLEAN, metric=METRIC, method="relp")
    for site, total in effects.sums().items():
        assert total == pytest.approx(-effects.value[0], abs=1e-4), site


def test_relp_holds_norms_and_attention(sae_of: SAEOf, bare: Callable[..., nn.Module], tokenizer: Any) -> None:
    model = changed(bare("llama"), tokenizer, {"down_proj": 0.0})
    saes = [sae_of(site="L0.resid_post", seed=3)]
    effects = node_effects(model, saes, CLEAN, CORRUPT, metric=METRIC, method="relp")
    held = tiny.forward(model.model, CLEAN)[1]
    for site, position, delta, effect in some(effects, 41):

        def moved(h: float, s: str = site, p: int = position, d: np.ndarray = delta) -> float:
            logits, _ = tiny.forward(model.model, CLEAN, {s: shift(p, h * d)}, held, "direct")
            return float(logits[-1, 4] - logits[-1, 8])

        assert effect == pytest.approx(slope(moved), abs=1e-4)


def changed(model: nn.Module, tokenizer: Any, factors: dict[str, float]) -> InterpretableModel:
    """A model with the weights of some modules scaled."""
    scaled = [
        (name, value * next((f for part, f in factors.items() if part in name), 1.0))
        for name, value in tree_flatten(model.parameters())
    ]
    model.update(tree_unflatten(scaled))
    return InterpretableModel(model, tokenizer, name="changed")


def linear(model: nn.Module, tokenizer: Any) -> InterpretableModel:
    """Uniform attention, no MLPs, norms that divide by a constant: linear in the stream."""
    changed(model, tokenizer, {"down_proj": 0.0, "q_proj": 0.0})
    for name, module in model.named_modules():
        if "norm" in name:
            module.eps = 2.0**24
            module.weight = module.weight * 2.0**12
    return InterpretableModel(model, tokenizer, name="linear")


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("graddrop", "atp*", "exact")])
def test_every_signed_method_is_exact_where_the_model_is_linear(
    method: Method, sae_of: SAEOf, bare: Callable[..., nn.Module], tokenizer: Any
) -> None:
    model = linear(bare("llama"), tokenizer)
    saes = [sae_of(site="L0.mlp", seed=1), sae_of(site="L0.resid_post", seed=3)]
    exact = node_effects(model, saes, CLEAN, CORRUPT, metric=METRIC, method="exact").effect
    fast = node_effects(model, saes, CLEAN, CORRUPT, metric=METRIC, method=method).effect
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(fast, exact, atol=2e-5)


def test_the_qk_fix_is_the_exact_change_of_attention_weights_in_numpy(llama: InterpretableModel, sae_of: SAEOf) -> None:
    saes = [sae_of(site="L0.resid_post", seed=3, trained_on_bos=False)]
    plain = node_effects(llama, saes, CLEAN, CORRUPT, metric=METRIC, method="atp")
    fixed = node_effects(llama, saes, CLEAN, CORRUPT, metric=METRIC, method="qk")
    A = tiny.forward(llama.model, CLEAN)[1]["L1.attn.pattern"]

    def pattern(position: int, delta: np.ndarray) -> np.ndarray:
        return tiny.forward(llama.model, CLEAN, {"L1.resid_pre": shift(position, delta)})[1]["L1.attn.pattern"]

    def weighed(weights: np.ndarray) -> float:
        return run(llama, edits={"L1.attn.pattern": lambda x: weights})

    for (_, position, delta, first), (_, _, _, second) in list(zip(some(plain, 37), some(fixed, 37), strict=True)):
        change = pattern(position, delta) - A
        exact = slope(lambda h, c=change: weighed(A + h * c))  # type: ignore[misc]
        linear_part = slope(lambda h, p=position, d=delta: weighed(pattern(p, h * d)))  # type: ignore[misc]
        assert second - first == pytest.approx(exact - linear_part, abs=1e-4)


def test_the_qk_fix_repairs_saturated_attention(sae_of: SAEOf, bare: Callable[..., nn.Module], tokenizer: Any) -> None:
    model = changed(bare("llama", 1), tokenizer, {"layers.1.self_attn.q_proj": 12.0, "down_proj": 0.0})
    saes = [sae_of(site="L0.resid_post", seed=3, trained_on_bos=False)]
    exact, atp, qk = (
        node_effects(model, saes, CLEAN, CORRUPT, metric=METRIC, method=m).effect for m in ("exact", "atp", "qk")
    )
    assert np.abs(qk - exact).sum() < 0.5 * np.abs(atp - exact).sum()


def test_bos_has_nodes_only_for_dictionaries_that_were_trained_on_it(llama: InterpretableModel, sae_of: SAEOf) -> None:
    saes = [sae_of(site="L0.mlp", trained_on_bos=False), sae_of(site="L1.mlp", trained_on_bos=True)]
    without, on_bos = node_effects(llama, saes, CLEAN, metric=METRIC).sites
    assert set(without.position.tolist()) == set(range(1, len(CLEAN)))
    assert set(on_bos.position.tolist()) == set(range(len(CLEAN)))


def test_exact_effects_of_a_constant_metric_are_refused(llama: InterpretableModel, sae_of: SAEOf) -> None:
    def constant(x: mx.array) -> mx.array:
        return 0 * x[:, 0, 0] + 3

    with pytest.raises(CircuitError, match="is constant: no node has any effect on it"):
        node_effects(llama, [sae_of(site="L0.mlp")], CLEAN, metric=constant, method="exact")


def test_features_that_fire_in_neither_prompt_are_no_nodes(llama: InterpretableModel, sae_of: SAEOf) -> None:
    effects = node_effects(llama, [sae_of(site="L0.mlp")], CLEAN, CORRUPT, metric=METRIC)
    (s,) = effects.sites
    features = s.feature >= 0
    assert ((s.clean[features] != 0) | (s.patch[features] != 0)).all()
    assert ((s.clean[features] == 0) & (s.patch[features] > 0)).any()
    assert effects.n == len(effects.effect) < 41 * len(CLEAN)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_pairs_gives_what_each_pair_gives(method: Method, llama: InterpretableModel, sae_of: SAEOf) -> None:
    saes = [sae_of(site="L0.resid_post", trained_on_bos=False)]
    other = [0, 8, 3, 22, 5, 6, 50, 7]
    one = [
        node_effects(llama, saes, a, b, metric=METRIC, method=method, steps=3)
        for a, b in ((CLEAN, CORRUPT), (other, CLEAN))
    ]
    both = node_effects(
        llama, saes, [CLEAN, other], [CORRUPT, CLEAN], metric=METRIC, method=method, steps=3, batch_rows=5
    )
    for i, alone in enumerate(one):
        (s,), (a,) = both.sites, alone.sites
        mine = s.prompt == i
        np.testing.assert_array_equal(s.feature[mine], a.feature)
        np.testing.assert_allclose(s.effect[mine], a.effect, atol=2e-5)
    assert both.value == pytest.approx([one[0].value[0], one[1].value[0]], abs=1e-5)


def test_the_strongest_nodes_make_a_graph(llama: InterpretableModel, sae_of: SAEOf) -> None:
    saes = [sae_of(site="L0.mlp", trained_on_bos=False), sae_of(site="L1.mlp", read="L1.mlp.in", trained_on_bos=False)]
    effects = node_effects(llama, saes, CLEAN, CORRUPT, metric=METRIC)
    graph = effects.graph(n=12)
    check(graph)
    assert len(graph) == 12
    assert {n.kind for n in effects.graph()} == {"feature", "error", "transcoder"}
    least = min(abs(a["score"]) for _, a in graph.nodes(data=True))
    assert sorted(np.abs(effects.effect))[-12] == pytest.approx(least)
    assert len(effects.graph(threshold=least)) == 12
    assert graph.meta.metric == "4 - 8"
    assert graph.meta.ablation == "resample"
    assert graph.meta.method == "atp"
    assert graph.meta.tokens is not None
    assert len(graph.meta.tokens) == len(CLEAN)
    summed = effects.graph(positions="sum")
    assert all(n.position is None for n in summed)
    node = Node.of("error", "L0.mlp")
    errors = effects.sites[0].effect[effects.sites[0].feature < 0]
    assert summed.nodes[node]["score"] == pytest.approx(errors.sum())


def test_the_bundled_models_effects_agree_with_exact_patching() -> None:
    from saedsl.circuits.metric import logit_difference
    from saedsl.demo import load_demo
    from saedsl.demo.tasks import examples

    demo = load_demo()
    (e,) = examples("capital", 1, 0, "held_out")
    metric = logit_difference(demo.model, e.answer, e.wrong)
    exact, qk = (
        node_effects(demo.model, demo.saes, e.prompt, e.corrupt, metric=metric, method=m) for m in ("exact", "qk")
    )
    strong = np.abs(exact.effect) > 1e-4 * abs(exact.value[0])
    assert strong.sum() > 100
    assert spearman(qk.effect[strong], exact.effect[strong]) > 0.9


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


# What cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "magic"}, "method is 'magic'; it can be atp, ig, relp, qk, graddrop, atp*, exact"),
        ({"steps": 0}, "steps is 0, not a whole number from 1"),
        ({"batch_rows": 1.5}, "batch_rows is 1.5, not a whole number from 1"),
        ({"results": "x.jsonl"}, 'results keeps what method="exact" has measured; atp is fast enough to start again'),
        ({"corrupt": CLEAN}, "the corrupt prompts are the clean ones: nothing differs, so nothing has an effect"),
        ({"metric": lambda logits: logits}, "for logits [1, 8, 285]; it gives one number for each row"),
        ({"metric": lambda x: 0 * x[:, 0, 0]}, "is constant: its gradient is 0 at every dictionary, so it does not"),
        ({"metric": "2 * kl()"}, 'a divergence from the clean run has no slope there; use method="ig" or "exact"'),
        ({"metric": lambda logits: logits[:, 0, 0] * float("nan")}, "of the clean prompts is not finite"),
        ({"metric": lambda logits: mx.sqrt(logits[:, 0, 0] * 0)}, "the gradient of tests"),
    ],
)  # fmt: skip
def test_impossible_effects_are_refused(
    given: dict[str, Any], message: str, llama: InterpretableModel, sae_of: SAEOf
) -> None:
    arguments = {"metric": METRIC, "corrupt": CORRUPT, **given}
    with pytest.raises(CircuitError) as error:
        node_effects(llama, [sae_of(site="L0.mlp")], CLEAN, **arguments)
    assert message in str(error.value)


def test_numbers_that_are_not_finite_are_refused_where_they_are(
    llama: InterpretableModel, sae_of: SAEOf, bare: Callable[..., nn.Module], tokenizer: Any
) -> None:
    sae = sae_of(site="L0.mlp")
    from tests.circuits.flow_tasks import vars_of

    broken = SAE(**{**vars_of(sae), "W_enc": sae.W_enc * float("nan")})  # type: ignore[arg-type]
    with pytest.raises(CircuitError, match=r"what the dictionary at L0\.mlp makes of the clean prompts is not finite"):
        node_effects(llama, [broken], CLEAN, metric=METRIC)
    model = InterpretableModel(bare("llama"), tokenizer)
    model.model.model.layers[1].mlp.down_proj.weight *= float("inf")
    with pytest.raises(CircuitError, match="is not finite"):
        node_effects(model, [sae], CLEAN, metric=METRIC)


@pytest.mark.parametrize(("n", "threshold", "message"), [
    (0, 0.0, "n is 0, not a whole number from 1"),
    (None, -1.0, "threshold is -1.0, not a number from 0"),
    (None, float("nan"), "threshold is nan, not a number from 0"),
    (None, 1e6, "no node has an effect of at least 1e+06; the strongest has"),
])  # fmt: skip
def test_impossible_graphs_are_refused(
    n: int | None, threshold: float, message: str, llama: InterpretableModel, sae_of: SAEOf
) -> None:
    effects = node_effects(llama, [sae_of(site="L0.mlp")], CLEAN, metric=METRIC)
    with pytest.raises(CircuitError) as error:
        effects.graph(n, threshold)
    assert message in str(error.value)


def test_the_place_of_nodes_is_where_they_write(llama: InterpretableModel, sae_of: SAEOf) -> None:
    (s,) = node_effects(llama, [sae_of(site="L1.mlp", read="L1.mlp.in")], CLEAN, metric=METRIC).sites
    assert s.place.read == Site(1, "mlp.in")
    assert s.site == "L1.mlp"
