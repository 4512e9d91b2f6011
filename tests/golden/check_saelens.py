"""Check that SAELens loads what saedsl saves, and computes the same.

Two steps, because the two packages need not be in one environment:

    python tests/golden/check_saelens.py write FOLDER     where saedsl is installed
    python tests/golden/check_saelens.py read FOLDER      where sae-lens is installed
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

D, F, OUT = 8, 24, 6


def kinds() -> Iterator[dict[str, Any]]:
    """Every kind of dictionary with one site to read and one to write."""
    transcoder: dict[str, Any] = {"kind": "transcoder", "d_out": OUT, "apply_b_dec_to_input": False}
    places: tuple[dict[str, Any], ...] = (
        {"d_out": D}, {"d_out": D, "apply_b_dec_to_input": False}, transcoder, {**transcoder, "skip": True}
    )  # fmt: skip
    for place, activation, normalize in product(
        places,
        ("relu", "topk", "batchtopk", "jumprelu", "gated"),
        ("none", "layer_norm", "constant_norm_rescale"),
    ):
        k = 4 if "topk" in activation else None
        yield {"d_in": D, "d_sae": F, "activation": activation, "normalize_activations": normalize, "k": k, **place}
    yield {"d_in": D, "d_sae": F, "d_out": D, "activation": "batchtopk", "k": 4, "prefixes": (4, F)}


def write(root: Path) -> None:
    from saedsl.sae.config import DictionaryConfig
    from saedsl.sae.dictionary import SAE
    from saedsl.sites import Site

    import mlx.core as mx  # isort: skip

    root.mkdir(parents=True, exist_ok=True)
    x = (np.random.default_rng(0).standard_normal((5, 3, D)) * 2 + 0.3).astype(np.float32)
    for i, kind in enumerate(kinds()):
        read = Site(1, "mlp.in" if "kind" in kind else "mlp")
        config = DictionaryConfig(**kind, input_site=read, output_site=Site(1, "mlp"))
        rng = np.random.default_rng(3)
        shapes = config.weight_shapes.items()
        weights: dict[str, Any] = {n: mx.array((rng.standard_normal(s) * 0.5).astype(np.float32)) for n, s in shapes}
        sae = SAE(config, **weights)
        saved = sae.save(root / str(i))
        f, out = np.array(sae.encode(mx.array(x))), np.array(sae(mx.array(x)))
        np.savez(root / f"{i}.npz", x=x, f=f, out=out, format=saved.info.format, kind=str(kind))


def read(root: Path) -> None:
    import torch  # type: ignore[import-not-found]
    from sae_lens import SAE  # type: ignore[import-not-found]

    worst, own = 0.0, 0
    for file in sorted(root.glob("*.npz")):
        expected = np.load(file)
        if expected["format"] != "saelens":
            own += 1
            print(f"saedsl's own layout: {expected['kind']}")
            continue
        x = torch.from_numpy(expected["x"])
        with torch.no_grad():
            sae = SAE.load_from_disk(str(file.with_suffix("")))
            f, out = sae.encode(x).to_dense().numpy(), sae(x).numpy()
        np.testing.assert_allclose(f, expected["f"], atol=1e-5, err_msg=str(expected["kind"]))
        np.testing.assert_allclose(out, expected["out"], atol=1e-5, err_msg=str(expected["kind"]))
        worst = max(worst, float(np.abs(f - expected["f"]).max()), float(np.abs(out - expected["out"]).max()))
    print(f"{len(list(root.glob('*.npz'))) - own} loaded by SAELens, largest difference {worst:.1e}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
