"""Which sites a pattern selects on one model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches

from saedsl.anatomy import ModelInfo
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS, GLOBAL_SITES
from saedsl.report import Mistake, each
from saedsl.sites import Site

Spot = tuple[Site, tuple[int, ...]]
"""A site, and the heads that are meant of it; none: all of it."""


def site_list(pattern: n.SitePattern, model: ModelInfo, one: bool = False) -> list[Site]:
    """The sites that `pattern` selects on `model`, in order, whole.

    Args:
        pattern: as written; its layers are numbers.
        model: whose layers count.
        one: only a pattern that selects one site will do.

    Raises:
        Mistake: S303 for an unknown component, S304 for a layer that does not exist, S306 if not one as asked, or if
            heads are given.
    """
    if pattern.heads:
        whole = format_node(replace(pattern, heads=()))
        raise Mistake("S306", f"a whole site is needed here, not heads of {whole}", pattern.span, hints=[whole])
    component = COMPONENT_ALIASES.get(pattern.component, pattern.component)
    if pattern.layers is None and component in GLOBAL_SITES:
        return [Site(None, component)]
    if component not in COMPONENTS or not isinstance(pattern.layers, n.Layers):
        raise _no_such_site(pattern, component, model)
    layers = layer_list(pattern.layers, model, pattern.component)
    if one and len(layers) != 1:
        raise Mistake("S306", f"{format_node(pattern)} is {len(layers)} sites, one is needed here", pattern.span)
    return [Site(layer, component) for layer in layers]


def spot_list(pattern: n.SitePattern, model: ModelInfo) -> list[Spot]:
    """The sites that `pattern` selects, each with the heads that it says.

    Raises:
        Mistake: as `site_list`; S324 for heads that do not exist.
    """
    sites = site_list(replace(pattern, heads=()), model)
    ids = head_list(pattern.heads, sites, model, pattern.span)
    return [(site, ids) for site in sites]


def head_list(heads: Iterable[n.LayerRange], sites: Iterable[Site], model: ModelInfo, span: n.Span) -> tuple[int, ...]:
    """The numbers of heads, which must exist at every one of `sites`; those that stand twice twice.

    Raises:
        Mistake: S324 if a site has no heads, or not so many; S505 for an empty range. Each is said once.
    """
    found: list[int] = []
    wrong: dict[n.Span, Mistake] = {}
    for h in heads:
        at = h.span if h.span != n.NOWHERE else span
        name = f"h{h.first}" if h.first == h.last else f"h{h.first}..{h.last}"
        if h.first > h.last:
            wrong[at] = Mistake("S505", f"{name} is empty: a..b includes both ends, a first", at)
            continue
        for site in sites:
            count = model.heads(site)
            if count is None:
                hint = f"heads are at L{site.layer or 0}.attn.q, .k, .v, .z and .pattern"
                wrong.setdefault(at, Mistake("S324", f"{site} has no heads", at, hints=[hint]))
            elif not 0 <= h.first <= h.last < count:
                kind = "key-value heads" if site.component in ("attn.k", "attn.v") else "heads"
                missing = h.last if h.last >= count else h.first
                label = f"{site} has {count} {kind}: h0..{count - 1}" if count > 1 else f"{site} has one head: h0"
                wrong.setdefault(at, Mistake("S324", f"head {missing} does not exist", at, label=label))
        found += range(h.first, h.last + 1)
    if wrong:
        raise Mistake.together(list(wrong.values()))
    return tuple(sorted(found))


def column_list(neurons: n.Neurons, site: Site, model: ModelInfo) -> tuple[int, ...]:
    """The numbers of coordinates of a site. Those of a module are held against it when the program runs.

    Raises:
        Mistake: S325 if the site has none of that number; S505 for an empty range.
    """
    if neurons.first > neurons.last:
        raise Mistake(
            "S505", f"n{neurons.first}..{neurons.last} is empty: a..b includes both ends, a first", neurons.span
        )
    if site.component == "attn.pattern":
        hints = [f"its heads can be edited: at {site} ablate h0"]
        raise Mistake(
            "S325", f"{site} has no coordinates: it is as wide as the text is long", neurons.span, hints=hints
        )
    width = model.width(site)
    if width is not None and neurons.last >= width:
        raise Mistake(
            "S325",
            f"coordinate {neurons.last} does not exist",
            neurons.span,
            label=f"{site} is {width} wide: n0..{width - 1}",
        )
    return tuple(range(neurons.first, neurons.last + 1))


def module_site(m: n.ModuleSite, model: ModelInfo | None) -> Site:
    """One side of any module; whether there is one of that path shows, at the latest, when the model is loaded.

    Raises:
        Mistake: S303 if no module can have that path, S330 if this model has none.
    """
    if not re.fullmatch(r"\w+(\.\w+)*", m.path):
        hint = 'module "model.layers.3.self_attn.o_proj" out'
        raise Mistake("S303", "this is not the path of a module", m.span, hints=[f"names with dots between: {hint}"])
    if model is not None and not model.has_module(m.path):
        known = model.modules or {_with_layer(m.path, model.n_layers - 1)}
        near = get_close_matches(m.path, sorted(known), n=1, cutoff=0.5)
        hints = [f'did you mean module "{near[0]}" {m.side}?'] if near else []
        raise Mistake("S330", f"this model has no module {m.path}", m.span, hints=hints)
    return Site.of_module(m.path, m.side)


def _with_layer(path: str, layer: int) -> str:
    """A module's path with another block in the place of its first number."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", str(layer), path, count=1)


