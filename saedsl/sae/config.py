"""What a dictionary is, without its weights: sizes, activation, sites, and how its input is prepared.

An SAE reads and writes one site; a transcoder reads one (the MLP's input) and writes another (the MLP's
output). A crosscoder reads several sites at once and writes several (transformer-circuits.pub/2024/crosscoders);
each feature of a cross-layer transcoder reads one layer and writes it and all later ones
(transformer-circuits.pub/2025/attribution-graphs). Their sites lie one after another in one vector.
Standard library only: programs are checked before anything heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

from saedsl.errors import SAEError
from saedsl.sites import Site

Activation = Literal["relu", "topk", "batchtopk", "jumprelu", "gated"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]
Kind = Literal["sae", "transcoder", "crosscoder", "clt"]
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DictionaryConfig:
    """One sparse dictionary: `x [d_in] -> f [d_sae] -> x^ [d_out]`.

    Raises:
        SAEError: if the values contradict one another; the message names them.
    """

    d_in: int
    """Width of what the encoder reads, all its sites together."""
    d_sae: int
    """Number of features."""
    d_out: int
    """Width of what the decoder writes, all its sites together; equal to `d_in` for an SAE."""
    activation: Activation = "relu"
    """How pre-activations become features. `batchtopk` uses its learnt threshold outside training."""
    k: int | None = None
    """Features kept per token: exactly for `topk`, on average for `batchtopk`."""
    kind: Kind = "sae"
    """What it reads and writes: one site, one and another, or several (`crosscoder`, and `clt`: cross-layer)."""
    input_site: Site | None = None
    """Where the encoder reads; None if the file does not say or we have no such site."""
    output_site: Site | None = None
    """Where the decoder writes; equal to `input_site` for an SAE."""
    normalize_activations: Normalization = "none"
    """What is done to each token before the encoder, and undone after the decoder of an SAE."""
    apply_b_dec_to_input: bool = True
    """Whether `b_dec` is subtracted before the encoder."""
    skip: bool = False
    """Whether there is also a linear path `x @ W_skip.T`; not where the input itself is reconstructed."""
    model_name: str | None = None
    """The model whose activations it was trained on."""
    hook_name: str | None = None
    """The input hook as the file spells it, where that is not the usual name of `input_site`."""
    hook_name_out: str | None = None
    """The output hook of a transcoder, likewise."""
    context_size: int | None = None
    """Tokens per training context."""
    trained_on_bos: bool = False
    """Whether the training data included the beginning-of-sequence token."""
    input_sites: tuple[Site, ...] = ()
    """Where a crosscoder or cross-layer transcoder reads, in the order of `x`; () for the other kinds."""
    output_sites: tuple[Site, ...] = ()
    """Where it writes, in the order of `x^`; of a cross-layer transcoder, layer by layer as `input_sites`."""
    prefixes: tuple[int, ...] = ()
    """Matryoshka: how many features each nested dictionary has, ascending, the last `d_sae` (arXiv:2503.17547)."""
    center_input: bool = False
    """Whether each token loses its mean before everything else; an SAE's reconstruction gets it back."""
    metadata: Metadata = ()
    """Whatever else the file said, sorted (key, JSON text) pairs, so that saving again loses nothing."""

    def __post_init__(self) -> None:
        wrong = list(_contradictions(self))
        if wrong:
            raise SAEError("this dictionary cannot exist: " + "; ".join(wrong))

    @property
    def is_transcoder(self) -> bool:
        """Whether the decoder writes another tensor than the encoder reads."""
        return self.kind in ("transcoder", "clt") or self.input_sites != self.output_sites

    @property
    def several_sites(self) -> bool:
        """Whether it may read or write several sites: crosscoders and cross-layer transcoders."""
        return self.kind in ("crosscoder", "clt")

    @property
    def layers(self) -> int:
        """Of a cross-layer transcoder, how many layers it spans: feature j is of number `j // (d_sae / layers)`."""
        return len(self.input_sites) if self.kind == "clt" else 1

    @property
    def elementwise(self) -> bool:
        """Whether a feature depends on its own pre-activation only: a few can be encoded alone."""
        return self.activation != "topk"

    @property
    def has_threshold(self) -> bool:
        """Whether features fire above a stored threshold."""
        return self.activation in ("jumprelu", "batchtopk")

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights of such a dictionary, with their shapes."""
        biases = ("b_gate", "r_mag", "b_mag") if self.activation == "gated" else ("b_enc",)
        shapes: dict[str, tuple[int, ...]] = {
            "W_enc": (self.d_in // self.layers, self.d_sae),
            **dict.fromkeys(biases, (self.d_sae,)),
            "W_dec": (self.d_sae, self.d_out),
            "b_dec": (self.d_out,),
        }
        if self.has_threshold:
            shapes["threshold"] = (self.d_sae,)
        if self.skip:
            shapes["W_skip"] = (self.d_out, self.d_in)
        return shapes

    def canonical(self) -> str:
        """The config as one line of JSON, equal for equal configs: what a fingerprint hashes.

        Fields that came later are left out at their defaults, so that fingerprints stay what they were.
        """
        return json.dumps(config_to_json(self), sort_keys=True, separators=(",", ":"))


_LATER: Final = ("input_sites", "output_sites", "prefixes", "center_input")
"""Fields that are written only where they say something."""


def config_to_json(c: DictionaryConfig) -> dict[str, Any]:
    """`c` as JSON values, sites as their text."""
    values = {f.name: getattr(c, f.name) for f in fields(c)}
    values |= {name: str(values[name]) for name in ("input_site", "output_site") if values[name] is not None}
    values |= {name: [str(site) for site in values[name]] for name in ("input_sites", "output_sites")}
    return {name: value for name, value in values.items() if value or name not in _LATER}


def freeze_metadata(values: Mapping[str, Any]) -> Metadata:
    """JSON `values` as sorted (key, JSON text) pairs: immutable, hashable and exact."""
    return tuple(sorted((key, json.dumps(value, sort_keys=True)) for key, value in values.items()))


def thaw_metadata(metadata: Metadata) -> dict[str, Any]:
    """The inverse of `freeze_metadata`."""
    return {key: json.loads(text) for key, text in metadata}


def _contradictions(c: DictionaryConfig) -> list[str]:
    """Everything that is wrong with `c`, in the order of its fields."""
    sizes = {"d_in": c.d_in, "d_sae": c.d_sae, "d_out": c.d_out}
    wrong = [f"{name} is {size!r}, not a positive whole number" for name, size in sizes.items() if not _positive(size)]
    if wrong:
        return wrong
    for name, choices in (
        ("activation", Activation),
        ("kind", Kind),
        ("normalize_activations", Normalization),
    ):
        if getattr(c, name) not in get_args(choices):
            wrong.append(f"{name} is {getattr(c, name)!r}; it can be {', '.join(get_args(choices))}")
    if c.activation in ("topk", "batchtopk"):
        if not _positive(c.k):
            wrong.append(f"{c.activation} needs k, a positive whole number, not {c.k!r}")
        elif c.k is not None and c.k > c.d_sae:
            wrong.append(f"k is {c.k}, more than the {c.d_sae} features there are")
    loose = [name for name in ("input_sites", "output_sites", "prefixes") if not isinstance(getattr(c, name), tuple)]
    if loose:
        return [*wrong, *(f"{name} is {getattr(c, name)!r}, not a tuple" for name in loose)]
    return [*wrong, *_contradictions_of_kind(c), *_contradictions_of_prefixes(c)]


def _contradictions_of_kind(c: DictionaryConfig) -> list[str]:
    """What is wrong with the sites and with what depends on them."""
    if c.several_sites:
        return _contradictions_of_sites(c)
    wrong = []
    if c.input_sites or c.output_sites:
        wrong.append(f"input_sites and output_sites are a crosscoder's; this {c.kind} has input_site and output_site")
    if c.kind == "sae":
        if c.d_out != c.d_in:
            wrong.append(f"an SAE writes what it reads, but d_in is {c.d_in} and d_out is {c.d_out}")
        if c.output_site != c.input_site:
            wrong.append(f"an SAE writes where it reads, but reads {c.input_site} and writes {c.output_site}")
        if c.skip:
            wrong.append("only a transcoder has a skip connection")
    elif c.apply_b_dec_to_input and c.d_out != c.d_in:
        wrong.append(f"b_dec has d_out = {c.d_out} entries and cannot be subtracted from d_in = {c.d_in}")
    return wrong


def _contradictions_of_sites(c: DictionaryConfig) -> list[str]:
    """What is wrong with a crosscoder or a cross-layer transcoder."""
    called = "a crosscoder" if c.kind == "crosscoder" else "a cross-layer transcoder"
    wrong = []
    if c.input_site is not None or c.output_site is not None:
        wrong.append(f"{called} has input_sites and output_sites; input_site and output_site are of the other kinds")
    for name in ("input_sites", "output_sites"):
        sites = getattr(c, name)
        if not sites:
            wrong.append(f"{called} needs {name}")
        elif len(set(sites)) < len(sites):
            twice = next(site for i, site in enumerate(sites) if site in sites[:i])
            wrong.append(f"{name} names {twice} twice")
    if c.normalize_activations != "none" or c.center_input:
        way = "center_input" if c.center_input else c.normalize_activations
        wrong.append(f"{called} reads several sites, whose tokens {way} would mix")
    if wrong:
        return wrong
    if c.kind == "clt":
        n = len(c.input_sites)
        if len(c.output_sites) != n:
            wrong.append(f"{called} writes every layer that it reads, but reads {n} and writes {len(c.output_sites)}")
        sizes = {"d_in": c.d_in, "d_out": c.d_out, "d_sae": c.d_sae}
        wrong += [f"{name} is {size}, no multiple of its {n} layers" for name, size in sizes.items() if size % n]
        if c.apply_b_dec_to_input:
            wrong.append(f"{called} does not subtract b_dec from its input: set apply_b_dec_to_input to False")
    elif c.input_sites == c.output_sites:
        if c.d_out != c.d_in:
            wrong.append(f"{called} that writes what it reads has d_in = d_out, not {c.d_in} and {c.d_out}")
        if c.skip:
            wrong.append(f"{called} that reconstructs its input has no skip connection")
    elif c.apply_b_dec_to_input:
        wrong.append("b_dec is of the output sites and cannot be subtracted from the input sites")
    return wrong


def _contradictions_of_prefixes(c: DictionaryConfig) -> list[str]:
    """What is wrong with the nested dictionaries."""
    if not c.prefixes:
        return []
    if not all(map(_positive, c.prefixes)) or list(c.prefixes) != sorted(set(c.prefixes)):
        return [f"prefixes are {list(c.prefixes)}, not ascending positive whole numbers"]
    if c.prefixes[-1] != c.d_sae:
        return [f"the last of the prefixes is {c.prefixes[-1]}, not all {c.d_sae} features"]
    return ["a cross-layer transcoder has no prefixes"] if c.kind == "clt" else []


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
