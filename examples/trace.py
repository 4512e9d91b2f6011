"""A trace in Python: logits and activations of one edited forward, next to those of the plain one."""

from __future__ import annotations

import saedsl  # first: it loads a fast BLAS before mlx is imported

import mlx.core as mx  # isort: skip

PROMPT = "The capital of France is"


def main() -> None:
    model = saedsl.InterpretableModel.load("demo")
    with model.trace(PROMPT) as plain:
        before = plain.activations["L2.mlp"]
    with model.trace(PROMPT, "at L2.mlp @ prompt[-1] amplify x2") as edited:
        after = edited.activations["L2.mlp"]
    print("logits", edited.output.shape, "activations", after.shape)
    print(
        "positions that changed at L2.mlp:",
        [i for i, c in enumerate(mx.any(before != after, axis=-1)[0].tolist()) if c],
    )
    for name, trace in (("plain", plain), ("edited", edited)):
        best = int(mx.argmax(trace.output[0, -1]).item())
        print(f"{name:7} {model.encoder.piece(best)!r} {mx.softmax(trace.output[0, -1])[best].item():.3f}")


if __name__ == "__main__":
    main()
