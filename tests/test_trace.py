"""Generation against the numpy re-computation, and: whatever happens, the model is as it was."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from saedsl import anatomy
from saedsl.anatomy import FAMILIES, Family, ModelInfo
from saedsl.errors import ModelError
from saedsl.execute import StepFunctions
from saedsl.generation import generate
from saedsl.lanes import Row
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.trace import Frame, Hooks, verify
from tests import oracle

Models = Callable[..., InterpretableModel]
References = Callable[[str], oracle.Model]
SAEs = Callable[..., SAE]
Plain = Callable[[SAE], oracle.Dictionary]

TEXT = "The cat sat on the mat on a dog"
"""12 tokens."""
N = 12
MADE = 9
GEN = range(N, N + MADE)


# Generation --------------------------------------------------------------------------------------------------------


def prepared(
    lm: InterpretableModel, program: str, saes: Mapping[str, SAE]
) -> tuple[Hooks, StepFunctions, tuple[int, ...]]:
    """The hooks of a program's last step, as `InterpretableModel.run` makes them."""
    plan = lm.plan(program, prompts=TEXT, saes=saes)
    step = plan.steps[-1]
    weights = {d.name: saes[d.name] for d in plan.program.used}
    functions = StepFunctions([Row(step.step, step.prompts[0])], plan.program, weights)
    return (
        Hooks(lm.model, lm.info, functions.functions, functions.captures),
        functions,
        step.prompts[0].tokens.ids,
    )


def continued(
    lm: InterpretableModel, program: str, saes: Mapping[str, SAE], prefill: int
) -> tuple[list[int], list[Any], list[Frame], StepFunctions]:
    hooks, functions, ids = prepared(lm, program, saes)
    tokens, logprobs, frames = [], [], []
    for made in generate(hooks, [ids], MADE, prefill=prefill):
        tokens += made.tokens
        logprobs.append(np.array(made.logprobs[0]))
        frames += made.frames
    return tokens, logprobs, frames, functions


POSITIONS: list[tuple[str, Sequence[int]]] = [
    ("", range(1, N + MADE)),
    ("@ everywhere", range(N + MADE)),
    ("@ prompt[-1]", [N - 1]),
    ("@ prompt", range(1, N)),
    ("@ gen", GEN),
    ("@ gen[0]", [N]),
    ("@ gen[2..4]", [N + 2, N + 3, N + 4]),
    ("@ last", [N - 1, *GEN]),
    ("@ bos", [0]),
    ('@ " cat" | gen[1]', [4, N + 1]),
    ("@ all except gen[3..5]", [*range(1, N + 3), *range(N + 6, N + MADE)]),
    ('@ every " on"', [6, 9]),
]


