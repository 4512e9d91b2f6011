"""The bundled dictionaries, measured on text that neither the model nor they were trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import saedsl
from saedsl.demo import Demo
from saedsl.demo.text import documents
from saedsl.locate import DEMO
from saedsl.sites import Site
from saedsl.training import evaluate
from saedsl.training.harvest import Batch, batches, harvest, recovered

SAES = [f"L{i}.{c}" for i in range(4) for c in ("mlp", "resid_post")]
TRANSCODERS = [f"L{i}.mlp" for i in range(4)]
CONTEXT = 96


@pytest.fixture(scope="module")
def demo() -> Demo:
    return saedsl.load_demo()


@pytest.fixture(scope="module")
def held_out() -> list[str]:
    return list(documents(300, seed=77, split="held_out"))


@pytest.fixture(scope="module")
def activations(demo: Demo, held_out: list[str]) -> Mapping[Site, np.ndarray]:
    sites = [Site.parse(s) for s in (*SAES, *(f"{t}.in" for t in TRANSCODERS))]
    return harvest(demo.model, held_out, sites, CONTEXT)


@pytest.fixture(scope="module")
def rows(demo: Demo, held_out: list[str]) -> list[Batch]:
    return list(batches(demo.model, held_out[:60], CONTEXT))


def test_there_is_an_sae_for_every_mlp_and_resid_post_and_a_transcoder_for_every_mlp(demo: Demo) -> None:
    assert sorted(demo.saes) == sorted(SAES)
    assert sorted(demo.transcoders) == sorted(TRANSCODERS)
    for sae in (*demo.saes.values(), *demo.transcoders.values()):
        assert sae.config.d_sae == 8 * 128
        assert sae.config.activation in ("jumprelu", "batchtopk")
    for name, t in demo.transcoders.items():
        assert (str(t.config.input_site), str(t.config.output_site)) == (f"{name}.in", name)


@pytest.mark.parametrize("name", SAES)
def test_a_bundled_sae_meets_its_targets(
    name: str, demo: Demo, activations: Mapping[Site, np.ndarray], rows: list[Batch]
) -> None:
    site = Site.parse(name)
    measured = evaluate(demo.saes[name], activations[site])
    assert measured.l0 <= 16
    assert measured.explained_variance >= 0.88
    assert measured.dead < 0.10
    assert recovered(demo.model, demo.saes[name], rows) >= 0.95


@pytest.mark.parametrize("name", TRANSCODERS)
def test_a_bundled_transcoder_meets_its_targets(
    name: str, demo: Demo, activations: Mapping[Site, np.ndarray], rows: list[Batch]
) -> None:
    site = Site.parse(name)
    measured = evaluate(demo.transcoders[name], activations[Site(site.layer, "mlp.in")], activations[site])
    assert measured.l0 <= 16
    assert measured.explained_variance >= 0.88
    assert measured.dead < 0.10
    assert recovered(demo.model, demo.transcoders[name], rows) >= 0.95


def test_all_shipped_data_together_is_at_most_10_mb() -> None:
    files = [f for f in DEMO.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 10e6


def test_the_program_of_the_readme_suppresses_a_name(demo: Demo) -> None:
    (p,) = demo.model.run("at L2.mlp ablate f42; amplify f7 x2").prompts
    john = next(t for t in p.top if t.token == " John")
    assert john.baseline > 0.9
    assert john.edited < 0.1
    assert all(f.changed for f in p.firings)


def test_the_demo_shows_both_edits_and_says_why(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    from saedsl.demo.show import main

    main()
    out = capsys.readouterr().out
    assert "at L2.mlp ablate f42; amplify f7 x2" in out
    assert "most of all where they repeat" in out
    assert 'at L0.resid_post @ " Spain" ablate f' in out
    edited = next(line for line in out.splitlines() if line.startswith("' Paris'"))
    assert float(edited.split()[3]) > 0.5
