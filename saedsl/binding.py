"""Which dictionary is bound to which site: those of the script, of the caller, and of the bundled model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from saedsl.anatomy import ModelInfo
from saedsl.errors import SAEError
from saedsl.grammar import nodes as n
from saedsl.grammar.words import RESERVED
from saedsl.locate import bundled, find_sae
from saedsl.program import Dictionary
from saedsl.report import Mistake, Report
from saedsl.sae.header import SAEInfo
from saedsl.selection import site_list
from saedsl.sites import Site
from saedsl.unread import Unread

_NAME = re.compile(r"(?![fFLhnx]\d)[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Bindings:
    """The dictionaries of one program."""

    dictionaries: Mapping[str, Dictionary]
    broken: frozenset[str] = frozenset()
    """Names whose dictionary could not be bound: reported, so that their uses are not reported again."""
    unsure: frozenset[Site | None] = frozenset()
    """Sites to which one of those would be bound; None: it is not known where."""

    @cached_property
    def by_site(self) -> Mapping[Site, tuple[Dictionary, ...]]:
        """The dictionaries that write to each site."""
        found: dict[Site, tuple[Dictionary, ...]] = {}
        for d in self.dictionaries.values():
            found[d.write] = (*found.get(d.write, ()), d)
        return found

    def on(self, site: Site, span: n.Span, what: str = "features") -> Dictionary:
        """The dictionary bound to `site`, which must be one.

        Args:
            site: where it writes.
            span: of what needs it.
            what: what of it is needed: features, or error.

        Raises:
            Mistake: S309 if there is none, S310 if there are several; a silent one if there may be another one.
        """
        bound = self.by_site.get(site, ())
        if site in self.unsure or (None in self.unsure and all(d.bundled for d in bound)):
            raise Mistake.silent(span)
        if len(bound) == 1:
            return bound[0]
        raise self._several(site, bound, span, what) if bound else self.none_on([site], span, what)

    def none_on(self, sites: list[Site], span: n.Span, what: str = "features") -> Mistake:
        """What to say of sites without a dictionary."""
        no = f"no {what}"
        others = sorted({str(d.write) for d in self.dictionaries.values()})
        hints = [f'bind one: sae g = "path" on {sites[0]}']
        if others:
            hints.append("dictionaries are bound to " + ", ".join(others[:8]) + (" ..." if len(others) > 8 else ""))
        if len(sites) == 1:
            return Mistake("S309", f"no dictionary is bound to {sites[0]}, so it has {no}", span, hints=hints)
        listed = ", ".join(map(str, sites[:8])) + (f" and {len(sites) - 8} more" if len(sites) > 8 else "")
        return Mistake("S309", f"no dictionary is bound to {listed}, so they have {no}", span, hints=hints)

    def _several(self, site: Site, bound: tuple[Dictionary, ...], span: n.Span, what: str) -> Mistake:
        """What to say where a feature's number alone does not say whose feature it is."""
        example = "error" if what == "error" else "f42"
        sayable = next((d.name for d in bound if not d.at_site), None)
        hints = [f"say which: at {site} ablate {sayable}.{example}"] if sayable else []
        for d in bound:
            if d.bundled:
                hints.append(f'to name the bundled one: sae g = "{d.path}"')
            elif d.at_site:
                hints.append(f"give {d.name} a name where you load it: g in place of {d.name}")
        names = ", ".join(d.name for d in bound)
        return Mistake("S310", f"{len(bound)} dictionaries are bound to {site}: {names}", span, hints=hints)


def bind_dictionaries(
    statements: Iterable[n.Statement],
    model: ModelInfo,
    given: Mapping[str, SAEInfo],
    base: Path,
    report: Report,
    unread: Iterable[Unread] = (),
    missing: bool = False,
) -> Bindings:
    """Every dictionary that features of a program may belong to.

    The program's own `sae` statements come first. A dictionary of the caller's takes the place of one of the same
    name. The bundled model brings its own SAEs for the sites to which no other SAE is bound.

    Args:
        statements: the program.
        model: what it runs on.
        given: the caller's dictionaries, by the text of a site or by a name.
        base: the folder that relative paths start from.
        report: where mistakes go.
        unread: statements that the parser could not read.
        missing: there may be others, in a file that could not be read.
    """
    found: dict[str, Dictionary] = {}
    broken: set[str] = set()
    unsure: set[Site | None] = {u.site for u in unread if u.word in ("sae", "")} | ({None} if missing else set())
    for s in statements:
        if isinstance(s, n.SAEDecl) and s.name not in found:
            d = _Binder(model, report, s.name, s.path_span, s).declared(given.get(s.name), base)
            if isinstance(d, Dictionary):
                found[s.name] = d
            else:
                broken.add(s.name)
                unsure.add(d)
    for name, info in given.items():
        if name in found or name in broken:
            continue
        g = _Binder(model, report, name, n.NOWHERE).given(info, found)
        if isinstance(g, Dictionary):
            found[g.name] = g
        else:
            broken.add(name)
            unsure.add(g)
    if model.name == "demo":
        taken: set[Site | None] = {d.write for d in found.values() if d.read == d.write}
        for name, path in bundled("saes").items():
            site = Site.parse(name)
            if site not in taken | unsure and name not in found:
                found[name] = Dictionary(name, f"demo:{name}", site, site, SAEInfo.read(path))
    return Bindings(found, frozenset(broken), frozenset(unsure))


