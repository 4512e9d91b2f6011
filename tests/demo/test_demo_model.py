"""The bundled model: an ordinary mlx-lm folder that does its tasks on combinations never trained on."""

# ruff: noqa: E402 (the BLAS has to be loaded before mlx)

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from saedsl.blas import preload

preload()

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.utils import load
from tokenizers import Tokenizer

import saedsl
from saedsl.demo.tasks import CAPITAL_TEMPLATES, TASKS, YEARS, Example, Split, Task, draw, examples, split_of
from saedsl.demo.text import documents
from saedsl.demo.words import CAPITALS, LEXICON, NAMES

FOLDER = Path(saedsl.__file__).parent / "demo" / "data" / "model"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """(model in float32, mlx-lm's tokenizer)."""
    model, tokenizer = load(str(FOLDER))[:2]
    model.set_dtype(mx.float32)
    return model, tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of `text` without the `<s>` before it."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def likeliest(model: Any, tokenizer: Tokenizer, prompts: list[str]) -> list[int]:
    """The likeliest next token after each prompt."""
    rows = [tokenizer.encode(prompt).ids for prompt in prompts]
    longest = max(map(len, rows))
    logits = model(mx.array([row + [0] * (longest - len(row)) for row in rows]))
    ends = mx.array([len(row) - 1 for row in rows])[:, None, None]
    return [int(token) for token in np.array(mx.take_along_axis(logits, ends, axis=1)[:, 0].argmax(axis=-1))]


@pytest.mark.parametrize("task", TASKS)
def test_held_out_accuracy_is_at_least_95_percent(task: Task, loaded: tuple[Any, Any], tokenizer: Tokenizer) -> None:
    found = examples(task, 200, seed=12, split="held_out")
    best = likeliest(loaded[0], tokenizer, [example.prompt for example in found])
    right = [
        token in [ids_of(tokenizer, answer)[0] for answer in example.answers]
        for token, example in zip(best, found, strict=True)
    ]
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("task", ["ioi", "capital", "pronoun", "induction", "closing"])
def test_the_corrupt_prompt_turns_the_answer_into_the_wrong_one(
    task: Task, loaded: tuple[Any, Any], tokenizer: Tokenizer
) -> None:
    found = examples(task, 60, seed=5, split="held_out")
    best = likeliest(loaded[0], tokenizer, [example.corrupt for example in found])
    wrong = [ids_of(tokenizer, example.wrong)[0] for example in found]
    assert np.mean(np.array(best) == np.array(wrong)) >= 0.9


def test_the_capital_of_every_country_is_known(loaded: tuple[Any, Any], tokenizer: Tokenizer) -> None:
    best = likeliest(loaded[0], tokenizer, [f"The capital of {country} is" for country in CAPITALS])
    assert [tokenizer.decode([token]) for token in best] == [f" {capital}" for capital in CAPITALS.values()]


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_one_token_and_corrupt_prompts_are_as_long(task: Task, tokenizer: Tokenizer) -> None:
    for example in examples(task, 150, seed=3) + examples(task, 150, seed=3, split="held_out"):
        assert example.answer in example.answers
        assert example.wrong not in example.answers
        for token in (*example.answers, example.wrong):
            assert len(ids_of(tokenizer, token)) == 1
            assert token.startswith(" ") or token in YEARS
        clean = tokenizer.encode(example.prompt).ids
        assert len(clean) == len(tokenizer.encode(example.corrupt).ids)
        whole = tokenizer.encode(example.prompt + example.answer).ids
        assert whole == clean + ids_of(tokenizer, example.answer)


def test_every_word_of_the_lexicon_is_one_token_with_its_space(tokenizer: Tokenizer) -> None:
    words = {word for category in LEXICON.values() for word in category}
    assert [word for word in sorted(words) if len(ids_of(tokenizer, f" {word}")) != 1] == []
    assert [name for name in NAMES if len(ids_of(tokenizer, name)) != 1] == []


def test_years_are_two_digit_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("in 1732", add_special_tokens=False).tokens[-2:] == ["17", "32"]
    assert all(tokenizer.token_to_id(year) is not None for year in YEARS)
    assert len(YEARS) == 100


def test_there_are_at_least_40_countries_each_with_its_own_capital() -> None:
    assert len(CAPITALS) >= 40
    assert len(set(CAPITALS.values())) == len(CAPITALS)


