"""Continuing prompts token by token: one loop for baselines, edited rows and their shadow rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from saedsl.trace import Frame, Hooks

Sampler = Callable[[mx.array, int], mx.array]
"""(log-probabilities [batch, vocab] float32, step from 0) -> token ids [batch]."""


@dataclass(frozen=True)
class Made:
    """One generated token of every row."""

    tokens: list[int]
    """[batch] token ids. A shadow row has the token of the row that is held against it."""
    logprobs: mx.array
    """[batch, vocab] float32: each row's own distribution, a shadow row's too."""
    frames: list[Frame]
    """Of the forwards that led to the token and to none before it: of the prompt, or of the token before."""
    done: list[bool]
    """[batch] whether the row ended at an earlier token: then this token is no part of its text."""
    logits: mx.array
    """[batch, vocab] float32: `logprobs` before their normalisation."""


def generate(
    hooks: Hooks,
    prompts: Sequence[Sequence[int]],
    n: int,
    stop: Collection[int] = (),
    prefill: int = 512,
    shadow_of: Sequence[int] | None = None,
    sampler: Sampler | None = None,
) -> Iterator[Made]:
    """Continue prompts, with the KV cache; hooks are never installed while the caller has control.

    The forward of the next token runs ahead while the caller looks at this one, and is not in `frames` before the
    next token is asked for. A row that has ended is fed on, and marked `done`; the text ends when all rows are done.

    Args:
        hooks: what to do in each forward.
        prompts: a row of token ids each, all equally long.
        n: most tokens to generate.
        stop: tokens that end a row; the one that comes is the last that is not `done`.
        prefill: most tokens of the prompts in one forward.
        shadow_of: [batch] the row that each is held against, itself for an unedited row; a row can be the shadow of
            one other. By default that of `hooks`, if it has one.
        sampler: picks the tokens; the likeliest by default.

    Yields:
        The next token of each row, n times at most.

    Raises:
        ValueError: if there is no prompt, an empty one, prompts of different lengths, or a row is the shadow of two.
    """
    from mlx_lm.models.cache import make_prompt_cache

    shadow_of = hooks.shadow_of if shadow_of is None else shadow_of
    if len({len(p) for p in prompts}) != 1 or not prompts[0]:
        raise ValueError("prompts are rows of token ids, at least one each, all equally long")
    leader = _leaders(shadow_of, len(prompts))
    follow = None if leader == list(range(len(prompts))) else mx.array(leader)
    pick = sampler or greedy
    cache = make_prompt_cache(hooks.model)
    tokens = mx.array([list(p) for p in prompts])  # [batch, seq]
    last = tokens.shape[1] - 1

    def step(read: mx.array, i: int) -> tuple[mx.array, mx.array, mx.array, Frame]:
        logits, frame = hooks(read, cache)
        logits = logits[:, -1].astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        made = pick(logprobs, i)
        made = made if follow is None else made[follow]
        # what was edited is small, or is in the logits' graph
        mx.async_eval(made, logprobs, logits, *frame.captured.values(), *frame.kept.values())  # type: ignore[no-untyped-call]
        return made, logprobs, logits, frame

    if n < 1:
        return
    frames: list[Frame] = []
    for start in range(0, last, prefill):
        _, frame = hooks(tokens[:, start : min(start + prefill, last)], cache)
        mx.eval([c.state for c in cache], *frame.arrays)
        frames.append(frame)
        mx.clear_cache()
    made, logprobs, logits, frame = step(tokens[:, last:], 0)
    frames.append(frame)
    done = [False] * len(prompts)
    for i in range(n):
        ahead = step(made[:, None], i + 1) if i + 1 < n else None
        ids: list[int] = made.tolist()  # type: ignore[assignment]
        yield Made(ids, logprobs, frames, list(done), logits)
        done = [was or token in stop for was, token in zip(done, ids, strict=True)]
        if ahead is None or all(done):
            return
        made, logprobs, logits, frame = ahead
        frames = [frame]
        if i % 256 == 0:
            mx.clear_cache()


def _leaders(shadow_of: Sequence[int] | None, rows: int) -> list[int]:
    """The row whose token each row reads next: its own, or that of the row that is held against it."""
    leader = list(range(rows))
    for row, shadow in enumerate(shadow_of or ()):
        if shadow != row:
            if leader[shadow] != shadow:
                raise ValueError(
                    f"row {shadow} is the shadow of rows {leader[shadow]} and {row}, which read other tokens"
                )
            leader[shadow] = row
    return leader


def greedy(logprobs: mx.array, step: int) -> mx.array:
    """The likeliest token of each row; the first of several."""
    return mx.argmax(logprobs, axis=-1)


def sampling(temp: float, top_p: float = 1.0, seed: int = 0) -> Sampler:
    """A sampler whose tokens depend on the distributions, the step and the seed, and on nothing else.

    Every row of a batch meets the same random numbers, so a row's text is the same in any batch, and two rows differ
    by their distributions alone. MLX's own random state is neither read nor changed.

    Args:
        temp: log-probabilities are divided by it; 0 is greedy.
        top_p: the likeliest tokens at this temperature that together reach this share are sampled from.
        seed: any whole number.

    Raises:
        ValueError: if temp is negative, or top_p is not in (0, 1].
    """
    if not 0 <= temp < float("inf"):
        raise ValueError(f"temp is a number from 0 on, not {temp}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is above 0 and at most 1, not {top_p}")
    if temp == 0:
        return greedy
    root = mx.random.key(seed % 2**64)
    keys = [root]

    def pick(logprobs: mx.array, step: int) -> mx.array:
        while len(keys) <= step + 1:
            keys[-1:] = list(mx.random.split(keys[-1]))[::-1]
        scaled = logprobs / temp
        if top_p < 1:
            scaled = _nucleus(scaled, top_p)
        noise = mx.random.gumbel(shape=(logprobs.shape[-1],), key=keys[step])
        return mx.argmax(scaled + noise, axis=-1)

    return pick


def _nucleus(scaled: mx.array, top_p: float) -> mx.array:
    """-inf for all but the likeliest tokens that together reach `top_p`, the token that reaches it included."""
    order = mx.argsort(-scaled, axis=-1)
    ordered = mx.take_along_axis(mx.softmax(scaled, axis=-1), order, axis=-1)
    before = mx.cumsum(ordered, axis=-1) - ordered  # share of the likelier tokens
    kept = mx.put_along_axis(mx.zeros(scaled.shape, mx.bool_), order, before < top_p, axis=-1)
    return mx.where(kept, scaled, -mx.inf)
