"""Programs of the whole language: equal meaning is one hash, contradictions are found, no text raises."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saedsl.analyse import Given, analyse
from saedsl.check import Context, check
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.plan import digest
from saedsl.program import Intervention, Program

PROMPT = 'prompt p = "Words: Mary stone John"\n'


def program_of(text: str, base: Path = Path(), **bind: object) -> Program:
    """A checked program without mistakes."""
    parsed = parse(Source(text))
    program, report = check(parsed, Context(base=base, bind=bind))
    assert parsed.diagnostics == ()
    assert report.errors == ()
    assert program is not None
    return program


def id_of(text: str, base: Path = Path(), **bind: object) -> str:
    return digest(program_of(text, base, **bind).to_json())


LINES = [
    "at L0.mlp ablate f42; amplify f7 x2",
    "at L1.mlp { set f9 = 4 max when f3 > 0.5 and not f4; clamp f3 to 0..5 @ last }",
    "at L1..2.attn.z ablate {h2, h0}",
    "at L2.mlp.act amplify n3..5 x2 @ prompt[-1]",
    "at L3.resid project out {f1, f2}; add 0.4 norm f3",
    "at L0.resid set f5 = 4 then amplify f5 x2 then ablate n3",
    "at L1.resid keep only {f1, f2}",
    "at L2.resid freeze @ prompt[0]",
    "at L3.mlp ablate error; patch f4 from p",
    "record L0.mlp.f1, L1.attn.z.h1, L2.mlp.act.n4, L3.mlp.error",
    'metric m = logit(" Mary") - 2 * kl()',
    "metric n = act(L0.mlp.f3) / norm(L3.resid)",
]


@settings(max_examples=40, deadline=None)
@given(st.permutations(LINES))
def test_the_order_of_lines_leaves_no_trace(lines: list[str]) -> None:
    assert id_of(PROMPT + "\n".join(lines)) == id_of(PROMPT + "\n".join(LINES))


EQUAL: list[tuple[str, str]] = [
    ("at L0.mlp { ablate f1; ablate f2 }", "at L0.mlp ablate f2\nat L0.mlp ablate f1"),
    ("at L0.mlp ablate f1 when f2 and f3", "at L0.mlp when f3 ablate f1 when f2"),
    ("at L0.mlp ablate f1 when not not f2 > 0", "at L0.mlp ablate f1 when f2"),
    ("at L0.attn.z.h{1,3} ablate", "at L0.attn.z ablate h1; ablate h3"),
    ("at L0.mlp project out f1; project out f2", "at L0.mlp project out {f1, f2}"),
    ("at L0.mlp ablate n1 to zero", "at L0.mlp ablate n1"),
    ("at L0.mlp drop error", "at L0.mlp ablate error"),
    ("run p as first", "run p as second"),
    ("run p with seed = 0, mode = iterative", "run p"),
    ("sweep s in [0.1, 0.2, 0.3]\nat L0.mlp amplify f1 x s", "sweep t in 0.1..0.3 by 0.1\nat L0.mlp amplify f1 x t"),
    ("let v = 3\nat L0.mlp amplify f1 x v\nsweep v in [2]", "at L0.mlp amplify f1 x2"),
    ('at L0.mlp ablate f1 to mean of "a.txt"', 'prompts q = "a.txt"\nat L0.mlp ablate f1 to mean of q\nrun p'),
    ('dir d = "v.safetensors"\nat L0.mlp ablate dir d', 'dir e = "v.safetensors"\nat L0.mlp ablate dir e'),
    ('sae g = "demo:L0.mlp"\nat L1.mlp ablate f1 when g.f2', "at L1.mlp ablate f1 when L0.mlp.f2"),
]
OTHER: list[tuple[str, str]] = [
    ("at L0.mlp ablate f1", "at L0.mlp ablate n1"),
    ("at L0.mlp set f1 = 2", "at L0.mlp set f1 = 2 max"),
    ("at L0.mlp ablate f1", "at L0.mlp ablate f1 when f2"),
    ("at L0.mlp ablate f1 when f2 and f3", "at L0.mlp ablate f1 when f2 or f3"),
    ("at L0.mlp ablate f1; amplify f2 x2", "at L0.mlp ablate f1 then amplify f2 x2"),
    ("at L0.mlp ablate f1", 'at L0.mlp ablate f1 to mean of "a.txt"'),
    ('at L0.mlp ablate f1 to mean of "a.txt"', 'at L0.mlp ablate f1 to resample of "a.txt"'),
    ("at L0.mlp patch f1 from p", "at L0.mlp freeze f1"),
    ("at L0.mlp patch f1 from p at last", "at L0.mlp patch f1 from p"),
    ("run p with mode = frozen", "run p with mode = direct"),
    ("run p with seed = 1", "run p"),
    ("metric m = kl()", "metric m = ce()"),
    ("record L0.attn.z.h1", "record L0.attn.z.n1"),
    ('prompt q = "hi"\nrun q', 'prompt q = chat "hi"\nrun q'),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.test_check_language import write_tensors

    folder = tmp_path_factory.mktemp("whole")
    (folder / "a.txt").write_text("Mary had\nJohn ran\n")
    write_tensors(folder / "v.safetensors", {"d": ("F32", [128], b"\x00\x00\x80\x3f" * 128)})
    return folder


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_programs_have_one_id(a: str, b: str, folder: Path) -> None:
    assert id_of(PROMPT + a, folder) == id_of(PROMPT + b, folder)


@pytest.mark.parametrize(("a", "b"), OTHER)
def test_other_programs_have_another_id(a: str, b: str, folder: Path) -> None:
    assert id_of(PROMPT + a, folder) != id_of(PROMPT + b, folder)


def test_a_reference_is_known_by_its_content(folder: Path, tmp_path: Path) -> None:
    text = PROMPT + 'at L0.mlp ablate f1 to mean of "a.txt"'
    (tmp_path / "a.txt").write_text("Mary had\n\n\nJohn ran")
    assert id_of(text, tmp_path) == id_of(text, folder)
    (tmp_path / "a.txt").write_text("Mary had\nJohn ran far")
    assert id_of(text, tmp_path) != id_of(text, folder)


def test_a_bound_direction_is_known_by_its_values() -> None:
    text = PROMPT + "at L0.mlp ablate dir $d"
    assert id_of(text, d=[1.0] * 128) == id_of(text, d=[[1] * 128])
    assert id_of(text, d=[1.0] * 128) != id_of(text, d=[2.0] * 128)


def test_json_of_a_program_is_json() -> None:
    data = program_of(PROMPT + "\n".join(LINES)).to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data


TEXTS = [
    "at L0.mlp set f9 = 4 max when L0.mlp.f3 > 0.5 max and not L0.mlp.f4 > 0",
    "at L0.mlp add 0.4 norm f3 @ last",
    "at L1.attn.z ablate {h0, h2}",
    "at L1.attn.z.h2 ablate",
    "at L2.mlp.act amplify n3..5 x2",
    "at L0.mlp ablate error",
    "at L0.mlp project out {f1, f2}",
    "at L0.mlp keep only {f1, f2} @ last",
    'at L0.mlp ablate f1 to mean by position of "a.txt" @ prompt',
    'at L0.mlp keep only f1 else resample of "a.txt"',
    "at L0.mlp patch f1 @ prompt[-1] from p at prompt[-1]",
    "at L0.mlp freeze",
    "at L0.mlp clamp f1 to 0..2 std when not (L0.mlp.f3 > 0 and L0.mlp.f4 > 1) or L0.mlp.f5 >= 2",
    'at module "model.layers.1.mlp" out ablate',
    'dir d = "v.safetensors"\nat L0.mlp ablate dir d',
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_an_edit_means_the_edit(text: str, folder: Path) -> None:
    declared, _, _ = text.rpartition("\n")
    (edit,) = program_of(PROMPT + text, folder).steps[0].edits
    (again,) = program_of(f"{PROMPT}{declared}\n{edit.text()}", folder).steps[0].edits
    assert again == edit


CONFLICTS: list[tuple[str, list[str]]] = [
    ("ablate h1; amplify h1 x2", ["h1"]),
    ("ablate h1; ablate n40", ["n40"]),
    ("ablate n5; ablate {h0, h1}", ["h0"]),
    ("ablate n40; ablate {h0, h1}", ["h1"]),
    ("ablate n127; ablate {h0, h1}", []),
    ("ablate; ablate h2", ["h2"]),
    ("ablate h2; ablate", ["h2"]),
    ("keep only h2; ablate h2", []),
    ("keep only h2; ablate h1", ["h1"]),
    ("keep only h2; keep only h2", ["every head"]),
    ("ablate h1 then amplify h1 x2", []),
    ("ablate h1 then amplify h1 x2; set h1 = 3", ["h1"]),
    ("ablate n1; freeze {n1, n2}; patch n2 from p", ["n1", "n2"]),
]
FEATURES: list[tuple[str, list[str]]] = [
    ("ablate f1; ablate error; ablate; ablate dir $d", []),
    ("ablate error; amplify error x2", ["the error"]),
    ("add 2 dir $d; project out dir $d", ["the direction $d"]),
    ("keep only {f1, f2}; amplify f2 x2", []),
    ("keep only {f1, f2}; amplify {f2, f3} x2", ["f3"]),
    ("amplify {f2, f3} x2; keep only {f1, f2}", ["f3"]),
    ("keep only f1; keep only f1", ["every feature"]),
    ("keep only f1; ablate all", ["every feature"]),
    ("keep only f1; keep only f1 @ prompt[1]", ["every feature"]),
    ("keep only f1 @ prompt[1]; keep only f1 @ prompt[2]", []),
    ("set f1 = 2 when f2; set f1 = 3 when not f2", ["f1"]),
    ("project out f1; project out {f1, f2}", ["f1"]),
]


@pytest.mark.parametrize(
    ("edits", "expected"),
    [*((f"at L0.attn.z {e}", x) for e, x in CONFLICTS), *((f"at L0.mlp {e}", x) for e, x in FEATURES)],
)
def test_edits_of_one_thing_at_one_position_contradict(edits: str, expected: list[str]) -> None:
    bind = {"d": [1.0] * 128} if "$d" in edits else {}
    _, report = analyse(Source(PROMPT + edits), Given(bind=bind))
    assert {d.code for d in report.errors} <= {"S501"}
    assert [d.message.split(" of L0")[0] for d in report.errors] == expected


def test_conflicts_are_those_of_every_pair() -> None:
    """Against the definition: two edits contradict where they share a feature and a position."""
    rng = random.Random(0)
    for _ in range(60):
        edits = [
            (sorted(rng.sample(range(6), rng.randint(1, 3))), sorted(rng.sample(range(1, 4), rng.randint(1, 2))))
            for _ in range(6)
        ]
        lines = [
            f"at L0.mlp set {{{', '.join(f'f{i}' for i in ids)}}} = {n} @ {' | '.join(f'prompt[{p}]' for p in where)}"
            for n, (ids, where) in enumerate(edits)
        ]
        _, report = analyse(Source(PROMPT + "\n".join(lines)), Given())
        found = {d.source.place(d.span.start)[0] - 2 for d in report.errors}
        expected = {
            b
            for b in range(6)
            if any(set(edits[a][0]) & set(edits[b][0]) and set(edits[a][1]) & set(edits[b][1]) for a in range(b))
        }
        assert found == expected


def test_a_sweep_makes_a_step_for_every_combination() -> None:
    text = (
        "let twice = s * 2\nat layer.mlp amplify v x twice @ q\nat L3.resid ablate f1\n"
        "sweep s in [1, 2]\nsweep layer in L0..1\nsweep v in {f3, f5..6}\nsweep q in prompt[1..2]\nrun as swept\nrun"
    )
    steps = program_of(PROMPT + text).steps
    assert len(steps) == 2 * 24
    assert {s.statement for s in steps[:24]} == {0}
    assert {s.label for s in steps[:24]} == {"swept"}
    assert steps[0].values == (("s", "1"), ("layer", "L0"), ("v", "f3"), ("q", "prompt[1]"))
    assert steps[23].values == (("s", "2"), ("layer", "L1"), ("v", "f6"), ("q", "prompt[2]"))
    assert [e.text() for e in steps[23].edits] == ["at L1.mlp amplify f6 x4 @ prompt[2]", "at L3.resid_post ablate f1"]
    assert steps[0].edits[-1] is steps[23].edits[-1]  # what no sweep changes is worked out once


def test_a_run_above_a_sweep_is_not_swept() -> None:
    text = "let s = 3\nat L0.mlp amplify f1 x s\nrun\nsweep s in [1, 2]\nrun\nreset\nat L0.mlp amplify f1 x s\nrun"
    steps = program_of(PROMPT + text).steps
    assert [[e.args for e in s.edits] for s in steps] == [[(3.0,)], [(1.0,)], [(2.0,)], [(3.0,)]]
    assert [s.statement for s in steps] == [0, 1, 1, 2]


def test_options_and_counts_can_be_swept() -> None:
    text = "sweep k in [1, 2]\ngenerate p (k + 1) with seed = k, temp = k / 2"
    steps = program_of(PROMPT + text).steps
    assert [(s.n, s.seed, s.temp) for s in steps] == [(2, 1, 0.5), (3, 2, 1.0)]


def test_reset_clears_what_stands_above_but_not_names() -> None:
    text = "let s = {f1}\nat L0.mlp ablate s\nrecord L0.mlp\nmetric m = kl()\nrun\nreset\nat L1.mlp ablate s\nrun"
    first, second = program_of(PROMPT + text).steps
    assert [len(x) for x in (first.edits, first.records, first.metrics)] == [1, 1, 1]
    assert [e.text() for e in second.edits] == ["at L1.mlp ablate f1"]
    assert (second.records, second.metrics) == ((), ())


def test_keep_only_reaches_every_site_of_its_statement() -> None:
    edits = program_of(PROMPT + "at L0..2.mlp keep only {L0.mlp.f1, L2.mlp.f3}").steps[0].written
    found = [(str(e.site), e.op, e.features) for e in edits if isinstance(e, Intervention)]
    assert found == [("L0.mlp", "keep", (1,)), ("L2.mlp", "keep", (3,)), ("L1.mlp", "keep", ())]


def test_what_conditions_and_metrics_read_is_used() -> None:
    text = "at L3.mlp ablate when L0.mlp.f1\nmetric m = act(L1.mlp.f2)"
    assert [d.name for d in program_of(PROMPT + text).used] == ["L0.mlp", "L1.mlp"]


def test_rows_and_their_fields_are_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "corrupt": "b", "n": 3}, {"prompt": "c", "corrupt": "d"}]
    (tmp_path / "io.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    program = program_of('prompts io = "io.jsonl"\nrun io, io.corrupt\nrun', tmp_path)
    names = ("io[0]", "io[1]", "io.corrupt[0]", "io.corrupt[1]")
    assert [s.prompts for s in program.steps] == [names, names[:2]]
    assert [program.prompts[name].text for name in names] == ["a", "c", "b", "d"]
    assert program.prompts["io[0]"].fields == {"corrupt": "b"}
    assert program.files == {"io": "io.jsonl"}


def test_a_trace_takes_everything_but_runs_and_sweeps() -> None:
    text = PROMPT + "at L0.mlp ablate f1\nrecord L0.mlp\nmetric m = kl()\nrun\nat L1.mlp ablate f2"
    program, report = check(parse(Source(text)), Context(whole=True))
    assert report.errors == ()
    assert program is not None
    (step,) = program.steps
    assert ([e.text() for e in step.edits], len(step.records), step.metrics) == (
        ["at L0.mlp ablate f1", "at L1.mlp ablate f2"], 1, (),
    )  # fmt: skip
    _, report = check(parse(Source("at L0.mlp amplify f1 x s\nsweep s in [1, 2]")), Context(whole=True))
    assert [d.code for d in report.errors] == ["S511"]


WORDS = [
    "f1", "h2", "n3", "error", "all", "dir $d", "@ last", "when f3", "then", "L9.mlp", "x s", "{", "}", "99", "nobody",
    "io.a", "run", "reset", '"',
]  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_text_raises(data: st.DataObject) -> None:
    """Mutations of a good program: words exchanged, left out, put in."""
    lines = [
        *LINES,
        "sweep s in [1, 2]",
        "at L0.mlp amplify f3 x s @ prompt[1]",
        "run p with mode = frozen",
        'include "x"',
    ]
    words = (PROMPT + "\n".join(lines)).split(" ")
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(words) - 1))
        words[i : i + data.draw(st.integers(0, 1))] = [data.draw(st.sampled_from(WORDS))]
    _, report = analyse(Source(" ".join(words)), Given(bind={"d": [1.0] * 128}))
    assert all(d.render() for d in report.diagnostics)
