"""Recorded activations: kept in a forward, and cut to the positions of each prompt afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from saedsl.anatomy import ModelInfo
from saedsl.lanes import Row
from saedsl.making import columns_of
from saedsl.parts import Error, spread
from saedsl.positions import PositionSet
from saedsl.program import Dictionary, RecordItem, Term
from saedsl.sae.dictionary import SAE
from saedsl.trace import Frame


def label_of(item: RecordItem | Term) -> str:
    """The key in `Frame.kept` of a dictionary's features, one of them, or its error."""
    if isinstance(item, Term):
        return f"record {item.dictionary}.f{item.feature}"
    return f"record {item.label}"


class DictionaryRecorder:
    """Keeps features and the error of one dictionary: as they arrive, plus what the edits of its site add to them."""

    def __init__(self, d: Dictionary, sae: SAE, items: Iterable[RecordItem], acts: Iterable[Term]) -> None:
        """
        Args:
            d: the dictionary.
            sae: its weights.
            items: records of it.
            acts: `act(f)` of metrics.
        """
        items = list(items)
        self.dictionary = d
        self._wholes = [label_of(i) for i in items if i.part != "error" and i.features == "all"]
        self._errors = [label_of(i) for i in items if i.part == "error"]
        named = {label_of(i): i.features[0] for i in items if not isinstance(i.features, str) and i.part != "error"}
        named |= {label_of(t): t.feature for t in acts}
        self._named = named
        ids = range(sae.config.d_sae) if self._wholes else sorted(set(named.values()))
        self._place = {f: j for j, f in enumerate(ids)}
        self._encode = sae.encode if self._wholes else sae.encoder(list(ids)) if named else None
        self._error = Error(sae, d.read, d.write) if self._errors else None
        self._spreads: dict[tuple[int, ...], list[mx.array]] = {}

    @property
    def crosses(self) -> bool:
        """Whether it reads elsewhere than its dictionary writes."""
        return self.dictionary.read != self.dictionary.write

    def read(self, x: mx.array, frame: Frame) -> None:
        """Where the dictionary reads: as the activation arrives; of a transcoder, behind the edits there."""
        if self._encode is not None:
            frame.scratch[self, "features"] = self._encode(x)
        if self._error is not None:
            frame.scratch[self, "error"] = self._error.read(x) if self.crosses else self._error.value(x, None)

    def arrive(self, x: mx.array, frame: Frame) -> None:
        """Where the dictionary writes, before the edits there."""
        if self._error is not None and self.crosses:
            frame.scratch[self, "error"] = self._error.value(x, frame.scratch[self, "error"])

    def add(self, kind: str, columns: tuple[int, ...], delta: mx.array, frame: Frame) -> None:
        """What edits changed: of features their columns, or of the error."""
        if kind == "error" and self._error is not None:
            frame.scratch[self, "error"] = frame.scratch[self, "error"] + delta
        if kind == "features" and self._encode is not None:
            f = frame.scratch[self, "features"]
            if columns == tuple(self._place):
                f = f + delta
            else:
                if columns not in self._spreads:
                    self._spreads[columns] = [mx.array(s) for s in spread(columns, tuple(self._place))]
                delta = mx.concatenate([delta, mx.zeros((*delta.shape[:-1], 1))], axis=-1)
                for taken in self._spreads[columns]:
                    f = f + delta[..., taken]
            frame.scratch[self, "features"] = f

    def finish(self, frame: Frame) -> None:
        """Keep what is recorded."""
        if self._encode is not None:
            f = frame.scratch.pop((self, "features"))
            frame.kept |= dict.fromkeys(self._wholes, f)
            for label, i in self._named.items():
                frame.kept[label] = f[..., self._place[i]]
        if self._error is not None:
            frame.kept |= dict.fromkeys(self._errors, frame.scratch.pop((self, "error")))


def recorded(
    items: Sequence[RecordItem],
    where: Sequence[PositionSet],
    frames: Sequence[Frame],
    index: int,
    row: Row,
    info: ModelInfo,
    dictionaries: Mapping[str, Dictionary],
) -> dict[str, np.ndarray]:
    """Recorded activations of one row: label -> [positions, width], or [positions] for one feature or coordinate.

    Args:
        items: the records, those of heads and coordinates among them.
        where: their positions.
        frames: of the row's forwards, in order.
        index: of the row in its batch.
        row: what it is.
        info: the model.
        dictionaries: by name.
    """
    out: dict[str, np.ndarray] = {}
    for item, at in zip(items, where, strict=True):
        parts = []
        for f in frames:
            x = f.captured[item.site] if item.dictionary is None else f.kept[label_of(item)]
            mine = np.array(x[index].astype(mx.float32))
            inside = row.inside(at, f.offset, f.length)
            parts.append(_cut(mine, item, info, dictionaries)[inside])
        out[item.label] = _joined(parts)
    return out


def _cut(x: np.ndarray, item: RecordItem, info: ModelInfo, dictionaries: Mapping[str, Dictionary]) -> np.ndarray:
    """The columns [length, n] that a record of heads or coordinates names, of a site's activation [length, width]."""
    if item.dictionary is not None or item.part not in ("heads", "coordinates"):
        return x
    columns = columns_of(item, info, dictionaries)
    if item.site.component == "attn.pattern":
        by_head = x.reshape(len(x), info.n_heads, -1)[:, list(columns)]
        return by_head[:, 0] if len(columns) == 1 else by_head
    return x[:, columns[0]] if item.part == "coordinates" and len(columns) == 1 else x[:, list(columns)]


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pieces of a sequence, one after the other; attention weights that see more keys later are filled up with 0."""
    widest = max((p.shape[-1] for p in parts if p.ndim > 1), default=0)
    padded = [
        np.pad(p, [*[(0, 0)] * (p.ndim - 1), (0, widest - p.shape[-1])]) if p.ndim > 1 else p for p in parts if len(p)
    ]
    return np.concatenate(padded or parts[:1])
