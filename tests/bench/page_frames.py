"""Frames of the interactive page with 2,000 nodes in headless Chromium, drawn by the CPU. Target: 33 ms while moving.

Run: python tests/bench/page_frames.py [nodes]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from saedsl.circuits.draw import draw
from tests.circuits import chromium, samples

MEASURE = """
(async () => {
  const g = base.getContext('2d');
  const time = (f) => {
    const t = [];
    for (let i = 0; i < 31; i++) {
      const before = performance.now();
      f();
      g.getImageData(0, 0, 1, 1);
      t.push(performance.now() - before);
    }
    return t.sort((p, q) => p - q)[15];
  };
  moving = true; const move_ms = time(drawBase);
  moving = false; const still_ms = time(drawBase);
  state.hovered = ranked[10]; const hover_ms = time(drawOver); state.hovered = null;
  const gaps = []; let last = performance.now();
  for (let i = 0; i < 61; i++) {
    view.x += i % 2 ? 5 : -5; move();
    await new Promise((done) => requestAnimationFrame(done));
    gaps.push(performance.now() - last); last = performance.now();
  }
  gaps.shift(); gaps.sort((p, q) => p - q);
  return [move_ms, still_ms, hover_ms, gaps[30], gaps[54]];
})()
"""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    path = chromium.found()
    if path is None:
        print("no Chromium is installed: nothing measured")
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        graph = samples.large(count)
        file = draw(graph, Path(folder) / "circuit.html")
        with chromium.browser(path, Path(folder) / "profile") as page:
            page.open(file)
            for what in ("strongest 800 edges", "all edges"):
                moving, still, hover, median, slow = page.value(MEASURE)
                print(
                    f"{len(graph):,} nodes, {what} of {graph.number_of_edges():,}: drawn moving {moving:.1f} ms, "
                    f"still {still:.1f} ms, hover {hover:.1f} ms; "
                    f"frames while moving {median:.1f} ms, nine of ten {slow:.1f} ms"
                )
                page.value("(state.edgesKept = edges.length, prune(), 1)")


if __name__ == "__main__":
    main()
