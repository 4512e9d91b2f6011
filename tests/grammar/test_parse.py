"""Programs and what they mean; texts that are no programs."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec

import pytest

from saedsl.errors import ProgramError
from saedsl.grammar.nodes import (
    Ablate,
    Add,
    AllFeatures,
    Amplify,
    And,
    Apply,
    At,
    Binary,
    Bound,
    Call,
    Clamp,
    Compare,
    Condition,
    DirDecl,
    Direction,
    Edit,
    ErrorTarget,
    Features,
    FeatureSet,
    Field,
    Freeze,
    Generate,
    Heads,
    Include,
    KeepOnly,
    LayerRange,
    Layers,
    LetDecl,
    MetricDecl,
    ModelDecl,
    ModuleSite,
    Name,
    Negative,
    Neurons,
    Node,
    Not,
    Number,
    Option,
    Or,
    Patch,
    PosExcept,
    PosField,
    PosIndex,
    Positions,
    PosName,
    PosToken,
    PosUnion,
    PosWord,
    ProjectOut,
    PromptDecl,
    PromptsDecl,
    Record,
    RecordItem,
    Reference,
    Reset,
    Run,
    SAEDecl,
    Set,
    SitePattern,
    Span,
    Statement,
    SweepDecl,
    SweepList,
    SweepRange,
    Text,
    Then,
    WholeSite,
)
from saedsl.grammar.parse import MAX_CHARACTERS, build_grammar, parse, parse_or_raise
from saedsl.grammar.words import EDITS, RESERVED, STATEMENTS


def layers(*ranges: tuple[int, int]) -> Layers:
    return Layers(tuple(LayerRange(*r) for r in ranges))


def one(layer: int, component: str = "mlp") -> SitePattern:
    return SitePattern(layers((layer, layer)), component)


F42, F7 = Features(42, 42), Features(7, 7)
G = Name("g")

STATEMENT: list[tuple[str, Statement]] = [
    ('model "demo"', ModelDecl("demo")),
    ('sae g = "saes/L12-mlp" on L12.mlp', SAEDecl("g", "saes/L12-mlp", one(12))),
    ('sae g = "a:b"', SAEDecl("g", "a:b")),
    ('prompt fr = "The capital of France is"', PromptDecl("fr", "The capital of France is")),
    (r'prompt p = "\"a\" \\ \n\t\u00e9 # no comment"', PromptDecl("p", '"a" \\ \n\té # no comment')),
    (r'prompt p = "\ud83d\ude00"', PromptDecl("p", "😀")),
    ("let strength = 2", LetDecl("strength", Number(2))),
    ("let a = 1e-3", LetDecl("a", Number(0.001))),
    ("let a = -.5", LetDecl("a", Number(-0.5))),
    (
        "let a = 2 * (b + -3) - $k",
        LetDecl("a", Binary("-", Binary("*", Number(2), Binary("+", Name("b"), Number(-3))), Bound("k"))),
    ),
    ("let a = -b / +2", LetDecl("a", Binary("/", Negative(Name("b")), Number(2)))),
    ("let a = 1 - 2 - 3", LetDecl("a", Binary("-", Binary("-", Number(1), Number(2)), Number(3)))),
    ("let t = f42", LetDecl("t", F42)),
    ("let t = f3..9", LetDecl("t", Features(3, 9))),
    ("let t = g.f42", LetDecl("t", Features(42, 42, G))),
    ("let t = L2.mlp.f42", LetDecl("t", Features(42, 42, one(2)))),
    (
        "let t = {f1, f100..103,\n # why\n g.f2, truth,\n}",
        LetDecl("t", FeatureSet((Features(1, 1), Features(100, 103), Features(2, 2, G), Name("truth")))),
    ),
    (
        "record g.f42, L5.resid,\n  g @ prompt",
        Record((RecordItem(Features(42, 42, G)), RecordItem(one(5, "resid")), RecordItem(G)), PosWord("prompt")),
    ),
    ("record {g.f1}", Record((RecordItem(FeatureSet((Features(1, 1, G),))),))),
    ("run", Run()),
    ("run fr, it", Run((Name("fr"), Name("it")))),
    ("generate fr 32", Generate(Name("fr"), Number(32))),
    ("generate 32", Generate(None, Number(32))),
    ("generate n_new", Generate(None, Name("n_new"))),
    ("generate fr $n", Generate(Name("fr"), Bound("n"))),
    ("generate fr (2 * 16)", Generate(Name("fr"), Binary("*", Number(2), Number(16)))),
    ("at L12.mlp ablate f42; amplify f7 x2", At((one(12),), (Ablate(F42), Amplify(F7, Number(2))))),
    ("at L12.mlp ablate f42;", At((one(12),), (Ablate(F42),))),
    ("at g,\n L1.mlp @ gen ablate", At((G, one(1)), (Ablate(WholeSite()),), PosWord("gen"))),
    ("at L1.mlp { ablate f42; amplify f7 x2 }", At((one(1),), (Ablate(F42), Amplify(F7, Number(2))))),
    ('sae t = "x" on L2.mlp.in -> L2.mlp', SAEDecl("t", "x", one(2, "mlp.in"), one(2))),
    ('prompt it = chat "Hi"', PromptDecl("it", "Hi", chat=True)),
    ('prompt it = chat "Hi" system "Be brief."', PromptDecl("it", "Hi", True, "Be brief.")),
    ('prompts io = "io.jsonl"', PromptsDecl("io", "io.jsonl")),
    ('dir d = "a.safetensors"', DirDecl("d", "a.safetensors")),
    ('dir d = "a.safetensors".layers.3', DirDecl("d", "a.safetensors", "layers.3")),
    ('dir d = "a.safetensors"."odd key"', DirDecl("d", "a.safetensors", "odd key")),
    ("let t = h0..3", LetDecl("t", Heads(0, 3))),
    ("let t = L2.attn.z.h3", LetDecl("t", Heads(3, 3, one(2, "attn.z")))),
    ("let t = {n4, L2.mlp.act.n8..9}", LetDecl("t", FeatureSet((Neurons(4, 4), Neurons(8, 9, one(2, "mlp.act")))))),
    (
        'metric m = logit(" a") - 2 * prob(io.answer) @ io.S2',
        MetricDecl(
            "m",
            Binary("-", Call("logit", Text(" a")), Binary("*", Number(2), Call("prob", Field("io", "answer")))),
            PosField("io", "S2"),
        ),
    ),
    (
        "metric m = kl() / (act(g.f42) + norm(L3.resid))",
        MetricDecl(
            "m",
            Binary("/", Call("kl"), Binary("+", Call("act", Features(42, 42, G)), Call("norm", one(3, "resid")))),
        ),
    ),
    ("metric m = act(which) + kl", MetricDecl("m", Binary("+", Call("act", Name("which")), Name("kl")))),
    ("sweep s in [0, -0.5, $k,]", SweepDecl("s", SweepList((Number(0), Number(-0.5), Bound("k"))))),
    ("sweep s in 0..4", SweepDecl("s", SweepRange(Number(0), Number(4)))),
    (
        "sweep s in a..2 * b by 0.5",
        SweepDecl("s", SweepRange(Name("a"), Binary("*", Number(2), Name("b")), Number(0.5))),
    ),
    ("sweep s in {f1, h2}", SweepDecl("s", FeatureSet((Features(1, 1), Heads(2, 2))))),
    ("sweep s in g.f1..3", SweepDecl("s", Features(1, 3, G))),
    ("sweep s in h0..3", SweepDecl("s", FeatureSet((Heads(0, 3),)))),
    ("sweep s in truth", SweepDecl("s", Name("truth"))),
    ("sweep s in L0..3", SweepDecl("s", layers((0, 3)))),
    ("sweep s in prompt[0..5]", SweepDecl("s", PosIndex("prompt", 0, 5))),
    ('include "a.saedsl"', Include("a.saedsl")),
    ("reset", Reset()),
    (
        "run fr, io.corrupt as first with mode = frozen, seed = 3",
        Run(
            (Name("fr"), Field("io", "corrupt")),
            "first",
            (Option("mode", Name("frozen")), Option("seed", Number(3))),
        ),
    ),
    ("run as first", Run((), "first")),
    ("run with mode = direct", Run((), None, (Option("mode", Name("direct")),))),
    (
        "generate io.corrupt 32 as a with temp = 0.8",
        Generate(Field("io", "corrupt"), Number(32), "a", (Option("temp", Number(0.8)),)),
    ),
    (
        'record L2.attn.z.h{0, 2..3}, module "model.norm" out, g.error, L2.mlp.act.n17',
        Record(
            (
                RecordItem(SitePattern(layers((2, 2)), "attn.z", (LayerRange(0, 0), LayerRange(2, 3)))),
                RecordItem(ModuleSite("model.norm", "out")),
                RecordItem(ErrorTarget(G)),
                RecordItem(Neurons(17, 17, one(2, "mlp.act"))),
            )
        ),
    ),
    (
        "at L1.mlp @ p when f3 { ablate f42 }",
        At((one(1),), (Ablate(F42),), PosName("p"), Compare(Features(3, 3), ">", Number(0))),
    ),
    (
        "at L1.mlp when f3 > 1 @ gen ablate",
        At((one(1),), (Ablate(WholeSite()),), PosWord("gen"), Compare(Features(3, 3), ">", Number(1))),
    ),
    (
        "at L1.mlp {\n ablate f42 then\n ablate f7\n then ablate; ablate f42 }",
        At((one(1),), (Then((Ablate(F42), Ablate(F7), Ablate(WholeSite()))), Ablate(F42))),
    ),
    (
        "at L1.mlp\n{\n  ablate f42 # c\n\n  amplify f7 x2;\n}",
        At((one(1),), (Ablate(F42), Amplify(F7, Number(2)))),
    ),
]


@pytest.mark.parametrize(("text", "node"), STATEMENT)
def test_statements(text: str, node: Statement) -> None:
    parsed = parse(text)
    assert [d.render() for d in parsed.diagnostics] == []
    assert parsed.script.statements == (node,)


EDIT: list[tuple[str, Edit | Then]] = [
    ("ablate", Ablate(WholeSite())),
    ("ablate f42 @ prompt", Ablate(F42, PosWord("prompt"))),
    ("ablate all", Ablate(AllFeatures())),
    ("ablate truth", Ablate(Name("truth"))),
    ("ablate L-1.mlp.act.f3..9", Ablate(Features(3, 9, one(-1, "mlp.act")))),
    ("amplify f7 x 0.5", Amplify(F7, Number(0.5))),
    ("amplify f7 x -1", Amplify(F7, Number(-1))),
    ("amplify f7 x-1", Amplify(F7, Number(-1))),
    ("amplify f7 x strength", Amplify(F7, Name("strength"))),
    ("amplify f7 x$k", Amplify(F7, Bound("k"))),
    ("amplify x2 @ last", Amplify(WholeSite(), Number(2), PosWord("last"))),
    ("set f42 = a + 1", Set(F42, Binary("+", Name("a"), Number(1)))),
    ("set = 0", Set(WholeSite(), Number(0))),
    ("clamp f7 to 0..5", Clamp(F7, Number(0), Number(5))),
    ("clamp f7 to -1.5..", Clamp(F7, Number(-1.5), None)),
    ("clamp to ..b", Clamp(WholeSite(), None, Name("b"))),
    ("clamp f7 to a..b", Clamp(F7, Name("a"), Name("b"))),
    ("add 4 f42", Add(Number(4), F42)),
    ("add -2 * k {f42, f7}", Add(Binary("*", Number(-2), Name("k")), FeatureSet((F42, F7)))),
    ("add strength truth", Add(Name("strength"), Name("truth"))),
    ("add strength", Add(Name("strength"), WholeSite())),
    ("ablate h3", Ablate(Heads(3, 3))),
    ("ablate h{0, 2..3}", Ablate(FeatureSet((Heads(0, 0), Heads(2, 3))))),
    ("ablate n3..9", Ablate(Neurons(3, 9))),
    ("ablate g.error", Ablate(ErrorTarget(G))),
    ("drop error @ gen", Ablate(ErrorTarget(), PosWord("gen"))),
    ("ablate dir $d", Ablate(Direction(Bound("d")))),
    ("ablate f42 to zero", Ablate(F42)),
    ('ablate f42 to mean of "a.txt"', Ablate(F42, to=Reference("mean", Text("a.txt")))),
    (
        "ablate to mean by position of io @ gen",
        Ablate(WholeSite(), PosWord("gen"), Reference("mean by position", Name("io"))),
    ),
    ("ablate f42 to resample of io", Ablate(F42, to=Reference("resample", Name("io")))),
    ("set f42 = 4 max when f7", Set(F42, Number(4), unit="max", when=Compare(F7, ">", Number(0)))),
    ("clamp f7 to ..2 std", Clamp(F7, None, Number(2), unit="std")),
    ("add 0.4 norm dir d", Add(Number(0.4), Direction(Name("d")), unit="norm")),
    ("add strength max f42", Add(Name("strength"), F42, unit="max")),
    ("project out {f42, f7}", ProjectOut(FeatureSet((F42, F7)))),
    ("patch from it", Patch(WholeSite(), Name("it"))),
    (
        "patch f42 @ gen from io.corrupt at io.S2 when f7",
        Patch(F42, Field("io", "corrupt"), PosField("io", "S2"), PosWord("gen"), Compare(F7, ">", Number(0))),
    ),
    ("patch f42 @ gen when f7 from it", Patch(F42, Name("it"), None, PosWord("gen"), Compare(F7, ">", Number(0)))),
    ("freeze", Freeze(WholeSite())),
    ("keep only f42", KeepOnly(F42)),
    ("keep only truth else zero", KeepOnly(Name("truth"))),
    ("keep only all else mean of io", KeepOnly(AllFeatures(), Reference("mean", Name("io")))),
    ("apply soften", Apply("soften", (), WholeSite())),
    ("apply soften() f42 @ gen", Apply("soften", (), F42, PosWord("gen"))),
    ("apply soften(0.5, k + 1) f42", Apply("soften", (Number(0.5), Binary("+", Name("k"), Number(1))), F42)),
    ("ablate f42 then ablate f7 @ gen", Then((Ablate(F42), Ablate(F7, PosWord("gen"))))),
]


@pytest.mark.parametrize(("text", "node"), EDIT)
def test_edits(text: str, node: Edit | Then) -> None:
    parsed = parse(f"at L1.mlp {text}")
    assert [d.render() for d in parsed.diagnostics] == []
    assert parsed.script.statements == (At((one(1),), (node,)),)


SITE: list[tuple[str, SitePattern | ModuleSite | Name]] = [
    ("L3.mlp", one(3)),
    ("L-1.resid", one(-1, "resid")),
    ("L*.resid", SitePattern(Layers(()), "resid")),
    ("L8..14.attn.z", SitePattern(layers((8, 14)), "attn.z")),
    ("L-3..-1.mlp", SitePattern(layers((-3, -1)), "mlp")),
    ("L{1,5}.resid", SitePattern(layers((1, 1), (5, 5)), "resid")),
    ("L{0, 2..3}.mlp.act", SitePattern(layers((0, 0), (2, 3)), "mlp.act")),
    ("embed", SitePattern(None, "embed")),
    ("final", SitePattern(None, "final")),
    ("logits", SitePattern(None, "logits")),
    ("layer_twelve", Name("layer_twelve")),
    ("layer.mlp", SitePattern(Name("layer"), "mlp")),
    ("layer.attn.z.h2", SitePattern(Name("layer"), "attn.z", (LayerRange(2, 2),))),
    ("L8..14.attn.z.h0..3", SitePattern(layers((8, 14)), "attn.z", (LayerRange(0, 3),))),
    ("L5.attn.z.h{1, 3}", SitePattern(layers((5, 5)), "attn.z", (LayerRange(1, 1), LayerRange(3, 3)))),
    ('module "model.norm" in', ModuleSite("model.norm", "in")),
]


@pytest.mark.parametrize(("text", "node"), SITE)
@pytest.mark.parametrize("form", ["at {} ablate", "at {}, x_y ablate", "at {} {{ ablate }}"])
def test_sites(form: str, text: str, node: SitePattern | ModuleSite | Name) -> None:
    parsed = parse(form.format(text))
    assert [d.render() for d in parsed.diagnostics] == []
    (at,) = parsed.script.statements
    assert isinstance(at, At)
    assert at.sites[0] == node


PARIS = PosToken(" Paris")
POSITION: list[tuple[str, Positions]] = [
    ("prompt", PosWord("prompt")),
    ("everywhere", PosWord("everywhere")),
    ("bos", PosWord("bos")),
    ("prompt[-1]", PosIndex("prompt", -1, -1)),
    ("prompt[2..5]", PosIndex("prompt", 2, 5)),
    ("gen[0..9]", PosIndex("gen", 0, 9)),
    ("prompt[2..-1]", PosIndex("prompt", 2, -1)),
    ('" Paris"', PARIS),
    ('" Paris"[-1]', PosToken(" Paris", index=-1)),
    ('every " Paris"', PosToken(" Paris", "every")),
    ('span " Paris"', PosToken(" Paris", "span")),
    ("p", PosName("p")),
    ("io.S2", PosField("io", "S2")),
    ("prompt | gen | last", PosUnion((PosWord("prompt"), PosWord("gen"), PosWord("last")))),
    ("all except bos", PosExcept(PosWord("all"), PosWord("bos"))),
    (
        "prompt | gen except bos | last",
        PosExcept(PosUnion((PosWord("prompt"), PosWord("gen"))), PosUnion((PosWord("bos"), PosWord("last")))),
    ),
    (
        "all except bos except last",
        PosExcept(PosExcept(PosWord("all"), PosWord("bos")), PosWord("last")),
    ),
    (
        "(\n  prompt | (all except bos)\n)",
        PosUnion((PosWord("prompt"), PosExcept(PosWord("all"), PosWord("bos")))),
    ),
]


@pytest.mark.parametrize(("text", "node"), POSITION)
@pytest.mark.parametrize("form", ["at L1.mlp @ {} ablate", "at L1.mlp ablate @ {}", "record L1.mlp @{}"])
def test_positions(form: str, text: str, node: Positions) -> None:
    parsed = parse(form.format(text))
    assert [d.render() for d in parsed.diagnostics] == []
    (statement,) = parsed.script.statements
    assert isinstance(statement, At | Record)
    where = statement.at
    if isinstance(statement, At) and isinstance(edit := statement.edits[0], Ablate):
        where = where or edit.at
    assert where == node


F3, F4 = Features(3, 3), Features(4, 4, G)
ABOVE, BELOW = Compare(F3, ">", Number(0.5)), Compare(F4, "<=", Name("k"), "std")
CONDITION: list[tuple[str, Condition]] = [
    ("f3", Compare(F3, ">", Number(0))),
    ("f3 > 0.5", ABOVE),
    ("g.f4 <= k std", BELOW),
    ("L2.mlp.f4 != -1 max", Compare(Features(4, 4, one(2)), "!=", Number(-1), "max")),
    ("not f3 > 0.5", Not(ABOVE)),
    ("not not.f3", Not(Compare(Features(3, 3, Name("not")), ">", Number(0)))),
    ("f3 > 0.5 and g.f4 <= k std or not f3 > 0.5", Or((And((ABOVE, BELOW)), Not(ABOVE)))),
    ("f3 > 0.5 and (g.f4 <= k std or f3 > 0.5)", And((ABOVE, Or((BELOW, ABOVE))))),
    ("not (f3 > 0.5 and g.f4 <= k std)", Not(And((ABOVE, BELOW)))),
]


@pytest.mark.parametrize(("text", "node"), CONDITION)
@pytest.mark.parametrize(
    "form", ["at L1.mlp when {} ablate", "at L1.mlp ablate @ gen when {}", "at L1.mlp when {} {{ ablate }}"]
)
def test_conditions(form: str, text: str, node: Condition) -> None:
    parsed = parse(form.format(text))
    assert [d.render() for d in parsed.diagnostics] == []
    (statement,) = parsed.script.statements
    assert isinstance(statement, At)
    (edit,) = statement.edits
    assert isinstance(edit, Ablate)
    assert (statement.when or edit.when) == node


def spans(node: object, text: str) -> list[tuple[str, str]]:
    """Every node below `node`, with the text of its span."""
    found = []
    for value in vars(node).values():
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Node):
                found += [
                    (type(inner).__name__, text[inner.span.start : inner.span.end]),
                    *spans(inner, text),
                ]
    return found


def test_every_node_knows_its_text() -> None:
    text = "at L{1, 2..3}.mlp @ (prompt[-1]) { amplify g.f4..5 x (2 * k) @ gen; clamp to ..-1 }"
    assert spans(parse(text).script, text) == [
        ("At", text),
        ("SitePattern", "L{1, 2..3}.mlp"),
        ("Layers", "L{1, 2..3}"),
        ("LayerRange", "1"),
        ("LayerRange", "2..3"),
        ("Amplify", "amplify g.f4..5 x (2 * k) @ gen"),
        ("Features", "g.f4..5"),
        ("Name", "g"),
        ("Binary", "(2 * k)"),
        ("Number", "2"),
        ("Name", "k"),
        ("PosWord", "gen"),
        ("Clamp", "clamp to ..-1"),
        ("WholeSite", ""),
        ("Number", "-1"),
        ("PosIndex", "(prompt[-1])"),
    ]


def test_the_path_of_a_declaration_has_a_span() -> None:
    text = 'sae g = "saes" on L1.mlp'
    (sae,) = parse(text).script.statements
    assert isinstance(sae, SAEDecl)
    assert sae.path_span == Span(8, 14)


def test_comments_are_kept_with_their_places() -> None:
    comments = parse("# a \nrun # b\n").script.comments
    assert [(c.text, c.own_line, c.span) for c in comments] == [
        ("# a", True, Span(0, 4)),
        ("# b", False, Span(9, 12)),
    ]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# only a comment", "\ufeffrun", "run\r\nrun\r\n", "run\rrun", "\trun\u00a0a"]
)
def test_white_space_is_free(text: str) -> None:
    assert parse(text).diagnostics == ()


def test_parse_or_raise_carries_the_diagnostics() -> None:
    assert parse_or_raise("run").statements == (Run(),)
    with pytest.raises(ProgramError) as error:
        parse_or_raise("model demo\nrun a b", "x.saedsl")
    assert [d.code for d in error.value.diagnostics] == ["S126", "S120"]
    assert (
        str(error.value)
        == """\
