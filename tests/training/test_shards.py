"""Harvested activations: what is read is what was written, killed harvests go on, damage is found and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import saedsl
from saedsl.cli import cli
from saedsl.demo.text import documents
from saedsl.errors import TrainingError
from saedsl.training import shards
from saedsl.training.shards import ShardSource, harvest_to_disk
from saedsl.training.stream import StreamSource
from tests.training.launch import launch

TEXTS = list(documents(120, 0))
SITES = ["L1.mlp", "L2.resid_pre"]


@pytest.fixture(scope="module")
def demo() -> saedsl.InterpretableModel:
    return saedsl.InterpretableModel.load("demo")


@pytest.fixture(scope="module")
def kept(demo: saedsl.InterpretableModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "activations"
    harvest_to_disk(demo, TEXTS, SITES, folder, 32, dtype="float32", shard_tokens=700)
    return folder


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    return Path(copytree(kept, tmp_path / "copied"))


def test_what_is_on_disk_is_what_the_stream_gives(demo: saedsl.InterpretableModel, kept: Path) -> None:
    x = StreamSource(demo, TEXTS, SITES, 32, window=700).sample(10**9)
    files = [load_file(f) for f in sorted(kept.glob("*.safetensors"))]
    for site in SITES:
        np.testing.assert_allclose(np.concatenate([f[site] for f in files]), x[site], atol=2e-4)
    owners = np.concatenate([f["document"] for f in files])
    assert (np.diff(owners) >= 0).all()
    assert set(owners.tolist()) == set(range(len(TEXTS)))
    assert sorted(p.name for p in kept.iterdir())[-1] == "manifest.json"


def test_float16_is_the_same_rounded(demo: saedsl.InterpretableModel, kept: Path, tmp_path: Path) -> None:
    half = harvest_to_disk(demo, TEXTS, SITES, tmp_path / "half", 32, shard_tokens=700)
    a, b = ShardSource(kept).sample(10**6), half.sample(10**6)
    assert b["L1.mlp"].dtype == np.float32
    np.testing.assert_array_equal(a["L1.mlp"].astype(np.float16), b["L1.mlp"].astype(np.float16))


@pytest.mark.parametrize("window", [50, 100, 700, 10**6])
def test_each_pass_has_every_token_once_in_an_order_of_its_own(kept: Path, window: int) -> None:
    source = ShardSource(kept, window=window)
    everything = np.concatenate([load_file(f)["L1.mlp"] for f in sorted(kept.glob("*.safetensors"))])
    v = np.random.default_rng(0).standard_normal(128)
    first, second = (b.arrays["L1.mlp"] @ v for b in islice(source.batches(source.tokens, 3), 2))
    for got in (first, second):
        np.testing.assert_allclose(np.sort(got), np.sort(everything @ v), rtol=1e-9)
        assert np.abs(np.corrcoef(got, everything @ v)[0, 1]) < 0.2
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("side", [None, 0, 1])
def test_from_any_cursor_batches_go_on_bitwise(kept: Path, side: int | None) -> None:
    def source() -> ShardSource:
        whole = ShardSource(kept, window=300)
        return whole if side is None else whole.split(0.3)[side]

    whole = list(islice(source().batches(170, 5), 40))
    assert whole[-1].cursor["pass"] >= 1
    for stop in (1, 2, 3, 11, 25, 33):
        again = islice(source().batches(170, 5, json.loads(json.dumps(whole[stop - 1].cursor))), 3)
        for a, b in zip(whole[stop : stop + 3], again, strict=True):
            assert a.cursor == b.cursor
            np.testing.assert_array_equal(a.arrays["L2.resid_pre"], b.arrays["L2.resid_pre"])


def test_a_split_is_by_document_and_that_of_the_stream(demo: saedsl.InterpretableModel, kept: Path) -> None:
    whole = ShardSource(kept)
    train, held = whole.split(0.3, seed=2)
    assert train.tokens + held.tokens == whole.tokens
    assert len({whole.identity, train.identity, held.identity}) == 3
    from saedsl.training.stream import FIRST

    place: Any = {"pass": 0, "window": 0}
    event = __import__("threading").Event()
    stream = StreamSource(demo, TEXTS, SITES, 32).split(0.3, seed=2)[1]
    mine = set(held._read(place, 0).documents.tolist())
    assert mine == set(stream.window(FIRST, event).documents.tolist())
    assert not mine & set(train._read(place, 0).documents.tolist())
    with pytest.raises(TrainingError, match=r"a share of 1e-05 leaves one side without documents"):
        whole.split(1e-5)


def test_a_killed_harvest_goes_on_and_ends_the_same(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    code = (
        "import os, sys, saedsl\nfrom saedsl.demo.text import documents\nfrom saedsl.training import shards\n"
        "def at(n):\n    if n > 1500: os.kill(os.getpid(), 9)\n"
        "shards.harvest_to_disk(saedsl.InterpretableModel.load('demo'), list(documents(120, 0)), "
        f"{SITES}, sys.argv[1], 32, dtype='float32', shard_tokens=700, progress=at)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=root, timeout=60)
    assert done.returncode == -9
    with pytest.raises(TrainingError, match=r"the harvest is not finished \(3 shards, \d+ tokens\); run it again"):
        ShardSource(folder)
    (folder / "activations-00003.safetensors").write_bytes(b"half of one")  # killed before the manifest knew it
    (folder / "activations-00004.safetensors.part").write_bytes(b"half of one")
    seen: list[int] = []
    model = saedsl.InterpretableModel.load("demo")
    harvest_to_disk(model, TEXTS, SITES, folder, 32, dtype="float32", shard_tokens=700, progress=seen.append)
    assert seen[0] > 2100
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {f.name: f.read_bytes() for f in kept.iterdir()}
    harvest_to_disk(model, TEXTS, SITES, folder, 32, dtype="float32", shard_tokens=700, progress=seen.append)
    assert seen[-1] == ShardSource(kept).tokens  # nothing is read anew


def test_several_processes_harvest_the_bytes_of_one(kept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "together"
    script = f"""
