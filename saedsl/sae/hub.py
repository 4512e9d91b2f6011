"""Dictionaries on the Hugging Face hub: found in the local cache, else downloaded; uploaded with a model card.

Only what can belong to the dictionary is fetched: the files of one folder and below it, never a whole collection.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from saedsl.errors import SAEError
from saedsl.sae.header import SAEInfo
from saedsl.sae.names import HubName, is_repository

if TYPE_CHECKING:
    from saedsl.sae.dictionary import SAE

SUFFIXES: Final = (".json", ".safetensors", ".npz", ".pt", ".pth", ".yaml", ".yml")
"""Of the files that dictionaries come in."""
CONFIGS: Final = (".json", ".yaml", ".yml")
"""Of the files that may describe a weights' file beside them."""
BELOW_ROOT: Final = ("checkpoints/",)
"""Folders that belong to a dictionary at the root of a repository; other folders are dictionaries of their own."""


def find(name: HubName, download: bool) -> Path:
    """The folder or file of a dictionary of the hub on this machine.

    Args:
        name: of the repository and the place in it.
        download: whether it is fetched where the cache has no whole copy.

    Raises:
        SAEError: if it is not in the cache and is not, or cannot be, fetched; or there is no such place.
    """
    here = _cached(name)
    if here is not None and (not download or _whole(here)):
        return here
    if not download:
        raise SAEError(
            f"{name}: there is no such file or folder, and no copy of such a hub repository on this machine; "
            f"`saedsl run` downloads it, or: hf download {name.repo}"
        )
    try:
        return _fetched(name)
    except SAEError:
        if here is None:
            raise
        return here  # what is wrong with it, its reader says


def _cached(name: HubName) -> Path | None:
    """Where the cache has it, whole or not."""
    from huggingface_hub import snapshot_download

    try:
        root = Path(snapshot_download(name.repo, local_files_only=True))
    except Exception:  # the client's ways to say that there is no copy
        return None
    place = root if name.place is None else root / name.place
    return place if place.exists() else None


def _whole(path: Path) -> bool:
    """Whether a dictionary can be read there: an interrupted download leaves some of its files."""
    try:
        SAEInfo.read(path)
    except SAEError:
        return False
    return True


def _fetched(name: HubName) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = HfApi().list_repo_files(name.repo)
    except Exception as error:  # no network, no such repository, no permission
        raise SAEError(
            f"{name}: there is no such file or folder, and the hub gave none ({first_line(error)})"
        ) from None
    wanted = files_of(name, files)
    try:
        root = Path(snapshot_download(name.repo, allow_patterns=[_literal(file) for file in wanted]))
    except Exception as error:
        raise SAEError(f"{name}: the download failed ({first_line(error)}); try again") from None
    return root if name.place is None else root / name.place


def files_of(name: HubName, files: Sequence[str]) -> list[str]:
    """Those of a repository's `files` that the dictionary `name` may consist of.

    Raises:
        SAEError: if there are none; the message names places where there are some.
    """
    readable = [file for file in files if file.endswith(SUFFIXES)]
    if name.place is None:
        wanted = [file for file in readable if "/" not in file or file.startswith(BELOW_ROOT)]
        found = any(not file.endswith(CONFIGS) for file in wanted)
    elif name.place in files:
        folder = PurePosixPath(name.place).parent
        beside = [file for file in readable if file.endswith(CONFIGS) and PurePosixPath(file).parent == folder]
        wanted = [name.place, *(file for file in beside if file != name.place)]
        if name.place.endswith(".json"):  # a config: its weights lie beside it
            wanted += [file for file in readable if PurePosixPath(file).parent == folder and file not in wanted]
        found = True
    else:
        wanted = [file for file in readable if file.startswith(f"{name.place}/")]
        found = bool(wanted)
    if found:
        return wanted
    places = sorted({str(PurePosixPath(f).parent) for f in readable if "/" in f and not f.endswith(CONFIGS)})
    what = "at its root" if name.place is None else "there"
    shown = "; there are: " + ", ".join(f"{name.repo}:{place}" for place in places[:4]) if places else ""
    more = f" and {len(places) - 4} more" if len(places) > 4 else ""
    raise SAEError(f"{name}: the repository holds no dictionary {what}{shown}{more}")


def _literal(file: str) -> str:
    """A file's path as a pattern that matches nothing else."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in file)


def push(
    sae: SAE, repo: str, *, private: bool, subfolder: str | None, message: str, report: Mapping[str, Any] | None
) -> str:
    """Upload; see `SAE.push_to_hub`."""
    from huggingface_hub import HfApi

    from saedsl.sae.card import model_card

    if not is_repository(repo):
        raise SAEError(f"{repo!r} is not the name of a repository; write org/repo")
    name = HubName.parse(repo if subfolder is None else f"{repo}:{subfolder}")
    assert name is not None
    values = report if report is not None else _report_beside(sae.info.path)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sae"
        saved = sae.save(folder)
        if name.place is None:
            (folder / "README.md").write_text(model_card(saved.info, str(name), values), encoding="utf-8")
        api = HfApi()
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repo, folder_path=folder, path_in_repo=name.place, commit_message=message)
        except Exception as error:  # no network, no permission, a name that is taken
            raise SAEError(f"{name}: the upload failed ({first_line(error)})") from None
    return str(getattr(done, "commit_url", done))


def _report_beside(path: Path | None) -> Mapping[str, Any] | None:
    """What training wrote beside the dictionary's folder, if it can be read."""
    if path is None:
        return None
    try:
        values = json.loads(path.with_name(f"{path.name}.report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def first_line(error: Exception) -> str:
    """The first line of what a client says, or the name of the error."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
