"""`world(family)`: a tiny model, dictionaries and files, in saedsl and in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.semantics.world import World, direction_values, with_statistics, write_files


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    model_of: Callable[..., Any],
    reference_of: Callable[..., Any],
    sae_of: Callable[..., Any],
    plain: Callable[..., Any],
) -> Callable[[str], World]:
    """`world("llama")` or `world("gpt2")`; nothing may change it.

    `L0.mlp`: ReLU, carries statistics, not trained on BOS. `r` on L0.resid_post: TopK of layer-normalised activations,
    not trained on BOS. `t`: a JumpReLU skip transcoder of L1.mlp, trained on BOS.
    """

    @cache
    def build(family: str) -> World:
        folder = tmp_path_factory.mktemp(family)
        sae, top, std = with_statistics(sae_of(site="L0.mlp", trained_on_bos=False, seed=1), folder / "L0.mlp")
        saes = {
            "L0.mlp": sae,
            "r": sae_of(
                activation="topk", k=12, normalize="layer_norm", site="L0.resid_post", trained_on_bos=False, seed=2
            ),
            "t": sae_of(activation="jumprelu", skip=True, site="L1.mlp", read="L1.mlp.in", seed=4),
        }
        dictionaries = {name: plain(s) for name, s in saes.items()}
        dictionaries["L0.mlp"] = replace(dictionaries["L0.mlp"], maximum=top, std=std)
        directions = direction_values(32)
        write_files(folder, directions)
        return World(model_of(family), reference_of(family), saes, dictionaries, directions, folder)

    return build
