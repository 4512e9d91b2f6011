"""Mistakes in what is new beside features and numbers: files, heads, conditions, units, metrics, sweeps, options."""

# ruff: noqa: E501 (a row of a table stays one line)

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from saedsl import registry
from saedsl.analyse import analyse
from saedsl.check import Context, check
from saedsl.grammar.parse import parse
from saedsl.grammar.source import Source
from saedsl.program import Program
from saedsl.report import Report

Check = Callable[[str], tuple[Program | None, Report]]
Row = tuple[str, list[tuple[str, str, str, str, str]]]
"""program, [(code, message, text pointed at, label, first hint)]"""

ROWS = [
    {
        "prompt": "Words: Mary stone John",
        "corrupt": "Words: John stone Mary",
        "answer": " Mary",
        "positions": {"S2": 2},
    },
    {"prompt": "Words: Mary little John", "corrupt": "Words: John little Mary", "answer": " Mary", "odd": "x"},
]


def write_tensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    """A safetensors file, by hand."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that programs name."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "io.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": 3}\n[1]\n{"prompt": \n')
    (folder / "empty.txt").write_text("\n\n")
    (folder / "texts.txt").write_text("Mary had\n\nJohn ran\n")
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    ones = struct.pack("<128f", *([1.0] * 128))
    write_tensors(folder / "d.safetensors", {"d": ("F32", [128], ones)})
    write_tensors(folder / "two.safetensors", {"a": ("F32", [128], ones), "b": ("F32", [1, 128], ones)})
    write_tensors(folder / "narrow.safetensors", {"d": ("F32", [2], struct.pack("<2f", 1, 2))})
    write_tensors(folder / "zero.safetensors", {"d": ("F32", [2], bytes(8))})
    write_tensors(folder / "matrix.safetensors", {"d": ("F32", [2, 2], bytes(16))})
    write_tensors(folder / "ints.safetensors", {"d": ("I64", [2], bytes(16))})
    (folder / "lib.saedsl").write_text("let inc = {f3}\nat L0.mlp ablate inc\n")
    (folder / "wrong.saedsl").write_text("# a library\nat L0.mlp ablate f9999\nat L0.mlp ablat f1\n")
    (folder / "loop.saedsl").write_text('include "loop.saedsl"\n')
    (folder / "sub").mkdir()
    (folder / "sub" / "more.saedsl").write_text('prompts rows = "rows.jsonl"\ndir up = "../d.safetensors"\n')
    (folder / "sub" / "rows.jsonl").write_text('{"prompt": "Mary"}')
    return folder


@pytest.fixture(scope="module")
def bare(folder: Path, sae_of: Callable[..., object]) -> object:
    """A dictionary for the demo's L0.attn, without statistics."""
    return sae_of(128, site="L0.attn").info  # type: ignore[attr-defined]


@pytest.fixture
def run(folder: Path, bare: object) -> Iterator[Check]:
    """Checks a program on the bundled model, in a folder of files; `soften` is registered."""

    @registry.edit("soften_for_checks")
    def soften(f: object, strength: float, floor: float = 0.0) -> object:
        return f

    def checked(program: str) -> tuple[Program | None, Report]:
        parsed = parse(Source(program))
        found, report = check(parsed, Context(saes={"bare": bare}, base=folder))  # type: ignore[dict-item]
        report.extend(parsed.diagnostics)
        return found, report

    yield checked
    del registry._EDITS["soften_for_checks/1"]


