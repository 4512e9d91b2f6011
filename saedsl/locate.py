"""Where models and dictionaries named in programs are on this machine. Nothing is downloaded, nothing is loaded."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from saedsl import paths
from saedsl.errors import ModelError, SAEError

DEMO = Path(__file__).parent / "demo" / "data"
"""What comes with the package: `model/`, `saes/SITE/`, `transcoders/SITE/`."""

_MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt", "*.tiktoken"]
"""Of a hub model, what mlx-lm reads."""


def find_model(name: str, base: Path = Path(), download: bool = False) -> Path:
    """The folder of a model given as `demo`, a folder (relative to `base`, then to here), or a hub id.

    Args:
        name: as the user gave it.
        base: where relative paths start.
        download: whether a hub model that is not on this machine is fetched, as mlx-lm does.

    Raises:
        ModelError: if there is nothing by that name.
    """
    if name == "demo":
        path = DEMO / "model"
        if not path.is_dir():
            raise ModelError(
                "the bundled model is missing from this installation: reinstall saedsl, "
                "or run examples/train_demo_model.py in a checkout"
            )
        return path
    found = paths.existing(name, base)
    if found is not None and found.is_dir():
        return found
    if found is not None:
        raise ModelError(f"{name}: a model is a folder with config.json, this is a file")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _hub_model(name, download)
    raise ModelError(f"{name}: there is no such folder")


def _hub_model(name: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
        if isinstance(found, str):
            return Path(found).parent
        if download:
            return Path(snapshot_download(name, allow_patterns=_MODEL_FILES))
    except Exception as e:  # a client's errors: no network, no such repository, a name that cannot be one
        raise ModelError(f"{name}: there is no such folder, and the hub gave none ({str(e).splitlines()[0]})") from None
    raise ModelError(
        f"{name}: there is no such folder, and no such hub model is on this machine; `saedsl run` downloads it, "
        f"or: hf download {name}"
    )


def find_sae(name: str, base: Path = Path(), download: bool = False) -> Path:
    """The folder or file of a dictionary.

    Args:
        name: a path (relative to `base`, then to here), `demo:L2.mlp`, or on the hub `org/repo` or
            `org/repo:subfolder`.
        base: where relative paths start.
        download: whether a hub repository that is not on this machine is fetched.

    Raises:
        SAEError: if nothing by that name is on this machine.
    """
    if name.startswith("demo:"):
        known = {f"demo:{k}": v for k, v in [*bundled("saes").items(), *bundled("transcoders").items()]}
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise SAEError(f"{name}: no bundled dictionary has this name{hint}")
        return known[name]
    here = paths.existing(name, base)
    if here is not None:
        return here
    from saedsl.sae.names import local_or_hub

    found = paths.existing(local_or_hub(name, download), Path())
    if found is not None:
        return found
    raise SAEError(f"{name}: there is no such file or folder")


def bundled(kind: str) -> dict[str, Path]:
    """The bundled `saes` by site text (`L2.mlp`), or `transcoders` by site text (`L2.mlp.transcoder`)."""
    suffix = ".transcoder" if kind == "transcoders" else ""
    return {f"{p.name}{suffix}": p for p in sorted((DEMO / kind).glob("L*"))}
