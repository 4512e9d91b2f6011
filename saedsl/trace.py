"""The only module that hooks a live model: functions at sites, for the length of one forward.

For a module m, `m.__class__` becomes a subclass of `type(m)` whose `__call__` looks up what is to be done in this
context. Python looks `__call__` up on the type, so nothing else works; and nothing else stays so true to the model:
isinstance, parameters, names, quantised layers and gradients see the same object. The swap is undone when the forward
returns or raises. A forward in another thread passes through the subclass untouched, because what is to be done
lives in a context variable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from saedsl.anatomy import HookPoint, ModelInfo
from saedsl.errors import ModelError
from saedsl.sites import Site


@dataclass
class Frame:
    """What one forward is about, and what functions at its sites leave behind."""

    offset: int
    """Absolute position of the first token: the number of tokens already in the cache."""
    length: int
    """Tokens of this forward."""
    captured: dict[Site, mx.array] = field(default_factory=dict)
    """Activations of the captured sites, after the edits there, [batch, length, width]."""
    kept: dict[str, mx.array] = field(default_factory=dict)
    """Recorded features, by label."""
    edited: dict[str, tuple[mx.array, mx.array]] = field(default_factory=dict)
    """(active, changed) of each edited dictionary or site, not 0 where it was: [batch, length, n]."""
    scratch: dict[object, Any] = field(default_factory=dict)
    """Passed from a function at an earlier site to one at a later site."""

    @property
    def arrays(self) -> list[mx.array]:
        """What is to be evaluated with the forward: else its whole graph stays in memory, and in its thread."""
        pairs = (array for pair in self.edited.values() for array in pair)
        return [*self.captured.values(), *self.kept.values(), *pairs]


SiteFn = Callable[[mx.array, Frame], mx.array]
"""(activation [batch, seq, width], frame) -> the activation that the model goes on with."""


@dataclass
class _Hook:
    """What one module does before and after its call."""

    before: list[SiteFn] = field(default_factory=list)
    after: list[SiteFn] = field(default_factory=list)


@dataclass(frozen=True)
class _Active:
    hooks: Mapping[int, _Hook]
    frame: Frame


_ACTIVE: ContextVar[_Active | None] = ContextVar("saedsl_active", default=None)
_SWAP = threading.RLock()


class _Streams:
    """MLX's streams of one thread. Lives among the thread's own variables, so it ends in that thread, with it."""

    def __del__(self) -> None:
        with suppress(RuntimeError):  # the thread has ended its streams itself
            mx.synchronize()
            mx.clear_streams()


_THREAD = threading.local()


def _end_streams_with_thread() -> None:
    """Else a process aborts at exit, after a thread that is not the main one has run a model."""
    if threading.current_thread() is not threading.main_thread() and not hasattr(_THREAD, "streams"):
        _THREAD.streams = _Streams()


@cache
def _hooked(cls: type) -> type:
    """The subclass of `cls` that stands in for it during a forward. One per class, for good."""
    call: Callable[..., Any] = cls.__call__

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        active = _ACTIVE.get()
        hook = active.hooks.get(id(self)) if active is not None else None
        if active is None or hook is None:
            return call(self, *args, **kwargs)
        if hook.before:
            x = args[0]
            for fn in hook.before:
                x = fn(x, active.frame)
            args = (x, *args[1:])
        out = call(self, *args, **kwargs)
        if hook.after:
            y = out[0] if isinstance(out, tuple) else out
            for fn in hook.after:
                y = fn(y, active.frame)
            out = (y, *out[1:]) if isinstance(out, tuple) else y
        return out

    namespace = {"__call__": __call__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), {**namespace, "_saedsl_plain": cls})


def _plain(cls: type) -> type:
    plain: type = cls.__dict__.get("_saedsl_plain", cls)
    return plain


class Hooks:
    """Functions and captures at sites of one model, arranged once and installed around each forward."""

    def __init__(
        self,
        model: nn.Module,
        info: ModelInfo,
        functions: Mapping[Site, SiteFn] | None = None,
        captures: Collection[Site] = (),
    ) -> None:
        """
        Args:
            model: an mlx-lm model of a family in `saedsl.anatomy`.
            info: what is known of it.
            functions: what to do at which site. A function returns its argument itself where it changes nothing.
            captures: sites to keep, in `Frame.captured`.
        """
        self.model = model
        self._hooks: dict[int, _Hook] = {}
        self._swaps: list[tuple[nn.Module, type]] = []
        functions = functions or {}
        modules = dict(model.named_modules())
        modules[""] = model
        for site in sorted({*functions, *captures}):
            if site in functions:
                self._place(site, functions[site], info, modules)
            if site in captures:
                hook = self._at(info.hook_point(site), modules)
                hook.append(_capture(site))

    def _at(self, point: HookPoint, modules: Mapping[str, nn.Module]) -> list[SiteFn]:
        if point.module not in modules:
            raise ModelError(f"this model has no module {point.module}: its family is not what its config says")
        module = modules[point.module]
        if id(module) not in self._hooks:
            self._hooks[id(module)] = _Hook()
            self._swaps.append((module, _hooked(_plain(type(module)))))
        hook = self._hooks[id(module)]
        return hook.before if point.side == "in" else hook.after

    def _place(self, site: Site, fn: SiteFn, info: ModelInfo, modules: Mapping[str, nn.Module]) -> None:
        if site.component != "resid_mid":
            self._at(info.hook_point(site), modules).append(fn)
            return
        # The stream between the sublayers is no module's output: x + attn. Editing the norm's input would miss the
        # skip path, so the edit becomes a delta of what attention adds.
        before = self._at(info.hook_point(Site(site.layer, "resid_pre")), modules)
        after = self._at(info.hook_point(Site(site.layer, "attn")), modules)

        def remember(x: mx.array, frame: Frame) -> mx.array:
            frame.scratch[site] = _alias(x)
            return x

        def edit(contribution: mx.array, frame: Frame) -> mx.array:
            stream = frame.scratch.pop(site)
            mid = stream + contribution
            edited = fn(mid, frame)
            if edited is mid:
                return contribution
            # stream + result is `edited`: an exact 0 for an ablation, and bitwise the same where nothing changed
            return mx.where(edited == mid, contribution, edited - stream)

        before.append(remember)
        after.append(edit)

    def __call__(self, tokens: mx.array, cache: Any = None, offset: int | None = None) -> tuple[mx.array, Frame]:
        """One forward.

        Args:
            tokens: [batch, seq] token ids.
            cache: an mlx-lm prompt cache, or None.
            offset: absolute position of the first token; None reads it from the cache.

        Returns:
            Logits [batch, seq, d_vocab], not evaluated, and the frame.
        """
        _end_streams_with_thread()
        frame = Frame(_offset(cache) if offset is None else offset, tokens.shape[1])
        if not self._swaps:
            return self._forward(tokens, cache), frame
        token = _ACTIVE.set(_Active(self._hooks, frame))
        try:
            with _SWAP:
                before = [type(m) for m, _ in self._swaps]
                try:
                    for m, hooked in self._swaps:
                        object.__setattr__(m, "__class__", hooked)
                    return self._forward(tokens, cache), frame
                finally:
                    self._restore(before)
        finally:
            _ACTIVE.reset(token)

    def _forward(self, tokens: mx.array, cache: Any) -> mx.array:
        out: mx.array = self.model(tokens) if cache is None else self.model(tokens, cache=cache)
        return out

    def _restore(self, classes: Sequence[type]) -> None:
        """Give every module its class back, even if Ctrl-C comes in between."""
        try:
            for (m, _), cls in zip(self._swaps, classes, strict=True):
                object.__setattr__(m, "__class__", cls)
        except BaseException:
            self._restore(classes)
            raise


def _capture(site: Site) -> SiteFn:
    def capture(x: mx.array, frame: Frame) -> mx.array:
        frame.captured[site] = _alias(x)
        return x

    return capture


def _alias(x: mx.array) -> mx.array:
    """A second handle on the same value: `x += y` in a model's code changes the handle it is applied to only."""
    return x.astype(x.dtype)


