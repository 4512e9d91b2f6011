"""Files of torch.save are read without PyTorch, and none can make the reader run anything."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saedsl.errors import SAEError
from saedsl.sae.tensorpickle import MAX_PROGRAM, read_header, read_numbers, read_tensors
from tests.sae.torchfiles import FOUR, Call, Named, Stored, archive, old, program, storage, tensor

GOLDEN = Path(__file__).parents[1] / "golden"
NEW = GOLDEN / "dictionary_learning_BatchTopKSAE" / "ae.pt"
OLD = GOLDEN / "dictionary_learning_BatchTopKSAE_older" / "ae.pt"


@pytest.mark.parametrize("path", [NEW, OLD])
def test_both_layouts_of_torch_save_hold_the_same_tensors(path: Path) -> None:
    header = read_header(path)
    assert {name: (t.dtype, t.shape) for name, t in header.items()} == {
        "encoder.weight": ("F32", (24, 8)),
        "encoder.bias": ("F32", (24,)),
        "decoder.weight": ("F32", (8, 24)),
        "b_dec": ("F32", (8,)),
        "k": ("I32", ()),
        "threshold": ("F32", ()),
    }
    tensors = read_tensors(path)
    for name, value in read_tensors(NEW).items():
        np.testing.assert_array_equal(tensors[name], value)
    assert tensors["k"] == 4
    assert read_numbers(path, "k") == [4]
    assert read_numbers(path, "threshold") == [np.float32(0.7)]


def test_bfloat16_is_the_rounded_float32() -> None:
    exact, rounded = (read_tensors(GOLDEN / f"dictionary_learning_AutoEncoder{v}" / "ae.pt") for v in ("", "_bf16"))
    assert rounded["bias"].dtype == np.float32
    np.testing.assert_allclose(rounded["encoder.weight"], exact["encoder.weight"], rtol=2**-8)
    assert (rounded["encoder.weight"] != exact["encoder.weight"]).any()


def test_views_are_cut_from_their_storage(tmp_path: Path) -> None:
    data = np.arange(12, dtype=np.float64)
    s = Stored("DoubleStorage", "0", 12)
    views = {"t": tensor(s, 0, (3, 4), (1, 3)), "part": tensor(s, 5, (2, 2), (4, 2)), "one": tensor(s, 11, (), ())}
    found = read_tensors(archive(tmp_path / "a.pt", views, s0=data.tobytes()))
    np.testing.assert_array_equal(found["t"], data.reshape(4, 3).T)
    np.testing.assert_array_equal(found["part"], [[5, 7], [9, 11]])
    assert found["one"] == 11


def test_only_tensors_of_the_names_asked_for_are_read() -> None:
    assert set(read_tensors(NEW, frozenset({"b_dec", "nothing"}))) == {"b_dec"}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_a_table_inside_a_checkpoint_is_found(tmp_path: Path, key: str) -> None:
    inner = {"w": tensor(Stored("FloatStorage", "0", 4), 0, (4,), (1,))}
    path = archive(tmp_path / "a.pt", {"step": 3, "lr": 0.5, "note": None, key: inner}, s0=FOUR)
    np.testing.assert_array_equal(read_tensors(path)["w"], [0, 1, 2, 3])


def test_pytorch_is_not_imported() -> None:
    code = f"import sys, saedsl.sae.tensorpickle as t; t.read_header(t.Path({str(NEW)!r})); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "mlx"} & set(loaded)


DANGEROUS: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda mark: Call(os.system, f"touch {mark}"),
    "eval": lambda mark: Call(builtins.eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: Call(builtins.exec, f"open({str(mark)!r}, 'w')"),
    "getattr": lambda mark: Call(builtins.getattr, "os", "system"),
    "getattr of a tensor": lambda mark: Call(
        builtins.getattr, tensor(Stored("FloatStorage", "0", 4), 0, (4,), (1,)), "a"
    ),
    "open": lambda mark: Call(builtins.open, str(mark), "w"),
    "import": lambda mark: Call(builtins.__import__, "os"),
    "torch.load": lambda mark: Call(Named("torch", "load"), str(mark)),
    "torch._utils": lambda mark: Call(Named("torch._utils", "_rebuild_device_tensor_from_numpy"), str(mark)),
    "torch.hub": lambda mark: Call(Named("torch.hub", "load"), str(mark)),
    "dotted": lambda mark: Call(Named("collections", "OrderedDict.__init__"), str(mark)),
    "storage with a path": lambda mark: Call(Named("torch", "FloatStorage"), str(mark)),
    "table from a call": lambda mark: Call(Named("collections", "OrderedDict"), [["a", 1]]),
    "defaultdict": lambda mark: collections.defaultdict(list, {"a": [1]}),
    "instance": lambda mark: zipfile.ZipInfo("a"),
    "set": lambda mark: {1, 2},
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_a_file_that_would_run_something_is_refused(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "ran"
    content = program({"w": DANGEROUS[name](mark)})
    for path in (archive(tmp_path / "a.pt", content, s0=FOUR), old(tmp_path / "b.pt", content, FOUR)):
        with pytest.raises(SAEError, match=r"nothing is read|in an unknown way|is damaged") as caught:
            read_header(path)
        assert str(path) in str(caught.value)
    assert not mark.exists()


def test_reading_dangerous_files_starts_nothing(tmp_path: Path) -> None:
    for i, make in enumerate(DANGEROUS.values()):
        archive(tmp_path / f"{i}.pt", program({"w": make(tmp_path / "ran")}), s0=FOUR)
    code = f"""
