"""The binary part of `data/`: directions for the bundled model, deterministic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

D_MODEL = 128

if __name__ == "__main__":
    wave = np.sin(np.arange(D_MODEL, dtype=np.float64) * 0.7)
    vectors = {"up": (wave / np.linalg.norm(wave)).astype(np.float32), "short": np.ones(3, np.float32)}
    save_file(vectors, Path(__file__).parent / "data" / "directions.safetensors")
