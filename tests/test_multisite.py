"""Dictionaries of several sites in programs: refused once, with the sites; nothing else is reported for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from saedsl.errors import ProgramError
from saedsl.lsp.document import Document
from saedsl.lsp.hover import hover
from saedsl.model import InterpretableModel
from saedsl.sae.dictionary import SAE

SITES = ("L0.mlp", "L1.mlp")
SAEs = Callable[..., SAE]
MESSAGE = "c is a crosscoder: a program's dictionary reads one site and writes one"


@pytest.mark.parametrize("on", ["", " on L0.mlp", " on L0.mlp -> L1.mlp"])
def test_a_crosscoder_of_the_program_is_refused(
    on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: InterpretableModel, sae_of: SAEs
) -> None:
    monkeypatch.chdir(tmp_path)
    sae_of(64, sites=SITES).save("cross")
    with pytest.raises(ProgramError) as caught:
        llama.run(f'sae c = "cross"{on}\nat c ablate c.f1\nrun', prompts="The cat")
    (d,) = caught.value.diagnostics
    assert (d.code, d.message, d.label) == ("S331", MESSAGE, "it reads L0.mlp, L1.mlp")
    assert d.hints == ("encode with it in Python: sae.encode({...})",)


@pytest.mark.parametrize("name", ["c", "L0.mlp"])
def test_a_crosscoder_of_the_caller_is_refused(name: str, llama: InterpretableModel, sae_of: SAEs) -> None:
    with pytest.raises(ProgramError) as caught:
        llama.run(f"at {name} ablate f1\nrun", prompts="The cat", saes={name: sae_of(64, sites=SITES)})
    (d,) = caught.value.diagnostics
    assert (d.code, d.message) == ("S331", MESSAGE.replace("c is", f"{name} is", 1))


def test_hover_names_all_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sae_of: SAEs) -> None:
    monkeypatch.chdir(tmp_path)
    sae_of(64, sites=SITES).save("cross")
    text = 'sae c = "cross"'
    found = hover(Document(text), text.index("cross"))
    assert "relu crosscoder at L0.mlp, L1.mlp: 40 features, d_in 64" in str(found)
