"""What a circuit is a circuit of: prompts with their fields, a metric, dictionaries, and what ablated nodes become."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from saedsl.circuits.metric import LanguageMetric
from saedsl.circuits.pairs import Pairs, pairs_of
from saedsl.circuits.splice import Place, placed
from saedsl.errors import CircuitError, ProgramError
from saedsl.program import terms

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel
    from saedsl.sae.dictionary import SAE

AblationKind = Literal["zero", "mean", "resample"]
ABLATIONS: Final[tuple[AblationKind, ...]] = get_args(AblationKind)
Errors = Literal["keep", "remove"]
ERRORS: Final[tuple[Errors, ...]] = get_args(Errors)
NAME: Final = "io"
"""What rows are called in metrics and programs: `logit(io.answer)`."""


@dataclass(frozen=True)
class Row:
    """One prompt."""

    prompt: str
    corrupt: str | None = None
    """The same prompt with something changed, of as many tokens."""
    fields: tuple[tuple[str, str], ...] = ()
    """Texts that the metric names: `answer`, `wrong`."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Row:
        """A row of JSONL: `prompt`, perhaps `corrupt`, other texts by name.

        Raises:
            CircuitError: if `prompt` is not there.
        """
        if not isinstance(row.get("prompt"), str):
            raise CircuitError(f'a row is {{"prompt": ..., "answer": ...}}; this one has no prompt: {dict(row)!r}')
        fields = {k: v for k, v in row.items() if k not in ("prompt", "corrupt") and isinstance(v, str)}
        return cls(row["prompt"], row.get("corrupt"), tuple(sorted(fields.items())))

    def to_dict(self) -> dict[str, str]:
        """The inverse of `of`."""
        corrupt = {} if self.corrupt is None else {"corrupt": self.corrupt}
        return {"prompt": self.prompt, **corrupt, **dict(self.fields)}


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts, metric, dictionaries and ablation: everything that a circuit's numbers depend on."""

    model: InterpretableModel
    saes: Mapping[str, SAE]
    """By the text of the site that each writes."""
    rows: tuple[Row, ...]
    metric: str
    """Text of the language; `io.answer` is a row's field."""
    ablation: AblationKind = "zero"
    """What features outside a circuit become: 0, their mean at the position over `reference`, their value in the row's
    corrupt prompt."""
    errors: Errors = "remove"
    """Whether what dictionaries leave unexplained is kept, or taken away outside the circuit (becomes 0)."""
    reference: tuple[str, ...] = ()
    """Texts that means are taken over; of `mean` only."""
    paths: Mapping[str, str] | None = None
    """Where programs find the dictionaries, by site; None for the model's bundled ones."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The dictionaries at their places, in the order of a forward."""
        return placed(self.model.info, self.saes)

    @property
    def clean(self) -> list[str]:
        """The prompts."""
        return [row.prompt for row in self.rows]

    @property
    def corrupt(self) -> list[str] | None:
        """Their corrupt ones; None if a row has none."""
        found = [row.corrupt for row in self.rows if row.corrupt is not None]
        return found if len(found) == len(self.rows) else None

    def pairs(self) -> Pairs:
        """The prompts as tokens; with corrupt ones where the ablation reads them."""
        return pairs_of(self.model, self.clean, self.corrupt if self.ablation == "resample" else None)

    def with_rows(self, rows: Iterable[Row]) -> Task:
        """The same task on other prompts."""
        return checked(replace(self, rows=tuple(rows)))


