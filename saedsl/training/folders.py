"""Folders of Hugging Face data sets: what `save_to_disk` writes, `load_dataset` caches, a repository holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from saedsl.errors import TrainingError
from saedsl.training.texts import Files, Texts, open_texts

KINDS: Final = (".arrow", ".parquet", ".jsonl", ".txt")
"""The kind of file that is read, the first of these that a folder has."""
SPLITS: Final = ("train", "validation", "valid", "test")


def open_folder(folder: Path, field: str, separator: str | None, split: str | None) -> Texts:
    """The texts of a folder; arguments as of `open_texts`.

    Raises:
        TrainingError: if it holds no data set, or not this split.
    """
    if (folder / "dataset_dict.json").is_file():  # a DatasetDict: a folder for each split
        names = list(_json(folder / "dataset_dict.json").get("splits", []))
        name = _chosen(folder, names, split)
        return open_folder(folder / name, field, separator, None)
    if (folder / "state.json").is_file():
        listed = [folder / str(f["filename"]) for f in _json(folder / "state.json").get("_data_files", [])]
        if lost := [f.name for f in listed if not f.is_file()]:
            raise TrainingError(f"{folder}: state.json names {lost[0]}, which is not there; copy the data set again")
        return Files(tuple(open_texts(f, field=field) for f in listed))
    for kind in KINDS:
        files = sorted(p for p in folder.rglob(f"*{kind}") if p.is_file() and not p.name.startswith("cache-"))
        if files:
            named = {p: _split_of(p.relative_to(folder)) for p in files}
            if (split or any(named.values())) and len({*named.values()}) > int(split is None):
                name = _chosen(folder, sorted({n for n in named.values() if n}), split)
                files = [p for p in files if named[p] == name]
            return Files(tuple(open_texts(p, field=field, separator=separator) for p in files))
    raise TrainingError(f"{folder}: no data set in this folder; it would hold {', '.join(KINDS)} files")


def _split_of(path: Path) -> str | None:
    """`data/train-00000-of-00002.parquet` -> `train`."""
    words = re.split(r"[^a-z]+", path.as_posix().lower())
    return next((s for s in SPLITS if s in words), None)


def _chosen(folder: Path, names: list[str], split: str | None) -> str:
    name = split or (names[0] if len(names) == 1 else "train")
    if name not in names:
        raise TrainingError(f"{folder}: no split {name!r}; there are {', '.join(names) or 'none'}")
    return name


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise TrainingError(f"{path}: cannot be read as JSON ({e})") from None
    if not isinstance(found, dict):
        raise TrainingError(f"{path}: not a JSON object")
    return found