@pytest.mark.parametrize(("where", "positions"), POSITIONS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generation_with_a_cache_is_the_oracles_without(
    family: str,
    where: str,
    positions: Sequence[int],
    model_of: Models,
    reference_of: References,
    sae_of: SAEs,
    plain: Plain,
) -> None:
    lm, reference = model_of(family), reference_of(family)
    saes = {
        "L0.mlp": sae_of(seed=1, trained_on_bos=False),
        "L1.mlp": sae_of(activation="topk", seed=2, trained_on_bos=False),
    }
    edits = [
        oracle.Edit("L0.mlp", "set", (4,), positions, [3, 4, 5], plain(saes["L0.mlp"])),
        oracle.Edit("L1.mlp", "amplify", (-3,), positions, range(40), plain(saes["L1.mlp"])),
        oracle.Edit("L1.attn.z", "amplify", (2,), [N - 1]),
    ]
    program = (
        f"at L0.mlp set f3..5 = 4 {where}\nat L1.mlp amplify all x -3 {where}\nat L1.attn.z amplify x2 @ prompt[-1]"
    )
    tokens, logprobs, frames, functions = continued(lm, f"{program}\ngenerate {MADE}", saes, prefill=512)
    ids = lm.encoder.encode(TEXT).ids
    logits, _ = reference.forward([*ids, *tokens], edits)
    expected = oracle.log_softmax(logits)
    for i, (token, lp) in enumerate(zip(tokens, logprobs, strict=True)):
        assert token == expected[N - 1 + i].argmax()
        np.testing.assert_allclose(lp, expected[N - 1 + i], rtol=1e-4, atol=1e-4)
    read = N + MADE - 1  # the last token is made but never read
    assert sum(f.length for f in frames) == read
    once = {f.edit: f.positions for f in functions.firings(frames, 0)}
    acted = sum(p < read for p in positions)
    assert once == {
        f"at L0.mlp set f3..5 = 4{where and ' ' + where}": acted,
        f"at L1.mlp amplify all x -3{where and ' ' + where}": acted,
        "at L1.attn.z amplify x2 @ prompt[-1]": 1,
    }
    for prefill in (1, 2, 5):  # a prompt in pieces: the same tokens, each position edited once
        again, chunked, pieces, _ = continued(lm, f"{program}\ngenerate {MADE}", saes, prefill)
        assert again == tokens
        assert [f.length for f in pieces][:2] == [prefill, min(prefill, N - 1 - prefill)]
        for a, b in zip(chunked, logprobs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_records_of_generation_are_the_oracles(
    llama: InterpretableModel, reference_of: References, sae_of: SAEs, plain: Plain
) -> None:
    sae = sae_of(seed=3)
    program = (
        f"at L0.mlp amplify f1..5 x2 @ gen\nrecord L1.resid @ gen\nrecord L0.mlp.f9, L0.mlp.f2 @ last\ngenerate {MADE}"
    )
    tokens, _, frames, functions = continued(llama, program, {"L0.mlp": sae}, prefill=3)
    recorded = functions.recorded(frames, 0)
    d = plain(sae)
    edits = [oracle.Edit("L0.mlp", "amplify", (2,), GEN, [1, 2, 3, 4, 5], d)]
    ids = [*llama.encoder.encode(TEXT).ids, *tokens[:-1]]
    _, seen = reference_of("llama").forward(ids, edits)
    np.testing.assert_allclose(recorded["L1.resid_post"], seen["L1.resid_post"][N:], rtol=1e-4, atol=1e-4)
    f = d.encode(reference_of("llama").forward(ids)[1]["L0.mlp"])  # nothing upstream is edited
    np.testing.assert_allclose(recorded["L0.mlp.f9"], f[N - 1 :, 9], rtol=1e-4, atol=1e-4)
    doubled = np.where(np.arange(N - 1, N + MADE - 1) >= N, 2, 1)
    np.testing.assert_allclose(recorded["L0.mlp.f2"], f[N - 1 :, 2] * doubled, rtol=1e-4, atol=1e-4)


def test_a_stop_token_ends_generation_and_is_the_last_that_is_yielded(llama: InterpretableModel) -> None:
    hooks, _, ids = prepared(llama, "generate 9", {})
    whole = [made.tokens[0] for made in generate(hooks, [ids], 9)]
    stop = whole[4]
    assert [made.tokens[0] for made in generate(hooks, [ids], 9, stop={stop})] == whole[: whole.index(stop) + 1]


# The model is as it was --------------------------------------------------------------------------------------------


def state(model: nn.Module, tokens: mx.array) -> tuple[list[type], list[tuple[str, bytes]], bytes]:
    """The type of every module, the bits of every parameter, and the bits of a plain forward."""
    types = [type(m) for _, m in model.named_modules()]
    weights = [(k, np.array(v.view(mx.uint8)).tobytes()) for k, v in tree_flatten(model.parameters())]
    return types, weights, np.array(model(tokens).view(mx.uint8)).tobytes()


class Boom(Exception):
    pass


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(
    "site", ["embed", "L0.attn.z", "L0.resid_mid", "L1.mlp.act", "L1.resid_post", "final", "logits"]
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_model_is_restored_when_a_function_raises(
    family: str, site: str, error: type[BaseException], model_of: Models
) -> None:
    lm = model_of(family)
    tokens = mx.array([[0, 5, 9, 2]])
    before = state(lm.model, tokens)

    def raises(x: mx.array) -> mx.array:
        raise error

    def doubles(x: mx.array) -> mx.array:
        return 2 * x

    functions = dict.fromkeys(lm.info.sites, doubles) | {Site.parse(site): raises}
    with pytest.raises(error):
        lm.forward(tokens, lm.info.sites, functions)
    assert state(lm.model, tokens) == before
    assert not any("_saedsl_plain" in type(m).__dict__ for _, m in lm.model.named_modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_restored_after_a_run(family: str, model_of: Models, sae_of: SAEs) -> None:
    lm = model_of(family)
    tokens = mx.array([[0, 5, 9, 2]])
    before = state(lm.model, tokens)
    lm.run(
        "at L0.mlp ablate f1..9\nat L1.resid_mid, final amplify x2\nrun\ngenerate 3",
        prompts=TEXT,
        saes={"L0.mlp": sae_of()},
    )
    assert state(lm.model, tokens) == before


def test_hooked_modules_are_still_what_they_were(llama: InterpretableModel) -> None:
    block = llama.model.layers[0]
    seen: list[Any] = []

    def look(x: mx.array) -> mx.array:
        seen.extend(
            [
                isinstance(block.mlp, type_),
                type(block.mlp).__name__,
                len(tree_flatten(llama.model.parameters())),
            ]
        )
        return x

    type_ = type(block.mlp)
    llama.forward(mx.array([[0, 1]]), (), {Site(0, "mlp"): look})
    assert seen == [True, "MLP", len(tree_flatten(llama.model.parameters()))]


def test_no_hook_is_installed_while_the_caller_has_control(llama: InterpretableModel) -> None:
    tokens = mx.array([[0, 5, 9, 2]])
    before = state(llama.model, tokens)
    hooks, _, ids = prepared(llama, "at L0.attn.z amplify x9\ngenerate 9", {})
    steps = generate(hooks, [ids], 9)
    for _ in range(3):
        next(steps)
        assert state(llama.model, tokens) == before
    del steps  # dropped half-way
    gc.collect()
    assert state(llama.model, tokens) == before


def test_gradients_flow_through_a_traced_forward(llama: InterpretableModel) -> None:
    tokens = mx.array([[0, 5, 9, 2]])
    hooks = Hooks(llama.model, llama.info, {Site(0, "mlp"): lambda x, frame: x * 2})

    def loss(model: nn.Module) -> mx.array:
        return hooks(tokens)[0].astype(mx.float32).square().mean()

    _, grads = nn.value_and_grad(llama.model, loss)(llama.model)
    assert all(mx.isfinite(g).all().item() for _, g in tree_flatten(grads))
    assert any(np.abs(np.array(g)).max() > 0 for _, g in tree_flatten(grads))


def test_a_trace_inside_a_trace_leaves_the_outer_one_in_place(llama: InterpretableModel) -> None:
    tokens = mx.array([[0, 5, 9, 2]])
    plain = llama.model(tokens)
    inner: list[mx.array] = []

    def nested(x: mx.array) -> mx.array:
        inner.append(llama.forward(tokens, (), {Site(1, "mlp"): lambda y: y * 0})[0])
        return x

    outer, _ = llama.forward(tokens, (), {Site(0, "mlp"): nested, Site(1, "attn.z"): lambda x: x * 3})
    expected, _ = llama.forward(tokens, (), {Site(1, "attn.z"): lambda x: x * 3})
    assert mx.array_equal(outer, expected)
    assert mx.array_equal(inner[0], llama.forward(tokens, (), {Site(1, "mlp"): lambda y: y * 0})[0])
    assert mx.array_equal(llama.model(tokens), plain)


# Threads -----------------------------------------------------------------------------------------------------------


def in_threads(*jobs: Callable[[], None]) -> None:
    """Run jobs at the same time, each in a thread; their errors are raised here."""
    errors: list[BaseException] = []

    def work(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not any(t.is_alive() for t in threads), "deadlock"
    if errors:
        raise errors[0]


def test_a_plain_forward_in_another_thread_is_not_edited(llama: InterpretableModel) -> None:
    tokens = mx.array([[0, 5, 9, 2]])
    plain = np.array(llama.model(tokens))
    inside, done = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)
    found: dict[str, Any] = {}

    def held(x: mx.array) -> mx.array:
        inside.wait()  # the classes are swapped now, and stay so until the other thread's forward is over
        done.wait()
        return x * 0

    def edited() -> None:
        found["edited"] = np.array(
            llama.forward(tokens, (), {Site(0, "mlp"): held, Site(1, "attn.z"): lambda x: x * 0})[0]
        )

    def unedited() -> None:
        inside.wait()
        found["hooked"] = "_saedsl_plain" in type(llama.model.layers[0].mlp).__dict__
        found["plain"] = np.array(llama.model(tokens))
        done.wait()

    in_threads(edited, unedited)
    assert found["hooked"]
    assert np.array_equal(found["plain"], plain)
    assert np.abs(found["edited"] - plain).max() > 1e-2


def test_a_worker_thread_can_run_again_and_again(llama: InterpretableModel, sae_of: SAEs) -> None:
    def work() -> None:
        for _ in range(3):
            result = llama.run("at L0.mlp ablate f1\nrun\ngenerate 2", prompts=TEXT, saes={"L0.mlp": sae_of()})
            assert len(result.prompts) == 2
            assert mx.array([1.0, 2.0]).sum().item() == 3  # and so can the thread's own code

    in_threads(work, work)


def test_two_traces_in_two_threads_do_not_mix(llama: InterpretableModel, sae_of: SAEs) -> None:
    saes = {"L0.mlp": sae_of(seed=1)}
    programs = ["at L0.mlp ablate all", "at L0.mlp set f1 = 9\nat L1.attn.z amplify x2"]
    expected = []
    for program in programs:
        with llama.trace(TEXT, program, saes=saes) as t:
            expected.append((np.array(t.output), t.firings))
    wrong: list[str] = []

    def job(i: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(15):
                with llama.trace(TEXT, programs[i], saes=saes) as t:
                    t.forward()
                if not (np.array_equal(np.array(t.output), expected[i][0]) and t.firings == expected[i][1]):
                    wrong.append(programs[i])

        return work

    in_threads(job(0), job(1))
    assert wrong == []
    assert not any("_saedsl_plain" in type(m).__dict__ for _, m in llama.model.named_modules())


PRELUDE = """
import os, signal, sys, threading, time
sys.path.insert(0, {tests!r})
import conftest
import mlx.core as mx
"""

INTERRUPTED = """
lm = conftest._model("llama")
sae = conftest._sae(seed=1)
program = "at L0.mlp ablate f1..9" + chr(10) + "at L0.resid_mid, L1.attn.z, logits amplify x2"
tokens = mx.array([[0, 5, 9, 2]])
plain = lm.model(tokens)
mx.eval(plain)
types = [type(m) for _, m in lm.model.named_modules()]
from mlx_lm.models import llama
fused = llama.scaled_dot_product_attention
hits = 0
def send():
    for i in range(60):
        time.sleep(0.004 + 0.0007 * (i % 7))
        armed.wait()
        os.kill(os.getpid(), signal.SIGINT)
armed = threading.Event()
sender = threading.Thread(target=send)
sender.start()
while sender.is_alive() or armed.is_set():
    try:
        armed.set()
        while sender.is_alive():
            lm.forward(tokens, (), {s: (lambda x: x * 2) for s in lm.info.sites})
        armed.clear()
    except KeyboardInterrupt:
        armed.clear()
        hits += 1
        assert [type(m) for _, m in lm.model.named_modules()] == types, "not restored"
        assert llama.scaled_dot_product_attention is fused, "code not restored"
        assert mx.array_equal(lm.model(tokens), plain).item(), "edited"
sender.join()
print("interrupted", hits)
"""


def python(code: str, *, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    prelude = PRELUDE.format(tests=str(Path(__file__).parent))
    env = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", prelude + code], capture_output=True, text=True, timeout=timeout, env=env
    )


def test_a_model_is_restored_when_the_user_interrupts() -> None:
    done = python(INTERRUPTED)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 20


EXITS = """
import saedsl.model, mlx_lm.generate
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
program = "at L0.mlp ablate f1..9" + chr(10) + "run" + chr(10) + "generate 3"
parse(Source(program))  # the grammar is read once, before the processes part
conftest._tokenizer()
def child():
    lm = conftest._model("llama")
    sae = conftest._sae(seed=1)
    def work():
        for _ in range(2):
            lm.run(program, prompts="The cat", saes={"L0.mlp": sae})
    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
codes = []
for _ in range(10):
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            child()
            sys.exit(0)
        pids.append(pid)
    codes += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
print(codes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its processes by fork")
@pytest.mark.skipif(sys.platform == "darwin", reason="Metal does not survive a fork")
def test_twenty_processes_that_ran_models_in_threads_exit_well() -> None:
    done = python(EXITS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([0] * 20), done.stderr


# Families ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_verifies_and_its_edits_reach_the_output(family: str, model_of: Models) -> None:
    lm = model_of(family)
    tokens = mx.array([[0, 5, 9, 2, 30]])
    plain = lm.model(tokens)
    for site in lm.info.sites:
        edited, captured = lm.forward(tokens, [site], {site: lambda x: x * -0.5})
        width = lm.info.width(site) or 5 * lm.info.n_heads  # a pattern is as wide as there are keys
        assert captured[site].shape == (1, 5, width), site
        assert np.abs(np.array(edited - plain).astype(np.float32)).max() > 1e-3, site


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_stream_is_the_sum_of_its_parts(family: str, model_of: Models) -> None:
    lm = model_of(family)
    at = lm.activations(mx.array([[0, 5, 9, 2, 30]]), lm.info.sites)
    for layer in range(lm.info.n_layers):
        pre, attn, mid, mlp, post = (
            np.array(at[Site(layer, c)]) for c in ("resid_pre", "attn", "resid_mid", "mlp", "resid_post")
        )
        np.testing.assert_allclose(pre + attn, mid, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mid + mlp, post, rtol=1e-5, atol=1e-5)


def test_resid_mid_becomes_exactly_what_the_edit_says(model_of: Models) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        lm = model_of("llama", dtype)
        site = Site(0, "resid_mid")
        _, at = lm.forward(
            mx.array([[0, 5, 9, 2]]), [site, Site(0, "resid_pre"), Site(0, "attn")], {site: lambda x: x * 0}
        )
        assert mx.abs(at[site]).max().item() == 0


BROKEN: list[tuple[str, Family, str]] = [
    ("llama", Family(mid_norm="input_layernorm"), "parts of the residual stream do not add up"),
    ("llama", Family(attn="self_attention"), "has no module model.layers.0.self_attention"),
    ("gemma2", Family(mid_norm="pre_feedforward_layernorm"), "do not add up"),
    ("gpt2", Family(), "has no module model.layers.0"),
    ("llama", Family(attn="mlp", mlp="self_attn"), "do not add up"),
    ("llama", Family(k="self_attn.q_proj"), r"L0.attn.k is 48 wide, but its config says 24 \(2 heads of 12\)"),
    ("phi3", Family(qkv="self_attn.o_proj"), r"L0.attn.k is 0 wide, but its config says 16 \(2 heads of 8\)"),
]


@pytest.mark.parametrize(("family", "table", "message"), BROKEN)
def test_a_model_that_is_not_as_its_family_says_is_refused(
    family: str, table: Family, message: str, model_of: Models, bare: Callable[..., nn.Module], tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model_of(family)  # fits the table as it is
    monkeypatch.setattr(anatomy, "FAMILIES", {**FAMILIES, family: table})
    model = bare(family)
    with pytest.raises(ModelError, match=message):
        InterpretableModel(model, tokenizer)
    assert not any("_saedsl_plain" in type(m).__dict__ for _, m in model.named_modules())


def test_every_wrong_module_that_the_sum_can_see_is_refused(model_of: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model_of("gemma2")
    good = FAMILIES["gemma2"]
    for wrong in (
        Family(mid_norm=good.mid_norm, attn_post_norm=good.attn_post_norm),
        Family(mid_norm=good.mid_norm, mlp_post_norm=good.mlp_post_norm),
        Family(
            mid_norm="post_feedforward_layernorm",
            attn_post_norm=good.attn_post_norm,
            mlp_post_norm=good.mlp_post_norm,
        ),
    ):
        monkeypatch.setattr(anatomy, "FAMILIES", {"gemma2": wrong})
        with pytest.raises(ModelError, match="do not add up"):
            verify(lm.model, lm.info)


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(ModelError) as e:
        _ = ModelInfo.from_config({"model_type": "mamba"}, "tiny").family
    assert str(e.value) == f"tiny: model_type 'mamba' is not supported; supported: {', '.join(FAMILIES)}"


def test_an_unknown_family_is_refused_when_a_model_is_wrapped(bare: Callable[..., nn.Module], tokenizer: Any) -> None:
    model = bare("llama")
    model.args.model_type = "mamba"
    with pytest.raises(ModelError, match="model_type 'mamba' is not supported"):
        InterpretableModel(model, tokenizer)


def test_what_is_no_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"this Linear is not an mlx-lm model: load one with mlx_lm\.load"):
        InterpretableModel(nn.Linear(2, 2), tokenizer)


# Modules -----------------------------------------------------------------------------------------------------------


MODULES = [
    ("model.layers.0.self_attn.o_proj", "in", Site(0, "attn.z")),
    ("model.layers.1.self_attn.o_proj", "out", Site(1, "attn")),
    ("model.layers.1.mlp", "in", Site(1, "mlp.in")),
    ("model.layers.0", "out", Site(0, "resid_post")),
    ("model.embed_tokens", "out", Site(None, "embed")),
    ("lm_head", "out", Site(None, "logits")),
    ("", "out", Site(None, "logits")),
]


@pytest.mark.parametrize(("path", "side", "named"), MODULES)
def test_any_module_can_be_read_and_edited(path: str, side: Any, named: Site, llama: InterpretableModel) -> None:
    site = Site.of_module(path, side)
    assert Site.parse(str(site)) == site
    tokens = mx.array([[0, 5, 9, 2]])
    for read in ((), (named,)):  # together with the named site of the same place, too
        edited, at = llama.forward(tokens, [site, *read], {site: lambda x: x * 2})
        expected, there = llama.forward(tokens, [named], {named: lambda x: x * 2})
        assert mx.array_equal(edited, expected)
        assert mx.array_equal(at[site], there[named])
        assert all(mx.array_equal(at[r], there[r]) for r in read)
    assert llama.info.width(site) is None
    assert llama.info.heads(site) is None


NO_ACTIVATIONS = [
    ("model.layers.0.mpl", "in", "this model has no such module; did you mean model.layers.0.mlp?"),
    ("nothing.like.it", "in", "this model has no such module"),
    ("model.embed_tokens", "in", "this is no activation [batch, seq, width] but int32 [1, 5] (batch 1, seq 5)"),
    (
        "model.layers.0.self_attn.rope",
        "out",
        "this is no activation [batch, seq, width] but float32 [1, 4, 5, 12] (batch 1, seq 5)",
    ),
    ("unused", "out", "the forward of this model never calls the module"),
    ("keywords", "in", "this is a NoneType, not an array"),
]  # fmt: skip


class Keywords(nn.Module):  # type: ignore[misc]
    """Called with keywords alone, by a block that is otherwise as it was."""

    def __call__(self, *, x: mx.array) -> mx.array:
        return x


@pytest.mark.parametrize(("path", "side", "message"), NO_ACTIVATIONS)
def test_a_site_of_a_module_that_is_no_activation_is_refused(
    path: str, side: Any, message: str, bare: Callable[..., nn.Module], tokenizer: Any
) -> None:
    model = bare("llama")
    lm = InterpretableModel(model, tokenizer)
    model.unused = nn.Linear(2, 2)
    model.keywords = Keywords()
    site = Site.of_module(path, side)

    def call(x: mx.array, frame: Frame) -> mx.array:
        out: mx.array = model.keywords(x=x)
        return out

    with pytest.raises(ModelError) as e:
        Hooks(model, lm.info, {Site(0, "mlp"): call} if path == "keywords" else {}, [site])(mx.array([[0, 5, 9, 2, 8]]))
    assert str(e.value) == f"{site}: {message}"
    assert not any("_saedsl_plain" in type(m).__dict__ for _, m in model.named_modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_sort_in_the_order_of_a_forward_and_modules_come_last(family: str, model_of: Models) -> None:
    sites = model_of(family).info.sites
    shuffled = [sites[i] for i in np.random.default_rng(0).permutation(len(sites))]
    assert list(sites) == sorted(shuffled)
    module = Site.of_module("model.norm", "in")
    assert sorted([module, *sites])[-1] == module


def test_a_site_is_hooked_in_the_order_of_the_forward(llama: InterpretableModel) -> None:
    seen: list[str] = []
    functions: dict[Site, Callable[[mx.array], mx.array]] = {}

    def note(site: Site) -> Callable[[mx.array], mx.array]:
        return lambda x: seen.append(str(site)) or x  # type: ignore[func-returns-value]

    for site in reversed(llama.info.sites):
        functions[site] = note(site)
    llama.forward(mx.array([[0, 1, 2]]), (), functions)
    assert seen == [str(s) for s in llama.info.sites]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before
