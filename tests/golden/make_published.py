"""Make golden files of published formats, as SAELens' own loaders understand them.

Run where `sae-lens` (6.54) is installed; saedsl need not be:  python tests/golden/make_published.py
Each case is a small file with random weights in the published layout, put where the loader would have downloaded it.
`published/<name>/...` are these files, `published.npz` the tokens and what SAELens makes of them. Llama Scope's
decoders have rows of unit length here: of others SAELens does not scale the threshold.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found]
from sae_lens.loading import pretrained_sae_loaders as loaders  # type: ignore[import-not-found]
from sae_lens.registry import get_sae_class  # type: ignore[import-not-found]
from safetensors.torch import save_file

HERE = Path(__file__).parent
ROOT = HERE / "published"
D, F = 8, 24


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * 0.5


def write(path: str, tensors: dict[str, torch.Tensor]) -> None:
    file = ROOT / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".npz":
        np.savez(file, **{name: value.numpy() for name, value in tensors.items()})
    elif file.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in tensors.items()}, file)
    else:
        torch.save(tensors, file)


def upper() -> dict[str, torch.Tensor]:
    return {
        "W_enc": random(D, F), "W_dec": random(F, D), "b_enc": random(F), "b_dec": random(D), "threshold": torch.rand(F)
    }  # fmt: skip


def gemma_2(kind: str) -> Callable[[], tuple[str, str]]:
    def make() -> tuple[str, str]:
        repo, folder = f"gemma-scope-2b-pt-{kind}", "layer_2/width_16k/average_l0_71"
        write(f"{repo}/{folder}/params.npz", upper())
        return repo, folder

    return make


def gemma_3(name: str, affine: bool) -> Callable[[], tuple[str, str]]:
    def make() -> tuple[str, str]:
        repo, folder = "gemma-scope-2-1b-pt", f"{name}/layer_2_width_16k_l0_small{'_affine' * affine}"
        tensors = {key.lower(): value for key, value in upper().items()}
        write(
            f"{repo}/{folder}/params.safetensors",
            tensors | ({"affine_skip_connection": random(D, D)} if affine else {}),
        )
        if affine:
            point = "model.layers.2.{}_feedforward_layernorm.output"
            config = {
                "architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "affine_connection": True,
                "hf_hook_point_in": point.format("pre"), "hf_hook_point_out": point.format("post"),
            }  # fmt: skip
            (ROOT / repo / folder / "config.json").write_text(json.dumps(config))
        return repo, folder

    return make


def goodfire() -> tuple[str, str]:
    repo, name = "Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth"
    linear = {"encoder_linear.weight": random(F, D), "encoder_linear.bias": random(F)}
    write(f"{repo}/{name}", linear | {"decoder_linear.weight": random(D, F), "decoder_linear.bias": random(D)})
    return repo, name


def qwen_scope() -> tuple[str, str]:
    repo = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    tensors = {"W_enc": random(F, D), "W_dec": random(D, F), "b_enc": random(F), "b_dec": random(D)}
    write(f"{repo}/layer3.sae.pt", tensors)
    return repo, "layer3.sae.pt"


def llama_scope() -> tuple[str, str]:
    repo, folder = "Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L8R-8x"
    decoder = random(D, F)
    linear = {"encoder.weight": random(F, D), "encoder.bias": random(F), "decoder.bias": random(D)}
    tensors = linear | {"decoder.weight": decoder / decoder.norm(dim=0, keepdim=True)}
    write(f"{repo}/{folder}/checkpoints/final.safetensors", tensors)
    config = {
        "hook_point_in": "blocks.8.hook_resid_post", "hook_point_out": "blocks.8.hook_resid_post", "d_model": D,
        "d_sae": F, "act_fn": "jumprelu", "jump_relu_threshold": 0.25, "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 1.5, "out": 1.5}, "sparsity_include_decoder_norm": True,
        "top_k": 50, "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False,
    }  # fmt: skip
    (ROOT / repo / folder / "hyperparams.json").write_text(json.dumps(config))
    return repo, folder


def circuit_tracer() -> tuple[str, str]:
    repo = "transcoders"
    tensors = upper()
    tensors["W_enc"] = tensors["W_enc"].T
    del tensors["threshold"]
    write(f"{repo}/layer_3.safetensors", tensors)
    (ROOT / repo / "config.yaml").write_text(
        "model_name: Qwen/Qwen3-4B\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    )
    wandb = {name: {"value": value} for name, value in {"d_model": D, "d_feature": F, "batch_size": 1}.items()}
    (ROOT / repo / "wandb-config.yaml").write_text(json.dumps(wandb))
    return repo, "layer_3.safetensors"


CASES: dict[str, tuple[Callable[[], tuple[str, str]], Any]] = {
    "gemma_scope_res": (gemma_2("res"), loaders.gemma_2_sae_huggingface_loader),
    "gemma_scope_mlp": (gemma_2("mlp"), loaders.gemma_2_sae_huggingface_loader),
    "gemma_scope_att": (gemma_2("att"), loaders.gemma_2_sae_huggingface_loader),
    "gemma_scope_transcoders": (gemma_2("transcoders"), loaders.gemma_2_transcoder_huggingface_loader),
    "gemma_scope_2_res": (gemma_3("resid_post", False), loaders.gemma_3_sae_huggingface_loader),
    "gemma_scope_2_transcoder": (gemma_3("transcoder", True), loaders.gemma_3_sae_huggingface_loader),
    "goodfire": (goodfire, loaders.get_goodfire_huggingface_loader),
    "qwen_scope": (qwen_scope, loaders.qwen_scope_sae_huggingface_loader),
    "llama_scope": (llama_scope, loaders.llama_scope_sae_huggingface_loader),
    "circuit_tracer": (circuit_tracer, loaders.mwhanna_transcoder_huggingface_loader),
}


def local(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
    path = ROOT / repo_id / (subfolder or "") / filename
    if not path.exists():
        raise loaders.EntryNotFoundError(str(path))
    return str(path)


def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
    return {name: list(v.shape) for name, v in loaders.load_safetensors_weights(ROOT / repo_id / filename).items()}


def main() -> None:
    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = local, shapes
    x = np.random.default_rng(0).standard_normal((15, D)).astype(np.float32) * 2 + 0.3
    kept: dict[str, Any] = {"x": x}
    for name, (make, load) in CASES.items():
        torch.manual_seed(0)
        repo, place = make()
        sizes = {"d_in": D, "d_sae": F, "dtype": "float32", **({"d_out": D} if "transcoder" in name else {})}
        raw, state, _ = load(repo, place, "cpu", False, sizes)
        raw = loaders.handle_config_defaulting({**raw, "device": "cpu"})
        cls, config = get_sae_class(raw["architecture"])
        scaled = raw.get("normalize_activations") == "expected_average_only_in"
        sae = cls(config.from_dict(raw))
        sae.process_state_dict_for_loading(state)
        sae.load_state_dict(state)
        if scaled:
            sae.fold_activation_norm_scaling_factor(D**0.5 / 1.5)
        tokens = torch.from_numpy(x)[:, None] if name.endswith("att") else torch.from_numpy(x)  # of one head
        with torch.no_grad():
            kept[f"{name}_f"] = sae.encode(tokens).to_dense().numpy()
            kept[f"{name}_out"] = sae(tokens).numpy().reshape(x.shape)
        kept[f"{name}_path"] = f"{repo}/{place}"
        print(name, repo, place, raw["architecture"], float((kept[f"{name}_f"] > 0).sum(-1).mean()))
    np.savez_compressed(HERE / "published.npz", **kept)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
