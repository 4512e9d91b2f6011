"""Programs and their meaning: a text, and the edits that the oracle is to make for a prompt of `n` tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tests import oracle
from tests.oracle import Edit
from tests.semantics.world import EVERY, LEVEL, NOT_BOS, REFERENCE, SOURCE, World

MODES: tuple[oracle.Mode, ...] = ("iterative", "frozen", "direct")
INF = float("inf")


@dataclass(frozen=True)
class Prompt:
    """The prompt that a program runs on."""

    n: int
    """Tokens."""
    index: int
    """Among those of its step."""


@dataclass(frozen=True)
class Case:
    """One program."""

    text: str
    edits: Callable[[World, Prompt], list[Edit]]
    modes: Sequence[oracle.Mode] = MODES
    saes: Sequence[str] = ()
    """Dictionaries that it needs, if they are not those that it spells."""


def last(p: Prompt) -> list[int]:
    return [p.n - 1, *range(p.n, 1000)]


def mlp(w: World, op: oracle.Op, args: tuple[float, ...], features: Sequence[int], **more: object) -> Edit:
    """An edit of features of the SAE on L0.mlp, wherever it may act; `more` are fields of `Edit`."""
    fields = {"where": NOT_BOS, **more}
    return Edit("L0.mlp", op, args, features=features, dictionary=w["L0.mlp"], **fields)  # type: ignore[arg-type]


def resid(w: World, op: oracle.Op, args: tuple[float, ...], features: Sequence[int], **more: object) -> Edit:
    """The same of the SAE on L0.resid_post."""
    fields = {"where": NOT_BOS, **more}
    return Edit("L0.resid_post", op, args, features=features, dictionary=w["r"], **fields)  # type: ignore[arg-type]


def transcoder(w: World, op: oracle.Op, args: tuple[float, ...], features: Sequence[int], **more: object) -> Edit:
    """The same of the transcoder of L1.mlp."""
    fields = {"where": EVERY, **more}
    return Edit("L1.mlp", op, args, features=features, dictionary=w["t"], read="L1.mlp.in", **fields)  # type: ignore[arg-type]


def whole(site: str, op: oracle.Op, args: tuple[float, ...] = (), **more: object) -> Edit:
    """An edit of no dictionary, everywhere."""
    return Edit(site, op, args, **{"where": EVERY, **more})  # type: ignore[arg-type]


def heads(site: str, op: oracle.Op, args: tuple[float, ...], numbers: Sequence[int], **more: object) -> Edit:
    return whole(site, op, args, part="heads", features=numbers, **more)


def columns(site: str, op: oracle.Op, args: tuple[float, ...], numbers: Sequence[int], **more: object) -> Edit:
    return whole(site, op, args, part="coordinates", features=numbers, **more)


def along(w: World, site: str, op: oracle.Op, args: tuple[float, ...], name: str = "up", **more: object) -> Edit:
    return whole(site, op, args, part="direction", direction=w.directions[name], **more)


def reference(w: World, kind: str = "mean", seed: int = 0, index: int = 0) -> oracle.Reference:
    texts = [w.ids(t) for t in (LEVEL if kind == "mean by position" else REFERENCE)]
    return oracle.resampled(texts, seed, index) if kind == "resample" else oracle.Reference(kind, texts)  # type: ignore[arg-type]


def source(w: World, pairs: dict[int, int]) -> tuple[tuple[int, ...], dict[int, int]]:
    return w.ids(SOURCE), pairs


N_SOURCE = 7
TURN = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
"""Mixes three features, for an edit of the user's own."""