import saedsl
from saedsl.demo.text import documents
from saedsl.training.parallel import join
from saedsl.training.shards import harvest_to_disk
model = saedsl.InterpretableModel.load("demo")
made = []
harvest_to_disk(
    model, list(documents(120, 0)), {SITES}, OUT / "together", 32, dtype="float32", shard_tokens=700,
    progress=made.append, parallel=join(),
)
(OUT / f"{{RANK}}.txt").write_text(str(len(made)))
"""
    done = launch(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {f.name: f.read_bytes() for f in kept.iterdir()}
    rounds = -(-ShardSource(kept).shards // 2)
    assert [(tmp_path / f"{r}.txt").read_text() for r in range(2)] == [str(rounds)] * 2


def test_max_tokens_is_exact(demo: saedsl.InterpretableModel, tmp_path: Path) -> None:
    source = harvest_to_disk(demo, TEXTS, SITES, tmp_path / "a", 32, shard_tokens=300, max_tokens=1000)
    assert (source.tokens, source.shards) == (1000, 4)


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**data, **changes}))

    return change


def cut(folder: Path) -> None:
    path = folder / "activations-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def swap(folder: Path) -> None:
    last = sorted(folder.glob("*.safetensors"))[-1]
    (folder / "activations-00001.safetensors").write_bytes(last.read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "activations-00001.safetensors").unlink(), "00001.safetensors: this shard is missing; copy it"),
        (cut, "activations-00001.safetensors: cut short: the tensors need"),
        (lambda f: (f / "activations-00001.safetensors").write_bytes(b""), "not a safetensors file"),
        (swap, "the shard is of another harvest"),
        (lambda f: (f / "manifest.json").unlink(), "no harvested activations here (no manifest.json)"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: cannot be read ("),
        (lambda f: (f / "manifest.json").write_text("{}"), "not a manifest of harvested activations"),
        (edit(version=9), "version 9, this saedsl reads 1; install the newer one"),
        (edit(tokens=3), "damaged: its entries contradict one another"),
        (edit(shards=[{}]), "damaged (KeyError: 'file')"),
        (edit(widths={"L1.mlp": 64, "L2.resid_pre": 128}), "L1.mlp is F32 [7"),
        (edit(dtype="float16"), "but manifest.json says F16 ["),
        (edit(shards=[], tokens=0), "the harvest has no tokens: there is nothing to train on"),
    ],
    ids=["missing", "cut", "empty", "swapped", "no-manifest", "json", "kind", "version", "tokens", "entry", "width",
         "dtype", "no-shards"],
)  # fmt: skip
def test_a_damaged_folder_is_refused(damage: Callable[[Path], None], message: str, copied: Path) -> None:
    damage(copied)
    with pytest.raises(TrainingError) as e:
        ShardSource(copied)
    assert message in str(e.value)


def test_verify_finds_one_changed_byte(copied: Path) -> None:
    ShardSource(copied).verify()
    path = copied / "activations-00002.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(TrainingError, match=r"00002.safetensors: its bytes are not those that were written \(SHA-256"):
        ShardSource(copied).verify()


def test_activations_of_another_model_are_refused(kept: Path, copied: Path, demo: saedsl.InterpretableModel) -> None:
    ShardSource(kept, model=demo)
    parts = json.loads((copied / "manifest.json").read_text())["parts"]
    edit(parts={**parts, "model": "0" * 64})(copied)
    with pytest.raises(TrainingError, match=r"harvested from demo, whose weights are others than those of this demo"):
        ShardSource(copied, model=demo)


def test_nan_on_disk_is_refused(copied: Path) -> None:
    path = copied / "activations-00000.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(raw)
    with pytest.raises(TrainingError, match=r"hold NaN or infinity in 1 of"):
        next(ShardSource(copied).batches(10, 0))


def test_a_shard_lost_while_training_is_named(copied: Path) -> None:
    batches = ShardSource(copied, window=100).batches(100, 0)
    next(batches)
    for f in copied.glob("*.safetensors"):
        f.unlink()
    with pytest.raises(TrainingError, match=r"this shard cannot be read any more"):
        list(islice(batches, 5))


def test_another_harvest_is_never_mixed_in(copied: Path, tmp_path: Path, demo: saedsl.InterpretableModel) -> None:
    with pytest.raises(TrainingError, match=r"holds another harvest: context, dtype, window differ"):
        harvest_to_disk(demo, TEXTS, SITES, copied, 64)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(TrainingError, match=r"holds other files \(notes.txt\); harvest into a new folder"):
        harvest_to_disk(demo, TEXTS, SITES, tmp_path / "mine")
    with pytest.raises(TrainingError, match=r"notes.txt: cannot be made a folder"):
        harvest_to_disk(demo, TEXTS, SITES, tmp_path / "mine" / "notes.txt")
    with pytest.raises(TrainingError, match=r"these texts have no tokens but BOS and padding: there is nothing to h"):
        harvest_to_disk(demo, [" "], SITES, tmp_path / "empty")
    with pytest.raises(TrainingError, match=r"dtype is 'int8'; activations are kept as float16 or float32"):
        harvest_to_disk(demo, TEXTS, SITES, tmp_path / "x", dtype="int8")  # type: ignore[arg-type]


def test_what_float16_cannot_hold_is_refused(
    tmp_path: Path, demo: saedsl.InterpretableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_HALF", 0.5)
    with pytest.raises(
        TrainingError, match=r"activations at L1.mlp reach .*, float16 ends at 65504: harvest as float32"
    ):
        harvest_to_disk(demo, TEXTS, SITES, tmp_path / "a")


def test_a_full_disk_leaves_the_shards_before_it(
    tmp_path: Path, demo: saedsl.InterpretableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls = tmp_path / "a", []
    plain = os.fsync

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        plain(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match=r"cannot be written .*No space left.*; the 2 shards before it are whole"):
        harvest_to_disk(demo, TEXTS, SITES, folder, 32, shard_tokens=700)
    monkeypatch.undo()
    assert not list(folder.glob("*.part"))
    assert harvest_to_disk(demo, TEXTS, SITES, folder, 32, shard_tokens=700).shards > 2


def test_the_command_harvests_and_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(TEXTS))
    arguments = ["harvest", str(tmp_path / "a.txt"), "-m", "demo", "-s", "L1.mlp", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*arguments, "--tokens", "500", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["tokens"], found["shards"], found["widths"], found["dtype"]) == (500, 1, {"L1.mlp": 128}, "float16")
    assert found["identity"] == ShardSource(tmp_path / "out").identity
    again = CliRunner().invoke(cli, [*arguments, "--tokens", "500"])
    assert "500 tokens at L1.mlp, 1 shards" in again.output
    other = CliRunner().invoke(cli, [*arguments, "--json"])
    assert other.exit_code == 2
    assert "holds another harvest: max_tokens differ" in json.loads(other.stdout)["error"]["message"]
    wrong = CliRunner().invoke(cli, [*arguments[:5], "nowhere", "-o", str(tmp_path / "b")])
    assert wrong.exit_code == 2
