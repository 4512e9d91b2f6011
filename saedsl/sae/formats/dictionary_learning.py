"""dictionary_learning's folders: `trainer_N/ae.pt` + `config.json`.

Source: https://github.com/saprmarks/dictionary_learning, `dictionary.py` and `trainers/`, version 0.1. Encoders are
stored [F, d], decoders [d, F]; `W_enc`, `W_dec` as here. `b_dec` is subtracted from the input by all classes but
AutoEncoderNew and JumpReluAutoEncoder. As its own loader does, an AutoEncoder's decoder rows are given unit length and
its features that length. BatchTopKSAE and MatryoshkaBatchTopKSAE fire above their learnt threshold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from saedsl.errors import SAEError
from saedsl.sae.config import Activation
from saedsl.sae.formats.places import sites_of_module
from saedsl.sae.formats.reading import (
    Tensors,
    check_shapes,
    configured,
    described,
    kept,
    load,
    read_json,
    shape_of,
    tensors_of,
    value_of,
)  # fmt: skip
from saedsl.sae.header import SAEInfo
from saedsl.sae.tensorfile import AGAIN
from saedsl.sae.tensorpickle import read_numbers
from saedsl.sites import Site

if TYPE_CHECKING:
    import mlx.core as mx

NAME: Final = "dictionary_learning"
CONFIG: Final = "config.json"
WEIGHTS: Final = "ae.pt"

_LINEAR: Final = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_PLAIN: Final = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_TOP: Final = ("k", "threshold")


@dataclass(frozen=True)
class Class:
    """How one of the package's classes stores and computes."""

    activation: Activation
    names: Mapping[str, str]
    """Its tensors -> ours."""
    subtracts: bool = True
    """Whether `b_dec` is subtracted from the input."""
    others: tuple[str, ...] = ()
    """Tensors that it stores besides."""


CLASSES: Final[Mapping[str, Class]] = {
    "AutoEncoder": Class("relu", {**_LINEAR, "bias": "b_dec"}),
    "AutoEncoderNew": Class("relu", {**_LINEAR, "decoder.bias": "b_dec"}, subtracts=False),
    "GatedAutoEncoder": Class("gated", {
        "encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec", "gate_bias": "b_gate",
        "r_mag": "r_mag", "mag_bias": "b_mag",
    }),
    "JumpReluAutoEncoder": Class("jumprelu", {**_PLAIN, "threshold": "threshold"}, subtracts=False),
    "AutoEncoderTopK": Class("topk", {**_LINEAR, "b_dec": "b_dec"}, others=_TOP),
    "BatchTopKSAE": Class("batchtopk", {**_LINEAR, "b_dec": "b_dec"}, others=_TOP),
    "MatryoshkaBatchTopKSAE": Class("batchtopk", _PLAIN, others=(*_TOP, "group_sizes")),
}  # fmt: skip
_PLACE: Final = re.compile(
    r"(?P<kind>resid_pre|resid_post|resid_mid|mlp_out|attn_out|attention_out)_layer_(?P<layer>\d{1,9})", re.ASCII
)
_KINDS: Final = {"mlp_out": "mlp", "attn_out": "attn", "attention_out": "attn"}


def matches(path: Path) -> bool:
    """Whether `path` is a folder with an `ae.pt`, that file or its config."""
    if path.is_file():
        return path.name == WEIGHTS or (path.name == CONFIG and (path.parent / WEIGHTS).is_file())
    return (path / WEIGHTS).is_file()


def read_info(path: Path) -> SAEInfo:
    """Describe the dictionary; no weight is read, but a few single numbers: k, group sizes, the learnt threshold.

    Raises:
        SAEError: if a file is damaged, they contradict one another, or nothing says which class it is.
    """
    folder = path.parent if path.is_file() else path
    where, weights = folder / CONFIG, folder / WEIGHTS
    tensors = tensors_of(weights)
    raw = read_json(where) if where.is_file() else {}
    trainer = value_of(raw, "trainer", (dict,), where, {})
    name = _class(trainer, tensors, where, weights)
    made = CLASSES[name]
    source = next(stored for stored, ours in made.names.items() if ours == "W_enc")
    shape = shape_of(tensors, source, 2, weights)
    n, d = shape if source == "encoder.weight" else shape[::-1]
    _check(made, tensors, n, d, weights)
    for key, size in (("activation_dim", d), ("dict_size", n)):
        if value_of(trainer, key, (int,), where, size) != size:
            raise SAEError(f"{where}: says {key} = {trainer[key]}, but the tensors of {WEIGHTS} imply {size}")
    k, prefixes = _numbers(made, tensors, trainer, where, weights)
    model = value_of(trainer, "lm_name", (str,), where, "")
    site = _site(trainer, model)
    buffer = raw.get("buffer")
    length = buffer.get("ctx_len") if isinstance(buffer, dict) else None
    config = configured(
        weights,
        d_in=d,
        d_sae=n,
        d_out=d,
        activation=made.activation,
        k=k,
        input_site=site,
        output_site=site,
        apply_b_dec_to_input=made.subtracts,
        model_name=model or None,
        context_size=length if type(length) is int else None,
        prefixes=prefixes,
        metadata=kept(NAME, raw),
    )
    return described(config, tensors, NAME, folder, weights)


