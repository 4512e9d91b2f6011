"""Programs with mistakes -> code, message, the text it points at, label, first hint; none left out, none invented."""

# ruff: noqa: E501 (a row of a table stays one line)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from saedsl.analyse import Given, analyse
from saedsl.anatomy import ModelInfo
from saedsl.grammar.source import Source
from saedsl.model import InterpretableModel
from saedsl.plan import Plan
from saedsl.report import Report
from saedsl.sae.dictionary import SAE

SAEs = Callable[..., SAE]
Analyse = Callable[[str], tuple[Plan | None, Report]]

PROMPT = "The cat sat on the mat"
TOKENS = "the tokens are 0 '<s>', 1 'T', 2 'h', 3 'e', 4 ' cat', 5 ' sat', 6 ' on', 7 ' the', 8 ' mat'"
TWO = "this model has 2 layers: L0..L1"
TWICE = "all edits of a site read the activation as it arrives, so two of one feature contradict"


@pytest.fixture(scope="module")
def check(llama: InterpretableModel, sae_of: SAEs, tmp_path_factory: pytest.TempPathFactory) -> Analyse:
    """Checks a program on the tiny Llama, with dictionaries given for L0.mlp, L1.mlp and L1.attn.z and others on disk."""
    folder = tmp_path_factory.mktemp("saes")
    sae_of(site="L0.mlp").save(folder / "good")
    sae_of(16, site="L0.mlp").save(folder / "narrow")
    sae_of(site="L9.mlp").save(folder / "deep")
    sae_of().save(folder / "nowhere")
    sae_of(site="L0.mlp", model_name="other/model").save(folder / "foreign")
    sae_of(site="L0.mlp", read="L0.mlp.in").save(folder / "transcoder")
    sae_of(site="L0.mlp", read="L1.mlp.in").save(folder / "backward")
    given = {"L0.mlp": sae_of(seed=1).info, "L1.mlp": sae_of(seed=2).info, "L1.attn.z": sae_of(48, seed=3).info}

    def run(program: str) -> tuple[Plan | None, Report]:
        bind = {"k": 2.0} if "$k" in program else {}
        brought = Given(llama.info, llama.encoder, given, bind, {"p": PROMPT}, folder)
        return analyse(Source(program), brought)

    return run


Row = tuple[str, list[tuple[str, str, str, str, str]]]
"""program, [(code, message, text pointed at, label, first hint)]"""

