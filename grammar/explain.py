"""The sections of DIAGNOSTICS.md: what a code means, with an example and its mending."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files


@cache
def sections() -> dict[str, str]:
    """Code -> its section, Markdown, without the heading."""
    text = files("saedsl.grammar").joinpath("DIAGNOSTICS.md").read_text(encoding="utf-8")
    found = re.split(r"^### (S\d{3})$", re.sub(r"^## .*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    return {code: body.strip() for code, body in zip(found[1::2], found[2::2], strict=True)}


def explained(code: str) -> str:
    """The section of a code, for a terminal: code blocks indented, other marks left out.

    Raises:
        KeyError: for an unknown code; its message says which one may be meant.
    """
    known = sections()
    if code.upper() not in known:
        near = max(known, key=lambda k: sum(a == b for a, b in zip(k, code.upper(), strict=False)))
        alike = len(code) == 4 and sum(a == b for a, b in zip(near, code.upper(), strict=False)) == 3
        hint = f"did you mean {near}?" if alike else f"codes go from {min(known)} to {max(known)}"
        raise KeyError(f"there is no code {code}: {hint}")
    lines, inside = [], False
    for line in known[code.upper()].splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                lines += ["instead:", ""] if line.endswith(" instead") else ["for example:", ""]
        elif inside:
            lines.append(f"    {line}".rstrip())
        else:
            lines.append(line.replace("**", ""))
    return f"{code.upper()}: " + "\n".join(lines)
