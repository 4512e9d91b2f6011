"""What comes with the package: a small model trained on generated text, its SAEs and its transcoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel
    from saedsl.sae.dictionary import SAE


@dataclass(frozen=True, eq=False)
class Demo:
    """The bundled model with its dictionaries."""

    model: InterpretableModel
    """4 layers, d_model 128, 4 heads; also `InterpretableModel.load("demo")`."""
    saes: dict[str, SAE]
    """By the text of their site, e.g. `saes["L2.mlp"]`."""
    transcoders: dict[str, SAE]
    """By the text of the MLP they predict, e.g. `transcoders["L2.mlp"]`: from `L2.mlp.in` to `L2.mlp`."""


def load_demo() -> Demo:
    """Load everything that is bundled, about 8 MB, from the package itself; no network."""
    from saedsl.locate import bundled
    from saedsl.model import InterpretableModel
    from saedsl.sae.dictionary import SAE

    return Demo(
        InterpretableModel.load("demo"),
        {name: SAE.load(path) for name, path in bundled("saes").items()},
        {path.name: SAE.load(path) for path in bundled("transcoders").values()},
    )
