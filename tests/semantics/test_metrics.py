"""Metrics of both runs, after a prompt and over a continuation, against their definitions in numpy."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from tests import oracle
from tests.semantics.cases import heads, mlp
from tests.semantics.world import MADE, PROMPTS, World

PARIS, ROME, CAT = " Paris", " Rome", " cat"
SPELLED = " the dog xy"
"""A text of five tokens."""
METRICS = f"""
metric difference = logit("{PARIS}") - logit("{ROME}")
metric chance = 100 * prob("{CAT}") @ prompt[2..4]
metric text = logprob("{SPELLED}")
metric change = kl() @ prompt[1..-1]
metric loss = ce()
metric some_loss = ce() @ prompt[1..3]
metric fires = act(L0.mlp.f4) @ prompt[1..-1]
metric later = act(r.f7) + 2 / 4 @ prompt[-1]
metric size = norm(L0.resid) @ prompt[2] | prompt[4]
"""


def one(w: World, word: str) -> int:
    ids = w.ids(word)
    assert len(ids) == 2, "BOS and the word"
    return ids[1]


def expected(
    w: World, ids: tuple[int, ...], edits: Callable[[], list[oracle.Edit]], mode: oracle.Mode, edited: bool
) -> dict[str, float]:
    """Every metric of one run of the prompt."""
    these = edits() if edited else []
    run = w.reference.run(ids, these, mode if edited else "iterative")
    plain = oracle.log_softmax(w.reference.run(ids).logits)
    lp = oracle.log_softmax(run.logits)
    n = len(ids)
    text = w.ids(SPELLED)[1:]
    assert len(text) == 5
    longer = oracle.log_softmax(w.reference.run([*ids, *text], these, mode if edited else "iterative").logits)
    loss = [-lp[i, ids[i + 1]] for i in range(n - 1)]
    fires = run.features.get(id(w["L0.mlp"]), w["L0.mlp"].encode(run.arrived["L0.mlp"]))[:, 4]
    return {
        "difference": run.logits[-1, one(w, PARIS)] - run.logits[-1, one(w, ROME)],
        "chance": 100 * np.exp(lp[2:5, one(w, CAT)]).mean(),
        "text": sum(longer[n - 1 + i, t] for i, t in enumerate(text)),
        "change": (np.exp(plain) * (plain - lp)).sum(axis=1)[1:].mean(),
        "loss": float(np.mean(loss)),
        "some_loss": float(np.mean(loss[1:4])),
        "fires": fires[1:].mean(),
        "later": w["r"].encode(run.seen["L0.resid_post"])[-1, 7] + 0.5,
        "size": np.linalg.norm(run.seen["L0.resid_post"], axis=1)[[2, 4]].mean(),
    }


@pytest.mark.parametrize("statement", ["run a, b, c", f"generate b {MADE}"])
@pytest.mark.parametrize("mode", ["iterative", "frozen", "direct"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_metrics_are_their_definitions(
    family: str, mode: oracle.Mode, statement: str, world: Callable[[str], World]
) -> None:
    w = world(family)
    edit = "at L0.mlp set {f4, f6} = 2 @ prompt[1..4]\nat L0.attn.z amplify h1 x3 @ last"
    result = w.run(f"{METRICS}{edit}\n{statement} with mode = {mode}", ["L0.mlp", "r"])
    sums: dict[str, list[float]] = {}
    for p in result.prompts:
        ids = w.ids(PROMPTS[p.prompt])

        def edits(n: int = len(ids)) -> list[oracle.Edit]:
            return [
                mlp(w, "set", (2,), [4, 6], where=[1, 2, 3, 4]),
                heads("L0.attn.z", "amplify", (3,), [1], where=range(n - 1, 1000)),
            ]

        for edited in (False, True):
            for name, value in expected(w, ids, edits, mode, edited).items():
                got = p.metrics[name].edited if edited else p.metrics[name].baseline
                assert got == pytest.approx(value, rel=1e-4, abs=1e-4), (name, p.prompt, edited)
        assert list(p.metrics) == [line.split()[1] for line in METRICS.strip().splitlines()]
        assert p.metrics["change"].baseline == 0
        for name in p.metrics:
            sums.setdefault(name, []).append(p.metrics[name].edited)
    means = {m.metric: m.edited for m in result.metrics}
    assert means == pytest.approx({name: float(np.mean(v)) for name, v in sums.items()}, rel=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_metrics_of_rows_name_the_tokens_of_their_row(family: str, world: Callable[[str], World]) -> None:
    w = world(family)
    rows = [
        {"prompt": PROMPTS["a"], "answer": PARIS, "wrong": ROME},
        {"prompt": PROMPTS["c"], "answer": CAT, "wrong": PARIS},
    ]
    (w.folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    program = """
prompts rows = "FOLDER/rows.jsonl"
metric gap = logit(rows.answer) - logit(rows.wrong)
at L0.mlp set f4 = 3
run rows"""
    result = w.run(program)
    for p, row in zip(result.prompts, rows, strict=True):
        ids = w.ids(row["prompt"])
        for edits, got in (([], p.metrics["gap"].baseline), ([mlp(w, "set", (3,), [4])], p.metrics["gap"].edited)):
            logits = w.reference.run(ids, edits).logits[-1]
            gap = logits[one(w, row["answer"])] - logits[one(w, row["wrong"])]
            assert got == pytest.approx(gap, rel=1e-4, abs=1e-4)