FILES: list[Row] = [
    ('prompts io = "none.jsonl"\nrun io', [("S327", "this file cannot be used: none.jsonl: there is no such file", '"none.jsonl"', "", "")]),
    (
        'prompts io = "bad.jsonl"\nat L0.mlp ablate @ io.S2\nrun io, io.corrupt',
        [
            ("S327", "this file cannot be used: bad.jsonl, line 2: `prompt` is not a text", '"bad.jsonl"', "", ""),
            ("S327", 'this file cannot be used: bad.jsonl, line 3: a row is an object: {"prompt": ...}', '"bad.jsonl"', "", ""),
            ("S327", "this file cannot be used: bad.jsonl, line 4: not JSON (Expecting value: line 1 column 12 (char 11))", '"bad.jsonl"', "", ""),
        ],
    ),
    ('at L0.mlp ablate f1 to mean of "empty.txt"', [("S327", "this file cannot be used: empty.txt: has no prompts", '"empty.txt"', "", "")]),
    ('at L0.mlp ablate f1 to mean of "latin.txt"', [("S327", "this file cannot be used: latin.txt: is no UTF-8 text (byte 0)", '"latin.txt"', "", "")]),
    ('prompts io = "io.jsonl"\nrun io.corupt', [("S208", "no row of io has the field corupt", "io.corupt", "", "did you mean corrupt?")]),
    ('prompts io = "io.jsonl"\nrun io.odd', [("S208", "row 0 of io has no field odd: Words: Mary stone John", "io.odd", "", "")]),
    ('prompts io = "io.jsonl"\nat L0.mlp ablate f1 @ io.S3\nrun io', [("S412", "no row of io has a position S3", "io.S3", "", "there is S2")]),
    (
        'prompts io = "io.jsonl"\nat L0.mlp patch from io\nrun io',
        [("S203", "io is a file of prompts, one prompt is needed here", "io", "", "a field of the same row: io.answer")],
    ),
    ('prompt io = "hi"\nat L0.mlp ablate f1 @ io.S2', [("S203", "io is a prompt, a file of prompts is needed here", "io.S2", "", 'prompts of a file: prompts texts = "texts.jsonl"')]),
    ("at L0.mlp patch from nobody", [("S201", "nothing above is called nobody", "nobody", "", "")]),
    ('dir d = "none.safetensors"\nat L0.mlp ablate dir d', [("S328", "this direction cannot be used: none.safetensors: there is no such file", '"none.safetensors"', "", "")]),
    ('dir d = "two.safetensors"', [("S328", "this direction cannot be used: two.safetensors: has 2 tensors, say which: a, b", '"two.safetensors"', "", "")]),
    ('dir d = "two.safetensors".c', [("S328", "this direction cannot be used: two.safetensors: has no tensor c; it has a, b", '"two.safetensors"', "", "")]),
    ('dir d = "zero.safetensors"', [("S328", "this direction cannot be used: zero.safetensors: is zero everywhere, which is no direction", '"zero.safetensors"', "", "")]),
    ('dir d = "matrix.safetensors"', [("S328", "this direction cannot be used: matrix.safetensors: d is [2, 2]; a vector [d] is needed", '"matrix.safetensors"', "", "")]),
    ('dir d = "ints.safetensors"', [("S328", "this direction cannot be used: ints.safetensors: d is of type I64; F64, F32, F16, BF16 are read", '"ints.safetensors"', "", "")]),
    (
        'dir d = "narrow.safetensors"\nat L0.mlp, L1.mlp ablate dir d',
        [("S322", "dir d is 2 wide, L0.mlp is 128 wide", "dir d", "", "use a direction that was made from this model's activations at this site")],
    ),
    ("at L0.mlp ablate dir $d", [("S204", "$d has no value", "$d", "", "give it one: bind={'d': array} in Python")]),
    ("at L0.mlp ablate dir up", [("S201", "nothing above is called up", "up", "", "")]),
    (
        'include "none.saedsl"\nat L0.mlp ablate lost',  # what the file would declare is not said to be unknown
        [("S326", "this file cannot be included: {folder}/none.saedsl: there is no such file", '"none.saedsl"', "", "paths are relative to the file that says them")],
    ),
]  # fmt: skip

