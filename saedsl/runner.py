"""Planned steps, run: each prompt as it is and edited."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from saedsl.anatomy import ModelInfo
from saedsl.batching import budget, groups
from saedsl.errors import RunError
from saedsl.execute import Firing, needs_shadow
from saedsl.forwards import Engine, Job
from saedsl.generation import generate, sampling
from saedsl.lanes import Row
from saedsl.making import Key, Maker
from saedsl.metrics import Measured, kl, log_softmax
from saedsl.plan import Plan, PlannedPrompt, PlannedStep
from saedsl.program import Step
from saedsl.results import PromptResult, Side, TokenChange
from saedsl.sae.dictionary import SAE
from saedsl.sources import Sources
from saedsl.trace import Frame

Started = Callable[[str], None]
User = tuple[PlannedStep, PlannedPrompt]


@dataclass(frozen=True, eq=False)
class _Half:
    """One of the two runs of a prompt, with what is counted and measured of it."""

    side: Side
    firings: tuple[Firing, ...]
    values: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class _Text:
    """A continuation of one row."""

    made: tuple[int, ...]
    """Generated tokens, one that ends the text included."""
    first: np.ndarray
    """Log-probabilities [d_vocab] of the first of them."""
    firings: tuple[Firing, ...]
    records: tuple[Mapping[str, np.ndarray], ...]
    """For each prompt that shares the row."""


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
    batch_size: int | None = None
    """Most rows of one forward; None: as many as memory allows."""

    def __post_init__(self) -> None:
        for name, value in (("top", self.top), ("batch_size", 1 if self.batch_size is None else self.batch_size)):
            if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
                raise ValueError(f"{name} is a whole number, 1 or more, not {value!r}")

    def run(self, planned: Plan, weights: Mapping[str, SAE], progress: Started | None = None) -> list[PromptResult]:
        """Every prompt of every step, in the order of the plan.

        Args:
            planned: what to do.
            weights: the dictionaries that it uses, by name.
            progress: called with the prompts' names before they run.

        Raises:
            RunError: if the model yields NaN, or a value that is taken from another run is not there.
        """
        sources = sources_of(planned, weights, self.model, self.info, self.batch_size)
        results: list[PromptResult] = []
        for _, together in groupby(planned.steps, key=_statement):
            steps = list(together)
            engine = engine_of(planned, weights, self.model, self.info, steps, sources, self.batch_size)
            halves = self._generated(steps, engine, progress) if steps[0].step.kind == "generate" else None
            halves = self._ran(steps, engine, progress) if halves is None else halves
            users = [(s, p) for s in steps for p in s.prompts]
            results += [self._result(u, *h) for u, h in zip(users, halves, strict=True)]
        return results

    # One forward ----------------------------------------------------------------------------------------------------

    def _ran(self, steps: Sequence[PlannedStep], engine: Engine, progress: Started | None) -> list[tuple[_Half, _Half]]:
        """Both runs of every prompt of `run` steps."""
        users = [(s, p) for s in steps for p in s.prompts]
        jobs = [Job(Row(s.step, p), (p,), p.tokens.ids) for s, p in users]
        number = {id(j): i for i, j in enumerate(jobs)}
        shared = _shared(users)
        plain = [
            Job(Row(users[of[0]][0].step, users[of[0]][1], False), tuple(users[i][1] for i in of), ids)
            for ids, of in shared.items()
        ]
        edited: dict[int, _Half] = {}
        baseline: dict[int, _Half] = {}
        for ran in engine.run([*plain, *jobs], _started(progress)):
            frames, index = [ran.reading.frame], ran.reading.index
            if ran.job.row.edited:
                firings = ran.functions.firings(frames, index)
                side = Side(_checked(ran.last), ran.functions.recorded(frames, index))
                edited[number[id(ran.job)]] = _Half(side, firings, ran.values[0])
                continue
            logits = _checked(ran.last)
            for i, values in zip(shared[ran.job.row.tokens], ran.values, strict=True):
                s, p = users[i]
                records = ran.functions.recorded(frames, index, (s.step.records, p.records))
                baseline[i] = _Half(Side(logits, records), (), values)
        return [(baseline[i], edited[i]) for i in range(len(users))]

    # Generation -----------------------------------------------------------------------------------------------------

    def _generated(
        self, steps: Sequence[PlannedStep], engine: Engine, progress: Started | None
    ) -> list[tuple[_Half, _Half]]:
        """Both runs of every prompt of `generate` steps."""
        users = [(s, p) for s in steps for p in s.prompts]
        shared = _shared(users)
        plain = {ids: Row(users[of[0]][0].step, users[of[0]][1], False) for ids, of in shared.items()}
        rows = [Row(s.step, p) for s, p in users]
        texts: dict[int, _Text] = {}
        for some in [*_grouped(list(plain.values()), engine), *_grouped(rows, engine)]:
            if progress:
                progress(", ".join(dict.fromkeys(r.prompt.name for r in some)))
            of = [[(r.step, r.prompt)] if r.edited else _owners(users, shared[r.tokens]) for r in some]
            texts |= {id(r): t for r, t in zip(some, self._continued(some, of, engine), strict=True)}
        base = [texts[id(plain[p.tokens.ids])] for _, p in users]
        edited = [texts[id(r)] for r in rows]
        halves = []
        for i, (before, after) in enumerate(_measured(users, base, edited, engine)):
            _, p = users[i]
            own = shared[p.tokens.ids].index(i)
            halves.append(
                (
                    _Half(self._side(p, base[i], own), (), before),
                    _Half(self._side(p, edited[i], 0), edited[i].firings, after),
                )
            )
        return halves

    def _continued(
        self, rows: Sequence[Row], of: Sequence[Sequence[tuple[Step, PlannedPrompt]]], engine: Engine
    ) -> list[_Text]:
        """Continuations of rows of equal length, behind their shadow rows where they need some."""
        step = rows[0].step
        held = rows[0].edited and needs_shadow(step)
        batch = engine.batch([*(replace(r, edited=False) for r in rows), *rows] if held else rows, paired=held)
        first = len(rows) if held else 0
        frames: list[list[Frame]] = [[] for _ in rows]
        made: list[list[int]] = [[] for _ in rows]
        start: list[mx.array] = []
        wrong: list[mx.array] = []
        prompts = [r.tokens for r in batch.rows]
        sampler = sampling(step.temp, step.top_p, step.seed)
        for token in generate(batch.hooks, prompts, step.n, self.stop, sampler=sampler):
            start = start or [token.logits[first + i] for i in range(len(rows))]
            odd = (mx.isnan(token.logprobs) | (token.logprobs == mx.inf)).any(axis=-1)
            mx.async_eval(odd)  # type: ignore[no-untyped-call]
            wrong.append(odd)
            for i in range(len(rows)):
                if not token.done[first + i]:
                    made[i].append(token.tokens[first + i])
                    frames[i] += token.frames
        bad = np.array(mx.stack(wrong))[:, first:]  # [tokens, rows]
        firings = [batch.functions.firings(f, first + i) for i, f in enumerate(frames)]
        if any(bad[: len(m), i].any() for i, m in enumerate(made)):
            raise RunError(NOT_FINITE)
        out = []
        for i, (f, users) in enumerate(zip(frames, of, strict=True)):
            records = tuple(batch.functions.recorded(f, first + i, (s.records, p.records)) for s, p in users)
            out.append(_Text(tuple(made[i]), _checked(np.array(start[i])), firings[i], records))
        return out

    def _side(self, p: PlannedPrompt, t: _Text, own: int) -> Side:
        made = t.made[:-1] if t.made and t.made[-1] in self.stop else t.made
        ids = p.tokens.ids
        text = self.decode([*ids, *made])[len(self.decode(ids)) :]
        return Side(t.first, t.records[own], made, text)

    # Results --------------------------------------------------------------------------------------------------------

    def _result(self, user: User, baseline: _Half, edited: _Half) -> PromptResult:
        s, p = user
        step = s.step
        lp, lq = log_softmax(baseline.side.logits), log_softmax(edited.side.logits)
        pb, pe = np.exp(lp), np.exp(lq)
        n = min(self.top, len(pb))
        ids = {int(i) for side in (pb, pe) for i in np.argsort(-side, kind="stable")[:n]}
        changes = [TokenChange(i, self.piece(i), float(pb[i]), float(pe[i])) for i in ids]
        changes.sort(key=lambda t: (-max(t.baseline, t.edited), t.token_id))
        where = {
            r.label: (replace(at, gen=()) if step.kind == "run" else at).text
            for r, at in zip(step.records, p.records, strict=True)
        }
        metrics = {name: Measured(value, edited.values[name]) for name, value in baseline.values.items()}
        return PromptResult(
            step.kind, p.name, p.tokens.text, p.tokens.ids, p.tokens.pieces, baseline.side, edited.side,
            tuple(changes), kl(lp, lq), edited.firings, where, metrics, step.label, step.values, step.statement,
        )  # fmt: skip


NOT_FINITE = "the model's output is not finite (NaN or inf): an edit is too strong, or the weights are damaged"


def engine_of(
    planned: Plan,
    weights: Mapping[str, SAE],
    model: nn.Module,
    info: ModelInfo,
    steps: Sequence[PlannedStep],
    sources: Sources | None,
    batch_size: int | None = None,
) -> Engine:
    """What runs rows of these steps."""
    program = planned.program
    some = budget(info, [s.step for s in steps], program.dictionaries, batch_size)
    return Engine(model, info, program, weights, some, sources)


def sources_of(
    planned: Plan, weights: Mapping[str, SAE], model: nn.Module, info: ModelInfo, batch_size: int | None = None
) -> Sources | None:
    """The values that a plan takes from other runs, which run now."""
    engine = engine_of(planned, weights, model, info, planned.steps, None, batch_size)

    def make(key: Key) -> Maker:
        return Maker(key, info, planned.program.dictionaries, weights, planned.program.directions)

    return Sources.of(planned, make, engine.plain)


def _statement(s: PlannedStep) -> tuple[object, ...]:
    """Equal for steps whose rows can share forwards."""
    step = s.step
    return step.statement, step.kind, step.n, step.mode, step.seed, step.temp, step.top_p


def _shared(users: Sequence[User]) -> dict[tuple[int, ...], list[int]]:
    """What is run once without edits, by its tokens: the indices of those who want it."""
    shared: dict[tuple[int, ...], list[int]] = {}
    for i, (_, p) in enumerate(users):
        shared.setdefault(p.tokens.ids, []).append(i)
    return shared


def _owners(users: Sequence[User], of: Sequence[int]) -> list[tuple[Step, PlannedPrompt]]:
    return [(users[i][0].step, users[i][1]) for i in of]


def _started(progress: Started | None) -> Callable[[Sequence[Job]], None] | None:
    if progress is None:
        return None
    return lambda jobs: progress(", ".join(dict.fromkeys(j.row.prompt.name for j in jobs)))


def _grouped(rows: Sequence[Row], engine: Engine) -> Iterator[list[Row]]:
    """Rows of equal length that are continued together, in their order."""
    by_length: dict[tuple[int, bool], list[Row]] = {}
    for r in rows:
        by_length.setdefault((len(r.tokens), r.edited and needs_shadow(r.step)), []).append(r)
    for (length, held), some in by_length.items():
        shadows = list(range(len(some))) if held else None
        for group in groups([length + some[0].step.n] * len(some), engine.budget, shadows):
            yield [some[i] for i in group]


def _measured(
    users: Sequence[User], baselines: Sequence[_Text], edited: Sequence[_Text], engine: Engine
) -> list[tuple[Mapping[str, float], Mapping[str, float]]]:
    """Metrics of continuations, (baseline, edited) for each: one more forward over each text, if there are metrics."""
    if not any(p.metrics for _, p in users):
        return [({}, {})] * len(users)
    plain: dict[tuple[int, ...], tuple[Job, list[int]]] = {}
    jobs: list[Job] = []
    for i, ((s, p), a, b) in enumerate(zip(users, baselines, edited, strict=True)):
        ids = p.tokens.ids
        whole = (*ids, *a.made)
        row = Row(s.step, p, False, whole[:-1] if a.made else whole)
        known = plain.setdefault(row.tokens, (Job(row, (), whole), []))
        known[1].append(i)
        whole = (*ids, *b.made)
        jobs.append(Job(Row(s.step, p, True, whole[:-1] if b.made else whole), (p,), whole))
    shared = {ids: replace(job, prompts=tuple(users[i][1] for i in own)) for ids, (job, own) in plain.items()}
    before: dict[int, Mapping[str, float]] = {}
    after: dict[int, Mapping[str, float]] = {}
    for ran in engine.run([*shared.values(), *jobs]):
        _checked(ran.last)
        if ran.job.row.edited:
            after[id(ran.job)] = ran.values[0]
        else:
            before |= zip(plain[ran.job.row.tokens][1], ran.values, strict=True)
    return [(before[i], after[id(j)]) for i, j in enumerate(jobs)]


def _checked(logits: np.ndarray) -> np.ndarray:
    if np.isnan(logits).any() or np.isposinf(logits).any():  # -inf is how models rule tokens out
        raise RunError(NOT_FINITE)
    return logits
