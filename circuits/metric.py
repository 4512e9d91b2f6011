"""What a circuit is a circuit of: one number for each prompt, differentiable, named by a text of the language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import mlx.core as mx
import numpy as np

from saedsl.circuits.pairs import Pairs
from saedsl.errors import CircuitError, ProgramError
from saedsl.plan import PlannedMetric
from saedsl.program import MetricValue, Term, terms

if TYPE_CHECKING:
    from saedsl.model import InterpretableModel

Of = Literal["logit", "logprob", "prob"]


class Metric(Protocol):
    """One number for each row of a forward."""

    @property
    def text(self) -> str:
        """What it is, as the language writes it where it can."""

    def __call__(self, logits: mx.array, prompts: Sequence[int], clean: mx.array) -> mx.array:
        """The metric of each row.

        Args:
            logits: [rows, seq, d_vocab].
            prompts: which of the clean prompts each row is a run of.
            clean: [prompts, seq, d_vocab], logits of the clean prompts without edits.

        Returns:
            [rows] float32.
        """


@dataclass(frozen=True)
class TokenDifference:
    """Logit, log-probability or probability of right tokens, less that of wrong ones, at one position.

    Of several right (or wrong) tokens, the mean of their logits or log-probabilities, the sum of probabilities.
    """

    answers: tuple[tuple[int, ...], ...]
    """Right tokens of each prompt; of one entry, those of every prompt."""
    wrongs: tuple[tuple[int, ...], ...] = ()
    """Wrong tokens likewise; () for none."""
    of: Of = "logit"
    position: int = -1
    """Where it is read, negative from the end."""
    text: str = ""

    def __call__(self, logits: mx.array, prompts: Sequence[int], clean: mx.array) -> mx.array:
        x = logits[:, self.position].astype(mx.float32)
        if self.of != "logit":
            x = x - mx.logsumexp(x, axis=-1, keepdims=True)
        if self.of == "prob":
            x = mx.exp(x)
        value = self._mean(x, self.answers, prompts)
        return value - self._mean(x, self.wrongs, prompts) if self.wrongs else value

    def _mean(self, x: mx.array, tokens: tuple[tuple[int, ...], ...], prompts: Sequence[int]) -> mx.array:
        sets = [tokens[p if len(tokens) > 1 else 0] for p in prompts]
        width = max(map(len, sets))
        ids = np.array([[*s, *s[:1] * (width - len(s))] for s in sets])
        share = np.array(
            [[1.0 if self.of == "prob" else 1 / len(s)] * len(s) + [0.0] * (width - len(s)) for s in sets], np.float32
        )
        return (mx.take_along_axis(x, mx.array(ids), axis=-1) * mx.array(share)).sum(axis=-1)


@dataclass(frozen=True)
class LanguageMetric:
    """A metric as the language writes it, of `logit`, `prob`, `logprob`, `kl` and `ce`."""

    text: str
    planned: tuple[PlannedMetric, ...]
    """For each prompt."""
    tokens: tuple[tuple[int, ...], ...]
    """Of each prompt."""

    @property
    def divergence(self) -> bool:
        """Whether it reads the divergence from the clean run alone, which is smallest there."""
        return {t.function for t in terms(self.planned[0].metric.value)} == {"kl"}

    def __call__(self, logits: mx.array, prompts: Sequence[int], clean: mx.array) -> mx.array:
        order = np.array(prompts)
        values, places = [], []
        for prompt in dict.fromkeys(prompts):
            rows = np.flatnonzero(order == prompt)
            m = self.planned[prompt]
            values.append(
                _value(m.metric.value, m, logits[mx.array(rows)].astype(mx.float32), clean[prompt], self.tokens[prompt])
            )
            places.append(rows)
        return mx.concatenate(values)[mx.array(np.argsort(np.concatenate(places), kind="stable"))]


@dataclass(frozen=True)
class Custom:
    """A function of one's own: logits [rows, seq, d_vocab] -> [rows]."""

    function: Callable[[mx.array], mx.array]
    text: str

    def __call__(self, logits: mx.array, prompts: Sequence[int], clean: mx.array) -> mx.array:
        value = self.function(logits)
        if not isinstance(value, mx.array) or value.shape != (logits.shape[0],):
            got = list(value.shape) if isinstance(value, mx.array) else type(value).__name__
            raise CircuitError(
                f"the metric {self.text} gives {got} for logits {list(logits.shape)}; it gives one number for each row"
            )
        return value.astype(mx.float32)


def logit_difference(
    model: InterpretableModel,
    answers: str | Sequence[str | Sequence[str]],
    wrongs: str | Sequence[str | Sequence[str]] = (),
    *,
    of: Of = "logit",
    position: int = -1,
) -> TokenDifference:
    """Right tokens against wrong ones: `logit_difference(model, " Paris", " Rome")`.

    Args:
        model: whose tokens they are.
        answers: the right token of every prompt; or of each prompt in turn one, or several.
        wrongs: the wrong ones likewise; none for the right ones alone.
        of: what is compared.
        position: where, negative from the end.

    Raises:
        CircuitError: if one of them is not one token.
    """
    right, wrong = _sets(model, answers), _sets(model, wrongs)
    if not right:
        raise CircuitError('the metric has no answers: give a right token, such as " Paris"')
    at = "" if position == -1 else f" @ prompt[{position}]"
    named = len(right) == 1 and len(right[0]) == 1 and len(wrong) <= 1 and all(len(w) == 1 for w in wrong)

    def quoted(ids: tuple[tuple[int, ...], ...], field: str) -> str:
        return f'{of}("{model.encoder.piece(ids[0][0])}")' if named else f"{of}(io.{field})"

    text = quoted(right, "answer") + (f" - {quoted(wrong, 'wrong')}" if wrong else "") + at
    return TokenDifference(right, wrong, of, position, text)


