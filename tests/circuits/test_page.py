"""The interactive page, in a real browser: what is drawn, hovered, pinned, pruned, grouped and saved."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest

from saedsl.circuits.caption import caption
from saedsl.circuits.draw import draw
from saedsl.circuits.graph import CircuitGraph, nodes
from saedsl.circuits.page import page as html
from saedsl.circuits.store import from_json
from saedsl.grammar.parse import parse
from tests.circuits import chromium, samples

CHROMIUM = chromium.found()
IN_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
SVG = "{http://www.w3.org/2000/svg}"
Opened = Callable[[CircuitGraph], chromium.Page]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    assert CHROMIUM is not None
    with chromium.browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def opened(tab: chromium.Page, tmp_path: Path) -> Iterator[Opened]:
    """Opens the page of a graph; whatever a test does, the page may not complain."""

    def show(graph: CircuitGraph) -> chromium.Page:
        tab.open(draw(graph, tmp_path / "circuit.html"))
        return tab

    yield show
    assert tab.problems == []


def where(page: chromium.Page, node: str) -> tuple[float, float]:
    """Of a node in the window."""
    x, y = page.value(
        f"(() => {{ const n = byId.get({json.dumps(node)}), b = over.getBoundingClientRect();"
        "return [b.left + sx(n.x), b.top + sy(n.y)]; })()"
    )
    return x, y


def text(page: chromium.Page, selector: str) -> str:
    return str(page.value(f"document.querySelector({json.dumps(selector)}).innerText"))


# Without a browser


@pytest.mark.parametrize("make", [samples.kinds, samples.nasty, samples.free], ids=["kinds", "nasty", "free"])
def test_a_page_is_one_file_that_needs_no_other_and_holds_the_whole_circuit(make: Callable[[], CircuitGraph]) -> None:
    graph = make()
    whole = html(graph)
    assert whole == html(make())
    assert not re.search(r"\b(src|href)=|@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)", whole)
    assert whole.count("<script") == whole.count("</script>") == 2
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script>', whole, re.DOTALL)
    assert inside
    data = json.loads(inside[1])
    native = data["before"] + json.dumps(data["supernodes"]) + data["after"]
    assert nx.utils.graphs_equal(from_json(native), graph)


# What it shows


@IN_BROWSER
def test_nodes_are_drawn_where_and_as_the_legend_says(opened: Opened) -> None:
    from PIL import Image

    page = opened(samples.kinds())
    assert text(page, "h1") == "Circuit of org/tiny model"
    assert text(page, "#caption") == caption(samples.kinds())
    assert text(page, "#nodes-shown") == "14 of 14"
    assert text(page, "#legend").split("\n") == [
        "token", "feature", "transcoder", "SAE error", "head", "MLP", "neuron", "logit",
        "weight up to +1.2", "weight down to −0.6", "effect up to ±1.1",
    ]  # fmt: skip
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    x, y = where(page, "logits.t31@5")
    assert picture.getpixel((round(x), round(y))) == (0x54, 0x27, 0x88)
    heights = [where(page, n)[1] for n in ("embed.t17@4", "L0.mlp.f7@4", "L1.attn.h3@5", "logits.t31@5")]
    assert heights == sorted(heights, reverse=True)
    assert where(page, "embed.t11@2")[0] < where(page, "embed.t17@4")[0] < where(page, "L1.attn.h3@5")[0]


@IN_BROWSER
def test_text_of_any_kind_stays_text(opened: Opened) -> None:
    page = opened(samples.nasty())
    assert page.value("document.title") == "Circuit of </title><script>x</script>"
    assert page.value("document.scripts.length") == 2
    assert page.value("nodes.map((n) => n.label).filter((l) => l !== null)") == [
        *(d["label"] for n, d in nodes(samples.nasty()))
    ]
    page.mouse("moved", *where(page, "L1.mlp.f0@0"))
    page.frames()
    assert "</script><script>alert('x')</script>" in text(page, "#tip")
    listed = page.value("[...document.querySelectorAll('#groups li span:first-child')].map((e) => e.textContent)")
    assert listed[:2] == samples.NASTY[:2]
    assert listed[2] == "two⏎lines⏎and→tabs"


@IN_BROWSER
def test_hovering_tells_and_a_click_pins(opened: Opened) -> None:
    page = opened(samples.kinds())
    at = where(page, "L1.mlp.f42@5")
    page.mouse("moved", *at)
    page.frames()
    assert text(page, "#tip").split("\n") == [
        "L1.mlp.f42@5", "meaning say a capital city", "at  is (5)", "effect +0.8", "activation 1.25", "influence 0.1",
    ]  # fmt: skip
    page.mouse("moved", 300, 140)
    page.frames()
    assert page.value("document.getElementById('tip').hidden") is True
    page.click(*at)
    assert text(page, "#pinned h2") == "say a capital city"
    links = (
        "[...document.querySelectorAll('#pinned table + table tr')].map((r) => [...r.cells].map((c) => c.innerText))"
    )
    assert page.value(links) == [["from", "h3", "+1"], ["to", "Paris 0.81 (logits.t31@5)", "+1.2"]]
    page.press("#pinned table + table button")
    assert page.value("state.pinned.map((n) => n.id)") == ["L1.attn.h3@5", "L1.mlp.f42@5"]
    page.value("document.activeElement.blur()")
    page.key("Escape")
    assert page.value("state.pinned.length") == 0
    assert text(page, "#pinned") == ""


@IN_BROWSER
def test_a_node_is_found_by_its_text_and_pinned_without_a_mouse(opened: Opened) -> None:
    page = opened(samples.kinds())
    page.value("document.getElementById('find').focus()")
    page.type("europe")
    assert text(page, "#found") == "European countries (L0.mlp.f7@4)"
    page.value("document.querySelector('#found button').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", text="\r", windowsVirtualKeyCode=13)
    page.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", windowsVirtualKeyCode=13)
    assert page.value("state.pinned.map((n) => n.id)") == ["L0.mlp.f7@4"]


@IN_BROWSER
def test_sliders_prune_the_weakest_and_keep_the_logits(opened: Opened) -> None:
    graph = samples.large(300, 12, 4)
    page = opened(graph)
    page.press("#nodes")  # its middle
    kept = page.value("[...shownNodes].map((n) => n.id)")
    assert 0 < len(kept) < 150
    ranked = sorted((p for p in nodes(graph) if p[0].kind != "logit"), key=lambda p: (p[1]["influence"], p[0].order))
    wanted = [n.id for n, _ in ranked[: len(kept) - 3]]
    assert set(kept) == {*wanted, *(n.id for n in graph if n.kind == "logit")}
    assert text(page, "#nodes-shown") == f"{len(kept)} of {len(graph)}"
    shown = page.value("shownEdges.length")
    page.press("#edges")
    assert page.value("shownEdges.length") < shown
    least = page.value("Math.min(...rankedEdges.slice(0, state.edgesKept).map((e) => e.size))")
    assert least >= page.value("Math.max(...rankedEdges.slice(state.edgesKept).map((e) => e.size))")


@IN_BROWSER
def test_selected_nodes_become_a_supernode_that_is_saved(opened: Opened, tmp_path: Path) -> None:
    graph = samples.kinds()
    page = opened(graph)
    (x0, y0), (x1, y1) = where(page, "L1.mlp.f42@5"), where(page, "g:L1.mlp.error@5")
    page.drag(x0 - 12, y0 - 12, x1 + 12, y1 + 12, shift=True)
    assert page.value("[...state.selected].map((n) => n.id).sort()") == sorted(
        ["L1.mlp.f42@5", "t:L1.mlp.tc3@5", "g:L1.mlp.error@5"]
    )
    page.click(*where(page, "L1.attn.h3@5"), shift=True)
    page.press("#group-name")
    page.type('capital </script> "%"')
    page.press("#group-make")
    assert 'capital </script> "%"' in text(page, "#groups")
    page.press("#groups li:nth-child(2) button")  # France, taken apart
    saved = from_json(page.downloaded("#save-json", tmp_path).decode())
    wanted = (
        ("say a capital", ("g:L1.mlp.f42@5",)),
        ('capital </script> "%"', ("L1.attn.h3@5", "t:L1.mlp.tc3@5", "L1.mlp.f42@5", "g:L1.mlp.error@5")),
    )
    assert nx.utils.graphs_equal(saved, graph.with_meta(replace(graph.meta, supernodes=wanted)))


@IN_BROWSER
def test_wheel_drag_and_keys_move_the_view(opened: Opened) -> None:
    page = opened(samples.kinds())
    x, y = where(page, "L0.mlp.f7@4")
    before = page.value("view.up")
    page.mouse("wheel", x, y, deltaX=0, deltaY=-240)
    page.frames()
    assert where(page, "L0.mlp.f7@4") == pytest.approx((x, y), abs=1.5)
    scale = page.value("view.up")
    assert scale > 1.2 * before
    page.drag(200, 160, 260, 190)
    assert where(page, "L0.mlp.f7@4") == pytest.approx((x + 60, y + 30), abs=2)
    page.value("document.activeElement.blur()")
    page.key("-")
    assert page.value("view.up") == pytest.approx(0.8 * scale)
    page.key("0")
    assert where(page, "L0.mlp.f7@4") == pytest.approx((x, y), abs=1.5)


def contrast(a: list[int], b: list[int]) -> float:
    """WCAG 2."""

    def light(rgb: list[int]) -> float:
        linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@IN_BROWSER
def test_light_and_dark_follow_the_system_and_are_readable(opened: Opened) -> None:
    page = opened(samples.kinds())
    seen = {}
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        page.frames()
        seen[scheme] = page.value("Object.fromEntries(Object.entries(colours).map(([k, v]) => [k, parts(v)]))")
    assert sum(seen["light"]["paper"]) > 700
    assert sum(seen["dark"]["paper"]) < 100
    for colours in seen.values():
        assert contrast(colours["ink"], colours["paper"]) > 7
        assert contrast(colours["soft"], colours["band"]) > 4.5
        assert contrast(colours["rim"], colours["paper"]) > 4.5
        for sign in ("positive", "negative"):
            assert contrast(colours[sign], colours["paper"]) > 3
    page.press("#theme")
    assert page.value("document.documentElement.dataset.theme") == "light"


@IN_BROWSER
@pytest.mark.parametrize("make", [samples.kinds, samples.nasty], ids=["kinds", "nasty"])
def test_what_is_seen_is_saved_as_svg(make: Callable[[], CircuitGraph], opened: Opened, tmp_path: Path) -> None:
    graph = make()
    page = opened(graph)
    root = ET.fromstring(page.downloaded("#save-svg", tmp_path))
    marks = [*root.iter(f"{SVG}polygon"), *root.iter(f"{SVG}circle")]
    assert len(marks) == len(graph)
    titles = {mark.findtext(f"{SVG}title") or "" for mark in marks}
    assert {t.partition(": ")[0] for t in titles} == {n.id for n in graph}
    curves = list(root.iter(f"{SVG}path"))
    assert len(curves) == graph.number_of_edges()
    assert sum("stroke-dasharray" in c.attrib for c in curves) == sum(
        d["weight"] < 0 for *_, d in graph.edges(data=True)
    )
    shown = {t.text for t in root.iter(f"{SVG}text")}
    assert {r.text for r in root.iter(f"{SVG}text") if r.attrib.get("text-anchor") == "end"} == {n.site for n in graph}
    assert {"h3", "error", "say a capital"} <= shown if make is samples.kinds else "json:1" in shown


@IN_BROWSER
def test_what_is_seen_is_saved_as_a_program(opened: Opened, tmp_path: Path) -> None:
    page = opened(samples.kinds())
    page.value("(state.nodesKept = 7, prune(), 1)")
    program = page.downloaded("#save-dsl", tmp_path).decode()
    assert program == "\n".join([
        "# 7 of 14 nodes, as shown",
        'prompt circuit = "The capital of France is"',
        'metric m = logit(" Paris") - logit(" Rome")',
        'at L0.attn.z ablate to mean of "texts.txt"',
        'at L0.mlp.act ablate to mean of "texts.txt"',
        "at L0.mlp {",
        '  keep only {f7} else mean of "texts.txt"',
        "  drop error",
        "}",
        'at L1.attn.z keep only {h3} else mean of "texts.txt"',
        "at L1.mlp {",
        '  keep only {t.f3} else mean of "texts.txt"',
        "  ablate t.error",
        "}",
        "at L1.mlp {",
        '  keep only {f42} else mean of "texts.txt"',
        "  drop error",
        "}",
        "# L1.mlp: nothing of g is shown",
        "at L1.mlp ablate g.error",
        "run circuit",
        "",
    ])  # fmt: skip
    assert parse(program).diagnostics == ()


@IN_BROWSER
def test_a_program_of_texts_of_any_kind_is_read(opened: Opened) -> None:
    graph = samples.nasty()
    page = opened(graph.with_meta(replace(graph.meta, metric="")))
    programs = page.value("meta.prompts.map((p) => { meta.prompts = [p]; return toDsl(); })")
    assert len(programs) == len(samples.NASTY)
    for program in programs:
        assert parse(program).diagnostics == (), program
        assert "keep only {f0, f1, f2, f3" in program


@IN_BROWSER
def test_thousands_of_nodes_are_drawn_pruned_and_found(opened: Opened) -> None:
    graph = samples.large(2000)
    page = opened(graph)
    assert page.value("nodes.length") == len(graph) > 1900
    counted = (
        "(() => { let n = 0; const own = Path2D.prototype.bezierCurveTo;"
        "Path2D.prototype.bezierCurveTo = function (...a) { n += 1; own.apply(this, a); };"
        "drawBase(); Path2D.prototype.bezierCurveTo = own; return n; })()"
    )
    assert page.value(counted) == 800
    assert page.value(f"(moving = true, {counted})") == 300  # while the view moves, the strongest
    page.value("(moving = false, 1)")
    some = next(n for n, _ in nodes(graph) if n.kind == "feature")
    page.click(*where(page, some.id))
    assert page.value("state.pinned.length") == 1


@IN_BROWSER
def test_a_narrow_window_shows_everything_without_scrolling_sideways(opened: Opened) -> None:
    page = opened(samples.kinds())
    page.resize(390, 800)
    page.frames()
    assert page.value("document.documentElement.scrollWidth") <= 390
    assert page.value("document.getElementById('stage').getBoundingClientRect().height") > 300
    page.value("fit()")
    page.frames()
    right = page.value("width")
    for node, _ in nodes(samples.kinds()):
        assert page.value(f"sx(byId.get({json.dumps(node.id)}).x)") < right
