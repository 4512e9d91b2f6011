"""Activations on disk: harvested once, then trained on as often as wanted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any, Final

import numpy as np

from saedsl.errors import TrainingError
from saedsl.model import InterpretableModel
from saedsl.sae.tensorfile import file_sha256
from saedsl.sites import Site
from saedsl.training.arrays import finite, not_finite
from saedsl.training.manifest import DOCUMENT, NAME, DType, Manifest, Shard, mapped
from saedsl.training.parallel import Processes
from saedsl.training.source import Batch, Cursor
from saedsl.training.split import check_share, held_out
from saedsl.training.stream import FIRST, StreamSource
from saedsl.training.texts import Texts
from saedsl.training.windows import Place, Window, first_tokens, shuffled

BLOCK: Final = 64
"""Tokens that are read together, at least."""
BLOCKS: Final = 1 << 20
"""Most blocks of a source: their order is all that is in memory beside windows."""
_HALF: Final = float(np.finfo(np.float16).max)


def harvest_to_disk(
    model: InterpretableModel,
    dataset: Texts | str | Path | Iterable[str],
    sites: Sequence[Site | str],
    folder: str | Path,
    context: int = 128,
    *,
    dtype: DType = "float16",
    shard_tokens: int = 1 << 16,
    packed: bool = True,
    field: str = "text",
    separator: str | None = None,
    split: str | None = None,
    max_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
    parallel: Processes | None = None,
) -> ShardSource:
    """Harvest activations into a folder; one that was interrupted goes on behind its last whole shard.

    Several processes make a shard each at a time, of the same bytes as one process would.

    Args:
        model, dataset, sites, context, packed, field, separator, split, max_tokens: as of `StreamSource`.
        folder: a new one, an empty one, or one of the same harvest.
        dtype: how activations are kept; float16 halves the folder, and has no numbers above 65504.
        shard_tokens: tokens of a file, about; one shard is in memory at a time.
        progress: called with the number of tokens so far.
        parallel: the processes that harvest together, all of which see the folder; the first one writes the manifest.

    Returns:
        The activations, to train on.

    Raises:
        TrainingError: if the folder holds something else, the disk is full, the texts have no tokens, or activations do
            not fit into float16, or a process is gone; what was harvested before stays.
    """
    if dtype not in ("float16", "float32"):
        raise TrainingError(f"dtype is {dtype!r}; activations are kept as float16 or float32")
    stream = StreamSource(
        model,
        dataset,
        sites,
        context,
        window=shard_tokens,
        packed=packed,
        field=field,
        separator=separator,
        split=split,
        max_tokens=max_tokens,
    )
    home = Path(folder)
    manifest = _begun(home, Manifest(model.info.name, stream.parts, dict(stream.widths), dtype, (), FIRST))
    if parallel is not None:
        parallel.agree(json.dumps(asdict(manifest), sort_keys=True), f"the harvest in {home}")
    while manifest.next is not None:
        manifest = _round(stream, home, manifest, parallel)
        if not manifest.shards:
            raise TrainingError("these texts have no tokens but BOS and padding: there is nothing to harvest")
        if parallel is None or parallel.rank == 0:
            _kept(home, manifest)
        if progress is not None:
            progress(manifest.tokens)
    if parallel is not None:
        parallel.agree("", "the end")  # the manifest is there
    return ShardSource(home)


def _begun(home: Path, new: Manifest) -> Manifest:
    """The manifest of a harvest that is to go on in a folder, or the new one."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise TrainingError(f"{home}: cannot be made a folder ({e.strerror})") from None
    if not (home / NAME).is_file():
        ours = {f"{NAME}.part", _file(0), f"{_file(0)}.part"}  # of a harvest that ended before its first shard
        if other := sorted(p.name for p in home.iterdir() if p.name not in ours):
            raise TrainingError(f"{home}: holds other files ({other[0]}); harvest into a new folder")
        return new
    old = Manifest.read(home)
    wanted = {**new.parts, "dtype": new.dtype}
    found = {**old.parts, "dtype": old.dtype}
    different = [k for k in sorted(wanted.keys() | found.keys()) if wanted.get(k) != found.get(k)]
    if different:
        raise TrainingError(f"{home}: holds another harvest: {', '.join(different)} differ; harvest into a new folder")
    old.check(home)
    return old


