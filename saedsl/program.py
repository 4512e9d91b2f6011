"""A checked program: every name resolved, every number known. Built by `saedsl.check` from text.

No weights, no tokens: `saedsl.plan` adds the prompts' tokens and positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from saedsl.anatomy import ModelInfo
from saedsl.grammar.nodes import NOWHERE, Positions, Span, Unit
from saedsl.grammar.source import Source
from saedsl.places import simplest
from saedsl.sites import Site

if TYPE_CHECKING:
    from saedsl.sae.header import SAEInfo

LANGUAGE: Final = 1
"""Version of the language that a program's JSON carries."""

Op = Literal["ablate", "amplify", "set", "clamp", "add", "project", "patch", "freeze", "keep", "apply"]
FeatureIds = tuple[int, ...] | Literal["all"]
Part = Literal["site", "features", "error", "heads", "coordinates", "direction"]
"""What of a site an edit changes. `direction`: the coefficient c = x.d / d.d, so that the component is c d."""
Mode = Literal["iterative", "frozen", "direct"]


@dataclass(frozen=True)
class Prompt:
    """A prompt, or a row of a file of prompts."""

    text: str
    chat: bool = False
    """Whether it goes through the tokenizer's chat template."""
    system: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    """Other string fields of a JSONL row: `answer`, `corrupt` ..."""
    positions: Mapping[str, int] = field(default_factory=dict)
    """Named positions of a JSONL row, counted in final token ids; negative from the end."""
    span: Span = field(default=NOWHERE, compare=False)
    """Where it is declared."""


