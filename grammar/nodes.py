"""The abstract syntax tree. Every node is frozen and carries the span of source it came from.

Spans do not take part in comparison: two nodes are equal when they mean the same text. The names of nodes
are the names of the grammar's rules; `parse` builds them, `format` prints them, `saedsl.check` gives
them meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Span:
    """Half-open range of character offsets in a source."""

    start: int
    end: int


NOWHERE = Span(0, 0)
"""The span of a node that no source spelled (built in Python)."""


@dataclass(frozen=True)
class Node:
    span: Span = field(default=NOWHERE, compare=False, kw_only=True)


# Numbers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number(Node):
    value: float


@dataclass(frozen=True)
class Name(Node):
    """A name declared by `let`, `sae` or `prompt`."""

    id: str


@dataclass(frozen=True)
class Bound(Node):
    """`$name`: a value that the caller binds."""

    id: str


@dataclass(frozen=True)
class Binary(Node):
    op: Literal["+", "-", "*", "/"]
    left: Expr
    right: Expr


@dataclass(frozen=True)
class Negative(Node):
    operand: Expr


Expr = Number | Name | Bound | Binary | Negative


# Sites ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerRange(Node):
    """`3` (first == last) or `8..14`, both ends included. Negative numbers count from the last layer."""

    first: int
    last: int


@dataclass(frozen=True)
class Layers(Node):
    """`L3`, `L8..14`, `L{1,5}`, `L{0, 2..3}`, `L-1`; no items: `L*`."""

    items: tuple[LayerRange, ...]


@dataclass(frozen=True)
class SitePattern(Node):
    """`L8..14.mlp`, `embed`. `component` is as spelled (`resid` is not yet `resid_post`)."""

    layers: Layers | None
    component: str


SiteRef = SitePattern | Name
"""A site, or the name of a dictionary that stands for its output sites."""


# Targets ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features(Node):
    """`f42` or `f3..9` (both ends included), optionally qualified: `g.f42`, `L2.mlp.f42`."""

    first: int
    last: int
    of: SiteRef | None = None


@dataclass(frozen=True)
class FeatureSet(Node):
    """`{f1, f100..103, truth}`."""

    items: tuple[Features | Name, ...]


@dataclass(frozen=True)
class AllFeatures(Node):
    """`all`: every feature of the site's dictionary."""


@dataclass(frozen=True)
class WholeSite(Node):
    """No target: the activation itself."""


Target = Features | FeatureSet | Name | AllFeatures | WholeSite


# Positions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PosWord(Node):
    """`prompt`, `gen`, `last`, `all`, `everywhere`, `bos`."""

    word: Literal["prompt", "gen", "last", "all", "everywhere", "bos"]


@dataclass(frozen=True)
class PosIndex(Node):
    """`prompt[-1]`, `prompt[2..5]`, `gen[0..9]`: both ends included; first == last for a single index."""

    of: Literal["prompt", "gen"]
    first: int
    last: int


@dataclass(frozen=True)
class PosToken(Node):
    """`" Paris"`, `" Paris"[1]`, `every " Paris"`, `span " Paris"`.

    which: "one" (an error when the prompt spells it in several places, unless `index` is given), "every",
    "span".
    """

    text: str
    which: Literal["one", "every", "span"] = "one"
    index: int | None = None


@dataclass(frozen=True)
class PosUnion(Node):
    """`a | b`"""

    items: tuple[Positions, ...]


@dataclass(frozen=True)
class PosExcept(Node):
    """`a except b`; binds looser than `|`, to the left."""

    base: Positions
    removed: Positions


Positions = PosWord | PosIndex | PosToken | PosUnion | PosExcept


# Edits ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ablate(Node):
    target: Target
    at: Positions | None = None


@dataclass(frozen=True)
class Amplify(Node):
    target: Target
    factor: Expr
    at: Positions | None = None


@dataclass(frozen=True)
class Set(Node):
    target: Target
    value: Expr
    at: Positions | None = None


@dataclass(frozen=True)
class Clamp(Node):
    """`clamp T to low..high`; None is an open end."""

    target: Target
    low: Expr | None
    high: Expr | None
    at: Positions | None = None


@dataclass(frozen=True)
class Add(Node):
    value: Expr
    target: Target
    at: Positions | None = None


Edit = Ablate | Amplify | Set | Clamp | Add


# Statements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelDecl(Node):
    path: str
    path_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class SAEDecl(Node):
    """`sae NAME = PATH [on SITE]`"""

    name: str
    path: str
    on: SitePattern | None = None
    path_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class PromptDecl(Node):
    name: str
    text: str


@dataclass(frozen=True)
class LetDecl(Node):
    name: str
    value: Expr | FeatureSet | Features


@dataclass(frozen=True)
class At(Node):
    """`at SITE[, SITE] [@ POS] edit; edit` or `at ... { edits }`."""

    sites: tuple[SiteRef, ...]
    edits: tuple[Edit, ...]
    at: Positions | None = None
    block: bool = field(default=False, compare=False)
    """Written with braces: kept by the formatter, without meaning."""


@dataclass(frozen=True)
class RecordItem(Node):
    """`L5.resid`, `g` (a dictionary: all its features), `g.f42`, `{g.f1, g.f2}`, a `let` set."""

    what: SitePattern | Name | Features | FeatureSet


@dataclass(frozen=True)
class Record(Node):
    items: tuple[RecordItem, ...]
    at: Positions | None = None


@dataclass(frozen=True)
class Run(Node):
    """`run a, b`; no names: every prompt declared above."""

    prompts: tuple[Name, ...] = ()


@dataclass(frozen=True)
class Generate(Node):
    """`generate fr 32`; no name: every prompt declared above."""

    prompt: Name | None
    n: Expr


Statement = ModelDecl | SAEDecl | PromptDecl | LetDecl | At | Record | Run | Generate


@dataclass(frozen=True)
class Comment(Node):
    """`# ...` with its text as written, from the `#` to the end of the line."""

    text: str
    own_line: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Script(Node):
    statements: tuple[Statement, ...]
    comments: tuple[Comment, ...] = field(default=(), compare=False)
