"""Every edit, at every site and position, against the numpy re-computation of the same model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saedsl.anatomy import FAMILIES
from saedsl.edits import Columns, add, masked
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from tests import oracle

pytestmark = pytest.mark.filterwarnings("ignore::saedsl.errors.SaedslWarning")  # of random features that are silent

Models = Callable[..., InterpretableModel]
References = Callable[[str], oracle.Model]
SAEs = Callable[..., SAE]
Plain = Callable[[SAE], oracle.Dictionary]

TEXT = "The cat sat on the mat on a dog"
"""<s> T h e cat sat on the mat on a dog: 12 tokens."""
N = 12
INF = float("inf")

WHOLE: list[tuple[str, oracle.Op, tuple[float, ...]]] = [
    ("ablate", "ablate", ()),
    ("amplify x2.5", "amplify", (2.5,)),
    ("amplify x -1", "amplify", (-1,)),
    ("set = 0.5", "set", (0.5,)),
    ("clamp to -0.1..0.2", "clamp", (-0.1, 0.2)),
    ("clamp to 0.1..", "clamp", (0.1, INF)),
    ("clamp to ..0.1", "clamp", (-INF, 0.1)),
]
FEATURE: list[tuple[str, oracle.Op, tuple[float, ...]]] = [
    ("ablate {}", "ablate", ()),
    ("amplify {} x3", "amplify", (3,)),
    ("amplify {} x -0.5", "amplify", (-0.5,)),
    ("set {} = 1.5", "set", (1.5,)),
    ("clamp {} to 0.1..0.2", "clamp", (0.1, 0.2)),
    ("clamp {} to 0.7..", "clamp", (0.7, INF)),
    ("clamp {} to ..0.05", "clamp", (-INF, 0.05)),
    ("add 2 {}", "add", (2,)),
    ("add -1.5 {}", "add", (-1.5,)),
]
TARGETS: list[tuple[str, Sequence[int]]] = [
    ("f7", [7]),
    ("f3..9", range(3, 10)),
    ("{f1, f20..22, f39}", [1, 20, 21, 22, 39]),
    ("all", range(40)),
]
SITES = [
    "embed", "L0.resid_pre", "L0.attn.in", "L0.attn.z", "L0.attn.raw", "L0.attn", "L0.resid_mid", "L0.mlp.in",
    "L0.mlp.act", "L0.mlp.raw", "L0.mlp", "L0.resid_post", "L1.attn.z", "L1.resid_mid", "L1.mlp.in", "L1.mlp",
    "L1.resid", "final", "logits",
]  # fmt: skip
ORACLES = ["llama", "gpt2"]
EVERY = range(N)
NOT_BOS = range(1, N)


def full_name(site: str) -> str:
    return site.replace("resid", "resid_post") if site.endswith("resid") else site


def assert_agrees(
    lm: InterpretableModel,
    reference: oracle.Model,
    program: str,
    edits: Sequence[oracle.Edit],
    saes: Mapping[str, SAE] | None = None,
    text: str = TEXT,
) -> None:
    """The traced forward is the oracle's at every site, and the edits are not idle."""
    tokens = lm.encoder.encode(text).ids
    expected, seen = reference.forward(tokens, edits)
    with lm.trace(text, program, saes=saes) as t:
        t.forward(lm.info.sites)
        for site in lm.info.sites:
            actual = np.array(t.activations[str(site)][0])
            np.testing.assert_allclose(actual, seen[str(site)], rtol=1e-4, atol=1e-4, err_msg=str(site))
        np.testing.assert_allclose(np.array(t.output[0]), expected, rtol=1e-4, atol=1e-4)
    untouched = reference.forward(tokens)[1]
    assert max(np.abs(seen[s] - untouched[s]).max() for s in seen) > 1e-2, "the edit of this test changes nothing"


# Single edits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "op", "args"), WHOLE)
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", ORACLES)
def test_a_whole_site_is_edited_as_in_numpy(
    family: str,
    site: str,
    text: str,
    op: oracle.Op,
    args: tuple[float, ...],
    model_of: Models,
    reference_of: References,
) -> None:
    edit = oracle.Edit(full_name(site), op, args, range(2, N))
    assert_agrees(model_of(family), reference_of(family), f"at {site} {text} @ prompt[2..-1]", [edit])


