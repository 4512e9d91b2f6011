"""How diagnostics, results, plans and sites look in a terminal. Everything that is shown comes as text or a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from saedsl.anatomy import ModelInfo
from saedsl.explain import ExplainedStep, explain
from saedsl.grammar.source import Diagnostic
from saedsl.plan import Plan
from saedsl.program import Dictionary

if TYPE_CHECKING:
    from saedsl.firing import Firing
    from saedsl.metrics import Measured
    from saedsl.results import MetricMean, PromptResult, Result

MOST_STEPS = 50
"""Steps, and prompts of a step, that are explained one by one."""
_COLOURS = {"error": "bold red", "warning": "bold yellow", "note": "bold blue"}


def diagnostic(d: Diagnostic) -> Text:
    """The caret form, with its first line and its carets in colour."""
    lines = d.render().split("\n")
    text = Text(lines[0], style=_COLOURS[d.severity])
    for line in lines[1:]:
        text.append("\n")
        text.append(line, style=_COLOURS[d.severity] if line.lstrip(" |").startswith("^") else "")
    return text


def result(r: Result, top: int = 5) -> Iterator[RenderableType]:
    """A block for each prompt, then the warnings and the hashes."""
    for p in r.prompts:
        yield from prompt(p, top)
        yield ""
    if len(r.prompts) > 1 and r.metrics:
        yield _means(r)
        yield ""
    for w in r.warnings:
        yield Text(w, style="yellow")
    yield Text(f"program {r.program_id[:16]}  plan {r.plan_id[:16]}  model {r.model}", style="dim")


def prompt(p: PromptResult, top: int = 5) -> Iterator[RenderableType]:
    """What became of one prompt: next tokens or texts, what fired, what was recorded."""
    run = "".join(f"   {name} = {value}" for name, value in ((("run", p.label),) if p.label else ()) + p.values)
    yield Text.assemble(("prompt ", "bold"), _quoted(p.text), f"   ({len(p.token_ids)} tokens){run}")
    yield _generated(p) if p.kind == "generate" else _next_token(p, top)
    if p.firings:
        yield _fired(p.firings)
    if p.metrics:
        yield _metrics(p)
    for label, array in p.edited.activations.items():
        yield f"recorded {label} {list(array.shape)} at {p.record_positions.get(label, '')}"


def _metrics(p: PromptResult) -> RenderableType:
    """What was measured on one prompt."""
    table = _table(("metric",), ("baseline", "edited", "difference"))
    for name, m in p.metrics.items():
        table.add_row(Text(name), *_sides(m))
    return table


def _means(r: Result) -> RenderableType:
    """The mean of every metric over prompts: a row for every run, and for each combination of sweep values."""
    means = r.metrics
    sweeps = list(dict.fromkeys(name for m in means for name, _ in m.values))
    runs = len({m.statement for m in means}) > 1
    table = _table((*(("run",) if runs else ()), *sweeps, "metric"), ("baseline", "edited", "difference", "prompts"))
    for m in means:
        values = dict(m.values)
        run = [Text(m.label or str(m.statement))] if runs else []
        table.add_row(*run, *(Text(values.get(s, "")) for s in sweeps), Text(m.metric), *_sides(m), str(m.n))
    return table


def _table(left: Iterable[str], right: Iterable[str]) -> Table:
    table = Table(title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in left:
        table.add_column(name, justify="left", header_style="dim")
    for name in right:
        table.add_column(name, justify="right", header_style="dim")
    return table


def _sides(m: Measured | MetricMean) -> tuple[RenderableType, ...]:
    if m.baseline != m.baseline or m.edited != m.edited:
        return ("", "", "")
    style = "" if abs(m.difference) < 5e-4 else "green" if m.difference > 0 else "red"
    return f"{m.baseline:.4g}", f"{m.edited:.4g}", Text(f"{m.difference:+.4g}", style=style)


def _next_token(p: PromptResult, top: int) -> RenderableType:
    table = Table(title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, justify in (
        ("next token", "left"),
        ("baseline", "right"),
        ("edited", "right"),
        ("difference", "right"),
    ):
        table.add_column(name, justify=justify, header_style="dim")  # type: ignore[arg-type]
    best = {max(p.top, key=lambda t: t.baseline).token_id, max(p.top, key=lambda t: t.edited).token_id}
    ranked = [sorted(p.top, key=key)[:top] for key in (lambda t: -t.baseline, lambda t: -t.edited)]
    for t in (t for t in p.top if any(t in side for side in ranked)):
        style = "" if abs(t.difference) < 5e-4 else "green" if t.difference > 0 else "red"
        table.add_row(
            Text(repr(t.token), style="bold" if t.token_id in best else ""),
            f"{t.baseline:.3f}",
            f"{t.edited:.3f}",
            Text(f"{t.difference:+.3f}", style=style),
        )
    return Group(table, Text(f"KL(baseline || edited) {p.kl:.4f} nats", style="dim"))


def _generated(p: PromptResult) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column("baseline", ratio=1, header_style="dim", overflow="fold")
    table.add_column("edited", ratio=1, header_style="dim", overflow="fold")
    same = 0
    for a, b in zip(p.baseline.text, p.edited.text, strict=False):
        if a != b:
            break
        same += 1
    table.add_row(Text(p.baseline.text.strip("\n")), _from(p.edited.text.strip("\n"), same))
    return table


def _from(text: str, same: int) -> Text:
    """The text, bold from where it leaves the baseline's."""
    return Text.assemble(text[:same], (text[same:], "bold"))


