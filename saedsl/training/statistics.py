"""The statistics of a dictionary's features over texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import mlx.core as mx
import numpy as np

from saedsl.errors import SAEError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sae.statistics import Digest, Statistics, moments
from saedsl.sites import Site
from saedsl.training.harvest import batches

MAX_BLOCK = 2**24
"""Activations that are held at once."""


def feature_statistics(
    model: InterpretableModel,
    sae: SAE,
    texts: Iterable[str],
    *,
    site: Site | None = None,
    context: int = 128,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Maximum, deviation, mean and frequency of every feature over texts; BOS and padding are left out.

    Args:
        model: the model, as it is.
        sae: the dictionary.
        texts: one document each; longer ones go on in a further row of `context` tokens.
        site: where the dictionary reads; by default where it says.
        context: tokens a row at most.
        progress: called with the number of tokens so far.

    Raises:
        SAEError: if the dictionary does not say where it reads, has another width, or the texts have no token.
    """
    if sae.config.several_sites:
        raise SAEError("this dictionary reads several sites; statistics are counted for those that read one")
    read = site or sae.config.input_site
    if read is None:
        raise SAEError("this dictionary does not say which site it reads; name it")
    if read not in model.info.sites:
        raise SAEError(f"this model has no {read}: its layers are L0..L{model.info.n_layers - 1}")
    if model.info.width(read) != sae.config.d_in:
        raise SAEError(f"{read} is {model.info.width(read)} wide, the dictionary reads {sae.config.d_in}")
    digest, done = Digest(), 0
    rows = max(1, MAX_BLOCK // sae.config.d_sae)

    def blocks() -> Iterator[np.ndarray]:
        nonlocal done
        for b in batches(model, digest.seen(texts), context):
            content = np.flatnonzero(b.content)
            x = model.activations(b.tokens, [read])[read]
            x = x.reshape(-1, x.shape[-1])
            for i in range(0, len(content), rows):
                yield np.array(sae.encode(x[mx.array(content[i : i + rows])]))
            done += len(content)
            if progress is not None:
                progress(done)

    m = moments(blocks())
    return Statistics(
        max=m.max.astype(np.float32),
        std=m.std.astype(np.float32),
        mean=m.mean.astype(np.float32),
        frequency=m.frequency.astype(np.float32),
        tokens=m.tokens,
        texts=digest.sha256,
        weights=sae.sha256,
        site=str(read),
        model=model.info.name,
    )
