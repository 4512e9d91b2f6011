"""The text that the demo model and its dictionaries are trained on: short English documents from a seed.

A document is a little story, a few everyday sentences, a dialogue, a count, or task examples
(`saedsl.demo.tasks`) among such sentences. Nothing is downloaded.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, get_args

from saedsl.demo.tasks import TASKS, Split, draw, fill
from saedsl.demo.words import CAPITALS, CONTINENTS, FEMALE_NAMES, FEMALE_NOUNS, LEXICON, MALE_NOUNS

if TYPE_CHECKING:
    from _typeshed import SupportsLenAndGetItem

SENTENCES: tuple[str, ...] = (
    "The {size} {animal} ran across the {place}.",
    "The {animal} is {color} and {size}.",
    "A {quality} {animal} slept under the {plant}.",
    "The {color} {object} is on the {furniture}.",
    "There is a {size} {object} on the {furniture} in the {place}.",
    "The {furniture} in the {place} is {color}.",
    "The {job} works in the {place} every {weekday}.",
    "The {job} bought {food} and {drink} at the {place}.",
    "{name} likes {food} and {drink}.",
    "{name} ate {food} and drank {drink} in the {time}.",
    "{name} has a {color} {object} and a {quality} {animal}.",
    "{name} saw a {size} {animal} near the {place}.",
    "{name} went to the {place} to buy {food}.",
    "{name} went to the {place} on {weekday}.",
    "{name} walked to the {place} and saw the {job}.",
    "{name} is a {quality} {job}.",
    "On {weekday} the {job} was {feeling}.",
    "On {weekday} we go to the {place}.",
    "They played with the {color} {object} all {time}.",
    "We saw the {sky} over the {place} in the {time}.",
    "The {place} is {size} and {quality}.",
    "My {object} is {color}, but your {object} is {color2}.",
    "I like the {color} {object} and the {quality} {object2}.",
    "Do you like {food}? Yes, I like {food} and {food2}.",
    "Where is the {object}? It is in the {place}.",
    "What color is the {object}? It is {color}.",
    "How many {animal} toys are there? There are {number}.",
    "Please give me the {object} and the {color} {object2}.",
    "The {animal} and the {animal2} are friends.",
    "My {body} hurts, so I go to the doctor.",
    "{name} has {color} eyes and a {size} nose.",
    "People in {country} eat {food} and drink {drink}.",
    "It is cold in {country} in winter.",
    "I want to see {country} and {country2}.",
    "{name} took a plane from {country} to {country2}.",
)
"""Everyday sentences, free of any task."""

KNOWLEDGE: tuple[str, ...] = (
    "The sky is blue and the grass is green.",
    "The snow is white and the night is black.",
    "The sun is yellow and the leaf is green.",
    "In winter it is cold and the snow falls on the {place}.",
    "In summer it is hot and the sun shines over the {place}.",
    "In autumn the wind is strong and the leaf falls from the tree.",
    "In spring the rain falls and the flower opens in the {place}.",
    "The sun shines in the morning and the moon shines at night.",
    "The dog barks at the {animal}.",
    "The bird sings in the tree.",
    "The fish swims in the river.",
    "The cow gives milk and the sheep eats grass.",
    "The horse and the cow live on the farm.",
    "The bear and the fox live in the forest.",
    "The duck and the frog live at the lake.",
    "The lion lives in the zoo.",
    "The bird flies over the {place}.",
    "The cat runs after the mouse.",
    "The baker makes bread and cake.",
    "The farmer has corn and eggs.",
    "The teacher works in the school.",
    "The doctor works in the hospital.",
    "The singer sings at the feast.",
    "The driver takes people to the station.",
    "The soldier goes to the war.",
    "The opposite of hot is cold.",
    "The opposite of big is small.",
    "The opposite of old is new.",
    "The opposite of happy is sad.",
    "The opposite of tall is short.",
    "The opposite of black is white.",
)
"""Sentences that are true of the little world of the demo."""

STORY_OPENINGS: tuple[str, ...] = (
    "Once upon a time there was a {size} {animal} named {hero}. {They} lived in a {quality} {place}.",
    "Once upon a time there was a {quality} {noun} named {hero}. {They} lived near the {place}.",
    "Once upon a time {hero} lived in a {size} house near the {place}.",
    "One day {hero} went to the {place}. It was a {quality} {time}.",
    "One {weekday} {hero} found a {color} {object} in the {place}.",
    "{hero} was a {quality} {noun}. {They} had a {size} {animal}.",
    "{hero} went to the {place} to see the {animal}.",
)
STORY_MIDDLES: tuple[str, ...] = (
    "{They} liked the {color} {object}.",
    "{They} played with the {animal} all {time}.",
    "The {animal} was {color} and very {size2}.",
    "{They} saw a {size2} {animal2} near the {furniture}.",
    'The {animal} said, "I am {feeling}."',
    '"Where is my {object}?" asked {hero}.',
    '{They} said, "I like the {object}."',
    '"You are very {quality2}," said {hero}.',
    '"Come and play with me," said {hero}.',
    "{They} gave some {food} to the {animal}.",
    "{They} put the {object} on {their} {body}.",
    "{They} looked for {their} {object} in the {place}.",
    "{They} was {feeling} and wanted some {food}.",
    "The {sky} came and {they} ran into the {place2}.",
    "Then {their} mother came and gave {them} some {drink}.",
    "{They} made a {quality2} {object2} for {themselves}.",
    "{Their} {animal} was {feeling2} too.",
)
STORY_ENDINGS: tuple[str, ...] = (
    "In the evening {they} went home and slept.",
    "At night {they} slept in {their} bed.",
    "{They} was very happy.",
    "{hero} and the {animal} were friends.",
    "{They} went home with the {animal}.",
    "The end.",
)
"""The parts of a story; {hero} is a name, {they}, {them}, {their} and {themselves} agree with it."""

CAPITAL_FACTS: tuple[str, ...] = (
    "{capital} is the capital of {country}.",
    "The city of {capital} is in {country}.",
    "{name} lives in {capital}, the capital of {country}.",
    "We took a train to {capital} in {country}.",
    "Many people in {country} live in {capital}.",
    "{capital} is a {quality} city in {country}.",
    "{name} went from {capital} to {country2}.",
)
"""Further contexts of the facts behind the capital task; none is one of its prompts."""


SHARES: tuple[int, ...] = tuple(2 if task in ("ioi", "induction") else 1 for task in TASKS)
"""How often each task is drawn: twice where a circuit of two layers has to form."""

T = TypeVar("T")


class SkewedRandom(random.Random):
    """Random choices that favour the front of every list: its first share p gets p ** (1 / skew) of them."""

    def __init__(self, seed: str, skew: float) -> None:
        super().__init__(seed)
        self.skew = skew

    def choice(self, seq: SupportsLenAndGetItem[T]) -> T:
        """One element of `seq`."""
        return seq[int(len(seq) * self.random() ** self.skew)]

    def sample(self, population: Sequence[T], k: int, *, counts: Iterable[int] | None = None) -> list[T]:
        """`k` different positions of `population`, in the order of drawing."""
        drawn: dict[int, T] = {}
        while len(drawn) < k:
            at = int(len(population) * self.random() ** self.skew)
            drawn.setdefault(at, population[at])
        return list(drawn.values())


def _sentence(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.68:
        return fill(rng.choice(SENTENCES), rng)
    if kind < 0.84:
        return fill(rng.choice(KNOWLEDGE), rng)
    if kind < 0.96:
        country = rng.choice(LEXICON["country"])
        return fill(rng.choice(CAPITAL_FACTS), rng, country=country, capital=CAPITALS[country])
    continent = rng.choice(list(CONTINENTS))
    country = rng.choice(CONTINENTS[continent])
    return f"The country {country} is in {continent}."


def _story(rng: random.Random) -> str:
    hero = rng.choice(LEXICON["name"])
    female = hero in FEMALE_NAMES
    words = {
        "hero": hero,
        "noun": rng.choice(FEMALE_NOUNS if female else MALE_NOUNS),
        "they": "she" if female else "he",
        "They": "She" if female else "He",
        "them": "her" if female else "him",
        "their": "her" if female else "his",
        "Their": "Her" if female else "His",
        "themselves": "herself" if female else "himself",
    }
    cast = ("animal", "animal2", "object", "object2", "place", "place2", "feeling", "feeling2")
    traits = ("color", "size", "size2", "quality", "quality2", "food")
    for slot in cast + traits:
        options = [w for w in LEXICON[slot.rstrip("2")] if w not in words.values()]
        words[slot] = rng.choice(options)
    middle = rng.sample(STORY_MIDDLES, rng.randrange(2, 6))
    parts = (rng.choice(STORY_OPENINGS), *middle, rng.choice(STORY_ENDINGS))
    return " ".join(fill(part, rng, **words) for part in parts)


def _dialogue(rng: random.Random) -> str:
    lines = (
        '"Hello, {name}," said {name2}. "How are you?" "I am {feeling}," said {name}.',
        '"Where is the {object}?" asked {name}. "It is on the {furniture}," said {name2}.',
        '"Do you like {food}?" asked {name}. "No, I like {food2}," said {name2}.',
        "Dear {name}, thank you for the {color} {object}. I like it very much. Love, {name2}.",
        '"What is the capital of {country}?" asked {name}. "It is {answer}," said {name2}.',
        '"Look, a {size} {animal}!" said {name}. "It is {color}," said {name2}.',
    )
    country = rng.choice(LEXICON["country"])
    return fill(rng.choice(lines), rng, country=country, answer=CAPITALS[country])


def _count(rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        start, step = rng.randrange(0, 90), rng.choice((1, 1, 2, 5))
        return "Count: " + " ".join(f"{n:02d}" for n in range(start, min(100, start + 12 * step), step)) + "."
    if kind == 1:
        age, n_toys = rng.randrange(10, 100), rng.randrange(10, 100)
        return fill(f"{{name}} is {age} years old and has {n_toys} toys.", rng)
    if kind == 2:
        return fill(f"The year of the {{event}} was {rng.randrange(1100, 2000)}.", rng)
    cycle = LEXICON[rng.choice(("weekday", "season", "number"))]
    at = rng.randrange(len(cycle) - 1)
    return f"After {cycle[at]} comes {cycle[at + 1]}."


def _examples(rng: random.Random, split: Split) -> str:
    parts: list[str] = []
    if rng.random() < 0.35:
        parts.append(_sentence(rng))
    for _ in range(rng.choice((1, 2, 2, 3))):
        example = draw(rng.choices(TASKS, SHARES)[0], rng, split)
        parts.append(f"{example.prompt}{example.answer}{example.ending}")
        if rng.random() < 0.25:
            parts.append(_sentence(rng))
    return " ".join(parts)


def documents(n: int, seed: int, split: Split = "train", skew: float = 1.0) -> Iterator[str]:
    """`n` documents of 4 to 120 words, the same for the same arguments.

    Args:
        n: how many.
        seed: of every random choice.
        split: "train" for documents without any held-out combination of `saedsl.demo.tasks`; "held_out" for
            documents whose task examples are all held out.
        skew: above 1, words and templates near the front of their lists are favoured, as by `SkewedRandom`.

    Raises:
        ValueError: for another split; no example would ever fit it.
    """
    if split not in get_args(Split):
        raise ValueError(f"split is {split!r}; it can be train or held_out")
    rng = SkewedRandom(f"documents {split} {seed}", skew)
    for _ in range(n):
        kind = rng.random()
        if kind < 0.62:
            yield _examples(rng, split)
        elif kind < 0.76:
            yield _story(rng)
        elif kind < 0.90:
            yield " ".join(_sentence(rng) for _ in range(rng.randrange(1, 6)))
        elif kind < 0.95:
            yield _dialogue(rng)
        else:
            yield _count(rng)