HEADS = [
    Case("at L0.attn.z.h2 ablate", lambda w, p: [heads("L0.attn.z", "ablate", (), [2])]),
    Case("at L0..1.attn.z.h{0,3} amplify x2 @ last", lambda w, p: [
        heads(f"L{i}.attn.z", "amplify", (2,), [0, 3], where=last(p)) for i in (0, 1)
    ]),
    Case("at L1.attn.z { amplify {h0, h3} x -1.5 @ prompt[2..4]; set h1 = 0.4; clamp h2 to -0.1..0.1 }", lambda w, p: [
        heads("L1.attn.z", "amplify", (-1.5,), [0, 3], where=[2, 3, 4]), heads("L1.attn.z", "set", (0.4,), [1]),
        heads("L1.attn.z", "clamp", (-0.1, 0.1), [2]),
    ]),
    Case("at L0.attn.v { ablate h1; amplify h0 x2 @ prompt[1..3] }", lambda w, p: [
        heads("L0.attn.v", "ablate", (), [1]), heads("L0.attn.v", "amplify", (2,), [0], where=[1, 2, 3]),
    ]),
    Case("at L0.attn.q amplify h1 x3\nat L1.attn.k { ablate h0 @ prompt[1..2]; amplify h1 x2 }", lambda w, p: [
        heads("L0.attn.q", "amplify", (3,), [1]), heads("L1.attn.k", "ablate", (), [0], where=[1, 2]),
        heads("L1.attn.k", "amplify", (2,), [1]),
    ], modes=["iterative"]),
    Case("at L0.attn.q, L1.attn.k, L1.attn.v amplify x1.5", lambda w, p: [
        whole(f"{s}", "amplify", (1.5,)) for s in ("L0.attn.q", "L1.attn.k", "L1.attn.v")
    ], modes=["iterative"]),
    Case("at L0.attn.pattern.h0 ablate\nat L1.attn.pattern amplify {h1, h2} x0.5 @ last", lambda w, p: [
        heads("L0.attn.pattern", "ablate", (), [0]),
        heads("L1.attn.pattern", "amplify", (0.5,), [1, 2], where=last(p)),
    ]),
    Case("at L0.attn.z keep only {h1, h2}", lambda w, p: [heads("L0.attn.z", "keep", (), [1, 2])]),
    Case('at L0.attn.z keep only h0 else mean of "FOLDER/reference.txt" @ prompt', lambda w, p: [
        heads("L0.attn.z", "keep", (), [0], where=range(p.n), to=reference(w)),
    ]),
]  # fmt: skip

COORDINATES = [
    Case("at L0.mlp.act set n17 = 1.5\nat L1.mlp.act amplify n3..5 x3", lambda w, p: [
        columns("L0.mlp.act", "set", (1.5,), [17]), columns("L1.mlp.act", "amplify", (3,), [3, 4, 5]),
    ], modes=["iterative", "frozen"]),
    Case("at L0.resid { ablate n3..9; set {n11, n20} = 0.7; clamp n1 to -0.1..0.1; amplify n30 x2 @ bos }",
         lambda w, p: [
        columns("L0.resid_post", "ablate", (), range(3, 10)), columns("L0.resid_post", "set", (0.7,), [11, 20]),
        columns("L0.resid_post", "clamp", (-0.1, 0.1), [1]), columns("L0.resid_post", "amplify", (2,), [30], where=[0]),
    ]),
    Case("at L0.mlp keep only n0..25", lambda w, p: [columns("L0.mlp", "keep", (), range(26))]),
]  # fmt: skip

DIRECTIONS = [
    Case("at L0.resid ablate dir up", lambda w, p: [along(w, "L0.resid_post", "ablate", ())]),
    Case("at L0.resid project out dir up @ prompt[1..4] | gen", lambda w, p: [
        along(w, "L0.resid_post", "project", (), where=[1, 2, 3, 4, *range(p.n, 1000)]),
    ]),
    Case("at L0.resid add 1.5 dir up\nat L0.mlp set dir side = 2", lambda w, p: [
        along(w, "L0.resid_post", "add", (1.5,)), along(w, "L0.mlp", "set", (2,), "side"),
    ]),
    Case("at L0.attn { amplify dir up x3; clamp dir side to 0..0.1 }", lambda w, p: [
        along(w, "L0.attn", "amplify", (3,)), along(w, "L0.attn", "clamp", (0, 0.1), "side"),
    ]),
    Case("at L0.resid { add 0.4 norm dir up; add -0.3 norm dir side @ prompt[-1] }", lambda w, p: [
        along(w, "L0.resid_post", "add", (0.4,), unit="norm"),
        along(w, "L0.resid_post", "add", (-0.3,), "side", unit="norm", where=[p.n - 1]),
    ]),
]  # fmt: skip

