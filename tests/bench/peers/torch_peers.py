"""Other libraries' training steps, as workers of `train.py`; run where they are installed, saedsl need not be.

    python torch_peers.py '{"who": "sparsify", "how": "fused", "data": "folder", "activation": "topk", "k": 32}'

`how` are words of what is switched on, any of: fused (PyTorch's fused Adam), compiled (torch.compile, where the library
would put it), sparse, norm (SAELens' options `use_sparse_activations` and `rescale_acts_by_decoder_norm`).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")  # the kernels are for GPUs

import numpy as np
import torch  # type: ignore[import-not-found]
from turns import answers, data, serve  # type: ignore[import-not-found]

RATE = 3e-4


def fuse(optimizer: Any) -> None:
    """Let Adam run as one kernel."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False


def sparsify(x: Any, W: Any, k: int, how: set[str]) -> Any:
    """The lines of its `Trainer.fit` that are about activations, with Adam, which `TrainConfig` offers."""
    from sparsify import SparseCoder, SparseCoderConfig  # type: ignore[import-not-found]

    sae = SparseCoder(x.shape[2], SparseCoderConfig(num_latents=len(W), k=k))
    sae.encoder.weight.data, sae.W_dec.data = W.clone(), W.clone()
    optimizer = torch.optim.Adam(sae.parameters(), lr=RATE)
    if "fused" in how:
        fuse(optimizer)
    forward = torch.compile(sae) if "compiled" in how else sae
    since = torch.zeros(len(W), dtype=torch.long)

    def step(i: int) -> float:
        batch = x[i]
        sae.set_decoder_norm_to_unit_norm()
        variance = (batch - batch.mean(0)).pow(2).sum()
        out = forward(x=batch, y=batch, total_variance=variance)
        fired = torch.zeros(len(W), dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        fvu = float(out.fvu.detach())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        since.add_(len(batch))
        since[fired] = 0
        return fvu * float(variance) / len(batch)

    return step


def dictionary_learning(x: Any, W: Any, k: int, how: set[str], activation: str) -> Any:
    """Its trainers' own `update`."""
    from dictionary_learning.trainers import batch_top_k, top_k  # type: ignore[import-not-found]

    cls = top_k.TopKTrainer if activation == "topk" else batch_top_k.BatchTopKTrainer
    trainer = cls(
        steps=10**6, activation_dim=x.shape[2], dict_size=len(W), k=k, layer=0, lm_name="", lr=RATE, device="cpu"
    )
    trainer.ae.decoder.weight.data, trainer.ae.encoder.weight.data = W.T.contiguous(), W.clone()
    if "fused" in how:
        fuse(trainer.optimizer)
    if "compiled" in how:
        trainer.ae.encode, trainer.ae.decode = torch.compile(trainer.ae.encode), torch.compile(trainer.ae.decode)
    count = 0

    def step(i: int) -> float:
        nonlocal count
        count += 1  # from 1: its step 0 sets b_dec as well
        return float(trainer.update(count, x[i]))

    return step


def saelens(x: Any, W: Any, k: int, how: set[str], activation: str) -> Any:
    """Its trainer's own `step`."""
    from sae_lens.config import SAETrainerConfig  # type: ignore[import-not-found]
    from sae_lens.registry import get_sae_training_class  # type: ignore[import-not-found]
    from sae_lens.training.sae_trainer import SAETrainer  # type: ignore[import-not-found]

    cls, settings = get_sae_training_class(activation)
    options = {"rescale_acts_by_decoder_norm": "norm" in how, "use_sparse_activations": "sparse" in how}
    sae = cls(settings(d_in=x.shape[2], d_sae=len(W), k=k, **options))
    sae.W_enc.data, sae.W_dec.data = W.T.contiguous(), W.clone()
    n = 10**6 * x.shape[1]
    config = SAETrainerConfig(total_training_samples=n, train_batch_size_samples=x.shape[1], lr=RATE, lr_end=RATE)
    trainer = SAETrainer(config, sae, iter(x))
    if "fused" in how:
        fuse(trainer.optimizer)
    if "compiled" in how:  # as its runner's `compile_sae`
        sae.training_forward_pass = torch.compile(sae.training_forward_pass)

    def step(i: int) -> float:
        out = trainer.step(x[i])
        trainer.n_training_steps += 1
        return float(out.losses["mse_loss"])

    return step


def main() -> None:
    """Be the worker that the argument asks for."""
    asked, out = json.loads(sys.argv[1]), answers()
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    x, W = (torch.from_numpy(np.ascontiguousarray(part)) for part in data(asked["data"]))
    how = set(asked["how"].split())
    if asked["who"] == "sparsify":
        step = sparsify(x, W, asked["k"], how)
    else:
        make = dictionary_learning if asked["who"] == "dictionary_learning" else saelens
        step = make(x, W, asked["k"], how, asked["activation"])
    serve(step, len(x), out)


if __name__ == "__main__":
    main()
