"""Prompts of the circuits of this folder, from the tasks of the bundled model: python examples/circuits/make_prompts.py

Rows are `{"prompt", "corrupt", "answer", "wrong"}`; all prompts of a file have one template, so that positions mean the
same. Held-out prompts of `ioi` and `greater_than` are of combinations that the model never saw in training either; those
of `capital` ask for the same countries with other names.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from saedsl.demo.tasks import CAPITALS, NAMES, YEARS, Split, examples

N, HELD_OUT = 64, {"ioi": 40, "greater_than": 96}
SPLITS: tuple[Split, ...] = ("train", "held_out")
Row = dict[str, str]


def ioi(split: Split) -> list[Row]:
    """`When A and B went to the P, A gave a O to`; the corrupt prompt names B instead of A at the second place."""
    found = [e for e in examples("ioi", 600 if split == "train" else 320, 0, split) if e.prompt.startswith("When ")]
    return [{"prompt": e.prompt, "corrupt": e.corrupt, "answer": e.answer, "wrong": e.wrong} for e in found]


def greater_than(split: Split) -> list[Row]:
    """`The E began in 1650 and ended in 16`: four years above against four that are not; corrupt is 01."""
    rng, rows = random.Random(3), []
    for e in examples("greater_than", 600, 0, split):
        start = YEARS.index(e.prompt.split(" and ended")[0][-2:])
        if " began in " in e.prompt and 10 <= start <= 90:
            above, below = rng.sample(range(start + 1, 100), 4), rng.sample(range(2, start + 1), 4)
            fields = {f"a{i}": YEARS[y] for i, y in enumerate(above)} | {f"w{i}": YEARS[y] for i, y in enumerate(below)}
            rows.append({"prompt": e.prompt, "corrupt": e.corrupt, **fields})
    return rows


def capital(split: Split) -> list[Row]:
    """`N wrote a letter from C, from the city of`, of all countries in turn; the corrupt prompt has another country."""
    countries, names = list(CAPITALS), NAMES[0 if split == "train" else 1 :: 2]
    rows = []
    for i in range(2 * len(countries)):
        here, there = countries[i % len(countries)], countries[(i + 1 + i // len(countries)) % len(countries)]
        text = f"{names[(5 * i + i // len(countries)) % len(names)]} wrote a letter from {{}}, from the city of"
        rows.append({
            "prompt": text.format(here), "corrupt": text.format(there),
            "answer": f" {CAPITALS[here]}", "wrong": f" {CAPITALS[there]}",
        })  # fmt: skip
    return rows


def main(folder: Path) -> None:
    """Write `NAME.jsonl` and `NAME.held_out.jsonl` of every task."""
    for make in (ioi, greater_than, capital):
        for split in SPLITS:
            rows = make(split)
            rows = rows[: N if split == "train" and make is not capital else HELD_OUT.get(make.__name__)]
            name = f"{make.__name__}{'' if split == 'train' else '.held_out'}.jsonl"
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
