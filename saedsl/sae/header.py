"""All that a program's check needs to know about a dictionary, read without its weights and without MLX."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from os import PathLike, scandir
from pathlib import Path

from saedsl.errors import SAEError
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.tensorfile import Stamp, TensorInfo, file_sha256


@dataclass(frozen=True)
class SAEInfo:
    """A dictionary as a file or an object in memory describes it."""

    config: DictionaryConfig
    """What it computes, where."""
    tensors: tuple[TensorInfo, ...]
    """Names, types and shapes of the stored tensors, sorted by name."""
    format: str = "memory"
    """The file format it was read from, e.g. `saelens`."""
    path: Path | None = None
    """The folder or the file it was read from, or None for a dictionary in memory."""
    weights: Stamp | None = None
    """The weights' file when the description was read; of several, the first."""
    digest: str | None = None
    """SHA-256 of the weights of a dictionary in memory."""
    statistics: Stamp | None = None
    """The file of its features' statistics, where the folder carries one; see `saedsl.sae.statistics`."""

    @classmethod
    def read(cls, path: str | PathLike[str]) -> SAEInfo:
        """Describe the dictionary in the folder or file `path`; no weight is read.

        Raises:
            SAEError: if there is none, its format is unknown, its files are damaged or contradict one
                another.
        """
        folder = Path(path)
        around = folder.parent if folder.is_file() else folder  # what describes a file may lie beside it
        try:
            with scandir(around) as entries:
                stats = ((e.name, e.stat()) for e in entries)
                files = tuple(sorted((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in stats))
        except OSError:  # nothing, or something that cannot be read: its reader says what is wrong
            return _described(folder)
        return _remembered(folder.absolute(), folder, files)

    @property
    def d_in(self) -> int:
        """Width of what the encoder reads."""
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.config.d_sae

    @property
    def d_out(self) -> int:
        """Width of what the decoder writes."""
        return self.config.d_out

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights: of the file, read on first use, or of the bytes `SAE.save` would write.

        Raises:
            SAEError: if the file is not the one that was described.
        """
        if self.weights is None:
            if self.digest is None:
                raise SAEError("this dictionary was described without weights, so it has no hash")
            return self.digest
        if Stamp.of(self.weights.path) != self.weights:
            raise SAEError(f"{self.weights.path}: changed since it was read; load the dictionary again")
        return file_sha256(self.weights.path)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of config and weights together: equal fingerprints compute the same features."""
        return hashlib.sha256(f"{self.config.canonical()}\n{self.sha256}".encode()).hexdigest()


@lru_cache(maxsize=256)
def _remembered(absolute: Path, folder: Path, files: tuple[tuple[str, int, int, int], ...]) -> SAEInfo:
    """The dictionary in `folder`, as long as its files, or those beside it, are these.

    A file is (name, size, modification time, inode).
    """
    return _described(folder)


def _described(folder: Path) -> SAEInfo:
    """A format may call another folder the dictionary's own, e.g. for a file inside it: statistics lie there."""
    from saedsl.sae.formats import detect
    from saedsl.sae.statistics import FILE

    info = detect(folder).read_info(folder)
    folder = info.path or folder
    statistics = folder / FILE
    return replace(info, statistics=Stamp.of(statistics)) if statistics.is_file() else info
