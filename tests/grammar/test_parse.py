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
    At,
    Binary,
    Bound,
    Clamp,
    Edit,
    Features,
    FeatureSet,
    Generate,
    LayerRange,
    Layers,
    LetDecl,
    ModelDecl,
    Name,
    Negative,
    Node,
    Number,
    PosExcept,
    PosIndex,
    Positions,
    PosToken,
    PosUnion,
    PosWord,
    PromptDecl,
    Record,
    RecordItem,
    Run,
    SAEDecl,
    Set,
    SitePattern,
    Span,
    Statement,
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


EDIT: list[tuple[str, Edit]] = [
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
]


@pytest.mark.parametrize(("text", "node"), EDIT)
def test_edits(text: str, node: Edit) -> None:
    parsed = parse(f"at L1.mlp {text}")
    assert [d.render() for d in parsed.diagnostics] == []
    assert parsed.script.statements == (At((one(1),), (node,)),)


SITE: list[tuple[str, SitePattern | Name]] = [
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
]


@pytest.mark.parametrize(("text", "node"), SITE)
@pytest.mark.parametrize("form", ["at {} ablate", "at {}, x_y ablate", "at {} {{ ablate }}"])
def test_sites(form: str, text: str, node: SitePattern | Name) -> None:
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
    if isinstance(statement, At):
        where = statement.at or statement.edits[0].at
    assert where == node


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