PARTS: list[Row] = [
    ("at L0.attn.z ablate h9", [("S324", "head 9 does not exist", "h9", "L0.attn.z has 4 heads: h0..3", "")]),
    ("at L0.attn.z.h{1, 9} ablate", [("S324", "head 9 does not exist", "9", "L0.attn.z has 4 heads: h0..3", "")]),
    ("at L0.attn.k ablate h{kv}", [("S324", "head {kv} does not exist", "h{kv}", "{k_label}", "")]),
    ("at L0..1.mlp ablate h1", [("S324", "L0.mlp has no heads", "h1", "", "heads are at L0.attn.q, .k, .v, .z and .pattern")]),
    ("at L0.mlp ablate n128", [("S325", "coordinate 128 does not exist", "n128", "L0.mlp is 128 wide: n0..127", "")]),
    (
        "at L0.attn.pattern ablate n1",
        [("S325", "L0.attn.pattern has no coordinates: it is as wide as the text is long", "n1", "", "its heads can be edited: at L0.attn.pattern ablate h0")],
    ),
    (
        "at L0.attn.z.h2 ablate h1",
        [("S506", "this statement is about heads of L0.attn.z, it can name nothing else of the site", "h1", "", "name the site, and the heads in the edits: at L0.attn.z ablate h2")],
    ),
    ("at L0.mlp set error = 2", [("S506", "`set` does not apply to the error", "error", "", "multiply it, or remove it: amplify error x2")]),
    ("at L0.attn.z add 2 h1", [("S506", "`add` does not apply to heads", "h1", "", "multiply or set them: amplify h3 x2")]),
    ("at L0.mlp project out n3", [("S506", "`project out` does not apply to coordinates", "n3", "", "remove them whole: ablate n17")]),
    ("at L0.mlp keep only all", [("S506", "`keep only all` changes nothing", "all", "", "name what is kept: keep only {f1, f8}")]),
    ("at L0.attn.z keep only {h1, n2}", [("S506", "this keeps coordinates and heads: everything else of which of them is not clear", "{h1, n2}", "", "")]),
    ('at L0.mlp ablate error to mean of "texts.txt"', [("S506", "the error can be ablated to zero only", "error", "", "ablate error")]),
    (
        'at L0.attn.pattern ablate h1 to mean of "texts.txt"',
        [("S506", "L0.attn.pattern can be ablated to zero only: its width is the text's length", "h1", "", "ablate the heads' outputs: at L0.attn.z ablate h0 to mean of ...")],
    ),
    ("at L0.attn.in ablate error", [("S309", "no dictionary is bound to L0.attn.in, so it has no error", "error", "", 'bind one: sae g = "path" on L0.attn.in')]),
    ('at module "not a path" out ablate', [("S303", "this is not the path of a module", 'module "not a path" out', "", 'names with dots between: module "model.layers.3.self_attn.o_proj" out')]),
    ("metric m = norm(L0.attn.z.h1)", [("S306", "a whole site is needed here, not heads of L0.attn.z", "L0.attn.z.h1", "", "L0.attn.z")]),
    ('sae g = "demo:L0.mlp" on L0.mlp -> L1.mlp', [("S319", "g is an SAE: it writes where it reads", "L1.mlp", "", "sae g = ... on L1.mlp")]),
    ("at L0.mlp apply sofen_for_checks(1) f1", [("S321", "no edit is registered as sofen_for_checks", "sofen_for_checks", "", "did you mean soften_for_checks?")]),
    ("at L0.mlp apply soften_for_checks f1", [("S321", "soften_for_checks takes 1 to 2 numbers", "soften_for_checks", "", "apply soften_for_checks(1) f1")]),
    ("at L0.mlp apply soften_for_checks(1, 2, 3) f1", [("S321", "soften_for_checks takes 1 to 2 numbers, here are 3", "soften_for_checks", "", "apply soften_for_checks(1) f1")]),
]  # fmt: skip

UNITS: list[Row] = [
    ("at L0.mlp set f1 = 4 norm", [("S507", "`norm` is how much is added, it cannot be what set sets", "4 norm", "", "add 0.4 norm f1")]),
    ("at L0.mlp set n1 = 4 max", [("S507", "`max` is recorded of features only, not of coordinates", "4 max", "", "write a plain number")]),
    ("at L0.mlp clamp to 1..4 std", [("S507", "`std` is recorded of features only, not of a whole site", "1..4 std", "", "write a plain number")]),
    ("at bare set f1 = 4 max", [("S320", "bare carries no statistics, so `max` has no meaning", "4 max", "", "make them: saedsl stats memory TEXTFILE")]),
    ("at bare ablate f2 when f1 > 2 std", [("S320", "bare carries no statistics, so `std` has no meaning", "f1 > 2 std", "", "make them: saedsl stats memory TEXTFILE")]),
    ("at L0.mlp ablate when f1 > 2 norm", [("S507", "a feature is not compared with a norm", "f1 > 2 norm", "", "compare with a number, with `max`, or with `std`")]),
]  # fmt: skip

