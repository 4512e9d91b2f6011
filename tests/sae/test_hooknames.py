"""Hook names and sites, both ways."""

from __future__ import annotations

import pytest

from saedsl.sae.hooknames import hook_of_site, site_of_hook
from saedsl.sites import Site


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.0.hook_resid_pre", "L0.resid_pre"),
        ("blocks.3.hook_resid_mid", "L3.resid_mid"),
        ("blocks.11.hook_resid_post", "L11.resid_post"),
        ("blocks.3.hook_attn_out", "L3.attn"),
        ("blocks.3.hook_mlp_out", "L3.mlp"),
        ("blocks.3.ln1.hook_normalized", "L3.attn.in"),
        ("blocks.3.ln2.hook_normalized", "L3.mlp.in"),
        ("blocks.3.attn.hook_z", "L3.attn.z"),
        ("blocks.3.mlp.hook_post", "L3.mlp.act"),
        ("hook_embed", "embed"),
        ("ln_final.hook_normalized", "final"),
    ],
)
def test_hook_and_site_mean_the_same(hook: str, site: str) -> None:
    assert site_of_hook(hook) == Site.parse(site)
    assert hook_of_site(Site.parse(site)) == hook


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.3.hook_mlp_in", "L3.resid_mid"),
        ("blocks.3.mlp.hook_in", "L3.mlp.in"),
        ("blocks.3.mlp.hook_out", "L3.mlp"),
    ],
)
def test_other_spellings_are_read(hook: str, site: str) -> None:
    assert site_of_hook(hook) == Site.parse(site)


@pytest.mark.parametrize("hook", ["", "blocks.x.hook_mlp_out", "blocks.3.hook_q", "blocks.3", "unembed"])
def test_unknown_hooks_have_no_site(hook: str) -> None:
    assert site_of_hook(hook) is None


@pytest.mark.parametrize("site", ["L3.mlp.raw", "L3.attn.raw", "logits"])
def test_sites_without_a_hook(site: str) -> None:
    assert hook_of_site(Site.parse(site)) is None
