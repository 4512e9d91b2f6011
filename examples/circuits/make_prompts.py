"""Prompts of the circuits of this folder, from the tasks of the bundled model: python examples/circuits/make_prompts.py

Rows are `{"prompt", "corrupt", "answer", "wrong"}`; all prompts of a file have one template, so that positions mean the
same. Held-out prompts of `ioi` and `greater_than` are of combinations that the model never saw in training; those
of `capital` and `capitals` ask for the same countries with other names.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from saedsl.demo.tasks import CAPITALS, NAMES, YEARS, Split, examples

SPLITS: tuple[Split, ...] = ("train", "held_out")
Row = dict[str, str]


def ioi(split: Split) -> list[Row]:
    """`When A and B went to the P, A gave a O to`; the corrupt prompt names B instead of A at the second place."""
    drawn = examples("ioi", 600, SPLITS.index(split), split)
    found = [e for e in drawn if e.prompt.startswith("When ")]
    return [{"prompt": e.prompt, "corrupt": e.corrupt, "answer": e.answer, "wrong": e.wrong} for e in found]


def greater_than(split: Split) -> list[Row]:
    """`The E began in 1650 and ended in 16`: eight years above against eight that are not; corrupt is 01."""
    rng, rows = random.Random(3), []
    for e in examples("greater_than", 600, SPLITS.index(split), split):
        start = YEARS.index(e.prompt.split(" and ended")[0][-2:])
        if " began in " in e.prompt and 10 <= start <= 90:
            above, below = rng.sample(range(start + 1, 100), 8), rng.sample(range(2, start + 1), 8)
            fields = {f"a{i}": YEARS[y] for i, y in enumerate(above)} | {f"w{i}": YEARS[y] for i, y in enumerate(below)}
            rows.append({"prompt": e.prompt, "corrupt": e.corrupt, **fields})
    return rows


def capital(split: Split) -> list[Row]:
    """`N wrote a letter from C, from the city of`, of four countries in turn; the corrupt prompt has another one."""
    return _capitals(split, list(CAPITALS)[:4], 60)


def capitals(split: Split) -> list[Row]:
    """The same of all countries, each twice."""
    return _capitals(split, list(CAPITALS), 2 * len(CAPITALS))


def _capitals(split: Split, countries: list[str], n: int) -> list[Row]:
    names, stride = (NAMES[::2], 5) if split == "train" else (NAMES[1::2], 7)
    rows = []
    for i in range(n):
        here, there = countries[i % len(countries)], countries[(i + 1 + i // len(countries)) % len(countries)]
        if here == there:
            there = countries[(i + 1) % len(countries)]
        text = f"{names[(stride * i + i // len(countries)) % len(names)]} wrote a letter from {{}}, from the city of"
        rows.append({
            "prompt": text.format(here), "corrupt": text.format(there),
            "answer": f" {CAPITALS[here]}", "wrong": f" {CAPITALS[there]}",
        })  # fmt: skip
    return rows


def main(folder: Path) -> None:
    """Write `NAME.jsonl` and `NAME.held_out.jsonl` of every task."""
    most = {"ioi": (64, 40), "greater_than": (64, 96), "capital": (60, 40), "capitals": (96, 96)}
    for make in (ioi, greater_than, capital, capitals):
        for split, n in zip(SPLITS, most[make.__name__], strict=True):
            name = f"{make.__name__}{'' if split == 'train' else '.held_out'}.jsonl"
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in make(split)[:n]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
