"""Program -> text that means the same: parsed and checked again, it has the same `program_id`.

Sweeps are written out, a run for each combination with `reset` between; includes and `let`s are gone, edits are in
canonical order. Paths stand as the program gave them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from saedsl.canonical import dense, measured
from saedsl.chains import Chain, chains
from saedsl.grammar.format import format_node, number, quote
from saedsl.grammar.nodes import Positions
from saedsl.places import never_read
from saedsl.program import (
    And,
    Condition,
    Dictionary,
    Direction,
    Intervention,
    Metric,
    MetricValue,
    Not,
    Or,
    Program,
    Prompt,
    RecordItem,
    Step,
    Term,
    Test,
    terms,
)
from saedsl.promptrow import split_row
from saedsl.wording import PREFIX, edit_text, ids_text

_TIGHT = {"+": 1, "-": 1, "*": 2, "/": 2}


def program_text(program: Program) -> str:
    """A program as text, with a final newline.

    Raises:
        ValueError: if the program was built in a way that no text can say.
    """
    names = _names(program)
    lines = [f"model {quote(program.model.name)}"]
    lines += [_sae(d, names[d.name]) for d in program.used if names[d.name] != str(d.write)]
    directions = {e.direction for s in program.steps for e in s.edits if e.direction is not None}
    lines += [_direction(d) for name, d in sorted(program.directions.items()) if name in directions and name[0] != "$"]
    said: set[str] = set()
    previous: tuple[str, ...] | None = None
    labels: set[str] = set()
    bodies = _bodies(program.steps, names)
    for step, body in zip(program.steps, bodies, strict=True):
        lines += _prompts(program, step, said)
        if body != previous:
            lines += ["reset"] if previous else []
            lines += body
            previous = body
        lines.append(_run(program, step, said, labels))
    return "\n".join(lines) + "\n"


def _names(program: Program) -> dict[str, str]:
    """What each used dictionary is called in the text: a name, or its site where it is alone there and bundled."""
    taken = {*program.prompts, *program.files, *program.directions, *(d.name for d in program.used)}
    found: dict[str, str] = {}
    for d in program.used:
        alone = sum(d.write == o.write for o in program.used) == 1
        in_full = any(r.dictionary == d.name and r.features == "all" for s in program.steps for r in s.records)
        if not d.at_site or (d.bundled and alone and not in_full):
            found[d.name] = d.name
        else:
            found[d.name] = free_name("d", taken)
            taken.add(found[d.name])
    return found


def free_name(stem: str, taken: Iterable[str]) -> str:
    """`stem`, or it with a number behind that makes it new.

    >>> free_name("g", {"g", "g2"})
    'g3'
    """
    known = set(taken)
    return stem if stem not in known else next(n for i in range(2, len(known) + 3) if (n := f"{stem}{i}") not in known)


# Declarations -------------------------------------------------------------------------------------------------------


def _sae(d: Dictionary, name: str) -> str:
    to = "" if d.read == d.write else f" -> {d.write}"
    return f"sae {name} = {quote(d.path)} on {d.read}{to}"


def _direction(d: Direction) -> str:
    return f"dir {d.name} = {quote(d.path)}" + (f".{d.key}" if d.key is not None else "")


def _prompts(program: Program, step: Step, said: set[str]) -> list[str]:
    """Declarations of what a step needs and no step before it does, in the program's order."""
    needed = {*step.prompts, *(e.source.prompt for e in step.edits if e.source is not None)}
    needed |= {t.row_of for m in measured(step) for t in terms(m.value) if t.row_of is not None}
    needed |= {of for of in program.files if any(_of(p) == of for p in needed)}
    declared = [p for p in program.prompts if split_row(p) is None]
    lines = []
    until = max((i for i, p in enumerate(declared) if p in needed), default=-1)
    for name in declared[: until + 1]:
        if name not in said:
            lines.append(_prompt(name, program.prompts[name]))
    said.update(declared[: until + 1])
    for name, path in program.files.items():
        if name in needed and name not in said:
            lines.append(f"prompts {name} = {quote(path)}")
            said.add(name)
    return lines


def _of(prompt: str) -> str:
    """`io` of `io[3]`, `io.corrupt[3]` and `io.corrupt`."""
    row = split_row(prompt)
    return row[0] if row else prompt.partition(".")[0]


def _prompt(name: str, p: Prompt) -> str:
    chat = "chat " if p.chat else ""
    system = f" system {quote(p.system)}" if p.system is not None else ""
    return f"prompt {name} = {chat}{quote(p.text)}{system}"


# Steps --------------------------------------------------------------------------------------------------------------


def _bodies(steps: Sequence[Step], names: Mapping[str, str]) -> list[tuple[str, ...]]:
    """What stands above each step; where it can act on a part of what the next one has, the same."""
    bodies = [tuple(_body(step, names)) for step in steps]
    for i in range(len(steps) - 2, -1, -1):
        more, step = steps[i + 1], steps[i]
        reads = max(step.n - 1, 0)
        part = replace(
            more,
            edits=dense(tuple(e for e in more.edits if not never_read(e.positions, reads))),
            records=tuple(r for r in more.records if not never_read(r.positions, reads)),
            kind=step.kind,
        )
        if bodies[i] == tuple(_body(part, names)):
            bodies[i] = bodies[i + 1]
    return bodies


def _body(step: Step, names: Mapping[str, str]) -> list[str]:
    """Edits, records and metrics of a step."""
    lines = []
    for chain in chains(step.edits):
        lines.append(_at(chain, names))
    lines += [record_text(r, names) for r in step.records]
    lines += [metric_text(m, names) for m in measured(step)]
    return lines


