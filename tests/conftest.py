"""Shared fixtures: a tiny random model of every family, random dictionaries, and the same in numpy for the oracle."""

# ruff: noqa: E402 (a fast BLAS has to be loaded before mlx)

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from saedsl.blas import preload

if "PYTEST_XDIST_WORKER" in os.environ:  # there is a worker for each core already
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
preload()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background; tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the network, nor waits for it

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

sys.path.insert(0, str(Path(__file__).parents[1]))

from saedsl.model import InterpretableModel
from saedsl.sae.config import DictionaryConfig
from saedsl.sae.dictionary import SAE
from saedsl.sites import Site
from tests import oracle

WORDS = (" the", " cat", " dog", " sat", " on", " mat", " a", " Paris", " Rome")
"""Words that are one token each; everything else is spelled in bytes."""

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
_EXTRA: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 12},
    "mistral": {"head_dim": 12},
    "qwen3": {"head_dim": 12, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 12},
    "starcoder2": {"norm_epsilon": 1e-5},
    "gpt2": {
        "n_ctx": 128, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128, "layer_norm_epsilon": 1e-3,
    },
}  # fmt: skip


@cache
def _backend() -> Any:
    """A byte-level BPE tokenizer that merges `WORDS`; its post-processor adds BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in (w.replace(" ", "Ġ") for w in WORDS):
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            pieces.append(word[:end])
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab, list(dict.fromkeys(merges))))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


@cache
def _tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=_backend(), bos_token="<s>", eos_token="</s>")


def _config(family: str) -> dict[str, Any]:
    return {
        **(_SMALL if family != "gpt2" else {}),
        **_EXTRA.get(family, {}),
        "model_type": family,
        "vocab_size": _backend().get_vocab_size(),
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


def _random(model: nn.Module, seed: int) -> None:
    """Weights of a size at which every part of the model matters; norms and biases are not left at 1 and 0."""
    rng = np.random.default_rng(seed)

    def value(name: str, old: mx.array) -> mx.array:
        noise = rng.standard_normal(old.shape)
        if old.ndim == 1:
            return mx.array(1 + 0.2 * noise if name.endswith("weight") else 0.2 * noise, mx.float32)
        size = 0.7 if "embed" in name or "wte" in name or "wpe" in name else 1.3 / np.sqrt(old.shape[-1])
        return mx.array(size * noise, mx.float32)

    flat = [(name, value(name, old)) for name, old in tree_flatten(model.parameters())]
    model.update(tree_unflatten(flat))
    mx.eval(model.parameters())


def _bare(family: str, seed: int = 0) -> nn.Module:
    from mlx_lm.utils import _get_classes

    config = _config(family)
    model_class, args_class = _get_classes(config)
    model: nn.Module = model_class(args_class.from_dict(config))
    _random(model, seed)
    return model


@cache
def _model(family: str, dtype: str = "float32", seed: int = 0) -> InterpretableModel:
    model = _bare(family, seed)
    if dtype != "float32":
        model.set_dtype(getattr(mx, dtype))
        mx.eval(model.parameters())
    return InterpretableModel(model, _tokenizer(), name=f"tiny-{family}")


def _double(x: mx.array | None) -> oracle.Array:
    assert x is not None
    return np.array(x.astype(mx.float32)).astype(np.float64)


@cache
def _reference(family: str) -> oracle.Model:
    model = _model(family)
    weights = {name: _double(value) for name, value in tree_flatten(model.model.parameters())}
    return oracle.Model(weights, _config(family))


def _sae(
    d_in: int = 32,
    d_sae: int = 40,
    *,
    activation: str = "relu",
    normalize: str = "none",
    k: int = 4,
    site: str | None = None,
    read: str | None = None,
    d_out: int | None = None,
    skip: bool = False,
    subtract_b_dec: bool = True,
    trained_on_bos: bool = True,
    model_name: str | None = None,
    seed: int = 0,
    center: bool = False,
    sites: tuple[str, ...] = (),
) -> SAE:
    """A random dictionary: an SAE on `site`, with `read` a transcoder from `read` to `site`, with `sites` a crosscoder.

    `d_in` is of all sites together.
    """
    rng = np.random.default_rng(seed)
    transcoder = read is not None
    d_out = d_out or d_in
    config = DictionaryConfig(
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out,
        activation=activation,  # type: ignore[arg-type]
        k=k if "topk" in activation else None,
        kind="crosscoder" if sites else "transcoder" if transcoder else "sae",
        input_site=Site.parse(read or site) if site else None,
        output_site=Site.parse(site) if site else None,
        normalize_activations=normalize,  # type: ignore[arg-type]
        apply_b_dec_to_input=subtract_b_dec and d_out == d_in,
        skip=skip,
        model_name=model_name,
        trained_on_bos=trained_on_bos,
        center_input=center,
        input_sites=tuple(map(Site.parse, sites)),
        output_sites=tuple(map(Site.parse, sites)),
    )
    gated = activation == "gated"

    def draw(*shape: int, size: float) -> mx.array:
        return mx.array(size * rng.standard_normal(shape), mx.float32)

    return SAE(
        config,
        W_enc=draw(d_in, d_sae, size=1 / np.sqrt(d_in)),
        b_enc=None if gated else draw(d_sae, size=0.1),
        W_dec=draw(d_sae, d_out, size=1 / np.sqrt(d_out)),
        b_dec=draw(d_out, size=0.1),
        threshold=mx.abs(draw(d_sae, size=0.3)) if config.has_threshold else None,
        W_skip=draw(d_out, d_in, size=0.1) if skip else None,
        b_gate=draw(d_sae, size=0.1) if gated else None,
        r_mag=draw(d_sae, size=0.3) if gated else None,
        b_mag=draw(d_sae, size=0.1) if gated else None,
    )


def _plain(sae: SAE) -> oracle.Dictionary:
    """The same dictionary for the oracle."""
    c = sae.config
    return oracle.Dictionary(
        W_enc=_double(sae.W_enc),
        b_enc=np.zeros(c.d_sae) if sae.b_enc is None else _double(sae.b_enc),
        W_dec=_double(sae.W_dec),
        b_dec=_double(sae.b_dec),
        activation=c.activation,
        k=c.k or 0,
        threshold=None if sae.threshold is None else _double(sae.threshold),
        normalize=c.normalize_activations,
        subtract_b_dec=c.apply_b_dec_to_input,
        transcoder=c.is_transcoder,
        W_skip=None if sae.W_skip is None else _double(sae.W_skip),
        gate=None if c.activation != "gated" else (_double(sae.b_gate), _double(sae.r_mag), _double(sae.b_mag)),
        center=c.center_input,
    )


def _write(folder: Path, family: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model = _bare(family)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(_config(family)))
    _backend().save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture(scope="session")
def bare() -> Callable[..., nn.Module]:
    """`bare(family, seed=0)`: a fresh tiny random mlx-lm model."""
    return _bare


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level tokenizer that adds BOS, as transformers wraps it."""
    return _tokenizer()


