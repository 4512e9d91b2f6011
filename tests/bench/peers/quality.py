"""How good the dictionaries are that we train: against SAELens on the same tensors, and variant against variant.

    python tests/bench/peers/quality.py FOLDER tensors                     activations, once
    python tests/bench/peers/quality.py FOLDER pareto --peers PYTHON       BatchTopK and SAELens' own, k in 4, 8, 16
    python tests/bench/peers/quality.py FOLDER variants                    every architecture at L0 4, 8, 16
    python tests/bench/peers/quality.py FOLDER revival                     every architecture x way with dead features
    python tests/bench/peers/quality.py FOLDER show                        the tables, and FOLDER/quality.pdf

Data: the story model of `../shared/fixtures` over its own kind of text, and the bundled model over its own; 10 % of the
documents are held out, and all that is reported is measured on those. PYTHON has torch and sae-lens. Results are
appended to FOLDER/results.jsonl; a run that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import saedsl  # before mlx: it loads a fast BLAS
from saedsl.training import SAEConfig, evaluate, train
from saedsl.training.effect import model_effect
from saedsl.training.harvest import batches
from saedsl.training.of_model import Where, source_at
from saedsl.training.split import held_out

SHARED = Path(__file__).parents[4] / "shared" / "fixtures"
PEER = Path(__file__).parent / "quality_saelens.py"
STORIES = ("stories L2.mlp", "stories L3.resid_post")
DEMO = ("demo L1.mlp", "demo L2.resid_post")
REVIVED = (STORIES[0], DEMO[0])
HELD = 0.1
TOKENS = 1_000_000
SEEDS = (0, 1, 2)
L0S = (4, 8, 16)
OURS = SAEConfig(
    expansion_factor=16, num_tokens=TOKENS, batch_size=256, learning_rate=5e-3, lr_decay_share=0.3,
    adam_betas=(0.9, 0.95), aux_coefficient=1.0, dead_window=5000, validation_share=0.0,
)  # fmt: skip
"""Settings of ours beside SAELens; chosen on the first site with seed 7, which no table has."""
MANY = replace(OURS, batch_size=512, learning_rate=6e-3)
"""Settings of ours where there are many to train."""
THEIRS = replace(OURS, batch_size=512, learning_rate=3e-3, dead_window=10_000)
"""SAELens', chosen in the same way; Adam's first betas, smaller and larger rates and batches did worse."""
SHORT = 200_000
"""Tokens of each run of `revival`."""
TYPES = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu")


@dataclass(frozen=True)
class Trial:
    """One training."""

    site: str
    who: str
    """`saedsl` or `SAELens`."""
    config: SAEConfig
    """Of ours; of SAELens the same k, tokens, batch and seed."""
    revival: str = "aux-k"

    @property
    def key(self) -> str:
        c = self.config
        level = c.k if c.target_l0 is None else c.target_l0
        settings = f"{c.learning_rate} {c.batch_size} {c.num_tokens} {c.seed}"
        return f"{self.site} {self.who} {c.sae_type} {level:g} {self.revival} {settings}"


def texts_of(model: str) -> list[str]:
    if model == "demo":
        from saedsl.demo.text import documents

        return list(documents(12_000, 5))
    texts: list[str] = json.loads((SHARED / "text" / "tinystories_v2_1700.json").read_text())
    return texts


def model_of(name: str) -> saedsl.InterpretableModel:
    return saedsl.InterpretableModel.load("demo" if name == "demo" else SHARED / "stories260k")


def tensors(folder: Path) -> None:
    """Write what is trained on and what is measured on."""
    for name, sites in (("stories", STORIES), ("demo", DEMO)):
        model, texts = model_of(name), texts_of(name)
        for site in sites:
            layer, component = site.split()[1][1:].split(".")
            pairs = Where((int(layer),), (component,)).pairs(model)
            source = source_at(model, pairs, texts, OURS, memory=1 << 32, max_tokens=TOKENS)
            for part, of in zip(("train", "held"), source.split(HELD, 0), strict=True):  # type: ignore[attr-defined]
                (x,) = of.sample(of.tokens).values()
                np.save(folder / f"{site} {part}.npy", x)
                print(site, part, x.shape)


def load(folder: Path, site: str) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / f"{site} train.npy"), np.load(folder / f"{site} held.npy")


def pareto(sites: Sequence[str] = STORIES) -> Iterator[Trial]:
    for site, k, seed, who in product(sites, L0S, SEEDS, ("saedsl", "SAELens")):
        yield Trial(site, who, replace(OURS if who == "saedsl" else THEIRS, k=k, seed=seed))


def of_type(kind: str, l0: float, seed: int) -> SAEConfig:
    if kind in ("topk", "batchtopk", "matryoshka"):
        return replace(MANY, sae_type=kind, k=int(l0), seed=seed)  # type: ignore[arg-type]
    return replace(MANY, sae_type=kind, target_l0=float(l0), seed=seed)  # type: ignore[arg-type]


def variants() -> Iterator[Trial]:
    for site, kind, l0 in product(STORIES, TYPES, L0S):
        config = of_type(kind, l0, 0)
        if kind == "relu":  # at 6e-3 it explains 0.012 less at L0 4 of L3.resid_post
            config = replace(config, learning_rate=1.2e-2)
        yield Trial(site, "saedsl", config)


REVIVALS: dict[str, dict[str, Any]] = {
    "aux-k": {},
    "ghost": {"use_ghost_grads": True, "aux_coefficient": None},
    "resampling": {"aux_coefficient": 0.0, "resample_every": SHORT // 8},
    "none": {"aux_coefficient": 0.0},
}


def revival() -> Iterator[Trial]:
    for seed, site, kind, name in product(SEEDS, REVIVED, TYPES, REVIVALS):
        config = replace(of_type(kind, 8, seed), num_tokens=SHORT, **REVIVALS[name])
        yield Trial(site, "saedsl", config, name)


def run(folder: Path, trials: Sequence[Trial], peers: str | None) -> None:
    path = folder / "results.jsonl"
    done = {json.loads(line)["key"] for line in path.read_text().splitlines()} if path.exists() else set()
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for trial in trials:
        if trial.key in done or (trial.who == "SAELens" and peers is None):
            continue
        if trial.site not in arrays:
            arrays = {trial.site: load(folder, trial.site)}
        x, held = arrays[trial.site]
        sae, seconds = ours(trial, x) if trial.who == "saedsl" else theirs(trial, folder, str(peers))
        e = evaluate(sae, held)
        row = {
            "key": trial.key, "site": trial.site, "who": trial.who, "type": trial.config.sae_type,
            "revival": trial.revival, "level": trial.config.target_l0 or trial.config.k, "seed": trial.config.seed,
            "tokens": trial.config.num_tokens, "batch": trial.config.batch_size,
            "explained_variance": e.explained_variance, "l0": e.l0, "dead": e.dead, "seconds": seconds,
            "ce_recovered": effect(trial.site, sae),
        }  # fmt: skip
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = f"EV {e.explained_variance:.4f} L0 {e.l0:.2f} dead {e.dead:.1%}"
        print(f"{trial.key}: {shown} CE {row['ce_recovered']:.4f} {seconds:.0f} s", flush=True)


def ours(trial: Trial, x: np.ndarray) -> tuple[saedsl.SAE, float]:
    config, d_sae = trial.config, 16 * x.shape[1]
    if config.sae_type == "matryoshka":  # the default's five prefixes cost twice as much of the variance
        config = replace(config, prefixes=(d_sae // 4, d_sae // 2, d_sae))
    start = time.perf_counter()
    sae = train(x, config, progress=False).sae
    return sae, time.perf_counter() - start


def theirs(trial: Trial, folder: Path, python: str) -> tuple[saedsl.SAE, float]:
    with tempfile.TemporaryDirectory() as out:
        asked = {**asdict(trial.config), "train": str(folder / f"{trial.site} train.npy"), "out": out}
        done = subprocess.run([python, str(PEER), json.dumps(asked)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return saedsl.SAE.load(out), json.loads(done.stdout.splitlines()[-1])["seconds"]


_EFFECTS: dict[str, Any] = {}


def effect(site: str, sae: saedsl.SAE) -> float:
    """CE recovered on 16 held-out documents."""
    name, where = site.split()
    if name not in _EFFECTS:
        model, texts = model_of(name), texts_of(name)
        held = [t for i, t in enumerate(texts) if held_out(np.array([i]), HELD, 0)[0]][:16]
        _EFFECTS[name] = model, list(batches(model, held))
    model, rows = _EFFECTS[name]
    at = saedsl.Site.parse(where)
    return float(model_effect(model, sae, rows, (at, at)).ce_recovered)


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def middle(rows: Sequence[dict[str, Any]], what: str) -> float:
    return float(median(r[what] for r in rows))


def show(folder: Path) -> None:
    rows = read(folder)
    head = "explained variance | L0 | dead | CE recovered |"
    print(f"| site | k | who | {head}\n|---|---|---|---|---|---|---|")
    for site, k, (who, batch) in product(STORIES, L0S, (("saedsl", OURS.batch_size), ("SAELens", THEIRS.batch_size))):
        of = _of(rows, site=site, who=who, type="batchtopk", level=k, batch=batch, tokens=TOKENS)
        if of:
            print(f"| {site} | {k} | {who} | {_cells(of)} |")
    print(f"\n| site | architecture | L0 asked | {head}\n|---|---|---|---|---|---|---|")
    for site, kind, l0 in product(STORIES, TYPES, L0S):
        of = _of(rows, site=site, type=kind, level=l0, batch=MANY.batch_size, tokens=TOKENS, who="saedsl")
        if of:
            print(f"| {site} | {kind} | {l0} | {_cells(of)} |")
    print(f"\n| site | architecture | dead features | {head} s |\n|---|---|---|---|---|---|---|---|")
    for site, kind, name in product(REVIVED, TYPES, REVIVALS):
        of = _of(rows, site=site, type=kind, level=8, revival=name, tokens=SHORT)
        if of:
            print(f"| {site} | {kind} | {name} | {_cells(of)} | {middle(of, 'seconds'):.0f} |")
    figure(rows, folder / "quality.pdf")


def _of(rows: Sequence[dict[str, Any]], **values: object) -> list[dict[str, Any]]:
    return [r for r in rows if r["seed"] in SEEDS and all(r[k] == v for k, v in values.items())]


def _cells(of: Sequence[dict[str, Any]]) -> str:
    ev, dead = middle(of, "explained_variance"), middle(of, "dead")
    return f"{ev:.4f} | {middle(of, 'l0'):.2f} | {dead:.1%} | {middle(of, 'ce_recovered'):.4f}"


def figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    lines = [
        ("SAELens", "batchtopk", THEIRS.batch_size, "k--s"), ("saedsl", "batchtopk", OURS.batch_size, "k-o"),
        *(("saedsl", t, MANY.batch_size, f"C{i}-o") for i, t in enumerate(TYPES)),
    ]  # fmt: skip
    for ax, site in zip(axes, STORIES, strict=True):
        for who, kind, batch, style in lines:
            groups = [_of(rows, site=site, who=who, type=kind, level=l0, batch=batch, tokens=TOKENS) for l0 in L0S]
            groups = [g for g in groups if g]
            x, y = [middle(g, "l0") for g in groups], [middle(g, "explained_variance") for g in groups]
            ax.plot(x, y, style, label=f"{who} {kind}, batches of {batch}", markersize=4, linewidth=1)
        ax.set(title=site, xlabel="L0", ylabel="explained variance, held out")
    axes[0].legend(fontsize=7)
    fig.savefig(path)
    fig.savefig(path.with_suffix(".png"), dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=["tensors", "pareto", "variants", "revival", "show"])
    parser.add_argument("--peers", help="a python that has torch and sae-lens")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.what == "tensors":
        tensors(args.folder)
    elif args.what == "show":
        show(args.folder)
    else:
        trials = {"pareto": pareto, "variants": variants, "revival": revival}[args.what]()
        run(args.folder, list(trials), args.peers)


if __name__ == "__main__":
    main()
