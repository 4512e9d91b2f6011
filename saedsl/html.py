"""How results, plans and mistakes look in a notebook: HTML that follows the page's light or dark."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from saedsl.grammar.source import Diagnostic, shown

if TYPE_CHECKING:
    from saedsl.plan import Plan
    from saedsl.results import PromptResult, Result

STYLE: Final = """<style>
.saedsl{color:inherit;background:transparent;font-size:13px;line-height:1.45}
.saedsl table{border-collapse:collapse;margin:.3em 0 .6em;background:transparent;color:inherit}
.saedsl th,.saedsl td{padding:.15em .7em;border:0;text-align:right;background:transparent;color:inherit;white-space:pre}
.saedsl th{font-weight:600;opacity:.65;border-bottom:1px solid currentColor}
.saedsl th:first-child,.saedsl td:first-child,.saedsl .text td{text-align:left}
.saedsl td.bar{min-width:9em}
.saedsl td.bar i{display:block;height:.55em;border-radius:2px;background:#8b949e}
.saedsl td.bar i.edited{background:#4184e4;margin-top:2px}
.saedsl .text td{white-space:pre-wrap;vertical-align:top;max-width:38em}
.saedsl pre{margin:.3em 0;padding:0;background:transparent;color:inherit;line-height:1.3;overflow-x:auto}
.saedsl .up{color:#2da44e}.saedsl .down{color:#e5534b}.saedsl .dim{opacity:.6}
.saedsl .error{color:#e5534b;font-weight:600}.saedsl .warning{color:#c08a1e;font-weight:600}
.saedsl .note{color:#4184e4;font-weight:600}.saedsl mark{background:#4184e433;color:inherit}
</style>"""
MOST_PROMPTS: Final = 20
"""Prompts that are shown in full."""


def result(r: Result, top: int = 5) -> str:
    """Metrics, then a block for each prompt, then warnings and hashes."""
    parts = [_metrics(r)] if r.metrics else []
    parts += [_prompt(p, top) for p in r.prompts[:MOST_PROMPTS]]
    if len(r.prompts) > MOST_PROMPTS:
        parts.append(f'<div class="dim">and {len(r.prompts) - MOST_PROMPTS} more: .prompts has all of them</div>')
    parts += [f'<pre class="warning">{escape(w)}</pre>' for w in r.warnings]
    hashes = f"program {r.program_id[:16]} · plan {r.plan_id[:16]} · model {r.model}"
    return _page([*parts, f'<div class="dim">{escape(hashes)}</div>'])


def plan(p: Plan) -> str:
    """What `saedsl explain` prints."""
    from rich.console import Console

    from saedsl import show

    out = io.StringIO()
    show.to(Console(file=out, width=160, soft_wrap=True, color_system=None, force_jupyter=False), show.explained(p))
    return _page([f"<pre>{escape(out.getvalue().rstrip())}</pre>"])


def mistakes(diagnostics: Sequence[Diagnostic]) -> str:
    """Caret form, with severity and carets in colour."""
    first, more = shown(diagnostics)
    return _page([_mistake(d) for d in first] + ([f"<pre>{more:,} more mistakes</pre>"] if more else []))


def _mistake(d: Diagnostic) -> str:
    first, *rest = d.render().split("\n")
    lines = [f'<span class="{d.severity}">{escape(first)}</span>']
    for line in rest:
        marked = line.lstrip(" |").startswith("^")
        lines.append(f'<span class="{d.severity}">{escape(line)}</span>' if marked else escape(line))
    return "<pre>" + "\n".join(lines) + "</pre>"


def _page(parts: Sequence[str]) -> str:
    return f'{STYLE}<div class="saedsl">{"".join(parts)}</div>'


def _metrics(r: Result) -> str:
    sweeps = list(dict.fromkeys(name for m in r.metrics for name, _ in m.values))
    rows = []
    for m in r.metrics:
        values = dict(m.values)
        named = m.metric if m.label is None else f"{m.label} · {m.metric}"
        cells = [named, *(values.get(s, "") for s in sweeps), f"{m.baseline:.4f}", f"{m.edited:.4f}"]
        rows.append([*map(escape, cells), _signed(m.difference, 4), str(m.n)])
    return _table(["metric", *map(escape, sweeps), "baseline", "edited", "difference", "prompts"], rows)


def _prompt(p: PromptResult, top: int) -> str:
    swept = "".join(f" · {name} = {value}" for name, value in p.values)
    head = f"<div><b>{escape(p.label or p.kind)}</b> {escape(p.text)}"
    head += f' <span class="dim">{len(p.token_ids)} tokens{escape(swept)}</span></div>'
    return head + (_generated(p) if p.kind == "generate" else _next(p, top)) + _fired(p) + _recorded(p)


def _next(p: PromptResult, top: int) -> str:
    rows = [
        [
            escape(repr(t.token)),
            f"{t.baseline:.3f}",
            f"{t.edited:.3f}",
            _signed(t.difference, 3),
            f'<i style="width:{100 * t.baseline:.1f}%"></i><i class="edited" style="width:{100 * t.edited:.1f}%"></i>',
        ]
        for t in p.top[:top]
    ]
    table = _table(["next token", "baseline", "edited", "difference", ""], rows)
    return table + f'<div class="dim">KL(baseline || edited) {p.kl:.4f} nats</div>'


def _generated(p: PromptResult) -> str:
    a, b = p.baseline.text.strip("\n"), p.edited.text.strip("\n")
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    changed = f"{escape(b[:same])}<mark>{escape(b[same:])}</mark>" if b[same:] else escape(b)
    return _table(["baseline", "edited"], [[escape(a), changed]], "text")


def _fired(p: PromptResult) -> str:
    shown = sorted(p.firings, key=lambda f: -f.changed)[:12]
    rows = [[escape(f.edit), escape(str(f.feature)), str(f.positions), str(f.active), str(f.changed)] for f in shown]
    return _table(["edit", "feature", "acted at", "active at", "changed"], rows) if rows else ""


def _recorded(p: PromptResult) -> str:
    return "".join(
        f'<div class="dim">recorded {escape(label)} {list(array.shape)} '
        f"at {escape(p.record_positions.get(label, ''))}</div>"
        for label, array in p.edited.activations.items()
    )


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    kind = "" if abs(value) < 0.5 * 10**-digits or value != value else "up" if value > 0 else "down"
    return f'<span class="{kind}">{text}</span>' if kind else text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{c}</th>" for c in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="bar">{c}</td>' if c.startswith("<i") else f"<td>{c}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
