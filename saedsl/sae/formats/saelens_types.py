"""The JSON types of what a SAELens config may say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from saedsl.errors import SAEError

Types = Mapping[str, tuple[type, ...]]
"""Key -> the Python types that its JSON value can have."""

TOP: Final[Types] = {
    "architecture": (str,),
    "k": (int, NoneType),
    "apply_b_dec_to_input": (bool, NoneType),
    "normalize_activations": (str, bool, NoneType),
    "norm_scaling_factor": (int, float, NoneType),
    "rescale_acts_by_decoder_norm": (bool, NoneType),
    "activation_fn_kwargs": (dict, NoneType),
    "matryoshka_widths": (list, NoneType),
}
"""At the top level; sizes are checked by `DictionaryConfig`."""
EITHER: Final[Types] = {
    "model_name": (str, NoneType),
    "hook_name": (str, NoneType),
    "hook_name_out": (str, NoneType),
    "context_size": (int, NoneType),
    "prepend_bos": (bool, NoneType),
    "exclude_special_tokens": (bool, list, NoneType),
    "model_from_pretrained_kwargs": (dict, NoneType),
}
"""At the top level before 6.0, in `metadata` since."""
OURS: Final[Types] = {
    "added": (list,),
    "activation": (str, NoneType),
    "k": (int, NoneType),
    "trained_on_bos": (bool,),
    "input_site": (str, NoneType),
    "output_site": (str, NoneType),
    "prefixes": (list,),
}
"""In `metadata.saedsl`."""
_CALLED: Final[dict[type, str]] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object", list: "a list"
}  # fmt: skip


def check_types(values: Mapping[str, Any], types: Types, where: str) -> None:
    """Every value of the type that its key says; true and false are no numbers."""
    for key, allowed in types.items():
        if key in values and type(values[key]) not in allowed:
            text = json.dumps(values[key])
            shown = text if len(text) <= 40 else text[:37] + "..."
            wanted = " or ".join(_CALLED[t] for t in allowed if t is not NoneType)
            raise SAEError(f"cfg.json has {where}{key} = {shown}; {wanted} is expected")