@dataclass(frozen=True)
class _Binder:
    """One dictionary on its way to a site; its mistakes are reported, and then only its site is returned."""

    model: ModelInfo
    report: Report
    name: str
    span: n.Span
    """Of its path; nowhere for one of the caller's."""
    statement: n.SAEDecl | None = None

    @property
    def on_span(self) -> n.Span:
        """Where the site is said, else the path."""
        return self.statement.on.span if self.statement and self.statement.on else self.span

    def declared(self, given: SAEInfo | None, base: Path) -> Dictionary | Site | None:
        """The dictionary of an `sae` statement; a `given` one of the same name takes its place."""
        s = self.statement
        assert s is not None
        on, to = self._one_site(s.on), self._one_site(s.to)
        try:
            info = given or SAEInfo.read(find_sae(s.path, base))
        except SAEError as e:
            self.report.error("S307", f"this dictionary cannot be used: {e}", s.path_span)
            return to or on
        if given is not None:
            self.report.warning(
                "S202", f"{s.name} is given by the caller as well: this file is not read", s.path_span,
                hints=["give the other one another name, or leave this statement out"],
            )  # fmt: skip
        if (s.on and on is None) or (s.to and to is None):
            return to
        if info.config.several_sites:
            return self._several_sites(info, to or on)
        path = s.path if given is None else _path(info)
        return self.bound(info, on, path, s.span) if to is None else self.between(info, on, to, path)

    def _one_site(self, pattern: n.SitePattern | None) -> Site | None:
        """The site of `on` or `->`; None if there is none, or it has a mistake."""
        sites = self.report.attempt(site_list, pattern, self.model, one=True) if pattern else None
        return sites[0] if sites else None

    def between(self, info: SAEInfo, read: Site | None, write: Site, path: str) -> Dictionary | Site | None:
        """A transcoder whose statement says both of its sites."""
        assert self.statement is not None
        assert self.statement.to is not None
        assert read is not None
        config, span = info.config, self.statement.to.span
        if not config.is_transcoder:
            message = f"{self.name} is an SAE: it writes where it reads"
            self.report.error("S319", message, span, hints=[f"sae {self.name} = ... on {write}"])
            return write
        said = (config.input_site or read, config.output_site or write)
        if said != (read, write):
            message = f"{self.name} was trained on {said[0]} -> {said[1]} and is bound to {read} -> {write}"
            self.report.warning("S316", message, self.on_span)
        return self._fitting(info, read, write, path)

    def given(self, info: SAEInfo, found: Mapping[str, Dictionary]) -> Dictionary | Site | None:
        """A dictionary of the caller's, called by a site or by a name."""
        try:
            on: Site | None = Site.parse(self.name)
        except ValueError:
            on = None
        if on is not None and (on.layer or 0) >= self.model.n_layers:
            self.report.error("S304", f"the dictionary {self.name}: layer {on.layer} does not exist", n.NOWHERE)
            return None
        if on is None and (not _NAME.fullmatch(self.name) or self.name in RESERVED):
            message = f"a dictionary of the caller's is called {self.name}, which is neither a name nor a site"
            hint = "call it by its site, L2.mlp, or by a name that programs can write, g"
            self.report.error("S206", message, n.NOWHERE, hints=[hint])
            return None
        if on is not None and str(on) in found:
            self.report.error("S202", f"the caller gives two dictionaries for {on}", n.NOWHERE)
            return on
        if info.config.several_sites:
            return self._several_sites(info, on)
        name = self.name if on is None else str(on)
        return replace(self, name=name).bound(info, on, _path(info), n.NOWHERE)

    def bound(self, info: SAEInfo, on: Site | None, path: str, whole: n.Span) -> Dictionary | Site | None:
        """The dictionary at its site, or where it would be if it had no mistake."""
        config = info.config
        try:
            read, write = _sites(self.name, info, on, self.on_span if on else whole)
        except Mistake as e:
            self.report.add(e)
            return on
        if on is not None and config.output_site is not None and on not in (config.input_site, config.output_site):
            self.report.warning(
                "S316", f"{self.name} was trained on {config.output_site} and is bound to {on}", self.on_span
            )
        return self._fitting(info, read, write, path)

    def _several_sites(self, info: SAEInfo, on: Site | None) -> Site | None:
        """Report a dictionary that no program can use; where it was meant to be, if that is said."""
        c = info.config
        kind = "a crosscoder" if c.kind == "crosscoder" else "a cross-layer transcoder"
        message = f"{self.name} is {kind}: a program's dictionary reads one site and writes one"
        label = f"it reads {_listed(c.input_sites)}" + (
            "" if c.input_sites == c.output_sites else f" and writes {_listed(c.output_sites)}"
        )
        self.report.error(
            "S331", message, self.span, label=label, hints=["encode with it in Python: sae.encode({...})"]
        )
        return on

    def _fitting(self, info: SAEInfo, read: Site, write: Site, path: str) -> Dictionary | Site | None:
        """The dictionary, if it fits the model and the sites; else only where it would write."""
        name = info.config.model_name
        if name is not None and not _same_name(name, self.model):
            message = f"{self.name} was trained on the model {name}, this is {self.model.name}"
            self.report.warning("S314", message, self.span)
        if self.report.attempt(_check_fit, self.name, info, read, write, self.model, self.on_span) is None:
            return write
        return Dictionary(self.name, path, read, write, info)


