"""LaTeX: a circuit as a TikZ picture, laid out as the figures are. Compiles with pdflatex, lualatex and xelatex."""

from __future__ import annotations

from typing import Final, Literal

import networkx as nx

from saedsl.circuits.colours import MIDDLE, NAMES, NEGATIVE, POSITIVE
from saedsl.circuits.graph import check, edges, nodes
from saedsl.circuits.layout import layout
from saedsl.circuits.node import Kind

SHAPES: Final[dict[Kind, str]] = {
    "embedding": "rectangle", "feature": "circle", "transcoder": "regular polygon, regular polygon sides=6",
    "error": "diamond", "head": "regular polygon, regular polygon sides=3", 
    "mlp": "rectangle, rounded corners=3pt, minimum width=13pt",
    "neuron": "regular polygon, regular polygon sides=8", "logit": "regular polygon, regular polygon sides=5",
}  # fmt: skip
_ESCAPES: Final = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"{\ttfamily\char34}", "'": r"{\ttfamily\char13}", "`": r"{\ttfamily\char18}", "-": "{-}",
    "\n": r"\saedslnewline{}", "\t": " ", "\u00a0": "~", "…": r"\ldots{}",
}  # fmt: skip
_PREAMBLE: Final = r"""% Needs \usepackage{tikz,iftex} and \usetikzlibrary{shapes.geometric,backgrounds,fit}.
\ifdefined\saedslchar\else
\def\saedslchar#1#2{\ifPDFTeX{\scriptsize[U+#1]}\else#2\fi}% pdflatex has no such glyph: its number is shown
\def\saedslnewline{\textbackslash n}
\fi
"""
_HEAD: Final = r"""\documentclass{article}
\usepackage{tikz,iftex}
\usetikzlibrary{shapes.geometric,backgrounds,fit}
\ifPDFTeX\else\usepackage{fontspec}\fi
\begin{document}
\setbox0\hbox{%
"""
_FOOT: Final = r"""}% A page as large as the picture, without the class standalone, which small installations lack.
\dimen0=\wd0 \advance\dimen0 8pt \dimen2=\ht0 \advance\dimen2\dp0 \advance\dimen2 8pt
\ifLuaTeX\pagewidth=\dimen0 \pageheight=\dimen2 \else\pdfpagewidth=\dimen0 \pdfpageheight=\dimen2 \fi
\hoffset=-1in \voffset=-1in
\shipout\vbox{\kern4pt\hbox{\kern4pt\box0}}
\end{document}
"""
ACROSS: Final = 1.25
"""Centimetres a slot, sideways: labels fold to it."""
UP: Final = 0.85
"""Centimetres a slot, upwards."""


def escape(text: str) -> str:
    """`text` as LaTeX that typesets it, in one line."""
    return "".join(_escaped(c) for c in text)


def to_tikz(graph: nx.DiGraph, *, form: Literal["document", "picture"] = "document") -> str:
    r"""`graph` as LaTeX.

    Args:
        graph: a circuit.
        form: a document that compiles by itself, or the picture alone, to `\input`.

    Raises:
        CircuitError: if `graph` is not a circuit.
    """
    check(graph)
    placed = layout(graph, "own")
    largest = max((abs(data["weight"]) for *_, data in edges(graph)), default=0.0) or 1.0
    most = max((abs(data["score"]) for _, data in nodes(graph)), default=0.0) or 1.0
    names = {node: f"n{i}" for i, (node, _) in enumerate(nodes(graph))}
    kinds = dict.fromkeys(node.kind for node, _ in nodes(graph))
    lines = [rf"\begin{{tikzpicture}}[x={ACROSS}cm, y={UP}cm,"]
    lines += [
        f"  {kind}/.style={{draw=black!70, line width=.4pt, inner sep=0pt, minimum size=10pt, {SHAPES[kind]}}},"
        for kind in kinds
    ]
    lines += ["  every node/.append style={font=\\tiny}]"]
    lines += [
        _colour(name, value) for name, value in (("positive", POSITIVE), ("negative", NEGATIVE), ("neutral", MIDDLE))
    ]
    for row in placed.rows:
        lines.append(rf"\node[anchor=east, text=black!70] at (-.1,{row.middle:g}) {{{escape(row.text)}}};")
    for column in placed.columns:
        text = escape(_visible(column.text))
        lines.append(rf"\node[anchor=east, rotate=40, text=black!70] at ({column.middle:g},-.1) {{{text}}};")
    for node, data in nodes(graph):
        x, y = placed.places[node]
        text = escape(data["label"] or node.short)
        label = rf"{{[text width={ACROSS - 0.05:g}cm, align=center, inner sep=1pt]below:{{{text}}}}}"
        lines.append(
            rf"\node[{node.kind}, fill={_fill(data['score'] / most)}, label={label}] "
            rf"({names[node]}) at ({x:g},{y:g}) {{}}; % {_comment(node.id)}"
        )
    lines.append(r"\begin{scope}[on background layer]")
    for source, target, data in sorted(edges(graph), key=lambda e: abs(e[2]["weight"])):
        share = data["weight"] / largest
        sign = "positive" if share >= 0 else "negative, dashed"
        (x0, y0), (x1, y1) = placed.places[source], placed.places[target]
        rise = 0.42 * (y1 - y0)
        arc = f"to[bend {'left' if x0 < x1 else 'right'}=30]"
        bend = f".. controls +(0,{rise:g}) and +(0,{-rise:g}) .." if rise else arc
        lines.append(
            rf"\draw[{sign}, line width={0.3 + 1.7 * abs(share):.2f}pt, opacity={0.35 + 0.6 * abs(share):.2f}] "
            rf"({names[source]}.center) {bend} ({names[target]}.center);"
        )
    lines.append(r"\end{scope}")
    by_id = {node.id: name for node, name in names.items()}
    for label, members in graph.graph["meta"].supernodes:
        inside, text = "".join(f"({by_id[m]})" for m in members), escape(label)
        lines.append(
            rf"\node[draw=black!60, dotted, rounded corners, fit={{{inside}}}, label={{above:{{{text}}}}}] {{}};"
        )
    for i, kind in enumerate(kinds):  # the legend, above
        x, y = 1.3 * (i % 4) + 0.2, placed.height + 0.9 - 0.5 * (i // 4)
        lines.append(rf"\node[{kind}, fill=white] at ({x:g},{y:g}) {{}};")
        lines.append(rf"\node[anchor=west] at ({x + 0.12:g},{y:g}) {{{NAMES[kind]}}};")
    picture = _PREAMBLE + "\n".join([*lines, r"\end{tikzpicture}"]) + "\n"
    if form == "picture":
        return picture
    return _HEAD + picture + _FOOT


def _colour(name: str, value: tuple[int, int, int]) -> str:
    return rf"\definecolor{{{name}}}{{RGB}}{{{value[0]},{value[1]},{value[2]}}}"


def _fill(share: float) -> str:
    return f"{'positive' if share >= 0 else 'negative'}!{100 * min(1.0, abs(share)):.0f}!neutral"


def _escaped(c: str) -> str:
    if c in _ESCAPES:
        return _ESCAPES[c]
    if not c.isprintable():
        return rf"{{\scriptsize[U+{ord(c):04X}]}}"
    if c < "\x7f":
        return c
    if "À" <= c <= "ÿ" and c not in "ÐÞðþ×÷":
        return c
    return rf"\saedslchar{{{ord(c):04X}}}{{{c}}}"


def _visible(token: str) -> str:
    return token.replace(" ", "\u2423") if not token.strip(" ") else token.strip(" ")


def _comment(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")
