"""A small task on the tiny model: two prompts, three dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saedsl.circuits.task import Task, task_of
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE

SAEOf = Callable[..., SAE]
ROWS = (
    {"prompt": " the cat sat on a mat", "corrupt": " the dog sat on a mat", "answer": " Paris", "wrong": " Rome"},
    {"prompt": " a dog sat on the cat", "corrupt": " a cat sat on the mat", "answer": " Rome", "wrong": " dog"},
)
METRIC = "logit(io.answer) - logit(io.wrong)"


def dictionaries(sae_of: SAEOf) -> dict[str, SAE]:
    """SAEs of two kinds and a transcoder with a skip; one was trained on BOS."""
    return {
        "L0.mlp": sae_of(site="L0.mlp", read="L0.mlp.in", seed=2, trained_on_bos=False, skip=True),
        "L0.resid_post": sae_of(site="L0.resid_post", seed=3, activation="topk", k=6, trained_on_bos=True),
        "L1.mlp": sae_of(site="L1.mlp", seed=4, normalize="layer_norm", trained_on_bos=False),
    }


def small_task(model: InterpretableModel, sae_of: SAEOf, **options: Any) -> Task:
    """The task, with options of `task_of`."""
    return task_of(model, options.pop("saes", None) or dictionaries(sae_of), options.pop("rows", ROWS),
                   options.pop("metric", METRIC), **options)  # fmt: skip
