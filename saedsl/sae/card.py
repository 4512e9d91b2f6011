"""The model card of a dictionary: YAML front matter, what it is, how to load it, what was measured.

Names that came with a file are data: quoted as JSON strings in YAML (which YAML 1.2 contains) and in Python, escaped in
Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Final

from saedsl.sae.config import DictionaryConfig
from saedsl.sae.header import SAEInfo
from saedsl.sae.names import is_repository

TITLES: Final = {
    "sae": "Sparse autoencoder",
    "transcoder": "Transcoder",
    "crosscoder": "Crosscoder",
    "clt": "Cross-layer transcoder",
}
_KNOWN: Final = {
    "explained_variance": "Explained variance", "mse": "Mean squared error", "l0": "L0", "l0_sparsity": "L0 sparsity",
    "l1": "L1", "cosine": "Cosine similarity", "dead": "Dead share", "dead_share": "Dead share",
    "ce_recovered": "CE recovered", "kl": "KL", "tokens": "Tokens measured", "shrinkage": "Shrinkage",
}  # fmt: skip
"""Numbers of a report that the card shows, in this order."""
_SECTIONS: Final = ("final", "validation")
"""Parts of a training report that are looked into as well; of a list, its last entry."""
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]()#+\-!|~])")


def model_card(info: SAEInfo, name: str, report: Mapping[str, Any] | None = None) -> str:
    """The README.md of a repository that holds one dictionary.

    Args:
        info: of the dictionary as it was written.
        name: what it is loaded by: `org/repo`.
        report: measured numbers; those that a card shows are picked out of it.
    """
    c = info.config
    front = ["---", "library_name: saedsl", "tags:", "- sparse-autoencoder", "- mechanistic-interpretability"]
    front += [f"- {c.kind}"] if c.kind != "sae" else []
    if c.model_name is not None and is_repository(c.model_name):
        front += [f"base_model: {json.dumps(c.model_name)}"]
    parts = [
        "\n".join([*front, "---"]),
        f"# {escaped(name)}",
        f"{TITLES[c.kind]} with {c.d_sae} features{_where(c)}.",
        _table("Property", "Value", _properties(info)),
        "## Use",
        f"```python\nfrom saedsl import SAE\n\nsae = SAE.load({json.dumps(name)})\n"
        "features = sae.encode(x)  # x: [..., " + f"{c.d_in}]\n```",
        "The files are in SAELens' layout." if info.format == "saelens" else "The files are in saedsl's own layout.",
    ]
    measured = list(numbers(report or {}))
    if measured:
        parts += ["## Measured", _table("Metric", "Value", measured)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """`text` as Markdown that shows it and does nothing else, in one line."""
    marked = _SPECIAL.sub(r"\\\1", " ".join(text.split()))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(title, value) of the finite numbers of a report that are known, each once; the outermost counts."""
    found: dict[str, float] = {}
    sections = [report]
    for name in _SECTIONS:
        part = report.get(name)
        part = part[-1] if isinstance(part, list) and part else part
        if isinstance(part, Mapping):
            sections.append(part)
    for section in sections:
        for key in _KNOWN:
            value = section.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
                found.setdefault(key, value)
    for key, title in _KNOWN.items():
        if key in found:
            yield title, f"{found[key]:,}" if isinstance(found[key], int) else f"{found[key]:.4g}"


def _where(c: DictionaryConfig) -> str:
    """The model and the sites, as far as they are known."""
    sites = [", ".join(map(str, s)) for s in (c.input_sites, c.output_sites)]
    if not c.several_sites:
        sites = ["" if s is None else str(s) for s in (c.input_site, c.output_site)]
    read, write = (s or "an unknown site" for s in sites)
    place = "" if not any(sites) else f" on {escaped(read)}"
    place += f" to {escaped(write)}" if place and read != write else ""
    return place + (f" of {escaped(c.model_name)}" if c.model_name else "")


def _properties(info: SAEInfo) -> Iterator[tuple[str, str]]:
    c = info.config
    yield "Activation", c.activation + (f", k = {c.k}" if c.k is not None else "")
    yield "Input width", str(c.d_in)
    yield "Output width", str(c.d_out)
    if c.prefixes:
        yield "Nested dictionaries", ", ".join(map(str, c.prefixes))
    if c.normalize_activations != "none":
        yield "Normalisation", escaped(c.normalize_activations)
    if c.center_input:
        yield "Input", "each token loses its mean"
    if c.context_size is not None:
        yield "Context size", str(c.context_size)
    yield "Weights (SHA-256)", info.sha256


def _table(left: str, right: str, rows: Any) -> str:
    return "\n".join([f"| {left} | {right} |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)])
