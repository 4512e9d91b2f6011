"""`saedsl demo`: two feature edits that change what the bundled model says, and why they do.

First the program of the README: the feature that goes on with repeated words is removed. Then the feature that means
France, found while you watch, is forced where a prompt says Spain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from warnings import catch_warnings, filterwarnings

import mlx.core as mx
import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from saedsl import show
from saedsl.demo.tasks import TASKS, Example, examples
from saedsl.demo.words import CAPITALS
from saedsl.errors import SaedslWarning
from saedsl.model import InterpretableModel
from saedsl.plan import DEMO_PROMPT
from saedsl.sites import Site

README = "at L2.mlp ablate f42; amplify f7 x2"
SITE = Site(0, "resid_post")
SPOKEN, FORCED = "Spain", "France"
STRENGTH = 3
"""The forced feature is set to so many times what it is on its own country's name."""


@dataclass(frozen=True)
class CountryFeature:
    """The feature that tells one country's name from all others."""

    country: str
    feature: int
    activation: float
    """On the country's name in "The capital of ... is"."""
    elsewhere: float
    """The largest on any other country's name there."""
    tokens: tuple[tuple[str, float], ...]
    """The tokens on which it is most active in sentences of all kinds, and the largest activation of each."""


def country_features(model: InterpretableModel, countries: Sequence[str]) -> list[CountryFeature]:
    """For each of `countries`, the feature of the dictionary at `SITE` that stands out most on its name."""
    sae = model.dictionary(str(SITE))
    names = [c for c in CAPITALS if len(model.encoder.encode(prompt(c))) == len(model.encoder.encode(prompt(FORCED)))]
    tokens = mx.array([model.encoder.encode(prompt(c)).ids for c in names])
    f = np.array(sae.encode(model.activations(tokens, [SITE])[SITE]))[:, -2]  # [countries, d_sae], on the name
    best = []
    for country in countries:
        i = names.index(country)
        others = np.delete(f, i, axis=0).max(axis=0)
        feature = int(np.argmax(f[i] - others))
        best.append((country, feature, float(f[i, feature]), float(others[feature])))
    where = strongest_tokens(model, [b[1] for b in best])
    return [CountryFeature(*b, tokens=where[b[1]]) for b in best]


def strongest_tokens(
    model: InterpretableModel, features: Sequence[int], n: int = 3
) -> dict[int, tuple[tuple[str, float], ...]]:
    """For each feature, the tokens on which it is most active in sentences of the tasks, with the activation."""
    encode = model.dictionary(str(SITE)).encoder(features)
    seen: dict[int, dict[str, float]] = {f: {} for f in features}
    for text in [e.prompt for task in TASKS for e in examples(task, 60, seed=5)]:
        tokens = model.encoder.encode(text)
        x = model.activations(mx.array([tokens.ids]), [SITE])[SITE]
        for piece, row in zip(tokens.pieces[1:], np.array(encode(x))[0, 1:], strict=True):
            for f, value in zip(features, row.tolist(), strict=True):
                seen[f][piece] = max(seen[f].get(piece, 0.0), value)
    top = {f: sorted(by_token.items(), key=lambda item: -item[1])[:n] for f, by_token in seen.items()}
    return {f: tuple((t, v) for t, v in found if v > 0) for f, found in top.items()}


def prompt(country: str) -> str:
    """The question that the demo asks."""
    return f"The capital of {country} is"


def program(spoken: CountryFeature, forced: CountryFeature) -> str:
    """Take one country's feature out of the name and force the other's."""
    value = STRENGTH * forced.activation
    return f'at {SITE} @ " {spoken.country}" ablate f{spoken.feature}; set f{forced.feature} = {value:.1f}'


def main() -> None:
    """Tell the story on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    with console.status("loading the bundled model"):
        model = InterpretableModel.load("demo")
    for item in story(model):
        console.print(item, markup=False)


def story(model: InterpretableModel) -> Iterator[RenderableType]:
    """What `saedsl demo` prints, piece by piece."""
    yield from _repeated_words(model)
    yield ""
    yield from _capitals(model)
    yield ""
    yield Text("Next", style="bold")
    yield f"   saedsl explain -e '{README}'"
    yield f"   saedsl run -e '{README}' -p 'Once upon a time'"
    yield "   saedsl sites demo"


def _repeated_words(model: InterpretableModel) -> Iterator[RenderableType]:
    yield Text("1. A name is suppressed", style="bold")
    yield f"\n   {README}\n"
    (p,) = model.run(f"{README}\nrecord L2.mlp.f42", prompts=DEMO_PROMPT).prompts
    yield from show.prompt(p, top=3)
    fires = p.baseline.activations["L2.mlp.f42"]
    yield "\n   Why: f42 is active in lists of words, most of all where they repeat, and goes on with them:"
    words = (f"{piece.strip()} {value:.1f}" for piece, value in zip(p.pieces[1:], fires[1:], strict=True))
    yield f"   {'  '.join(words)}"
    for task, name in (("induction", "lists with repeated words"), ("capital", "questions for a capital")):
        some = examples(task, 12, seed=5, split="held_out")  # type: ignore[arg-type]
        before, after = (_answered(model, code, some) for code in ("", "at L2.mlp ablate f42"))
        yield f"   Right answers to 12 {name}: mean probability {before:.2f}, without f42 {after:.2f}"


def _capitals(model: InterpretableModel) -> Iterator[RenderableType]:
    yield Text("2. A capital changes", style="bold")
    yield f"\n   Features that mean a country, in the dictionary at {SITE}:"
    spoken, forced = country_features(model, [SPOKEN, FORCED])
    yield _table([spoken, forced])
    code = program(spoken, forced)
    yield f"\n   {code}\n"
    a, b = f"f{spoken.feature}", f"f{forced.feature}"
    yield f'   On " {SPOKEN}": without {a}, and with {b} at {STRENGTH} times what it is on " {FORCED}".'
    yield "   The rest of the activation, the reconstruction error included, stays as it is.\n"
    yield from show.result(model.run(code, prompts=prompt(SPOKEN)), top=3)


def _answered(model: InterpretableModel, code: str, some: Sequence[Example]) -> float:
    """Mean probability of the right answers, with the program's edits."""
    total = 0.0
    with catch_warnings():
        # That the feature is active in none of some prompts is what is shown, no mistake.
        filterwarnings("ignore", message=r"warning\[S610\]", category=SaedslWarning)
        for e in some:
            with model.trace(e.prompt, code) as t:
                p = np.array(mx.softmax(t.output[0, -1]))
                total += float(p[model.encoder.encode(e.answer).ids[-1]])
    return total / len(some)


def _table(rows: Sequence[CountryFeature]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "feature", "on its country", "on others", "where it is most active"):
        table.add_column(name, justify="right" if "on " in name else "left", header_style="dim")
    for r in rows:
        tokens = ", ".join(f"{t!r} {v:.1f}" for t, v in r.tokens)
        table.add_row(" ", f"f{r.feature}", f"{r.country} {r.activation:.2f}", f"{r.elsewhere:.2f}", Text(tokens))
    return table
