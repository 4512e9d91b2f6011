"""The file of `saedsl train`: tables of plain values, every key known, paths relative to the file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from saedsl.errors import TrainingError
from saedsl.training.config import SAEConfig


@dataclass(frozen=True)
class ModelTable:
    """`[model]`: what is read where."""

    name: str
    """A model folder, a hub id, or `demo`."""
    layer: int | list[int]
    """Block, from 0; or several."""
    component: str | list[str]
    """What is read: `mlp`, `resid_post` ...; or several."""
    output: str | list[str] | None = None
    """transcoder, clt: what is written, one for each component."""


@dataclass(frozen=True)
class DataTable:
    """`[data]`: the texts."""

    path: str
    """A file or folder of texts, or a folder that `saedsl harvest` filled."""
    field: str = "text"
    """Field or column of JSONL, Parquet, Arrow."""
    separator: str | None = None
    """The line that ends documents of .txt; "" for an empty one."""
    split: str | None = None
    """Which split of a folder."""
    context: int = 128
    """Tokens of a row, BOS included."""
    max_tokens: int | None = None
    """Of the data set; without, all."""
    memory: int = 1 << 30
    """Bytes of activations that are kept in memory; larger data sets are streamed."""


@dataclass(frozen=True)
class OutputTable:
    """`[output]`: what is written."""

    path: str
    """A folder for the dictionary; of several, for a folder each. Its report is written beside it."""
    checkpoints: str | None = None
    """A folder; without, beside `path`."""
    figure: str | None = None
    """Draw the report: .pdf, .svg or .png; of several dictionaries, one file each."""


@dataclass(frozen=True)
class TrainingFile:
    """A whole file."""

    model: ModelTable
    data: DataTable
    sae: SAEConfig
    output: OutputTable
    folder: Path
    """Where the file is: what its paths are relative to."""

    def at(self, path: str) -> Path:
        """A path of the file."""
        return self.folder / Path(path).expanduser()


def read_training_file(path: Path) -> TrainingFile:
    """Read the file of `saedsl train`.

    Raises:
        TrainingError: if it cannot be read, a key is unknown or missing, or a value is impossible.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise TrainingError(f"{path}: not TOML ({error})") from None
    tables = ("model", "data", "sae", "output")
    for key in raw:
        if key not in tables:
            raise TrainingError(f"{path}: there is no table [{key}]{_hint(key, tables)}")
    for name in tables:
        if not isinstance(raw.get(name, {}), dict):
            raise TrainingError(f"{path}: {name} is a table: write [{name}] on a line of its own")
    try:
        sae = SAEConfig.from_mapping(raw.get("sae", {}), "[sae]")
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from None
    return TrainingFile(
        _table(ModelTable, "model", raw, path),
        _table(DataTable, "data", raw, path),
        sae,
        _table(OutputTable, "output", raw, path),
        path.parent,
    )


T = TypeVar("T", ModelTable, DataTable, OutputTable)


def _table(kind: type[T], name: str, raw: Mapping[str, Any], path: Path) -> T:
    known = {f.name: f for f in fields(kind)}
    values = raw.get(name, {})
    for key, value in values.items():
        if key not in known:
            raise TrainingError(f"{path}: [{name}] has no {key}{_hint(key, tuple(known))}")
        if not _fits(value, str(known[key].type)):
            raise TrainingError(f"{path}: [{name}] {key} is {value!r}; it is {_called(str(known[key].type))}")
    for key, field in known.items():
        if field.default is MISSING and key not in values:
            raise TrainingError(f"{path}: [{name}] needs {key}")
    return kind(**values)


def _fits(value: object, kind: str) -> bool:
    """Whether a TOML value is of an annotated type."""
    for part in kind.split(" | "):
        items = value if isinstance(value, list) and part.startswith("list") else [value]
        wanted = str if "str" in part else int if "int" in part else None
        if wanted is None or isinstance(value, list) != part.startswith("list") or not items:
            continue
        if all(type(i) is wanted for i in items):
            return True
    return False


def _called(kind: str) -> str:
    names = {"str": "text", "int": "a whole number", "list[str]": "a list of texts", "list[int]": "a list of numbers"}
    return " or ".join(names[part] for part in kind.split(" | ") if part in names)


def _hint(key: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(key, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
