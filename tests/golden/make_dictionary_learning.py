"""Make the golden files of dictionary_learning: what its classes save, and what its own loader makes of it.

Run where `dictionary-learning` (0.1.0) is installed; saedsl need not be:

    python tests/golden/make_dictionary_learning.py

It writes `dictionary_learning_<class>/` (ae.pt, config.json), of two classes also an `ae.pt` in PyTorch's older layout
and in bfloat16, and in `dictionary_learning.npz` the tokens, features and reconstructions.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]

nnsight = ModuleType("nnsight")  # the package imports it for language models, which are not needed here
nnsight.LanguageModel = None  # type: ignore[attr-defined]
sys.modules["nnsight"] = nnsight

from dictionary_learning import dictionary  # type: ignore[import-not-found]  # noqa: E402
from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k  # type: ignore # noqa: E402
from dictionary_learning.utils import load_dictionary  # type: ignore[import-not-found]  # noqa: E402

HERE = Path(__file__).parent
D, F, K = 8, 24, 4
CLASSES: dict[str, Any] = {
    "AutoEncoder": lambda: dictionary.AutoEncoder(D, F),
    "AutoEncoderNew": lambda: dictionary.AutoEncoderNew(D, F),
    "GatedAutoEncoder": lambda: dictionary.GatedAutoEncoder(D, F),
    "JumpReluAutoEncoder": lambda: dictionary.JumpReluAutoEncoder(D, F),
    "AutoEncoderTopK": lambda: top_k.AutoEncoderTopK(D, F, K),
    "BatchTopKSAE": lambda: batch_top_k.BatchTopKSAE(D, F, K),
    "MatryoshkaBatchTopKSAE": lambda: matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(D, F, K, [6, 6, 12]),
}


def filled(sae: Any) -> Any:
    """Random weights."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in sae.named_parameters():
            value.copy_(torch.rand_like(value) if name == "threshold" else torch.randn_like(value) * 0.5)
        if "threshold" in dict(sae.named_buffers()):
            sae.threshold.fill_(0.7)
    return sae


def variants(name: str, sae: Any) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """What is saved under which name, and whether in the layout of today."""
    state = sae.state_dict()
    yield name, state, True
    if name in ("AutoEncoder", "BatchTopKSAE"):
        yield f"{name}_older", state, False
        yield f"{name}_bf16", {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}, True


def main() -> None:
    x = np.random.default_rng(0).standard_normal((15, D)).astype(np.float32) * 2 + 0.3
    kept: dict[str, Any] = {"x": x}
    for cls, make in CLASSES.items():
        for name, state, zipped in variants(cls, filled(make())):
            folder = HERE / f"dictionary_learning_{name}"
            folder.mkdir(exist_ok=True)
            torch.save(state, folder / "ae.pt", _use_new_zipfile_serialization=zipped)
            trainer = {
                "dict_class": cls, "activation_dim": D, "dict_size": F, "layer": 1, "lm_name": "EleutherAI/pythia-70m",
                "submodule_name": "resid_post_layer_1", **({"k": K} if "TopK" in cls else {}),
            }  # fmt: skip
            (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}, indent=2))
            theirs, _ = load_dictionary(str(folder), "cpu")
            with torch.no_grad():
                kept[f"{name}_f"] = theirs.encode(torch.from_numpy(x)).numpy()
                kept[f"{name}_out"] = theirs(torch.from_numpy(x)).numpy()
    np.savez_compressed(HERE / "dictionary_learning.npz", **kept)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
