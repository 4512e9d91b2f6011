"""Every kind of edit at every form of position, in modes, families and kinds of run that take turns: as the oracle has it.

Of edit, position, mode, family and kind of run, any two meet somewhere in the table.
"""

# ruff: noqa: E501 (a row of a table stays one line)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from tests import oracle
from tests.oracle import Edit
from tests.semantics.cases import (
    MODES,
    N_SOURCE,
    along,
    columns,
    heads,
    mlp,
    reference,
    resid,
    source,
    transcoder,
    whole,
)  # fmt: skip
from tests.semantics.world import MADE, PROMPTS, World, assert_prompt_agrees

INF = 1000
"""More tokens than there are."""


@dataclass(frozen=True)
class Place:
    """A form of `@`, and the positions that it means of a prompt's tokens."""

    text: str
    of: Callable[[World, Sequence[int]], Sequence[int]]
    bos: bool = False
    """BOS is named, so that edits through a dictionary act there too."""
    gen: bool = False
    """Of generated tokens alone."""


def token(w: World, text: str) -> int:
    return w.ids(text)[1]


PLACES = [
    Place("", lambda w, ids: range(INF)),
    Place("@ everywhere", lambda w, ids: range(INF), bos=True),
    Place("@ prompt", lambda w, ids: range(len(ids))),
    Place("@ bos", lambda w, ids: [0], bos=True),
    Place("@ prompt[-1]", lambda w, ids: [len(ids) - 1]),
    Place("@ prompt[0..4]", lambda w, ids: range(5), bos=True),
    Place("@ last", lambda w, ids: range(len(ids) - 1, INF)),
    Place('@ " sat"', lambda w, ids: [ids.index(token(w, " sat"))]),
    Place('@ span " sat on"', lambda w, ids: [ids.index(token(w, " sat")), ids.index(token(w, " on"))]),
    Place('@ every " on"', lambda w, ids: [i for i, t in enumerate(ids) if t == token(w, " on")]),
    Place("@ prompt[-3..-1] | prompt[1]", lambda w, ids: [1, *range(len(ids) - 3, len(ids))]),
    Place("@ all except prompt[2..3]", lambda w, ids: [0, 1, *range(4, INF)]),
    Place("@ gen", lambda w, ids: range(len(ids), INF), gen=True),
    Place("@ prompt[-1] | gen[1..2]", lambda w, ids: [len(ids) - 1, len(ids) + 1, len(ids) + 2], gen=True),
]

What = Callable[[World, Sequence[int]], list[Edit]]


@dataclass(frozen=True)
class Kind:
    """A kind of edit: its text, with {at} for the position, and what it means there."""

    text: str
    edits: What
    dictionary: bool = True
    """It goes through one, so it skips BOS where that is not named."""
    modes: Sequence[oracle.Mode] = MODES
    prompt: bool = False
    """It is of the prompt alone."""
    short: bool = False
    """Its reference has a text of 7 tokens."""