import sys
from pathlib import Path
from saedsl.errors import SAEError
from saedsl.sae.tensorpickle import read_header
files = sorted(Path({str(tmp_path)!r}).glob("*.pt"))
read_header(Path({str(NEW)!r}))
import encodings.ascii, encodings.cp437
sys.addaudithook(lambda event, _: print(event))
for file in files:
    try:
        read_header(file)
    except SAEError:
        continue
    print("was read")
"""
    events = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(events) <= {"open", "cpython._PySys_ClearAuditHooks"}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_every_protocol_are_refused_where_they_call(tmp_path: Path, protocol: int) -> None:
    evil = pickle.dumps({"w": Call(os.system, f"touch {tmp_path / 'ran'}")}, protocol)
    with pytest.raises(SAEError, match=r"names (posix|nt)\.system, which is code and no tensor; nothing is read"):
        read_header(archive(tmp_path / "a.pt", evil))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"\x80\x02(S'rm'\nios\nsystem\n.", "pickle instruction"),  # INST
        (b"\x80\x02}\x82\x01.", "pickle instruction EXT1"),
        (b"\x80\x02cos\nsystem\n)\x81.", "names os.system"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "pickle instruction NEWOBJ"),
        (b"\x80\x02}(U\x01ad.", "pickle instruction"),
        (b"\x80\x02]]b.", "sets attributes of something"),
        (b"\x80\x02]X\x01\x00\x00\x00aQ.", "no storage"),
        (b"\x80\x02K\x01K\x02R.", "calls something that is no constructor"),
        (b"\x80\x02R.", "is damaged"),
        (b"\x80\x02h\x07.", "is damaged"),
        (b"\x80\x02t.", "is damaged"),
        (b"\x80\x02}", "cut short"),
        (b"", "cut short"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "cut short"),
        (b"\x80\x02\x8b\xff\xff\xff\x7fa.", "cut short"),
        (b"\x80\x02].", "holds a list, not a table of named tensors"),
        (b"\x80\x02}.", "holds no tensors; save a state_dict"),
        (b"\x80\x02})K\x01s.", "has a tuple as a key"),
    ],
)
def test_instructions_that_tensors_do_not_need_are_refused(tmp_path: Path, instructions: bytes, message: str) -> None:
    with pytest.raises(SAEError, match=message):
        read_header(archive(tmp_path / "a.pt", instructions))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (tensor(storage(), 0, (5,), (1,)), "reaches beyond the 4 numbers"),
        (tensor(storage(), 1, (4,), (1,)), "reaches beyond the 4 numbers"),
        (tensor(storage(), 0, (2, 2), (3, 1)), "reaches beyond the 4 numbers"),
        (tensor(storage(), 0, (10**9, 10**9), (0, 0)), "reaches beyond the 4 numbers"),
        (tensor(storage(), -1, (1,), (1,)), "sizes are damaged"),
        (tensor(storage(), 0, (2,), (-1,)), "sizes are damaged"),
        (tensor(storage(), 0, (-2, -2), (1, 1)), "sizes are damaged"),
        (tensor(storage(), 0, (True,), (1,)), "sizes are damaged"),
        (tensor(storage(), 0, (2.0,), (1,)), "sizes are damaged"),
        (tensor(storage(), 0, (10**40,), (1,)), "sizes are damaged"),
        (tensor(storage(), 0, "ab", (1,)), "sizes are damaged"),
        (tensor(storage(), 0, (2,), (1, 1)), "1 axes and 2 strides"),
        (tensor(storage(), 0, (1,) * 9, (1,) * 9), "9 axes"),
        (tensor(storage(5), 0, (4,), (1,)), "cut short: w needs 20 bytes, there are 16"),
        (tensor(storage(10**12), 0, (10**12,), (1,)), "cut short"),
        (tensor(storage(key="7"), 0, (4,), (1,)), "the numbers of w are missing"),
        (tensor(storage(kind="UntypedStorage"), 0, (4,), (1,)), "names torch.UntypedStorage"),
        (tensor(storage(kind="Tensor"), 0, (4,), (1,)), "names torch.Tensor, which is code"),
        (tensor("w", 0, (4,), (1,)), "is damaged"),
    ],
)
def test_a_tensor_that_its_bytes_cannot_hold_is_refused(tmp_path: Path, view: Any, message: str) -> None:
    with pytest.raises(SAEError, match=message):
        read_header(archive(tmp_path / "a.pt", {"w": view}, s0=FOUR))


def test_a_storage_of_two_descriptions_is_refused(tmp_path: Path) -> None:
    both = {"a": tensor(storage(), 0, (4,), (1,)), "b": tensor(storage(2, "DoubleStorage"), 0, (2,), (1,))}
    with pytest.raises(SAEError, match="describes storage 0 in two ways"):
        read_header(archive(tmp_path / "a.pt", both, s0=FOUR))


def test_an_archive_that_would_unpack_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    view = {"w": tensor(storage(10**7), 0, (10**7,), (1,))}
    bomb = archive(tmp_path / "a.pt", view, zipfile.ZIP_DEFLATED, s0=bytes(4 * 10**7))
    assert bomb.stat().st_size < 10**5
    with pytest.raises(SAEError, match=r"data.pkl is compressed or encrypted, which torch.save does not do"):
        read_header(bomb)


def test_a_table_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="more than the 4000000 that tensors need"):
        read_header(archive(tmp_path / "a.pt", b"\x80\x02" + b"N0" * MAX_PROGRAM))


def test_parts_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", {"w": tensor(storage(), 0, (4,), (1,))}, s0=FOUR, s1=FOUR)
    content = bytearray(path.read_bytes())
    first, second = (content.index(b"archive/data/" + k, content.index(b"PK\x01\x02")) for k in (b"0", b"1"))
    content[second - 4 : second] = content[first - 4 : first]  # the offset of the local header
    path.write_bytes(content)
    with pytest.raises(SAEError, match="share bytes; nothing is read"):
        read_header(path)


@pytest.mark.parametrize("name", ["code.py", "plain text", "empty", "torchscript", "big-endian", "two tables"])
def test_other_files_are_refused_by_what_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pt"
    table = program({"w": tensor(storage(), 0, (4,), (1,))})
    parts = {
        "code.py": {"a.py": b"print()"},
        "torchscript": {"m/data.pkl": table, "m/constants.pkl": b""},
        "big-endian": {"m/data.pkl": table, "m/byteorder": b"big", "m/data/0": FOUR},
        "two tables": {"m/data.pkl": table, "n/data.pkl": table},
    }
    if name in parts:
        with zipfile.ZipFile(path, "w") as out:
            for part, data in parts[name].items():
                out.writestr(part, data)
    else:
        path.write_bytes(b"hello there" if name == "plain text" else b"")
    with pytest.raises(SAEError, match=r"not a file of torch.save|TorchScript|big-endian"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match=r"nothing\.pt: cannot be read"):
        read_header(tmp_path / "nothing.pt")


@pytest.mark.parametrize("path", [NEW, OLD])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "a.pt"
    damaged.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with suppress(SAEError):
        read_tensors(damaged)


@pytest.mark.parametrize("path", [NEW, OLD])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, path: Path) -> None:
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 37):
        cut = tmp_path / f"{length}.pt"
        cut.write_bytes(content[:length])
        with pytest.raises(SAEError):
            read_tensors(cut)
