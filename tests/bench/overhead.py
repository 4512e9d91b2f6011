"""What a program costs on top of the plain mlx-lm forward: `python tests/bench/overhead.py [MODEL]`.

Medians of alternating runs. Targets: an empty plan 1.00; one feature edit of a 16x dictionary at one site, batch
8 x 128, <= 1.05; generation of 64 tokens with it <= 1.10; the hooks' own work <= 10 microseconds a site and <= 50 a
run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import saedsl  # first: it loads a fast BLAS before mlx is imported

import mlx.core as mx  # isort: skip
import numpy as np

from saedsl.execute import StepFunctions
from saedsl.generation import generate
from saedsl.lanes import Row
from saedsl.model import InterpretableModel
from saedsl.sae.config import Activation, DictionaryConfig
from saedsl.sites import Site
from saedsl.trace import Hooks

STORIES = Path(__file__).parents[3] / "shared" / "fixtures" / "stories260k"
SITE = Site(2, "mlp")


def random_sae(d: int, width: int, activation: Activation) -> saedsl.SAE:
    """A dictionary of random directions; `topk` with k = 32."""
    rng = np.random.default_rng(0)
    W = rng.standard_normal((d, width)).astype(np.float32) / d**0.5
    k = 32 if activation == "topk" else None
    config = DictionaryConfig(
        d, width, d, activation, k=k, input_site=SITE, output_site=SITE, apply_b_dec_to_input=False
    )
    threshold = mx.full((width,), 0.05) if activation == "jumprelu" else None
    return saedsl.SAE(config, mx.array(W), mx.zeros((width,)), mx.array(W.T.copy()), mx.zeros((d,)), threshold)


def hooks_for(model: InterpretableModel, sae: saedsl.SAE, tokens: mx.array) -> Hooks:
    """What `trace` installs for one feature edit at every position of `tokens`."""
    named = {f"row {i}": r for i, r in enumerate(model.rows(tokens))}
    source, given, objects = model._given("at L2.mlp amplify f42 x2 @ everywhere", named, {"L2.mlp": sae}, None)
    plan, weights, _ = model._planned(source, given, objects)
    step = plan.steps[0]
    functions = StepFunctions([Row(step.step, p) for p in step.prompts], plan.program, weights)
    return Hooks(model.model, model.info, functions.functions)


def compare(plain: Callable[[], None], edited: Callable[[], None], runs: int) -> tuple[float, float, float]:
    """Median milliseconds of both, in turn, and the median of the ratios of neighbours."""
    times: tuple[list[float], list[float]] = ([], [])
    plain()
    edited()
    for i in range(runs):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (plain, edited)[which]()
            times[which].append(1e3 * (time.perf_counter() - start))
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    return statistics.median(times[0]), statistics.median(times[1]), ratio


def machinery(model: InterpretableModel, n_sites: int, runs: int = 1000) -> float:
    """Microseconds that hooks at `n_sites` sites, which change nothing, add to building one forward's graph.

    Nothing is evaluated, so only Python runs; one token, so that there is little else. Median of differences of
    neighbours.
    """
    sites = [s for s in model.info.sites if s.component in ("resid_post", "mlp", "attn")][:n_sites]
    hooks = Hooks(model.model, model.info, {s: lambda x, frame: x for s in sites})
    tokens = mx.array([[1]])
    differences = []
    for _ in range(runs):
        start = time.perf_counter()
        model.model(tokens)
        middle = time.perf_counter()
        hooks(tokens)
        differences.append(time.perf_counter() - middle - (middle - start))
    return 1e6 * statistics.median(differences)


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else STORIES
    if not path.is_dir():
        print(f"skipped: {path} is not here")
        return
    model = InterpretableModel.load(path)
    d = model.info.d_model
    width = 16 * d
    rng = np.random.default_rng(1)
    tokens = mx.array(rng.integers(3, model.info.d_vocab, (8, 128)))
    prompt = [1, *(int(i) for i in rng.integers(3, model.info.d_vocab, 15))]

    empty = Hooks(model.model, model.info)
    print(f"empty plan: {len(empty._swaps)} modules touched, same function objects")
    print(f"{'':34}{'plain ms':>10}{'edited ms':>11}{'ratio':>8}")
    row = "{:34}{:10.2f}{:11.2f}{:8.3f}"
    print(row.format("empty plan, 8 x 128", *compare(
        lambda: mx.eval(model.model(tokens)), lambda: mx.eval(empty(tokens)[0]), 40)))  # fmt: skip
    activations: tuple[Activation, ...] = ("relu", "jumprelu", "topk")
    for activation in activations:
        sae = random_sae(d, width, activation)
        batch, one = hooks_for(model, sae, tokens), hooks_for(model, sae, mx.array([prompt]))

        def edited(hooks: Hooks = batch) -> None:
            mx.eval(hooks(tokens)[0])

        def continued(hooks: Hooks) -> None:
            for _ in generate(hooks, [prompt], 64):
                pass

        times = compare(lambda: mx.eval(model.model(tokens)), edited, 40)
        print(row.format(f"one {activation} feature, 8 x 128", *times))
        times = compare(lambda: continued(empty), lambda one=one: continued(one), 20)  # type: ignore[misc]
        print(row.format(f"one {activation} feature, 64 tokens", *times))
    few, many = machinery(model, 1), machinery(model, 13)
    print(f"hooks alone: {few:.1f} microseconds a run with one site, {(many - few) / 12:.1f} for each further site")


if __name__ == "__main__":
    main()