def _offset(cache: Any) -> int:
    """Tokens already in an mlx-lm prompt cache."""
    for layer in cache or ():
        offset = getattr(layer, "offset", None)
        if isinstance(offset, int):
            return offset
    return 0


def verify(model: nn.Module, info: ModelInfo) -> None:
    """Hold the family's table against the model: `resid_pre + attn + mlp == resid_post` on a short input.

    Raises:
        ModelError: if a module is missing or the sum does not hold; nothing is guessed.
    """
    parts = ("resid_pre", "attn", "resid_mid", "mlp", "resid_post")
    wanted = {(layer, c): Site(layer, c) for layer in range(info.n_layers) for c in parts}
    tokens = mx.array([[i % info.d_vocab for i in (1, 5, 2, 7, 3)]])
    _, frame = Hooks(model, info, captures=set(wanted.values()))(tokens)
    missing = [str(s) for s in wanted.values() if s not in frame.captured]
    if missing:
        raise ModelError(f"{info.name}: the forward of this {info.model_type} never reaches {', '.join(missing[:4])}")
    at = {key: frame.captured[site].astype(mx.float32) for key, site in wanted.items()}
    worst = [
        mx.stack([mx.abs(a - b).max(), mx.abs(b).max()])
        for layer in range(info.n_layers)
        for a, b in (
            (at[layer, "resid_pre"] + at[layer, "attn"], at[layer, "resid_mid"]),
            (at[layer, "resid_mid"] + at[layer, "mlp"], at[layer, "resid_post"]),
        )
    ]
    half = frame.captured[wanted[0, "resid_post"]].dtype in (mx.float16, mx.bfloat16)
    for i, (error, size) in enumerate(np.array(mx.stack(worst)).tolist()):
        if not error <= (2e-2 if half else 1e-4) * max(size, 1.0):
            raise ModelError(
                f"{info.name}: in layer {i // 2} of this {info.model_type}, the parts of the residual stream do not "
                f"add up (off by {error:.2g} of {size:.2g}): its sites are not where they are expected"
            )


