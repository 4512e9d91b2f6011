"""The language server as an editor drives it: a process on a pipe."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pygls")

from tests.lsp.client import Client

PROGRAM = """\
sae g = "demo:L2.mlp"
let truth = {f1, f2}
prompt fr = "The capital of France is"
at g ablate g.f42; amplify truth x2
run fr
"""


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Client]]:
    """The server of this file, once a test has asked for it."""
    clients: dict[str, Client] = {}
    yield clients
    for c in clients.values():
        c.__exit__(None, None, None)


@pytest.fixture
def client(running: dict[str, Client], tmp_path: Path) -> Client:
    """A server with nothing open, whose editor is in a folder of the test's own."""
    if "one" not in running or running["one"].process.poll() is not None:
        running["one"] = Client(tmp_path)
    running["one"].move(tmp_path)
    return running["one"]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Client]:
    """A server that the test may end."""
    with Client(tmp_path) as c:
        yield c


def text_of(text: str, found: dict[str, Any]) -> str:
    """What a range of one line marks, columns in UTF-16 units."""
    start, end = found["range"]["start"], found["range"]["end"]
    assert start["line"] == end["line"]
    line = text.split("\n")[int(start["line"])].encode("utf-16-le")
    a, b = int(start["character"]), int(end["character"])
    marked: bytes = line[2 * a : 2 * b]
    return marked.decode("utf-16-le")


def test_the_server_says_what_it_can_do(client: Client) -> None:
    can = client.started["capabilities"]
    assert {"completionProvider", "hoverProvider", "definitionProvider", "documentFormattingProvider"} <= set(can)
    assert "codeActionProvider" in can
    assert client.started["serverInfo"]["name"] == "saedsl"


def test_the_server_ends_when_it_is_told_to(own: Client) -> None:
    assert own.open("at L12.mlp ablate\n")
    assert own.close() == 0


def test_mistakes_come_with_code_place_and_page(client: Client) -> None:
    text = 'prompt fr = "The capital"\nat L12.mlp ablate f42\nat L2.mlp amplify f7 by 2\nrun fr\n'
    found = client.open(text)
    assert [(d["code"], text_of(text, d), d["severity"], d["source"]) for d in found] == [
        ("S304", "L12", 1, "saedsl"),
        ("S124", "by 2", 1, "saedsl"),
    ]
    assert found[0]["message"].startswith("layer 12 does not exist: this model has 4 layers: L0..L3\nhelp: ")
    page, _, anchor = found[0]["codeDescription"]["href"].partition("#")
    assert anchor == "s304"
    assert "### S304" in Path(page.removeprefix("file://")).read_text()


def test_columns_count_utf_16_units(client: Client) -> None:
    text = 'prompt p = "😀é漢"; at\nat L2.mlp ablate f42  # 😀\nat L2.mlp @ "😀" ablate f99999\n'
    found = client.open(text)
    marked = [(d["code"], text_of(text, d)) for d in found]
    assert ("S311", "f99999") in marked
    assert all("\ufffd" not in m for _, m in marked)
    hover = client.at("hover", 2, text.split("\n")[2].index("ablate") + 1 + 1)
    assert "**ablate**" in hover["contents"]["value"]
    assert text_of(text, hover) == "ablate"


@pytest.mark.parametrize(("encoding", "column"), [("utf-8", 19), ("utf-16", 17), ("utf-32", 16)])
def test_other_units_are_agreed_upon(tmp_path: Path, encoding: str, column: int) -> None:
    with Client(tmp_path, [encoding]) as client:
        assert client.started["capabilities"]["positionEncoding"] == encoding
        found = client.open('at L2.mlp @ "😀" abalte f1\n')
        unknown = next(d for d in found if d["code"] == "S111")
        assert unknown["range"]["start"]["character"] == column


