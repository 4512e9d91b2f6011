"""What somebody may have meant: the nearest word, and other libraries' names of sites."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from saedsl.grammar.words import POSITIONS

EDIT_SYNONYMS: Final[dict[str, str]] = {
    **dict.fromkeys(("zero", "remove", "kill", "delete", "disable", "knockout", "suppress", "mute", "off"), "ablate"),
    **dict.fromkeys(("scale", "multiply", "boost", "mul", "increase", "dampen", "reduce"), "amplify"),
    **dict.fromkeys(("fix", "pin", "force", "replace", "assign"), "set"),
    **dict.fromkeys(("clip", "bound", "limit", "cap", "restrict"), "clamp"),
    **dict.fromkeys(("steer", "inject", "plus", "activate"), "add"),
    **dict.fromkeys(("hold", "lock", "pause"), "freeze"),
    **dict.fromkeys(("restore", "interchange", "swap", "copy"), "patch"),
    **dict.fromkeys(("isolate", "only", "retain"), "keep"),
    **dict.fromkeys(("orthogonalise", "orthogonalize", "project_out"), "project"),
    **dict.fromkeys(("custom", "call"), "apply"),
}
STATEMENT_SYNONYMS: Final[dict[str, str]] = {
    **dict.fromkeys(("load", "llm"), "model"),
    **dict.fromkeys(("dictionary", "dict", "transcoder", "autoencoder"), "sae"),
    **dict.fromkeys(("text", "input"), "prompt"),
    **dict.fromkeys(("dataset", "data", "rows"), "prompts"),
    **dict.fromkeys(("direction", "vector"), "dir"),
    **dict.fromkeys(("measure", "compute", "score"), "metric"),
    **dict.fromkeys(("vary", "scan", "grid", "loop"), "sweep"),
    **dict.fromkeys(("source", "require", "use"), "include"),
    **dict.fromkeys(("clear", "restart"), "reset"),
    **dict.fromkeys(("var", "const", "define", "def", "alias"), "let"),
    **dict.fromkeys(("on", "in", "hook", "layer", "layers", "site", "intervene", "edit"), "at"),
    **dict.fromkeys(("save", "log", "show", "print", "cache", "read", "capture", "watch"), "record"),
    **dict.fromkeys(("execute", "forward", "eval"), "run"),
    **dict.fromkeys(("sample", "continue", "complete"), "generate"),
}
POSITION_SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "first": ("prompt[0]",),
    "final": ("prompt[-1]", "last"),
    "end": ("prompt[-1]", "last"),
    "generated": ("gen",),
    "generation": ("gen",),
    "output": ("gen",),
    "any": ("all",),
    "prompts": ("prompt",),
    "each": ("all",),
}

HOOKS: Final[dict[str, str]] = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_in": "attn.in",
    "hook_attn_out": "attn",
    "hook_mlp_in": "mlp.in",
    "hook_mlp_out": "mlp",
    "attn.hook_q": "attn.q",
    "attn.hook_k": "attn.k",
    "attn.hook_v": "attn.v",
    "attn.hook_z": "attn.z",
    "attn.hook_pattern": "attn.pattern",
    "attn.hook_result": "attn.z",
    "ln1.hook_normalized": "attn.in",
    "ln2.hook_normalized": "mlp.in",
    "mlp.hook_post": "mlp.act",
}
"""TransformerLens' names of a block's hook points -> components."""

COMPONENT: Final = r"(self_attn|attention|attn|mlp|resid\w*)"
TO: Final = r"(?:\s*(?:-|\.\.|:|to)\s*(\d+))?"
SITES: Final[tuple[re.Pattern[str], ...]] = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"L(?P<first>\d+)(?:\.\.(?P<last>\d+))?(?:[\s._]*(?P<part>{COMPONENT})\b[\w.]*)?",
        rf"(?:[a-z_]+\.)*(?:layers?|blocks?|h)(?:\s*[.\[]\s*|\s+|_|-)?(?P<first>\d+)"
        rf"(?:\s*(?:-|\.\.|:|to)\s*(?P<last>\d+))?\]?(?:[\s._]+(?P<part>{COMPONENT})\b[\w.]*)?",
        rf"(?P<part>{COMPONENT})[\s._]*(?:layer\s*)?L?(?P<first>\d+)(?P<last>)",
        r"(?P<first>\d+)(?:\s*(?:-|\.\.)\s*(?P<last>\d+))?(?P<part>)",
    )
)
DEEPER: Final = re.compile(r"\.\d+\.(?:self_attn|attention|attn|mlp)\.\w")
"""A module inside a block's attention or MLP, by its path in the model."""
HOOK: Final = re.compile(r"blocks\.(\d+)\.([\w.]+)|hook_embed\b")


def position_hints(word: str) -> tuple[str, ...]:
    """What somebody may have meant by `word` as a position, when no sweep has this name."""
    if word.lower() in POSITION_SYNONYMS:
        return tuple(f"write @ {p}" for p in POSITION_SYNONYMS[word.lower()])
    if (close := nearest(word, POSITIONS)) is not None:
        return (f"did you mean {close}?",)
    return (f'for the token {word} write @ " {word}"',)


class SiteGuess(NamedTuple):
    sites: tuple[str, ...]
    """Likeliest first."""
    length: int
    """Characters of the text that were meant as the site."""


def site(text: str) -> SiteGuess | None:
    """The site that the beginning of `text` may mean, in another spelling."""
    if m := HOOK.match(text):
        if m[1] is None:
            return SiteGuess(("embed",), m.end())
        component = HOOKS.get(m[2])
        return SiteGuess((f"L{m[1]}.{component}",) if component else (), m.end())
    for pattern in SITES:
        if m := pattern.match(text):
            layers = m["first"] + (f"..{m['last']}" if m["last"] else "")
            part = (m["part"] or "").lower()
            whole = re.sub(r"\[(\d+)\]", r".\1", m[0])
            module = f'module "{whole}" out' if DEEPER.search(whole) else None
            parts: tuple[str, ...]
            if part:
                parts = ("attn",) if part in {"self_attn", "attention"} else (part,)
            else:
                parts = ("mlp", "resid")
            sites = tuple(f"L{layers}.{p}" for p in parts)
            return SiteGuess((*sites, module) if module else sites, m.end())
    return None


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The word of `words` that `word` may be a slip of, or None."""
    word = word.lower()[:40]
    most, letters = min(2, (len(word) + 1) // 3), set(word)
    near = (w for w in words if len(letters - set(w)) <= most and len(set(w) - letters) <= most)
    best = min(((distance(word, w), w) for w in near), default=(99, ""))
    return best[1] if best[0] <= most else None


def distance(a: str, b: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, older[j - 2] + 1)
            row.append(best)
    return row[-1]
