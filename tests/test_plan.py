"""Which mistakes a whole program has on the bundled model, where, and how often; and what a plan's hashes depend on."""

# ruff: noqa: E501 (a row of a table stays one line)

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from saedsl.analyse import Given, analyse
from saedsl.grammar.source import Source
from saedsl.locate import find_sae
from saedsl.plan import DEMO_PROMPT, Plan
from saedsl.report import Report
from saedsl.sae.header import SAEInfo

DEMO = f'the prompt "{DEMO_PROMPT}"'
NINE = f"{DEMO} has 9 tokens: prompt[0] to prompt[8]"
ONLY_IN_GENERATE = "generated tokens never come in a `run`, and no `generate` uses this"
NO_EFFECT = "no run or generate comes after this: it has no effect"
ONLY_BOS = 'the prompt "" has no token but BOS, which dictionary edits skip'
T = 'sae t = "demo:L2.mlp.transcoder"\n'
AMBIGUOUS = "2 dictionaries are bound to L2.mlp: t, L2.mlp"

Found = list[tuple[str, str, str]]
Row = tuple[str, Found]
"""program, [(code, message, text pointed at)]"""


def analysed(program: str, **given: Any) -> tuple[Plan | None, Report]:
    return analyse(Source(program), Given(**given))


def found(program: str, **given: Any) -> Found:
    return [(d.code, d.message, program[d.span.start : d.span.end]) for d in analysed(program, **given)[1].diagnostics]


def missing(name: str) -> tuple[str, str, str]:
    return ("S201", f"nothing above is called {name}", name)


def no_feature(i: int) -> tuple[str, str, str]:
    return ("S311", f"feature {i} does not exist", f"f{i}")


def unspelled(text: str) -> tuple[str, str, str]:
    return ("S401", f"{DEMO} does not spell {text}", text)


INDEPENDENT: list[Row] = [
    ("at L2.mlp ablate {f9999, f1, f8888}", [no_feature(9999), no_feature(8888)]),
    ("at L2.mlp amplify f9999 x nope", [no_feature(9999), missing("nope")]),
    ("at L2.mlp clamp f3 to foo..bar", [missing("foo"), missing("bar")]),
    ("let k = foo + bar", [missing("foo"), missing("bar")]),
    (
        "at L2.mlp amplify {nope, f9999} x (foo + bar)",
        [missing("nope"), no_feature(9999), missing("foo"), missing("bar")],
    ),
    ("run a, b", [missing("a"), missing("b")]),
    ("at L{9,8}.mlp ablate", [("S304", "layer 9 does not exist", "9"), ("S304", "layer 8 does not exist", "8")]),
    ("at L99.mlp ablate nope", [("S304", "layer 99 does not exist", "L99"), missing("nope")]),
    ('at L2.mlp ablate f1 @ " nope" | prompt[99]', [unspelled('" nope"'), ("S403", NINE, "prompt[99]")]),
    ('at L2.mlp ablate f1 @ " nope" except prompt[99]', [unspelled('" nope"'), ("S403", NINE, "prompt[99]")]),
    (
        'at L2.mlp @ " nope" ablate f1 @ prompt[99]; ablate f2 @ prompt[98]',
        [unspelled('" nope"'), ("S403", NINE, "prompt[99]"), ("S403", NINE, "prompt[98]")],
    ),
    ('at L2.mlp ablate f9999 @ " Nowhere"', [no_feature(9999), unspelled('" Nowhere"')]),
    ('record L9.mlp @ " Nowhere"', [("S304", "layer 9 does not exist", "L9"), unspelled('" Nowhere"')]),
    ("at L2.mlp ablate f1 @ prompt[99]\ngenerate 0", [("S403", NINE, "prompt[99]"), ("S603", "the number of tokens to generate is a whole number, 1 or more", "0")]),
    ("let a = {f1}\nlet a = nope", [("S202", "a is declared twice, first on line 1", "let a = nope"), missing("nope")]),
    (
        "at L*.attn ablate all",
        [("S309", "no dictionary is bound to L0.attn, L1.attn, L2.attn, L3.attn, so they have no features", "all")],
    ),
]  # fmt: skip