NAMES: list[Row] = [
    ("at L0.mlp ablate truth", [("S201", "nothing above is called truth", "truth", "", "")]),
    (
        "let truht = {f1}\nat L0.mlp ablate truth",
        [("S201", "nothing above is called truth", "truth", "", "did you mean truht?")],
    ),
    ("at mlp ablate", [("S201", "nothing above is called mlp", "mlp", "", "which layer? L0.mlp")]),
    (
        'at module "model.layers.1.mpl" out ablate',
        [
            (
                "S330",
                "this model has no module model.layers.1.mpl",
                'module "model.layers.1.mpl" out',
                "",
                'did you mean module "model.layers.1.mlp" out?',
            )
        ],
    ),
    (
        'record module "model.nrom" out',
        [
            (
                "S330",
                "this model has no module model.nrom",
                'module "model.nrom" out',
                "",
                'did you mean module "model.norm" out?',
            )
        ],
    ),
    ("at g ablate f1", [("S201", "nothing above is called g", "g", "", "")]),
    ("record nothing", [("S201", "nothing above is called nothing", "nothing", "", "")]),
    ("run q", [("S201", "nothing above is called q", "q", "", "")]),
    ("let s = {s}\nat L0.mlp ablate s", [("S201", "nothing above is called s", "s", "", "")]),
    (
        "let a = {b}\nlet b = {a}\nat L0.mlp ablate a",
        [("S205", "b is declared further down", "b", "", "move its `let` statement up")],
    ),
    (
        "let a = b\nlet b = 3\nat L0.mlp set f1 = a",
        [("S205", "b is declared further down", "b", "", "move its `let` statement up")],
    ),
    (
        "let a = {nope, f1, nil}\nat L0.mlp ablate a",
        [
            ("S201", "nothing above is called nope", "nope", "", ""),
            ("S201", "nothing above is called nil", "nil", "", ""),
        ],
    ),
    ("let a = 1\nlet a = 2", [("S202", "a is declared twice, first on line 1", "let a = 2", "", "")]),
    ('prompt p = "a"\nprompt p = "b"', [("S202", "p is declared twice, first on line 1", 'prompt p = "b"', "", "")]),
    ('sae g = "good"\nlet g = 2', [("S202", "g is declared twice, first on line 1", "let g = 2", "", "")]),
    ("let a = 2\nat L0.mlp ablate a", [("S203", "a is a number, features are needed here", "a", "", "")]),
    ("let a = {f1}\nat L0.mlp set f1 = a", [("S203", "a is a set of features, a number is needed here", "a", "", "")]),
    ('prompt q = "hi"\nat q ablate', [("S203", "q is a prompt, a dictionary is needed here", "q", "", "")]),
    ("let a = 1\nrun a", [("S203", "a is a value, a prompt is needed here", "a", "", "")]),
    (
        "at L0.mlp set f1 = $j",
        [("S204", "$j has no value", "$j", "", "give it one: --set j=2, or bind={'j': 2} in Python")],
    ),
    (
        'at g ablate f1\nsae g = "good"',
        [("S205", "g is declared further down", "g", "", "move its `sae` statement up")],
    ),
]

