"""`InterpretableModel`: what a run returns, against the numpy re-computation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from saedsl.errors import ModelError, ProgramError, RunError, SAEError
from saedsl.model import InterpretableModel
from saedsl.results import Result
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from tests import oracle

Models = Callable[..., InterpretableModel]
References = Callable[[str], oracle.Model]
SAEs = Callable[..., SAE]
Plain = Callable[[SAE], oracle.Dictionary]

TEXTS = ["The cat sat on the mat", " a dog", " the cat sat on Paris Rome a", "a cat", " the dog"]
"""Nine, three, eight, three and three tokens: three batches."""


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_run_of_prompts_of_any_length_is_the_oracles(
    family: str, model_of: Models, reference_of: References, sae_of: SAEs, plain: Plain
) -> None:
    lm, reference, sae = model_of(family), reference_of(family), sae_of(seed=1)
    d = plain(sae)
    result = lm.run(
        "at L0.mlp amplify f1..20 x3; add 2 f30 @ last\n"
        "record L0.mlp.f5, L0.mlp.f30, L1.resid\nrecord L0.mlp @ prompt[1..2]",
        prompts=TEXTS, saes={"L0.mlp": sae}, top=7,
    )  # fmt: skip
    assert [p.text for p in result.prompts] == TEXTS
    for p in result.prompts:
        n = len(p.token_ids)
        edits = [
            oracle.Edit("L0.mlp", "amplify", (3,), range(n), range(1, 21), d),
            oracle.Edit("L0.mlp", "add", (2,), [n - 1], [30], d),
        ]
        base, before = reference.forward(p.token_ids)
        logits, seen = reference.forward(p.token_ids, edits)
        np.testing.assert_allclose(p.baseline.logits, base[-1], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(p.edited.logits, logits[-1], rtol=1e-4, atol=1e-4)
        a, b = oracle.log_softmax(base[-1]), oracle.log_softmax(logits[-1])
        assert p.kl == pytest.approx(float((np.exp(a) * (a - b)).sum()), abs=1e-4)
        best = {int(i) for side in (a, b) for i in side.argsort()[::-1][:7]}
        assert {t.token_id for t in p.top} == best
        for t in p.top:
            assert t.baseline == pytest.approx(np.exp(a[t.token_id]), abs=1e-5)
            assert t.edited == pytest.approx(np.exp(b[t.token_id]), abs=1e-5)
            assert t.difference == t.edited - t.baseline
        ranked = [max(t.baseline, t.edited) for t in p.top]
        assert ranked == sorted(ranked, reverse=True)
        f = d.encode(before["L0.mlp"])
        g = f.copy()
        g[:, 1:21] *= 3
        g[n - 1, 30] += 2
        for side, features, stream in ((p.baseline, f, before), (p.edited, g, seen)):
            np.testing.assert_allclose(side.activations["L0.mlp.f5"], features[:, 5], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(side.activations["L0.mlp.f30"], features[:, 30], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(side.activations["L1.resid_post"], stream["L1.resid_post"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(p.edited.activations["L0.mlp"], seen["L0.mlp"][1:3], rtol=1e-4, atol=1e-4)
        fired = {x.feature: x for x in p.firings}
        assert fired["f3"].positions == n
        assert fired["f3"].active == fired["f3"].changed == np.count_nonzero(f[:, 3])
        assert (fired["f30"].positions, fired["f30"].changed) == (1, 1)
        assert fired["f30"].active == np.count_nonzero(f[-1:, 30])


def test_a_whole_dictionary_is_recorded_by_its_name(
    llama: InterpretableModel, reference_of: References, sae_of: SAEs, plain: Plain
) -> None:
    sae = sae_of(site="L1.mlp", seed=2, activation="topk")
    (p,) = llama.run("record g, g.f3\nat g ablate f3", prompts=TEXTS[0], saes={"g": sae}).prompts
    _, seen = reference_of("llama").forward(p.token_ids)
    f = plain(sae).encode(seen["L1.mlp"])
    np.testing.assert_allclose(p.baseline.activations["g"], f, rtol=1e-4, atol=1e-4)
    f[:, 3] = 0
    np.testing.assert_allclose(p.edited.activations["g"], f, rtol=1e-4, atol=1e-4)
    assert not p.edited.activations["g.f3"].any()


def test_what_is_recorded_twice_is_recorded_where_either_says(llama: InterpretableModel) -> None:
    (p,) = llama.run("record L0.mlp @ prompt[1]\nrecord L0.mlp @ prompt[3..4]", prompts=TEXTS[0]).prompts
    assert p.record_positions == {"L0.mlp": "1, 3..4"}
    assert p.baseline.activations["L0.mlp"].shape == (3, 32)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generation_is_the_oracles_and_mlx_lms(family: str, model_of: Models, reference_of: References) -> None:
    from mlx_lm.generate import generate_step

    lm = model_of(family)
    (p,) = lm.run("at L0.attn.z amplify x -2 @ gen\ngenerate 12", prompts=TEXTS[0]).prompts
    n = len(p.token_ids)
    edit = oracle.Edit("L0.attn.z", "amplify", (-2,), range(n, n + 12))
    assert list(p.edited.token_ids) == reference_of(family).generate(p.token_ids, 12, [edit])[: len(p.edited.token_ids)]
    plain = [int(t) for t, _ in generate_step(mx.array(p.token_ids), lm.model, max_tokens=12)]
    assert list(p.baseline.token_ids) == plain[: len(p.baseline.token_ids)]
    assert p.baseline.text == lm.decode([*p.token_ids, *p.baseline.token_ids])[len(lm.decode(p.token_ids)) :]


def test_an_edit_that_changes_nothing_is_warned_about(llama: InterpretableModel, sae_of: SAEs, plain: Plain) -> None:
    sae = sae_of(activation="jumprelu", seed=1)
    quiet = SAE(sae.config, sae.W_enc, sae.b_enc - 100, sae.W_dec, sae.b_dec, sae.threshold)  # type: ignore[operator, arg-type]
    result = llama.run("at L0.mlp amplify f1 x9; set f2 = 1", prompts=TEXTS[0], saes={"L0.mlp": quiet})
    (warning,) = result.warnings
    assert warning == "warning[S610]: `at L0.mlp amplify f1 x9` changed nothing at 9 positions: f1 was never active"


def test_a_plan_id_depends_on_the_weights_and_a_program_id_does_not(model_of: Models, sae_of: SAEs) -> None:
    def ids(lm: InterpretableModel, sae: SAE) -> tuple[str, str]:
        result = lm.run("at L0.mlp ablate f1", prompts=TEXTS[0], saes={"L0.mlp": sae})
        return result.program_id, result.plan_id

    one = ids(model_of("llama"), sae_of(seed=1))
    assert ids(model_of("llama"), sae_of(seed=1)) == one
    for other in (ids(model_of("llama", seed=1), sae_of(seed=1)), ids(model_of("llama"), sae_of(seed=2))):
        assert other[0] == one[0]
        assert other[1] != one[1]


def test_two_tokenizers_have_two_hashes(llama: InterpretableModel, tokenizer: Any) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    text = tokenizer.backend_tokenizer.to_str().replace('"</s>"', '"<|end|>"')
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), bos_token="<s>", eos_token="<|end|>")
    assert InterpretableModel(llama.model, other).tokenizer_sha256 != llama.tokenizer_sha256
    assert InterpretableModel(llama.model, tokenizer).tokenizer_sha256 == llama.tokenizer_sha256


def test_a_model_in_a_folder_runs_as_the_one_in_memory(
    llama_folder: Path, llama: InterpretableModel, sae_folder: Path
) -> None:
    loaded = InterpretableModel.load(llama_folder)
    weights = dict(tree_flatten(loaded.model.parameters()))
    assert all(mx.array_equal(weights[k], v) for k, v in tree_flatten(llama.model.parameters()))
    program = "at L0.mlp ablate f1..9\nrun\ngenerate 5"
    a, b = (lm.run(program, prompts=TEXTS, saes={"L0.mlp": sae_folder}) for lm in (loaded, llama))
    assert a.program_id != b.program_id  # a program says which model it is for
    for p, q in zip(a.prompts, b.prompts, strict=True):
        assert np.array_equal(p.edited.logits, q.edited.logits)
        assert (p.edited.token_ids, p.token_ids) == (q.edited.token_ids, q.token_ids)


def test_a_tokenizer_of_mlx_lm_and_one_of_transformers_do_the_same(llama: InterpretableModel, tokenizer: Any) -> None:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    wrapped = InterpretableModel(llama.model, TokenizerWrapper(tokenizer))
    assert wrapped.encoder.encode(TEXTS[0]) == llama.encoder.encode(TEXTS[0])
    assert wrapped.stop_tokens == llama.stop_tokens == {1}
    assert wrapped.tokenizer_sha256 == llama.tokenizer_sha256


# Traces ------------------------------------------------------------------------------------------------------------


def test_a_trace_gives_output_activations_and_firings(
    llama: InterpretableModel, reference_of: References, sae_of: SAEs, plain: Plain
) -> None:
    sae = sae_of(seed=1)
    with llama.trace(TEXTS[0], "at L0.mlp set f1 = 2\nrecord L0.mlp.f1", saes={"L0.mlp": sae}) as t:
        pass
    ids = [int(i) for i in np.array(t.tokens[0])]
    edit = oracle.Edit("L0.mlp", "set", (2,), range(len(ids)), [1], plain(sae))
    expected, seen = reference_of("llama").forward(ids, [edit])
    np.testing.assert_allclose(np.array(t.output[0]), expected, rtol=1e-4, atol=1e-4)
    for site in ("L0.mlp", "L1.attn.z", "L1.resid", "final"):  # the forward runs again for what it did not keep
        known = site.replace("resid", "resid_post")
        np.testing.assert_allclose(np.array(t.activations[site][0]), seen[known], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.array(t.activations["L0.mlp.f1"][0]), [2.0] * len(ids), rtol=1e-6)
    ((firing,),) = t.firings
    assert (firing.positions, firing.changed) == (9, 9)
    assert set(t.activations) == {str(s) for s in llama.info.sites}
    for wrong in ("L7.mlp", "L0.mlpp", "L0.mlp.f2"):
        with pytest.raises(KeyError):
            t.activations[wrong]


def test_an_error_inside_the_block_of_a_trace_is_the_callers(llama: InterpretableModel) -> None:
    with pytest.raises(ZeroDivisionError), llama.trace(TEXTS[0]):
        raise ZeroDivisionError


BAD_PROMPTS: list[tuple[Any, str]] = [
    ([], "a prompt is text, or token ids"),
    ([1.5], "a prompt is text, or token ids"),
    (mx.zeros((1, 1, 2), mx.int32), "a prompt is text, or token ids"),
    ([5, 999], "token ids go from 0 to 284, these from 5 to 999"),
    ([-1], "token ids go from 0 to 284, these from -1 to -1"),
]


@pytest.mark.parametrize(("prompt", "said"), BAD_PROMPTS)
def test_impossible_tokens_are_refused(prompt: Any, said: str, llama: InterpretableModel) -> None:
    with pytest.raises(RunError, match=said), llama.trace(prompt):
        pass


# Mistakes ----------------------------------------------------------------------------------------------------------


def test_every_mistake_of_a_program_is_in_the_error(llama: InterpretableModel) -> None:
    with pytest.raises(ProgramError) as e:
        llama.run("at L9.mlp ablate\nat L0.mlp ablate f1", prompts=TEXTS[0])
    assert [d.code for d in e.value.diagnostics] == ["S304", "S309"]
    assert "did you mean L1.mlp?" in str(e.value)


def test_an_edit_that_makes_nan_is_a_run_error(llama: InterpretableModel, sae_of: SAEs) -> None:
    with pytest.raises(RunError, match="not finite"):
        llama.run("at L0.mlp add 1e39 f1", prompts=TEXTS[0], saes={"L0.mlp": sae_of()})


def test_a_prompt_that_ends_the_text_at_once_has_an_empty_continuation(
    bare: Callable[..., nn.Module], tokenizer: Any
) -> None:
    model = bare("llama")
    only_stop = mx.zeros_like(model.lm_head.weight)
    lm = InterpretableModel(model, tokenizer)
    direction = lm.activations(mx.array([lm.encoder.encode("a").ids]), [Site(None, "final")])[Site(None, "final")][
        0, -1
    ]
    only_stop[1] = direction
    model.lm_head.weight = only_stop
    (p,) = lm.run("record L0.mlp\ngenerate 3", prompts="a").prompts
    assert (p.baseline.text, p.baseline.token_ids) == ("", ())
    assert p.baseline.activations["L0.mlp"].shape[0] == len(p.token_ids)


def test_nan_in_the_middle_of_a_generation_is_an_error(llama: InterpretableModel, sae_of: Callable[..., SAE]) -> None:
    with pytest.raises(RunError, match="not finite"):
        llama.run("at L0.mlp add 1e39 f1 @ gen\ngenerate 4", prompts=TEXTS[0], saes={"L0.mlp": sae_of()})


def test_a_model_folder_with_a_weight_missing_is_refused(
    tmp_path: Path, write_model: Callable[[Path, str], Path]
) -> None:
    folder = write_model(tmp_path / "m", "llama")
    weights = mx.load(str(folder / "model.safetensors"))
    del weights["model.layers.1.mlp.down_proj.weight"]  # type: ignore[union-attr]
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="cannot be loaded"):
        InterpretableModel.load(folder)


# A trained model ---------------------------------------------------------------------------------------------------


def test_a_trained_model_agrees_with_numpy(stories: InterpretableModel) -> None:
    weights = {
        name: np.array(value.astype(mx.float32)).astype(np.float64)
        for name, value in tree_flatten(stories.model.parameters())
    }
    config = {k: v for k, v in vars(stories.model.args).items() if not k.startswith("_")}
    reference = oracle.Model(weights, config)
    result: Result = stories.run(
        "at L2.mlp ablate\nat L3.attn.z amplify x2 @ prompt[-1]\nrun\ngenerate 20", prompts="Once upon a time"
    )
    ran, made = result.prompts
    n = len(ran.token_ids)
    edits = [oracle.Edit("L2.mlp", "ablate", (), range(n + 20)), oracle.Edit("L3.attn.z", "amplify", (2,), [n - 1])]
    np.testing.assert_allclose(ran.edited.logits, reference.forward(ran.token_ids, edits)[0][-1], rtol=1e-4, atol=1e-4)
    assert list(made.edited.token_ids) == reference.generate(made.token_ids, 20, edits)[: len(made.edited.token_ids)]
    assert list(made.baseline.token_ids) == reference.generate(made.token_ids, 20)[: len(made.baseline.token_ids)]


@pytest.mark.parametrize(
    "program",
    [
        'prompt a = "Hi"\nat L0.mlp ablate @ last\nrun a',
        "run\nat L0.mlp ablate @ prompt[-1]",
        "at L0.mlp ablate @ prompt[-1]\ngenerate 5",
    ],
)
@pytest.mark.filterwarnings("ignore::saedsl.errors.SaedslWarning")  # of `generate`
def test_a_trace_takes_the_edits_of_a_program_and_not_its_prompts_and_runs(
    program: str, llama: InterpretableModel
) -> None:
    with llama.trace(TEXTS[0], program) as t, llama.trace(TEXTS[0]) as plain:
        changed = np.array(mx.any(t.activations["L0.mlp"] != plain.activations["L0.mlp"], axis=-1))[0]
    assert np.flatnonzero(changed).tolist() == [len(changed) - 1]


def test_what_is_no_program_prompt_or_tokenizer_is_named(llama: InterpretableModel) -> None:
    with pytest.raises(TypeError, match=r"a program is text, the Path of a file, or a saedsl.script\(\); this is int"):
        llama.run(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a prompt is text, this is int"):
        llama.run("run", prompts=[1, 2])  # type: ignore[list-item]
    with pytest.raises(RunError, match="the rows of a batch of token ids must be equally long"):
        llama.rows([[1, 2], [3]])  # type: ignore[list-item]
    with pytest.raises(ModelError, match="this NoneType is not a tokenizer"):
        InterpretableModel(llama.model, None)


def test_a_folder_that_training_could_not_write_is_refused_before_training(
    llama: InterpretableModel, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SAEError, match=r"holds mine\.txt"):
        llama.train_sae(0, "mlp", TEXTS, save_path=tmp_path)
