"""Dictionaries named on the hub: the client is patched, nothing is sent or fetched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml  # type: ignore[import-untyped]
from click.testing import CliRunner

from saedsl.cli import cli
from saedsl.errors import SAEError
from saedsl.locate import find_sae
from saedsl.sae.card import model_card, numbers
from saedsl.sae.dictionary import SAE
from saedsl.sae.hub import files_of
from saedsl.sae.names import HubName

SAEs = Callable[..., SAE]


class Hub:
    """A hub of folders: `remote` is what it has, `cache` what is on this machine."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.remote, self.cache = root / "remote", root / "cache"
        self.online, self.fetched, self.pushed = True, list[str](), dict[str, Any]()
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)

    def snapshot_download(
        self, repo: str, local_files_only: bool = False, allow_patterns: list[str] | None = None
    ) -> str:
        here = self.cache / repo
        if local_files_only:
            if not here.exists():
                raise FileNotFoundError("not in the cache")
            return str(here)
        self._connect()
        for name in allow_patterns or []:
            self.fetched.append(name)
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.remote / repo / name, here / name)
        return str(here)

    def list_repo_files(self, repo: str) -> list[str]:
        self._connect()
        root = self.remote / repo
        if not root.exists():
            raise OSError(f"404 Client Error: no repository {repo}\nmore lines")
        return [str(p.relative_to(root)) for p in sorted(root.rglob("*")) if p.is_file()]

    def create_repo(self, repo: str, private: bool, exist_ok: bool) -> None:
        self._connect()
        self.pushed |= {"repo": repo, "private": private, "exist_ok": exist_ok}

    def upload_folder(self, repo_id: str, folder_path: Path, path_in_repo: str | None, commit_message: str) -> str:
        files = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}
        self.pushed |= {"files": files, "place": path_in_repo, "message": commit_message}
        return f"hub/{repo_id}/commit/1"

    def _connect(self) -> None:
        if not self.online:
            raise ConnectionError("no network\nmore lines")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.chdir(tmp_path)
    return Hub(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/repo", HubName("org/repo")),
        ("org/repo:a/b", HubName("org/repo", "a/b")),
        ("org/repo:a/", HubName("org/repo", "a")),
        ("./org/repo", None),
        ("~/repo", None),
        ("/org/repo", None),
        ("org/repo/more", None),
        ("repo", None),
        ("saes/L2.mlp", HubName("saes/L2.mlp")),
        ("a:b", None),
        ("../repo", None),
    ],
)
def test_names_of_the_hub(text: str, name: HubName | None) -> None:
    assert HubName.parse(text) == name
    assert name is None or HubName.parse(str(name)) == name


@pytest.mark.parametrize("place", ["..", "a/../b", "a//b", "", ".", "a\\b", "a\nb"])
def test_a_place_outside_of_the_repository_is_refused(place: str) -> None:
    with pytest.raises(SAEError, match=r"is no folder of a repository; write org/repo:folder/subfolder"):
        HubName.parse(f"org/repo:{place}")


def test_what_is_not_in_the_cache_is_downloaded_once_and_nothing_else_with_it(hub: Hub, sae_of: SAEs) -> None:
    sae = sae_of(site="L0.mlp").save(hub.remote / "org/repo/layer_0/wide")
    sae_of(seed=1).save(hub.remote / "org/repo/layer_1")
    assert SAE.load("org/repo:layer_0/wide").info.fingerprint == sae.info.fingerprint
    assert hub.fetched == ["layer_0/wide/cfg.json", "layer_0/wide/sae_weights.safetensors"]
    hub.online = False
    assert SAE.load("org/repo:layer_0/wide").info.fingerprint == sae.info.fingerprint


def test_an_interrupted_download_is_taken_up_again(hub: Hub, sae_of: SAEs) -> None:
    sae = sae_of().save(hub.remote / "org/repo")
    (hub.cache / "org/repo").mkdir(parents=True)
    shutil.copy(hub.remote / "org/repo/cfg.json", hub.cache / "org/repo")
    assert SAE.load("org/repo").sha256 == sae.sha256


def test_what_is_wrong_with_a_copy_is_said_without_a_network(hub: Hub, sae_of: SAEs) -> None:
    sae_of().save(hub.cache / "org/repo")
    (hub.cache / "org/repo/sae_weights.safetensors").unlink()
    hub.online = False
    with pytest.raises(SAEError, match=r"sae_weights\.safetensors is missing beside cfg\.json"):
        SAE.load("org/repo")


def test_a_local_folder_of_that_name_comes_first(hub: Hub, sae_of: SAEs) -> None:
    sae_of().save(hub.remote / "org/repo")
    here = sae_of(seed=1).save("org/repo")
    assert SAE.load("org/repo").sha256 == here.sha256
    assert hub.fetched == []


def test_a_check_downloads_nothing(hub: Hub, sae_of: SAEs) -> None:
    sae_of().save(hub.remote / "org/repo")
    with pytest.raises(SAEError) as caught:
        find_sae("org/repo")
    assert str(caught.value) == (
        "org/repo: there is no such file or folder, and no copy of such a hub repository on this machine; "
        "`saedsl run` downloads it, or: hf download org/repo"
    )
    assert hub.fetched == []


def test_without_a_network_the_error_says_so(hub: Hub) -> None:
    hub.online = False
    with pytest.raises(SAEError) as caught:
        SAE.load("org/repo")
    assert str(caught.value) == "org/repo: there is no such file or folder, and the hub gave none (no network)"