MODEL: list[Row] = [
    ("at L5.mlp ablate f1", [("S304", "layer 5 does not exist", "L5", TWO, "did you mean L1.mlp?")]),
    ("at L0..5.mlp ablate", [("S304", "layer 5 does not exist", "L0..5", TWO, "did you mean L1.mlp?")]),
    ("at L{0, 7}.mlp ablate", [("S304", "layer 7 does not exist", "7", TWO, "did you mean L1.mlp?")]),
    ("at L-3.mlp ablate", [("S304", "layer -3 does not exist", "L-3", TWO, "did you mean L1.mlp?")]),
    ("record L7.mlp", [("S304", "layer 7 does not exist", "L7", TWO, "did you mean L1.mlp?")]),
    ("at L0.mpl ablate", [("S303", "L0.mpl is not a site", "L0.mpl", "", "did you mean L0.mlp?")]),
    ("at L0.logits ablate", [("S303", "L0.logits is not a site", "L0.logits", "", "logits has no layer: logits")]),
    ("at L0.attn.y ablate", [("S303", "L0.attn.y is not a site", "L0.attn.y", "", "did you mean L0.attn.z?")]),
    ('sae g = "good" on L0..1.mlp', [("S306", "L0..1.mlp is 2 sites, one is needed here", "L0..1.mlp", "", "")]),
    ("at L0..1.mlp ablate L0..1.mlp.f3", [("S306", "L0..1.mlp is 2 sites, one is needed here", "L0..1.mlp", "", "")]),
    (
        'sae g = "absent" on L0.attn\nat g ablate f1\nat L0.attn ablate f2',  # what follows from it is not repeated
        [("S307", "this dictionary cannot be used: absent: there is no such file or folder", '"absent"', "", "")],
    ),
    (
        'sae g = "nowhere"',
        [
            (
                "S308", "the file of g does not say which site it was trained on", 'sae g = "nowhere"', "",
                'say it: sae g = "..." on L2.mlp',
            ),
        ],
    ),
    (
        "at L0.attn ablate f1",
        [("S309", "no dictionary is bound to L0.attn, so it has no features", "f1", "", 'bind one: sae g = "path" on L0.attn')],
    ),
    (
        "record L0.attn.f3",
        [("S309", "no dictionary is bound to L0.attn, so it has no features", "L0.attn.f3", "", 'bind one: sae g = "path" on L0.attn')],
    ),
    (
        'sae g = "good"\nat L0.mlp ablate f1',
        [("S310", "2 dictionaries are bound to L0.mlp: g, L0.mlp", "f1", "", "say which: at L0.mlp ablate g.f42")],
    ),
    ("at L0.mlp ablate f40", [("S311", "feature 40 does not exist", "f40", "L0.mlp has 40 features: f0..39", "")]),
    ("at L0.mlp ablate f38..41", [("S311", "feature 41 does not exist", "f38..41", "L0.mlp has 40 features: f0..39", "")]),
    (
        "let s = {L0.mlp.f1, L1.mlp.f99}\nat L0..1.mlp ablate s",
        [("S311", "feature 99 does not exist", "s", "L1.mlp has 40 features: f0..39", "")],
    ),
    (
        "at L0.mlp ablate L1.mlp.f3",
        [("S312", "L1.mlp.f3 belongs to L1.mlp, which this statement does not edit", "L1.mlp.f3", "", "at L1.mlp ...")],
    ),
    (
        "at L0..1.mlp ablate f1",
        [
            (
                "S313", "f1 is another feature in the dictionary of each of these 2 sites", "f1", "",
                "name the features one by one: let s = {L0.mlp.f1, L1.mlp.f8}, then use s",
            ),
        ],
    ),
    (
        'sae g = "foreign"\nat g ablate f1',
        [("S314", "g was trained on the model other/model, this is tiny-llama", '"foreign"', "", "")],
    ),
    (
        'model "other/model"\nat L0.mlp ablate',
        [("S315", "the program names another model than the one it runs on, tiny-llama", '"other/model"', "", "")],
    ),
    ('sae g = "good" on L1.mlp\nat g ablate f3', [("S316", "g was trained on L0.mlp and is bound to L1.mlp", "L1.mlp", "", "")]),
    (
        'sae g = "narrow"\nat g ablate f3',
        [
            (
                "S317", "g reads activations 16 wide, L0.mlp of this model is 32 wide", '"narrow"', "",
                "use a dictionary that was trained on this model and site",
            ),
        ],
    ),
    (
        'sae g = "backward"\nat g ablate f3',
        [
            (
                "S318", "g reads L1.mlp.in and writes L0.mlp, which a forward reaches first", '"backward"', "",
                "a dictionary writes where it reads, or downstream of it",
            ),
        ],
    ),
    ('sae g = "deep"', [("S304", "g was trained on L9.mlp, and this model has no layer 9", '"deep"', TWO, "")]),
]  # fmt: skip

