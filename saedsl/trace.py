"""The only module that touches a live model: functions at sites, for the length of one forward.

For a module m, `m.__class__` becomes a subclass of `type(m)` whose `__call__` looks up what is to be done in this
context. Python looks `__call__` up on the type, so nothing else works; and nothing else stays so true to the model:
isinstance, parameters, names, quantised layers and gradients see the same object. The swap is undone when the forward
returns or raises. A forward in another thread passes through the subclass untouched, because what is to be done
lives in a context variable.

Attention weights are no module's input or output. Where they are wanted, the function that computes them is replaced
in the globals of the model's own code, for as long and as guarded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from saedsl.anatomy import ModelInfo
from saedsl.attention import attend, flatten, unflatten
from saedsl.errors import ModelError, RunError
from saedsl.holds import Hold, Skip, holds
from saedsl.program import Mode
from saedsl.sites import Site


@dataclass
class Frame:
    """What one forward is about, and what functions at its sites leave behind."""

    offset: int
    """Absolute position of the first token: the number of tokens already in the cache."""
    length: int
    """Tokens of this forward."""
    rows: int = 1
    """Rows of the batch."""
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
"""(activation [batch, seq, width], frame) -> the activation that the model goes on with; itself for no change.

Heads lie one after the other: [batch, seq, n_heads * d_head], at `attn.pattern` [batch, seq, n_heads * keys].
"""


@dataclass
class _Hook:
    """What one module does before, in and after its call."""

    before: list[SiteFn] = field(default_factory=list)
    pattern: list[SiteFn] = field(default_factory=list)
    """With the attention weights that the module computes."""
    holds: list[Hold] = field(default_factory=list)
    """With its output, before any edit of it."""
    after: list[SiteFn] = field(default_factory=list)


@dataclass
class _Active:
    hooks: Mapping[int, _Hook]
    frame: Frame
    pattern: Sequence[SiteFn] = ()
    """Those of the attention module whose call this is inside of."""


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
            x: Any = args[0] if args else None
            for fn in hook.before:
                x = fn(x, active.frame)
            args = (x, *args[1:])
        if hook.pattern:
            active.pattern = hook.pattern
            try:
                out = call(self, *args, **kwargs)
            finally:
                active.pattern = ()
        else:
            out = call(self, *args, **kwargs)
        if hook.after or hook.holds:
            y = out[0] if isinstance(out, tuple) else out
            for hold in hook.holds:
                y = hold(self, args[0], y, active.frame)
            for fn in hook.after:
                y = fn(y, active.frame)
            out = (y, *out[1:]) if isinstance(out, tuple) else y
        return out

    namespace = {"__call__": __call__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), {**namespace, "_saedsl_plain": cls})


def _plain(cls: type) -> type:
    plain: type = cls.__dict__.get("_saedsl_plain", cls)
    return plain


@cache
def _seen_attention(fused: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """What stands in for a model's `scaled_dot_product_attention` during a forward."""

    def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> mx.array:
        active = _ACTIVE.get()
        if active is None or not active.pattern:
            return fused(*args, **kwargs)
        functions, frame = active.pattern, active.frame
        return attend(fused, lambda x: _chain(functions, x, frame), *args, **kwargs)

    scaled_dot_product_attention._saedsl_plain = fused  # type: ignore[attr-defined]
    return scaled_dot_product_attention


