"""The words of the language: one table that the parser, the checker, the editors and the documentation read.

Neither lark nor mlx is imported here.
"""

from __future__ import annotations

from typing import Final

STATEMENTS: Final[dict[str, str]] = {
    "model": "the model to load",
    "sae": "a dictionary, bound to a site",
    "prompt": "a named prompt",
    "prompts": "a named file of prompts",
    "let": "a named number or feature set",
    "dir": "a named direction, from a file",
    "metric": "a number to compute from every run",
    "at": "interventions at one or more sites",
    "record": "activations to keep in the result",
    "sweep": "run once per value",
    "include": "the statements of another file",
    "reset": "clear the interventions, records, metrics and sweeps above",
    "run": "run prompts, baseline and edited side by side",
    "generate": "continue a prompt, baseline and edited side by side",
}
"""Words that start a statement, with what the statement says."""

EDITS: Final[dict[str, str]] = {
    "ablate": "remove the influence of features, heads, the error or the whole site",
    "amplify": "multiply by a number",
    "set": "force to a value",
    "clamp": "bound to a range",
    "add": "add multiples of decoder directions",
    "project": "project out: remove the component along directions",
    "patch": "take the value from another prompt's run",
    "freeze": "hold at the unedited run's value",
    "keep": "keep only: ablate everything else",
    "drop": "drop error: remove what the dictionary does not reconstruct",
    "apply": "an edit registered in Python",
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

TARGETS: Final[dict[str, str]] = {
    "all": "every feature of the site's dictionary",
    "error": "what the dictionary does not reconstruct",
    "dir": "a direction: dir d",
}
"""What an edit can change, beside features, heads, coordinates and the site itself."""

UNITS: Final[dict[str, str]] = {
    "max": "times the feature's recorded maximum",
    "std": "times the feature's standard deviation",
    "norm": "the added vector's norm, as a share of the activation's",
}
"""Units of numbers: `set f9 = 4 max`."""

CLAUSES: Final[dict[str, str]] = {
    "when": "a condition: ablate f1 when f3 > 0.5",
    "then": "edits in sequence: set f5 = 4 then amplify f5 x2",
    "from": "where a patch comes from: patch f1 from it",
    "with": "options of a run: run fr with mode = frozen",
    "as": "the name of a result: run fr as first",
    "to": "a range or a replacement: clamp f3 to 0..5, ablate f1 to mean of io",
    "on": 'a site: sae g = "path" on L12.mlp',
    "x": "a factor: amplify f7 x2",
    "by": "steps of a sweep, means by position: sweep s in 0..4 by 0.5",
    "else": "what the others become: keep only f1 else mean of io",
    "and": "when f3 > 1 and f4 > 1",
    "or": "when f3 > 1 or f4 > 1",
    "except": "positions without others: @ all except bos",
}
"""Words that join the parts of a statement. They are not names."""

FREE_WORDS: Final[dict[str, str]] = {
    "chat": 'through the chat template: prompt it = chat "Hi"',
    "system": 'a system message: prompt it = chat "Hi" system "Be brief."',
    "in": "values of a sweep, a module's input: sweep s in [1, 2]",
    "out": 'a module\'s output, `project out`: module "model.norm" out',
    "module": 'any module of the model: at module "model.norm" out',
    "zero": "ablate f1 to zero, which is the default",
    "mean": "a mean over a reference: ablate f1 to mean of io",
    "position": "a mean for every position: ablate f1 to mean by position of io",
    "resample": "the value in another text: ablate f1 to resample of io",
    "of": "the reference of a mean or a resample",
    "only": "keep only {f1, f2}",
    "not": "when not f3 > 1",
}
"""Words with a meaning in one place only: elsewhere they are free, as names too."""

FUNCTIONS: Final[dict[str, str]] = {
    "logit": 'of one token: logit(" Paris"), logit(io.answer)',
    "prob": 'probability of one token: prob(" Paris")',
    "logprob": 'of a text, summed over its tokens: logprob(" New York")',
    "kl": "KL divergence of the edited from the baseline distribution: kl()",
    "ce": "cross-entropy of the prompt's own tokens: ce()",
    "act": "activation of a feature: act(g.f42)",
    "norm": "norm of the activation at a site: norm(L3.resid)",
}
"""What a metric is computed from."""

OPTIONS: Final[dict[str, str]] = {
    "mode": "what is recomputed downstream of an edit: iterative, frozen or direct",
    "seed": "of sampling and resampling: a whole number",
    "temp": "temperature of sampling: 0 is greedy",
    "top_p": "share of probability that is sampled from",
}
"""Options of `run ... with`; the last two of `generate` only."""

MODES: Final[dict[str, str]] = {
    "iterative": "everything downstream recomputes",
    "frozen": "attention patterns are those of the unedited run",
    "direct": "attention patterns, norms' denominators and MLP outputs are those of the unedited run",
}
"""Values of the option `mode`."""

COMPONENTS: Final[dict[str, str]] = {
    "resid_pre": "residual stream before the block",
    "resid_mid": "residual stream between attention and MLP",
    "resid_post": "residual stream after the block",
    "attn": "what attention adds to the residual stream",
    "attn.raw": "the attention sublayer's own output, before a post-norm",
    "attn.in": "what attention reads, after the pre-norm",
    "attn.q": "queries, by head, before rotation",
    "attn.k": "keys, by key-value head, before rotation",
    "attn.v": "values, by key-value head",
    "attn.pattern": "attention weights by head, after the softmax",
    "attn.z": "heads' outputs: input of the output projection",
    "mlp": "what the MLP adds to the residual stream",
    "mlp.raw": "the MLP's own output, before a post-norm",
    "mlp.in": "what the MLP reads, after the pre-norm",
    "mlp.act": "neurons: input of the down projection",
}
"""Components of a layer; the order in which a block computes them is `sites.ORDER`."""

COMPONENT_ALIASES: Final[dict[str, str]] = {"resid": "resid_post"}

GLOBAL_SITES: Final[dict[str, str]] = {
    "embed": "what enters block 0",
    "final": "output of the final norm",
    "logits": "the model's output, after any softcap",
}
"""Sites without a layer."""

RESERVED: Final[frozenset[str]] = frozenset(
    (*STATEMENTS, *EDITS, *POSITIONS, *TARGETS, *UNITS, *CLAUSES, *GLOBAL_SITES, "L")
)
"""Words that cannot be used as names."""