FEATURES = [
    Case("at L0.mlp { ablate {f0, f5..7}; clamp f10..29 to 0.2..0.6 @ prompt[2..5]; add 3 f33 @ last }", lambda w, p: [
        mlp(w, "ablate", (), [0, 5, 6, 7]), mlp(w, "clamp", (0.2, 0.6), range(10, 30), where=[2, 3, 4, 5]),
        mlp(w, "add", (3,), [33], where=last(p)),
    ]),
    Case("at L0.mlp set f3..5 = 2 @ everywhere\nat r amplify f1..20 x -2\nat t set {f4, f9} = 1 @ last", lambda w, p: [
        mlp(w, "set", (2,), [3, 4, 5], where=EVERY), resid(w, "amplify", (-2,), range(1, 21)),
        transcoder(w, "set", (1,), [4, 9], where=last(p)),
    ]),
    Case("at L0.mlp { set f3 = 0.5 max; clamp f4..9 to 0.1..0.3 std; add 2 std f30; set f31 = 2 }", lambda w, p: [
        mlp(w, "set", (0.5,), [3], unit="max"), mlp(w, "clamp", (0.1, 0.3), range(4, 10), unit="std"),
        mlp(w, "add", (2,), [30], unit="std"), mlp(w, "set", (2,), [31]),
    ]),
    Case("at L0.mlp { add 0.4 norm {f3, f8}; add -0.2 norm f5 @ prompt[-1]; ablate f9 then add 0.1 norm f2 }",
         lambda w, p: [
        mlp(w, "add", (0.4,), [3, 8], unit="norm"), mlp(w, "add", (-0.2,), [5], unit="norm", where=[p.n - 1]),
        mlp(w, "ablate", (), [9]), mlp(w, "add", (0.1,), [2], unit="norm", stage=1),
    ]),
    Case("at L0.mlp project out f1..6\nat r project out f4 @ last", lambda w, p: [
        mlp(w, "project", (), range(1, 7)), resid(w, "project", (), [4], where=last(p)),
    ]),
    Case("at L0.mlp project out all", lambda w, p: [mlp(w, "project", (), range(40))]),
    Case("at L0.mlp keep only {f1, f2, f7}", lambda w, p: [mlp(w, "keep", (), [1, 2, 7])]),
    Case("at r keep only r.f1..9 @ prompt", lambda w, p: [resid(w, "keep", (), range(1, 10), where=range(1, p.n))]),
    Case("at t keep only t.f0..19", lambda w, p: [transcoder(w, "keep", (), range(20))]),
    Case("at L0.mlp ablate error @ prompt[2..4] | gen", lambda w, p: [
        mlp(w, "ablate", (), [], part="error", where=[2, 3, 4, *range(p.n, 1000)]),
    ]),
    Case("at L0.mlp { ablate f1..9; drop error }\nat r amplify error x0.5", lambda w, p: [
        mlp(w, "ablate", (), range(1, 10)), mlp(w, "ablate", (), [], part="error"),
        resid(w, "amplify", (0.5,), [], part="error"),
    ]),
    Case("at L0.mlp amplify x2\nat t { ablate error; amplify f0..19 x4 }", lambda w, p: [
        whole("L0.mlp", "amplify", (2,)), transcoder(w, "ablate", (), [], part="error"),
        transcoder(w, "amplify", (4,), range(20)),
    ]),
    Case("at L0.mlp, L0.attn amplify x1.5\nat r { ablate f1..4; amplify x0.9 }\nat t ablate all", lambda w, p: [
        whole("L0.mlp", "amplify", (1.5,)), whole("L0.attn", "amplify", (1.5,)), resid(w, "ablate", (), [1, 2, 3, 4]),
        whole("L0.resid_post", "amplify", (0.9,)), transcoder(w, "ablate", (), range(40)),
    ]),
    Case("at L0.mlp.in amplify x2\nat L0.mlp ablate f1..9", lambda w, p: [
        whole("L0.mlp.in", "amplify", (2,)), mlp(w, "ablate", (), range(1, 10)),
    ], modes=["iterative", "frozen"]),
]  # fmt: skip