def test_a_repository_without_the_dictionary_says_what_it_has(hub: Hub, sae_of: SAEs) -> None:
    sae_of().save(hub.remote / "org/repo/layer_0")
    sae_of().save(hub.remote / "org/repo/layer_1")
    for name, what in (("org/repo", "at its root"), ("org/repo:layer_9", "there")):
        with pytest.raises(SAEError) as caught:
            SAE.load(name)
        assert str(caught.value) == (
            f"{name}: the repository holds no dictionary {what}; there are: org/repo:layer_0, org/repo:layer_1"
        )


def test_the_files_of_one_dictionary() -> None:
    files = ["README.md", "config.yaml", "a.pt", "big.bin", "checkpoints/final.safetensors", "x/cfg.json", "x/w.npz"]
    assert files_of(HubName("o/r"), files) == ["config.yaml", "a.pt", "checkpoints/final.safetensors"]
    assert files_of(HubName("o/r", "x"), files) == ["x/cfg.json", "x/w.npz"]
    assert files_of(HubName("o/r", "x/w.npz"), files) == ["x/w.npz", "x/cfg.json"]
    assert files_of(HubName("o/r", "a.pt"), files) == ["a.pt", "config.yaml"]


def test_a_program_names_a_dictionary_of_the_hub(hub: Hub, llama: Any, sae_of: SAEs) -> None:
    sae_of(site="L0.mlp", trained_on_bos=False).save(hub.remote / "org/repo")
    result = llama.run('sae g = "org/repo"\nat L0.mlp ablate g.f1\nrun', prompts="The cat sat")
    assert result is not None
    assert "sae_weights.safetensors" in hub.fetched


def test_pushing_uploads_the_dictionary_with_a_card(hub: Hub, tmp_path: Path, sae_of: SAEs) -> None:
    sae = sae_of(site="L0.mlp", activation="gated", model_name="org/model").save(tmp_path / "mine")
    (tmp_path / "mine.report.json").write_text(json.dumps({"validation": [{"l0": 3.0}, {"l0": 7.25, "mse": None}]}))
    assert sae.push_to_hub("me/repo", private=True) == "hub/me/repo/commit/1"
    assert hub.pushed["private"] is True
    assert sorted(hub.pushed["files"]) == ["README.md", "cfg.json", "sae_weights.safetensors"]
    card = hub.pushed["files"]["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "org/model"
    assert 'SAE.load("me/repo")' in card
    assert "| L0 | 7.25 |" in card
    sae.push_to_hub("me/repo", subfolder="layer_0")
    assert hub.pushed["place"] == "layer_0"
    assert "README.md" not in hub.pushed["files"]


def test_what_cannot_be_pushed_is_said(hub: Hub, sae_of: SAEs) -> None:
    with pytest.raises(SAEError, match="'repo' is not the name of a repository; write org/repo"):
        sae_of().push_to_hub("repo")
    hub.online = False
    with pytest.raises(SAEError, match=r"me/repo: the upload failed \(no network\)"):
        sae_of().push_to_hub("me/repo")


def test_text_in_a_card_is_shown_and_does_nothing(tmp_path: Path, sae_of: SAEs) -> None:
    evil = 'x"\n---\n# <script>alert(1)</script> | [a](b) `c`'
    info = sae_of(site="L0.mlp", model_name=evil).save(tmp_path / "sae").info
    card = model_card(info, "me/repo", {"explained_variance": 0.9})
    assert card.count("\n---\n") == 1
    assert "<script" not in card
    assert r"&lt;script&gt;alert\(1\)&lt;/script&gt; \| \[a\]\(b\) \`c\`" in card
    assert "base_model" not in card
    assert "| Explained variance | 0.9 |" in card


def test_a_card_shows_known_finite_numbers_only() -> None:
    report = {
        "l0": float("nan"),
        "mse": True,
        "kl": "x",
        "other": 3,
        "tokens": 12345,
        "validation": {"l0": 2, "kl": 0.5},
    }
    assert list(numbers(report)) == [("L0", "2"), ("KL", "0.5"), ("Tokens measured", "12,345")]


# Converting --------------------------------------------------------------------------------------------------------


def test_converting_writes_the_layout_that_is_asked_for(hub: Hub, sae_of: SAEs) -> None:
    sae = sae_of(site="L0.mlp", activation="gated").save(hub.remote / "org/repo/a")
    run = CliRunner()
    done = run.invoke(cli, ["convert", "org/repo:a", "own", "--to", "native", "--json"])
    assert done.exit_code == 0, done.output
    about = json.loads(done.stdout)
    assert (about["from"], about["to"], about["sha256"]) == ("saelens", "saedsl", sae.sha256)
    done = run.invoke(cli, ["convert", "own", "back", "--dtype", "float16"])
    assert done.output == "back: gated sae, 40 features, saedsl -> saelens\n"
    assert {t.dtype for t in SAE.load("back").info.tensors} == {"F16"}


def test_what_cannot_be_converted_is_said_and_nothing_is_written(hub: Hub, tmp_path: Path, sae_of: SAEs) -> None:
    sae_of(64, sites=("L0.mlp", "L1.mlp")).save(tmp_path / "cross")
    sae_of().save(tmp_path / "sae")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/diary.txt").touch()
    hub.online = False
    for arguments, message in [
        (["cross", "out", "--to", "saelens"], "SAELens' layout cannot say a crosscoder; write saedsl's own"),
        (["sae", "full"], "holds diary.txt, which saving would delete"),
        (["sae", "sae"], "sae: IN and OUT are the same; choose another folder"),
        (["none", "out"], "none: there is no such file or folder"),
        (["org/none", "out"], "org/none: there is no such file or folder, and the hub gave none (no network)"),
    ]:
        done = CliRunner().invoke(cli, ["convert", *arguments])
        assert done.exit_code == 2
        assert message in done.output
        assert not (tmp_path / "out").exists()
