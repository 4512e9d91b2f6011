"""Make the golden files from SAELens itself, and check that it reads what saedsl writes.

Run where `sae-lens` (6.54) and saedsl are both installed:  python tests/golden/make_saelens.py
For every architecture it writes `saelens_<name>/`, a folder that SAELens saved, and in `saelens.npz` the
tokens and what SAELens makes of them.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
import torch  # type: ignore[import-not-found]  # noqa: E402
from sae_lens import SAE as Peer  # type: ignore[import-not-found]  # noqa: E402
from sae_lens.registry import get_sae_class  # type: ignore[import-not-found]  # noqa: E402

from saedsl.sae.config import DictionaryConfig  # noqa: E402
from saedsl.sae.dictionary import SAE  # noqa: E402
from saedsl.sites import Site  # noqa: E402

D, F, OUT = 8, 24, 6
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {"normalize_activations": "layer_norm"}),
    "topk": ("topk", {"k": 4, "normalize_activations": "constant_norm_rescale"}),
    "topk_rescaled": ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("jumprelu", {"apply_b_dec_to_input": False}),
    "transcoder": ("transcoder", {"d_out": OUT, "apply_b_dec_to_input": False}),
    "jumprelu_transcoder": ("jumprelu_transcoder", {"d_out": OUT, "apply_b_dec_to_input": False}),
    "skip_transcoder": ("skip_transcoder", {"d_out": OUT, "apply_b_dec_to_input": False}),
}


def tokens() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, 3, D)).astype(np.float32) * 2 + 0.3


def peer(architecture: str, options: dict[str, Any]) -> Any:
    """A random SAELens dictionary."""
    torch.manual_seed(0)
    cls, config = get_sae_class(architecture)
    made = config(d_in=D, d_sae=F, **options)
    made.metadata.model_name = "gpt2"
    made.metadata.hook_name = "blocks.1.hook_mlp_out"
    if "transcoder" in architecture:
        made.metadata.hook_name, made.metadata.hook_name_out = (
            "blocks.1.ln2.hook_normalized",
            made.metadata.hook_name,
        )
    sae = cls(made)
    with torch.no_grad():
        for name, value in sae.named_parameters():
            value.copy_(torch.randn_like(value) * 0.5)
            if name == "threshold":
                value.abs_()
    return sae


def results(sae: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        out = sae(torch.from_numpy(x))
        f = sae.encode(torch.from_numpy(x))
        return f.to_dense().numpy(), (out[0] if isinstance(out, tuple) else out).numpy()


def write_golden() -> None:
    """SAELens' folders and numbers."""
    x = tokens()
    kept: dict[str, Any] = {"x": x}
    for name, (architecture, options) in CASES.items():
        sae = peer(architecture, options)
        sae.save_model(HERE / f"saelens_{name}")
        kept[f"{name}_f"], kept[f"{name}_out"] = results(sae, x)
    np.savez_compressed(HERE / "saelens.npz", **kept)


def check_reading() -> None:
    """What saedsl saves, SAELens loads and computes alike."""
    x = tokens()
    mlp, mlp_in = Site(1, "mlp"), Site(1, "mlp.in")
    sae_of = {"input_site": mlp, "output_site": mlp, "d_out": D}
    transcoder_of = {
        "kind": "transcoder", "apply_b_dec_to_input": False, "d_out": OUT,
        "input_site": mlp_in, "output_site": mlp,
    }  # fmt: skip
    for where in (sae_of, transcoder_of):
        for activation in ("relu", "topk", "batchtopk", "jumprelu"):
            for normalize in ("none", "layer_norm", "constant_norm_rescale") if where is sae_of else ("none",):
                made: dict[str, Any] = {"activation": activation, "normalize_activations": normalize, **where}
                config = DictionaryConfig(d_in=D, d_sae=F, k=4 if "topk" in activation else None, **made)
                rng = np.random.default_rng(3)
                weights: dict[str, Any] = {
                    n: mx.array(rng.standard_normal(s) * 0.5) for n, s in config.weight_shapes.items()
                }
                ours = SAE(config, **weights)
                with tempfile.TemporaryDirectory() as folder:
                    ours.save(Path(folder) / "sae")
                    try:
                        theirs = Peer.load_from_disk(str(Path(folder) / "sae"))
                    except Exception as error:
                        refused = activation == "topk" and config.is_transcoder
                        print(
                            f"{activation} {config.kind}: SAELens refuses: {error}"[:150],
                            "as meant" * refused,
                        )
                        assert refused
                        continue
                f, out = results(theirs, x)
                np.testing.assert_allclose(np.array(ours.encode(mx.array(x))), f, atol=1e-5)
                np.testing.assert_allclose(np.array(ours(mx.array(x))), out, atol=1e-5)
                assert theirs.cfg.metadata.hook_name is not None
                print(f"{activation} {normalize} {config.kind}: read by SAELens, equal within 1e-5")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write_golden()
    check_reading()
