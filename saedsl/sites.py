"""Sites: the named places of a transformer where activations are read and edited, e.g. `L12.mlp`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Final, Literal

from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS, GLOBAL_SITES

LAYER_ORDER: Final = (
    "resid_pre", "attn.in", "attn.q", "attn.k", "attn.v", "attn.pattern", "attn.z", "attn.raw", "attn", "resid_mid",
    "mlp.in", "mlp.act", "mlp.raw", "mlp", "resid_post",
)  # fmt: skip
"""The components of one block in the order in which a forward computes them."""

_TEXT = re.compile(r"L(\d+)\.([a-z_]+(?:\.[a-z]+)?)")
_MODULE = re.compile(r'module "([^"\\]*)" (in|out)')


@total_ordering
@dataclass(frozen=True)
class Site:
    """One place in one model.

    Sites sort in the order in which a forward reaches them; sites of modules, whose place in it is not known, come
    last, by their text.
    """

    layer: int | None
    """Block index, or None for `embed`, `final`, `logits` and sites of modules."""
    component: str
    """A key of `grammar.words.COMPONENTS`; when `layer` is None, of `GLOBAL_SITES`, or `module "path" in|out`."""

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site that `text` names; `L3.resid` is `L3.resid_post`.

        Raises:
            ValueError: if `text` is not a site.
        """
        if text in GLOBAL_SITES or _MODULE.fullmatch(text):
            return cls(None, text)
        match = _TEXT.fullmatch(text)
        component = COMPONENT_ALIASES.get(match[2], match[2]) if match else ""
        if match is None or component not in COMPONENTS:
            raise ValueError(f"{text!r} is not a site; sites look like L3.mlp, L3.resid_post, embed or logits")
        return cls(int(match[1]), component)

    @classmethod
    def of_module(cls, path: str, side: Literal["in", "out"]) -> Site:
        """One side of any module: `Site.of_module("model.layers.3.self_attn.o_proj", "in")`."""
        return cls(None, f'module "{path}" {side}')

    @property
    def module(self) -> tuple[str, Literal["in", "out"]] | None:
        """(path, side) of a module's site; None for a named one."""
        match = _MODULE.fullmatch(self.component) if self.layer is None else None
        if match is None:
            return None
        return match[1], "in" if match[2] == "in" else "out"

    def __str__(self) -> str:
        return self.component if self.layer is None else f"L{self.layer}.{self.component}"

    @property
    def order(self) -> tuple[float, int, str]:
        """What sites sort by."""
        if self.layer is not None:
            return float(self.layer), LAYER_ORDER.index(self.component), ""
        if self.component == "embed":
            return -1.0, 0, ""
        return float("inf"), {"final": 0, "logits": 1}.get(self.component, 2), self.component

    def __lt__(self, other: Site) -> bool:
        return self.order < other.order
