"""Activations as they are needed: the right tokens, bitwise resumption, and a thread that never outlives its use."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import saedsl
from saedsl.demo.text import documents
from saedsl.errors import TrainingError
from saedsl.sites import Site
from saedsl.training.packing import Convention, Packing, Row, Start
from saedsl.training.source import Batch
from saedsl.training.stream import StreamSource
from saedsl.training.texts import open_texts

SITE = Site.parse("L1.mlp")
TEXTS = list(documents(120, 0))


@pytest.fixture(scope="module")
def demo() -> saedsl.InterpretableModel:
    return saedsl.InterpretableModel.load("demo")


def rows_of(demo: saedsl.InterpretableModel, texts: list[str], context: int, packed: bool) -> list[Row]:
    return list(Packing(Convention.of(demo), context, packed).rows(open_texts(texts), Start()))


def tokens_of(demo: saedsl.InterpretableModel, text: str) -> list[int]:
    tokens = demo.encoder.encode(text)
    return list(tokens.ids[len(tokens.bos) :])


def recomputed(demo: saedsl.InterpretableModel, context: int) -> tuple[np.ndarray, np.ndarray]:
    """(packed rows, what of them is content), from the documented rule: one line of tokens, cut."""
    bos = demo.encoder.bos_token_id
    assert bos is not None
    line: list[int] = []
    for text in TEXTS:
        line += ([bos] if line else []) + tokens_of(demo, text)
    room = context - 1
    full = len(line) // room
    ids = np.array([[bos, *line[i * room : (i + 1) * room]] for i in range(full)])
    return ids, ids != bos


def held(window: Batch) -> np.ndarray:
    found: np.ndarray = window.arrays[str(SITE)]
    return found


def test_packed_rows_are_the_documents_in_one_line_cut(demo: saedsl.InterpretableModel) -> None:
    ids, content = recomputed(demo, 32)
    rows = rows_of(demo, TEXTS, 32, True)
    assert all(len(r.ids) == 32 for r in rows[:-1])
    np.testing.assert_array_equal(np.stack([r.ids for r in rows[: len(ids)]]), ids)
    np.testing.assert_array_equal(np.stack([r.content for r in rows[: len(ids)]]), content)
    assert sum(int(r.content.sum()) for r in rows) == sum(len(tokens_of(demo, t)) for t in TEXTS)
    counts = np.bincount(np.concatenate([r.documents[r.content] for r in rows]))
    assert counts.tolist() == [len(tokens_of(demo, t)) for t in TEXTS]


def test_not_packed_each_row_is_of_one_document(demo: saedsl.InterpretableModel) -> None:
    rows = rows_of(demo, TEXTS, 24, False)
    for i, text in enumerate(TEXTS):
        own = [r for r in rows if r.documents[0] == i]
        assert all(set(r.documents.tolist()) == {i} for r in own)
        assert [int(t) for r in own for t in r.ids[1:]] == tokens_of(demo, text)
        assert {int(r.ids[0]) for r in own} == {demo.encoder.bos_token_id}
        assert not any(r.content[0] for r in own)


@pytest.mark.parametrize("packed", [True, False])
def test_rows_go_on_from_any_row(demo: saedsl.InterpretableModel, packed: bool) -> None:
    packing = Packing(Convention.of(demo), 16, packed)
    texts = open_texts(TEXTS[:12])
    rows = list(packing.rows(texts, Start()))
    for i in range(len(rows)):
        again = list(packing.rows(texts, Start.from_json(rows[i].after.to_json())))
        assert [r.ids.tolist() for r in again] == [r.ids.tolist() for r in rows[i + 1 :]]
        assert [r.documents.tolist() for r in again] == [r.documents.tolist() for r in rows[i + 1 :]]


def test_a_pass_is_each_token_of_the_texts_once_but_for_bos_and_padding(demo: saedsl.InterpretableModel) -> None:
    source = StreamSource(demo, TEXTS[:30], [SITE], 32, window=900)
    rows = rows_of(demo, TEXTS[:30], 32, True)
    expected = [np.array(demo.activations(mx.array(r.ids[None]), [SITE])[SITE])[0][r.content] for r in rows]
    x = np.concatenate(expected)
    batches = source.batches(len(x), 0)
    got = next(batches).arrays[str(SITE)]
    batches.close()  # type: ignore[attr-defined]
    assert got.shape == x.shape
    direction = np.random.default_rng(0).standard_normal(x.shape[1])
    np.testing.assert_allclose(np.sort(got @ direction), np.sort(x @ direction), atol=2e-3)  # each once, none else
    assert not np.allclose(got @ direction, x @ direction, atol=1)


def test_padding_changes_nothing(demo: saedsl.InterpretableModel) -> None:
    """Not packed, rows differ in length: each is the model's own reading of that row alone."""
    source = StreamSource(demo, TEXTS[:10], [SITE], 48, packed=False)
    got = source.sample(10**6)[str(SITE)]
    rows = rows_of(demo, TEXTS[:10], 48, False)
    alone = [np.array(demo.activations(mx.array(r.ids[None]), [SITE])[SITE])[0][r.content] for r in rows]
    np.testing.assert_allclose(got, np.concatenate(alone), atol=2e-4)


