"""How well each method finds the edges of known circuits: `python tests/bench/known.py [PAGE]` writes a page of it.

The methods' settings were chosen on the development circuits; the held-out ones have other circuits, or the same with
other vocabularies, seeds and rotations. Scores are shares of the whole effect, with a floor of 1e-3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

import saedsl  # noqa: F401  first: it loads a fast BLAS before mlx is imported

import mlx.core as mx  # isort: skip
from saedsl.circuits.edge_task import Ablation, EdgeTask
from saedsl.circuits.edges import (
    EdgeScores,
    chance,
    eap,
    eap_ig,
    exact,
    greedy,
    ig_contexts,
    ig_contexts_nodes,
    ig_mask,
)
from saedsl.circuits.known import KNOWN, Truth, auprc, auroc, labels, prompts
from saedsl.circuits.known.scoring import FLOOR
from saedsl.circuits.known.trained import InductionConfig, head_scores, induction_task, train_induction
from saedsl.sae.replace import write_file

ABLATIONS: Final[tuple[Ablation, ...]] = ("resample", "zero", "mean")
LABELS: Final = ("pivotal", "single", "wired")
DEVELOPMENT: Final = (("induction", 17, 1), ("either", 9, 1), ("backup", 9, 1), ("dip", 9, 1))
"""(circuit, vocabulary, seed): on these the methods and their settings were chosen."""
HELD_OUT: Final = tuple(
    (name, 12, 101) for name in ("lookup", "majority", "cancel", "relay", "reserve", "exclusive")
) + tuple((name, 13 if name != "induction" else 14, 202) for name in ("induction", "either", "backup", "dip"))
PUBLISHED: Final = ("induction", "lookup", "either", "backup", "majority", "cancel", "dip")
"""The seven circuits of the target."""
METHODS: Final[dict[str, Callable[[EdgeTask], EdgeScores]]] = {
    "exact, single": exact,
    "greedy": greedy,
    "EAP": eap,
    "EAP-IG 10": eap_ig,
    "IG mask 50": ig_mask,
    "IG contexts 32x8": ig_contexts,
}
CONTROLS: Final = 200
"""Seeds of the random control, whose scores are averaged."""
Figures = dict[str, tuple[float, float]]
"""Method -> (AUROC, AUPRC)."""


@dataclass(frozen=True)
class Row:
    """One circuit, ablation and label."""

    circuit: str
    vocab: int
    seed: int
    held_out: bool
    ablation: Ablation
    label: str
    n_true: int
    n_edges: int
    n_hidden: int
    """Pivotal edges that exact patching of single ones misses."""
    figures: Figures


def measure(circuit: str, vocab: int, seed: int, held_out: bool) -> list[Row]:
    """Every ablation and label of one circuit."""
    known, rows = KNOWN[circuit](vocab=vocab, seed=seed), []
    pairs = prompts(known, n=16, seed=seed)
    for ablation in ABLATIONS:
        task = pairs.task(ablation)
        truth = labels(known, task)
        scores = {name: [method(task)] for name, method in METHODS.items()}
        scores["random"] = [chance(task, s) for s in range(CONTROLS)]
        for label in LABELS:
            true = getattr(truth, label)
            figures = {name: _figures(found, truth, true, task.span) for name, found in scores.items()}
            counts = int(true.sum()), len(true), int(truth.hidden.sum())
            rows.append(Row(circuit, vocab, seed, held_out, ablation, label, *counts, figures))
        print(circuit, vocab, seed, ablation, {m: round(f[0], 3) for m, f in rows[-3].figures.items()}, flush=True)
    return rows


def _figures(found: Sequence[EdgeScores], truth: Truth, true: np.ndarray, span: float) -> tuple[float, float]:
    shares = [scores.of(truth.edges) / span for scores in found]
    return float(np.mean([auroc(s, true) for s in shares])), float(np.mean([auprc(s, true) for s in shares]))


def means(rows: Sequence[Row]) -> Figures:
    """Mean over rows, which must not be empty."""
    return {m: tuple(np.mean([r.figures[m] for r in rows], axis=0)) for m in rows[0].figures}


def line(first: Sequence[object], figures: Figures) -> str:
    """A line of a table, the best AUROC in bold."""
    best = max(round(area, 3) for area, _ in figures.values())
    cells = [
        f"**{area:.3f}** / {precision:.2f}" if round(area, 3) == best else f"{area:.3f} / {precision:.2f}"
        for area, precision in figures.values()
    ]
    return "| " + " | ".join([*map(str, first), *cells]) + " |"


def head(first: Sequence[str], methods: Sequence[str]) -> list[str]:
    return ["| " + " | ".join([*first, *methods]) + " |", "|" + "---|" * (len(first) + len(methods))]


def summary(rows: Sequence[Row], label: str) -> list[str]:
    """Means by group and ablation."""
    groups = {
        "development": [r for r in rows if not r.held_out],
        "held out": [r for r in rows if r.held_out],
        "held out, other circuits": [r for r in rows if r.held_out and r.seed == HELD_OUT[0][2]],
        "held out, the seven of the target": [r for r in rows if r.held_out and r.circuit in PUBLISHED],
    }
    lines = head(["circuits", "ablation"], list(rows[0].figures))
    for group, members in groups.items():
        for ablation in ABLATIONS:
            chosen = [r for r in members if (r.ablation, r.label) == (ablation, label)]
            lines.append(line([group, ablation], means(chosen)))
    return lines


def table(rows: Sequence[Row], label: str) -> list[str]:
    """A line for every circuit and ablation."""
    lines = head(["circuit", "vocabulary", "ablation", "true of edges"], list(rows[0].figures))
    for r in rows:
        if r.label == label:
            lines.append(line([r.circuit, r.vocab, r.ablation, f"{r.n_true} of {r.n_edges}"], r.figures))
    return lines


def hard(rows: Sequence[Row]) -> list[str]:
    """Held-out rows where exact patching of single edges misses some pivotal ones."""
    chosen = [r for r in rows if r.held_out and r.label == "pivotal" and r.n_hidden]
    lines = head(["circuit", "ablation", "hidden of pivotal"], list(rows[0].figures))
    lines += [line([r.circuit, r.ablation, f"{r.n_hidden} of {r.n_true}"], r.figures) for r in chosen]
    return [*lines, line(["mean", "", ""], means(chosen))]


def trained(seeds: Sequence[int] = (0, 1, 2, 3)) -> list[str]:
    """The trained induction model: what attention patterns say of its heads, and which heads lead by patching."""
    lines = head(["seed", "last loss", "previous-token head", "induction heads"], ABLATIONS)
    for seed in seeds:
        config, losses = InductionConfig(seed=seed), list[float]()
        model = train_induction(config, lambda step, loss, losses=losses: losses.append(loss))  # type: ignore[misc]
        scores = head_scores(model, config)
        best = int(scores.previous[0].argmax())
        cells = [seed, f"{losses[-1]:.3f}", f"L0.attn.h{best} {scores.previous[0, best]:.2f}"]
        cells.append(", ".join(f"L1.attn.h{h} {x:.2f}" for h, x in enumerate(scores.prefix_matching[1])))
        for ablation in ABLATIONS:
            task = induction_task(model, config, ablation=ablation)
            ranked = [(n, x) for n, x in ig_contexts_nodes(task).items() if n.kind == "head"]
            cells.append(", ".join(f"{node} {x / task.span:.2f}" for node, x in ranked[:3]))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)
    return lines


def live(vocab: int = 9, seed: int = 5) -> list[str]:
    """Every circuit with norms that are not the identity: whether the truth is the same, and `ig_contexts`."""
    lines = head(["circuit", "right answers", "truth as before"], ABLATIONS)
    for name, make in KNOWN.items():
        real, ideal = make(vocab, seed, "live"), make(vocab, seed)
        tokens, answers = real.every()
        right = (np.array(real.model(mx.array(tokens)))[:, -1].argmax(axis=1) == answers).mean()
        areas, same = [], True
        for ablation in ABLATIONS:
            task, other = (prompts(model, n=16, seed=0).task(ablation) for model in (real, ideal))
            truth = labels(real, task)
            same &= bool((truth.pivotal == labels(ideal, other).pivotal).all())
            areas.append(auroc(ig_contexts(task).of(truth.edges) / task.span, truth.pivotal))
        cells = [name, f"{right:.0%}", "yes" if same else "no", *(f"{area:.3f}" for area in areas)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def page(rows: Sequence[Row]) -> str:
    """The document."""
    parts = [
        INTRODUCTION,
        "## Means, pivotal edges\n", *summary(rows, "pivotal"),
        "\n## Hard cases: held-out circuits with edges that no single ablation shows\n", *hard(rows),
        "\n## Every held-out circuit, pivotal edges\n", *table([r for r in rows if r.held_out], "pivotal"),
        "\n## Development circuits, pivotal edges\n", *table([r for r in rows if not r.held_out], "pivotal"),
        LIVE, *live(),
        TRAINED, *trained(),
        "\n## Means, edges with a single effect\n", *summary(rows, "single"),
        "\n## Means, wired edges\n", *summary(rows, "wired"),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


INTRODUCTION = f"""# Methods on known circuits

