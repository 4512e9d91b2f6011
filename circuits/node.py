"""The nodes of circuits: features, errors, tokens, heads, neurons; each with a short text that names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache, total_ordering
from typing import Final, Literal, Self, get_args

from saedsl.errors import CircuitError
from saedsl.sites import Site

Kind = Literal["embedding", "feature", "transcoder", "error", "head", "mlp", "neuron", "logit"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

LETTERS: Final[dict[str, Kind]] = {"f": "feature", "tc": "transcoder", "h": "head", "n": "neuron"}
"""What stands before the number of a node: `L2.mlp.f42`. Tokens of `embed` and `logits` have a t."""
RANKS: Final[dict[Kind, int]] = {
    "embedding": 0, "neuron": 1, "head": 2, "transcoder": 3, "mlp": 4, "feature": 5, "error": 6, "logit": 7,
}  # fmt: skip
"""At one site, what writes the activation comes before what is read from it."""

_ID = re.compile(
    r"(?:(?P<dictionary>[A-Za-z_][\w.-]*):)?(?P<site>.+?)"
    r"(?:\.(?P<letter>f|tc|h|n|t)(?P<index>\d+)|\.(?P<error>error))?(?:@(?P<position>\d+))?",
    re.DOTALL | re.ASCII,
)
_DICTIONARY = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)


@total_ordering
@dataclass(frozen=True)
class Node:
    """One node of a circuit. Nodes sort in the order of the forward: by site, at one site by kind, then by position.

    Raises:
        CircuitError: if the parts contradict each other.
    """

    kind: Kind
    layer: int | None
    """Of `site`: None for `embed`, `final`, `logits`, and a module's site."""
    site: str
    """Where the node writes, as canonical text: `L2.mlp`, `L1.attn`, `embed`, `logits`."""
    index: int | None = None
    """Feature, vocabulary id, head or neuron, by kind. None for errors and whole sublayers, for all heads of a site,
    for an embedding of any token and for a metric of several logits."""
    position: int | None = None
    """Token index from 0; None for a node that stands for all positions."""
    dictionary: str | None = None
    """Name of the dictionary, where a site has several."""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise CircuitError(f"{self.kind} node at {self.site!r}: {problem}")

    @classmethod
    def of(
        cls, kind: Kind, site: str, index: int | None = None, position: int | None = None, dictionary: str | None = None
    ) -> Self:
        """A node whose layer and canonical site are read from `site`: `Node.of("feature", "L3.resid", 42, 7)`.

        Raises:
            CircuitError: if `site` is not a site, or the parts contradict each other.
        """
        place = site_of(site)
        return cls(kind, place.layer, str(place), index, position, dictionary)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The node whose `id` is `text`.

        Raises:
            CircuitError: if `text` names no node.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise CircuitError(_unreadable(text))
        letter, index = match["letter"], match["index"]
        place = site_of(match["site"], text)
        kind: Kind | None = "error" if match["error"] else _kind(letter, place)
        if kind is None:
            raise CircuitError(_unreadable(text))
        position = match["position"]
        return cls(
            kind,
            place.layer,
            str(place),
            None if index is None else int(index),
            None if position is None else int(position),
            match["dictionary"],
        )

    @property
    def id(self) -> str:
        """Short text that names the node, e.g. `L2.mlp.f42@7`, `g:L2.mlp.error@7`, `embed.t17@3`; `parse` reads it."""
        text = self.site if self.dictionary is None else f"{self.dictionary}:{self.site}"
        if self.kind == "error":
            text += ".error"
        elif self.index is not None:
            text += f".{_LETTER_OF.get(self.kind, 't')}{self.index}"
        return text if self.position is None else f"{text}@{self.position}"

    @property
    def short(self) -> str:
        """What the node is at its site: `f42`, `error`, `h3`, `t17`; the last part of the site for a whole sublayer."""
        if self.kind == "error":
            return "error"
        if self.index is not None:
            return f"{_LETTER_OF.get(self.kind, 't')}{self.index}"
        return self.site.rpartition(".")[2]

    @property
    def depth(self) -> tuple[float, int, str, int]:
        """Place in the forward: an edge of influence goes from a smaller one to a greater one."""
        return _depth(self.site, self.kind)

    @property
    def order(self) -> tuple[tuple[float, int, str, int], int, int, str]:
        """What nodes sort by."""
        position = -1 if self.position is None else self.position
        return self.depth, position, -1 if self.index is None else self.index, self.dictionary or ""

    def __lt__(self, other: Node) -> bool:
        return self.order < other.order

    def __str__(self) -> str:
        return self.id


_LETTER_OF: Final[dict[Kind, str]] = {kind: letter for letter, kind in LETTERS.items()}


@lru_cache(maxsize=4096)
def site_of(text: str, whole: str = "") -> Site:
    """The site that `text` names.

    Raises:
        CircuitError: if it names none; `whole` is the text it was found in.
    """
    try:
        return Site.parse(text)
    except ValueError as error:
        raise CircuitError(f"{whole!r} names no node: {error}" if whole else str(error)) from None


@lru_cache(maxsize=4096)
def _depth(site: str, kind: Kind) -> tuple[float, int, str, int]:
    return (*site_of(site).order, RANKS[kind])


def _kind(letter: str | None, site: Site) -> Kind | None:
    """The kind that an id's letter and site say; None where they say none."""
    if letter is not None and letter != "t":
        return LETTERS[letter]
    if site.layer is None:
        return {"embed": "embedding", "logits": "logit"}.get(site.component)  # type: ignore[return-value]
    if letter == "t":
        return None
    return {"mlp": "mlp", "attn": "head"}.get(site.component.partition(".")[0])  # type: ignore[return-value]


def _problem(node: Node) -> str:
    """What is wrong with a node; nothing if nothing is."""
    if node.kind not in KINDS:
        return f"the kind can be {', '.join(KINDS)}"
    site = site_of(node.site)
    if str(site) != node.site:
        return f"the site is written {site}"
    if node.layer != site.layer:
        return f"its layer is {site.layer}, not {node.layer}"
    for name in ("index", "position"):
        value = getattr(node, name)
        if value is not None and (type(value) is not int or value < 0):
            return f"{name} is {value!r}, not None or a whole number from 0"
    if node.dictionary is not None and not _DICTIONARY.fullmatch(node.dictionary):
        return f"the dictionary's name is {node.dictionary!r}; it starts with a letter and has letters, digits, _ . -"
    return _misplaced(node, site)


def _misplaced(node: Node, site: Site) -> str:
    part = site.component.partition(".")[0]
    match node.kind:
        case "feature" | "transcoder" | "neuron" if node.index is None:
            return f"a {node.kind} needs an index"
        case "error" | "mlp" if node.index is not None:
            return f"an {node.kind} node has no index"
        case "embedding" if node.site != "embed":
            return "tokens are embedded at embed"
        case "logit" if node.site != "logits":
            return "logits are at logits"
        case "head" if site.layer is None or part != "attn":
            return "heads are at a site of attention, such as L1.attn"
        case "mlp" if site.layer is None or part != "mlp":
            return "an MLP is at a site of an MLP, such as L1.mlp"
    if node.dictionary is not None and node.kind not in ("feature", "transcoder", "error"):
        return f"a {node.kind} belongs to no dictionary"
    return ""


def _unreadable(text: str) -> str:
    return f"{text!r} names no node; nodes look like L2.mlp.f42@7, g:L2.mlp.error@7, embed.t17@3, L1.attn.h3"