def _at(chain: Chain, names: Mapping[str, str]) -> str:
    """`at SITE @ HEADER a then b`"""
    header = f" @ {format_node(chain.header)}" if chain.header is not None else ""
    site, *_ = (e.site for edits in chain.edits for e in edits)
    named = {e.dictionary for edits in chain.edits for e in edits if _unspeakable(e)}
    if len(named) > 1:
        raise ValueError(f"edits of all features of several dictionaries at {site} cannot be chained in text")
    where = next((names[n] for n in named if n is not None), str(site))
    edits = (_edit(group, chain.header_text, names) for group in chain.edits)
    return f"at {where}{header} {' then '.join(edits)}"


def _unspeakable(e: Intervention) -> bool:
    """Whether the target does not name the dictionary, so that the header has to."""
    return e.dictionary is not None and (e.features == "all" or e.part == "error" or not e.features)


def _edit(group: Sequence[Intervention], header: str, names: Mapping[str, str]) -> str:
    """Interventions that differ in dictionary and features only, as one edit."""
    e = group[0]
    positions = tuple(p for p in e.positions if format_node(p) != header)
    e = replace(e, positions=positions, when=_renamed(e.when, names), qualified=False)
    if e.part != "features" or e.features == "all" or not e.features:
        return edit_text(e)
    parts = [ids_text(g.features, f"{names[g.dictionary or '']}.") for g in group if not isinstance(g.features, str)]
    inner = ", ".join(p.strip("{}") for p in parts)
    target = parts[0] if len(parts) == 1 else "{" + inner + "}"
    mark = replace(e, features=(0,), part="features")
    return edit_text(mark).replace(" f0", f" {target}", 1)


def _renamed(c: Condition | None, names: Mapping[str, str]) -> Condition | None:
    match c:
        case Test():
            return replace(c, dictionary=names[c.dictionary])
        case Not(item):
            return Not(_sure(_renamed(item, names)))
        case And(items) | Or(items):
            return type(c)(tuple(_sure(_renamed(i, names)) for i in items))
    return None


def _sure(c: Condition | None) -> Condition:
    assert c is not None
    return c


def record_text(r: RecordItem, names: Mapping[str, str] | None = None) -> str:
    """`record g.f42 @ prompt`; dictionaries are called what `names` says."""
    return f"record {_recorded(r, names or {})}{_where(r.positions)}"


def _recorded(r: RecordItem, names: Mapping[str, str]) -> str:
    of = names.get(r.dictionary, r.dictionary) if r.dictionary is not None else str(r.site)
    if r.part == "error":
        return f"{of}.error"
    if r.part == "site" or r.features == "all":
        return of
    return ids_text(tuple(f for f in r.features if isinstance(f, int)), f"{of}.", PREFIX[r.part])


def metric_text(m: Metric, names: Mapping[str, str] | None = None) -> str:
    """`metric diff = logit(" a") - logit(io.answer) @ last`

    Args:
        m: the metric.
        names: what dictionaries are called.
    """
    return f"metric {m.name} = {_value(m.value, names or {})}{_where(m.positions)}"


def _where(positions: Sequence[Positions]) -> str:
    return "".join(f" @ {format_node(p)}" for p in positions)


def _value(value: MetricValue, names: Mapping[str, str]) -> str:
    match value:
        case Term():
            return f"{value.function}({_argument(value, names)})"
        case (op, left, right):
            a, b = _value(left, names), _value(right, names)
            a = f"({a})" if isinstance(left, tuple) and _TIGHT[left[0]] < _TIGHT[op] else a
            b = f"({b})" if isinstance(right, tuple) and _TIGHT[right[0]] <= _TIGHT[op] else b
            return f"{a} {op} {b}"
        case float() | int():
            return number(value)
    raise TypeError(f"{type(value).__name__} is no part of a metric")


def _argument(t: Term, names: Mapping[str, str]) -> str:
    if t.row_field is not None:
        return f"{t.row_of}.{t.row_field}"
    if t.dictionary is not None:
        return f"{names.get(t.dictionary, t.dictionary)}.f{t.feature}"
    return quote(t.text) if t.text is not None else str(t.site) if t.site is not None else ""


def _run(program: Program, step: Step, said: set[str], labels: set[str]) -> str:
    words: list[str] = [step.kind]
    prompts = _listed(program, step.prompts)
    declared = [p for p in said if p in program.prompts or p in program.files]
    if step.named or set(map(_of, prompts)) != set(declared):
        words.append(", ".join(prompts))
    if step.kind == "generate":
        words.append(str(step.n))
    if step.label is not None and step.label not in labels:
        words += ["as", step.label]
        labels.add(step.label)
    options = [
        *([f"mode = {step.mode}"] if step.mode != "iterative" else []),
        *([f"seed = {step.seed}"] if step.seed else []),
        *([f"temp = {number(step.temp)}"] if step.temp else []),
        *([f"top_p = {number(step.top_p)}"] if step.top_p != 1 else []),
    ]
    words += ["with", ", ".join(options)] if options else []
    values = ", ".join(f"{name} = {value}" for name, value in step.values)
    return " ".join(w for w in words if w) + (f"  # {values}" if values else "")


def _listed(program: Program, prompts: Sequence[str]) -> list[str]:
    """Prompts as a `run` names them: all rows of a file by the file's name."""
    found: dict[str, list[int]] = {}
    for p in prompts:
        row = split_row(p)
        name = p if row is None else row[0] + (f".{row[1]}" if row[1] else "")
        found.setdefault(name, []).append(row[2] if row else 0)
    for name, numbers in found.items():
        n = sum(1 for p in program.prompts if p.partition("[")[0] == name and split_row(p))
        if n and numbers != list(range(n)):
            raise ValueError(f"a run of some rows of {name} has no text: name the file, or all of its rows")
    return list(found)
