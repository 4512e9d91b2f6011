"""SAELens' own trainer and BatchTopK on a file of activations: a process of `tests/bench/peers/quality.py`.

    python quality_saelens.py '{"train": "x.npy", "out": "folder", "k": 8, "num_tokens": 1000000, ...}'

The dictionary is saved as SAELens saves it for inference. Prints JSON with the seconds that training took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from sae_lens.config import SAETrainerConfig  # type: ignore[import-not-found]
from sae_lens.registry import get_sae_training_class  # type: ignore[import-not-found]
from sae_lens.training.sae_trainer import SAETrainer  # type: ignore[import-not-found]


def batches(x: np.ndarray, size: int, seed: int) -> Iterator[Any]:
    """The batches that saedsl trains on, in the same order."""
    left, number = np.empty(0, np.int64), 0
    while True:
        while len(left) < size:
            left = np.concatenate([left, np.random.default_rng([seed, number]).permutation(len(x))])
            number += 1
        rows, left = left[:size], left[size:]
        yield torch.from_numpy(x[rows])


def main() -> None:
    asked = json.loads(sys.argv[1])
    x = np.load(asked["train"])
    torch.manual_seed(asked["seed"])
    torch.set_num_threads(1)  # small steps: a second thread mostly waits
    cls, settings = get_sae_training_class("batchtopk")
    config = settings(
        d_in=x.shape[1],
        d_sae=x.shape[1] * asked["expansion_factor"],
        k=float(asked["k"]),
        apply_b_dec_to_input=True,
        normalize_activations="expected_average_only_in",
        rescale_acts_by_decoder_norm=True,
    )
    sae = cls(config)
    size = asked["batch_size"]
    steps = asked["num_tokens"] // size
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * size,
            train_batch_size_samples=size,
            lr=asked["learning_rate"],
            lr_end=0.0,
            lr_scheduler_name="constant",
            lr_warm_up_steps=min(100, steps // 10),
            lr_decay_steps=steps // 5,
            adam_beta1=asked.get("adam_betas", (0.9, 0.999))[0],
            adam_beta2=asked.get("adam_betas", (0.9, 0.999))[1],
            dead_feature_window=max(asked.get("dead_window") or steps * size // 10, size) // size,
            n_batches_for_norm_estimate=50,
        ),
        sae,
        batches(x, size, asked["seed"]),
    )
    start = time.perf_counter()
    trainer.fit()
    seconds = time.perf_counter() - start
    sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name = "stories260k", "blocks.2.hook_mlp_out"
    sae.save_inference_model(asked["out"])
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
