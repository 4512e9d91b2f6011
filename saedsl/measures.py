"""Where metrics are read on one prompt, and the ids of the tokens that they name."""

from __future__ import annotations

from saedsl.plan import PlannedMetric
from saedsl.positions import PositionProblem, PositionSet, Problem
from saedsl.program import Metric, Step, Term, terms
from saedsl.promptrow import RowOf
from saedsl.tokens import Encoder, Tokens


def planned_metric(
    m: Metric, at: PositionSet | None, tokens: Tokens, row: RowOf, step: Step, encoder: Encoder | None
) -> PlannedMetric:
    """A metric on one prompt.

    Args:
        m: the metric.
        at: its positions on the prompt; None where it says none.
        tokens: the prompt.
        row: what `io.answer` is looked up in.
        step: what it is a metric of.
        encoder: None for tokens that the caller gave without one: then it names none.

    Raises:
        PositionProblem: if it can be read nowhere, or what it names is no token.
    """
    problems: list[Problem] = []
    ids: dict[Term, tuple[int, ...]] = {}
    used = list(dict.fromkeys(terms(m.value)))
    for t in used:
        try:
            found = _ids(t, m, row, encoder)
        except PositionProblem as e:
            problems += e.problems
        else:
            if found is not None:
                ids[t] = found
    n = len(tokens)
    where = PositionSet(n, frozenset({n - 1})) if at is None else at
    span = m.positions[-1].span if m.positions else m.span
    if step.kind == "run":
        if not where.prompt:
            message = "generated tokens never come in a `run`, and no `generate` uses this"
            problems.append(Problem("S407", message, span, ("generate 32",)))
        where = PositionSet(n, where.prompt)
    nexts = frozenset(range(n - 1)) if at is None else where.prompt & frozenset(range(n if where.gen else n - 1))
    ce = PositionSet(n, nexts, where.gen)
    calls = {t.function for t in used}
    if "ce" in calls and not ce and not problems:
        problems.append(Problem("S404", "ce() needs a next token: there is none at these positions", span))
    if problems:
        raise PositionProblem(*problems)
    return PlannedMetric(m, ce if calls == {"ce"} else where, ids, ce)


def _ids(t: Term, m: Metric, row: RowOf, encoder: Encoder | None) -> tuple[int, ...] | None:
    """The token ids of a term; None for one that names no text."""
    if t.function not in ("logit", "prob", "logprob") or encoder is None:
        return None
    text = row.string(t.row_field, m.span) if t.row_field is not None else t.text or ""
    ids = encoder.ids(text)
    if not ids or (len(ids) > 1 and t.function != "logprob"):
        pieces = " ".join(repr(encoder.piece(i)) for i in ids)
        what = f'"{text}" is {len(ids)} tokens, {pieces}' if ids else f'"{text}" is no token'
        hints = [f"{t.function} is of one token; logprob(...) sums over several"] if ids else []
        if len(ids) > 1 and not text.startswith(" ") and len(encoder.ids(" " + text)) == 1:
            hints.insert(0, f'did you mean " {text}"?')
        raise PositionProblem(Problem("S413", what, m.span, tuple(hints)))
    return ids