def _round(stream: StreamSource, home: Path, manifest: Manifest, parallel: Processes | None) -> Manifest:
    """The manifest after the next shards, one of each process."""
    stop = Event()
    rank, size = (0, 1) if parallel is None else (parallel.rank, parallel.size)
    place, shards = manifest.next, list[tuple[int, tuple[int, int]]]()
    sha = ""
    while place is not None and len(shards) < size:
        span = stream.span(place, stop)
        place = span.next if span.next["pass"] == 0 else None
        n = len(span.documents)
        if n:
            if len(shards) == rank:
                whole = len(manifest.shards)
                sha = _written(home / _file(whole + rank), stream.harvested(span, stop), manifest.dtype, whole)
            shards.append((n, (int(span.documents[0]), int(span.documents[-1]))))
    hashes = [sha]
    if parallel is not None:
        mine = np.frombuffer(sha.encode().ljust(64), np.uint8)
        hashes = [bytes(h).decode() for h in parallel.gather(mine)]
    for (tokens, documents), found in zip(shards, hashes, strict=False):
        shard = Shard(_file(len(manifest.shards)), tokens, found, documents)
        manifest = manifest.with_shard(shard, manifest.next)
    return replace(manifest, next=place)


def _file(number: int) -> str:
    return f"activations-{number:05d}.safetensors"


