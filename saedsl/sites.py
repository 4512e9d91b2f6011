"""Sites: the named places of a transformer where activations are read and edited, e.g. `L12.mlp`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS, GLOBAL_SITES

_LAYER_ORDER = (
    "resid_pre", "attn.in", "attn.z", "attn.raw", "attn", "resid_mid",
    "mlp.in", "mlp.act", "mlp.raw", "mlp", "resid_post",
)  # fmt: skip
"""The components of one block in the order in which a forward computes them."""

_TEXT = re.compile(r"L(\d+)\.([a-z_]+(?:\.[a-z]+)?)")


@total_ordering
@dataclass(frozen=True)
class Site:
    """One place in one model. Sites sort in the order in which a forward reaches them."""

    layer: int | None
    """Block index, or None for `embed`, `final` and `logits`."""
    component: str
    """A key of `grammar.words.COMPONENTS`, or of `GLOBAL_SITES` when `layer` is None."""

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site that `text` names; `L3.resid` is `L3.resid_post`.

        Raises:
            ValueError: if `text` is not a site.
        """
        if text in GLOBAL_SITES:
            return cls(None, text)
        match = _TEXT.fullmatch(text)
        component = COMPONENT_ALIASES.get(match[2], match[2]) if match else ""
        if match is None or component not in COMPONENTS:
            raise ValueError(f"{text!r} is not a site; sites look like L3.mlp, L3.resid_post, embed or logits")
        return cls(int(match[1]), component)

    def __str__(self) -> str:
        return self.component if self.layer is None else f"L{self.layer}.{self.component}"

    def _key(self) -> tuple[float, int]:
        if self.layer is None:
            return (-1.0 if self.component == "embed" else float("inf"), int(self.component == "logits"))
        return float(self.layer), _LAYER_ORDER.index(self.component)

    def __lt__(self, other: Site) -> bool:
        return self._key() < other._key()
