"""Every kind of edit in every mode, on ragged prompts and in generation, against the numpy re-computation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests import oracle
from tests.semantics.cases import CASES, MODES, Case, Prompt
from tests.semantics.world import MADE, PROMPTS, RECORDS, World, assert_prompt_agrees

RECORD = f"record {', '.join(RECORDS)} @ everywhere"
BY_MODE = [(case, mode) for case in CASES for mode in MODES if mode in case.modes]
NAMES = [f"{mode}: {case.text}" for case, mode in BY_MODE]


def edits_of(case: Case, w: World, ids: tuple[int, ...], index: int) -> list[oracle.Edit]:
    return case.edits(w, Prompt(len(ids), index))


@pytest.mark.parametrize(("case", "mode"), BY_MODE, ids=NAMES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_prompts_of_several_lengths_together_are_each_the_oracles(
    family: str, case: Case, mode: oracle.Mode, world: Callable[[str], World]
) -> None:
    w = world(family)
    result = w.run(f"{case.text}\n{RECORD}\nrun a, b, c with mode = {mode}, seed = 3", case.saes)
    assert [p.prompt for p in result.prompts] == list(PROMPTS)
    for i, (p, text) in enumerate(zip(result.prompts, PROMPTS.values(), strict=True)):
        assert_prompt_agrees(w, p, w.ids(text), edits_of(case, w, w.ids(text), i), mode)
    moved = [np.abs(p.edited.logits - p.baseline.logits).max() for p in result.prompts]
    assert max(moved) > 1e-3, "the edit of this test changes nothing"


@pytest.mark.parametrize(("case", "mode"), BY_MODE, ids=NAMES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generation_is_the_oracles(family: str, case: Case, mode: oracle.Mode, world: Callable[[str], World]) -> None:
    w = world(family)
    program = f"{case.text}\n{RECORD}\ngenerate b {MADE} with mode = {mode}, seed = 3"
    (p,) = w.run(program, case.saes).prompts
    ids = w.ids(PROMPTS["b"])
    assert len(p.baseline.token_ids) == MADE
    assert_prompt_agrees(w, p, ids, edits_of(case, w, ids, 0), mode)