@pytest.mark.parametrize(("text", "op", "args"), FEATURE)
@pytest.mark.parametrize(("target", "features"), TARGETS)
@pytest.mark.parametrize("family", ORACLES)
def test_features_are_edited_as_in_numpy(
    family: str, target: str, features: Sequence[int], text: str, op: oracle.Op, args: tuple[float, ...],
    model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain,
) -> None:  # fmt: skip
    sae = sae_of(seed=1)
    edit = oracle.Edit("L0.resid_mid", op, args, EVERY, features, plain(sae))
    program = f"at L0.resid_mid {text.format(target)}"
    assert_agrees(model_of(family), reference_of(family), program, [edit], {"L0.resid_mid": sae})


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", ORACLES)
def test_features_are_edited_as_in_numpy_at_every_site(
    family: str, site: str, model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain
) -> None:
    lm = model_of(family)
    width = next(lm.info.width(s) for s in lm.info.sites if str(s) == full_name(site))
    sae = sae_of(width, seed=2)
    dictionary = plain(sae)
    edits = [
        oracle.Edit(full_name(site), "amplify", (3,), EVERY, [1, 2, 3, 4, 5], dictionary),
        oracle.Edit(full_name(site), "set", (1,), EVERY, [8], dictionary),
    ]
    program = f"at {site} amplify f1..5 x3; set f8 = 1"
    assert_agrees(lm, reference_of(family), program, edits, {full_name(site): sae})


@pytest.mark.parametrize("subtract_b_dec", [True, False])
@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk", "batchtopk", "gated"])
@pytest.mark.parametrize("family", ORACLES)
def test_every_kind_of_sae_is_edited_as_in_numpy(
    family: str, activation: str, normalize: str, subtract_b_dec: bool,
    model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain,
) -> None:  # fmt: skip
    sae = sae_of(activation=activation, normalize=normalize, subtract_b_dec=subtract_b_dec, seed=3)
    dictionary = plain(sae)
    edits = [
        oracle.Edit("L1.mlp", "ablate", (), EVERY, [0, 5, 6, 7], dictionary),
        oracle.Edit("L1.mlp", "clamp", (0.2, 0.6), [4, 5], range(10, 30), dictionary),
        oracle.Edit("L1.mlp", "add", (3,), [N - 1], [33], dictionary),
    ]
    program = "at L1.mlp { ablate {f0, f5..7}; clamp f10..29 to 0.2..0.6 @ prompt[4..5]; add 3 f33 @ last }"
    assert_agrees(model_of(family), reference_of(family), program, edits, {"L1.mlp": sae})


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("activation", ["gated", "topk"])
def test_an_sae_that_centres_its_input_is_edited_as_in_numpy(
    activation: str, normalize: str, model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain
) -> None:
    sae = sae_of(activation=activation, normalize=normalize, center=True, seed=3)
    dictionary = plain(sae)
    edits = [
        oracle.Edit("L0.resid_post", "ablate", (), EVERY, [0, 5, 6, 7], dictionary),
        oracle.Edit("L0.resid_post", "set", (2,), [N - 1], [33], dictionary),
    ]
    program = "at L0.resid_post { ablate {f0, f5..7}; set f33 = 2 @ last }"
    assert_agrees(model_of("llama"), reference_of("llama"), program, edits, {"L0.resid_post": sae})


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk", "batchtopk", "gated"])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("family", ORACLES)
def test_a_transcoder_reads_what_the_mlp_reads_and_writes_what_it_adds(
    family: str,
    activation: str,
    skip: bool,
    model_of: Models,
    reference_of: References,
    sae_of: SAEs,
    plain: Plain,
) -> None:
    t = sae_of(activation=activation, skip=skip, site="L0.mlp", read="L0.mlp.in", seed=4)
    dictionary = plain(t)
    edits = [
        oracle.Edit("L0.mlp", "amplify", (4,), EVERY, range(20), dictionary, read="L0.mlp.in"),
        oracle.Edit("L0.mlp", "set", (2,), [6, 9], [30], dictionary, read="L0.mlp.in"),
    ]
    program = 'at t amplify f0..19 x4; set f30 = 2 @ every " on"'
    assert_agrees(model_of(family), reference_of(family), program, edits, {"t": t})


@pytest.mark.parametrize("family", ORACLES)
def test_a_transcoder_sees_edits_of_what_the_mlp_reads(
    family: str, model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain
) -> None:
    t = sae_of(site="L0.mlp", read="L0.mlp.in", seed=5)
    edits = [
        oracle.Edit("L0.mlp.in", "amplify", (2,), EVERY),
        oracle.Edit("L0.mlp", "ablate", (), EVERY, range(40), plain(t), read="L0.mlp.in"),
    ]
    program = "at L0.mlp.in amplify x2\nat t ablate all"
    assert_agrees(model_of(family), reference_of(family), program, edits, {"t": t})