def test_several_sites_are_of_the_same_tokens(demo: saedsl.InterpretableModel) -> None:
    both = StreamSource(demo, TEXTS, ["L1.mlp", "L2.resid_pre"], 32)
    one = StreamSource(demo, TEXTS, ["L2.resid_pre"], 32)
    assert both.widths == {"L1.mlp": 128, "L2.resid_pre": 128}
    a, b = (next(iter(s.batches(64, 3))) for s in (both, one))
    np.testing.assert_array_equal(a.arrays["L2.resid_pre"], b.arrays["L2.resid_pre"])


@pytest.mark.parametrize(
    "options", [{}, {"packed": False}, {"order": "length"}, {"max_tokens": 1500}], ids=lambda o: str(o)
)
def test_from_any_cursor_batches_go_on_bitwise(demo: saedsl.InterpretableModel, options: dict[str, Any]) -> None:
    def source() -> StreamSource:
        return StreamSource(demo, TEXTS[:40], [SITE], 32, window=350, **options)

    whole = list(islice(source().batches(130, 5), 24))  # windows end inside of batches; more than one pass
    assert whole[-1].cursor["pass"] >= 1
    for stop in (1, 3, 4, 11, 12, 17, 20):
        again = islice(source().batches(130, 5, whole[stop - 1].cursor), 3)
        for a, b in zip(whole[stop : stop + 3], again, strict=True):
            assert a.cursor == b.cursor
            np.testing.assert_array_equal(held(a), held(b))


def test_short_documents_come_first_in_the_first_pass_only(demo: saedsl.InterpretableModel) -> None:
    source = StreamSource(demo, TEXTS, [SITE], 64, window=400, packed=False, order="length")
    lengths: dict[int, list[float]] = {0: [], 1: []}
    place: Any = {**next(iter(source.batches(1, 0))).cursor}
    place.pop("used")
    while place["pass"] < 2:
        window = source.window(place, threading.Event())
        lengths[place["pass"]].append(float(np.mean([len(TEXTS[d]) for d in window.documents])))
        place = window.next
    assert lengths[0] == sorted(lengths[0])
    assert lengths[1] != sorted(lengths[1])


def test_max_tokens_ends_a_pass(demo: saedsl.InterpretableModel) -> None:
    source = StreamSource(demo, TEXTS, [SITE], 32, window=300, max_tokens=700)
    first, second = islice(source.batches(700, 0), 2)
    assert first.cursor["pass"] == 0
    assert second.cursor["pass"] == 1
    np.testing.assert_allclose(np.sort(held(first), 0), np.sort(held(second), 0), atol=2e-4)


def test_a_split_shares_no_document(demo: saedsl.InterpretableModel) -> None:
    source = StreamSource(demo, TEXTS, [SITE], 32)
    sides = source.split(0.25, seed=1)
    start: Any = {"pass": 0, "window": 0, "seen": 0, **Start().to_json()}
    train, kept = (set(s.window(start, threading.Event()).documents.tolist()) for s in sides)
    assert not train & kept
    assert train | kept == set(range(len(TEXTS)))
    assert 15 <= len(kept) <= 45
    assert len({source.identity, sides[0].identity, sides[1].identity}) == 3


def test_the_identity_tells_data_and_settings_apart(demo: saedsl.InterpretableModel) -> None:
    def identity(texts: list[str] = TEXTS, context: int = 32, **options: Any) -> str:
        return StreamSource(demo, texts, [SITE], context, **options).identity

    assert identity() == identity()
    others = [identity(TEXTS[1:]), identity(context=33), identity(window=9), identity(packed=False)]
    assert len({identity(), *others}) == 5


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("saedsl")]


def test_the_thread_ends_when_the_iterator_is_closed_or_dropped(demo: saedsl.InterpretableModel) -> None:
    source = StreamSource(demo, TEXTS, [SITE], 32, window=200)
    batches: Any = source.batches(50, 0)
    next(batches)
    assert threads()
    batches.close()
    assert not threads()
    batches = source.batches(50, 0)
    next(batches)
    del batches
    assert not threads()


class Broken:
    """Texts of which one is none."""

    def __iter__(self) -> Iterator[str]:
        yield from TEXTS[:60]
        yield 7  # type: ignore[misc]