def test_changes_are_checked_once_typing_stops(client: Client) -> None:
    client.open("at L2.mlp ablate f42\n")
    for version, n in enumerate(range(1, 30), 2):
        client.change(f"at L2.mlp ablate f{n}{'9' * (n % 3)}\nat L12.mlp ablate\n", version)
    last = client.diagnostics(version=30)
    assert "S304" in {d["code"] for d in last}
    client.change("at L2.mlp ablate f42\n", 31)
    assert client.diagnostics(version=31) == []
    kept = [m for m in client.kept if m.get("method") == "textDocument/publishDiagnostics"]
    assert len(kept) < 29, "not every keystroke is checked"


def test_completion_follows_the_grammar_and_the_program(client: Client) -> None:
    client.open(PROGRAM + "at L2.\nat L2.mlp a\nat g ablate g.f4\nrun fr with \n")
    sites = client.completions(5, 6)
    assert {"L2.mlp", "L2.attn.z", "L2.resid_post"} <= set(sites)
    assert not any(s.startswith("L1") for s in sites)
    assert sites["L2.mlp"]["textEdit"]["range"]["start"] == {"line": 5, "character": 3}
    edits = client.completions(6, 11)
    assert set(edits) == {"ablate", "amplify", "add", "apply"}
    assert "remove the influence" in edits["ablate"]["detail"]
    features = client.completions(7, 16)
    assert "g.f42" in features
    assert "% of" in features["g.f42"]["documentation"]
    assert set(client.completions(8, 12)) == {"mode", "seed", "temp", "top_p"}
    assert set(client.completions(9, 0)) >= {"at", "record", "generate", "sweep"}
    assert client.completions(2, 20) == {}, "inside a string"


def test_names_are_offered_where_they_can_be(client: Client) -> None:
    client.open(PROGRAM + "at L2.mlp ablate t\nrun f\n")
    assert client.completions(5, 18)["truth"]["detail"] == "let truth = {f1, f2}"
    assert "fr" in client.completions(6, 5)


def test_labels_of_features_are_shown(client: Client, tmp_path: Path, sae_of: Any) -> None:
    sae_of(128, 50, site="L2.mlp").save(tmp_path / "sae")
    (tmp_path / "sae" / "labels.json").write_text('{"42": "countries", "x": 3}')
    client.open('sae g = "sae"\nat g ablate g.f42\n')
    assert client.completions(1, 16)["g.f42"]["detail"] == "countries"
    assert "countries" in client.at("hover", 1, 15)["contents"]["value"]


def test_hover_explains_sites_features_names_and_words(client: Client) -> None:
    client.open(PROGRAM + "at L2.attn.z.h1 freeze\n")
    assert "dictionary" not in client.at("hover", 5, 4)["contents"]["value"]
    said = client.at("hover", 5, 4)["contents"]["value"]
    assert "model.layers.2.self_attn.o_proj in" in said
    assert "width 128" in said
    assert "1024 features" in client.at("hover", 3, 14)["contents"]["value"]
    assert "fires on" in client.at("hover", 3, 14)["contents"]["value"]
    assert "let truth = {f1, f2}" in client.at("hover", 3, 28)["contents"]["value"]
    assert "W_dec" in client.at("hover", 3, 6)["contents"]["value"]
    assert client.at("hover", 2, 11) is None


def test_definitions_lead_to_declarations_and_files(client: Client, tmp_path: Path) -> None:
    (tmp_path / "more.saedsl").write_text("# more\nlet other = {f3}\n")
    client.open(PROGRAM + 'include "more.saedsl"\nat L2.mlp ablate other\n')
    found = client.at("definition", 3, 30)
    assert (found["uri"], found["range"]["start"]) == (client.uri(), {"line": 1, "character": 4})
    included = client.at("definition", 6, 18)
    assert (included["uri"], included["range"]["start"]) == (client.uri("more.saedsl"), {"line": 1, "character": 4})
    assert client.at("definition", 5, 12)["uri"] == client.uri("more.saedsl")
    assert client.at("definition", 0, 1) is None