UNREAD: list[Row] = [
    ("at L2.mlp ablate f1 @ gen\ngenerate 3 x", [("S120", "the prompt comes before the number of tokens", "x")]),
    ('at L2.mlp ablate f1 @ gen\nrun "x"', [("S120", "a prompt is given by its name", '"x"')]),
    ('at L2.mlp ablate f1 @ " cat"\nrun "x"', [("S120", "a prompt is given by its name", '"x"')]),
    ('prompt p = "The cat\nat L2.mlp ablate f1 @ " cat"', [("S102", "the string is not closed", '"The cat')]),
    ('model "x\nat L77.mlp ablate f1', [("S102", "the string is not closed", '"x')]),
    ('at L2.mlp ablate f1 @ " nope', [("S102", "the string is not closed", '" nope')]),
    (
        "sae g = absent on L2.mlp\nat L2.mlp ablate f9999\nat L1.mlp ablate f9998",
        [("S126", "a string needs quotes", "absent"), no_feature(9998)],
    ),
    (
        'sae g = "absent" on L2.mlp\nat L2.mlp ablate f9999\nat L1.mlp ablate f9998\nat L2.attn ablate f7',
        [
            ("S307", "this dictionary cannot be used: absent: there is no such file or folder", '"absent"'),
            no_feature(9998),
            ("S309", "no dictionary is bound to L2.attn, so it has no features", "f7"),
        ],
    ),
    (
        'sae g = "absent"\nat L2.mlp ablate f9999\nat L2.attn ablate f1',
        [("S307", "this dictionary cannot be used: absent: there is no such file or folder", '"absent"')],
    ),
    ("at L2.mlp ablate f1 @ gen\ngenerate nope 3\nrun", [missing("nope")]),
]

PLACES: list[Row] = [
    (
        'at L2.mlp ablate f1 @ " nope"\nat L2.mlp ablate f2 @ " nope"\nat L2.mlp ablate f3 @ gen\nat L2.mlp ablate f4 @ gen',
        [
            unspelled('" nope"'), unspelled('" nope"'), ("S407", ONLY_IN_GENERATE, "gen"), ("S407", ONLY_IN_GENERATE, "gen"),
        ],
    ),
    (
        "at L2.mlp ablate f1\nat L2.mlp ablate f2\nat L2.mlp set f2 = 1; set f1 = 1",
        [
            ("S501", "f2 of L2.mlp is edited twice at the same position", "set f2 = 1"),
            ("S501", "f1 of L2.mlp is edited twice at the same position", "set f1 = 1"),
        ],
    ),
    ("at L0..3.mlp ablate all @ \" nope\"", [unspelled('" nope"')]),
    ('prompt p = ""\nat L2.mlp ablate f1', [("S404", ONLY_BOS, "ablate f1")]),
    ('prompt p = ""\nat L2.mlp ablate f1 @ prompt', [("S404", ONLY_BOS, "prompt")]),
    ('prompt p = ""\nat L2.mlp ablate f1 @ everywhere\nat L3.mlp ablate', []),
    (
        "at L2.mlp ablate f1 @ all except prompt[1..-1] except gen",
        [("S404", f"only BOS is left in {DEMO}, which dictionary edits skip", "all except prompt[1..-1] except gen")],
    ),
    ("at L2.mlp ablate f1 @ gen[5]\ngenerate 9", []),
    ("at L2.mlp ablate f1 @ gen[5]\ngenerate 3\ngenerate 9", []),
    (
        "at L2.mlp ablate f1 @ gen[5]\ngenerate 3\ngenerate 6",
        [("S404", "this is never read: `generate 6` reads gen[0] to gen[4] as input", "gen[5]")],
    ),
    ("record L2.mlp @ gen[1]\ngenerate 2", [("S404", "this is never read: `generate 2` reads gen[0] as input", "gen[1]")]),
    (
        "at L2.mlp ablate @ gen\ngenerate 1",
        [("S404", "this is never read: `generate 1` reads no generated token as input", "gen")],
    ),
    (
        'run\nat L2.mlp ablate f1\nrecord L2.mlp\nprompt a = "x"',
        [("S602", NO_EFFECT, "at L2.mlp ablate f1"), ("S602", NO_EFFECT, "record L2.mlp"), ("S602", NO_EFFECT, 'prompt a = "x"')],
    ),
    ('prompt a = "x"\nrun a, a', [("S202", "a is named twice: it runs once", "a")]),
]  # fmt: skip

DICTIONARIES: list[Row] = [
    (T + "at L2.mlp ablate f42", [("S310", AMBIGUOUS, "f42")]),
    (T + "at L2.mlp ablate L2.mlp.f42", [("S310", AMBIGUOUS, "L2.mlp.f42")]),
    (T + "at L2.mlp ablate all", [("S310", AMBIGUOUS, "all")]),
    (T + "at t ablate f42\nat L2.mlp ablate t.f43", []),
    (T + 'sae g = "demo:L2.mlp"\nat L2.mlp ablate g.f42; ablate t.f42', []),
    (T + "at L1.mlp ablate f42", []),
    (
        'sae a = "demo:L2.mlp"\nsae b = "demo:L2.mlp"\nat a ablate f1\nat b set f1 = 2',
        [("S501", "f1 of b (the same dictionary as a) is edited twice at the same position", "set f1 = 2")],
    ),
    (
        'sae t = "demo:L2.mlp.transcoder" on L1.resid',
        [("S319", "t writes L2.mlp and reads L2.mlp.in: L1.resid_post is neither", "L1.resid")],
    ),
    ('sae t = "demo:L2.mlp.transcoder" on L2.mlp.in\nat t ablate f1', []),
    ('sae t = "demo:L2.mlp.transcoder" on L2.mlp\nat t ablate f1', []),
]


