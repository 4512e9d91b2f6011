"""What validation says of a circuit: every number with every choice that it depends on, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from saedsl.circuits.necessity import Addition, Need
from saedsl.circuits.rankstats import Estimate
from saedsl.circuits.scores import Scores

BOUNDS: Mapping[str, tuple[float, float]] = {"faithfulness": (0.9, 1.1), "completeness": (float("-inf"), 0.2)}
"""What a circuit is expected to hold on the prompts that it is validated on."""
NEEDED = 0.01
"""A change of faithfulness from which on a node counts as needed."""


@dataclass(frozen=True)
class Choices:
    """What the numbers depend on."""

    model: str
    metric: str
    ablation: str
    errors: Literal["keep", "remove"]
    sites: tuple[str, ...]
    method: str
    """How the circuit was found."""
    prompts: int
    held_out: bool
    """Whether it was found on other prompts."""
    example: str
    """The first of the prompts."""
    seed: int


@dataclass(frozen=True)
class Handling:
    """The metric under one way to treat errors, means over the prompts."""

    errors: str
    circuit: float
    nothing: float
    rest: float
    faithfulness: float
    completeness: float


@dataclass(frozen=True)
class Curve:
    """Circuits of growing size, the nodes of largest |effect| first."""

    shares: tuple[float, ...]
    nodes: tuple[int, ...]
    faithfulness: tuple[float, ...]
    completeness: tuple[float, ...]
    cpr: float
    cmd: float


@dataclass(frozen=True)
class Agreement:
    """Fast effects against exact patching."""

    nodes: int
    prompts: int
    spearman: Estimate
    top: int
    overlap: Estimate


@dataclass(frozen=True)
class Control:
    """Random circuits of as many nodes at every site."""

    n: int
    mean: float
    """Of faithfulness, as below."""
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What validation found."""

    choices: Choices
    nodes: int
    active: int
    """Features at positions that fire in a prompt."""
    share: float
    """Of the nodes that fire in a prompt, how many are in the circuit; mean over the prompts."""
    scores: Scores
    """As the circuit's program gives them."""
    interval: Estimate
    """Of faithfulness, over prompts."""
    everything: float
    """Faithfulness of all features without errors: what dictionaries can reach."""
    handlings: tuple[Handling, ...]
    training: Scores | None
    """On the prompts that it was found on, where these are others."""
    curve: Curve | None
    needs: tuple[Need, ...]
    subsets: int
    additions: tuple[Addition, ...]
    agreement: Agreement | None
    control: Control | None
    plan_id: str

    @property
    def faithful(self) -> bool:
        """Whether faithfulness is within `BOUNDS`."""
        return _within("faithfulness", self.scores.faithfulness)

    @property
    def complete(self) -> bool:
        """Whether completeness is within `BOUNDS`."""
        return _within("completeness", self.scores.completeness)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        data = asdict(self)
        data["needs"] = [{"node": n.node.id, "alone": n.alone, "most": n.most} for n in self.needs]
        data["additions"] = [{"node": a.node.id, "gain": a.gain, "together": a.together} for a in self.additions]
        plain: dict[str, Any] = _plain(
            {"saedsl_verdict": 1, **data, "faithful": self.faithful, "complete": self.complete}
        )
        return plain

    def text(self) -> str:
        """A table for people."""
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows) + "\n"

    def markdown(self) -> str:
        """The same as a table of Markdown."""
        rows = [(name.replace("|", "\\|"), value.replace("|", "\\|")) for name, value in self.rows()]
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) in the order in which a reviewer asks."""
        c, s = self.choices, self.scores
        held = "not used to find the circuit" if c.held_out else "the ones the circuit was found on"
        low, high = BOUNDS["faithfulness"]
        found = [
            ("metric", f"{c.metric}, mean over {c.prompts} prompts"),
            ("prompts", f"{held}; first: {c.example}"),
            ("dictionaries", f"{', '.join(c.sites)} of {c.model}"),
            ("ablation outside", f"{c.ablation}; errors of dictionaries {'kept' if c.errors == 'keep' else 'removed'}"),
            ("found by", c.method or "not said"),
            ("size", f"{self.nodes} nodes; {self.nodes / max(self.active, 1):.1%} of {self.active:,} that fire in any "
                     f"prompt, {self.share:.1%} of those in one"),
            ("m(M), m(C), m(0), m(M\\C)", f"{s.whole:.3f}, {s.circuit:.3f}, {s.nothing:.3f}, {s.rest:.3f}"),
            ("faithfulness", f"{s.faithfulness:.3f} [{self.interval.low:.3f}, {self.interval.high:.3f}] "
                             f"({'within' if self.faithful else 'outside'} {low}..{high})"),
            ("completeness", f"{s.completeness:.3f} "
                             f"({'at most' if self.complete else 'above'} {BOUNDS['completeness'][1]})"),
            ("all features, no errors", f"faithfulness {self.everything:.3f}"),
        ]  # fmt: skip
        for h in self.handlings:
            found.append(
                (f"errors: {h.errors}", f"faithfulness {h.faithfulness:.3f}, completeness {h.completeness:.3f}")
            )
        if self.training is not None:
            t = self.training
            found.append(
                ("on training prompts", f"faithfulness {t.faithfulness:.3f}, completeness {t.completeness:.3f}")
            )
        if self.control is not None:
            r = self.control
            found.append(
                ("random circuits", f"{r.n} of equal size: faithfulness {r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]")
            )
        if self.needs:
            idle = [n for n in self.needs if n.most < NEEDED]
            lone = sum(n.alone >= NEEDED for n in self.needs)
            counted = (
                f"{lone} of {len(self.needs)} nodes lower faithfulness by {NEEDED} or more when left out, "
                f"{len(self.needs) - len(idle)} change it so in the circuit or one of {self.subsets} parts of it"
            )
            found.append(("minimality", counted))
        if self.curve is not None:
            drawn = self.curve
            points = ", ".join(
                f"{share:g}: {f:.2f}/{g:.2f}"
                for share, f, g in zip(drawn.shares, drawn.faithfulness, drawn.completeness, strict=True)
            )
            found.append(("curve", f"CMD {drawn.cmd:.3f}, CPR {drawn.cpr:.3f}; faithfulness/completeness at {points}"))
        if self.agreement is not None:
            a = self.agreement
            ranks = f"Spearman {a.spearman}, top-{a.top} overlap {a.overlap}"
            found.append(("exact patching", f"{ranks} of {a.nodes} nodes of {_prompts(a.prompts)}"))
        if self.additions:
            found.append(("restored by", ", ".join(f"{a.node} (to {a.together:.3f})" for a in self.additions[:5])))
        found.append(("plan", self.plan_id))
        return found


def _within(name: str, value: float) -> bool:
    low, high = BOUNDS[name]
    return low <= value <= high


def _prompts(n: int) -> str:
    return f"{n} prompt{'' if n == 1 else 's'}"


def _plain(value: Any) -> Any:
    """Numbers that JSON has: None for what is not finite."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
