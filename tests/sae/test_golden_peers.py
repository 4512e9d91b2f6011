"""Dictionaries and numbers that other packages made themselves (tests/golden/make_*.py)."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

GOLDEN = Path(__file__).parents[1] / "golden"


def names(peer: str) -> list[str]:
    return sorted(p.name.removeprefix(f"{peer}_") for p in GOLDEN.glob(f"{peer}_*") if p.is_dir())


def agrees(peer: str, name: str, folder: Path) -> SAE:
    """The dictionary in `folder`, having computed what `peer` did."""
    expected = np.load(GOLDEN / f"{peer}.npz")
    x = mx.array(expected["x"])
    assert (expected[f"{name}_f"] > 0).any(axis=-1).mean() > 0.5
    sae = SAE.load(folder)
    np.testing.assert_allclose(np.array(sae.encode(x)), expected[f"{name}_f"], atol=1e-5)
    np.testing.assert_allclose(np.array(sae(x)), expected[f"{name}_out"], atol=1e-5)
    return sae


def test_every_class_has_its_golden_folder() -> None:
    assert names("dictionary_learning") == [
        "AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "AutoEncoder_bf16", "AutoEncoder_older", "BatchTopKSAE",
        "BatchTopKSAE_bf16", "BatchTopKSAE_older", "GatedAutoEncoder", "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE",
    ]  # fmt: skip
    assert names("sparsify") == ["bf16", "sae", "skip", "transcoder"]


@pytest.mark.parametrize("name", names("dictionary_learning"))
def test_a_dictionary_of_dictionary_learning_computes_what_it_computes_there(name: str, tmp_path: Path) -> None:
    folder = GOLDEN / f"dictionary_learning_{name}"
    for place in (folder, folder / "ae.pt", folder / "config.json"):
        sae = agrees("dictionary_learning", name, place)
        assert sae.info.format == "dictionary_learning"
    assert sae.config.model_name == "EleutherAI/pythia-70m"
    assert sae.config.context_size == 128
    assert sae.config.input_site == Site(1, "resid_post")
    assert sae.config.prefixes == ((6, 12, 24) if "Matryoshka" in name else ())
    assert sae.config.k == (4 if "TopK" in name else None)
    agrees("dictionary_learning", name, sae.save(tmp_path / "again").info.path or folder)


@pytest.mark.parametrize("name", names("sparsify"))
def test_a_dictionary_of_sparsify_computes_what_it_computes_there(name: str, tmp_path: Path) -> None:
    sae = agrees("sparsify", name, GOLDEN / f"sparsify_{name}" / "layers.1.mlp")
    assert sae.config.kind == ("transcoder" if name in ("transcoder", "skip") else "sae")
    assert sae.config.input_site == Site(1, "mlp.in" if sae.config.is_transcoder else "mlp")
    assert sae.config.output_site == Site(1, "mlp")
    agrees("sparsify", name, sae.save(tmp_path / "again").info.path or tmp_path)


PUBLISHED = {
    "gemma_scope_res": ("gemma_scope", "google/gemma-2-2b", Site(2, "resid_post"), Site(2, "resid_post")),
    "gemma_scope_mlp": ("gemma_scope", "google/gemma-2-2b", Site(2, "mlp"), Site(2, "mlp")),
    "gemma_scope_att": ("gemma_scope", "google/gemma-2-2b", Site(2, "attn.z"), Site(2, "attn.z")),
    "gemma_scope_transcoders": ("gemma_scope", "google/gemma-2-2b", Site(2, "resid_mid"), Site(2, "mlp")),
    "gemma_scope_2_res": ("gemma_scope", "google/gemma-3-1b-pt", Site(2, "resid_post"), Site(2, "resid_post")),
    "gemma_scope_2_transcoder": ("gemma_scope", "google/gemma-3-1b-pt", Site(2, "mlp.in"), Site(2, "mlp")),
    "goodfire": ("goodfire", "meta-llama/Llama-3.1-8B-Instruct", Site(19, "resid_post"), Site(19, "resid_post")),
    "qwen_scope": ("qwen_scope", "Qwen/Qwen3-1.7B-Base", Site(3, "resid_post"), Site(3, "resid_post")),
    "llama_scope": ("llama_scope", "meta-llama/Llama-3.1-8B", Site(8, "resid_post"), Site(8, "resid_post")),
    "circuit_tracer": ("circuit_tracer", "Qwen/Qwen3-4B", Site(3, "mlp.in"), Site(3, "mlp")),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_dictionary_computes_what_saelens_makes_of_it(name: str, tmp_path: Path) -> None:
    expected = np.load(GOLDEN / "published.npz")
    x = expected["x"]
    if name == "gemma_scope_transcoders":  # SAELens gets tokens behind the norm, we before it
        x = x * 3
    folder = GOLDEN / "published" / str(expected[f"{name}_path"])
    sae = SAE.load(folder)
    again = sae.save(tmp_path / "again")
    for candidate in (sae, again):
        out = np.array(candidate(mx.array(x)))
        f = np.array(candidate.encode(mx.array(x)))
        if name == "gemma_scope_transcoders":
            normed = mx.array(x / np.sqrt((x**2).mean(axis=-1, keepdims=True)))
            plain = candidate.with_config(normalize_activations="none")
            np.testing.assert_allclose(f, np.array(plain.encode(normed)), atol=1e-5)
            f, out = np.array(plain.encode(mx.array(x / 3))), np.array(plain(mx.array(x / 3)))
        np.testing.assert_allclose(f, expected[f"{name}_f"], atol=1e-5)
        np.testing.assert_allclose(out, expected[f"{name}_out"], atol=1e-5)
    assert (expected[f"{name}_f"] > 0).any(axis=-1).mean() > 0.5
    config = sae.config
    assert (sae.info.format, config.model_name, config.input_site, config.output_site) == PUBLISHED[name]
    assert (again.config.input_site, again.config.model_name) == (config.input_site, config.model_name)


def test_every_published_format_has_its_golden_file() -> None:
    kept = np.load(GOLDEN / "published.npz").files
    assert {name.removesuffix("_f") for name in kept if name.endswith("_f")} == set(PUBLISHED)