def layer_list(layers: n.Layers, model: ModelInfo, component: str = "") -> list[int]:
    """The layers that are meant, in order.

    Args:
        layers: as written.
        model: whose layers count.
        component: for hints.

    Raises:
        Mistake: S304 for every layer that does not exist.
    """
    if not layers.items:
        return list(range(model.n_layers))
    ranges = each(lambda item: _range(item, layers, component, model), layers.items)
    return list(ranges[0]) if len(ranges) == 1 else sorted(set().union(*ranges))


def _range(item: n.LayerRange, layers: n.Layers, component: str, model: ModelInfo) -> range:
    """The layers of one item of `layers`; every end that does not exist is a mistake."""
    count = model.n_layers
    first, last = (i + count if i < 0 else i for i in (item.first, item.last))
    wrong = []
    for spelled, layer in ((item.first, first), (item.last, last)):
        if not 0 <= layer < count:
            known = [f"L{i}" for i in range(min(count, 1000))]
            near = (get_close_matches(f"L{spelled}", known, n=1) or [f"L{count - 1}"])[0]
            wrong.append(
                Mistake(
                    "S304",
                    f"layer {spelled} does not exist",
                    item.span if len(layers.items) > 1 else layers.span,
                    label=f"this model has {count} layers: L0..L{count - 1}",
                    hints=[f"did you mean {near}.{component}?" if component else f"did you mean {near}?"],
                )
            )
    if wrong:
        raise Mistake.together(wrong)
    if first > last:
        raise Mistake("S304", f"this range of layers is empty: it runs from {first} to {last}", item.span)
    return range(first, last + 1)


def _no_such_site(pattern: n.SitePattern, component: str, model: ModelInfo) -> Mistake:
    text = format_node(pattern)
    if component in GLOBAL_SITES:
        return Mistake("S303", f"{text} is not a site", pattern.span, hints=[f"{component} has no layer: {component}"])
    if component in COMPONENTS:
        return Mistake("S303", f"{text} is not a site", pattern.span, hints=[f"which layer? L0.{pattern.component}"])
    lead = format_node(pattern.layers) + "." if pattern.layers else ""
    known = {
        **{f"{lead or 'L0.'}{c}": None for c in (*COMPONENTS, *COMPONENT_ALIASES)},
        **dict.fromkeys(GLOBAL_SITES),
    }
    near = get_close_matches(text, known, n=1, cutoff=0.5)
    hints = [f"did you mean {near[0]}?"] if near else []
    return Mistake("S303", f"{text} is not a site", pattern.span, hints=[*hints, "saedsl sites lists them"])