def read_weights(info: SAEInfo) -> dict[str, mx.array]:
    """Its weights.

    Raises:
        SAEError: if a weight is not finite, or the file is not the one described.
    """
    import mlx.core as mx

    assert info.weights is not None
    tensors = {tensor.name: tensor for tensor in info.tensors}
    name = _class({}, tensors, info.weights.path, info.weights.path, like=info.config.activation)
    made = CLASSES[name]
    stored = load(info.weights, frozenset(made.names) | {"threshold"})
    weights = {ours: stored[theirs] for theirs, ours in made.names.items()}
    if "encoder.weight" in made.names:
        weights["W_enc"], weights["W_dec"] = weights["W_enc"].T, weights["W_dec"].T
    if made.activation == "batchtopk":
        weights["threshold"] = mx.broadcast_to(stored["threshold"], (info.d_sae,))
    if name == "AutoEncoder":
        norms = mx.sqrt(mx.sum(mx.square(weights["W_dec"]), axis=1))
        norms = mx.where(norms > 0, norms, 1)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms, weights["b_enc"] * norms
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
    return weights


def _class(
    trainer: Mapping[str, Any], tensors: Tensors, where: Path, weights: Path, like: Activation | None = None
) -> str:
    """The class as the config says it, else as only one class has such tensors.

    Args:
        trainer: that part of the config.
        tensors: those stored.
        where: the config.
        weights: the file of the tensors.
        like: what it computes, where that is known.
    """
    if trainer.get("dict_class") is not None:
        name = value_of(trainer, "dict_class", (str,), where)
        if name not in CLASSES:
            raise SAEError(f"{where}: has dict_class {name[:40]!r}; saedsl reads {', '.join(CLASSES)}")
        return str(name)
    fitting = [
        name
        for name, made in CLASSES.items()
        if set(made.names) <= set(tensors) <= {*made.names, *made.others}
        and ("k" in tensors) == ("k" in made.others)
        and like in (None, made.activation)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise SAEError(f"{weights}: holds {', '.join(sorted(tensors)[:8])}; no class of dictionary_learning has these")
    raise SAEError(
        f'{weights}: may be of class {" or ".join(fitting)}; write {{"trainer": {{"dict_class": "{fitting[-1]}"}}}} '
        f"to {where.name} beside it"
    )


def _check(made: Class, tensors: Tensors, n: int, d: int, weights: Path) -> None:
    """Names and shapes of the stored tensors."""
    transposed = "encoder.weight" in made.names
    ours = {"W_enc": (n, d) if transposed else (d, n), "W_dec": (d, n) if transposed else (n, d), "b_dec": (d,)}
    expected = {theirs: ours.get(name, (n,)) for theirs, name in made.names.items()}
    if made.activation == "batchtopk":
        expected["threshold"] = ()
    check_shapes(tensors, expected, weights, frozenset(made.others))


def _numbers(
    made: Class, tensors: Tensors, trainer: Mapping[str, Any], where: Path, weights: Path
) -> tuple[int | None, tuple[int, ...]]:
    """k, and where nested dictionaries end; both are stored with the weights."""
    if not made.others:
        return None, ()
    stored = {name: read_numbers(weights, name) for name in made.others if name in tensors}
    if "k" in stored and (len(stored["k"]) != 1 or type(stored["k"][0]) is not int):
        raise SAEError(f"{weights}: k is no whole number; {AGAIN}")
    k = value_of(trainer, "k", (int,), where, stored["k"][0] if "k" in stored else None)
    if "k" in stored and stored["k"] != [k]:
        raise SAEError(f"{where}: says k = {k}, but {WEIGHTS} says {stored['k'][0]}")
    if made.activation == "batchtopk" and not stored["threshold"][0] >= 0:
        raise SAEError(
            f"{weights}: its threshold is {stored['threshold'][0]}, so none was learnt: it was saved before the step "
            "where its training starts to; take a later checkpoint"
        )
    sizes = stored.get("group_sizes", ())
    if any(type(size) is not int for size in sizes):
        raise SAEError(f"{weights}: group_sizes are no whole numbers; {AGAIN}")
    return k, tuple(int(end) for end in accumulate(sizes)) if len(sizes) > 1 else ()


def _site(trainer: Mapping[str, Any], model: str) -> Site | None:
    """As the submodule's name says it, else the residual stream behind the layer, as the package's loader does."""
    name, layer = trainer.get("submodule_name"), trainer.get("layer")
    if isinstance(name, str):
        if match := _PLACE.fullmatch(name):
            return Site(int(match["layer"]), _KINDS.get(match["kind"], match["kind"]))
        places = sites_of_module(name, model)
        return None if places is None else places[1]
    return Site(layer, "resid_post") if type(layer) is int and layer >= 0 else None