KINDS = [
    Kind("at L0.mlp ablate f5..9 {at}", lambda w, at: [mlp(w, "ablate", (), range(5, 10), where=at)]),
    Kind("at r amplify f1..20 x -2 {at}", lambda w, at: [resid(w, "amplify", (-2,), range(1, 21), where=at)]),
    Kind("at L0.mlp set f3..5 = 2 {at}", lambda w, at: [mlp(w, "set", (2,), [3, 4, 5], where=at)]),
    Kind("at L0.mlp clamp f10..29 to 0.2..0.6 {at}", lambda w, at: [mlp(w, "clamp", (0.2, 0.6), range(10, 30), where=at)]),
    Kind("at L0.mlp add 3 f33 {at}", lambda w, at: [mlp(w, "add", (3,), [33], where=at)]),
    Kind("at r add -0.4 norm f3 {at}", lambda w, at: [resid(w, "add", (-0.4,), [3], unit="norm", where=at)]),
    Kind("at L0.mlp project out f1..6 {at}", lambda w, at: [mlp(w, "project", (), range(1, 7), where=at)]),
    Kind("at L0.mlp keep only {f1, f2, f7} {at}", lambda w, at: [mlp(w, "keep", (), [1, 2, 7], where=at)]),
    Kind("at L0.mlp ablate error {at}", lambda w, at: [mlp(w, "ablate", (), [], part="error", where=at)]),
    Kind("at L0.mlp ablate f1..9 to mean of refs {at}", lambda w, at: [
        mlp(w, "ablate", (), range(1, 10), to=reference(w), where=at),
    ]),
    Kind("at L0.mlp keep only f1..9 else resample of refs {at}", lambda w, at: [
        mlp(w, "keep", (), range(1, 10), to=reference(w, "resample", 3), where=at),
    ], prompt=True, short=True),
    Kind("at L0.attn amplify x2\nat L0.mlp freeze f1..20 {at}", lambda w, at: [
        whole("L0.attn", "amplify", (2,)), mlp(w, "freeze", (), range(1, 21), where=at),
    ]),
    Kind("at L0.mlp patch f1..9 {at} from src at prompt[-1]", lambda w, at: [
        mlp(w, "patch", (), range(1, 10), where=at, source=source(w, dict.fromkeys(at, N_SOURCE - 1))),
    ], prompt=True),
    Kind("at L0.mlp set f9 = 4 {at} when f5 or f6 > 0.1", lambda w, at: [
        mlp(w, "set", (4,), [9], where=at, when=lambda f: (lambda v: (v[:, 5] > 0) | (v[:, 6] > 0.1))(f(w["L0.mlp"], "L0.mlp"))),
    ]),
    Kind("at L0.mlp set f5 = 4 {at} then amplify f5 x2 {at}", lambda w, at: [
        mlp(w, "set", (4,), [5], where=at), mlp(w, "amplify", (2,), [5], stage=1, where=at),
    ]),
    Kind("at t set {f4, f9} = 1 {at}", lambda w, at: [transcoder(w, "set", (1,), [4, 9], where=at)], dictionary=False),
    Kind("at L0.attn amplify x1.5 {at}", lambda w, at: [whole("L0.attn", "amplify", (1.5,), where=at)], dictionary=False),
    Kind("at L0.attn.z set h1 = 0.4 {at}", lambda w, at: [heads("L0.attn.z", "set", (0.4,), [1], where=at)], dictionary=False),
    Kind("at L0.attn.pattern amplify {h1, h2} x0.5 {at}", lambda w, at: [
        heads("L0.attn.pattern", "amplify", (0.5,), [1, 2], where=at),
    ], dictionary=False),
    Kind("at L0.mlp.act amplify n3..5 x3 {at}", lambda w, at: [
        columns("L0.mlp.act", "amplify", (3,), [3, 4, 5], where=at),
    ], dictionary=False, modes=["iterative", "frozen"]),
    Kind("at L0.resid add 1.5 dir up {at}", lambda w, at: [along(w, "L0.resid_post", "add", (1.5,), where=at)], dictionary=False),
    Kind("at L0.resid project out dir side {at}", lambda w, at: [
        along(w, "L0.resid_post", "project", (), "side", where=at),
    ], dictionary=False),
]  # fmt: skip

RUNS = {"single": "run b", "batch": "run a, b, c", "generation": f"generate b {MADE}"}


def runs_of(i: int, j: int) -> tuple[str, str, oracle.Mode]:
    """Family, kind of run and mode of edit i at place j."""
    kind, place = KINDS[i], PLACES[j]
    run = "generation" if place.gen else "single" if kind.short else tuple(RUNS)[(i + 2 * j) % 3]
    return ("llama", "gpt2")[(i // 3 + j) % 2], run, kind.modes[(i + j) % len(kind.modes)]


@pytest.mark.parametrize("i", range(len(KINDS)), ids=[k.text.replace(" {at}", "") for k in KINDS])
def test_an_edit_is_the_oracles_wherever_it_acts(i: int, world: Callable[[str], World]) -> None:
    kind, moved = KINDS[i], []
    for j, place in enumerate(PLACES):
        if place.gen and kind.prompt:
            continue
        family, run, mode = runs_of(i, j)
        w = world(family)
        text = f"{kind.text.replace('{at}', place.text)}\n{RUNS[run]} with mode = {mode}, seed = 3"
        result = w.run(text)
        for p in result.prompts:
            ids = w.ids(PROMPTS[p.prompt])
            at = place.of(w, ids)
            end = len(ids) if kind.prompt else INF
            where = [k for k in at if k < end and (k > 0 or place.bos or not kind.dictionary)]
            assert_prompt_agrees(w, p, ids, kind.edits(w, where), mode)
            moved.append(any(f.changed for f in p.firings))
    assert np.mean(moved) > 0.6, "the edits of this test change nothing"


def test_any_two_of_mode_family_run_edit_and_place_meet() -> None:
    rows = [
        (i, j, *runs_of(i, j))
        for i, kind in enumerate(KINDS)
        for j, place in enumerate(PLACES)
        if not (place.gen and kind.prompt)
    ]
    sizes = (len(KINDS), len(PLACES), 2, len(RUNS), len(MODES))
    free = [i for i, k in enumerate(KINDS) if len(k.modes) == len(MODES) and not k.short]
    for a in range(5):
        for b in range(a + 1, 5):
            met = {(r[a], r[b]) for r in rows if r[0] in free and not PLACES[r[1]].gen}
            first = len(free) if a == 0 else len(PLACES) - 2 if a == 1 else sizes[a]
            second = len(PLACES) - 2 if b == 1 else sizes[b]
            if (a, b) == (0, 1):
                continue  # each edit is at each place by construction
            assert len(met) == first * second, (a, b)
