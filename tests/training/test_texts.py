"""Data sets of text: every kind gives the same documents, from any place on, and says what is wrong where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from saedsl.errors import TrainingError
from saedsl.training.texts import PART, ByLength, Texts, open_texts

TEXTS = [
    "The cat sat.",
    "Über das Meer: 海\nand on",
    "",
    "  ",
    "A dog.\n\nIt ran.",
    *(f"number {i}" for i in range(300)),
]
NOT_EMPTY = [t for t in TEXTS if t.strip()]


class Again:
    """Texts that are made anew each time."""

    def __iter__(self) -> Iterator[str]:
        return iter(TEXTS)


def text_file(folder: Path) -> Path:
    path = folder / "a.txt"
    path.write_text("\n<|endoftext|>\n".join(TEXTS), encoding="utf-8")
    return path


def jsonl(folder: Path) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t, "n": 1} if t else t) + "\n" for t in TEXTS), encoding="utf-8")
    return path


def parquet_file(folder: Path, texts: list[str] = TEXTS, name: str = "a.parquet") -> Path:
    parquet.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), folder / name, row_group_size=110)
    return folder / name


def arrow_stream(folder: Path, texts: list[str] = TEXTS, name: str = "a.arrow") -> Path:
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return folder / name


def arrow_file(folder: Path) -> Path:
    table = pa.table({"text": TEXTS})
    with pa.OSFile(str(folder / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return folder / "a.arrow"


def saved_to_disk(folder: Path) -> Path:
    """As `DatasetDict.save_to_disk` writes it."""
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split, parts in (("train", (TEXTS[:100], TEXTS[100:])), ("test", (["other"],))):
        own = folder / split
        own.mkdir()
        names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
        for name, texts in zip(names, parts, strict=True):
            arrow_stream(own, texts, name)
        (own / "state.json").write_text(json.dumps({"_data_files": [{"filename": n} for n in names]}))
    return folder


def repository(folder: Path) -> Path:
    (folder / "data").mkdir()
    parquet_file(folder / "data", TEXTS[:120], "train-00000-of-00002.parquet")
    parquet_file(folder / "data", TEXTS[120:], "train-00001-of-00002.parquet")
    parquet_file(folder / "data", ["other"], "test-00000-of-00001.parquet")
    return folder


KINDS: list[Callable[[Path], Any]] = [
    lambda _: TEXTS, lambda _: Again(), text_file, jsonl, parquet_file, arrow_stream, arrow_file, saved_to_disk,
    repository,
]  # fmt: skip
NAMES = ["list", "iterable", "txt", "jsonl", "parquet", "arrow-stream", "arrow-file", "save-to-disk", "repository"]


@pytest.mark.parametrize("make", KINDS, ids=NAMES)
def test_every_kind_gives_the_documents_and_goes_on_from_any_place(make: Callable[[Path], Any], tmp_path: Path) -> None:
    texts = open_texts(make(tmp_path))
    entries = list(texts.entries())
    assert [e.text for e in entries] == NOT_EMPTY
    assert len({e.document for e in entries}) == len(entries)
    for i in (0, 1, 2, 50, 98, 99, 119, 200, len(entries) - 1):
        assert list(texts.entries(json.loads(json.dumps(entries[i].after)))) == entries[i + 1 :], i
    assert texts.identity == open_texts(make_again(make, tmp_path)).identity


def make_again(make: Callable[[Path], Any], folder: Path) -> Any:
    (folder / "again").mkdir()
    return make(folder / "again")


def test_where_no_line_ends_a_text_empty_lines_separate_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\r\n\r\n\r\nthree\n\n".encode())
    assert [(e.document, e.text) for e in open_texts(path).entries()] == [(0, "one\r\ntwo"), (1, "three")]
    path.write_text("a\n\nb\n<|endoftext|>\nc\n<|endoftext|>")
    assert [e.text for e in open_texts(path).entries()] == ["a\n\nb", "c"]
    assert next(e.text for e in open_texts(path, separator="").entries()) == "a"
    assert open_texts(path).identity != open_texts(path, separator="").identity


@pytest.mark.parametrize("unit", ["word ", "a line of text\n", "é海", "x"], ids=["words", "lines", "wide", "solid"])
def test_a_long_document_comes_in_parts_of_bounded_size(unit: str, tmp_path: Path) -> None:
    long = unit * (5 * PART // len(unit.encode()))
    path = tmp_path / "a.txt"
    path.write_text(f"first\n<|endoftext|>\n{long}\n<|endoftext|>\nlast")
    texts = open_texts(path)
    entries = list(texts.entries())
    assert [e.document for e in entries] == [0, *[1] * (len(entries) - 2), 2]
    assert "".join(e.text for e in entries[1:-1]).strip("\n") == long.strip("\n")
    assert max(len(e.text.encode()) for e in entries) <= 2 * PART
    for i in range(len(entries)):
        assert list(texts.entries(entries[i].after)) == entries[i + 1 :], i


def test_short_documents_come_first_by_length(tmp_path: Path) -> None:
    texts = ["x" * n for n in (500, 3, 90, 4, 1000, 60, 1)]
    order = ByLength(open_texts(texts))
    lengths = [len(e.text) for e in order.entries()]
    assert lengths == sorted(lengths)
    assert sorted(lengths) == sorted(map(len, texts))
    entries = list(order.entries())
    for i in range(len(entries)):
        assert list(order.entries(entries[i].after)) == entries[i + 1 :]


def test_a_split_is_chosen_by_name(tmp_path: Path) -> None:
    for make in (saved_to_disk, repository):
        home = tmp_path / make.__name__
        home.mkdir()
        make(home)
        assert [e.text for e in open_texts(home, split="test").entries()] == ["other"]
        with pytest.raises(TrainingError, match=r"no split 'dev'; there are .*train"):
            open_texts(home, split="dev")


def write(name: str, data: bytes) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def cut(make: Callable[[Path], Path]) -> Callable[[Path], Any]:
    def shorter(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return shorter


def numbers(folder: Path) -> Path:
    parquet.write_table(pa.table({"text": [1, 2]}), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: p / "none.txt", {}, "none.txt: there is no such file or folder"),
        (lambda _: "The cat sat.", {}, "The cat sat.: there is no such file or folder; a data set is its path"),
        (lambda _: 7, {}, "a data set is a list of texts or the path of a file, this is int"),
        (lambda _: iter(["a"]), {}, "but this list_iterator only once: give a list, a file, or an object whose iter()"),
        (lambda _: ["a", 7], {}, "a data set is texts, its entry 1 is int"),
        (write("a.txt", b""), {}, "a.txt: the file is empty"),
        (write("a.csv", b"a,b"), {}, "a.csv: a data set is .txt, .jsonl, .parquet, .arrow, or a folder of these"),
        (write("a.json", b"[]"), {}, "a JSON file would be read whole; write its texts as JSONL"),
        (write("a.txt", b"one\ntwo\ncaf\xe9 three\n"), {}, "a.txt:3: not UTF-8 (byte 0xe9 at column 4); save the file"),
        (write("a.jsonl", b'"a"\n{"text": "b"\n'), {}, "a.jsonl:2: not JSON ("),
        (write("a.jsonl", b'{"body": "b", "n": 1}'), {}, "a.jsonl:1: no field 'text'; there are body, n"),
        (write("a.jsonl", b'{"text": 3}'), {}, "a.jsonl:1: the text is int, not a string"),
        (write("a.jsonl", b'"\xff"'), {}, "a.jsonl:1: not UTF-8 (byte 0xff at column 2)"),
        (parquet_file, {"field": "body"}, "a.parquet: no column 'body'; there are text, n"),
        (arrow_stream, {"field": "body"}, "a.arrow: no column 'body'; there are text"),
        (numbers, {}, "a.parquet: column 'text' holds int64, not text"),
        (cut(parquet_file), {}, "a.parquet: not a whole Parquet file ("),
        (cut(arrow_file), {}, "a.arrow: not a whole Arrow file ("),
        (cut(arrow_stream), {}, "a.arrow: "),
        (write("a.parquet", b"hello"), {}, "a.parquet: not a whole Parquet file ("),
        (lambda p: p, {}, "no data set in this folder; it would hold .arrow, .parquet, .jsonl, .txt files"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_refused(
    make: Callable[[Path], Any], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as e:
        list(open_texts(make(tmp_path), **options).entries())
    assert message in str(e.value)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: Texts = open_texts(parquet_file(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(TrainingError, match=r'pyarrow reads this; install it with: pip install "saedsl\[data\]"'):
        next(iter(texts.entries()))