def generate(
    hooks: Hooks, prompt: Sequence[int], n: int, stop: Collection[int] = (), prefill: int = 512
) -> Iterator[tuple[int, mx.array, list[Frame]]]:
    """Greedy continuation of `prompt`, with the KV cache; hooks are never installed while the caller has control.

    Args:
        hooks: what to do in each forward.
        prompt: token ids.
        n: most tokens to generate.
        stop: tokens that end the text; one that comes is the last that is yielded.
        prefill: most tokens of the prompt in one forward.

    Yields:
        (token, log-probabilities [d_vocab], the frames of the forwards that led to it), n times at most.
    """
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache

    frames: list[Frame] = []

    def forward(tokens: mx.array, cache: Any = None) -> mx.array:
        logits, frame = hooks(tokens, cache)
        frames.append(frame)
        recorded = [
            *frame.captured.values(),
            *frame.kept.values(),
        ]  # what was edited is small, or is in the logits' graph
        if recorded:
            mx.async_eval(*recorded)  # type: ignore[no-untyped-call]
        return logits

    steps = generate_step(
        mx.array(list(prompt)),
        forward,
        max_tokens=n,
        prompt_cache=make_prompt_cache(hooks.model),
        prefill_step_size=prefill,
    )
    read = 0
    try:
        for made, (token, logprobs) in enumerate(steps):
            # generate_step runs one forward ahead; a frame counts once a token that depends on it is yielded.
            until = read
            while until < len(frames) and frames[until].offset < len(prompt) + made:
                until += 1
            yield token, logprobs, frames[read:until]
            read = until
            if token in stop:
                return
    finally:
        steps.close()
