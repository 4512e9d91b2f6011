"""What a run returns: numbers by prompt, baseline and edited side by side; saved as JSON and safetensors."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from saedsl.errors import ResultError, SAEError
from saedsl.firing import Firing
from saedsl.metrics import Measured
from saedsl.sae.replace import check_replaceable, write_folder

VERSION = 2
"""Of a saved result. Version 1 had no metrics, labels, sweeps and conditions."""
_COLUMNS = frozenset(
    ("step", "kind", "label", "prompt", "token", "token_id", "baseline", "edited", "difference", "kl", "metric")
)
FILES = ("result.json", "arrays.safetensors")
"""What a saved result consists of."""


@dataclass(frozen=True)
class TokenChange:
    """One candidate for the next token."""

    token_id: int
    token: str
    """What it spells."""
    baseline: float
    """Probability without the edits."""
    edited: float
    """Probability with them."""

    @property
    def difference(self) -> float:
        """edited - baseline."""
        return self.edited - self.baseline


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two runs of a prompt."""

    logits: np.ndarray
    """[d_vocab], float32, after the last prompt token."""
    activations: Mapping[str, np.ndarray]
    """Recorded activations by label: [positions, width], or [positions] for one feature."""
    token_ids: tuple[int, ...] = ()
    """Generated tokens."""
    text: str = ""
    """Generated text."""


@dataclass(frozen=True, eq=False)
class PromptResult:
    """One prompt of one step."""

    kind: Literal["run", "generate"]
    prompt: str
    """Its name."""
    text: str
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    """What each prompt token spells."""
    baseline: Side
    edited: Side
    top: tuple[TokenChange, ...]
    """The most probable next tokens of either side, most probable first by the larger of the two."""
    kl: float
    """KL(baseline || edited) of the next token after the prompt, in nats."""
    firings: tuple[Firing, ...]
    record_positions: Mapping[str, str] = field(default_factory=dict)
    """Where each record was read, by label."""
    metrics: Mapping[str, Measured] = field(default_factory=dict)
    """By name, with and without the edits."""
    label: str | None = None
    """What the program calls this run: `run fr as first`."""
    values: tuple[tuple[str, str], ...] = ()
    """The values of sweeps, by name."""
    statement: int = 0
    """Which `run` or `generate` of the program it is of."""


@dataclass(frozen=True)
class MetricMean:
    """A metric's mean over the prompts of one run, or of one combination of sweep values."""

    statement: int
    label: str | None
    values: tuple[tuple[str, str], ...]
    """Of sweeps, by name."""
    metric: str
    baseline: float
    """NaN, as `edited`, where no prompt has a position to read it at."""
    edited: float
    n: int
    """Prompts that have one."""

    @property
    def difference(self) -> float:
        """edited - baseline."""
        return self.edited - self.baseline