`python tests/bench/known.py docs/circuits-benchmark.md` writes this page. The models are in `saedsl.circuits.known`;
what each is hard for stands at the top of `circuits/known/models.py`. Every model answers all its prompts rightly.

Each cell is edge AUROC / AUPRC over all edges of the model, on 16 pairs of prompts. The metric is
`logit(right) - logit(wrong)` at the last position. Scores are shares of what ablating everything takes; below {FLOOR:g}
they are ties at zero, and ties count half (without a floor, rounding ranks true edges of no effect above exact zeros).
A truth holds for one ablation:

* pivotal, the main one: there is a set of other ablated wired edges on top of which the edge changes the metric by
  more than 1 %. All sets are tried.
* single: ablating the edge alone changes it by more than 1 %. `exact, single` is right here by definition.
* wired: on a path of slots written and read to the logits. Some wired edges change nothing under an ablation, and no
  method that looks at effects can find those.

Cost of a score of all edges, in forwards (F) and backwards (B) of the prompts: exact and greedy one F for each edge (18
to 110 here, thousands in a real model), EAP 1 F + 1 B, EAP-IG 10 of each, IG over the mask 50 of each, IG over contexts
32 x 8 of each; the labels themselves take one F for each edge and 2^wired F, which is why they exist for known circuits
only. Random: mean of {CONTROLS} seeds.

