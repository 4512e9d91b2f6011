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
from saedsl.grammar.source import Diagnostic
from saedsl.plan import Plan, PlannedStep
from saedsl.program import Dictionary, Intervention

if TYPE_CHECKING:
    from saedsl.execute import Firing
    from saedsl.results import PromptResult, Result

_COLOURS = {"error": "bold red", "warning": "bold yellow"}


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
    for w in r.warnings:
        yield Text(w, style="yellow")
    yield Text(f"program {r.program_id[:16]}  plan {r.plan_id[:16]}  model {r.model}", style="dim")


def prompt(p: PromptResult, top: int = 5) -> Iterator[RenderableType]:
    """What became of one prompt: next tokens or texts, what fired, what was recorded."""
    yield Text.assemble(("prompt ", "bold"), _quoted(p.text), f"   ({len(p.token_ids)} tokens)")
    yield _generated(p) if p.kind == "generate" else _next_token(p, top)
    if p.firings:
        yield _fired(p.firings)
    for label, array in p.edited.activations.items():
        yield f"recorded {label} {list(array.shape)} at {p.record_positions.get(label, '')}"


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
        table.add_row(Text(f.edit), f.feature, *(f"{n} pos." for n in (f.positions, f.active, f.changed)))
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
    for number, step in enumerate(plan.steps, 1):
        kind = f"generate {step.step.n}" if step.step.kind == "generate" else "run"
        yield ""
        yield Text(f"step {number}: {kind}", style="bold")
        if not step.prompts:
            yield "  on the prompts that the caller gives"
        yield from _step(plan, step)
    yield ""
    yield Text(f"program {plan.program_id}", style="dim")


def _step(plan: Plan, step: PlannedStep) -> Iterator[RenderableType]:
    for i, e in enumerate(step.step.edits):
        point = plan.program.model.hook_point(e.site)
        yield f"  {e.text()}"
        yield Text(
            f"    hook     {point}"
            + ("  (as a delta of attention's contribution)" if e.site.component == "resid_mid" else "")
        )
        yield Text(f"    formula  {formula(e, plan.program.dictionaries)}")
        for prompt in step.prompts:
            where = prompt.edits[i]
            tokens = " ".join(f"{j}:{prompt.tokens.pieces[j]!r}" for j in sorted(where.prompt))
            after = " and every generated token" if where.gen and step.step.kind == "generate" else ""
            yield Text(f"    at       {_quoted(prompt.tokens.text)}  {tokens or 'no prompt token'}{after}")
    for r in step.step.records:
        yield f"  record {r.label}"
    n = len({len(p.tokens) for p in step.prompts}) if step.step.kind == "run" else len(step.prompts)
    extra = step.step.n - 1 if step.step.kind == "generate" else 0
    size = sum(_floats(plan, step, len(p.tokens)) for p in step.prompts) * 4 / 1e6
    yield Text(
        f"  cost     {2 * n * (1 + extra)} forwards, baseline and edited; edits hold about {size:.1f} MB, in float32",
        style="dim",
    )


def formula(e: Intervention, dictionaries: dict[str, Dictionary] | object) -> str:
    """What an edit computes, as on the language page."""
    args = [f"{a:g}" for a in e.args]
    new = {
        "ablate": "0", "amplify": f"{args[0] if args else ''} f", "set": args[0] if args else "",
        "add": f"f + {args[0] if args else ''}", "clamp": f"clip(f, {', '.join(args)})",
    }[e.op]  # fmt: skip
    if e.dictionary is None:
        return "x' = " + new.replace("f", "x") if e.op != "clamp" else f"x' = clip(x, {', '.join(args)})"
    return f"x' = x + s(x) (f' - f) W_dec[{e.target_text()}],  f' = {new}"


def _floats(plan: Plan, step: PlannedStep, n_tokens: int) -> int:
    """Numbers that edits of one forward hold at once, about."""
    total = 0
    for e in step.step.edits:
        d = plan.program.dictionaries[e.dictionary] if e.dictionary else None
        n = (
            1
            if d is None
            else d.info.d_sae
            if e.features == "all" or not d.info.config.elementwise
            else len(e.features)
        )
        total += n_tokens * (2 * n + 2 * plan.program.model.width(e.site))
    return total


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
