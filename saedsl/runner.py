"""Planned steps, run: each prompt as it is and edited."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from saedsl.anatomy import ModelInfo
from saedsl.errors import RunError
from saedsl.execute import Firing, StepFunctions, batches
from saedsl.plan import Plan, PlannedPrompt, PlannedStep
from saedsl.program import Step
from saedsl.results import PromptResult, Side, TokenChange
from saedsl.sae.dictionary import SAE
from saedsl.trace import Frame, Hooks, generate


@dataclass(frozen=True)
class Runner:
    """A loaded model, as running needs it."""

    model: nn.Module
    info: ModelInfo
    piece: Callable[[int], str]
    """What one token spells."""
    decode: Callable[[Sequence[int]], str]
    """Text of tokens."""
    stop: Collection[int]
    """Tokens that end a text."""
    top: int = 10
    """Next tokens of either side that a result lists."""

    def run(
        self, planned: Plan, weights: Mapping[str, SAE], progress: Callable[[str], None] | None = None
    ) -> list[PromptResult]:
        """Every prompt of every step, in the order of the plan.

        Args:
            planned: what to do.
            weights: the dictionaries that it uses, by name.
            progress: called with the prompts' names before they run.

        Raises:
            RunError: if the model yields NaN.
        """
        results: list[PromptResult] = []
        for step in planned.steps:
            groups = batches(step) if step.step.kind == "run" else [[i] for i in range(len(step.prompts))]
            done: dict[int, PromptResult] = {}
            for group in groups:
                if progress:
                    progress(", ".join(step.prompts[i].name for i in group))
                done |= zip(group, self._group(step, group, planned, weights), strict=True)
            results += [done[i] for i in sorted(done)]
        return results

    def _group(
        self, step: PlannedStep, group: list[int], planned: Plan, weights: Mapping[str, SAE]
    ) -> list[PromptResult]:
        prompts = [step.prompts[i] for i in group]
        d = planned.program.dictionaries
        sides = []
        for edited in (False, True):
            functions = StepFunctions(step.step, prompts, d, weights, edited=edited)
            hooks = Hooks(self.model, self.info, functions.functions, functions.captures)
            if step.step.kind == "generate":
                sides.append(self._generate(hooks, functions, prompts[0], step.step))
            else:
                sides.append(_forward(hooks, functions, prompts))
        (baselines, _), (edits, firings) = sides
        return [
            self._result(step.step, p, b, e, f) for p, b, e, f in zip(prompts, baselines, edits, firings, strict=True)
        ]

    def _generate(
        self, hooks: Hooks, functions: StepFunctions, prompt: PlannedPrompt, step: Step
    ) -> tuple[list[Side], list[tuple[Firing, ...]]]:
        frames: list[Frame] = []
        made: list[int] = []
        logprobs: list[mx.array] = []
        for token, logprob, new in generate(hooks, prompt.tokens.ids, step.n, self.stop):
            logprobs.append(logprob)
            made.append(token)
            frames += new
        first, *_ = [_checked(p) for p in logprobs]
        if made[-1] in self.stop:
            made.pop()
        ids = prompt.tokens.ids
        text = self.decode([*ids, *made])[len(self.decode(ids)) :]
        side = Side(first, functions.recorded(frames, 0), tuple(made), text)
        return [side], [functions.firings(frames, 0)]

    def _result(
        self,
        step: Step,
        p: PlannedPrompt,
        baseline: Side,
        edited: Side,
        firings: tuple[Firing, ...],
    ) -> PromptResult:
        lp, lq = _log_softmax(baseline.logits), _log_softmax(edited.logits)
        pb, pe = np.exp(lp), np.exp(lq)
        n = min(self.top, len(pb))
        ids = {int(i) for side in (pb, pe) for i in np.argsort(-side, kind="stable")[:n]}
        changes = [TokenChange(i, self.piece(i), float(pb[i]), float(pe[i])) for i in ids]
        changes.sort(key=lambda t: (-max(t.baseline, t.edited), t.token_id))
        where = {
            r.label: (replace(s, gen=()) if step.kind == "run" else s).text
            for r, s in zip(step.records, p.records, strict=True)
        }
        return PromptResult(
            step.kind, p.name, p.tokens.text, p.tokens.ids, p.tokens.pieces, baseline, edited,
            tuple(changes), _kl(lp, lq), firings, where,
        )  # fmt: skip


def _forward(
    hooks: Hooks, functions: StepFunctions, prompts: Sequence[PlannedPrompt]
) -> tuple[list[Side], list[tuple[Firing, ...]]]:
    logits, frame = hooks(mx.array([p.tokens.ids for p in prompts]))
    last = logits[:, -1].astype(mx.float32)
    mx.eval(last, *frame.arrays)
    sides = [Side(_checked(last[i]), functions.recorded([frame], i)) for i in range(len(prompts))]
    return sides, [functions.firings([frame], i) for i in range(len(prompts))]


def _checked(logits: mx.array) -> np.ndarray:
    out = np.array(logits.astype(mx.float32))
    if np.isnan(out).any() or np.isposinf(out).any():  # -inf is how models rule tokens out
        raise RunError(
            "the model's output is not finite (NaN or inf): an edit is too strong, or the weights are damaged"
        )
    return out


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max()
    out: np.ndarray = x - np.log(np.exp(x).sum())
    return out


def _kl(lp: np.ndarray, lq: np.ndarray) -> float:
    """KL(p || q) in nats, from log-probabilities."""
    p = np.exp(lp)
    some = p > 0
    return max(0.0, float(np.sum(p[some] * (lp[some] - lq[some]))))


def silent_edits(results: Sequence[PromptResult]) -> Iterator[str]:
    """A warning for each edit that changed nothing on any prompt, and for each amplification of a silent feature."""
    by_edit: dict[str, dict[str, list[Firing]]] = {}
    for p in results:
        for f in p.firings:
            by_edit.setdefault(f.edit, {}).setdefault(f.feature, []).append(f)
    for edit, features in by_edit.items():
        idle = {name: found for name, found in features.items() if not any(f.changed for f in found)}
        if not idle or (len(idle) < len(features) and " amplify " not in edit):
            continue
        n = sum(f.positions for f in next(iter(idle.values())))
        if n == 0:
            yield f"warning[S610]: `{edit}` never acted: no token that was read is at its positions"
            continue
        active = [name for name, found in idle.items() if any(f.active for f in found)]
        silent = [name for name in idle if name not in active]
        parts = [
            f"{_few(names)} {'was' if len(names) == 1 else 'were'} {what}"
            for names, what in ((silent, "never active"), (active, "active but not changed"))
            if names
        ]
        yield f"warning[S610]: `{edit}` changed nothing at {n} positions: {', '.join(parts)}"


def _few(names: Sequence[str]) -> str:
    named = [name or "the activation" for name in names]
    return ", ".join(named) if len(named) <= 6 else f"{', '.join(named[:5])} and {len(named) - 5} more"