@dataclass(frozen=True, eq=False)
class Result:
    """A program's results, with the hashes that say what was run."""

    program_id: str
    """SHA-256 of the canonical program."""
    plan_id: str
    """SHA-256 of the program, its tokens and positions, and the weights it ran on."""
    model: str
    prompts: tuple[PromptResult, ...]
    warnings: tuple[str, ...] = ()
    """What was found while it ran, e.g. edits that changed nothing."""

    @property
    def metrics(self) -> tuple[MetricMean, ...]:
        """The mean of every metric of every run, for each combination of sweep values, in order."""
        found: dict[tuple[Any, ...], list[Measured]] = {}
        for p in self.prompts:
            for name, m in p.metrics.items():
                found.setdefault((p.statement, p.label, p.values, name), []).append(m)
        out = []
        for (statement, label, values, name), all_of in found.items():
            known = [m for m in all_of if math.isfinite(m.baseline) and math.isfinite(m.edited)]
            a, b = (math.fsum(x) / len(known) if known else math.nan for x in _sides(known))
            out.append(MetricMean(statement, label, values, name, a, b, len(known)))
        return tuple(out)

    def metric_table(self) -> list[dict[str, Any]]:
        """A row for each prompt and metric, ready for `pandas.DataFrame`.

        Columns: step, kind, label, prompt, a column for every sweep, metric, baseline, edited, difference.
        """
        return [
            {
                "step": i,
                "kind": p.kind,
                "label": p.label,
                "prompt": p.prompt,
                **{f"sweep {name}" if name in _COLUMNS else name: value for name, value in p.values},
                "metric": name,
                "baseline": m.baseline,
                "edited": m.edited,
                "difference": m.difference,
            }
            for i, p in enumerate(self.prompts)
            for name, m in p.metrics.items()
        ]

    def to_table(self) -> list[dict[str, Any]]:
        """A row for each prompt and candidate token, ready for `pandas.DataFrame`.

        Columns: step, kind, prompt, a column for every sweep, token, token_id, baseline, edited, difference
        (probabilities), kl (nats).
        """
        return [
            {
                "step": i,
                "kind": p.kind,
                "prompt": p.prompt,
                **{f"sweep {name}" if name in _COLUMNS else name: value for name, value in p.values},
                "token": t.token,
                "token_id": t.token_id,
                "baseline": t.baseline,
                "edited": t.edited,
                "difference": t.difference,
                "kl": p.kl,
            }
            for i, p in enumerate(self.prompts)
            for t in p.top
        ]

    def _repr_html_(self) -> str:
        from saedsl.html import result

        return result(self)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays."""
        return {
            "saedsl_result": VERSION,
            "program_id": self.program_id,
            "plan_id": self.plan_id,
            "model": self.model,
            "warnings": list(self.warnings),
            "metrics": [{**asdict(m), "values": dict(m.values), **_finite(m.baseline, m.edited)} for m in self.metrics],
            "prompts": [
                {
                    "kind": p.kind,
                    "label": p.label,
                    "statement": p.statement,
                    "values": dict(p.values),
                    "metrics": {name: _finite(m.baseline, m.edited) for name, m in p.metrics.items()},
                    "prompt": p.prompt,
                    "text": p.text,
                    "token_ids": list(p.token_ids),
                    "pieces": list(p.pieces),
                    "top": [{**asdict(t), "difference": t.difference} for t in p.top],
                    "kl": p.kl,
                    "firings": [asdict(f) for f in p.firings],
                    "record_positions": dict(p.record_positions),
                    "baseline": {"token_ids": list(p.baseline.token_ids), "text": p.baseline.text},
                    "edited": {"token_ids": list(p.edited.token_ids), "text": p.edited.text},
                }
                for p in self.prompts
            ],
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `result.json` and `arrays.safetensors` into `folder`, which appears whole or not at all.

        Raises:
            ResultError: if `folder` holds something else than a result, or cannot be written.
        """
        from safetensors.numpy import save

        arrays = save({k: np.ascontiguousarray(v) for k, v in self._arrays().items()})
        text = json.dumps(self.to_json(), indent=1)
        try:
            write_folder(Path(folder), dict(zip(FILES, (text.encode(), arrays), strict=True)), replaceable=FILES)
        except SAEError as e:
            raise ResultError(str(e)) from None

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Result:
        """Read what `save` wrote. Raises ResultError if it is missing, damaged or of a later version."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(folder)
        try:
            data = json.loads((path / "result.json").read_text(encoding="utf-8"))
            if data.get("saedsl_result") not in (1, VERSION):
                raise ResultError(f"{path}: not a result of this version of saedsl")
            arrays = load_file(path / "arrays.safetensors")
            return cls(
                data["program_id"],
                data["plan_id"],
                data["model"],
                tuple(_prompt(p, i, arrays) for i, p in enumerate(data["prompts"])),
                tuple(data["warnings"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as e:
            raise ResultError(f"{path}: cannot be read as a result ({type(e).__name__}: {e})") from None

    def _arrays(self) -> dict[str, np.ndarray]:
        out = {}
        for i, p in enumerate(self.prompts):
            for name, side in (("baseline", p.baseline), ("edited", p.edited)):
                out[f"{i}/{name}/logits"] = side.logits
                out |= {f"{i}/{name}/record/{label}": a for label, a in side.activations.items()}
        return out


def refuse_other_content(folder: Path) -> None:
    """Raise ResultError if saving a result in `folder` would delete something else."""
    try:
        check_replaceable(folder, FILES)
    except SAEError as e:
        raise ResultError(str(e)) from None


def _prompt(p: dict[str, Any], i: int, arrays: Mapping[str, np.ndarray]) -> PromptResult:
    def side(name: str) -> Side:
        lead = f"{i}/{name}/record/"
        records = {k.removeprefix(lead): a for k, a in arrays.items() if k.startswith(lead)}
        return Side(arrays[f"{i}/{name}/logits"], records, tuple(p[name]["token_ids"]), p[name]["text"])

    return PromptResult(
        p["kind"],
        p["prompt"],
        p["text"],
        tuple(p["token_ids"]),
        tuple(p["pieces"]),
        side("baseline"),
        side("edited"),
        tuple(TokenChange(t["token_id"], t["token"], t["baseline"], t["edited"]) for t in p["top"]),
        p["kl"],
        tuple(Firing(**f) for f in p["firings"]),
        dict(p["record_positions"]),
        {name: Measured(_number(m["baseline"]), _number(m["edited"])) for name, m in p.get("metrics", {}).items()},
        p.get("label"),
        tuple(p.get("values", {}).items()),
        p.get("statement", 0),
    )


def _sides(measured: Sequence[Measured]) -> tuple[list[float], list[float]]:
    return [m.baseline for m in measured], [m.edited for m in measured]


def _finite(baseline: float, edited: float) -> dict[str, float | None]:
    """Both values and their difference as JSON has them: None for what is no number."""
    values = {"baseline": baseline, "edited": edited, "difference": edited - baseline}
    return {name: v if math.isfinite(v) else None for name, v in values.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
