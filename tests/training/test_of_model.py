"""Dictionaries of a model's own activations, from Python and from the command line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import saedsl
from saedsl.cli import cli
from saedsl.demo.text import documents
from saedsl.errors import SAEError, TrainingError
from saedsl.training.arrays import ArraySource
from saedsl.training.config import SAEConfig
from saedsl.training.learner import Learner
from saedsl.training.of_model import Where, jobs_at, source_at, train_at
from saedsl.training.stopping import Interrupted
from saedsl.training.stream import StreamSource
from saedsl.training.trainer import train

TEXTS = list(documents(70, seed=5))
CONFIG = SAEConfig(d_sae=64, k=4, batch_size=128, num_epochs=1, learning_rate=5e-3, validation_share=0.2)


@pytest.fixture(scope="module")
def demo() -> saedsl.InterpretableModel:
    return saedsl.InterpretableModel.load("demo")


def test_one_site_gives_a_dictionary_that_says_where_it_is_from(demo: saedsl.InterpretableModel) -> None:
    sae = demo.train_sae(1, "mlp", TEXTS, CONFIG, progress=False)
    assert (str(sae.config.input_site), sae.config.model_name, sae.config.context_size) == ("L1.mlp", "demo", 128)


def test_several_sites_give_a_dictionary_each_with_their_reports(
    demo: saedsl.InterpretableModel, tmp_path: Path
) -> None:
    found = demo.train_sae([0, 2], ["mlp", "resid_post"], TEXTS, CONFIG, tmp_path / "saes", progress=False)
    assert isinstance(found, dict)
    names = ["L0.mlp", "L0.resid_post", "L2.mlp", "L2.resid_post"]
    assert sorted(found) == names
    assert sorted(p.name for p in (tmp_path / "saes").iterdir()) == sorted(
        [*names, *(f"{n}.report.json" for n in names)]
    )
    report = json.loads((tmp_path / "saes" / "L2.mlp.report.json").read_text())
    assert report["ce_recovered"] is not None
    assert found["L2.mlp"].sha256 == saedsl.SAE.load(tmp_path / "saes" / "L2.mlp").sha256


def test_an_output_makes_a_transcoder(demo: saedsl.InterpretableModel) -> None:
    sae = demo.train_sae(1, "mlp.in", TEXTS, CONFIG, output="mlp", progress=False)
    assert (sae.config.kind, str(sae.config.input_site), str(sae.config.output_site)) == (
        "transcoder", "L1.mlp.in", "L1.mlp",
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["crosscoder", "clt"])
def test_a_kind_of_several_sites_gives_one_dictionary(demo: saedsl.InterpretableModel, kind: Any) -> None:
    config = SAEConfig(kind=kind, d_sae=64, k=4, batch_size=128, num_epochs=1)
    output = "mlp" if kind == "clt" else None
    sae = demo.train_sae([0, 1], "mlp.in" if kind == "clt" else "mlp", TEXTS, config, output=output, progress=False)
    assert isinstance(sae, saedsl.SAE)
    assert [str(s) for s in sae.config.output_sites] == ["L0.mlp", "L1.mlp"]


def test_activations_are_kept_in_memory_where_they_fit(demo: saedsl.InterpretableModel) -> None:
    pairs = Where((1,), ("mlp",)).pairs(demo)
    small = source_at(demo, pairs, TEXTS, CONFIG)
    assert isinstance(small, ArraySource)
    stream = source_at(demo, pairs, TEXTS, CONFIG, memory=1000)
    assert isinstance(stream, StreamSource)
    assert stream.count() == small.tokens
    some = source_at(demo, pairs, TEXTS, SAEConfig(num_tokens=4096), max_tokens=500)
    assert some.tokens == 500


def test_streamed_activations_train_for_the_epochs_that_were_asked_for(demo: saedsl.InterpretableModel) -> None:
    where = Where((1,), ("mlp",))
    (streamed,) = train_at(demo, where, TEXTS, CONFIG, memory=1000, progress=False).values()
    (held,) = train_at(demo, where, TEXTS, CONFIG, progress=False).values()
    assert streamed.report.steps == held.report.steps
    assert held.report.validation[-1].tokens == streamed.report.validation[-1].tokens
    assert streamed.report.validation[-1].explained_variance == pytest.approx(
        held.report.validation[-1].explained_variance, abs=0.1
    )


def test_a_streamed_training_resumes_exactly(
    demo: saedsl.InterpretableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    source = StreamSource(demo, TEXTS, ["L1.mlp"], 64, window=500)
    config = replace(CONFIG, num_tokens=128 * 20)
    whole = train(source, config, progress=False)
    original = Learner.step

    def pressed(self: Any, at: int, arrays: Any) -> Any:
        if at == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, at, arrays)

    with monkeypatch.context() as m:
        m.setattr(Learner, "step", pressed)
        with pytest.raises(Interrupted):
            train(source, config, checkpoint_path=tmp_path, progress=False)
    again = train(source, config, checkpoint_path=tmp_path, progress=False)
    assert again.report.resumed == (13,)
    assert again.sae.sha256 == whole.sae.sha256


def test_a_curriculum_by_length_reads_short_texts_first(demo: saedsl.InterpretableModel) -> None:
    from dataclasses import replace

    where = Where((1,), ("mlp",))
    by_length = replace(CONFIG, curriculum="length")
    source = source_at(demo, where.pairs(demo), TEXTS, by_length)
    assert isinstance(source, StreamSource)
    assert source.order == "length"
    assert train_at(demo, where, TEXTS, by_length, progress=False)["L1.mlp"].report.steps > 0


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (Where((9,), ("mlp",)), ValueError, r"this model has 4 layers: L0\.\.L3"),
        (Where((), ("mlp",)), TrainingError, "name a layer and a component to train a dictionary at"),
        (Where((1,), ("mlp.in",), ("mlp", "attn")), TrainingError, "1 components but 2 outputs; each component has"),
    ],
)
def test_sites_that_are_not_there_are_refused(
    demo: saedsl.InterpretableModel, where: Where, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        train_at(demo, where, TEXTS, CONFIG)


def test_texts_of_nothing_but_padding_are_refused(demo: saedsl.InterpretableModel) -> None:
    with pytest.raises(TrainingError, match="have no tokens"):
        demo.train_sae(1, "mlp", ["", " "], CONFIG, progress=False)


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_runs(
    demo: saedsl.InterpretableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "L1.mlp").mkdir()
    (tmp_path / "L1.mlp" / "mine.txt").write_text("mine")
    monkeypatch.setattr(saedsl.InterpretableModel, "activations", None)
    with pytest.raises(SAEError, match=r"holds mine\.txt"):
        train_at(demo, Where((1, 2), ("mlp",)), TEXTS, CONFIG, save_path=tmp_path)


def test_two_dictionaries_that_write_one_site_have_names_of_their_own(demo: saedsl.InterpretableModel) -> None:
    pairs = Where((1,), ("mlp.in", "resid_mid"), ("mlp", "mlp")).pairs(demo)
    assert list(jobs_at(pairs, CONFIG)) == ["L1.mlp.in-L1.mlp", "L1.resid_mid-L1.mlp"]


# The command ----------------------------------------------------------------------------------------------------------

FILE = """
[model]
name = "demo"
layer = 1
component = "mlp"
[data]
path = "texts.jsonl"
[sae]
d_sae = 64
k = 4
batch_size = 128
num_epochs = 1
learning_rate = 5e-3
[output]
path = "out/sae"
figure = "report.svg"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and its texts; commands are called from elsewhere."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "texts.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in TEXTS))
    (home / "c.toml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return home


def call(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["train", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_a_file_is_trained_with_paths_relative_to_it(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    code, out, _ = call("home/c.toml", "--json")
    assert code == 0
    (report,) = json.loads(out).values()
    assert Path(report["path"]) == Path("home/out/sae")
    assert report["steps"] == report["curve"][-1]["step"]
    assert sorted(p.name for p in folder.iterdir()) == ["c.toml", "out", "report.svg", "texts.jsonl"]
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["sae", "sae.report.json"]
    assert saedsl.SAE.load(folder / "out" / "sae").config.k == 4


def test_a_dry_run_says_sizes_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    code, out, _ = call("home/c.toml", "--dry-run", "--json")
    assert code == 0
    found = json.loads(out)["L1.mlp"]
    assert (found["d_in"], found["d_sae"], found["parameters"]) == (128, 64, 2 * 128 * 64 + 64 + 128)
    assert found["checkpoint_bytes"] == 12 * found["parameters"]
    assert found["steps"] > 1
    assert sorted(folder.rglob("*")) == before


def test_an_interrupted_training_goes_on_with_resume_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Learner.step

    def pressed(self: Any, at: int, arrays: Any) -> Any:
        if at == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, at, arrays)

    with monkeypatch.context() as m:
        m.setattr(Learner, "step", pressed)
        code, _, err = call("home/c.toml")
    assert code == 130
    assert "stopped after step 3 of" in err
    assert "home/out/sae.checkpoint holds the checkpoint: add --resume to go on" in err
    code, _, err = call("home/c.toml")
    assert code == 2
    assert "holds a checkpoint of step 3: resume it, or delete the folder to start anew" in err
    code, out, _ = call("home/c.toml", "--resume", "--json")
    assert code == 0
    assert json.loads(out)["L1.mlp"]["resumed"] == [3]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("k = 4", "kk = 4", "[sae] has no kk; did you mean k?"),
        ("learning_rate = 5e-3", "leraning_rate = 1", "[sae] has no leraning_rate; did you mean learning_rate?"),
        ("layer = 1", "layers = 1", "[model] has no layers; did you mean layer?"),
        ("layer = 1", 'layer = "1"', "[model] layer is '1'; it is a whole number or a list of numbers"),
        ("layer = 1", "layer = 9", "this model has 4 layers: L0..L3"),
        ("[output]", "[outputs]", "there is no table [outputs]; did you mean output?"),
        ('path = "out/sae"', "", "[output] needs path"),
        ("k = 4", "k = 0", "this training cannot run: k is 0, not a positive whole number"),
        ("texts.jsonl", "text.jsonl", "there is no such file or folder"),
        ("k = 4", "k = = 4", "c.toml: not TOML"),
        ("report.svg", "report.gif", "report.gif: a figure is .pdf, .svg or .png"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "c.toml").write_text(FILE.replace(old, new))
    code, _, err = call("home/c.toml")
    assert code == 2
    assert message in err
    assert not (folder / "out").exists()


def test_harvested_activations_are_a_data_set(folder: Path, demo: saedsl.InterpretableModel) -> None:
    from saedsl.training.shards import harvest_to_disk

    harvest_to_disk(demo, TEXTS, ["L1.mlp"], folder / "acts")
    (folder / "c.toml").write_text(FILE.replace("texts.jsonl", "acts").replace('figure = "report.svg"', ""))
    code, out, _ = call("home/c.toml", "--json")
    assert code == 0
    assert np.isfinite(json.loads(out)["L1.mlp"]["validation"][-1]["explained_variance"])
