"""Programs built in Python are the programs of the text: node by node, and by their hash."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

import json
import typing
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import saedsl
from saedsl import registry
from saedsl.analyse import Given, analyse
from saedsl.builder import Edits, ScriptBuilder
from saedsl.errors import ProgramError
from saedsl.grammar import nodes as n
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source

S = ScriptBuilder
STATEMENTS: list[tuple[str, Callable[[S], Any]]] = [
    ('model "demo"', lambda s: s.model("demo")),
    ('sae t = "demo:L2.mlp.transcoder"', lambda s: s.sae("t", "demo:L2.mlp.transcoder")),
    ('sae g = "demo:L2.mlp" on L2.mlp', lambda s: s.sae("g", "demo:L2.mlp", on="L2.mlp")),
    ('sae g = "x" on L2.mlp.in -> L2.mlp', lambda s: s.sae("g", Path("x"), on="L2.mlp.in", to="L2.mlp")),
    ('prompt p = "The \\"capital\\"\\n"', lambda s: s.prompt("p", 'The "capital"\n')),
    ('prompt p = chat "Hi" system "Be brief."', lambda s: s.prompt("p", "Hi", chat=True, system="Be brief.")),
    ('prompts io = "io.jsonl"', lambda s: s.prompts("io", "io.jsonl")),
    ("let k = 2.5", lambda s: s.let("k", 2.5)),
    ("let k = -2", lambda s: s.let("k", mx.array(-2.0))),
    ("let k = 2 * j + $m", lambda s: s.let("k", "2 * j + $m")),
    ("let t = {f1, f3..5, g.f7}", lambda s: s.let("t", ["f1", "f3..5", "g.f7"])),
    ("let t = {f1, f8}", lambda s: s.let("t", [1, 8])),
    ("let h = {h1, h3}", lambda s: s.let("h", "{h1, h3}")),
    ('dir d = "d.safetensors"', lambda s: s.dir("d", "d.safetensors")),
    ('dir d = "d.safetensors".truth', lambda s: s.dir("d", "d.safetensors", "truth")),
    ('dir d = "d.safetensors"."a b"', lambda s: s.dir("d", "d.safetensors", key="a b")),
    (
        'metric m = logit(" Paris") - logit(io.wrong) @ prompt[-1]',
        lambda s: s.metric("m", 'logit(" Paris") - logit(io.wrong)', positions="prompt[-1]"),
    ),
    ("record L2.mlp", lambda s: s.record("L2.mlp")),
    ("record g.f42, L1.resid, {f1, f2} @ prompt | last", lambda s: s.record("g.f42", "L1.resid", [1, 2], positions=["prompt", "last"])),
    ("sweep v in [0, 0.5, 1]", lambda s: s.sweep("v", [0, 0.5, 1])),
    ("sweep v in [0, 1, 2]", lambda s: s.sweep("v", range(3))),
    ("sweep v in 0..4 by 0.5", lambda s: s.sweep("v", "0..4 by 0.5")),
    ("sweep v in {f1, f2}", lambda s: s.sweep("v", ["f1", "f2"])),
    ("sweep v in L0..3", lambda s: s.sweep("v", "L0..3")),
    ("sweep v in prompt[0..5]", lambda s: s.sweep("v", "prompt[0..5]")),
    ('include "other.saedsl"', lambda s: s.include("other.saedsl")),
    ("reset", lambda s: s.reset()),
    ("run", lambda s: s.run()),
    ("run fr, io, io.corrupt as first with mode = frozen, seed = 3", lambda s: s.run("fr", "io", "io.corrupt", name="first", mode="frozen", seed=3)),
    ("generate 8", lambda s: s.generate(None, 8)),
    ("generate fr 32", lambda s: s.generate("fr", 32)),
    (
        "generate fr 32 as g with mode = direct, seed = 1, temp = 0.8, top_p = 0.9",
        lambda s: s.generate("fr", 32, name="g", mode="direct", seed=1, temp=0.8, top_p=0.9),
    ),
    ("at L2.mlp ablate f42", lambda s: s.at("L2.mlp").ablate("f42")),
    (
        "at L2.mlp, g, L0..1.attn.z.h2 @ gen when f3 > 0.5 max ablate f42",
        lambda s: s.at("L2.mlp", "g", "L0..1.attn.z.h2", positions="gen", when="f3 > 0.5 max").ablate("f42"),
    ),
    ('at module "model.norm" out ablate', lambda s: s.at('module "model.norm" out').ablate()),
    (
        "at L2.mlp { ablate f42; amplify f7 x2 then set f7 = 1 then ablate f7; set f9 = 4 }",
        lambda s: s.at("L2.mlp").ablate("f42").amplify("f7", 2).then.set("f7", 1).then.ablate("f7").set("f9", 4),
    ),
]  # fmt: skip
E_ = Edits
EDITS: list[tuple[str, Callable[[E_], Any]]] = [
    ("ablate", lambda e: e.ablate()),
    ("ablate f42", lambda e: e.ablate(42)),
    ("ablate {f1, f3..5}", lambda e: e.ablate([1, "f3..5"])),
    ("ablate all", lambda e: e.ablate("all")),
    ("ablate error", lambda e: e.ablate("error")),
    ("ablate h3", lambda e: e.ablate("h3")),
    ("ablate {n1, n4}", lambda e: e.ablate(["n1", "n4"])),
    ("ablate dir $d", lambda e: e.ablate("dir $d")),
    ("ablate f1 to zero", lambda e: e.ablate("f1", to="zero")),
    ('ablate f1 to mean of "a.txt"', lambda e: e.ablate("f1", to=saedsl.mean("a.txt"))),
    ("ablate f1 to mean of io", lambda e: e.ablate("f1", to=saedsl.mean("io"))),
    ("ablate f1 to mean by position of io", lambda e: e.ablate("f1", to=saedsl.mean("io", by_position=True))),
    ("ablate f1 to resample of io @ last when f2 > 1", lambda e: e.ablate("f1", to=saedsl.resample("io"), positions="last", when="f2 > 1")),
    ("amplify f7 x2", lambda e: e.amplify("f7", 2)),
    ("amplify f7 x -1 @ last when f2 > 1", lambda e: e.amplify("f7", -1, positions="last", when="f2 > 1")),
    ("amplify x strength", lambda e: e.amplify(None, "strength")),
    ("amplify f7 x $k", lambda e: e.amplify("f7", "$k")),
    ("set f9 = 4 max @ last when f2 > 1", lambda e: e.set("f9", np.float32(4), unit="max", positions="last", when="f2 > 1")),
    ("set dir d = -2", lambda e: e.set("dir d", -2)),
    ("clamp f3 to 0..5", lambda e: e.clamp("f3", 0, 5)),
    ("clamp f3 to 0..", lambda e: e.clamp("f3", 0)),
    ("clamp f3 to ..2 std @ last when f2 > 1", lambda e: e.clamp("f3", high=2, unit="std", positions="last", when="f2 > 1")),
    ("add 2 f3", lambda e: e.add(2, "f3")),
    ("add 0.4 norm dir d @ last when f2 > 1", lambda e: e.add(0.4, "dir d", unit="norm", positions="last", when="f2 > 1")),
    ("project out {f1, f2} @ last when f2 > 1", lambda e: e.project_out([1, 2], positions="last", when="f2 > 1")),
    ("patch from it", lambda e: e.patch(source="it")),
    (
        'patch f1 @ " Paris" when f2 > 1 from io.corrupt at prompt[-1]',
        lambda e: e.patch("f1", source="io.corrupt", positions='" Paris"', source_at="prompt[-1]", when="f2 > 1"),
    ),
    ("freeze", lambda e: e.freeze()),
    ("freeze f1 @ last when f2 > 1", lambda e: e.freeze("f1", positions="last", when="f2 > 1")),
    ("keep only f1", lambda e: e.keep_only("f1")),
    ("keep only {f1, f2} else mean of io @ last when f2 > 1", lambda e: e.keep_only([1, 2], otherwise=saedsl.mean("io"), positions="last", when="f2 > 1")),
    ("keep only f1 else zero", lambda e: e.keep_only("f1", otherwise="zero")),
    ("drop error @ last when f2 > 1", lambda e: e.drop_error(positions="last", when="f2 > 1")),
    ("apply soften f3", lambda e: e.apply("soften", "f3")),
    ("apply soften(0.5, 2) f3 @ last when f2 > 1", lambda e: e.apply("soften", "f3", 0.5, 2, positions="last", when="f2 > 1")),
    ("apply soften", lambda e: e.apply("soften")),
]  # fmt: skip


def built(say: Callable[[S], Any]) -> n.Script:
    script = saedsl.script()
    say(script)
    parsed = parse(script.source)
    assert parsed.diagnostics == ()
    assert parse(script.text).script == parsed.script
    return parsed.script


@pytest.mark.parametrize(("text", "say"), STATEMENTS, ids=[t for t, _ in STATEMENTS])
def test_a_statement_is_that_of_the_text(text: str, say: Callable[[S], Any]) -> None:
    assert built(say) == parsed(text)


@pytest.mark.parametrize(("text", "say"), EDITS, ids=[t for t, _ in EDITS])
def test_an_edit_is_that_of_the_text(text: str, say: Callable[[E_], Any]) -> None:
    script = built(lambda s: say(s.prompts("io", "io.jsonl").at("L2.mlp")))
    assert script == parsed(f'prompts io = "io.jsonl"\nat L2.mlp {text}')


def parsed(text: str) -> n.Script:
    found = parse(text)
    assert found.diagnostics == ()
    return found.script


def test_every_statement_edit_and_option_is_in_the_tables() -> None:
    scripts = [parsed(t) for t, _ in STATEMENTS] + [parsed(f"at L2.mlp {t}") for t, _ in EDITS]
    seen: dict[type, list[n.Node]] = {}

    def walk(node: Any) -> None:
        if isinstance(node, tuple):
            for item in node:
                walk(item)
        elif isinstance(node, n.Node):
            seen.setdefault(type(node), []).append(node)
            for f in fields(node):
                walk(getattr(node, f.name))

    walk(tuple(scripts))
    wanted = {*typing.get_args(n.Statement), *typing.get_args(n.Edit), n.Then}
    assert wanted <= set(seen)
    for kind in wanted:
        for f in fields(kind):
            if f.compare:
                assert any(getattr(node, f.name) for node in seen[kind]), f"{kind.__name__}.{f.name} is in no table"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "The capital of France is", "corrupt": "The capital of Italy is", "answer": " Paris"}]
    (tmp_path / "io.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "more.saedsl").write_text("at L0.mlp ablate f3\n")
    mx.save_safetensors("d.safetensors", {"truth": mx.arange(128, dtype=mx.float32)})
    return tmp_path


def program_id(source: Source) -> str:
    plan, report = analyse(source, Given())
    assert plan is not None
    assert report.errors == (), [d.render() for d in report.errors]
    return plan.program_id


def test_a_long_program_has_the_hash_of_its_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_EDITS", {})
    saedsl.edit("soften")(lambda f, a: f * a)
    text = """
    model "demo"
    prompts io = "io.jsonl"
    prompt fr = "The capital of France is"
    prompt it = "The capital of Italy is"
    dir d = "d.safetensors".truth
    let truth = {f42, f7}
    metric diff = logit(" Paris") - logit(" Rome")
    include "more.saedsl"
    at L2.mlp {
        ablate truth to mean of io
        set f9 = 4 then amplify f9 x v
        clamp f10 to 0..5 @ prompt[-1] when f3 > 0.5
        apply soften(0.5) f11
        patch f12 from it
    }
    at L1.resid { add 2 dir d; freeze f1 }
    at L1.mlp { keep only {f1, f2} }
    record L2.mlp.f3, L3.resid @ last
    sweep v in [0, 1]
    run fr with mode = frozen, seed = 3
    reset
    at L0.mlp project out f5
    generate fr 3 with temp = 0.8
    """
    s = saedsl.script()
    s.model("demo").prompts("io", "io.jsonl")
    s.prompt("fr", "The capital of France is").prompt("it", "The capital of Italy is")
    s.dir("d", "d.safetensors", "truth").let("truth", "{f42, f7}")
    s.metric("diff", 'logit(" Paris") - logit(" Rome")').include("more.saedsl")
    at = s.at("L2.mlp").ablate("truth", to=saedsl.mean("io")).set("f9", 4).then.amplify("f9", "v")
    at.clamp("f10", 0, 5, positions="prompt[-1]", when="f3 > 0.5").apply("soften", "f11", 0.5).patch(12, source="it")
    s.at("L1.resid").add(2, "dir d").freeze("f1")
    s.at("L1.mlp").keep_only([1, 2])
    s.record("L2.mlp.f3", "L3.resid", positions="last").sweep("v", [0, 1])
    s.run("fr", mode="frozen", seed=3).reset()
    s.at("L0.mlp").project_out(5)
    s.generate("fr", 3, temp=0.8)
    assert program_id(s.source) == program_id(Source(text)) == program_id(Source(s.text))


@pytest.mark.filterwarnings("ignore::saedsl.errors.SaedslWarning")  # f7 is silent
def test_a_script_runs_plans_and_traces() -> None:
    model = saedsl.InterpretableModel.load("demo")
    s = saedsl.script()
    s.prompt("fr", "The capital of France is").at("L2.mlp").amplify("f7", "$k")
    s.run("fr").bind(k=2)
    text = 'prompt fr = "The capital of France is"\nat L2.mlp amplify f7 x $k\nrun fr'
    assert model.plan(s).program_id == model.plan(text, bind={"k": 2}).program_id
    assert model.plan(s, bind={"k": 3}).program_id == model.plan(text, bind={"k": 3}).program_id
    result, same = model.run(s), model.run(text, bind={"k": 2})
    assert result.plan_id == same.plan_id
    assert np.array_equal(result.prompts[0].edited.logits, same.prompts[0].edited.logits)
    with model.trace("The capital of France is", s) as a, model.trace("The capital", text, bind={"k": 2}) as b:
        pass
    assert a.plan.program_id == b.plan.program_id


def test_edits_said_after_another_statement_start_another_at() -> None:
    s = saedsl.script()
    at = s.at("L2.mlp", positions="last").ablate("f1")
    s.run()
    at.ablate("f2")
    assert s.text == "at L2.mlp @ last ablate f1\nrun\nat L2.mlp @ last ablate f2\n"
    with pytest.raises(ValueError, match="`then` goes between two edits"):
        _ = s.at("L2.mlp").then
    waiting = s.at("L2.mlp").ablate("f1").then
    s.run()
    with pytest.raises(ValueError, match="`then` joins edits of one `at`"):
        waiting.ablate("f2")


def test_a_mistake_is_shown_at_the_call() -> None:
    s = saedsl.script()
    with pytest.raises(ProgramError) as e:
        s.at("L2.mlp").amplify("f7", "2 $$ 3")
    shown = e.value.diagnostics[0].to_json()["span"]
    line = Path(__file__).read_text().splitlines()[shown["line"] - 1]
    assert line.strip() == 's.at("L2.mlp").amplify("f7", "2 $$ 3")'
    assert line[shown["column"] - 1 :].startswith("$")


def test_a_mistake_that_only_a_check_finds_is_shown_at_its_call() -> None:
    s = saedsl.script()
    s.at("L2.mlp").ablate("f42").ablate(
        "f99999",
    )
    for layer in (3, 12):
        s.at(f"L{layer}.mlp").ablate()
    _, report = analyse(s.source, Given())
    spans = [d.to_json()["span"] for d in report.errors]
    lines = Path(__file__).read_text().splitlines()
    assert [lines[p["line"] - 1].strip() for p in spans] == ['"f99999",', 's.at(f"L{layer}.mlp").ablate()']
    assert "at L12.mlp ablate" in report.errors[1].render()  # what was said there, where Python does not spell it


@pytest.mark.parametrize(
    "say",
    [
        lambda s: s.at("L2.mlp").ablate("f42\nreset"),
        lambda s: s.at("L2.mlp").ablate("f42; ablate f7"),
        lambda s: s.at("L2.mlp").ablate("f42 then ablate f7"),
        lambda s: s.at("L2.mlp").ablate("f42 # all"),
        lambda s: s.at("L2.mlp ablate f1\nat L3.mlp"),
        lambda s: s.let("k", "2\nreset"),
        lambda s: s.let("k = 3\nlet j", 2),
        lambda s: s.prompt('p = "x"\nprompt q', "y"),
        lambda s: s.run("a\nreset"),
    ],
)
def test_a_call_says_one_thing(say: Callable[[S], Any]) -> None:
    s = saedsl.script()
    with pytest.raises(ProgramError):
        say(s)


def test_text_is_quoted_whatever_it_holds() -> None:
    for text in ('"', "\\", 'a\nreset\n"b', "巴黎 # {", "\u2028"):
        s = saedsl.script().prompt("p", text)
        (statement,) = parse(s.text).script.statements
        assert isinstance(statement, n.PromptDecl)
        assert statement.text == text


@pytest.mark.parametrize(("value", "error"), [(True, TypeError), (float("nan"), ValueError), ([1], TypeError)])
def test_a_number_is_a_finite_number(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        saedsl.script().at("L2.mlp").amplify("f1", value)