@pytest.mark.parametrize(("program", "expected"), [*INDEPENDENT, *UNREAD, *PLACES, *DICTIONARIES])
def test_no_mistake_hides_or_invents_another(program: str, expected: Found) -> None:
    assert found(program) == expected


def test_an_ambiguous_feature_says_how_to_name_either_dictionary() -> None:
    (d,) = analysed(T + "at L2.mlp ablate f42")[1].errors
    assert d.hints == ("say which: at L2.mlp ablate t.f42", 'to name the bundled one: sae g = "demo:L2.mlp"')


def test_one_position_list_is_reported_for_three_prompts_at_most() -> None:
    prompts = {name: name for name in ("a", "b", "c", "d", "e")}
    assert len(found('at L2.mlp ablate f1 @ " nope"', prompts=prompts)) == 3


@pytest.mark.parametrize(
    ("value", "shown"),
    [([1], "[1]"), (None, "None"), ("2", "'2'"), (True, "True"), (float("nan"), "nan"), (1j, "1j"), (10**400, "1" + "0" * 36 + "...")],
)  # fmt: skip
def test_a_bound_value_is_a_finite_number(value: object, shown: str) -> None:
    message = f"$k is bound to {shown}, which is not a finite number"
    assert found("at L2.mlp set f1 = $k", bind={"k": value}) == [("S204", message, "$k")]


# What the caller brings ----------------------------------------------------------------------------------------------


def info(name: str) -> SAEInfo:
    return SAEInfo.read(find_sae(f"demo:{name}"))


