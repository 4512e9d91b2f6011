"""How strongly a dictionary's features fire on some text: what `4 max` and `2 std` in a program are multiples of.

Kept as `statistics.safetensors` beside the weights and tied to them by hash, so that the statistics of other weights
are refused.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from saedsl.errors import SAEError
from saedsl.sae.tensorfile import read_header

if TYPE_CHECKING:
    import numpy as np

    from saedsl.sae.header import SAEInfo

FILE: Final = "statistics.safetensors"
"""Its name, beside the weights."""
VERSION: Final = "1"
"""Of the file's layout."""
TENSORS: Final = ("frequency", "max", "mean", "std")
"""All of them [d_sae]."""


class Moments(NamedTuple):
    """What `moments` finds of every feature, float64."""

    max: np.ndarray
    """[d_sae], 0 where a feature never fires."""
    mean: np.ndarray
    """[d_sae], over all tokens, those where it is silent included."""
    std: np.ndarray
    """[d_sae], likewise; of the tokens themselves (divided by n)."""
    frequency: np.ndarray
    """[d_sae], the share of tokens where it is above 0."""
    tokens: int


@dataclass(frozen=True, eq=False)
class Statistics:
    """The activations of every feature over the tokens of a text, BOS left out; in the dictionary's own units."""

    max: np.ndarray
    """[d_sae], float32: the largest activation, 0 for a feature that never fired."""
    std: np.ndarray
    """[d_sae], float32: standard deviation over all tokens, silent ones included."""
    mean: np.ndarray
    """[d_sae], float32: over all tokens."""
    frequency: np.ndarray
    """[d_sae], float32: the share of tokens on which the feature fires."""
    tokens: int
    """How many were counted."""
    texts: str
    """SHA-256 of the texts, see `Digest`."""
    weights: str
    """SHA-256 of the dictionary's weights, as `SAE.sha256`."""
    site: str
    """Where the activations were read, e.g. `L2.mlp`."""
    model: str
    """The model that was run."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Put the statistics into the dictionary's folder `path`, in place of those that are there.

        Raises:
            SAEError: if `path` is no dictionary's folder, or one with other weights.
        """
        from saedsl.sae.header import SAEInfo

        info = SAEInfo.read(path)
        if info.sha256 != self.weights:
            raise SAEError(f"{path}: these statistics are of a dictionary with other weights")
        _replace(Path(path) / FILE, self.serialise())

    def serialise(self, weights: str | None = None) -> bytes:
        """The file's bytes; `weights`: the hash of the file that the same weights are stored in now."""
        import numpy as np
        from safetensors.numpy import save

        notes = {
            "format": "saedsl.statistics",
            "version": VERSION,
            "tokens": str(self.tokens),
            "texts": self.texts,
            "weights": weights or self.weights,
            "site": self.site,
            "model": self.model,
        }
        return bytes(save({t: np.ascontiguousarray(getattr(self, t), np.float32) for t in TENSORS}, notes))


class Digest:
    """SHA-256 of texts as they pass: of every text's length in bytes, a newline, and its UTF-8."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def seen(self, texts: Iterable[str]) -> Iterable[str]:
        """The same texts, counted in as they are taken."""
        for text in texts:
            if isinstance(text, str):  # whoever reads them says what is wrong with anything else
                data = text.encode(errors="surrogatepass")
                self._hash.update(b"%d\n%s" % (len(data), data))
            yield text

    @property
    def sha256(self) -> str:
        """Of the texts so far."""
        return self._hash.hexdigest()


def moments(blocks: Iterable[np.ndarray]) -> Moments:
    """Maximum, mean, standard deviation and frequency of every feature, without holding more than a block.

    Blocks are merged by their means and sums of squared differences in float64 (Chan, Golub and LeVeque 1979): the
    result does not depend on how the tokens are cut into blocks, nor suffer where the mean is far above the deviation.

    Args:
        blocks: [tokens, d_sae] each, any float dtype.

    Raises:
        SAEError: if there is no token at all.
    """
    import numpy as np

    n = 0
    for block in blocks:
        if len(block) == 0:
            continue
        m = len(block)
        own = block.mean(axis=0, dtype=np.float64)
        squares = np.square(block - own).sum(axis=0)
        top, fires = block.max(axis=0), np.count_nonzero(block > 0, axis=0)
        if n == 0:
            largest, mean, spread, count = top, own, squares, fires
        else:
            difference = own - mean
            mean = mean + difference * (m / (n + m))
            spread = spread + squares + np.square(difference) * (n * m / (n + m))
            largest, count = np.maximum(largest, top), count + fires
        n += m
    if n == 0:
        raise SAEError("these texts have no tokens: there is nothing to take statistics of")
    return Moments(np.maximum(largest, 0).astype(np.float64), mean, np.sqrt(spread / n), count / n, n)


def read_statistics(info: SAEInfo) -> Statistics:
    """The statistics that a dictionary's folder carries.

    Raises:
        SAEError: if it carries none, they are of other weights, or the file is damaged.
    """
    if info.statistics is None:
        where = info.path or "this dictionary"
        raise SAEError(f"{where}: carries no statistics; {hint(info.path)}")
    path = info.statistics.path
    again = f"; {hint(info.path)}"
    tensors = {name: (t.dtype, t.shape) for name, t in read_header(path).items()}
    if tensors != dict.fromkeys(TENSORS, ("F32", (info.d_sae,))):
        raise SAEError(f"{path}: not the statistics of a dictionary with {info.d_sae} features{again}")
    values, notes = _load(path)
    if notes.get("format") != "saedsl.statistics" or notes.get("version") != VERSION:
        raise SAEError(f"{path}: not a statistics file that this version of saedsl reads{again}")
    if notes.get("weights") != info.sha256:
        raise SAEError(f"{path}: these statistics are of other weights than those beside them{again}")
    tokens = notes.get("tokens", "")
    if not (tokens.isascii() and tokens.isdigit() and _sound(values)):
        raise SAEError(f"{path}: damaged{again}")
    return Statistics(
        max=values["max"],
        std=values["std"],
        mean=values["mean"],
        frequency=values["frequency"],
        tokens=int(tokens),
        texts=notes.get("texts", ""),
        weights=notes["weights"],
        site=notes.get("site", ""),
        model=notes.get("model", ""),
    )


def hint(path: Path | None) -> str:
    """How to get the statistics of the dictionary in `path`."""
    return f"compute them with: saedsl stats {path or 'SAE'} TEXTFILE"


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {t: file.get_tensor(t) for t in TENSORS}, file.metadata() or {}
    except (OSError, SafetensorError) as e:
        raise SAEError(f"{path}: cannot be read ({e})") from None


def _sound(values: dict[str, np.ndarray]) -> bool:
    import numpy as np

    good = all(np.isfinite(v).all() and (v >= 0).all() for v in values.values())
    return bool(good and (values["frequency"] <= 1).all())


def _replace(path: Path, content: bytes) -> None:
    """Write `path` whole or not at all."""
    scratch = ""
    try:
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except OSError as e:
        if scratch:
            Path(scratch).unlink(missing_ok=True)
        raise SAEError(f"{path}: cannot be written ({e.strerror})") from None