class _SeenSoftmax:
    """What stands in for `mlx.core` during a forward, in a model that computes its attention weights by softmax."""

    def __init__(self, core: Any) -> None:
        self._saedsl_plain = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._saedsl_plain, name)

    def softmax(self, scores: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        weights: mx.array = self._saedsl_plain.softmax(scores, *args, **kwargs)
        active = _ACTIVE.get()
        if active is None or not active.pattern:
            return weights
        b, n, k = weights.shape[0], *weights.shape[-2:]
        heads = weights.reshape(b, -1, n, k)  # [batch, n_heads, query, keys]: heads may be grouped by KV head
        flat = flatten(heads)
        out = _chain(active.pattern, flat, active.frame)
        if out is flat:
            return weights
        return unflatten(out, heads.shape[1]).reshape(weights.shape).astype(weights.dtype)


def _chain(functions: Sequence[SiteFn], x: mx.array, frame: Frame) -> mx.array:
    for fn in functions:
        x = fn(x, frame)
    return x


@dataclass
class _Replacement:
    """One name in the globals of a model's code, replaced during a forward."""

    namespace: dict[str, Any]
    name: str
    new: Any


def _pattern_of(attention: nn.Module) -> _Replacement:
    """What makes the weights of this attention module visible. Raises ModelError if nothing does."""
    cls = _plain(type(attention))
    code = getattr(cls.__call__, "__code__", None)
    used = code.co_names if code is not None else ()
    namespace: dict[str, Any] = getattr(cls.__call__, "__globals__", {})
    if "scaled_dot_product_attention" in used and "scaled_dot_product_attention" in namespace:
        now = namespace["scaled_dot_product_attention"]
        plain = getattr(now, "_saedsl_plain", now)
        return _Replacement(namespace, "scaled_dot_product_attention", _seen_attention(plain))
    if "softmax" in used and "mx" in namespace:
        now = namespace["mx"]
        return _Replacement(namespace, "mx", now if isinstance(now, _SeenSoftmax) else _SeenSoftmax(now))
    raise ModelError(
        f"attn.pattern: this {cls.__name__} calls neither scaled_dot_product_attention nor mx.softmax, so its "
        "attention weights are out of reach"
    )


class Hooks:
    """Functions and captures at sites of one model, arranged once and installed around each forward."""

    def __init__(
        self,
        model: nn.Module,
        info: ModelInfo,
        functions: Mapping[Site, SiteFn] | None = None,
        captures: Collection[Site] = (),
        mode: Mode = "iterative",
        shadow_of: Sequence[int] | None = None,
        skips: Mapping[Site, Skip] | None = None,
        held: Sequence[tuple[str, Hold]] = (),
    ) -> None:
        """
        Args:
            model: an mlx-lm model of a family in `saedsl.anatomy`.
            info: what is known of it.
            functions: what to do at which site. A function returns its argument itself where it changes nothing.
            captures: sites to keep, in `Frame.captured`.
            mode: what of a row is held at its shadow row, before the functions at the same place.
            shadow_of: [batch] the unedited row that each row is held against, itself for an unedited row; None if
                nothing is held.
            skips: of transcoders, for mode `direct`; see `holds.holds`.
            held: (module's path, what it does after its call), after those of the mode; see `holds.linear_norms`.

        Raises:
            ModelError: if there is no such module.
            ValueError: if a mode needs `shadow_of` and there is none, or it is not one.
        """
        self.model = model
        self.shadow_of = None if shadow_of is None else tuple(shadow_of)
        """The row that each row of a batch is held against."""
        self._hooks: dict[int, _Hook] = {}
        self._swaps: list[tuple[nn.Module, type]] = []
        self._replacements: list[_Replacement] = []
        self._called: list[Site] = []
        self._info = info
        functions = functions or {}
        self._modules = dict(model.named_modules())
        self._modules[""] = model
        if mode != "iterative" and shadow_of is None:
            raise ValueError(f"mode {mode} holds rows against others: it needs shadow_of")
        for path, hold in (*holds(info, mode, shadow_of or (), skips or {}), *held):
            self._hook(path).holds.append(hold)
        named = sorted(s for s in {*functions, *captures} if s.module is None)
        others = sorted(s for s in {*functions, *captures} if s.module is not None)
        # a module's site can be a named one too: its edits come before all named ones, its captures after them
        for site in others:
            self._called.append(site)
            self._at(site).append(_checked(site, functions.get(site)))
        for site in named:
            if site in functions:
                self._place(site, functions[site])
            if site in captures:
                self._at(site).append(_part(info, site, _capture(site)))
        for site in others:
            if site in captures:
                self._at(site).append(_capture(site))

    def _hook(self, path: str) -> _Hook:
        """The hook of one module, made when it is first asked for."""
        if path not in self._modules:
            raise ModelError(f"this model has no module {path}: its family is not what its config says")
        module = self._modules[path]
        if id(module) not in self._hooks:
            self._hooks[id(module)] = _Hook()
            self._swaps.append((module, _hooked(_plain(type(module)))))
        return self._hooks[id(module)]

    def _at(self, site: Site) -> list[SiteFn]:
        point = self._info.hook_point(site)
        if site.module is not None and point.module not in self._modules:
            raise ModelError(f"{site}: this model has no such module{_nearest(point.module, self._modules)}")
        hook = self._hook(point.module)
        if point.side == "pattern":
            new = _pattern_of(self._modules[point.module])
            if all(r.namespace is not new.namespace or r.name != new.name for r in self._replacements):
                self._replacements.append(new)
            return hook.pattern
        return hook.before if point.side == "in" else hook.after

    def _place(self, site: Site, fn: SiteFn) -> None:
        if site.component != "resid_mid":
            self._at(site).append(_part(self._info, site, fn))
            return
        # The stream between the sublayers is no module's output: x + attn. Editing the norm's input would miss the
        # skip path, so the edit becomes a delta of what attention adds.
        before = self._at(Site(site.layer, "resid_pre"))
        after = self._at(Site(site.layer, "attn"))

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

        Raises:
            ModelError: if a module's site is never reached, or is no activation.
            RunError: if attention weights are wanted and the cache is quantised.
            ValueError: if the batch has another number of rows than `shadow_of`.
        """
        _end_streams_with_thread()
        if self.shadow_of is not None and len(self.shadow_of) != tokens.shape[0]:
            raise ValueError(f"{tokens.shape[0]} rows, but shadow_of says {len(self.shadow_of)}")
        if self._replacements and any(hasattr(layer, "bits") for layer in cache or ()):
            raise RunError("attn.pattern cannot be read with a quantised KV cache: run without kv_bits")
        frame = Frame(_offset(cache) if offset is None else offset, tokens.shape[1], tokens.shape[0])
        if not self._swaps:
            return self._forward(tokens, cache), frame
        token = _ACTIVE.set(_Active(self._hooks, frame))
        try:
            with _SWAP:
                before = [type(m) for m, _ in self._swaps]
                values = [r.namespace[r.name] for r in self._replacements]
                try:
                    for m, hooked in self._swaps:
                        object.__setattr__(m, "__class__", hooked)
                    for r in self._replacements:
                        r.namespace[r.name] = r.new
                    logits = self._forward(tokens, cache)
                finally:
                    self._restore(before, values)
        finally:
            _ACTIVE.reset(token)
        for site in self._called:
            if site not in frame.scratch:
                raise ModelError(f"{site}: the forward of this model never calls the module")
        return logits, frame

    def _forward(self, tokens: mx.array, cache: Any) -> mx.array:
        out: mx.array = self.model(tokens) if cache is None else self.model(tokens, cache=cache)
        return out

    def _restore(self, classes: Sequence[type], names: Sequence[Any]) -> None:
        """Give every module its class back and every name its value, even if Ctrl-C comes in between."""
        try:
            for (m, _), cls in zip(self._swaps, classes, strict=True):
                object.__setattr__(m, "__class__", cls)
            for r, old in zip(self._replacements, names, strict=True):
                r.namespace[r.name] = old
        except BaseException:
            self._restore(classes, names)
            raise


def _part(info: ModelInfo, site: Site, fn: SiteFn) -> SiteFn:
    """`fn` on what is `site` of its module's output: all of it but for queries, keys and values.

    Those can be some columns of the output, or have an axis for heads (after a norm of each head).
    """
    columns = info.hook_point(site).columns
    if columns is not None:
        first, end = columns

        def on_columns(x: mx.array, frame: Frame) -> mx.array:
            part = x[..., first:end]
            out = fn(part, frame)
            if out is part:
                return x
            return mx.concatenate([x[..., :first], out, x[..., end:]], axis=-1)

        return on_columns
    if site.component not in ("attn.q", "attn.k"):
        return fn

    def on_heads(x: mx.array, frame: Frame) -> mx.array:
        if x.ndim == 3:
            return fn(x, frame)
        flat = x.reshape(*x.shape[:2], -1)
        out = fn(flat, frame)
        return x if out is flat else out.reshape(x.shape)

    return on_heads


def _checked(site: Site, fn: SiteFn | None) -> SiteFn:
    """`fn` at a module's site, which may turn out to be no activation."""

    def checked(x: Any, frame: Frame) -> mx.array:
        frame.scratch[site] = True
        if not isinstance(x, mx.array):
            raise ModelError(f"{site}: this is a {type(x).__name__}, not an array")
        if not mx.issubdtype(x.dtype, mx.floating) or x.ndim != 3 or x.shape[:2] != (frame.rows, frame.length):
            dtype = str(x.dtype).removeprefix("mlx.core.")
            raise ModelError(
                f"{site}: this is no activation [batch, seq, width] but {dtype} {list(x.shape)} "
                f"(batch {frame.rows}, seq {frame.length})"
            )
        return x if fn is None else fn(x, frame)

    return checked


def _nearest(path: str, modules: Collection[str]) -> str:
    """A hint for a module's path that is not there."""
    near = get_close_matches(path, [m for m in modules if m], 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


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
        ModelError: if a module is missing, the sum does not hold, or heads are of another size; nothing is guessed.
    """
    parts = ("resid_pre", "attn", "resid_mid", "mlp", "resid_post")
    wanted = {(layer, c): Site(layer, c) for layer in range(info.n_layers) for c in parts}
    tokens = mx.array([[i % info.d_vocab for i in (1, 5, 2, 7, 3)]])
    heads = [Site(layer, f"attn.{part}") for layer in range(info.n_layers) for part in ("q", "k", "v", "z")]
    _, frame = Hooks(model, info, captures={*wanted.values(), *heads})(tokens)
    missing = [str(s) for s in (*wanted.values(), *heads) if s not in frame.captured]
    if missing:
        raise ModelError(f"{info.name}: the forward of this {info.model_type} never reaches {', '.join(missing[:4])}")
    for site in heads:
        width = frame.captured[site].shape[-1]
        if width != info.width(site):
            raise ModelError(
                f"{info.name}: {site} is {width} wide, but its config says {info.width(site)} "
                f"({info.heads(site)} heads of {info.d_head})"
            )
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
