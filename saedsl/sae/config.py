"""What a dictionary is, without its weights: sizes, activation, sites, and how its input is prepared.

An SAE reads and writes one site; a transcoder reads one (the MLP's input) and writes another (the MLP's
output). Standard library only: programs are checked before anything heavy is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from saedsl.errors import SAEError
from saedsl.sites import Site

Activation = Literal["relu", "topk", "batchtopk", "jumprelu"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]
Kind = Literal["sae", "transcoder"]
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DictionaryConfig:
    """One sparse dictionary: `x [d_in] -> f [d_sae] -> x^ [d_out]`.

    Raises:
        SAEError: if the values contradict one another; the message names them.
    """

    d_in: int
    """Width of what the encoder reads."""
    d_sae: int
    """Number of features."""
    d_out: int
    """Width of what the decoder writes; equal to `d_in` for an SAE."""
    activation: Activation = "relu"
    """How pre-activations become features. `batchtopk` uses its learnt threshold outside training."""
    k: int | None = None
    """Features kept per token: exactly for `topk`, on average for `batchtopk`."""
    kind: Kind = "sae"
    """Whether the decoder writes what the encoder read, or another tensor."""
    input_site: Site | None = None
    """Where the encoder reads; None if the file does not say or we have no such site."""
    output_site: Site | None = None
    """Where the decoder writes; equal to `input_site` for an SAE."""
    normalize_activations: Normalization = "none"
    """What is done to each token before the encoder, and undone after the decoder of an SAE."""
    apply_b_dec_to_input: bool = True
    """Whether `b_dec` is subtracted before the encoder."""
    skip: bool = False
    """Whether a transcoder also has a linear path `x @ W_skip`."""
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
    metadata: Metadata = ()
    """Whatever else the file said, sorted (key, JSON text) pairs, so that saving again loses nothing."""

    def __post_init__(self) -> None:
        wrong = list(_contradictions(self))
        if wrong:
            raise SAEError("this dictionary cannot exist: " + "; ".join(wrong))

    @property
    def is_transcoder(self) -> bool:
        """Whether the decoder writes another tensor than the encoder reads."""
        return self.kind == "transcoder"

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
        shapes: dict[str, tuple[int, ...]] = {
            "W_enc": (self.d_in, self.d_sae),
            "b_enc": (self.d_sae,),
            "W_dec": (self.d_sae, self.d_out),
            "b_dec": (self.d_out,),
        }
        if self.has_threshold:
            shapes["threshold"] = (self.d_sae,)
        if self.skip:
            shapes["W_skip"] = (self.d_out, self.d_in)
        return shapes

    def canonical(self) -> str:
        """The config as one line of JSON, equal for equal configs: what a fingerprint hashes."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: str(values[name]) for name in ("input_site", "output_site") if values[name] is not None}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))


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


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