CONDITIONS: list[Row] = [
    (
        "at L0.mlp ablate f1 when L1.mlp.f3 > 1",
        [("S509", "L1.mlp reads L1.mlp, which a forward reaches after L0.mlp", "L1.mlp.f3", "", "a condition is on features of the same site, or of one upstream")],
    ),
    ("at L0.mlp ablate f1 when f9999", [("S311", "feature 9999 does not exist", "f9999", "L0.mlp has 1024 features: f0..1023", "")]),
    (
        "at L0..1.mlp ablate when f1 and not f9999",
        [
            ("S313", "f1 is another feature in the dictionary of each of these 2 sites", "f1", "", "name the features one by one: let s = {L0.mlp.f1, L1.mlp.f8}, then use s"),
            ("S313", "f9999 is another feature in the dictionary of each of these 2 sites", "f9999", "", "name the features one by one: let s = {L0.mlp.f1, L1.mlp.f8}, then use s"),
        ],
    ),
    (
        'sae t = "demo:L2.mlp.transcoder"\nat t ablate f1 then amplify f2 x2',
        [
            ("S510", "t reads L2.mlp.in and writes L2.mlp: what one edit of it writes, the next does not read", "ablate f1", "", "write the edits without `then`"),
            ("S510", "t reads L2.mlp.in and writes L2.mlp: what one edit of it writes, the next does not read", "amplify f2 x2", "", "write the edits without `then`"),
        ],
    ),
]  # fmt: skip

METRICS: list[Row] = [
    ("let zero = 0\nmetric m = kl() / (2 * zero)", [("S503", "this divides by zero", "kl() / (2 * zero)", "", "")]),
    ("metric m = 2 + 1", [("S512", "m measures nothing: it is 2 + 1", "2 + 1", "", 'metric m = logit(" Paris") - logit(" Rome")')]),
    ("metric m = act(f3)", [("S313", "f3 is another feature in the dictionary of each of these 9 sites", "f3", "", "name the features one by one: let s = {L0.mlp.f1, L1.mlp.f8}, then use s")]),
    ("metric m = norm(L9.resid)", [("S304", "layer 9 does not exist", "L9", "this model has 4 layers: L0..L3", "did you mean L3.resid?")]),
    ('metric m = logit(" a") * (1 / 0)', [("S503", "this divides by zero", "(1 / 0)", "", "")]),
    ('metric m = logit(" a")\nmetric m = kl()', [("S202", "m is declared twice, first on line 1", "metric m = kl()", "", "")]),
    ("metric m = kl() @ nowhere", [("S201", "nothing above is called nowhere", "nowhere", "", "")]),
    ('prompts io = "io.jsonl"\nmetric m = logit(io.anser)\nrun io', [("S208", "no row of io has the field anser", "io.anser", "", "did you mean answer?")]),
]  # fmt: skip

RUNS: list[Row] = [
    ("run with mood = frozen", [("S605", "`run` has no option mood", "mood", "", "did you mean mode?")]),
    ("run with temp = 1", [("S605", "`run` has no option temp: it samples nothing", "temp", "", "`generate` samples: generate fr 32 with temp = 0.8")]),
    ("run with mode = frozn", [("S606", "there is no mode frozn", "frozn", "", "did you mean frozen?")]),
    ("run with seed = 1.5", [("S606", "a seed is a whole number, 0 or more", "1.5", "", "seed = 3")]),
    ("generate 3 with temp = -1", [("S606", "a temperature is 0 or more", "-1", "", "temp = 0 is greedy")]),
    ("generate 3 with top_p = 2", [("S606", "top_p is above 0, and 1 at most", "2", "", "top_p = 0.9")]),
    ("run with seed = 1, seed = 2", [("S202", "the option seed is given twice", "seed", "", "")]),
    ("run as one\nrun as one", [("S202", "two runs are called one, first on line 1", "one", "", "")]),
    (
        "at L0.attn.q amplify x2\nrun with mode = frozen\nrun",
        [("S508", "this edit would do nothing: frozen mode holds L0.attn.q at the unedited run", "amplify x2", "runs on line 2", "leave the mode out, or edit what it does not hold: the outputs, L0.attn.z or L0.mlp")],
    ),
    (
        "at L0.mlp.in amplify x2\nrun with mode = frozen\nrun with mode = direct",
        [("S508", "this edit would do nothing: direct mode holds L0.mlp.in at the unedited run", "amplify x2", "runs on line 3", "leave the mode out, or edit what it does not hold: the outputs, L0.attn.z or L0.mlp")],
    ),
    ("at L0.mlp ablate f1\nreset\nrun", [("S602", "`reset` clears this before any run or generate: it has no effect", "at L0.mlp ablate f1", "", "move it down, or the `reset` up")]),
]  # fmt: skip

