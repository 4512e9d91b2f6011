"""What is said about mistakes: code, place, words and hints."""

from __future__ import annotations

import pytest

from saedsl.grammar.codes import CODES
from saedsl.grammar.nodes import At
from saedsl.grammar.parse import parse
from saedsl.grammar.words import FREE_WORDS, MODES, OPTIONS

A_LINE = "a line starts with a word such as model, prompt, at or run"
MISTAKES: list[tuple[str, str, str, str, tuple[str, ...]]] = [
    ("at L1.mlp ablate {1, 8}", "S122", "1", "1 is not a feature", ("write f1",)),
    ("at L1.mlp ablate [f1, f8]", "S122", "[", "a set of features is written in braces", ("write {f1, f8}",)),
    ("at L1.mlp ablate f1, f8", "S122", ",", "several features go in braces", ("write {f1, f8}",)),
    ("at L1.mlp ablate f3..f9", "S122", "f9", "a range has one f", ("write f3..9",)),
    (
        "at L1.mlp ablate feature 42",
        "S122",
        "feature 42",
        "a feature is written f and its number",
        ("write f42",),
    ),
    ("at L1.mlp ablate {f1 f8}", "S122", "f8", "a comma is missing", ("write f1, f8",)),
    ('at L1.mlp ablate "f42"', "S122", '"f42"', "a target is not written in quotes", ("write f42",)),
    ("at L1.mlp ablate f1 and f2", "S122", "and", "several features go in braces", ("write {f1, f2}",)),
    ("at L1.mlp ablate f3-9", "S122", "f3-9", "a range of features is written with ..", ("write f3..9",)),
    (
        "at L1.mlp ablate f1 at prompt[-1]",
        "S125",
        "at",
        "positions follow @, not `at`",
        ("write @ prompt[-1]",),
    ),
    ("at L1.mlp ablate f1 prompt[-1]", "S125", "prompt", "positions follow @", ("write @ prompt[-1]",)),
    ("at L1.mlp amplify f7", "S124", "", "by how much?", ("write amplify f7 x2",)),
    ("at L1.mlp amplify f7 x", "S124", "", "by how much?", ("write amplify f7 x2",)),
    ("at L1.mlp amplify f7 2x", "S124", "2x", "a factor is written xN", ("write amplify f7 x2",)),
    (
        "at L1.mlp amplify f7 by strength",
        "S124",
        "by strength",
        "a factor is written xN",
        ("write amplify f7 x strength",),
    ),
    (
        "at L1.mlp amplify f7 xstrength",
        "S124",
        "xstrength",
        "a factor is written xN",
        ("write amplify f7 x strength",),
    ),
    ("at L1.mlp amplify f7 = 3", "S124", "= 3", "a factor is written xN", ("write amplify f7 x3",)),
    ("at L1.mlp amplify 7 x2", "S122", "7", "7 is not a target", ("write amplify f7 x2",)),
    ("at L1.mlp set f3 0", "S120", "0", "`set` needs = before the value", ("write set f3 = 0",)),
    ("at L1.mlp set f3 == 0", "S114", "==", "== is Python", ("write =",)),
    ("at L1.mlp set f3", "S121", "", "`set` needs = and a value", ("write set f3 = 4",)),
    ("at L1.mlp set f3 =", "S121", "", "`set` ends too early", ()),
    ("at L1.mlp set 42 = 0", "S122", "42", "42 is not a target", ("write set f42 = 0",)),
    ("at L1.mlp clamp f3", "S130", "", "a range is missing", ("write clamp f3 to 0..5",)),
    ("at L1.mlp clamp f3 to", "S130", "", "a range is missing", ("write clamp f3 to 0..5",)),
    (
        "at L1.mlp clamp f3 between 0 and 5",
        "S130",
        "between",
        "a range is written a..b",
        ("write clamp f3 to 0..5",),
    ),
    ("at L1.mlp clamp f3 to [0, 5]", "S130", "[", "a range is written a..b", ("write clamp f3 to 0..5",)),
    ("at L1.mlp clamp f3 to 0, 5", "S130", ",", "a range is written a..b", ("write clamp f3 to 0..5",)),
    ("at L1.mlp clamp f3 to 0-5", "S130", "0-5", "a range is written a..b", ("write clamp f3 to 0..5",)),
    (
        "at L1.mlp clamp f3 = 5",
        "S130",
        "=",
        "a range is written a..b, a.. or ..b",
        ("write clamp f3 to ..5 for at most 5", "or set f3 = 5 for exactly 5"),
    ),
    ("at L1.mlp add f42", "S120", "f42", "`add` needs an amount, then the target", ("write add 4 f42",)),
    ("at L1.mlp add f42 x4", "S120", "f42", "`add` needs an amount, then the target", ("write add 4 f42",)),
    (
        "at L1.mlp ablate @",
        "S125",
        "",
        "a position is missing",
        ("write @ prompt[-1], @ gen, @ last or @ all",),
    ),
    (
        "at L1.mlp ablate @ prompt[1, 3]",
        "S125",
        "prompt[1, 3]",
        "prompt[1, 3] is not a position",
        ("write prompt[1] | prompt[3]",),
    ),
    (
        "at L1.mlp ablate @ prompt[2..]",
        "S125",
        "prompt[2..]",
        "prompt[2..] is not a position",
        ("write prompt[2..-1]",),
    ),
    ("at L1.mlp ablate @ prompt -1", "S125", "-1", "an index goes in brackets", ("write prompt[-1]",)),
    (
        "at L1.mlp ablate @ 5",
        "S125",
        "5",
        "5 is not a position: of the prompt, or of what is generated?",
        ("for the prompt's token write @ prompt[5]", "for a generated token write @ gen[5]"),
    ),
    ("at L1.mlp ablate @ prompt and gen", "S125", "and", "positions are joined with |", ("write |",)),
    ("at L1.mlp ablate @ last[0]", "S125", "last[0]", "last has no index", ()),
    (
        "at L1.mlp ablate @ all but bos",
        "S125",
        "but",
        "positions are taken away with except",
        ("write except",),
    ),
    (
        "at L1.mlp ablate @ [-1]",
        "S125",
        "[-1]",
        "[-1] is not a position: of the prompt, or of what is generated?",
        ("for the prompt's token write @ prompt[-1]", "for the newest token at every step write @ last"),
    ),
    ("at L1.mlp ablate @ prompt[-1]]", "S107", "]", "] without [", ()),
    ("at mlp 12 ablate f1", "S123", "mlp 12", "mlp 12 is not a site", ("write L12.mlp",)),
    (
        "at model.layers.12.mlp ablate f1",
        "S123",
        "model.layers.12.mlp",
        "model.layers.12.mlp is not a site",
        ("write L12.mlp",),
    ),
    (
        "at blocks.3.attn.hook_z ablate f1",
        "S123",
        "blocks.3.attn.hook_z",
        "blocks.3.attn.hook_z is not a site",
        ("write L3.attn.z",),
    ),
    (
        "at blocks.3.hook_resid_mid, blocks.0.hook_resid_pre ablate f1",
        "S123",
        "blocks.3.hook_resid_mid",
        "blocks.3.hook_resid_mid is not a site",
        ("write L3.resid_mid",),
    ),
    ("at 12 ablate f1", "S123", "12", "12 is not a site", ("write L12.mlp", "write L12.resid")),
    ("at L1.mlp: ablate f1", "S120", ":", "no colon after `at`", ("leave the colon out",)),
    ("at L1.mlp and L2.mlp ablate f1", "S123", "and", "sites are joined with commas", ("write ,",)),
    (
        "at {L1.mlp, L2.mlp} ablate f1",
        "S123",
        "{",
        "sites are listed without brackets",
        ("write at L1.mlp, L2.mlp",),
    ),
    ("at ablate f1", "S123", "", "`at` needs a site", ("write at L12.mlp",)),
    ("at", "S123", "", "`at` needs a site", ("write at L12.mlp",)),
    (
        "at L1.mlp @ -1 ablate f1",
        "S125",
        "-1",
        "-1 is not a position: of the prompt, or of what is generated?",
        ("for the prompt's token write @ prompt[-1]", "for the newest token at every step write @ last"),
    ),
    ("at L1.mlp last ablate f1", "S125", "last", "positions follow @", ("write @ last",)),
    ("at L1.mlp kill f3", "S111", "kill", "unknown edit kill", ("did you mean ablate?",)),
    ("at L1.mlp steer f3", "S111", "steer", "unknown edit steer", ("did you mean add?",)),
    ("at L1.mlp F42 = 3", "S112", "F42", "features have a small f", ("write f42",)),
    (
        "at L1.mlp f7 *= 2",
        "S111",
        "f7",
        "an edit starts with a word such as ablate, amplify or set",
        ("write amplify f7 x2",),
    ),
    (
        "at L1.mlp strength = 3",
        "S111",
        "strength",
        "an edit starts with a word such as ablate, amplify or set",
        ("write set strength = 3",),
    ),
    (
        "at L1.mlp L2.mlp ablate f3",
        "S111",
        "L2",
        "an edit starts with a word such as ablate, amplify or set",
        ("for another site start a new line with at",),
    ),
    ("at L1.mlp ablate f1 amplify f2 x2", "S118", "amplify", "two edits without `;` between them", ()),
    (
        "at L1.mlp record f1",
        "S116",
        "record",
        "`at` needs an edit on its line",
        ("write at L12.mlp ablate f42",),
    ),
    ("at L1.mlp { }", "S116", "{ }", "the block has no edits", ()),
    ("at L1.mlp { ablate f1 } run", "S117", "run", "two statements on one line", ()),
    ("at L1.mlp; ablate f1", "S117", ";", "`;` only goes between the edits of an `at`", ("leave it out",)),
    ("at L1.mlp ablate f1 at L2.mlp ablate f2", "S117", "at", "two statements on one line", ()),
    ('model = "demo"', "S120", "=", "`model` takes no =", ('write model "demo"',)),
    ("model", "S121", "", "a string is missing", ('write model "..."',)),
    ("model 'demo'", "S104", "'demo'", "strings are written in straight double quotes", ('write "demo"',)),
    ("sae g", "S121", "", "`sae` needs = and a value", ('write sae g = "..."',)),
    (
        "sae g = saes/L5 on L5.resid",
        "S126",
        "saes/L5",
        "a string needs quotes",
        ('write sae g = "saes/L5" on L5.resid',),
    ),
    ('sae g = "x" on L5', "S123", "L5", "L5 is not a site", ("write L5.mlp", "write L5.resid")),
    ('sae = "x"', "S127", "=", "`sae` needs a name", ("write sae NAME = ...",)),
    ('prompt "hello"', "S127", '"hello"', "the prompt has no name", ('write prompt p = "hello"',)),
    (
        'prompt p "hello"',
        "S120",
        '"hello"',
        "`prompt` needs = before the value",
        ('write prompt p = "hello"',),
    ),
    ('prompt p: "hello"', "S120", ":", "`prompt` needs = before the value", ('write prompt p = "hello"',)),
    ("let a", "S121", "", "`let` needs = and a value", ("write let a = 2",)),
    ("let = 2", "S127", "=", "`let` needs a name", ("write let NAME = ...",)),
    ("let 2a = 3", "S127", "2a", "2a cannot be a name", ("choose another name",)),
    ("let L3 = 3", "S127", "L3", "L3 cannot be a name", ("choose another name",)),
    ("let a = 1_000", "S128", "1_000", "1_000 is not a number", ("write 1000",)),
    ("let a = 2 +", "S121", "", "`let` ends too early", ()),
    ("let a = 1e999", "S128", "1e999", "the number is too large", ()),
    ("let a == 2", "S114", "==", "== is Python", ("write =",)),
    ("let f = {}", "S120", "}", "} was not expected", ()),
    ("record", "S123", "", "`record` needs a site", ("write record L12.mlp",)),
    ("record f1 L2.mlp", "S120", "L2", "L2 was not expected", ()),
    (
        "record L1.mlp @ -1",
        "S125",
        "-1",
        "-1 is not a position: of the prompt, or of what is generated?",
        ("for the prompt's token write @ prompt[-1]", "for the newest token at every step write @ last"),
    ),
    ("record layer 5", "S123", "layer 5", "layer 5 is not a site", ("write L5.mlp", "write L5.resid")),
    (
        "record blocks.5.hook_resid_post",
        "S123",
        "blocks.5.hook_resid_post",
        "blocks.5.hook_resid_post is not a site",
        ("write L5.resid_post",),
    ),
    ("run a and b", "S120", "and", "prompts are separated by commas", ("write run a, b",)),
    ("run(a)", "S120", "(", "`run` takes no brackets", ("write run a",)),
    ("generate", "S121", "", "`generate` needs a number of tokens", ("write generate 32",)),
    ("generate fr, 32", "S120", ",", "a number of tokens was expected", ("write generate fr 32",)),
    ("generate fr max_tokens=32", "S120", "=", "a number of tokens was expected", ("write generate fr 32",)),
    (
        'generate "x" 3',
        "S120",
        '"x"',
        "a prompt is given by its name",
        ('write prompt p = "x" on its own line, then generate p',),
    ),
    ('promt a = "x"', "S110", "promt", "unknown statement promt", ("did you mean prompt?",)),
    ("save L5.mlp", "S110", "save", "unknown statement save", ("did you mean record?",)),
    ("strength = 2", "S110", "strength", "unknown statement strength", ("write let strength = 2",)),
    ('fr = "text"', "S110", "fr", "unknown statement fr", ('write prompt fr = "text"',)),
    ("L12.mlp ablate f42", "S110", "L12", "edits follow `at` and the site", ("write at L12.mlp ablate f42",)),
    ("// comment", "S110", "/", "a comment starts with #", ("write # ...",)),
    (
        "foo",
        "S110",
        "foo",
        "unknown statement foo",
        ("a line starts with a word such as model, prompt, at or run",),
    ),
    ("42", "S110", "42", "a line starts with a statement", (A_LINE,)),
    (
        "print(1)",
        "S114",
        "print",
        "this is Python, not saedsl",
        ("a program has statements such as: at L12.mlp ablate f42",),
    ),
    ("Run fr", "S112", "Run", "words of the language are lower-case: run", ("write run",)),
    ("RECORD L5.mlp", "S112", "RECORD", "words of the language are lower-case: record", ("write record",)),
    ("at L1.mlp ablate f1 @ prompt[5..2]", "S129", "5..2", "the range runs backwards", ("write 2..5",)),
    ("at L8..3.mlp ablate f1", "S129", "8..3", "the range runs backwards", ("write 3..8",)),
    ('at L1.mlp ablate f1 @ " Paris', "S102", '" Paris', "the string is not closed", ()),
    ("at L1.mlp ablate f1 × 2", "S105", "×", "unexpected character ×", ("write x",)),
    ("let a = 3 − 2", "S105", "−", "unexpected character −", ("write -",)),
    ("at L1 mlp ablate f3", "S123", "L1 mlp", "L1 mlp is not a site", ("write L1.mlp",)),
    (
        "at L1.mlp ablate f3 in L1.mlp",
        "S115",
        "in",
        "the site comes before `ablate`",
        ("write at SITE ablate ...",),
    ),
    (
        "at g.f3 ablate",
        "S123",
        "f3",
        "`at` takes sites; features come after the edit's word",
        ("write at g ablate f3",),
    ),
    (
        "at embed.f3 ablate",
        "S123",
        "f3",
        "`at` takes sites; features come after the edit's word",
        ("write at embed ablate f3",),
    ),
    (
        "ablate f1 @ prompt",
        "S115",
        "ablate",
        "`ablate` needs a site",
        ("write at L12.mlp ablate f1 @ prompt",),
    ),
    ("at L99999999999999999999.mlp ablate", "S128", "99999999999999999999", "the number is too large", ()),
    (
        "at blocks.3.mlp.hook_pre ablate f1",
        "S123",
        "blocks.3.mlp.hook_pre",
        "blocks.3.mlp.hook_pre is not a site",
        (),
    ),
    ("model demo", "S126", "demo", "a string needs quotes", ('write model "demo"',)),
    (
        'sae g "path" on L2.mlp',
        "S120",
        '"path"',
        "`sae` needs = before the value",
        ('write sae g = "path" on L2.mlp',),
    ),
    ('sae g = "x" at L2.mlp', "S120", "at", "a dictionary is put `on` its site", ("write on L2.mlp",)),
    (
        "prompt fr = The capital",
        "S126",
        "The capital",
        "a string needs quotes",
        ('write prompt fr = "The capital"',),
    ),
    ('prompt fr = "The capital', "S102", '"The capital', "the string is not closed", ()),
    ('prompt f1 = "x"', "S127", "f1", "f1 cannot be a name", ("choose another name",)),
    ("let set = 3", "S127", "set", "set cannot be a name", ("choose another name",)),
    ("let t = [f1, f2]", "S122", "[", "a set of features is written in braces", ("write {f1, f2}",)),
    (
        "at layer 12 ablate f1",
        "S123",
        "layer 12",
        "layer 12 is not a site",
        ("write L12.mlp", "write L12.resid"),
    ),
    ("at L12 ablate f1", "S123", "L12", "L12 is not a site", ("write L12.mlp", "write L12.resid")),
    ("f42 = 0", "S110", "f42", "an edit needs a site", ("write at L12.mlp set f42 = 0",)),
    (
        "ablate f42 at L12.mlp",
        "S115",
        "ablate",
        "the site comes before `ablate`",
        ("write at L12.mlp ablate f42",),
    ),
    ("Ablate f42", "S115", "Ablate", "`ablate` needs a site", ("write at L12.mlp ablate f42",)),
    (
        "import torch",
        "S114",
        "import",
        "this is Python, not saedsl",
        ("a program has statements such as: at L12.mlp ablate f42",),
    ),
    ('model.ablate("f42")', "S114", "model", "this is Python, not saedsl", ("write at L12.mlp ablate ...",)),
    ("  ablate 1", "S115", "ablate", "`ablate` needs a site", ("write at L12.mlp ablate 1",)),
    (
        "  amplify f2 x2 @ prompt[2:5]",
        "S115",
        "amplify",
        "`amplify` needs a site",
        ("write at L12.mlp amplify f2 x2 @ prompt[2:5]",),
    ),
    (
        "  sett f3 = 1",
        "S110",
        "sett",
        "unknown statement sett",
        ("a line starts with a word such as model, prompt, at or run",),
    ),
    ("record L5, L2.mlp", "S123", "L5", "L5 is not a site", ("write L5.mlp", "write L5.resid")),
    (
        'run "text"',
        "S120",
        '"text"',
        "a prompt is given by its name",
        ('write prompt p = "text" on its own line, then run p',),
    ),
    ("run a b", "S120", "b", "prompts are separated by commas", ("write run a, b",)),
    ("run a generate b 3", "S117", "generate", "two statements on one line", ()),
    (
        "generate 32 fr",
        "S120",
        "fr",
        "the prompt comes before the number of tokens",
        ("write generate fr 32",),
    ),
    (
        "at L1.mlp",
        "S116",
        "",
        "`at` needs an edit on its line",
        ("write at L1.mlp ablate f42", "or put the edits in a block: at L1.mlp { ... }"),
    ),
    ("  ablate f1", "S115", "ablate", "`ablate` needs a site", ("write at L12.mlp ablate f1",)),
    ("let b =", "S121", "", "`let` ends too early", ()),
    ("  3", "S110", "3", "a line starts with a statement", (A_LINE,)),
    ("let c = (1 + 2", "S106", "(", "( is not closed", ()),
    ("let d = 3)", "S107", ")", ") without (", ()),
    (
        "prompt p = “Hello”",
        "S104",
        "“Hello”",
        "strings are written in straight double quotes",
        ('write "Hello"',),
    ),
    ("at L1.mlp ablate {f1, f2", "S106", "{", "{ is not closed", ()),
]