@pytest.fixture(scope="session")
def model_of() -> Callable[..., InterpretableModel]:
    """`model_of(family, dtype="float32", seed=0)`: one shared tiny model for each; nothing may change it."""
    return _model


@pytest.fixture(scope="session")
def reference_of() -> Callable[[str], oracle.Model]:
    """`reference_of(family)`: `model_of(family)` in numpy."""
    return _reference


@pytest.fixture(scope="session")
def sae_of() -> Callable[..., SAE]:
    """A random dictionary; the arguments say of which kind, see `_sae`."""
    return _sae


@pytest.fixture(scope="session")
def plain() -> Callable[[SAE], oracle.Dictionary]:
    """A dictionary in numpy."""
    return _plain


@pytest.fixture(scope="session")
def llama() -> InterpretableModel:
    """The shared tiny Llama: 2 layers, d_model 32, 4 heads, 2 KV heads, head size 12."""
    return _model("llama")


@pytest.fixture(scope="session")
def write_model() -> Callable[[Path, str], Path]:
    """`write_model(folder, family)`: a tiny random model's folder."""
    return _write


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a folder; nothing may change it."""
    return _write(tmp_path_factory.mktemp("models") / "tiny", "llama")


@pytest.fixture(scope="session")
def sae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SAE of the tiny Llama's L0.mlp as a folder; nothing may change it."""
    folder = tmp_path_factory.mktemp("saes") / "L0.mlp"
    _sae(site="L0.mlp", seed=1).save(folder)
    return folder


@pytest.fixture(scope="session")
def stories() -> InterpretableModel:
    """stories260k, a trained model of 260,032 parameters, where the fixtures are."""
    folder = Path(__file__).parents[1].parent / "shared" / "fixtures" / "stories260k"
    if not (folder / "model.safetensors").is_file():
        pytest.skip("the stories260k fixture is not beside this checkout (../shared/fixtures/stories260k)")
    return InterpretableModel.load(folder)
