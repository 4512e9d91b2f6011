"""How true and how fast effects are: `python tests/bench/effects.py [agree] [speed] [--prompts N] [--saes FOLDER]`.

agree: Spearman between fast and exact effects over nodes with |effect| > 1e-4 of |m|, mean over prompts, on the bundled
model's tasks, on stories260k, and on stories260k with sharpened attention, where the softmax is saturated.
Target: >= .9 for the best fast method.
speed: all effects of a pair against one forward and backward (target <= 2.5), exact patching, batched and one node at a
time, against the fast method (>= 50) and each other (>= 2); attribution graphs of 8 to 64 tokens (< 60 s, < 2 GB).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import saedsl  # first: it loads a fast BLAS before mlx is imported

import mlx.core as mx  # isort: skip
import numpy as np

from saedsl.circuits.effects import METHODS, Method, NodeEffects, effects_of
from saedsl.circuits.flow import flow_of
from saedsl.circuits.linear import attribution_graph
from saedsl.circuits.metric import Metric, TokenDifference, logit_difference
from saedsl.circuits.pairs import Prompts, pairs_of
from saedsl.circuits.prepared import Setup, prepare
from saedsl.circuits.splice import SAEs, placed
from saedsl.demo import load_demo
from saedsl.demo.tasks import Task, examples
from saedsl.model import InterpretableModel
from saedsl.sites import Site
from saedsl.trace import Hooks
from saedsl.training import SAEConfig

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"
FAST: tuple[Method, ...] = tuple(m for m in METHODS if m != "exact")
TASKS: tuple[Task, ...] = ("ioi", "greater_than", "capital")
SITES = ("L0.resid_post", "L1.mlp", "L2.resid_post", "L3.mlp")


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; ties in any order."""
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def agreement(setups: Sequence[Setup]) -> tuple[dict[str, float], float]:
    """Method -> mean Spearman with exact effects, and the mean number of nodes compared."""
    found: dict[str, list[float]] = {m: [] for m in FAST}
    sizes = []
    for setup in setups:
        exact = effects_of(setup, "exact").effect
        strong = np.abs(exact) > 1e-4 * np.abs(setup.value).max()
        sizes.append(int(strong.sum()))
        for method in FAST:
            found[method].append(spearman(effects_of(setup, method).effect[strong], exact[strong]))
    return {m: statistics.mean(v) for m, v in found.items()}, statistics.mean(sizes)


def task_setup(model: InterpretableModel, saes: SAEs, clean: Prompts, corrupt: Prompts | None, metric: Metric) -> Setup:
    pairs = pairs_of(model, clean, corrupt)
    return prepare(model, pairs, placed(model.info, saes), metric)


def demo_setups(task: Task, n: int, zero: bool) -> list[Setup]:
    """Held-out prompts of one task, without those whose prompts have different numbers of tokens."""
    demo = load_demo()
    found: list[Setup] = []
    for e in examples(task, 2 * n, 0, "held_out"):
        same = len(demo.model.encoder.encode(e.prompt)) == len(demo.model.encoder.encode(e.corrupt))
        if same and len(found) < n:
            metric = logit_difference(demo.model, e.answer, e.wrong)
            found.append(task_setup(demo.model, demo.saes, e.prompt, None if zero else e.corrupt, metric))
    return found


def stories(folder: Path, sharpen: float) -> tuple[InterpretableModel, dict[str, saedsl.SAE], list[str]]:
    """stories260k with small dictionaries, trained here unless the folder has them; queries scaled by `sharpen`."""
    model = InterpretableModel.load(FIXTURES / "stories260k")
    texts: list[str] = json.loads((FIXTURES / "text" / "tinystories_v2_1700.json").read_text())
    saes = {}
    for site in SITES:
        path = folder / site
        if not path.is_dir():
            layer, component = site[1:].split(".")
            config = SAEConfig(expansion_factor=8, k=12, num_tokens=300_000, batch_size=1024, learning_rate=2e-3)
            model.train_sae(int(layer), component, texts[200:500], config, path, max_tokens=60_000, progress=False)
        saes[site] = saedsl.SAE.load(path)
    for layer in model.model.model.layers:
        layer.self_attn.q_proj.weight = layer.self_attn.q_proj.weight * sharpen
    return model, saes, texts[:200]


def story_setups(folder: Path, n: int, zero: bool, sharpen: float = 1.0, length: int = 24) -> list[Setup]:
    """Beginnings of stories, three tokens replaced by another story's; the metric: what each makes likeliest."""
    model, saes, texts = stories(folder, sharpen)
    found: list[Setup] = []
    for a, b in zip(texts[:100:2], texts[1:100:2], strict=True):
        clean, other = (list(model.encoder.encode(t).ids[:length]) for t in (a, b))
        if len(found) == n or min(len(clean), len(other)) < length:
            continue
        corrupt = [*clean[:-8], *other[-8:-5], *clean[-5:]]
        last = model.forward(mx.array([clean, corrupt]))[0][:, -1]
        best = np.array(mx.argmax(last, axis=-1)).tolist()
        if best[0] != best[1]:
            metric = TokenDifference(((best[0],),), ((best[1],),), text="likeliest")
            found.append(task_setup(model, saes, clean, None if zero else corrupt, metric))
    return found


