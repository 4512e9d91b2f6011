"""Activations of a model over texts, and the model's loss with activations replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from saedsl.errors import TrainingError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.training.metrics import ce_recovered


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, right-padded: padding comes last, where causal attention never reads it."""

    tokens: mx.array
    """[batch, seq] token ids."""
    valid: np.ndarray
    """[batch, seq], false at padding."""
    content: np.ndarray
    """[batch, seq], false at padding and at BOS: the tokens that dictionaries are trained on."""


def batches(model: InterpretableModel, texts: Iterable[str], context: int = 128, batch: int = 32) -> Iterator[Batch]:
    """Texts as batches of rows of at most `context` tokens, each row from the start of a text or of its next part.

    Args:
        model: whose tokenizer is used.
        texts: one document each.
        context: tokens a row at most, BOS included; a longer text goes on in a further row, with BOS again.
        batch: rows a batch. Rows of similar length stand together, within stretches of 64 batches.

    Raises:
        TrainingError: if `texts` is one string, an entry of it is none, or `context` has no room for a text.
    """
    if isinstance(texts, str):
        raise TrainingError("a data set is a list of texts, this is one text")
    bos = len(model.encoder.encode("").bos)
    if context < max(2, bos + 1):
        raise TrainingError(f"context is {context}; a row of at least {max(2, bos + 1)} tokens is needed, BOS included")
    return _batches(model, texts, context, batch)


def _batches(model: InterpretableModel, texts: Iterable[str], context: int, batch: int) -> Iterator[Batch]:
    waiting: list[Sequence[int]] = []
    for text in texts:
        if not isinstance(text, str):
            raise TrainingError(f"a data set is texts, this entry is {type(text).__name__}")
        waiting += _rows(model, text, context)
        if len(waiting) >= 64 * batch:
            yield from _padded(model, waiting, batch)
            waiting = []
    yield from _padded(model, waiting, batch)


def harvest(
    model: InterpretableModel,
    texts: Iterable[str],
    sites: Sequence[Site],
    context: int = 128,
    max_tokens: int | None = None,
) -> dict[Site, np.ndarray]:
    """Activations at `sites`, all of the same tokens in the same order; BOS and padding left out.

    Args:
        model: the model, as it is.
        texts: one document each.
        sites: where to read.
        context: tokens of a row at most.
        max_tokens: stop once there are as many; None for all.

    Returns:
        site -> [tokens, width], float32.

    Raises:
        TrainingError: if the texts have no token but BOS, or none is asked for; see also `batches`.
    """
    if max_tokens is not None and max_tokens < 1:
        raise TrainingError(f"max_tokens is {max_tokens}; at least 1 is needed, or None for all")
    parts: dict[Site, list[np.ndarray]] = {s: [] for s in sites}
    n = 0
    for b in batches(model, texts, context):
        found = model.activations(b.tokens, sites)
        for site, x in found.items():
            parts[site].append(np.array(x.astype(mx.float32))[b.content])
        n += int(b.content.sum())
        if max_tokens is not None and n >= max_tokens:
            break
    if n == 0:
        raise TrainingError("these texts have no tokens: there is nothing to read activations of")
    return {site: np.concatenate(p)[:max_tokens] for site, p in parts.items()}


def cross_entropy(
    model: InterpretableModel,
    data: Iterable[Batch],
    functions: Mapping[Site, Callable[[mx.array], mx.array]] | None = None,
) -> float:
    """Mean loss per next token, in nats, with functions at sites in place (but for BOS, which is left alone).

    Args:
        model: the model.
        data: rows; every valid token but each row's first is predicted.
        functions: site -> what becomes of its activation [batch, seq, width].
    """
    total, count = 0.0, 0
    for b in data:
        content = mx.array(b.content)[..., None]
        at = {s: _except(fn, content) for s, fn in (functions or {}).items()}
        logits, _ = model.forward(b.tokens, functions=at)
        targets = b.tokens[:, 1:]
        losses = (
            mx.logsumexp(logits[:, :-1], axis=-1) - mx.take_along_axis(logits[:, :-1], targets[..., None], -1)[..., 0]
        )
        valid = b.valid[:, 1:]
        total += float(np.array(losses.astype(mx.float32)).astype(np.float64)[valid].sum())
        count += int(valid.sum())
    return total / count


def recovered(model: InterpretableModel, sae: SAE, data: Sequence[Batch]) -> float:
    """CE recovered by a dictionary at the site it writes (see `ce_recovered`).

    Raises:
        TrainingError: if the dictionary does not say its sites, or nothing is lost where its site is 0.
    """
    read, write = sae.config.input_site, sae.config.output_site
    if read is None or write is None:
        raise TrainingError("this dictionary does not say which sites it reads and writes")
    seen: list[mx.array] = []

    def look(x: mx.array) -> mx.array:
        seen[:] = [x]
        return x

    replaced = {write: lambda x: sae(seen[0]), read: look} if read != write else {write: sae}
    return ce_recovered(
        cross_entropy(model, data),
        cross_entropy(model, data, replaced),
        cross_entropy(model, data, {write: mx.zeros_like}),
    )


def _rows(model: InterpretableModel, text: str, context: int) -> list[tuple[int, ...]]:
    tokens = model.encoder.encode(text)
    lead, rest = tokens.ids[: len(tokens.bos)], tokens.ids[len(tokens.bos) :]
    step = context - len(lead)
    return [(*lead, *rest[i : i + step]) for i in range(0, len(rest), step)]


def _padded(model: InterpretableModel, rows: list[Sequence[int]], batch: int) -> Iterator[Batch]:
    rows = sorted(rows, key=len)
    for i in range(0, len(rows), batch):
        some = rows[i : i + batch]
        length = len(some[-1])
        ids = np.array([[*r, *[0] * (length - len(r))] for r in some])
        valid = np.array([[j < len(r) for j in range(length)] for r in some])
        bos = model.info.bos_token_id
        first = (ids == bos) & (np.arange(length) == 0)
        yield Batch(mx.array(ids), valid, valid & ~first)


def _except(fn: Callable[[mx.array], mx.array], content: mx.array) -> Callable[[mx.array], mx.array]:
    return lambda x: mx.where(content, fn(x).astype(x.dtype), x)
