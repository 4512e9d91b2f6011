"""What a plan will do, before any weight is read: modules, formulas, tokens, rows, forwards, memory.

Rows are counted as `saedsl.forwards` makes them; how many forwards they take is known up to the memory of the device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from math import ceil
from typing import Any, Final

from saedsl.formulas import formula
from saedsl.grammar.format import format_node
from saedsl.plan import Plan, PlannedPrompt, PlannedStep
from saedsl.positions import PositionSet
from saedsl.program import Intervention, Program
from saedsl.tokens import Tokens

FLOAT: Final = 4
"""Bytes: edits compute in float32, whatever the model's own type is."""
BUDGET: Final = 10**9
"""Bytes that the rows of one forward may take; a device with more memory takes fewer forwards."""
_SKIPPING = re.compile(r"\b(all|prompt)\b(?!\[)")
"""Positions that leave something out for edits through a dictionary."""


@dataclass(frozen=True)
class ExplainedEdit:
    """One edit of one step."""

    text: str
    hook: str
    """Module path and side, `model.layers.2.mlp out`."""
    formula: str
    at: tuple[tuple[str, str], ...]
    """(prompt's text, where) for each prompt."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What a statement takes."""

    rows: int
    """Sequences that the model reads: each prompt as it is, each prompt edited, and others to hold edits against."""
    forwards: int
    """Calls of the model, about: rows share a call as long as memory allows."""
    extra: tuple[str, ...]
    """What is read beside the prompts, for modes, patches, references and metrics."""
    bytes: int
    """That the rows of the largest call take, about."""


@dataclass(frozen=True)
class ExplainedStep:
    """One `run` or `generate`: one step, or those of a sweep."""

    title: str
    """`run`, `generate 32`."""
    values: tuple[str, ...]
    """Of sweeps, `s = 1, v = f2`, by step; nothing without a sweep."""
    options: tuple[str, ...]
    prompts: tuple[str, ...]
    """With their number of tokens."""
    edits: tuple[ExplainedEdit, ...]
    """Of the first step."""
    records: tuple[str, ...]
    metrics: tuple[str, ...]
    cost: Cost
    """Of all steps."""

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def explain(plan: Plan) -> tuple[ExplainedStep, ...]:
    """Every statement that runs, in order."""
    return tuple(_statement(plan, list(steps)) for _, steps in groupby(plan.steps, _together))


def _together(s: PlannedStep) -> tuple[object, ...]:
    """Equal for steps whose rows share forwards."""
    return s.step.statement, s.step.kind, s.step.n, s.step.mode, s.step.seed, s.step.temp, s.step.top_p


def _statement(plan: Plan, steps: Sequence[PlannedStep]) -> ExplainedStep:
    s = steps[0]
    step = s.step
    options = [f"mode {step.mode}"]
    if step.temp or any(e.to is not None and e.to.kind == "resample" for e in step.edits):
        options.append(f"seed {step.seed}")
    if step.kind == "generate":
        options.append(f"temp {step.temp:g}, top_p {step.top_p:g}" if step.temp else "greedy")
    return ExplainedStep(
        f"generate {step.n}" if step.kind == "generate" else "run",
        tuple(", ".join(f"{k} = {v}" for k, v in x.step.values) for x in steps if x.step.values),
        tuple(options),
        tuple(f"{quoted(p.tokens.text)}  ({len(p.tokens)} tokens)" for p in s.prompts),
        tuple(_edit(plan.program, s, i, e) for i, e in enumerate(step.edits)),
        tuple(r.label for r in step.records),
        tuple(_metric(p, i) for p in s.prompts for i in range(len(p.metrics))),
        cost(plan, steps),
    )


def _edit(program: Program, s: PlannedStep, i: int, e: Intervention) -> ExplainedEdit:
    at = tuple((quoted(p.tokens.text), _where(p, i, s)) for p in s.prompts)
    return ExplainedEdit(e.text(), str(program.model.hook_point(e.site)), formula(e), at, tuple(_notes(program, s, e)))


def _notes(program: Program, s: PlannedStep, e: Intervention) -> Iterable[str]:
    """What is not to be seen from the text."""
    if e.site.component == "resid_mid":
        yield "as a delta of attention's contribution"
    if e.stage:
        yield f"reads what stage {e.stage - 1} left at this site"
    if e.dictionary is not None:
        d = program.dictionaries[e.dictionary]
        trained = d.info.config.trained_on_bos
        skips = (["BOS"] if not trained and any(p.tokens.bos for p in s.prompts) else []) + (
            ["the template's tokens"] if any(p.tokens.template for p in s.prompts) else []
        )
        written = [format_node(p) for p in e.positions] or ["all"]
        if skips and all(map(_SKIPPING.search, written)):
            yield f"`all` skips {' and '.join(skips)}; @ everywhere includes them"
        if d.read != d.write:
            yield f"features are read at {d.read}"


def _where(p: PlannedPrompt, i: int, s: PlannedStep) -> str:
    """Tokens that an edit acts on, and where a patch's values come from."""
    patch = p.patches[i] if p.patches else None
    if patch is not None:
        pairs = [f"{t}:{p.tokens.pieces[t]!r} <- {f}:{patch.tokens.pieces[f]!r}" for t, f in patch.pairs]
        return _few(pairs)
    return places(p.edits[i], p, s.step.kind == "generate")


