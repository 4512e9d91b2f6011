"""The true dictionary of a known model: the directions that its rotation hides, as an SAE without error."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from saedsl.circuits.known.build import KnownModel
from saedsl.errors import SAEError
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site


def true_dictionary(known: KnownModel, site: str) -> SAE:
    """An SAE whose feature i is coordinate i of the model before the rotation; it reconstructs the stream exactly.

    Args:
        known: the model.
        site: of the residual stream, e.g. `L0.resid_post`; or `L0.mlp`, `L0.attn`, which hold a part of it.

    Raises:
        SAEError: if the model has no such site, or it has another width.
    """
    try:
        place = Site.parse(site)
    except ValueError as error:
        raise SAEError(str(error)) from None
    component = place.component
    fits = component in ("embed", "resid_pre", "resid_mid", "resid_post", "attn", "mlp")
    if not fits or (place.layer or 0) >= known.wiring.n_layers:
        raise SAEError(f"a true dictionary is of the residual stream and what is added to it; {site} is not there")
    n, d = known.constant + 1, len(known.rotation)
    config = DictionaryConfig(
        d, n, d, input_site=place, output_site=place, apply_b_dec_to_input=False, model_name=f"known {known.name}",
        trained_on_bos=True,
    )  # fmt: skip
    directions = known.rotation[:, :n].astype(np.float32)
    return SAE(config, mx.array(directions), mx.zeros((n,)), mx.array(directions.T.copy()), mx.zeros((d,)))


def feature_names(known: KnownModel) -> tuple[str, ...]:
    """What each feature of the true dictionary means: `token=3`, `previous=0`, ..., and at the end `1`."""
    names = [f"{slot}={j}" for slot, where in known.slots.items() for j in range(where.stop - where.start)]
    return (*names, "1")
