"""Sums and gathers in real processes under `mlx.launch`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saedsl.training import parallel
from tests.training.launch import launch, start_each

START = """
import json
import numpy as np
from saedsl.errors import TrainingError
from saedsl.training.parallel import join
p = join()
"""


@pytest.mark.parametrize("n", [2, 3])
def test_sums_and_gathers_are_the_same_bits_everywhere(tmp_path: Path, n: int) -> None:
    script = (
        START
        + """
mine = np.random.default_rng(RANK).standard_normal((5, 3))
found = {
    "size": p.size,
    "rank": p.rank,
    "float32": p.sum(mine.astype(np.float32)).tobytes().hex(),
    "float64": p.sum(mine).tobytes().hex(),
    "int": p.sum(np.arange(4, dtype=np.int32) + RANK).tolist(),
    "gather": p.gather(np.array([[RANK, 0.1]])).tolist(),
    "bool": p.gather(np.array(RANK == 1)).tolist(),
    "scalar": p.sum(np.array(1.5)).shape,
}
(OUT / f"{RANK}.json").write_text(json.dumps(found))
"""
    )
    done = launch(script, tmp_path, n)
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{r}.json").read_text()) for r in range(n)]
    assert [f.pop("rank") for f in found] == list(range(n))
    assert all(f == found[0] for f in found)
    assert found[0]["size"] == n
    assert found[0]["int"] == [sum(range(n)) + n * i for i in range(4)]
    assert found[0]["gather"] == [[[r, 0.1]] for r in range(n)]
    assert found[0]["bool"] == [r == 1 for r in range(n)]
    assert found[0]["scalar"] == []


def test_a_process_that_dies_ends_the_others_with_a_clear_error(tmp_path: Path) -> None:
    script = (
        START
        + """
import os, signal
for i in range(1000):
    if RANK == 1 and i == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        p.sum(np.ones(1000, np.float32))
    except TrainingError as e:
        raise SystemExit(str(e))
"""
    )
    (code, errors), (killed, _) = start_each(script, tmp_path)
    assert (code, killed) == (1, -9)
    said = errors.rstrip().splitlines()[-1]
    assert said.startswith("process 0 of 2 lost another one (")
    assert said.endswith("the last checkpoint is whole: start all of them again to go on from it")


def test_processes_that_were_given_different_things_are_told(tmp_path: Path) -> None:
    script = (
        START
        + """
p.agree("the same", "the data")
try:
    p.agree(str(RANK), "the config")
except TrainingError as e:
    (OUT / f"{RANK}.txt").write_text(str(e))
"""
    )
    done = launch(script, tmp_path)
    assert done.returncode == 0, done.stderr
    for r in range(2):
        said = (tmp_path / f"{r}.txt").read_text()
        assert said == "the config of process 1 is another than process 0's; give all the same"


def test_a_process_alone_has_nobody_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_RANK", raising=False)
    assert parallel.join() is None
