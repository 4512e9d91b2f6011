"""Which quantity an edit changes, and which columns of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saedsl.anatomy import ModelInfo
from saedsl.errors import RunError
from saedsl.parts import Coefficient, Components, Coordinates, Error, Features, Pattern, Quantity, Whole
from saedsl.program import Dictionary, Direction, Intervention, RecordItem
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

Key = tuple[str, Site, str, tuple[int, ...]]
"""(kind, site that is written, dictionary or direction, features whose span is meant): what edits change together."""


@dataclass(frozen=True)
class Maker:
    """Makes one quantity, of the columns that are needed."""

    key: Key
    info: ModelInfo
    dictionaries: Mapping[str, Dictionary]
    saes: Mapping[str, SAE]
    directions: Mapping[str, Direction]

    @property
    def selected(self) -> bool:
        """Whether the quantity is made of columns that are asked for; else of what it has."""
        return self.key[0] in ("features", "heads", "coordinates", "pattern")

    def __call__(self, columns: Sequence[int]) -> Quantity:
        """The quantity of these columns, in their order."""
        kind, site, name, ids = self.key
        match kind:
            case "features":
                d = self.dictionaries[name]
                return Features(self.saes[name], d.read, d.write, columns)
            case "error":
                d = self.dictionaries[name]
                return Error(self.saes[name], d.read, d.write)
            case "coordinates":
                return Coordinates(site, columns)
            case "heads":
                return Coordinates(site, columns, self.info.d_head)
            case "pattern":
                return Pattern(site, columns, self.info.n_heads)
            case "direction":
                return Coefficient(site, self.directions[name].values)
            case "span":
                rows = np.array(self.saes[name].W_dec[list(ids)] if ids else self.saes[name].W_dec)
                return Components(site, rows)
        return Whole(site)


def key_of(e: Intervention | RecordItem) -> Key:
    """What an edit changes, or a record keeps."""
    if isinstance(e, Intervention):
        if e.part == "direction":
            return "direction", e.site, e.direction or "", ()
        if e.op == "project" and e.dictionary is not None:
            return "span", e.site, e.dictionary, () if isinstance(e.features, str) else e.features
    if e.dictionary is not None:
        return ("error" if e.part == "error" else "features"), e.site, e.dictionary, ()
    if e.part in ("heads", "coordinates"):
        kind = "pattern" if e.site.component == "attn.pattern" else e.part
        return kind, e.site, "", ()
    return "site", e.site, "", ()


def columns_of(
    e: Intervention | RecordItem, info: ModelInfo, dictionaries: Mapping[str, Dictionary]
) -> tuple[int, ...]:
    """The columns of its quantity that an edit changes (of `keep`: those that are not kept); (0,) where it has one.

    Raises:
        RunError: if a site's width, which `keep` needs, is known when the model runs only.
    """
    kind, _, name, _ = key_of(e)
    keeps = isinstance(e, Intervention) and e.op == "keep"
    if kind not in ("features", "heads", "coordinates", "pattern"):
        return (0,)
    if not keeps and not isinstance(e.features, str):
        ids = e.features
    else:
        size = dictionaries[name].info.d_sae if kind == "features" else _size(e, info)
        kept = frozenset(e.features) if keeps and not isinstance(e.features, str) else frozenset[int]()
        ids = () if keeps and e.features == "all" else tuple(i for i in range(size) if i not in kept)
    if kind == "heads":
        return tuple(h * info.d_head + j for h in ids for j in range(info.d_head))
    return ids


def _size(e: Intervention | RecordItem, info: ModelInfo) -> int:
    """How many heads or coordinates a site has."""
    size = info.heads(e.site) if e.part == "heads" else info.width(e.site)
    if size is None:
        raise RunError(f"how wide {e.site} is depends on the text or the module: `keep` and `all` cannot name the rest")
    return size
