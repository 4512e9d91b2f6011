"""How programs are said in other words: lines permuted, split, merged, and built in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saedsl.results import Result


@dataclass(frozen=True)
class Line:
    """One edit of one site."""

    site: str
    edit: str
    at: str = ""

    @property
    def text(self) -> str:
        return f"{self.edit} @ {self.at}" if self.at else self.edit


def one_a_line(lines: Sequence[Line]) -> str:
    return "\n".join(f"at {x.site} {x.text}" for x in lines)


def one_block_a_site(lines: Sequence[Line]) -> str:
    sites = list(dict.fromkeys(x.site for x in lines))
    blocks = (f"at {s} {{ {'; '.join(x.text for x in lines if x.site == s)} }}" for s in sites)
    return "\n".join(blocks)


def neighbours_joined(lines: Sequence[Line]) -> str:
    """Edits of one site that stand side by side share a line."""
    out: list[list[Line]] = []
    for x in lines:
        if out and out[-1][0].site == x.site:
            out[-1].append(x)
        else:
            out.append([x])
    return "\n".join(f"at {group[0].site} {'; '.join(x.text for x in group)}" for group in out)


def positions_in_the_header(lines: Sequence[Line]) -> str:
    return "\n".join(f"at {x.site}{x.at and ' @ ' + x.at} {{\n  {x.edit}\n}}" for x in lines)


SPELLINGS = (one_a_line, one_block_a_site, neighbours_joined, positions_in_the_header)


def bits(result: Result) -> list[Any]:
    """All numbers of both sides of every prompt, as bytes."""
    out: list[Any] = []
    for p in result.prompts:
        for side in (p.baseline, p.edited):
            arrays = {"logits": side.logits, **side.activations}
            out += [side.token_ids, *((k, np.ascontiguousarray(a).tobytes()) for k, a in sorted(arrays.items()))]
    return out


def edited_bits(result: Result) -> list[Any]:
    """Those of the edited sides."""
    return [(p.edited.token_ids, p.edited.logits.tobytes(), *(
        (k, np.ascontiguousarray(a).tobytes()) for k, a in sorted(p.edited.activations.items())
    )) for p in result.prompts]  # fmt: skip


def baseline_bits(result: Result) -> list[Any]:
    """Those of the baselines."""
    return [(p.baseline.token_ids, p.baseline.logits.tobytes(), *(
        (k, np.ascontiguousarray(a).tobytes()) for k, a in sorted(p.baseline.activations.items())
    )) for p in result.prompts]  # fmt: skip