POSITIONS: list[Row] = [
    ('at L0.mlp ablate f1 @ " dog"', [("S401", f'the prompt "{PROMPT}" does not spell " dog"', '" dog"', "", TOKENS)]),
    ('record L0.mlp.f3 @ " dog"', [("S401", f'the prompt "{PROMPT}" does not spell " dog"', '" dog"', "", TOKENS)]),
    (
        'at L0.mlp ablate f1 @ "t"',
        [
            (
                "S402", f'the prompt "{PROMPT}" spells "t" 4 times, at positions 4, 5, 7, 8', '"t"', "",
                'choose one, "t"[0], or take all of them, every "t"',
            ),
        ],
    ),
    ('at L0.mlp ablate f1 @ "t"[5]', [("S403", f'the prompt "{PROMPT}" spells "t" 4 times: "t"[0] to "t"[3]', '"t"[5]', "", "")]),
    (
        "at L0.mlp ablate f1 @ prompt[99]",
        [("S403", f'the prompt "{PROMPT}" has 9 tokens: prompt[0] to prompt[8]', "prompt[99]", "", TOKENS)],
    ),
    (
        "at L0.mlp ablate f1 @ prompt[4..-7]",
        [("S403", "this range is empty: it runs from 4 to 2", "prompt[4..-7]", "", "a..b includes both ends, a first")],
    ),
    (
        "at L0.mlp ablate f1 @ gen[-1]\ngenerate 3",
        [
            (
                "S403", "generated tokens cannot be counted from the end: the end is not known yet", "gen[-1]", "",
                "`last` is the newest token at every step",
            ),
        ],
    ),
    (
        'at L0.mlp @ " cat" ablate f1 @ prompt[-1]',
        [
            (
                "S404",
                f'no position matches in the prompt "{PROMPT}": these two position lists have nothing in common',
                "prompt[-1]", "", TOKENS,
            ),
        ],
    ),
    (
        "at L0.mlp ablate f1 @ prompt except all",
        [("S404", f'no position matches in the prompt "{PROMPT}": no position is left', "prompt except all", "", TOKENS)],
    ),
    (
        'prompt q = "<s>The cat"\nrun q',
        [
            ("S406", "the prompt q starts with 2 BOS tokens: the tokenizer adds one itself", "run q", "", "leave <s> out of the text"),
            ("S207", "prompts are given that do not run: the program names its own", "run q", "", "leave the prompt out of `run`"),
        ],
    ),
    (
        "at L0.mlp ablate f1 @ gen",
        [("S407", "generated tokens never come in a `run`, and no `generate` uses this", "gen", "", "generate 32")],
    ),
]  # fmt: skip


def twice(what: str, at: str, line: int = 1) -> list[tuple[str, str, str, str, str]]:
    return [("S501", f"{what} of L0.mlp is edited twice at the same position", at, f"first on line {line}", TWICE)]


EDITS: list[Row] = [
    ("at L0.mlp ablate f1; amplify f1 x2", twice("f1", "amplify f1 x2")),
    ("at L0.mlp ablate f1\nat L0.mlp set f1 = 3", twice("f1", "set f1 = 3")),
    ("let v = 3\nat L0.mlp ablate f1..5\nat L0.mlp set {f9, f3} = v", twice("f3", "set {f9, f3} = v", 2)),
    ("at L0.mlp ablate all; set f3 = 2", twice("f3", "set f3 = 2")),
    ("at L0.mlp ablate all; set all = 2", twice("every feature", "set all = 2")),
    ("at L0.mlp ablate; amplify x2", twice("the whole site", "amplify x2")),
    ("at L0.mlp ablate {f1, f1}", twice("f1", "ablate {f1, f1}")),
    ("at L0.mlp, L0.mlp ablate", twice("the whole site", "ablate")),
    ("at L0.mlp ablate f1 @ prompt[2..4]; set f1 = 2 @ prompt[4..5]", twice("f1", "set f1 = 2 @ prompt[4..5]")),
    ('at L0.mlp ablate f1 @ " cat"; set f1 = 2 @ prompt[4]', twice("f1", "set f1 = 2 @ prompt[4]")),
    ("at L0.mlp ablate f1 @ gen[0..3]; set f1 = 2 @ gen[3]\ngenerate 5", twice("f1", "set f1 = 2 @ gen[3]")),
    ("at L0.mlp clamp f1 to 5..2", [("S502", "this range is empty: 5 is above 2", "clamp f1 to 5..2", "", "")]),
    ("let a = 1 / 0\nat L0.mlp set f1 = a", [("S503", "this divides by zero", "1 / 0", "", "")]),
    (
        "at L0.mlp set f1 = 1e308 * 1e308",
        [("S503", "1e+308 * 1e+308 is not a finite number", "1e308 * 1e308", "", "")],
    ),
    ("at L0.mlp add 2", [("S504", "add needs features: it adds their decoder directions", "add 2", "", "add 4 f42")]),
]

