"""Canonical text: what is printed reads back the same."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node, format_script
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.grammar.words import COMPONENTS, FREE_WORDS, FUNCTIONS, OPTIONS, RESERVED

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
        (n.Compare(n.Features(3, 3), ">", n.Number(0.5), "max"), "f3 > 0.5 max"),
        (n.Reference("mean by position", n.Name("io")), "mean by position of io"),
        (n.SweepRange(n.Number(0), n.Number(4), n.Number(0.5)), "0..4 by 0.5"),
        (n.Call("kl"), "kl()"),
        (n.Text(" Paris"), '" Paris"'),
        (n.Field("io", "answer"), "io.answer"),
        (n.Option("mode", n.Name("frozen")), "mode = frozen"),
        (n.SitePattern(None, "embed"), "embed"),
        (n.ErrorTarget(n.Name("g")), "g.error"),
        (n.Direction(n.Bound("d")), "dir $d"),
        (n.Then((n.Freeze(n.WholeSite()), n.Ablate(n.Heads(1, 1)))), "freeze then ablate h1"),
        (n.Run(), "run"),
        (n.Comment("# c"), "# c"),
        (n.Script((n.Run(), n.Run())), "run\nrun"),
    ],
)
def test_single_nodes(node: n.Node, text: str) -> None:
    assert format_node(node) == text


# Generated programs ----------------------------------------------------------------------------------------

ids = (
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True) | st.sampled_from([*FREE_WORDS, *FUNCTIONS, *OPTIONS])
).filter(lambda s: s not in RESERVED and not (s[0] in "fFLhnx" and s[1:2].isdigit()))
fields = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True) | st.sampled_from(["prompt", "set", "f1", "h2"])
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
head_ranges = ordered(0, 40).map(lambda p: n.LayerRange(*p))
layers = st.builds(n.Layers, st.lists(layer_ranges, max_size=3).map(tuple))
odd_components = st.sampled_from([*COMPONENTS, "resid", "some.other", "h", "in.out"])
swept = st.builds(n.SitePattern, names.filter(lambda x: not re.fullmatch(r"attn|mlp|l\d+", x.id)), odd_components)
fixed = st.builds(n.SitePattern, layers, odd_components) | st.builds(
    n.SitePattern, st.none(), st.sampled_from(["embed", "final", "logits"])
)
patterns = fixed | swept
texts = st.text(max_size=8)
modules = st.builds(n.ModuleSite, texts, st.sampled_from(["in", "out"]))
activations = patterns | st.builds(
    lambda p, heads: n.SitePattern(p.layers, p.component, heads), patterns, st.lists(head_ranges, max_size=3).map(tuple)
)
sites = activations | names | modules


def numbered(kind: type[n.Features] | type[n.Heads] | type[n.Neurons], of: st.SearchStrategy[Any]) -> Any:
    return st.builds(lambda p, of: kind(p[0], p[1], of), ordered(0, 99999), st.none() | of)


features = numbered(n.Features, patterns | names)
one_feature = st.builds(lambda k, of: n.Features(k, k, of), st.integers(0, 9999), st.none() | patterns | names)
heads, neurons = numbered(n.Heads, patterns), numbered(n.Neurons, patterns)
sets = st.builds(n.FeatureSet, st.lists(features | heads | neurons | names, min_size=1, max_size=4).map(tuple))
errors = st.builds(n.ErrorTarget, st.none() | patterns | names)
some_targets = (
    features
    | heads
    | neurons
    | sets
    | names
    | st.just(n.AllFeatures())
    | errors
    | st.builds(n.Direction, names | st.builds(n.Bound, ids))
)
targets = some_targets | st.just(n.WholeSite())
spellings = st.text(min_size=1, max_size=8)
indices = st.builds(lambda of, p: n.PosIndex(of, *p), st.sampled_from(["prompt", "gen"]), ordered(-9, 99))
places: st.SearchStrategy[n.Positions] = st.recursive(
    st.builds(n.PosWord, st.sampled_from(["prompt", "gen", "last", "all", "everywhere", "bos"]))
    | indices
    | st.builds(n.PosToken, spellings, st.just("one"), st.none() | st.integers(-3, 3))
    | st.builds(n.PosToken, spellings, st.sampled_from(["every", "span"]))
    | st.builds(n.PosField, ids, fields)
    | st.builds(n.PosName, ids),
    lambda inner: (
        st.builds(n.PosUnion, st.lists(inner, min_size=2, max_size=3).map(tuple)) | st.builds(n.PosExcept, inner, inner)
    ),
    max_leaves=5,
)
where = st.none() | places
units = st.sampled_from(["", "max", "std", "norm"])
conditions: st.SearchStrategy[n.Condition] = st.recursive(
    st.builds(n.Compare, one_feature, st.sampled_from([">", ">=", "<", "<=", "==", "!="]), exprs, units),
    lambda inner: (
        st.builds(n.Not, inner)
        | st.builds(n.And, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(n.Or, st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=4,
)
when = st.none() | conditions
references = st.builds(
    n.Reference, st.sampled_from(["mean", "mean by position", "resample"]), st.builds(n.Text, texts) | names
)
rows = st.builds(n.Field, ids, fields)
clamps = st.tuples(st.none() | exprs, st.none() | exprs).filter(lambda p: p != (None, None))
edits = (
    st.builds(n.Ablate, targets, where, st.none() | references, when)
    | st.builds(n.Amplify, targets, exprs, where, when)
    | st.builds(n.Set, targets, exprs, where, units, when)
    | st.builds(lambda t, p, w, u, c: n.Clamp(t, p[0], p[1], w, u, c), targets, clamps, where, units, when)
    | st.builds(n.Add, exprs, targets, where, units, when)
    | st.builds(n.ProjectOut, targets, where, when)
    | st.builds(n.Patch, targets, names | rows, where, where, when)
    | st.builds(n.Freeze, targets, where, when)
    | st.builds(n.KeepOnly, some_targets, st.none() | references, where, when)
    | st.builds(n.Apply, ids, st.lists(exprs, max_size=2).map(tuple), targets, where, when)
)
chains = edits | st.builds(n.Then, st.lists(edits, min_size=2, max_size=3).map(tuple))
calls = (
    st.builds(n.Call, st.sampled_from(["logit", "prob", "logprob"]), st.builds(n.Text, texts) | rows)
    | st.builds(n.Call, st.sampled_from(["kl", "ce"]))
    | st.builds(n.Call, st.just("act"), one_feature | names)
    | st.builds(n.Call, st.just("norm"), activations | names)
)
measures = st.recursive(leaves | calls, larger, max_leaves=5)
items = st.builds(n.RecordItem, sites | features | neurons | errors | sets)
options = st.lists(st.builds(n.Option, ids, exprs), max_size=2).map(tuple)
keys = st.none() | texts | st.sampled_from(["a.b", "2", "error"])
swept_values = (
    st.builds(n.SweepList, st.lists(exprs, min_size=1, max_size=3).map(tuple))
    | st.builds(n.SweepRange, exprs, exprs, st.none() | exprs)
    | sets
    | features
    | layers
    | indices
    | names
)
statements = (
    st.builds(n.ModelDecl, texts)
    | st.builds(n.SAEDecl, ids, texts)
    | st.builds(n.SAEDecl, ids, texts, fixed, st.none() | fixed)
    | st.builds(n.PromptDecl, ids, texts)
    | st.builds(n.PromptDecl, ids, texts, st.just(True), st.none() | texts)
    | st.builds(n.PromptsDecl, ids, texts)
    | st.builds(n.LetDecl, ids, exprs | sets | features | heads | neurons)
    | st.builds(n.DirDecl, ids, texts, keys)
    | st.builds(n.MetricDecl, ids, measures, where)
    | st.builds(n.SweepDecl, ids, swept_values)
    | st.builds(n.Include, texts)
    | st.builds(n.Reset)
    | st.builds(
        n.At,
        st.lists(sites, min_size=1, max_size=3).map(tuple),
        st.lists(chains, min_size=1, max_size=3).map(tuple),
        where,
        when,
        st.booleans(),
    )
    | st.builds(n.Record, st.lists(items, min_size=1, max_size=3).map(tuple), where)
    | st.builds(n.Run, st.lists(names | rows, max_size=3).map(tuple), st.none() | ids, options)
    | st.builds(n.Generate, st.none() | names | rows, exprs, st.none() | ids, options)
)
scripts = st.builds(n.Script, st.lists(statements, max_size=4).map(tuple))


@settings(max_examples=100, deadline=None)
@given(scripts)
def test_what_is_printed_reads_back_the_same(script: n.Script) -> None:
    text = format_script(script)
    parsed = parse(text)
    assert [d.render() for d in parsed.diagnostics] == []
    assert parsed.script == script
    assert format_script(parsed.script, parsed.source) == text
    assert text == "" or text.endswith("\n")


@settings(max_examples=50, deadline=None)
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


@settings(max_examples=150, deadline=None)
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
