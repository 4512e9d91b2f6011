"""Make the golden file of SAELens' training losses and gradients.

Run where `sae-lens` (6.54) is installed; saedsl need not be:  python tests/golden/make_saelens_steps.py
It writes `saelens_steps.npz`: of each case the weights, the batch, the losses and the gradients of their sum. Decoder
rows have unit length; dead features' pre-activations are mostly positive, since SAELens' auxiliary loss has no ReLU.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from sae_lens.registry import get_sae_training_class  # type: ignore[import-not-found]
from sae_lens.saes.sae import TrainStepInput  # type: ignore[import-not-found]

HERE = Path(__file__).parent
D, F, B = 8, 24, 32
RAW: dict[str, Any] = {"k": 4, "rescale_acts_by_decoder_norm": False, "aux_loss_coefficient": 0.5}
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "relu": ("standard", {}, False),
    "topk": ("topk", RAW, False),
    "topk_aux": ("topk", RAW, True),
    "batchtopk": ("batchtopk", RAW, False),
    "batchtopk_aux": ("batchtopk", RAW, True),
    "matryoshka": ("matryoshka_batchtopk", {**RAW, "matryoshka_widths": [6, 12, F]}, False),
    "jumprelu": ("jumprelu", {"jumprelu_bandwidth": 0.4}, False),
}
"""Case -> SAELens' architecture, its options, and whether some features are dead."""
DEAD = [1, 2, 5, 8, 13, 14, 20]


def main() -> None:
    kept: dict[str, Any] = {}
    for name, (architecture, options, some_dead) in CASES.items():
        cls, settings = get_sae_training_class(architecture)
        sae = cls(settings(d_in=D, d_sae=F, **options))
        torch.manual_seed(0)
        with torch.no_grad():
            for key, value in sae.named_parameters():
                value.copy_(torch.rand_like(value) if key == "threshold" else torch.randn_like(value) * 0.5)
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
            if some_dead:
                sae.b_enc[DEAD] += 3
        x = torch.randn(B, D)
        mask = torch.zeros(F, dtype=torch.bool)
        mask[DEAD] = some_dead
        coefficients = {"l1": 0.7, "l0": 0.3}
        out = sae.training_forward_pass(TrainStepInput(x, coefficients, mask, 0, False))
        out.loss.backward()
        kept[f"{name}.x"] = x.numpy()
        for key, value in sae.named_parameters():
            kept[f"{name}.{key}"] = value.detach().numpy()
            kept[f"{name}.grad.{key}"] = value.grad.numpy()
        for key, value in out.losses.items():
            kept[f"{name}.loss.{key}"] = np.float32(value.item() if hasattr(value, "item") else value)
    np.savez_compressed(HERE / "saelens_steps.npz", **kept)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
