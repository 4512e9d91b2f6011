"""Every kind of dictionary from named streams: what comes out computes what was trained, in the model's units."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from saedsl.errors import TrainingError
from saedsl.training import ArraySource, Job, SAEConfig, train, train_together

RNG = np.random.default_rng(3)
X = (RNG.standard_normal((3000, 6)) @ RNG.standard_normal((6, 12))).astype(np.float32)
Y = np.maximum(X @ RNG.standard_normal((12, 12)).astype(np.float32), 0)
STREAMS = {
    "L0.mlp.in": X[:, :6] * 50 + 7, "L1.mlp.in": X[:, 6:] * 0.01, "L0.mlp": Y[:, :6] * 9 - 3, "L1.mlp": Y[:, 6:],
}  # fmt: skip
SOURCE = ArraySource(STREAMS, {"model_name": "tiny", "context_size": 64})
READ, WRITE = ("L0.mlp.in", "L1.mlp.in"), ("L0.mlp", "L1.mlp")
ALL: dict[str, Any] = {"d_sae": 32, "k": 4, "learning_rate": 5e-3, "batch_size": 128, "num_tokens": 128 * 150}
TYPES: dict[str, dict[str, Any]] = {
    "batchtopk": {}, "topk": {}, "matryoshka": {}, "relu": {"target_l0": 4.0}, "gated": {"target_l0": 4.0},
    "jumprelu": {"target_l0": 4.0},
}  # fmt: skip


@pytest.mark.parametrize("sae_type", TYPES)
@pytest.mark.parametrize(
    ("inputs", "outputs", "kind"),
    [
        (READ[:1], READ[:1], "sae"),
        (READ[:1], WRITE[1:], "transcoder"),
        (READ, READ, "crosscoder"),
        (READ, WRITE, "crosscoder"),
        (READ, WRITE, "clt"),
    ],
    ids=["sae", "transcoder", "crosscoder", "crosscoder to others", "clt"],
)
def test_every_kind_and_type_explains_its_sites_at_their_own_scales(
    sae_type: Any, inputs: tuple[str, ...], outputs: tuple[str, ...], kind: Any
) -> None:
    if kind == "clt" and sae_type in ("matryoshka", "gated"):
        return
    config = SAEConfig(
        sae_type=sae_type, kind=kind if kind in ("crosscoder", "clt") else None, **ALL, **TYPES[sae_type]
    )
    trained = train(SOURCE, config, inputs=inputs, outputs=outputs, progress=False)
    c = trained.sae.config
    assert (c.kind, c.model_name, c.context_size) == (kind, "tiny", 64)
    if c.several_sites:
        assert [str(s) for s in c.input_sites] == list(inputs)
        assert [str(s) for s in c.output_sites] == list(outputs)
    else:
        assert (str(c.input_site), str(c.output_site)) == (inputs[0], outputs[0])
    x = np.concatenate([STREAMS[s] for s in inputs], axis=1)
    made = np.array(trained.sae(mx.array(x)))
    at = 0
    for name in outputs:  # each by itself: one scale for all would lose the small one
        want = STREAMS[name]
        got = made[:, at : at + want.shape[1]]
        at += want.shape[1]
        explained = 1 - np.square(want - got).sum() / np.square(want - want.mean(axis=0)).sum()
        assert explained > (0.2 if sae_type == "relu" else 0.35 if inputs != outputs else 0.55), name


def test_a_skip_transcoder_learns_a_linear_map_by_its_skip() -> None:
    source = ArraySource({"L0.mlp.in": X * 20, "L0.mlp": X @ RNG.standard_normal((12, 5)).astype(np.float32) + 4})
    explained = {}
    for skip in (False, True):
        config = SAEConfig(**{**ALL, "k": 1, "num_tokens": 128 * 400}, skip=skip)
        report = train(source, config, outputs=["L0.mlp"], progress=False).report
        explained[skip] = report.validation[-1].explained_variance
    assert explained[True] > 0.99 > explained[False] + 0.05


def test_one_stream_trains_several_dictionaries_as_if_each_were_alone() -> None:
    jobs = {s: Job(SAEConfig(**{**ALL, "k": k}), (s,), (s,)) for s, k in (("L0.mlp", 3), ("L1.mlp", 5))}
    together = train_together(SOURCE, jobs, progress=False)
    for name, job in jobs.items():
        alone = train(SOURCE, job.config, inputs=[name], progress=False)
        assert alone.sae.sha256 == together[name].sae.sha256


def test_dictionaries_trained_together_read_the_same_batches() -> None:
    jobs = {s: Job(SAEConfig(**{**ALL, "seed": i}), (s,)) for i, s in enumerate(WRITE)}
    with pytest.raises(
        TrainingError, match=r"^dictionaries that are trained together read the same batches, but seed is 0"
    ):
        train_together(SOURCE, jobs, progress=False)
    with pytest.raises(TrainingError, match="there is no dictionary to train"):
        train_together(SOURCE, {}, progress=False)


@pytest.mark.parametrize(
    ("inputs", "outputs", "changes", "message"),
    [
        (["L9.mlp"], [], {}, "there are no activations 'L9.mlp'; there are L0.mlp.in, L1.mlp.in, L0.mlp, L1.mlp"),
        ([], [], {}, "but has one site of each; several are a crosscoder's or a clt's: set kind"),
        (READ[:1], WRITE[:1], {"kind": "sae"}, "an SAE writes what it reads, but it reads L0.mlp.in and writes L0.mlp"),
        (READ[:1], [], {"kind": "transcoder"}, "a transcoder writes another site than L0.mlp.in: give targets"),
        (READ[:1], [], {"kind": "crosscoder"}, "a crosscoder reads or writes several sites, this one only L0.mlp.in"),
        (READ, READ, {"kind": "clt"}, "a clt reads one site of each of several layers and writes another of each, not"),
        (READ, WRITE, {"kind": "clt", "d_sae": 31}, "31 features do not divide into 2 layers; choose another d_sae"),
        (READ[:1], [], {"skip": True}, "skip is a transcoder's, this is an sae"),
        (READ[:1], [], {"k": 99}, "k is 99, more than the 32 features there are; lower k or raise d_sae"),
        (READ[:1], [], {"num_tokens": None, "batch_size": 4000}, "tokens .* are fewer than one batch of 4000; lower"),
    ],
)
def test_streams_that_do_not_make_up_the_dictionary_are_refused(
    inputs: Any, outputs: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(SOURCE, SAEConfig(**{**ALL, **changes}), inputs=inputs, outputs=outputs, progress=False)


def test_what_a_curriculum_by_length_needs_is_said() -> None:
    with pytest.raises(TrainingError, match="curriculum 'length' needs texts, which are read short ones first"):
        train(X, SAEConfig(**ALL, curriculum="length"), progress=False)
