"""The instructions of PyTorch's pickles that make tables of tensors, carried out without an unpickler.

Why this cannot run code is said in `saedsl.sae.tensorpickle`, which reads the files around them.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from saedsl.sae.tensorfile import AGAIN

MAX_AXES: Final = 8
STORAGES: Final = {
    "FloatStorage": ("F32", 4), "DoubleStorage": ("F64", 8), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
}  # fmt: skip
"""PyTorch's name -> safetensors' name and bytes of a number."""


class Name(NamedTuple):
    """A name that the file mentions; it stands for nothing."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_ORDERED: Final = Name("collections", "OrderedDict")
_SIZE: Final = Name("torch", "Size")
_TENSOR: Final = Name("torch._utils", "_rebuild_tensor_v2")
_TENSOR_1: Final = Name("torch._utils", "_rebuild_tensor")
_PARAMETER: Final = Name("torch._utils", "_rebuild_parameter")
_ALLOWED: Final = frozenset({
    _ORDERED, _SIZE, _TENSOR, _TENSOR_1, _PARAMETER, *(Name("torch", name) for name in STORAGES),
})  # fmt: skip


class Refused(Exception):
    """What is wrong, without the path."""


@dataclass(frozen=True)
class Storage:
    """Numbers in the file, one after another."""

    key: str
    dtype: str
    itemsize: int
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Machine:
    """The instructions of a pickle that a table of tensors needs (pickle protocols 2 to 5).

    Args:
        stream: positioned at the first instruction; afterwards, behind the last.
        legacy: whether storages are described as in the older layout.
    """

    def __init__(self, stream: io.BytesIO, legacy: bool) -> None:
        self.stream = stream
        self.legacy = legacy
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        """What the instructions leave on the stack."""
        try:
            for name, argument in self._instructions():
                if name == "STOP":
                    return self.stack.pop()
                _DO.get(name, _refuse)(self, name, argument)
        except (IndexError, KeyError, TypeError, AttributeError):
            raise Refused(f"its table of tensors is damaged; {AGAIN}") from None
        raise Refused(f"its table of tensors is cut short; {AGAIN}")

    def _instructions(self) -> Iterator[tuple[str, Any]]:
        try:
            for opcode, argument, _ in pickletools.genops(self.stream):
                yield opcode.name, argument
        except (ValueError, UnicodeDecodeError, OverflowError, struct.error) as error:
            raise Refused(f"not a file of torch.save, or cut short ({str(error)[:80]}); {AGAIN}") from None

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, taken off the stack."""
        begin = self.marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values


Do = Callable[[Machine, str, Any], None]


def _refuse(_: Machine, name: str, argument: Any) -> None:
    raise Refused(f"holds more than tensors (pickle instruction {name}), which could run code; nothing is read")


def _push(m: Machine, _: str, argument: Any) -> None:
    m.stack.append(argument)


def _empty(m: Machine, name: str, _: Any) -> None:
    made: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
    m.stack.append(made[name]())


def _constant(m: Machine, name: str, _: Any) -> None:
    m.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])


def _put(m: Machine, _: str, argument: Any) -> None:
    m.memo[len(m.memo) if argument is None else int(argument)] = m.stack[-1]


def _get(m: Machine, _: str, argument: Any) -> None:
    m.stack.append(m.memo[int(argument)])


def _tuple(m: Machine, name: str, _: Any) -> None:
    if name == "TUPLE":
        m.stack.append(tuple(m.since_mark()))
        return
    n = int(name[-1])
    values = tuple(m.stack[-n:])
    if len(values) < n:
        raise IndexError
    del m.stack[-n:]
    m.stack.append(values)


def _append(m: Machine, name: str, _: Any) -> None:
    values = m.since_mark() if name == "APPENDS" else [m.stack.pop()]
    if not isinstance(m.stack[-1], list):
        raise TypeError
    m.stack[-1].extend(values)


def _set(m: Machine, name: str, _: Any) -> None:
    values = m.since_mark() if name == "SETITEMS" else [m.stack.pop(-2), m.stack.pop()]
    if not isinstance(m.stack[-1], dict) or len(values) % 2:
        raise TypeError
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, str | int):
            raise Refused(f"has {called(key)} as a key; names are expected")
        m.stack[-1][key] = value


def _name(m: Machine, name: str, argument: Any) -> None:
    if name == "GLOBAL":
        module, _, attribute = argument.partition(" ")
    else:
        attribute, module = m.stack.pop(), m.stack.pop()
    if not isinstance(module, str) or not isinstance(attribute, str):
        raise TypeError
    found = Name(module, attribute)
    if found not in _ALLOWED:
        raise Refused(
            f"names {str(found)[:80]}, which is code and no tensor; nothing is read. "
            "Save a state_dict() of plain tensors with torch.save, or convert it to safetensors where you trust it"
        )
    m.stack.append(found)


def _reduce(m: Machine, _: str, __: Any) -> None:
    arguments, called = m.stack.pop(), m.stack.pop()
    if not isinstance(called, Name) or not isinstance(arguments, tuple):
        raise Refused("calls something that is no constructor of tensors; nothing is read")
    if called == _ORDERED:
        if arguments not in ((), ([],)):
            raise Refused("builds a table in an unknown way; save it again with a new PyTorch")
        m.stack.append({})
    elif called == _SIZE:
        m.stack.append(_whole(arguments[0]))
    elif called in (_TENSOR, _TENSOR_1):
        m.stack.append(_view(*arguments[:4]))
    elif called == _PARAMETER and isinstance(arguments[0], Tensor):
        m.stack.append(arguments[0])
    else:
        raise Refused(f"calls {called}, which makes no tensor; nothing is read")


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError
    tensor = Tensor(storage, _whole((offset,))[0], _whole(shape), _whole(strides))
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > MAX_AXES:
        raise Refused(f"a tensor has {len(tensor.shape)} axes and {len(tensor.strides)} strides; {AGAIN}")
    return tensor


def _whole(values: Any) -> tuple[int, ...]:
    """`values` as sizes: whole numbers that are not negative."""
    if not isinstance(values, tuple | list) or not all(type(n) is int and 0 <= n < 2**48 for n in values):
        raise Refused(f"a tensor's sizes are damaged; {AGAIN}")
    return tuple(values)


def _build(m: Machine, _: str, __: Any) -> None:
    """What PyTorch hangs on a state_dict (`_metadata`: versions of its modules) is dropped."""
    m.stack.pop()
    if not isinstance(m.stack[-1], dict):
        raise Refused("sets attributes of something that is no table; nothing is read")


def _storage(m: Machine, _: str, __: Any) -> None:
    identity = m.stack.pop()
    if not isinstance(identity, tuple) or len(identity) != (6 if m.legacy else 5) or identity[0] != "storage":
        raise Refused("refers to something outside that is no storage; nothing is read")
    kind, key, numel = identity[1], identity[2], identity[4]
    if m.legacy and identity[5] is not None:
        raise Refused("holds views of storages, which only PyTorch before 0.4 wrote; save it again with a new one")
    if not isinstance(kind, Name) or kind.name not in STORAGES or not isinstance(key, str):
        raise TypeError
    dtype, itemsize = STORAGES[kind.name]
    found = Storage(key, dtype, itemsize, _whole((numel,))[0])
    if m.storages.setdefault(key, found) != found:
        raise Refused(f"describes storage {key} in two ways; {AGAIN}")
    m.stack.append(found)


def _mark(m: Machine, _: str, __: Any) -> None:
    m.marks.append(len(m.stack))


def _nothing(_: Machine, __: str, ___: Any) -> None:
    """Protocol and framing say nothing about the content."""


def called(value: Any) -> str:
    return "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__.lstrip('_').lower()}"


_DO: Final[Mapping[str, Do]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    "MARK": _mark,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT"), _push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "UNICODE"), _push),
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE"), _constant),
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"), _empty),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), _tuple),
    **dict.fromkeys(("APPEND", "APPENDS"), _append),
    **dict.fromkeys(("SETITEM", "SETITEMS"), _set),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _name),
    "REDUCE": _reduce,
    "BUILD": _build,
    "BINPERSID": _storage,
}