`ig_contexts` and its 32 contexts of 8 steps were chosen on the development circuits, against gradients at random
corners and random inner points of the cube of masks, and against paths that only ablate. The held-out circuits are of
six other kinds, and of the four kinds of development with other vocabularies, seeds, places of heads and rotations.

What these circuits do not test: edges outside the wiring have no effect at all here, and norms are the identity but for
one table, so the figures do not say how well a method tells small effects from smaller ones.
"""


LIVE = """
## Live norms

The same circuits with `norm="live"`: RMSNorm with eps 1e-5 beside a constant of 32, which ablations scale a little.
AUROC of IG over contexts on pivotal edges; vocabulary 9, another seed.
"""


TRAINED = """
## Trained: induction

Two layers of attention only, two heads each, trained on repeated random tokens (`saedsl.circuits.known.trained`). The
heads' mean attention to the token before, and to what followed the last time (prefix matching), is beside the three
leading heads by `ig_contexts_nodes`, as shares of the whole effect. Where both heads of layer 1 do induction, the
second of them can come before the previous-token head.
"""


def main() -> None:
    rows = [r for group, held in ((DEVELOPMENT, False), (HELD_OUT, True)) for c in group for r in measure(*c, held)]
    text = page(rows)
    if len(sys.argv) > 1:
        write_file(Path(sys.argv[1]), text.encode())
    print("\n".join(summary(rows, "pivotal")))


if __name__ == "__main__":
    main()