@dataclass(frozen=True)
class Direction:
    """A vector in the space of a site."""

    name: str
    path: str
    """As the program gave it, or `$name`."""
    key: str | None
    width: int
    sha256: str
    """Of the float32 values."""
    values: tuple[float, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class ReferenceSet:
    """Texts that means and resamples are taken from."""

    path: str
    """As the program gave it."""
    prompts: tuple[Prompt, ...]
    sha256: str
    """Of the prompts' canonical JSON: the content, not the file's bytes."""


@dataclass(frozen=True)
class Replacement:
    """What takes the place of an ablated value, where it is not 0."""

    kind: Literal["mean", "mean by position", "resample"]
    reference: str
    """Key of `Program.references`."""


@dataclass(frozen=True)
class PatchSource:
    """Where a patch takes its values from: the unedited run of another prompt."""

    prompt: str
    """Name of a prompt, or `set.field`: of a file of prompts, the same row's field read as a prompt."""
    positions: tuple[Positions, ...] = ()
    """None: the same positions."""


@dataclass(frozen=True)
class Test:
    """A condition on one feature, position by position, read as the activation arrives."""

    __test__ = False  # not pytest's

    dictionary: str
    feature: int
    op: Literal[">", ">=", "<", "<=", "==", "!="]
    value: float
    unit: Unit = ""


@dataclass(frozen=True)
class Not:
    item: Condition


@dataclass(frozen=True)
class And:
    items: tuple[Condition, ...]


@dataclass(frozen=True)
class Or:
    items: tuple[Condition, ...]


Condition = Test | Not | And | Or


@dataclass(frozen=True)
class Term:
    """One call of a metric."""

    function: Literal["logit", "prob", "logprob", "kl", "ce", "act", "norm"]
    text: str | None = None
    """logit, prob, logprob: the text."""
    row_field: str | None = None
    """The field of the prompt's row that holds the text, in place of `text`; `row_of`: the file that the row is of."""
    row_of: str | None = None
    dictionary: str | None = None
    """act: the dictionary, and the feature."""
    feature: int = 0
    site: Site | None = None
    """norm: the site."""


MetricValue = float | Term | tuple[Literal["+", "-", "*", "/"], "MetricValue", "MetricValue"]
"""A number, a call, or two of these and an operator."""


@dataclass(frozen=True)
class Metric:
    """A number to compute from a run, with and without the edits."""

    name: str
    value: MetricValue
    positions: tuple[Positions, ...] = ()
    """None: prompt[-1]; for `ce()`, every prompt position that has a next token. Several: the mean over them."""
    span: Span = field(default=NOWHERE, compare=False)


@dataclass(frozen=True)
class Dictionary:
    """A dictionary bound to a model: where it reads, and where edits of its features write."""

    name: str
    """The name that programs use: of its `sae` statement, or the text of its site."""
    path: str
    """As the program or the caller gave it."""
    read: Site
    write: Site
    info: SAEInfo = field(compare=False)

    @property
    def at_site(self) -> bool:
        """Whether it is called by its site: a program cannot say that name where several are bound there."""
        return self.name == str(self.write)

    @property
    def bundled(self) -> bool:
        """Whether it came with the model, unasked."""
        return self.path == f"demo:{self.name}"

    @cached_property
    def identity(self) -> tuple[str, Site]:
        """Equal for one dictionary under two names: its weights, and where it writes."""
        weights, path = self.info.weights, self.info.path
        file = weights.path if weights is not None else path
        return (str(file.resolve()) if file is not None else self.info.digest or self.name, self.write)


@dataclass(frozen=True)
class Intervention:
    """One edit at one site."""

    site: Site
    """Where it writes."""
    op: Op
    args: tuple[float, ...]
    """amplify: factor; set, add: value; clamp: low, high (infinite for an open end); apply: its arguments."""
    dictionary: str | None = None
    """Name of the dictionary whose features or error are edited; None edits the activation itself."""
    features: FeatureIds = ()
    """Numbers of features, heads or coordinates, as `part` says."""
    positions: tuple[Positions, ...] = ()
    """All must hold; none means `all`."""
    span: Span = field(default=NOWHERE, compare=False)
    qualified: bool = field(default=False, compare=False)
    """Whether its text names the dictionary: several are bound to the site."""
    part: Part = "site"
    unit: Unit = ""
    """Of args: of set, clamp and add."""
    to: Replacement | None = None
    """ablate: what takes the value's place; keep: what takes the place of everything else. None is zero."""
    source: PatchSource | None = None
    """patch: where the value comes from."""
    direction: str | None = None
    """Key of `Program.directions`, for part `direction`."""
    when: Condition | None = None
    """Acts only where it holds."""
    stage: int = 0
    """0 reads the activation as it arrives; n, behind n `then`, what the stages before left at this site."""
    name: str = ""
    """apply: the registered edit's name and version, `soften/1`."""

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Everything but `features`: interventions that share it are one."""
        from saedsl.canonical import edit_key

        return edit_key(self)

    @cached_property
    def normal(self) -> Intervention:
        """The same with its positions and its condition in their simplest spelling."""
        from saedsl.canonical import normal

        return normal(self)

    def text(self) -> str:
        """Canonical text, e.g. `at L2.mlp amplify f7 x2 @ prompt[-1]`, or `at g ablate all`."""
        from saedsl.wording import statement_text

        return statement_text(self)

    def edit_text(self) -> str:
        """The edit without its site, e.g. `amplify f7 x2`; that it follows others (`stage`) is not said."""
        from saedsl.wording import edit_text

        return edit_text(self)

    def target_text(self) -> str:
        """`f42`, `{g.f1, g.f3..5}`, `all`, `g.error`, `h3`, `n17`, `dir d`, or nothing for the whole site."""
        from saedsl.wording import target_text

        return target_text(self)


@dataclass(frozen=True)
class RecordItem:
    """One activation that is kept: of a whole site, or of one dictionary's features."""

    label: str
    """Its key in a result: `L5.resid_post`, `g.f42`, `g`."""
    site: Site
    """Where it is read; of an error, where its dictionary writes."""
    dictionary: str | None = None
    features: FeatureIds = ()
    """Numbers of features, heads or coordinates, as `part` says: all, or one."""
    positions: tuple[Positions, ...] = ()
    span: Span = field(default=NOWHERE, compare=False)
    part: Part = "site"
    """Never `direction`."""

    @cached_property
    def normal(self) -> RecordItem:
        """The same with its positions in their simplest spelling."""
        return replace(self, positions=simplest(self.positions))


@dataclass(frozen=True)
class Places:
    """The positions of an edit or record that has another mistake: they are checked all the same."""

    positions: tuple[Positions, ...]
    span: Span = field(default=NOWHERE, compare=False)


Written = Intervention | RecordItem | Places


@dataclass(frozen=True)
class Step:
    """One `run` or `generate`, with the statements above it."""

    kind: Literal["run", "generate"]
    prompts: tuple[str, ...]
    """Names of prompts."""
    n: int
    """Tokens to generate; 0 for `run`."""
    edits: tuple[Intervention, ...]
    records: tuple[RecordItem, ...]
    named: bool = True
    """Whether the statement names its prompts; if not, prompts that the caller gives take their place."""
    span: Span = field(default=NOWHERE, compare=False)
    written: tuple[Written, ...] = field(default=(), compare=False)
    """Edits and records as the text has them, each with its own span: what mistakes are reported of."""
    label: str | None = field(default=None, compare=False)
    """`as NAME`."""
    values: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    """The values of sweeps, as text, by name. A `run` under sweeps is a step for each combination."""
    statement: int = field(default=0, compare=False)
    """Which `run` or `generate` of the program: equal for the steps of one sweep."""
    metrics: tuple[Metric, ...] = ()
    mode: Mode = "iterative"
    seed: int = 0
    """Of sampling, and of resampled references."""
    temp: float = 0.0
    """Of sampling; 0 is greedy."""
    top_p: float = 1.0
    broken: bool = field(default=False, compare=False)
    """The statement has a mistake, reported already: its prompts are those that are known, its `n` may be unknown."""

    @property
    def items(self) -> tuple[Intervention | RecordItem, ...]:
        """Edits, then records."""
        return (*self.edits, *self.records)


@dataclass(frozen=True)
class Program:
    """What a script means on one model."""

    model: ModelInfo
    dictionaries: Mapping[str, Dictionary]
    """By name; those that no statement uses included."""
    prompts: Mapping[str, Prompt]
    """By name; row 3 of a file of prompts `io` is `io[3]`, its field `corrupt` as a prompt `io.corrupt[3]`."""
    steps: tuple[Step, ...]
    source: Source = field(compare=False, repr=False)
    model_span: Span = field(default=NOWHERE, compare=False)
    """Where the program names its model."""
    whole: bool = field(default=False, compare=False)
    """Its one step is for a forward of the caller's own, see `check.Context`."""
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The paths of the `prompts` statements, by name."""
    directions: Mapping[str, Direction] = field(default_factory=dict)
    """By the name of their `dir` statement, or `$name`; those that no statement uses included."""
    references: Mapping[str, ReferenceSet] = field(default_factory=dict)
    """By path, as `Replacement` says."""
    unread_prompts: bool = field(default=False, compare=False)
    """A prompt's declaration could not be read: that there is none is not to be said."""

    def __eq__(self, other: object) -> bool:
        """Whether both mean the same: dictionaries that no statement uses do not count."""
        if not isinstance(other, Program):
            return NotImplemented
        return (self.model, self.used, self.prompts, self.steps, self.directions, self.references) == (
            other.model, other.used, other.prompts, other.steps, other.directions, other.references,
        )  # fmt: skip

    @cached_property
    def used(self) -> tuple[Dictionary, ...]:
        """The dictionaries that edits, their conditions, records or metrics need, sorted by name."""
        names: set[str | None] = set()
        for s in self.steps:
            names.update(i.dictionary for i in s.items)
            names.update(t.dictionary for e in s.edits if e.when is not None for t in tests(e.when))
            names.update(t.dictionary for m in s.metrics for t in terms(m.value))
        return tuple(self.dictionaries[n] for n in sorted(n for n in names if n is not None))

    def canonical_names(self, paths: Mapping[str, str] | None = None) -> dict[str, str]:
        """The used dictionaries' names -> d0, d1, ..., by where they write and read and by path; aliases share one.

        Args:
            paths: what stands for a dictionary's path, by name; else the path as the program has it.
        """
        keys = {d.name: (d.write, d.read, (paths or {}).get(d.name, d.path)) for d in self.used}
        numbers = {key: f"d{i}" for i, key in enumerate(sorted(set(keys.values())))}
        return {name: numbers[key] for name, key in keys.items()}

    def to_json(self, paths: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The canonical form: what is hashed. Order, spelling, comments, aliases and what is unused leave no trace.

        Args:
            paths: as in `canonical_names`. With it, files of directions and references are known by content only.
        """
        from saedsl.canonical import program_json

        return program_json(self, paths)


def tests(condition: Condition) -> Iterator[Test]:
    """Every test that a condition is made of."""
    match condition:
        case Test():
            yield condition
        case Not(item):
            yield from tests(item)
        case And(items) | Or(items):
            for item in items:
                yield from tests(item)


def terms(value: MetricValue) -> Iterator[Term]:
    """Every call that a metric is made of."""
    match value:
        case Term():
            yield value
        case (_, left, right):
            yield from terms(left)
            yield from terms(right)
