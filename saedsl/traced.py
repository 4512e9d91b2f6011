"""One edited forward in Python: asked for its logits and activations, run when they are first needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from saedsl.anatomy import ModelInfo
from saedsl.execute import Firing, needs_shadow
from saedsl.firing import silent_edits
from saedsl.grammar.source import Diagnostic
from saedsl.lanes import Row
from saedsl.plan import Plan
from saedsl.runner import engine_of, sources_of
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from saedsl.tokens import Tokens
from saedsl.trace import Frame


class Trace:
    """A forward that is to run, or has run. Made by `InterpretableModel.trace`."""

    def __init__(
        self,
        model: nn.Module,
        info: ModelInfo,
        planned: Plan,
        weights: Mapping[str, SAE],
        rows: Sequence[Tokens],
        noticed: Sequence[Diagnostic] = (),
    ) -> None:
        (last,) = planned.steps
        self._info, self._rows, self._noticed = info, rows, noticed
        step, held = last.step, needs_shadow(last.step)
        edited = [Row(step, p, ids=r.ids) for p, r in zip(last.prompts, rows, strict=True)]
        plain = [Row(step, p, False, r.ids) for p, r in zip(last.prompts, rows, strict=True)] if held else []
        sources = sources_of(planned, weights, model, info)
        engine = engine_of(planned, weights, model, info, [last], sources)
        self._batch = partial(engine.batch, [*plain, *edited], paired=held)
        self._first = len(plain)
        """The row of the batch that is the first of the caller's: those before it are the unedited run."""
        self._functions = self._batch().functions
        self._edited = {e.site for e in last.step.edits}
        self._output: mx.array | None = None
        self._frame: Frame | None = None
        self.plan = planned
        """What is run."""
        self.tokens = mx.array([r.ids for r in rows])
        """[batch, seq] token ids."""

    def forward(self, more: Collection[Site] = ()) -> None:
        """Run now, if it has not run with these sites captured."""
        if self._output is not None and not more:
            return
        batch = self._batch(captures={*self._edited, *more})
        self._functions = batch.functions
        tokens = mx.concatenate([self.tokens, self.tokens]) if self._first else self.tokens
        output, self._frame = batch.hooks(tokens)
        mx.eval(output, *self._frame.arrays)
        self._output = output[self._first :]

    @property
    def output(self) -> mx.array:
        """Logits [batch, seq, d_vocab]."""
        self.forward()
        assert self._output is not None
        return self._output

    @property
    def activations(self) -> Activations:
        """Activations by the text of their site, `t.activations["L2.mlp"]`, [batch, seq, width], after the edits."""
        return Activations(self)

    @property
    def firings(self) -> tuple[tuple[Firing, ...], ...]:
        """What each edit did, for each row."""
        self.forward()
        assert self._frame is not None
        return tuple(self._functions.firings([self._frame], self._first + i) for i in range(len(self._rows)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the check noticed, then the edits that did nothing: as in `Result.warnings`."""
        return (*(d.render() for d in self._noticed), *silent_edits(self.firings))

    def captured(self, site: Site) -> mx.array:
        """The activation at one site; the forward runs again if it was not kept."""
        if self._frame is None or site not in self._frame.captured:
            self.forward([site])
        assert self._frame is not None
        return self._frame.captured[site][self._first :]

    def recorded(self, label: str) -> mx.array | None:
        """A recorded feature, [batch, seq], or dictionary, [batch, seq, d_sae]; None if it is not recorded."""
        self.forward()
        assert self._frame is not None
        found = self._frame.kept.get(f"record {label}")
        return None if found is None else found[self._first :]

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site of the model."""
        return self._info.sites


class Activations(Mapping[str, mx.array]):
    """A trace's activations, by site text; recorded features by their label (`g.f42`)."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __getitem__(self, key: str) -> mx.array:
        found = self._trace.recorded(key) if "." not in key or key.rsplit(".", 1)[-1][1:].isdigit() else None
        if found is not None:
            return found
        try:
            site = Site.parse(key)
        except ValueError as e:
            raise KeyError(f"{e}; a feature is here if the program records it") from None
        if site not in self._trace.sites:
            raise KeyError(f"this model has no site {key}")
        return self._trace.captured(site)

    def __iter__(self) -> Iterator[str]:
        return iter(map(str, self._trace.sites))

    def __len__(self) -> int:
        return len(self._trace.sites)