def _written(path: Path, window: Window, dtype: DType, whole: int) -> str:
    """Keep a window as a file, which appears under its name only when it is whole; its SHA-256."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {DOCUMENT: window.documents}
    for name, x in window.arrays.items():
        if dtype == "float16" and (high := float(np.abs(x).max())) > _HALF:
            raise TrainingError(f"activations at {name} reach {high:.6g}, float16 ends at 65504: harvest as float32")
        tensors[name] = x.astype(dtype)
    part = path.with_name(f"{path.name}.part")
    try:
        save_file(tensors, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        return file_sha256(path)
    except (OSError, SafetensorError) as e:
        with suppress(OSError):
            part.unlink()
        raise TrainingError(
            f"{path}: cannot be written ({e}); the {whole} shards before it are whole: make room and harvest again"
        ) from None


def _kept(home: Path, manifest: Manifest) -> None:
    try:
        manifest.write(home)
    except OSError as e:
        raise TrainingError(f"{home / NAME}: cannot be written ({e.strerror}); make room and harvest again") from None


class ShardSource:
    """Harvested activations, memory-mapped.

    A pass takes blocks of neighbouring tokens in the order of `[seed, pass]`, as many together as fill a window, and
    permutes each window by `[seed, pass, window]`; a window of all tokens is a full shuffle. Memory: two windows.
    """

    def __init__(self, folder: str | Path, *, window: int = 1 << 16, model: InterpretableModel | None = None) -> None:
        """
        Args:
            folder: what `harvest_to_disk` made.
            window: tokens that are shuffled together.
            model: the model that they should be of, to see that they are.

        Raises:
            TrainingError: if the harvest is not finished, damaged, or of another model.
        """
        self._folder = Path(folder)
        self._manifest = manifest = Manifest.read(self._folder)
        if manifest.next is not None:
            raise TrainingError(
                f"{folder}: the harvest is not finished ({len(manifest.shards)} shards, {manifest.tokens} tokens); "
                "run it again to go on"
            )
        if not manifest.shards:
            raise TrainingError(f"{folder}: the harvest has no tokens: there is nothing to train on")
        if window < 1:
            raise TrainingError(f"window is {window}; at least 1 token is shuffled")
        manifest.check(self._folder)
        if model is not None:
            self.check_model(model)
        self._window = window
        self._held: tuple[tuple[float, int, bool], ...] = ()
        self._block = max(1, min(max(BLOCK, -(-manifest.tokens // BLOCKS)), window))
        self._shards = np.cumsum([0, *(-(-s.tokens // self._block) for s in manifest.shards)])
        self.widths: Mapping[str, int] = manifest.widths
        self.tokens: int = manifest.tokens
        self.about: Mapping[str, Any] = {
            "model_name": manifest.model_name,
            "context_size": manifest.parts.get("context"),
            "trained_on_bos": False,
        }

    @property
    def shards(self) -> int:
        """How many files there are."""
        return len(self._manifest.shards)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the shards' hashes and of the way they are read."""
        parts = [asdict(self._manifest), self._window, self._block, self._held]
        return hashlib.sha256(json.dumps(["shards 1", *parts], sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Read every byte of every shard.

        Raises:
            TrainingError: at the first that is not as it was written.
        """
        self._manifest.check_hashes(self._folder)

    def check_model(self, model: InterpretableModel) -> None:
        """
        Raises:
            TrainingError: if these are activations of another model.
        """
        if model.sha256 != self._manifest.parts["model"]:
            raise TrainingError(
                f"{self._folder}: harvested from {self._manifest.model_name}, whose weights are others than those of "
                f"this {model.info.name} (SHA-256 differs); harvest again"
            )

    def batches(self, size: int, seed: int, cursor: Cursor | None = None) -> Iterator[Batch]:
        """See `Source.batches`. Close the iterator to end its thread at once."""
        return shuffled(lambda place, _: self._read(place, seed), {"pass": 0, "window": 0}, size, seed, cursor)

    def sample(self, tokens: int) -> Mapping[str, np.ndarray]:
        """See `Source.sample`: blocks from all over."""
        return first_tokens(lambda place, _: self._read(place, 0), {"pass": 0, "window": 0}, tokens)

    def split(self, share: float, seed: int = 0) -> tuple[ShardSource, ShardSource]:
        """(training, held out), which share no document.

        Args:
            share: of the documents that are held out, about.
            seed: of the choice.

        Raises:
            TrainingError: if one side would have no tokens.
        """
        check_share(share)
        sides = self._of((share, seed, False)), self._of((share, seed, True))
        if not all(s.tokens for s in sides):
            raise TrainingError(
                f"{self._folder}: cannot be split: a share of {share} leaves one side without documents"
            )
        return sides

    def _of(self, rule: tuple[float, int, bool]) -> ShardSource:
        other = object.__new__(ShardSource)
        vars(other).update({k: v for k, v in vars(self).items() if k != "identity"})
        other._held = (*self._held, rule)
        shards = self._manifest.shards
        other.tokens = sum(int(other._ours(mapped(self._folder / s.file)[DOCUMENT]).sum()) for s in shards)
        return other

    def _ours(self, documents: np.ndarray) -> np.ndarray:
        """Which tokens this source reads, by their documents."""
        ours = np.ones(len(documents), bool)
        for share, seed, held in self._held:
            ours &= held_out(documents, share, seed) == held
        return ours

    def _read(self, place: Place, seed: int) -> Window:
        """A window: its blocks in the order in which they lie."""
        number, window = int(place["pass"]), int(place["window"])
        count = int(self._shards[-1])
        together = max(1, self._window // self._block)
        chosen = np.random.default_rng([seed, number]).permutation(count)[window * together : (window + 1) * together]
        chosen.sort()
        parts: dict[str, list[np.ndarray]] = {name: [] for name in (*self.widths, DOCUMENT)}
        for shard in np.unique(np.searchsorted(self._shards, chosen, side="right") - 1):
            tensors = mapped(self._folder / self._manifest.shards[shard].file)
            own = chosen[(chosen >= self._shards[shard]) & (chosen < self._shards[shard + 1])] - self._shards[shard]
            for block in own:
                at = slice(block * self._block, (block + 1) * self._block)
                ours = self._ours(tensors[DOCUMENT][at])
                for name, found in parts.items():
                    found.append(tensors[name][at][ours])
        arrays = {name: np.concatenate(parts[name]).astype(np.float32, copy=False) for name in self.widths}
        for name, x in arrays.items():
            fine = finite(x)
            if not fine.all():
                raise not_finite(name, np.flatnonzero(~fine).tolist(), len(x))
        last = (window + 1) * together >= count
        following = {"pass": number + 1, "window": 0} if last else {"pass": number, "window": window + 1}
        return Window(arrays, np.concatenate(parts[DOCUMENT]), place, following)
