"""Checkpoints: folders that appear whole or not at all, and hold all that exact resumption needs.

    FOLDER/step-00001000/state.json            settings, place in the data, schedules, curve
                         state.safetensors     weights, moments, when each feature fired last

A new one is written beside the old one, which goes only then: whenever the process or the machine ends, one is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from saedsl.errors import TrainingError

FORMAT: Final = 1
STATE, ARRAYS = "state.json", "state.safetensors"
PREFIX, PARTIAL = "step-", ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps."""

    step: int
    """The last one that was made."""
    run: Mapping[str, Any]
    """What the run is: settings, sites, data. It goes on only as the same."""
    values: Mapping[str, Any]
    """JSON values that change."""
    arrays: Mapping[str, np.ndarray]
    """Arrays that change."""


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Add `checkpoint` to `folder`, then remove those before it.

    Raises:
        OSError: if it cannot be written; the one before is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{PREFIX}{checkpoint.step:08d}"
    partial = folder / f"{PARTIAL}{os.getpid()}"
    try:
        if not place.exists():  # equal steps are equal bit by bit
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _fill(partial, checkpoint)
            partial.rename(place)
            _sync(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _remove(folder, [other for other in _places(folder) if other != place])


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in `folder`; None if there is none.

    Raises:
        TrainingError: if it is damaged, or of a newer saedsl.
    """
    places = _places(folder)
    if not places:
        return None
    place = places[-1]
    again = f"delete {place} to start anew"
    try:
        state = json.loads((place / STATE).read_text(encoding="utf-8"))
        number = state["format"]
        if number > FORMAT:
            raise TrainingError(
                f"{place}: written by a newer saedsl (format {number}, this one reads {FORMAT}); update it"
            )
        file = place / ARRAYS
        if _sha256(file) != state["sha256"]:
            raise TrainingError(f"{file}: damaged, its hash is not the one that {STATE} says; {again}")
        from safetensors.numpy import load_file

        return Checkpoint(state["step"], state["run"], state["values"], load_file(file))
    except OSError as error:
        raise TrainingError(f"{place}: cannot be read ({error.strerror}); {again}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{place / STATE}: damaged ({type(error).__name__}: {error}); {again}") from None


def newest_checkpoint(folder: Path) -> int | None:
    """The step of the newest checkpoint in `folder`; None if there is none."""
    places = _places(folder)
    return int(places[-1].name.removeprefix(PREFIX)) if places else None


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints in `folder`, and the folder if it held nothing else."""
    _remove(folder, _places(folder))
    try:
        folder.rmdir()
    except OSError:
        return


def check_same(folder: Path, found: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """
    Raises:
        TrainingError: if the checkpoint is of another run; the message says what differs.
    """
    wrong = [*_differences(found, json.loads(json.dumps(ours)))]
    if wrong:
        raise TrainingError(
            f"{folder} holds the checkpoint of another training: {'; '.join(wrong)}; "
            "go on as it was, or choose another folder"
        )


def _differences(found: Mapping[str, Any], ours: Mapping[str, Any], where: str = "") -> list[str]:
    wrong: list[str] = []
    for key in [*ours, *(k for k in found if k not in ours)]:
        a, b = found.get(key), ours.get(key)
        if a == b:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            wrong += _differences(a, b, f"{where}{key}." if where or key != "config" else "")
        elif key == "data":
            wrong.append("the activations are others (their data, model, sites, order or share held out)")
        else:
            wrong.append(f"{where}{key} is {json.dumps(a)} there and {json.dumps(b)} here")
    return wrong


def _fill(place: Path, checkpoint: Checkpoint) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    file = place / ARRAYS
    try:
        save_file({name: np.ascontiguousarray(x) for name, x in checkpoint.arrays.items()}, file)
    except SafetensorError as error:
        raise OSError(None, str(error)) from None
    state = {
        "format": FORMAT,
        "step": checkpoint.step,
        "sha256": _sha256(file),
        "run": checkpoint.run,
        "values": checkpoint.values,
    }
    (place / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    for path in (file, place / STATE):
        with path.open("rb+") as opened:
            os.fsync(opened.fileno())
    _sync(place)


def _remove(folder: Path, places: list[Path]) -> None:
    """Remove checkpoints, and what is left of others; one that is half removed is none any more by its name."""
    for place in places:
        with suppress(OSError):
            place.rename(folder / f"{PARTIAL}{place.name}")
    for rest in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(rest, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _places(folder: Path) -> list[Path]:
    """Checkpoints, the newest last."""
    found = [p for p in folder.glob(f"{PREFIX}*") if p.is_dir() and p.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(PREFIX)))
