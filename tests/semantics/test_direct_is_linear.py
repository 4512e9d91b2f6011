"""With everything that is not linear held, what an edit does downstream is a product of matrices: by hand, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests import oracle
from tests.semantics.world import World, assert_close

TEXT = "The cat sat on the mat on a dog"
FEATURES = [4, 6, 9]
"""Of the SAE on L0.mlp; they fire somewhere in either model."""


def pre_activations(w: World, run: oracle.Run) -> oracle.Array:
    """Of the transcoder of L1.mlp: what its features are before the activation function, [tokens, d_sae]."""
    t = w["t"]
    return (run.seen["L1.mlp.in"] - t.b_dec) @ t.W_enc + t.b_enc


def by_hand(w: World, delta: oracle.Array, plain: oracle.Run) -> oracle.Array:
    """What arrives at L1.mlp.in of a change of L0.mlp, [tokens, d_model]: OV paths and the residual stream."""
    m, c = w.reference.weights, w.reference.config

    def through_norm(x: oracle.Array, name: str) -> oracle.Array:
        if c["model_type"] == "gpt2":
            x = x - x.mean(axis=1, keepdims=True)
        out: oracle.Array = x / plain.holdable[name] * m[f"{name}.weight"]
        return out

    gpt2 = c["model_type"] == "gpt2"
    block = "model.h.1" if gpt2 else "model.layers.1"
    heads = 4
    if gpt2:
        W_v, W_o = np.split(m[f"{block}.attn.c_attn.weight"], 3)[2], m[f"{block}.attn.c_proj.weight"]
        first, second = f"{block}.ln_1", f"{block}.ln_2"
    else:
        W_v, W_o = m[f"{block}.self_attn.v_proj.weight"], m[f"{block}.self_attn.o_proj.weight"]
        first, second = f"{block}.input_layernorm", f"{block}.post_attention_layernorm"
    v = (through_norm(delta, first) @ W_v.T).reshape(len(delta), -1, W_o.shape[1] // heads)
    v = np.repeat(v, heads // v.shape[1], axis=1)  # value heads are shared by several heads
    z = np.einsum("hqk,khd->qhd", plain.holdable["L1.attn"], v)
    moved = delta + z.reshape(len(delta), -1) @ W_o.T
    return through_norm(moved, second)


def direct(w: World, text: str, edits: str) -> tuple[Any, oracle.Run]:
    program = f"{edits}\nrecord L1.mlp.in, L1.resid_post @ everywhere\nrun a with mode = direct"
    (p,) = w.run(program).prompts
    return p, w.reference.run(w.ids(text))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_doubling_a_feature_moves_later_features_by_its_decoder_row_through_the_held_paths(
    family: str, world: Callable[[str], World]
) -> None:
    w = world(family)
    p, plain = direct(w, TEXT, "at L0.mlp amplify {f4, f6, f9} x2 @ everywhere")
    d = w["L0.mlp"]
    f = d.encode(plain.seen["L0.mlp"])[:, FEATURES]
    assert f.max() > 0.3
    expected = by_hand(w, f @ d.W_dec[FEATURES], plain)
    moved = p.edited.activations["L1.mlp.in"] - p.baseline.activations["L1.mlp.in"]
    assert np.abs(expected).max() > 0.1
    assert_close(moved, expected)
    t = w["t"]
    before, after = (pre_activations(w, plain) + x @ t.W_enc for x in (0 * moved, moved))
    assert_close(after - before, expected @ t.W_enc)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_effects_of_two_edits_add_in_direct_mode_only(family: str, world: Callable[[str], World]) -> None:
    w = world(family)
    first, second = "at L0.mlp set f4 = 3", "at L0.attn.z ablate h1"

    def effect(edits: str, mode: str) -> oracle.Array:
        (p,) = w.run(f"{edits}\nrecord L1.resid @ everywhere\nrun a with mode = {mode}").prompts
        moved = p.edited.activations["L1.resid_post"] - p.baseline.activations["L1.resid_post"]
        return np.asarray(moved, np.float64)

    for mode, adds in (("direct", True), ("frozen", False), ("iterative", False)):
        together = effect(f"{first}\n{second}", mode)
        sum_of_both = effect(first, mode) + effect(second, mode)
        # The SAE reads L0.mlp, which `direct` holds: its features are those of the unedited run.
        far = np.abs(together - sum_of_both).max() > 0.05
        assert far != adds, mode


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_skip_transcoder_lets_a_change_through_the_held_mlp_linearly(
    family: str, world: Callable[[str], World]
) -> None:
    w = world(family)
    p, plain = direct(w, TEXT, "at L0.mlp set f4 = 3 @ everywhere\nat t amplify t.f0 x1")
    d, t = w["L0.mlp"], w["t"]
    f = d.encode(plain.seen["L0.mlp"])[:, 4]
    delta = (3 - f)[:, None] * d.W_dec[4]
    assert t.W_skip is not None
    skipped = by_hand(w, delta, plain) @ t.W_skip.T
    q, _ = direct(w, TEXT, "at L0.mlp set f4 = 3 @ everywhere")
    assert np.abs(skipped).max() > 0.1
    site = "L1.resid_post"
    assert_close(p.edited.activations[site] - q.edited.activations[site], skipped)
