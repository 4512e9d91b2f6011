"""What the target of an edit or a record means: features of dictionaries, heads, coordinates, errors, directions."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from saedsl.anatomy import ModelInfo
from saedsl.binding import Bindings
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.program import Dictionary, FeatureIds, Part
from saedsl.report import Mistake, each
from saedsl.scope import Scope
from saedsl.selection import Spot, column_list, head_list, module_site, site_list, spot_list
from saedsl.sites import Site

MOST_COLUMNS: Final = 1 << 20
"""No site is as wide."""


@dataclass(frozen=True)
class Header:
    """Where a statement looks for its targets."""

    spots: tuple[Spot, ...]
    named: Dictionary | None = None
    """The one dictionary that stands in the place of the sites."""
    complete: bool = True
    """Every site of the statement is known; if not, that is reported, and only what holds at any site is checked."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, those that stand twice twice."""
        return tuple(site for site, _ in self.spots)


@dataclass(frozen=True)
class Chosen:
    """A part of one site."""

    site: Site
    part: Part
    ids: FeatureIds = ()
    dictionary: Dictionary | None = None
    direction: str | None = None


@dataclass(frozen=True)
class Targets:
    """Finds what a target means, by its spelling."""

    scope: Scope
    bindings: Bindings
    model: ModelInfo | None
    sets: dict[Hashable, tuple[n.FeatureSet, list[Chosen]]] = field(default_factory=dict)
    """What sets that a name stands for mean at the sites of a header; of a whole program."""

    # Sites --------------------------------------------------------------------------------------------------------

    def spots(self, ref: n.SiteRef) -> tuple[list[Spot], Dictionary | None]:
        """The sites that a header names, and the dictionary that stands for them, if one does."""
        if isinstance(ref, n.Name):
            d = self.scope.dictionary(ref)
            return [(d.write, ())], d
        if isinstance(ref, n.ModuleSite):
            return [(module_site(ref, self.model), ())], None
        pattern = self.scope.pattern(ref)
        return (spot_list(pattern, self.model) if self.model is not None else []), None

    # Targets ------------------------------------------------------------------------------------------------------

    def chosen(self, target: n.Target, where: Header) -> list[Chosen]:
        """What a target means: one for each site and dictionary, numbers that stand twice twice.

        Raises:
            Mistake: every mistake of the target, together.
        """
        if isinstance(target, n.WholeSite):
            return [Chosen(site, "heads" if heads else "site", heads) for site, heads in where.spots]
        if any(heads for _, heads in where.spots):
            self._refuse_heads(target, where)
        value = self.scope.value(target.id) if isinstance(target, n.Name) else None
        if not isinstance(value, n.FeatureSet):
            return self._gathered(target, where)
        key = (id(value), where.spots, where.named.name if where.named else None, where.complete)
        if key in self.sets:
            return self.sets[key][1]
        found = self._gathered(target, where)
        if not any(map(_by_name, value.items)):
            self.sets[key] = value, found  # with the value, so that its id stays its own
        return found

    def _gathered(self, target: n.Target, where: Header) -> list[Chosen]:
        """What a target means, the numbers of one part of a site together."""
        found: dict[tuple[Site, Part, str], list[Chosen]] = {}
        for c in self._find(target, where):
            key = (c.site, c.part, c.dictionary.name if c.dictionary else c.direction or "")
            same = found.setdefault(key, [])
            if same and (isinstance(same[0].ids, str) or isinstance(c.ids, str)):
                found[*key[:2], f"{key[2]} {len(found)}"] = [c]
            else:
                same.append(c)
        return [_together(same) for same in found.values()]

    def feature(self, f: n.Features, where: Header) -> tuple[Dictionary, int] | None:
        """The one feature of a condition or a metric, of whichever site; None where the header's mistake hides it."""
        if f.first != f.last:
            message = f"one feature is needed here, {format_node(f)} is {abs(f.last - f.first) + 1}"
            raise Mistake("S505", message, f.span, hints=[f"one of them: f{f.first}"])
        d = self._of(f, where, inside=False)
        return (d, _ids(f, d)[0]) if d is not None else None

    def _refuse_heads(self, target: n.Target, where: Header) -> None:
        site, heads = next(spot for spot in where.spots if spot[1])
        message = f"this statement is about heads of {site}, it can name nothing else of the site"
        span = target.span
        hints = [f"name the site, and the heads in the edits: at {site} ablate h{heads[0]}"]
        raise Mistake("S506", message, span, hints=hints)

    def _find(self, target: n.Target, where: Header) -> list[Chosen]:
        match target:
            case n.AllFeatures():
                return [Chosen(d.write, "features", "all", d) for d in self._all(target, where, "features")]
            case n.ErrorTarget(of):
                if of is not None:
                    return [Chosen(d.write, "error", (), d) for d in self._named(of, target, where)]
                return [Chosen(d.write, "error", (), d) for d in self._all(target, where, "error")]
            case n.Features():
                d = self._of(target, where)
                return [Chosen(d.write, "features", _ids(target, d), d)] if d is not None else []
            case n.Heads() | n.Neurons():
                return self._columns(target, where)
            case n.FeatureSet(items):
                if (plain := self._plain(items, where)) is not None:
                    return [plain]
                return [c for found in each(lambda item: self._find(item, where), items) for c in found]
            case n.Name():
                return self._find(self.scope.set(target), where)
            case n.Direction():
                return self._along(target, where)
            case n.WholeSite():
                return []

    def _plain(self, items: tuple[n.Target, ...], where: Header) -> Chosen | None:
        """What a set of features of the header's one dictionary means; None if it is another set, or has a mistake."""
        plain = [i for i in items if isinstance(i, n.Features) and i.of is None]
        if not plain or len(plain) != len(items):
            return None
        try:
            d = self._of(plain[0], where)
            if d is None:
                return None
            ids: list[int] = []
            for f in plain:
                found = _ids(f, d)
                if len(ids) <= d.info.d_sae:  # else one stands twice already, which is an error
                    ids += found
        except Mistake:
            return None
        return Chosen(d.write, "features", tuple(sorted(ids)), d)

    def _columns(self, t: n.Heads | n.Neurons, where: Header) -> list[Chosen]:
        """Heads or coordinates: at every site of the statement, or at the one that they name."""
        if self.model is None:
            return []
        sites = list(dict.fromkeys(where.sites))
        if t.of is not None:
            sites = site_list(self.scope.pattern(t.of), self.model, one=True)
            if where.complete and sites[0] not in where.sites:
                message = f"{format_node(t)} belongs to {sites[0]}, which this statement does not edit"
                raise Mistake("S312", message, t.span, hints=[f"at {sites[0]} ..."])
        if isinstance(t, n.Heads):
            ids = head_list([n.LayerRange(t.first, t.last, span=t.span)], sites, self.model, t.span)
            return [Chosen(site, "heads", ids) for site in sites]
        model = self.model
        found: list[Chosen] = []
        for site in sites:  # the first that is too narrow says it for all
            found.append(Chosen(site, "coordinates", column_list(t, site, model)))
        return found

    def _along(self, t: n.Direction, where: Header) -> list[Chosen]:
        """A direction at every site, which must be as wide."""
        d = self.scope.direction(t)
        sites = list(dict.fromkeys(where.sites))
        for site in sites if self.model is not None else ():
            width = self.model.width(site) if self.model is not None else None
            if site.component == "attn.pattern":
                raise Mistake("S322", f"{site} has no directions: it is as wide as the text is long", t.span)
            if width is not None and width != d.width:
                raise Mistake(
                    "S322",
                    f"{format_node(t)} is {d.width} wide, {site} is {width} wide",
                    t.span,
                    hints=["use a direction that was made from this model's activations at this site"],
                )
        return [Chosen(site, "direction", (), None, d.name) for site in sites]

    # Dictionaries -------------------------------------------------------------------------------------------------

    def _all(self, target: n.AllFeatures | n.ErrorTarget, where: Header, what: str) -> list[Dictionary]:
        """The dictionary of every site."""
        if where.named is not None:
            return [where.named]
        on = self.bindings
        bare = [s for s in where.sites if s not in on.by_site and s not in on.unsure and None not in on.unsure]
        others = [s for s in where.sites if s not in bare]
        if bare:
            each(lambda site: on.on(site, target.span, what), others)
            raise on.none_on(bare, target.span, what)
        return each(lambda site: on.on(site, target.span, what), others)

    def _named(self, of: n.SiteRef, target: n.Target, where: Header, inside: bool = True) -> list[Dictionary]:
        """The dictionary that a qualified target names; none where the model is not known."""
        if isinstance(of, n.Name):
            d = self.scope.dictionary(of)
        elif self.model is None:
            return []
        elif isinstance(of, n.ModuleSite):
            d = self.bindings.on(module_site(of, self.model), target.span)
        else:
            (site,) = site_list(self.scope.pattern(of), self.model, one=True)
            d = self.bindings.on(site, target.span)
        if inside and where.complete and d.write not in where.sites:
            raise Mistake(
                "S312",
                f"{format_node(target)} belongs to {d.write}, which this statement does not edit",
                target.span,
                hints=[f"at {d.write} ..."],
            )
        return [d]

    def _of(self, f: n.Features, where: Header, inside: bool = True) -> Dictionary | None:
        """The one dictionary that a feature of this spelling belongs to; None where the header's mistake hides it."""
        if f.of is not None:
            return next(iter(self._named(f.of, f, where, inside)), None)
        if where.named is not None:
            return where.named
        if not where.complete:
            return None
        sites = tuple(dict.fromkeys(where.sites)) if not inside else where.sites
        if len(sites) != 1:
            raise self._ambiguous(f, where)
        return self.bindings.on(sites[0], f.span)

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


def _by_name(item: object) -> bool:
    """Whether an item of a set says by a name where it belongs: what the name means depends on the place."""
    of = getattr(item, "of", None)
    return isinstance(of, n.Name) or (isinstance(of, n.SitePattern) and isinstance(of.layers, n.Name))


def _together(same: list[Chosen]) -> Chosen:
    """What one target names of one part of a site, its numbers in order."""
    first = same[0]
    if len(same) == 1:
        return first
    most = first.dictionary.info.d_sae if first.dictionary is not None else MOST_COLUMNS
    ids: list[int] = []
    for c in same:
        assert not isinstance(c.ids, str)
        ids += c.ids
        if len(ids) > most:  # one stands twice already, which is an error
            break
    return replace(first, ids=tuple(sorted(ids)))


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
    return _range(f.first, f.last)


@lru_cache(maxsize=1024)
def _range(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))