@pytest.mark.parametrize(("text", "code", "place", "message", "hints"), MISTAKES)
def test_one_mistake_gives_one_diagnostic(
    text: str, code: str, place: str, message: str, hints: tuple[str, ...]
) -> None:
    found = [(d.code, text[d.span.start : d.span.end], d.message, d.hints) for d in parse(text).diagnostics]
    assert found == [(code, place, message, hints)]


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_does_not_change_its_neighbours(case: tuple[str, str, str, str, tuple[str, ...]]) -> None:
    text = f"let before = 1\n{case[0]}\nlet after = 2\n"
    parsed = parse(text)
    assert [d.code for d in parsed.diagnostics] == [case[1]]
    names = [getattr(s, "name", "") for s in parsed.script.statements]
    assert names[0] == "before"
    assert names[-1] == "after"


@pytest.mark.parametrize("word", ["error", "max", "norm", "std", "patch", "apply", "as", "by", "else", "and", "or"])
def test_words_of_the_language_are_no_names(word: str) -> None:
    assert [(d.code, d.message) for d in parse(f"let {word} = 2").diagnostics] == [("S127", f"{word} cannot be a name")]


@pytest.mark.parametrize("word", [*FREE_WORDS, *OPTIONS, *MODES, "kl", "logit", "act"])
def test_words_with_one_meaning_in_one_place_are_names_elsewhere(word: str) -> None:
    texts = [
        f"let {word} = 2",
        f"at L1.mlp add {word} f3; amplify {word} x {word}; set f1 = {word} max when {word}.f3 > {word}",
        f"metric m = {word} * kl() - act({word}) @ {word} | {word}.{word}",
        f"run {word}, {word}.{word} as {word} with mode = {word}",
        f"sweep {word} in {word}",
        f"at {word}, {word}.mlp keep only {word} else mean of {word}",
    ]
    for text in texts:
        assert [d.render() for d in parse(text).diagnostics] == []