RUNS: list[Row] = [
    (
        'prompt q = "hi"\nrun q\nat L0.mlp ablate f1',
        [
            (
                "S207",
                "prompts are given that do not run: the program names its own",
                "run q",
                "",
                "leave the prompt out of `run`",
            ),
            ("S602", "no run or generate comes after this: it has no effect", "at L0.mlp ablate f1", "", "move it up"),
        ],
    ),
    ("generate 0", [("S603", "the number of tokens to generate is a whole number, 1 or more", "0", "", "")]),
    ("generate 2.5", [("S603", "the number of tokens to generate is a whole number, 1 or more", "2.5", "", "")]),
    ('prompt q = "hi"\ngenerate q', [("S603", "how many tokens are to be generated?", "q", "", "generate q 32")]),
]


@pytest.mark.parametrize(("program", "expected"), [*NAMES, *MODEL, *POSITIONS, *EDITS, *RUNS])
def test_each_mistake_is_reported_once_where_it_is(
    program: str, expected: list[tuple[str, str, str, str, str]], check: Analyse
) -> None:
    _, report = check(program)
    found = [
        (d.code, d.message, program[d.span.start : d.span.end], d.label, d.hints[0] if d.hints else "")
        for d in report.diagnostics
    ]
    assert found == expected


RIGHT = [
    "at L0.mlp ablate f1 @ prompt[2]; set f1 = 2 @ prompt[3]",
    "at L0.mlp ablate f1; amplify x2",
    "at L0.mlp ablate f1 @ gen[0..3]; set f1 = 2 @ gen[4]\ngenerate 9",
    "at L0.mlp set f1 = $k * 2 - 1 / 4",
    "let a = {f1}\nlet b = a\nlet c = b\nat L0.mlp ablate c",
    "let a = {f1, f2}\nlet b = {a, f3}\nat L0.mlp ablate b",
    "let a = 2\nlet b = a\nat L0.mlp amplify f1 x b",
    "let s = {L0.mlp.f1, L1.mlp.f8}\nat L0..1.mlp ablate s",
    'sae g = "good"\nat g ablate f1\nat L0.mlp ablate g.f2',
    'sae t = "transcoder"\nat t ablate f3',
    'sae t = "transcoder" on L1.mlp\nat t ablate f3',
    "at L0..1.mlp ablate all",
    "record L0.mlp @ prompt[1]\nrecord L0.mlp @ prompt[2]",
    "at L-1.mlp ablate f1",
    "",
]


@pytest.mark.parametrize("program", RIGHT)
def test_what_is_right_is_not_reported(program: str, check: Analyse) -> None:
    plan, report = check(program)
    assert report.errors == ()
    assert plan is not None


def test_all_mistakes_of_a_program_are_reported_at_once_in_order(check: Analyse) -> None:
    program = 'at L0.mpl ablate f1\nat L9.mlp ablate f2\nat L0.mlp ablate f77; set f1 = $zz @ " dog"; clamp f3 to 2..1\nrun nobody\n'
    _, report = check(program)
    assert [(d.code, program[d.span.start : d.span.end]) for d in report.errors] == [
        ("S303", "L0.mpl"), ("S304", "L9"), ("S311", "f77"), ("S204", "$zz"), ("S502", "clamp f3 to 2..1"), ("S201", "nobody"),
    ]  # fmt: skip


def test_a_mistake_is_shown_with_its_line_and_carets(check: Analyse) -> None:
    (d,) = check("# first\nat L5.mlp ablate f1")[1].errors
    assert d.render().split("\n") == [
        "error[S304]: layer 5 does not exist",
        "  --> <program>:2:4",
        "   |",
        " 2 | at L5.mlp ablate f1",
        "   |    ^^ this model has 2 layers: L0..L1",
        "   = help: did you mean L1.mlp?",
    ]


def test_a_program_without_a_prompt_says_how_to_give_one(llama: InterpretableModel) -> None:
    (d,) = analyse(Source("at L0.mlp ablate"), Given(llama.info, llama.encoder))[1].errors
    assert (d.code, d.message) == ("S601", "there is no prompt to run on")
    assert d.hints == ('add one: prompt p = "Once upon a time"', "or give one: --prompt, or prompts= in Python")
    assert analyse(Source("at L0.mlp ablate"), Given(llama.info, llama.encoder), need_prompts=False)[1].errors == ()


