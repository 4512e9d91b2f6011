"""Which features of which dictionaries the target of an edit or a record means."""

from __future__ import annotations

from dataclasses import dataclass

from saedsl.anatomy import ModelInfo
from saedsl.binding import Bindings
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.program import Dictionary, FeatureIds
from saedsl.report import Mistake, each
from saedsl.scope import Scope
from saedsl.selection import site_list
from saedsl.sites import Site

Found = list[tuple[Dictionary, FeatureIds]]
"""Dictionaries with the numbers of their features."""


@dataclass(frozen=True)
class Header:
    """Where a statement looks for its features."""

    sites: tuple[Site, ...]
    named: Dictionary | None = None
    """The one dictionary that stands in the place of the sites."""
    complete: bool = True
    """Every site of the statement is known; if not, that is reported, and only what holds at any site is checked."""


@dataclass(frozen=True)
class Targets:
    """Finds features by the spelling of a target."""

    scope: Scope
    bindings: Bindings
    model: ModelInfo | None

    def features(self, target: n.Target, where: Header) -> Found:
        """The dictionaries that `target` names features of, with the features' numbers.

        Raises:
            Mistake: every mistake of the target, together.
        """
        match target:
            case n.AllFeatures():
                return [(d, "all") for d in self._all(target, where)]
            case n.Features():
                d = self._of(target, where)
                return [(d, _ids(target, d))] if d is not None else []
            case n.FeatureSet(items):
                return [pair for found in each(lambda item: self.features(item, where), items) for pair in found]
            case n.Name():
                return self.features(self.scope.set(target), where)
            case n.WholeSite():
                return []

    def _all(self, target: n.AllFeatures, where: Header) -> list[Dictionary]:
        """The dictionary of every site."""
        if where.named is not None:
            return [where.named]
        on = self.bindings
        bare = [s for s in where.sites if s not in on.by_site and s not in on.unsure and None not in on.unsure]
        others = [s for s in where.sites if s not in bare]
        if bare:
            each(lambda site: on.on(site, target.span), others)
            raise on.none_on(bare, target.span)
        return each(lambda site: on.on(site, target.span), others)

    def _of(self, f: n.Features, where: Header) -> Dictionary | None:
        """The one dictionary that a feature of this spelling belongs to; None where the header's mistake hides it."""
        if f.of is None:
            if where.named is not None:
                return where.named
            if not where.complete:
                return None
            if len(where.sites) != 1:
                raise self._ambiguous(f, where)
            return self.bindings.on(where.sites[0], f.span)
        if isinstance(f.of, n.Name):
            d = self.scope.dictionary(f.of)
        elif self.model is None:
            return None
        else:
            (site,) = site_list(f.of, self.model, one=True)
            d = self.bindings.on(site, f.span)
        if where.complete and d.write not in where.sites:
            raise Mistake(
                "S312",
                f"{format_node(f)} belongs to {d.write}, which this statement does not edit",
                f.span,
                hints=[f"at {d.write} ..."],
            )
        return d

    def _ambiguous(self, f: n.Features, where: Header) -> Mistake:
        """What to say of a feature's number where there is not one site."""
        if not where.sites:
            hint = 'bind one: sae g = "path" on L2.mlp'
            return Mistake("S309", f"no dictionary is bound, so there is no {format_node(f)}", f.span, hints=[hint])
        return Mistake(
            "S313",
            f"{format_node(f)} is another feature in the dictionary of each of these {len(where.sites)} sites",
            f.span,
            hints=["name the features one by one: let s = {L0.mlp.f1, L1.mlp.f8}, then use s"],
        )


def _ids(f: n.Features, d: Dictionary) -> tuple[int, ...]:
    d_sae = d.info.config.d_sae
    if f.first > f.last:
        raise Mistake("S505", f"f{f.first}..{f.last} is empty: a..b includes both ends, a first", f.span)
    if f.last >= d_sae:
        raise Mistake(
            "S311",
            f"feature {f.last} does not exist",
            f.span,
            label=f"{d.name} has {d_sae} features: f0..{d_sae - 1}",
        )
    return tuple(range(f.first, f.last + 1))