def agree(n: int, folder: Path) -> None:
    """Print the table of rank correlations."""
    print(f"{'Spearman with exact effects':34}{'nodes':>7}" + "".join(f"{m:>10}" for m in FAST))
    rows: list[tuple[str, Callable[[bool], list[Setup]]]] = []
    rows += [(f"demo {task}", partial(demo_setups, task, n)) for task in TASKS]
    if FIXTURES.is_dir():
        rows.append(("stories260k", partial(story_setups, folder, n)))
        rows.append(("stories260k, queries x 4", partial(story_setups, folder, n, sharpen=4.0)))
    for name, make in rows:
        for zero in (False, True):
            found, size = agreement(make(zero))
            label = f"{name}, {'zero' if zero else 'resample'}"
            print(f"{label:34}{size:7.0f}" + "".join(f"{v:10.3f}" for v in found.values()), flush=True)


def medians(functions: Sequence[Callable[[], object]], runs: int) -> list[float]:
    """Median milliseconds of each, in turn; ratios of neighbours are their quotients."""
    times: list[list[float]] = [[] for _ in functions]
    for i in range(runs + 1):
        for taken, function in zip(times, functions, strict=True):
            start = time.perf_counter()
            function()
            if i:
                taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(t) for t in times]


def plain(setup: Setup) -> Callable[[], None]:
    """One forward and backward of the clean prompts, with respect to what enters the first block."""
    ids = setup.pairs.ids

    def run() -> None:
        def value(delta: mx.array) -> mx.array:
            hooks = Hooks(setup.model.model, setup.model.info, {Site(None, "embed"): lambda x, frame: x + delta})
            logits, _ = hooks(ids)
            return setup.metric(logits, setup.rows, logits).sum()

        mx.eval(mx.value_and_grad(value)(mx.zeros((*ids.shape, setup.model.info.d_model))))

    return run


def all_effects(setup: Setup) -> NodeEffects:
    """The fast method from the beginning: both runs, the backward pass, and every node's effect."""
    return effects_of(prepare(setup.model, setup.pairs, setup.places, setup.metric), "atp")


def speed(folder: Path) -> None:
    """Print times of the methods on one pair."""
    setups = {"demo ioi": demo_setups("ioi", 1, False)[0], "demo, zero": demo_setups("ioi", 1, True)[0]}
    if FIXTURES.is_dir():
        setups["stories260k"] = story_setups(folder, 1, False)[0]
    columns = {"nodes": 7, "plain ms": 10, "atp ms": 9, "ratio": 7, "qk ms": 8}
    columns |= {"exact ms": 10, "/ atp": 7, "1 by 1 ms": 11, "/atp": 7, "1 by 1 / exact": 16}
    print(" " * 12 + "".join(f"{name:>{width}}" for name, width in columns.items()))
    for name, s in setups.items():
        base, fast = medians([plain(s), partial(all_effects, s)], 40)
        (qk,) = medians([partial(effects_of, s, "qk")], 3)
        exact, one = medians([partial(effects_of, s, "exact"), partial(effects_of, s, "exact", batch_rows=1)], 1)
        n = all_effects(s).n
        print(
            f"{name:12}{n:7}{base:10.2f}{fast:9.2f}{fast / base:7.2f}{qk + fast:8.0f}{exact:10.0f}{exact / fast:7.0f}"
            f"{one:11.0f}{one / fast:7.0f}{one / exact:16.1f}",
            flush=True,
        )


def growth() -> None:
    """Print times and memory of longer and longer prompts, and the exponents of a fit."""
    demo = load_demo()
    ids = demo.model.encoder.encode(" ".join(e.prompt for e in examples("ioi", 8, 1))).ids
    metric = TokenDifference(((5,),), ((6,),), text="5 - 6")
    print(f"\n{'tokens':>7}{'atp ms':>9}{'flow s':>8}{'nodes':>7}{'attribution s':>15}{'nodes':>7}{'peak GB':>9}")
    rows = []
    for length in (8, 16, 32, 64):
        s = task_setup(demo.model, demo.saes, list(ids[:length]), None, metric)
        (fast,) = medians([partial(all_effects, s)], 10)
        effects = effects_of(s, "atp")
        start = time.perf_counter()
        flow = flow_of(effects, n=500)
        middle = time.perf_counter()
        graph = attribution_graph(demo.model, demo.transcoders, list(ids[:length]))
        end = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
        rows.append((length, fast, end - middle, len(graph.sources)))
        print(
            f"{length:7}{fast:9.1f}{middle - start:8.2f}{len(flow):7}{end - middle:15.2f}{len(graph.sources):7}"
            f"{peak:9.2f}",
            flush=True,
        )
    tokens, fast_ms, seconds, nodes = (np.log(np.array(column, float)) for column in zip(*rows, strict=True))
    for what, y, x in (
        ("atp, tokens", fast_ms, tokens),
        ("attribution, tokens", seconds, tokens),
        ("attribution, nodes", seconds, nodes),
    ):
        print(f"time of {what}: exponent {np.polyfit(x, y, 1)[0]:.2f}")


def main() -> None:
    """Print the tables asked for, by default both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["agree", "speed"])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--saes", type=Path, help="keeps dictionaries of stories260k")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.saes or Path(temporary)
        if "agree" in args.what:
            agree(args.prompts, folder)
        if "speed" in args.what:
            speed(folder)
            growth()


if __name__ == "__main__":
    main()