SWEEPS: list[Row] = [
    ("sweep s in 4..0\nat L0.mlp amplify f1 x s\nrun", [("S511", "this range is empty: by 1 it never gets to 0", "4..0", "", "4..0 by -1")]),
    ("sweep s in 0..1 by 0\nat L0.mlp amplify f1 x s\nrun", [("S511", "a sweep cannot go by 0", "0", "", "")]),
    ("sweep s in 0..1e9\nat L0.mlp amplify f1 x s\nrun", [("S511", "a sweep has 10,000 values at most", "0..1e9", "", "")]),
    (
        "sweep a in 1..200\nsweep b in 1..200\nat L0.mlp amplify f1 x a * b\nrun",
        [("S511", "these sweeps make 200 x 200 = 40,000 runs; at most 10,000 can be", "sweep b in 1..200", "", "sweep fewer values, or one thing after the other")],
    ),
    ("sweep s in [1, 2]\nrun", [("S607", "nothing uses s: this sweep runs once", "sweep s in [1, 2]", "", "write s where its values go, or leave the sweep out")]),
    ("sweep s in [1, 1]\nat L0.mlp amplify f1 x s\nrun", [("S511", "1 stands twice in the sweep of s: it runs once", "1", "", "")]),
    ("at L0.mlp amplify f1 x s\nrun\nsweep s in [1, 2]\nrun", [("S205", "s is declared further down", "s", "", "its `sweep` stands below the run: move it up")]),
    ('run a\nprompt a = "The cat"', [("S205", "a is declared further down", "a", "", "move its `prompt` statement up")]),
    ('run a\nprompts a = "io.jsonl"', [("S205", "a is declared further down", "a", "", "move its `prompts` statement up")]),
    ('generate a 3\nprompt a = "The cat"', [("S205", "a is declared further down", "a", "", "move its `prompt` statement up")]),
    ('at L0.mlp ablate dir d\ndir d = "d.safetensors"\nrun', [("S205", "d is declared further down", "d", "", "move its `dir` statement up")]),
    ("metric a = 2 * b\nmetric b = kl()\nrun", [("S205", "b is declared further down", "b", "", "move its `metric` statement up")]),
    ('record g.f1\nsae g = "demo:L2.mlp"\nrun', [("S205", "g is declared further down", "g", "", "move its `sae` statement up")]),
    ('at module "model.layers.99.mlp" out ablate\nrun', [("S330", "this model has no module model.layers.99.mlp", 'module "model.layers.99.mlp" out', "", 'did you mean module "model.layers.3.mlp" out?')]),
    ("sweep s in {f1, f9999}\nat L0.mlp ablate s\nrun", [("S311", "feature 9999 does not exist", "s", "L0.mlp has 1024 features: f0..1023", "")]),
    ("sweep s in L0..9\nat s.mlp ablate\nrun", [("S304", "layer 9 does not exist", "L0..9", "this model has 4 layers: L0..L3", "did you mean L3?")]),
    ("sweep s in [1, 2]\nat s.mlp ablate\nrun", [("S203", "s is a number, a layer is needed here", "s", "", "")]),
    ("sweep s in [1, 2]\nat L0.mlp ablate f1 @ s\nrun", [("S203", "s is a number, a position is needed here", "s", "", "")]),
    ("sweep s in {f1}\nat L0.mlp set f1 = s\nrun", [("S203", "s is a set of features, a number is needed here", "s", "", "")]),
    ("sweep s in prompt[0..-1]\nat L0.mlp ablate f1 @ s\nrun", [("S511", "the positions of a sweep are counted from one end", "prompt[0..-1]", "", "prompt[0..5], or prompt[-3..-1]")]),
    ('prompt s = "a"\nsweep s in [1]\nat L0.mlp amplify f1 x s\nrun', [("S202", "s is declared twice, first on line 1", "sweep s in [1]", "", "")]),
    ("sweep s in [1]\nsweep s in [2]\nat L0.mlp amplify f1 x s\nrun", [("S202", "s is swept twice, first on line 1", "sweep s in [2]", "", "")]),
]  # fmt: skip


def resolved(text: str, folder: Path, run: Check) -> str:
    """What depends on the folder and the demo's shape."""
    program, _ = run("")
    assert program is not None
    kv = program.model.n_kv_heads
    label = f"L0.attn.k has {kv} key-value heads: h0..{kv - 1}"
    return (
        text.replace("{folder}", str(folder))
        .replace("{k_label}", label)
        .replace("h{kv}", f"h{kv}")
        .replace("{kv}", str(kv))
    )


