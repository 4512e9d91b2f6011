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


@dataclass(frozen=True)
class Text(Node):
    """A string: a token, a text, the path of a file."""

    value: str


@dataclass(frozen=True)
class Field(Node):
    """`io.answer`, `io.corrupt`: a field of every row of a file of prompts."""

    of: str
    name: str


@dataclass(frozen=True)
class Call(Node):
    """`logit(" Paris")`, `logprob(io.answer)`, `act(g.f42)`, `norm(L3.resid)`, `kl()`: a term of a metric."""

    function: Literal["logit", "prob", "logprob", "kl", "ce", "act", "norm"]
    argument: Text | Field | Features | SitePattern | Name | None = None


Expr = Number | Name | Bound | Binary | Negative | Call
"""Calls stand in metrics only."""

Unit = Literal["", "max", "std", "norm"]
"""Raw units; times the feature's recorded maximum; its standard deviations; shares of the activation's norm."""


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
    """`L8..14.mlp`, `embed`, `L3.attn.z.h2`, `layer.mlp`. `component` is as spelled (`resid` is not yet `resid_post`).

    layers: a Name is that of a `sweep` over layers. heads: none means all of them.
    """

    layers: Layers | Name | None
    component: str
    heads: tuple[LayerRange, ...] = ()


@dataclass(frozen=True)
class ModuleSite(Node):
    """`module "model.layers.3.self_attn.o_proj" in`: one side of any module of the model."""

    path: str
    side: Literal["in", "out"]


SiteRef = SitePattern | ModuleSite | Name
"""A site, or the name of a dictionary that stands for its output sites."""


# Targets ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features(Node):
    """`f42` or `f3..9` (both ends included), optionally qualified: `g.f42`, `L2.mlp.f42`."""

    first: int
    last: int
    of: SiteRef | None = None


@dataclass(frozen=True)
class Heads(Node):
    """`h3` or `h0..3`; qualified in a set, `{L2.attn.z.h3, L4.attn.z.h1}`. `at L2.attn.z.h3` has a site pattern."""

    first: int
    last: int
    of: SitePattern | None = None


@dataclass(frozen=True)
class Neurons(Node):
    """`n17` or `n3..9`: coordinates of the activation, optionally qualified: `L2.mlp.act.n17`."""

    first: int
    last: int
    of: SitePattern | None = None


@dataclass(frozen=True)
class FeatureSet(Node):
    """`{f1, f100..103, truth}`, `{h1, h3}`, `{n4, n8..9}`."""

    items: tuple[Features | Heads | Neurons | Name, ...]


@dataclass(frozen=True)
class ErrorTarget(Node):
    """`error`, `g.error`: what the dictionary does not reconstruct."""

    of: SiteRef | None = None


@dataclass(frozen=True)
class Direction(Node):
    """`dir d`, `dir $d`: a direction in the site's space."""

    name: Name | Bound


@dataclass(frozen=True)
class AllFeatures(Node):
    """`all`: every feature of the site's dictionary."""


@dataclass(frozen=True)
class WholeSite(Node):
    """No target: the activation itself."""


Target = Features | Heads | Neurons | FeatureSet | Name | AllFeatures | ErrorTarget | Direction | WholeSite


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
class PosField(Node):
    """`io.S2`: a position that every row of a file of prompts names."""

    of: str
    name: str


@dataclass(frozen=True)
class PosName(Node):
    """The name of a `sweep` over positions."""

    id: str


@dataclass(frozen=True)
class PosUnion(Node):
    """`a | b`"""

    items: tuple[Positions, ...]


@dataclass(frozen=True)
class PosExcept(Node):
    """`a except b`; binds looser than `|`, to the left."""

    base: Positions
    removed: Positions


Positions = PosWord | PosIndex | PosToken | PosField | PosName | PosUnion | PosExcept


# Conditions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compare(Node):
    """`f3 > 0.5`, `g.f3 >= 0.5 max`; `f3` alone is `f3 > 0`. The feature is one: first == last."""

    feature: Features
    op: Literal[">", ">=", "<", "<=", "==", "!="]
    value: Expr
    unit: Unit = ""


@dataclass(frozen=True)
class Not(Node):
    item: Condition


@dataclass(frozen=True)
class And(Node):
    items: tuple[Condition, ...]


@dataclass(frozen=True)
class Or(Node):
    items: tuple[Condition, ...]


Condition = Compare | Not | And | Or


# References -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference(Node):
    """`mean of "reference.txt"`, `mean by position of io`, `resample of io`. Name: of a `prompts` statement."""

    kind: Literal["mean", "mean by position", "resample"]
    of: Text | Name


# Edits ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ablate(Node):
    """`ablate T [to zero | to mean of REF | to resample of REF]`; to: None is zero. `drop error` is `ablate error`."""

    target: Target
    at: Positions | None = None
    to: Reference | None = None
    when: Condition | None = None


@dataclass(frozen=True)
class Amplify(Node):
    target: Target
    factor: Expr
    at: Positions | None = None
    when: Condition | None = None


@dataclass(frozen=True)
class Set(Node):
    target: Target
    value: Expr
    at: Positions | None = None
    unit: Unit = ""
    when: Condition | None = None


@dataclass(frozen=True)
class Clamp(Node):
    """`clamp T to low..high [unit]`; None is an open end."""

    target: Target
    low: Expr | None
    high: Expr | None
    at: Positions | None = None
    unit: Unit = ""
    when: Condition | None = None


