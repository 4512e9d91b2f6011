"""Files of prompts: named positions, patches from the same row's other prompt, references, sweeps, long prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import saedsl
from tests import oracle
from tests.oracle import Edit
from tests.semantics.cases import TURN, heads, mlp, reference, resid, transcoder, whole
from tests.semantics.world import LEVEL, MADE, PROMPTS, World, assert_close, assert_prompt_agrees

ROWS: list[dict[str, Any]] = [
    {"prompt": " the cat sat on a mat", "corrupt": " the dog sat on a mat", "answer": " Paris", "positions": {"S": 2}},
    {"prompt": " a dog sat on the cat Paris", "corrupt": " a cat on on the dog Rome", "answer": " Rome",
     "positions": {"S": -2}},
]  # fmt: skip
PLACES = [2, 6]
"""Where S is."""


@pytest.fixture(scope="session")
def rows(world: Callable[[str], World]) -> Callable[[str], World]:
    """The worlds, with `io.jsonl` among their files."""

    def build(family: str) -> World:
        w = world(family)
        (w.folder / "io.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
        return w

    return build


IO = 'prompts io = "FOLDER/io.jsonl"\n'
RECORD = "\nrecord L0.resid, L1.mlp, L1.resid @ everywhere\n"


@pytest.mark.parametrize("mode", ["iterative", "frozen", "direct"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_patches_from_the_other_prompt_of_the_same_row(
    family: str, mode: oracle.Mode, rows: Callable[[str], World]
) -> None:
    w = rows(family)
    program = f"""{IO}
at L0.resid patch @ io.S from io.corrupt
at L1.attn.z patch h1 from io.corrupt
at L0.mlp patch f1..20 @ prompt[1..3] from io.corrupt
{RECORD}
run io with mode = {mode}"""
    result = w.run(program)
    assert len(result.prompts) == len(ROWS)
    for p, row, s in zip(result.prompts, ROWS, PLACES, strict=True):
        ids, other = w.ids(row["prompt"]), w.ids(row["corrupt"])
        everywhere = (other, {i: i for i in range(len(ids))})
        edits = [
            whole("L0.resid_post", "patch", where=[s], source=everywhere),
            heads("L1.attn.z", "patch", (), [1], source=everywhere),
            mlp(w, "patch", (), range(1, 21), where=[1, 2, 3], source=everywhere),
        ]
        assert_prompt_agrees(w, p, ids, edits, mode)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_both_prompts_of_every_row_run_in_one_statement(family: str, rows: Callable[[str], World]) -> None:
    w = rows(family)
    result = w.run(f"{IO}at L0.mlp set f4 = 3{RECORD}run io, io.corrupt, a")
    texts = [*(r["prompt"] for r in ROWS), *(r["corrupt"] for r in ROWS), PROMPTS["a"]]
    for p, text in zip(result.prompts, texts, strict=True):
        assert_prompt_agrees(w, p, w.ids(text), [mlp(w, "set", (3,), [4])], "iterative")


@pytest.mark.parametrize("mode", ["iterative", "direct"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_means_by_position(family: str, mode: oracle.Mode, world: Callable[[str], World]) -> None:
    w = world(family)
    program = f"""
at L0.attn.z ablate {{h0, h2}} to mean by position of "FOLDER/level.txt"
at r ablate r.f1..20 to mean by position of "FOLDER/level.txt" @ prompt[2..5]
at L1.mlp keep only n0..9 else mean by position of "FOLDER/level.txt" @ prompt
{RECORD}
run b with mode = {mode}"""
    (p,) = w.run(program).prompts
    to = reference(w, "mean by position")
    edits = [
        heads("L0.attn.z", "ablate", (), [0, 2], to=to),
        resid(w, "ablate", (), range(1, 21), where=[2, 3, 4, 5], to=to),
        whole("L1.mlp", "keep", (), part="coordinates", features=range(10), to=to),
    ]
    assert_prompt_agrees(w, p, w.ids(PROMPTS["b"]), edits, mode)
    assert {len(w.ids(t)) for t in LEVEL} == {len(w.ids(PROMPTS["b"]))}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_text_that_is_resampled_is_one_for_all_sites_and_depends_on_prompt_and_seed(
    family: str, seed: int, world: Callable[[str], World]
) -> None:
    w = world(family)
    program = f"""
at L0.mlp ablate f1..9 to resample of refs @ prompt[1..6]
at L1.attn.z ablate h1 to resample of refs @ prompt[1..6]{RECORD}
run a, b, c with seed = {seed}"""
    for i, p in enumerate(w.run(program).prompts):
        to = reference(w, "resample", seed, i)
        edits = [
            mlp(w, "ablate", (), range(1, 10), where=range(1, 7), to=to),
            heads("L1.attn.z", "ablate", (), [1], where=range(1, 7), to=to),
        ]
        assert_prompt_agrees(w, p, w.ids(PROMPTS[p.prompt]), edits, "iterative")


@pytest.mark.parametrize("kind", ["run a, b", f"generate a {MADE}"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_combination_of_sweeps_is_its_own_program(family: str, kind: str, world: Callable[[str], World]) -> None:
    w = world(family)
    program = f"""
