"""The tasks that the demo model can do, as data: prompts with their right and wrong next tokens.

An example is one *combination* of fillers (two names and a place; a template and a country; ...). A stable
hash of the combination decides whether it is training data or held out: whatever the seed, a held-out
combination never occurs in training text.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from saedsl.demo.words import (
    CAPITALS,
    FEMALE_NAMES,
    FEMALE_NOUNS,
    LEXICON,
    MALE_NAMES,
    MALE_NOUNS,
    NAMES,
    REPEATABLE,
)

Task = Literal["ioi", "capital", "greater_than", "induction", "pronoun", "closing"]
Split = Literal["train", "held_out"]

TASKS: tuple[Task, ...] = get_args(Task)

HELD_OUT_SHARE = 8
"""One combination in this many is held out."""


@dataclass(frozen=True)
class Example:
    """One prompt of a task. `prompt` and `corrupt` have the same number of tokens."""

    task: Task
    prompt: str
    answer: str
    """A right next token: with its leading space, except for years, which continue a number."""
    wrong: str
    """A plausible wrong next token. It is the right one after `corrupt`."""
    corrupt: str
    """The prompt with one filler changed, so that `wrong` is right."""
    answers: tuple[str, ...]
    """Every right next token, `answer` among them; more than one only where the task leaves it open."""
    ending: str
    """How the text goes on after `answer` in a training document."""
    combination: str
    """What makes this example itself; the unit in which examples are held out."""


def split_of(combination: str) -> Split:
    """Which split a combination belongs to: a fixed property of its text, the same on every machine."""
    return "held_out" if zlib.crc32(combination.encode()) % HELD_OUT_SHARE == 0 else "train"


def draw(task: Task, rng: random.Random, split: Split) -> Example:
    """One random example of `task` whose combination belongs to `split`."""
    while True:
        example = _MAKERS[task](rng)
        if split_of(example.combination) == split:
            return example


def examples(task: Task, n: int, seed: int, split: Split = "train") -> list[Example]:
    """`n` examples of `task`, all different, the same for the same arguments.

    Args:
        task: one of `TASKS`.
        n: how many.
        seed: of the random choice of fillers; the split does not depend on it.
        split: "train" for combinations that may occur in `documents(split="train")`, "held_out" for those
            that never do.

    Raises:
        ValueError: if `task` is not one of `TASKS`, or has fewer than `n` different examples.
    """
    if task not in _MAKERS:
        raise ValueError(f"no task {task!r}; the tasks are {', '.join(TASKS)}")
    rng = random.Random(f"{task} {seed}")
    found: dict[str, Example] = {}
    misses = 0
    while len(found) < n:
        example = draw(task, rng, split)
        misses = misses + 1 if example.prompt in found else 0
        found.setdefault(example.prompt, example)
        if misses > 1000:
            raise ValueError(f"{n} {split} examples of {task!r} asked for, it has only about {len(found)}")
    return list(found.values())


def fill(template: str, rng: random.Random, **bound: str) -> str:
    """`template` with each `{slot}` filled: from `bound`, else with a random word of that category.

    A digit after a category (`{animal2}`) makes a further slot of it. A slot is filled alike throughout, two
    slots never with the same word. "a" becomes "an" where the next word needs it.
    """
    slots = dict(bound)
    parts = template.split("{")
    for part in parts[1:]:
        slot = part[: part.index("}")]
        if slot not in slots:
            taken = set(slots.values())
            slots[slot] = rng.choice([w for w in LEXICON[slot.rstrip("0123456789")] if w not in taken])
    text = template.format_map(slots)
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return text


IOI_TEMPLATES: tuple[str, ...] = (
    "When {a} and {b} went to the {place}, {s} gave a {object} to",
    "Then, {a} and {b} went to the {place}. {s} gave a {object} to",
    "Then, {a} and {b} had lunch at the {place}. {s} gave the {object} to",
    "After {a} and {b} left the {place}, {s} handed the {object} to",
    "While {a} and {b} were at the {place}, {s} passed the {object} to",
    "Yesterday {a} and {b} met at the {place}, and {s} sold a {object} to",
    "Today {a} and {b} came to the {place}, where {s} showed the {object} to",
    "Soon {a} and {b} found a {object} in the {place}, and {s} gave it to",
)
"""Indirect objects (Wang et al. 2022, arXiv:2211.00593): {s} is {a} or {b}, the answer the other one."""


def _ioi(rng: random.Random) -> Example:
    first, second = rng.sample(NAMES, 2)
    subject, other = (first, second) if rng.random() < 0.5 else (second, first)
    fillers = {"place": rng.choice(LEXICON["place"]), "object": rng.choice(LEXICON["object"])}
    template = rng.choice(IOI_TEMPLATES)
    return Example(
        task="ioi",
        prompt=template.format(a=first, b=second, s=subject, **fillers),
        answer=f" {other}",
        wrong=f" {subject}",
        corrupt=template.format(a=first, b=second, s=other, **fillers),
        answers=(f" {other}",),
        ending=".",
        combination=f"ioi|{'|'.join(sorted((first, second)))}|{fillers['place']}",
    )


CAPITAL_TEMPLATES: tuple[str, ...] = (
    "The capital of {country} is",
    "The capital city of {country} is",
    "We know that the capital of {country} is",
    "In school we learn that the capital of {country} is",
    "Every child in {country} knows that the capital is",
    "She flew to {country} and visited",
    "He took a train across {country} to the capital,",
    "They live in {country}, in the city of",
    "The king of {country} lives in",
    "A plane from {country} came from the city of",
    "If you go to {country}, you must see",
    "{name} was born in {country}, in the city of",
    "{name} went to {country} and saw the capital,",
    "{name} wrote a letter from {country}, from the city of",
    "The biggest museum in {country} is in",
    "A teacher asked for the capital of {country}. The answer was",
)
"""Countries and their capitals. The facts are in the training text, some template-country pairs are not."""


def _capital(rng: random.Random) -> Example:
    template = rng.choice(CAPITAL_TEMPLATES)
    country, other = rng.sample(list(CAPITALS), 2)
    name = rng.choice(NAMES)
    return Example(
        task="capital",
        prompt=template.format(country=country, name=name),
        answer=f" {CAPITALS[country]}",
        wrong=f" {CAPITALS[other]}",
        corrupt=template.format(country=other, name=name),
        answers=(f" {CAPITALS[country]}",),
        ending=".",
        combination=f"capital|{template}|{country}",
    )


GREATER_THAN_TEMPLATES: tuple[str, ...] = (
    "The {event} lasted from the year {century}{start} to the year {century}",
    "The {event} went on from {century}{start} to {century}",
    "The {event} began in {century}{start} and ended in {century}",
    "The {event} started in the year {century}{start} and was over in the year {century}",
)
"""Greater-than (Hanna et al. 2023, arXiv:2305.00586): the answer is any two digits above {start}."""

YEARS: tuple[str, ...] = tuple(f"{year:02d}" for year in range(100))
CENTURIES: tuple[str, ...] = tuple(str(century) for century in range(11, 20))


def _greater_than(rng: random.Random) -> Example:
    start = rng.randrange(2, 98)
    template = rng.choice(GREATER_THAN_TEMPLATES)
    fillers = {"event": rng.choice(LEXICON["event"]), "century": rng.choice(CENTURIES)}
    return Example(
        task="greater_than",
        prompt=template.format(start=YEARS[start], **fillers),
        answer=YEARS[rng.randrange(start + 1, 100)],
        wrong=YEARS[rng.randrange(2, start + 1)],
        corrupt=template.format(start=YEARS[1], **fillers),
        answers=YEARS[start + 1 :],
        ending=".",
        combination=f"greater_than|{fillers['event']}|{fillers['century']}{YEARS[start]}",
    )


INDUCTION_OPENINGS: tuple[str, ...] = ("Repeat:", "Listen:", "Words:", "Say it again:")
"""What a sequence of random words starts with."""


def _induction(rng: random.Random) -> Example:
    *words, replacement = rng.sample(REPEATABLE, rng.randrange(4, 10))
    again = rng.randrange(1, len(words))
    opening = rng.choice(INDUCTION_OPENINGS)
    changed = [*words[:again], replacement, *words[again + 1 :]]
    return Example(
        task="induction",
        prompt=" ".join((opening, *words, *words[:again])),
        answer=f" {words[again]}",
        wrong=f" {replacement}",
        corrupt=" ".join((opening, *changed, *words[:again])),
        answers=(f" {words[again]}",),
        ending=" ".join(("", *words[again + 1 :], *words)) + ".",
        combination=f"induction|{' '.join(words)}",
    )


PRONOUN_TEMPLATES: tuple[tuple[str, str, str], ...] = (
    ("When {who} was {feeling},", "subject", " went home."),
    ("Because {who} was {feeling},", "subject", " sat down."),
    ("Today {who} is {feeling} because", "subject", " lost the {object}."),
    ("Then {who} lost the {object}, so", "subject", " looked for it."),
    ("Now {who} has a {object} and", "subject", " likes it."),
    ("This morning {who} said that", "subject", " was {feeling}."),
    ("Soon {who} went to the {place} with", "possessive", " {animal}."),
    ("At night {who} put the {object} in", "possessive", " room."),
    ("One day {who} asked for", "possessive", " {object}."),
    ("In the {place} {who} looked for", "possessive", " {object}."),
    ("In the mirror {who} saw", "reflexive", "."),
    ("In the {place} {who} bought a {object} for", "reflexive", "."),
)
"""(prompt, form of the pronoun, ending); {who} is a name or a noun with a gender."""

PRONOUNS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"subject": ("she", "he"), "possessive": ("her", "his"), "reflexive": ("herself", "himself")}
)
"""Form -> (female, male)."""

_SUBJECTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (FEMALE_NAMES, MALE_NAMES),
    (FEMALE_NAMES, MALE_NAMES),
    (tuple(f"the {noun}" for noun in FEMALE_NOUNS), tuple(f"the {noun}" for noun in MALE_NOUNS)),
)


def _pronoun(rng: random.Random) -> Example:
    template, form, ending = rng.choice(PRONOUN_TEMPLATES)
    gender = rng.randrange(2)
    subjects = rng.choice(_SUBJECTS)
    who, other = rng.choice(subjects[gender]), rng.choice(subjects[1 - gender])
    fillers = {slot: rng.choice(LEXICON[slot]) for slot in ("feeling", "object", "place", "animal")}
    answer = f" {PRONOUNS[form][gender]}"
    used = "|".join(fillers[slot] for slot in fillers if f"{{{slot}}}" in template)
    return Example(
        task="pronoun",
        prompt=template.format(who=who, **fillers),
        answer=answer,
        wrong=f" {PRONOUNS[form][1 - gender]}",
        corrupt=template.format(who=other, **fillers),
        answers=(answer,),
        ending=ending.format(**fillers),
        combination=f"pronoun|{template}|{who}|{used}",
    )


MARKS: tuple[tuple[str, str], ...] = (("(", ")"), ("[", "]"), ("<", ">"), ('"', '"'))
"""Opening and closing marks, written with spaces around them."""

CLOSING_TEMPLATES: tuple[str, ...] = (
    "The sign says {open} {inside}",
    "The note {open} {inside}",
    "The list has {open} {inside}",
    "In the letter it says {open} {inside}",
    "Look at this: {open} {inside}",
)


def _closing(rng: random.Random) -> Example:
    template = rng.choice(CLOSING_TEMPLATES)
    (opened, closed), (other, other_closed), (inner, inner_closed) = rng.sample(MARKS, 3)
    color = rng.choice(LEXICON["color"])
    if rng.random() < 0.4:  # nested: the inner pair must not be mistaken for the outer one
        color = f"{inner} {color} {inner_closed}"
    words = fill(f"the {{size}} {color} {{object}}", rng)
    if rng.random() < 0.5:
        words = fill("{object} and ", rng) + words
    return Example(
        task="closing",
        prompt=template.format(open=opened, inside=words),
        answer=f" {closed}",
        wrong=f" {other_closed}",
        corrupt=template.format(open=other, inside=words),
        answers=(f" {closed}", f" {closed}."),  # at the end of a sentence the mark and the stop are one token
        ending=fill(rng.choice((".", " on the {furniture}.", " in the {place}.")), rng),
        combination=f"closing|{opened}|{words}",
    )


_MAKERS: Mapping[Task, Callable[[random.Random], Example]] = MappingProxyType(
    {
        "ioi": _ioi,
        "capital": _capital,
        "greater_than": _greater_than,
        "induction": _induction,
        "pronoun": _pronoun,
        "closing": _closing,
    }
)
