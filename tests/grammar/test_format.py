"""Canonical text: what is printed reads back the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node, format_script
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.grammar.words import COMPONENTS, RESERVED

UGLY = """\
# steer.saedsl


model   "demo"# the model
sae g="saes/L12-mlp"   on L12.mlp
let truth = {f42 , f7,   # inner
   f100..103}    # behind

at L12.mlp ablate f42 ;amplify f7 x 2.0
at  L{0,2..3}.mlp@((prompt[-1]|gen[0..9]) except bos) {  # why

  # first
  clamp f3 to 0..5 @gen; ablate   # two
  add (2*k) truth

  # last
}  # after
at L*.resid
{ amplify all x $k }
run   a,b


# end
"""

NEAT = """\
# steer.saedsl

model "demo"  # the model
sae g = "saes/L12-mlp" on L12.mlp
# inner
let truth = {f42, f7, f100..103}  # behind

at L12.mlp ablate f42; amplify f7 x2
at L{0, 2..3}.mlp @ prompt[-1] | gen[0..9] except bos {  # why
  # first
  clamp f3 to 0..5 @ gen
  ablate  # two
  add (2 * k) truth

  # last
}  # after
at L*.resid {
  amplify all x $k
}
run a, b

# end
"""


def tidy(text: str) -> str:
    parsed = parse(text)
    assert parsed.diagnostics == ()
    return format_script(parsed.script, parsed.source)


def test_formatting() -> None:
    assert tidy(UGLY) == NEAT
    assert tidy(NEAT) == NEAT


def test_long_interventions_become_blocks() -> None:
    text = "at L12.mlp " + "; ".join(f"ablate f{i}00000" for i in range(8)) + "\n"
    assert tidy(text).startswith("at L12.mlp {\n  ablate f000000\n".replace("f000000", "f0"))
    assert tidy(tidy(text)) == tidy(text)


def test_an_empty_script_is_empty_text() -> None:
    assert format_script(n.Script(())) == ""


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (n.Features(3, 9, n.Name("g")), "g.f3..9"),
        (n.AllFeatures(), "all"),
        (n.WholeSite(), ""),
        (n.Number(0.1), "0.1"),
        (n.Number(-0.0), "0"),
        (n.Number(1e20), "1e+20"),
        (n.PosExcept(n.PosWord("all"), n.PosWord("bos")), "all except bos"),
        (n.PosToken(' "P\n', index=1), r'" \"P\n"[1]'),
        (n.Layers(()), "L*"),
        (n.Amplify(n.WholeSite(), n.Negative(n.Name("k"))), "amplify x -k"),
        (n.Clamp(n.AllFeatures(), None, n.Number(1)), "clamp all to ..1"),
        (
            n.At((n.Name("g"),), (n.Ablate(n.WholeSite()), n.Ablate(n.AllFeatures())), block=True),
            "at g ablate; ablate all",
        ),
        (n.RecordItem(n.Name("g")), "g"),
        (n.Run(), "run"),
        (n.Comment("# c"), "# c"),
        (n.Script((n.Run(), n.Run())), "run\nrun"),
    ],
)
def test_single_nodes(node: n.Node, text: str) -> None:
    assert format_node(node) == text


# Generated programs ----------------------------------------------------------------------------------------

ids = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True).filter(
    lambda s: s not in RESERVED and not (s[0] in "fFLhnx" and s[1:2].isdigit())
)
names = st.builds(n.Name, ids)
numbers = st.builds(n.Number, st.integers(-5, 5000).map(float) | st.floats(allow_nan=False, allow_infinity=False))
leaves = numbers | names | st.builds(n.Bound, ids)


def larger(inner: st.SearchStrategy[n.Expr]) -> st.SearchStrategy[n.Expr]:
    negated = inner.filter(lambda e: not isinstance(e, n.Number))
    return st.builds(n.Binary, st.sampled_from("+-*/"), inner, inner) | st.builds(n.Negative, negated)


exprs: st.SearchStrategy[n.Expr] = st.recursive(leaves, larger, max_leaves=6)


def ordered(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    pair = st.tuples(st.integers(low, high), st.integers(low, high))
    return pair.map(lambda p: (min(p), max(p)) if (p[0] < 0) == (p[1] < 0) else p)


layer_ranges = ordered(-4, 40).map(lambda p: n.LayerRange(*p))
layers = st.builds(n.Layers, st.lists(layer_ranges, max_size=3).map(tuple))
patterns = st.builds(n.SitePattern, layers, st.sampled_from([*COMPONENTS, "resid", "some.other"])) | st.builds(
    n.SitePattern, st.none(), st.sampled_from(["embed", "final", "logits"])
)
sites = patterns | names
features = st.builds(lambda p, of: n.Features(p[0], p[1], of), ordered(0, 99999), st.none() | sites)
sets = st.builds(n.FeatureSet, st.lists(features | names, min_size=1, max_size=4).map(tuple))
targets = features | sets | names | st.just(n.AllFeatures()) | st.just(n.WholeSite())
texts = st.text(max_size=8)
spellings = st.text(min_size=1, max_size=8)
places: st.SearchStrategy[n.Positions] = st.recursive(
    st.builds(n.PosWord, st.sampled_from(["prompt", "gen", "last", "all", "everywhere", "bos"]))
    | st.builds(lambda of, p: n.PosIndex(of, *p), st.sampled_from(["prompt", "gen"]), ordered(-9, 99))
    | st.builds(n.PosToken, spellings, st.just("one"), st.none() | st.integers(-3, 3))
    | st.builds(n.PosToken, spellings, st.sampled_from(["every", "span"])),
    lambda inner: (
        st.builds(n.PosUnion, st.lists(inner, min_size=2, max_size=3).map(tuple)) | st.builds(n.PosExcept, inner, inner)
    ),
    max_leaves=5,
)
where = st.none() | places
clamps = st.tuples(st.none() | exprs, st.none() | exprs).filter(lambda p: p != (None, None))
edits = (
    st.builds(n.Ablate, targets, where)
    | st.builds(n.Amplify, targets, exprs, where)
    | st.builds(n.Set, targets, exprs, where)
    | st.builds(lambda t, p, w: n.Clamp(t, p[0], p[1], w), targets, clamps, where)
    | st.builds(n.Add, exprs, targets, where)
)
items = st.builds(n.RecordItem, patterns | names | features | sets)
statements = (
    st.builds(n.ModelDecl, texts)
    | st.builds(n.SAEDecl, ids, texts, st.none() | patterns)
    | st.builds(n.PromptDecl, ids, texts)
    | st.builds(n.LetDecl, ids, exprs | sets | features)
    | st.builds(
        n.At,
        st.lists(sites, min_size=1, max_size=3).map(tuple),
        st.lists(edits, min_size=1, max_size=3).map(tuple),
        where,
        st.booleans(),
    )
    | st.builds(n.Record, st.lists(items, min_size=1, max_size=3).map(tuple), where)
    | st.builds(n.Run, st.lists(names, max_size=3).map(tuple))
    | st.builds(n.Generate, st.none() | names, exprs)
)
scripts = st.builds(n.Script, st.lists(statements, max_size=4).map(tuple))


@settings(max_examples=300, deadline=None)
@given(scripts)
def test_what_is_printed_reads_back_the_same(script: n.Script) -> None:
    text = format_script(script)
    parsed = parse(text)
    assert [d.render() for d in parsed.diagnostics] == []
    assert parsed.script == script
    assert format_script(parsed.script, parsed.source) == text
    assert text == "" or text.endswith("\n")


@settings(max_examples=150, deadline=None)
@given(scripts, st.randoms(use_true_random=False))
def test_comments_survive_and_formatting_is_idempotent(script: n.Script, rng: random.Random) -> None:
    lines = format_script(script).splitlines()
    for i in range(4):
        k = rng.randrange(len(lines) + 1)
        if rng.random() < 0.5 or k == len(lines):
            lines[k:k] = [" " * rng.randrange(3) + f"# own {i}", *[""] * rng.randrange(3)]
        elif "#" not in lines[k]:
            lines[k] += f" # behind {i}"
    once = tidy("\n".join(lines))
    assert sorted(c.text for c in parse(once).script.comments) == sorted(
        c.text for c in parse("\n".join(lines)).script.comments
    )
    assert parse(once).script == script
    assert tidy(once) == once


# Mutated programs ------------------------------------------------------------------------------------------

PIECES = [
    *UGLY.split(" "),
    *'{}()[]@;,"|=.',
    "\n",
    "..",
    "at",
    "run",
    "42",
    "f42",
    "x2",
    "“",
    "é",
    "\\",
    "prompt",
]


@settings(max_examples=400, deadline=None)
@given(st.randoms(use_true_random=False))
def test_no_text_raises(rng: random.Random) -> None:
    text = UGLY
    for _ in range(rng.randrange(1, 12)):
        a = rng.randrange(len(text) + 1)
        b = min(len(text), a + rng.choice([0, 0, 1, 1, 5, 40]))
        text = text[:a] + rng.choice([*PIECES, "", ""]) + text[b:]
    parsed = parse(Source(text))
    for d in parsed.diagnostics:
        assert 0 <= d.span.start <= d.span.end <= len(text)
        assert d.render()
        assert d.to_json()
    again = format_script(parsed.script, parsed.source)
    assert parse(again).script == parsed.script