def _listed(sites: tuple[Site, ...]) -> str:
    """The first sites, and how many more there are."""
    return ", ".join(map(str, sites[:4])) + (f" and {len(sites) - 4} more" if len(sites) > 4 else "")


def _path(info: SAEInfo) -> str:
    """Where a dictionary of the caller's is from."""
    return str(info.path) if info.path else "memory"


def _sites(name: str, info: SAEInfo, on: Site | None, span: n.Span) -> tuple[Site, Site]:
    """Where the dictionary reads and writes: as it is bound, else as its own file says."""
    read, write = info.config.input_site, info.config.output_site
    if not info.config.is_transcoder:
        read = write = on or write
    elif on is not None and on not in (read, write):
        read, write = _moved(name, read, write, on, span)
    elif write is not None and read is None:
        read = _beside(write)
    elif read is not None and write is None:
        write = _beside(read)
    if read is None or write is None:
        raise Mistake(
            "S308",
            f"the file of {name} does not say which site it was trained on",
            span,
            hints=[f'say it: sae {name} = "..." on L2.mlp'],
        )
    return read, write


def _moved(name: str, read: Site | None, write: Site | None, on: Site, span: n.Span) -> tuple[Site | None, Site | None]:
    """The sites of a transcoder that is bound to another layer than its own, or whose file says none."""
    if read is None and write is None:
        other = _beside(on)
        return (on, other) if on.component == "mlp.in" else (other, on)
    one_layer = read is None or write is None or read.layer == write.layer
    if one_layer and on.component in {s.component for s in (read, write) if s is not None}:
        return tuple(replace(s, layer=on.layer) if s else _beside(on) for s in (read, write))  # type: ignore[return-value]
    says = " and ".join(f"{verb} {s}" for verb, s in (("writes", write), ("reads", read)) if s is not None)
    raise Mistake(
        "S319",
        f"{name} {says}: {on} is {'neither' if read and write else 'not it'}",
        span,
        hints=[f"leave `on {on}` out, or bind it to {write or read}"],
    )


def _beside(site: Site) -> Site | None:
    """The other side of an MLP."""
    other = {"mlp": "mlp.in", "mlp.in": "mlp"}.get(site.component)
    return replace(site, component=other) if other else None


def _check_fit(name: str, info: SAEInfo, read: Site, write: Site, model: ModelInfo, span: n.Span) -> bool:
    """Whether the dictionary can be where it is bound: the layer exists, the widths fit, it reads before it writes."""
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
    if not read <= write:
        raise Mistake(
            "S318",
            f"{name} reads {read} and writes {write}, which a forward reaches first",
            span,
            hints=["a dictionary writes where it reads, or downstream of it"],
        )
    return True


def _same_name(a: str, model: ModelInfo) -> bool:
    """Whether a recorded model name means this model: the last part of a path or of a hub id is what people keep."""
    here = {model.name.rstrip("/").rsplit("/", 1)[-1], model.path.name if model.path else model.name}
    return a.rstrip("/").rsplit("/", 1)[-1] in here