def places(where: PositionSet, p: PlannedPrompt, generates: bool) -> str:
    """`4:' cat' 5:' sat' and gen[0..9]`"""
    tokens = _few([f"{j}:{p.tokens.pieces[j]!r}" for j in sorted(where.prompt)])
    gen = ", ".join(t for t in where.text.split(", ") if t.startswith("gen")) if generates else ""
    gen = "every generated token" if gen == "gen[0..]" else gen
    return " and ".join(t for t in (tokens or ("" if gen else "no prompt token"), gen) if t)


def _few(items: Sequence[str]) -> str:
    shown = [*items[:12], f"... ({len(items)} in all) ...", *items[-6:]] if len(items) > 24 else items
    return " ".join(shown)


def _metric(p: PlannedPrompt, i: int) -> str:
    m = p.metrics[i]
    names = {n for ids in m.token_ids.values() for n in ids}
    return f"{m.metric.name} on {quoted(p.tokens.text)}: at {m.positions.text}" + (
        f", token ids {sorted(names)}" if names else ""
    )


# Cost -----------------------------------------------------------------------------------------------------------------


def cost(plan: Plan, steps: Sequence[PlannedStep]) -> Cost:
    """What the steps of one statement take."""
    prompts = [p for s in steps for p in s.prompts]
    edits = [e for s in steps for e in s.step.edits]
    first = steps[0].step
    plain = {p.tokens.ids: len(p.tokens) for p in prompts}
    edited = [len(p.tokens) for p in prompts]
    held = first.mode != "iterative" or any(e.op == "freeze" for e in edits)
    taken = {x.tokens.ids: len(x.tokens) for p in prompts for x in p.patches if x is not None}
    texts = {i: len(t) for key in _references(edits) for i, t in _texts(plan, steps, key)}
    behind = [
        len(p.tokens) + len(ids) for p in prompts for m in p.metrics for t, ids in m.token_ids.items()
        if t.function == "logprob" and len(ids) > 1
    ]  # fmt: skip
    extra = ["the unedited run beside the edited one, in the same forward"] if held else []
    extra += [f"{_count(len(taken), 'prompt')} to patch from"] if taken else []
    extra += [f"{_count(len(list(_texts(plan, steps, key))), 'text')} of {key}" for key in _references(edits)]
    extra += [f"{_count(2 * len(behind), 'row')} with a metric's text appended"] if behind else []
    per_token = FLOAT * max((_floats(plan.program, s.step.edits) for s in steps), default=0)
    per_token += FLOAT * _model_floats(plan.program)
    beside = list(plain.values()) if held else []
    batches: list[list[int]]
    if first.kind == "generate":
        lengths = (list(plain.values()), [n for n in edited for _ in range(2 if held else 1)])
        batches = [[n + first.n] * rows.count(n) for rows in lengths for n in sorted(set(rows))]
        rows = sum(map(len, batches))
    else:
        batches = [*([] if held else [list(plain.values())]), [*beside, *edited]]
        rows = len(plain) + len(edited)
    forwards = max(first.n, 1) * sum(_calls(b, per_token) for b in batches)
    more = [list(taken.values()), list(texts.values()), behind, behind]
    forwards += sum(_calls(b, per_token) for b in more)
    largest = max((min(sum(b) * per_token, BUDGET) for b in (*batches, *more)), default=0)
    return Cost(rows + sum(map(len, more)), forwards, tuple(extra), largest)


def _references(edits: Iterable[Intervention]) -> list[str]:
    return sorted({e.to.reference for e in edits if e.to is not None})


def _texts(plan: Plan, steps: Sequence[PlannedStep], key: str) -> Iterator[tuple[tuple[str, int], Tokens]]:
    """The texts of a reference that are read, by their number."""
    kinds = {e.to.kind for s in steps for e in s.step.edits if e.to is not None and e.to.reference == key}
    chosen = {p.resamples[key] for s in steps for p in s.prompts if key in p.resamples}
    for i, t in enumerate(plan.references.get(key, ())):
        if i in chosen or kinds - {"resample"}:
            yield (key, i), t


def _calls(lengths: Sequence[int], per_token: int) -> int:
    """How many forwards rows of these lengths take."""
    return max(1, ceil(sum(lengths) * per_token / BUDGET)) if lengths else 0


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _model_floats(program: Program) -> int:
    """Numbers that a forward holds at once for a token, about."""
    m = program.model
    return 2 * m.d_vocab + 12 * m.d_model + 3 * m.d_mlp + 4 * m.n_heads * m.d_head


def _floats(program: Program, edits: Iterable[Intervention]) -> int:
    """Numbers that edits hold at once for a token: what they read, what they change, and the delta."""
    total = 0
    for e in edits:
        d = program.dictionaries[e.dictionary] if e.dictionary is not None else None
        width = program.model.width(e.site) or program.model.d_model
        whole = d is not None and (e.features == "all" or e.op == "keep" or not d.info.config.elementwise)
        read = d.info.d_sae if d is not None and whole else max(len(e.features), 1)
        total += 2 * (read + width)
    return total


def quoted(text: str) -> str:
    """A text in quotes, at most 60 characters of it, on one line."""
    shown = text if len(text) <= 60 else text[:57] + "..."
    return '"' + shown.replace("\n", "\\n") + '"'
