"""Write the editors' files from the one table of words.

    python grammar/editors/generate.py           # after a change of grammar/words.py
    python grammar/editors/generate.py --check   # exits with 1 if a file is not what the words say

The Pygments lexer needs no file: `saedsl.grammar.highlight` reads the words itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saedsl.grammar.highlight import (
    BOUND,
    COMMENT,
    FACTOR,
    FREE,
    FUNCTION,
    GROUPS,
    NUMBER,
    PART,
    SITE,
    STRING,
    any_of,
)
from saedsl.grammar.words import MODES, OPTIONS

HERE = Path(__file__).parent
SCOPES = {
    "statement": "keyword.control",
    "edit": "keyword.operator.word",
    "site": "support.class",
    "position": "constant.language.position",
    "target": "variable.language",
    "unit": "keyword.other.unit",
    "clause": "keyword.other",
}
"""Group of words -> TextMate scope."""
VIM = {
    "statement": "Statement",
    "edit": "Function",
    "site": "Type",
    "position": "Constant",
    "target": "Special",
    "unit": "Keyword",
    "clause": "Keyword",
    "free": "Keyword",
    "function": "Function",
    "option": "PreProc",
    "mode": "Constant",
}
"""Group of words -> Vim's own group."""


def textmate() -> dict[str, Any]:
    """The TextMate grammar, which VS Code and others read."""

    def match(scope: str, regex: str) -> dict[str, str]:
        return {"name": f"{scope}.saedsl", "match": regex}

    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "saedsl",
        "scopeName": "source.saedsl",
        "fileTypes": ["saedsl"],
        "patterns": [
            match("comment.line.number-sign", COMMENT),
            {
                **match("string.quoted.double", STRING),
                "captures": {"0": {"patterns": [match("constant.character.escape", r'\\(?:["\\nt]|u[0-9A-Fa-f]{4})')]}},
            },
            match("variable.other.bound", BOUND),
            match("support.class.site", SITE),
            match("variable.parameter.feature", PART),
            match("constant.numeric.factor", FACTOR),
            match("constant.numeric", NUMBER),
            match("support.function", FUNCTION),
            match("support.type.property-name", rf"\b(?:{'|'.join(OPTIONS)})(?=\s*=)"),
            match("constant.language.mode", rf"(?<==)\s*(?:{'|'.join(MODES)})\b"),
            *(match(SCOPES[group], any_of(words)) for group, words in GROUPS.items()),
            match("keyword.other.contextual", FREE),
        ],
    }


def extension() -> dict[str, Any]:
    """The manifest of the VS Code extension."""
    return {
        "name": "saedsl",
        "displayName": "saedsl",
        "description": "Programs for interventions on language-model features",
        "version": "0.1.0",
        "publisher": "saedsl",
        "license": "MIT",
        "engines": {"vscode": "^1.75.0"},
        "categories": ["Programming Languages"],
        "contributes": {
            "languages": [
                {
                    "id": "saedsl",
                    "aliases": ["saedsl"],
                    "extensions": [".saedsl"],
                    "configuration": "./language-configuration.json",
                }
            ],
            "grammars": [
                {"language": "saedsl", "scopeName": "source.saedsl", "path": "./syntaxes/saedsl.tmLanguage.json"}
            ],
        },
    }


def language() -> dict[str, Any]:
    """Comments, brackets and words for VS Code."""
    pairs = [["{", "}"], ["[", "]"], ["(", ")"]]
    closing: list[Any] = [{"open": a, "close": b} for a, b in pairs]
    closing.append({"open": '"', "close": '"', "notIn": ["string", "comment"]})
    return {
        "comments": {"lineComment": "#"},
        "brackets": pairs,
        "autoClosingPairs": closing,
        "surroundingPairs": [*pairs, ['"', '"']],
        "wordPattern": r"\$?[A-Za-z_][A-Za-z0-9_]*|\d+(?:\.\d+)?",
        "indentationRules": {"increaseIndentPattern": r"^[^#\"]*\{\s*(?:#.*)?$", "decreaseIndentPattern": r"^\s*\}"},
    }


def vim() -> str:
    """The Vim syntax file. What comes later wins where two start at one place, but keywords always do."""

    def keywords(group: str, words: Iterable[str]) -> str:
        return f"syntax keyword saedsl{group.capitalize()} {' '.join(words)}"

    taken: set[str] = set()
    lines = []
    for group, words in GROUPS.items():
        lines.append(keywords(group, (w for w in words if w not in taken)))
        taken |= set(words)
    from saedsl.grammar.words import FREE_WORDS, FUNCTIONS

    lines.append(keywords("free", (w for w in FREE_WORDS if w not in taken)))
    lines.append(keywords("function", (w for w in FUNCTIONS if w not in taken)))
    lines.append(keywords("option", OPTIONS))
    lines.append(keywords("mode", MODES))
    links = [f"highlight default link saedsl{group.capitalize()} {to}" for group, to in VIM.items()]
    body = "\n".join(lines)
    return rf"""" Vim syntax for saedsl. Written by grammar/editors/generate.py.
if exists("b:current_syntax")
  finish
endif

{body}

syntax match saedslNumber "\v<\d+(\.\d+)?([eE][-+]?\d+)?>"
syntax match saedslFactor "\v<x\s*-?\d+(\.\d+)?([eE][-+]?\d+)?>"
syntax match saedslPart "\v<[fhn]\d+(\.\.\d+)?>"
syntax match saedslLayer "\v<L(-?\d+(\.\.-?\d+)?|\*|\{{[-0-9., ]*\}})(\.[a-z_]+)+"
syntax match saedslBound "\v\$[A-Za-z_]\w*"
syntax match saedslEscape "\v\\([\"\\nt]|u\x\x\x\x)" contained
syntax match saedslString "\v\"(\\.|[^\"\\])*\"" contains=saedslEscape
syntax match saedslComment "\v#.*$" contains=@Spell

highlight default link saedslNumber Number
highlight default link saedslFactor Number
highlight default link saedslPart Identifier
highlight default link saedslLayer Type
highlight default link saedslBound PreProc
highlight default link saedslEscape SpecialChar
highlight default link saedslString String
highlight default link saedslComment Comment
{chr(10).join(links)}

let b:current_syntax = "saedsl"
"""


def files() -> dict[str, str]:
    """Every file, by its path below this folder."""

    def text(value: dict[str, Any]) -> str:
        return json.dumps(value, indent=2) + "\n"

    return {
        "vscode/package.json": text(extension()),
        "vscode/language-configuration.json": text(language()),
        "vscode/syntaxes/saedsl.tmLanguage.json": text(textmate()),
        "vim/syntax/saedsl.vim": vim(),
        "vim/ftdetect/saedsl.vim": "autocmd BufRead,BufNewFile *.saedsl setfiletype saedsl\n",
        "vim/ftplugin/saedsl.vim": "setlocal commentstring=#\\ %s\n",
    }


def main() -> None:
    stale = []
    for name, content in files().items():
        path = HERE / name
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            print(f"wrote {name}")
    if stale and "--check" in sys.argv:
        sys.exit(f"not what grammar/words.py says: {', '.join(stale)}; run python grammar/editors/generate.py")


if __name__ == "__main__":
    main()
