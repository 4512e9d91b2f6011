"""Make the golden files of SAELens' gated SAEs and of its training checkpoints, which hold a float64 threshold.

Run where `sae-lens` (6.54) is installed; saedsl need not be:  python tests/golden/make_saelens_training.py
It writes `saelens_<name>/`, folders that SAELens saved, and in `saelens_training.npz` the tokens and what SAELens makes
of them: of a checkpoint, what the inference model makes that SAELens itself derives from it.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from sae_lens import SAE  # type: ignore[import-not-found]
from sae_lens.registry import get_sae_class, get_sae_training_class  # type: ignore[import-not-found]

HERE = Path(__file__).parent
D, F = 8, 24
GATED: dict[str, dict[str, Any]] = {"gated": {}, "gated_normed": {"normalize_activations": "layer_norm"}}
TRAINING: dict[str, tuple[str, dict[str, Any]]] = {
    "batchtopk": ("batchtopk", {"rescale_acts_by_decoder_norm": True}),
    "matryoshka": ("matryoshka_batchtopk", {"rescale_acts_by_decoder_norm": False, "matryoshka_widths": [6, F]}),
    "matryoshka_rescaled": (
        "matryoshka_batchtopk",
        {"rescale_acts_by_decoder_norm": True, "matryoshka_widths": [6, F]},
    ),
}


def filled(sae: Any) -> Any:
    """Random weights."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in sae.parameters():
            value.copy_(torch.randn_like(value) * 0.5)
    return sae


def config(cls: Any, **options: Any) -> Any:
    made = cls(d_in=D, d_sae=F, **options)
    made.metadata.model_name, made.metadata.hook_name = "gpt2", "blocks.1.hook_mlp_out"
    return made


def main() -> None:
    x = np.random.default_rng(0).standard_normal((5, 3, D)).astype(np.float32) * 2 + 0.3
    kept: dict[str, Any] = {"x": x}

    def keep(name: str, sae: Any) -> None:
        with torch.no_grad():
            kept[f"{name}_f"] = sae.encode(torch.from_numpy(x)).numpy()
            kept[f"{name}_out"] = sae(torch.from_numpy(x)).numpy()

    for name, options in GATED.items():
        cls, settings = get_sae_class("gated")
        sae = filled(cls(config(settings, **options)))
        sae.save_model(HERE / f"saelens_{name}")
        keep(name, sae)
    for name, (architecture, options) in TRAINING.items():
        cls, settings = get_sae_training_class(architecture)
        sae = filled(cls(config(settings, k=4, **options)))
        sae.topk_threshold.fill_(0.7)
        sae.save_model(HERE / f"saelens_{name}")
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            keep(name, SAE.load_from_disk(folder))
    np.savez_compressed(HERE / "saelens_training.npz", **kept)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