def test_formatting_replaces_the_text_unless_it_has_mistakes(client: Client) -> None:
    options = {"tabSize": 2, "insertSpaces": True}
    params = {"textDocument": {"uri": client.uri()}, "options": options}
    client.open("at   L2.mlp ablate   f42   # keep\n")
    (edit,) = client.request("textDocument/formatting", params)
    assert edit["newText"] == "at L2.mlp ablate f42  # keep\n"
    client.change(edit["newText"], 2)
    assert client.request("textDocument/formatting", params) == []
    client.change("at L2.mlp abalte", 3)
    assert client.request("textDocument/formatting", params) is None


def test_a_hint_can_be_applied(client: Client) -> None:
    text = "at L2.mlp amplify f7 by 2\nat L12.mlp ablate f42\n"
    client.open(text)
    whole = {"start": {"line": 0, "character": 0}, "end": {"line": 2, "character": 0}}
    params = {"textDocument": {"uri": client.uri()}, "range": whole, "context": {"diagnostics": []}}
    actions = client.request("textDocument/codeAction", params)
    edits = [a["edit"]["changes"][client.uri()][0] for a in actions]
    assert [(text_of(text, e), e["newText"]) for e in edits] == [
        ("amplify f7 by 2", "amplify f7 x2"),
        ("L12.mlp", "L2.mlp"),
    ]


def test_a_mistake_of_an_included_file_is_shown_where_it_is_included(client: Client, tmp_path: Path) -> None:
    (tmp_path / "more.saedsl").write_text("\nat L12.mlp ablate f42\n")
    (tmp_path / "good.saedsl").write_text("let a = 1\n")
    text = 'prompt fr = "The"\ninclude "good.saedsl"\ninclude "more.saedsl"\nrun fr\n'
    (found,) = [d for d in client.open(text) if d["code"] == "S304"]
    assert found["range"]["start"]["line"] == 2
    assert "more.saedsl:2:4: layer 12 does not exist" in found["message"]


def test_a_value_of_the_caller_is_no_error_while_writing(client: Client) -> None:
    (found,) = client.open("at L2.mlp amplify f7 x $k\n")
    assert (found["code"], found["severity"]) == ("S204", 3)


def test_five_thousand_lines(client: Client) -> None:
    lines = [f"let a{i} = {i}" for i in range(2500)]
    text = "\n".join(x for line in lines for x in (line, "# and a comment")) + "\nat L12.mlp ablate f1\nat L2.\n"
    found = client.open(text)
    assert {d["code"] for d in found} >= {"S304"}
    assert found[0]["range"]["start"]["line"] == 5000
    started = time.perf_counter()
    assert "L2.mlp" in client.completions(5001, 6)
    assert time.perf_counter() - started < 20
    hover = client.at("hover", 5000, 12)
    assert "ablate" in hover["contents"]["value"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00\x01",
        "{" * 3000,
        '"' * 999,
        "at " * 2000,
        "\ufeff\u2028\x0c\r",
        "at L" + "9" * 5000 + ".mlp",
        "f" * 9999,
    ],
    ids=lambda t: repr(t[:8]),
)
def test_no_text_is_too_odd(client: Client, text: str) -> None:
    client.open(text)
    for character in (0, 1, min(len(text), 50)):
        client.at("completion", 0, character)
        client.at("hover", 0, character)
        client.at("definition", 0, character)
    client.request(
        "textDocument/formatting",
        {"textDocument": {"uri": client.uri()}, "options": {"tabSize": 2, "insertSpaces": True}},
    )
    assert client.process.poll() is None


def test_closing_a_text_takes_its_mistakes_away(client: Client) -> None:
    assert client.open("at L12.mlp ablate\n")
    client.notify("textDocument/didClose", {"textDocument": {"uri": client.uri()}})
    assert client.diagnostics() == []


def test_ctrl_c_ends_the_server(own: Client) -> None:
    own.open("at L2.mlp ablate\n")
    own.process.send_signal(signal.SIGINT)
    assert own.process.stdin is not None
    assert own.process.wait(timeout=30) in (0, 130)


def test_a_closed_pipe_ends_the_server(own: Client) -> None:
    own.open("at L2.mlp ablate\n")
    assert own.process.stdin is not None
    own.process.stdin.close()
    assert own.process.wait(timeout=30) in (0, 1)
