"""Train the dictionaries of the bundled model: an SAE for every `mlp` and `resid_post`, a transcoder for every MLP.

    python examples/train_demo_saes.py            # writes saedsl/demo/data/saes and saedsl/demo/data/transcoders
    python examples/train_demo_saes.py --quick --out /tmp/saes     # a smoke run
    python examples/train_demo_saes.py --statistics                # only count the features of what is there again

Prints explained variance, CE recovered, L0 and dead features on held-out text, and exits with 1 if one of them misses
its target. Nothing is written before everything is trained; the features' statistics are counted last.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from saedsl.demo.tasks import examples  # saedsl first: it loads a fast BLAS before mlx is imported
from saedsl.demo.text import documents

import mlx.core as mx  # isort: skip
import numpy as np
from rich.console import Console
from rich.table import Table

import saedsl
from saedsl.locate import DEMO
from saedsl.sites import Site
from saedsl.training import ArraySource, Evaluation, SAEConfig, evaluate, train
from saedsl.training.harvest import batches, harvest, recovered

CONTEXT = 96
LIMITS = {"L0": 16.0, "explained variance": 0.88, "CE recovered": 0.95, "dead": 0.10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=DEMO, help="folder for saes/ and transcoders/")
    parser.add_argument("--tokens", type=int, default=300_000, help="distinct tokens of text")
    parser.add_argument("--train-tokens", type=int, default=1_000_000, help="tokens to train each dictionary on")
    parser.add_argument("--k", type=int, default=15, help="features per token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only sites that contain this text; then nothing is written")
    parser.add_argument("--statistics", action="store_true", help="train nothing, count the features again")
    parser.add_argument("--quick", action="store_true", help="a small smoke run of layer 2, without targets")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.train_tokens = 4_000, 8_000
    started = time.perf_counter()
    model = saedsl.InterpretableModel.load("demo")
    if args.statistics:
        write_statistics(model, args.out, args.tokens, args.seed)
        return
    layers = [2] if args.quick else range(model.info.n_layers)
    jobs = [(Site(i, c), Site(i, c)) for i in layers for c in ("mlp", "resid_post")]
    jobs += [(Site(i, "mlp.in"), Site(i, "mlp")) for i in layers]
    jobs = [j for j in jobs if args.only in f"{j[0]} {j[1]}"]
    sites = sorted({s for job in jobs for s in job})
    texts = documents(args.tokens, args.seed + 1)  # more than enough: reading stops at --tokens
    x = harvest(model, texts, sites, CONTEXT, args.tokens)
    held_out = list(documents(100 if args.quick else 600, args.seed + 2, split="held_out"))
    test = harvest(model, held_out, sites, CONTEXT)
    data = list(batches(model, held_out[:200], CONTEXT))
    config = SAEConfig(
        sae_type="batchtopk", d_sae=8 * model.info.d_model, k=args.k, num_tokens=args.train_tokens,
        batch_size=1024 if args.quick else 2048, learning_rate=2e-3, lr_scheduler="linear", lr_decay_share=0.5,
        aux_coefficient=0.25, dead_window=50_000, seed=args.seed, validation_share=0.0,
    )  # fmt: skip
    table = Table(title=f"{len(test[sites[0]])} held-out tokens")
    for name in ("dictionary", *LIMITS, "seconds"):
        table.add_column(name, justify="left" if name == "dictionary" else "right", no_wrap=name == "dictionary")
    trained, bad = {}, []
    for read, write in jobs:
        kind = "saes" if read == write else "transcoders"
        about = {"model_name": "demo", "context_size": CONTEXT}
        source = ArraySource({str(s): x[s] for s in {read, write}}, about)
        result = train(source, config, inputs=[str(read)], outputs=[str(write)])
        sae = sorted_by_use(result.sae, x[read])
        if kind == "saes" and str(write) == "L2.mlp":
            sae = numbered_for_the_readme(sae, model)
        e: Evaluation = evaluate(sae, test[read], None if read == write else test[write])
        ce = float("nan") if args.quick else recovered(model, sae, data)
        values = {"L0": e.l0, "explained variance": e.explained_variance, "CE recovered": ce, "dead": e.dead}
        bad += [
            f"{kind} {write}: {name} is {values[name]:.3f}, its target is {limit}"
            for name, limit in LIMITS.items()
            if (values[name] > limit if name in ("L0", "dead") else not values[name] >= limit)
        ]
        table.add_row(f"{kind} {write}", *(f"{v:.3f}" for v in values.values()), f"{result.report.seconds:.0f}")
        trained[kind, str(write)] = sae
        Console(stderr=True).print(f"{kind} {write}: " + ", ".join(f"{k} {v:.3f}" for k, v in values.items()))
    Console().print(table)
    print(f"{time.perf_counter() - started:.0f} s in all")
    if bad and not args.quick:
        sys.exit("\n".join(bad))
    if not args.only:
        write_all(trained, args.out)
        write_statistics(model, args.out, args.tokens, args.seed)


def sorted_by_use(sae: saedsl.SAE, x: np.ndarray) -> saedsl.SAE:
    """The same dictionary with its features renumbered, the one with the largest mean activation first.

    Args:
        sae: a trained dictionary; the order of its features is an accident of the seed.
        x: [tokens, d_in], what it was trained on.
    """
    means = sum(np.array(sae.encode(mx.array(x[i : i + 4096])).sum(axis=0)) for i in range(0, len(x), 4096))
    return reordered(sae, np.argsort(-means, kind="stable").tolist())


def numbered_for_the_readme(sae: saedsl.SAE, model: saedsl.InterpretableModel) -> saedsl.SAE:
    """The same dictionary, two of its features renumbered so that the program of the README shows something.

    In `at L2.mlp ablate f42; amplify f7 x2`, f42 becomes the feature without which the model is worst at going on
    with repeated words, and f7 the feature that, doubled, then makes it worse still.
    """
    prompts = [(e.prompt, model.encoder.encode(e.answer).ids[-1]) for e in examples("induction", 40, seed=11)]
    runs = []
    for text, answer in prompts:
        tokens = mx.array([model.encoder.encode(text).ids])
        f = sae.encode(model.activations(tokens, [sae.config.output_site])[sae.config.output_site])
        runs.append((tokens, answer, mx.where(mx.arange(f.shape[1])[:, None] > 0, f[0], 0)))

    def answered(ablated: int | None, doubled: int | None = None) -> float:
        """Mean probability of the answers."""
        total = 0.0
        for tokens, answer, f in runs:
            delta = mx.zeros_like(sae.W_dec[0]) + 0 * f[:, :1]
            for feature, gain in ((ablated, -1.0), (doubled, 1.0)):
                if feature is not None:
                    delta = delta + gain * f[:, feature, None] * sae.W_dec[feature]
            logits, _ = model.forward(tokens, functions={sae.config.output_site: lambda x, d=delta: x + d})
            total += mx.softmax(logits[0, -1])[answer].item()
        return total / len(runs)

    means = np.array(mx.stack([f[-1] for _, _, f in runs]).mean(axis=0))
    active = np.argsort(-means)[:12].tolist()
    ablated = min(active, key=lambda i: answered(i))
    doubled = min((i for i in active if i != ablated), key=lambda i: answered(ablated, i))
    order = list(range(sae.config.d_sae))
    for feature, number in ((ablated, 42), (doubled, 7)):
        i = order.index(feature)
        order[i], order[number] = order[number], order[i]
    print(f"answers with repeated words: {answered(None):.3f}, without f42 {answered(ablated):.3f}, "
          f"f7 doubled too {answered(ablated, doubled):.3f}")  # fmt: skip
    return reordered(sae, order)


def reordered(sae: saedsl.SAE, order: list[int]) -> saedsl.SAE:
    """The same dictionary; feature i of the result is feature order[i]."""
    at = mx.array(order)
    threshold = None if sae.threshold is None else sae.threshold[at]
    return saedsl.SAE(sae.config, sae.W_enc[:, at], sae.b_enc[at], sae.W_dec[at], sae.b_dec, threshold)


def write_all(trained: dict[tuple[str, str], saedsl.SAE], out: Path) -> None:
    """Replace `out`/saes and `out`/transcoders, each at once."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        for (kind, site), sae in trained.items():
            sae.save(Path(scratch) / kind / site, dtype="float16")
        for kind in sorted({kind for kind, _ in trained}):
            if (out / kind).exists():
                shutil.rmtree(out / kind)
            (Path(scratch) / kind).rename(out / kind)
    size = sum(f.stat().st_size for kind in ("saes", "transcoders") for f in (out / kind).rglob("*") if f.is_file())
    print(f"written to {out}: {np.round(size / 1e6, 2)} MB")


def write_statistics(model: saedsl.InterpretableModel, out: Path, n: int, seed: int) -> None:
    """Count the features of every dictionary in `out` on `n` tokens of its training text, and keep it beside them."""
    texts, tokens = [], 0
    for text in documents(n, seed + 1):
        texts.append(text)
        tokens += len(model.encoder.encode(text))
        if tokens >= n:
            break
    for folder in sorted(out.glob("saes/*")) + sorted(out.glob("transcoders/*")):
        found = model.feature_statistics(folder, texts, context=CONTEXT)
        found.save(folder)
        print(f"{folder.parent.name} {folder.name}: {found.tokens} tokens, {(found.max == 0).sum()} features silent")


if __name__ == "__main__":
    main()
