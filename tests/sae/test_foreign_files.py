"""Every published format: recognised, described without MLX, and damage of its files is an SAEError that names them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saedsl.errors import SAEError
from saedsl.sae.dictionary import SAE
from saedsl.sae.header import SAEInfo
from tests.sae.torchfiles import FOUR, Call, archive, program, storage, tensor

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = np.load(GOLDEN / "published.npz")
PLACES = {
    **{
        name.removesuffix("_path"): GOLDEN / "published" / str(PUBLISHED[name]) for name in PUBLISHED if "_path" in name
    },
    **{p.name: p for p in GOLDEN.glob("dictionary_learning_*") if p.is_dir()},
    **{p.name: p / "layers.1.mlp" for p in GOLDEN.glob("sparsify_*") if p.is_dir()},
}


def copy(name: str, to: Path) -> Path:
    """The golden dictionary `name`, at the same kind of path below `to`."""
    place = PLACES[name]
    around = place.parent if place.is_file() else place
    target = to / around.relative_to(GOLDEN)
    shutil.copytree(around, target, dirs_exist_ok=True)
    return target / place.name if place.is_file() else target


def test_dictionaries_are_described_without_anything_heavy() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom saedsl.sae.header import SAEInfo\n"
        f"for place in {[str(place) for place in PLACES.values()]!r}:\n    SAEInfo.read(place).fingerprint\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"mlx", "mlx.core", "numpy", "torch", "safetensors", "transformers"} & set(loaded)


@pytest.mark.parametrize("name", sorted(PLACES))
def test_files_cut_short_are_named(tmp_path: Path, name: str) -> None:
    place = copy(name, tmp_path)
    for file in [f for f in place.parent.rglob("*") if f.suffix in (".pt", ".pth", ".npz", ".safetensors")]:
        content = file.read_bytes()
        for length in (0, 7, 100, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:length])
            with pytest.raises(SAEError) as caught:
                SAE.load(place)
            assert str(file) in str(caught.value) or str(place) in str(caught.value)
        file.write_bytes(content)
    assert SAE.load(place)


@pytest.mark.parametrize("name", sorted(PLACES))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path: Path, name: str, data: st.DataObject) -> None:
    place = copy(name, tmp_path)
    files = sorted(f for f in (place.parent if place.is_file() else place).rglob("*") if f.is_file())
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, min(len(content) - 1, 1500)))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    with suppress(SAEError):
        SAE.load(place)


odd: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 30), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)


@pytest.mark.parametrize("name", [n for n in sorted(PLACES) if "bf16" not in n and "older" not in n])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_config_is_a_dictionary_or_refused(tmp_path: Path, name: str, data: st.DataObject) -> None:
    place = copy(name, tmp_path)
    configs = list((place.parent if place.is_file() else place).glob("*.json"))
    if not configs:
        return
    values = json.loads(configs[0].read_text())
    inner = values["trainer"] if "trainer" in values and data.draw(st.booleans()) else values
    inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(odd)
    configs[0].write_text(json.dumps(values))
    for read in (SAEInfo.read, SAE.load):
        with suppress(SAEError):
            read(place)


@pytest.mark.parametrize("name", ["goodfire", "qwen_scope", "dictionary_learning_AutoEncoder"])
def test_a_file_with_code_is_refused_by_its_reason(tmp_path: Path, name: str) -> None:
    place = copy(name, tmp_path)
    file = place / "ae.pt" if place.is_dir() else place
    archive(file, program({"encoder_linear.weight": Call(eval, "1")}), s0=FOUR)
    for path in (place, file):
        with pytest.raises(SAEError, match=r"names \w+\.eval, which is code and no tensor; nothing is read"):
            SAE.load(path)


def test_a_file_of_other_tensors_says_which(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.pt", {"weight": tensor(storage(), 0, (4,), (1,))}, s0=FOUR)
    with pytest.raises(SAEError, match="holds weight; no dictionary that saedsl can read has these tensors"):
        SAE.load(file)


def test_one_of_several_files_must_be_named(tmp_path: Path) -> None:
    place = copy("qwen_scope", tmp_path)
    shutil.copy(place, place.with_name("layer4.sae.pt"))
    with pytest.raises(SAEError, match=r"holds 2 layers of Qwen-Scope; name one of them: layer3\.sae\.pt, layer4"):
        SAE.load(place.parent)
    assert SAE.load(place).config.k == 5


def edit(place: Path, **trainer: Any) -> None:
    config = json.loads((place / "config.json").read_text())
    config["trainer"] |= trainer
    (place / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "trainer", "message"),
    [
        ("AutoEncoder", {"dict_class": "IdentityDict"}, "has dict_class 'IdentityDict'; saedsl reads AutoEncoder, "),
        ("AutoEncoder", {"dict_class": 3}, "has dict_class = 3; str is expected"),
        ("AutoEncoder", {"dict_class": "AutoEncoderNew"}, r"has no decoder\.bias; it has bias, decoder\.weight"),
        ("AutoEncoderNew", {"dict_class": "AutoEncoder"}, "has no bias"),
        ("AutoEncoder", {"activation_dim": 9}, r"says activation_dim = 9, but the tensors of ae\.pt imply 8"),
        ("AutoEncoder", {"dict_size": 25}, r"says dict_size = 25, but the tensors of ae\.pt imply 24"),
        ("BatchTopKSAE", {"k": 5}, r"says k = 5, but ae\.pt says 4"),
        ("BatchTopKSAE", {"k": "4"}, 'has k = "4"; int is expected'),
        ("BatchTopKSAE", {"dict_class": None}, r'may be of class AutoEncoderTopK or BatchTopKSAE; write \{"trainer"'),
    ],
)
def test_contradictions_of_dictionary_learning_are_named(tmp_path: Path, name: str, trainer: Any, message: str) -> None:
    place = copy(f"dictionary_learning_{name}", tmp_path)
    edit(place, **trainer)
    with pytest.raises(SAEError, match=message):
        SAE.load(place)


@pytest.mark.parametrize("name", ["AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder"])
def test_a_class_that_its_tensors_tell_needs_no_config(tmp_path: Path, name: str) -> None:
    place = copy(f"dictionary_learning_{name}", tmp_path)
    known = SAE.load(place)
    (place / "config.json").unlink()
    found = SAE.load(place)
    assert found.config.activation == known.config.activation
    np.testing.assert_array_equal(np.array(found.W_enc), np.array(known.W_enc))


def test_a_threshold_that_was_never_learnt_is_refused(tmp_path: Path) -> None:
    place = copy("dictionary_learning_BatchTopKSAE", tmp_path)
    content = (place / "ae.pt").read_bytes()
    old, new = np.float32(0.7).tobytes(), np.float32(-1).tobytes()
    assert content.count(old) == 1
    (place / "ae.pt").write_bytes(content.replace(old, new))
    with pytest.raises(SAEError, match=r"its threshold is -1\.0, so none was learnt"):
        SAE.load(place)
