"""Exact activation patching: one patched run for every node, many nodes as rows of one forward. The reference.

A sweep can keep what it has measured in a file that is only appended to: a line that says what is swept, then a line
for each batch. A sweep that was stopped goes on behind the last whole line.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

from saedsl.circuits.metric import Custom
from saedsl.circuits.prepared import Setup, as_numpy, finite, run_from
from saedsl.errors import CircuitError
from saedsl.sites import Site

Swept = tuple[Site, np.ndarray, np.ndarray, np.ndarray]
"""(site, prompt [n], position [n], delta [n, d_out]): the nodes of one site, and by what each moves it."""

FORMAT: Final = "saedsl-sweep"
VERSION: Final = 1


def sweep(
    setup: Setup,
    nodes: Sequence[Swept],
    features: Sequence[np.ndarray],
    batch_rows: int = 64,
    results: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """How far the metric moves when each node alone is patched.

    Args:
        setup: the task.
        nodes: the nodes, by site.
        features: [n] of each site: which feature each node is, -1 for an error; they name the nodes in `results`.
        batch_rows: nodes of one forward.
        results: a file that keeps what has been measured.
        progress: called with (nodes done, nodes).

    Returns:
        [n] float64 for each site.

    Raises:
        CircuitError: if `results` is of another sweep, is damaged or cannot be written, or an effect is not finite.
    """
    sizes = [len(prompt) for _, prompt, _, _ in nodes]
    total = sum(sizes)
    kept = None if results is None else _Results(Path(results), described(setup, nodes, features), total)
    done = [] if kept is None else kept.read()
    if progress is not None and done:
        progress(len(done), total)
    for effects in _measured(setup, nodes, len(done), batch_rows):
        finite(effects, "the metric of a patched run")
        if kept is not None:
            kept.append(len(done), effects)
        done.extend(effects.tolist())
        if progress is not None:
            progress(len(done), total)
    return np.split(np.array(done, np.float64), np.cumsum(sizes)[:-1])


def _measured(setup: Setup, nodes: Sequence[Swept], skip: int, batch_rows: int) -> Iterator[np.ndarray]:
    """Effects of the nodes behind the first `skip`, batch by batch; no batch has nodes of two sites."""
    for site, prompt, position, delta in nodes:
        first = min(skip, len(prompt))
        skip -= first
        for start in range(first, len(prompt), batch_rows):
            b, t, d = (x[start : start + batch_rows] for x in (prompt, position, delta))
            move = np.zeros((len(b), setup.pairs.length, d.shape[-1]), np.float32)
            move[np.arange(len(b)), t] = d
            yield as_numpy(run_from(setup, site, mx.array(move), b.tolist())).astype(np.float64) - setup.value[b]


def described(setup: Setup, nodes: Sequence[Swept], features: Sequence[np.ndarray]) -> dict[str, Any]:
    """What a sweep is of, as JSON can hold it; equal for equal sweeps.

    Raises:
        CircuitError: if the metric is a function, which cannot be told from another one later.
    """
    if isinstance(setup.metric, Custom):
        raise CircuitError(
            "a sweep that can go on later needs a metric that can be written down: a text of the language, or "
            f"logit_difference(...), not the function {setup.metric.text}"
        )
    h = hashlib.sha256()
    for (site, prompt, position, _), feature in zip(nodes, features, strict=True):
        h.update(f"{site} {len(prompt)}\n".encode())
        for x in (prompt, position, feature):
            h.update(np.ascontiguousarray(x, dtype="<i8").tobytes())
    pairs = setup.pairs
    return {
        "model": setup.model.sha256,
        "dictionaries": {p.name: [str(p.read), p.sae.info.fingerprint] for p in setup.places},
        "clean": [list(t.ids) for t in pairs.clean],
        "corrupt": None if pairs.corrupt is None else [list(t.ids) for t in pairs.corrupt],
        "metric": repr(setup.metric),
        "nodes": h.hexdigest(),
    }


class _Results:
    """The file of a sweep. Lines are appended and flushed; a half-written last line is cut off when it is read."""

    def __init__(self, path: Path, what: dict[str, Any], total: int) -> None:
        text = json.dumps(what, sort_keys=True)
        self._path, self._total, self._what = path, total, what
        self._header = {
            "format": FORMAT,
            "version": VERSION,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "total": total,
            "of": what,
        }

    def read(self) -> list[float]:
        """Effects of the nodes that are done, in order; the file is made if there is none."""
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            if not whole:
                self._write_first(content)
                return []
            effects = self._parsed(whole)
            if len(whole) < len(content):
                with self._path.open("r+b") as file:
                    file.truncate(len(whole))
        except OSError as error:
            raise CircuitError(f"{self._path}: cannot be read or written ({error.strerror})") from None
        return effects

    def append(self, start: int, effects: np.ndarray) -> None:
        line = json.dumps({"from": start, "effects": effects.tolist()}, allow_nan=False) + "\n"
        try:
            with self._path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CircuitError(f"{self._path}: cannot be written ({error.strerror})") from None

    def _write_first(self, content: bytes) -> None:
        header = json.dumps(self._header).encode()
        if not header.startswith(content):
            raise CircuitError(f"{self._path}: not a file of a sweep; give another name for its results")
        self._path.write_bytes(header + b"\n")

    def _parsed(self, whole: bytes) -> list[float]:
        lines = whole.split(b"\n")[:-1]
        try:
            header = json.loads(lines[0])
        except ValueError:
            header = None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise CircuitError(f"{self._path}: not a file of a sweep; give another name for its results")
        if header.get("version") != VERSION:
            raise CircuitError(
                f"{self._path}: a sweep of version {header.get('version')}; this saedsl has version {VERSION}"
            )
        if header.get("sha256") != self._header["sha256"]:
            of = header.get("of")
            other = [k for k, v in self._what.items() if not isinstance(of, dict) or of.get(k) != v]
            raise CircuitError(
                f"{self._path}: holds another sweep (another {', '.join(other)}); give another name for the results, "
                "or remove it to start again"
            )
        effects: list[float] = []
        for number, line in enumerate(lines[1:], 2):
            try:
                entry = json.loads(line)
                some = [float(e) for e in entry["effects"]]
                good = entry["from"] == len(effects) and np.isfinite(some).all() and bool(some)
            except (ValueError, KeyError, TypeError):
                good = False
            if not good:
                raise CircuitError(f"{self._path}:{number}: damaged; cut the file off before this line, or remove it")
            effects += some
        if len(effects) > self._total:
            raise CircuitError(f"{self._path}: {len(effects)} effects of {self._total} nodes: damaged, remove it")
        return effects
