"""The words of the language: one table that the parser, the checker, the editors and the documentation read.

Neither lark nor mlx is imported here.
"""

from __future__ import annotations

from typing import Final

STATEMENTS: Final[dict[str, str]] = {
    "model": "the model to load",
    "sae": "a dictionary, bound to a site",
    "prompt": "a named prompt",
    "let": "a named number or feature set",
    "at": "interventions at one or more sites",
    "record": "activations to keep in the result",
    "run": "run prompts, baseline and edited side by side",
    "generate": "continue a prompt, baseline and edited side by side",
}
"""Words that start a statement, with what the statement says."""

EDITS: Final[dict[str, str]] = {
    "ablate": "remove the influence of features or of the whole site",
    "amplify": "multiply by a number",
    "set": "force to a value",
    "clamp": "bound to a range",
    "add": "add multiples of decoder directions",
}
"""Words that start an edit."""

POSITIONS: Final[dict[str, str]] = {
    "prompt": "positions of the prompt",
    "gen": "generated tokens, read as input",
    "last": "the newest token at every step",
    "all": "every position; dictionary edits skip BOS unless trained on it",
    "everywhere": "every position, BOS included",
    "bos": "the beginning-of-sequence token",
    "every": "every place where the prompt spells a token",
    "span": "all tokens of a spelled string",
}
"""Words of the position language, after `@`."""

OTHER: Final[dict[str, str]] = {
    "to": "clamp f3 to 0..5",
    "on": 'sae g = "path" on L12.mlp',
    "x": "amplify f7 x2",
    "except": "@ all except bos",
}

COMPONENTS: Final[dict[str, str]] = {
    "resid_pre": "residual stream before the block",
    "resid_mid": "residual stream between attention and MLP",
    "resid_post": "residual stream after the block",
    "attn": "what attention adds to the residual stream",
    "attn.raw": "the attention sublayer's own output, before a post-norm",
    "attn.in": "what attention reads, after the pre-norm",
    "attn.z": "heads' outputs: input of the output projection",
    "mlp": "what the MLP adds to the residual stream",
    "mlp.raw": "the MLP's own output, before a post-norm",
    "mlp.in": "what the MLP reads, after the pre-norm",
    "mlp.act": "neurons: input of the down projection",
}
"""Components of a layer, in the order in which a block computes them is `sites.ORDER`."""

COMPONENT_ALIASES: Final[dict[str, str]] = {"resid": "resid_post"}

GLOBAL_SITES: Final[dict[str, str]] = {
    "embed": "what enters block 0",
    "final": "output of the final norm",
    "logits": "the model's output, after any softcap",
}
"""Sites without a layer."""

LATER_STATEMENTS: Final[dict[str, str]] = {
    "prompts": "a named file of prompts",
    "dir": "a named direction",
    "metric": "a number to compute from a run",
    "sweep": "run once per value",
    "include": "another file's statements",
    "reset": "clear the interventions above",
}
"""Words that start a statement in a later version of the language."""

LATER_EDITS: Final[dict[str, str]] = {
    "patch": "take the value from another prompt's run",
    "freeze": "hold at the unedited run's value",
    "keep": "ablate every other feature",
    "drop": "remove the reconstruction error",
    "project": "remove the component along a direction",
}
"""Words that start an edit in a later version of the language."""

LATER_CLAUSES: Final[dict[str, str]] = {
    "when": "a condition",
    "then": "edits in sequence",
    "from": "where a patch comes from",
    "with": "options of a run",
}
"""Other words of a later version of the language."""

LATER_TARGETS: Final[dict[str, str]] = {"error": "a dictionary's reconstruction error"}
"""What a later version of the language can change beside features and sites."""

LATER_UNITS: Final[dict[str, str]] = {
    "max": "times the feature's recorded maximum",
    "std": "times the feature's standard deviation",
    "norm": "as a share of the activation's norm",
}
"""Units of numbers in a later version of the language."""

LATER_COMPONENTS: Final[dict[str, str]] = {
    "attn.q": "queries",
    "attn.k": "keys",
    "attn.v": "values",
    "attn.pattern": "attention weights, after the softmax",
}
"""Components of a layer in a later version of the language."""

LATER: Final[frozenset[str]] = frozenset(
    (*LATER_STATEMENTS, *LATER_EDITS, *LATER_CLAUSES, *LATER_TARGETS, *LATER_UNITS)
)
"""Every reserved word of a later version of the language."""

RESERVED: Final[frozenset[str]] = (
    frozenset(STATEMENTS)
    | frozenset(EDITS)
    | frozenset(POSITIONS)
    | frozenset(OTHER)
    | frozenset(GLOBAL_SITES)
    | LATER
    | {"L"}
)
"""Words that cannot be used as names."""
