"""Sweeps: rows of one forward are what one forward each gives, and a sweep that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from saedsl.circuits import patching, prepared
from saedsl.circuits.effects import NodeEffects, node_effects
from saedsl.circuits.metric import TokenDifference
from saedsl.circuits.prepared import Setup
from saedsl.errors import CircuitError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from tests.circuits.flow_tasks import CLEAN, CORRUPT, METRIC

SAEOf = Callable[..., SAE]


@pytest.fixture
def exact(llama: InterpretableModel, sae_of: SAEOf) -> Callable[..., NodeEffects]:
    """Exact effects of two sites' nodes, with other arguments."""
    saes = [sae_of(site="L0.mlp", trained_on_bos=False), sae_of(site="L1.resid_post", seed=1, trained_on_bos=False)]

    def run(results: Path | None = None, **more: object) -> NodeEffects:
        given = {"metric": METRIC, "corrupt": CORRUPT, "batch_rows": 16, **more}
        return node_effects(llama, saes, CLEAN, method="exact", results=results, **given)  # type: ignore[arg-type]

    return run


def test_a_batch_of_nodes_is_each_node_by_itself(exact: Callable[..., NodeEffects]) -> None:
    np.testing.assert_allclose(exact(batch_rows=64).effect, exact(batch_rows=1).effect, atol=2e-5)


def test_progress_counts_nodes(exact: Callable[..., NodeEffects]) -> None:
    calls: list[tuple[int, int]] = []
    effects = exact(progress=lambda i, n: calls.append((i, n)))
    moving = sum(int(s.delta.any(axis=1).sum()) for s in effects.sites)
    assert moving < effects.n
    assert {n for _, n in calls} == {moving}
    assert [i for i, _ in calls] == sorted({i for i, _ in calls})
    assert calls[-1] == (moving, moving)


class Stopped(Exception):
    pass


def stopping_after(batches: int) -> Callable[[int, int], None]:
    calls: list[int] = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == batches:
            raise Stopped

    return progress


def test_a_stopped_sweep_goes_on_where_it_was(
    exact: Callable[..., NodeEffects], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, path = exact(), tmp_path / "sweep.jsonl"
    with pytest.raises(Stopped):
        exact(path, progress=stopping_after(3))
    kept = path.read_bytes()
    assert len(kept.splitlines()) == 4
    path.write_bytes(kept + b'{"from": 48, "effects": [0.1')  # killed in the middle of a line
    rows: list[int] = []
    plain = prepared.run_from

    def counted(task: Setup, site: Site, delta: mx.array, prompts: Sequence[int]) -> mx.array:
        rows.append(len(prompts))
        return plain(task, site, delta, prompts)

    monkeypatch.setattr(patching, "run_from", counted)
    calls: list[int] = []
    resumed = exact(path, batch_rows=7, progress=lambda i, n: calls.append(i))
    np.testing.assert_allclose(resumed.effect, whole.effect, atol=2e-5)
    assert sum(rows) == sum(int(s.delta.any(axis=1).sum()) for s in whole.sites) - 48
    assert calls[0] == 48
    assert path.read_bytes().startswith(kept)
    rows.clear()
    again = exact(path)
    np.testing.assert_array_equal(again.effect, resumed.effect)
    assert not rows


def test_the_file_says_what_was_swept(
    exact: Callable[..., NodeEffects], tmp_path: Path, llama: InterpretableModel
) -> None:
    path = tmp_path / "sweep.jsonl"
    effects = exact(path)
    header, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    moved = np.concatenate([s.delta.any(axis=1) for s in effects.sites])
    assert (header["format"], header["total"]) == ("saedsl-sweep", moved.sum())
    assert not effects.effect[~moved].any()
    assert header["of"]["model"] == llama.sha256
    assert header["of"]["clean"] == [CLEAN]
    assert np.concatenate([line["effects"] for line in lines]) == pytest.approx(effects.effect[moved], abs=0)


def test_a_sweep_killed_in_its_first_line_starts_again(exact: Callable[..., NodeEffects], tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    whole = exact(path)
    path.write_bytes(path.read_bytes()[:40])
    np.testing.assert_array_equal(exact(path).effect, whole.effect)


@pytest.mark.parametrize(("change", "what"), [
    ({"metric": TokenDifference(((9,),), text="9")}, "metric"),
    ({"corrupt": None}, "corrupt, nodes"),
])  # fmt: skip
def test_another_sweep_is_not_mixed_in(
    change: dict[str, object], what: str, exact: Callable[..., NodeEffects], tmp_path: Path
) -> None:
    path = tmp_path / "sweep.jsonl"
    exact(path)
    before = path.read_bytes()
    with pytest.raises(CircuitError) as error:
        exact(path, **change)
    assert f"holds another sweep (another {what}); give another name for the results, or remove it" in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("content", "message"), [
    ("hello\n", "not a file of a sweep; give another name for its results"),
    ("hello", "not a file of a sweep; give another name for its results"),
    ('{"format": "saedsl-sweep", "version": 9}\n', "a sweep of version 9; this saedsl has version 1"),
])  # fmt: skip
def test_other_files_are_left_alone(
    content: str, message: str, exact: Callable[..., NodeEffects], tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(CircuitError) as error:
        exact(path)
    assert str(error.value) == f"{path}: {message}"
    assert path.read_text() == content


@pytest.mark.parametrize("line", ['{"from": 16, "effects": [NaN]}', '{"from": 3, "effects": [0.5]}', "[]", "x"])
def test_damage_is_told_by_its_line(line: str, exact: Callable[..., NodeEffects], tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    with pytest.raises(Stopped):
        exact(path, progress=stopping_after(1))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(CircuitError) as error:
        exact(path)
    assert str(error.value) == f"{path}:3: damaged; cut the file off before this line, or remove it"


def test_a_metric_that_cannot_be_written_down_cannot_be_resumed(
    exact: Callable[..., NodeEffects], tmp_path: Path
) -> None:
    with pytest.raises(CircuitError) as error:
        exact(tmp_path / "sweep.jsonl", metric=lambda logits: logits[:, -1, 3])
    assert "a sweep that can go on later needs a metric that can be written down" in str(error.value)
    assert not (tmp_path / "sweep.jsonl").exists()


def test_a_folder_that_is_not_there_is_told(exact: Callable[..., NodeEffects], tmp_path: Path) -> None:
    with pytest.raises(CircuitError) as error:
        exact(tmp_path / "none" / "sweep.jsonl")
    assert (
        str(error.value)
        == f"{tmp_path / 'none' / 'sweep.jsonl'}: cannot be read or written (No such file or directory)"
    )
