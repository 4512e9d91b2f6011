"""Make the golden files of sparsify: dictionaries that it saved, and what it makes of tokens.

Run where `eai-sparsify` (1.3.3) is installed; saedsl need not be:  python tests/golden/make_sparsify.py
It writes `sparsify_<name>/layers.1.mlp/` (cfg.json, sae.safetensors) and in `sparsify.npz` the tokens, features and
reconstructions.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from sparsify import SparseCoder, SparseCoderConfig  # type: ignore[import-not-found]

HERE = Path(__file__).parent
D, F, K = 8, 24, 4
CASES: dict[str, dict[str, Any]] = {
    "sae": {},
    "transcoder": {"transcode": True, "num_latents": F},
    "skip": {"transcode": True, "skip_connection": True},
    "bf16": {},
}


def main() -> None:
    x = np.random.default_rng(0).standard_normal((15, D)).astype(np.float32) * 2 + 0.3
    kept: dict[str, Any] = {"x": x}
    for name, options in CASES.items():
        torch.manual_seed(0)
        sae = SparseCoder(D, SparseCoderConfig(k=K, expansion_factor=F // D, **options))
        with torch.no_grad():
            for value in sae.parameters():
                value.copy_(torch.randn_like(value) * 0.5)
            if name == "bf16":
                sae = sae.to(torch.bfloat16)
        sae.save_to_disk(HERE / f"sparsify_{name}" / "layers.1.mlp")
        sae = SparseCoder.load_from_disk(HERE / f"sparsify_{name}" / "layers.1.mlp").float()
        with torch.no_grad():
            tokens = torch.from_numpy(x)
            chosen = sae.encode(tokens)
            f = torch.zeros(len(x), F).scatter_(-1, chosen.top_indices, chosen.top_acts)
            kept[f"{name}_f"], kept[f"{name}_out"] = f.numpy(), sae(tokens).sae_out.numpy()
    np.savez_compressed(HERE / "sparsify.npz", **kept)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