@dataclass(frozen=True)
class Add(Node):
    """`add V [unit] T`"""

    value: Expr
    target: Target
    at: Positions | None = None
    unit: Unit = ""
    when: Condition | None = None


@dataclass(frozen=True)
class ProjectOut(Node):
    target: Target
    at: Positions | None = None
    when: Condition | None = None


@dataclass(frozen=True)
class Patch(Node):
    """`patch [T] [@ target] from PROMPT [at source]`"""

    target: Target
    source: Name | Field
    source_at: Positions | None = None
    at: Positions | None = None
    when: Condition | None = None


@dataclass(frozen=True)
class Freeze(Node):
    target: Target
    at: Positions | None = None
    when: Condition | None = None


@dataclass(frozen=True)
class KeepOnly(Node):
    """`keep only T [else zero | mean of REF | resample of REF]`; otherwise: None is zero."""

    target: Target
    otherwise: Reference | None = None
    at: Positions | None = None
    when: Condition | None = None


@dataclass(frozen=True)
class Apply(Node):
    """`apply NAME[(arguments)] T`: an edit that Python registered."""

    name: str
    arguments: tuple[Expr, ...]
    target: Target
    at: Positions | None = None
    when: Condition | None = None
    name_span: Span = field(default=NOWHERE, compare=False)


Edit = Ablate | Amplify | Set | Clamp | Add | ProjectOut | Patch | Freeze | KeepOnly | Apply


@dataclass(frozen=True)
class Then(Node):
    """`a then b then c`: each reads the activation that the ones before it left."""

    edits: tuple[Edit, ...]


# Statements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelDecl(Node):
    path: str
    path_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class SAEDecl(Node):
    """`sae NAME = PATH [on SITE [-> SITE]]`; to: where a transcoder writes."""

    name: str
    path: str
    on: SitePattern | None = None
    to: SitePattern | None = None
    path_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class PromptDecl(Node):
    """`prompt NAME = [chat] TEXT [system TEXT]`"""

    name: str
    text: str
    chat: bool = False
    system: str | None = None


@dataclass(frozen=True)
class PromptsDecl(Node):
    """`prompts NAME = PATH`: a text file, a prompt a line, or JSONL."""

    name: str
    path: str
    path_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class DirDecl(Node):
    """`dir NAME = PATH[.KEY]`: a vector of a safetensors file, used as stored; key None: the file's only one."""

    name: str
    path: str
    key: str | None = None
    path_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class MetricDecl(Node):
    """`metric NAME = expr [@ POS]`"""

    name: str
    value: Expr
    at: Positions | None = None


@dataclass(frozen=True)
class SweepList(Node):
    """`[0, 0.5, 1]`"""

    items: tuple[Expr, ...]


@dataclass(frozen=True)
class SweepRange(Node):
    """`0..4 by 0.5`, both ends included; by: None is 1."""

    first: Expr
    last: Expr
    by: Expr | None = None


@dataclass(frozen=True)
class SweepDecl(Node):
    """`sweep NAME in [..] | a..b by c | {features} | L0..11 | prompt[0..5]`; Name: of a `let` set."""

    name: str
    values: SweepList | SweepRange | FeatureSet | Features | Layers | PosIndex | Name


@dataclass(frozen=True)
class Include(Node):
    """`include PATH`, relative to the file that says it."""

    path: str
    path_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Reset(Node):
    """`reset`: interventions, records, metrics and sweeps above it no longer count."""


@dataclass(frozen=True)
class LetDecl(Node):
    name: str
    value: Expr | FeatureSet | Features | Heads | Neurons


@dataclass(frozen=True)
class At(Node):
    """`at SITE[, SITE] [@ POS] [when COND] edit; edit` or `at ... { edits }`."""

    sites: tuple[SiteRef, ...]
    edits: tuple[Edit | Then, ...]
    at: Positions | None = None
    when: Condition | None = None
    block: bool = field(default=False, compare=False)
    """Written with braces: kept by the formatter, without meaning."""


@dataclass(frozen=True)
class RecordItem(Node):
    """`L5.resid`, `L3.attn.z.h2`, `g` (all features of a dictionary), `g.f42`, `g.error`, `{g.f1}`, a `let` set."""

    what: SitePattern | ModuleSite | Name | Features | Heads | Neurons | ErrorTarget | FeatureSet


@dataclass(frozen=True)
class Record(Node):
    items: tuple[RecordItem, ...]
    at: Positions | None = None


@dataclass(frozen=True)
class Option(Node):
    """`mode = frozen`, `seed = 3`: of a run; the value of `mode` is a Name."""

    name: str
    value: Expr
    name_span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Run(Node):
    """`run a, io, io.corrupt [as NAME] [with k = v, k = v]`; no prompts: every one declared above."""

    prompts: tuple[Name | Field, ...] = ()
    name: str | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class Generate(Node):
    """`generate fr 32 [as NAME] [with temp = 0.8]`; no prompt: every one declared above."""

    prompt: Name | Field | None
    n: Expr
    name: str | None = None
    options: tuple[Option, ...] = ()


Statement = (
    ModelDecl
    | SAEDecl
    | PromptDecl
    | PromptsDecl
    | LetDecl
    | DirDecl
    | MetricDecl
    | At
    | Record
    | SweepDecl
    | Include
    | Reset
    | Run
    | Generate
)


@dataclass(frozen=True)
class Comment(Node):
    """`# ...` with its text as written, from the `#` to the end of the line."""

    text: str
    own_line: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Script(Node):
    statements: tuple[Statement, ...]
    comments: tuple[Comment, ...] = field(default=(), compare=False)
