"""Patches, references, metrics, chats and rows on prompts: what is planned, and what is said where it cannot be."""

# ruff: noqa: E501 (a row of a table stays one line)

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saedsl.analyse import Given, analyse
from saedsl.anatomy import ModelInfo
from saedsl.explain import explain
from saedsl.grammar.source import Source
from saedsl.locate import DEMO, find_sae
from saedsl.plan import Plan
from saedsl.report import Report
from saedsl.sae.header import SAEInfo
from saedsl.tokens import read_encoder

ROWS: list[dict[str, Any]] = [
    {"prompt": "Mary stone", "corrupt": "John stone", "answer": " John", "positions": {"S2": 2, "END": -1}},
    {"prompt": "John Mary stone", "corrupt": "Mary John stone", "answer": " stone", "positions": {"S2": 1}},
]
IO = 'prompts io = "io.jsonl"\n'
AB = 'prompt a = "Mary stone"\nprompt b = "John stone John"\n'
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
REF = "text 1 of ref.txt"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs")
    (path / "io.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (path / "ref.txt").write_text("Mary stone\nJohn\nstone John little Mary\n")
    (path / "even.txt").write_text("Mary stone\nJohn little\n")
    for name in ("chat", "silent"):
        (path / name).mkdir()
        shutil.copy(DEMO / "model" / "config.json", path / name)
    shutil.copy(DEMO / "model" / "tokenizer.json", path / "chat")
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (path / "chat" / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def analysed(text: str, base: Path, **given: Any) -> tuple[Plan | None, Report]:
    return analyse(Source(text), Given(base=base, **given))


def planned(text: str, base: Path, **given: Any) -> Plan:
    plan, report = analysed(text, base, **given)
    assert plan is not None
    assert report.diagnostics == ()
    return plan


MISTAKES: list[tuple[str, list[tuple[str, str, str]]]] = [
    # patches
    (AB + "at L1.mlp patch from b\nrun a", [("S408", "a has 3 tokens, b has 4: which position goes with which?", "patch from b")]),
    (AB + "at L1.mlp patch from b at prompt[1..2]\nrun a", [("S409", "3 positions of a (0..2) do not pair with 2 of b (1..2)", "patch from b at prompt[1..2]")]),
    (AB + "at L1.mlp patch f3 from b at prompt[1..2]\nrun a", []),  # BOS is skipped
    (AB + "at L1.mlp patch @ prompt[1..2] from b at prompt[-1]\nrun a", []),
    (AB + "at L1.mlp patch @ prompt[-1] | gen[3] from b at prompt[-1]\ngenerate a 9", [("S410", "a patch takes its values from another prompt, which has no generated tokens", "gen[3]")]),
    (AB + "at L1.mlp patch @ gen from b at prompt[-1]\ngenerate a 9", [("S410", "a patch takes its values from another prompt, which has no generated tokens", "gen")]),
    (AB + "at L1.mlp patch @ prompt[-1] from b at gen[0]\nrun a", [("S410", "a patch takes its values from another prompt, which has no generated tokens", "gen[0]")]),
    (AB + "at L1.mlp patch @ last from b at last\ngenerate a 9", []),
    (AB + 'at L1.mlp patch @ prompt[-1] from b at " cat"\nrun a', [("S401", 'the prompt "John stone John" does not spell " cat"', '" cat"')]),
    (AB + "at L1.mlp patch @ prompt[9] from b at prompt[8]\nrun a", [("S403", 'the prompt "Mary stone" has 3 tokens: prompt[0] to prompt[2]', "prompt[9]")]),
    # rows
    (IO + "at L1.mlp patch from io.corrupt; ablate f1 @ io.S2\nrun io", []),
    (IO + AB + "at L1.mlp patch from io.corrupt\nrun io, a", [("S415", "a is no row of io: it has no io.corrupt", "patch from io.corrupt")]),
    (IO + "at L1.mlp ablate @ io.S2\nrun io, io.corrupt", []),
    (IO + "at L1.mlp ablate @ io.END\nrun io", [("S412", "io[1] has no position END", "io.END")]),
    (IO + AB + "at L1.mlp ablate @ io.S2\nrun a", [("S412", "a is no row of io: it has no io.S2", "io.S2")]),
    # references
    ('prompt a = "Mary stone"\nat L1.mlp ablate to mean by position of "even.txt"\nrun a', []),
    ('prompt a = "Mary"\nat L1.mlp ablate f1 to mean by position of "even.txt"\nrun a', [("S411", "mean by position needs one length: a has 2 tokens, text 0 of even.txt has 3", 'ablate f1 to mean by position of "even.txt"')]),
    ('prompt a = "Mary stone"\nat L1.mlp ablate to mean by position of "ref.txt"\nrun a', [("S411", "mean by position needs one length: a has 3 tokens, text 1 of ref.txt has 2", 'ablate to mean by position of "ref.txt"')]),
    ('prompt a = "Mary"\nat L1.mlp ablate to mean by position of "even.txt" @ gen\ngenerate a 3', [("S411", "texts of a reference have no generated tokens", "gen")]),
    ('prompt a = "Mary"\nat L1.mlp ablate to mean of "ref.txt"\nrun a', []),
    (AB + "at L1.mlp ablate f1 to mean of b\nrun a", [("S203", "b is a prompt, a file of prompts is needed here", "b")]),
    # metrics
    ('metric m = logit(" Mary Mary")\nrun', [("S413", '" Mary Mary" is 2 tokens, \' Mary\' \' Mary\'', 'metric m = logit(" Mary Mary")')]),
    ('metric m = logprob(" Mary Mary")\nrun', []),
    (IO + "metric m = logit(io.answer)\nrun io", []),
    (IO + AB + "metric m = logit(io.answer)\nrun a", [("S611", "m is not measured on a: it is no row of io", "metric m = logit(io.answer)")]),
    (IO + AB + "metric m = logit(io.answer) - logit(io.answer)\nrun", [("S611", "m is not measured on a, b: they are no rows of io", "metric m = logit(io.answer) - logit(io.answer)")]),
    (IO + 'prompts other = "io.jsonl"\nmetric m = logit(io.answer)\nrun other', [("S611", "m is not measured on other[0], other[1]: they are no rows of io", "metric m = logit(io.answer)")]),
    ('metric m = kl() @ gen\nrun', [("S407", "generated tokens never come in a `run`, and no `generate` uses this", "gen")]),
    ('metric m = kl() @ gen\nrun\ngenerate 4', []),
    ('metric m = ce() @ prompt[-1]\nrun', [("S404", "ce() needs a next token: there is none at these positions", "prompt[-1]")]),
    # what is never read
    ("at L2.mlp ablate f1 @ prompt[1] | gen[99]\ngenerate 8", [("S404", "this is never read: `generate 8` reads gen[0] to gen[6] as input", "gen[99]")]),
    ("record L2.mlp @ prompt | gen[7..9]\ngenerate 8", [("S404", "this is never read: `generate 8` reads gen[0] to gen[6] as input", "gen[7..9]")]),
    ("at L2.mlp ablate f1 @ prompt[1] | gen[5..99]\ngenerate 8", []),
    ("at L2.mlp ablate f1 @ prompt[1] | gen[99]\ngenerate 8\ngenerate 101", []),
    ("at L2.mlp ablate f1 @ all except gen[99]\ngenerate 8", []),
    # length
    (f'prompt a = "{"Mary " * 130}"\nrun a', [("S414", "the prompt a has 132 tokens: this model was made for 128 at most", "run a")]),
    ('prompt a = "Mary"\ngenerate a 200', [("S414", "the prompt a has 2 tokens and the 200 to generate: this model was made for 128 at most", "generate a 200")]),
    # chats
    ('prompt a = chat "Mary"\nrun a', [("S323", "this model's tokenizer has no chat template", 'prompt a = chat "Mary"')]),
    ('model "silent"\nprompt a = "x"\nat L1.mlp ablate @ prompt[99]\nrun a', [("S329", "silent has no tokenizer.json: positions are not checked", '"silent"')]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_mistakes_are_said_where_they_are(base: Path, text: str, expected: list[tuple[str, str, str]]) -> None:
    _, report = analysed(text, base)
    found = [(d.code, d.message, text[d.span.start : d.span.end]) for d in report.diagnostics]
    assert found == expected


def test_a_patch_between_prompts_of_different_length_shows_both_tokenisations(base: Path) -> None:
    _, report = analysed(AB + "at L1.mlp patch from b\nrun a", base)
    (d,) = report.errors
    assert d.hints == (
        "say which: @ prompt[-1] from b at prompt[-1]",
        "the tokens are\n  0  '<s>'      '<s>'\n  1  'Mary'   | 'John'\n  2  ' stone'   ' stone'\n  3           | ' John'",
    )


PAIRS = [
    ("patch from io.corrupt", [((0, 0), (1, 1), (2, 2)), ((0, 0), (1, 1), (2, 2), (3, 3))]),
    ("patch f1 from io.corrupt", [((1, 1), (2, 2)), ((1, 1), (2, 2), (3, 3))]),
    ("patch @ prompt[-1] from io.corrupt at io.S2", [((2, 2),), ((3, 1),)]),
    ("patch @ io.S2 from io.corrupt at prompt[-1]", [((2, 2),), ((1, 3),)]),
    ("patch @ prompt[0..1] from io.corrupt at prompt[-2..-1]", [((0, 1), (1, 2)), ((0, 2), (1, 3))]),
    ("patch @ prompt[0..1] from b at last", [((0, 3), (1, 3)), ((0, 3), (1, 3))]),
]


@pytest.mark.parametrize(("edit", "pairs"), PAIRS)
def test_a_patch_pairs_positions_in_order(base: Path, edit: str, pairs: list[tuple[tuple[int, int], ...]]) -> None:
    plan = planned(f"{IO}{AB}at L1.mlp {edit}\nrun io", base)
    found = [p.patches[0] for s in plan.steps for p in s.prompts]
    assert [x.pairs for x in found if x is not None] == pairs
    texts = [x.tokens.text for x in found if x is not None]
    assert texts == (["John stone John"] * 2 if "from b" in edit else ["John stone", "Mary John stone"])
    assert [sorted(p.edits[0].prompt) for p in plan.steps[0].prompts] == [[t for t, _ in x] for x in pairs]
    assert all(p.edits[0].gen == () for p in plan.steps[0].prompts)


def test_metrics_are_read_at_the_last_prompt_token_and_ce_at_every_one_with_a_next(base: Path) -> None:
    text = IO + "metric a = logit(io.answer)\nmetric b = ce()\nmetric c = ce() - kl()\nmetric d = ce() @ prompt\nrun io"
    (step,) = planned(text, base).steps
    for p, answer in zip(step.prompts, (" John", " stone"), strict=True):
        n = len(p.tokens)
        a, b, c, d = p.metrics
        assert [m.positions.text for m in (a, b, c, d)] == [f"{n - 1}", f"0..{n - 2}", f"{n - 1}", f"0..{n - 2}"]
        assert [m.ce.text for m in (b, c, d)] == [f"0..{n - 2}"] * 3
        encoder = read_encoder(DEMO / "model", 1)
        assert encoder is not None
        ((_, (i,)),) = a.token_ids.items()
        assert encoder.piece(i) == answer


@pytest.mark.parametrize("seed", [0, 7])
def test_a_prompt_is_resampled_from_the_text_that_seed_and_number_choose(base: Path, seed: int) -> None:
    text = f'{IO}at L1.mlp ablate to resample of "even.txt" @ prompt[0]\nrun io with seed = {seed}'
    plan = planned(text, base)
    assert [[t.text for t in r] for r in plan.references.values()] == [["Mary stone", "John little"]]
    wanted = [int.from_bytes(hashlib.sha256(f"{seed} {i}".encode()).digest(), "big") % 2 for i in range(2)]
    assert [list(p.resamples.values()) for p in plan.steps[0].prompts] == [[w] for w in wanted]


def test_a_text_to_resample_from_is_long_enough(base: Path) -> None:
    """Which text is chosen depends on the seed: exactly the seeds that choose the short one are mistakes."""
    short = set()
    for seed in range(12):
        text = f'prompt a = "Mary stone"\nat L1.mlp ablate to resample of "ref.txt"\nrun a with seed = {seed}'
        _, report = analysed(text, base)
        found = [d.message for d in report.errors if d.code == "S411"]
        wanted = int(hashlib.sha256(f"{seed} 0".encode()).hexdigest(), 16) % 3
        assert found == (
            ["a is resampled from text 1 of ref.txt, which has 2 tokens: position 2 is read"] if wanted == 1 else []
        )
        short.add(wanted)
    assert short == {0, 1, 2}


def test_generated_positions_are_resampled_as_far_as_they_are_read(base: Path) -> None:
    seed = next(s for s in range(99) if int(hashlib.sha256(f"{s} 0".encode()).hexdigest(), 16) % 3 == 2)  # the longest
    program = f'prompt a = "Mary stone"\nat L1.mlp ablate to resample of "ref.txt"\ngenerate a N with seed = {seed}'
    ((text,),) = [
        [t for t in r if t.text.startswith("stone")]
        for r in planned(program.replace("N", "1"), base).references.values()
    ]
    enough = len(text) - 3 + 1  # 3 tokens of the prompt, and all generated ones but the last are read
    assert not analysed(program.replace("N", str(enough)), base)[1].errors
    (d,) = analysed(program.replace("N", str(enough + 1)), base)[1].errors
    assert (
        d.message
        == f"a is resampled from text 2 of ref.txt, which has {len(text)} tokens: position {len(text)} is read"
    )


CHAT = 'model "chat"\nprompt a = chat "Mary stone" system "little"\n'


def test_a_chat_goes_through_the_template_and_dictionaries_skip_it(base: Path) -> None:
    sae = 'sae g = "demo:L2.mlp" on L2.mlp\n'
    text = f"{CHAT}{sae}at g ablate f1\nat L1.mlp ablate\nat g ablate f2 @ everywhere; ablate f3 @ prompt\nrun a"
    plan, report = analysed(text, base)
    assert plan is not None
    assert {d.code for d in report.diagnostics} <= {"S314", "S317", "S318"}  # trained on another model
    (p,) = plan.steps[0].prompts
    assert p.tokens.text == "<s>[system] little\n[user] Mary stone\n[assistant]"
    where = {e.text().split(" ", 2)[2]: places for e, places in zip(plan.steps[0].step.edits, p.edits, strict=True)}
    n = len(p.tokens)
    own = where["ablate f1"].prompt if "ablate f1" in where else where["ablate g.f1"].prompt
    assert "".join(p.tokens.pieces[i] for i in sorted(own)).replace(" ", "") == "littleMarystone"
    everywhere = [w for w in where.values() if w.prompt == frozenset(range(n))]
    assert len(everywhere) == 2  # the whole site, and @ everywhere
    assert sum(w.prompt == own for w in where.values()) == 2  # `all` and `prompt`


def test_the_template_and_the_prompts_kind_are_in_the_plans_hash(base: Path) -> None:
    plain = planned('model "chat"\nprompt a = "Mary stone"\nrun a', base)
    chat = planned('model "chat"\nprompt a = chat "Mary stone"\nrun a', base)
    assert plain.program_id != chat.program_id
    assert plain.plan_id({}) != chat.plan_id({})


@pytest.mark.parametrize(
    ("runs", "codes"),
    [("run p", ["S207"]), ("run p\ngenerate p 2", ["S207"]), ("run", []), ("run p\ngenerate 2", [])],
)
def test_prompts_of_the_caller_that_never_run_are_warned_of(base: Path, runs: str, codes: list[str]) -> None:
    _, report = analysed(f'prompt p = "Hi"\nat L0.attn amplify x2\n{runs}', base, prompts={"other": "Other"})
    assert [d.code for d in report.diagnostics] == codes


def test_a_negative_named_position_counts_from_the_end(base: Path) -> None:
    (base / "one.jsonl").write_text(json.dumps({"prompt": "Mary stone John", "positions": {"P": -2}}))
    plan = planned('prompts io = "one.jsonl"\nat L1.mlp ablate @ io.P\nrun io', base)
    assert plan.steps[0].prompts[0].edits[0].text == "2"


def test_the_models_context_is_read_from_its_config() -> None:
    assert ModelInfo.read(DEMO / "model").context == 128


def test_a_sweep_of_many_steps_shares_its_positions(base: Path) -> None:
    plan = planned("at L2.mlp amplify f7 x s @ prompt[1..3]\nsweep s in 0..999\nrun", base)
    assert len(plan.steps) == 1000
    first = plan.steps[0].prompts[0]
    assert all(s.prompts[0].tokens is first.tokens for s in plan.steps)
    assert all(s.prompts[0].edits[0] is first.edits[0] for s in plan.steps)


IDS = [
    ("at L2.mlp ablate f1\nrun", "at L2.mlp ablate f1\nrun with mode = frozen"),
    ("at L2.mlp ablate f1\ngenerate 2 with temp = 1", "at L2.mlp ablate f1\ngenerate 2 with temp = 1, seed = 2"),
    ('at L1.mlp ablate to mean of "ref.txt"\nrun', 'at L1.mlp ablate to mean of "even.txt"\nrun'),
    ("metric m = kl()\nrun", "metric m = kl() @ prompt\nrun"),
    (AB + "at L1.mlp patch @ prompt[0] from b at prompt[0]\nrun a", AB + "at L1.mlp patch @ prompt[0] from b at prompt[1]\nrun a"),
    ("at L2.mlp set f1 = 2\nrun", "at L2.mlp set f1 = 2 max\nrun"),
    ("at L2.mlp ablate f1\nrun", "at L2.mlp ablate f1 when f2\nrun"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), IDS)
def test_what_decides_a_result_is_in_the_hashes(base: Path, a: str, b: str) -> None:
    one, two = planned(a, base), planned(b, base)
    assert one.program_id != two.program_id
    assert one.plan_id({}) != two.plan_id({})


def test_a_references_content_is_in_the_hashes_not_its_path(base: Path) -> None:
    (base / "again.txt").write_text((base / "ref.txt").read_text() + "\n")
    one = planned('at L1.mlp ablate to mean of "ref.txt"\nrun', base)
    two = planned('at L1.mlp ablate to mean of "again.txt"\nrun', base)
    assert one.program_id != two.program_id
    assert one.plan_id({}) == two.plan_id({})


def test_a_chat_comes_back_from_text_and_json(base: Path) -> None:
    plan = planned(f"{CHAT}at L1.mlp ablate\nrun a", base)
    again = planned(plan.to_dsl(), base)
    assert again.program_id == plan.program_id
    assert again.steps[0].prompts[0].tokens == plan.steps[0].prompts[0].tokens
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))).steps == plan.steps


def test_what_the_caller_brings_has_a_text_too(base: Path) -> None:
    info = SAEInfo.read(find_sae("demo:L1.mlp"))
    text = "at L1.mlp ablate f1 when f2\nat L1.resid add 2 dir $up\nrun"
    bind = {"up": np.ones(128, np.float32)}
    plan, report = analysed(text, base, saes={"L1.mlp": info}, bind=bind, prompts={"mine": "Mary stone"})
    assert plan is not None
    assert not report.errors
    again, report = analysed(plan.to_dsl(), base, bind=bind, prompts={"mine": "Mary stone"})
    assert again is not None
    assert not report.errors
    assert again.program_id == plan.program_id
    places = [[(p.tokens, p.places) for s in x.steps for p in s.prompts] for x in (again, plan)]
    assert places[0] == places[1]


def test_an_error_of_the_template_is_said(base: Path) -> None:
    folder = base / "picky"
    shutil.copytree(base / "chat", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    refusing = "{{ raise_exception('only user and assistant') if messages[0].role == 'system' else 'ok' }}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": refusing}))
    text = 'model "picky"\nprompt a = chat "Mary" system "little"\nrun a'
    (d,) = analysed(text, base)[1].errors
    assert (d.code, d.message, d.hints) == (
        "S323", "the chat template cannot be used here (only user and assistant)", ("leave `system` out",),
    )  # fmt: skip


@pytest.mark.parametrize("source", ["prompt[2] | prompt[4]", "prompt[4] | prompt[2]"])
@pytest.mark.parametrize("target", ["prompt[1] | prompt[3]", "prompt[3] | prompt[1]"])
def test_sets_of_positions_pair_in_the_order_of_the_prompts_however_they_are_written(
    base: Path, target: str, source: str
) -> None:
    prompts = 'prompt a = "Mary stone John little"\nprompt b = "Mary John stone little"\n'
    plan = planned(f"{prompts}at L1.mlp patch @ {target} from b at {source}\nrun a", base)
    (places,) = plan.steps[0].prompts[0].patches
    assert places is not None
    assert places.pairs == ((1, 2), (3, 4))
    (edit,) = explain(plan)[0].edits
    ((_, where),) = edit.at
    assert re.findall(r"(\d):'[^']*' <- (\d):", where) == [("1", "2"), ("3", "4")]