@pytest.mark.parametrize("task", TASKS)
def test_no_held_out_combination_occurs_in_training_text(task: Task) -> None:
    held_out = examples(task, 300, seed=0, split="held_out")
    train = examples(task, 1500 if task != "capital" else 500, seed=0)
    assert {e.combination for e in held_out}.isdisjoint(e.combination for e in train)
    assert all(split_of(e.combination) == "held_out" for e in held_out)
    text = " ".join(("", *documents(6000, seed=0), *documents(2000, seed=1, skew=4.0)))
    assert [e.prompt for e in held_out if f" {e.prompt}" in text] == []


@pytest.mark.parametrize(
    ("task", "stem"),
    [
        ("ioi", "gave the"),
        ("capital", "The capital of"),
        ("greater_than", "lasted from the year"),
        ("induction", "Repeat:"),
        ("pronoun", "In the mirror"),
        ("closing", "The sign says ["),
    ],
)
def test_every_task_occurs_in_training_text(task: Task, stem: str) -> None:
    assert any(stem in example.prompt for example in examples(task, 400, seed=0))
    assert sum(stem in text for text in documents(4000, seed=0)) >= 3


def test_every_country_is_trained_on_in_most_templates() -> None:
    for country in CAPITALS:
        splits = [split_of(f"capital|{template}|{country}") for template in CAPITAL_TEMPLATES]
        assert splits.count("train") >= len(CAPITAL_TEMPLATES) // 2


@pytest.mark.parametrize("split", get_args(Split))
def test_examples_and_documents_follow_from_their_seed(split: Split) -> None:
    assert list(documents(50, 1, split)) == list(documents(50, 1, split))
    assert list(documents(50, 1, split)) != list(documents(50, 2, split))
    assert examples("ioi", 20, 1, split) == examples("ioi", 20, 1, split)
    assert list(islice(documents(50, 1, split), 10)) == list(documents(10, 1, split))


def test_the_split_of_a_combination_never_changes() -> None:
    assert split_of("ioi|John|Mary|store") == "train"
    assert split_of("ioi|Henry|Sarah|office") == "held_out"


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError) as error:
        examples("chess", 1, 0)  # type: ignore[arg-type]
    assert str(error.value) == (
        "no task 'chess'; the tasks are ioi, capital, greater_than, induction, pronoun, closing"
    )


def test_more_examples_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1000000 held_out examples of 'capital' asked for, it has only about \d+"):
        examples("capital", 10**6, 0, split="held_out")


def test_nearly_every_document_fits_96_tokens_and_all_fit_the_context(tokenizer: Tokenizer) -> None:
    lengths = np.array([len(tokenizer.encode(text).ids) for text in documents(3000, seed=4)])
    assert np.mean(lengths <= 96) >= 0.97
    assert lengths.max() <= 128


def test_the_text_is_made_of_whole_words(tokenizer: Tokenizer) -> None:
    texts = list(documents(1000, seed=9))
    n_words = sum(len(text.split()) for text in texts)
    assert sum(len(tokenizer.encode(text).ids) for text in texts) < 1.6 * n_words


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("text", ["", "Mary", "\U0001f600 and 中文", "two\n\nlines\t", "The year 1732."])
def test_mlx_lm_and_tokenizers_agree_and_bos_comes_once(
    text: str, loaded: tuple[Any, Any], tokenizer: Tokenizer
) -> None:
    ids = loaded[1].encode(text)
    assert ids == tokenizer.encode(text).ids
    assert ids.count(tokenizer.token_to_id("<s>")) == 1
    assert ids[0] == loaded[1].bos_token_id
    assert loaded[1].decode(ids, skip_special_tokens=True) == text


def test_generation_from_a_simple_prompt_is_made_of_known_words(loaded: tuple[Any, Any], tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Once upon a time").ids
    for _ in range(24):
        ids.append(int(loaded[0](mx.array([ids]))[0, -1].argmax().item()))
    text = tokenizer.decode(ids)
    assert text.startswith("Once upon a time there was a ")
    assert " named " in text


def test_the_model_is_small_and_stored_in_float16() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 2_500_000
    weights: Any = mx.load(str(FOLDER / "model.safetensors"))
    assert {weight.dtype for weight in weights.values()} == {mx.float16}
    assert sorted(file.name for file in FOLDER.iterdir()) == [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]


def test_the_training_script_makes_a_loadable_model(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "train_demo_model.py"), "--quick"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "model")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model"]
    assert {file.name for file in (tmp_path / "model").iterdir()} == {file.name for file in FOLDER.iterdir()}


def test_draw_stays_in_its_split() -> None:
    import random

    rng = random.Random(0)
    drawn: list[Example] = [draw(task, rng, "held_out") for task in TASKS for _ in range(20)]
    assert {split_of(example.combination) for example in drawn} == {"held_out"}
