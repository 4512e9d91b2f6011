"""Files of prompts: a text file with a prompt a line, or JSONL with a row a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from saedsl import paths
from saedsl.canonical import prompts_json
from saedsl.program import Prompt, ReferenceSet

MAX_BYTES: Final = 100_000_000
MAX_MISTAKES: Final = 3
"""Lines with a mistake that are named."""
JSONL: Final = (".jsonl", ".ndjson")
"""Endings of files that are not plain text."""


class RowsError(Exception):
    """What is wrong with a file of prompts; one text for each mistake."""

    def __init__(self, *messages: str) -> None:
        super().__init__("; ".join(messages))
        self.messages = messages


def read_rows(name: str, base: Path) -> tuple[Prompt, ...]:
    """The prompts of a file, in order; at least one.

    A row of JSONL is an object with `prompt`, any other texts as fields (`answer`, `corrupt`, ...) and, in `positions`,
    token positions by name. In a text file every line that is not blank is a prompt.

    Args:
        name: the path as the program gives it, relative to `base`, then to here.
        base: the folder of the program.

    Raises:
        RowsError: if the file cannot be read, has no prompt, or has a line that is no row; the line is named.
    """
    path = paths.existing(name, base)
    if path is None:
        raise RowsError(f"{name}: there is no such file")
    try:
        if path.is_dir():
            raise RowsError(f"{name}: is a folder; a file of prompts is needed")
        if path.stat().st_size > MAX_BYTES:
            raise RowsError(f"{name}: has more than {MAX_BYTES // 1_000_000} MB")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise RowsError(f"{name}: is no UTF-8 text (byte {e.start})") from None
    except OSError as e:
        raise RowsError(f"{name}: cannot be read ({e.strerror})") from None
    if path.suffix == ".json":
        raise RowsError(f"{name}: JSON is not read, JSONL is: one object a line, in a file that ends in .jsonl")
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if path.suffix in JSONL:
        prompts = _parsed(name, lines)
    else:
        prompts = [Prompt(line.rstrip("\r")) for _, line in lines]
    if not prompts:
        raise RowsError(f"{name}: has no prompts")
    return tuple(prompts)


def reference_set(name: str, prompts: Sequence[Prompt]) -> ReferenceSet:
    """Prompts as a reference, with the hash of their content."""
    data = json.dumps(prompts_json(prompts), sort_keys=True, separators=(",", ":"))
    return ReferenceSet(name, tuple(prompts), hashlib.sha256(data.encode()).hexdigest())


def _parsed(name: str, lines: Sequence[tuple[int, str]]) -> list[Prompt]:
    prompts: list[Prompt] = []
    wrong: list[str] = []
    for i, line in lines:
        try:
            prompts.append(_row(line))
        except ValueError as e:
            wrong.append(f"{name}, line {i}: {e}")
        if len(wrong) == MAX_MISTAKES:
            break
    if wrong:
        raise RowsError(*wrong)
    return prompts


def _row(line: str) -> Prompt:
    """One line of JSONL. Raises ValueError saying what is wrong with it."""
    try:
        row: Any = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as e:
        raise ValueError(f"not JSON ({e})") from None
    if not isinstance(row, dict):
        raise ValueError('a row is an object: {"prompt": ...}')
    text, positions = row.get("prompt"), row.get("positions", {})
    if not isinstance(text, str):
        raise ValueError("`prompt` is missing" if text is None else "`prompt` is not a text")
    if not isinstance(positions, dict) or not all(type(p) is int for p in positions.values()):
        raise ValueError('`positions` is not an object of whole numbers: {"S2": 9}')
    fields = {k: v for k, v in row.items() if isinstance(v, str) and k != "prompt"}
    for part in (text, *fields, *fields.values(), *positions):
        part.encode()  # a lone surrogate, which JSON can spell: UnicodeEncodeError is a ValueError
    return Prompt(text, fields=fields, positions=positions)