def _fired(firings: Iterable[Firing]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("edit", "feature", "acted at", "active at", "changed"):
        table.add_column(name, header_style="dim", justify="left" if name in ("edit", "feature") else "right")
    shown = list(firings)
    if len(shown) > 12:
        shown = sorted(shown, key=lambda f: -f.changed)[:12]
    for f in shown:
        acted = f.positions if f.held is None else f.held
        table.add_row(Text(f.edit), f.feature, *(f"{n} pos." for n in (acted, f.active, f.changed)))
    return table


# Plans ------------------------------------------------------------------------------------------------------------


def explained(plan: Plan) -> Iterator[RenderableType]:
    """What a plan will do: module, formula, tokens, forwards, memory; before any weight is read."""
    p = plan.program
    yield Text.assemble(
        ("model ", "bold"),
        f"{p.model.name}  ({p.model.model_type}, {p.model.n_layers} layers, d_model {p.model.d_model})",
    )
    for d in p.used:
        yield Text.assemble(("dictionary ", "bold"), _dictionary(d))
    yield Text("edits are computed in float32 and added in the model's own type", style="dim")
    steps = explain(plan)
    for number, step in enumerate(steps[:MOST_STEPS], 1):
        sweep = f", {len(step.values)} values" if step.values else ""
        yield ""
        yield Text(f"step {number}: {', '.join((step.title, *step.options))}{sweep}", style="bold")
        yield from _step(step)
    if len(steps) > MOST_STEPS:
        yield f"and {len(steps) - MOST_STEPS} more steps"
    yield ""
    yield Text(f"program {plan.program_id}", style="dim")


def _step(step: ExplainedStep) -> Iterator[RenderableType]:
    for prompt in step.prompts[:MOST_STEPS] or ["the prompts that the caller gives"]:
        yield Text(f"  on {prompt}")
    if step.values:
        shown = [*step.values[:8], "..."] if len(step.values) > 9 else step.values
        yield Text(f"  for {'; '.join(shown)}; edits are those of the first")
    for e in step.edits:
        yield f"  {e.text}"
        yield Text(f"    hook     {e.hook}")
        yield Text(f"    formula  {e.formula}")
        for prompt, where in e.at:
            yield Text(f"    at       {prompt}  {where}")
        for note in e.notes:
            yield Text(f"    note     {note}")
    for r in step.records:
        yield f"  record {r}"
    for m in step.metrics:
        yield f"  metric {m}"
    for extra in step.cost.extra:
        yield Text(f"  extra    {extra}", style="dim")
    yield Text(
        f"  cost     {step.cost.rows} rows in {step.cost.forwards} forwards, baseline and edited; "
        f"a forward holds about {step.cost.bytes / 1e6:.1f} MB",
        style="dim",
    )


def _dictionary(d: Dictionary) -> str:
    c = d.info.config
    where = f"{d.read}" if d.read == d.write else f"{d.read} -> {d.write}"
    k = f", k={c.k}" if c.k else ""
    return f"{d.name} = {d.path}  ({where}, {c.activation}{k}, {c.d_sae} features)"


def sites(info: ModelInfo) -> Iterator[RenderableType]:
    """Every site of a model, the module it is hooked at, and its width."""
    yield Text(f"{info.name}: {info.model_type}, {info.n_layers} layers, d_model {info.d_model}", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("site", "module", "side", "width"):
        table.add_column(name, header_style="dim", justify="right" if name == "width" else "left")
    for site in info.sites:
        if site.layer in (None, 0):
            point = info.hook_point(site)
            text = str(site).replace("L0.", f"L0..{info.n_layers - 1}.") if site.layer == 0 else str(site)
            module = point.module.replace(".0", ".*") if site.layer == 0 else point.module
            table.add_row(text, module or "the model", point.side, str(info.width(site)))
    yield table


def _quoted(text: str) -> str:
    return f'"{text if len(text) <= 60 else text[:57] + "..."}"'


class _Terminal(Console):
    """A console whose reader may have seen enough (`saedsl run ... | head`): that is no failure."""

    def on_broken_pipe(self) -> None:
        """Stop, with exit code 0."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)


def terminal(soft_wrap: bool = False) -> Console:
    """Standard output."""
    return _Terminal(soft_wrap=soft_wrap, highlight=False)


def to(console: Console, items: Iterable[RenderableType]) -> None:
    """Print each item on its own lines."""
    for item in items:
        console.print(item, markup=False, emoji=False, highlight=False, soft_wrap=isinstance(item, str | Text))