CONDITIONS = [
    Case("at L0.mlp set f9 = 4 when f6 > 0.7", lambda w, p: [
        mlp(w, "set", (4,), [9], when=lambda f: f(w["L0.mlp"], "L0.mlp")[:, 6] > 0.7),
    ]),
    Case("at L0.mlp set f9 = 4 @ prompt[2..5] | gen when f6 > 0.2 max", lambda w, p: [
        mlp(w, "set", (4,), [9], where=[2, 3, 4, 5, *range(p.n, 1000)],
            when=lambda f: f(w["L0.mlp"], "L0.mlp")[:, 6] > 0.2 * w["L0.mlp"].maximum[6]),  # type: ignore[index]
    ]),
    Case("at L1.mlp.raw when L0.mlp.f5 amplify x2 when not r.f7 > 0.9 or L0.mlp.f4 <= 0.3", lambda w, p: [
        whole("L1.mlp.raw", "amplify", (2,), when=lambda f: (f(w["L0.mlp"], "L0.mlp")[:, 5] > 0) & (
            ~(f(w["r"], "L0.resid_post")[:, 7] > 0.9) | (f(w["L0.mlp"], "L0.mlp")[:, 4] <= 0.3))),
    ]),
    Case("at L0.mlp { ablate f6..9 when (f5 or f39) and f4 < 1.3; set f4 = 2 }", lambda w, p: [
        mlp(w, "ablate", (), range(6, 10), when=lambda f: (lambda v: ((v[:, 5] > 0) | (v[:, 39] > 0)) & (
            v[:, 4] < 1.3))(f(w["L0.mlp"], "L0.mlp"))), mlp(w, "set", (2,), [4]),
    ]),
    Case("at L0.mlp set f1..9 = 2\nat r ablate r.f1..20 when L0.mlp.f5", lambda w, p: [
        mlp(w, "set", (2,), range(1, 10)),
        resid(w, "ablate", (), range(1, 21), when=lambda f: f(w["L0.mlp"], "L0.mlp")[:, 5] > 0),
    ]),
]  # fmt: skip

STAGES = [
    Case("at L0.mlp set f5 = 4 then amplify f5 x2", lambda w, p: [
        mlp(w, "set", (4,), [5]), mlp(w, "amplify", (2,), [5], stage=1),
    ]),
    Case("at L0.mlp ablate f1..20 then ablate f1..20 @ prompt then ablate f1..20", lambda w, p: [
        mlp(w, "ablate", (), range(1, 21)), mlp(w, "ablate", (), range(1, 21), stage=1, where=range(1, p.n)),
        mlp(w, "ablate", (), range(1, 21), stage=2),
    ]),
    Case("at L0.mlp amplify x2 then set f3 = 1 @ prompt[2..4] then ablate f4..7 when f6; add 1 f9", lambda w, p: [
        whole("L0.mlp", "amplify", (2,)), mlp(w, "set", (1,), [3], stage=1, where=[2, 3, 4]),
        mlp(w, "ablate", (), range(4, 8), stage=2, when=lambda f: f(w["L0.mlp"], "L0.mlp")[:, 6] > 0),
        mlp(w, "add", (1,), [9]),
    ]),
    Case("at L0.attn.z ablate h0 then amplify x2\nat L0.resid add 1 dir up then ablate n0..9", lambda w, p: [
        heads("L0.attn.z", "ablate", (), [0]), whole("L0.attn.z", "amplify", (2,), stage=1),
        along(w, "L0.resid_post", "add", (1,)), columns("L0.resid_post", "ablate", (), range(10), stage=1),
    ]),
]  # fmt: skip