# Positions ---------------------------------------------------------------------------------------------------------

POSITIONS: list[tuple[str, Sequence[int], Sequence[int]]] = [
    ("", EVERY, NOT_BOS),
    ("@ all", EVERY, NOT_BOS),
    ("@ everywhere", EVERY, EVERY),
    ("@ prompt", EVERY, NOT_BOS),
    ("@ bos", [0], [0]),
    ("@ prompt[-1]", [11], [11]),
    ("@ prompt[0]", [0], [0]),
    ("@ prompt[2..5]", [2, 3, 4, 5], [2, 3, 4, 5]),
    ("@ prompt[-3..-2]", [9, 10], [9, 10]),
    ("@ last", [11], [11]),
    ('@ " cat"', [4], [4]),
    ('@ "The"', [3], [3]),
    ('@ span "The"', [1, 2, 3], [1, 2, 3]),
    ('@ every " on"', [6, 9], [6, 9]),
    ('@ " on"[0]', [6], [6]),
    ('@ " on"[-1]', [9], [9]),
    ('@ " cat" | prompt[-1]', [4, 11], [4, 11]),
    ("@ everywhere except bos", NOT_BOS, NOT_BOS),
    ("@ all except prompt[2..9]", [0, 1, 10, 11], [1, 10, 11]),
]


@pytest.mark.parametrize(("where", "whole", "through_sae"), POSITIONS)
@pytest.mark.parametrize("family", ORACLES)
def test_edits_act_at_their_positions_only(
    family: str, where: str, whole: Sequence[int], through_sae: Sequence[int],
    model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain,
) -> None:  # fmt: skip
    sae = sae_of(seed=6, trained_on_bos=False)
    edits = [
        oracle.Edit("L0.attn.z", "amplify", (2,), whole),
        oracle.Edit("L0.resid_post", "set", (1.5,), through_sae, [3, 4], plain(sae)),
    ]
    program = f"at L0.attn.z amplify x2 {where}\nat L0.resid set {{f3, f4}} = 1.5 {where}"
    assert_agrees(model_of(family), reference_of(family), program, edits, {"L0.resid": sae})


def test_the_positions_of_a_header_and_of_its_edits_are_intersected(
    model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain
) -> None:
    sae = sae_of(seed=6)
    d = plain(sae)
    edits = [
        oracle.Edit("L0.mlp", "ablate", (), [5, 6], [1, 2, 3], d),
        oracle.Edit("L0.mlp", "add", (3,), [2, 3, 4, 5, 6], [9], d),
    ]
    program = "at L0.mlp @ prompt[2..6] { ablate f1..3 @ prompt[5..]; add 3 f9 }".replace("[5..]", "[5..8]")
    assert_agrees(model_of("llama"), reference_of("llama"), program, edits, {"L0.mlp": sae})


def test_each_row_of_a_batch_has_its_own_positions(
    model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain
) -> None:
    for family in ORACLES:
        lm, sae = model_of(family), sae_of(seed=7, trained_on_bos=False)
        texts = [" the cat sat on a mat", " a dog sat on the cat", " cat the a mat sat Paris"]
        rows = [lm.encoder.encode(t).ids for t in texts]
        assert {len(r) for r in rows} == {7}
        program = 'at L0.mlp { ablate f1..9 @ " cat"; add 4 f30 }\nat L1.attn.z amplify x2 @ last'
        with lm.trace(mx.array(rows), program, saes={"L0.mlp": sae}) as t:
            out = np.array(t.output)
        for i, (row, cat) in enumerate(zip(rows, (2, 6, 1), strict=True)):
            edits = [
                oracle.Edit("L0.mlp", "ablate", (), [cat], range(1, 10), plain(sae)),
            ]
            d = edits[0].dictionary
            edits += [
                oracle.Edit("L0.mlp", "add", (4,), range(1, 7), [30], d),
                oracle.Edit("L1.attn.z", "amplify", (2,), [6]),
            ]
            np.testing.assert_allclose(out[i], reference_of(family).forward(row, edits)[0], rtol=1e-4, atol=1e-4)


# Many edits at once ------------------------------------------------------------------------------------------------

