"""What the programs of these tests name: a tiny model, dictionaries, directions, texts; each in saedsl and in numpy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saedsl.model import InterpretableModel
from saedsl.results import PromptResult, Result
from saedsl.sae.dictionary import SAE
from saedsl.sae.statistics import Statistics
from tests import oracle

EVERY = range(1000)
"""Every position, generated ones too."""
NOT_BOS = range(1, 1000)
PROMPTS = {
    "a": "The cat sat on the mat on a dog",
    "b": " the cat sat on a mat",
    "c": " a dog sat on the cat Paris Rome",
}
"""12, 7 and 9 tokens with BOS."""
SOURCE = " Paris cat Rome dog on mat"
"""A prompt to patch from: 7 tokens."""
REFERENCE = [" Rome sat on a mat on the dog Rome cat the", " the dog the dog a cat", " mat Paris sat the a on cat"]
"""Texts to take means of: 12, 7 and 8 tokens."""
LEVEL = [" mat mat dog on a Rome", " Rome the dog sat on cat"]
"""Texts of 7 tokens each."""
MADE = 6
"""Tokens to generate."""
RECORDS = ("L0.attn.z", "L0.resid_mid", "L0.resid_post", "L1.mlp.in", "L1.mlp", "L1.resid_post")


@dataclass(frozen=True, eq=False)
class World:
    """A model and all that programs name, in both worlds."""

    lm: InterpretableModel
    reference: oracle.Model
    saes: Mapping[str, SAE]
    """By the name that programs use."""
    dictionaries: Mapping[str, oracle.Dictionary]
    directions: Mapping[str, oracle.Array]
    folder: Path
    """Holds the files that programs name."""

    def __getitem__(self, name: str) -> oracle.Dictionary:
        return self.dictionaries[name]

    def ids(self, text: str) -> tuple[int, ...]:
        """Tokens, BOS first."""
        return tuple(self.lm.encoder.encode(text).ids)

    def run(self, program: str, names: Sequence[str] = (), **options: Any) -> Result:
        """The program's result; it may name the dictionaries, `PROMPTS`, `src`, `refs`, and what lies in FOLDER.

        Args:
            program: text, its runs included.
            names: dictionaries to bind; by default those that the program spells.
            options: as `InterpretableModel.run` has them.
        """
        return self.lm.run(self.text(program), saes=self.bound(program, names), **options)

    def text(self, program: str) -> str:
        """The program behind the declarations of what it names."""
        head = [f'prompt {name} = "{text}"' for name, text in {**PROMPTS, "src": SOURCE}.items()]
        head += [f'dir {name} = "FOLDER/directions.safetensors".{name}' for name in self.directions]
        return "\n".join([*head, 'prompts refs = "FOLDER/reference.txt"', program]).replace("FOLDER", str(self.folder))

    def bound(self, program: str, names: Sequence[str] = ()) -> dict[str, SAE]:
        """The dictionaries that the program spells, or `names`."""
        return {
            n: s
            for n, s in self.saes.items()
            if n in names or re.search(rf"(?<![\w.]){n}(?![\w])(?!\.[a-z]{{2}})", program)
        }


def direction_values(width: int) -> dict[str, oracle.Array]:
    """Two vectors, neither of them of length 1."""
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal(width).astype(np.float32).astype(np.float64) for name in ("up", "side")}


def write_files(folder: Path, directions: Mapping[str, oracle.Array]) -> None:
    """The texts and the directions."""
    from safetensors.numpy import save_file

    (folder / "reference.txt").write_text("\n".join(REFERENCE) + "\n")
    (folder / "level.txt").write_text("\n".join(LEVEL) + "\n")
    save_file({k: v.astype(np.float32) for k, v in directions.items()}, folder / "directions.safetensors")


def with_statistics(sae: SAE, folder: Path) -> tuple[SAE, oracle.Array, oracle.Array]:
    """The dictionary as a folder that carries made-up statistics, and those: maxima and deviations."""
    saved = sae.save(folder)
    rng = np.random.default_rng(8)
    top, std, mean, frequency = (
        rng.uniform(low, high, sae.config.d_sae).astype(np.float32)
        for low, high in ((1, 3), (0.4, 0.6), (0.2, 0.4), (0.3, 0.9))
    )
    Statistics(top, std, mean, frequency, 100, "0" * 64, saved.sha256, "L0.mlp", "tiny").save(folder)
    return SAE.load(folder), top.astype(np.float64), std.astype(np.float64)


def assert_close(actual: Any, expected: oracle.Array, what: str = "") -> None:
    """Equal to 1e-4 of the expected array's size, and of every number that is not much smaller."""
    size = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(np.array(actual), expected, rtol=1e-4, atol=1e-4 * size, err_msg=what)


def assert_prompt_agrees(
    w: World, p: PromptResult, ids: Sequence[int], edits: Sequence[oracle.Edit], mode: oracle.Mode
) -> None:
    """Both sides of a result are the oracle's: logits, the `RECORDS`, and every generated token."""
    for side, these, how in ((p.baseline, (), "iterative"), (p.edited, edits, mode)):
        made = list(side.token_ids)
        read = len(ids) + max(len(made) - 1, 0)  # the last token is made but never read
        run = w.reference.run([*ids, *made], these, how)
        assert_close(side.logits, run.logits[len(ids) - 1], "logits")
        for site in RECORDS:
            if site in side.activations:
                assert_close(side.activations[site], run.seen[site][:read], f"{site} {how}")
        for i, token in enumerate(made):
            logits = run.logits[len(ids) - 1 + i]
            assert logits[token] >= logits.max() - 1e-4, f"token {i} is not the oracle's"
