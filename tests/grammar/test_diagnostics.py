"""Every code is explained, every example gives its code, and what is to be written instead works."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from click.testing import CliRunner

from saedsl.analyse import Given, analyse
from saedsl.cli import cli
from saedsl.grammar.codes import CODES
from saedsl.grammar.explain import explained, sections
from saedsl.grammar.source import Diagnostic, Source
from saedsl.sae.dictionary import SAE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "grammar" / "DIAGNOSTICS.md"
WARNINGS = {"S314", "S316", "S602", "S607"}
"""Codes whose examples are programs that run all the same."""
FENCE = re.compile(r"```saedsl (error S\d{3}|instead)\n(.*?)```", re.DOTALL)
EXAMPLES = [
    (code, kind.removeprefix("error "), text) for code, body in sections().items() for kind, text in FENCE.findall(body)
]
ELSEWHERE = {
    "S100": 'prompt a = "' + "a" * 1_000_000 + '"',
    "S101": "at L2.mlp ablate f42\x00",
    "S109": "some text\nthat is no program\n" * 40,
}
"""Programs that are not to be printed."""
OUTSIDE = {"S206", "S207", "S315", "S329", "S405", "S406", "S414", "S505", "S601", "S604", "S608", "S610", "S611"}
"""Codes of what the caller or another model brings, or a run finds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sae_of: Callable[..., SAE]) -> Path:
    """The files that the examples name."""
    base = tmp_path_factory.mktemp("examples")
    sae_of(128, 50, site="L2.mlp").save(base / "saes/plain")
    sae_of(64, 50, site="L2.mlp").save(base / "saes/narrow")
    sae_of(128, 50).save(base / "saes/nowhere")
    sae_of(128, 50, site="L2.mlp", model_name="other/llama").save(base / "saes/other")
    sae_of(128, 50, site="L1.mlp", read="L3.mlp.in").save(base / "saes/backward")
    sae_of(256, 50, sites=("L1.mlp", "L2.mlp")).save(base / "saes/crosscoder")
    mx.save_safetensors(str(base / "vectors.safetensors"), {"up": mx.ones(128), "short": mx.ones(16)})
    rows = [
        {"prompt": f"The capital of {a} is", "corrupt": f"The capital of {b} is", "answer": c, "positions": {"name": 4}}
        for a, b, c in (("France", "Italy", " Paris"), ("Italy", "France", " Rome"))
    ]
    (base / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (base / "texts.txt").write_text("The capital of Italy is Rome.\nThe sky is blue and the grass is green.\n")
    (base / "short.txt").write_text("The\n")
    (base / "edits.saedsl").write_text("at L2.mlp ablate f42\n")
    return base


def found(text: str, base: Path) -> tuple[Diagnostic, ...]:
    return analyse(Source(text), Given(base=base), need_prompts=bool(re.search(r"^run", text, re.M)))[1].diagnostics


@pytest.mark.parametrize(
    ("code", "kind", "text"), EXAMPLES, ids=lambda v: v if re.fullmatch(r"S\d+|instead", v) else ""
)
def test_examples_do_what_is_said_of_them(code: str, kind: str, text: str, folder: Path) -> None:
    diagnostics = found(text, folder)
    if kind == "instead":
        assert [d.render() for d in diagnostics if d.severity == "error" or d.code == code] == []
    else:
        assert kind == code
        assert code in {d.code for d in diagnostics}, [d.render() for d in diagnostics]
        assert all(d.severity == ("warning" if code in WARNINGS else "error") for d in diagnostics if d.code == code)


@pytest.mark.parametrize("code", ELSEWHERE)
def test_texts_that_are_no_programs(code: str, tmp_path: Path) -> None:
    assert code in {d.code for d in found(ELSEWHERE[code], tmp_path)}


def test_every_code_is_explained_once_in_order() -> None:
    codes = re.findall(r"^### (S\d{3})$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert codes == sorted(set(codes)) == sorted(CODES)


def test_sections_start_with_the_title_of_the_code() -> None:
    for code, body in sections().items():
        assert body.startswith(f"**{CODES[code]}**"), code


def test_every_code_of_the_library_has_a_section() -> None:
    used: set[str] = set()
    for directory in ("grammar", "saedsl"):
        for path in (ROOT / directory).rglob("*.py"):
            used |= set(re.findall(r'"(S[1-6]\d{2})"', path.read_text(encoding="utf-8")))
    assert used == set(CODES)


def test_every_section_has_an_example_and_what_to_write_instead() -> None:
    for code in CODES:
        kinds = [kind for c, kind, _ in EXAMPLES if c == code]
        expected = [] if code in ELSEWHERE or code in OUTSIDE else [code, "instead"]
        assert kinds == expected, code


def test_the_page_is_where_people_look() -> None:
    assert (ROOT / "docs" / "diagnostics.md").resolve() == PAGE.resolve()
    assert (ROOT / "docs" / "diagnostics.md").is_symlink()


def test_the_command_explains_a_code() -> None:
    done = CliRunner().invoke(cli, ["check", "--explain", "s502"])
    assert done.exit_code == 0, done.output
    assert done.output == (
        "S502: an empty range of values\n\n"
        "for example:\n\n    at L2.mlp clamp f3 to 5..0\n\n"
        "instead:\n\n    at L2.mlp clamp f3 to 0..5\n"
    )


def test_an_unknown_code_is_answered_with_a_near_one() -> None:
    done = CliRunner().invoke(cli, ["check", "--explain", "S3O4"])
    assert done.exit_code == 2
    assert done.output == "error: there is no code S3O4: did you mean S304?\n"
    with pytest.raises(KeyError, match="codes go from S100 to S611"):
        explained("x")
