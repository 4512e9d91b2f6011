"""Edits said in Python while a trace is open; the forward runs once, when its block ends.

    with model.trace("The capital of France is") as trace:
        model.ablate_sae_feature(sae=sae, layer=12, component="mlp", feature_id=42)
        out = model.output.save()
    out.value                                                          # [1, seq, d_vocab]

The calls make statements of a `saedsl.script()`: plan and hash are those of the same program as text.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import replace
from operator import index
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx

from saedsl.builder import Edits, Features, ScriptBuilder, Value, Where
from saedsl.errors import RunError, SaedslWarning
from saedsl.grammar.nodes import Span
from saedsl.grammar.source import Source
from saedsl.locate import find_sae
from saedsl.sae.dictionary import SAE
from saedsl.saved import Deferred, Saved, is_site
from saedsl.sites import Site
from saedsl.traced import Activations, Trace

if TYPE_CHECKING:
    from saedsl.plan import Plan

BLOCK: Final = """\
    with model.trace("The capital of France is") as trace:
        model.ablate_feature(sae, 42)
        out = model.output.save()"""

_OPEN: ContextVar[tuple[TraceBlock, ...]] = ContextVar("open traces", default=())
"""Of this thread or task, outermost first."""


class TraceBlock:
    """`with model.trace(...) as trace:` Edits are said inside; `trace.output` and `trace.activations` are read behind.

    Asking for `output`, `activations` or `firings` inside the block runs the forward there and then; after that no
    more edits can be said.
    """

    def __init__(
        self,
        model: Recorder,
        source: Source,
        saes: Mapping[str, SAE],
        make: Callable[[Source, Mapping[str, SAE]], Trace],
    ) -> None:
        """
        Args:
            model: whose trace this is.
            source: the program that the caller gave as text; may be empty.
            saes: the dictionaries that the caller gave, by name.
            make: builds the trace of a program and dictionaries.
        """
        self._model, self._source, self._saes, self._make = model, source, dict(saes), make
        self._script = ScriptBuilder()
        self._saved: list[Saved] = []
        self._token: Token[tuple[TraceBlock, ...]] | None = None
        self._trace: Trace | None = None
        self._given = make(source, saes) if source.text.strip() else None  # its mistakes are said before the block

    @property
    def model(self) -> Recorder:
        """Whose trace this is."""
        return self._model

    def __enter__(self) -> TraceBlock:
        if self._token is not None or self._trace is not None:
            raise RunError("a trace is for one `with`: call model.trace(...) again")
        self._token = _OPEN.set((*_OPEN.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _OPEN.reset(self._token)
        reason = error
        try:
            if error is None:
                self._finish()
        except BaseException as e:
            reason = e
            raise
        finally:
            for saved in self._saved:
                saved.close(reason)
        if error is None:
            for text in self.warnings:
                warnings.warn(text, SaedslWarning, stacklevel=2)

    def _finish(self) -> None:
        """Run once, with everything captured that is saved."""
        trace = self._ready()
        trace.forward([site for s in self._saved if (site := s.deferred.site) is not None])
        mx.eval([s.take(trace) for s in self._saved])

    # What is said inside ------------------------------------------------------------------------------------------

    def at(self, *sites: str, positions: Where | None = None, when: str | None = None) -> Edits:
        """Edits at sites: `trace.at("L2.mlp").ablate("f42").amplify("f7", 2)`, as in `saedsl.script()`."""
        return self._now("edits").at(*sites, positions=positions, when=when)

    def record(self, *what: Features, positions: Where | None = None) -> TraceBlock:
        """Keep activations of features or dictionaries: `trace.record("g.f42")`, then `trace.activations["g.f42"]`."""
        self._now("records").record(*what, positions=positions)
        return self

    def save(self, deferred: Deferred) -> Saved:
        """Promise a value."""
        self._now("values")
        self._saved.append(saved := Saved(deferred))
        return saved

    def bound(self, sae: SAE | None, site: str) -> str:
        """What goes before `f42` to name this dictionary's feature at a site: `g.`, or nothing.

        Raises:
            RunError: if another dictionary is bound to the site.
        """
        self._now("edits")
        if sae is None or sae is self._saes.get(site) or sae is self._model._bundled(site):
            return ""
        for name, own in self._saes.items():
            if own is sae and not is_site(name):
                return f"{name}."
        if site in self._saes:
            raise RunError(
                f"another dictionary is bound to {site} in this trace; to use both, name them: "
                f'model.trace(prompt, saes={{"a": first, "b": second}}), then trace.at("{site}").ablate("a.f42")'
            )
        self._saes[site] = sae
        return ""

    def _now(self, what: str) -> ScriptBuilder:
        if self not in _OPEN.get():
            raise RunError(f"this trace's block is not open: {what} are named inside it:\n\n{BLOCK}")
        if self._trace is not None:
            raise RunError(f"the forward of this trace has run: name {what} before reading its output or activations")
        return self._script

    # What is read -------------------------------------------------------------------------------------------------

    def _ready(self) -> Trace:
        if self._trace is None:
            said = self._script.source
            if not said.text and self._given is not None:
                self._trace = self._given
            else:
                self._trace = self._make(_joined(self._source, said), self._saes)
        return self._trace

    @property
    def script(self) -> ScriptBuilder:
        """What the calls in the block have said."""
        return self._script

    @property
    def plan(self) -> Plan:
        """What is run."""
        return self._ready().plan

    @property
    def tokens(self) -> mx.array:
        """[batch, seq] token ids."""
        return self._ready().tokens

    @property
    def output(self) -> mx.array:
        """Logits [batch, seq, d_vocab]."""
        return self._ready().output

    @property
    def activations(self) -> Activations:
        """Activations by the text of their site, `t.activations["L2.mlp"]`, [batch, seq, width], after the edits."""
        return self._ready().activations

    @property
    def firings(self) -> Any:
        """What each edit did, for each row."""
        return self._ready().firings

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the check noticed, and the edits that did nothing; each is a `SaedslWarning` too when the block ends."""
        return self._ready().warnings

    def forward(self, more: Collection[Site] = ()) -> None:
        """Run now, if it has not run with these sites captured."""
        self._ready().forward(more)

    def captured(self, site: Site) -> mx.array:
        """The activation at one site."""
        return self._ready().captured(site)

    def recorded(self, label: str) -> mx.array | None:
        """A recorded feature, [batch, seq], or dictionary, [batch, seq, d_sae]; None if it is not recorded."""
        return self._ready().recorded(label)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site of the model."""
        return self._model._site_list()


class Sites(Mapping[str, Deferred]):
    """`model.sites["L2.mlp"].save()`: activations of the open trace by the text of their site."""

    def __init__(self, block: TraceBlock) -> None:
        self._block = block

    def __getitem__(self, key: str) -> Deferred:
        try:
            site = Site.parse(key)
        except ValueError as e:
            raise KeyError(str(e)) from None
        if site not in self._block.sites:
            raise KeyError(f"this model has no site {key}")
        return Deferred(self._block, str(site))

    def __iter__(self) -> Iterator[str]:
        return iter(map(str, self._block.sites))

    def __len__(self) -> int:
        return len(self._block.sites)


class Recorder:
    """What a model can be told while one of its traces is open."""

    def _site_list(self) -> tuple[Site, ...]:
        """Sites of the model."""
        raise NotImplementedError

    def _bundled(self, site: str) -> SAE | None:
        """The dictionary that the model brings with it for a site."""
        raise NotImplementedError

    @property
    def output(self) -> Deferred:
        """Logits [batch, seq, d_vocab] of the open trace: `out = model.output.save()`."""
        return Deferred(self._recording("model.output"), "logits")

    @property
    def sites(self) -> Sites:
        """Activations [batch, seq, width] of the open trace, after the edits: `model.sites["L2.mlp"].save()`."""
        return Sites(self._recording("model.sites"))

    def activation(self, what: str) -> Deferred:
        """An activation of the open trace: of a site, `"L2.mlp"`, or of a feature, `"L2.mlp.f42"`, `"g.f42"`."""
        block = self._recording("model.activation")
        if is_site(what):
            return Sites(block)[what]
        block.record(what)
        return Deferred(block, what)

    def ablate_feature(
        self, sae: SAE | str | Path, feature_id: int | Sequence[int], *, positions: Where | None = None
    ) -> None:
        """Remove a feature's influence, in the open trace; `sae` says where it belongs."""
        edits, target = self._at("ablate_feature", sae, None, feature_id)
        edits.ablate(target, positions=positions)

    def amplify_feature(
        self,
        sae: SAE | str | Path,
        feature_id: int | Sequence[int],
        strength: Value,
        *,
        positions: Where | None = None,
    ) -> None:
        """Multiply a feature's activation by `strength`, in the open trace."""
        edits, target = self._at("amplify_feature", sae, None, feature_id)
        edits.amplify(target, strength, positions=positions)

    def activate_feature(
        self,
        sae: SAE | str | Path,
        feature_id: int | Sequence[int],
        strength: Value,
        *,
        positions: Where | None = None,
    ) -> None:
        """Force a feature's activation to `strength`, in the open trace."""
        edits, target = self._at("activate_feature", sae, None, feature_id)
        edits.set(target, strength, positions=positions)

    def ablate_sae_feature(
        self,
        sae: SAE | str | Path | None = None,
        *,
        layer: int,
        component: str,
        feature_id: int | Sequence[int],
        positions: Where | None = None,
    ) -> None:
        """Remove a feature's influence at `L{layer}.{component}`, in the open trace.

        Args:
            sae: the dictionary, or its folder; None: the one that is bound there.
            layer: block, from 0.
            component: `mlp`, `resid_post`, `attn` ... as in a site.
            feature_id: one number or several.
            positions: as after `@`: `"prompt[-1]"`; None is all.
        """
        edits, target = self._at("ablate_sae_feature", sae, f"L{layer}.{component}", feature_id)
        edits.ablate(target, positions=positions)

    def amplify_sae_feature(
        self,
        sae: SAE | str | Path | None = None,
        *,
        layer: int,
        component: str,
        feature_id: int | Sequence[int],
        strength: Value,
        positions: Where | None = None,
    ) -> None:
        """Multiply a feature's activation at `L{layer}.{component}`; arguments as in `ablate_sae_feature`."""
        edits, target = self._at("amplify_sae_feature", sae, f"L{layer}.{component}", feature_id)
        edits.amplify(target, strength, positions=positions)

    def activate_sae_feature(
        self,
        sae: SAE | str | Path | None = None,
        *,
        layer: int,
        component: str,
        feature_id: int | Sequence[int],
        strength: Value,
        positions: Where | None = None,
    ) -> None:
        """Force a feature's activation at `L{layer}.{component}`; arguments as in `ablate_sae_feature`."""
        edits, target = self._at("activate_sae_feature", sae, f"L{layer}.{component}", feature_id)
        edits.set(target, strength, positions=positions)

    def _recording(self, name: str) -> TraceBlock:
        """The innermost open trace of this model."""
        block = next((b for b in reversed(_OPEN.get()) if b.model is self), None)
        if block is None:
            raise RunError(f"{name} belongs to a trace of this model, and none is open here:\n\n{BLOCK}")
        return block

    def _at(
        self, name: str, sae: SAE | str | Path | None, place: str | None, feature_id: int | Sequence[int]
    ) -> tuple[Edits, list[str] | str]:
        """The edits of a site, and the text of its target."""
        block = self._recording(f"model.{name}")
        if isinstance(sae, str | Path):
            sae = SAE.load(find_sae(str(sae), download=True))
        if place is None:
            site = sae.config.output_site if sae is not None else None
            if site is None:
                other = name.replace("_feature", "_sae_feature")
                strength = "" if name.startswith("ablate") else ", strength=2"
                raise RunError(
                    "this dictionary does not say where it belongs: "
                    f'model.{other}(sae=sae, layer=2, component="mlp", feature_id=42{strength})'
                )
            place = str(site)
        elif is_site(place):
            place = str(Site.parse(place))
        of = block.bound(sae, place)
        texts = [f"{of}f{i}" for i in _feature_ids(feature_id)]
        return block.at(place), texts[0] if len(texts) == 1 else texts


def _feature_ids(given: int | Sequence[int]) -> list[int]:
    """Numbers of features, numpy's and mlx's included."""
    many = given.tolist() if hasattr(given, "tolist") else given
    try:
        ids = [index(i) for i in many] if isinstance(many, Collection) else [index(many)]
    except TypeError:
        ids = []
    if not ids or min(ids) < 0:
        raise RunError(f"a feature is given by its number, from 0, several by a list of numbers: not {given!r}")
    return ids


def _joined(first: Source, second: Source) -> Source:
    """Two programs as one; mistakes of either are shown where it stands."""
    if not first.text.strip():
        return second
    shift = len(first.text) + 1

    def outer(span: Span) -> tuple[Source, Span]:
        if span.start < shift:
            return first.outer(span) if first.outer else (first, span)
        there = Span(span.start - shift, span.end - shift)
        return second.outer(there) if second.outer else (second, there)

    return replace(first, text=f"{first.text}\n{second.text}", outer=outer)
