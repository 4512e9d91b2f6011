"""Known circuits answer rightly, their truth is the truth, and methods find what they are said to find."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from saedsl.circuits.decomposed import decompose
from saedsl.circuits.edge_task import Ablation, EdgeTask
from saedsl.circuits.edges import chance, eap, eap_ig, exact, greedy, ig_contexts, ig_mask
from saedsl.circuits.known import KNOWN, KnownModel, Truth, auprc, auroc, labels, prompts, true_dictionary
from saedsl.circuits.known.dictionary import feature_names
from saedsl.errors import CircuitError, SAEError

SMALL = 8
"""Vocabulary of most models here."""


@cache
def known(name: str) -> KnownModel:
    return KNOWN[name](vocab=SMALL, seed=3)


@cache
def case(name: str, ablation: Ablation) -> tuple[EdgeTask, Truth]:
    task = prompts(known(name), n=8, seed=0).task(ablation)
    return task, labels(known(name), task)


def score(name: str, ablation: Ablation, values: np.ndarray) -> float:
    task, truth = case(name, ablation)
    return auroc(np.array([values[e] for e in truth.edges]) / task.span, truth.pivotal)


def largest(x: mx.array) -> float:
    return float(np.abs(np.array(x)).max())


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(("vocab", "seed"), [(SMALL, 3), (11, 4)])
def test_every_prompt_is_answered_rightly(name: str, vocab: int, seed: int) -> None:
    model = KNOWN[name](vocab=vocab, seed=seed)
    tokens, answers = model.every()
    logits = np.array(model.model(mx.array(tokens)))[:, -1]
    assert len({tuple(row) for row in tokens[:, -2:]}) >= (vocab - 1) * (vocab - 2) / 2
    assert (logits.argmax(axis=1) == answers).all()
    top = np.sort(logits, axis=1)
    assert (top[:, -1] - top[:, -2]).min() > 9.9
    sampled, right = model.sample(np.random.default_rng(5), 50)
    assert (np.array(model.model(mx.array(sampled)))[:, -1].argmax(axis=1) == right).all()


@pytest.mark.parametrize("name", KNOWN)
def test_the_parts_are_the_model(name: str) -> None:
    parts, tokens = decompose(known(name).model), mx.array(known(name).every()[0][:20])
    logits, _ = parts.forward(parts.embed(tokens))
    assert largest(logits[0] - known(name).model(tokens)) < 2e-5


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
def test_what_is_not_wired_has_no_effect(name: str, ablation: Ablation) -> None:
    _, truth = case(name, ablation)
    assert np.abs(truth.effects[~truth.wired]).max() < 1e-5
    assert (truth.wired | ~truth.pivotal).all()
    assert (truth.pivotal | ~truth.single).all()
    assert truth.pivotal.sum() >= 2


@pytest.mark.parametrize(
    ("name", "ablation", "n_wired", "n_single", "n_pivotal"),
    [
        ("induction", "resample", 5, 5, 5), ("induction", "mean", 5, 5, 5), ("lookup", "zero", 4, 4, 4),
        ("either", "zero", 5, 1, 5), ("backup", "zero", 6, 2, 6), ("backup", "resample", 6, 2, 2),
        ("majority", "resample", 7, 1, 7), ("cancel", "resample", 6, 5, 6), ("dip", "zero", 5, 2, 2),
        ("relay", "zero", 3, 3, 3), ("reserve", "zero", 8, 2, 8), ("exclusive", "zero", 7, 6, 7),
    ],
)  # fmt: skip
def test_the_labels_are_those_that_the_construction_says(
    name: str, ablation: Ablation, n_wired: int, n_single: int, n_pivotal: int
) -> None:
    """Counted by hand: an OR's four edges before its MLP are pivotal only, a backup's second path too, and so on."""
    _, truth = case(name, ablation)
    assert (truth.wired.sum(), truth.single.sum(), truth.pivotal.sum()) == (n_wired, n_single, n_pivotal)


def test_the_induction_circuit_is_the_one_of_the_literature() -> None:
    _, truth = case("induction", "resample")
    w = known("induction").wiring
    found = {w.edge_name(e) for e, true in zip(truth.edges, truth.pivotal, strict=True) if true}
    copier, matcher = (
        next(str(w.sources[s]) for s, slots in known("induction").writes.items() if slot in slots)
        for slot in ("previous", "next")
    )
    part = {c: matcher.replace("attn", f"attn.{c}") for c in "qkv"}
    assert found == {
        f"embed -> {copier.replace('attn', 'attn.v')}", f"{copier} -> {part['k']}", f"embed -> {part['q']}",
        f"embed -> {part['v']}", f"{matcher} -> logits",
    }  # fmt: skip


def test_seeds_turn_the_weights_and_move_the_heads_but_not_the_answers() -> None:
    one, two = KNOWN["either"](vocab=SMALL, seed=0), KNOWN["either"](vocab=SMALL, seed=1)
    tokens = mx.array(one.every()[0])
    assert largest(one.model(tokens) - two.model(tokens)) < 1e-4
    assert np.abs(one.rotation - two.rotation).max() > 0.1
    assert one.writes != two.writes
    again = KNOWN["either"](vocab=SMALL, seed=0)
    assert (one.rotation == again.rotation).all()
    assert one.writes == again.writes


def test_an_unused_head_is_a_decoy_that_is_active_too() -> None:
    model = known("either")
    parts = decompose(model.model)
    _, written = parts.forward(parts.embed(mx.array(model.every()[0][:4])))
    norms = np.linalg.norm(np.array(written[0, 1:5, :, 2:]), axis=-1)
    assert np.abs(norms - 1).max() < 1e-4


@pytest.mark.parametrize(("name", "site"), [("cancel", "L0.resid_post"), ("relay", "L1.resid_pre")])
def test_the_true_dictionary_has_no_error_and_features_that_mean_what_they_are_called(name: str, site: str) -> None:
    model = known(name)
    parts, tokens = decompose(model.model), model.every()[0][:10]
    written = parts.forward(parts.embed(mx.array(tokens)))[1][0]
    stream = written[: model.wiring.source(1, 0)].sum(axis=0)
    sae = true_dictionary(model, site)
    f = np.array(sae.encode(stream))
    assert largest(sae(stream) - stream) < 1e-5
    assert str(sae.config.input_site) == site
    names = feature_names(model)
    assert len(names) == sae.config.d_sae
    for j in range(SMALL):
        assert np.abs(f[..., names.index(f"token={j}")] - (tokens == j)).max() < 1e-4
        assert np.abs(f[:, 1:, names.index(f"p={j}")] - (tokens[:, :-1] == j)).max() < 1e-4
    assert np.abs(f[..., names.index("1")] - 1).max() < 1e-4


@pytest.mark.parametrize("site", ["L9.resid_post", "L0.attn.q", "logits", "nowhere"])
def test_a_dictionary_of_another_site_is_refused(site: str) -> None:
    with pytest.raises(SAEError, match=r"is not there|is not a site"):
        true_dictionary(known("either"), site)


@pytest.mark.parametrize("vocab", [6, 30])
def test_vocabularies_that_do_not_fit_are_refused(vocab: int) -> None:
    message = f"a vocabulary of {vocab}: known models have 7 to 29 tokens, BOS among them"
    with pytest.raises(CircuitError, match=message):
        KNOWN["either"](vocab=vocab)


def test_no_prompts_are_refused() -> None:
    with pytest.raises(CircuitError, match="0 prompts: at least one is needed"):
        prompts(known("either"), n=0)


def test_exact_patching_is_the_single_label() -> None:
    task, truth = case("majority", "zero")
    assert exact(task).of(truth.edges) == pytest.approx(truth.effects * task.span, abs=1e-6)
    assert score("majority", "zero", exact(task).values) == pytest.approx(4 / 7)


def test_integrated_gradients_over_the_mask_are_complete() -> None:
    task, _ = case("cancel", "resample")
    assert ig_mask(task, 50).values.sum() == pytest.approx(task.span, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "ablation"), [("backup", "zero"), ("reserve", "zero"), ("either", "zero"), ("dip", "resample"),
                           ("exclusive", "zero"), ("majority", "mean"), ("induction", "resample")]
)  # fmt: skip
def test_random_diagonals_find_what_matters_only_in_a_context(name: str, ablation: Ablation) -> None:
    task, _ = case(name, ablation)
    assert score(name, ablation, ig_contexts(task, contexts=16, steps=8).values) == 1.0


def test_other_methods_miss_the_backup() -> None:
    task, _ = case("backup", "zero")
    for found in (eap(task), eap_ig(task, 5), ig_mask(task, 20), greedy(task), exact(task)):
        assert score("backup", "zero", found.values) == pytest.approx(2 / 3), found.method


def test_gradients_alone_see_the_dip_where_there_is_no_effect() -> None:
    task, _ = case("dip", "resample")
    assert score("dip", "resample", eap(task).values) < 0.95
    assert score("dip", "resample", ig_mask(task, 20).values) == 1.0


def test_greedy_pruning_keeps_no_false_edge_and_misses_one_half_of_an_or() -> None:
    task, truth = case("either", "zero")
    kept = greedy(task).of(truth.edges) != 0
    assert (truth.pivotal | ~kept).all()
    assert kept.sum() == 3


def test_chance_is_chance() -> None:
    task, truth = case("cancel", "resample")
    found = [auroc(chance(task, seed).of(truth.edges) / task.span, truth.pivotal) for seed in range(300)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


def test_ranks_are_scikit_learn_s_but_for_the_floor() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.random(30) < 0.3
        truth[:2] = True, False
        scores = np.round(rng.normal(size=30) + truth, 1)
        assert auroc(scores, truth, 0) == pytest.approx(roc_auc_score(truth, np.abs(scores)))
        assert auprc(scores, truth, 0) == pytest.approx(average_precision_score(truth, np.abs(scores)))
    assert auroc([1e-8, 0, 0, 0.5], [True, False, False, True], 0) == 1.0
    assert auroc([1e-8, 0, 0, 0.5], [True, False, False, True]) == 0.75
    assert np.isnan(auroc([1, 2], [True, True]))
    assert np.isnan(auprc([1, 2], [False, False]))
    with pytest.raises(ValueError, match="2 scores for 1 edges, or scores that are not finite"):
        auroc([1, 2], [True])


@pytest.mark.parametrize("name", KNOWN)
def test_live_norms_change_neither_answers_nor_the_truth(name: str) -> None:
    model = KNOWN[name](vocab=SMALL, seed=3, norm="live")
    tokens, answers = model.every()
    assert (np.array(model.model(mx.array(tokens)))[:, -1].argmax(axis=1) == answers).all()
    live = prompts(model, n=8, seed=0).task("zero")
    _, truth = case(name, "zero")
    found, alone = labels(model, live), exact(live).values
    assert (found.pivotal == truth.pivotal).all()
    outside = [edge for edge, wired in zip(truth.edges, truth.wired, strict=True) if not wired]
    small = np.abs([alone[edge] for edge in outside]) / live.span
    assert 1e-6 < small.max() < 0.01  # the norms do what norms do
    assert auroc(ig_contexts(live).of(found.edges) / live.span, found.pivotal) > 0.95
