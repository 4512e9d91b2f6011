"""Every kind of dictionary and every way to train it, briefly, on the bundled model: what each option is called."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import saedsl
from saedsl.demo.text import documents
from saedsl.training import SAEConfig

BASE = SAEConfig(d_sae=256, k=8, batch_size=128, num_tokens=5_000, learning_rate=3e-3)
VARIANTS: dict[str, SAEConfig] = {
    "batchtopk": BASE,
    "topk, k warm-up": replace(BASE, sae_type="topk", k_warm_up_steps=20),
    "matryoshka": replace(BASE, sae_type="matryoshka", prefixes=(16, 64, 256)),
    "jumprelu, target L0": replace(BASE, sae_type="jumprelu", target_l0=8.0),
    "gated, target L0": replace(BASE, sae_type="gated", target_l0=8.0, sparsity_warm_up_steps=20),
    "learnt k": replace(BASE, target_variance=0.9),
    "ghost gradients": replace(BASE, use_ghost_grads=True, dead_window=800),
    "resampling": replace(BASE, resample_every=1000, dead_window=800),
    "curriculum": replace(BASE, curriculum="loss"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("variants"), help="the folder to fill")
    out: Path = parser.parse_args().out
    model = saedsl.InterpretableModel.load("demo")
    texts = list(documents(150, seed=3))

    for name, config in VARIANTS.items():
        sae = model.train_sae(2, "mlp", texts, config, out / name, progress=False)
        print(f"{name:20} {sae}")

    crosscoder = model.train_sae(
        [1, 2], "resid_post", texts, replace(BASE, kind="crosscoder"), out / "crosscoder", progress=False
    )
    print(f"{'crosscoder':20} {crosscoder}")
    both = model.train_sae([1, 2], "mlp", texts, BASE, out / "layers", progress=False)  # one forward for both
    print(f"{'several layers':20} {', '.join(both)}")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