def test_a_model_that_cannot_be_read_does_not_hide_other_mistakes(tmp_path: Path) -> None:
    program = 'model "nothing-here"\nat L0.mlp ablate; set f1 = $k\nrun nobody'
    plan, report = analyse(Source(program), Given(base=tmp_path))
    assert plan is None
    assert [d.code for d in report.errors] == ["S301", "S204", "S201"]
    assert report.errors[0].message.startswith("this model cannot be used: nothing-here: there is no such folder")


def test_a_dictionary_of_the_callers_for_another_model_is_warned_of(llama: InterpretableModel, sae_of: SAEs) -> None:
    foreign = {"g": sae_of(site="L0.mlp", model_name="other/model").info}
    _, report = analyse(Source("at g ablate f1"), Given(llama.info, llama.encoder, foreign, prompts={"p": PROMPT}))
    message = "g was trained on the model other/model, this is tiny-llama"
    assert [(d.code, d.severity, d.message) for d in report.diagnostics] == [("S314", "warning", message)]


def test_names_that_name_each_other_cost_no_time(check: Analyse) -> None:
    """Sets of sets would double with every line if they were not sets."""
    lines = ["let s0 = {f1, f2}", *(f"let s{i} = {{s{i - 1}, s{i - 1}, f{i}}}" for i in range(1, 40))]
    plan, report = check("\n".join([*lines, "at L0.mlp ablate s39"]))
    assert report.errors == ()
    assert plan is not None
    assert plan.steps[0].step.edits[0].features == tuple(range(1, 40))


def test_a_program_id_depends_on_what_is_done_only(check: Analyse) -> None:
    def id_of(program: str) -> str:
        plan, report = check(program)
        assert plan is not None
        assert report.errors == ()
        return plan.program_id

    one = id_of("at L0.mlp ablate f1; amplify f2 x2")
    assert id_of("# a comment\n\nlet two = 2\nat L0.mlp {\n  amplify f2 x two\n  ablate L0.mlp.f1\n}\nrun") == one
    for other in (
        "at L0.mlp ablate f1; amplify f2 x3", "at L0.mlp ablate f2; amplify f1 x2", "at L1.mlp ablate f1; amplify f2 x2",
        "at L0.mlp ablate f1 @ last; amplify f2 x2", "at L0.mlp ablate f1; amplify f2 x2\ngenerate 4",
    ):  # fmt: skip
        assert id_of(other) != one


def test_the_text_of_a_planned_edit_is_a_program_again(check: Analyse) -> None:
    for program in (
        "at L0.mlp ablate f1", "at L0.mlp amplify {f1, f3..5} x -0.5 @ prompt[-1]", "at L0.mlp set all = 2", "at logits clamp to ..1.5",
        "at L0.mlp clamp f3 to 0.. @ last", "at L0.mlp add -2 f9 @ \" cat\" | prompt[2..3]", "at L1.attn.z amplify x2",
    ):  # fmt: skip
        plan, _ = check(program)
        assert plan is not None
        (edit,) = plan.steps[0].step.edits
        again, report = check(edit.text())
        assert report.errors == ()
        assert again is not None
        assert again.steps[0].step.edits == (edit,)


def test_model_info_refuses_configs_without_sizes() -> None:
    from saedsl.errors import ModelError

    with pytest.raises(ModelError, match=r"m: config.json gives no d_model \(looked for hidden_size, n_embd\)"):
        ModelInfo.from_config({"model_type": "llama"}, "m")
    with pytest.raises(ModelError, match=r"m: config.json gives no number of layers"):
        ModelInfo.from_config(
            {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": -1}, "m"
        )
    with pytest.raises(ModelError, match=r"m: config.json has no model_type, so this is not a language model's folder"):
        ModelInfo.from_config({}, "m")
