"""Statistics of features, against numpy over everything at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from saedsl.cli import cli
from saedsl.errors import SAEError
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE
from saedsl.sae.header import SAEInfo
from saedsl.sae.statistics import FILE, Digest, moments
from tests import oracle

TEXTS = ["The cat sat on the mat", "Paris", "", "a dog in Rome, and a cat", "the the the"]


def test_moments_do_not_depend_on_the_blocks() -> None:
    rng = np.random.default_rng(0)
    f = np.maximum(rng.standard_normal((1000, 7)), 0).astype(np.float32)
    f[:, 3] = 1e4 + 1e-2 * rng.standard_normal(1000)  # a deviation far below the mean
    f[:, 4] = 0
    for cuts in ([], [1], [0, 0, 999], list(range(1000)), [300, 700]):
        m = moments(np.split(f, cuts))
        x = f.astype(np.float64)
        assert m.tokens == 1000
        np.testing.assert_array_equal(m.max, x.max(axis=0))
        np.testing.assert_array_equal(m.frequency, (x > 0).mean(axis=0))
        np.testing.assert_allclose(m.mean, x.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(m.std, x.std(axis=0), rtol=1e-9)


def test_texts_without_tokens_have_no_statistics() -> None:
    with pytest.raises(SAEError, match="these texts have no tokens"):
        moments([np.zeros((0, 3), np.float32)])


def test_the_digest_tells_texts_apart() -> None:
    def of(*texts: str) -> str:
        digest = Digest()
        assert list(digest.seen(texts)) == list(texts)
        return digest.sha256

    assert len({of("ab", "c"), of("a", "bc"), of("abc"), of("abc", ""), of("", "abc"), of("c", "ab")}) == 6
    assert of("ab") == of("ab")


@pytest.mark.parametrize(
    "kind",
    [
        {"activation": "relu"},
        {"activation": "jumprelu", "normalize": "layer_norm"},
        {"activation": "topk"},
        {"activation": "relu", "read": "L1.mlp.in"},
    ],
    ids=str,
)
def test_statistics_are_those_of_every_token_but_bos(
    kind: dict[str, Any],
    llama: InterpretableModel,
    reference_of: Callable[[str], oracle.Model],
    sae_of: Callable[..., SAE],
    plain: Callable[[SAE], oracle.Dictionary],
) -> None:
    sae = sae_of(site="L1.mlp", **kind)
    site = str(sae.config.input_site)
    rows = []
    for text in TEXTS:
        ids = list(llama.encoder.encode(text).ids)
        if len(ids) > 1:
            x = reference_of("llama").forward(ids)[1][site][1:]
            rows.append(plain(sae).encode(x))
    f = np.concatenate(rows)
    found = llama.feature_statistics(sae, TEXTS)
    assert found.tokens == len(f) == 30
    np.testing.assert_allclose(found.max, f.max(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.mean, f.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.std, f.std(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.frequency, (f > 0).mean(axis=0), atol=1e-6)
    assert (found.site, found.model, found.weights) == (site, "tiny-llama", sae.sha256)


@pytest.fixture
def counted(tmp_path: Path, llama: InterpretableModel, sae_of: Callable[..., SAE]) -> Path:
    """A folder of a dictionary with statistics."""
    folder = tmp_path / "sae"
    sae = sae_of(site="L0.mlp").save(folder)
    llama.feature_statistics(sae, TEXTS).save(folder)
    return folder


def test_statistics_are_kept_beside_the_weights(counted: Path, llama: InterpretableModel) -> None:
    info = SAEInfo.read(counted)
    assert info.statistics is not None
    assert info.statistics.path == (counted / FILE).absolute()
    sae, fresh = SAE.load(counted), llama.feature_statistics(counted, TEXTS)
    for name in ("max", "std", "mean", "frequency"):
        value = getattr(sae.statistics, name)
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, getattr(fresh, name))
    assert (sae.statistics.tokens, sae.statistics.texts) == (fresh.tokens, fresh.texts)
    assert sorted(p.name for p in counted.iterdir()) == ["cfg.json", "sae_weights.safetensors", FILE]


def test_a_dictionary_without_statistics_says_how_to_get_them(sae_folder: Path) -> None:
    assert SAEInfo.read(sae_folder).statistics is None
    with pytest.raises(SAEError) as caught:
        _ = SAE.load(sae_folder).statistics
    assert str(caught.value) == (
        f"{sae_folder}: carries no statistics; compute them with: saedsl stats {sae_folder} TEXTFILE"
    )


def test_statistics_of_other_weights_are_refused(counted: Path, sae_of: Callable[..., SAE]) -> None:
    kept = (counted / FILE).read_bytes()
    old = SAE.load(counted).statistics
    sae_of(site="L0.mlp", seed=9).save(counted)
    assert not (counted / FILE).exists(), "other weights were saved here"
    with pytest.raises(SAEError) as caught:
        old.save(counted)
    assert str(caught.value) == f"{counted}: these statistics are of a dictionary with other weights"
    (counted / FILE).write_bytes(kept)
    with pytest.raises(SAEError, match="these statistics are of other weights than those beside them; compute them"):
        _ = SAE.load(counted).statistics
    SAE.load(counted).save(counted)
    assert not (counted / FILE).exists()


def test_saving_keeps_statistics_unless_a_weight_is_rounded(counted: Path, tmp_path: Path) -> None:
    sae = SAE.load(counted)
    copy = sae.save(tmp_path / "copy")
    np.testing.assert_array_equal(copy.statistics.max, sae.statistics.max)
    half = sae.save(tmp_path / "half", dtype="float16")
    assert half.info.statistics is None
    whole = sae.save(counted)
    np.testing.assert_array_equal(whole.statistics.std, sae.statistics.std)


@pytest.mark.parametrize("damage", ["cut", "text", "shape", "nan", "notes"])
def test_damaged_statistics_are_refused(counted: Path, damage: str) -> None:
    from safetensors.numpy import load_file, save_file

    path = counted / FILE
    values = load_file(path)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-4])
        case "text":
            path.write_text("not a file of tensors")
        case "shape":
            save_file({k: v[1:] for k, v in values.items()}, path)
        case "nan":
            notes = {"format": "saedsl.statistics", "version": "1", "tokens": "3"}
            save_file(
                {**values, "max": values["max"] * np.nan}, path, {**notes, "weights": SAEInfo.read(counted).sha256}
            )
        case "notes":
            save_file(values, path)
    with pytest.raises(SAEError, match=r"statistics\.safetensors"):
        _ = SAE.load(counted).statistics


def test_a_dictionary_that_does_not_fit_is_refused(llama: InterpretableModel, sae_of: Callable[..., SAE]) -> None:
    with pytest.raises(SAEError, match="does not say which site"):
        llama.feature_statistics(sae_of(), TEXTS)
    with pytest.raises(SAEError, match=r"L0\.mlp\.act is 40 wide, the dictionary reads 32"):
        llama.feature_statistics(sae_of(), TEXTS, site="L0.mlp.act")
    with pytest.raises(SAEError, match=r"no L9\.mlp: its layers are L0\.\.L1"):
        llama.feature_statistics(sae_of(site="L9.mlp"), TEXTS)


def test_the_command_counts_text_and_jsonl_alike(tmp_path: Path, llama_folder: Path, sae_folder: Path) -> None:
    import shutil

    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join([*TEXTS, ""]))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"prompt": "The cat sat on the mat"}\n"Paris"\n\n{"text": "a dog in Rome, and a cat"}\n"the the the"'
    )
    seen = []
    for file in (lines, rows):
        folder = tmp_path / file.stem
        shutil.copytree(sae_folder, folder)
        done = CliRunner().invoke(cli, ["stats", str(folder), str(file), "-m", str(llama_folder)])
        assert done.exit_code == 0, done.output
        assert "40 features at L0.mlp" in done.output
        seen.append(SAE.load(folder).statistics)
    assert seen[0].texts == seen[1].texts
    np.testing.assert_array_equal(seen[0].max, seen[1].max)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not JSON"),
        ('{"corrupt": "x"}', 'a line is a string, or an object with "prompt" or "text"'),
        ("3", "a line"),
    ],
)
def test_the_command_says_which_line_is_wrong(tmp_path: Path, sae_folder: Path, row: str, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'"good"\n{row}\n')
    done = CliRunner().invoke(cli, ["stats", str(sae_folder), str(file), "-m", "demo"])
    assert done.exit_code == 2
    assert f"{file}:2: {message}" in done.output


def test_the_bundled_dictionaries_carry_statistics() -> None:
    from saedsl.locate import DEMO

    folders = [*DEMO.glob("saes/*"), *DEMO.glob("transcoders/*")]
    assert len(folders) == 12
    for folder in folders:
        found = SAE.load(folder).statistics
        assert found.tokens > 100_000
        assert np.all(found.max >= found.mean)
        assert np.mean(found.max == 0) < 0.02


def test_the_command_leaves_the_bundled_dictionaries_alone(tmp_path: Path) -> None:
    from saedsl.locate import DEMO

    file = tmp_path / "texts.txt"
    file.write_text("The capital of France is Paris.\n")
    before = (DEMO / "saes/L2.mlp/statistics.safetensors").read_bytes()
    for name in ("demo:L2.mlp", str(DEMO / "saes/L2.mlp")):
        done = CliRunner().invoke(cli, ["stats", name, str(file)])
        assert done.exit_code == 2
        assert "the bundled dictionaries have their statistics" in done.output
    assert (DEMO / "saes/L2.mlp/statistics.safetensors").read_bytes() == before
