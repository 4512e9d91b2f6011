"""Values of a trace that are named before its forward has run, and read when it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from saedsl.errors import RunError
from saedsl.sites import Site

if TYPE_CHECKING:
    from saedsl.traceblock import TraceBlock
    from saedsl.traced import Trace


class Deferred:
    """A value of a forward that has not run yet: `.save()` keeps it; indices are applied when it is there."""

    def __init__(self, block: TraceBlock, key: str, index: tuple[Any, ...] = ()) -> None:
        """
        Args:
            block: the open trace.
            key: `logits`, another site, or a recorded feature.
            index: what it is indexed with, first to last.
        """
        self._block, self._key, self._index = block, key, index

    def __getitem__(self, index: Any) -> Deferred:
        return Deferred(self._block, self._key, (*self._index, index))

    def __iter__(self) -> Iterator[Any]:
        raise RunError(f"{self!r}")

    def save(self) -> Saved:
        """Keep it; the value is there when the block has ended."""
        return self._block.save(self)

    @property
    def site(self) -> Site | None:
        """Which activation has to be captured for it."""
        return Site.parse(self._key) if is_site(self._key) and self._key != "logits" else None

    def read(self, trace: Trace) -> mx.array:
        """Its value, of a forward that has run."""
        value: Any = trace.output if self._key == "logits" else trace.activations[self._key]
        for index in self._index:
            value = value[index]
        return mx.array(value)

    def __repr__(self) -> str:
        return f"<{self._key} of a trace whose forward has not run: use .save()>"


class Saved:
    """A value that is there when its trace's block has ended. Behaves like the `mx.array` it holds."""

    def __init__(self, deferred: Deferred) -> None:
        self.deferred = deferred
        """What it will hold."""
        self._value: mx.array | None = None
        self._reason: BaseException | None = None
        self._open = True

    def take(self, trace: Trace) -> mx.array:
        """Hold the value, of a forward that has run."""
        self._value = self.deferred.read(trace)
        return self._value

    def close(self, reason: BaseException | None) -> None:
        """The block has ended, with `reason` if that is an error."""
        self._open, self._reason = False, reason

    @property
    def value(self) -> mx.array:
        """The array. Raises RunError while the block is open, or if it ended with an error."""
        if self._value is None:
            if self._open:
                raise RunError("this value is there when the `with model.trace(...)` block has ended: read it behind")
            raise RunError(f"this value was never computed: the trace ended with {type(self._reason).__name__}")
        return self._value

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.value.shape)

    @property
    def dtype(self) -> Any:
        """Of the array."""
        return self.value.dtype

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.value, name)

    def __mlx_array__(self) -> mx.array:
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = self.value if self.value.dtype != mx.bfloat16 else self.value.astype(mx.float32)
        return np.array(value, dtype=dtype)

    def __repr__(self) -> str:
        return f"Saved({self._value!r})" if self._value is not None else f"Saved({self.deferred!r})"

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)

    def __getitem__(self, index: Any) -> Any:
        return self.value[index]

    def __float__(self) -> float:
        return float(np.array(self).item())

    def __int__(self) -> int:
        return int(np.array(self).item())

    def __neg__(self) -> Any:
        return -self.value

    def __abs__(self) -> Any:
        return mx.abs(self.value)

    def __add__(self, other: Any) -> Any:
        return self.value + _array(other)

    def __radd__(self, other: Any) -> Any:
        return _array(other) + self.value

    def __sub__(self, other: Any) -> Any:
        return self.value - _array(other)

    def __rsub__(self, other: Any) -> Any:
        return _array(other) - self.value

    def __mul__(self, other: Any) -> Any:
        return self.value * _array(other)

    def __rmul__(self, other: Any) -> Any:
        return _array(other) * self.value

    def __truediv__(self, other: Any) -> Any:
        return self.value / _array(other)

    def __rtruediv__(self, other: Any) -> Any:
        return _array(other) / self.value

    def __pow__(self, other: Any) -> Any:
        return self.value ** _array(other)

    def __matmul__(self, other: Any) -> Any:
        return self.value @ _array(other)

    def __rmatmul__(self, other: Any) -> Any:
        return _array(other) @ self.value


def is_site(text: str) -> bool:
    """Whether a text is the name of a site."""
    try:
        Site.parse(text)
    except ValueError:
        return False
    return True


def _array(other: Any) -> Any:
    return other.value if isinstance(other, Saved) else other
