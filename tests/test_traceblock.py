"""The roadmap's trace block: edits said in Python, one forward when the block ends, the text's own hash."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.errors import ProgramError, RunError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE

PROMPT = "The cat sat on the mat"


@pytest.fixture
def sae(sae_of: Callable[..., SAE]) -> SAE:
    return sae_of(site="L1.mlp", seed=3)


def test_the_roadmaps_block_as_it_is_written(llama: InterpretableModel, sae: SAE) -> None:
    model = llama
    with model.trace(PROMPT) as trace:
        model.ablate_sae_feature(
            sae=sae,
            layer=1,
            component="mlp",
            feature_id=7,
        )
        output_ablated = model.output.save()
    with model.trace(PROMPT) as trace:
        model.amplify_sae_feature(
            sae=sae,
            layer=1,
            component="mlp",
            feature_id=7,
            strength=2.0,
        )
        output_amplified = model.output.save()
    for edit, saved in (("ablate f7", output_ablated), ("amplify f7 x2", output_amplified)):
        with model.trace(PROMPT, f"at L1.mlp {edit}", saes={"L1.mlp": sae}) as text:
            pass
        assert np.array_equal(np.array(text.output), np.array(saved.value))
    assert text.plan.program_id == trace.plan.program_id
    with model.trace(PROMPT) as plain:
        pass
    assert not np.array_equal(np.array(plain.output), np.array(output_ablated.value))


def test_every_method_says_what_the_text_says(llama: InterpretableModel, sae: SAE) -> None:
    def both(m: InterpretableModel) -> None:
        m.ablate_feature(sae, 7)
        m.amplify_feature(sae, 8, 3)

    said: dict[str, Callable[[InterpretableModel], Any]] = {
        "ablate f7": lambda m: m.ablate_feature(sae, 7),
        "ablate {f1, f3}": lambda m: m.ablate_feature(sae, [1, 3]),
        "ablate {f2, f4}": lambda m: m.ablate_feature(sae, np.array([2, 4])),  # type: ignore[arg-type]
        "ablate f5": lambda m: m.ablate_feature(sae, np.int64(5)),  # type: ignore[arg-type]
        "amplify f7 x-1": lambda m: m.amplify_feature(sae, 7, -1),
        "set f7 = 3": lambda m: m.activate_feature(sae, 7, 3),
        "set f7 = 3 @ prompt[-1]": lambda m: m.activate_feature(sae, 7, strength=3, positions="prompt[-1]"),
        "set f7 = 4": lambda m: m.activate_sae_feature(sae, layer=1, component="mlp", feature_id=7, strength=4),
        "ablate f7; amplify f8 x3": both,
    }
    for text, say in said.items():
        with llama.trace(PROMPT) as block:
            say(llama)
        with llama.trace(PROMPT, f"at L1.mlp {text}", saes={"L1.mlp": sae}) as same:
            pass
        assert block.plan.program_id == same.plan.program_id, text


@pytest.mark.parametrize("given", [-1, [], [1, -2], "f1", 1.5, None])
def test_what_is_no_feature_number_is_said(llama: InterpretableModel, sae: SAE, given: Any) -> None:
    with pytest.raises(RunError, match="a feature is given by its number"), llama.trace(PROMPT):
        llama.ablate_feature(sae, given)


def test_the_builder_of_a_trace_and_its_program_add_up(llama: InterpretableModel, sae: SAE) -> None:
    with llama.trace(PROMPT, "at L1.mlp ablate g.f7", saes={"g": sae}) as block:
        block.at("L0.mlp", positions="prompt[-1]").amplify(None, 2)
        llama.amplify_feature(sae, 8, 3)  # known as g
    text = "at L1.mlp ablate g.f7; amplify g.f8 x3\nat L0.mlp @ prompt[-1] amplify x2"
    with llama.trace(PROMPT, text, saes={"g": sae}) as same:
        pass
    assert block.plan.program_id == same.plan.program_id
    assert np.array_equal(np.array(block.output), np.array(same.output))


def test_activations_and_features_are_saved_in_one_forward(
    llama: InterpretableModel, sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    inner = type(llama.model.model.embed_tokens)
    call = inner.__call__

    def counted(self: Any, x: mx.array) -> mx.array:
        runs.append(1)
        return mx.array(call(self, x))

    monkeypatch.setattr(inner, "__call__", counted)
    with llama.trace(PROMPT) as block:
        llama.ablate_feature(sae, 7)
        mlp = llama.sites["L1.mlp"].save()
        last = llama.sites["L0.resid_post"][0, -1].save()
        also = llama.activation("L1.mlp").save()
        feature = llama.activation("L1.mlp.f8").save()
        logits = llama.output[0, -1].save()
    assert len(runs) == 1
    n = block.tokens.shape[1]
    assert (mlp.shape, last.shape, feature.shape) == ((1, n, 32), (32,), (1, n))
    assert np.array_equal(np.array(mlp), np.array(also))
    assert np.array_equal(np.array(mlp), np.array(block.activations["L1.mlp"]))
    assert np.array_equal(np.array(logits), np.array(block.output[0, -1]))
    assert list(llama_sites(llama)) == [str(s) for s in llama.info.sites]


def llama_sites(model: InterpretableModel) -> list[str]:
    with model.trace(PROMPT):
        return list(model.sites)


def test_a_saved_value_behaves_like_its_array(llama: InterpretableModel) -> None:
    with llama.trace(PROMPT):
        saved = llama.output[0, -1].save()
    x = saved.value
    assert isinstance(x, mx.array)
    assert (saved.shape, saved.dtype, len(saved)) == (x.shape, x.dtype, x.shape[0])
    for got, want in [
        (saved + 1, x + 1), (1 + saved, x + 1), (saved - saved, x - x), (2 - saved, 2 - x), (saved * 2, x * 2),
        (x * saved, x * x), (saved / 2, x / 2), (1 / saved, 1 / x), (-saved, -x), (abs(saved), mx.abs(x)),
        (saved**2, x**2), (saved @ saved, x @ x), (saved[3], x[3]), (saved.max(), x.max()), (mx.array(saved), x),
        (np.asarray(saved), x),
    ]:  # fmt: skip
        assert np.array_equal(np.array(got), np.array(want), equal_nan=True)
    assert float(saved[0]) == x[0].item()
    with llama.trace(PROMPT):
        one = llama.output[0, -1, 0].save()
    assert float(one) == one.value.item()
    assert repr(one).startswith("Saved(array(")


def test_a_value_is_not_there_before_its_block_has_ended(llama: InterpretableModel) -> None:
    with llama.trace(PROMPT):
        saved = llama.output.save()
        assert "whose forward has not run" in repr(saved)
        for read in (
            lambda: saved.value,
            lambda: saved.shape,
            lambda: saved + 1,
            lambda: saved[0],
            lambda: saved.max(),
        ):
            with pytest.raises(RunError, match="this value is there when the"):
                read()
    assert saved.shape[0] == 1


def test_a_block_that_ends_with_an_error_runs_nothing(llama: InterpretableModel) -> None:
    with pytest.raises(ZeroDivisionError), llama.trace(PROMPT):  # noqa: PT012
        saved = llama.output.save()
        _ = 1 / 0
    with pytest.raises(RunError, match="this value was never computed: the trace ended with ZeroDivisionError"):
        _ = saved.value
    with pytest.raises(RunError, match="none is open here"):
        _ = llama.output


def test_outside_a_trace_the_block_is_shown(llama: InterpretableModel, sae: SAE) -> None:
    for name, use in {
        "model.output": lambda: llama.output,
        "model.sites": lambda: llama.sites,
        "model.activation": lambda: llama.activation("L1.mlp"),
        "model.ablate_feature": lambda: llama.ablate_feature(sae, 7),
        "model.amplify_sae_feature": lambda: llama.amplify_sae_feature(
            sae, layer=1, component="mlp", feature_id=7, strength=2
        ),
    }.items():
        with pytest.raises(RunError) as e:
            use()  # type: ignore[no-untyped-call]
        assert str(e.value) == (
            f"{name} belongs to a trace of this model, and none is open here:\n\n"
            '    with model.trace("The capital of France is") as trace:\n'
            "        model.ablate_feature(sae, 42)\n"
            "        out = model.output.save()"
        )


def test_edits_after_the_forward_are_refused(llama: InterpretableModel, sae: SAE) -> None:
    with llama.trace(PROMPT) as block:
        _ = block.output
        with pytest.raises(RunError, match="the forward of this trace has run: name edits before"):
            llama.ablate_feature(sae, 7)
    with pytest.raises(RunError, match="this trace's block is not open"):
        block.at("L1.mlp")
    with pytest.raises(RunError, match="a trace is for one `with`"), block:
        pass


def test_traces_nest_and_belong_to_their_model(
    llama: InterpretableModel, sae: SAE, model_of: Callable[..., InterpretableModel]
) -> None:
    other = model_of("llama", seed=1)
    with llama.trace(PROMPT) as outer:
        with other.trace(PROMPT) as inner:
            llama.ablate_feature(sae, 7)  # of the outer trace: this model's
            with llama.trace(PROMPT) as innermost:
                llama.amplify_feature(sae, 8, 2)
        assert other is not llama
    assert [b.script.text for b in (outer, inner, innermost)] == [
        "at L1.mlp ablate f7\n", "", "at L1.mlp amplify f8 x2\n",
    ]  # fmt: skip


def test_a_trace_is_of_its_own_thread(llama: InterpretableModel) -> None:
    raised: list[str] = []

    def use() -> None:
        try:
            _ = llama.output
        except RunError as e:
            raised.append(str(e).split(":")[0])

    with llama.trace(PROMPT):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert raised == ["model.output belongs to a trace of this model, and none is open here"]


def test_two_dictionaries_of_one_site_need_names(llama: InterpretableModel, sae_of: Callable[..., SAE]) -> None:
    a, b = sae_of(site="L1.mlp", seed=3), sae_of(site="L1.mlp", seed=4)
    with llama.trace(PROMPT):
        llama.ablate_feature(a, 7)
        with pytest.raises(RunError, match=r"another dictionary is bound to L1\.mlp in this trace"):
            llama.ablate_feature(b, 7)
    with llama.trace(PROMPT, saes={"a": a, "b": b}) as named:
        llama.ablate_feature(a, 7)
        llama.ablate_feature(b, 8)
    with llama.trace(PROMPT, "at L1.mlp ablate a.f7; ablate b.f8", saes={"a": a, "b": b}) as text:
        pass
    assert named.plan.program_id == text.plan.program_id


def test_a_dictionary_that_does_not_say_its_site_needs_one(
    llama: InterpretableModel, sae_of: Callable[..., SAE]
) -> None:
    nowhere = sae_of()
    with llama.trace(PROMPT) as block:
        with pytest.raises(RunError, match="this dictionary does not say where it belongs"):
            llama.ablate_feature(nowhere, 7)
        llama.ablate_sae_feature(nowhere, layer=1, component="mlp", feature_id=7)
    assert block.script.text == "at L1.mlp ablate f7\n"


def test_a_mistake_is_shown_at_the_line_that_says_it(llama: InterpretableModel, sae: SAE) -> None:
    with pytest.raises(ProgramError) as e, llama.trace(PROMPT) as block:  # noqa: PT012
        block.at("L17.mlp").ablate()
        llama.ablate_feature(sae, 999)
    places = [d.to_json()["span"] for d in e.value.diagnostics]
    lines = Path(__file__).read_text().splitlines()
    assert [lines[p["line"] - 1].strip() for p in places] == [
        'block.at("L17.mlp").ablate()', "llama.ablate_feature(sae, 999)",
    ]  # fmt: skip
    assert all(p["file"].endswith("test_traceblock.py") for p in places)
    first = lines[places[0]["line"] - 1]
    assert first[places[0]["column"] - 1 :].startswith("L17")


@pytest.mark.filterwarnings("ignore::saedsl.errors.SaedslWarning")  # f42 is silent on this text
def test_the_bundled_dictionary_is_itself_when_it_is_given() -> None:
    model = InterpretableModel.load("demo")
    with model.trace("The capital of France is") as block:
        model.ablate_feature(model.dictionary("L2.mlp"), 42)
    with model.trace("The capital of France is", "at L2.mlp ablate f42") as text:
        pass
    assert block.plan.program_id == text.plan.program_id


def test_a_mistake_in_a_run_is_shown_in_the_string_that_holds_it(llama: InterpretableModel) -> None:
    with pytest.raises(ProgramError) as e:
        llama.run(
            """
            at L0.mlp ablate
            at L17.mlp ablate
            """,
            prompts=PROMPT,
        )
    (mistake,) = e.value.diagnostics
    place = mistake.to_json()["span"]
    lines = Path(__file__).read_text().splitlines()
    assert place["file"].endswith("test_traceblock.py")
    assert lines[place["line"] - 1] == "            at L17.mlp ablate"
    assert place["column"] == 16
    with pytest.raises(ProgramError) as e:
        llama.run("at L" + str(9 + 7) + ".mlp ablate", prompts=PROMPT)  # no string spells it
    assert e.value.diagnostics[0].to_json()["span"]["file"] == "<program>"
