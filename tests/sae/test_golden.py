"""Folders and numbers that SAELens 6.54 itself made (tests/golden/make_saelens*.py)."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from saedsl.sae.dictionary import SAE
from saedsl.sites import Site

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(p.name.removeprefix("saelens_") for p in GOLDEN.glob("saelens_*") if p.is_dir())


def test_every_architecture_has_its_golden_folder() -> None:
    assert NAMES == [
        "batchtopk",
        "gated",
        "gated_normed",
        "jumprelu",
        "jumprelu_transcoder",
        "matryoshka",
        "matryoshka_rescaled",
        "skip_transcoder",
        "standard",
        "topk",
        "topk_rescaled",
        "transcoder",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary_that_saelens_saved_computes_what_it_computes_there(name: str, tmp_path: Path) -> None:
    expected = {**np.load(GOLDEN / "saelens.npz"), **np.load(GOLDEN / "saelens_training.npz")}
    x = mx.array(expected["x"])
    assert (expected[f"{name}_f"] > 0).any(axis=-1).mean() > 0.5
    sae = SAE.load(GOLDEN / f"saelens_{name}")
    for candidate in (sae, sae.save(tmp_path / "again"), sae.save(tmp_path / "own", format="native")):
        np.testing.assert_allclose(np.array(candidate.encode(x)), expected[f"{name}_f"], atol=1e-5)
        np.testing.assert_allclose(np.array(candidate(x)), expected[f"{name}_out"], atol=1e-5)
    assert sae.config.model_name == "gpt2"
    assert sae.config.output_site == Site(1, "mlp")
    assert sae.config.input_site == Site(1, "mlp.in" if sae.config.is_transcoder else "mlp")
    assert sae.config.prefixes == ((6, 24) if "matryoshka" in name else ())
