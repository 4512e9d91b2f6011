"""Which sites a pattern means on one model, and which dictionary is bound to which site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from saedsl.anatomy import ModelInfo
from saedsl.errors import SAEError
from saedsl.grammar import nodes as n
from saedsl.grammar.format import format_node
from saedsl.grammar.words import COMPONENT_ALIASES, COMPONENTS, GLOBAL_SITES
from saedsl.locate import bundled, find_sae
from saedsl.program import Dictionary
from saedsl.report import Mistake, Report
from saedsl.sae.header import SAEInfo
from saedsl.sites import Site


@dataclass(frozen=True)
class Bindings:
    """The dictionaries of one program."""

    dictionaries: Mapping[str, Dictionary]
    broken: frozenset[str]
    """Names whose dictionary could not be bound: reported, so that their uses are not reported again."""


# Sites ------------------------------------------------------------------------------------------------------------


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
    layers = _layers(pattern.layers, pattern, model)
    if one and len(layers) != 1:
        raise Mistake("S306", f"{format_node(pattern)} is {len(layers)} sites, one is needed here", pattern.span)
    return [Site(layer, component) for layer in layers]


def _layers(layers: n.Layers, pattern: n.SitePattern, model: ModelInfo) -> list[int]:
    if not layers.items:
        return list(range(model.n_layers))
    found: set[int] = set()
    for item in layers.items:
        first, last = (i + model.n_layers if i < 0 else i for i in (item.first, item.last))
        for spelled, layer in ((item.first, first), (item.last, last)):
            if not 0 <= layer < model.n_layers:
                known = [f"L{i}" for i in range(model.n_layers)]
                near = (get_close_matches(f"L{spelled}", known, n=1) or [known[-1]])[0]
                span = item.span if len(layers.items) > 1 else layers.span
                raise Mistake(
                    "S304",
                    f"layer {spelled} does not exist",
                    span,
                    label=f"this model has {model.n_layers} layers: L0..L{model.n_layers - 1}",
                    hints=[f"did you mean {near}.{pattern.component}?"],
                )
        if first > last:
            raise Mistake("S304", f"this range of layers is empty: it runs from {first} to {last}", item.span)
        found |= set(range(first, last + 1))
    return sorted(found)


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


# Dictionaries -----------------------------------------------------------------------------------------------------


def bind_dictionaries(
    script: n.Script, model: ModelInfo, given: Mapping[str, SAEInfo], base: Path, report: Report
) -> Bindings:
    """Every dictionary that features of `script` may belong to.

    The script's own `sae` statements come first. A dictionary of the caller's takes the place of one of the same
    name. The bundled model brings its own SAEs for the sites to which nothing else is bound.
    """
    found: dict[str, Dictionary] = {}
    broken: set[str] = set()
    for s in script.statements:
        if isinstance(s, n.SAEDecl) and s.name not in found:
            try:
                found[s.name] = _declared(s, given.get(s.name), model, base, report)
            except Mistake as e:
                broken.add(s.name)
                report.add(e)
    for name, info in given.items():
        if name not in found and name not in broken:
            try:
                d = _given(name, info, model)
                found[d.name] = d
            except Mistake as e:
                broken.add(name)
                report.add(e)
    if model.name == "demo":
        taken = {d.write for d in found.values()}
        for name, path in bundled("saes").items():
            site = Site.parse(name)
            if site not in taken:
                found[name] = Dictionary(name, f"demo:{name}", site, site, SAEInfo.read(path))
    return Bindings(found, frozenset(broken))


def _declared(s: n.SAEDecl, given: SAEInfo | None, model: ModelInfo, base: Path, report: Report) -> Dictionary:
    try:
        info = given or SAEInfo.read(find_sae(s.path, base))
    except SAEError as e:
        raise Mistake("S307", f"this dictionary cannot be used: {e}", s.path_span) from None
    on = site_list(s.on, model, one=True)[0] if s.on else None
    read, write = _sites(s.name, info, on, s.span)
    if on is not None and info.config.output_site not in (None, on):
        report.warning(
            "S316",
            f"{s.name} was trained on {info.config.output_site} and is bound to {on}",
            s.on.span if s.on else s.span,
        )
    _check_width(s.name, info, read, write, model, s.on.span if s.on else s.path_span)
    if info.config.model_name not in (None, model.name) and not _same_name(info.config.model_name, model):
        report.warning(
            "S314",
            f"{s.name} was trained on the model {info.config.model_name}, this is {model.name}",
            s.path_span,
        )
    return Dictionary(s.name, s.path, read, write, info)


def _given(name: str, info: SAEInfo, model: ModelInfo) -> Dictionary:
    try:
        on: Site | None = Site.parse(name)
    except ValueError:
        on = None
    if on is not None and (on.layer or 0) >= model.n_layers:
        raise Mistake("S304", f"the dictionary {name}: layer {on.layer} does not exist", n.NOWHERE)
    read, write = _sites(name, info, on, n.NOWHERE)
    _check_width(name, info, read, write, model, n.NOWHERE)
    return Dictionary(str(on) if on else name, str(info.path), read, write, info)


def _sites(name: str, info: SAEInfo, on: Site | None, span: n.Span) -> tuple[Site, Site]:
    """Where the dictionary reads and writes: as it is bound, else as its own file says."""
    config = info.config
    if config.is_transcoder:
        read = config.input_site if on is None or on == config.output_site else None
        write = on or config.output_site
        if write is not None and read is None and write.component == "mlp":
            read = replace(write, component="mlp.in")
    else:
        read = write = on or config.output_site
    if read is None or write is None:
        raise Mistake(
            "S308",
            f"the file of {name} does not say which site it was trained on",
            span,
            hints=[f'say it: sae {name} = "..." on L2.mlp'],
        )
    return read, write


def _check_width(name: str, info: SAEInfo, read: Site, write: Site, model: ModelInfo, span: n.Span) -> None:
    for site, width, what in ((read, info.config.d_in, "reads"), (write, info.config.d_out, "writes")):
        if site.layer is not None and site.layer >= model.n_layers:
            raise Mistake(
                "S304",
                f"{name} was trained on {site}, and this model has no layer {site.layer}",
                span,
                label=f"this model has {model.n_layers} layers: L0..L{model.n_layers - 1}",
            )
        if width != model.width(site):
            raise Mistake(
                "S317",
                f"{name} {what} activations {width} wide, {site} of this model is {model.width(site)} wide",
                span,
                hints=["use a dictionary that was trained on this model and site"],
            )


def _same_name(a: str | None, model: ModelInfo) -> bool:
    """Whether a recorded model name means this model: the last part of a path or of a hub id is what people keep."""
    here = {model.name.rstrip("/").rsplit("/", 1)[-1], model.path.name if model.path else model.name}
    return a is not None and a.rstrip("/").rsplit("/", 1)[-1] in here
