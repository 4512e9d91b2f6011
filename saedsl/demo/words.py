"""The lexicon of the demo text: every word the generator can put into a slot, by category.

Each word becomes one token with its leading space (`examples/train_demo_model.py` sees to it), so that
prompts of one template with different fillers have equal token length.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CAPITALS: Mapping[str, str] = MappingProxyType(
    {
        "France": "Paris",
        "Germany": "Berlin",
        "Italy": "Rome",
        "Spain": "Madrid",
        "England": "London",
        "Japan": "Tokyo",
        "China": "Beijing",
        "Russia": "Moscow",
        "Egypt": "Cairo",
        "Canada": "Ottawa",
        "Greece": "Athens",
        "Poland": "Warsaw",
        "Peru": "Lima",
        "Kenya": "Nairobi",
        "Sweden": "Stockholm",
        "Cuba": "Havana",
        "Australia": "Canberra",
        "Austria": "Vienna",
        "Belgium": "Brussels",
        "Bulgaria": "Sofia",
        "Chile": "Santiago",
        "Croatia": "Zagreb",
        "Denmark": "Copenhagen",
        "Estonia": "Tallinn",
        "Finland": "Helsinki",
        "Ghana": "Accra",
        "Hungary": "Budapest",
        "Iceland": "Reykjavik",
        "Iran": "Tehran",
        "Iraq": "Baghdad",
        "Ireland": "Dublin",
        "Latvia": "Riga",
        "Lebanon": "Beirut",
        "Morocco": "Rabat",
        "Nepal": "Kathmandu",
        "Nigeria": "Abuja",
        "Norway": "Oslo",
        "Portugal": "Lisbon",
        "Romania": "Bucharest",
        "Rwanda": "Kigali",
        "Senegal": "Dakar",
        "Serbia": "Belgrade",
        "Thailand": "Bangkok",
        "Turkey": "Ankara",
        "Uganda": "Kampala",
        "Ukraine": "Kyiv",
        "Venezuela": "Caracas",
        "Vietnam": "Hanoi",
    }
)
"""Country -> capital, 48 of them."""

CONTINENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Africa": _words("Egypt Ghana Kenya Morocco Nigeria Rwanda Senegal Uganda"),
        "America": _words("Canada Chile Cuba Peru Venezuela"),
        "Asia": _words("China Iran Iraq Japan Lebanon Nepal Thailand Vietnam"),
        "Europe": _words(
            "Austria Belgium Bulgaria Croatia Denmark England Estonia Finland France Germany Greece Hungary "
            "Iceland Ireland Italy Latvia Norway Poland Portugal Romania Serbia Spain Sweden Ukraine"
        ),
    }
)
"""Continent -> the countries of `CAPITALS` that lie wholly or mainly in it."""

FEMALE_NAMES: tuple[str, ...] = _words(
    "Mary Anna Lucy Emma Sarah Alice Kate Jane Lily Ruth Clara Julia Laura Helen Nora Eva"
)
MALE_NAMES: tuple[str, ...] = _words(
    "John Tom Jack Peter Paul David James Ben Sam Max Henry George Daniel Adam Simon Robert"
)
NAMES: tuple[str, ...] = tuple(chain.from_iterable(zip(FEMALE_NAMES, MALE_NAMES, strict=True)))

FEMALE_NOUNS: tuple[str, ...] = _words("girl woman mother sister queen")
MALE_NOUNS: tuple[str, ...] = _words("boy man father brother king")

LEXICON: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "name": NAMES,
        "female": FEMALE_NAMES,
        "male": MALE_NAMES,
        "country": tuple(CAPITALS),
        "capital": tuple(CAPITALS.values()),
        "place": _words(
            "store park school garden market beach farm river forest kitchen library station museum "
            "zoo castle village bridge church hospital office restaurant lake"
        ),
        "object": _words(
            "drink book ball cup hat coat key lamp map ring box bag letter flower gift basket stone toy "
            "bell knife picture phone"
        ),
        "animal": _words("dog cat bird fish horse cow bear fox rabbit mouse lion duck sheep wolf frog"),
        "food": _words("bread cheese cake soup rice apples fruit meat eggs honey salt corn"),
        "drink": _words("milk tea water juice coffee"),
        "color": _words("red blue green white black yellow brown pink"),
        "size": _words("big small little tall long short tiny huge"),
        "quality": _words("old new good nice pretty clean soft strong kind brave quiet"),
        "feeling": _words("happy sad tired hungry angry afraid cold late sick thirsty proud lost"),
        "plant": _words("tree grass rose leaf"),
        "furniture": _words("table chair bed door window house room wall"),
        "body": _words("hand head eye foot arm nose"),
        "weekday": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
        "season": _words("spring summer autumn winter"),
        "sky": _words("sun moon rain snow wind storm"),
        "job": _words("farmer teacher doctor baker driver singer soldier"),
        "number": _words("one two three four five six seven eight nine ten"),
        "event": _words("war trip show game fire rule trade project peace work play feast"),
        "time": _words("morning afternoon evening night day week"),
    }
)
"""Category -> its words."""

REPEATABLE: tuple[str, ...] = tuple(
    dict.fromkeys(
        word
        for category in (
            *("place", "object", "animal", "food", "drink", "color", "size", "quality", "plant"),
            *("furniture", "body", "season", "sky", "job", "number", "event", "name"),
        )
        for word in LEXICON[category]
    )
)
"""Words that random sequences (the induction task) are drawn from."""
