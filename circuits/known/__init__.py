"""Hand-built and trained models whose circuits are known, to try circuit methods on.

model = KNOWN["backup"](vocab=9, seed=0)
task = prompts(model, n=16, seed=0).task("zero")
truth = labels(model, task)
auroc(ig_contexts(task).of(truth.edges), truth.pivotal)
"""

from saedsl.circuits.known.build import KnownModel
from saedsl.circuits.known.dictionary import true_dictionary
from saedsl.circuits.known.models import KNOWN
from saedsl.circuits.known.scoring import auprc, auroc
from saedsl.circuits.known.truth import KnownPrompts, Truth, labels, prompts

__all__ = ["KNOWN", "KnownModel", "KnownPrompts", "Truth", "auprc", "auroc", "labels", "prompts", "true_dictionary"]