def task_of(
    model: InterpretableModel,
    saes: Mapping[str, SAE] | Sequence[SAE],
    rows: Sequence[Row | Mapping[str, Any]],
    metric: str,
    *,
    ablation: AblationKind = "zero",
    errors: Errors = "remove",
    reference: Sequence[str] = (),
    paths: Mapping[str, str] | None = None,
) -> Task:
    """A task whose parts fit together.

    Args:
        model: the model.
        saes: SAEs and transcoders, by the site they write or as they say themselves.
        rows: prompts: `{"prompt": ..., "corrupt": ..., "answer": ..., "wrong": ...}`, equally many tokens.
        metric: a text of the language, e.g. `logit(io.answer) - logit(io.wrong)`.
        ablation: what features outside a circuit become.
        errors: whether SAE errors outside it are kept.
        reference: texts for the means of `mean`, as long as the prompts; the prompts themselves if none are given.
        paths: where a program finds the dictionaries, by site.

    Raises:
        CircuitError: if there are no prompts, lengths differ, a choice is unknown, corrupt prompts are missing, the
            metric cannot be read, or the dictionaries do not fit the model.
    """
    found = {place.name: place.sae for place in placed(model.info, saes)}
    listed = tuple(row if isinstance(row, Row) else Row.of(row) for row in rows)
    texts = tuple(reference) or (tuple(r.prompt for r in listed) if ablation == "mean" else ())
    return checked(Task(model, found, listed, metric, ablation, errors, texts, paths))


def checked(task: Task) -> Task:
    """`task`, if its parts fit together.

    Raises:
        CircuitError: saying which do not.
    """
    if task.ablation not in ABLATIONS:
        raise CircuitError(f"ablation is {task.ablation!r}; it can be {', '.join(ABLATIONS)}")
    if task.errors not in ERRORS:
        raise CircuitError(f"errors is {task.errors!r}; it can be {', '.join(ERRORS)}")
    if not task.rows:
        raise CircuitError("there are no prompts: a circuit is one of a behaviour on prompts")
    if not task.metric.strip():
        raise CircuitError("the metric is empty; it is a text such as logit(io.answer) - logit(io.wrong)")
    if task.ablation == "resample" and task.corrupt is None:
        i = next(i for i, row in enumerate(task.rows) if row.corrupt is None)
        raise CircuitError(f"resample takes values from corrupt prompts; row {i + 1} has no `corrupt`")
    pairs = task.pairs()
    if task.ablation == "mean":
        for text in task.reference:
            n = len(task.model.encoder.encode(text))
            if n != pairs.length:
                raise CircuitError(
                    f"means are by position: texts of the reference have {pairs.length} tokens, as the prompts have; "
                    f"{text!r} has {n}"
                )
    return task


def jsonl(rows: Iterable[Mapping[str, str]]) -> str:
    """A line for each row."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def metric_for(task: Task) -> LanguageMetric:
    """The metric as a differentiable function of logits, each row with its own fields.

    Raises:
        CircuitError: if it cannot be read, reads inside the model, or a field is not one token.
    """
    text = task.metric
    with TemporaryDirectory() as folder:  # the language reads rows from files
        path = Path(folder)
        (path / "rows.jsonl").write_text(jsonl(row.to_dict() for row in task.rows), encoding="utf-8")
        program = path / "metric.saedsl"
        program.write_text(f'prompts {NAME} = "rows.jsonl"\nmetric m = {text}\nrun {NAME}\n', encoding="utf-8")
        try:
            plan = task.model.plan(program)
        except ProgramError as error:
            wrong = "\n".join(d.message for d in error.diagnostics)
            raise CircuitError(f"the metric {text!r} cannot be read: {wrong}") from None
    planned = tuple(p.metrics[0] for p in plan.steps[0].prompts)
    inside = next((t for t in terms(planned[0].metric.value) if t.function in ("act", "norm")), None)
    if inside is not None:
        raise CircuitError(f"the metric {text!r} reads {inside.function}() inside the model, not what it predicts")
    long = next((t for p in planned for t, ids in p.token_ids.items() if len(ids) > 1), None)
    if long is not None:
        raise CircuitError(f"the metric {text!r}: {long.text!r} is several tokens; effects are of one prediction")
    return LanguageMetric(text, planned, tuple(t.ids for t in task.pairs().clean))
