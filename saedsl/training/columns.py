"""Text columns of Parquet and Arrow files, read a batch of rows at a time, with pyarrow (the extra `data`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from saedsl.errors import TrainingError
from saedsl.sae.tensorfile import file_sha256
from saedsl.training.texts import At, Entry

ROWS: Final = 64
"""Rows of Parquet that become Python strings together."""


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise TrainingError(f'{path}: pyarrow reads this; install it with: pip install "saedsl[data]"') from None
    return pyarrow


@dataclass(frozen=True)
class ParquetColumn:
    """A text column of a Parquet file."""

    path: Path
    field: str = "text"

    @cached_property
    def identity(self) -> str:
        """See `Texts.identity`."""
        return _hash("parquet 1", self.path, self.field)

    def entries(self, at: At | None = None) -> Iterator[Entry]:
        """See `Texts.entries`. A place is [row group, row in it, document]."""
        group, skip, document = (int(v) for v in at) if at else (0, 0, 0)
        pa = _pyarrow(self.path)
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 16) as file:
                _check_column(pa, file.schema_arrow, self.field, self.path)
                for g in range(group, file.num_row_groups):
                    row = 0
                    for batch in file.iter_batches(ROWS, row_groups=[g], columns=[self.field], use_threads=False):
                        n = batch.num_rows
                        for text in batch.column(0).slice(max(0, skip - row)).to_pylist():
                            at_row = max(row, skip)
                            skip = at_row + 1
                            document += 1
                            if text is not None and text.strip():
                                yield Entry(document - 1, text, [g, skip, document])
                        row += n
                    skip = 0
        except pa.ArrowInvalid as e:
            raise TrainingError(f"{self.path}: not a whole Parquet file ({_first_line(e)})") from None
        except OSError as e:
            raise TrainingError(f"{self.path}: cannot be read ({_first_line(e)})") from None


@dataclass(frozen=True)
class ArrowFile:
    """A text column of an Arrow file, as `datasets` keeps them (a stream), or with a footer."""

    path: Path
    field: str = "text"

    @cached_property
    def identity(self) -> str:
        """See `Texts.identity`."""
        return _hash("arrow 1", self.path, self.field)

    def entries(self, at: At | None = None) -> Iterator[Entry]:
        """See `Texts.entries`. A place is [record batch, row in it, document]."""
        first, skip, document = (int(v) for v in at) if at else (0, 0, 0)
        pa = _pyarrow(self.path)
        try:
            with pa.OSFile(str(self.path)) as file:
                for i, batch in enumerate(_record_batches(pa, file, self.field, self.path)):
                    if i < first:
                        continue
                    column = batch.column(batch.schema.get_field_index(self.field))
                    for row in range(skip, batch.num_rows):
                        text = column[row].as_py()
                        document += 1
                        if text is not None and text.strip():
                            yield Entry(document - 1, text, [i, row + 1, document])
                    skip = 0
        except pa.ArrowInvalid as e:
            raise TrainingError(f"{self.path}: not a whole Arrow file ({_first_line(e)})") from None
        except OSError as e:
            raise TrainingError(f"{self.path}: cannot be read ({_first_line(e)})") from None


def _record_batches(pa: Any, file: Any, field: str, path: Path) -> Iterator[Any]:
    if file.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(file)
        _check_column(pa, reader.schema, field, path)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)
        return
    file.seek(0)
    reader = pa.ipc.open_stream(file)
    _check_column(pa, reader.schema, field, path)
    yield from reader


def _check_column(pa: Any, schema: Any, field: str, path: Path) -> None:
    if field not in schema.names:
        raise TrainingError(f"{path}: no column {field!r}; there are {', '.join(schema.names) or 'none'}")
    kind = schema.field(field).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise TrainingError(f"{path}: column {field!r} holds {kind}, not text")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _hash(kind: str, path: Path, field: str) -> str:
    return hashlib.sha256(json.dumps([kind, file_sha256(path), field]).encode()).hexdigest()