@pytest.mark.parametrize(("program", "expected"), [*FILES, *PARTS, *UNITS, *CONDITIONS, *METRICS, *RUNS, *SWEEPS])
def test_each_mistake_is_reported_once_where_it_is(
    program: str, expected: list[tuple[str, str, str, str, str]], run: Check, folder: Path
) -> None:
    program = resolved(program, folder, run)
    _, report = run(program)
    found = [
        (d.code, d.message, d.source.text[d.span.start : d.span.end], d.label, d.hints[0] if d.hints else "")
        for d in report.diagnostics
    ]
    assert found == [tuple(resolved(t, folder, run) for t in row) for row in expected]


RIGHT = [
    'prompts io = "io.jsonl"\nat L0.mlp patch f1 @ prompt[-1] from io.corrupt at prompt[-1]\nrun io, io.corrupt',
    'dir d = "two.safetensors".b\nat L0.mlp add 2 dir d; project out f3\nat L1.mlp ablate dir d',
    'include "lib.saedsl"\nat L1.mlp ablate f3',
    'include "sub/more.saedsl"\nat L0.mlp ablate dir up to mean of rows\nrun rows',
    "at L1.attn.z.h{0, 2} ablate; freeze @ prompt[0] then amplify x2",
    "at L0.mlp ablate f1 when not (f2 > 1 or f3) and f4 <= 2 max",
    "at L2.mlp ablate f1 when L0.mlp.f3",
    'at module "model.layers.1.mlp" out ablate when L0.mlp.f3',
    "at L0.mlp keep only {f1, f2}; amplify f1 x2",
    "at L0.mlp keep only f1 else zero then set f2 = 3",
    "at L0.mlp ablate f1 then ablate f1 then ablate f1",
    "at L0.mlp ablate error; ablate f1; amplify x2",
    "let s = 2\nlet t = s * 2\nat L0.mlp amplify f1 x t\nsweep s in 0..1 by 0.1\nrun",
    "at L0.mlp apply soften_for_checks(0.5) {f1, f2}",
    "reset\nat L0.mlp ablate f1\nrun\nreset\nrun",
]


@pytest.mark.parametrize("program", RIGHT)
def test_what_is_right_is_not_reported(program: str, run: Check) -> None:
    found, report = run(program)
    assert report.diagnostics == ()
    assert found is not None


def test_mistakes_of_an_included_file_are_shown_there(run: Check, folder: Path) -> None:
    _, report = run('let a = 1\ninclude "wrong.saedsl"\nat L0.mlp set f1 = b\n')
    shown = [(d.code, Path(d.source.name).name, d.source.place(d.span.start)) for d in report.diagnostics]
    assert shown == [
        ("S201", "<program>", (3, 20)),
        ("S311", "wrong.saedsl", (2, 18)),
        ("S111", "wrong.saedsl", (3, 11)),
    ]
    assert f"--> {folder}/wrong.saedsl:2:18" in report.diagnostics[1].render()


def test_a_file_that_includes_itself_is_refused(run: Check, folder: Path) -> None:
    _, report = run('include "loop.saedsl"')
    (d,) = report.diagnostics
    assert (d.code, d.message) == ("S326", "this file includes itself: loop.saedsl -> loop.saedsl")
    assert Path(d.source.name).name == "loop.saedsl"


def test_a_conflict_names_the_file_of_the_first_edit(run: Check, folder: Path) -> None:
    from saedsl.conflicts import report_conflicts
    from saedsl.program import Intervention

    program, report = run('include "lib.saedsl"\nat L0.mlp amplify f3 x2')
    assert program is not None
    edits = [w for w in program.steps[0].written if isinstance(w, Intervention)]
    report_conflicts(edits, None, program, report)
    (d,) = report.errors
    assert (d.code, d.label) == ("S501", f"first on line 2 of {folder}/lib.saedsl")
    assert (d.source.name, d.source.place(d.span.start)) == ("<program>", (2, 11))