def test_what_the_thread_raises_is_raised_in_the_trainer(demo: saedsl.InterpretableModel) -> None:
    batches = StreamSource(demo, Broken(), [SITE], 32, window=200).batches(50, 0)
    assert len(list(islice(batches, 4))) == 4  # windows before it are good
    with pytest.raises(TrainingError, match="its entry 60 is int"):
        list(batches)
    assert not threads()


def test_the_next_window_is_made_while_this_one_is_used(
    demo: saedsl.InterpretableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = StreamSource(demo, TEXTS, [SITE], 32, window=200)
    made: list[tuple[int, str]] = []
    plain = StreamSource.window

    def seen(self: StreamSource, place: Any, stop: threading.Event) -> Any:
        window = plain(self, place, stop)
        made.append((place["window"], threading.current_thread().name))
        return window

    monkeypatch.setattr(StreamSource, "window", seen)
    batches = source.batches(10, 0)
    next(batches)
    end = time.monotonic() + 20
    while len(made) < 2 and time.monotonic() < end:
        time.sleep(0.005)
    assert [n for n, _ in made] == [0, 1]  # one ahead, and no more
    assert all(name.startswith("saedsl") for _, name in made)


def test_the_model_may_be_used_while_the_thread_reads_it(demo: saedsl.InterpretableModel) -> None:
    tokens = mx.array(demo.encoder.encode(TEXTS[0]).ids)[None]
    alone = np.array(demo.forward(tokens)[0])
    whole = [held(b) for b in islice(StreamSource(demo, TEXTS, [SITE], 32, window=200).batches(50, 0), 40)]
    for x, b in zip(whole, StreamSource(demo, TEXTS, [SITE], 32, window=200).batches(50, 0), strict=False):
        logits, _ = demo.forward(tokens, functions={SITE: mx.zeros_like})
        assert not np.array_equal(np.array(logits), alone)
        np.testing.assert_array_equal(held(b), x)  # edited for the other thread only
    np.testing.assert_array_equal(np.array(demo.forward(tokens)[0]), alone)


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(3)", "raise RuntimeError('x')", "b.close()"])
def test_no_process_hangs_or_aborts_with_a_thread_at_work(end: str) -> None:
    code = (
        "import saedsl\nfrom saedsl.demo.text import documents\nfrom saedsl.training.stream import StreamSource\n"
        "b = StreamSource(saedsl.InterpretableModel.load('demo'), list(documents(120, 0)), ['L1.mlp'], window=1500)"
        f".batches(9, 0)\nnext(b)\nprint('here', flush=True)\n{end}\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "here\n", done.stderr
    assert done.returncode == {"p": 0, "b": 0}.get(end[0], 3 if "3" in end else 1), done.stderr


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"context": 1}, TrainingError, "context is 1; a row of at least 2 tokens is needed, BOS included"),
        ({"window": 0}, TrainingError, "window is 0; at least 1 token is shuffled"),
        ({"max_tokens": 0}, TrainingError, "max_tokens is 0; at least 1 is needed, or None for all"),
        ({"sites": []}, TrainingError, "activations are read at one site or several different ones"),
        ({"sites": ["L1.mlp", "L1.mlp"]}, TrainingError, "activations are read at one site or several different ones"),
        ({"sites": ["L9.mlp"]}, ValueError, "L9.mlp is no site of this model; it has layers L0..L3"),
        ({"sites": ["nonsense"]}, ValueError, "'nonsense' is not a site"),
        ({"sites": ["L1.attn.pattern"]}, ValueError, "a dictionary needs a site of one width"),
    ],
)
def test_impossible_settings_are_refused_at_once(
    demo: saedsl.InterpretableModel, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as e:
        StreamSource(demo, **{"dataset": TEXTS, "sites": [SITE], **options})
    assert message in str(e.value)


@pytest.mark.parametrize("texts", [[], ["", " "]], ids=["none", "white-space"])
def test_a_data_set_without_tokens_is_refused(demo: saedsl.InterpretableModel, texts: list[str]) -> None:
    source = StreamSource(demo, texts, [SITE])
    message = "these data have no tokens but BOS and padding: there is nothing to train on"
    with pytest.raises(TrainingError, match=message):
        next(source.batches(4, 0))
    with pytest.raises(TrainingError, match=message):
        source.sample(4)


def test_a_model_that_yields_nan_is_refused_with_its_document() -> None:
    model = saedsl.InterpretableModel.load("demo")
    weight = model.model["model"]["layers"][1]["mlp"]["down_proj"]
    weight.weight = weight.weight * float("nan")
    with pytest.raises(TrainingError, match=r"activations at L1.mlp are NaN or infinity for .*, first in document 0;"):
        next(StreamSource(model, TEXTS, [SITE]).batches(4, 0))