_PIECES = [
    (site, text, op, args, target, features)
    for site in ("L0.resid_mid", "L0.mlp", "L1.attn.z")
    for text, op, args in FEATURE
    for target, features in ((f"f{a}..{a + 3}", range(a, a + 4)) for a in range(0, 40, 4))
]


@given(
    pieces=st.lists(st.sampled_from(_PIECES), min_size=1, max_size=8, unique_by=lambda p: (p[0], p[4])),
    whole=st.lists(st.tuples(st.sampled_from(SITES), st.sampled_from(WHOLE)), max_size=3, unique_by=lambda p: p[0]),
    family=st.sampled_from(ORACLES),
    kinds=st.tuples(*[st.sampled_from(["relu", "jumprelu", "topk", "batchtopk"])] * 3),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_edits_together_agree_with_numpy_in_any_order(
    pieces: list[Any], whole: list[Any], family: str, kinds: tuple[str, ...], order: Any,
    model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain,
) -> None:  # fmt: skip
    lm = model_of(family)
    widths = {"L0.resid_mid": 32, "L0.mlp": 32, "L1.attn.z": lm.info.n_heads * lm.info.d_head}
    saes = {
        site: sae_of(width, activation=kind, seed=9) for (site, width), kind in zip(widths.items(), kinds, strict=True)
    }
    plains = {site: plain(sae) for site, sae in saes.items()}
    lines = [f"at {site} {text.format(target)}" for site, text, _, _, target, _ in pieces]
    lines += [f"at {site} {text}" for site, (text, _, _) in whole]
    edits = [oracle.Edit(s, op, args, EVERY, features, plains[s]) for s, _, op, args, _, features in pieces]
    edits += [oracle.Edit(full_name(s), op, args, EVERY) for s, (_, op, args) in whole]
    tokens = lm.encoder.encode(TEXT).ids
    expected, _ = reference_of(family).forward(tokens, edits)

    def run(program: str) -> tuple[str, mx.array]:
        with lm.trace(TEXT, program, saes=saes) as t:
            return t.plan.program_id, t.output

    first_id, first = run("\n".join(lines))
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(np.array(first[0]), expected, rtol=1e-4, atol=1e-4 * size)
    order.shuffle(lines)
    again_id, again = run("\n".join(lines))
    assert again_id == first_id
    assert mx.array_equal(first, again)


SAME = [
    ["at L0.mlp ablate f1; amplify f7 x2", "at L0.mlp amplify f7 x2\nat L0.mlp ablate f1"],
    ["at L0.mlp ablate f1..4", "at L0.mlp { ablate f3..4; ablate {f2, f1} }"],
    ["at L0.mlp ablate f1..4", "let s = {f1, f2}\nat L0.mlp ablate {s, f3, f4}"],
    ["at L0.mlp, L1.mlp ablate", "at L0..1.mlp ablate", "at L*.mlp ablate", "at L-1.mlp ablate\nat L{0}.mlp ablate"],
    ["at L0.mlp set f2 = 6", "let v = 3\nat L0.mlp set f2 = 2 * v", "at L0.mlp set L0.mlp.f2 = 6.0"],
    ["at L0.resid ablate @ last", "at L0.resid_post @ last ablate"],
    ["at L0.mlp ablate f1 @ last; ablate f1 @ prompt[2]", "at L0.mlp ablate f1 @ prompt[2]; ablate f1 @ last"],
]  # fmt: skip


@pytest.mark.parametrize("programs", SAME)
def test_spelling_order_and_spread_have_no_meaning(
    programs: list[str], llama: InterpretableModel, sae_of: SAEs
) -> None:
    saes = {"L0.mlp": sae_of(seed=1), "L1.mlp": sae_of(seed=2)}
    ran = []
    for program in programs:
        with llama.trace(TEXT, program, saes=saes) as t:
            ran.append((t.plan.program_id, t.output))
    for (a, x), (b, y) in itertools.pairwise(ran):
        assert a == b
        assert mx.array_equal(x, y)


# No-ops ------------------------------------------------------------------------------------------------------------

DTYPES = ["float32", "bfloat16", "float16"]


def bits(x: mx.array) -> Any:
    return np.array(x.view(mx.uint8))


def outputs(lm: InterpretableModel, program: str, saes: Mapping[str, SAE]) -> list[Any]:
    """The bits of the logits and of every site."""
    with lm.trace(TEXT, program, saes=saes) as t:
        t.forward(lm.info.sites)
        return [bits(t.output), *(bits(t.activations[str(s)]) for s in lm.info.sites)]


def assert_same_bits(a: list[Any], b: list[Any]) -> None:
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


KINDS = [
    ("relu", "none"),
    ("jumprelu", "layer_norm"),
    ("topk", "constant_norm_rescale"),
    ("topk", "layer_norm"),
    ("batchtopk", "none"),
]


@pytest.mark.parametrize(("activation", "normalize"), KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ORACLES)
def test_setting_to_zero_is_bitwise_ablation(
    family: str, dtype: str, activation: str, normalize: str, model_of: Models, sae_of: SAEs
) -> None:
    saes = {"L0.mlp": sae_of(activation=activation, normalize=normalize)}
    lm = model_of(family, dtype)
    for target in ("f1..20", "all"):
        zero, gone = (outputs(lm, f"at L0.mlp {e}", saes) for e in (f"set {target} = 0", f"ablate {target}"))
        assert_same_bits(zero, gone)
    assert_same_bits(outputs(lm, "at L1.attn.z set = 0", saes), outputs(lm, "at L1.attn.z ablate", saes))


@pytest.mark.parametrize(("activation", "normalize"), KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ORACLES)
def test_amplifying_by_one_is_bitwise_nothing(
    family: str, dtype: str, activation: str, normalize: str, model_of: Models, sae_of: SAEs
) -> None:
    lm = model_of(family, dtype)
    saes = {"L0.resid_mid": sae_of(activation=activation, normalize=normalize)}
    plain = outputs(lm, "", saes)
    for idle in (
        "at L0.resid_mid amplify all x1",
        "at L0.resid_mid amplify {f1, f3} x1 @ prompt[-1]",
        "at L0.resid_mid clamp all to ..1000000",
        "at L0.resid_mid clamp all to 0..",
        "at L0.resid_mid add 0 f3",
        "at L0.resid_mid, L1.attn.z, embed, logits amplify x1",
    ):
        assert_same_bits(outputs(lm, idle, saes), plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_program_is_bitwise_the_plain_model(family: str, dtype: str, model_of: Models) -> None:
    lm = model_of(family, dtype)
    tokens = mx.array([lm.encoder.encode(TEXT).ids])
    with lm.trace(TEXT, "") as t:
        assert np.array_equal(bits(t.output), bits(lm.model(tokens)))
    everything = outputs(lm, "", {})
    assert np.array_equal(everything[0], bits(lm.model(tokens)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_keep_the_dtype_of_their_site(family: str, dtype: str, model_of: Models, sae_of: SAEs) -> None:
    lm = model_of(family, dtype)
    sites = lm.info.sites
    saes = {str(s): sae_of(width, 16) for s in sites if (width := lm.info.width(s)) is not None}
    with lm.trace(TEXT, "") as t:
        t.forward(sites)
        before = {str(s): t.activations[str(s)].dtype for s in sites}
    for edit, where in (("amplify f1..3 x2", saes), ("amplify x1.1", before)):
        with lm.trace(TEXT, "\n".join(f"at {s} {edit}" for s in where), saes=saes) as t:
            t.forward(sites)
            assert {str(s): t.activations[str(s)].dtype for s in sites} == before


# The functions themselves ------------------------------------------------------------------------------------------


def test_columns_compute_the_difference_that_each_edit_makes() -> None:
    f = mx.array([[0.0, 0.5, 2.0, 0.25, 3.0, 1.0]])
    columns = Columns.of(
        [
            ("ablate", ()),
            ("amplify", (3.0,)),
            ("set", (5.0,)),
            ("add", (2.0,)),
            ("clamp", (0.0, 1.0)),
            ("clamp", (2.0, INF)),
        ]
    )
    assert columns.delta(f).tolist() == [[0.0, 1.0, 3.0, 2.0, -2.0, 1.0]]


def test_a_mask_leaves_exact_zeros_even_of_infinities() -> None:
    delta = mx.array([[INF, 1.0], [2.0, -INF]])
    mask = mx.array([[False, True], [True, False]])
    assert masked(delta, mask).tolist() == [[0.0, 1.0], [2.0, 0.0]]
    assert masked(delta, None) is delta


def test_adding_nothing_returns_the_activation_itself() -> None:
    x = mx.array([1.0], mx.bfloat16)
    assert add(x, []) is x
    assert add(x, [mx.array([0.5]), mx.array([0.25])]).dtype == mx.bfloat16
    assert add(x, [mx.array([0.5]), mx.array([0.25])]).item() == 1.75
