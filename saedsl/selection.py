"""Which sites a pattern selects on one model."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from saedsl.anatomy import ModelInfo
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS, GLOBAL_SITES
from saedsl.report import Mistake, each
from saedsl.sites import Site


def site_list(pattern: n.SitePattern, model: ModelInfo, one: bool = False) -> list[Site]:
    """The sites that `pattern` selects on `model`, in order.

    Args:
        pattern: as written.
        model: whose layers count.
        one: only a pattern that selects one site will do.

    Raises:
        Mistake: S303 for an unknown component, S304 for a layer that does not exist, S306 if not one as asked.
    """
    component = COMPONENT_ALIASES.get(pattern.component, pattern.component)
    if pattern.layers is None and component in GLOBAL_SITES:
        return [Site(None, component)]
    if component not in COMPONENTS or pattern.layers is None:
        raise _no_such_site(pattern, component, model)
    layers = list(_layers(pattern.layers, pattern, model))
    if one and len(layers) != 1:
        raise Mistake("S306", f"{format_node(pattern)} is {len(layers)} sites, one is needed here", pattern.span)
    return [Site(layer, component) for layer in layers]


def _layers(layers: n.Layers, pattern: n.SitePattern, model: ModelInfo) -> Iterable[int]:
    if not layers.items:
        return range(model.n_layers)
    ranges = each(lambda item: _range(item, layers, pattern, model), layers.items)
    return ranges[0] if len(ranges) == 1 else sorted(set().union(*ranges))


def _range(item: n.LayerRange, layers: n.Layers, pattern: n.SitePattern, model: ModelInfo) -> range:
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
                    hints=[f"did you mean {near}.{pattern.component}?"],
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