error[S126]: a string needs quotes
  --> x.saedsl:1:7
   |
 1 | model demo
   |       ^^^^
   = help: write model "demo"

error[S120]: prompts are separated by commas
  --> x.saedsl:2:7
   |
 2 | run a b
   |       ^
   = help: write run a, b"""
    )


# Texts that are no programs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("#" * (MAX_CHARACTERS + 1), "S100"),
        ("run\0" * 1000, "S101"),
        ("\x7fELF\x01\x02" * 100, "S101"),
        (f"run {chr(0xDCFF)}", "S101"),
        ("run \ufffd", "S101"),
        ("let a = " + "(" * 50_000, "S108"),
        ("let a = " + "(" * 50_000 + ")" * 50_000, "S108"),
        ("let a = " + "-" * 50_000 + "b", "S108"),
        ("let a = " + "1+" * 50_000 + "1", "S108"),
        ("let a = " + "1+" * 200 + "1", "S108"),
        ("at L1.mlp ablate @ all" + " except bos" * 200, "S108"),
    ],
)
def test_one_diagnostic_refuses_the_text(text: str, code: str) -> None:
    parsed = parse(text)
    assert [d.code for d in parsed.diagnostics] == [code]
    assert parsed.script.statements == ()
    assert len(parsed.diagnostics[0].render()) < 1000


def test_a_text_of_another_kind_is_not_answered_line_by_line() -> None:
    codes = [d.code for d in parse("It was a dark and stormy night.\n" * 500).diagnostics]
    assert len(codes) == 21
    assert codes[-1] == "S109"


@pytest.mark.parametrize("name", ["l", "layer", "layers", "h"])
def test_a_dictionary_can_have_a_name_that_is_nearly_a_layer(name: str) -> None:
    parsed = parse(f"at {name} {{ ablate all }}")
    assert not parsed.diagnostics
    assert len(parsed.script.statements) == 1


# The grammar -----------------------------------------------------------------------------------------------


def grammar_text() -> str:
    return files("saedsl.grammar").joinpath("saedsl.lark").read_text(encoding="utf-8")


def test_the_grammar_reserves_the_words_of_the_table() -> None:
    line = next(x for x in grammar_text().splitlines() if x.startswith("NAME:"))
    assert line.split("(?:")[1].split(")")[0].split("|") == sorted(RESERVED)


def test_the_grammar_has_a_terminal_for_every_word() -> None:
    for word in (*STATEMENTS, *EDITS):
        assert f"\n{word.upper()}: /{word}(?!\\w)/\n" in grammar_text()


@pytest.mark.skipif(find_spec("interegular") is None, reason="strict mode of lark needs interegular")
def test_the_grammar_has_no_hidden_conflicts() -> None:
    build_grammar(grammar_text(), strict=True)


def test_words_and_nodes_do_not_load_lark() -> None:
    code = (
        "import sys, saedsl.grammar, saedsl.grammar.words, saedsl.grammar.nodes, saedsl.grammar.source;"
        "assert not {'lark', 'mlx', 'networkx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_exports_its_names_lazily() -> None:
    import saedsl.grammar as package

    assert package.parse_or_raise is parse_or_raise
    assert set(dir(package)) == set(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_only_a_strict_build_compares_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where interegular is installed, Lark would spend most of a `saedsl check` on it."""

    def compared(*arguments: object) -> None:
        raise AssertionError("terminals were compared")

    monkeypatch.setattr("lark.lexer.BasicLexer._check_regex_collisions", compared, raising=False)
    monkeypatch.setattr("lark.lexer._check_regex_collisions", compared, raising=False)
    text = files("saedsl.grammar").joinpath("saedsl.lark").read_text(encoding="utf-8")
    build_grammar(text)
    if find_spec("interegular"):
        with pytest.raises(AssertionError, match="terminals were compared"):
            build_grammar(text, strict=True)