@pytest.mark.parametrize("place", ['@ ""', '@ ""[0]', '@ every ""', '@ span ""', '@ prompt | ""'])
def test_an_empty_string_is_not_a_position(place: str) -> None:
    text = f"at L1.mlp ablate f1 {place}"
    (found,) = parse(text).diagnostics
    assert (found.code, text[found.span.start : found.span.end]) == ("S125", '""')
    assert found.message == "an empty string is not a position"
    assert found.hints == ('write the text of the token, e.g. @ " Paris", or @ all',)


def test_every_code_is_in_the_table() -> None:
    assert {code for _, code, *_ in MISTAKES} <= set(CODES)
    assert list(CODES) == sorted(CODES)
    assert "S113" not in CODES  # retired: never to be used again


PLANTED = """\
model demo
prompt fr = "The capital of France is
sae g = "saes/L5" on L5
let truth = {f1, 8}
at L2.mlp ablate 42; amplify f7 by 2; set f3 = 1
at L3.mlp {
  clamp f3 to 5
  abblate f4
  add 2 f5
  set f6 to 1 @ gen
record L1.mlp @ -1
run fr it
"""


def test_twelve_planted_mistakes_give_twelve_diagnostics() -> None:
    parsed = parse(PLANTED)
    places = [(d.code, PLANTED[d.span.start : d.span.end]) for d in parsed.diagnostics]
    assert places == [
        ("S126", "demo"),
        ("S102", '"The capital of France is'),
        ("S123", "L5"),
        ("S122", "8"),
        ("S122", "42"),
        ("S124", "by 2"),
        ("S106", "{"),
        ("S130", "5"),
        ("S111", "abblate"),
        ("S120", "to"),
        ("S125", "-1"),
        ("S120", "it"),
    ]
    assert len(places) == 12
    kept = [type(s).__name__ for s in parsed.script.statements]
    assert kept == ["PromptDecl", "At", "At"]
    assert parsed.broken == {"g", "truth"}


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("at L1.mlp {\n  ablate f1\n", ["S106"]),
        ("at L1.mlp {\n  ablate f1\nrun", ["S106"]),
        ("at L1.mlp {\n  ablate f1\n  at L2.mlp ablate f2\n}\n", ["S106"]),
        ("at L1.mlp {\n  ablate {f1, f2\n  amplify f3 x2\n}\nrun", ["S106"]),
        ("at L1.mlp {\n  ablate f1 @ prompt[1\n}\nrun", ["S106"]),
        ("at L1.mlp ablate {f1,\n  f2\nrun", ["S106"]),
        ('at L1.mlp {\n  ablate @ " Paris }\nrun', ["S102"]),
        ('at L1.mlp @ " Paris {\n  ablate f1\n}\nrun', ["S102"]),
        ('at L1.mlp ablate @ " Paris; amplify f2 by 2', ["S102"]),
        ("at L1.mlp\n  ablate f1\n  amplify f2 x2\nrun", ["S116"]),
        ("at L1.mlp\nrun", ["S116"]),
        ('prompt fr =\n  "The capital"\nrun fr', ["S121"]),
        ("let a = (1 + (2\nrun", ["S106", "S106"]),
        ("at L1.mlp ablate 4; ablate 5; ablate f6", ["S122", "S122"]),
        ("at l1.mlp ablate 4", ["S112", "S122"]),
        ("AT L1.mlp ablate f4", ["S112"]),
        ("at L1.mlp Ablate f4; ablate 5", ["S112", "S122"]),
        ("at layers 3-5 abblate f1", ["S123", "S111"]),
        ("at L1.mlp ablate f1; at L2.mlp ablate 2", ["S117", "S122"]),
        ("}", ["S107"]),
        ("run )", ["S107"]),
    ],
)
def test_one_mistake_has_no_followers(text: str, codes: list[str]) -> None:
    assert [d.code for d in parse(text).diagnostics] == codes


def test_a_bad_edit_leaves_the_good_ones() -> None:
    parsed = parse("at L1.mlp ablate f1; amplify f2 by 2; set f3 = 4")
    (at,) = parsed.script.statements
    assert isinstance(at, At)
    assert [type(e).__name__ for e in at.edits] == ["Ablate", "Set"]