sweep v in [0, 0.5, 2]
sweep target in {{f4, f6}}
sweep where in prompt[2..3]
at L0.mlp amplify target x v @ where{RECORD}{kind}"""
    result = w.run(program)
    names = ["a", "b"] if kind.startswith("run") else ["a"]
    expected = [(v, f, q, name) for v in (0, 0.5, 2) for f in (4, 6) for q in (2, 3) for name in names]
    assert len(result.prompts) == len(expected)
    for p, (v, f, q, name) in zip(result.prompts, expected, strict=True):
        assert p.prompt == name
        assert_prompt_agrees(w, p, w.ids(PROMPTS[name]), [mlp(w, "amplify", (v,), [f], where=[q])], "iterative")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_sweep_of_layers(family: str, world: Callable[[str], World]) -> None:
    w = world(family)
    result = w.run(f"sweep layer in L0..1\nat layer.mlp amplify x2 @ last{RECORD}run a, b")
    for p, (layer, name) in zip(result.prompts, [(i, n) for i in (0, 1) for n in "ab"], strict=True):
        ids = w.ids(PROMPTS[name])
        assert_prompt_agrees(w, p, ids, [whole(f"L{layer}.mlp", "amplify", (2,), where=[len(ids) - 1])], "iterative")


@saedsl.edit("turn_for_tests")
def turn(f: mx.array, size: float = 1.0) -> mx.array:
    """An edit of three numbers at once."""
    return size * f @ mx.array(TURN.astype(np.float32)) + 0.1


@pytest.mark.parametrize("mode", ["iterative", "direct"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_edits_of_the_users_own(family: str, mode: oracle.Mode, world: Callable[[str], World]) -> None:
    w = world(family)
    program = f"""
at L0.mlp apply turn_for_tests(2) {{f4, f6, f9}}
at L0.resid apply turn_for_tests n3..5 @ prompt[2..4] | gen
at t apply turn_for_tests(0.5) t.f3..5 @ last{RECORD}
"""
    ids = w.ids(PROMPTS["b"])
    n = len(ids)

    def turned(size: float) -> Callable[[oracle.Array], oracle.Array]:
        return lambda f: size * f @ TURN + 0.1

    edits = [
        mlp(w, "apply", (), [4, 6, 9], function=turned(2)),
        Edit(
            "L0.resid_post", "apply", (), [2, 3, 4, *range(n, 100)], [3, 4, 5], part="coordinates", function=turned(1)
        ),
        transcoder(w, "apply", (), [3, 4, 5], where=[n - 1, *range(n, 100)], function=turned(0.5)),
    ]
    for statement in ("run b", f"generate b {MADE}"):
        (p,) = w.run(f"{program}{statement} with mode = {mode}").prompts
        assert_prompt_agrees(w, p, ids, edits, mode)


@pytest.mark.parametrize("mode", ["iterative", "frozen", "direct"])
def test_a_prompt_that_is_read_in_pieces(mode: oracle.Mode, world: Callable[[str], World]) -> None:
    """530 tokens: more than a chunk of the prefill, so `last` and `freeze` meet chunks that hold none of it."""
    w = world("llama")
    text = " cat sat on the mat a dog Paris Rome" * 59
    ids = w.ids(text)
    assert len(ids) > 512
    program = f"""
prompt long = "{text}"
at L0.mlp amplify all x3 @ last
at L0.attn ablate @ prompt[3..400]
at L1.attn.z freeze {{h1, h2}} @ prompt[2..520]
generate long 3 with mode = {mode}"""
    (p,) = w.run(program).prompts
    edits = [
        mlp(w, "amplify", (3,), range(40), where=range(len(ids) - 1, 600)),
        whole("L0.attn", "ablate", where=range(3, 401)),
        heads("L1.attn.z", "freeze", (), [1, 2], where=range(2, 521)),
    ]
    assert_prompt_agrees(w, p, ids, edits, mode)


@pytest.mark.parametrize("mode", ["iterative", "frozen", "direct"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_recorded_features_heads_coordinates_and_errors(
    family: str, mode: oracle.Mode, world: Callable[[str], World]
) -> None:
    w = world(family)
    program = f"""
at L0.mlp amplify f4..6 x3
at L0.attn.z ablate h1
record L0.mlp.f4, L0.mlp.f9, L0.mlp.error, L1.attn.z.h2, r, L1.resid.n5 @ everywhere
record L1.mlp @ last
run a, b with mode = {mode}"""
    edits = [mlp(w, "amplify", (3,), [4, 5, 6]), heads("L0.attn.z", "ablate", (), [1])]
    for p in w.run(program).prompts:
        ids = w.ids(PROMPTS[p.prompt])
        for side, run in (
            (p.baseline, w.reference.run(ids)),
            (p.edited, w.reference.run(ids, edits, mode)),
        ):
            arrived = run.arrived["L0.mlp"]
            f = w["L0.mlp"].encode(arrived)
            error = arrived - w["L0.mlp"].decode(f, arrived)
            edited = f.copy()
            if side is p.edited:
                edited[1:, 4:7] *= 3
            got = side.activations
            assert_close(got["L0.mlp.f4"], edited[:, 4])
            assert_close(got["L0.mlp.f9"], edited[:, 9])
            assert_close(got["L0.mlp.error"], error)
            assert_close(got["L1.attn.z.h2"], run.seen["L1.attn.z"].reshape(len(ids), 4, -1)[:, 2])
            assert_close(got["r"], w["r"].encode(run.seen["L0.resid_post"]))
            assert_close(got["L1.resid_post.n5"], run.seen["L1.resid_post"][:, 5])
            assert_close(np.atleast_2d(got["L1.mlp"]), run.seen["L1.mlp"][-1:])
