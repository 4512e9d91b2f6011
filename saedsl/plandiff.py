"""What differs between two plans: what they mean, not how they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Final, Literal

from saedsl.canonical import canonical, edit_json, measured
from saedsl.compose import Renames, renamed_edit, renamed_metric, renamed_record
from saedsl.dsl import free_name, metric_text, record_text
from saedsl.errors import SAEError
from saedsl.grammar.format import format_node, quote
from saedsl.places import simplest
from saedsl.plan import Plan
from saedsl.program import Dictionary, Intervention, Program, Prompt, Step

OPTIONS: Final = ("kind", "n", "mode", "seed", "temp", "top_p")


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same."""

    where: str
    """`step 1`, or "" for what all steps share."""
    what: str
    """`edit`, `record`, `metric`, `prompt`, `model`, `mode` ..."""
    change: Literal["added", "removed", "changed"]
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        match self.change:
            case "added":
                return f"{where}+ {self.what} {self.after}"
            case "removed":
                return f"{where}- {self.what} {self.before}"
            case "changed":
                return f"{where}~ {self.what} {self.before} -> {self.after}"

    def to_json(self) -> dict[str, str]:
        """Its fields."""
        return {k: v for k, v in vars(self).items() if v}


def differences(a: Plan, b: Plan) -> list[Difference]:
    """Everything that differs, in the order of the steps; nothing for two spellings of one meaning."""
    p, q = a.program, b.program
    found: list[Difference] = []
    if p.model.name != q.model.name:
        found.append(Difference("", "model", "changed", p.model.name, q.model.name))
    one, two = _common_names(p, q)
    prompts = _prompts(p), _prompts(q)
    for name in dict.fromkeys([*prompts[0], *prompts[1]]):
        found += _changed("", f"prompt {name}", prompts[0].get(name), prompts[1].get(name))
    many = max(len(p.steps), len(q.steps)) > 1
    for i, (s, t) in enumerate(zip_longest(p.steps, q.steps), 1):
        where = f"step {i}" if many else ""
        if s is None or t is None:
            found += _changed(where, "step", _title(s) if s else None, _title(t) if t else None)
            continue
        for option in OPTIONS:
            found += _changed(where, option, str(getattr(s, option)), str(getattr(t, option)))
        found += _changed(where, "prompts", ", ".join(s.prompts), ", ".join(t.prompts))
        found += _edits(where, _canonical(s, p, one), _canonical(t, q, two))
        for what, before, after in (
            ("record", _records(s, one), _records(t, two)),
            ("metric", _metrics(s, one), _metrics(t, two)),
        ):
            found += [Difference(where, what, "removed", before=x) for x in sorted(before - after)]
            found += [Difference(where, what, "added", after=x) for x in sorted(after - before)]
    return found


def _changed(where: str, what: str, before: str | None, after: str | None) -> list[Difference]:
    if before == after:
        return []
    if before is None or after is None:
        change: Literal["added", "removed"] = "added" if before is None else "removed"
        return [Difference(where, what, change, before or "", after or "")]
    return [Difference(where, what, "changed", before, after)]


def _title(s: Step) -> str:
    return " ".join([s.kind, ", ".join(s.prompts), str(s.n) if s.n else ""]).strip()


def _prompts(p: Program) -> dict[str, str]:
    """The prompts that steps run on or take values from."""
    used = dict.fromkeys(name for s in p.steps for name in s.prompts)
    sources = {e.source.prompt for s in p.steps for e in s.edits if e.source is not None}
    used |= dict.fromkeys(n for n in p.prompts if n in sources or n.partition("[")[0] in sources)
    return {name: _prompt(p.prompts[name]) for name in used if name in p.prompts}


def _prompt(p: Prompt) -> str:
    text = ("chat " if p.chat else "") + quote(p.text) + (f" system {quote(p.system)}" if p.system is not None else "")
    more = {k: dict(sorted(v.items())) for k, v in (("fields", p.fields), ("positions", p.positions)) if v}
    return f"{text} {json.dumps(more, ensure_ascii=False)}" if more else text


def _common_names(p: Program, q: Program) -> tuple[Renames, Renames]:
    """For each program, its names -> names that both share for what is the same."""
    shared: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()
    renames = []
    for program in (p, q):
        new: dict[str, str] = {}
        references: dict[str, str] = {}
        edits = [e for s in program.steps for e in s.edits]
        used = {e.direction for e in edits if e.direction is not None}
        meanings: list[tuple[str, tuple[str, ...]]] = []
        for d in program.used:
            meanings.append((d.name, ("dictionary", _print(d), str(d.read), str(d.write))))
        for name in sorted(used):
            meanings.append((name, ("direction", program.directions[name].sha256)))
        for name, meaning in meanings:
            if meaning not in shared:
                shared[meaning] = free_name(name, taken)
                taken.add(shared[meaning])
            new[name] = shared[meaning]
        for key in sorted({e.to.reference for e in edits if e.to is not None}):
            content = ("reference", program.references[key].sha256)
            if content not in shared:
                shared[content] = free_name(key, taken)
                taken.add(shared[content])
            references[key] = shared[content]
        renames.append(Renames(new, references))
    return renames[0], renames[1]


def _print(d: Dictionary) -> str:
    """What tells a dictionary from another: its weights, or its path where they cannot be read."""
    try:
        return d.info.fingerprint
    except SAEError:
        return d.path


def _canonical(s: Step, p: Program, names: Renames) -> dict[str, Intervention]:
    """The edits of a step by their canonical JSON."""
    sizes = {names.other(d.name): d.info.d_sae for d in p.used}
    edits = canonical((renamed_edit(e, names) for e in s.edits), sizes)
    return {json.dumps(edit_json(e), sort_keys=True): e for e in edits}


def _edits(where: str, a: Mapping[str, Intervention], b: Mapping[str, Intervention]) -> list[Difference]:
    """Removed, added, and changed edits: those of the same thing at the same site are one that changed."""
    removed = [e for key, e in a.items() if key not in b]
    added = [e for key, e in b.items() if key not in a]
    found = []
    for alike in (_thing, _features):
        for e in list(removed):
            other = next((x for x in added if alike(x) == alike(e)), None)
            if other is not None:
                found.append(Difference(where, "edit", "changed", _text(e), _text(other)))
                removed.remove(e)
                added.remove(other)
    found += [Difference(where, "edit", "removed", before=_text(e)) for e in removed]
    found += [Difference(where, "edit", "added", after=_text(e)) for e in added]
    return found


def _thing(e: Intervention) -> tuple[Any, ...]:
    return (*_features(e), e.op, tuple(map(format_node, e.positions)))


def _features(e: Intervention) -> tuple[Any, ...]:
    return (e.site, e.dictionary, e.part, e.features, e.direction, e.stage)


def _text(e: Intervention) -> str:
    stage = f" (behind {e.stage} then)" if e.stage else ""
    return f"`{e.text()}`{stage}"


def _records(s: Step, names: Renames) -> set[str]:
    found = (renamed_record(replace(r, positions=simplest(r.positions)), names) for r in s.records)
    return {f"`{record_text(r)}`" for r in found}


def _metrics(s: Step, names: Renames) -> set[str]:
    return {f"`{metric_text(renamed_metric(m, names))}`" for m in measured(s)}


def listing(found: Sequence[Difference]) -> Iterable[str]:
    """A line for each difference."""
    return map(str, found) if found else ("no difference",)
