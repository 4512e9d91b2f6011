"""What a figure says of the circuit in words: everything a reader needs to judge it."""

from __future__ import annotations

import networkx as nx

from saedsl.circuits.graph import Meta

LONGEST: int = 90
"""Characters of a prompt that are quoted."""


def caption(graph: nx.DiGraph, edges_drawn: int | None = None) -> str:
    """Nodes, edges, metric, ablation, prompts, scores and the plan's hash, as far as they are known."""
    meta: Meta = graph.graph.get("meta") or Meta()
    n_edges = graph.number_of_edges()
    counts = f"{counted(len(graph), 'node')}, {counted(n_edges, 'edge')}"
    if edges_drawn is not None and edges_drawn < n_edges:
        counts += f" (the {edges_drawn:,} of largest |weight| drawn)"
    parts = [f"Circuit{f' of {meta.model}' if meta.model else ''}: {counts}"]
    told = [("metric", meta.metric), ("ablation", _ablation(meta)), ("method", meta.method), (_prompts(meta), "")]
    parts += [f"{name} {value}".rstrip() for name, value in told if value or name.startswith("prompt")]
    first = ("faithfulness", "completeness", "error_share")
    scores = [*(n for n in first if n in meta.scores), *sorted(n for n in meta.scores if n not in first)]
    parts += [f"{name.replace('_', ' ')} {meta.scores[name]:.3g}" for name in scores]
    if meta.plan_id:
        parts.append(f"plan {meta.plan_id[:12]}")
    return "; ".join(part for part in parts if part) + "."


def counted(n: int, what: str) -> str:
    """`1 node`, `2,000 nodes`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def one_line(text: str) -> str:
    """`text` with its line breaks and tabs made visible, other control characters replaced."""
    shown = text.replace("\r\n", "\n").replace("\n", "⏎").replace("\r", "⏎").replace("\t", "→")
    return "".join(c if c.isprintable() else "\ufffd" for c in shown)


def _ablation(meta: Meta) -> str:
    if not meta.ablation:
        return ""
    return f"{meta.ablation} (SAE errors {'kept' if meta.errors == 'keep' else 'removed'})"


def _prompts(meta: Meta) -> str:
    if not meta.prompts:
        return ""
    first = one_line(meta.prompts[0])
    first = first if len(first) <= LONGEST else first[: LONGEST - 1] + "…"
    more = len(meta.prompts) - 1
    return f"prompt “{first}”{f' and {more:,} more' if more else ''}"