def test_a_value_that_no_statement_names_is_warned_of(folder: Path) -> None:
    _, report = check(parse(Source("at L0.mlp amplify f1 x $k # $j")), Context(bind={"k": 2, "j": 3}, base=folder))
    (d,) = report.diagnostics
    assert (d.code, d.severity) == ("S207", "warning")
    assert d.message == "a value is given for $j, which the program does not use"
    assert d.hints == ("it says $k",)


@pytest.mark.parametrize("given", [np.array(2.0), np.float32(2), np.int64(2)])
def test_a_bound_number_may_be_an_array_of_no_dimensions(folder: Path, given: object) -> None:
    program, report = check(parse(Source("at L0.mlp amplify f1 x $k")), Context(bind={"k": given}, base=folder))
    assert program is not None
    assert not report.diagnostics
    assert program.steps[0].edits[0].args == (2.0,)


@pytest.mark.parametrize(
    ("statement", "idle"),
    [
        ("generate p 3 with seed = 1", ["seed"]),
        ("generate p 3 with temp = 0, top_p = 0.5, seed = 1", ["top_p", "seed"]),
        ("generate p 3 with temp = 0.5, top_p = 0.5, seed = 1", []),
        ("run p with seed = 1", ["seed"]),
        ("sweep t in [0, 1]\ngenerate p 3 with temp = t, seed = 1", []),
        ('at L1.mlp ablate to resample of "long.txt"\nrun p with seed = 1', []),
    ],
)
def test_options_that_change_nothing_are_warned_of(folder: Path, statement: str, idle: list[str]) -> None:
    (folder / "long.txt").write_text("Some text that is long enough.\n")
    text = f'prompt p = "Hi"\nat L0.mlp amplify f1 x2\n{statement}'
    _, report = check(parse(Source(text)), Context(base=folder))
    assert [(d.code, d.severity, d.message.split()[0]) for d in report.diagnostics] == [
        ("S602", "warning", name) for name in idle
    ]


def test_twenty_mistakes_are_twenty_diagnostics(run: Check) -> None:
    lines = [
        ('sae g = "nowhere" on L3.attn', "S307", '"nowhere"'),
        ('dir d = "narrow.safetensors"', "", ""),
        ('prompts io = "bad.txt"', "S327", '"bad.txt"'),
        ('prompt p = "Words: Mary"', "", ""),
        ("let a = missing", "S201", "missing"),
        ("at L9.mlp ablate f1", "S304", "L9"),
        ("at L0.mpl ablate f1", "S303", "L0.mpl"),
        ("at L0.mlp ablate f9999 @ prompt[0]", "S311", "f9999"),
        ("at L0.mlp ablate dir d", "S322", "dir d"),
        ("at L0.attn.z ablate h77", "S324", "h77"),
        ("at L0.mlp.act ablate n99999", "S325", "n99999"),
        ("at L0.mlp set f2 = 3 norm", "S507", "3 norm"),
        ("at L0.mlp project out error", "S506", "error"),
        ("at L0.mlp ablate f3 when L3.mlp.f1", "S509", "L3.mlp.f1"),
        ("at L0.mlp apply nothing f4", "S321", "nothing"),
        ("at L0.mlp clamp f5 to 3..1", "S502", "clamp f5 to 3..1"),
        ("at L0.mlp amplify f6 x $zz", "S204", "$zz"),
        ("at L0.mlp ablat f7", "S111", "ablat"),
        ("at g ablate f1", "", ""),
        ("metric m = 3", "S512", "3"),
        ("record L0.mlp.f1, nobody", "S201", "nobody"),
        ("sweep s in 3..0", "S511", "3..0"),
        ("at L0.mlp amplify f8 x s", "", ""),
        ("run p, io with mode = frozn", "S606", "frozn"),
    ]
    program = "\n".join(line for line, _, _ in lines)
    _, report = run(program)
    expected, start = [], 0
    for line, code, text in lines:
        if code:
            at = start + line.index(text)
            expected.append((code, at, at + len(text)))
        start += len(line) + 1
    assert len(expected) == 20
    assert [(d.code, d.span.start, d.span.end) for d in report.diagnostics] == expected


def test_a_site_is_checked_though_none_of_its_edits_can_be_read() -> None:
    for text, codes in (
        ("at L12.mlp ablate 42", ["S304", "S122"]),
        ("at L12.mlp {\n}\n", ["S304", "S116"]),
        ("at L1.mlp ablate 42", ["S122"]),
    ):
        assert [d.code for d in analyse(Source(text))[1].diagnostics] == codes