REFERENCES = [
    Case('at L0.mlp ablate f1..9 to mean of "FOLDER/reference.txt"', lambda w, p: [
        mlp(w, "ablate", (), range(1, 10), to=reference(w)),
    ]),
    Case('at L0.attn.z ablate {h0, h2} to mean of "FOLDER/reference.txt" @ prompt[2..5]', lambda w, p: [
        heads("L0.attn.z", "ablate", (), [0, 2], where=[2, 3, 4, 5], to=reference(w)),
    ]),
    Case('at L0.mlp ablate to mean of "FOLDER/reference.txt"\nat L0.resid ablate n0..4 to mean of refs', lambda w, p: [
        whole("L0.mlp", "ablate", (), to=reference(w)),
        columns("L0.resid_post", "ablate", (), range(5), to=reference(w)),
    ]),
    Case("at L0.resid ablate dir up to mean of refs\nat t ablate t.f0..19 to mean of refs", lambda w, p: [
        along(w, "L0.resid_post", "ablate", (), to=reference(w)),
        transcoder(w, "ablate", (), range(20), to=reference(w)),
    ]),
    Case("at L0.mlp keep only {f1, f2, f30..39} else mean of refs", lambda w, p: [
        mlp(w, "keep", (), [1, 2, *range(30, 40)], to=reference(w)),
    ]),
    Case("at L0.mlp ablate f1..9 to resample of refs @ prompt[1..6]\n"
         "at L1.attn.z ablate h1 to resample of refs @ prompt[3]",
         lambda w, p: [
        mlp(w, "ablate", (), range(1, 10), where=range(1, 7), to=reference(w, "resample", 3, p.index)),
        heads("L1.attn.z", "ablate", (), [1], where=[3], to=reference(w, "resample", 3, p.index)),
    ]),
]  # fmt: skip

UNEDITED = [
    Case("at L0.attn amplify x2\nat L1.mlp freeze", lambda w, p: [
        whole("L0.attn", "amplify", (2,)), whole("L1.mlp", "freeze"),
    ]),
    Case("at L0.attn ablate @ prompt[1..3]\nat L0.mlp freeze f1..20\nat r freeze error @ prompt", lambda w, p: [
        whole("L0.attn", "ablate", where=[1, 2, 3]), mlp(w, "freeze", (), range(1, 21)),
        resid(w, "freeze", (), [], part="error", where=range(1, p.n)),
    ]),
    Case("at L0.mlp amplify x3\nat L1.attn.z freeze h1\nat L1.attn.pattern freeze {h0, h2}", lambda w, p: [
        whole("L0.mlp", "amplify", (3,)), heads("L1.attn.z", "freeze", (), [1]),
        heads("L1.attn.pattern", "freeze", (), [0, 2]),
    ]),
    Case("at L0.attn add 3 dir side\nat L0.resid freeze n5\nat L1.resid_mid freeze dir up\nat t freeze t.f0..9",
         lambda w, p: [
        along(w, "L0.attn", "add", (3,), "side"), columns("L0.resid_post", "freeze", (), [5]),
        along(w, "L1.resid_mid", "freeze", ()), transcoder(w, "freeze", (), range(10)),
    ]),
    Case("at L0.resid patch @ prompt[-1] from src at prompt[-1]", lambda w, p: [
        whole("L0.resid_post", "patch", where=[p.n - 1], source=source(w, {p.n - 1: N_SOURCE - 1})),
    ]),
    Case("at L0.mlp patch {f1..9} @ prompt[1..3] from src at prompt[2..4]\n"
         "at L1.attn.z patch {h0, h3} @ prompt[2..4] from src at prompt[5]", lambda w, p: [
        mlp(w, "patch", (), range(1, 10), where=[1, 2, 3], source=source(w, {1: 2, 2: 3, 3: 4})),
        heads("L1.attn.z", "patch", (), [0, 3], where=[2, 3, 4], source=source(w, {2: 5, 3: 5, 4: 5})),
    ]),
    Case("at L0.resid { patch dir up @ prompt[2] from src at prompt[3]; patch error @ prompt[4] from src at prompt[6] }"
         "\nat L0.attn patch n0..9 @ prompt[1] from src at prompt[5]", lambda w, p: [
        along(w, "L0.resid_post", "patch", (), where=[2], source=source(w, {2: 3})),
        resid(w, "patch", (), [], part="error", where=[4], source=source(w, {4: 6})),
        columns("L0.attn", "patch", (), range(10), where=[1], source=source(w, {1: 5})),
    ], saes=["r"]),
]  # fmt: skip

CASES = [*HEADS, *COORDINATES, *DIRECTIONS, *FEATURES, *CONDITIONS, *STAGES, *REFERENCES, *UNEDITED]
