"""Data sets of text, read a document at a time: lists, `.txt`, JSONL, Parquet, folders of Hugging Face data sets.

However large a file, only a piece of it is in memory: a row group's column of Parquet, a record batch of Arrow, a line
of JSONL, 64 Ki characters of `.txt`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from saedsl.errors import TrainingError
from saedsl.sae.tensorfile import file_sha256

END: Final = "<|endoftext|>"
"""A line that holds only this ends a document of a `.txt` file."""
PART: Final = 1 << 16
"""Bytes of `.txt` after which a document goes on as a further part."""
_SNIFF: Final = 1 << 20

At = list[Any]
"""A place between documents or their parts, as JSON can hold it."""


@dataclass(frozen=True)
class Entry:
    """A document, or a part of a long one."""

    document: int
    """Its number, from 0; parts of one document share it."""
    text: str
    """What it says, not only white space."""
    after: At
    """Where the next entry is found."""


@runtime_checkable
class Texts(Protocol):
    """A data set."""

    @property
    def identity(self) -> str:
        """SHA-256 of what it holds and how it is read."""

    def entries(self, at: At | None = None) -> Iterator[Entry]:
        """Its entries from a place on, from the start by default; always the same.

        Raises:
            TrainingError: at whatever is not text; it says where.
        """


def open_texts(
    dataset: Texts | str | Path | Iterable[str],
    *,
    field: str = "text",
    separator: str | None = None,
    split: str | None = None,
) -> Texts:
    """A data set, by what names it.

    Args:
        dataset: texts, one document each: a list, or anything whose `iter` starts anew each time; or the path of
            `.txt`: documents end with a line `<|endoftext|>`; where the first MiB has no such line, with an empty line;
            `.jsonl`: lines that are strings, or objects with `field`;
            `.parquet`, `.arrow`: the column `field`;
            a folder: what `save_to_disk` of `datasets` wrote, or a data set's own files of one of these kinds, in the
            order of their paths.
        field: the field or column of the text.
        separator: the line that ends documents of `.txt`; "" for an empty one.
        split: which part of a folder, `train` by default where it has several.

    Raises:
        TrainingError: if there is no such file, or it is none of these.
    """
    if isinstance(dataset, str | Path):
        return _open_path(Path(dataset), field, separator, split)
    if isinstance(dataset, Texts):
        return dataset
    if not isinstance(dataset, Iterable):
        raise TrainingError(f"a data set is a list of texts or the path of a file, this is {type(dataset).__name__}")
    if isinstance(dataset, Iterator):
        raise TrainingError(
            f"a data set is read more than once, but this {type(dataset).__name__} only once: "
            "give a list, a file, or an object whose iter() starts anew"
        )
    return Listed(dataset)


def _open_path(path: Path, field: str, separator: str | None, split: str | None) -> Texts:
    if path.is_dir():
        from saedsl.training.folders import open_folder

        return open_folder(path, field, separator, split)
    if not path.is_file():
        raise TrainingError(f"{path}: there is no such file or folder; a data set is its path, or a list of texts")
    if path.stat().st_size == 0:
        raise TrainingError(f"{path}: the file is empty")
    match path.suffix.lower():
        case ".txt":
            return TextFile(path, separator)
        case ".jsonl" | ".ndjson":
            return Lines(path, field)
        case ".parquet" | ".arrow" as suffix:
            from saedsl.training.columns import ArrowFile, ParquetColumn

            return ParquetColumn(path, field) if suffix == ".parquet" else ArrowFile(path, field)
        case ".json":
            raise TrainingError(f"{path}: a JSON file would be read whole; write its texts as JSONL, a line each")
        case _:
            raise TrainingError(f"{path}: a data set is .txt, .jsonl, .parquet, .arrow, or a folder of these")


@dataclass(frozen=True)
class Listed:
    """Texts in memory, or of an object that yields them anew each time."""

    texts: Iterable[str]

    @cached_property
    def identity(self) -> str:
        """See `Texts.identity`."""
        digest = hashlib.sha256(b"texts 1")
        for entry in self.entries():
            raw = entry.text.encode("utf-8", "surrogatepass")
            digest.update(f"{entry.document} {len(raw)} ".encode())
            digest.update(raw)
        return digest.hexdigest()

    def entries(self, at: At | None = None) -> Iterator[Entry]:
        """See `Texts.entries`."""
        first = int(at[0]) if at else 0
        if isinstance(self.texts, Sequence):
            rest: Iterable[str] = (self.texts[i] for i in range(first, len(self.texts)))
        else:
            rest = islice(self.texts, first, None)
        for i, text in enumerate(rest, first):
            if not isinstance(text, str):
                raise TrainingError(f"a data set is texts, its entry {i} is {type(text).__name__}")
            if text.strip():
                yield Entry(i, text, [i + 1])


@dataclass(frozen=True)
class TextFile:
    """A `.txt` file in UTF-8; see `open_texts` for where documents end.

    Documents of more than 64 KiB come in parts, cut behind a line or a space.
    """

    path: Path
    separator: str | None = None

    @cached_property
    def end(self) -> str:
        """The line that ends documents."""
        if self.separator is not None:
            return self.separator
        with self.path.open("rb") as file:
            lines = file.read(_SNIFF).splitlines()
        return END if END.encode() in (line.strip() for line in lines) else ""

    @property
    def identity(self) -> str:
        """See `Texts.identity`."""
        return _hash("txt 1", file_sha256(self.path), self.end)

    def entries(self, at: At | None = None) -> Iterator[Entry]:
        """See `Texts.entries`. A place is [byte, document, line, whether inside of a document]."""
        offset, document, line, inside = (int(v) for v in at) if at else (0, 0, 1, 0)
        kept: list[str] = []
        size = 0
        with self.path.open("rb") as file:
            file.seek(offset)
            whole = True
            while raw := file.readline(PART):
                starts, whole = whole, raw.endswith(b"\n") or len(raw) < PART
                if not whole:  # a piece of a long line
                    raw = _to_space(raw)
                    file.seek(offset + len(raw))
                text = _decoded(raw, self.path, line)
                if offset == 0:
                    text = text.removeprefix("\ufeff")
                offset, line = offset + len(raw), line + whole
                if starts and whole and text.strip() == self.end:
                    body = "".join(kept).strip("\r\n")
                    if inside or body.strip():
                        document += 1
                        if body.strip():
                            yield Entry(document - 1, body, [offset, document, line, 0])
                    kept, size, inside = [], 0, 0
                    continue
                kept.append(text)
                size += len(raw)
                if size >= PART:
                    body = "".join(kept)
                    if body.strip():
                        inside = 1
                        yield Entry(document, body, [offset, document, line, 1])
                    kept, size = [], 0
        body = "".join(kept).strip("\r\n")
        if body.strip():
            yield Entry(document, body, [offset, document + 1, line, 0])


def _to_space(raw: bytes) -> bytes:
    """A piece of a line, up to its last space, else up to its last whole character."""
    space = raw.rfind(b" ")
    if space > 0:
        return raw[:space]
    end = len(raw)
    if end > 4:
        tail = next((i for i in range(1, 5) if raw[-i] & 0xC0 != 0x80), 0)  # the last byte that starts a character
        starts = raw[-tail] if tail else 0
        needed = 1 if starts < 0x80 else 2 if starts < 0xE0 else 3 if starts < 0xF0 else 4
        end -= tail if 0 < tail < needed else 0
    return raw[:end]


@dataclass(frozen=True)
class Lines:
    """A JSONL file: a document a line."""

    path: Path
    field: str = "text"

    @property
    def identity(self) -> str:
        """See `Texts.identity`."""
        return _hash("jsonl 1", file_sha256(self.path), self.field)

    def entries(self, at: At | None = None) -> Iterator[Entry]:
        """See `Texts.entries`. A place is [byte, line]; documents are numbered by lines."""
        offset, line = (int(v) for v in at) if at else (0, 0)
        with self.path.open("rb") as file:
            file.seek(offset)
            for raw in file:
                offset, line = offset + len(raw), line + 1
                text = _decoded(raw, self.path, line).removeprefix("\ufeff")
                if text.strip():
                    found = self._text(text, line)
                    if found.strip():
                        yield Entry(line - 1, found, [offset, line])

    def _text(self, line: str, number: int) -> str:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise TrainingError(f"{self.path}:{number}: not JSON ({e})") from None
        found = row.get(self.field) if isinstance(row, dict) else row
        if isinstance(row, dict) and self.field not in row:
            raise TrainingError(f"{self.path}:{number}: no field {self.field!r}; there are {', '.join(row) or 'none'}")
        if not isinstance(found, str):
            raise TrainingError(f"{self.path}:{number}: the text is {type(found).__name__}, not a string")
        return found


@dataclass(frozen=True)
class Files:
    """Several files, one after the other."""

    parts: tuple[Texts, ...]

    @cached_property
    def identity(self) -> str:
        """See `Texts.identity`."""
        return _hash("files 1", *(p.identity for p in self.parts))

    def entries(self, at: At | None = None) -> Iterator[Entry]:
        """See `Texts.entries`. A place is [file, its first document's number, the place in it]."""
        file, first, inner = at or (0, 0, None)
        last = first - 1
        for i in range(file, len(self.parts)):
            for entry in self.parts[i].entries(inner):
                last = first + entry.document
                yield Entry(last, entry.text, [i, first, entry.after])
            inner, first = None, last + 1


@dataclass(frozen=True)
class ByLength:
    """The same entries, short ones first: a reading for each quarter octave of lengths in characters."""

    texts: Texts

    @property
    def identity(self) -> str:
        """See `Texts.identity`."""
        return _hash("by length 1", self.texts.identity)

    @cached_property
    def buckets(self) -> tuple[int, ...]:
        """The lengths that there are, in quarter octaves."""
        return tuple(sorted({_bucket(e.text) for e in self.texts.entries()}))

    def entries(self, at: At | None = None) -> Iterator[Entry]:
        """See `Texts.entries`. A place is [bucket, the place in the data set]."""
        first, inner = at or (-1, None)
        for bucket in self.buckets:
            if bucket < first:
                continue
            for entry in self.texts.entries(inner):
                if _bucket(entry.text) == bucket:
                    yield Entry(entry.document, entry.text, [bucket, entry.after])
            inner = None


def _bucket(text: str) -> int:
    n = len(text)
    octave = n.bit_length() - 1
    return 4 * octave + (4 * (n - (1 << octave)) >> octave)


def _decoded(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise TrainingError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[e.start]:02x} at column {e.start + 1}); save the file as UTF-8"
        ) from None


def _hash(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