def metric_of(model: InterpretableModel, metric: Metric | str | Callable[[mx.array], mx.array], pairs: Pairs) -> Metric:
    """The metric that is meant: a text of the language, a `Metric`, or a function of logits [rows, seq, d_vocab].

    Raises:
        CircuitError: if the text is no metric, names what has no gradient, or there are not as many answers as prompts.
    """
    if isinstance(metric, str):
        return _parsed(model, metric, pairs)
    if isinstance(metric, TokenDifference):
        for name in ("answers", "wrongs"):
            n = len(getattr(metric, name))
            if n > 1 and n != len(pairs.clean):
                raise CircuitError(f"the metric has {name} for {n} prompts; there are {len(pairs.clean)}")
        if not -pairs.length <= metric.position < pairs.length:
            raise CircuitError(
                f"the metric is read at position {metric.position}; the prompts have {pairs.length} tokens"
            )
    if isinstance(metric, TokenDifference | LanguageMetric | Custom):
        return metric
    if hasattr(metric, "text"):
        return metric  # type: ignore[return-value]
    if not callable(metric):
        raise CircuitError(
            f'a metric is a text such as logit(" Paris") - logit(" Rome"), not a {type(metric).__name__}'
        )
    name = getattr(metric, "__qualname__", type(metric).__name__)
    return Custom(metric, f"{getattr(metric, '__module__', '')}.{name}")


def _parsed(model: InterpretableModel, text: str, pairs: Pairs) -> LanguageMetric:
    named = {f"row {i}": tokens for i, tokens in enumerate(pairs.clean)}
    try:
        source, given, objects = model._given(f"metric m = {text}", named, None, None)
        plan, _, _ = model._planned(source, given, objects)
    except ProgramError as error:
        raise CircuitError(f"the metric {text!r} cannot be read:\n{error}") from None
    planned = tuple(p.metrics[0] for p in plan.steps[0].prompts)
    wrong = next((t for t in terms(planned[0].metric.value) if t.function in ("act", "norm")), None)
    if wrong is not None:
        raise CircuitError(
            f"the metric {text!r} reads {wrong.function}() inside the model; effects are of what it predicts: "
            "logit, prob, logprob, kl and ce"
        )
    long = next((t for p in planned for t, ids in p.token_ids.items() if len(ids) > 1), None)
    if long is not None:
        raise CircuitError(f"the metric {text!r}: {long.text!r} is several tokens; effects are of one prediction")
    return LanguageMetric(text, planned, tuple(t.ids for t in pairs.clean))


def _value(v: MetricValue, m: PlannedMetric, logits: mx.array, clean: mx.array, tokens: tuple[int, ...]) -> mx.array:
    """[rows] of one prompt's logits [rows, seq, d_vocab]."""
    match v:
        case Term():
            return _term(v, m, logits, clean, tokens)
        case (op, left, right):
            a, b = _value(left, m, logits, clean, tokens), _value(right, m, logits, clean, tokens)
            return {"+": mx.add, "-": mx.subtract, "*": mx.multiply, "/": mx.divide}[op](a, b)
        case _:
            return mx.full((logits.shape[0],), float(v))


def _term(t: Term, m: PlannedMetric, logits: mx.array, clean: mx.array, tokens: tuple[int, ...]) -> mx.array:
    where = m.ce if t.function == "ce" else m.positions
    at = [i for i in range(len(tokens)) if i in where]
    x = logits[:, mx.array(at)]  # [rows, n, d_vocab]
    if t.function == "logit":
        return x[..., m.token_ids[t][0]].mean(axis=-1)
    log_p = x - mx.logsumexp(x, axis=-1, keepdims=True)
    match t.function:
        case "prob":
            return mx.exp(log_p[..., m.token_ids[t][0]]).mean(axis=-1)
        case "logprob":
            return log_p[..., m.token_ids[t][0]].mean(axis=-1)
        case "ce":
            nexts = mx.array([tokens[i + 1] for i in at])
            picked = mx.take_along_axis(log_p, mx.broadcast_to(nexts[None, :, None], (*log_p.shape[:2], 1)), axis=-1)
            return -picked[..., 0].mean(axis=-1)
        case _:
            q = clean[mx.array(at)].astype(mx.float32)
            q = mx.stop_gradient(q - mx.logsumexp(q, axis=-1, keepdims=True))
            return (mx.exp(q) * (q - log_p)).sum(axis=-1).mean(axis=-1)


def _sets(model: InterpretableModel, given: str | Sequence[str | Sequence[str]]) -> tuple[tuple[int, ...], ...]:
    rows = [given] if isinstance(given, str) else list(given)
    return tuple(tuple(_one(model, text) for text in ([row] if isinstance(row, str) else row)) for row in rows)


def _one(model: InterpretableModel, text: str) -> int:
    ids = model.encoder.ids(text)
    if len(ids) != 1:
        pieces = " ".join(repr(model.encoder.piece(i)) for i in ids) or "nothing"
        raise CircuitError(f"the metric needs one token; {text!r} is {len(ids)}: {pieces}")
    return ids[0]