GIVEN: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    # the caller's name, its dictionary, program, [(code, message)]
    ("p", "L2.mlp", 'prompt p = "x"', [("S202", "p is also the name of a dictionary of the caller's")]),
    ("p", "L2.mlp", "let p = 3", [("S202", "p is also the name of a dictionary of the caller's")]),
    ("g", "L2.mlp", 'sae g = "demo:L1.mlp"', [("S202", "g is given by the caller as well: this file is not read")]),
    ("2x", "L2.mlp", "run", [("S206", "a dictionary of the caller's is called 2x, which is neither a name nor a site")]),
    ("run", "L2.mlp", "run", [("S206", "a dictionary of the caller's is called run, which is neither a name nor a site")]),
    ("f1", "L2.mlp", "run", [("S206", "a dictionary of the caller's is called f1, which is neither a name nor a site")]),
    ("L1.mlp", "L2.mlp", "run", [("S316", "L1.mlp was trained on L2.mlp and is bound to L1.mlp")]),
    ("g", "L2.mlp", "at g ablate f1", []),
    ("L2.mlp", "L2.mlp.transcoder", "at L2.mlp ablate f1", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dictionary", "program", "expected"), GIVEN)
def test_dictionaries_of_the_caller_are_checked(
    name: str, dictionary: str, program: str, expected: list[tuple[str, str]]
) -> None:
    _, report = analysed(program, saes={name: info(dictionary)})
    assert [(d.code, d.message) for d in report.diagnostics] == expected


def test_names_of_the_caller_are_suggested() -> None:
    (d,) = analysed("at gude ablate f1", saes={"guide": info("L2.mlp")})[1].errors
    assert d.hints == ("did you mean guide?",)


# One forward of the caller's own --------------------------------------------------------------------------------------

EVERYTHING = "at L2.mlp ablate f1\nrecord L2.mlp\n"
WHOLE = [
    EVERYTHING,
    EVERYTHING + "run",
    "run\n" + EVERYTHING,
    'prompt q = "x"\n' + EVERYTHING + "run q\ngenerate q 5",
    "at L2.mlp ablate f1\nrun\nrecord L2.mlp\ngenerate 3",
]


@pytest.mark.parametrize("program", WHOLE)
def test_a_whole_program_is_one_step_on_the_callers_prompts(program: str) -> None:
    plan, report = analysed(program, prompts={"row 0": "The cat"}, whole=True)
    assert report.errors == ()
    assert [d.code for d in report.warnings] == ["S602"] * program.count("generate")
    assert plan is not None
    (step,) = plan.steps
    assert (step.step.kind, step.step.named, [p.name for p in step.prompts]) == ("run", False, ["row 0"])
    assert [e.text() for e in step.step.edits] == ["at L2.mlp ablate f1"]
    assert [r.label for r in step.step.records] == ["L2.mlp"]
    assert plan.program_id == analysed(WHOLE[0], prompts={"row 0": "The cat"}, whole=True)[0].program_id  # type: ignore[union-attr]


def test_generated_positions_of_a_whole_program_are_right() -> None:
    _, report = analysed("at L2.mlp ablate f1 @ gen[3]\ngenerate 9", prompts={"row 0": "The cat"}, whole=True)
    assert report.errors == ()


IGNORED = [
    ("at L2.mlp ablate f1\nmetric m = kl()\nrun", "the metric m is not computed", "metric m = kl()"),
    ("at L2.mlp ablate f1\nrun with mode = frozen", "mode = frozen has no effect", "run with mode = frozen"),
    (
        "at L2.mlp ablate f1\nrun with mode = direct, seed = 3",
        "mode = direct, seed = 3 have no effect",
        "run with mode = direct, seed = 3",
    ),
    ("at L2.mlp ablate f1\ngenerate 9", "nothing is generated", "generate 9"),
    ("at L2.mlp ablate f1\nrun\nreset\nat L2.mlp ablate f2", "what stands above this `reset` does not count", "reset"),
]


@pytest.mark.parametrize(("program", "what", "where"), IGNORED)
def test_what_a_forward_of_ones_own_ignores_is_said(program: str, what: str, where: str) -> None:
    _, report = analysed(program, prompts={"row 0": "The cat"}, whole=True)
    assert report.errors == ()
    found = [d for d in report.warnings if d.message.startswith("a trace")]
    assert [(d.code, d.message.partition(": ")[2], program[d.span.start : d.span.end]) for d in found] == [
        ("S602", what, where)
    ]
    assert analysed("at L2.mlp ablate f1\nrun with mode = iterative", whole=True)[1].warnings == ()


# Hashes ---------------------------------------------------------------------------------------------------------------


def ids(program: str, weights: Mapping[str, str] | None = None, base: Path = Path()) -> tuple[str, str]:
    plan, report = analysed(program, base=base)
    assert report.errors == ()
    assert plan is not None
    return plan.program_id, plan.plan_id(weights or {"model": "m"})


SAME = [
    ("at L2.mlp ablate f1", "at L2.mlp ablate f1 @ all"),
    ("at L2.mlp ablate f1 @ all", "at L2.mlp @ all ablate f1"),
    ("at L2.mlp ablate f1 @ last", "at L2.mlp @ last ablate f1 @ last"),
    ("at L2.mlp ablate f1 @ prompt[3] | bos", "at L2.mlp ablate f1 @ bos | prompt[3] | bos"),
    ("at L2.mlp ablate f1 @ prompt[1] | prompt[2]", "at L2.mlp ablate f1 @ prompt[1..2]"),
    ("at L2.mlp @ prompt ablate f1 @ last", "at L2.mlp @ last ablate f1 @ prompt"),
    ("at L2.mlp ablate all", "at L2.mlp ablate f0..1023"),
    ("at L2.mlp ablate all", "at L2.mlp ablate f0..5; ablate f6..1023"),
    ('prompt a = "x"\nrun a', 'prompt a = "x"\nprompt b = "y"\nrun a'),
    ('sae a = "demo:L2.mlp"\nat a ablate f1', 'sae b = "demo:L2.mlp"\nat b ablate f1'),
    ('sae a = "demo:L2.mlp"\nat a ablate f1', "at L2.mlp ablate f1"),
    (
        'sae a = "demo:L2.mlp"\nsae b = "demo:L2.mlp"\nat a ablate f1\nat b ablate f2\nrecord b.f4',
        "at L2.mlp ablate {f1, f2}\nrecord L2.mlp.f4",
    ),
    (
        T + 'sae a = "demo:L2.mlp"\nat t ablate f1\nat a ablate f2',
        'sae z = "demo:L2.mlp"\nsae y = "demo:L2.mlp.transcoder"\nat z ablate f2\nat y ablate f1',
    ),
    ("record L2.mlp @ prompt[1]\nrecord L2.mlp @ prompt[2]", "record L2.mlp @ prompt[1..2]"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_spelling_leaves_no_trace_in_the_hashes(a: str, b: str) -> None:
    assert ids(a) == ids(b)


def test_a_plan_id_depends_on_a_dictionarys_weights_not_on_its_path(tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(find_sae("demo:L2.mlp"))
    one = ids('sae g = "demo:L2.mlp"\nat g ablate f1', {"model": "m", "g": "1"})
    other = ids('sae h = "here"\nat h ablate f1', {"model": "m", "h": "1"}, tmp_path)
    assert one[0] != other[0]
    assert one[1] == other[1]
    assert ids('sae h = "here"\nat h ablate f1', {"model": "m", "h": "2"}, tmp_path)[1] != one[1]
