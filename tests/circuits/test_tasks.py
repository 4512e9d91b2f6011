"""Prompts, dictionaries and metrics of effects: what they mean, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.circuits.metric import Custom, TokenDifference, logit_difference, metric_of
from saedsl.circuits.pairs import pairs_of
from saedsl.circuits.splice import placed
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE

SAEOf = Callable[..., SAE]


def logits(rows: int = 3, seq: int = 5, d_vocab: int = 285) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, seq, d_vocab)).astype(np.float32)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def test_token_differences_are_their_definitions() -> None:
    x = logits()
    lp = log_softmax(x[:, -1])
    one = TokenDifference(((4,),), ((8,),))
    np.testing.assert_allclose(one(mx.array(x), [0, 0, 0], mx.array(x)), x[:, -1, 4] - x[:, -1, 8], atol=1e-5)
    several = TokenDifference(((4, 5), (6,)), ((8,), (9, 10, 11)), "logprob")
    expected = [
        lp[0, [4, 5]].mean() - lp[0, 8],
        lp[1, 6] - lp[1, [9, 10, 11]].mean(),
        lp[2, 6] - lp[2, [9, 10, 11]].mean(),
    ]
    np.testing.assert_allclose(several(mx.array(x), [0, 1, 1], mx.array(x)), expected, atol=1e-5)
    sure = TokenDifference(((4, 5),), of="prob", position=2)
    p = np.exp(log_softmax(x[:, 2]))
    np.testing.assert_allclose(sure(mx.array(x), [0, 0, 0], mx.array(x)), p[:, [4, 5]].sum(axis=-1), atol=1e-6)


@pytest.mark.parametrize(("text", "expected"), [
    ('logit(" cat") - logit(" dog")', lambda x, lp, q, c, d, ids: x[-1, c] - x[-1, d]),
    ('2 * logprob(" cat") @ prompt[1]', lambda x, lp, q, c, d, ids: 2 * lp[1, c]),
    ('prob(" cat") / prob(" dog")', lambda x, lp, q, c, d, ids: np.exp(lp[-1, c] - lp[-1, d])),
    ("kl() @ prompt[1..2]", lambda x, lp, q, c, d, ids: (np.exp(q) * (q - lp)).sum(axis=-1)[1:3].mean()),
    ("ce() @ prompt[1..2]", lambda x, lp, q, c, d, ids: -(lp[1, ids[2]] + lp[2, ids[3]]) / 2),
])  # fmt: skip
def test_metrics_of_the_language_are_their_definitions(text: str, expected: Any, llama: InterpretableModel) -> None:
    pairs = pairs_of(llama, ["the cat sat", "the dog sat"])
    (c,), (d,) = llama.encoder.ids(" cat"), llama.encoder.ids(" dog")
    metric = metric_of(llama, text, pairs)
    assert metric.text == text
    x, clean, prompts = logits(3, pairs.length), logits(2, pairs.length)[:, ::-1].copy(), [1, 0, 1]
    found = np.array(metric(mx.array(x), prompts, mx.array(clean)))
    for row, prompt in enumerate(prompts):
        want = expected(x[row], log_softmax(x[row]), log_softmax(clean[prompt]), c, d, pairs.clean[prompt].ids)
        assert found[row] == pytest.approx(want, abs=1e-4)


def test_the_metric_is_what_the_language_measures(llama: InterpretableModel) -> None:
    text = 'logit(" cat") - 3 * logprob(" dog")'
    prompt = "the cat sat on"
    measured = llama.run(f"metric m = {text}\nrun", prompts=prompt).prompts[0].metrics["m"].baseline
    pairs = pairs_of(llama, prompt)
    x = llama.forward(pairs.ids)[0]
    assert float(metric_of(llama, text, pairs)(x, [0], x)[0]) == pytest.approx(measured, abs=1e-4)


def test_answers_can_differ_by_prompt(llama: InterpretableModel) -> None:
    (c,), (d,) = llama.encoder.ids(" cat"), llama.encoder.ids(" dog")
    one = logit_difference(llama, " cat", " dog")
    assert (one.answers, one.wrongs, one.text) == (((c,),), ((d,),), 'logit(" cat") - logit(" dog")')
    each = logit_difference(llama, [" cat", [" dog", " cat"]], [" dog", " sat"], of="prob", position=2)
    assert each.answers == ((c,), (d, c))
    assert each.text == "prob(io.answer) - prob(io.wrong) @ prompt[2]"


@pytest.mark.parametrize(("metric", "message"), [
    ('logit("', "the metric 'logit(\"' cannot be read:"),
    ("norm(L0.mlp)", "the metric 'norm(L0.mlp)' reads norm() inside the model; effects are of what it predicts"),
    ('logprob("a cat")', "the metric 'logprob(\"a cat\")': 'a cat' is several tokens; effects are of one prediction"),
    (3, "a metric is a text such as"),
    (TokenDifference(((1,), (2,))), "the metric has answers for 2 prompts; there are 1"),
    (TokenDifference(((1,),), position=99), "the metric is read at"),
])  # fmt: skip
def test_impossible_metrics_are_refused(metric: Any, message: str, llama: InterpretableModel) -> None:
    with pytest.raises(CircuitError) as error:
        metric_of(llama, metric, pairs_of(llama, "the cat sat"))
    assert message in str(error.value)


@pytest.mark.parametrize(("answers", "message"), [
    ("a cat", "the metric needs one token; 'a cat' is 2: 'a' ' cat'"),
    ([], 'the metric has no answers: give a right token, such as " Paris"'),
])  # fmt: skip
def test_impossible_answers_are_refused(answers: Any, message: str, llama: InterpretableModel) -> None:
    with pytest.raises(CircuitError) as error:
        logit_difference(llama, answers)
    assert str(error.value) == message


def test_a_function_is_a_metric(llama: InterpretableModel) -> None:
    metric = metric_of(llama, lambda x: x[:, -1, 4], pairs_of(llama, "the cat"))
    assert isinstance(metric, Custom)
    assert "lambda" in metric.text


@pytest.mark.parametrize(("clean", "corrupt", "message"), [
    ([], None, "there are no clean prompts"),
    ("", None, "the clean prompt is empty: give it a token besides BOS"),
    (["the cat", ""], None, "the clean prompt 2 is empty: give it a token besides BOS"),
    ("the cat", [], "there are no corrupt prompts"),
    ("the cat", ["a dog", "a cat"], "there are 1 clean and 2 corrupt prompts; each clean one has its own corrupt one"),
    ([[0, 900]], None, "clean prompts: token ids go from 0 to 284, these from 0 to 900"),
    ([[0.5, 1.0]], None, "clean prompts: a prompt is text, or token ids [seq] or [batch, seq], at least one"),
    ("a cat", "a cat", "the corrupt prompts are the clean ones: nothing differs, so nothing has an effect"),
    ("a cat", "a cat sat", "the clean and the corrupt prompt have different numbers of tokens, so their positions "
     "do not correspond\n  clean, 3 tokens: '<s>' 'a' ' cat'\n  corrupt, 4 tokens: '<s>' 'a' ' cat' ' sat'"),
    (["a cat", "a cat sat"], None, "the prompts of a batch are equally long, so that positions mean the same; "
     "  prompt 1, 3 tokens: '<s>' 'a' ' cat'\n  prompt 2, 4 tokens: '<s>' 'a' ' cat' ' sat'"),
    (["a cat", "a dog"], ["a mat", "a mat sat"], "the clean and the corrupt prompt of pair 2 have"),
])  # fmt: skip
def test_impossible_prompts_are_refused(clean: Any, corrupt: Any, message: str, llama: InterpretableModel) -> None:
    with pytest.raises(CircuitError) as error:
        pairs_of(llama, clean, corrupt)
    assert message in str(error.value)


def test_prompts_are_texts_or_ids(llama: InterpretableModel) -> None:
    ids = list(llama.encoder.encode("the cat").ids)
    for given in ("the cat", ["the cat"], ids, [ids], mx.array([ids])):
        assert pairs_of(llama, given).clean[0].ids == tuple(ids)


def test_bos_is_left_out_where_either_prompt_has_it(llama: InterpretableModel) -> None:
    pairs = pairs_of(llama, [[0, 5, 6], [5, 6, 7]], [[0, 5, 9], [0, 6, 7]])
    assert pairs.allowed(False).tolist() == [[False, True, True], [False, True, True]]
    assert pairs.allowed(True).all()


@pytest.mark.parametrize(("saes", "message"), [
    ([], "there are no dictionaries: without them there are no features"),
    ([{}], 'a dictionary does not say which site it was trained on; say it: {"L2.mlp": sae}'),
    ([{"site": "L0.mlp"}, {"site": "L0.mlp", "seed": 1}], "two dictionaries write L0.mlp: effects at one site are of"),
    ([{"site": "L0.mlp", "d_in": 24}], "the dictionary reads vectors of 24 numbers, L0.mlp of tiny-llama has 32"),
    ([{"site": "L7.mlp"}], "L7.mlp: the dictionary reads L7.mlp; tiny-llama has 2 layers, from L0"),
    ([{"site": "L0.mlp", "model_name": "gpt2-small"}], "L0.mlp: the dictionary was trained on the model gpt2-small, "
     "this is tiny-llama; if they are the same, say so: sae.with_config(model_name=None)"),
    ([{"sites": ("L0.mlp", "L1.mlp"), "d_in": 64}], "a crosscoder reads or writes several sites"),
])  # fmt: skip
def test_impossible_dictionaries_are_refused(
    saes: Sequence[dict[str, Any]], message: str, llama: InterpretableModel, sae_of: SAEOf
) -> None:
    with pytest.raises(CircuitError) as error:
        placed(llama.info, [sae_of(**given) for given in saes])
    assert message in str(error.value)


def test_a_dictionary_given_for_another_site_is_refused(llama: InterpretableModel, sae_of: SAEOf) -> None:
    with pytest.raises(CircuitError) as error:
        placed(llama.info, {"L1.mlp": sae_of(site="L0.mlp")})
    assert str(error.value) == "L1.mlp: the dictionary given for it was trained on L0.mlp; give it as 'L0.mlp'"
    with pytest.raises(CircuitError, match="'nowhere' is not a site"):
        placed(llama.info, {"nowhere": sae_of(site="L0.mlp")})
    with pytest.raises(CircuitError, match=r"L0\.mlp: this str is no dictionary"):
        placed(llama.info, {"L0.mlp": "folder"})  # type: ignore[dict-item]


def test_a_dictionary_without_a_site_is_placed_by_its_key(llama: InterpretableModel, sae_of: SAEOf) -> None:
    (place,) = placed(llama.info, {"L1.resid": sae_of()})
    assert place.name == "L1.resid_post"
    (place,) = placed(llama.info, {"L1.mlp": sae_of(site="L1.mlp", read="L1.mlp.in")})
    assert (str(place.read), str(place.write), place.kind) == ("L1.mlp.in", "L1.mlp", "transcoder")
